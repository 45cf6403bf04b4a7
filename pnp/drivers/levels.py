"""Noise levels and couplings of all iterations, those that `solve` chooses and those that are given, image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import images
from ..algorithms.iterations import Level
from ..algorithms.protocols import Denoiser
from ..algorithms.schedules import Schedule, robust_range
from .arguments import as_levels

FIRST_SIGMA = 0.4
"""First noise level over the robust range of the first estimate."""
ANNEALING = 20
"""Iterations from the first noise level to the last, unless max_iter is less."""


def levels_of_images(
    schedule: Any, curvatures: Sequence[float], z: Tensor, denoiser: Denoiser, max_iter: int
) -> list[tuple[list[float], int]]:
    """Return what `as_levels` does for each image: of one schedule for all where it is given, else of its own."""
    if schedule is not None:
        return [as_levels(schedule, max_iter)] * len(z)
    pairs = zip(curvatures, images(z), strict=True)
    return [as_levels(default_schedule(c, x, denoiser, max_iter), max_iter) for c, x in pairs]


def default_schedule(curvature: float, x: Tensor, denoiser: Denoiser, max_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to ||A*WA||^(-1/2), within the denoiser's range.

    Args:
        curvature: ||A*WA||.
        x: the first estimate of one image.
        denoiser: its `sigma_range` counts, where it has one.
        max_iter: levels at most.
    """
    sigma_min = curvature**-0.5
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, min(ANNEALING, max_iter))


def join_levels(sigmas: Sequence[Sequence[float]], weights: Sequence[float]) -> list[tuple[Level, Level]]:
    """Return (sigma_k, weight / sigma_k^2) for all k: numbers where all images share them in all iterations.

    Args:
        sigmas: the noise levels of each image.
        weights: lambda strength of each image.

    >>> join_levels([[0.2, 0.1]], [1.0])
    [(0.2, 24.999999999999996), (0.1, 99.99999999999999)]
    >>> join_levels([[2.0], [4.0]], [1.0, 4.0])
    [(tensor([2., 4.], dtype=torch.float64), 0.25)]
    """
    alphas = [[w / sigma**2 for sigma in levels] for levels, w in zip(sigmas, weights, strict=True)]
    return list(zip(_columns(sigmas), _columns(alphas), strict=True))


def _columns(rows: Sequence[Sequence[float]]) -> list[Level]:
    """Return the numbers of each iteration, the rows those of an image: a number where all rows are equal."""
    if all(row == rows[0] for row in rows[1:]):
        return list(rows[0])
    columns: list[Level] = []
    before = None
    for column in zip(*rows, strict=True):
        columns.append(columns[-1] if column == before else torch.tensor(column, dtype=torch.float64))
        before = column
    return columns
