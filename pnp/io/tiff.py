"""TIFF files opened for reading, wherever they come from: alone, whole, and no larger than they can be."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import check_claim, check_memory, reading

__all__ = ["open_tiff", "tiff_values"]

ALONE = {"is_ome": False, "is_mmstack": False, "is_ndtiff": False}
"""Without the dialects whose files name others: this one is what is read."""


@contextmanager
def open_tiff(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a TIFF file that is whole; whatever is wrong with it becomes one ValueError."""
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path, **ALONE) as tiff:
        _check_whole(path, tiff)
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
        parts = zip(page.dataoffsets, page.databytecounts, strict=True)
        ends = [start + n if start and n else handle.size + 1 for start, n in parts]
        if not ends or max(ends) > handle.size:
            raise ValueError(f"{path} is truncated or damaged: page {k} of {n_pages} is incomplete; fetch it again")
