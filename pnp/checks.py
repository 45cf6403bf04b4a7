"""Checks of arguments: each error says argument, expected, got and remedy, in under 400 characters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def short(error: object, limit: int = 160) -> str:
    """Return the first line of a message, shortened so that ours stays a sentence.

    >>> short("a long message\\nwith a second line", limit=8)
    'a lon...'
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= limit else line[: limit - 3] + "..."


def check_number(
    name: str, value: Any, *, above: float, integer: bool = False, or_equal: bool = False, caller: str = "solve"
) -> Any:
    """Return a finite real number above (or equal to) a limit.

    >>> check_number("strength", 2, above=0)
    2
    """
    kind = "an integer" if integer else "a finite number"
    want = f"{kind} {'>=' if or_equal else '>'} {above:g}"
    types = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, types):
        raise TypeError(f"{caller}: {name} must be {want}, got {short(repr(value), 60)} ({type(value).__name__})")
    if not is_finite(value) or value < above or (value == above and not or_equal):
        raise ValueError(f"{caller}: {name} must be {want}, got {_figure(value)}")
    return value


def _figure(value: Any) -> str:
    """Return a number as text, cut where an integer is too long."""
    return short(repr(value), 60) if is_finite(value) or isinstance(value, float) else "a number beyond 1e308"


def as_tensor(name: str, value: Any, device: torch.device | None = None, *, caller: str = "solve") -> Tensor:
    """Return a floating tensor holding an array's values; an array is copied, a tensor is not."""
    if isinstance(value, np.ndarray):
        if value.dtype.newbyteorder("=").name not in ("float32", "float64", "complex64", "complex128"):
            raise TypeError(
                f"{caller}: {name} must be float32 or float64, got an array of {value.dtype}; "
                f"use {name}.astype('float32')"
            )
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{caller}: {name} must be a plain array, got a masked array, whose mask would be lost; fill it, and "
                "set noise_std to infinity where it is masked"
            )
        # A copy in native byte order: FITS arrays are big-endian, and read-only arrays make torch warn.
        native = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C", copy=True))
        return native if device is None else native.to(device)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{caller}: {name} must be a torch.Tensor or numpy array, got {type(value).__name__}; "
            f"use np.asarray({name}, float)"
        )
    if value.dtype not in _FLOATS:
        raise TypeError(f"{caller}: {name} must be float32 or float64, got {value.dtype}; use {name}.float()")
    if device is not None and value.device != device:
        raise ValueError(f"{caller}: {name} is on {value.device}, y on {device}; move one, e.g. {name}.to(y.device)")
    if value.layout != torch.strided:
        raise TypeError(f"{caller}: {name} must be dense, got {value.layout}; use {name}.to_dense()")
    if value.is_meta:
        raise ValueError(f"{caller}: {name} is on the device meta, without values; give it some")
    return value.detach()


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Return whether an array of one shape broadcasts to another without enlarging it.

    >>> broadcasts((5, 1), (2, 5, 7)), broadcasts((2, 5, 7), (5, 7))
    (True, False)
    """
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def is_finite(level: Any) -> bool:
    """Whether a level is a number of float64; whole numbers may be larger."""
    try:
        return math.isfinite(level)
    except OverflowError:
        return False
