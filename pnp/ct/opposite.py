"""Registration of opposite views: the curves of their mismatch over every axis, and what noise leaves of them.

For the axis c = k/2 the views a(b) and the opposite ones q share the bins b and k - b. Over these bins and all pairs,

    D(k) = sum (a(b) - q(k - b))^2,    V(k) = sum (a - mean)^2 + sum (q - mean)^2,    mean over both,

so that D/V is one less Lin's concordance coefficient (Biometrics 45 (1989) 255): 0 where the views agree, about 1 where
they have nothing in common. A small overlap is thereby measured by its own variation, as in the registration of
half-acquisition scans by normalised correlation (Vo et al., Opt. Express 29 (2021) 17849). White noise and stripes are
estimated and subtracted, and what they leave uncertain is added: E = (D - noise + 3 std)/(V - noise - 3 std) is an
upper bound of the mismatch that noise does not explain. Air, which matches air, has no V and so no E.

Rays of fans are sorted into parallel directions first: the ray (theta, gamma) has the direction phi = theta - gamma.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ANGLE_TOLERANCE = 0.05
"""Largest difference of angles that count as equal, in usual steps."""
MAX_GAP_STEPS = 3.0
"""Largest gap between views across which they are interpolated, in usual steps."""
MAX_GAP = math.radians(15)
"""Largest such gap in radians."""
_N_STD = 3.0
"""Standard deviations of the noise's part of a mismatch that are granted."""
_FLOOR = 2e-3
"""Mismatch of opposite rays, over the largest signal, that is no evidence: interpolation, beams not quite thin."""
_NORMAL_MEDIAN = 0.6745
"""Median of the magnitude of a standard normal variable."""


class OppositeViews(NamedTuple):
    """Views with an opposite one: for each, the two views around theta + pi and the weight of the second."""

    views: Tensor
    before: Tensor
    after: Tensor
    share: Tensor


def opposite_views(theta: Tensor) -> OppositeViews | None:
    """Return the views that have an opposite one; None: no pair."""
    ordered, order = theta.remainder(2 * math.pi).sort()
    step = _usual_step(ordered)
    before, after, past, ahead = _neighbours(ordered, (theta + math.pi).remainder(2 * math.pi))
    # On a view, or next to it by rounding: that view; between two neighbours: their mean.
    on_before, on_after = (
        torch.minimum(past, 2 * math.pi - past) <= ANGLE_TOLERANCE * step,
        ahead <= ANGLE_TOLERANCE * step,
    )
    usable = on_before | on_after | (past + ahead <= MAX_GAP_STEPS * step)
    share = torch.where(on_before, 0, torch.where(on_after, 1, past / (past + ahead)))
    views = usable.nonzero().flatten()
    if not len(views):
        return None
    return OppositeViews(views, order[before[views]], order[after[views]], share[views])


def _usual_step(ordered: Tensor) -> float:
    """Return the median gap between views on the circle, without repeated views."""
    gaps = torch.cat([ordered.diff(), ordered[:1] + 2 * math.pi - ordered[-1:]])
    return min(float(gaps[gaps > 1e-9].median()), MAX_GAP / MAX_GAP_STEPS)


def _neighbours(ordered: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the views around the directions `target`, and the angles from the first and to the second."""
    n = len(ordered)
    after = torch.searchsorted(ordered, target) % n
    before = (after - 1) % n
    return (
        before,
        after,
        (target - ordered[before]).remainder(2 * math.pi),
        (ordered[after] - target).remainder(2 * math.pi),
    )


def parallel_directions(p: Tensor, theta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return fans p (..., n_angles, n) as parallel views in the directions theta, and where they were measured.

    The ray of bin b in direction phi belongs to the view at phi + gamma_b; between two views p is interpolated.

    Args:
        p: line integrals of fans.
        theta: (n_angles,), radians.
        gamma: (n,), angles of the bins to the central ray.
    """
    ordered, order = theta.remainder(2 * math.pi).sort()
    target = (theta[:, None] + gamma).remainder(2 * math.pi)
    before, after, past, ahead = _neighbours(ordered, target)
    share = torch.where(past + ahead > 0, past / (past + ahead), 0)
    bins = torch.arange(len(gamma)).expand_as(target)
    found = (1 - share) * p[..., order[before], bins] + share * p[..., order[after], bins]
    step = _usual_step(ordered)
    near = torch.minimum(torch.minimum(past, 2 * math.pi - past), ahead) <= ANGLE_TOLERANCE * step
    return found, (near | (past + ahead <= MAX_GAP_STEPS * step))


class Curves(NamedTuple):
    """Sums over opposite views for every axis k/2, k = 0 ... 2n - 2; fields (2n - 1,) float64."""

    bins: Tensor
    """Number of bins that both views see."""
    mismatch: Tensor
    """1 - 2 sum a q / sum (a^2 + q^2)."""
    difference: Tensor
    """D less the noise's expected part."""
    variation: Tensor
    """V less the noise's expected part."""
    noise: Tensor
    """Three standard deviations of the noise's part of D, and what is never evidence."""
    expected: Tensor
    """The noise's expected part of D, and of V."""

    @property
    def excess(self) -> Tensor:
        """E, an upper bound of the part of the variation that opposite views do not share; inf: no variation."""
        return bounded_excess(self.difference, self.variation, self.noise)


def bounded_excess(difference: Tensor, variation: Tensor, noise: Tensor) -> Tensor:
    """Return E = (D + noise)/(V - noise) where V exceeds the noise, else inf."""
    certain = variation - noise
    excess: Tensor = (difference + noise).clamp(min=0) / certain.clamp(min=1e-300)
    return torch.where(certain > 0, excess, math.inf)


class Noise(NamedTuple):
    """Standard deviations of white noise and of the bins' constant errors (stripes)."""

    white: float
    stripes: float


def noise_levels(p: Tensor, theta: Tensor) -> Noise:
    """Estimate noise from p's second differences across bins, and from their changes between neighbouring views.

    Both are medians, so that edges of the object count little.
    """
    if p.shape[-1] < 3 or len(theta) < 3:
        return Noise(0.0, 0.0)
    bends = p[:, theta.remainder(2 * math.pi).argsort()].diff(n=2, dim=-1)
    white = float(bends.diff(dim=-2).abs().median()) / (_NORMAL_MEDIAN * math.sqrt(12))
    all_stripes = float(bends.mean(-2).abs().median()) / (_NORMAL_MEDIAN * math.sqrt(6))
    return Noise(white, math.sqrt(max(all_stripes**2 - white**2 / len(theta), 0.0)))


def register(p: Tensor, pairs: OppositeViews, noise: Noise, measured: Tensor | None = None) -> Curves:
    """Return the curves of p (slices, n_angles, n), summed over slices and pairs of views.

    Args:
        p: line integrals in parallel directions.
        pairs: views with an opposite one.
        noise: of p.
        measured: (n_angles, n), which rays were measured; None: all.
    """
    n, (views, before, after, share) = p.shape[-1], pairs
    size = 2 * n - 1
    a = p[:, views]
    q = (1 - share)[:, None] * p[:, before] + share[:, None] * p[:, after]
    of_a = torch.ones(len(views), n, dtype=p.dtype) if measured is None else measured[views].to(p)
    of_q = of_a if measured is None else (measured[before] & measured[after]).to(p)

    def transform(x: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfft(x, n=size)
        return found

    def back(x: Tensor) -> Tensor:
        found: Tensor = torch.fft.irfft(x, n=size)
        return found

    k = torch.arange(size)
    first, last = (k - n + 1).clamp(min=0), k.clamp(max=n - 1)
    bins = (last - first + 1).double()
    if measured is None:
        # sum_b a(b) q(k - b) for all k = 2c; integer k need no interpolation.
        product = back(transform(a) * transform(q)).sum((0, 1))

        def over_bins(x: Tensor) -> Tensor:
            sums = torch.cat([torch.zeros(1, dtype=p.dtype), x.sum((0, 1)).cumsum(0)])
            return sums[last + 1] - sums[first]

        energy, total = over_bins(a.square() + q.square()), over_bins(a + q)
        rays = bins * (a.shape[0] * a.shape[1])
    else:
        a, q = a * of_a, q * of_q
        seen = transform(of_a), transform(of_q)
        product = back((transform(a) * transform(q)).sum((0, 1)))
        energy = back((transform(a.square()) * seen[1] + seen[0] * transform(q.square())).sum((0, 1)))
        total = back((transform(a) * seen[1] + seen[0] * transform(q)).sum((0, 1)))
        rays = back((seen[0] * seen[1]).sum(0)).round() * len(p)
    mismatch = 1 - 2 * product / torch.where(energy > 0, energy, math.inf)
    rays = rays.clamp(min=1)
    white = noise.white**2 * float((1 + (1 - share).square() + share.square()).mean())
    stripes = 2 * noise.stripes**2
    expected = (white + stripes) * rays
    std = white * (2 * rays).sqrt() + stripes * rays * (2 / bins).sqrt()
    floor = (_FLOOR * float(p.abs().max())) ** 2 * rays
    return Curves(
        bins=torch.where(rays > 1, bins, 0.0),
        mismatch=mismatch,
        difference=energy - 2 * product - expected,
        variation=energy - total.square() / (2 * rays) - expected,
        noise=_N_STD * std + floor,
        expected=expected,
    )


def axis_std(p: Tensor, pairs: OppositeViews, noise: Noise, k: int) -> float:
    """Return the standard deviation of the axis k/2 in bins, from noise and stripes and the views' slopes.

    The residual a(b) - q(2c - b) changes by 2 q' with c, so var c = (var sum 2 q' residual)/(sum 4 q'^2)^2. White noise
    adds up over rays, a stripe over all views of its bin.
    """
    n = p.shape[-1]
    first, last = max(k - n + 1, 0), min(k, n - 1)
    slopes = torch.nn.functional.pad((p[:, pairs.views, 2:] - p[:, pairs.views, :-2]) / 2, (1, 1))[
        ..., first : last + 1
    ]
    square = float(slopes.square().sum()) - (noise.white**2 + noise.stripes**2) * slopes.numel() / 2
    if square <= 0:
        return math.inf
    white = noise.white**2 * float((1 + (1 - pairs.share).square() + pairs.share.square()).mean())
    coherent = float(slopes.sum(1).square().sum())
    return math.sqrt(white * square + 2 * noise.stripes**2 * coherent) / (2 * square)
