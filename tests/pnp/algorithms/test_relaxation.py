"""Over-relaxed ADMM: the same solution in fewer iterations, and how much of an image is measured."""

from __future__ import annotations

import pytest
import torch
from arrays import rand, rel
from torch import Tensor
from toys import Diagonal, Matrix

from denoisers import TV
from operators import Mask, Radon
from pnp import LeastSquares, Poisson, admm, solve
from pnp.algorithms.linalg import cg
from pnp.algorithms.schedules import relaxation

SHAPE = (6, 7)
N = 42


def quadratic() -> tuple[LeastSquares, Matrix, Tensor, Tensor, Tensor]:
    """Return a least-squares term, A, y, the matrix of a quadratic prior, and the minimiser of both."""
    M, y, R = rand(12, N, seed=2), rand(1, 1, 12, seed=3), torch.diag(0.05 + rand(N, seed=6).abs())
    truth = torch.linalg.solve(M.T @ M + R, M.T @ y[0, 0]).reshape(1, 1, *SHAPE)
    return LeastSquares(rtol=1e-12, max_iter=200), Matrix(M), y, R, truth


@pytest.mark.parametrize("rho", [0.6, 1.0, 1.7, 1.9])
def test_every_relaxation_leads_to_the_minimiser(rho: float) -> None:
    term, A, y, R, truth = quadratic()
    h = term.bind(A, y, torch.ones((), dtype=y.dtype))

    def prox(v: Tensor, alpha: float) -> Tensor:  # sigma carries alpha here
        return torch.linalg.solve(R + alpha * torch.eye(N, dtype=y.dtype), alpha * v.flatten()).reshape(v.shape)

    states = list(admm(h, prox, torch.zeros_like(truth), [(0.5, 0.5)] * 2000, relaxation=rho))
    assert rel(states[-1].x, truth) < 1e-8 and rel(states[-1].z, truth) < 1e-8


def test_over_relaxation_takes_fewer_iterations() -> None:
    term, A, y, R, truth = quadratic()

    def iterations(rho: float) -> int:
        h = term.bind(A, y, torch.ones((), dtype=y.dtype))

        def prox(v: Tensor, alpha: float) -> Tensor:
            return torch.linalg.solve(R + alpha * torch.eye(N, dtype=y.dtype), alpha * v.flatten()).reshape(v.shape)

        states = admm(h, prox, torch.zeros_like(truth), [(2.0, 2.0)] * 3000, relaxation=rho)
        return next(state.k for state in states if rel(state.z, truth) < 1e-6)

    assert iterations(1.7) < 0.65 * iterations(1.0)  # 1/1.7 where the slowest component rules


def test_each_image_has_its_own_relaxation() -> None:
    y = rand(2, 1, *SHAPE, seed=1)

    def iterates(images: Tensor, rho: float | Tensor) -> Tensor:
        h = LeastSquares().bind(Diagonal(torch.ones(1, 1)), images, torch.ones((), dtype=y.dtype))
        levels = [(0.3, 1.0), (0.2, 2.0), (0.1, 4.0)]
        return list(admm(h, lambda v, s: 0.5 * v, torch.zeros_like(images), levels, relaxation=rho))[-1].z

    both = iterates(y, torch.tensor([1.0, 1.7], dtype=torch.float64))
    assert rel(both[:1], iterates(y[:1], 1.0)) < 1e-12 and rel(both[1:], iterates(y[1:], 1.7)) < 1e-12


def test_a_bad_first_estimate_is_not_relaxed_with() -> None:
    """Where A = 1, x = y at once; a z that was over-relaxed from x0 would swing about it."""
    y = rand(1, 1, *SHAPE, seed=1)
    found = solve(
        Diagonal(torch.ones(1, 1)), y, lambda v, s: v, noise_std=1e-3, x0=100 + y, max_iter=2, schedule=[1e3], rtol=0,
        relaxation=1.7,
    )  # fmt: skip
    assert rel(found.x, y) < 1e-6


def test_coverage_is_the_share_of_the_image_that_is_measured() -> None:
    y = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    mask = (torch.arange(64 * 64).reshape(64, 64) % 4 == 0).double()
    assert LeastSquares().bind(Mask(torch.ones(64, 64)), y, one).coverage() == pytest.approx(1, abs=1e-9)
    assert LeastSquares().bind(Mask(mask), mask * y, one).coverage() == pytest.approx(0.25, abs=0.02)
    assert Poisson().bind(Mask(torch.ones(64, 64)), 9 * y.round() + 1, one).coverage() == pytest.approx(1, abs=1e-9)
    A = Radon((64, 64), torch.linspace(0, 3, 20))
    assert LeastSquares().bind(A, A.A(y), one).coverage() < 0.1
    assert relaxation(0.25) == pytest.approx(1.7 - 0.7 / 16) and relaxation(1.2) == 1


def test_small_images_that_are_all_measured_are_not_relaxed() -> None:
    """The probe of 16 x 16 pixels has a mean square of 0.88, and that of 8 x 8 one of 1.09."""
    for n in (8, 16):
        h = LeastSquares().bind(Diagonal(torch.ones(1, 1)), rand(1, 1, n, n), torch.ones((), dtype=torch.float64))
        assert relaxation(float(h.coverage())) == pytest.approx(1, abs=1e-9)


def test_the_power_iteration_of_counts_runs_once() -> None:
    calls = []

    class Counted(Diagonal):
        def A(self, x: Tensor) -> Tensor:
            calls.append(1)
            return super().A(x)

    h = Poisson().bind(Counted(torch.ones(1, 1)), torch.ones(1, 1, 8, 8), torch.ones(()))
    h.curvature(), h.curvature()
    before = len(calls)
    h.spectral_flatness(), h.coverage()
    assert len(calls) == before + 1  # one probe for both


@pytest.mark.parametrize("rho", [0, 2, -1, float("nan"), "1.7"])
def test_relaxations_that_are_none_are_refused(rho: object) -> None:
    with pytest.raises((ValueError, TypeError), match="relaxation"):
        solve(Mask(torch.ones(8, 8)), torch.rand(1, 1, 8, 8), TV(), noise_std=0.1, relaxation=rho)


def test_hqs_has_no_relaxation() -> None:
    with pytest.raises(ValueError, match="relaxation"):
        solve(Mask(torch.ones(8, 8)), torch.rand(1, 1, 8, 8), TV(), noise_std=0.1, algorithm="hqs", relaxation=1.5)


@pytest.mark.parametrize("reduction", [0.0, 0.05])
def test_cg_does_not_return_a_start_whose_residual_overflows(reduction: float) -> None:
    b, x0 = torch.ones(1, 4), torch.full((1, 4), 1e25)
    assert not torch.equal(cg(lambda x: 2 * x, b, x0=x0, reduction=reduction).x, x0)


def test_cg_stops_where_the_residual_has_fallen_by_a_factor() -> None:
    H = torch.diag(torch.linspace(1, 1000, N, dtype=torch.float64))
    b, x0 = rand(1, N, seed=2), rand(1, N, seed=3)

    def normal(x: Tensor) -> Tensor:
        return x @ H

    start = torch.linalg.vector_norm(b - normal(x0))
    exact, loose = (cg(normal, b, x0=x0, rtol=1e-12, reduction=q) for q in (0.0, 0.05))
    assert loose.n_iter < exact.n_iter and rel(normal(exact.x), b) < 1e-10
    assert torch.linalg.vector_norm(b - normal(loose.x)) <= 0.05 * start
