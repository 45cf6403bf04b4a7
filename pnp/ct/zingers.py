"""Zingers and dead samples in raw counts, found against neighbouring views and bins before the logarithm.

A gamma ray that hits the detector raises one sample, or two beside each other, of one view. With p = s/f, the count
over the open beam's, q = p m photons and

    t = 2 sqrt(q + 3/8 + sigma_e^2),

whose noise has the standard deviation 1 (Anscombe, Biometrika 35 (1948) 246; with read-out noise, in photons: Murtagh,
Starck and Bijaoui, Astron. Astrophys. Suppl. Ser. 112 (1995) 179), a sample is compared with its neighbours: those of
its own view at most 2 bins away, and those of the two views before and after it within the bins that a point of the
object crosses from view to view. It is a zinger where it exceeds the second largest neighbour

1. in t by more than 6 standard deviations, or 6 times what neighbouring samples commonly differ by where this is more;
2. in log p by more than 5 %;
3. in log p, from which the median of the same bin in these five views is taken, by more than c times the distance of
   the second largest from the neighbours' median, and in log p itself by more than twice: a peak of the object is
   left alone; not asked for where p is above 1.2 and that neighbour is not.

c is 3, or more where the views are sparse: a plate as long as the detector is wide and edge-on in one view is seen in
the next with 1/c of its line integral, c the step of the angle times the number of bins. Above 1.5, 1 and 2 against
the samples next to it suffice: no object makes the beam brighter. A sample that is too low is found alike, with signs
changed. An edge or a small dense ball has its like in the views before and after: the second neighbour is theirs. What
is found is left out of the neighbours of the others, and the search repeated. What lies on an edge of the object is not
told from it; the robust data term, `LeastSquares(robust=True)`, finds it by its residual.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arrays import STD_PER_MAD
from .flat_field import Photons

_STDS = 6.0
"""Smallest excess of a zinger over its neighbours, in standard deviations of t."""
_CONTRAST = 3.0
"""Smallest excess of a zinger over its neighbours, over their own spread, in logarithms."""
_STATIC_CONTRAST = 2.0
"""The same without the median over views taken off: an edge along the bins is no peak."""
_MIN_EXCESS = 0.05
"""Smallest relative excess of a zinger: smaller ones cost little, and a beam's ripples are as large."""
_OPEN_BEAM = math.log(1.2)
"""Largest count over the open beam's that drift and refraction at edges commonly reach, in logarithms."""
_ABOVE_ALL = math.log(1.5)
"""Count over the open beam's that needs no more than to stand out from the samples around it, in logarithms."""
_AIR = math.log(0.8)
"""Count over the open beam's of rays that pass beside the object, in logarithms."""
_USUAL = 0.95
"""Share of differences between views that are compared to see whether the views are in order."""
_N_ROUNDS = 4
_MARGIN = 1.25
"""Bins that a point may cross from view to view, over those at the edge of a parallel beam's field of view."""
_MAX_GATHERED = 4_000_000
"""Neighbours that are looked at together, for memory."""


def find_zingers(s: Tensor, f: Tensor, noise: Photons, blind: Tensor, angles: Tensor | None = None) -> Tensor:
    """Return which samples are too high or too low for their neighbours: boolean (..., n_angles, n_detectors).

    Args:
        s: counts without dark, (..., n_angles, n_detectors).
        f: the open beam's, broadcasting to s.
        noise: of s.
        blind: boolean, of the shape of s: samples that are no one's neighbour.
        angles: (n_angles,), radians; None: views in order, over a full turn or less.
    """
    n_views, n_bins = s.shape[-2:]
    if n_views < 3 or n_bins < 3:
        return torch.zeros_like(blind)
    order = torch.arange(n_views, device=s.device)
    step = 2 * math.pi / n_views
    if angles is not None:
        turned = torch.as_tensor(angles, dtype=torch.float64, device=s.device) % (2 * math.pi)
        order = turned.argsort(stable=True)
        step = float(turned[order].diff().quantile(0.9))
    restore = order.argsort()
    rows = zip(*(t.expand(s.shape).reshape(-1, n_views, n_bins) for t in (s, f, blind)), strict=True)
    marks = [
        _of_a_row(s_[order], f_[order], blind_[order], noise, step, angles is not None)[restore]
        for s_, f_, blind_ in rows
    ]
    return torch.stack(marks).reshape(s.shape)


def _of_a_row(s: Tensor, f: Tensor, blind: Tensor, noise: Photons, step: float, ordered: bool) -> Tensor:
    """Find the zingers of one detector row, (n_angles, n_detectors)."""
    if bool(blind.all()):
        return torch.zeros_like(blind)
    beam = torch.where(f > 0, f, 1) / noise.gain
    level = beam[~blind].median()
    p = s / noise.gain / beam
    t = 2 * (p * level + 0.375 + noise.variance_e / noise.gain**2).clamp(min=0).sqrt()
    t = torch.where(blind, math.nan, t)
    std = (level / beam).clamp(min=1) * _excess_noise(t)
    n_bins = s.shape[-1]
    if not ordered and _shuffled(t):
        step = 2.0
    reach = math.ceil(_MARGIN * step * n_bins / 2)
    log_p = p.clamp(min=0.5 / level).log()
    contrast = max(_CONTRAST, step * n_bins)
    # Noise that grows faster than the square root of the counts shows where the beam is open.
    air = _excess_noise(torch.where(log_p > _AIR, t, math.nan)) / _excess_noise(t)
    found = torch.zeros_like(blind)
    for _ in range(_N_ROUNDS):
        new = torch.zeros_like(found)
        ripple = log_p - _median_of_views(torch.where(t.isnan(), math.nan, log_p))
        for sign in (1, -1):
            new |= _beyond(sign * t, sign * log_p, sign * ripple, std, air, reach, contrast, sign)
        if not bool(new.any()):
            break
        found |= new
        t = torch.where(new, math.nan, t)
    return found


def _beyond(
    t: Tensor, log_p: Tensor, ripple: Tensor, std: Tensor, air: float, reach: int, contrast: float, sign: int
) -> Tensor:
    """Return where t exceeds its neighbours; with sign -1 all three are negated. air: std's factor in the open beam."""
    limit = t - _STDS * std
    beside = torch.nn.functional.pad(t[None], (1, 1, 1, 1), value=math.nan)[0]
    four = torch.stack([beside[:-2, 1:-1], beside[2:, 1:-1], beside[1:-1, :-2], beside[1:-1, 2:]])
    lower = (four <= limit).sum(0)
    candidates = (lower >= 2).nonzero()
    found = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
    offsets = _neighbours(reach, t.device)
    near = (offsets.abs() <= torch.tensor([1, 2], device=t.device)).all(-1)
    n_together = max(1, _MAX_GATHERED // len(offsets))
    for first in range(0, len(candidates), n_together):
        part = candidates[first : first + n_together]
        at = part[:, None] + offsets
        inside = (at >= 0).all(-1) & (at < torch.tensor(t.shape, device=t.device)).all(-1)
        v, b = at.clamp(min=0).minimum(torch.tensor(t.shape, device=t.device) - 1).unbind(-1)
        around = torch.where(inside, t[v, b], math.nan)
        n = around.isfinite().sum(-1)
        rank = around.nan_to_num(-math.inf).topk(2).indices[:, 1:]
        second = around.gather(-1, rank)[:, 0]
        log_second = log_p[v, b].gather(-1, rank)[:, 0]
        here, log_here, ripple_here = (values[part[:, 0], part[:, 1]] for values in (t, log_p, ripple))
        excess = log_here - log_second
        ripples = torch.where(around.isfinite(), ripple[v, b], math.nan)
        second_ripple = ripples.nan_to_num(-math.inf).topk(2).values[:, 1]
        peak = ripple_here - second_ripple > contrast * (second_ripple - ripples.nanmedian(-1).values)
        logs = torch.where(around.isfinite(), log_p[v, b], math.nan)
        peak &= excess > _STATIC_CONTRAST * (log_second - logs.nanmedian(-1).values)
        noise = _STDS * std[part[:, 0], part[:, 1]]
        bright = noise * max(1.0, air)
        if sign > 0:
            peak |= (log_here > _OPEN_BEAM) & (log_second < _OPEN_BEAM) & (here - second > bright)
        hit = peak & (excess > _MIN_EXCESS) & (here - second > noise) & (n >= 4)
        if sign > 0:
            nearby = around[:, near].nan_to_num(-math.inf).topk(2).values[:, 1]
            hit |= (log_here > _ABOVE_ALL) & (here - nearby > bright.maximum(_MIN_EXCESS * here))
        found[part[hit, 0], part[hit, 1]] = True
    return found


def _median_of_views(values: Tensor) -> Tensor:
    """Return the median of each sample with those of its bin in the two views before and after it."""
    ends = torch.full_like(values[:2], math.nan)
    return torch.cat([ends, values, ends]).unfold(0, 5, 1).nanmedian(-1).values


def _neighbours(reach: int, device: torch.device) -> Tensor:
    """Return the offsets (view, bin) of the neighbours, (n, 2)."""
    offsets = [(0, j) for j in (-2, -1, 1, 2)]
    for i in (-2, -1, 1, 2):
        offsets += [(i, j) for j in range(-reach * abs(i) - 1, reach * abs(i) + 2)]
    return torch.tensor(offsets, device=device)


def _excess_noise(t: Tensor) -> float:
    """Return the standard deviation of t beside 1, from second differences: the smaller of views' and bins'."""
    spreads = [1.0]
    for axis in (0, 1):
        second = t.diff(n=2, dim=axis)
        second = second[second.isfinite()].abs()
        if len(second):
            spreads.append(STD_PER_MAD * float(second.median()) / math.sqrt(6))
    return max(1.0, min(spreads[1:], default=1.0))


def _shuffled(t: Tensor) -> bool:
    """Whether successive views differ as much as distant ones do, beyond the noise, zingers left out."""
    n = len(t)

    def difference(k: int) -> float:
        squares = (t[k:] - t[:-k]).square()
        squares = squares[squares.isfinite()].sort().values
        return float(squares[: math.ceil(_USUAL * len(squares))].mean()) - 2

    near, far = difference(1), difference(max(1, n // 3))
    return far > 1 and near > 0.5 * far
