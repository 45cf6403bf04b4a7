"""HDF5 files opened for reading, wherever they come from.

A file of a few bytes can name other files (external links, external storage, virtual datasets), whose content would
then pass for its own, or claim terabytes. Links to other files are refused, whole files for one of them, before
anything is read; sizes where an array is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .checks import check_claim, check_memory, one_line

__all__ = ["check_stored", "listed", "numbers", "open_hdf5"]

UNPACK = "if that is right, store it unpacked (h5repack -f NONE)"


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; whatever is wrong with it becomes one ValueError."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file; check the name")
    try:
        with h5py.File(path, "r") as file:
            if away := _leads_away(file):
                raise ValueError(
                    f"{path}: {away}; other files are not read through this one: copy the data into it, e.g. by h5py's "
                    "file.copy(..., expand_external=True)"
                )
            yield file
    except (OSError, RuntimeError, KeyError, OverflowError, MemoryError, UnicodeError) as error:  # h5py, broken file
        raise ValueError(
            f"{path} is not a readable HDF5 file (truncated or damaged?): {one_line(error)}; fetch it again"
        ) from error


def numbers(path: str | os.PathLike[str], dataset: Any) -> npt.NDArray[Any]:
    """Return the real numbers of a dataset, in this machine's byte order.

    Raises:
        ValueError: it holds something else, or claims a size that the file or the memory cannot hold.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub" or dataset.shape is None:
        got = f"{dataset.dtype!s:.60}" if isinstance(dataset, h5py.Dataset) else "a group"
        name = one_line(ValueError(getattr(dataset, "name", "")))
        raise ValueError(f"{path}: dataset '{name.strip('/')}' must hold real numbers, got {got}")
    check_stored(path, dataset)
    values = np.asarray(dataset[()])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_stored(path: str | os.PathLike[str], dataset: h5py.Dataset) -> None:
    """Refuse a dataset that claims more than the file, or this machine's memory, can hold."""
    where, shape = f"{path}: {one_line(ValueError(dataset.name))}", dataset.shape or ()
    check_claim(where, dataset.size * dataset.dtype.itemsize if shape else 0, dataset.id.get_storage_size(), UNPACK)
    check_memory(where, shape, "read a part of it")


def listed(group: h5py.Group) -> str:
    """Return what a group holds, the first few names of it, for a message."""
    names = sorted(group)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(f"{name!r:.24}" for name in names[:6]) or "nothing") + more


def _leads_away(file: h5py.File) -> str | None:
    """Return what in a file names another one, in words, or None."""
    inside = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
    link = file.id.links.visit(lambda name, info: None if info.type in inside else name, info=True)
    if link is not None:
        return f"{_text(link)} is an external link"

    def elsewhere(name: bytes, info: Any) -> str | None:
        if info.type != h5py.h5o.TYPE_DATASET:
            return None
        layout = h5py.h5d.open(file.id, name).get_create_plist()
        if layout.get_external_count():
            return f"{_text(name)} is stored in another file (external=)"
        if layout.get_layout() != h5py.h5d.VIRTUAL:
            return None
        sources = {layout.get_virtual_filename(k) for k in range(layout.get_virtual_count())}
        return f"{_text(name)} is a virtual dataset of other files" if sources - {"."} else None

    found: str | None = h5py.h5o.visit(file.id, elsewhere, info=True)
    return found


def _text(name: bytes | str) -> str:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return f"'{one_line(ValueError(text)):.60}'"
