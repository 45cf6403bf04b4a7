"""Stages of MLPatch: blocks on lattices of queries, and the changes between a lattice and the next coarser one.

With queries Q on the lattice of spacing 2 s and a in {0, 1}^d, d the number of dimensions (2: row, column):

    f'(Q)        = W_d f(Q + s {0, 1}^d) + b_d              coarsen: 2^d queries of the lattice of spacing s
    f(Q + s a)  += W_u[a] f'(Q) + b_u[a]                    refine: back onto the features that were left there

Both are one matrix product per query of the coarser lattice. Where every pixel may be a query (strides below 2 s), each
query q of the finer lattice has a = 0 on some of the coarser lattices and a = 1 on others, along each axis. These 2^d
cases are kept apart, as so many images of a batch, so that each of them is the network on one pair of lattices.

Source: Ronneberger, Fischer and Brox (MICCAI 2015): coarser lattices with more features, and skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from .geometry import convolve, window


@dataclass(frozen=True, order=True)
class Stage:
    """Blocks one after another on one lattice."""

    spacing: int
    """Distance of neighbouring queries in pixels."""
    features: int
    hidden: int
    """Width of the blocks' hidden layers."""
    dilations: tuple[int, ...]
    """For each block, the distance of the neighbours that it gathers, in spacings."""


NAMES = tuple(field.name for field in fields(Stage))


def stages_of(
    spacing: int | Sequence[int],
    features: int | Sequence[int],
    hidden: int | Sequence[int],
    dilations: Sequence[int] | Sequence[Sequence[int]],
) -> tuple[Stage, ...]:
    """Return the stages of MLPatch's options: of one lattice if the spacing is a number, else one for each spacing.

    Raises:
        ValueError: an option is not as `MLPatch` describes it.
    """
    if isinstance(spacing, int):
        columns: list[list[Any]] = [[spacing], [features], [hidden], [dilations]]
    elif not isinstance(spacing, tuple | list) or not spacing:
        raise ValueError(f"MLPatch: spacing must be a number, or a tuple with one for each stage, got {spacing!r:.90}")
    else:
        options = zip(NAMES, (spacing, features, hidden, dilations), strict=True)
        columns = [_per_stage(name, value, len(spacing)) for name, value in options]
    stages = tuple(Stage(s, f, h, _dilations(d)) for s, f, h, d in zip(*columns, strict=True))
    for stage in stages:
        for name, value in zip(NAMES[:3], astuple(stage)[:3], strict=True):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"MLPatch: {name} must be at least 1 in each stage of spacing, got {value!r:.90}")
    _check_lattices(stages)
    return stages


def options_of(stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Return MLPatch's options `spacing`, `features`, `hidden` and `dilations`: plain ones of one stage, or tuples."""
    columns = zip(*map(astuple, stages), strict=True)
    return {name: c[0] if len(stages) == 1 else tuple(c) for name, c in zip(NAMES, columns, strict=True)}


def _per_stage(name: str, value: Any, n: int) -> list[Any]:
    """Return an option's values for n stages as a list."""
    if not isinstance(value, tuple | list) or len(value) != n:
        raise ValueError(f"MLPatch: {name} must have one entry for each of {n} stages of spacing, got {value!r:.90}")
    return list(value)


def _dilations(values: Any) -> tuple[int, ...]:
    """Return the dilations of one stage as a tuple."""
    if not isinstance(values, tuple | list) or not values or not all(isinstance(d, int) and d >= 1 for d in values):
        raise ValueError(f"MLPatch: dilations must be one number from 1 up for each block, got {values!r:.90}")
    return tuple(values)


def _check_lattices(stages: tuple[Stage, ...]) -> None:
    """Raise unless the spacings double up to the coarsest and halve back to the first, with features to add to."""
    rising = len(stages) // 2
    spacings = [stage.spacing for stage in stages]
    if spacings != [spacings[0] * 2 ** min(i, 2 * rising - i) for i in range(len(stages))] or len(stages) % 2 == 0:
        raise ValueError(
            "MLPatch: spacing must be one number, or double from stage to stage and halve back, as (2, 4, 2), "
            f"got {tuple(spacings)!r:.90}"
        )
    for down, up in zip(stages, stages[::-1], strict=True):
        if down.features != up.features:
            raise ValueError(
                "MLPatch: features must be the same in stages of one spacing, which are added, "
                f"got {tuple(stage.features for stage in stages)!r:.90}"
            )


class Change(nn.Module):
    """Change of lattice, one matrix: f'(Q) = W_d f(Q + s {0, 1}^d) + b_d, or f(Q + s a) += W_u[a] f'(Q) + b_u[a].

    Args:
        before, after: the stages.
        dimensions: d.
    """

    def __init__(self, before: Stage, after: Stage, dimensions: int = 2) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.coarsens = after.spacing > before.spacing
        self.fine = min(before, after)
        """The stage with the smaller spacing."""
        n_in, n_out = before.features, after.features
        parts = 2**dimensions
        self.matrix = nn.Linear(parts * n_in, n_out) if self.coarsens else nn.Linear(n_in, parts * n_out)

    def initialize(self) -> None:
        """Draw weights that keep the features' scale; a skip is first left as it is."""
        if self.coarsens:
            nn.init.normal_(self.matrix.weight, std=self.matrix.in_features**-0.5)
        else:
            nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)

    def fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the kernel, (features', features, 2, 2) or (4 features, features', 1, 1) on images, and the bias."""
        w, b = self.matrix.weight.to(dtype), self.matrix.bias.to(dtype)
        if self.coarsens:
            return w.reshape(len(w), *[2] * self.dimensions, -1).movedim(-1, 1), b
        return w.reshape(*w.shape, *[1] * self.dimensions), b

    def distances(self, stride: int) -> tuple[int, int]:
        """Return the distances of the queries that are computed on the finer and on the coarser lattice, in pixels."""
        s = self.fine.spacing
        return min(stride, s), min(stride, 2 * s)

    def start(self, at: int, stride: int) -> int:
        """Return the position of the first query after this change, in pixels from the first window's middle.

        Args:
            at: that before this change.
            stride: distance of the queries, of the coarsest lattice at most.
        """
        if self.coarsens:
            # Lattices lie in the same way about the image whatever the tile.
            return at + -at % self.distances(stride)[1]
        return at if stride >= 2 * self.fine.spacing else at + self.fine.spacing

    def coarsen(self, f: Tensor, kernel: tuple[Tensor, Tensor], at: int, stride: int) -> Tensor:
        """Return f' (B, features', ...) from f (B, features, ...), whose first query is at `at`."""
        fine, coarse = self.distances(stride)
        lead = (self.start(at, stride) - at) // fine
        f = window(f, lead, [n - lead for n in f.shape[2:]])
        return convolve(f, *kernel, stride=coarse // fine, dilation=self.fine.spacing // fine)

    def refine(self, g: Tensor, kernel: tuple[Tensor, Tensor], skip: Tensor, lead: int, at: int, stride: int) -> Tensor:
        """Return the features of the finer lattice, (N, features, ...) or (2^d N, features, ...) in all cases.

        Args:
            g: features of the coarser lattice (N, features', ...), N a multiple of B.
            kernel: from `fold`.
            skip: features that were left on the finer lattice (B, features, ...).
            lead: number of its first queries along each axis that lie before the result.
            at: position of the first query of g.
            stride: as in `start`.
        """
        d, sizes = self.dimensions, g.shape[2:]
        parts = convolve(g, *kernel).movedim(1, -1)
        parts = parts.reshape(*parts.shape[:-1], *[2] * d, -1)  # on images (N, H', W', 2, 2, features)
        if len(g) > len(skip):
            skip = skip.repeat(len(g) // len(skip), *[1] * (d + 1))
        if stride >= 2 * self.fine.spacing:
            left = window(skip, lead, [2 * n for n in sizes]).movedim(1, -1)
            pairs = parts.permute(0, *(axis for n in range(d) for axis in (1 + n, 1 + d + n)), -1)
            sums = left.reshape(pairs.shape) + pairs
            return sums.reshape(left.shape).movedim(-1, 1)
        step = self.distances(stride)[0]
        back = self.fine.spacing // step
        # Each axis of the queries in an axis of its own.
        along = [
            torch.arange(back, n, device=g.device).reshape(-1, *[1] * (d - 1 - axis)) for axis, n in enumerate(sizes)
        ]
        left = window(skip, lead, [n - back for n in sizes])
        # Number of the query along an axis of its own lattice: even or odd decides between a = 0 and a = 1.
        numbers = [(at + step * n).div(self.fine.spacing, rounding_mode="floor") for n in along]
        cases = []
        for case in product((0, 1), repeat=d):
            a = [(i - k) % 2 for i, k in zip(numbers, case, strict=True)]
            at_query: list[Any] = [slice(None), *(n - back * k for n, k in zip(along, a, strict=True)), *a]
            picked = parts[tuple(at_query)]
            cases.append(left + picked.movedim(-1, 1))
        return torch.cat(cases)


def changes_between(stages: tuple[Stage, ...], dimensions: int = 2) -> list[Change]:
    """Return the changes of lattice between successive stages."""
    return [Change(before, after, dimensions) for before, after in pairwise(stages)]
