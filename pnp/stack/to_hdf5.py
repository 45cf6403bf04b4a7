"""Copy a finished run, slice by slice, to one HDF5 file of a result (docs/hdf5_layout.md).

Besides `/image` it holds `/slices`: ledger (1 done, 2 failed), facts by name, n_rejected, reasons (empty where nothing
failed), warnings (a sentence a line, empty where nothing looked wrong) and, where strength="auto" chose strengths, the
columns of CHOICE. The attribute `warnings` has each distinct
sentence once, with its slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import h5py

from ..io.hdf5 import create_result, write_warnings
from ..io.hdf5_safe import open_hdf5
from ..io.lock import remove_renamed, remove_stale_parts
from .results_store import CHOICE, DONE, FACTS, Parts
from .sources import FileSource
from .stack_result import sentences


def to_hdf5(
    parts: Parts, path: Path, y: Any, *, remove: bool, overwrite: bool, attributes: Mapping[str, Any] | None = None
) -> None:
    """Write the file atomically, then remove the folder if asked to.

    Args:
        parts: folder of the run.
        path: file to write.
        y: source of the measurements; if it is a file in our layout, its operator is copied.
        remove: remove the folder afterwards.
        overwrite: replace an existing file.
        attributes: further attributes of /image.

    Raises:
        ValueError: the file exists or cannot be written.
    """
    image, facts = parts.array("image"), parts.array("facts")
    remove_stale_parts(path)
    with create_result(path, overwrite=overwrite) as file:
        target = file.create_dataset("image", image.shape, image.dtype, chunks=(1, *image.shape[1:]))
        for k in range(image.shape[0]):
            target[k] = image[k]
        target.attrs.update(attributes or {})
        _copy_operator(file, y)
        file["slices/ledger"] = ledger = parts.ledger()
        file.attrs["slices"] = f"{int((ledger == DONE).sum())} of {len(ledger)}"
        for column, name in enumerate(FACTS):
            file[f"slices/{name}"] = facts[:, column]
        reasons = parts.reasons()
        texts = [reasons.get(k, "") for k in range(image.shape[0])]
        file.create_dataset("slices/reasons", data=texts, dtype=h5py.string_dtype())
        warnings, misfits = parts.warnings(), parts.misfits()
        lines = ["\n".join(warnings.get(k, ())) for k in range(image.shape[0])]
        file.create_dataset("slices/warnings", data=lines, dtype=h5py.string_dtype())
        file["slices/n_rejected"] = parts.n_rejected()
        if parts.choices():
            for column, name in enumerate(CHOICE):
                file[f"slices/{name}"] = parts.array("choices")[:, column]
        write_warnings(file, sentences(warnings, image.shape[0]))
        if misfits:
            file.attrs["misfit"] = median(misfits.values())
    if remove:
        remove_renamed(parts.folder)


def _copy_operator(file: h5py.File, y: Any) -> None:
    if isinstance(y, FileSource) and not y.is_zarr:
        with open_hdf5(y.path) as source:
            if "operator" in source:
                source.copy("operator", file)
                return
    file.create_group("operator").attrs["name"] = ""
