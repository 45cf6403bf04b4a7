"""What the readers share: one sentence for whatever is wrong with a file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_file", "check_finite", "check_memory", "check_real", "one_line", "reading", "to_float32"]


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file, or say what it is instead."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; check the name")
    return path


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what a library raises on a broken file into one ValueError; sentences that begin with the path stay."""
    try:
        yield
    except Exception as error:  # each library has its own family of exceptions, MemoryError for absurd sizes too
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} is not a readable {kind} file (truncated or damaged?): {one_line(error)}; fetch it again"
        ) from error


def one_line(error: Exception) -> str:
    """Return an error's text, short enough to stand within a message."""
    return " ".join(str(error).strip("'\"").split())[:120] or type(error).__name__


def check_real(where: str, dtype: np.dtype[Any]) -> None:
    """Refuse what is not a real number: complex, text, cells, objects."""
    if dtype.kind not in "fiub":
        raise ValueError(f"{where} must hold real numbers, got {dtype}; text, cells and objects are not read")


def check_finite(where: str, values: npt.NDArray[Any]) -> None:
    """Refuse NaN and infinity, with their number."""
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise ValueError(
            f"{where} must be finite, got {bad} NaN or infinite of {values.size} values; replace them in the file"
        )


def check_memory(where: str, shape: Sequence[int], remedy: str) -> None:
    """Refuse a float32 array that this machine's memory cannot hold, before it is read."""
    if not hasattr(os, "sysconf"):
        return
    memory, needed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 4 * math.prod(shape)
    if needed > memory:
        raise ValueError(
            f"{where} {tuple(shape)} would take {needed / 2**30:.3g} GiB, there are {memory / 2**30:.3g}; {remedy}"
        )


def to_float32(where: str, values: Any) -> npt.NDArray[np.float32]:
    """Return values as float32 of this machine's byte order; finite real numbers are demanded."""
    array = np.asarray(values)
    check_real(where, array.dtype)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        array = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(where, array)
    return array
