"""The error map of the Wiener filter, and exact samples of the convergence given the shear.

For a Gaussian field of power S the error s - F(A s + n) of the filter F does not depend on the data, so that

    kappa = F y + (s - F(A s + n)),    s and n random,

is an exact sample given y (Hoffman and Ribak 1991, ApJ 380, L5), and the spread of s - F(A s + n) is the standard
deviation given y. For other methods, and skies that are not Gaussian, `calibrate_error` gives it coverage.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..algorithms.protocols import Operator
from ..checks import check_number
from ..drivers.progress import with_progress
from .baselines import wiener
from .shear import check_shear, noise_like
from .spectrum import gaussian_maps


@torch.no_grad()
def wiener_samples(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 16,
    rtol: float = 1e-4,
    progress: bool = False,
) -> Tensor:
    """Draw convergence maps given the shear, (draws, B, 1, H, W): Gaussian constrained realisations.

    Args:
        operator: convergence to shear, |A| <= 1 in Fourier space.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        spectrum: prior power (H, W), as `pixel_spectrum`.
        generator: source of fields and noise, on its own device.
        draws: number of samples of each image.
        rtol: relative residual at which the conjugate gradients stop.
        progress: show a bar on stderr.
    """
    mean = wiener(operator, y, noise_std, spectrum, rtol=rtol)
    errors = _wiener_errors("wiener_samples", operator, y, noise_std, spectrum, generator, draws, rtol, progress)
    return torch.stack([mean + error for error in errors])


@torch.no_grad()
def wiener_std(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 64,
    rtol: float = 1e-3,
    progress: bool = False,
) -> Tensor:
    """Return the standard deviation of the convergence given the shear, per pixel, (B, 1, H, W), by simulation.

    It depends on noise and mask, not on the values of y. Its relative error is 1/sqrt(2 draws): 9 % for 64.

    Args:
        operator, y, noise_std, spectrum, generator, draws, progress: as in `wiener_samples`.
        rtol: relative residual at which the conjugate gradients stop.
    """
    total = torch.zeros_like(y[:, :1])
    for error in _wiener_errors("wiener_std", operator, y, noise_std, spectrum, generator, draws, rtol, progress):
        total += error.square()
    return (total / draws).sqrt()


def _wiener_errors(
    caller: str,
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    generator: torch.Generator,
    draws: int,
    rtol: float,
    progress: bool,
) -> Iterable[Tensor]:
    check_shear(caller, y, noise_std)
    check_number("draws", draws, above=1, or_equal=True, integer=True, caller=caller)
    for _ in with_progress(range(draws), caller, progress, unit="sky"):
        s = gaussian_maps(spectrum, len(y), generator=generator, dtype=y.dtype).to(y.device)
        shear = operator.A(s) + noise_like(y, noise_std, generator=generator)
        yield s - wiener(operator, shear, noise_std, spectrum, rtol=rtol)
