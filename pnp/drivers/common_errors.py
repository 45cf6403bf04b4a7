"""Estimate the errors that measurements have in common, such as rings, from the measurements and the residuals.

A plain solve explains an error of a bin by a ring, or by an arc where some views have it, and its residuals then show
little. So the standard deviation s of bins is estimated in two steps:

1. s is taken as five times the noise of a bin's mean over the views, which costs x little where there are no errors.
   Bins with large errors, in all views or in a run of them, have their own: they stand out from their neighbours in the
   residual of the first estimate once denoising has removed rings and arcs from it.
2. After the solve, s^2 is the mean of E[c^2 | y] over the bins, one step of expectation maximisation (Dempster, Laird
   and Rubin 1977). If s grows, x is solved for once more. Further steps are not taken: what is symmetric about the axis
   of rotation is common to all views, too, and would by and by be taken for errors. Where the residuals' means over a
   quarter of the views are off by twice their noise, the errors have changed during the scan: there is then one for
   each quarter.

Errors of views are not explained by x. They are estimated from the residuals alone, where a view's mean over its bins
is more than twice its noise in the root mean square, and x is solved for again.
"""

from __future__ import annotations

import math
from dataclasses import replace
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
QUARTERS, MIN_QUARTER = 4, 20
"""Errors of bins change slowly during a scan: parts of it with an error each, and the fewest views of a part."""
MIN_SCAN = 10
"""With fewer views what is common to all of them is a large part of y: errors of bins are not estimated."""
OFF = 2.0
"""Root mean square of the views' mean residuals, in their noise, beyond which views have errors of their own."""
NEIGHBOURS = 2
"""Bins on either side with which a bin is compared."""
MIN_VIEWS, WINDOWS_PER_SCAN, WINDOW_GROWTH = 8, 16, 1.5
"""Shortest run of views: so many, or a scan's over the second number; lengths of longer ones grow by the third."""
STANDS_OUT, STANDS_OUT_RATIO = 12.0, 2.5
"""Mean over a run of views, in its noise, of a bin with an error of its own; its ratio to the median of bins around."""
CLIP = 5.0
"""Largest difference of a single measurement that counts, in its noise: an outlier is no run."""
AROUND = 8
"""Bins on either side for that median: edges of the object, which the reference has lost, fill some bins together."""
WHOLE = 0.8
"""Ratio of the mean over all views to that over a run, in their noise, from which on the error is in all views."""
MAX_OWN = 0.05
"""Fraction of the bins that have errors of their own at most."""


class Run(NamedTuple):
    """A run of views in which a bin differs from its neighbours."""

    first: int
    last: int
    """The view behind the run."""
    error: float
    """Median difference there, in units of y."""


class ErrorEstimate:
    """Standard deviations of common errors, from one solve to the next.

    Args:
        bins, views: whether those of bins, and of views, are estimated.

    Attributes:
        model: the current one.
        bin_level, view_level: the estimates (B, C), without bins that have errors of their own; None: not estimated.
        bins_judged: whether the residuals were asked for the level of bins.
    """

    def __init__(self, bins: bool, views: bool) -> None:
        self.bins, self.views, self.bins_judged = bins, views, False
        self.model = ErrorModel()
        self.bin_level: Tensor | None = None
        self.view_level: Tensor | None = None
        self._runs: dict[tuple[int, int, int], Run] = {}
        self._changing = torch.zeros(0)  # which images (B, C) have errors that change during the scan
        self._own: Tensor | None = None  # sizes of errors that bins have of their own, else 0

    def begin(self, h: LeastSquaresStep, reference: Tensor) -> None:
        """Set the model of the first solve.

        Args:
            h: the data term, with the common errors that are given.
            reference: an image without rings.
        """
        weights = h.weights.expand(h.y.shape)
        self.model = h.model if h.model is not None else ErrorModel()
        if self.views:
            self.view_level = torch.zeros(h.y.shape[:VIEWS], dtype=h.y.dtype, device=h.y.device)
        if self.bins and h.y.shape[VIEWS] >= MIN_SCAN:
            self._runs = {} if h.y.ndim != 4 else find_runs(h.y - h.operator.A(reference), weights)
            self._changing = torch.zeros(h.y.shape[:VIEWS], dtype=torch.bool, device=h.y.device)
            self.bin_level = NOMINAL * _typical(weights.sum(VIEWS))
            self._set_segments(h.y)
        self._set_levels()

    def update(self, h: LeastSquaresStep, x: Tensor) -> bool:
        """Estimate the standard deviations from the residuals of x; return whether x is to be solved for again."""
        r = h.y - h.operator.A(x)
        grown = self._update_views(h, r) or self._update_bins(h, r)
        if grown:
            self._set_levels()
        return grown

    def _update_views(self, h: LeastSquaresStep, r: Tensor) -> bool:
        """Estimate the level of views once; return whether one has grown."""
        if self.view_level is None or bool(self.view_level.any()):
            return False
        weights = h.weights.expand(r.shape)
        rest = weights * (r if h.errors is None else r - h.errors.found(r))
        sums, total = rest.flatten(VIEWS + 1).sum(-1), weights.flatten(VIEWS + 1).sum(-1)
        known = total > 0
        total = torch.where(known, total, 1)
        off = _root_mean(sums.square() / total, known) > OFF
        noise = _root_mean(1 / total, known)
        level = (_root_mean((sums / total).square(), known).square() - noise.square()).clamp(min=0).sqrt()
        self.view_level = torch.where(off, level, 0)
        return bool(self.view_level.any())

    def _update_bins(self, h: LeastSquaresStep, r: Tensor) -> bool:
        """Estimate the level of bins once; return whether one has grown."""
        if self.bins_judged or self.bin_level is None or self._own is None or h.errors is None:
            return False
        self.bins_judged = True
        common = (self._own == 0) & (h.errors.bin_weight > 0)
        level = _root_mean(h.errors.posterior_square(r), common) / (1 - h.errors.smooth_share) ** 0.5
        grown = level > GROWTH * self.bin_level
        self.bin_level = torch.where(grown, level, self.bin_level)
        weights = h.weights.expand(r.shape)
        means, noise = _means_of_parts(r - h.errors.found(r), weights)
        counts = common[:, :, :1] & noise.isfinite()
        self._changing = _root_mean((means / noise).square(), counts) > OFF
        if bool(self._changing.any()):
            typical = NOMINAL * _typical(weights.sum(VIEWS) / _parts(r.shape[VIEWS]))
            self.bin_level = torch.where(self._changing, torch.maximum(typical, self.bin_level), self.bin_level)
            self._set_segments(h.y)
        return bool((grown | self._changing).any())

    def _set_segments(self, y: Tensor) -> None:
        """Set the parts of the scan in which bins have an error each, and the errors of single bins."""
        segments, self._own = _segments(self._runs, self._changing, y)
        self.model = replace(self.model, segments=segments, own=self._own > 0)

    def _set_levels(self) -> None:
        """Set the standard deviations of the model to the current estimates."""
        if self.bin_level is not None and self._own is not None:
            level = self.bin_level.reshape(*self.bin_level.shape, *[1] * (self._own.ndim - 2))
            self.model = replace(self.model, bin_std=torch.where(self._own > 0, self._own, level))
        if self.view_level is not None and bool(self.view_level.any()):
            self.model = replace(self.model, view_std=self.view_level[..., None])

    @property
    def numbers(self) -> dict[str, Any]:
        """State for a checkpoint; all else follows from the arguments."""
        levels = [None if level is None else level.tolist() for level in (self.bin_level, self.view_level)]
        return {"bins_judged": self.bins_judged, "levels": levels, "changing": self._changing.tolist()}

    def restore(self, numbers: dict[str, Any], y: Tensor) -> None:
        """Take over the state of a checkpoint, after `begin`; y are the measurements."""
        self.bins_judged, (bins, views) = numbers["bins_judged"], numbers["levels"]
        if self.bin_level is not None:
            self.bin_level = torch.as_tensor(bins).to(self.bin_level)
            self._changing = torch.as_tensor(numbers["changing"], dtype=torch.bool, device=y.device)
            self._set_segments(y)
        if self.view_level is not None:
            self.view_level = torch.as_tensor(views).to(self.view_level)
        self._set_levels()


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
    difference = torch.where(usable, r - sums / torch.where(usable, total, 1), 0)
    for b in range(len(r)):
        for c in range(r.shape[1]):
            own = _runs_of_image(difference[b, c].cpu().double(), precision[b, c].cpu().double())
            found |= {(b, c, k): run for k, run in own.items()}
    return found


def _runs_of_image(difference: Tensor, precision: Tensor) -> dict[int, Run]:
    """Return runs by bin, given differences and their precision, (n_views, n_bins) each."""
    n_views, n_bins = difference.shape
    root = precision.sqrt()
    clipped = root * (root * difference).clamp(-CLIP, CLIP)
    sums, total = (pad(t.cumsum(0), (0, 0, 1, 0)) for t in (clipped, precision))
    best = torch.zeros(n_bins, dtype=difference.dtype)
    length = max(MIN_VIEWS, n_views // WINDOWS_PER_SCAN)
    while length <= n_views:
        best = torch.maximum(best, _score(sums, total, length).amax(0))
        length = n_views if length < n_views < WINDOW_GROWTH * length else math.ceil(WINDOW_GROWTH * length)
    limit = (STANDS_OUT_RATIO * _windows(best, AROUND).nanmedian(-1).values).clamp(min=STANDS_OUT)
    # A bin with an error makes its neighbours differ from theirs, in the opposite sense and less.
    largest = _windows(best, NEIGHBOURS).nan_to_num().amax(-1)
    bins = ((best > limit) & (best == largest)).nonzero()[:, 0]
    bins = bins[best[bins].argsort(descending=True)][: max(1, int(MAX_OWN * n_bins))]
    return {int(k): _strongest(difference[:, k], sums[:, k], total[:, k]) for k in bins}


def _windows(values: Tensor, reach: int) -> Tensor:
    """Return the values around each, (n, 2 reach + 1), NaN beyond the ends."""
    return pad(values, (reach, reach), value=math.nan).unfold(0, 2 * reach + 1, 1)


def _score(sums: Tensor, total: Tensor, length: int) -> Tensor:
    """Return |mean| over its noise of all runs of this length, given cumulated sums and precisions (n_views + 1, n)."""
    difference, precision = sums[length:] - sums[:-length], total[length:] - total[:-length]
    return torch.where(precision > 0, difference.abs() / precision.clamp(min=1e-300).sqrt(), 0)


def _strongest(difference: Tensor, sums: Tensor, total: Tensor) -> Run:
    """Return the run of views of one bin whose mean is largest in its noise, all views where theirs nearly is."""
    n = len(sums) - 1
    best = (float(_score(sums[:, None], total[:, None], n)) / WHOLE, 0, n)
    for length in range(MIN_VIEWS, n):
        score = _score(sums[:, None], total[:, None], length)[:, 0]
        best = max(best, (float(score.max()), int(score.argmax()), length))
    _, first, length = best
    return Run(first, first + length, float(difference[first : first + length].median()))


def _segments(found: dict[tuple[int, int, int], Run], changing: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the parts of a scan whose errors change, or a bin's run and what is beside it, as segments of the views.

    Also the sizes of errors of a bin's own, (B, C, n_segments, bins...), else 0.
    """
    n_views = y.shape[VIEWS]
    part = torch.where(changing.unsqueeze(-1), _part_of_view(n_views, y.device), 0)
    segments = part.reshape(*part.shape, *[1] * (y.ndim - VIEWS - 1)).expand(y.shape).clone()
    for (b, c, k), run in found.items():  # before the run, the run, behind it; a run from the first view on is number 0
        segments[b, c, :, k] = 0
        segments[b, c, run.first :, k] = 1 if run.first > 0 else 0
        segments[b, c, run.last :, k] = 2
    n_segments = int(segments.max()) + 1
    sizes = torch.zeros((*y.shape[:VIEWS], n_segments, *y.shape[VIEWS + 1 :]), dtype=y.dtype, device=y.device)
    for (b, c, k), run in found.items():
        sizes[b, c, :, k] = abs(run.error)  # on either side of a run the error may be smaller, but there is one
    return None if n_segments == 1 else segments, sizes


def _part_of_view(n_views: int, device: torch.device) -> Tensor:
    """Return the part of the scan that each view belongs to."""
    return torch.arange(n_views, device=device) * _parts(n_views) // n_views


def _means_of_parts(r: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of residuals over the parts of a scan, (B, C, n_parts, bins...), and their noise."""
    part = _part_of_view(r.shape[VIEWS], r.device)
    n = int(part.max()) + 1
    sums, total = (
        torch.zeros((*r.shape[:VIEWS], n, *r.shape[VIEWS + 1 :]), dtype=r.dtype, device=r.device).index_add(
            VIEWS, part, values
        )
        for values in (weights * r, weights)
    )
    known = total > 0
    total = torch.where(known, total, 1)
    return sums / total, torch.where(known, total**-0.5, math.inf)


def _parts(n_views: int) -> int:
    """Return the number of parts of a scan in which bins have an error each."""
    return min(QUARTERS, max(1, n_views // MIN_QUARTER))


def _typical(weight: Tensor) -> Tensor:
    """Return the median noise (B, C) of sums with weights (B, C, ...)."""
    known = weight.flatten(VIEWS)
    std = torch.where(known > 0, known.clamp(min=torch.finfo(known.dtype).tiny) ** -0.5, math.nan)
    return std.nanmedian(-1).values.nan_to_num()


def _root_mean(square: Tensor, counts: Tensor) -> Tensor:
    """Return the root of the mean square (B, C) of those that count."""
    mean = torch.where(counts, square, 0).flatten(VIEWS).sum(-1) / counts.flatten(VIEWS).sum(-1).clamp(min=1)
    return mean.sqrt()
