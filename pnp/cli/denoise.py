"""The command `pnp denoise`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Overwrite, choose_device
from .output import hdf5_fallback_path


def denoise(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, TIFF, NPY, FITS or HDF5 image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Denoised image: .png, .tif, .npy, .fits, .h5.")],
    sigma: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise in units of the image; PNG and JPEG of 8 or 16 bits are 0 to 1."
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
    """Remove white Gaussian noise from an image.

    Channels are denoised one by one, or together by weights for colour. PNG and JPEG images are scaled to [0, 1];
    TIFF, NPY, FITS and HDF5 keep their values: 8-bit TIFF images are 0 to 255. PNG images of 16 bits are written with
    16 bits. PNG, JPEG and TIFF images are read as a viewer shows them: turned upright, with the colours of a palette.

    \b
    Examples:
      pnp denoise image.png --sigma 0.1 -o out.png
      pnp denoise slice.tif --sigma 12.5 -o slice_denoised.tif
    """
    import numpy as np

    from ..io import check_image_output, check_output, png_bits, read_image, write_image

    check_output(output, overwrite=overwrite)
    pixels = read_image(image)
    channels = 1 if pixels.ndim == 2 else pixels.shape[0]
    check_image_output(output, channels, overwrite=overwrite)
    bad = pixels.size - int(np.isfinite(pixels).sum())
    if bad:
        raise ValueError(f"{image} must be finite, got NaN or infinity in {bad} of {pixels.size} pixels; fill them")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"--sigma must be a finite number, at least 0, in units of the image, got {sigma}")
    is_picture = image.suffix.lower() in (".png", ".jpg", ".jpeg")
    low, high = float(pixels.min()), float(pixels.max())
    # Noise of more than 1 would carry an image out of [-1, 2]: a noisy image in [0, 1] is meant.
    if sigma > 1 and low >= -1 and high <= 2 and (is_picture or low < high):
        raise ValueError(
            f"--sigma must be in units of the image, whose values run from {low:.3g} to {high:.3g}, got {sigma:g}; "
            f"divide by 255 ({sigma / 255:.3g}) if it is meant for 0 to 255"
        )

    import torch

    from denoisers import MLPatch

    where = choose_device(device)
    # In another format three channels may be anything, e.g. three slices of a volume.
    weights = weights or ("color" if is_picture and channels == 3 else "gray")
    D = MLPatch.from_pretrained(weights).to(where)
    x = torch.from_numpy(pixels).to(where)
    if D.channels not in (1, channels):
        raise ValueError(
            f"--weights {weights} takes images of {D.channels} channels, {image} has {channels}; use --weights gray, "
            "which takes the channels one by one"
        )
    # Weights for one channel take the channels as a batch of grey images, weights for colour take them together.
    images = x.reshape(-1, 1, *x.shape[-2:]) if D.channels == 1 else x.reshape(1, -1, *x.shape[-2:])
    start = time.perf_counter()
    with torch.no_grad():
        z = D(images, sigma, stride=stride, progress=True).reshape(x.shape)
    denoised = z.cpu().numpy()
    written = output if is_picture else hdf5_fallback_path(output, denoised)
    write_image(written, denoised, bits=png_bits(image), overwrite=overwrite and written == output)
    print(f"{written}: {' x '.join(map(str, x.shape))} in {time.perf_counter() - start:.2f} s")
    if written != output:
        raise typer.Exit(2)
