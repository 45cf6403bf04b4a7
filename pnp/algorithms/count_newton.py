"""Newton steps for counts: argmin f(x) + alpha/2 ||x - v||^2 with f that of `poisson`, from a start nearby.

With E = A x + r and weights W = 1/gain, f has the gradient A* W (1 - y/E), and the expected Hessian A* W/E A (Fisher
scoring: Osborne, Int. Stat. Rev. 60 (1992) 99). A step d solves, by at most `MAX_CG` conjugate gradients,

    (A*(W/E)A + alpha) d = -(A* W (1 - y/E) + alpha (x - v)),

with E of the weights not below a floor, a count and a fraction of the mean count: smaller ones make the system stiff.
d is shortened until the objective does not rise. Two kinds of operators:

- Where the operator has a preconditioner, x is free, and f goes on as the parabola of curvature W/floor where E is
  below the floor. Such operators may ring about zero, and one photon where next to nothing is expected would outweigh
  all others. The bounds are those of z.
- Elsewhere x >= 0 and f is exact. The preconditioner is that of EM, x/(s + alpha x), s = A* W; pixels at 0 that
  the gradient holds there stay out of the system (Bertsekas, SIAM J. Control Optim. 20 (1982) 221). Each update begins
  with a step of EM, which solves alone what A's pixels share nothing of, such as a mask. An image whose Newton step
  finds no fall takes another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import LinearMap, cg, implicit_solve
from .protocols import Operator

MAX_CG, REDUCTION = 10, 0.02
"""Conjugate gradients of a step end after so many iterations, or at this fraction of the first residual."""
RTOL = 1e-5
"""An image is left as it is where its gradient is below this fraction of the prior's, or is rounding."""
FLOOR, FLOOR_OF_BOUNDED = 0.1, 0.02
"""The floor's fraction of the mean count: where the operator has a preconditioner, and where x >= 0, whose parabolas
would be too flat with a higher one."""
NEAR_ZERO = 1e-2
"""Fraction of the mean pixel that is added to those of EM's preconditioner: one at 0 may leave."""
MAX_TRIALS = 4
MAX_STEPS_OF_GRAPH, MAX_CG_OF_GRAPH = 30, 100


class Counts(NamedTuple):
    """Counts y and what is expected of them, all but the operator in the shape of y or broadcasting to it."""

    operator: Operator
    y: Tensor
    weights: Tensor
    """W = 1/gain, 0 where a count is left out."""
    background: Tensor
    """r."""
    floor: Tensor
    """Expected counts below which weights do not grow, see above."""
    least: Tensor
    """Expected counts below which nothing is expected."""
    sensitivity: Tensor
    """s = A* W."""
    em: Callable[[Tensor, Tensor, Tensor], Tensor]
    """x, v, alpha -> x after a step of EM."""


class Step(NamedTuple):
    """An x-update and the conjugate gradient iterations that it took."""

    x: Tensor
    n_iter: int


class _Point(NamedTuple):
    """x, E = A x + r and the gradient of the objective; free is 1 where a pixel may move, 0 where it is held at 0."""

    x: Tensor
    expected: Tensor
    gradient: Tensor
    free: Tensor
    moving: Tensor
    """Whether the gradient of an image is not yet 0, (B, 1, ...)."""


@torch.no_grad()
def minimise(counts: Counts, x: Tensor, v: Tensor, alpha: Tensor, *, n_steps: int, max_cg: int = MAX_CG) -> Step:
    """Return x after at most n_steps Newton steps; fewer where the gradient vanishes. Each image is on its own."""
    bounded, done = not has_preconditioner(counts.operator), 0
    if bounded:
        x = counts.em(x, v, alpha)
    expected = counts.operator.A(x) + counts.background
    for _ in range(n_steps):
        at = _look(counts, x, expected, v, alpha, bounded)
        if not bool(at.moving.any()):
            break
        weights = counts.weights / torch.maximum(expected, counts.floor)
        found = cg(
            _hessian(counts, weights, at.free, alpha),
            torch.where(at.moving, -at.free * at.gradient, 0),
            preconditioner=_preconditioner(counts, weights, at, alpha, bounded),
            rtol=REDUCTION,
            max_iter=max_cg,
        )
        done += found.n_iter
        x, expected = _search(counts, at, found.x, v, alpha, bounded)
    return Step(x, done)


def differentiable(counts: Counts, x: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Return x, the minimiser, with its derivative by v, alpha and what the operator depends on (one more solve).

    From the gradient g(x) = 0 of the pixels that are free follows dx = -H^-1 dg, H the Hessian with y/E^2.
    """
    bounded = not has_preconditioner(counts.operator)
    expected = counts.operator.A(x) + counts.background
    at = _look(counts, x, expected, v, alpha, bounded)
    with torch.no_grad():
        smallest = counts.least if bounded else counts.floor
        E = torch.maximum(expected, smallest)
        curved = torch.where(expected > smallest, counts.y / E**2, 0 if bounded else 1 / E)
        weights = counts.weights * curved
        M = _preconditioner(counts, weights, at, alpha.detach(), bounded)
    H = _hessian(counts, weights, at.free, alpha.detach())
    b = -at.free * at.gradient
    d = implicit_solve(H, b, preconditioner=M, rtol=RTOL, max_iter=MAX_CG_OF_GRAPH).x
    return x + (d - d.detach())


def floor_of(operator: Operator, gain: Tensor, mean: Tensor) -> Tensor:
    """Return the expected counts below which weights do not grow; gain and mean are those of the counts."""
    return gain + (FLOOR if has_preconditioner(operator) else FLOOR_OF_BOUNDED) * mean


def has_preconditioner(operator: Operator) -> bool:
    """Return whether the operator has a preconditioner of its own."""
    return hasattr(operator, "preconditioner")


def objective_change(counts: Counts, x0: Tensor, x1: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Return the objective at x1 less that at x0, of each image, (B, 1, ...)."""
    before, after = (counts.operator.A(x) + counts.background for x in (x0, x1))
    bounded = not has_preconditioner(counts.operator)
    return _like(_change(counts, before, after, bounded)[0], x0) + _pull(x0, x1, v, alpha)


def _look(counts: Counts, x: Tensor, expected: Tensor, v: Tensor, alpha: Tensor, bounded: bool) -> _Point:
    """Return the gradient at x, and which pixels are free."""
    if bounded:
        seen = expected > counts.least
        slope = 1 - torch.where(seen, counts.y / torch.where(seen, expected, 1), 0)
    else:
        slope = (expected - counts.y) / torch.maximum(expected, counts.floor)
    push = alpha * (x - v)
    gradient = counts.operator.A_adjoint(counts.weights * slope) + push
    free = torch.ones_like(x)
    if bounded:
        scaled = x * _em_curvature(counts, x, alpha)
        free = torch.where((gradient > 0) & (scaled <= gradient), 0, free)
    rounding = 4 * torch.finfo(x.dtype).eps * _norms(counts.sensitivity.expand(x.shape))
    moving = _norms(free * gradient) > RTOL * _norms(push) + rounding
    return _Point(x, expected, gradient, free.detach(), moving.detach())


def _em_curvature(counts: Counts, x: Tensor, alpha: Tensor) -> Tensor:
    """Return s/x + alpha, the curvature of EM's surrogate, with a little more than x."""
    mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
    near = x + NEAR_ZERO * mean
    seen = near > 0
    return counts.sensitivity.clamp(min=0) / torch.where(seen, near, 1) * seen + alpha


def _hessian(counts: Counts, weights: Tensor, free: Tensor, alpha: Tensor) -> LinearMap:
    A, A_adjoint = counts.operator.A, counts.operator.A_adjoint
    return lambda p: free * A_adjoint(weights * A(p)) + alpha * p


def _preconditioner(counts: Counts, weights: Tensor, at: _Point, alpha: Tensor, bounded: bool) -> LinearMap | None:
    """Return M of the free pixels: the operator's own, or EM's."""
    if bounded:
        scale = at.free / _em_curvature(counts, at.x.detach(), alpha)
        return lambda r: scale * r
    M = counts.operator.preconditioner(weights)  # type: ignore[attr-defined]
    return None if M is None else lambda r: M(r, alpha)


def _search(counts: Counts, at: _Point, d: Tensor, v: Tensor, alpha: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Return x and E after 1, 1/4, 1/16, ... of the step d, for each image the first where the objective does not rise.

    Where none is left, an image takes a step of EM if x >= 0, and stays as it is otherwise.
    """
    A, x, expected = counts.operator.A, at.x, at.expected
    if bounded:
        d = torch.where((at.free > 0) | ~at.moving, d, -x)
    along = None if bounded else A(d)  # E is linear in the step where nothing is clamped
    best, best_expected, done = x, expected, ~at.moving
    for k in range(MAX_TRIALS):
        trial = x + 4.0**-k * d
        trial = trial.clamp(min=0) if bounded else trial
        there = A(trial) + counts.background if along is None else expected + 4.0**-k * along
        change, rounding = (_like(total, x) for total in _change(counts, expected, there, bounded))
        falls = ~done & (change + _pull(x, trial, v, alpha) <= rounding)
        best = torch.where(falls, trial, best)
        best_expected = torch.where(_like(falls, expected), there, best_expected)
        done = done | falls
        if bool(done.all()):
            return best, best_expected
    if bounded:
        best = torch.where(done, best, counts.em(x, v, alpha))
        best_expected = A(best) + counts.background
    return best, best_expected


def _change(counts: Counts, before: Tensor, after: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Return how much the likelihood's term rises from E = before to after in each image, and the rounding of that."""
    y, W = counts.y, counts.weights
    smallest = counts.least if bounded else counts.floor
    low, high = torch.maximum(before, smallest), torch.maximum(after, smallest)
    # Differences term by term: float32 does not hold that of two sums.
    log = y * torch.log1p((high - low) / low)
    terms = (after - before if bounded else high - low) - log
    if not bounded:
        below = [torch.minimum(E, smallest) for E in (before, after)]
        terms = terms + (below[1] - below[0]) * (below[1] + below[0] - 2 * y) / (2 * smallest)
    size = _sums(W * ((high - low).abs() + log.abs()), before)
    return _sums(W * terms, before), torch.finfo(y.dtype).eps * size


def _pull(x0: Tensor, x1: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Return alpha/2 (||x1 - v||^2 - ||x0 - v||^2) of each image."""
    return _sums(alpha / 2 * (x1 - x0) * (x1 - v + (x0 - v)), x0)


def _sums(values: Tensor, like: Tensor) -> Tensor:
    """Return the sum over each image, (B, 1, ...)."""
    return values.reshape(len(like), -1).sum(dim=1).reshape(-1, *[1] * (like.ndim - 1))


def _norms(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.reshape(-1, *[1] * (values.ndim - 1))


def _like(values: Tensor, like: Tensor) -> Tensor:
    """Return (B, 1, ...) with as many axes as like."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
