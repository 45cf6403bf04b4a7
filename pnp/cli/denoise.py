"""The command `pnp denoise`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, Overwrite, choose_device
from .output import hdf5_fallback_path

if TYPE_CHECKING:
    from denoisers import MLPatch


def denoise(
    image: Annotated[
        Path,
        typer.Argument(help="PNG, JPEG, TIFF, NPY, FITS or HDF5 image, or a Zarr array; or FILE.h5::DATASET."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Denoised image: .png, .tif, .npy, .fits, .h5, .zarr.")
    ],
    sigma: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise in units of the image; PNG and JPEG of 8 or 16 bits are 0 to 1. One "
            "number for all of a volume."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Weights: gray, color, ..., or a file; default: color for colour PNG and JPEG, else gray."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Pixels between queries: 1 is shift-equivariant, the default fastest.")
    ] = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Remove white Gaussian noise from an image or a volume.

    Channels are denoised one by one, or together by weights for colour. PNG and JPEG images are scaled to [0, 1];
    TIFF, NPY, FITS and HDF5 keep their values: 8-bit TIFF images are 0 to 255. PNG images of 16 bits are written with
    16 bits. PNG, JPEG and TIFF images are read as a viewer shows them: turned upright, with the colours of a palette.

    Zarr arrays, HDF5 datasets named as FILE.h5::DATASET, and volumes (D, H, W) in HDF5 files may be larger than memory:
    they are denoised in blocks without seams, to .zarr or .h5, and after a stop of any kind the same command resumes.
    Weights for images take the slices of a volume one by one.

    \b
    Examples:
      pnp denoise image.png --sigma 0.1 -o out.png
      pnp denoise slice.tif --sigma 12.5 -o slice_denoised.tif
      pnp denoise volume.zarr --sigma 0.1 -o denoised.zarr --weights volumes.safetensors
    """
    import numpy as np

    from ..io import check_image_output, check_output, png_bits, read_image, write_image
    from .denoise_blocks import check_sigma, denoise_in_blocks, is_in_blocks

    D = None if weights is None else _denoiser(weights, stride, device)
    if is_in_blocks(image, output, D):
        denoise_in_blocks(image, output, sigma, D or _denoiser("gray", stride, device), overwrite=overwrite)
        return
    check_output(output, overwrite=overwrite)
    pixels = read_image(image)
    channels = 1 if pixels.ndim == 2 else pixels.shape[0]
    check_image_output(output, channels, overwrite=overwrite)
    bad = pixels.size - int(np.isfinite(pixels).sum())
    if bad:
        raise ValueError(f"{image} must be finite, got NaN or infinity in {bad} of {pixels.size} pixels; fill them")
    is_picture = image.suffix.lower() in (".png", ".jpg", ".jpeg")
    check_sigma(sigma, image, float(pixels.min()), float(pixels.max()), is_picture=is_picture)

    import torch

    # In another format three channels may be anything, e.g. three slices of a volume.
    if D is None:
        D = _denoiser("color" if is_picture and channels == 3 else "gray", stride, device)
    x = torch.from_numpy(pixels).to(choose_device(device))
    if D.dimensions == 3:
        if x.ndim != 3:
            raise ValueError(f"--weights {weights} takes volumes (D, H, W), {image} is {tuple(x.shape)}")
        images = x[None, None]
    elif D.channels not in (1, channels):
        raise ValueError(
            f"--weights {weights} takes images of {D.channels} channels, {image} has {channels}; use --weights gray, "
            "which takes the channels one by one"
        )
    else:
        # Weights for one channel take the channels as a batch of grey images, weights for colour take them together.
        images = x.reshape(-1, 1, *x.shape[-2:]) if D.channels == 1 else x.reshape(1, -1, *x.shape[-2:])
    start = time.perf_counter()
    with torch.no_grad():
        z = D(images, sigma, progress=True).reshape(x.shape)
    denoised = z.cpu().numpy()
    written = output if is_picture else hdf5_fallback_path(output, denoised)
    write_image(written, denoised, bits=png_bits(image), overwrite=overwrite and written == output)
    print(f"{written}: {' x '.join(map(str, x.shape))} in {time.perf_counter() - start:.2f} s")
    if written != output:
        raise typer.Exit(2)


def _denoiser(weights: str, stride: int | None, device: str) -> MLPatch:
    """Return a denoiser with its stride, on its device."""
    from denoisers import MLPatch

    where = choose_device(device)
    D = MLPatch.from_pretrained(weights).to(where)
    if stride is not None:
        if stride not in D.network.strides:
            raise ValueError(f"--stride must be one of {D.network.strides} with --weights {weights}, got {stride}")
        D.stride = stride
    return D
