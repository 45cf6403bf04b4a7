"""The relative difference prior: neighbours may differ in proportion to their values.

    R(x) = sum over pairs of neighbours j, k of  w_jk (x_j - x_k)^2 / (x_j + x_k + gamma |x_j - x_k| + eps)

J. Nuyts, D. Beque, P. Dupont and L. Mortelmans, A concave prior penalizing relative differences for
maximum-a-posteriori reconstruction in emission tomography, IEEE Trans. Nucl. Sci. 49 (2002) 56. Neighbours are all that
touch, by faces, edges or corners, and w_jk is the inverse of their distance, 1 between neighbours along the first axis.
Each pair counts once. R is convex and has the unit of x: small differences are smoothed as by a square, over the local
value, edges above a relative difference of about 2/gamma as by their height. eps keeps it smooth at 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CURVATURE = 32 / 27
"""Bound of x_j d^2 R/dx_j^2 over the sum of its weights: the maximum of 8 t^2/(1 + t)^3 at t = 2, for gamma = 0."""


@dataclass(frozen=True)
class RelativeDifference:
    """The prior for images (B, C, ...) of one or more spatial axes.

    Attributes:
        gamma: how much large differences are spared, at least 0; 2 is usual.
        eps: in the unit of x, above 0: a number, or one for each image, (B, 1, ...).
        spacing: sides of a pixel along the spatial axes, in any unit.
    """

    gamma: float
    eps: float | Tensor
    spacing: tuple[float, ...]

    def value(self, x: Tensor) -> Tensor:
        """Return R of each image (B,)."""
        total = x.new_zeros(len(x), dtype=torch.float64)
        for weight, one, other in self._pairs(x):
            d = one - other
            ratio = d.square() / (one + other + self.gamma * d.abs() + self.eps)
            total += weight * ratio.flatten(1).sum(1, dtype=torch.float64)
        return total

    def gradient(self, x: Tensor) -> Tensor:
        """Return dR/dx, as x."""
        gradient = torch.zeros_like(x)
        for (weight, one, other), (_, to_one, to_other) in zip(self._pairs(x), self._pairs(gradient), strict=True):
            d = one - other
            bend = self.gamma * d.abs() + 2 * self.eps
            scaled = weight * d / (one + other + self.gamma * d.abs() + self.eps).square()
            to_one += scaled * (one + 3 * other + bend)
            to_other -= scaled * (other + 3 * one + bend)
        return gradient

    def weights(self, like: Tensor) -> Tensor:
        """Return the sum of the weights of each pixel's neighbours, of the shape of an image."""
        total = torch.zeros_like(like)
        for weight, to_one, to_other in self._pairs(total):
            to_one += weight
            to_other += weight
        return total

    def _pairs(self, x: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Yield each direction's weight, and views of x that are neighbours in it."""
        n = x.ndim - 2
        for step in itertools.product((-1, 0, 1), repeat=n):
            if step <= (0,) * n:  # each pair once
                continue
            distance = math.hypot(*(s * size for s, size in zip(step, self.spacing, strict=True))) / self.spacing[0]
            yield 1 / distance, x[_part(step, 1)], x[_part(step, -1)]


def _part(step: Sequence[int], sense: int) -> tuple[slice, ...]:
    """Return where the first (1) or the second (-1) of two neighbours of this step lies."""
    cut = {1: slice(1, None), -1: slice(None, -1), 0: slice(None)}
    return (slice(None), slice(None), *(cut[s * sense] for s in step))
