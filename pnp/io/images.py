"""Read and write images in PNG, TIFF, NPY, FITS and HDF5, as arrays (H, W) or (C, H, W); write volumes to NIfTI.

Values: the 8 or 16 bits of PNG and JPEG files are pictures and become [0, 1], without their opacity (alpha). TIFF,
NPY, FITS and HDF5 files are measurements and keep their units, integers too, and all their channels. What a PNG, JPEG
or TIFF file says of its display is applied: orientation, palette, white as zero.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .atomic import atomic, atomic_hdf5, check_output
from .fits import image as fits_image
from .fits import images_in, open_fits
from .guards import as_float32, check_memory, reading
from .hdf5_safe import listed, numbers, open_hdf5
from .nifti import NIFTI, write_nifti
from .pictures import read_picture, write_png
from .tiff_safe import open_tiff, shown_values

_PNG, _TIFF, _NPY, _FITS, _HDF5 = (
    (".png", ".jpg", ".jpeg"),
    (".tif", ".tiff"),
    (".npy",),
    (".fits", ".fit", ".fits.gz"),
    (".h5", ".hdf5"),
)
_FORMATS = "PNG, TIFF, NPY, FITS or HDF5 (.png, .tif, .npy, .fits, .h5)"
_VOLUMES = "NIfTI, NPY or HDF5 (.nii.gz, .npy, .h5)"
_STACKS = "TIFF, NPY, FITS or HDF5 (.tif, .npy, .fits, .h5)"


def read_image(path: str | os.PathLike[str], *, dataset: str = "image") -> npt.NDArray[np.float32]:
    """Read an image as float32, (H, W) for grey or (C, H, W) for several channels.

    PNG and JPEG are divided by 255 (8 bits) or 65535 (16 bits), to [0, 1]. The other formats keep their values: a
    TIFF file of 8 bits is read as 0 to 255.

    A PNG, JPEG or TIFF file is read as a viewer shows it: turned upright (EXIF orientation), the colours of a palette,
    in TIFF 0 to 255, in place of their numbers, and a white-is-zero TIFF file of n bits as 2^n - 1 minus its values.
    PNG and JPEG lose their opacity, CMYK JPEG becomes RGB. Pages of one shape in a TIFF file are channels.

    Args:
        path: a PNG, JPEG, TIFF, NPY, FITS or HDF5 file. FITS: the first part that holds an image. In NPY, FITS and
            HDF5, a last axis of at most 4 behind a first of more than 4 is taken for channels.
        dataset: name of the dataset in an HDF5 file.

    Raises:
        ValueError: the file is missing, unreadable, of another format, or holds no image, or several: an animation,
            TIFF pages of different shapes. A TIFF file is CMYK, YCbCr or Lab. float32 cannot hold the values: some lie
            beyond its range, integers need more than its 24 bits, or a float's contrast is lost on a large offset.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise ValueError(f"read_image: there is no file {path}; check the name")
    if name.endswith(NIFTI):
        raise ValueError(f"read_image: {path} is NIfTI, which holds volumes; use read_nifti")
    try:
        if name.endswith(_PNG):
            pixels = read_picture(path)
        elif name.endswith(_TIFF):
            with open_tiff(path) as tiff:
                pixels = shown_values(path, tiff)
        elif name.endswith(_NPY):
            pixels = _npy(path)
        elif name.endswith(_FITS):
            with open_fits(path) as parts:
                images = list(images_in(parts).values())
                if not images:
                    raise ValueError(f"{path}: it holds no image")
                pixels = fits_image(path, images[0])
        elif name.endswith(_HDF5):
            with open_hdf5(path) as file:
                if dataset not in file:
                    raise ValueError(f"{path} has no dataset '{dataset}'; it holds {listed(file)}")
                pixels = numbers(path, file[dataset])
        else:
            raise ValueError(f"{path} cannot be read: its format is not one of {_FORMATS}")
        return _as_image(path, pixels, channels_first=name.endswith((*_PNG, *_TIFF)))
    except ValueError as error:
        raise ValueError(f"read_image: {error}") from error


def write_image(
    path: str | os.PathLike[str],
    image: npt.ArrayLike,
    *,
    dataset: str = "image",
    bits: Literal[8, 16] = 8,
    voxel_size_mm: float | tuple[float, ...] | None = None,
    centre_mm: tuple[float, float, float] | None = None,
    description: str = "",
    slices: bool = False,
    overwrite: bool = False,
) -> None:
    """Write an image (H, W) or (C, H, W) to a PNG, TIFF, NPY, FITS or HDF5 file, a volume to NIfTI, NPY or HDF5.

    PNG is for looking: [0, 1] becomes 0..255 and what lies outside is clipped. The other formats keep the
    values (float32). A file is written whole or not at all.

    Args:
        path: the file to write; its suffix chooses the format.
        image: (H, W) or (C, H, W); or, with voxel_size_mm, a volume (nx, ny, nz) in the axes of SPECT.
        dataset: name of the dataset in an HDF5 file.
        bits: bits of a PNG's channels, 8 or 16 (0..65535).
        voxel_size_mm: side of a volume's voxel, or (transaxial, axial) or (x, y, z), in mm. Only NIfTI keeps it.
        centre_mm: where the volume's middle lies in the study, as in `write_nifti`, which alone keeps it.
        description: what the numbers of a volume are, likewise.
        slices: the image is a stack of slices (D, H, W), not D channels: not for PNG.
        overwrite: replace a file of that name.

    Raises:
        ValueError: another format, another number of axes, or a path that cannot be written.
    """
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise ValueError(f"write_image: image must be (H, W) or (C, H, W), got {pixels.shape}; use image[0]")
    if bits not in (8, 16):
        raise ValueError(f"write_image: bits must be 8 or 16, got {bits!r}")
    is_volume = voxel_size_mm is not None
    if is_volume and pixels.ndim != 3:
        raise ValueError(f"write_image: with voxel_size_mm, image must be a volume (nx, ny, nz), got {pixels.shape}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[0]
    name = check_image_output(path, channels, volume=is_volume, slices=slices, overwrite=overwrite).name.lower()
    if voxel_size_mm is not None and name.endswith(NIFTI):
        write_nifti(path, pixels, voxel_size_mm, centre_mm=centre_mm, description=description, overwrite=overwrite)
        return
    if name.endswith(".png") and not np.isfinite(pixels).all():
        raise ValueError("write_image: PNG has no place for NaN or infinity; use .tif, .npy or .h5")
    if name.endswith(_HDF5):
        with atomic_hdf5(path, overwrite=overwrite) as file:
            file[dataset] = pixels
        return
    with atomic(path, overwrite=overwrite) as part:
        if name.endswith(".png"):
            write_png(part, pixels, bits)
        elif name.endswith(_TIFF):
            import tifffile

            if channels == 3 and not slices:
                tifffile.imwrite(part, pixels, photometric="rgb", planarconfig="separate")
            else:
                tifffile.imwrite(part, pixels, photometric="minisblack")
        elif name.endswith(_NPY):
            np.save(part, pixels)
        else:
            from astropy.io import fits

            fits.PrimaryHDU(pixels).writeto(part)


def check_image_output(
    path: str | os.PathLike[str],
    channels: int,
    *,
    volume: bool = False,
    slices: bool = False,
    overwrite: bool = False,
) -> Path:
    """Return the path of an image to be written, or explain why it cannot be; worth calling before a long computation.

    Args:
        path: the file to write.
        channels: number of channels of the image.
        volume: the output is a volume (nx, ny, nz), not an image.
        slices: it is a stack of slices (D, H, W) without a size of its voxels, not an image of D channels.
        overwrite: a file of that name may be replaced.

    Raises:
        ValueError: the format is unknown or has no place for so many channels, or see `check_output`.
    """
    path = check_output(path, overwrite=overwrite)
    name = path.name.lower()
    if slices:
        if not name.endswith((*_TIFF, *_NPY, *_FITS, *_HDF5)):
            raise ValueError(f"write_image: the format of {path} is not one of stacks of slices: {_STACKS}")
        return path
    if volume:
        if not name.endswith((*NIFTI, *_NPY, *_HDF5)):
            raise ValueError(f"write_image: the format of {path} is not one of volumes: {_VOLUMES}")
        return path
    if name.endswith(NIFTI):
        raise ValueError(
            f"write_image: {path}: NIfTI holds volumes with voxel_size_mm, this is an image; use {_FORMATS}"
        )
    if not name.endswith((".png", *_TIFF, *_NPY, *_FITS, *_HDF5)):
        raise ValueError(f"write_image: the format of {path} is not one of {_FORMATS}")
    if name.endswith(".png") and channels not in (1, 3):
        raise ValueError(f"write_image: PNG takes 1 or 3 channels, got {channels}; use .tif, .npy or .h5")
    return path


def _npy(path: Path) -> npt.NDArray[Any]:
    """Read an NPY file; mapping it first refuses objects, and files shorter than they claim."""
    with reading(path, "NPY"):
        mapped = np.lib.format.open_memmap(path, mode="r")
        check_memory(f"{path}: the image", mapped.shape, "cut it")
        return np.array(mapped)


def _as_image(path: Path, pixels: npt.NDArray[Any], *, channels_first: bool = False) -> npt.NDArray[np.float32]:
    """Bring pixels of any layout to float32 (H, W) or (C, H, W)."""
    while pixels.ndim > 2 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise ValueError(f"{path} must hold an image (H, W) or (C, H, W), got {pixels.shape}; save one image alone")
    if not channels_first and pixels.ndim == 3 and pixels.shape[-1] <= 4 < pixels.shape[0]:
        pixels = np.moveaxis(pixels, -1, 0)
        if len(pixels) == 1:
            pixels = pixels[0]
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"{path} must hold integer or real pixels, got {pixels.dtype}")
    return as_float32(f"{path}: the image", pixels, exact=True)
