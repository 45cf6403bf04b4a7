"""Arrays as tensors of real, finite numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class UnusableRow(ValueError):
    """What was measured makes no line integrals, whatever the arguments; other rows of the detector may do so."""


STD_PER_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def as_floats(caller: str, name: str, value: Any, *, ndim: int, ignore: Tensor | None = None) -> tuple[Tensor, bool]:
    """Return finite values as float32 or float64 with at least ndim axes, and whether they came as a numpy array.

    Args:
        caller, name: for messages.
        value: numbers.
        ndim: fewest axes.
        ignore: boolean, (n_detectors,) or (..., n_detectors): pixels that may hold anything; they become 0 where they
            are not finite. An axis of views or frames is inserted before the last where value has one.
    """
    is_numpy = not isinstance(value, Tensor)
    if is_numpy:
        array = np.asarray(value)
        if array.dtype.kind not in "uif":
            raise TypeError(f"{caller}: {name} must hold numbers, got {array.dtype}; use np.asarray({name}, float)")
        double = array.dtype.kind == "f" and array.dtype.itemsize == 8
        value = torch.from_numpy(array.astype(np.float64 if double else np.float32, order="C"))
    elif value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{caller}: {name} must hold real numbers, got {value.dtype}; use {name}.float()")
    t: Tensor = value.detach().to(torch.float64 if value.dtype == torch.float64 else torch.float32)
    if t.ndim < ndim or t.numel() == 0:
        want = "(..., n_angles, n_detectors)" if ndim == 2 else "(..., n_detectors)"
        raise ValueError(f"{caller}: {name} must be {want} and not empty, got shape {tuple(t.shape)}")
    if not bool(t.isfinite().all()):
        wrong = ~t.isfinite()
        if ignore is not None and ignore.shape[-1] == t.shape[-1]:
            ignored = ignore.to(t.device) if t.ndim == 1 else ignore.to(t.device).unsqueeze(-2)
            if ignored.ndim <= t.ndim:
                wrong &= ~ignored
        if bool(wrong.any()):
            raise ValueError(
                f"{caller}: {name} must be finite, got NaN or infinity in {int(wrong.sum())} of {t.numel()} values; "
                "set them to 0 in counts, which gives them no weight, name whole bins in bad_pixels, and drop such "
                "frames of flat or dark"
            )
        t = t.nan_to_num(0.0, 0.0, 0.0)
    return t, is_numpy
