"""Guards shared by all readers: one-line errors, and size checks before memory is allocated."""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ALWAYS_ALLOWED_BYTES = 2**28
"""Bytes that any file may unpack to, however small it is: 256 MiB."""
MAX_UNPACK_RATIO = 200
"""Largest number of unpacked bytes per byte of the file, beyond those always allowed. Images
and counts pack 2 to 50 times, empty ones up to 1000 times."""
_MIN_LEVELS = 1024
"""Least number of values between the smallest and the largest of an array that rounding to float32 must leave."""
_LOGGERS = ("tifffile", "nibabel.global", "pydicom")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files in which Linux states the memory limit of a container."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what a library raises on a broken file into one ValueError; sentences that begin with the path stay.

    Warnings and logs of the library, of oddities that it mends, are silenced.
    """
    try:
        with quiet():
            yield
    except MemoryError as error:
        raise ValueError(f"{path} needs more memory than is free, or is damaged; read a part of it") from error
    except Exception as error:  # each library has its own family of exceptions
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} is not a readable {kind} file (truncated or damaged?): {one_line(error)}; fetch it again"
        ) from error


class _Quiet:
    """Context that silences libraries in the whole process, from the first thread that reads until the last is done.

    If each thread restored what it had found, the last of two that overlap would restore the silence of the other.
    """

    def __init__(self) -> None:
        self._lock, self._depth = threading.Lock(), 0
        self._warnings, self._disabled = warnings.catch_warnings(), [False] * len(_LOGGERS)

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            warnings.simplefilter("ignore")
            # Headers that bend the rules are common and harmless; missing bytes are not.
            warnings.filterwarnings("error", message=".*truncated", module="astropy")
            self._disabled = [logging.getLogger(name).disabled for name in _LOGGERS]
            for name in _LOGGERS:
                logging.getLogger(name).disabled = True

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth > 0:
                return
            self._warnings.__exit__(None, None, None)
            for name, was in zip(_LOGGERS, self._disabled, strict=True):
                logging.getLogger(name).disabled = was


_QUIET = _Quiet()


def quiet() -> _Quiet:
    """Return a context that silences warnings and logs of the reading libraries; it nests, across threads too."""
    return _QUIET


def one_line(said: object, limit: int = 120) -> str:
    """Return a text, such as an error's, on one line and short enough for a message."""
    text = " ".join(str(said).strip("'\"").split())
    return "".join(c if c.isprintable() else "?" for c in text)[:limit] or type(said).__name__


def unpack_limit(held: int) -> tuple[int, str]:
    """Return the bytes that a file of `held` bytes may unpack to, and a description of that limit.

    It is at most half of the memory: arrays are still to be made of the unpacked bytes.
    """
    packed, half = max(ALWAYS_ALLOWED_BYTES, MAX_UNPACK_RATIO * held), _memory() / 2
    if half < packed:
        return int(half), f"half of the memory, {_three_digits(int(half), 2**30)} GiB"
    return (
        packed,
        f"{_three_digits(packed, 2**20)} MiB, {MAX_UNPACK_RATIO} times its size"
        if packed > ALWAYS_ALLOWED_BYTES
        else f"{ALWAYS_ALLOWED_BYTES >> 20} MiB",
    )


def check_claim(where: str, needed: int, held: int, remedy: str) -> None:
    """Refuse an array, before it is allocated, that its file cannot hold or packs as only a decompression bomb does.

    Args:
        where: what messages begin with.
        needed: bytes of the array.
        held: bytes that the file has for it.
        remedy: what to do if the size is right.

    >>> check_claim("a.h5: x", 2**40, 1000, "store it unpacked")
    Traceback (most recent call last):
    ValueError: a.h5: x claims 1.1e+12 bytes and has 1000, over 200 times as many (beyond 256 MiB); store it unpacked
    """
    if needed > max(ALWAYS_ALLOWED_BYTES, MAX_UNPACK_RATIO * held):
        raise ValueError(
            f"{where} claims {_three_digits(needed)} bytes and has {held}, over {MAX_UNPACK_RATIO} times as many "
            f"(beyond {ALWAYS_ALLOWED_BYTES >> 20} MiB); {remedy}"
        )
    if needed > (memory := _memory()):
        raise ValueError(
            f"{where} claims {_three_digits(needed, 2**30)} GiB, there are {memory / 2**30:.3g}; read a part of it"
        )


def check_memory(where: str, shape: Sequence[int], remedy: str) -> None:
    """Refuse a float32 array that this machine's memory cannot hold, before it is read."""
    memory, needed = _memory(), 4 * math.prod(shape)
    if needed > memory:
        raise ValueError(
            f"{where} {_shape(shape)} would take {_three_digits(needed, 2**30)} GiB, there are "
            f"{memory / 2**30:.3g}; {remedy}"
        )


def file_within(folder: Path, name: str) -> Path | None:
    """Return the file that a header names if it lies in the folder or below, links resolved; None otherwise."""
    try:
        file = (folder / name).resolve()
        return file if file.is_file() and file.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):  # too long a name, or one with a null byte
        return None


def usable_memory() -> float:
    """Return the bytes of memory that this process may use, infinity where the system does not say."""
    return _memory()


def _memory() -> float:
    """Return the bytes of memory that this process may use, infinity where the system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for name in _CGROUP_LIMITS:
        try:
            limits.append(float(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such system, or "max"
            continue
    return min(limits)


def _three_digits(n: int, unit: int = 1) -> str:
    """Return three digits of a whole number of any size, in a unit."""
    return f"{n / unit:.3g}" if n < 10**300 else "over 1e290"


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(str(n) if n < 10**15 else _three_digits(n) for n in shape)})"


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file; refuse a folder or a missing file."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; check the name")
    return path


def check_real(where: str, dtype: np.dtype[Any]) -> None:
    """Refuse what is not a real number: complex, text, cells, objects."""
    if dtype.kind not in "fiub":
        raise ValueError(f"{where} must hold real numbers, got {dtype!s:.60}; text, cells and objects are not read")


def check_finite(where: str, values: npt.NDArray[Any]) -> None:
    """Refuse NaN and infinity, with their number."""
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise ValueError(
            f"{where} must be finite, got {bad} NaN or infinite of {values.size} values; replace them in the file"
        )


def as_float32(where: str, values: npt.NDArray[Any], *, exact: bool = False) -> npt.NDArray[np.float32]:
    """Return real numbers as float32 of this machine's byte order, or say why float32 cannot hold them.

    NaN and infinity stay. Numbers are rounded, as long as the smallest and the largest stay `_MIN_LEVELS` roundings
    apart; with `exact`, integers must fit the 24 bits of float32.
    """
    with np.errstate(over="ignore", under="ignore"):
        array = np.ascontiguousarray(values, dtype=np.float32)
    if exact and values.dtype.kind in "iu" and values.dtype.itemsize > 2:
        n = np.abs(values).astype(np.uint64)
        # Without its trailing zero bits, a number that is exact is below 2^24.
        inexact = n // np.maximum(n & (~n + np.uint64(1)), np.uint64(1)) >= 2**24
        if inexact.any():
            raise ValueError(
                f"{where} must hold integers that float32 keeps (all up to 2^24 = 16777216), got {values[inexact][0]}; "
                "subtract an offset, or store it as float32 if rounding does no harm"
            )
    elif values.dtype.kind in "iuf" and values.dtype.itemsize > (4 if values.dtype.kind == "f" else 2):
        finite = np.isfinite(values)
        _check_rounding(where, values[finite], array[finite])
    return array


def _check_rounding(where: str, values: npt.NDArray[Any], rounded: npt.NDArray[np.float32]) -> None:
    """Refuse finite numbers beyond float32's range, or whose contrast is lost when they are rounded to it."""
    if not values.size:
        return
    limit = np.finfo(np.float32).max
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"{where} must lie within float32's range, {-limit:.3g} to {limit:.3g}, got "
            f"{values[~np.isfinite(rounded)][0]:.4g}; divide by a constant"
        )
    values = values.astype(np.float64)  # holds more than float32's range
    low, high, error = float(values.min()), float(values.max()), float(np.abs(rounded - values).max())
    contrast, size = high - low, max(abs(low), abs(high))
    if error * _MIN_LEVELS <= contrast:
        return
    if error > size * 2.0**-23:
        raise ValueError(f"{where} must not lie below float32's range, got {size:.4g} at most; multiply by a constant")
    # A smaller contrast is that of a constant, computed in float64.
    if contrast > size * 2.0**-40:
        raise ValueError(
            f"{where} must differ by more than float32 rounds, got {low:.6g} to {high:.6g}, which differ by "
            f"{contrast:.3g} and are rounded by {error:.2g}; subtract an offset"
        )


def to_float32(where: str, values: Any) -> npt.NDArray[np.float32]:
    """Return values as float32 of this machine's byte order; finite real numbers are demanded."""
    array = np.asarray(values)
    check_real(where, array.dtype)
    check_finite(where, array)
    return as_float32(where, array)
