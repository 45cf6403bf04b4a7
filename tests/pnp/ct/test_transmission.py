"""The transmission data term: optimality, monotony, gradients, low counts, and what it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel
from radon_truth import Array, Ellipse, bins, half_turn, shepp_logan, tensor
from scipy import stats
from torch import Tensor
from toys import SHAPE, Matrix, smooth

from denoisers import TV
from operators import Radon
from pnp import solve
from pnp.ct import Transmission, line_integrals, simulate_counts
from pnp.ct.transmission import TransmissionStep

N = SHAPE[0] * SHAPE[1]
ONE = torch.ones(())
BODY = [  # attenuation per pixel: a body with two bones behind which one photon in 160 is left, and three organs
    Ellipse(0.05, 27, 19, 0, 0, 0),
    Ellipse(0.15, 4, 4, -15, 0, 0),
    Ellipse(0.15, 4, 4, 15, 0, 0),
    Ellipse(-0.03, 6, 5, 0, 7, 0),
    Ellipse(0.03, 5, 3, 1, -8, 0.4),
]


def counts_behind(lines: Tensor, i0: float, r: float = 0.0, seed: int = 0) -> Tensor:
    drawn: Tensor = simulate_counts(lines, i0, background=r, generator=torch.Generator().manual_seed(seed))
    return drawn


def dense_problem(r: float = 0.0) -> tuple[Matrix, Tensor, Tensor]:
    M = 0.05 * rand(40, N, seed=2).abs()
    truth = rand(1, 1, *SHAPE, seed=3).abs()
    operator = Matrix(M)
    return operator, counts_behind(operator.A(truth), 100.0, r), truth


def objective(operator: Any, x: Tensor, y: Tensor, i0: Any, r: float, v: Tensor, alpha: Tensor) -> Tensor:
    expected = i0 * torch.exp(-operator.A(x)) + r
    return (expected - y * expected.log()).sum() + alpha / 2 * ((x - v) ** 2).sum()


def optimality(operator: Any, x: Tensor, y: Tensor, i0: Any, r: float, v: Tensor, alpha: Tensor) -> float:
    """|gradient| over the size of its two parts, the gradient by autograd of the objective as it is written."""
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(operator, at, y, i0, r, v, alpha), at)
    push = alpha * (x - v)
    return float(gradient.norm() / ((gradient - push).norm() + push.norm()))


@pytest.mark.parametrize("r", [0.0, 5.0])
@pytest.mark.parametrize("alpha", [0.1, 10.0, 1e4])
def test_the_step_is_optimal_for_a_dense_matrix(r: float, alpha: float) -> None:
    operator, y, truth = dense_problem(r)
    v, a = truth + 0.3 * rand(1, 1, *SHAPE, seed=7), torch.tensor(alpha, dtype=torch.float64)
    x = Transmission(100.0, r, n_inner=20, rtol=1e-6).bind(operator, y, ONE)(v, a)
    assert optimality(operator, x, y, 100.0, r, v, a) < 1e-5
    assert optimality(operator, v, y, 100.0, r, v, a) > 0.5  # the measure tells


def radon_problem(i0: float, dtype: torch.dtype) -> tuple[Radon, Tensor, Tensor]:
    A, x = Radon((32, 32), half_turn(24)), shepp_logan(32).to(dtype) / 10
    return A, counts_behind(A.A(x), i0), x


@pytest.mark.parametrize(("dtype", "i0"), [(torch.float32, 50.0), (torch.float64, 50.0), (torch.float64, 1e4)])
def test_the_step_is_optimal_for_a_radon_transform(dtype: torch.dtype, i0: float) -> None:
    A, y, x = radon_problem(i0, dtype)
    v, alpha = x + 0.02 * rand(*x.shape, dtype=dtype), torch.tensor(10 * i0, dtype=dtype)
    z = Transmission(i0, n_inner=20, rtol=5e-5).bind(A, y, ONE)(v, alpha)
    assert z.dtype == dtype
    assert optimality(A, z, y, i0, 0.0, v, alpha) < 1e-4


def test_its_slope_and_curvature_are_derivatives() -> None:
    y = torch.tensor([0.0, 1, 7, 30, 200], dtype=torch.float64)[None, None]
    h = TransmissionStep(Matrix(torch.eye(5, dtype=y.dtype), (1, 5)), y, torch.full_like(y, 100.0),
                         torch.full_like(y, 3.0), n_inner=1, rtol=1e-3, max_iter=9)  # fmt: skip
    line = torch.linspace(-0.5, 3, 5, dtype=y.dtype)[None, None].requires_grad_()
    value, slope, curvature = h._derivatives(line)
    (by_autograd,) = torch.autograd.grad(value.sum(), line, create_graph=True)
    (second,) = torch.autograd.grad(by_autograd.sum(), line)
    assert torch.allclose(slope, by_autograd, rtol=1e-12)
    assert torch.allclose(curvature, second.clamp(min=0), rtol=1e-9)


def test_the_objective_never_rises_from_a_wild_start() -> None:
    operator, y, truth = dense_problem(r=2.0)
    v, alpha = truth, torch.tensor(0.5, dtype=torch.float64)
    for start in (30 * rand(1, 1, *SHAPE, seed=9), torch.full_like(v, 40.0), torch.full_like(v, -3.0)):
        h = Transmission(100.0, 2.0, n_inner=1).bind(operator, y, ONE)
        h.last_x = start
        values = [objective(operator, start, y, 100.0, 2.0, v, alpha)]
        for _ in range(40):
            values.append(objective(operator, h(v, alpha), y, 100.0, 2.0, v, alpha))
        assert all(bool(b <= a + 1e-12 * abs(a)) for a, b in pairwise(values))
        assert optimality(operator, h(v, alpha), y, 100.0, 2.0, v, alpha) < 0.1


@pytest.mark.parametrize("r", [0.0, 1.0])
def test_the_step_is_differentiable_by_the_implicit_function(r: float) -> None:
    operator, y, truth = dense_problem(r)

    def x_of(v: Tensor, alpha: Tensor) -> Tensor:
        h = Transmission(100.0, r, n_inner=30, rtol=1e-11, max_iter=200).bind(operator, y, ONE)
        return h(v, alpha)  # type: ignore[no-any-return]

    v = (truth + 0.1 * rand(1, 1, *SHAPE, seed=8)).requires_grad_()
    alpha = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(x_of, (v, alpha), eps=1e-5, rtol=1e-4, atol=1e-6, fast_mode=True)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    operator, y, truth = dense_problem()
    both = torch.cat([y, counts_behind(operator.A(3 * truth), 100.0, seed=4)])
    v, alpha = torch.cat([truth, truth]), torch.tensor(1.0, dtype=torch.float64)
    term = Transmission(100.0, n_inner=30, rtol=1e-9, max_iter=200)
    together = term.bind(operator, both, ONE)(v, alpha)
    for i in (0, 1):
        assert rel(together[i : i + 1], term.bind(operator, both[i : i + 1], ONE)(v[i : i + 1], alpha)) < 1e-6


@pytest.fixture(scope="module")
def low_dose() -> tuple[Radon, Tensor, Tensor]:
    angles = half_turn(60)
    A = Radon((64, 64), angles)
    lines: Array = np.sum([e.sinogram(angles, bins(A), 1.0) for e in BODY], axis=0)
    x = tensor(np.sum([e.image((64, 64)) for e in BODY], axis=0))
    return A, counts_behind(tensor(lines).float(), 50.0), x.float()


def test_at_50_photons_it_beats_the_logarithm(low_dose: tuple[Radon, Tensor, Tensor]) -> None:
    A, y, x = low_dose
    assert int((y == 0).sum()) > 50
    found = solve(A, y, TV(), data_term=Transmission(50.0), bounds=(0, None))
    record = line_integrals(y, i0=50.0)
    weighted = solve(A, record.y, TV(), noise_std=record.noise_std, bounds=(0, None))
    plain = solve(A, record.y, TV(), bounds=(0, None))
    assert rel(found.x, x) < 0.18
    assert rel(found.x, x) < 0.95 * min(rel(plain.x, x), rel(weighted.x, x))
    assert 0.8 < found.misfit < 1.2 and found.noise_std is None


def test_background_and_bins_that_say_nothing(low_dose: tuple[Radon, Tensor, Tensor]) -> None:
    A, y, x = low_dose
    y = y + counts_behind(torch.zeros_like(y), 10.0, seed=5)
    i0 = torch.full((A.n_detectors,), 50.0)
    i0[30:32] = 0
    y[..., 30:32] = 1e6  # a hot pixel, which i0 = 0 leaves out
    known = solve(A, y, TV(), data_term=Transmission(i0, 10.0), bounds=(0, None), strength=0.3)
    ignored = solve(A, y, TV(), data_term=Transmission(i0), bounds=(0, None), strength=0.3)
    assert rel(known.x, x) < 0.3 < rel(ignored.x, x)


def test_zero_counts_say_that_much_is_absorbed() -> None:
    M = torch.eye(N, dtype=torch.float64)
    y = torch.full((1, 1, N), 50.0, dtype=M.dtype)
    y[..., 3] = 0
    found = solve(Matrix(M), y, smooth, data_term=Transmission(100.0), max_iter=6)
    assert found.x.isfinite().all() and found.x.flatten().argmax() == 3


@pytest.mark.parametrize(
    ("term", "change", "part"),
    [
        ({"i0": 100.0}, lambda y: y - 50, ": y "),
        ({"i0": 100.0}, lambda y: 0 * y, ": y "),
        ({"i0": 0.5}, lambda y: y, "in one unit"),
        ({"i0": torch.full((7,), 100.0)}, lambda y: y, "broadcast"),
        ({"i0": 100.0, "background": torch.ones(3)}, lambda y: y, "broadcast"),
    ],
)
def test_counts_that_cannot_be(term: dict[str, Any], change: Any, part: str) -> None:
    operator, y, _ = dense_problem()
    with pytest.raises(ValueError, match=part) as caught:
        solve(operator, change(y), smooth, data_term=Transmission(**term))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", [{"i0": -1.0}, {"i0": 0.0}, {"i0": float("nan")}, {"i0": 9.0, "background": -1.0}])
def test_options_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Transmission"):
        Transmission(**bad)


@pytest.mark.parametrize("r", [0.0, 5.0])
def test_deviance_residuals_are_scipys(r: float) -> None:
    operator, y, truth = dense_problem(r)
    y[..., :3] = torch.tensor([0.0, 3e4, 20.0], dtype=y.dtype)
    i0 = torch.full((40,), 100.0, dtype=y.dtype)
    i0[2] = 0
    residual, counted = Transmission(i0, r, robust=True).bind(operator, y, ONE).residuals(truth)
    expected = (100.0 * torch.exp(-operator.A(truth)) + r).numpy()
    deviance = 2 * (stats.poisson.logpmf(y.numpy(), y.numpy()) - stats.poisson.logpmf(y.numpy(), expected))
    signed = np.sign(expected - y.numpy()) * np.sqrt(deviance)
    assert int((~counted).sum()) == 1 and not counted[..., 2] and residual[..., 2] == 0
    assert np.allclose(residual[counted].numpy(), signed[counted.numpy()], rtol=1e-7, atol=1e-6)
    assert int((residual.abs() > 6).sum()) == 2


@pytest.mark.parametrize("mean", [0.5, 40.0])
def test_residuals_of_drawn_photons_are_noise_levels(mean: float) -> None:
    lines = 3 * rand(1, 1, 50, 200, seed=3).abs()
    y = counts_behind(lines, mean, 0.2)
    operator = Matrix(torch.eye(10_000, dtype=y.dtype), (50, 200))
    operator.A = operator.A_adjoint = lambda x: x  # type: ignore[method-assign]
    residual, _ = Transmission(mean, 0.2).bind(operator, y, ONE).residuals(lines)
    k, m = np.arange(200)[:, None], (mean * np.exp(-lines[..., :20].numpy().ravel()) + 0.2)[None]
    exact = stats.poisson.pmf(k, m) * 2 * (stats.poisson.logpmf(k, k) - stats.poisson.logpmf(k, m))
    assert float((residual[..., :20] ** 2).mean()) == pytest.approx(exact.sum(0).mean(), rel=0.15)
    assert float(residual.abs().max()) < 5.5


def test_a_starved_ray_hit_by_a_photon_shower_is_finite() -> None:
    M = torch.eye(N)
    y = torch.full((1, 1, N), 90.0)
    y[..., 0] = 1e5
    x = torch.zeros(1, 1, *SHAPE)
    x[..., 0, 0] = 1e4
    for r in (0.0, 1.0):
        residual, _ = Transmission(1e5, r).bind(Matrix(M), y, ONE).residuals(x)
        assert residual.isfinite().all() and residual[..., 0] < -1000


@pytest.mark.parametrize("r", [0.0, 5.0])
def test_without_rejected_rays_it_is_the_problem_of_the_others(r: float) -> None:
    operator, y, truth = dense_problem(r)
    rejected = torch.zeros_like(y, dtype=torch.bool)
    rejected[..., [3, 17, 30]] = True
    y[rejected] = 150.0
    kept = ~rejected.flatten()
    term = Transmission(100.0, r, n_inner=30, rtol=1e-10, max_iter=200, robust=True)
    whole = term.bind(operator, y, ONE)
    whole.last_x = truth
    h, others = whole.reject(rejected), term.bind(Matrix(operator.M[kept]), y[..., kept], ONE)
    assert h.last_x is truth
    assert rel(h.initial(), others.initial()) < 1e-3  # whose strength follows from an estimated norm
    v, alpha = truth + 0.1 * rand(1, 1, *SHAPE, seed=7), torch.tensor(3.0, dtype=y.dtype)
    x = h(v, alpha)
    assert rel(x, others(v, alpha)) < 1e-4
    assert h.misfit(x) == pytest.approx(others.misfit(x), rel=1e-4)
    assert h.curvature() == pytest.approx(others.curvature(), rel=0.02)
    residual, counted = h.residuals(x)
    assert torch.equal(counted, ~rejected) and rel(residual[counted], others.residuals(x)[0].flatten()) < 1e-5
    assert int(h.reject(torch.arange(40).expand(1, 1, 40) == 5).residuals(x)[1].sum()) == 36
    with pytest.raises(ValueError, match="rejected"):
        h.reject(torch.ones_like(rejected))


def test_robust_is_an_option() -> None:
    assert Transmission(9.0, robust=True).robust and not Transmission(9.0).robust
    assert "robust=True" in repr(Transmission(9.0, robust=True)) and "robust" not in repr(Transmission(9.0))
    operator, y, _ = dense_problem()
    with pytest.raises(ValueError, match="in one unit"):
        Transmission(10.0, robust=True).bind(operator, y, ONE)
    with pytest.raises(TypeError, match="robust"):
        Transmission(9.0, robust=1)  # type: ignore[arg-type]


def test_noise_std_is_not_asked_for_and_repr_is_the_call() -> None:
    operator, y, _ = dense_problem()
    with pytest.raises(ValueError, match="Transmission"):
        solve(operator, y, smooth, data_term=Transmission(100.0), noise_std=0.1)
    assert repr(eval(repr(Transmission(9.0, 1.0, n_inner=2)))) == repr(Transmission(9.0, 1.0, n_inner=2))
