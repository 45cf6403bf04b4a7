"""What the readers share: one sentence for whatever is wrong with a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.checks import check_claim, check_memory, one_line, reading

__all__ = ["check_claim", "check_file", "check_finite", "check_memory", "check_real", "one_line", "reading"]
__all__ += ["to_float32"]


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file, or say what it is instead."""
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


def to_float32(where: str, values: Any) -> npt.NDArray[np.float32]:
    """Return values as float32 of this machine's byte order; finite real numbers are demanded."""
    array = np.asarray(values)
    check_real(where, array.dtype)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        array = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(where, array)
    return array
