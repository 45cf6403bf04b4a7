"""The mask of measurements that were taken for outliers, /rejected of a result: a dataset, or a group of them."""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .guards import ALWAYS_ALLOWED_BYTES
from .hdf5_safe import dataset, plain

_Array = npt.NDArray[Any]
MAX_PARTS = 1000
"""Maximum number of parts of measurements whose masks are read."""


def write_rejected(file: h5py.File, rejected: Any) -> None:
    """Write the mask, or a group of masks by the number of the part, and how many measurements they hold."""
    masks = [None if m is None else np.asarray(m.cpu() if hasattr(m, "cpu") else m, bool) for m in parts_of(rejected)]
    file.attrs["n_rejected"] = sum(int(mask.sum()) for mask in masks if mask is not None)
    if isinstance(rejected, tuple):
        file.create_group("rejected").attrs["n_parts"] = len(masks)
    for k, mask in enumerate(masks):
        if mask is not None:
            # A mask packs better than a reader allows for large arrays, which therefore stay unpacked.
            packed = "gzip" if mask.ndim and 0 < mask.size <= ALWAYS_ALLOWED_BYTES else None
            name = f"rejected/{k}" if isinstance(rejected, tuple) else "rejected"
            file.create_dataset(name, data=mask, compression=packed)


def read_rejected(path: str | os.PathLike[str], file: h5py.File) -> _Array | tuple[_Array | None, ...] | None:
    """Read the mask, or those of the parts; None where there is none."""
    held = file.get("rejected")
    if not isinstance(held, h5py.Group):
        return None if held is None else dataset(path, file, "rejected").astype(bool)
    n_parts = int(plain(held.attrs.get("n_parts", len(held))))
    names = [str(k) for k in range(min(n_parts, MAX_PARTS))]
    return tuple(dataset(path, held, name).astype(bool) if name in held else None for name in names)


def parts_of(masks: Any) -> tuple[Any, ...]:
    """Return the masks of the parts, of one part as a tuple, too."""
    return masks if isinstance(masks, tuple) else (masks,)
