"""Measurements that are held out, for `solve(strength="auto")`.

A twentieth of the measurements is left out, x is solved for from the others, from the start that all of them have, and

    e = mean of |W^(1/2) (A x - y)|^2 over those that were left out

is 1 from their noise alone, which x has not seen, and more by what x gets wrong: e ranks settings as the error of x
does, without a truth (cross-validation: G. Wahba, Spline Models for Observational Data, 1990, chapter 4). Errors that
they have in common with others, of a bin or a view, are predicted from the others.

What is held out must not be predicted by neighbours that share its noise or its detail, and must not be a gap in what
determines x. Of a scan that is whole views. With some rays of a view only, x explains an error of that view, which
other views contradict, by a streak along the rays that are missing: a tenfold prediction error, which a prior too
strong for all rays makes smaller (docs/results.md). Of images it is squares of 4 x 4 neighbours ("blocks"), where
single ones favour too weak a prior; elsewhere, as in k-space, single measurements. Counts are thinned instead: each is
held out with a probability of a tenth, which leaves two independent Poisson variables (binomial thinning: J. F. C.
Kingman, Poisson Processes, 1993, section 5.1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import images
from ..algorithms.count_statistics import are_whole
from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.poisson import PoissonStep
from ..algorithms.protocols import BoundDataTerm
from ..checks import short
from .physics_noise import is_sampled
from .problem import Problem
from .standard_errors import Groups, neighbourhoods
from .sure import Probe

BLOCKS, VIEWS, MEASUREMENTS, THINNING, SURE = "blocks", "views", "measurements", "thinning", "sure"
NAMES = {BLOCKS: "in blocks", VIEWS: "as whole views", MEASUREMENTS: "one by one"}
REASONS = {
    BLOCKS: "since neighbours share noise and detail",
    VIEWS: "since rays of a view share errors",
    MEASUREMENTS: "since no neighbours are known",
}
"""Why they are held out like this where nobody asked for it."""
HOLDOUTS = (BLOCKS, VIEWS, MEASUREMENTS, THINNING, SURE)
"""What `solve(held_out=...)` may name."""
FRACTION, THINNED = 0.05, 0.1
"""Fraction of the measurements that is held out, and of the counts."""
ENOUGH, ENOUGH_VIEWS, MAX_FRACTION = 1000, 10, 0.1
"""Of few images' or sinograms' measurements more are held out: so many of them, or the last fraction."""
BLOCK = 4
"""Side of a block, and half the neighbours in a view that are one group."""
SEED = 0
"""Of the random choice of what is held out: one call, and one that resumes, hold out the same."""
LIKE_A_MASK = 0.75
"""Spectral flatness of A*WA from which on a measured pixel says little of others: 1 for masks, 0.5 for blurs."""
FEWEST, FEWEST_VIEWS = 50, 20
"""So few held-out measurements choose nothing; scans of fewer views are held out in blocks."""
MEASURED = "every pixel is measured, where held-out or Stein's estimates gain nothing"
FEW = f"fewer than {FEWEST} measurements would be held out"
NEEDS = "Stein's estimate, for measurements with a pixel of their own, needs real y, least squares and no common errors"
"""Why the default is taken."""


@dataclass(frozen=True)
class HeldOut:
    """Measurements that were held out.

    Attributes:
        train: the data term without them.
        started: the same, for where it starts.
        squares: gives |W^(1/2) (A x - y)|^2 of all measurements.
        masks: for each image which are held out.
        groups: for each image the groups of what is held out, within which values may be alike.
        source: what they are, as in `Result.strength_source`.
        kind: what they are, one of `HOLDOUTS`.
        asked: whether somebody asked for that kind.
        moved: the data term of a second solve and where it starts, for Stein's estimate, see `sure`; `squares` takes
            its image, too.
        shares: for each image the weights of the squares in their mean, 1 on average; None: all are 1.
        kept: images that keep the default.
    """

    train: BoundDataTerm
    started: Any
    squares: Callable[..., Tensor]
    masks: list[Tensor]
    groups: list[Groups]
    source: str
    kind: str
    asked: bool = True
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
    asked, how = how is not None, how or _usual(problem, sampled, counted)
    cells = _cells(residuals.shape[1:], how)
    masks = [_pick(cells, one[0], how) for one in images(counted)]
    if min(int(mask.sum()) for mask in masks) < FEWEST:
        return FEW
    groups = [neighbourhoods(mask, _sides(mask.ndim, how)) for mask in masks]
    hidden = torch.stack(masks)
    train = h.reject(hidden.to(counted.device))
    scored: Any = h
    blind = how != VIEWS  # a view's own error is only known from the view; it tells nothing of others
    if blind and isinstance(h, LeastSquaresStep) and isinstance(train, LeastSquaresStep) and h.errors is not None:
        scored = copy.copy(h)
        scored.errors = train.errors  # those that the others show

    def squares(z: Tensor) -> Tensor:
        found: Tensor = scored.residuals(z)[0].abs().square()
        return found

    fraction = int(hidden.sum()) / int(counted.sum())
    started = Started(train, h, hidden.to(counted.device))
    source = f"by {fraction:.0%} of the measurements, held out {NAMES[how]}{'' if asked else f', {REASONS[how]}'}"
    return HeldOut(train, started, squares, masks, groups, source, how, asked)


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
    groups = [neighbourhoods(mask, _sides(mask.ndim, BLOCKS))[:1] for mask in masks]  # the estimate is of white noise
    parts = zip(probe.shares, masks, picked, strict=True)
    shares = [share[mask] if bool(one.any()) else None for share, mask, one in parts]
    return HeldOut(train, started, probe.squares, masks, groups, source, SURE, asked, moved, shares, frozenset(kept))


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
    counting: Tensor = torch.unique(cells[counted])
    enough, all_of_them = (ENOUGH_VIEWS, len(counting)) if how == VIEWS else (ENOUGH, max(1, int(counted.sum())))
    fraction = FRACTION if how == MEASUREMENTS else max(FRACTION, min(MAX_FRACTION, enough / all_of_them))
    n = min(max(2, round(fraction * len(counting))), max(0, len(counting) - 1))  # something remains
    if how == VIEWS:
        order = ((torch.arange(n) + 0.5) * len(counting) / n).long().clamp(max=len(counting) - 1)
    else:
        order = torch.randperm(len(counting), generator=torch.Generator().manual_seed(SEED))[:n]
    return torch.isin(cells, counting[order]) & counted


def _usual(problem: Problem, sampled: bool, counted: Tensor) -> str:
    """Return what is held out unless something is asked for: views of a scan, blocks of images, else single ones."""
    angles, shape = getattr(problem.operator, "angles", None), problem.h.y.shape
    n_views = angles.numel() if isinstance(angles, Tensor) and angles.ndim == 1 else 0
    if len(shape) > 3 and shape[2] == n_views:
        measured = counted.movedim(2, 1).flatten(2).any(2).sum(1)  # views whose noise_std is infinite are none
        if int(measured.min()) >= FEWEST_VIEWS:
            return VIEWS
    return BLOCKS if sampled else MEASUREMENTS


def _sides(n_axes: int, how: str) -> tuple[int, ...]:
    """Return the sides of the smallest groups: a block, of a view a part of it, or one measurement."""
    own = {BLOCKS: (BLOCK, BLOCK), VIEWS: (2 * BLOCK,)}.get(how, ())[:n_axes]
    return (1,) * (n_axes - len(own)) + own


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
            n_inner=h.n_inner,
            gain=h.gain / p,
            read_noise=h.read_noise,
            rejected=h.rejected,
        )
        for n, p in ((part, kept), (counts.round() - part, THINNED))
    ]
    masks = [one[0].cpu() for one in images(counted)]
    groups: list[Groups] = [(torch.arange(int(mask.sum())),) for mask in masks]  # Poisson variables are independent
    source = f"by {THINNED:.0%} of the counts, held out"
    started = Started(terms[0], h, None)
    return HeldOut(terms[0], started, lambda z: terms[1].residuals(z)[0].square(), masks, groups, source, THINNING)


def _binomial(counts: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return torch.binomial(counts, torch.full_like(counts, p), generator=generator)
