"""Held-out measurements: how much larger the errors are than a bootstrap says.

A bootstrap draws from its own reconstruction, which has lost detail that the object has. Measurements that a
reconstruction has not seen know by how much. A tenth of them is left out, x_j is solved for from the rest, and so is
z_j, from measurements y_j simulated from an image u_j. With r(x, y) = W^(1/2) (A x - y), residuals in noise levels, and
sums over what was left out,

    factor^2 = sum over j of (r(x_j, y)^2 - noise) / sum over j of (r(z_j, y_j) - r(u_j, y_j))^2,

what is above the noise over what the copies have above it, and at least 1. The noise is that of the simulated
measurements, r(u_j, y_j)^2, which few counts bring below 1. Each j leaves out another tenth. The standard error is a
jackknife over groups: views, or groups of blocks or of single measurements.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..algorithms.protocols import BoundDataTerm, DataTerm, Operator
from ..checks import short
from ..drivers.physics_noise import gain_of, is_sampled

KINDS = ("views", "blocks", "measurements")
"""What is held out: whole views of a sinogram, blocks of an image, or single measurements."""
N_FOLDS = 10
"""Parts of the measurements, one of which is left out at a time; a group is in the part group % N_FOLDS."""
BLOCK = 4
"""Side of a block, in measurements."""
N_GROUPS = 20
"""Groups of blocks or measurements in each part, for the jackknife."""
VIEWS = 2
"""Axis of the views of a sinogram."""


class Without:
    """A data term without some measurements, and without a search for outliers.

    Args:
        term: the data term.
        left_out: mask of the shape of the measurements that it is bound to; None: none is left out.
    """

    robust = False

    def __init__(self, term: DataTerm, left_out: Tensor | None) -> None:
        self.term, self.left_out, self.needs_noise_std = term, left_out, term.needs_noise_std

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
        """Bind the term and leave the measurements out."""
        h = self.term.bind(operator, y, weights)
        return h if self.left_out is None or not bool(self.left_out.any()) else h.reject(self.left_out)

    def __getattr__(self, name: str) -> Any:
        if name == "term":  # before __init__, as in copies
            raise AttributeError(name)
        return getattr(self.term, name)


def kind_for(operator: Any, y: Tensor) -> str:
    """Return what is held out by default: views of a scan, pixels of a mask, blocks of other images, single data.

    A mask's pixels have nothing in common but the image, and blocks of them would be larger gaps than those that x has
    to fill; a blur mixes neighbours.
    """
    angles = getattr(operator, "angles", None)
    n = len(angles) if isinstance(angles, Tensor) and angles.ndim == 1 else -1
    if y.ndim >= 4 and y.shape[VIEWS] == n >= N_FOLDS:
        return "views"
    blocks = y.ndim >= 4 and gain_of(operator, y) is None and getattr(operator, "y_is_sampled", True) is True
    enough = blocks and math.prod(y.shape[-2:]) >= N_FOLDS * BLOCK**2
    return "blocks" if enough and is_sampled(operator) else "measurements"


def draw_groups(kind: Any, operator: Any, y: Tensor, generator: torch.Generator) -> Tensor:
    """Return the group of each measurement, int64 of the shape of y."""
    if kind not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise ValueError(f'bootstrap: hold_out must be {known}, "auto" or None, got {short(repr(kind), 60)}')
    if kind == "views":
        if y.ndim < 4 or y.shape[VIEWS] < N_FOLDS:
            raise ValueError(
                f'bootstrap: hold_out="views" needs y (B, C, n_views, n_bins) of {N_FOLDS} views or more, got '
                f'{tuple(y.shape)}; use "measurements"'
            )
        n = y.shape[VIEWS]
        groups = (torch.arange(n) + int(torch.randint(n, (1,), generator=generator))) % n
        return groups.reshape(-1, *[1] * (y.ndim - VIEWS - 1)).expand(y.shape).to(y.device)
    if kind == "blocks":
        if y.ndim < 4:
            raise ValueError(f'bootstrap: hold_out="blocks" needs y (B, C, H, W), got {tuple(y.shape)}')
        rows, columns = (-(-n // BLOCK) for n in y.shape[-2:])
        tiles = _random_groups((rows, columns), generator).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        return tiles[: y.shape[-2], : y.shape[-1]].expand(y.shape).to(y.device)
    return _random_groups(tuple(y.shape[1:]), generator).expand(y.shape).to(y.device)


def sums_of(values: Tensor, groups: Tensor, counted: Tensor) -> Tensor:
    """Return the sum of the values that count for each image and group, (B, n_groups), in float64."""
    sums = torch.zeros(len(values), int(groups.max()) + 1, dtype=torch.float64)
    sums.scatter_add_(1, groups.flatten(1).cpu(), torch.where(counted, values, 0).flatten(1).cpu().double())
    return sums


def factor_of(above: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factor of each image, at least 1, and its standard error, (B,).

    Args:
        above: sums over each group of r(x_j, y)^2 less the noise, (B, n_groups).
        predicted: sums of (r(z_j, y_j) - r(u_j, y_j))^2.
    """

    def ratio(a: Tensor, p: Tensor) -> Tensor:
        return torch.where(p > 0, a / torch.where(p > 0, p, 1), 1)

    whole = ratio(above.sum(1), predicted.sum(1))
    without = ratio(above.sum(1, keepdim=True) - above, predicted.sum(1, keepdim=True) - predicted)
    n = above.shape[1]
    spread = (n - 1) ** 0.5 * without.std(1, unbiased=False) if n > 1 else torch.full_like(whole, math.nan)
    factor = whole.clamp(min=1).sqrt()
    return factor, spread / (2 * factor)


def _random_groups(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    rank = torch.randperm(math.prod(shape), generator=generator).reshape(shape)
    return rank % N_FOLDS + N_FOLDS * (rank // N_FOLDS % N_GROUPS)
