"""Maximum-likelihood expectation maximisation: `mlem`, and `osem` over ordered subsets of the views.

Counts y ~ Poisson(A x + r), A and x not negative. With A_b the views b, b + n, b + 2n, ..., y_b and r_b theirs,

    x <- x A_b^T(y_b / (A_b x + r_b)) / A_b^T 1,    b through a permutation of 0, ..., n - 1.

For n = 1 this is MLEM (Shepp and Vardi, IEEE Trans. Med. Imaging 1 (1982) 113; Lange and Carson, J. Comput. Assist.
Tomogr. 8 (1984) 306): the likelihood never falls, and without a background A x holds as many counts as y after every
iteration. For n > 1 it is OSEM (Hudson and Larkin, IEEE Trans. Med. Imaging 13 (1994) 601), early on about n times
faster and in the end on a cycle around the maximum. There is no prior: stop early, smooth the image, or use `solve`
with `Poisson`. x scales with y and r: a gain in both leaves its shape alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..algorithms.count_statistics import concerns_of_counts, deviance_residuals
from ..algorithms.poisson import as_background, check_counts, ratio
from ..algorithms.protocols import Operator
from ..checks import check_number
from .adjoint_check import check_adjoint as check_adjoint_of
from .arguments import as_initial, as_measurements, as_operator, check_device
from .checkpoint import Checkpoint, RunState, checkpointed
from .monitor import Monitor
from .result import HIGH_MISFIT, LOW_MISFIT, Result, Stop
from .result_warning import warn_of
from .verdict import MIN_MEASUREMENTS, judge_misfit

VIEW_AXIS = 2
"""The axis of measurements (B, C, n_views, ...) that subsets divide."""
STILL_FALLS, STILL_FALLS_OVER_K = 0.05, 0.6
"""The deviance D_k falls like a power of k: above min(0.05, 0.6/k) of D_k in iteration k, more iterations may help.

Measured on simulated SPECT scans, at misfits above 3: by 0.69/k or more where A is right (1 to 192 iterations, counts
over five decades); by less than the limit after 4 to 24 iterations where views are in the wrong order, the background
is wrong or a pixel is hot.
"""
UNEXPLAINED, UNEXPLAINED_SIGMAS = 0.1, 4.0
"""Part of the counts, and their standard deviations, by which those that x explains may differ from those measured.

Measured on 790 counts in 60 views: 1 % of the counts in MLEM, 3 % for 4 subsets, 29 % for 30, 32 % for 60.
"""
MIN_COUNTS_SEEN = 2.0
"""Counts that a voxel sees in the views of a subset, of its activity and those around it, from which on subsets may be.

Measured on 240 scans of three objects (300 to 1e5 counts in 60 views, half of them scatter or none, 4 to 60 subsets):
below, the total of x was off by 10 % of MLEM's or the error larger by a fifth in 91 of 106; above 5, in 19 of 96.
"""
CONCENTRATED = 0.4
"""Share of the misfit in the largest 1 % of the residuals from which on these are outliers.

Measured on the same scans: 0.56 or more for hot pixels and dead bins, 0.17 or less for wrong views and backgrounds.
"""


@dataclass(frozen=True)
class EMState:
    """Iteration k, counted from 1, after its last update, as a callback sees it."""

    k: int
    x: Tensor
    deviance: float
    """As in the history of `osem`."""


def mlem(
    operator: Operator,
    y: Any,
    *,
    background: Any = 0.0,
    x0: Any = None,
    max_iter: int = 64,
    check_adjoint: bool = True,
    callback: Callable[[EMState], Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
) -> Result:
    """Return the image after max_iter iterations of MLEM. Arguments, result and errors as `osem`.

    >>> from types import SimpleNamespace
    >>> A = SimpleNamespace(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    >>> mlem(A, torch.tensor([[[[4.0, 0.0, 6.0]]]]), max_iter=1).x
    tensor([[[[2., 0., 3.]]]])
    """
    result = reconstruct_counts(
        "mlem", operator, y, 1, background, x0, max_iter, check_adjoint, callback, checkpoint, progress
    )
    warn_of("mlem", result.warnings, 3)
    return result


def osem(
    operator: Operator,
    y: Any,
    *,
    n_subsets: int,
    background: Any = 0.0,
    x0: Any = None,
    max_iter: int = 16,
    check_adjoint: bool = True,
    callback: Callable[[EMState], Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
) -> Result:
    """Return the image after max_iter iterations of OSEM, each of which uses every subset once.

    Voxels that no view sees are 0; those that a subset does not see keep their value in its turn.

    Args:
        operator: A, without negative entries, with `A(x)`, `A_adjoint(y)` and, for n_subsets > 1, `subset(b, n)`: the
            operator of the views b, b + n, b + 2n, ...
        y: counts >= 0 in the layout of `operator.A(x)`, batch first and views on axis 2, float32 or float64, a tensor
            or a numpy array: the answer comes back as the same, on the same device.
        n_subsets: from 1 to the number of views; `subset_order` says in which order they are used. Fewer are safer:
            with so few views or counts that a subset has none for a voxel, that voxel becomes and stays 0.
        background: r >= 0, expected scatter and other counts added to A x: a scalar, or broadcasting to y.
        x0: first image >= 0, in the image's shape; voxels of 0 stay 0. None: the constant that explains all counts.
        max_iter: iterations. EM has no other stopping rule: more of them resolve finer detail, and noise.
        check_adjoint: check A_adjoint, and that A is linear, on one random pair: one application of each to all views.
        callback: called with each `EMState`; a true answer stops.
        checkpoint: a file for the state, from which the same call resumes if it exists, as in `solve`.
        progress: show a bar on stderr.

    Returns:
        See `pnp.Result`. Its history holds "deviance", 2 sum(y log(y/m) - y + m), twice the log-likelihood that is
        missing to m = y, where m is what each subset expected when its turn came, before its update; infinite where
        there are counts and none were expected. `misfit` is Pearson's (m - y)^2/m, a measurement, for the final image.
        Ctrl-C returns the last finished iterate. `warnings` say where x does not explain the counts, for too few
        iterations, outliers or another reason, and where y does not look like counts. Fitting noise is no warning.

    Warns:
        ResultWarning: all of them in one warning.
        UserWarning: A_adjoint is a little off.

    Raises:
        ValueError, TypeError: an argument does not fit, is negative or not finite, A_adjoint is not the adjoint of A,
            or counts cannot be explained.
    """
    check_number("n_subsets", n_subsets, above=1, integer=True, or_equal=True, caller="osem")
    n = int(n_subsets)
    result = reconstruct_counts(
        "osem", operator, y, n, background, x0, max_iter, check_adjoint, callback, checkpoint, progress
    )
    warn_of("osem", result.warnings, 3)
    return result


def subset_order(n: int) -> list[int]:
    """Return 0, ..., n - 1 so that successive subsets see views far apart, their numbers counted in a circle.

    Each is the one farthest from all before it, and of these the farthest from the last: for powers of two an order
    by bit reversal (Herman and Meyer, IEEE Trans. Med. Imaging 12 (1993) 600).

    >>> subset_order(8)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """

    def apart(a: int, b: int) -> int:
        return min((a - b) % n, (b - a) % n)

    order, nearest = [0], {b: apart(b, 0) for b in range(1, n)}
    while nearest:
        last = order[-1]
        b = max(nearest, key=lambda b: (nearest[b], apart(b, last)))
        order.append(b)
        del nearest[b]
        nearest = {c: min(d, apart(c, b)) for c, d in nearest.items()}
    return order


# ---------------------------------------------------------------- the iteration


class Subset(NamedTuple):
    """The views of one subset."""

    operator: Operator
    y: Tensor
    background: Tensor
    sensitivity: Tensor  # A_b^T 1
    seen: Tensor

    def update(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image after this subset's turn, and what was expected of it before."""
        expected = self.operator.A(x) + self.background
        e = self.operator.A_adjoint(ratio(self.y, expected)).clamp(min=0)  # truncated responses have small lobes
        return torch.where(self.seen, x * e / torch.where(self.seen, self.sensitivity, 1), x), expected


Step = Callable[[Subset, Tensor, int], tuple[Tensor, Tensor]]
"""From a subset, the image and the number of the iteration to the image after its turn, and what was expected."""


@torch.no_grad()
def reconstruct_counts(
    caller: str,
    operator: Any,
    y: Any,
    n_subsets: int,
    background: Any,
    x0: Any,
    max_iter: int,
    check_adjoint: bool,
    callback: Callable[[EMState], Any] | None,
    checkpoint: Any,
    progress: bool,
    steps: Callable[[list[Subset], Tensor], Step] | None = None,
    more_settings: dict[str, Any] | None = None,
) -> Result:
    """Return the result of iterations through all subsets.

    Args:
        caller: name of the function, for messages and checkpoints.
        operator, y, n_subsets, background, x0, max_iter, check_adjoint, callback, checkpoint, progress: as of `osem`.
        steps: makes the update from the subsets and the first image; None: that of EM.
        more_settings: of the update, for the checkpoint.
    """
    check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller=caller)
    operator = as_operator(operator, caller)
    given = {"y": y, "background": background, "x0": x0, "n_subsets": n_subsets} | (more_settings or {})
    y, is_numpy = as_measurements(y, caller=caller)
    check_counts(caller, "y", y, "do not subtract the background, pass it as background")
    check_device("operator", operator, y.device, caller)
    r = as_background(caller, background, y)
    subsets = _divide(caller, operator, y, r, n_subsets)
    x = _initial(caller, x0, subsets, y, r)
    _check_explained(caller, operator, x, y, r)
    if check_adjoint:
        check_adjoint_of(operator, x, y, caller=caller)

    step = _em_step if steps is None else steps(subsets, x)

    def settings() -> dict[str, Any]:
        return given

    monitor = Monitor(caller, max_iter, ("deviance",), callback=callback, progress=progress)
    expected: Tensor | None = None
    with checkpointed(checkpoint, caller, settings, x, lambda: operator.A(x)) as kept:
        x = _iterate(subsets, _restore(kept, monitor, x), monitor, kept, step)
        if monitor.stop is not Stop.INTERRUPTED:
            with suppress(KeyboardInterrupt):  # it is then computed once more below
                expected = operator.A(x) + r  # while the checkpoint is there
            kept.end(monitor.stop.name, {"x": x}, {"deviance": list(monitor.history["deviance"])})
    expected = operator.A(x) + r if expected is None else expected
    misfit = pearson(y, expected)
    n_seen = int(reduce(torch.logical_or, (s.seen for s in subsets)).sum())
    said = _doubt_of_subsets(n_subsets if steps is None else 1, y, expected, r, n_seen)  # BSREM's steps shorten
    said = said or _judge(misfit, y, expected, monitor.history["deviance"], n_seen)
    answer = x.cpu().numpy() if is_numpy else x
    return Result(answer, monitor.n_iter, monitor.stop, monitor.history, None, None, misfit, said)


def _em_step(subset: Subset, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return subset.update(x)


def _iterate(subsets: list[Subset], x: Tensor, monitor: Monitor, kept: RunState, step: Step) -> Tensor:
    """Return the image of the last finished iteration."""
    remaining = range(monitor.n_iter + 1, monitor.max_iter + 1) if monitor.stop is Stop.MAX_ITER else ()
    with monitor:
        for k in remaining:
            x, deviance = _use_all(subsets, x, k, step)
            monitor.record(deviance)
            kept.keep({"x": x}, {"deviance": list(monitor.history["deviance"])})
            monitor.show(f"deviance {deviance:.6g}")
            if monitor.asks_to_stop(EMState(k, x, deviance)):
                break
        monitor.finish()
    return x


def _restore(kept: RunState, monitor: Monitor, x: Tensor) -> Tensor:
    """Return the image of the checkpoint, or x, the first one, where there is none."""
    if kept.ended not in (None, Stop.MAX_ITER.name):
        monitor.stop = Stop[kept.ended]
    if not kept.tensors:
        return x
    monitor.resume(kept.numbers)
    return kept.tensors["x"]


def _use_all(subsets: list[Subset], x: Tensor, k: int, step: Step) -> tuple[Tensor, float]:
    """Return the image after every subset's turn, and the deviance of what each expected before its own."""
    deviance = 0.0
    for subset in subsets:
        x, expected = step(subset, x, k)
        deviance += _deviance(subset.y, expected)
    return x, deviance


def _deviance(y: Tensor, expected: Tensor) -> float:
    y, m = y.double(), expected.double()
    return 2 * float((torch.xlogy(y, y / m.clamp(min=0)).where(y > 0, 0) - y + m).sum())


def pearson(y: Tensor, expected: Tensor) -> float:
    """Return the mean of (m - y)^2/m, about 1 where the expected counts m explain y."""
    m = expected.double()
    reached = m > 0
    return float(((m - y).square() / m)[reached].mean()) if bool(reached.any()) else 0.0


def _doubt_of_subsets(n: int, y: Tensor, expected: Tensor, r: Tensor, n_seen: int) -> tuple[str, ...]:
    """Return what is wrong where so few counts are in a subset that the last one decides what x holds."""
    counts, explained = float(y.sum(dtype=torch.float64)), float(expected.sum(dtype=torch.float64))
    off = explained - counts
    is_off = abs(off) > max(UNEXPLAINED * counts, UNEXPLAINED_SIGMAS * math.sqrt(counts))
    is_off = is_off and counts / n <= n_seen
    floor = float(r.sum(dtype=torch.float64))
    if n == 1 or floor >= counts:  # nothing left to count, which is no matter of subsets
        return ()
    # Counts of the activity in the bins that a voxel sees in the views of a subset, weighted by activity.
    primary = (expected - r).clamp(min=0).double()
    share = (primary / expected.double().clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    weighted = float((primary * y * share).sum() / primary.sum().clamp(min=torch.finfo(torch.float64).tiny))
    spread = (counts - floor) / y.numel()  # where x has become 0
    seen = max(weighted, spread) * y.shape[VIEW_AXIS] / n
    if seen >= MIN_COUNTS_SEEN and not is_off:
        return ()
    what = f"x explains {abs(off) / counts:.0%} {'more' if off > 0 else 'fewer'} counts than were measured: " * is_off
    fewer = min(int(n * seen / MIN_COUNTS_SEEN), n - 1)
    remedy = f"use {fewer} or fewer, or mlem" if fewer > 1 else "use mlem"
    return (
        f"{what}{n} subsets are too many for {counts:.4g} counts, of which a voxel sees about {seen:.2g} in the views "
        f"of a subset, so that the last ones decide what x holds; {remedy}",
    )


def _judge(misfit: float, y: Tensor, expected: Tensor, deviance: list[float], n_unknown: int) -> tuple[str, ...]:
    """Return what looks wrong, given the expected counts of the last image and the number of its voxels."""
    said = [
        f"{text}; here the unit changes deviance and misfit, x only by its factor"
        for text in concerns_of_counts(y, torch.ones((), dtype=y.dtype))
    ]
    counted = (expected > 0) | (y > 0)
    n = int(counted.sum())
    if said or n < MIN_MEASUREMENTS:
        return tuple(said)
    if misfit > HIGH_MISFIT:
        fall = (deviance[-2] - deviance[-1]) / deviance[-1] if len(deviance) > 1 else math.inf
        k = len(deviance)
        if fall > min(STILL_FALLS, STILL_FALLS_OVER_K / k):
            return (
                f"misfit {misfit:.2g} where about 1 is expected, and the deviance still falls: not converged after "
                f"{k} iteration{'s' if k > 1 else ''}; use more",
            )
        r2 = deviance_residuals(y, expected)[counted].square()
        share = float(r2.topk(n // 100).values.sum() / r2.sum())
        if share > CONCENTRATED:
            return (
                f"misfit {misfit:.2g} where about 1 is expected, {100 * share:.0f} % of it in 1 % of the measurements: "
                "outliers, such as hot or dead pixels; use solve(..., data_term=Poisson(robust=True)) without them",
            )
    elif not misfit < LOW_MISFIT * (1 - n_unknown / n):  # x may follow as much noise as it has voxels
        return ()
    return tuple(judge_misfit(misfit, n, is_gaussian=False))


# ---------------------------------------------------------------- what it is given


def _divide(caller: str, operator: Any, y: Tensor, r: Tensor, n: int) -> list[Subset]:
    """Return the subsets in the order of their turns, with their sensitivities."""
    if n > 1:
        if not callable(getattr(operator, "subset", None)):
            got = type(operator).__name__
            raise TypeError(f"{caller}: operator must have subset(b, n) where n_subsets > 1, got {got}; use mlem")
        n_views = y.shape[VIEW_AXIS] if y.ndim > VIEW_AXIS else 0
        if n > n_views:
            raise ValueError(
                f"{caller}: n_subsets must be at most the number of views, axis {VIEW_AXIS} of y {tuple(y.shape)}, "
                f"got {n}"
            )
    parts = []
    for b in subset_order(n):
        A, which = (
            (operator.subset(b, n), (slice(None),) * VIEW_AXIS + (slice(b, None, n),)) if n > 1 else (operator, ...)
        )
        s = A.A_adjoint(torch.ones_like(y[which]))
        largest = s.max().clamp(min=0)
        rounding = torch.finfo(s.dtype).eps * largest
        if bool((s < -rounding).any()):
            raise ValueError(
                f"{caller}: operator must have non-negative entries, got A_adjoint(1) down to {float(s.min()):.4g}, up "
                f"to {float(largest):.4g}; use solve(..., data_term=Poisson()), which tolerates a little ringing"
            )
        parts.append(Subset(A, y[which], r[which], s, s > rounding))
    if not any(bool(part.seen.any()) for part in parts):
        raise ValueError(f"{caller}: operator must see something, got A_adjoint(1) = 0 everywhere; check its geometry")
    return parts


def _initial(caller: str, x0: Any, subsets: list[Subset], y: Tensor, r: Tensor) -> Tensor:
    """Return x0, or the constant that explains all counts of each image of the batch, on the voxels that are seen."""
    sensitivity = reduce(torch.add, (s.sensitivity for s in subsets))
    seen = reduce(torch.logical_or, (s.seen for s in subsets))
    if x0 is not None:
        x = as_initial(x0, sensitivity, caller=caller)
        check_counts(caller, "x0", x, "clip it, or leave it out")
        return torch.where(seen, x, 0)

    def per_image(a: Tensor) -> Tensor:
        return a.flatten(1).sum(1).reshape(-1, *(1,) * (sensitivity.ndim - 1))

    counts = per_image(y - r)
    # A background as bright as the counts leaves nothing to start from: then all counts are x's.
    counts = torch.where(counts > 0, counts, per_image(y))
    return torch.where(seen, counts / per_image(sensitivity), 0)


def _check_explained(caller: str, operator: Any, x: Tensor, y: Tensor, r: Tensor) -> None:
    expected = operator.A(x)
    if expected.shape != y.shape:
        raise ValueError(
            f"{caller}: y must have the shape of operator.A(x), {tuple(expected.shape)}, got {tuple(y.shape)}"
        )
    orphans = (y > 0) & ~(expected + r > 0)
    if bool(orphans.any()):
        raise ValueError(
            f"{caller}: y has counts in {int(orphans.sum())} measurements where A x0 + background is 0: no voxel can "
            "explain them; give a background, set them to 0 if they are faults, or widen the image or x0"
        )
