"""Estimate the errors that measurements have in common, such as rings, from the measurements and the residuals.

A plain solve explains an error of a bin by a ring, or by an arc where some views have it, and its residuals then show
little. So the standard deviation s is estimated in two steps:

1. s is taken as five times the noise of a bin's mean over the views, which costs x little where there are no errors.
   Bins with large errors, in all views or in a run of them, have their own: they stand out from their neighbours in the
   residual of the first estimate once denoising has removed rings and arcs from it.
2. After the solve, s^2 is the mean of E[c^2 | y] over the bins, one step of expectation maximisation (Dempster, Laird
   and Rubin 1977). If s grows, x is solved for once more. Further steps are not taken: what is symmetric about the axis
   of rotation is common to all views, too, and would by and by be taken for errors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..algorithms.common_errors import VIEWS, ErrorModel
from ..algorithms.least_squares import LeastSquaresStep

NOMINAL = 5.0
"""Standard deviation that is first taken, over that of the noise's mean over a bin's views, or a view's bins."""
GROWTH = 1.5
"""If s grows by this factor, x is solved for once more."""
NEIGHBOURS = 2
"""Bins on either side with which a bin is compared."""
MIN_VIEWS, WINDOWS_PER_SCAN, WINDOW_GROWTH = 8, 16, 1.5
"""Shortest run of views: so many, or a scan's over the second number; lengths of longer ones grow by the third."""
STANDS_OUT, STANDS_OUT_RATIO = 12.0, 2.0
"""Mean over a run of views, in its noise, of a bin with an error of its own, and its ratio to that of nine bins in ten."""
MAX_OWN = 0.05
"""Fraction of the bins that have errors of their own at most."""


class Run(NamedTuple):
    """A run of views in which a bin differs from its neighbours."""

    first: int
    last: int
    """The view behind the run."""
    error: float
    """Mean difference there, in units of y."""


class ErrorEstimate:
    """Standard deviations of common errors, from one solve to the next.

    Args:
        bins, views: whether those of bins, and of views, are estimated.

    Attributes:
        model: the current one.
        n_rounds: solves that were judged.
    """

    def __init__(self, bins: bool, views: bool) -> None:
        self.bins, self.views = bins, views
        self.n_rounds = 0
        self.model = ErrorModel()
        self._own: Tensor | None = None  # which errors have a standard deviation of their own

    def begin(self, h: LeastSquaresStep, reference: Tensor) -> ErrorModel:
        """Return the model of the first solve.

        Args:
            h: the data term, with the common errors that are given.
            reference: an image without rings.
        """
        weights = h.weights.expand(h.y.shape)
        given = h.model if h.model is not None else ErrorModel()
        bin_std, view_std, segments = given.bin_std, given.view_std, None
        if self.views:
            view_std = NOMINAL * _typical(weights.flatten(VIEWS + 1).sum(-1), 2)
        if self.bins:
            level = NOMINAL * _typical(weights.sum(VIEWS, keepdim=True), VIEWS)
            found = {} if h.y.ndim != 4 else find_runs(h.y - h.operator.A(reference), weights)
            segments, errors = _segments(found, h.y)
            self._own = errors > 0
            bin_std = torch.where(self._own, errors, level)
        self.model = ErrorModel(bin_std, view_std, segments)
        return self.model

    def update(self, h: LeastSquaresStep, x: Tensor) -> bool:
        """Estimate the standard deviations from the residuals of x; return whether x is to be solved for again."""
        assert h.errors is not None
        old, self.n_rounds = self.model, self.n_rounds + 1
        of_bins, of_views = h.errors.posterior_square(h.y - h.operator.A(x))
        bin_std, view_std, grown = old.bin_std, old.view_std, False
        if self.bins and of_bins is not None and bin_std is not None and self._own is not None:
            counts = ~self._own & (h.errors.bin_weight > 0)
            level = _root_mean(of_bins, counts, VIEWS)
            grown |= bool((counts & (level > GROWTH * bin_std)).any())
            bin_std = torch.where(self._own, bin_std, level)
        if self.views and of_views is not None and view_std is not None:
            level = _root_mean(of_views, h.errors.view_weight > 0, 2)
            grown |= bool((level > GROWTH * view_std).any())
            view_std = level
        self.model = ErrorModel(bin_std, view_std, old.segments)
        return grown and self.n_rounds == 1

    @property
    def numbers(self) -> dict[str, Any]:
        """State for a checkpoint; segments follow from the arguments."""
        std = {"bin_std": self.model.bin_std, "view_std": self.model.view_std}
        return {"n_rounds": self.n_rounds} | {name: None if s is None else s.tolist() for name, s in std.items()}

    def restore(self, numbers: dict[str, Any], like: Tensor) -> None:
        """Take over the state of a checkpoint."""
        std = [
            None if numbers[name] is None else torch.tensor(numbers[name], dtype=like.dtype, device=like.device)
            for name in ("bin_std", "view_std")
        ]
        self.model, self.n_rounds = ErrorModel(*std, self.model.segments), numbers["n_rounds"]


def find_runs(r: Tensor, weights: Tensor) -> dict[tuple[int, int, int], Run]:
    """Return the bins (b, c, bin) that differ from their neighbours on either side in a run of views.

    Args:
        r: residuals (B, C, n_views, n_bins) of an image without rings and arcs.
        weights: 1/noise_std^2 of y, of its shape.
    """
    sides = [NEIGHBOURS + k for k in range(-NEIGHBOURS, NEIGHBOURS + 1) if k]
    n_views, n_bins = r.shape[VIEWS:]
    found: dict[tuple[int, int, int], Run] = {}
    if n_bins <= 2 * NEIGHBOURS or n_views < MIN_VIEWS:
        return found
    # The mean of the neighbours that count, and its variance over the noise's.
    counted, known = pad(weights * r, [NEIGHBOURS] * 2), pad(weights, [NEIGHBOURS] * 2)
    sums, total = (sum(t[..., k : k + n_bins] for k in sides) for t in (counted, known))
    variance = 1 / weights + 1 / total
    usable = variance.isfinite()
    precision = torch.where(usable, 1 / torch.where(usable, variance, 1), 0)
    difference = precision * torch.where(usable, r - sums / torch.where(usable, total, 1), 0)
    for b in range(len(r)):
        for c in range(r.shape[1]):
            own = _runs_of_image(difference[b, c].cpu().double(), precision[b, c].cpu().double())
            found |= {(b, c, k): run for k, run in own.items()}
    return found


def _runs_of_image(difference: Tensor, precision: Tensor) -> dict[int, Run]:
    """Return runs by bin, given differences times their precision, and the precision, (n_views, n_bins) each."""
    n_views, n_bins = difference.shape
    sums, total = (pad(t.cumsum(0), (0, 0, 1, 0)) for t in (difference, precision))
    best = torch.zeros(n_bins, dtype=difference.dtype)
    length = max(MIN_VIEWS, n_views // WINDOWS_PER_SCAN)
    while length <= n_views:
        best = torch.maximum(best, _score(sums, total, length).amax(0))
        length = n_views if length < n_views < WINDOW_GROWTH * length else math.ceil(WINDOW_GROWTH * length)
    limit = max(STANDS_OUT, STANDS_OUT_RATIO * float(best.quantile(0.9)))
    around = pad(best[None], [NEIGHBOURS] * 2).unfold(1, 2 * NEIGHBOURS + 1, 1)[0].amax(-1)
    # A bin with an error makes its neighbours differ from theirs, in the opposite sense and less.
    bins = ((best > limit) & (best == around)).nonzero()[:, 0]
    bins = bins[best[bins].argsort(descending=True)][: max(1, int(MAX_OWN * n_bins))]
    return {int(k): _longest(sums[:, k], total[:, k]) for k in bins}


def _score(sums: Tensor, total: Tensor, length: int) -> Tensor:
    """Return |mean| over its noise of all runs of this length, given cumulated sums and precisions (n_views + 1, n)."""
    difference, precision = sums[length:] - sums[:-length], total[length:] - total[:-length]
    return torch.where(precision > 0, difference.abs() / precision.clamp(min=1e-300).sqrt(), 0)


def _longest(sums: Tensor, total: Tensor) -> Run:
    """Return the run of views of one bin whose mean is largest in its noise."""
    n, best = len(sums) - 1, (0.0, 0, 0)
    for length in range(MIN_VIEWS, n + 1):
        score = _score(sums[:, None], total[:, None], length)[:, 0]
        best = max(best, (float(score.max()), int(score.argmax()), length))
    _, first, length = best
    last = first + length
    return Run(first, last, float((sums[last] - sums[first]) / (total[last] - total[first])))


def _segments(found: dict[tuple[int, int, int], Run], y: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the runs as segments of the views, and the sizes of their errors (B, C, n_segments, n_bins), else 0."""
    n_views = y.shape[VIEWS]
    partial = any(run.first > 0 or run.last < n_views for run in found.values())
    sizes = torch.zeros((*y.shape[:2], 3 if partial else 1, *y.shape[3:]), dtype=y.dtype, device=y.device)
    segments = torch.zeros(y.shape, dtype=torch.int64, device=y.device) if partial else None
    for (b, c, k), run in found.items():
        sizes[b, c, 1 if segments is not None and run.first > 0 else 0, k] = abs(run.error)
        if segments is not None:  # before the run, the run, behind it; a run from the first view on has number 0
            segments[b, c, run.first :, k] = 1 if run.first > 0 else 0
            segments[b, c, run.last :, k] = 2
    return segments, sizes


def _typical(weight: Tensor, axis: int) -> Tensor:
    """Return the median noise of sums with these weights, over all axes from this one on, which are kept."""
    std = torch.where(weight > 0, weight.clamp(min=torch.finfo(weight.dtype).tiny) ** -0.5, math.nan)
    median = std.flatten(axis).nanmedian(-1).values
    return median.nan_to_num().reshape(*median.shape, *[1] * (weight.ndim - axis))


def _root_mean(square: Tensor, counts: Tensor, axis: int) -> Tensor:
    """Return the root of the mean square of those that count, over all axes from this one on, which are kept."""
    mean = torch.where(counts, square, 0).flatten(axis).sum(-1) / counts.flatten(axis).sum(-1).clamp(min=1)
    return mean.sqrt().reshape(*mean.shape, *[1] * (square.ndim - axis))
