"""Copy the slices of a finished run, one by one, to the files of a volume, with the size of its voxels.

Slices (n, 1, H, W) are numbered along the first axis, that of the detector's rows. They become

    .nii, .nii.gz   NIfTI-1, (x, y, z) = (column, row of the image, slice), sizes in mm
    .tif, .tiff     one TIFF file, a page a slice, in ImageJ's form: resolution, spacing and unit
    a folder        slice_0000.tif, ..., each in ImageJ's form

float32 in all; a slice that failed is NaN. Without a known length the files state none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import atomic
from ..io.atomic import check_output
from ..io.lock import part_path, remove_renamed
from ..io.nifti import NIFTI, write_nifti_slices
from .results_store import Parts

TIFF = (".tif", ".tiff")
_MAX_IMAGEJ_BYTES = 2**32 - 2**24
"""Largest TIFF file in ImageJ's form; larger ones are BigTIFF, whose resolution is per centimetre."""


def check_volume_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return the path of a volume to be written by `write_volume`; worth calling before a long computation.

    Raises:
        ValueError: the suffix is of another format; the path exists and may not or cannot be replaced.
    """
    path = Path(path)
    name = path.name.lower()
    if path.suffix and not name.endswith((*NIFTI, *TIFF)) and not path.is_dir():
        raise ValueError(
            f"output {path} must be .zarr, .h5, .nii.gz, .nii, .tif, or a folder for TIFF files, named without a suffix"
        )
    if name.endswith((*NIFTI, *TIFF)):
        return check_output(path, overwrite=overwrite)
    if not path.exists():
        check_output(path)
    elif not path.is_dir() or not overwrite or not all(_is_slice(file) for file in path.iterdir()):
        remedy = "choose another name" if not path.is_dir() or overwrite else "choose another name or overwrite it"
        raise ValueError(f"output {path} exists{' and holds other files' if overwrite else ''}; {remedy}")
    return path


def write_volume(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    voxel_size_mm: tuple[float, float, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Copy the slices of a run of `solve_stack` to a file, or a folder, of another format; whole or not at all.

    Args:
        run: the Zarr group that `solve_stack` wrote.
        output: .nii, .nii.gz or .tif, or a folder for TIFF files.
        voxel_size_mm: distance of slices, height and width of a pixel, in mm. None: not known.
        overwrite: replace an existing file, or the TIFF files of an earlier volume.

    Raises:
        ValueError: images have several channels; see `check_volume_output`.
    """
    output = check_volume_output(output, overwrite=overwrite)
    images = Parts(Path(run)).array("image")
    n, channels, height, width = images.shape
    if channels != 1:
        raise ValueError(f"write_volume: images must have one channel, got {channels}; read them from {run}")
    slices = (np.asarray(images[k, 0], dtype=np.float32) for k in range(n))
    if output.name.lower().endswith(NIFTI):
        size = None if voxel_size_mm is None else voxel_size_mm[::-1]
        write_nifti_slices(output, slices, (width, height, n), size, overwrite=overwrite)  # type: ignore[arg-type]
    elif output.name.lower().endswith(TIFF):
        with atomic(output, overwrite=overwrite) as part:
            _write_tiff(part, slices, (n, height, width), voxel_size_mm)
    else:
        _write_folder(output, slices, (n, height, width), voxel_size_mm)


def set_attributes(run: str | os.PathLike[str], attributes: Mapping[str, Any]) -> None:
    """Set attributes of the Zarr group of a run: sizes, units, what was done to the data."""
    import zarr

    zarr.open_group(str(run), mode="r+").attrs.update(dict(attributes))


def _write_folder(
    folder: Path,
    slices: Iterator[npt.NDArray[np.float32]],
    shape: tuple[int, int, int],
    voxel_size_mm: tuple[float, float, float] | None,
) -> None:
    """Write a file a slice to a hidden folder, which is then renamed."""
    part = part_path(folder)
    try:
        part.mkdir()
        digits = max(4, len(str(shape[0] - 1)))
        for k, values in enumerate(slices):
            _write_tiff(part / f"slice_{k:0{digits}d}.tif", iter([values]), (1, *shape[1:]), voxel_size_mm)
        if folder.exists():
            remove_renamed(folder)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_tiff(
    path: Path,
    slices: Iterator[npt.NDArray[np.float32]],
    shape: tuple[int, int, int],
    voxel_size_mm: tuple[float, float, float] | None,
) -> None:
    """Write pages (n, H, W) with their resolution."""
    import tifffile

    is_imagej = 4 * int(np.prod(shape, dtype=np.int64)) <= _MAX_IMAGEJ_BYTES
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    if voxel_size_mm is not None:
        distance, height, width = voxel_size_mm
        options["metadata"] |= {"spacing": distance, "unit": "mm"}
        per_unit = 1 if is_imagej else 10
        options["resolution"] = (per_unit / width, per_unit / height)
        options["resolutionunit"] = "NONE" if is_imagej else "CENTIMETER"
    kind = {"imagej": True} if is_imagej else {"bigtiff": True}
    with tifffile.TiffWriter(path, **kind) as file:
        file.write(slices, shape=shape, dtype=np.float32, **options)


def _is_slice(file: Path) -> bool:
    return file.name.startswith("slice_") and file.suffix.lower() in TIFF
