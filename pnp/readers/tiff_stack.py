"""Stacks of TIFF images: projections, or the slices of a volume."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.atomic import atomic
from ..io.guards import check_file, check_memory, check_real, to_float32
from ..io.tiff_safe import open_tiff, tiff_rows
from .tiff_names import Series, sorted_series

_SUFFIXES = (".tif", ".tiff")
_WRITTEN_NAME = re.compile(r"slice_\d{4,}\.tif")


def read_tiff_stack(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read grey images of one shape as float32 (n, H, W), values as they are: an 8-bit file is 0 to 255.

    Unlike `pnp.io.read_image`, it keeps the stored numbers and rows where a file says that white is zero or is turned.

    Args:
        path: a folder, all of whose TIFF files are read; a pattern such as "scan/proj_*.tif"; or one file of one or
            more pages. Files come in the order of the numbers in their names: 2 before 10, -3 before 0, 0.25 before
            0.5. What scanners repeat beside a series ("scan_180deg.tif") is left out, with a warning; missing numbers
            are a warning.

    Raises:
        ValueError: nothing is found, a file is broken, not grey or of another shape, a value is not finite, two names
            have the same number, or a folder or a pattern holds more than one series of names.
    """
    return read_rows(path, tiff_series(path).files)


def read_rows(
    path: str | os.PathLike[str], files: list[Path], rows: slice = slice(None), *, rows_first: bool = False
) -> npt.NDArray[np.float32]:
    """Read some rows of the pages of one file, or of files of one page each, as float32 (n, n_rows, W).

    Args:
        path: the folder, the pattern or the file, for messages.
        files: the files in order, one at least.
        rows: the rows to read, as `picked_rows` returns them; the others are not kept.
        rows_first: return (n_rows, n, W) instead.

    Raises:
        ValueError: a file is broken, not grey or of another shape, or a value is not finite.
    """
    volume: npt.NDArray[np.float32] | None = None
    first: tuple[int, ...] = ()
    for k, file in enumerate(files):
        pages, full = _read_pages(file, rows, one_of_many=len(files) > 1)
        if len(files) == 1:
            return np.ascontiguousarray(pages.swapaxes(0, 1)) if rows_first else pages
        if len(pages) != 1:
            raise ValueError(
                f"{file} has {len(pages)} pages; in a stack of files each must have one: read it on its own"
            )
        if volume is None:
            shape, first = (len(files), *pages.shape[1:]), full
            check_memory(f"{path}: the stack", shape, "read part of it, by a pattern")
            volume = np.empty((shape[1], shape[0], shape[2]) if rows_first else shape, np.float32)
        if full != first:
            raise ValueError(
                f"{file} is {full}, {files[0].name} is {first}; a stack has one shape: move the odd ones away, or give "
                "a pattern"
            )
        (volume.swapaxes(0, 1) if rows_first else volume)[k] = pages[0]
    assert volume is not None  # one file at least
    return volume


def tiff_series(path: str | os.PathLike[str], *, gaps: bool = True) -> Series:
    """Return the files of a stack in order, one at least; missing numbers are a warning unless `gaps` is False."""
    if Path(path).is_dir():
        files = _tiffs(Path(path))
        if not files:
            raise ValueError(f"{path} holds no TIFF file (.tif, .tiff); check the name")
    elif not Path(path).exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
        if not files:
            raise ValueError(f"{path}: no file matches the pattern; check it")
    else:
        files = [check_file(path)]
    return sorted_series(path, files, gaps=gaps)


def page_shape(file: Path, *, one_of_many: bool) -> tuple[int, int, int]:
    """Return the number of pages, rows and columns of a file."""
    with _grey_pages(file, one_of_many=one_of_many) as series:
        n, height, width = (1, *series.shape)[-3:]
    return int(n), int(height), int(width)


def write_tiff_stack(folder: str | os.PathLike[str], volume: npt.ArrayLike, *, overwrite: bool = False) -> list[Path]:
    """Write slices (n, H, W) as float32 to slice_0000.tif, slice_0001.tif, ... and return their paths.

    All are written under temporary names first; they get their own when the last one is complete.

    Args:
        folder: the folder, created where its parent exists.
        volume: (n, H, W), numpy or torch, finite.
        overwrite: replace the stack that `write_tiff_stack` left there, all of it.

    Raises:
        ValueError: the volume is of another shape or not finite, or the folder holds TIFF files already.
    """
    import tifffile

    if hasattr(volume, "detach"):  # a torch tensor, on any device
        volume = volume.detach().cpu()
    slices = to_float32("write_tiff_stack: volume", volume)
    if slices.ndim != 3 or slices.size == 0:
        raise ValueError(
            f"write_tiff_stack: volume must be (n, H, W), got {slices.shape}; use volume[None] for one slice"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"write_tiff_stack: {folder} is a file; give the name of a folder")
    if not folder.parent.is_dir():
        raise ValueError(f"write_tiff_stack: the folder {folder.parent} does not exist; create it first")
    before = _tiffs(folder) if folder.exists() else []
    foreign = [file.name for file in before if not _WRITTEN_NAME.fullmatch(file.name)]
    if before and (foreign or not overwrite):
        remedy = "choose another folder" if foreign else "choose another folder or allow it to be replaced (overwrite)"
        raise ValueError(
            f"write_tiff_stack: {folder} holds {len(before)} TIFF files, e.g. {(foreign or [before[0].name])[0]:.60}, "
            f"with which the slices would mix; {remedy}"
        )
    folder.mkdir(exist_ok=True)
    digits = max(4, len(str(len(slices) - 1)))
    files = [folder / f"slice_{k:0{digits}d}.tif" for k in range(len(slices))]
    with ExitStack() as stack:
        for file, pixels in zip(files, slices, strict=True):
            tifffile.imwrite(stack.enter_context(atomic(file, overwrite=overwrite)), pixels, photometric="minisblack")
    for file in set(before) - set(files):  # left from a longer stack
        file.unlink(missing_ok=True)
    return files


def _tiffs(folder: Path) -> list[Path]:
    """Return a folder's TIFF files, by name."""
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith(".") and f.is_file()
    )


@contextmanager
def _grey_pages(file: Path, *, one_of_many: bool) -> Iterator[Any]:
    """Open the one series of grey pages of a file."""
    with open_tiff(file, one_of_many=one_of_many) as tiff:
        shapes = [series.shape for series in tiff.series]
        if len(shapes) != 1:
            raise ValueError(f"{file} holds {len(shapes)} images of different shapes, {shapes[:3]!s:.80}; split it")
        (series,) = tiff.series
        if "S" in series.axes or series.keyframe.photometric not in (0, 1) or not 2 <= len(series.shape) <= 3:
            raise ValueError(
                f"{file} must hold grey images (n, H, W), got {series.shape}, axes {series.axes}, "
                f"{getattr(series.keyframe.photometric, 'name', 'no photometric')}; convert it to grey"
            )
        check_real(f"{file}: the image", series.dtype)
        yield series


def _read_pages(file: Path, rows: slice, *, one_of_many: bool) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """Return some rows of the pages of one file, float32 (n, n_rows, W), and the shape (H, W) of a whole page."""
    with _grey_pages(file, one_of_many=one_of_many) as series:
        values, full = tiff_rows(file, series, rows), tuple(series.shape[-2:])
    pages = to_float32(f"{file}: the image", values)
    return pages.reshape(-1, *pages.shape[-2:]), full
