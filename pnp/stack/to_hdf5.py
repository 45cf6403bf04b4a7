"""From the folder of a finished run to one HDF5 file of a result (docs/hdf5_layout.md), slice by slice.

Beside `/image` it holds `/slices`: ledger (1 done, 2 failed), facts by name, and the reasons,
texts that are empty where nothing failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from ..io.hdf5 import create_result
from ..io.hdf5_safe import open_hdf5
from ..io.lock import remove_renamed, remove_stale_parts
from .results_store import FACTS, Parts
from .sources import FileSource


def to_hdf5(parts: Parts, path: Path, measurements: Any, *, remove: bool, overwrite: bool) -> None:
    """Write the file whole, then remove the folder where that is wanted.

    Args:
        parts: the run.
        path: the file.
        measurements: the source; the operator of a file in our layout is copied from it.
        remove: whether the folder goes.
        overwrite: replace a file of that name.

    Raises:
        ValueError: the file exists or cannot be written.
    """
    image, facts = parts.array("image"), parts.array("facts")
    remove_stale_parts(path)
    with create_result(path, overwrite=overwrite) as file:
        target = file.create_dataset("image", image.shape, image.dtype, chunks=(1, *image.shape[1:]))
        for k in range(image.shape[0]):
            target[k] = image[k]
        _copy_operator(file, measurements)
        file["slices/ledger"] = parts.ledger()
        for column, name in enumerate(FACTS):
            file[f"slices/{name}"] = facts[:, column]
        reasons = parts.reasons()
        texts = [reasons.get(k, "") for k in range(image.shape[0])]
        file.create_dataset("slices/reasons", data=texts, dtype=h5py.string_dtype())
    if remove:
        remove_renamed(parts.folder)


def _copy_operator(file: h5py.File, measurements: Any) -> None:
    if isinstance(measurements, FileSource) and not measurements.is_zarr:
        with open_hdf5(measurements.path) as source:
            if "operator" in source:
                source.copy("operator", file)
                return
    file.create_group("operator").attrs["name"] = ""
