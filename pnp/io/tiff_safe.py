"""Open untrusted TIFF files for reading: complete, without other files, no larger than their content allows."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .guards import check_claim, check_memory, reading

_NO_DIALECTS = {"is_ome": False, "is_mmstack": False, "is_ndtiff": False}
"""Options that switch off the dialects whose files name other files."""


_OME_FILE = re.compile(r"""\b(FileName|MetadataFile)\s*=\s*["']([^"']*)""")
_OME_SIZE = r'<(?:\w+:)?Pixels\s[^>]*?\bSize{}="(\d{{1,18}})"'
"""Patterns of OME's description of its files and, with an axis for {}, of their pages; XML itself could be a bomb."""


@contextmanager
def open_tiff(path: str | os.PathLike[str], *, one_of_many: bool = False) -> Iterator[Any]:
    """Open a TIFF file that is whole; whatever is wrong with it becomes one ValueError.

    Args:
        path: the file.
        one_of_many: the file is part of a stack, so that OME's description of all files does not matter.
    """
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path, **_NO_DIALECTS) as tiff:
        _check_whole(path, tiff)
        if not one_of_many:
            _check_ome(path, tiff.pages[0])
        yield tiff


def tiff_values(path: str | os.PathLike[str], series: Any) -> npt.NDArray[Any]:
    """Return the pixels of a series of pages, unless they claim more than the file, or the memory, can hold."""
    if 0 in series.shape:
        raise ValueError(f"{path} holds an image without pixels, {series.shape!s:.60}; fetch it again")
    needed = int(np.prod(series.shape, dtype=object)) * np.dtype(series.dtype).itemsize
    check_claim(f"{path}: the image", needed, Path(path).stat().st_size, "if that is right, store it unpacked")
    check_memory(f"{path}: the image", series.shape, "split it")
    values: npt.NDArray[Any] = series.asarray()
    return values


def _check_ome(path: str | os.PathLike[str], page: Any) -> None:
    """Refuse an OME-TIFF of several files, or of several kinds of pages, which would pass for planes of one image."""
    if not page.is_ome:
        return
    named = set(_OME_FILE.findall(page.description))
    masters = [name for kind, name in named if kind == "MetadataFile"]
    if len(named) > 1 or masters:  # a single name is the file's own, before it was renamed
        of = f"that {masters[0]!r:.60} describes" if masters else f"of {len(named)}"
        raise ValueError(f"{path} is one file of an OME-TIFF {of}; read them by a pattern, or save it as one file")
    found = {axis: re.search(_OME_SIZE.format(axis), page.description) for axis in "CZT"}
    sizes = {axis: int(match[1]) for axis, match in found.items() if match and int(match[1]) > 1}
    if len(sizes) > 1:
        many = " x ".join(f"{n} {axis}" for axis, n in sizes.items())
        raise ValueError(
            f"{path} is an OME-TIFF of {many} (channels C, planes Z, times T), an image or a stack has one of them; "
            "save what you need of it as a file of its own"
        )


def _check_whole(path: str | os.PathLike[str], tiff: Any) -> None:
    """Refuse a file that ends before its pages do, which the library would read as fewer or as zeros."""
    handle, layout = tiff.filehandle, tiff.tiff
    n_pages = len(tiff.pages)
    last = tiff.pages.next_page_offset
    if n_pages:
        handle.seek(last)
        (beyond,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    if not n_pages or beyond != 0:
        raise ValueError(
            f"{path} is truncated or damaged: its list of pages breaks off after {n_pages}; fetch it again"
        )
    for k, page in enumerate(tiff.pages):
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if (0, 0) in parts:
            raise ValueError(
                f"{path}: page {k} has tiles that were never written; store them (gdal_translate -co SPARSE_OK=FALSE)"
            )
        ends = [start + n if start and n else handle.size + 1 for start, n in parts]
        if not ends or max(ends) > handle.size:
            raise ValueError(f"{path} is truncated or damaged: page {k} of {n_pages} is incomplete; fetch it again")
