"""BSREM with the relative difference prior: the same maximum as a general optimiser's, and EM where beta is 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from operators import SPECT
from pnp import bsrem, mlem
from pnp.algorithms.relative_difference import CURVATURE, RelativeDifference
from pnp.drivers.bsrem import EPS

SHAPE = (7, 9)
N_VIEWS = 12


class Dense:
    """A matrix of non-negative numbers from images to 12 views of 10 bins."""

    def __init__(self, matrix: torch.Tensor, shape: tuple[int, ...] = SHAPE) -> None:
        self.matrix, self.shape = matrix, shape

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.matrix.flatten(0, -2).T).reshape(len(x), 1, *self.matrix.shape[:-1])

    def A_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (y.flatten(1) @ self.matrix.flatten(0, -2)).reshape(len(y), 1, *self.shape)

    def subset(self, b: int, n: int) -> Dense:
        return Dense(self.matrix[b::n], self.shape)


def problem() -> tuple[Dense, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.rand(N_VIEWS, 10, math.prod(SHAPE), generator=generator, dtype=torch.float64)
    A = Dense(matrix * (matrix < 0.2))
    x = torch.ones(1, 1, *SHAPE, dtype=torch.float64)
    x[..., 2:5, 3:6] = 4
    x[..., :, 8] = 0
    y = torch.poisson(20 * A.A(x) + 3, generator=generator)
    return A, y, torch.full_like(y, 3.0)


def pairs(shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[tuple[int, int, float]]:
    """Each pair of neighbouring pixels once, by their numbers, and its weight, in plain loops."""
    places = np.array(list(np.ndindex(shape)))
    found = []
    for j, place in enumerate(places):
        for k in range(j):
            step = place - places[k]
            if np.abs(step).max() == 1:
                found.append((j, k, spacing[0] / math.hypot(*(step * spacing))))
    return found


def penalty(x: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...], gamma: float, eps: float) -> float:
    return sum(
        w * (x[j] - x[k]) ** 2 / (x[j] + x[k] + gamma * abs(x[j] - x[k]) + eps) for j, k, w in pairs(shape, spacing)
    )


@pytest.mark.parametrize(("shape", "spacing"), [((4, 5), (1.0, 1.0)), ((3, 3, 4), (4.8, 4.8, 5.4))])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_prior_is_that_of_plain_loops(shape, spacing, gamma):
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    prior = RelativeDifference(gamma, 1e-2, spacing)
    value = prior.value(x)
    assert float(value.detach()) == pytest.approx(penalty(x.detach().numpy().ravel(), shape, spacing, gamma, 1e-2))
    value.sum().backward()
    torch.testing.assert_close(prior.gradient(x.detach()), x.grad)
    weights = np.zeros(math.prod(shape))
    for j, k, w in pairs(shape, spacing):
        weights[j] += w
        weights[k] += w
    np.testing.assert_allclose(prior.weights(x.detach()).flatten(), weights)
    # The bound of the curvature, in the units of EM's preconditioner, holds at any point.
    hessian = torch.autograd.functional.hessian(lambda v: prior.value(v).sum(), x.detach()).reshape(len(weights), -1)
    assert (x.detach().flatten() * hessian.diagonal() <= CURVATURE * torch.from_numpy(weights) + 1e-9).all()


@pytest.mark.parametrize("n_subsets", [1, 4])
@pytest.mark.parametrize("beta", [0.3, 3.0, 100.0])
def test_the_maximum_is_a_general_optimisers(n_subsets, beta):
    """L-BFGS-B on the dense problem, with its own likelihood and the penalty of plain loops (by its gradient)."""
    A, y, r = problem()
    matrix, counts = A.matrix.flatten(0, -2).numpy(), y.numpy().ravel()
    level = (counts - 3).sum() / matrix.sum()
    prior = RelativeDifference(2.0, EPS * level, (1.0, 1.0))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        m = matrix @ x + 3
        slope = prior.gradient(torch.from_numpy(x).view(1, 1, *SHAPE)).numpy().ravel()
        value = (m - counts * np.log(m)).sum() + beta * penalty(x, SHAPE, (1.0, 1.0), 2.0, EPS * level)
        return value, matrix.T @ (1 - counts / m) + beta * slope

    best = minimize(loss, np.full(matrix.shape[1], level), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 63,
                    options={"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-9})  # fmt: skip
    values = []
    result = bsrem(
        A, y, n_subsets=n_subsets, beta=beta, background=r, max_iter=400, callback=lambda s: values.append(
            loss(s.x.numpy().ravel())[0]
        ) if s.k in (1, 2, 4, 8, 50, 400) else None,
    )  # fmt: skip
    assert values[-1] - best.fun < 2e-3 * (loss(np.full(63, level))[0] - best.fun)
    np.testing.assert_allclose(result.x.numpy().ravel(), best.x, atol=0.03 * best.x.max())
    if n_subsets == 1:
        assert (np.diff(values) <= 1e-9).all()


def test_without_prior_and_subsets_it_is_mlem():
    A, y, r = problem()
    found = bsrem(A, y, n_subsets=1, beta=0, background=r, max_iter=5).x
    torch.testing.assert_close(found, mlem(A, y, background=r, max_iter=5).x, rtol=1e-6, atol=1e-6)


def test_more_prior_is_smoother_and_iterations_add_no_noise():
    angles = torch.arange(12) * (2 * math.pi / 12)
    A = SPECT((12, 12, 6), angles, voxel_size=(8.0, 10.0), fwhm=12.0)
    truth = torch.zeros(1, 1, 12, 12, 6)
    truth[..., 3:9, 3:9, 1:5] = 1.0
    y = torch.poisson(A.A(truth), generator=torch.Generator().manual_seed(0))

    def rough(beta: float, k: int) -> float:
        x = bsrem(A, y, n_subsets=3, beta=beta, max_iter=k).x
        return float(x[0, 0, 4:8, 4:8, 2:4].std())

    assert rough(0.1, 20) > rough(1.0, 20) > rough(10.0, 20)
    assert rough(1.0, 30) == pytest.approx(rough(1.0, 60), rel=0.1)
    both = torch.cat([y, 2 * y])
    one = bsrem(A, both[1:], n_subsets=3, beta=1.0, max_iter=3).x
    torch.testing.assert_close(bsrem(A, both, n_subsets=3, beta=1.0, max_iter=3).x[1:], one, rtol=1e-4, atol=1e-5)
    assert isinstance(bsrem(A, y.numpy(), n_subsets=3, beta=1.0, max_iter=1).x, np.ndarray)


def test_a_checkpoint_resumes_and_knows_beta(tmp_path):
    A, y, r = problem()
    options: dict[str, Any] = {"n_subsets": 2, "beta": 1.0, "background": r, "checkpoint": tmp_path / "c"}
    whole = bsrem(A, y, n_subsets=2, beta=1.0, background=r, max_iter=6).x
    from pnp import Checkpoint

    kept = Checkpoint(tmp_path / "c", minutes=0, remove=False)
    bsrem(A, y, **options | {"checkpoint": kept}, max_iter=3)
    with pytest.raises(ValueError, match="beta"):
        bsrem(A, y, **options | {"beta": 2.0}, max_iter=6)
    torch.testing.assert_close(bsrem(A, y, **options, max_iter=6).x, whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("beta", {"beta": -1.0}), ("gamma", {"gamma": -1.0}), ("n_subsets", {"n_subsets": 0}),
     ("voxel_size", {"voxel_size": (1.0, 2.0, 3.0)}), ("voxel_size", {"voxel_size": 0.0})],
)  # fmt: skip
def test_wrong_arguments_are_named(name, changes):
    A, y, r = problem()
    with pytest.raises(ValueError, match=name):
        bsrem(A, y, **({"n_subsets": 2, "beta": 1.0, "background": r} | changes))
