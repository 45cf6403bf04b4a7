"""`solve(strength="auto")`: measurements that are held out choose the prior's strength.

A twentieth of the measurements is left out, x is solved for from the others, from the start that all of them have, and

    e = mean of |W^(1/2) (A x - y)|^2 over those that were left out

is 1 from their noise alone, which x has not seen, and more by what x gets wrong: e ranks settings as the error of x
does, without a truth (cross-validation: G. Wahba, Spline Models for Observational Data, 1990, chapter 4). Errors that
they have in common with others, of a bin or a view, are predicted from the others.

What is held out must not be predicted by neighbours that share its noise or its detail: squares of 4 x 4 neighbours in
images and sinograms ("blocks"), where single ones favour too weak a prior; whole views; single measurements elsewhere,
as in k-space. Counts are thinned instead: each is held out with a probability of a tenth, which leaves two independent
Poisson variables (binomial thinning: J. F. C. Kingman, Poisson Processes, 1993, section 5.1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import images, per_image
from ..algorithms.count_statistics import are_whole
from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.poisson import PoissonStep
from ..algorithms.protocols import BoundDataTerm
from ..checks import short
from .levels import Tuning, norms
from .outliers import THRESHOLD
from .physics_noise import is_sampled
from .problem import DIVERGENCE_FACTOR, Problem
from .progress import progress_bar
from .result import Candidate
from .sure import Probe

BLOCKS, VIEWS, MEASUREMENTS, THINNING, SURE = "blocks", "views", "measurements", "thinning", "sure"
NAMES = {BLOCKS: "in blocks", VIEWS: "as whole views", MEASUREMENTS: "one by one"}
HOLDOUTS = (BLOCKS, VIEWS, MEASUREMENTS, THINNING, SURE)
"""What `solve(held_out=...)` may name."""
FRACTION, THINNED = 0.05, 0.1
"""Fraction of the measurements that is held out, and of the counts."""
ENOUGH, MAX_FRACTION = 1000, 0.1
"""Of few images' or sinograms' measurements more are held out: so many of them, or the second fraction."""
BLOCK = 4
"""Side of a block, and half the neighbours in a view that are one group."""
SEED = 0
"""Of the random choice of what is held out: one call, and one that resumes, hold out the same."""
LIKE_A_MASK = 0.75
"""Spectral flatness of A*WA from which on a measured pixel says little of others: 1 for masks, 0.5 for blurs."""
MARGIN, MARGIN_OF_MASKS = 1.5, 2.0
"""Standard errors by which a strength must be better than another; behind masks few pixels stand for many."""
FEWEST = 50
"""So few held-out measurements choose nothing."""
MEASURED = "every pixel is measured, where held-out or Stein's estimates gain nothing"
FEW = f"fewer than {FEWEST} measurements would be held out"
NEEDS = "Stein's estimate, for measurements with a pixel of their own, needs real y, least squares and no common errors"
"""Why the default is taken."""
MEDIAN_OF_NOISE = 0.4549
"""Median of the square of white noise of variance 1."""
TRIAL, LONG_TRIAL = 8, 12
"""Iterations of a trial, unless max_iter is less; the second where A*WA falls off, where shorter ones favour too strong
a prior."""
STEP = 10**0.25
"""Ratio of the strengths that are compared."""
FURTHEST = 4
"""So many steps from the default at most: a factor of ten."""
FALLS_OFF = 0.25
"""Spectral flatness of A*WA below which a stronger prior is tried first: 0.05 for tomography, 0.5 for blurs."""


@dataclass(frozen=True)
class HeldOut:
    """Measurements that were held out.

    Attributes:
        train: the data term without them.
        started: the same, for where it starts.
        squares: gives |W^(1/2) (A x - y)|^2 of all measurements.
        masks: for each image which are held out.
        groups: for each image the group of each held-out measurement; groups are taken for independent.
        source: what they are, as in `Result.strength_source`.
        moved: the data term of a second solve and where it starts, for Stein's estimate, see `sure`; `squares` takes
            its image, too.
        shares: for each image the weights of the squares in their mean, 1 on average; None: all are 1.
        kept: images that keep the default.
    """

    train: BoundDataTerm
    started: Any
    squares: Callable[..., Tensor]
    masks: list[Tensor]
    groups: list[Tensor]
    source: str
    moved: tuple[BoundDataTerm, Any] | None = None
    shares: list[Tensor | None] | None = None
    kept: frozenset[int] = frozenset()


def as_held_out(held_out: Any, strength: Any) -> str | None:
    """Return a checked `held_out`, which is for strength="auto"."""
    if held_out is None:
        return None
    if not isinstance(held_out, str) or held_out not in HOLDOUTS:
        raise ValueError(f"solve: held_out must be one of {HOLDOUTS}, got {short(repr(held_out), 60)}")
    if not isinstance(strength, str):
        raise ValueError(f'solve: held_out={held_out!r} is for strength="auto", got {short(repr(strength), 60)}')
    return held_out


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
    n_trials = [min(max_iter, n_trial(e)) if short else max_iter for e in problem.flatness]
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
    return Tuning(tuple(STEP**k for k in chosen), (max_iter,) * n, held.source, tried, problem.n_rejected)


def n_trial(flatness: float) -> int:
    """Return the iterations of a trial that rank strengths.

    >>> n_trial(0.05), n_trial(1.0)
    (12, 8)
    """
    return LONG_TRIAL if flatness < FALLS_OFF else TRIAL


class Started:
    """A data term without what is held out that starts where the whole one does.

    FBP of all measurements, where the solve with all starts there, those that are held out filled in by what the
    regularised image of the others predicts: x depends on the start where the denoiser's prior has several minima.
    """

    def __init__(self, train: BoundDataTerm, whole: BoundDataTerm, hidden: Tensor | None) -> None:
        self._train, self._first = train, train.initial()
        if hidden is not None and isinstance(whole, LeastSquaresStep) and hasattr(whole.operator, "fbp"):
            filled = torch.where(hidden, whole.operator.A(self._first), whole.y)
            self._first = whole.with_measurements(filled).initial()

    def initial(self) -> Tensor:
        """Return the first estimate, found once."""
        return self._first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._train, name)


class Trials:
    """Solves without the measurements that are held out, and how they predict these.

    Args:
        problem: what `solve` iterates on.
        held: what is held out.

    Attributes:
        squares: for each image the squares of what was held out, by k, of strength STEP^k.
    """

    def __init__(self, problem: Problem, held: HeldOut) -> None:
        self.problem, self.held = problem, held
        self.shares = held.shares or [None] * len(held.masks)
        self.squares: list[dict[int, Tensor]] = [{} for _ in held.masks]
        self._limits: list[Tensor] | None = None

    def run(self, wanted: list[int | None], n_iter: int, bar: Any) -> None:
        """Solve with strength STEP^k for each image that wants one, and hold the squares of what was left out."""
        if all(k is None for k in wanted):
            return
        tuned = Tuning(tuple(STEP ** (k or 0) for k in wanted), (n_iter,) * len(wanted))
        solves = [(self.held.train, self.held.started), *([self.held.moved] if self.held.moved else [])]
        squares = self.held.squares(*(self._solve(h, started, tuned, bar) for h, started in solves))
        found = [squares[b][mask].cpu().double() for b, mask in enumerate(self.held.masks)]
        shares = [torch.ones_like(one) if s is None else s for one, s in zip(found, self.shares, strict=True)]
        if self._limits is None:
            self._limits = [_limits(one, share) for one, share in zip(found, shares, strict=True)]
        for b, k in enumerate(wanted):
            if k is not None:
                self.squares[b][k] = found[b].minimum(self._limits[b]) * shares[b]

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
        weaker one. Then further where a step was certain to gain, or back where the first was certain to lose; behind
        masks, which the default most often smooths too much, not.
        """
        tried, first = self.squares[b], 1 if self.problem.flatness[b] < FALLS_OFF else -1
        if untried := [k for k in (0, first) if k not in tried]:
            return untried[0]
        step = first
        if self.shares[b] is None and self.is_better(b, 0, first):
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


def standard_error(values: Tensor, groups: Tensor) -> float:
    """Return the standard error of a mean of values that are independent from group to group only.

    >>> standard_error(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.arange(4))
    0.5773...
    """
    sums, sizes = (torch.bincount(groups, weights) for weights in (values, torch.ones_like(values)))
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    n = len(sums)
    if n < 2:
        return math.inf
    rest = sums - values.mean() * sizes
    return float((rest.square().sum() * n / (n - 1)).sqrt()) / len(values)


def hold_out(problem: Problem, how: str | None) -> HeldOut | str:
    """Return measurements that are held out, or why holding out makes no sense.

    Raises:
        ValueError: what `how` names does not suit the problem.
    """
    h = problem.used
    if not hasattr(h, "reject") or not hasattr(h, "residuals"):
        return "the data term cannot leave out measurements"
    residuals, counted = h.residuals(problem.z)
    counted = counted.expand(residuals.shape)
    if how == THINNING or (how is None and isinstance(h, PoissonStep)):
        thinned = _thinned(problem, h, counted)
        if isinstance(thinned, HeldOut):
            return thinned
        if how == THINNING:
            raise ValueError(f"solve: held_out='thinning' is for whole counts, got {thinned}; use held_out='blocks'")
    sampled = is_sampled(problem.operator) and residuals.ndim > 3 and not residuals.is_complex()
    own_pixels = sampled and min(problem.flatness) >= LIKE_A_MASK
    if how == SURE or (how is None and own_pixels):
        found = _by_sure(h, counted, own_pixels, asked=how == SURE)
        if isinstance(found, str) and how == SURE:
            raise ValueError(f"solve: held_out='sure': {found}; use 'blocks' or 'measurements'")
        return found
    how = how or (BLOCKS if sampled else MEASUREMENTS)
    cells = _cells(residuals.shape[1:], how)
    masks = [_pick(cells, one[0], how) for one in images(counted)]
    if min(int(mask.sum()) for mask in masks) < FEWEST:
        return FEW
    groups = [_groups(residuals.shape[1:], cells, how)[mask] for mask in masks]
    hidden = torch.stack(masks)
    train = h.reject(hidden.to(counted.device))
    scored: Any = h
    if isinstance(h, LeastSquaresStep) and isinstance(train, LeastSquaresStep) and h.errors is not None:
        scored = copy.copy(h)
        scored.errors = train.errors  # those that the others show

    def squares(z: Tensor) -> Tensor:
        found: Tensor = scored.residuals(z)[0].abs().square()
        return found

    fraction = int(hidden.sum()) / int(counted.sum())
    started = Started(train, h, hidden.to(counted.device))
    source = f"by {fraction:.0%} of the measurements, held out {NAMES[how]}"
    return HeldOut(train, started, squares, masks, groups, source)


def _by_sure(h: BoundDataTerm, counted: Tensor, own_pixels: bool, *, asked: bool) -> HeldOut | str:
    """Return Stein's risk estimate, with single measurements held out for the pixels behind a mask, or why not.

    Where all pixels of an image are measured it changes no more than 0.1 dB, and only counts if it is asked for.
    """
    if not isinstance(h, LeastSquaresStep) or h.errors is not None or not isinstance(h.y, Tensor) or h.y.is_complex():
        return NEEDS
    may_mask, cells = own_pixels and h.y.shape == h.back_projection.shape, _cells(counted.shape[1:], MEASUREMENTS)
    masks, picked = [one[0].cpu() for one in images(counted)], []
    kept: dict[int, str] = {}
    for b, mask in enumerate(masks):
        masked = may_mask and not bool(mask.all())
        picked.append(_pick(cells, mask, BLOCKS) if masked else torch.zeros_like(mask))
        if masked and int(picked[b].sum()) < FEWEST:
            picked[b], kept[b] = torch.zeros_like(mask), FEW
        elif not masked and not asked:
            kept[b] = MEASURED
    reasons = "; ".join(dict.fromkeys(kept.values()))
    if len(kept) == len(masks) or (kept and asked):
        return reasons
    hidden, source = torch.stack(picked).to(counted.device), "by Stein's risk estimate"
    if n := sum(int(mask.sum()) for mask, one in zip(masks, picked, strict=True) if bool(one.any())):
        source += f" and {int(hidden.sum()) / n:.0%} of the measurements, held out one by one"
    if kept:
        source += f" (the default for {len(kept)} of {len(masks)} images: {reasons})"
    train = h.reject(hidden)
    probe = Probe(h, train, counted, hidden)
    started, moved = Started(train, h, hidden), (probe.term, Started(probe.term, h, None))
    groups = [_cells(mask.shape, BLOCKS if mask.ndim > 1 else MEASUREMENTS)[mask] for mask in masks]
    parts = zip(probe.shares, masks, picked, strict=True)
    shares = [share[mask] if bool(one.any()) else None for share, mask, one in parts]
    return HeldOut(train, started, probe.squares, masks, groups, source, moved, shares, frozenset(kept))


def _cells(shape: torch.Size, how: str) -> Tensor:
    """Return for each measurement of an image the number of its cell, which is held out as one."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    if how == MEASUREMENTS:
        return index
    if how == VIEWS:
        if len(shape) < 3:
            raise ValueError(f"solve: held_out='views' needs y (B, C, n_views, n_bins), got {tuple(shape)} an image")
        return torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    if len(shape) < 2:
        raise ValueError(f"solve: held_out='blocks' needs y on a grid, got {tuple(shape)} an image")
    rows, columns = (torch.arange(n) // BLOCK for n in shape[-2:])
    blocks = rows[:, None] * (int(columns[-1]) + 1) + columns
    grids = torch.arange(math.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
    return grids * (int(blocks.max()) + 1) + blocks


def _pick(cells: Tensor, counted: Tensor, how: str) -> Tensor:
    """Return a mask of the measurements of one image that are held out, of those that count."""
    counted = counted.cpu()
    few = how != MEASUREMENTS and ENOUGH > FRACTION * int(counted.sum())
    fraction = min(MAX_FRACTION, ENOUGH / max(1, int(counted.sum()))) if few else FRACTION
    counting: Tensor = torch.unique(cells[counted])
    n = max(2, round(fraction * len(counting)))
    if how == VIEWS:
        order = ((torch.arange(n) + 0.5) * len(counting) / n).long().clamp(max=len(counting) - 1)
    else:
        order = torch.randperm(len(counting), generator=torch.Generator().manual_seed(SEED))[:n]
    return torch.isin(cells, counting[order]) & counted


def _groups(shape: torch.Size, cells: Tensor, how: str) -> Tensor:
    """Return for each measurement the number of its group: its cell, of a view a part of it."""
    if how != VIEWS:
        return cells
    return torch.arange(math.prod(shape)).reshape(shape) // (2 * BLOCK)


def _thinned(problem: Problem, h: BoundDataTerm, counted: Tensor) -> HeldOut | str:
    """Return counts of which each is held out with probability THINNED, or why there are none.

    With Bin(n, p) of n counts, those that remain have the expectation p (A x + r) / gain: in units of gain/p that of
    all, and those that are held out in units of gain/(1 - p). The two are independent.
    """
    if not isinstance(h, PoissonStep):
        return "another data term"
    counts = h.y / h.gain
    if bool((h.read_noise > 0).any()) or not are_whole(counts[counted]):
        return "read noise, or counts that are not whole numbers"
    g = torch.Generator().manual_seed(SEED)
    kept = 1 - THINNED
    part = torch.cat([_binomial(one, kept, g.manual_seed(SEED)) for one in images(counts.round().cpu())]).to(counts)
    terms = [
        PoissonStep(
            problem.operator,
            n * h.gain / p,
            h.background,
            n_inner=h.inner_iterations,
            gain=h.gain / p,
            read_noise=h.read_noise,
            rejected=h.rejected,
        )
        for n, p in ((part, kept), (counts.round() - part, THINNED))
    ]
    masks = [one[0].cpu() for one in images(counted)]
    groups = [torch.arange(mask.numel()).reshape(mask.shape)[mask] for mask in masks]
    source = f"by {THINNED:.0%} of the counts, held out"
    started = Started(terms[0], h, None)
    return HeldOut(terms[0], started, lambda z: terms[1].residuals(z)[0].square(), masks, groups, source)


def _binomial(counts: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return torch.binomial(counts, torch.full_like(counts, p), generator=generator)


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
