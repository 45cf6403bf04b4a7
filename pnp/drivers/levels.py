"""First estimate, noise levels and limits of a solve: what follows from the bound data term alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import each, images
from ..algorithms.iterations import Level, State, admm, hqs
from ..algorithms.protocols import BoundDataTerm, Denoiser
from ..algorithms.schedules import Schedule, last_level, relaxation, robust_range
from .arguments import as_initial, as_levels
from .noise_weights import norm
from .result import GIVEN, Candidate

FIRST_SIGMA = 0.4
"""First noise level over the robust range of the first estimate."""
MAX_ITER = {"admm": 12, "hqs": 24}
"""Default max_iter."""
ANNEALING = {"admm": 12, "hqs": 20}
"""Iterations from the first noise level to the last, unless max_iter is less."""


@dataclass(frozen=True)
class Start:
    """Where the iterations start.

    Attributes:
        z: the first estimate (B, C, H, W).
        levels: (sigma_k, alpha_k) of all iterations: numbers, or tensors (B,) where the images have their own.
        last: for each image the k from which on sigma_k is the last level.
        scales: for each image the norm of z or of its noise, whichever is larger.
        flatness: for each image the spectral flatness of A*WA.
        iteration: the generator that runs, of `algorithms.iterations`.
    """

    z: Tensor
    levels: list[tuple[Level, Level]]
    last: list[int]
    scales: list[float]
    flatness: list[float]
    iteration: Callable[..., Iterator[State]]


@dataclass(frozen=True)
class Tuning:
    """How strong the prior is and how long the iteration runs.

    Attributes:
        strengths, n_iters: one number for all images, or one for each.
        source: where they are from, as in `Result`.
        tried: for each image what `held_out` tried, the one that it chose first; empty where it tried nothing.
        n_rejected: outliers that were left out when it was chosen.
        final: whether it is not chosen again.
    """

    strengths: tuple[float, ...]
    n_iters: tuple[int, ...]
    source: str = GIVEN
    tried: tuple[tuple[Candidate, ...], ...] = ()
    n_rejected: int = 0
    final: bool = False

    def of_images(self, n: int) -> tuple[list[float], list[int]]:
        """Return strengths and n_iters for each of n images.

        >>> Tuning((1.0,), (24,)).of_images(2)
        ([1.0, 1.0], [24, 24])
        """
        all_alike = len(self.strengths) == 1
        return list(self.strengths) * (n if all_alike else 1), list(self.n_iters) * (n if all_alike else 1)

    @property
    def report(self) -> dict[str, Any]:
        """The fields of `Result` that tell of it."""
        errors = [(one[0].error, one[0].standard_error) if one else None for one in self.tried]
        alone = len(self.strengths) == 1
        return {
            "strength": self.strengths[0] if alone else self.strengths,
            "strength_source": self.source,
            "prediction_error": None if not errors else errors[0] if alone else tuple(errors),
            "candidates": () if not errors else self.tried[0] if alone else self.tried,
        }

    @property
    def numbers(self) -> dict[str, Any]:
        """What a checkpoint holds of it, values of JSON."""
        return {
            "strengths": list(self.strengths),
            "n_iters": list(self.n_iters),
            "source": self.source,
            "tried": [[list(candidate) for candidate in one] for one in self.tried],
            "n_rejected": self.n_rejected,
            "final": self.final,
        }

    @classmethod
    def of_numbers(cls, held: dict[str, Any]) -> Tuning:
        """Return that of a checkpoint."""
        tried = tuple(tuple(Candidate(*row) for row in one) for one in held["tried"])
        rest = held["source"], tried, held["n_rejected"], held["final"]
        return cls(tuple(held["strengths"]), tuple(held["n_iters"]), *rest)


def first_estimate(h: BoundDataTerm, x0: Any, low: float | None, high: float | None) -> Tensor:
    """Return x0, or the data term's own first estimate, within the bounds."""
    z = as_initial(x0, h.back_projection) if x0 is not None else h.initial()
    if not bool(z.isfinite().all()):
        raise ValueError(
            "solve: the first estimate, from the operator and y alone, holds NaN or infinity; check that the operator "
            "is finite and its adjoint right, and the scale of y and noise_std"
        )
    if low is None and high is None:
        return z
    if z.is_complex():
        raise ValueError(f"solve: bounds must be None for complex images, which have no order, got {(low, high)}")
    return z.clamp(low, high)


def norms(x: Tensor) -> list[float]:
    """Return ||x|| of each image."""
    return [norm(image) for image in images(x)]


def levels_of_images(
    schedule: Any,
    algorithm: str,
    curvatures: Sequence[float],
    flatness: Sequence[float],
    z: Tensor,
    denoiser: Denoiser,
    n_iters: Sequence[int],
) -> list[tuple[list[float], int]]:
    """Return what `as_levels` does for each image: of one schedule for all where it is given, else of its own.

    All have as many levels as the image with the most iterations: the others hold their last one.
    """
    longest = max(n_iters)
    if schedule is not None:
        return [as_levels(schedule, longest)] * len(z)
    rows = zip(curvatures, flatness, images(z), n_iters, strict=True)
    sigmas = [(last_sigma(algorithm, c, e), x, min(ANNEALING[algorithm], n)) for c, e, x, n in rows]
    return [as_levels(default_schedule(sigma, x, denoiser, n), longest) for sigma, x, n in sigmas]


def last_sigma(algorithm: str, curvature: float, flatness: float) -> float:
    """Return the last noise level of the default schedule: ||A*WA||^(-1/2), or more where A*WA falls off."""
    return last_level(algorithm, flatness) / math.sqrt(curvature)


def iteration_of(algorithm: str, rho: float | None, h: BoundDataTerm, n_images: int) -> Callable[..., Iterator[State]]:
    """Return the generator of the iterations; rho is ADMM's relaxation, None: as far as each image is measured."""
    if algorithm == "hqs":
        return hqs
    if rho is None and hasattr(h, "coverage"):
        rhos = [relaxation(c) for c in each(h.coverage(), n_images)]
        return partial(admm, relaxation=_columns([[one] for one in rhos])[0])
    return partial(admm, relaxation=1.0 if rho is None else rho)


def default_schedule(sigma_min: float, x: Tensor, denoiser: Denoiser, n_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to sigma_min, within the denoiser's range.

    Args:
        sigma_min: the last level, see `last_sigma`.
        x: the first estimate of one image.
        denoiser: its `sigma_range` counts, where it has one.
        n_iter: levels.
    """
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, n_iter)


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
