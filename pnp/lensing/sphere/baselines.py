"""Classical mass maps of the sphere, the baselines of every reconstruction.

    smoothed Kaiser-Squires    kappa_lm = exp(-l (l + 1) s^2/2) E_lm/D_l of the observed shear
    Wiener filter              kappa = C^1/2 (1 + C^1/2 D Y* W Y D C^1/2)^-1 C^1/2 D Y* W gamma

in harmonic space, with W = 1/noise_std^2, C the prior's power C_l, and Y D from coefficients to shear: the mean of a
Gaussian sky given its noisy shear behind any mask. Maps are (B, 1, n_pix), shear is (B, 2, n_pix).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators import KaiserSquiresSphere

from ...algorithms.linalg import cg
from ...checks import check_number
from .shear import check_sphere_shear


@torch.no_grad()
def smoothed_kaiser_squires(
    operator: KaiserSquiresSphere, y: Tensor, noise_std: Tensor, smoothing_arcmin: float
) -> Tensor:
    """Return the Kaiser-Squires map of the observed shear after Gaussian smoothing, (B, 1, n_pix).

    Args:
        operator: convergence to shear.
        y: shear (B, 2, n_pix); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        smoothing_arcmin: standard deviation of the Gaussian; 0: no smoothing but that of lmax.
    """
    caller = "smoothed_kaiser_squires"
    check_number("smoothing_arcmin", smoothing_arcmin, above=0, or_equal=True, caller=caller)
    weights = check_sphere_shear(caller, operator, y, noise_std)
    E = operator.adjoint_of_shear(torch.where(weights > 0, y, torch.zeros_like(y)))  # D E
    ell = torch.arange(operator.lmax + 1, dtype=torch.float64, device=y.device)
    D = operator.response.to(y.device)
    beam = torch.exp(-ell * (ell + 1) * math.radians(smoothing_arcmin / 60) ** 2 / 2)
    response = torch.where(D > 0, beam / torch.where(D > 0, D.square(), 1), 0) * (4 * math.pi / operator.n_pix)
    return operator.harmonics.synthesis(operator.harmonics.per_multipole(response).to(y) * E)


@torch.no_grad()
def wiener(
    operator: KaiserSquiresSphere,
    y: Tensor,
    noise_std: Tensor,
    power: Tensor,
    *,
    rtol: float = 1e-4,
    max_iter: int = 200,
) -> Tensor:
    """Return the Wiener-filtered map, (B, 1, n_pix): the mean of a Gaussian sky given its noisy shear.

    Args:
        operator: convergence to shear.
        y: shear (B, 2, n_pix); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        power: (lmax + 1,) prior C_l in steradian, 0 or more.
        rtol: relative residual at which the conjugate gradients stop.
        max_iter: largest number of their iterations.
    """
    weights = check_sphere_shear("wiener", operator, y, noise_std)
    root = operator.harmonics.per_multipole(check_power("wiener", operator, power).sqrt()).to(y)
    observed = torch.where(weights > 0, y, torch.zeros_like(y))
    right = root * operator.adjoint_of_shear(weights * observed)
    D = operator.harmonics.per_multipole(operator.response).to(y)
    mean = weights.expand(y.shape).mean() * operator.n_pix / (4 * math.pi)
    inverse = 1 / (1 + mean * (root * D).square())

    def normal(v: Tensor) -> Tensor:
        return v + root * operator.adjoint_of_shear(weights * operator.shear_of(root * v))

    v = cg(normal, right, preconditioner=lambda r: inverse * r, rtol=rtol, max_iter=max_iter).x
    return operator.harmonics.synthesis(root * v)


def check_power(caller: str, operator: KaiserSquiresSphere, power: Tensor) -> Tensor:
    """Return C_l, float64, or refuse what is none."""
    C = torch.as_tensor(power).double()
    if C.shape != (operator.lmax + 1,) or not bool((C.isfinite() & (C >= 0)).all()):
        raise ValueError(
            f"{caller}: power must be C_l for l = 0 to {operator.lmax}, {operator.lmax + 1} numbers of 0 or more, got "
            f"shape {tuple(C.shape)}"
        )
    return C
