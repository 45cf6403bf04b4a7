"""Statistics of mass maps that cosmology is inferred from: minima, starlet peaks, starlet l1-norm, moments.

Peaks and band powers are in `peaks.py` and `spectrum.py`. Sources: starlet peaks, Lin et al. 2016 (A&A 593, A88) and
Ajani et al. 2020 (PRD 102, 103531); starlet l1-norm, Ajani et al. 2021 (A&A 645, L11); moments of smoothed maps,
Gatti et al. 2020 (MNRAS 498, 4060).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_number, short
from .gaussian_filter import Gaussian
from .peaks import check_edges, check_maps, peak_counts
from .starlet import starlet_transform


class Moments(NamedTuple):
    """Moments of maps smoothed to several scales, (B, n_scales), float64."""

    variance: Tensor
    """Mean of (x - mean)^2."""
    skewness: Tensor
    """Mean of (x - mean)^3 over variance^1.5."""
    kurtosis: Tensor
    """Mean of (x - mean)^4 over variance^2, less 3: 0 for a Gaussian field."""


def minima_counts(x: Tensor, edges: Tensor, *, mask: Tensor | None = None, noise_std: Tensor | None = None) -> Tensor:
    """Return the number of minima of maps (B, 1, H, W) in each bin edges[i] < depth <= edges[i + 1], (B, n) integers.

    Minima are the peaks of -x; arguments as of `peak_counts`.
    """
    check_edges("minima_counts", edges)
    return peak_counts(-x, -edges.flip(0), mask=mask, noise_std=noise_std).flip(1)


def starlet_peak_counts(
    x: Tensor, edges: Tensor, *, n_scales: int = 4, unit: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Return the number of peaks of each scale's starlet coefficients in each bin, (B, n_scales, n) integers.

    Scale j holds structures of about 2^(j + 1) pixels. Maps continue by reflection.

    Args:
        x: maps (B, 1, H, W); within the mask only, where one is given (it may be NaN elsewhere).
        edges: (n + 1,) rising, in units of `unit`.
        n_scales: number of scales; 2^n_scales pixels are at most the shorter side.
        unit: (n_scales,) unit of each scale, e.g. the standard deviation of the noise's coefficients, which
            `starlet_std` returns for maps of noise: the counts are then by S/N. None: that of x.
        mask: true where observed, broadcasts against x; peaks elsewhere do not count. The coefficients of pixels near a
            hole hold its zeros.
    """
    c = _coefficients("starlet_peak_counts", x, n_scales, unit, mask)
    return torch.stack([peak_counts(scale, edges, mask=mask) for scale in c], 1)


def starlet_l1_norm(
    x: Tensor, edges: Tensor, *, n_scales: int = 4, unit: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Return the sum of |c| over each scale's starlet coefficients c with edges[i] <= c < edges[i + 1].

    It holds peaks and voids at once, whatever their shape. Arguments as of `starlet_peak_counts`.

    Returns:
        (B, n_scales, n), in units of `unit`, float64.
    """
    check_edges("starlet_l1_norm", edges)
    c = _coefficients("starlet_l1_norm", x, n_scales, unit, mask).double()
    inside = torch.ones_like(c[0], dtype=torch.bool) if mask is None else (mask != 0).expand_as(c[0])
    n = len(edges) - 1
    bins = torch.bucketize(c, edges.to(c), right=True) - 1
    counts = inside & (bins >= 0) & (bins < n)
    # One more bin takes what does not count.
    bins = torch.where(counts, bins, n).flatten(2)
    total = torch.zeros(*bins.shape[:2], n + 1, dtype=c.dtype, device=c.device)
    total.scatter_add_(2, bins, c.abs().flatten(2))
    return total[..., :n].transpose(0, 1)


def starlet_std(x: Tensor, *, n_scales: int = 4, mask: Tensor | None = None) -> Tensor:
    """Return the root mean square (n_scales,) of the starlet coefficients of all maps: of noise, a unit of S/N.

    Args:
        x: maps (B, 1, H, W), e.g. the method's maps of shear that is noise alone.
        n_scales: as of `starlet_peak_counts`.
        mask: as there.
    """
    one = torch.ones(n_scales, dtype=x.dtype, device=x.device)
    c = _coefficients("starlet_std", x, n_scales, one, mask).double()
    inside = torch.ones_like(c[0]) if mask is None else (mask != 0).expand_as(c[0]).double()
    return ((inside * c.square()).sum((1, 2, 3, 4)) / inside.sum()).sqrt()


def moments(x: Tensor, smoothing_px: Sequence[float], *, mask: Tensor | None = None) -> Moments:
    """Return the second to fourth moments of maps (B, 1, H, W), smoothed by Gaussians, over the observed pixels.

    Next to holes the mean is over the observed pixels alone: G(m x) / G(m).

    Args:
        x: maps; they may be NaN where not observed.
        smoothing_px: standard deviations in pixels; 0: no smoothing.
        mask: true where observed, broadcasts against x.
    """
    check_maps("moments", x)
    for s in smoothing_px:
        check_number("smoothing_px", s, above=0, or_equal=True, caller="moments")
    inside = torch.ones_like(x).double() if mask is None else (mask != 0).expand_as(x).double()
    x = torch.where(inside > 0, x, 0).double()
    if not bool((inside.sum((1, 2, 3)) > 1).all()):
        raise ValueError("moments: mask must have observed pixels in every map, got one without; is it inverted?")
    weight, rows = inside / inside.sum((1, 2, 3), keepdim=True), []

    def mean(v: Tensor) -> Tensor:
        return (weight * v).sum((1, 2, 3))

    for s in smoothing_px:
        blur = Gaussian((int(x.shape[-2]), int(x.shape[-1])), s, like=x)
        smooth = torch.where(inside > 0, blur(x) / blur(inside), 0)
        d = smooth - mean(smooth).reshape(-1, 1, 1, 1)
        variance = mean(d.square())
        rows.append((variance, mean(d**3) / variance**1.5, mean(d**4) / variance.square() - 3))
    return Moments(*(torch.stack(column, 1) for column in zip(*rows, strict=True)))


def _coefficients(caller: str, x: Tensor, n_scales: int, unit: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the coefficients (n_scales, B, 1, H, W) of maps that are 0 where not observed, in units of `unit`."""
    check_maps(caller, x)
    if mask is not None:
        x = torch.where((mask != 0).expand_as(x), x, 0)
    c = starlet_transform(x, n_scales, border="mirror")[:-1]
    if unit is None:
        return c
    if unit.shape != (n_scales,) or not bool((unit > 0).all() & unit.isfinite().all()):
        raise ValueError(
            f"{caller}: unit must be {n_scales} numbers above 0, one for each scale, got {short(repr(unit), 80)}"
        )
    return c / unit.to(c).reshape(-1, 1, 1, 1, 1)
