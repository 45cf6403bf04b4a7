"""`pnp denoise` of images and volumes larger than memory, in blocks."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .output import INTERRUPTED, print_error

if TYPE_CHECKING:
    from denoisers import MLPatch

_HDF5 = (".h5", ".hdf5")
_SURVEYED_VALUES = 2**24
"""Values that are looked at together."""


def is_in_blocks(image: Path, output: Path, D: MLPatch | None) -> bool:
    """Return whether an image is denoised in blocks: Zarr arrays, named datasets, and volumes in HDF5 files.

    Args:
        image, output: the paths.
        D: the denoiser, if weights were named.
    """
    is_volume = D is not None and D.dimensions == 3 and image.suffix.lower() in _HDF5
    return image.is_dir() or "::" in str(image) or output.suffix.lower() == ".zarr" or is_volume


def denoise_in_blocks(image: Path, output: Path, sigma: float, D: MLPatch, *, overwrite: bool) -> None:
    """Denoise an image or a volume block by block, and print where it is; exit with 130 after Ctrl-C.

    Weights for images take the slices of a volume one by one.

    Raises:
        ValueError, OSError: the image, the output or sigma is not as `pnp denoise` describes it.
    """
    from ..stack.cluster import require

    try:
        require("pnp denoise")
    except ImportError as error:
        raise ValueError(str(error)) from None
    from denoisers import SliceWise

    from ..stack import denoise_mosaic

    if output.suffix.lower() not in (".zarr", *_HDF5):
        raise ValueError(f"output {output} must be a .zarr folder or an .h5 file where {image} is denoised in blocks")
    source = _source(image)
    check_sigma(sigma, image, *survey(source, image), is_picture=False)
    options: dict[str, Any] = {}
    denoiser: Any = D
    if D.dimensions == 2 and source.ndim == 3 and source.shape[0] != D.channels:
        if D.channels != 1:
            raise ValueError(
                f"--weights take images of {D.channels} channels, {image} has {source.shape[0]}; use --weights gray, "
                "which takes them one by one"
            )
        denoiser = SliceWise(D, axes=(0,))
        options = {"dimensions": 3, "halo": D.receptive_field // 2}
    start = time.perf_counter()
    try:
        denoise_mosaic(source, denoiser, sigma, output=output, overwrite=overwrite, progress=True, **options)
    except KeyboardInterrupt:
        print_error("interrupted; the same command resumes")
        raise typer.Exit(INTERRUPTED) from None
    print(f"{output}: {' x '.join(map(str, source.shape))} in {time.perf_counter() - start:.2f} s")


def _source(image: Path) -> Any:
    """Return the source of an image: the dataset `image` of HDF5 files and Zarr groups, unless another is named."""
    import numpy as np

    from ..io import read_image
    from ..stack.sources import as_source

    name, _, dataset = str(image).partition("::")
    if dataset or Path(name).is_dir() or image.suffix.lower() in _HDF5:
        is_array = Path(name).is_dir() and not (Path(name) / "image").is_dir()
        return as_source(str(image) if dataset or is_array else f"{image}::image", "pnp denoise", "image")
    if image.suffix.lower() == ".npy" and image.exists():
        try:
            return as_source(np.load(image, mmap_mode="r", allow_pickle=False), "pnp denoise", "image")
        except ValueError:  # `read_image` says what is wrong with it
            pass
    return as_source(read_image(image), "pnp denoise", "image")


def survey(source: Any, image: Path) -> tuple[float, float]:
    """Return the lowest and the highest value of a source, read in parts.

    Raises:
        ValueError: values are not finite.
    """
    import numpy as np

    low, high, bad = math.inf, -math.inf, 0
    step = max(1, _SURVEYED_VALUES // max(1, math.prod(source.shape[1:])))
    for first in range(0, source.shape[0] if source.ndim else 0, step):
        values = np.asarray(source[first : first + step])
        live = np.isfinite(values)
        bad += values.size - int(live.sum())
        low, high = min(low, values.min(initial=low, where=live)), max(high, values.max(initial=high, where=live))
    if bad:
        n = math.prod(source.shape)
        raise ValueError(f"{image} must be finite, got NaN or infinity in {bad} of {n} pixels; fill them")
    return float(low), float(high)


def check_sigma(sigma: float, image: Path, low: float, high: float, *, is_picture: bool) -> None:
    """Refuse a noise level that is none, or in other units than an image with values from `low` to `high`."""
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"--sigma must be a finite number, at least 0, in units of the image, got {sigma}")
    # Noise of more than 1 would carry an image out of [-1, 2]: a noisy image in [0, 1] is meant.
    if sigma > 1 and low >= -1 and high <= 2 and (is_picture or low < high):
        raise ValueError(
            f"--sigma must be in units of the image, whose values run from {low:.3g} to {high:.3g}, got {sigma:g}; "
            f"divide by 255 ({sigma / 255:.3g}) if it is meant for 0 to 255"
        )
