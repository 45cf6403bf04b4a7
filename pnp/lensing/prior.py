"""Check whether a convergence prior fits the amplitude and the pixels of a survey, and scale it to the amplitude.

The redshifts of the sources determine the amplitude of convergence, the side of the pixels the shape of its spectrum.
Maps of other redshifts are to good approximation the same maps times a constant (`simulate`), so that a prior for
standard deviation s also serves c s:

    D_c(x, sigma) = c D(x/c, sigma/c).

Pixels of a very different size have another spectrum and need other weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from ..algorithms.protocols import Denoiser
from ..checks import check_number
from ..drivers.denoising import as_denoiser

_TRAINED_STD = (0.015, 0.03)
"""Standard deviations per pixel of the maps that the "convergence" weights of this package were trained on."""
_TRAINED_ARCMIN = 0.29
"""Side of their pixels in arcminutes."""
_STD_FACTOR = 1.25
"""Factor beyond the trained range from which scaling helps; a measured std is hardly more exact."""
_PIXEL_FACTOR = 2.0
"""Within this factor MLPatch is better than the Wiener filter of the right spectrum (mass_mapping_step.py --prior)."""


class PriorFit(NamedTuple):
    """Result of `check_prior`."""

    fits: bool
    scale: float
    """Argument of `ScaledPrior`: 1 where the amplitude fits."""
    advice: str
    """A sentence that says whether it fits, and else what to do."""


class ScaledPrior(nn.Module):
    """A denoiser for convergence of another amplitude, D_c(x, sigma) = c D(x/c, sigma/c).

    Args:
        denoiser: D(x, sigma), trained on maps (B, 1, H, W) of standard deviation s.
        scale: c; the standard deviation of the maps to denoise is c s.

    >>> ScaledPrior(lambda x, sigma: x.clamp(max=1), 2.0)(Tensor([3.0, 1.0]), 0.1)
    tensor([2., 1.])
    """

    takes_sigma_per_image = takes_any_dtype = True  # as what `as_denoiser` returns

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__()
        self.denoiser = as_denoiser(denoiser, "ScaledPrior")
        self.scale = float(check_number("scale", scale, above=0, caller="ScaledPrior"))
        if hasattr(self.denoiser, "sigma_range"):
            low, high = self.denoiser.sigma_range
            self.sigma_range = (self.scale * low, self.scale * high)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, 1, H, W); sigma in units of convergence."""
        return self.scale * self.denoiser(x / self.scale, sigma / self.scale)


def check_prior(
    std: float,
    pixel_arcmin: float,
    *,
    trained_std: tuple[float, float] = _TRAINED_STD,
    trained_arcmin: float = _TRAINED_ARCMIN,
) -> PriorFit:
    """Return whether a prior fits convergence of this amplitude in these pixels, and else what to do.

    Args:
        std: standard deviation of the convergence in a pixel, e.g. `sqrt(measured_spectrum(...).spectrum.mean())`.
        pixel_arcmin: side of a pixel in arcminutes.
        trained_std: least and greatest std of the maps that the prior was trained on; by default those of the package.
        trained_arcmin: side of their pixels in arcminutes.

    >>> check_prior(0.02, 0.29).fits, check_prior(0.006, 0.29).scale, check_prior(0.02, 1.0).fits
    (True, 0.283, False)
    """
    std = check_number("std", std, above=0, caller="check_prior")
    pixel_arcmin = check_number("pixel_arcmin", pixel_arcmin, above=0, caller="check_prior")
    low, high = trained_std
    amplitude = low / _STD_FACTOR <= std <= high * _STD_FACTOR
    pixels = 1 / _PIXEL_FACTOR <= pixel_arcmin / trained_arcmin <= _PIXEL_FACTOR
    scale = 1.0 if amplitude else float(f"{std / math.sqrt(low * high):.3g}")
    found = f"convergence varies by {std:.3g} in pixels of {pixel_arcmin:.3g} arcmin"
    trained = f"the prior was trained on {low:g} to {high:g} in pixels of {trained_arcmin:g}"
    if amplitude and pixels:
        return PriorFit(True, scale, f"{found}, as the prior expects ({low:g} to {high:g}, {trained_arcmin:g} arcmin)")
    if pixels:
        return PriorFit(False, scale, f"{found}, {trained}: scale it, ScaledPrior(D, {scale:g})")
    stds = ",".join(f"{f * std:.2g}" for f in (0.75, 1, 1.25, 1.5))
    command = f"pnp train denoiser --kind convergence --std {stds} --pixel-arcmin {pixel_arcmin:g} -o mine.safetensors"
    return PriorFit(False, scale, f"{found}, {trained}: train your own, {command}")
