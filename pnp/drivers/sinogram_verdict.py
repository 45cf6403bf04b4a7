"""What looks wrong about a reconstruction from a sinogram (B, C, n_views, n_bins), as sentences of `verdict`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algorithms.least_squares import LeastSquaresStep
from .problem import Problem

LARGE_ERRORS = 2.5
"""Errors common to bins or views, root mean square, over what is expected of them, from which on they are more."""
DRIFT, DRIFT_MISFIT = 0.3, 1.5
"""Share of the squared residuals that a view's mean over its bins carries, and misfit, of a beam that drifts."""


def drift_of_views(problem: Problem, r: Tensor, counted: Tensor) -> str | None:
    """Say that errors common to all bins of a view carry the misfit, where they do.

    Args:
        problem: with a sinogram.
        r: residuals in noise levels, like y.
        counted: which of them count, like y.
    """
    misfit = problem.misfit()
    if not misfit > DRIFT_MISFIT:
        return None
    kept = torch.where(counted, r, 0).flatten(3)
    means = kept.sum(-1).square() / counted.flatten(3).sum(-1).clamp(min=1)
    if (share := float(means.sum() / kept.square().sum())) < DRIFT:
        return None
    return (
        f"misfit {misfit:.2g}, of which {100 * share:.0f} % are errors common to all bins of a view: the beam "
        "drifts or flickers; normalise the views, or use data_term=LeastSquares(view_std='estimate')"
    )


def large_errors(problem: Problem) -> str | None:
    """Say that the common errors hold a part of the object that x lacks, where they are larger than modelled."""
    errors, h = problem.common_errors(), problem.used
    if errors is None or not isinstance(h, LeastSquaresStep) or h.errors is None:
        return None
    expected, counts = h.errors.expected_square(), h.errors.weights > 0
    found, level = (float(square[counts].mean()) ** 0.5 for square in (errors.square(), expected))
    if not found > LARGE_ERRORS * level:
        return None
    return (
        f"errors common to bins or views are {found:.2g} rms where {level:.2g} is expected: they hold a part of the "
        "object that x lacks; leave x0 and schedule open and raise max_iter, or give larger bin_std and view_std"
    )
