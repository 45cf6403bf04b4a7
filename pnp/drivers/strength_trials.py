"""`solve(strength="auto")`: a few strengths are tried without what is held out, which chooses among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import per_image
from ..algorithms.protocols import BoundDataTerm
from .held_out import VIEWS, HeldOut, hold_out
from .levels import Tuning, norms
from .outliers import THRESHOLD
from .problem import DIVERGENCE_FACTOR, Problem
from .progress import progress_bar
from .result import Candidate
from .standard_errors import correlation, standard_error

MARGIN, MARGIN_OF_MASKS = 1.5, 2.0
"""Standard errors by which a strength must be better than another; behind masks few pixels stand for many."""
AXIS = 2
"""Axis of the views."""
MEDIAN_OF_NOISE = 0.4549
"""Median of the square of white noise of variance 1."""
TRIAL, LONG_TRIAL = 8, 12
"""Iterations of a trial, unless max_iter is less; the second where A*WA falls off and no whole views are held out, as
x then fills in what is missing late: shorter ones favour too strong a prior."""
STEP = 10**0.25
"""Ratio of the strengths that are compared."""
FURTHEST = 4
"""So many steps from the default at most: a factor of ten."""
ALIKE = 0.1
"""Correlation of the residuals of neighbouring views that noise does not explain: white noise leaves -0.06 to 0.03."""
FALLS_OFF = 0.25
"""Spectral flatness of A*WA below which a stronger prior is tried first: 0.05 for tomography, 0.5 for blurs."""


def choose(problem: Problem, how: str | None, max_iter: int, *, short: bool = True, progress: bool = False) -> Tuning:
    """Return the strength for each image of a problem.

    Args:
        problem: what `solve` iterates on; it is not changed.
        how: what is held out, one of `HOLDOUTS`. None: what suits the problem.
        max_iter: iterations of the solve with all measurements.
        short: whether fewer iterations may do without what is held out: not with a schedule that is given.
        progress: show a bar of the iterations on stderr.
    """
    held = hold_out(problem, how)
    if isinstance(held, str):
        return Tuning((1.0,), (max_iter,), f"the default: {held}", n_rejected=problem.n_rejected)
    trials = Trials(problem, held)
    n_trials = [min(max_iter, n_trial(e, held.kind)) if short else max_iter for e in problem.flatness]
    n = len(problem.z)
    bar = progress_bar("solve: held out", 0) if progress else None
    try:
        while (wanted := [None if b in held.kept else trials.wanted(b) for b in range(n)]) != [None] * n:
            for n_iter in sorted(set(n_trials)):
                trials.run([k if n_iter == own else None for k, own in zip(wanted, n_trials, strict=True)], n_iter, bar)
    finally:
        if bar is not None:
            bar.close()
    chosen = [trials.best(b) for b in range(n)]
    each = enumerate(zip(chosen, n_trials, strict=True))
    tried = tuple(() if b in held.kept else trials.candidates(b, *one) for b, one in each)
    return Tuning(tuple(STEP**k for k in chosen), (max_iter,) * n, trials.source, tried, problem.n_rejected)


def n_trial(flatness: float, kind: str) -> int:
    """Return the iterations of a trial that rank strengths.

    >>> n_trial(0.05, "blocks"), n_trial(0.05, "views"), n_trial(0.5, "blocks")
    (12, 8, 8)
    """
    return LONG_TRIAL if flatness < FALLS_OFF and kind != VIEWS else TRIAL


class Trials:
    """Solves without the measurements that are held out, and how they predict these.

    Args:
        problem: what `solve` iterates on.
        held: what is held out.

    Attributes:
        squares: for each image the squares of what was held out, by k, of strength STEP^k.
        alike: the correlation of neighbouring views' residuals, of each image where noise does not explain it. Either x
            is too smooth, and a weaker prior is better for certain; or views that are held out share errors of the
            model with the others, and rank no strengths, so that a stronger one is not tried.
    """

    def __init__(self, problem: Problem, held: HeldOut) -> None:
        self.problem, self.held = problem, held
        self.shares = held.shares or [None] * len(held.masks)
        self.squares: list[dict[int, Tensor]] = [{} for _ in held.masks]
        self.alike: dict[int, float] = {}
        self._limits: list[Tensor] | None = None

    def run(self, wanted: list[int | None], n_iter: int, bar: Any) -> None:
        """Solve with strength STEP^k for each image that wants one, and hold the squares of what was left out."""
        if all(k is None for k in wanted):
            return
        tuned = Tuning(tuple(STEP ** (k or 0) for k in wanted), (n_iter,) * len(wanted))
        solves = [(self.held.train, self.held.started), *([self.held.moved] if self.held.moved else [])]
        images = [self._solve(h, started, tuned, bar) for h, started in solves]
        if self._limits is None and self.held.kind == VIEWS and not self.held.asked:
            self._compare_views(images[0])
        squares = self.held.squares(*images)
        found = [squares[b][mask].cpu().double() for b, mask in enumerate(self.held.masks)]
        shares = [torch.ones_like(one) if s is None else s for one, s in zip(found, self.shares, strict=True)]
        if self._limits is None:
            self._limits = [_limits(one, share) for one, share in zip(found, shares, strict=True)]
        for b, k in enumerate(wanted):
            if k is not None:
                self.squares[b][k] = found[b].minimum(self._limits[b]) * shares[b]

    def _compare_views(self, z: Tensor) -> None:
        """Note the images whose residuals are alike from view to view; outliers count as the largest of the others."""
        residuals, counted = self.problem.used.residuals(z)
        counted = counted.expand(residuals.shape)
        for b in (b for b in range(len(z)) if bool(counted[b].any())):
            r, some = residuals[b : b + 1], counted[b : b + 1]
            most = THRESHOLD * (float(r[some].square().median()) / MEDIAN_OF_NOISE) ** 0.5
            found = correlation(r.clamp(-most, most), some, AXIS)
            if found > max(ALIKE, 3 / int(some.sum()) ** 0.5):
                self.alike[b] = found

    @property
    def source(self) -> str:
        """Where the strengths are from, as in `Result.strength_source`."""
        kept = [found for b, found in self.alike.items() if self.best(b) == 0]
        if not kept:
            return self.held.source
        why = f"residuals of neighbouring views correlate by {max(kept):.2f}, so that views share errors"
        if len(kept) == len(self.held.masks):
            return f"the default: {why}"
        return f"{self.held.source} (the default for {len(kept)} of {len(self.held.masks)} images: {why})"

    def _solve(self, h: BoundDataTerm, started: Any, tuned: Tuning, bar: Any) -> Tensor:
        """Return the last image; one that diverges is kept as it was before."""
        problem = self.problem
        start = problem.begin(started, tuned)
        z = start.z
        for state in start.iteration(h, problem.guarded, z, start.levels):
            sizes = zip(norms(state.z), start.scales, strict=True)
            calm = torch.tensor([size <= DIVERGENCE_FACTOR * scale for size, scale in sizes])
            z = state.z if bool(calm.all()) else torch.where(per_image(calm.double(), z) > 0, state.z, z)
            if not bool(calm.any()):
                break
            if bar is not None:
                bar.update()
        return z

    def wanted(self, b: int) -> int | None:
        """Return the k to try next for an image, None where enough was tried.

        First the default and the neighbour that is more often better: a stronger prior where A*WA falls off, else a
        weaker one. Then further where a step was certain to gain, or back where the first was certain to lose; not
        behind masks, which the default most often smooths too much, nor where views are alike.
        """
        tried = self.squares[b]
        first = 1 if self.problem.flatness[b] < FALLS_OFF and b not in self.alike else -1
        if untried := [k for k in (0, first) if k not in tried]:
            return untried[0]
        step = first
        if self.shares[b] is None and b not in self.alike and self.is_better(b, 0, first):
            step = -first
        k = step
        while k in tried and self.is_better(b, k, k - step) and abs(k) < FURTHEST:
            k += step
        return k if k not in tried else None

    def best(self, b: int) -> int:
        """Return the last k that was certain to gain over the one before it, 0 where none was."""
        k = 0
        for step in (1, -1):
            while k + step in self.squares[b] and self.is_better(b, k + step, k):
                k += step
        return k

    def error(self, b: int, k: int) -> float:
        """Return the mean square of what was held out."""
        return float(self.squares[b][k].mean())

    def is_better(self, b: int, k: int, other: int) -> bool:
        """Return whether k predicts better than another by more than MARGIN standard errors of the difference."""
        difference = self.squares[b][other] - self.squares[b][k]
        margin = MARGIN if self.shares[b] is None else MARGIN_OF_MASKS
        return float(difference.mean()) > margin * standard_error(difference, self.held.groups[b])

    def candidates(self, b: int, chosen: int, n_iter: int) -> tuple[Candidate, ...]:
        """Return what was tried for an image, the chosen one first."""
        groups, rest = self.held.groups[b], [k for k in self.squares[b] if k != chosen]
        squares = [(STEP**k, self.squares[b][k]) for k in (chosen, *rest)]
        return tuple(Candidate(s, n_iter, float(found.mean()), standard_error(found, groups)) for s, found in squares)


def _limits(squares: Tensor, shares: Tensor) -> Tensor:
    """Return the squares beyond which a residual of the first solve is an outlier, and enters no error.

    Those with different shares are different kinds of squares.
    """
    limits = torch.empty_like(squares)
    kinds: Tensor = torch.unique(shares)
    for share in kinds:
        kind = shares == share
        limits[kind] = THRESHOLD**2 * max(1.0, float(squares[kind].median()) / MEDIAN_OF_NOISE)
    return limits
