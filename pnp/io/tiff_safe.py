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

from .guards import check_claim, check_memory, one_line, reading

_NO_DIALECTS = {"is_ome": False, "is_mmstack": False, "is_ndtiff": False}
"""Options that switch off the dialects whose files name other files."""
ORIENTATION_TAG = 274
"""Tag of the orientation, in TIFF and in EXIF."""
_ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What turns a stored picture upright: transpose, then reverse the rows, then the columns (TIFF 6.0, page 36)."""
_PHOTOMETRIC_TAG = 262
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, _YCBCR, _JPEG = 0, 1, 3, 6, 7
_COLOURS_TAG = 320
_COPY_OR_MASK = 1 | 4
"""Bits of NewSubfileType: a reduced copy of another page, a mask of transparency."""
_KEPT_AS_THEY_ARE = (_BLACK_IS_ZERO, 2, 4, 32803, 34892, 51177, 52527)
"""Black is zero, RGB, masks, and what digital negatives add: sensor values, depth maps, semantic masks."""
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
    _check_size(path, series)
    check_memory(f"{path}: the image", series.shape, "split it")
    with _decoding(path):
        values: npt.NDArray[Any] = series.asarray()
    return values


def tiff_rows(path: str | os.PathLike[str], series: Any, rows: slice) -> npt.NDArray[Any]:
    """Return some rows (..., n_rows, W) of a series of grey pages (..., H, W), with no more than a page in memory.

    The bounds are those of `tiff_values`, but memory is asked for the rows alone.
    """
    *n_pages, height, width = series.shape
    if rows == slice(None):
        return tiff_values(path, series)
    _check_size(path, series)
    shape = (*n_pages, len(range(height)[rows]), width)
    check_memory(f"{path}: the rows", shape, "read fewer")
    with _decoding(path):
        if series.dataoffset is not None and series.keyframe.is_memmappable:
            return np.array(series.asarray(out="memmap")[..., rows, :])
        pages = list(series.pages)
        if any(page is None for page in pages) or len(pages) != max(1, int(np.prod(n_pages))):
            whole: npt.NDArray[Any] = series.asarray()[..., rows, :]
            return whole
        values = np.empty((len(pages), *shape[-2:]), series.dtype)
        for k, page in enumerate(pages):
            values[k] = page.asarray().reshape(height, width)[rows]
        return values.reshape(shape)


def _check_size(path: str | os.PathLike[str], series: Any) -> None:
    """Refuse a series without pixels, or with more than the file can hold."""
    if 0 in series.shape:
        raise ValueError(f"{path} holds an image without pixels, {series.shape!s:.60}; fetch it again")
    needed = int(np.prod(series.shape, dtype=object)) * np.dtype(series.dtype).itemsize
    check_claim(f"{path}: the image", needed, Path(path).stat().st_size, "if that is right, store it unpacked")


@contextmanager
def _decoding(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the package that decodes what the library itself does not."""
    try:
        yield
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        how = one_line(str(error).partition(" requires ")[0])
        raise ValueError(
            f"{path}: {how} needs the package imagecodecs to be read; install it, or save without compression"
        ) from None


def shown_values(path: str | os.PathLike[str], tiff: Any) -> npt.NDArray[Any]:
    """Return the one image of an open file as a viewer shows it, channels or pages first.

    The colours of a palette replace their numbers, from 0 to 255; unsigned integers of n bits whose zero is white are
    subtracted from 2^n - 1; the picture is turned upright. All other values stay as they are.
    """
    pages = [page for page in tiff.pages if not page.subfiletype & _COPY_OR_MASK] or list(tiff.pages)
    kinds = {
        (_photometric(page), _tag(page, ORIENTATION_TAG), np.asarray(_tag(page, _COLOURS_TAG)).tobytes())
        for page in pages
        if len(pages) > 1
    }
    main = [series for series in tiff.series if not series.keyframe.subfiletype & _COPY_OR_MASK] or list(tiff.series)
    if len(main) != 1:
        shapes = ", ".join(str(series.shape) for series in main[:4])
        raise ValueError(f"{path} holds {len(main)} images of different kinds, {shapes:.120}; save one of them alone")
    (series,) = main
    if len(kinds) > 1:
        raise ValueError(f"{path} holds pages of different palettes, orientations or zeros; save one of them alone")
    page, photometric = series.keyframe, _photometric(series.keyframe)
    if photometric not in (_WHITE_IS_ZERO, _PALETTE, *_KEPT_AS_THEY_ARE) and not (
        photometric == _YCBCR and page.compression == _JPEG  # the decoder of JPEG returns RGB
    ):
        name = getattr(page.photometric, "name", photometric)
        raise ValueError(f"{path} must be grey, RGB or a palette, got the colours {name}; convert it to RGB")
    values = tiff_values(path, series)
    if series.axes[-1:] == "S":
        values = np.moveaxis(values, -1, 0)
    if photometric == _WHITE_IS_ZERO:
        values = _black_is_zero(path, values, page.bitspersample)
    elif photometric == _PALETTE:
        values = _colours(path, values, page.colormap)
    return upright(values, _tag(page, ORIENTATION_TAG))


def upright(pixels: npt.NDArray[Any], orientation: object) -> npt.NDArray[Any]:
    """Return pixels (..., H, W) as the orientation of TIFF and EXIF, 1 to 8, shows them; as they are for another."""
    transpose, rows, columns = _ORIENTATIONS.get(orientation, (False, False, False))  # type: ignore[call-overload]
    pixels = pixels.swapaxes(-2, -1) if transpose else pixels
    return pixels[..., :: -1 if rows else 1, :: -1 if columns else 1]


def _tag(page: Any, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def _photometric(page: Any) -> int:
    """Return how a page's numbers are shown; black is zero where it does not say so."""
    value = _tag(page, _PHOTOMETRIC_TAG)
    return _BLACK_IS_ZERO if value is None else int(value)


def _black_is_zero(path: str | os.PathLike[str], values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Return unsigned integers whose zero was white with black as zero."""
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind != "u":
        raise ValueError(
            f"{path} says that white is zero, and its numbers are {values.dtype}, for which TIFF has no black; "
            "save it as black is zero (photometric='minisblack')"
        )
    inverted: npt.NDArray[Any] = values.dtype.type(2**bits - 1) - values
    return inverted


def _colours(path: str | os.PathLike[str], values: npt.NDArray[Any], palette: Any) -> npt.NDArray[np.float32]:
    """Return the colours (3, ...) of a palette, from 0 to 255.

    A palette (3, n) holds 0 to 65535. Some writers fill 8 of the 16 bits: with c, or with 256 c in place of 257 c.
    """
    if palette is None or palette.ndim != 2 or values.dtype.kind not in "bu" or values.max() >= palette.shape[1]:
        raise ValueError(f"{path} is damaged: its palette has not all of its colours; fetch it again")
    unit = 1 if palette.max() < 256 else 257 if (palette & 255).any() else 256
    colours: npt.NDArray[np.float32] = np.divide(palette, unit, dtype=np.float32)[:, values.astype(np.intp)]
    return colours


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
