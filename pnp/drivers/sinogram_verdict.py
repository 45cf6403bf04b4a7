"""What looks wrong about a reconstruction from a sinogram (B, C, n_views, n_bins), as sentences of `verdict`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..algorithms.least_squares import LeastSquaresStep
from .common_errors import NEIGHBOURS, Run, find_runs
from .problem import Problem

LARGE_ERRORS = 2.5
"""Errors common to bins or views, root mean square, over what is expected of them, from which on they are more."""
DRIFT, DRIFT_MISFIT = 0.3, 1.5
"""Share of the squared residuals that a view's mean over its bins carries, and misfit, of a beam that drifts."""

RING_WIDTH = 5
"""Side in pixels of the median that removes rings and arcs a pixel wide from x."""
MIRRORED = 0.35
"""Share of a bin's difference from which on the bin on the other side of the axis differs as well, as objects do, or
the bin beside it just before or after."""
STEADY, LEAST_VIEWS = 0.3, 6
"""Scatter over a run of views, over their median, of an error at most; an edge along the rays rises and falls within a
few views. The run has at least the views of the scan over the second number."""
NAMED = 3
"""Bins that are named; more are counted."""


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


def errors_of_bins(problem: Problem, counted: Tensor) -> str | None:
    """Say that bins differ from their neighbours in all views, or in a run of them, where they do.

    x explains that by rings and arcs, so that its residuals show little. Those of x without what is a pixel wide show
    it, and what is round about the axis, which differs in the bins on either side of it.

    Args:
        problem: with a sinogram.
        counted: which measurements count, like y.
    """
    h, operator = problem.used, problem.operator
    pitch, offset = getattr(operator, "pitch", None), getattr(operator, "offset", None)
    if not isinstance(h, LeastSquaresStep) or problem.common_errors() is not None or pitch is None or offset is None:
        return None
    r = h.y - operator.A(_without_thin_lines(problem.z))
    runs = find_runs(r, torch.where(counted, h.weights, 0))
    axis = (r.shape[-1] - 1) / 2 - float(offset) / float(pitch)
    named = {k: run for (b, c, k), run in runs.items() if _is_of_detector(r[b, c], run, axis, k)}
    if not named:
        return None
    bins = ", ".join(map(str, sorted(named)[:NAMED])) + (
        f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    )
    one, parts = len(named) == 1, [run for run in named.values() if run.last - run.first < r.shape[2]]
    where = f"in views {parts[0].first} to {parts[0].last - 1}" if parts else "in all views"
    size = max((run.error for run in named.values()), key=abs)
    return (
        f"{'bin' if one else 'bins'} {bins} of the detector {'differs from its' if one else 'differ from their'} "
        f"neighbours {where}, by up to {size:.2g}, and what lies across the axis does not: an error of the detector, "
        f"of which x makes {'arcs' if parts else 'rings'}; use data_term=LeastSquares(bin_std='estimate')"
    )


def _without_thin_lines(x: Tensor) -> Tensor:
    """Return x (B, C, H, W) with the median of a few pixels taken along columns, then along rows."""
    half = RING_WIDTH // 2
    for axis, ends in ((2, (0, 0, half, half)), (3, (half, half, 0, 0))):
        x = pad(x, ends, mode="replicate").unfold(axis, RING_WIDTH, 1).median(-1).values
    return x


def _off(r: Tensor) -> Tensor:
    """Return the differences of residuals (n_views, n_bins) from the mean of the bins on either side."""
    around = pad(r[None], (NEIGHBOURS, NEIGHBOURS), mode="replicate")[0].unfold(1, 2 * NEIGHBOURS + 1, 1)
    middle = around[..., NEIGHBOURS]
    return middle - (around.sum(-1) - middle) / (2 * NEIGHBOURS)


def _turns(r: Tensor, run: Run, k: int) -> bool:
    """Whether a bin beside k differs as well just before the run of views, or behind it.

    What is thin in the object, such as a wire or the wall of a pipe, stays in the bin where its path turns back, and
    is in the bin beside that before and after: for a third of the run, as the path is a parabola there.
    """
    off = _off(r) * math.copysign(1, run.error)
    n = max(2, (run.last - run.first) // 4)
    parts = [off[max(0, run.first - n) : run.first], off[run.last : run.last + n]]
    beside = [k + side for side in (-1, 1) if 0 <= k + side < off.shape[1]]
    return any(float(part[:, beside].mean(0).max()) > MIRRORED * abs(run.error) for part in parts if len(part))


def _is_of_detector(r: Tensor, run: Run, axis: float, k: int) -> bool:
    """Whether bin k differs steadily from its neighbours in a run of views, and the bin across the axis does not.

    Args:
        r: residuals (n_views, n_bins) of x without thin lines.
        run: the views.
        axis: of rotation, in bins. Where the bin across it lies outside the detector, nothing is known.
    """
    off = _off(r[run.first : run.last])
    typical = off.median(0).values
    size = abs(float(typical[k]))
    is_short, scatter = LEAST_VIEWS * len(off) < len(r), float((off[:, k] - typical[k]).square().mean().sqrt())
    if len(off) < len(r) and (is_short or scatter > STEADY * size or _turns(r, run, k)):
        return False
    across = round(2 * axis - k)
    found = typical[max(0, across - 1) : max(0, across + 2)]
    return found.numel() > 0 and float((found * math.copysign(1, typical[k])).max()) <= MIRRORED * size
