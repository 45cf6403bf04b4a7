"""Open untrusted HDF5 files for reading.

A file of a few bytes can name other files (external links, external storage, virtual datasets), whose content would
then pass for its own, or claim terabytes. A file with one link to another file is refused as a whole, before anything
is read; sizes are checked where an array is read.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .guards import check_claim, check_file, check_memory, one_line, reading

_HEAP = b"GCOL\x01\x00\x00\x00"
"""First bytes of a global heap."""
_HEAPS_WITHIN = 2**26
_UNPACK_REMEDY = "if that is right, store it unpacked (h5repack -f NONE)"


@contextmanager
def open_hdf5(path: str | os.PathLike[str], *, links: bool = True) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; whatever is wrong with it, or goes wrong in the block, becomes one ValueError.

    Args:
        path: the file.
        links: visit every object to look for links to other files; False: that was done before.
    """
    check_file(path)
    if links:
        check_heaps(path)
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        if links and (away := _external_reference(file)):
            raise ValueError(
                f"{path}: {away[0]}; other files are not read through this one: copy its data to a new file, by h5py's "
                f"{away[1]}"
            )
        yield file


def check_heaps(path: str | os.PathLike[str]) -> None:
    """Refuse a damaged global heap, in which texts are stored, in the first 64 MiB: the library would not return.

    A heap (file format specification, III.E) is a header of 16 bytes and objects: number (2 bytes), references (2),
    reserved (4), size n (8) and n bytes, padded to 8. Number 0 is free space, whose size counts its header; the library
    of version 2.0 does not advance over one of size 0.
    """
    size = min(Path(path).stat().st_size, _HEAPS_WITHIN)
    if size == 0:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            end = min(start + int.from_bytes(content[start + 8 : start + 16], "little"), size)
            at = start + 16
            while at + 16 <= end:
                number, n = struct.unpack_from("<H6xQ", content, at)
                if number == n == 0:
                    raise ValueError(f"{path} is truncated or damaged: its heap of texts breaks off; fetch it again")
                at += n if number == 0 else 16 + (n + 7) // 8 * 8
            start = content.find(_HEAP, start + 8)


def numbers(path: str | os.PathLike[str], dataset: Any, part: Any = ()) -> npt.NDArray[Any]:
    """Return the real numbers of a dataset, or of a part of it, in this machine's byte order.

    Args:
        path: the file, for messages.
        dataset: object of the file, which should be a dataset.
        part: integers and slices, as h5py takes them.

    Raises:
        ValueError: it holds something else, or claims a size that the file or the memory cannot hold.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub" or dataset.shape is None:
        got = f"{dataset.dtype!s:.60}" if isinstance(dataset, h5py.Dataset) else "a group"
        name = one_line(getattr(dataset, "name", ""))
        raise ValueError(f"{path}: dataset '{name.strip('/')}' must hold real numbers, got {got}")
    whole = isinstance(part, tuple) and not part
    check_stored(path, dataset, None if whole else np.broadcast_to(np.int8(0), dataset.shape)[part].shape)
    values = np.asarray(dataset[part])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_stored(
    path: str | os.PathLike[str],
    dataset: h5py.Dataset,
    shape: Sequence[int] | None = None,
    remedy: str = "read a part of it",
    *,
    held: int | None = None,
) -> None:
    """Refuse a dataset that claims more than the file or this machine's memory can hold.

    Args:
        path: the file, for messages.
        dataset: dataset to be read.
        shape: shape of the part to be read; None: all of it.
        remedy: what to do where the memory is too small.
        held: bytes of the files that store it; None: those of its own.
    """
    where, shape = f"{path}: {one_line(dataset.name)}", (dataset.shape or ()) if shape is None else shape
    if held is None:
        # A virtual dataset stores nothing itself: its sources are in the same file, others are refused.
        held = dataset.file.id.get_filesize() if dataset.is_virtual else dataset.id.get_storage_size()
    check_memory(where, shape, remedy)
    check_claim(where, math.prod(shape) * dataset.dtype.itemsize if shape else 0, held, _UNPACK_REMEDY)


def listed(group: h5py.Group) -> str:
    """Return the first few names in a group, for a message."""
    names = sorted(group)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(f"{name!r:.24}" for name in names[:6]) or "nothing") + more


def _external_reference(file: h5py.File) -> tuple[str, str] | None:
    """Return a description of an object that refers to another file, and code that copies its data; None: none does."""
    inside = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
    link = file.id.links.visit(lambda name, info: None if info.type in inside else name, info=True)
    if link is not None:
        name = _text(link)
        return f"{name} is an external link", f"source.copy({name}, target, {name}, expand_external=True)"

    def in_another_file(name: bytes, info: Any) -> tuple[str, str] | None:
        if info.type != h5py.h5o.TYPE_DATASET:
            return None
        layout = h5py.h5d.open(file.id, name).get_create_plist()
        read = f"target[{_text(name)}] = source[{_text(name)}][()]"
        if layout.get_external_count():
            return f"{_text(name)} is stored in another file (external=)", read
        if layout.get_layout() != h5py.h5d.VIRTUAL:
            return None
        sources = {layout.get_virtual_filename(k) for k in range(layout.get_virtual_count())}
        return (f"{_text(name)} is a virtual dataset of other files", read) if sources - {"."} else None

    found: tuple[str, str] | None = h5py.h5o.visit(file.id, in_another_file, info=True)
    return found


def _text(name: bytes | str) -> str:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return f"'{one_line(text, 60)}'"


def plain(value: Any) -> Any:
    """Turn an HDF5 attribute into a plain Python value, whatever form the writer chose.

    Text may be bytes (Fortran, MATLAB), and a single value an array of one.
    """
    if isinstance(value, np.ndarray):
        return plain(value.reshape(-1)[0]) if value.size == 1 else tuple(plain(part) for part in value)
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def whole(value: Any) -> Any:
    """Turn floats without a fraction into integers."""
    if isinstance(value, tuple):
        return tuple(whole(part) for part in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def dataset(path: str | os.PathLike[str], group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """Return a dataset's numbers; without it, list what the file holds."""
    if not isinstance(group.get(name), h5py.Dataset):
        raise ValueError(f"{path} must have a dataset '{name}', it holds {listed(group)}; see docs/hdf5_layout.md")
    return numbers(path, group[name])


def scalar_or_array(path: str | os.PathLike[str], file: h5py.File, name: str) -> float | npt.NDArray[Any] | None:
    """Return a dataset's number or array; None where there is no such dataset."""
    if name not in file:
        return None
    values = dataset(path, file, name)
    return float(values) if values.ndim == 0 else values
