"""Measurements whose neighbours are alike: their correlation, and the standard error of their mean.

Values that are alike say less than independent ones. They are summed in groups of neighbours, in groups of twice the
side, and so on: the standard error that independent groups would have grows until they are wider than what neighbours
share, and then stays (blocking: H. Flyvbjerg, H. G. Petersen, J. Chem. Phys. 91, 461, 1989). The largest is taken, of
the sizes that leave FEWEST_GROUPS groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST_GROUPS = 12
"""The standard error from so many groups is itself known to a fifth; wider groups are fewer."""

FEWEST_PAIRS = 100
"""So few pairs of neighbours show no correlation."""

Groups = tuple[Tensor, ...]
"""The group of each value, from the smallest groups to the widest."""


def neighbourhoods(mask: Tensor, sides: Sequence[int]) -> Groups:
    """Return the group of each measurement of a mask: boxes of these sides, of twice the sides, and so on.

    >>> neighbourhoods(torch.ones(2, 4, dtype=torch.bool), (1, 2))
    (tensor([0, 0, 1, 1, 2, 2, 3, 3]),)
    """
    cells = mask.nonzero() // torch.tensor(sides)
    found: list[Tensor] = []
    while True:
        strides = [math.prod(int(n) + 1 for n in cells.amax(0)[axis + 1 :]) for axis in range(cells.shape[1])]
        groups = (cells * torch.tensor(strides)).sum(1)
        if found and len(torch.unique(groups)) < FEWEST_GROUPS:
            return tuple(found)
        found.append(groups)
        if len(torch.unique(groups)) < FEWEST_GROUPS:
            return tuple(found)
        cells = cells // 2


def standard_error(values: Tensor, groups: Groups) -> float:
    """Return the standard error of the mean of values, of the size of groups for which it is largest.

    >>> standard_error(torch.tensor([1.0, -1.0, 1.0, -1.0]), (torch.arange(4),))
    0.5773...
    """
    return max(_of_independent(values, size) for size in groups)


def _of_independent(values: Tensor, groups: Tensor) -> float:
    """Return the standard error of a mean of values that are independent from group to group only."""
    sums, sizes = (torch.bincount(groups, weights) for weights in (values, torch.ones_like(values)))
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    n = len(sums)
    if n < 2:
        return math.inf
    rest = sums - values.mean() * sizes
    return float((rest.square().sum() * n / (n - 1)).sqrt()) / len(values)


def correlation(r: Tensor, counted: Tensor, axis: int) -> float:
    """Return the correlation of residuals with their neighbours along an axis, over pairs that both count."""
    n = r.shape[axis] - 1
    if n < 1:
        return 0.0
    pair = counted.narrow(axis, 0, n) & counted.narrow(axis, 1, n)
    a, b = r.narrow(axis, 0, n)[pair], r.narrow(axis, 1, n)[pair]
    size = float(a.abs().square().sum().sqrt()) * float(b.abs().square().sum().sqrt())
    return float(torch.real(a.conj() * b).sum()) / size if size > 0 and a.numel() >= FEWEST_PAIRS else 0.0
