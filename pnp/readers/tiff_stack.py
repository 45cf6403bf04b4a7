"""Stacks of TIFF images: projections, or the slices of a volume."""

from __future__ import annotations

import glob
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.atomic import atomic
from ..io.guards import check_file, check_memory, check_real, to_float32
from ..io.tiff_safe import open_tiff, tiff_values

_SUFFIXES = (".tif", ".tiff")
_WRITTEN_NAME = re.compile(r"slice_\d{4,}\.tif")


def read_tiff_stack(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read grey images of one shape as float32 (n, H, W), values as they are: an 8-bit file is 0 to 255.

    Unlike `pnp.io.read_image`, it keeps the stored numbers and rows where a file says that white is zero or is turned.

    Args:
        path: a folder, all of whose TIFF files are read; a pattern such as "scan/proj_*.tif"; or one file of one or
            more pages. Files come in the order of the numbers in their names: 2 before 10.

    Raises:
        ValueError: nothing is found, a file is broken, not grey or of another shape, a value is not finite, or a
            folder holds more than one series of names.
    """
    files = _files(path)
    volume: npt.NDArray[np.float32] | None = None
    for k, file in enumerate(files):
        pages = _read_pages(file, one_of_many=len(files) > 1)
        if len(files) == 1:
            return pages
        if len(pages) != 1:
            raise ValueError(
                f"{file} has {len(pages)} pages; in a stack of files each must have one: read it on its own"
            )
        if volume is None:
            shape = (len(files), *pages.shape[1:])
            check_memory(f"{path}: the stack", shape, "read part of it, by a pattern")
            volume = np.empty(shape, np.float32)
        if pages.shape[1:] != volume.shape[1:]:
            raise ValueError(
                f"{file} is {pages.shape[1:]}, {files[0].name} is {volume.shape[1:]}; a stack has one shape: move the "
                "odd ones away, or give a pattern"
            )
        volume[k] = pages[0]
    assert volume is not None  # _files returns one at least
    return volume


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
    """Return a folder's TIFF files, in the order of the numbers in their names."""
    found = (
        f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith(".") and f.is_file()
    )
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[Any], str]:
    """Return a key that sorts 2 before 10: text and numbers alternate."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if k % 2 else part.lower() for k, part in enumerate(parts)], str(path)


def _files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a stack in order, one at least."""
    if Path(path).is_dir():
        files = _tiffs(Path(path))
        # Flats and projections in one folder have one shape; only their names differ.
        series = sorted({re.sub(r"\d+", "#", file.stem) for file in files})
        if len(series) > 1:
            names = ", ".join(f"{name:.30}" for name in series[:4])
            raise ValueError(f"{path} holds {len(series)} series of TIFF files ({names}); choose one by a pattern")
        if not files:
            raise ValueError(f"{path} holds no TIFF file (.tif, .tiff); check the name")
        return files
    if not Path(path).exists() and glob.has_magic(str(path)):
        files = sorted((Path(name) for name in glob.glob(str(path)) if Path(name).is_file()), key=_natural)
        if not files:
            raise ValueError(f"{path}: no file matches the pattern; check it")
        return files
    return [check_file(path)]


def _read_pages(file: Path, *, one_of_many: bool) -> npt.NDArray[np.float32]:
    """Return the pages of one file, float32 (n, H, W)."""
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
        values = tiff_values(file, series)
    pages = to_float32(f"{file}: the image", values)
    return pages.reshape(-1, *pages.shape[-2:])
