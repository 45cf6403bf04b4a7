"""Images from and to PNG, TIFF, NPY, FITS and HDF5 files, as numpy arrays (H, W) or (C, H, W).

Values: integer pixels are divided by the largest value of their type, so that 8 and 16 bit files give [0, 1];
floating pixels are returned as they are, in float32. Opacity (alpha) is dropped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .atomic import atomic, check_output
from .hdf5 import open_hdf5

__all__ = ["read_image", "write_image"]

_PNG, _TIFF, _NPY, _FITS, _HDF5 = (
    (".png", ".jpg", ".jpeg"),
    (".tif", ".tiff"),
    (".npy",),
    (".fits", ".fit", ".fits.gz"),
    (".h5", ".hdf5"),
)
_FORMATS = "PNG, TIFF, NPY, FITS or HDF5 (.png, .tif, .npy, .fits, .h5)"


def read_image(path: str | os.PathLike[str], *, dataset: str = "image") -> npt.NDArray[np.float32]:
    """Read an image as float32, (H, W) for grey or (C, H, W) for several channels.

    Args:
        path: a PNG, JPEG, TIFF, NPY, FITS or HDF5 file. FITS: the first part that holds an image.
        dataset: name of the dataset in an HDF5 file.

    Raises:
        ValueError: the file is missing, unreadable, of another format, or holds no image.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise ValueError(f"read_image: there is no file {path}; check the name")
    if name.endswith(_HDF5):
        with open_hdf5(path) as file:
            if dataset not in file:
                raise ValueError(f"read_image: {path} has no dataset '{dataset}'; it holds {sorted(file)}")
            pixels = np.asarray(file[dataset])
    else:
        try:
            if name.endswith(_PNG):
                from PIL import Image

                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB") if picture.mode in ("P", "CMYK") else picture)
            elif name.endswith(_TIFF):
                import tifffile

                pixels = tifffile.imread(path)
            elif name.endswith(_NPY):
                pixels = np.load(path, allow_pickle=False)
            elif name.endswith(_FITS):
                from astropy.io import fits

                with fits.open(path, memmap=False) as parts:
                    images = [part.data for part in parts if part.is_image and part.data is not None]
                if not images:
                    raise ValueError("it holds no image")
                pixels = images[0]
            else:
                raise ValueError(f"its format is not one of {_FORMATS}")
        except Exception as error:  # each reader has its own family of exceptions for a broken file
            raise ValueError(f"read_image: {path} cannot be read: {_one_line(error)}") from error
    return _as_image(path, pixels)


def write_image(
    path: str | os.PathLike[str], image: npt.ArrayLike, *, dataset: str = "image", overwrite: bool = False
) -> None:
    """Write an image (H, W) or (C, H, W) to a PNG, TIFF, NPY, FITS or HDF5 file.

    PNG is for looking: [0, 1] becomes 0..255 and what lies outside is clipped. The other formats keep the
    values (float32). A file is written whole or not at all.

    Raises:
        ValueError: another format, another number of axes, or a path that cannot be written.
    """
    pixels = np.asarray(image, dtype=np.float32)
    name = check_output(path, overwrite=overwrite).name.lower()
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise ValueError(f"write_image: image must be (H, W) or (C, H, W), got {pixels.shape}; use image[0]")
    if not name.endswith((".png", *_TIFF, *_NPY, *_FITS, *_HDF5)):
        raise ValueError(f"write_image: the format of {path} is not one of {_FORMATS}")
    if name.endswith(".png"):
        if pixels.ndim == 3 and pixels.shape[0] not in (1, 3):
            raise ValueError(f"write_image: PNG takes 1 or 3 channels, got {pixels.shape[0]}; use .tif, .npy or .h5")
        if not np.isfinite(pixels).all():
            raise ValueError("write_image: PNG has no place for NaN or infinity; use .tif, .npy or .h5")
    with atomic(path, overwrite=overwrite) as part:
        if name.endswith(".png"):
            from PIL import Image

            grey = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
            Image.fromarray(grey if grey.ndim == 2 else np.moveaxis(grey, 0, -1).squeeze()).save(part)
        elif name.endswith(_TIFF):
            import tifffile

            tifffile.imwrite(part, pixels, photometric="minisblack")
        elif name.endswith(_NPY):
            np.save(part, pixels)
        elif name.endswith(_FITS):
            from astropy.io import fits

            fits.PrimaryHDU(pixels).writeto(part)
        else:
            import h5py

            with h5py.File(part, "w") as file:
                file[dataset] = pixels


def _as_image(path: Path, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Bring pixels of any layout to float32 (H, W) or (C, H, W)."""
    while pixels.ndim > 2 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise ValueError(f"read_image: {path} must hold an image (H, W) or (C, H, W), got {pixels.shape}")
    if pixels.ndim == 3 and pixels.shape[-1] <= 4 < pixels.shape[0]:
        pixels = np.moveaxis(pixels, -1, 0)
        if len(pixels) in (2, 4):
            pixels = pixels[:-1]  # opacity
        if len(pixels) == 1:
            pixels = pixels[0]
    if pixels.dtype.kind == "b":
        return pixels.astype(np.float32)
    if pixels.dtype.kind in "ui":
        return np.asarray(pixels / np.iinfo(pixels.dtype).max, dtype=np.float32)
    if pixels.dtype.kind == "f":
        # Also to this machine's byte order: FITS is big-endian.
        return np.ascontiguousarray(pixels, dtype=np.float32)
    raise ValueError(f"read_image: {path} must hold integer or real pixels, got {pixels.dtype}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
