"""Angular quadrature weights for filtered back-projection: each view's share of the circle, and the measured arcs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_TICKS = 2**30
"""Resolution of directions: ticks per period. Directions that share a tick, 3 or 6 nanoradians, are one."""
_MIN_WEDGE = math.radians(8)
"""Narrowest missing wedge, in radians: a narrower gap belongs to the scan, however dense the other views are."""
_WEDGE_RATIO = 5.0
"""Width of a missing wedge over the typical gap, at least. Random directions reach ratios of 2 to 4."""
_MAX_WEDGES = 4
"""Largest number of missing wedges. A scan with more such gaps just has few views."""
_TAPER = math.radians(10)
"""Width of the taper of redundancy weights at an arc's ends, in radians; Noo et al., Phys. Med. Biol. 47 (2002) 2525,
use about this."""


class ViewWeights(NamedTuple):
    """Weights of a scan's views, whose directions lie on a circle of some period."""

    shares: Tensor
    """(n,) float64: the part of the period that each view stands for. Their sum is the period, less what is missing."""
    arcs: list[tuple[float, float]]
    """(first direction, extent) of every measured arc, half a gap beyond its views; empty where nothing is missing."""


def view_weights(angles: Tensor, period: float) -> ViewWeights:
    """Return each view's share of the circle, half the gaps to its neighbours (trapezoidal), and the measured arcs.

    Repeated directions divide their share. A missing wedge, which is a gap far wider than the typical one, weighs no
    more than a typical gap. The typical gap is the median by length, the one in which the middle of all gaps lies.
    Views that nearly coincide, through jitter or a second turn, make many narrow gaps, which do not shift it.

    Args:
        angles: (n,), radians.
        period: of the circle, in radians: pi for parallel views, 2 pi for fans.

    >>> view_weights(torch.tensor([0.0, 0.0, torch.pi / 2]), torch.pi).shares / torch.pi
    tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    ticks = torch.round(angles.detach().double() / period * _TICKS).long() % _TICKS
    ticks, view, repeats = torch.unique(ticks, return_inverse=True, return_counts=True)
    gaps = torch.diff(ticks, append=ticks[:1] + _TICKS).double() * (period / _TICKS)
    narrow, is_missing = _typical_gap(gaps)
    used = torch.where(is_missing, narrow, gaps)
    shares = ((used + used.roll(1)) / (2 * repeats))[view]
    directions, missing = ticks.double() * (period / _TICKS), is_missing.nonzero()[:, 0].tolist()
    arcs = []
    for k, before in enumerate(missing):
        first = float(directions[(before + 1) % len(directions)]) - narrow / 2
        last = float(directions[missing[(k + 1) % len(missing)]]) + narrow / 2
        arcs.append((first, (last - first) % period))
    return ViewWeights(shares, arcs)


def _typical_gap(gaps: Tensor) -> tuple[float, Tensor]:
    """Return the typical gap of a scan, and which gaps are missing wedges."""
    widest = gaps.sort(descending=True)
    narrow, n_missing = _median_by_length(widest.values), 0
    for n in range(1, 1 + min(_MAX_WEDGES, max(1, len(gaps) // 4), len(gaps) - 1)):
        rest = _median_by_length(widest.values[n:])
        too_wide = widest.values > max(_WEDGE_RATIO * rest, _MIN_WEDGE)
        if bool(too_wide[n - 1]) and not bool(too_wide[n]):
            narrow, n_missing = rest, n
    is_missing = torch.zeros_like(gaps, dtype=torch.bool)
    is_missing[widest.indices[:n_missing]] = True
    return narrow, is_missing


def _median_by_length(falling: Tensor) -> float:
    """Return the gap that holds the middle of all gaps, laid end to end in falling order."""
    total = falling.cumsum(0)
    return float(falling[int(torch.searchsorted(total, total[-1] / 2))])


def arc_weight(directions: Tensor, arcs: list[tuple[float, float]], period: float) -> Tensor:
    """Return the weight of directions: 1 where measured, falling smoothly to 0 at both ends of every arc.

    >>> arc_weight(torch.tensor([-0.1, 1.0, 2.99, 3.1]), [(0.0, 3.0)], 2 * torch.pi) > 0
    tensor([False,  True,  True, False])
    """
    weight = torch.zeros_like(directions) if arcs else torch.ones_like(directions)
    for first, extent in arcs:
        taper = min(_TAPER, extent / 4)
        s = torch.remainder(directions - first, period)
        inside = torch.minimum(s, extent - s).clamp(0, taper)
        weight = weight + torch.sin((math.pi / 2) * inside / taper).square()
    return weight
