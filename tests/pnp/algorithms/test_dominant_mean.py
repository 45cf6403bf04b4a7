"""Operators that measure the mean far more strongly than the rest, such as 0/1 patterns, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from arrays import rand, rel

from denoisers import TV
from operators import Radon
from pnp import LeastSquares, solve
from pnp.algorithms.dominant_mean import centred, norms_of_rest
from pnp.interop import as_operator
from pnp.metrics import psnr
from pnp.phantoms import head

N = 144
SIDE = (12, 12)


def patterns(m: int, n: int, low: float = 0.0) -> torch.Tensor:
    """Half the entries low, half 1."""
    drawn = torch.rand(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.where(drawn < 0.5, low, 1.0).double() / m**0.5


def bound(M: torch.Tensor, y: torch.Tensor, weight: float = 4.0):
    A = as_operator(M, image_shape=SIDE)
    return LeastSquares(rtol=1e-10, max_iter=400).bind(A, y, torch.tensor(weight, dtype=torch.float64))


def test_the_curvature_is_that_of_the_rest():
    M = patterns(100, N)
    h = bound(M, rand(1, 100, seed=1))
    singular = torch.linalg.svdvals(M - M.mean(1, keepdim=True))
    assert h.curvature() == pytest.approx(4 * float(singular[0]) ** 2, rel=0.15)  # the power iteration ends early
    assert float(torch.linalg.svdvals(M)[0]) ** 2 > 10 * float(singular[0]) ** 2
    found = (singular**4).sum() / (singular[0] ** 2 * (singular**2).sum())
    assert h.spectral_flatness() == pytest.approx(float(found), rel=0.3)  # one random probe


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
def test_a_mean_hides_no_pixels(mean):
    """What is measured of an image does not grow with the mean of the patterns."""
    M = rand(100, N, seed=1) / 10
    h = bound(M + mean, rand(1, 100, seed=1))
    singular = torch.linalg.svdvals(M - M.mean(1, keepdim=True) if mean else M)
    assert h.coverage() == pytest.approx(float((singular**2).sum() / (N * singular[0] ** 2)), rel=0.25)


@pytest.mark.parametrize("M", [patterns(100, N, low=-1.0), torch.ones(1, N).double()], ids=["no mean", "only the mean"])
def test_elsewhere_nothing_changes(M):
    h = bound(M, rand(1, len(M), seed=1))
    assert h.curvature() == pytest.approx(
        4 * float(torch.linalg.svdvals(M)[0]) ** 2, rel=0.15
    )  # the power iteration ends early
    norms = [float(torch.linalg.svdvals(M)[0])]
    assert norms_of_rest(lambda x: (x.flatten(1) @ M.T @ M).reshape(x.shape), rand(1, 1, *SIDE, seed=2), norms) == norms


def test_tomography_is_not_dominated_by_the_mean():
    A = Radon((32, 32), [0.0, 0.7, 1.4, 2.1])
    y = A.A(head(32))
    h = LeastSquares().bind(A, y, torch.tensor(1.0))
    whole = h.curvature() ** 0.5
    assert norms_of_rest(A.A_adjoint_A, A.A_adjoint(y), [whole]) == [whole]


def test_the_update_is_the_dense_solution():
    M, y, v = patterns(100, N), rand(2, 100, seed=1), rand(2, 1, *SIDE, seed=3)
    h = bound(M, y)
    h.initial()
    x = h(v, torch.tensor(0.7, dtype=torch.float64))
    normal = 4 * M.T @ M + 0.7 * torch.eye(N).double()
    truth = torch.linalg.solve(normal, (4 * y @ M + 0.7 * v.flatten(1)).T).T
    assert rel(x.flatten(1), truth) < 1e-8


def test_random_patterns_of_zeros_and_ones_are_reconstructed():
    x = head(32).double() / head(32).max()
    M = patterns(600, 1024)
    y = x.flatten(1) @ M.T + 0.02 * rand(1, 600, seed=4)
    result = solve(as_operator(M, image_shape=(32, 32)), y, TV(), noise_std=0.02)
    plain = (y @ torch.linalg.pinv(M).T).reshape(x.shape)
    assert psnr(result.x, x, data_range=1) > psnr(plain, x, data_range=1) + 8
    assert 0.3 < result.misfit < 2


def test_a_first_estimate_that_is_given_changes_no_tolerance():
    """Else CG would stop at the residual of the mean, before its first step."""
    x = head(32).double() / head(32).max()
    M = patterns(600, 1024)
    y = x.flatten(1) @ M.T + 0.02 * rand(1, 600, seed=4)
    result = solve(as_operator(M, image_shape=(32, 32)), y, TV(), noise_std=0.02, x0=torch.full_like(x, 0.5))
    assert min(result.history["inner"]) > 0
    assert 0.3 < result.misfit < 2


def test_float32_gives_what_float64_does():
    """Of patterns in [0, 1] A*Wy is a million times what the nullspace is determined by."""
    x = 0.5 * head(32).double() / head(32).max() + 0.4
    M = torch.rand(400, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.flatten(1) @ M.T + 0.05 * rand(1, 400, seed=4)

    def solved(dtype, **options):
        A = as_operator(M.to(dtype), image_shape=(32, 32))
        return solve(A, y.to(dtype), TV(), noise_std=0.05, **options).x.double()

    exact, rounded = (solved(dtype, relaxation=1.0, max_iter=24) for dtype in (torch.float64, torch.float32))
    assert psnr(exact, x, data_range=1) > 30
    assert psnr(rounded, x, data_range=1) > psnr(exact, x, data_range=1) - 0.5
    assert psnr(solved(torch.float32), x, data_range=1) > psnr(rounded, x, data_range=1) + 0.8  # over-relaxed


def test_channels_have_a_mean_each():
    x = rand(1, 2, 4, 4, seed=1)
    assert centred(x).mean(dim=(2, 3)).abs().max() < 1e-15
