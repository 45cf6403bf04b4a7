"""The place of a volume in the study, /centre_mm of a file of measurements or a result: (x, y, z), units "mm"."""

from __future__ import annotations

import os

import h5py
import numpy as np

from .hdf5_safe import numbers, plain

_NAME = "centre_mm"


def write_centre(file: h5py.File, centre_mm: tuple[float, float, float] | None) -> None:
    """Write where the middle of the volume lies in DICOM's frame, x to the left, y back, z to the head, if known."""
    if centre_mm is not None:
        file[_NAME] = np.asarray(centre_mm, dtype=np.float64)
        file[_NAME].attrs["units"] = "mm"


def read_centre(path: str | os.PathLike[str], file: h5py.File) -> tuple[float, float, float] | None:
    """Read that place; None where the file does not state it."""
    if not isinstance(file.get(_NAME), h5py.Dataset):
        return None
    values, unit = numbers(path, file[_NAME]), plain(file[_NAME].attrs.get("units"))
    if values.shape != (3,) or not np.isfinite(values).all() or unit != "mm":
        raise ValueError(f"{path}: /{_NAME} must be x, y and z with units 'mm', got {values.shape} in {unit!r:.24}")
    x, y, z = values.tolist()
    return x, y, z
