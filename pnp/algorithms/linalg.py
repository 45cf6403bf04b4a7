"""Linear algebra on callables: conjugate gradients, its implicit derivative, norms and adjoint tests.

Nothing here depends on operators or solvers. The first axis is a batch of independent systems, as everywhere in
this package: inner products run over the other axes, so that an image is solved the same alone or in company.
All tolerances are relative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LinearMap = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """An approximate solution of H x = b."""

    x: Tensor
    n_iter: int
    ratio: Tensor
    """The largest ||b - H x||^2 / ||b||^2 in the batch, by CG's recurrence."""

    @property
    def residual(self) -> float:
        """The largest ||b - H x|| / ||b|| in the batch; read here, it waits for the device only where it is asked."""
        return float(self.ratio.sqrt())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> per batch entry, shaped to broadcast against a."""
    axes = tuple(range(1, a.ndim))
    return torch.real(a.conj() * b).sum(dim=axes, keepdim=True) if axes else torch.real(a.conj() * b)


def _largest(a: Tensor) -> Tensor:
    """Return the largest |a| per batch entry, shaped to broadcast against a; 1 where that is 0."""
    axes = tuple(range(1, a.ndim))
    largest = a.abs().amax(dim=axes, keepdim=True) if axes and a.numel() else a.abs()
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0: a system already solved moves no more."""
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))


@torch.no_grad()
def cg(
    normal: LinearMap,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    preconditioner: LinearMap | None = None,
    rtol: float = 1e-5,
    reduction: float = 0.0,
    max_iter: int = 100,
) -> Solution:
    """Solve H x = b by preconditioned conjugate gradients (Hestenes & Stiefel 1952; Saad 2003, algorithm 9.1).

    Args:
        normal: x -> H x, symmetric (Hermitian) positive definite, acting on each batch entry by itself.
        b: right-hand side, (B, ...).
        x0: where to start, shaped like b; None: zero.
        preconditioner: r -> M r, close to H^-1 r, symmetric positive definite.
        rtol: a batch entry stays as it is once ||b - H x|| <= rtol ||b||; stop once all do.
        reduction: and once the residual is this fraction of what it was at x0; 0: only where rtol says so.
        max_iter: at most so many applications of H.
    """
    # In units of b's largest entry, image by image: squares of faint or bright data leave the range of float32.
    scale = _largest(b)
    b = b / scale
    x = torch.zeros_like(b) if x0 is None else x0 / scale
    r = b.clone() if x0 is None else b - normal(x)
    norm = _dot(r, r)
    # A residual that leaves the range of the dtype is no target: x0 would be the answer without a word.
    target = torch.maximum(rtol**2 * _dot(b, b), torch.where(norm.isfinite(), reduction**2 * norm, 0))
    p, rho = torch.zeros_like(b), torch.zeros_like(norm)
    n_iter = 0
    while n_iter < max_iter and bool((norm > target).any()):
        s = r if preconditioner is None else preconditioner(r)
        rho, rho_old = _dot(r, s), rho
        p = s + _ratio(rho, rho_old) * p
        q = normal(p)
        step = torch.where(norm > target, _ratio(rho, _dot(p, q)), 0)
        x, r = x + step * p, r - step * q
        norm = _dot(r, r)
        n_iter += 1
    return Solution(x * scale, n_iter, _ratio(norm, _dot(b, b)).max() if b.numel() else norm.new_zeros(()))


class _Lift(torch.autograd.Function):
    """Forward: zero. Backward: g -> H^-1 g. Turns a residual into a correction seen by the gradient alone."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(residual)

    @staticmethod
    @once_differentiable  # x is held fixed above: a second derivative would be silently incomplete
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(grad[0]), None


def implicit_solve(
    normal: LinearMap,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    preconditioner: LinearMap | None = None,
    rtol: float = 1e-5,
    reduction: float = 0.0,
    max_iter: int = 100,
) -> Solution:
    """Solve H x = b by `cg` with the derivative of the solution, not of the iterations.

    By the implicit function theorem dx = H^-1 (db - dH x). CG runs without a graph and gives x; then
    x + Lift(b - H x) has the same value, and its backward pass is one more solve with H, from which autograd
    continues through b - H x at fixed x: to b and to whatever parameters `normal` depends on. Arguments as `cg`.
    The gradient is as accurate as rtol and can be taken once, and then x, too, is solved for to rtol alone; without
    grad mode this is `cg`.
    """
    reduction = 0.0 if torch.is_grad_enabled() else reduction
    found = cg(
        normal, b.detach(), x0=x0, preconditioner=preconditioner, rtol=rtol, reduction=reduction, max_iter=max_iter
    )
    if not torch.is_grad_enabled():
        return found

    def solve_again(grad: Tensor) -> Tensor:
        return cg(normal, grad, preconditioner=preconditioner, rtol=rtol, max_iter=max_iter).x

    residual = b - normal(found.x)
    return found._replace(x=found.x + _Lift.apply(residual, solve_again))  # type: ignore[no-untyped-call]


@torch.no_grad()
def operator_norm(
    normal: LinearMap,
    like: Tensor,
    *,
    rtol: float = 1e-3,
    max_iter: int = 100,
    generator: torch.Generator | None = None,
) -> float:
    """Return ||A||, the largest singular value of A, by power iteration on A*A.

    Args:
        normal: x -> A* A x.
        like: an image batch whose shape, dtype and device the iterates take.
        rtol: stop once an iteration changes the estimate by less than this fraction. The estimate never
            exceeds ||A||; it may fall short by more than rtol where the leading singular values cluster.
        max_iter: at most so many applications of A*A.
        generator: draws the start, on the device of `like`; None: one seeded with 0, so that calls agree.
    """
    if generator is None:
        generator = torch.Generator(device=like.device).manual_seed(0)
    x = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

    def unit(x: Tensor) -> Tensor:
        x = x / x.abs().max()  # before anything is squared
        return x / torch.linalg.vector_norm(x)  # type: ignore[no-any-return]

    def quotient(x: Tensor, Nx: Tensor) -> list[float]:
        return [float(torch.real(x.conj() * Nx).sum().clamp(min=0).sqrt())]

    return power_iteration(normal, x, unit, quotient, rtol=rtol, max_iter=max_iter)[0]


def power_iteration(
    normal: LinearMap,
    x: Tensor,
    unit: LinearMap,
    quotient: Callable[[Tensor, Tensor], list[float]],
    *,
    rtol: float,
    max_iter: int,
) -> list[float]:
    """Return the roots of the largest eigenvalues of A*A, one or more at once; one that has converged stays.

    Args:
        normal: x -> A*A x.
        x: the start.
        unit: x -> x / ||x||.
        quotient: x, A*A x -> the root of <x, A*A x> for ||x|| = 1, which converges twice as fast as ||A*A x||.
        rtol, max_iter: as for `operator_norm`.
    """
    norms: list[float] = []
    running: list[bool] = []
    for _ in range(max_iter):
        x = unit(x)
        Nx = normal(x)
        found = quotient(x, Nx)
        norms, running = norms or [0.0] * len(found), running or [True] * len(found)
        x = Nx
        for b in [b for b, runs in enumerate(running) if runs]:
            before, norms[b] = norms[b], found[b]
            running[b] = not (norms[b] == 0 or abs(norms[b] - before) <= rtol * norms[b])
        if not any(running):
            break
    return norms


@torch.no_grad()
def adjoint_gap(A: LinearMap, A_adjoint: LinearMap, x: Tensor, y: Tensor) -> float:
    """Return |<A x, y> - <x, A* y>| / (||A x|| ||y||), zero for an exact adjoint.

    >>> adjoint_gap(lambda x: 2 * x, lambda y: 3 * y, torch.ones(1, 4), torch.ones(1, 4))
    0.5
    """
    Ax, Aty = A(x), A_adjoint(y)
    gap = torch.vdot(Ax.flatten(), y.flatten()) - torch.vdot(x.flatten(), Aty.flatten())
    return float(gap.abs() / (torch.linalg.vector_norm(Ax) * torch.linalg.vector_norm(y)))
