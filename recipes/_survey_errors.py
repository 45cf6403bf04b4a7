"""Noise and error maps, for `shear_survey.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from operators import KaiserSquires
from pnp.lensing import smoothed_kaiser_squires
from pnp.lensing.gaussian_filter import Gaussian


def smooth_inside(values: Tensor, mask: Tensor, px: float = 2.0) -> Tensor:
    """Return the local root mean square within the mask, to smooth a standard deviation found from few draws."""
    smooth = Gaussian((int(mask.shape[-2]), int(mask.shape[-1])), px)
    inside = mask.double().cpu()
    square = smooth(torch.where(mask, values, 0).double().cpu().square()) / smooth(inside)
    return torch.where(mask, square.clamp(min=0).sqrt().to(values), 0)


def smoothed_noise(A: KaiserSquires, noise_std: Tensor, smoothing_px: float) -> Tensor:
    """Return the noise of the smoothed Kaiser-Squires map: variances convolved with the squared response."""
    variance = torch.zeros(1, 1, *A.shape, dtype=noise_std.dtype, device=noise_std.device)
    seen = torch.where(noise_std.isfinite(), noise_std, 0)
    for c in (0, 1):
        point = torch.zeros_like(noise_std)
        point[:, c, 0, 0] = 1
        response = smoothed_kaiser_squires(A, point, torch.ones_like(point), smoothing_px)
        spectrum = torch.fft.rfft2(response.square()) * torch.fft.rfft2(seen[:, c : c + 1].square())
        variance += torch.fft.irfft2(spectrum, s=A.shape)
    return variance.clamp(min=0).sqrt()
