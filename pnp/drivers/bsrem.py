"""Penalised maximum likelihood of counts with the relative difference prior: `bsrem`, the field's usual baseline.

It maximises L(x) - beta R(x), L the Poisson log-likelihood of y at A x + r and R the prior of `relative_difference.py`,
by subsets b of the views, n of them, one after the other in each iteration k (block sequential regularised EM: S. Ahn
and J. A. Fessler, Globally convergent image reconstruction for emission tomography using relaxed ordered subsets
algorithms, IEEE Trans. Med. Imaging 22 (2003) 613),

    x <- max(x + a_k x/p (n grad L_b(x) - beta grad R(x)), t),    p = A^T 1 + 2 c beta sum_k w_jk,

a_k = 1/(1 + (k - 1)/15) for n > 1, else 1; c bounds the prior's curvature, so that no beta needs smaller steps, and
t is a small fraction of x, from which a voxel can rise again. For beta = 0 and n = 1 a step is one of MLEM. Iterations
converge: more of them add no noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..algorithms.poisson import ratio
from ..algorithms.protocols import Operator
from ..algorithms.relative_difference import CURVATURE, RelativeDifference
from ..checks import check_number
from .checkpoint import Checkpoint
from .em import EMState, Step, Subset, reconstruct_counts
from .result import Result
from .result_warning import warn_of

RELAXATION = 1 / 15
"""By which a step of each further iteration is shorter, with subsets."""
FLOOR, EPS = 1e-6, 1e-3
"""Smallest x, and eps of the prior, over the mean of the first image."""


def bsrem(
    operator: Operator,
    y: Any,
    *,
    n_subsets: int,
    beta: float,
    gamma: float = 2.0,
    voxel_size: float | tuple[float, ...] | None = None,
    background: Any = 0.0,
    x0: Any = None,
    max_iter: int = 40,
    check_adjoint: bool = True,
    callback: Callable[[EMState], Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
) -> Result:
    """Return the image with the highest penalised likelihood, with the relative difference prior.

    Args:
        operator, y, n_subsets, background, x0, check_adjoint, callback, checkpoint, progress: as of `osem`.
        beta: weight of the prior, at least 0. It has the unit of A^T 1, counts of all views of one in a voxel: where
            beta times the weights of a voxel's neighbours, about 20, is A^T 1, the prior is as stiff as the counts.
        gamma: from 0, how much large differences are spared.
        voxel_size: sides along the spatial axes, or (transaxial, axial); None: that of the operator, else cubes.
        max_iter: iterations, each through all subsets.

    Returns:
        See `pnp.Result`; its history and its warnings are those of `osem`.

    Warns:
        ResultWarning: all warnings in one.

    Raises:
        ValueError, TypeError: as `osem`.
    """
    check_number("n_subsets", n_subsets, above=1, integer=True, or_equal=True, caller="bsrem")
    check_number("beta", beta, above=0, or_equal=True, caller="bsrem")
    check_number("gamma", gamma, above=0, or_equal=True, caller="bsrem")
    size = getattr(operator, "voxel_size", 1.0) if voxel_size is None else voxel_size

    def steps(subsets: list[Subset], x: Tensor) -> Step:
        return _steps(subsets, x, float(beta), float(gamma), _spacing(size, x.ndim - 2))

    options = (check_adjoint, callback, checkpoint, progress)
    settings = {"beta": beta, "gamma": gamma, "voxel_size": size}
    result = reconstruct_counts(
        "bsrem", operator, y, int(n_subsets), background, x0, max_iter, *options, steps, settings
    )
    warn_of("bsrem", result.warnings, 3)
    return result


def _spacing(size: Any, n: int) -> tuple[float, ...]:
    """Return a side for each spatial axis."""
    sizes = size if isinstance(size, tuple) else (size,) * n
    full = (sizes[0],) * (n - 1) + sizes[1:] if len(sizes) == 2 and n > 2 else sizes
    if len(full) != n or not all(0 < float(side) < math.inf for side in full):
        raise ValueError(f"bsrem: voxel_size must be positive, a side for each of {n} axes, got {size!r:.60}")
    return tuple(float(side) for side in full)


def _steps(subsets: list[Subset], x: Tensor, beta: float, gamma: float, spacing: tuple[float, ...]) -> Step:
    """Return the update by one subset in iteration k."""
    n, level = len(subsets), x.flatten(1).mean(1).reshape(-1, *(1,) * (x.ndim - 1))
    prior = RelativeDifference(gamma, EPS * level, spacing)
    sensitivity = torch.stack([subset.sensitivity for subset in subsets]).sum(0)
    seen = torch.stack([subset.seen for subset in subsets]).any(0)
    p = torch.where(seen, sensitivity, 1.0) + 2 * CURVATURE * beta * prior.weights(sensitivity)

    def step(subset: Subset, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        relaxation = 1.0 if n == 1 else 1 / (1 + (k - 1) * RELAXATION)
        expected = subset.operator.A(x) + subset.background
        slope = n * (subset.operator.A_adjoint(ratio(subset.y, expected)) - subset.sensitivity)
        slope = slope - beta * prior.gradient(x) if beta else slope
        return torch.where(seen, torch.maximum(x + relaxation * x / p * slope, FLOOR * level), 0.0), expected

    return step
