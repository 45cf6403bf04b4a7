"""The Poisson data term: EM surrogates against a dense optimiser, counts in and out of sight."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from arrays import rand, rel
from scipy import optimize
from torch import Tensor
from toys import SHAPE, Diagonal, Matrix, image, smooth

from operators import Radon
from pnp import LeastSquares, Poisson, solve

N = SHAPE[0] * SHAPE[1]
EXACT = LeastSquares(rtol=1e-12, max_iter=500)


def poisson_problem() -> tuple[Matrix, Tensor, float]:
    M = rand(40, N, seed=2).abs()
    truth = 5 * rand(N, seed=3).abs()
    y = torch.poisson(M @ truth + 2.0, generator=torch.Generator().manual_seed(0))[None, None]
    y[..., 5] = 0
    return Matrix(M), y, 2.0


def test_the_poisson_step_descends_to_the_dense_minimiser() -> None:
    operator, y, r = poisson_problem()
    v, alpha = 5 * rand(1, 1, *SHAPE, seed=7), torch.tensor(10.0, dtype=y.dtype)

    def objective(x: Tensor) -> float:
        expected = operator.A(x) + r
        return float((expected - torch.xlogy(y, expected)).sum() + alpha / 2 * ((x - v) ** 2).sum())

    h = Poisson(background=r, n_inner=1).bind(operator, y, torch.ones(()))
    values = [objective(h.initial())] + [objective(h(v, alpha)) for _ in range(1500)]
    assert all(b <= a + 1e-12 * abs(a) for a, b in pairwise(values))

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.from_numpy(x).reshape(v.shape)
        expected = operator.A(t) + r
        return objective(t), (operator.A_adjoint(1 - y / expected) + alpha * (t - v)).numpy().ravel()

    dense = optimize.minimize(
        value_and_gradient, np.ones(N), jac=True, method="L-BFGS-B", bounds=[(0, None)] * N,
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )  # fmt: skip
    assert values[-1] == pytest.approx(dense.fun, rel=1e-9)
    assert rel(h(v, alpha).flatten(), dense.x) < 1e-3
    assert h(v, alpha).min() >= 0


def test_the_poisson_step_does_not_cancel() -> None:
    # Tiny alpha: the naive root -q + sqrt(q^2 + small) would be pure rounding in float32.
    operator, y, r = poisson_problem()
    alphas = [torch.tensor(1e-12, dtype=d) for d in (torch.float32, torch.float64)]
    v = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    single, double = (
        Poisson(background=r).bind(operator, y.to(a.dtype), torch.ones(()))(v.to(a.dtype), a) for a in alphas
    )
    assert rel(single.double(), double) < 1e-4


def test_poisson_solve_beats_nothing_but_the_counts() -> None:
    x = 20 * (0.2 + image())
    y = torch.poisson(x, generator=torch.Generator().manual_seed(1))
    found = solve(Diagonal(torch.ones(1, 1)), y, smooth, data_term=Poisson(), bounds=(0, None))
    assert found.noise_std is None and not found.noise_estimated
    assert (found.x - x).norm() < 0.8 * (y - x).norm()
    assert found.misfit < 1.2
    again = solve(Diagonal(torch.full((1, 1), 1e-3)), y, smooth, data_term=Poisson(), bounds=(0, None))
    assert rel(again.x / 1e3, found.x) < 1e-6  # counts have no units, x has


def test_poisson_pixels_and_measurements_out_of_sight_stay_finite() -> None:
    M = rand(40, N, seed=2).abs()
    M[:, 3], M[7] = 0, 0  # a pixel no detector sees, a detector that sees no pixel but counted
    y = torch.full((1, 1, 40), 3.0, dtype=M.dtype)
    found = solve(Matrix(M), y, smooth, data_term=Poisson(), bounds=(0, None), max_iter=5)
    assert found.x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_through_a_radon_transform_by_fourier_slices(dtype: torch.dtype) -> None:
    # Its entries ring about zero, so that A x and A* e are slightly negative here and there.
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = (100 * ((rows - 14) ** 2 + (columns - 17) ** 2 < 30)).to(dtype)[None, None]
    A = Radon((32, 32), torch.linspace(0, np.pi, 9)[:-1])
    assert A.A(x).min() < 0
    y = torch.poisson(A.A(x).clamp(min=0), generator=torch.Generator().manual_seed(0))
    found = solve(A, y, smooth, data_term=Poisson(), bounds=(0, None))
    start = Poisson().bind(A, y, torch.ones(())).initial()
    assert found.x.isfinite().all() and start.isfinite().all() and start.min() >= 0
    assert rel(found.x, x) < 0.35
