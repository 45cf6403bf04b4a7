"""The power C_l of the convergence, measured from the shear behind its mask.

As `pnp.lensing.measured_spectrum`, in bands of l: log C = a + b log l + c log^2 l with the level n of the noise, fitted
to the band powers of E and B of v gamma by Whittle's likelihood, v the weights. What the mask does to a power in one
band, its leakage to other bands and to B included, is measured on one Gaussian sky for each band.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from operators import KaiserSquiresSphere

from ...checks import check_number
from ..spectrum import whittle_fit
from .shear import check_sphere_shear


class SpherePower(NamedTuple):
    """Result of `measured_power`."""

    power: Tensor
    """(lmax + 1,), float64: C_l in steradian, for `wiener`; 0 at l = 0 and 1."""
    noise_factor: float
    """Variance of the noise over noise_std^2: about 1 where noise_std is right."""


@torch.no_grad()
def measured_power(
    operator: KaiserSquiresSphere, y: Tensor, noise_std: Tensor, *, n_bands: int = 12, seed: int = 0
) -> SpherePower:
    """Measure C_l of the convergence, and the noise level, from the shear of one sky.

    Args:
        operator: convergence to shear.
        y: shear (1, 2, n_pix); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        n_bands: number of bands of the fit, logarithmic between l = 2 and lmax.
        seed: of the skies that measure the mask.
    """
    check_number("n_bands", n_bands, above=3, or_equal=True, integer=True, caller="measured_power")
    weights = check_sphere_shear("measured_power", operator, y, noise_std).expand(y.shape)
    if len(y) != 1:
        raise ValueError(f"measured_power: y must be one sky (1, 2, n_pix), got {tuple(y.shape)}")
    seen = (weights > 0).all(dim=1, keepdim=True)
    if not bool(seen.any()):
        raise ValueError("measured_power: noise_std must be finite for both components somewhere, got no such pixel")
    w = weights.mean(dim=1, keepdim=True)
    v = torch.where(seen, w / w.max(), 0)
    lmax = operator.lmax
    edges = torch.unique(torch.logspace(math.log10(2), math.log10(lmax + 1), n_bands + 1).round().long())
    ell = torch.arange(lmax + 1)
    band = torch.bucketize(ell, edges, right=True) - 1  # -1 below l = 2
    inside = band >= 0
    n = len(edges) - 1
    modes = torch.zeros(n, dtype=torch.float64).index_add_(0, band[inside], (2 * ell[inside] + 1).double())
    middle = torch.exp(
        torch.zeros_like(modes).index_add_(0, band[inside], ell[inside].double().log() * (2 * ell[inside] + 1)) / modes
    )

    def powers(shear: Tensor) -> Tensor:
        """Return the band powers (2 n,) of E and B of v times the shear, by the quadrature."""
        turned = (
            operator.adjoint_of_shear(v * shear),
            operator.adjoint_of_shear(v * torch.stack([shear[:, 1], -shear[:, 0]], 1)),
        )
        found = []
        for c in turned:
            p = operator.harmonics.power(c)[0, 0].double().cpu() * (4 * math.pi / operator.n_pix) ** 2
            sums = torch.zeros(n, dtype=torch.float64).index_add_(0, band[inside], (p * (2 * ell + 1))[inside])
            found.append(sums / modes)
        return torch.cat(found)

    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(1, 1, operator.harmonics.n_coefficients, generator=generator).to(y)
    columns = [powers(operator.shear_of(white * operator.harmonics.per_multipole(band == i).to(y))) for i in range(n)]
    noise = float((v.square() * torch.where(seen, 1 / w, 0)).double().mean()) * 4 * math.pi / operator.n_pix
    measured = powers(torch.where(weights > 0, y, 0)) / noise
    area, fourth = float(v.double().square().mean()), float(v.double().square().square().mean())
    degrees = (modes * area**2 / fourth).repeat(2)
    x = middle.log()
    centre = x.mean()
    a, b, c, log_n = whittle_fit(
        measured.numpy(), torch.stack(columns, dim=1).numpy() / area, degrees.numpy(), (x - centre).numpy()
    )
    t = np.log(np.maximum(ell.numpy(), 1)) - float(centre)
    power = torch.from_numpy(noise / area * np.exp(a + b * t + c * t**2))
    power[:2] = 0
    return SpherePower(power, math.exp(log_n))
