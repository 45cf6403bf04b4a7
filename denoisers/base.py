"""Checks shared by the denoisers D(x, sigma) on images x (B, C, H, W), sigma in the units of x.

Any callable of that signature is a denoiser to the solvers. Messages state argument, expected, got, remedy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_image(caller: str, x: Tensor, channels: int | None = None, dimensions: int = 2) -> None:
    """Check that x is a real floating batch of images (B, C, H, W), with C = channels where that is given.

    With dimensions=3 it is a batch of volumes (B, C, D, H, W).

    Raises:
        TypeError: x is not a tensor or not real floating point.
        ValueError: x has another number of axes or channels, or is empty.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}: x must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor(x)")
    if x.is_complex():
        raise TypeError(f"{caller}: x must be real, got {x.dtype}; wrap the denoiser: denoisers.ComplexParts(denoiser)")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{caller}: x must be floating point, got {x.dtype}; use x.float() and mind its scale")
    want = f"(B, {'C' if channels is None else channels}, {'D, ' if dimensions == 3 else ''}H, W)"
    if x.ndim != dimensions + 2:
        remedy = f"; use x[{'None, ' * (dimensions + 2 - x.ndim)}...]" if dimensions <= x.ndim < dimensions + 2 else ""
        if x.ndim == 3 and _is_healpix(x.shape[2]):
            remedy = "; for HEALPix maps wrap the denoiser: pnp.lensing.sphere.TangentPatches(denoiser, nside)"
        if dimensions == 2 and x.ndim == 5:
            remedy = "; denoisers.SliceWise(denoiser) denoises the slices of a volume one by one"
        raise ValueError(f"{caller}: x must be {want}, got {tuple(x.shape)}{remedy}")
    if channels is not None and x.shape[1] != channels:
        raise ValueError(
            f"{caller}: x must be {want}, got {tuple(x.shape)}; {_other_channels(channels, x.shape[1], dimensions)}"
        )
    if x.numel() == 0:
        raise ValueError(f"{caller}: x must not be empty, got {tuple(x.shape)}")


def _is_healpix(n: int) -> bool:
    """Return whether n is the number of pixels of a HEALPix map, 12 nside^2, from nside 8 on.

    >>> _is_healpix(768), _is_healpix(769)
    (True, False)
    """
    return n in {12 * 4**k for k in range(3, 14)}


def _other_channels(channels: int, got: int, dimensions: int) -> str:
    """Return what to do with an image of other channels than MLPatch takes."""
    if dimensions == 3:
        return "take the channels one by one as a batch" if channels == 1 else "use weights for so many channels"
    if channels == 1:
        color = ', or use MLPatch.from_pretrained("color"), which takes 3 channels together' if got == 3 else ""
        return f"use denoisers.PerChannel(denoiser), which denoises the channels one by one{color}"
    gray = 'MLPatch.from_pretrained("gray")'
    if got == 1:
        return f"use {gray}, which takes 1 channel"
    return f"use denoisers.PerChannel({gray}), which denoises the channels one by one"


def check_sigma(
    caller: str, sigma: float | Tensor, x: Tensor, sigma_range: tuple[float, float] = (0.0, math.inf)
) -> Tensor:
    """Return sigma as a tensor (B,) in x's dtype and on its device: a scalar, or one value per image.

    Raises:
        ValueError: sigma is negative, not finite, outside sigma_range, or neither one value nor one per image.
    """
    batch = x.shape[0]
    s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)
    if s.numel() not in (1, batch):
        raise ValueError(f"{caller}: sigma must be a scalar or one value per image ({batch}), got {s.numel()} values")
    low, high = sigma_range
    # Rounding to x's dtype may carry a bound by one unit in the last place.
    slack = 1 + 4 * torch.finfo(x.dtype).eps
    if not bool(((s >= low / slack) & (s <= high * slack) & s.isfinite()).all()):
        got = f"{s.min().item():.4g} to {s.max().item():.4g}" if s.numel() > 1 else f"{s.item():.4g}"
        limit = f"in [{low:g}, {high:g}]" if math.isfinite(high) else "finite and not negative"
        raise ValueError(
            f"{caller}: sigma must be {limit} in the units of x, got {got}; sigma is the noise standard deviation"
        )
    return s.expand(batch)


def check_positive(caller: str, name: str, value: Any, *, integer: bool = False) -> float:
    """Return a positive finite number, as an int where it must be one.

    Raises:
        TypeError: value is not a number, or not an integer where it must be one.
        ValueError: value is not positive or not finite.

    >>> check_positive("TV", "max_iter", 100, integer=True)
    100
    """
    want = "an integer >= 1" if integer else "a finite number > 0"
    types = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, types):
        raise TypeError(f"{caller}: {name} must be {want}, got {value!r:.60} ({type(value).__name__})")
    number: float = value.item() if isinstance(value, np.generic) else value
    if not 0 < number <= torch.finfo(torch.float64).max:
        raise ValueError(f"{caller}: {name} must be {want}, got {number!r:.60}")
    return number if integer else float(number)
