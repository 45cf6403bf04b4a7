"""Classical mass maps, the baselines of every reconstruction.

    smoothed Kaiser-Squires    kappa = G_s A* (m gamma)           Kaiser and Squires 1993; m: 1 where observed
    Wiener filter              kappa = (A*WA + S^-1)^-1 A*W gamma   Gaussian field of power spectrum S

with W = 1/noise_std^2. Convergence maps are (B, 1, H, W), shear is (B, 2, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..algorithms.linalg import cg
from ..algorithms.protocols import Operator
from ..metrics import nrmse
from .gaussian_filter import Gaussian
from .shear import check_shear, noise_like


def smoothed_kaiser_squires(operator: Operator, y: Tensor, noise_std: Tensor, smoothing_px: float) -> Tensor:
    """Return the Kaiser-Squires map of the observed shear after Gaussian smoothing, (B, 1, H, W).

    Args:
        operator: convergence to shear.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        smoothing_px: standard deviation of the Gaussian in pixels; 0: no smoothing.
    """
    if not (math.isfinite(smoothing_px) and smoothing_px >= 0):
        raise ValueError(f"smoothed_kaiser_squires: smoothing_px must be at least 0 pixels, got {smoothing_px!r}")
    observed = torch.where(check_shear("smoothed_kaiser_squires", y, noise_std) > 0, y, torch.zeros_like(y))
    kappa = operator.A_adjoint(observed)
    return Gaussian((int(kappa.shape[-2]), int(kappa.shape[-1])), smoothing_px, like=kappa)(kappa)


def smoothed_noise(operator: Operator, noise_std: Tensor, smoothing_px: float) -> Tensor:
    """Return the noise (1, 1, H, W) of the smoothed Kaiser-Squires map: variances convolved with the squared response.

    Args:
        operator: convergence to shear, shift-invariant.
        noise_std: (1, 2, H, W), infinity where not observed.
        smoothing_px: standard deviation of the Gaussian in pixels.
    """
    shape = (int(noise_std.shape[-2]), int(noise_std.shape[-1]))
    variance = torch.zeros(1, 1, *shape, dtype=noise_std.dtype, device=noise_std.device)
    seen = torch.where(noise_std.isfinite(), noise_std, 0)
    for c in (0, 1):
        point = torch.zeros_like(noise_std)
        point[:, c, 0, 0] = 1
        response = smoothed_kaiser_squires(operator, point, torch.ones_like(point), smoothing_px)
        spectrum = torch.fft.rfft2(response.square()) * torch.fft.rfft2(seen[:, c : c + 1].square())
        variance += torch.fft.irfft2(spectrum, s=shape)
    return variance.clamp(min=0).sqrt()


def best_smoothing(
    operator: Operator,
    maps: Tensor,
    noise_std: Tensor,
    *,
    generator: torch.Generator,
    candidates_px: Sequence[float] = (2, 4, 6, 8, 10, 12, 16),
) -> float:
    """Return the smoothing, in pixels, with the least error on simulated maps with the noise of the survey.

    Args:
        operator: convergence to shear.
        maps: simulated convergence (B, 1, H, W), not the map to reconstruct.
        noise_std: noise standard deviation per component, infinity where not observed.
        generator: source of the noise.
        candidates_px: standard deviations of the Gaussian to try, in pixels.
    """
    clean = operator.A(maps)
    y = clean + noise_like(clean, noise_std, generator=generator)
    mask = torch.isfinite(noise_std).all(dim=-3, keepdim=True)

    def error(smoothing_px: float) -> float:
        kappa = smoothed_kaiser_squires(operator, y, noise_std, smoothing_px)
        return nrmse(kappa, maps, mask=mask, centred=True)

    return min(candidates_px, key=error)


def wiener(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    rtol: float = 1e-4,
    max_iter: int = 200,
) -> Tensor:
    """Return the Wiener-filtered map, (B, 1, H, W): the mean of a Gaussian field given its noisy shear.

    With kappa = S^1/2 v the system is (S^1/2 A*WA S^1/2 + 1) v = S^1/2 A*W y, well defined where S is zero,
    and is preconditioned by its diagonal in Fourier space for the mean weight.

    Args:
        operator: convergence to shear, |A| = 1 in Fourier space.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        spectrum: prior power (H, W) at each frequency of the FFT, in the unit of `pixel_spectrum`.
        rtol: relative residual at which the conjugate gradients stop.
        max_iter: largest number of iterations of the conjugate gradients.
    """
    weights = check_shear("wiener", y, noise_std)
    height, width = y.shape[-2:]
    if spectrum.shape != (height, width):
        raise ValueError(f"wiener: spectrum must be {(height, width)}, got {tuple(spectrum.shape)}")
    power = spectrum[:, : width // 2 + 1].to(y.device, y.dtype)

    def filtered(x: Tensor, response: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * response, s=(height, width))
        return out

    root = power.sqrt()
    observed = torch.where(weights > 0, y, torch.zeros_like(y))
    right = filtered(operator.A_adjoint(weights * observed), root)
    inverse = 1 / (weights.mean() * power + 1)

    def normal(v: Tensor) -> Tensor:
        return v + filtered(operator.A_adjoint(weights * operator.A(filtered(v, root))), root)

    v = cg(normal, right, preconditioner=lambda r: filtered(r, inverse), rtol=rtol, max_iter=max_iter).x
    return filtered(v, root)
