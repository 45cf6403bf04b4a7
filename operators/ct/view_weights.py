"""How much every view counts in filtered backprojection: shares of the circle, and arcs that were not measured."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TURN = 2**30
"""Directions are told apart to a TURN-th of the period, 3 or 6 nanoradians."""
SMALLEST = math.radians(8)
"""A narrower gap between two views belongs to the scan, however dense the others are."""
MISSING = 5.0
"""Times the typical gap: a wider one is no part of the scan. Random directions reach 2 to 4 times theirs."""
MOST = 4
"""Wedges that a scan may lack; where there are more gaps alike, its views are just few."""
TAPER = math.radians(10)
"""Of the redundancy weights at the ends of an arc: Noo et al., Phys. Med. Biol. 47 (2002) 2525, use about this."""


class Views(NamedTuple):
    """A scan's directions, on a circle of some period."""

    shares: Tensor
    """(n,) float64: what of the period each view stands for; their sum is the period, less what is missing."""
    arcs: list[tuple[float, float]]
    """(first direction, extent) of every measured arc, half a gap beyond its views; none where nothing is missing."""


def views(angles: Tensor, period: float) -> Views:
    """Return each view's share of the circle, half the gaps to its neighbours (trapezoidal), and the arcs measured.

    Repeated directions share theirs. A wedge that was not measured, a gap far wider than is typical, weighs no more
    than a typical gap does. Typical is the median by length: where most of what was measured lies, as views that
    nearly coincide, from jitter or a second turn, are many but narrow.

    >>> views(torch.tensor([0.0, 0.0, torch.pi / 2]), torch.pi).shares / torch.pi
    tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    ticks = torch.round(angles.detach().double() / period * TURN).long() % TURN
    ticks, view, repeats = torch.unique(ticks, return_inverse=True, return_counts=True)
    gaps = torch.diff(ticks, append=ticks[:1] + TURN).double() * (period / TURN)
    narrow, is_missing = _typical(gaps)
    used = torch.where(is_missing, narrow, gaps)
    shares = ((used + used.roll(1)) / (2 * repeats))[view]
    directions, missing = ticks.double() * (period / TURN), is_missing.nonzero()[:, 0].tolist()
    arcs = []
    for k, before in enumerate(missing):
        first = float(directions[(before + 1) % len(directions)]) - narrow / 2
        last = float(directions[missing[(k + 1) % len(missing)]]) + narrow / 2
        arcs.append((first, (last - first) % period))
    return Views(shares, arcs)


def _typical(gaps: Tensor) -> tuple[float, Tensor]:
    """Return the typical gap of a scan, and which gaps are missing wedges."""
    widest = gaps.sort(descending=True)
    narrow, n_missing = _median_by_length(widest.values), 0
    for n in range(1, 1 + min(MOST, max(1, len(gaps) // 4), len(gaps) - 1)):
        rest = _median_by_length(widest.values[n:])
        too_wide = widest.values > max(MISSING * rest, SMALLEST)
        if bool(too_wide[n - 1]) and not bool(too_wide[n]):
            narrow, n_missing = rest, n
    is_missing = torch.zeros_like(gaps, dtype=torch.bool)
    is_missing[widest.indices[:n_missing]] = True
    return narrow, is_missing


def _median_by_length(falling: Tensor) -> float:
    """The gap in which the middle of all gaps, laid end to end in falling order, lies."""
    total = falling.cumsum(0)
    return float(falling[int(torch.searchsorted(total, total[-1] / 2))])


def arc_weight(directions: Tensor, arcs: list[tuple[float, float]], period: float) -> Tensor:
    """Return the weight of directions: 1 where measured, falling smoothly to 0 at both ends of every arc.

    >>> arc_weight(torch.tensor([-0.1, 1.0, 2.99, 3.1]), [(0.0, 3.0)], 2 * torch.pi) > 0
    tensor([False,  True,  True, False])
    """
    weight = torch.zeros_like(directions) if arcs else torch.ones_like(directions)
    for first, extent in arcs:
        taper = min(TAPER, extent / 4)
        s = torch.remainder(directions - first, period)
        inside = torch.minimum(s, extent - s).clamp(0, taper)
        weight = weight + torch.sin((math.pi / 2) * inside / taper).square()
    return weight
