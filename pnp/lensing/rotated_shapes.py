"""Noise of a mass map from its own shear, with every shape turned at random: lensing is gone, noise and mask stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import check_number
from ..drivers.progress import with_progress
from .shear import check_shear


@torch.no_grad()
def rotated_std(
    reconstruct: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    noise_std: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 100,
    progress: bool = False,
) -> Tensor:
    """Return the standard deviation (1, 1, H, W) of maps of the shear turned by a random angle in each pixel.

        gamma1 + i gamma2  ->  (gamma1 + i gamma2) e^{i phi},   phi uniform, independent from pixel to pixel

    The map over it is the signal-to-noise map of surveys (e.g. Oguri et al. 2018, PASJ 70, S26). It needs no noise
    model, and includes the scatter of the shear itself. For a linear method it is the noise of the map. It is not its
    error: what a prior or a smoothing takes away is no noise (`calibrate_error`). Draws determine it to
    1/sqrt(2 draws).

    Args:
        reconstruct: (y (1, 2, H, W), noise_std) -> convergence (1, 1, H, W).
        y: shear (1, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y; the components' should be alike.
        generator: source of the angles.
        draws: number of maps, at least 2.
        progress: show a bar on stderr.
    """
    weights = check_shear("rotated_std", y, noise_std)
    check_number("draws", draws, above=2, or_equal=True, integer=True, caller="rotated_std")
    shear = torch.where(weights > 0, y, torch.zeros_like(y))
    gamma = torch.complex(shear[:, :1], shear[:, 1:])
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for _ in with_progress(range(draws), "rotated_std", progress, unit="map"):
        angle = 2 * math.pi * torch.rand(gamma.shape, generator=generator, dtype=y.dtype, device=generator.device)
        turned = gamma * torch.polar(torch.ones_like(angle), angle).to(y.device)
        kappa = reconstruct(torch.cat([turned.real, turned.imag], dim=1), noise_std)
        total = total.to(kappa.device) + kappa.double().square()
    return (total / draws).sqrt().to(y.dtype)
