"""Diagnostics of mass maps: residuals, B modes and power, most of them without the truth.

Lensing makes E modes only. A turn of every shape by 45 degrees exchanges E and B, so the B map of a method is its map
of (gamma2, -gamma1): noise, and E modes that the mask turned into B.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from operators import KaiserSquires
from operators.lensing.kaiser_squires import SIGNS

from ..algorithms.protocols import Operator
from ..checks import check_number
from .padding import next_fast_odd
from .shear import check_shear, noise_like
from .spectrum import b_mode, band_powers, gaussian_maps, on_grid, shear_window

_SKY_OVER_FIELD = 2
"""Least width of a simulated sky over that of the field: opposite edges of the field are then far apart."""


class BModeNull(NamedTuple):
    """Result of `b_mode_null`."""

    chi2: float
    """Sum over bands of ((measured - expected)/spread)^2."""
    dof: int
    """Number of bands, about the value of chi2 where B is noise."""
    p_value: float
    """Chance of such a large chi2 where B is noise: its rank among simulations."""
    frequency: Tensor
    """(n,) mean frequency of each band, cycles per pixel."""
    power: Tensor
    """(n,) measured band powers of the weighted B map, averaged over the batch."""
    expected: Tensor
    """(n,) mean band powers of simulations."""
    spread: Tensor
    """(n,) standard deviations of the band powers of simulations."""


def whitened_chi2(operator: Operator, kappa: Tensor, y: Tensor, noise_std: Tensor) -> float:
    """Return ||W^1/2 (A kappa - y)||^2 over the number of observed shear values.

    The truth has 1 +- sqrt(2/n), a map that fits noise less, one that misses signal more. The degrees of freedom of the
    map are not subtracted.

    Args:
        operator: convergence to shear.
        kappa: maps (B, 1, H, W).
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
    """
    weights = check_shear("whitened_chi2", y, noise_std)
    seen = (weights > 0).expand(y.shape)
    residual = torch.where(seen, operator.A(kappa) - y, torch.zeros_like(y)).double()
    return float((weights.double() * residual.square()).sum() / seen.sum())


def power_ratio(x: Tensor, reference: Tensor, *, mask: Tensor | None = None, n_bands: int = 4) -> Tensor:
    """Return the power of maps over that of a reference in bands of frequency, (n,), batches averaged.

    Args:
        x: maps (B, 1, H, W).
        reference: the same shape.
        mask: weights that broadcast against both; it changes both spectra alike.
        n_bands: number of bands, as in `band_powers`.
    """
    if x.shape != reference.shape:
        raise ValueError(f"power_ratio: x and reference must have one shape, got {x.shape} and {reference.shape}")
    mean = [band_powers(a, mask=mask, n_bands=n_bands).power.mean(0) for a in (x, reference)]
    return mean[0] / mean[1]


@torch.no_grad()
def b_mode_null(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    *,
    generator: torch.Generator,
    spectrum: Tensor | None = None,
    draws: int = 100,
    n_bands: int = 12,
    make_operator: Callable[[tuple[int, int]], Operator] | None = None,
) -> BModeNull:
    """Test whether the B modes of the shear are its noise.

    The band powers of the B map of v gamma, v the weights 1/noise_std^2, are compared with those of simulated shear:
    noise, and convergence where a spectrum is given, since the mask turns some E into B, and so do the edges of a
    field, which unlike a periodic map lacks the mass around it. Simulated skies are therefore at least twice as wide
    as the observed field, which is cut from them. One half of the simulations gives mean and spread of each band, the
    other half ranks chi2. So the p-value holds for few draws, and for bands that are neither Gaussian nor independent:
    where B is noise, P(p <= q) <= q, apart from the error of a spectrum that is not exactly known.

    Args:
        operator: convergence to shear.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        generator: source of randomness of the simulations.
        spectrum: (H, W) power of the convergence, isotropic; None: noise alone, too little at large scales behind a
            mask or at edges.
        draws: number of simulations, at least 20; the least p-value is 1/(draws/2 + 1).
        n_bands: number of bands, as in `band_powers`.
        make_operator: called with the (height, width) of a simulated sky, returns the operator there; None:
            `KaiserSquires` in the convention that `operator` follows.

    Raises:
        ValueError: an argument does not fit, or the operator is none of `KaiserSquires` and make_operator is not given.
    """
    weights = check_shear("b_mode_null", y, noise_std).expand(y.shape)
    check_number("draws", draws, above=20, or_equal=True, integer=True, caller="b_mode_null")
    v = shear_window("b_mode_null", weights)[0].to(y.dtype)

    def bands(shear: Tensor) -> Tensor:
        b = band_powers(b_mode(operator, v * shear), n_bands=n_bands)
        return torch.cat([b.frequency[None], b.power.mean(0, keepdim=True)])

    frequency, power = bands(torch.where(weights > 0, y, torch.zeros_like(y)))
    height, width = y.shape[-2:]
    if spectrum is not None:
        wide, spectrum = _sky(operator, spectrum, v > 0, make_operator)
    simulated = []
    for _ in range(draws):
        shear = noise_like(y, noise_std, generator=generator)
        if spectrum is not None:
            kappa = gaussian_maps(spectrum, len(y), generator=generator, dtype=y.dtype)
            shear = shear + wide.A(kappa.to(y.device))[..., :height, :width]
        simulated.append(bands(shear)[1])
    first, second = torch.stack(simulated[: draws // 2]), simulated[draws // 2 :]
    expected, spread = first.mean(0), first.std(0)

    def chi2(p: Tensor) -> float:
        return float(((p - expected) / spread).square().sum())

    found = chi2(power)
    p_value = (1 + sum(chi2(p) >= found for p in second)) / (len(second) + 1)
    return BModeNull(found, len(power), p_value, frequency, power, expected, spread)


def _sky(
    operator: Operator,
    spectrum: Tensor,
    seen: Tensor,
    make_operator: Callable[[tuple[int, int]], Operator] | None,
) -> tuple[Operator, Tensor]:
    """Return the operator and the spectrum of a sky at least twice as wide as the field seen (1, 1, H, W)."""
    shape = (int(seen.shape[-2]), int(seen.shape[-1]))
    if spectrum.shape != shape:
        raise ValueError(f"b_mode_null: spectrum must be {shape}, like y, got {tuple(spectrum.shape)}")
    hit = [seen[0, 0].any(axis).nonzero() for axis in (1, 0)]
    least = [_SKY_OVER_FIELD * (int(at.max() - at.min()) + 1) for at in hit]
    if all(n >= m for n, m in zip(shape, least, strict=True)):
        return operator, spectrum
    height, width = (next_fast_odd(max(n, m)) for n, m in zip(shape, least, strict=True))
    make = make_operator or _maker(operator, seen)
    wide = make((height, width))
    return (wide.to(seen.device) if isinstance(wide, torch.nn.Module) else wide), on_grid(spectrum, (height, width))


def _maker(operator: Operator, seen: Tensor) -> Callable[[tuple[int, int]], Operator]:
    """Return what makes `KaiserSquires` in the convention that the operator follows, found by its shear of a point."""
    shape = (int(seen.shape[-2]), int(seen.shape[-1]))
    point = torch.zeros(1, 1, *shape, device=seen.device)
    point[..., shape[0] // 3, shape[1] // 3] = 1
    shear = operator.A(point)
    for convention in SIGNS:
        if torch.allclose(KaiserSquires(shape, convention=convention).to(seen.device).A(point), shear, atol=1e-4):
            return partial(KaiserSquires, convention=convention)
    raise ValueError(
        f"b_mode_null: operator must be KaiserSquires, whose skies can be made wider than the field, got "
        f"{type(operator).__name__}; give make_operator=, called with a shape (height, width)"
    )
