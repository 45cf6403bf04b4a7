"""Newton steps for counts: conditions of the minimum, a dense solution, few counts, monotony, batches, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import rand, rel
from torch import Tensor
from toys import SHAPE, Matrix

from operators import Blur, Mask
from pnp import Poisson
from pnp.algorithms.count_newton import Counts, minimise, objective_change

N = SHAPE[0] * SHAPE[1]
ONE = torch.ones(())


def matrix_problem(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Matrix, Tensor, Tensor, Tensor]:
    M = rand(60, N, seed=2).abs()
    M[M < 0.8] = 0
    truth = scale * rand(N, seed=3).clamp(min=0)
    y = torch.poisson(M @ truth + 0.2 * scale, generator=torch.Generator().manual_seed(0))[None, None]
    v = scale * rand(1, 1, *SHAPE, seed=7)
    return Matrix(M.to(dtype)), y.to(dtype), v.to(dtype), torch.tensor(3.0 / scale, dtype=dtype)


def gradient(A: Matrix, y: Tensor, r: float, x: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return A.A_adjoint(1 - y / (A.A(x) + r)) + alpha * (x - v)


@pytest.mark.parametrize("scale", [0.3, 5.0, 1e4])
def test_the_minimum_satisfies_the_conditions_of_karush_kuhn_and_tucker(scale: float) -> None:
    A, y, v, alpha = matrix_problem(scale)
    x = Poisson(background=0.2 * scale, n_inner=60).bind(A, y, ONE)(v, alpha).detach()
    g, size = gradient(A, y, 0.2 * scale, x, v, alpha), float((alpha * (x - v)).norm())
    assert float(x.min()) == 0 and bool((x == 0).sum() > 5)
    assert float(g[x > 0].norm()) < 1e-3 * size and float(g[x == 0].min()) > -1e-3 * size


def test_it_is_the_dense_newton_solution() -> None:
    A, y, v, alpha = matrix_problem(5.0)
    x = torch.ones(N, dtype=y.dtype)
    for _ in range(60):  # with the pixels that are 0 left out
        E = A.M @ x + 1.0
        g = A.M.T @ (1 - y.flatten() / E) + alpha * (x - v.flatten())
        free = (x > 0) | (g < 0)
        H = A.M.T @ ((y.flatten() / E**2)[:, None] * A.M) + alpha * torch.eye(N, dtype=y.dtype)
        d = torch.zeros_like(x)
        d[free] = torch.linalg.solve(H[free][:, free], -g[free])
        x = (x + 0.5 * d).clamp(min=0)
    found = Poisson(background=1.0).bind(A, y, ONE)(v, alpha)
    assert rel(found.flatten(), x) < 1e-3


def test_few_counts_and_zeros_are_exact_behind_a_mask() -> None:
    y = torch.poisson(torch.full((1, 1, 16, 16), 0.5), generator=torch.Generator().manual_seed(1))
    v, alpha = rand(1, 1, 16, 16, seed=4).float(), torch.tensor(2.0)
    with torch.no_grad():
        x = Poisson().bind(Mask(torch.ones(16, 16)), y, ONE)(v, alpha)
    q = 1 - alpha * v
    assert bool((y == 0).any()) and rel(x, ((q**2 + 4 * alpha * y).sqrt() - q) / (2 * alpha)) < 1e-5


@pytest.mark.parametrize("peak", [0.5, 20.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_preconditioner_of_the_operator_the_gradient_vanishes(peak: float, dtype: torch.dtype) -> None:
    A = Blur(torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16, (16, 16))
    x0 = peak * rand(1, 1, 16, 16, seed=2).abs().to(dtype)
    y = torch.poisson(A.A(x0), generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor(0.5 / peak, dtype=dtype)
    h = Poisson(n_inner=60).bind(A, y, ONE)
    x = h(x0, alpha).detach()
    E, floor = A.A(x), 1 + 0.1 * y.mean()
    push = alpha * (x - x0)
    g = A.A_adjoint((E - y) / torch.maximum(E, floor)) + push
    assert float(g.norm()) < 1e-3 * float(push.norm())


@pytest.mark.parametrize("scale", [0.3, 1e3])
def test_no_step_raises_the_objective(scale: float) -> None:
    A, y, v, alpha = matrix_problem(scale)
    counts: Counts = Poisson(background=0.2 * scale).bind(A, y, ONE)._problem
    # Starts far off, where a Newton step alone would rise.
    for x in (torch.full_like(v, 1e-6 * scale), torch.full_like(v, 1e3 * scale)):
        for _ in range(8):
            after = minimise(counts, x, v, alpha, n_steps=1).x
            change = float(objective_change(counts, x, after, v, alpha))
            assert change <= 1e-9 * float(y.sum()) and math.isfinite(change)
            x = after


@pytest.mark.parametrize("with_preconditioner", [False, True])
def test_images_of_a_batch_are_solved_as_alone(with_preconditioner: bool) -> None:
    A = Blur(torch.ones(3, 3) / 9, SHAPE) if with_preconditioner else matrix_problem()[0]
    x = torch.cat([scale * rand(1, 1, *SHAPE, seed=2).abs() for scale in (0.5, 1e3)])
    y = torch.poisson(A.A(x), generator=torch.Generator().manual_seed(0))
    alphas = torch.tensor([1.0, 1e-3], dtype=y.dtype).reshape(2, 1, 1, 1)
    with torch.no_grad():
        together = Poisson().bind(A, y, ONE)
        first, second = (together(x, alphas), together(0.9 * x, alphas))
        for b in range(2):
            alone, one = Poisson().bind(A, y[b : b + 1], ONE), x[b : b + 1]
            assert rel(first[b : b + 1], alone(one, alphas[b : b + 1])) < 1e-9
            assert rel(second[b : b + 1], alone(0.9 * one, alphas[b : b + 1])) < 1e-9


@pytest.mark.parametrize("with_preconditioner", [False, True])
def test_its_derivative_is_that_of_the_minimum(with_preconditioner: bool) -> None:
    A, y, v, alpha = matrix_problem(20.0)
    if with_preconditioner:
        A = Blur(torch.ones(3, 3) / 9, SHAPE)
        y = torch.poisson(A.A(v.abs()) + 4.0, generator=torch.Generator().manual_seed(0))
    term, c, direction = Poisson(background=4.0), rand(*v.shape, seed=8), rand(*v.shape, seed=9)
    v, alpha = v.requires_grad_(), alpha.requires_grad_()
    (c * term.bind(A, y, ONE)(v, alpha)).sum().backward()

    def value(step: float, change_of_alpha: float) -> float:
        found = term.bind(A, y, ONE)((v + step * direction).detach(), (alpha + change_of_alpha).detach())
        return float((c * found).sum())

    eps = 1e-3
    along_v = (value(eps, 0) - value(-eps, 0)) / (2 * eps)
    assert float((v.grad * direction).sum()) == pytest.approx(along_v, rel=0.03, abs=1e-3)
    eps *= float(alpha.detach())
    along_alpha = (value(0, eps) - value(0, -eps)) / (2 * eps)
    assert float(alpha.grad) == pytest.approx(along_alpha, rel=0.03)
