"""solve(): fixed points against dense closed forms, the schedule, stopping, interruption, containers."""

from __future__ import annotations

import io
import math
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import SHAPE, Diagonal, Linear, Matrix, image, smooth

from pnp import LeastSquares, Schedule, State, Stop, admm, estimate_noise_std, hqs, solve

N = SHAPE[0] * SHAPE[1]
EXACT = LeastSquares(rtol=1e-12, max_iter=500)


# Fixed points


@pytest.mark.parametrize("noise", ["scalar", "array"])
def test_admm_with_a_linear_denoiser_reaches_the_dense_minimiser(noise: str) -> None:
    operator, D = Matrix(rand(30, N, seed=2)), Linear(N)
    y = rand(2, 1, 30, seed=3)
    std = torch.tensor(0.5, dtype=y.dtype) if noise == "scalar" else 0.5 + rand(30, seed=4).abs()
    sigma, strength = 0.2, 0.5
    found = solve(
        operator, y, D, noise_std=std, schedule=[sigma], strength=strength, max_iter=3000, rtol=1e-11, data_term=EXACT
    )
    # D = prox of R/alpha with the Hessian of R = alpha (S^-1 - 1).
    alpha, eye = found.history["alpha"][-1], torch.eye(N, dtype=y.dtype)
    WA = operator.M / std.expand(30)[:, None] ** 2
    truth = torch.linalg.solve(operator.M.T @ WA + alpha * (torch.linalg.inv(D.S) - eye), WA.T @ y.flatten(1).T)
    assert found.stop is Stop.CONVERGED
    assert rel(found.x.flatten(1).T, truth) < 1e-8


def test_hqs_with_a_linear_denoiser_reaches_its_dense_fixed_point() -> None:
    operator, D = Matrix(rand(30, N, seed=2)), Linear(N)
    y = rand(1, 1, 30, seed=3)
    found = solve(
        operator, y, D, noise_std=1.0, algorithm="hqs", schedule=[0.3], max_iter=3000, rtol=1e-12, data_term=EXACT
    )
    alpha, eye = found.history["alpha"][-1], torch.eye(N, dtype=y.dtype)
    H = operator.M.T @ operator.M + alpha * eye
    truth = torch.linalg.solve(
        eye - alpha * D.S @ torch.linalg.inv(H), D.S @ torch.linalg.solve(H, operator.M.T @ y[0, 0])
    )
    assert found.stop is Stop.CONVERGED
    assert rel(found.x.flatten(), truth) < 1e-8


def test_the_dual_is_rescaled_when_alpha_changes() -> None:
    # At a fixed point alpha u is the gradient of R, whatever alpha: only then does a changed alpha leave x alone.
    M, y, R = rand(30, N, seed=2), rand(1, 1, 30, seed=3), torch.diag(rand(N, seed=6).abs() + 0.1)
    operator = Matrix(M)
    truth = torch.linalg.solve(M.T @ M + R, M.T @ y[0, 0]).reshape(1, 1, *SHAPE)
    h = EXACT.bind(operator, y, torch.ones((), dtype=y.dtype))

    def prox(v: Tensor, alpha: float) -> Tensor:  # sigma carries alpha here
        return torch.linalg.solve(R + alpha * torch.eye(N, dtype=y.dtype), alpha * v.flatten()).reshape(v.shape)

    states = list(admm(h, prox, torch.zeros_like(truth), [(2.0, 2.0)] * 1500 + [(9.0, 9.0)] * 3))
    assert rel(states[1499].z, truth) < 1e-9
    assert rel(states[-1].z, truth) < 1e-9


def test_the_x_update_is_optimal_and_uses_the_closed_form_where_there_is_one() -> None:
    d, y, v = rand(*SHAPE, seed=1), rand(2, 1, *SHAPE, seed=2), rand(2, 1, *SHAPE, seed=3)
    weights, alpha = rand(*SHAPE, seed=4).abs(), torch.tensor(0.7, dtype=y.dtype)
    closed = Diagonal(d)
    plain = Matrix(torch.diag(d.flatten()))
    h, g = EXACT.bind(closed, y, weights), EXACT.bind(plain, y.flatten(2), weights.flatten())
    x = h(v, alpha)
    gradient = d * weights * (d * x - y) + alpha * (x - v)
    assert gradient.norm() < 1e-12 * y.norm()
    assert h.inner_iterations == 0
    assert rel(g(v, alpha), x) < 1e-10
    assert g.inner_iterations > 0


def test_cg_is_warm_started() -> None:
    operator, y = Matrix(rand(30, N, seed=2)), rand(1, 1, 30, seed=3)
    exact = LeastSquares(rtol=1e-5)
    found = solve(operator, y, Linear(N), noise_std=0.5, schedule=[0.5], max_iter=30, rtol=0, data_term=exact)
    inner = found.history["inner"]
    assert inner[-1] < 0.7 * inner[0]


def test_unrolled_iterations_are_differentiable() -> None:
    M, y = rand(5, 6, seed=2).requires_grad_(), rand(1, 1, 5, seed=3).requires_grad_()

    def unrolled(M: Tensor, y: Tensor) -> Tensor:
        h = LeastSquares(rtol=1e-13, max_iter=50).bind(Matrix(M, (2, 3)), y, torch.ones((), dtype=y.dtype))
        z = torch.zeros(1, 1, 2, 3, dtype=y.dtype)
        return [s.z for s in admm(h, smooth, z, [(0.5, 1.0), (0.4, 1.5), (0.4, 1.5)])][-1]

    assert torch.autograd.gradcheck(unrolled, (M, y))


# Schedule, weights, bounds


def test_denoising_by_solve_is_the_denoiser() -> None:
    y, D = rand(1, 1, *SHAPE, seed=1), Linear(N)
    found = solve(Diagonal(torch.ones(1, 1)), y, D, noise_std=0.3, schedule=[0.3], max_iter=2000, rtol=1e-10)
    assert rel(found.x, D(y, 0.3)) < 1e-6


def test_an_uneven_operator_gets_a_weaker_coupling() -> None:
    def weight(d: Tensor) -> float:
        found = solve(Diagonal(d), rand(1, 1, *d.shape, seed=1), smooth, noise_std=0.1, max_iter=1)
        return found.history["alpha"][0] * found.history["sigma"][0] ** 2

    # Eigenvalues t^6, 0 < t <= 1, have a spectral flatness of 7/13; one random probe of 1600 pixels tells it to a
    # few per cent.
    uneven = torch.linspace(0, 1, 1600, dtype=torch.float64).reshape(40, 40) ** 3
    masked = (torch.arange(1600).reshape(40, 40) % 3 > 0).double()
    assert weight(masked) == pytest.approx(1, rel=0.01)
    assert weight(uneven) == pytest.approx(0.43 ** (1 - (7 / 13) ** 2), rel=0.1)


def test_the_default_schedule_falls_to_the_noise_level_and_respects_the_range_of_the_denoiser() -> None:
    x = image()
    y = x + 0.05 * rand(*x.shape, seed=1)
    identity = Diagonal(torch.ones(1, 1))
    found = solve(identity, y, smooth, noise_std=0.05, rtol=0, max_iter=16)
    sigma, alpha = np.array(found.history["sigma"]), np.array(found.history["alpha"])
    assert found.n_iter == 16 and found.stop is Stop.MAX_ITER
    assert sigma[-5] == sigma[-1] == pytest.approx(0.05, rel=0.01)  # ||A*WA||^(-1/2)
    robust = np.quantile(y.numpy(), [0.01, 0.99])
    assert sigma[0] == pytest.approx(0.4 * (robust[1] - robust[0]), rel=0.05)
    assert np.all(np.diff(sigma[:12]) < 0)
    assert alpha == pytest.approx(1 / sigma**2)  # the identity measures everything alike
    hqs_history = solve(identity, y, smooth, noise_std=0.05, algorithm="hqs", rtol=0).history
    assert np.array(hqs_history["alpha"]) == pytest.approx(0.23 / np.array(hqs_history["sigma"]) ** 2)

    class Narrow:
        sigma_range = (0.08, 0.2)

        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            assert 0.08 <= sigma <= 0.2
            return smooth(x, sigma)

    narrow = solve(identity, y, Narrow(), noise_std=0.05)
    assert (narrow.history["sigma"][0], narrow.history["sigma"][-1]) == pytest.approx((0.2, 0.08))


def test_schedules_may_be_given() -> None:
    y = image()
    A = Diagonal(torch.ones(1, 1))
    for schedule in (Schedule(0.4, 0.1, n_iter=3), [0.4, 0.2, 0.1], lambda k: max(0.4 * 0.5**k, 0.1)):
        found = solve(A, y, smooth, noise_std=0.1, schedule=schedule, max_iter=5, rtol=0)
        assert found.history["sigma"] == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1])


def test_strength_is_the_weight_of_the_prior() -> None:
    y = image() + 0.1 * rand(1, 1, 32, 40, seed=2)

    def roughness(strength: float) -> float:
        x = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=0.1, strength=strength).x
        return float((x - smooth(x, 0)).norm())

    assert roughness(10) < roughness(1) < roughness(0.1)


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_the_answer_scales_with_the_units(algorithm: str) -> None:
    operator, y = Matrix(rand(30, N, seed=2)), rand(1, 1, 30, seed=3)
    plain = solve(operator, y, Linear(N), noise_std=0.3, algorithm=algorithm)
    for c in (1e-6, 1e5):
        scaled = solve(operator, c * y, Linear(N), noise_std=c * 0.3, algorithm=algorithm)
        assert rel(scaled.x / c, plain.x) < 1e-6
        assert scaled.n_iter == plain.n_iter
        assert scaled.misfit == pytest.approx(plain.misfit)
        brighter = solve(Matrix(operator.M / c), y, Linear(N), noise_std=0.3, algorithm=algorithm)
        assert rel(brighter.x / c, plain.x) < 1e-6


@pytest.mark.parametrize("c", [1e-8, 1e-12, 1e-15, 1e12])
def test_the_answer_scales_with_the_units_in_float32(c: float) -> None:
    operator, y = Matrix(rand(30, N, seed=2)), rand(1, 1, 30, seed=3).float()
    plain = solve(operator, y, Linear(N), noise_std=0.3)
    scaled = solve(operator, c * y, Linear(N), noise_std=c * 0.3)
    assert rel(scaled.x.double() / c, plain.x.double()) < 1e-4
    assert scaled.n_iter == plain.n_iter and scaled.misfit == pytest.approx(plain.misfit, rel=1e-3)
    assert scaled.history["alpha"][0] * c**2 == pytest.approx(plain.history["alpha"][0], rel=1e-4)


def test_infinite_noise_leaves_measurements_out_and_lets_them_be_nan() -> None:
    M, y = rand(30, N, seed=2), rand(1, 1, 30, seed=3)
    dead = torch.zeros(30, dtype=torch.bool)
    dead[[0, 7, 29]] = True
    y_bad, std = y.clone(), torch.full((30,), 0.5, dtype=y.dtype)
    x0 = torch.zeros(1, 1, *SHAPE, dtype=y.dtype)
    y_bad[..., dead], std[dead] = torch.tensor([math.nan, math.inf, 1e30], dtype=y.dtype), math.inf
    found = solve(Matrix(M), y_bad, Linear(N), noise_std=std, x0=x0, schedule=[0.5], max_iter=10, data_term=EXACT)
    without = solve(
        Matrix(M[~dead]), y[..., ~dead], Linear(N), noise_std=0.5, x0=x0, schedule=[0.5], max_iter=10, data_term=EXACT
    )
    assert rel(found.x, without.x) < 1e-8
    assert found.misfit == pytest.approx(without.misfit)
    assert torch.equal(found.noise_std, std)
    assert not found.noise_estimated and without.noise_std == pytest.approx(0.5)


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_bounds_hold_in_every_iterate(algorithm: str) -> None:
    y = image() + 0.5 * rand(1, 1, 32, 40, seed=2)
    seen: list[State] = []
    found = solve(
        Diagonal(torch.ones(1, 1)),
        y,
        smooth,
        noise_std=0.5,
        bounds=(0.1, 0.9),
        algorithm=algorithm,
        callback=seen.append,
    )
    free = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=0.5, algorithm=algorithm)
    assert free.x.min() < 0.1 and free.x.max() > 0.9
    assert len(seen) == found.n_iter
    assert all(s.z.min() >= 0.1 and s.z.max() <= 0.9 for s in seen)
    half_open = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=0.5, bounds=(0.1, None), algorithm=algorithm)
    assert half_open.x.min() >= 0.1 and half_open.x.max() > 0.9


def test_exact_data_stay_well_posed() -> None:
    mask = (rand(32, 40, seed=9) > -0.5).double()
    x = image()
    for std in (1e-12, 1e-30):
        found = solve(Diagonal(mask), mask * x, smooth, noise_std=std, x0=mask * x)
        assert found.x.isfinite().all()
        assert rel(mask * found.x, mask * x) < 0.1
        assert found.noise_std > std  # raised, and it says so


def test_an_unmeasured_constant_starts_at_the_mean_of_the_measured() -> None:
    mask = (rand(32, 40, seed=9) > 0).double()
    h = LeastSquares().bind(Diagonal(mask), mask * (5 + image()), torch.tensor(100.0))
    x = h.initial()
    hole, seen = x[0, 0][mask == 0], x[0, 0][mask == 1]
    assert hole.std() < 1e-6
    assert float(hole.mean()) == pytest.approx(float(seen.mean()), rel=1e-3)


# Noise


def test_noise_is_estimated_within_the_measured_and_reported() -> None:
    x = image().repeat_interleave(8, -1).repeat_interleave(8, -2)
    y = x + 0.05 * rand(*x.shape, seed=1)
    assert estimate_noise_std(y) == pytest.approx(0.05, rel=0.05)
    assert estimate_noise_std(1e-9 * y) == pytest.approx(5e-11, rel=0.05)
    mask = (rand(*x.shape, seed=2) > 0).double()
    assert estimate_noise_std(mask * y) == pytest.approx(0.05, rel=0.1)
    found = solve(Diagonal(torch.ones(1, 1)), y, smooth, max_iter=2)
    assert found.noise_estimated and found.noise_std == pytest.approx(0.05, rel=0.05)

    class Knowing(Diagonal):
        def estimate_noise(self, y: Tensor) -> float:
            return 0.125

    assert solve(Knowing(torch.ones(1, 1)), y, smooth, max_iter=2).noise_std == pytest.approx(0.125)


def test_misfit_is_one_for_the_truth() -> None:
    x = image().repeat(1, 1, 4, 4)
    y = x + 0.05 * rand(*x.shape, seed=1)
    step = LeastSquares().bind(Diagonal(torch.ones(1, 1)), y, torch.tensor(0.05**-2))
    assert step.misfit(x) == pytest.approx(1, rel=0.02)
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3).double()
    behind = LeastSquares().bind(Diagonal(mask), mask * y, torch.tensor(0.05**-2))
    assert behind.misfit(x) == pytest.approx(1, rel=0.03)  # the zeros it drops are no measurements


def test_stripes_are_not_taken_for_noise() -> None:
    stripes = (torch.arange(200) % 4 < 2).double().expand(1, 1, 200, 200)
    y = stripes + 0.05 * rand(1, 1, 200, 200, seed=1)
    assert estimate_noise_std(y) == pytest.approx(0.05, rel=0.05)
    assert estimate_noise_std(y.flatten()) > 0.2  # as one line, the texture is noise


# Stopping


def test_convergence_is_tested_only_at_the_last_noise_level() -> None:
    y = image()
    found = solve(Diagonal(torch.ones(1, 1)), y, lambda x, sigma: x, noise_std=0.01, max_iter=200)
    assert found.stop is Stop.CONVERGED
    assert found.n_iter > 12  # the identity has converged long before sigma has
    assert found.history["primal"][-1] <= 1e-3 and found.history["dual"][-1] <= 1e-3
    assert {len(values) for values in found.history.values()} == {found.n_iter}
    tighter = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=0.01, max_iter=500, rtol=1e-6)
    looser = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=0.01, max_iter=500, rtol=1e-2)
    assert tighter.n_iter > looser.n_iter


def test_a_plateau_is_not_the_end() -> None:
    y, identity = image(), Diagonal(torch.ones(1, 1))
    plateau = [0.4] * 6 + [0.1] * 3
    for schedule in (plateau, lambda k: plateau[min(k, 8)]):
        found = solve(identity, y, lambda x, s: x, noise_std=0.01, schedule=schedule, max_iter=40, rtol=0.9)
        assert found.history["sigma"] == [*plateau[:6], 0.1, 0.1] and found.stop is Stop.CONVERGED
    short = solve(identity, y, lambda x, s: x, noise_std=0.01, schedule=plateau, max_iter=5, rtol=0.9)
    assert short.n_iter == 5 and short.stop is Stop.MAX_ITER


@pytest.mark.parametrize(("answer", "n"), [(torch.tensor(True), 1), (torch.ones(3), 3), (np.ones(3), 3)])
def test_the_callback_may_return_anything(answer: Any, n: int) -> None:
    found = solve(Diagonal(torch.ones(1, 1)), image(), smooth, noise_std=0.1, max_iter=3, callback=lambda s: answer)
    assert found.n_iter == n


def test_a_truncating_operator_does_not_start_from_fbp() -> None:
    class Truncating(Diagonal):
        sees_whole_image = False

        def fbp(self, y: Tensor) -> Tensor:
            return torch.zeros_like(y)

    operator = Truncating(torch.ones(1, 1))
    assert LeastSquares().bind(operator, image(), torch.tensor(1.0)).initial().any()
    operator.sees_whole_image = True
    assert not LeastSquares().bind(operator, image(), torch.tensor(1.0)).initial().any()


def test_the_callback_sees_states_and_stops() -> None:
    seen: list[State] = []

    def third(state: State) -> bool:
        seen.append(state)
        return state.k == 3

    found = solve(Diagonal(torch.ones(1, 1)), image(), smooth, noise_std=0.1, callback=third, relaxation=1.0)
    assert found.stop is Stop.CALLBACK and found.n_iter == 3
    assert [s.k for s in seen] == [1, 2, 3]
    assert torch.equal(found.x, seen[-1].z)
    assert torch.allclose(seen[2].u, seen[1].u * (seen[1].alpha / seen[2].alpha) + seen[2].x - seen[2].z)


@pytest.mark.parametrize("at", [1, 4])
def test_ctrl_c_keeps_the_last_iterate(at: int) -> None:
    y, calls, seen = image(), [0], []

    def interrupted(x: Tensor, sigma: float) -> Tensor:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return smooth(x, sigma)

    found = solve(Diagonal(torch.ones(1, 1)), y, interrupted, noise_std=0.1, callback=lambda s: seen.append(s.z))
    assert found.stop is Stop.INTERRUPTED and found.n_iter == len(seen) == at - 1
    assert rel(found.x, y) < 0.1  # before the first iteration: the first estimate
    assert not seen or torch.equal(found.x, seen[-1])


def test_divergence_returns_the_last_sound_iterate() -> None:
    found = solve(
        Diagonal(torch.ones(1, 1)), image(), lambda x, s: -30 * x, noise_std=0.1, schedule=[0.01], max_iter=200
    )
    assert found.stop is Stop.DIVERGED
    assert found.n_iter < 200
    assert float(found.x.abs().max()) < 10
    assert found.x.isfinite().all() and len(found.history["sigma"]) == found.n_iter


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_an_x_update_that_is_not_finite_is_told(algorithm: str) -> None:
    class Breaks(Diagonal):
        def data_step(self, y: Tensor, weights: Tensor) -> Any:
            step, calls = super().data_step(y, weights), iter([1.0, 1.0, math.nan])
            return lambda z, alpha: step(z, alpha) * next(calls)

    with pytest.raises(ValueError, match="x-update"):
        solve(Breaks(torch.ones(1, 1)), image(), smooth, noise_std=0.1, algorithm=algorithm, x0=image())


def test_every_stop_is_a_sentence() -> None:
    for stop in Stop:
        assert str(stop)[0].isupper() and str(stop).endswith(".")


# Containers


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
def test_numpy_in_numpy_out(dtype: str) -> None:
    y = image().numpy().astype(dtype)
    y.setflags(write=False)
    found = solve(Diagonal(torch.ones(1, 1)), y, smooth, noise_std=np.full(y.shape, 0.1))
    assert isinstance(found.x, np.ndarray) and isinstance(found.noise_std, np.ndarray)
    assert found.x.dtype == np.dtype(dtype).newbyteorder("=")
    tensor = torch.from_numpy(y.astype(found.x.dtype))
    same = solve(Diagonal(torch.ones(1, 1)), tensor, smooth, noise_std=0.1)
    assert rel(found.x, same.x) < 1e-5
    assert same.x.dtype == tensor.dtype and not same.x.requires_grad


def test_arguments_are_left_alone_and_runs_agree() -> None:
    operator, y = Matrix(rand(30, N, seed=2)), rand(1, 1, 30, seed=3).requires_grad_()
    copy, state = y.detach().clone(), torch.get_rng_state()
    first, second = (solve(operator, y, Linear(N), noise_std=0.3) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(y, copy) and not first.x.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert set(vars(operator)) == {"M", "shape"}


def test_nothing_is_printed_unless_progress_is_asked_for_and_then_on_stderr() -> None:
    for progress in (False, True):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            solve(Diagonal(torch.ones(1, 1)), image(), smooth, noise_std=0.1, max_iter=3, progress=progress)
        assert out.getvalue() == ""
        assert ("3/3" in err.getvalue()) is progress


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 3, 9, 9))),
    algorithm=st.sampled_from(["admm", "hqs"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape(shape: tuple[int, ...], algorithm: str, dtype: torch.dtype) -> None:
    y = 3 + rand(*shape, seed=sum(shape), dtype=dtype)
    found = solve(Diagonal(torch.ones(1, 1)), y, lambda x, sigma: x, noise_std=0.1, algorithm=algorithm, max_iter=60)
    assert found.x.shape == y.shape and found.x.dtype == dtype
    assert rel(found.x, y) < 0.02


def test_hqs_is_admm_without_its_dual() -> None:
    operator, y = Matrix(rand(30, N, seed=2)), rand(1, 1, 30, seed=3)
    levels = [(0.5, 2.0), (0.4, 3.0)]
    z = torch.zeros(1, 1, *SHAPE, dtype=y.dtype)
    (h1, h2) = (EXACT.bind(operator, y, torch.ones((), dtype=y.dtype)) for _ in range(2))
    first_admm, first_hqs = next(iter(admm(h1, smooth, z, levels))), next(iter(hqs(h2, smooth, z, levels)))
    assert torch.equal(first_admm.z, first_hqs.z)
    assert torch.equal(first_hqs.u, torch.zeros_like(z))
