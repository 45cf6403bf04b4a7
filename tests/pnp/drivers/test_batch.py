"""Images of different brightness and noise in one batch get what they get one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from torch import Tensor
from toys import Diagonal, Matrix, image, smooth

from denoisers import TV
from operators import Blur, Downsample, Identity, Mask, Radon, stack
from pnp import LeastSquares, Poisson, Result, Schedule, State, Stop, solve
from pnp.algorithms.batch import operator_norms
from pnp.algorithms.linalg import operator_norm
from pnp.ct import Transmission

SHAPE = (16, 20)
X = torch.cat([image()[..., 4:20, 10:30], image().flip(-1)[..., 4:20, 10:30], image()[..., 8:24, 14:34]])
BRIGHTNESS = torch.tensor([1.0, 1e3, 1e-3], dtype=F64)
NOISE = BRIGHTNESS * torch.tensor([0.05, 0.02, 0.1], dtype=F64)
UNLIKE = torch.tensor([0.05, 0.1, 0.05], dtype=F64)
ANGLES = torch.arange(9, dtype=F64) * (math.pi / 9)
KERNEL = torch.ones(3, 5, dtype=F64) / 15
OPERATORS = {
    "mask": lambda: Mask(rand(*SHAPE, seed=9) > -0.5),
    "identity": lambda: Identity(SHAPE),
    "blur-circular": lambda: Blur(KERNEL, SHAPE),
    "blur-reflect": lambda: Blur(KERNEL, SHAPE, "reflect"),
    "blur-valid": lambda: Blur(KERNEL, SHAPE, "valid"),
    "radon": lambda: Radon(SHAPE, ANGLES),
    "downsample": lambda: Downsample(SHAPE, 2),
    "downsample-kernel": lambda: Downsample(SHAPE, 2, KERNEL),
    "scaled": lambda: 2.5 * Blur(KERNEL, SHAPE),
    "composed": lambda: Mask(rand(*SHAPE, seed=9) > -0.5) @ Blur(KERNEL, SHAPE),
}


def noisy(operator: Any, std: Tensor = NOISE) -> Tensor:
    clean = operator.A(X * BRIGHTNESS.reshape(3, 1, 1, 1))
    return clean + std.reshape(-1, *[1] * (clean.ndim - 1)) * rand(*clean.shape, seed=3)


def with_a_flat_one(operator: Any) -> Tensor:
    """Measurements of two images and of a constant one, which converges at once where sigma does not fall."""
    y = operator.A(torch.cat([X[:2], torch.ones_like(X[:1])]))
    y[:2] += 0.05 * rand(*y[:2].shape, seed=3)
    return y


def levels(y: Tensor, std: Tensor = NOISE) -> Tensor:
    return std.reshape(-1, *[1] * (y.ndim - 1))


def alone(operator: Any, y: Any, denoiser: Any, noise_std: Any = None, **options: Any) -> list[Result]:
    """The images of a batch, one by one; each noise level is its own."""
    found = []
    for b in range(len(X)):
        one = tuple(part[b : b + 1] for part in y) if isinstance(y, tuple) else y[b : b + 1]
        std = noise_std
        if isinstance(std, Tensor) and std.ndim > 2:
            std = float(std[b]) if std[b].numel() == 1 else std[b : b + 1]
        elif isinstance(std, tuple):
            std = tuple(float(s[b]) for s in std)
        found.append(solve(operator, one, denoiser, noise_std=std, **options))
    return found


def same(together: Result, singles: list[Result], tolerance: float = 1e-5) -> None:
    for b, single in enumerate(singles):
        assert rel(together.x[b : b + 1], single.x) < tolerance, b
    assert together.n_iter == max(single.n_iter for single in singles)
    for name in ("sigma", "alpha"):
        for b, single in enumerate(singles):
            own = [entry[b] if isinstance(entry, list) else entry for entry in together.history[name]]
            assert own[: single.n_iter] == pytest.approx(single.history[name], rel=1e-4)


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
@pytest.mark.parametrize("name", OPERATORS)
def test_images_in_a_batch_get_what_they_get_alone(name, algorithm):
    operator = OPERATORS[name]()
    y = noisy(operator)
    options = {"noise_std": levels(y), "algorithm": algorithm, "max_iter": 40, "rtol": 0.003}
    together = solve(operator, y, smooth, **options)
    same(together, alone(operator, y, smooth, **options))
    assert all(len(entry) == 3 for name in ("sigma", "alpha") for entry in together.history[name])


def test_a_denoiser_with_a_level_for_each_image():
    operator = OPERATORS["mask"]()
    y = noisy(operator)
    options = {"noise_std": levels(y), "max_iter": 6}
    same(solve(operator, y, TV(), **options), alone(operator, y, TV(), **options), 1e-4)


@pytest.mark.parametrize("name", ["mask", "blur-valid", "radon"])
def test_noise_for_each_measurement_of_each_image(name):
    operator = OPERATORS[name]()
    y = noisy(operator)
    std = levels(y) * (1 + rand(*y.shape, seed=5).abs())
    std[0, :, :2] = math.inf  # one image is not measured completely, and does not start from filtered backprojection
    options = {"noise_std": std, "max_iter": 12}
    same(solve(operator, y, smooth, **options), alone(operator, y, smooth, **options))


def test_one_noise_level_for_images_of_different_brightness():
    operator = OPERATORS["blur-circular"]()
    y = noisy(operator)
    seen: list[State] = []
    together = solve(operator, y, smooth, noise_std=2e-4, max_iter=8, callback=seen.append)
    assert all(state.sigma.shape == state.alpha.shape == (3,) for state in seen)
    same(together, [solve(operator, y[b : b + 1], smooth, noise_std=2e-4, max_iter=8) for b in range(3)])


def test_a_given_schedule_is_shared():
    operator = OPERATORS["radon"]()
    y = noisy(operator, torch.full((3,), 0.05, dtype=F64))
    for schedule in (Schedule(0.3, 0.05, n_iter=4), [0.3, 0.1, 0.05], lambda k: 0.3 * 0.5**k):
        options = {"noise_std": 0.05, "schedule": schedule, "max_iter": 6, "data_term": LeastSquares(robust=False)}
        together = solve(operator, y, smooth, **options)
        same(together, alone(operator, y, smooth, **options))
        # One operator, one noise level, one schedule: numbers, not lists.
        assert all(isinstance(entry, float) for name in ("sigma", "alpha") for entry in together.history[name])


def test_a_given_schedule_with_different_noise_couples_each_image_by_its_own_operator():
    mask = Diagonal((torch.arange(3).reshape(3, 1, 1, 1) < torch.arange(1, 321).reshape(16, 20) % 4).double())
    y = mask.A(X)
    together = solve(mask, y, smooth, noise_std=0.05, schedule=[0.1], max_iter=2)
    assert together.history["sigma"] == [0.1, 0.1]
    one = [
        solve(Diagonal(mask.d[b : b + 1]), y[b : b + 1], smooth, noise_std=0.05, schedule=[0.1], max_iter=2)
        for b in range(3)
    ]
    same(together, one)


def test_counts_of_different_strength():
    operator = OPERATORS["radon"]()
    counts = torch.tensor([1.0, 100.0, 5.0], dtype=F64).reshape(3, 1, 1, 1)
    y = torch.poisson(counts * operator.A(X).clamp(min=0), generator=torch.Generator().manual_seed(0))
    options = {"data_term": Poisson(background=0.5), "bounds": (0, None), "max_iter": 12}
    same(solve(operator, y, smooth, **options), alone(operator, y, smooth, **options))
    y[1] = 0
    with pytest.raises(ValueError, match="y must hold counts"):
        solve(operator, y, smooth, **options)


def test_counts_behind_objects_of_different_thickness():
    operator = OPERATORS["radon"]()
    thickness = torch.tensor([0.02, 0.2, 0.1], dtype=F64).reshape(3, 1, 1, 1)
    y = torch.poisson(1e4 * (-operator.A(thickness * X)).exp(), generator=torch.Generator().manual_seed(0))
    options = {"data_term": Transmission(1e4), "max_iter": 6}
    same(solve(operator, y, smooth, **options), alone(operator, y, smooth, **options), 1e-3)


def test_parts_with_noise_of_their_own_for_each_image():
    operator = stack([OPERATORS["mask"](), OPERATORS["blur-valid"]()])
    y = tuple(noisy(part) for part in operator.operators)
    noise = tuple(levels(part, c * NOISE) for part, c in zip(y, (1, 2), strict=True))
    options = {"noise_std": noise, "max_iter": 12}
    same(solve(operator, y, smooth, **options), alone(operator, y, smooth, **options))


def test_complex_images():
    operator = Diagonal((2 + rand(*SHAPE).abs()).to(torch.complex128))
    y = operator.A(BRIGHTNESS.reshape(3, 1, 1, 1) * (1 + rand(3, 1, *SHAPE, dtype=torch.complex128)))
    options = {"noise_std": levels(y), "max_iter": 40, "rtol": 0.01}
    same(solve(operator, y, smooth, **options), alone(operator, y, smooth, **options))


def test_permuting_the_batch_permutes_the_answer():
    operator, order = OPERATORS["radon"](), [2, 0, 1]
    y = noisy(operator)
    first = solve(operator, y, smooth, noise_std=levels(y), rtol=0.01)
    second = solve(operator, y[order], smooth, noise_std=levels(y)[order], rtol=0.01)
    for b, i in enumerate(order):
        assert rel(second.x[b], first.x[i]) < 1e-10
    assert second.misfit == pytest.approx(first.misfit)


def test_float32_and_numpy():
    operator = OPERATORS["mask"]()
    y = noisy(operator).float().numpy()
    options = {"noise_std": levels(noisy(operator)).float().numpy(), "max_iter": 20, "rtol": 0.0}
    together = solve(operator, y, smooth, **options)
    assert isinstance(together.x, np.ndarray) and together.x.dtype == np.float32
    exact = solve(
        operator, y.astype(np.float64), smooth, **{**options, "noise_std": options["noise_std"].astype(float)}
    )
    for b in range(3):
        assert rel(together.x[b], exact.x[b]) < 1e-4


# Stopping


def test_an_image_that_has_converged_keeps_its_image():
    operator = OPERATORS["blur-valid"]()
    y = with_a_flat_one(operator)
    options = {"noise_std": levels(y, UNLIKE), "max_iter": 60, "rtol": 1e-3, "schedule": [0.1]}
    singles = alone(operator, y, smooth, **options)
    first, last = min(s.n_iter for s in singles), max(s.n_iter for s in singles)
    assert first < 10 < last and all(s.stop is Stop.CONVERGED for s in singles)
    seen: list[State] = []
    together = solve(operator, y, smooth, **options, callback=seen.append)
    assert together.stop is Stop.CONVERGED and together.n_iter == last == len(seen)
    quick = next(b for b, s in enumerate(singles) if s.n_iter == first)
    assert all(torch.equal(state.z[quick], seen[first - 1].z[quick]) for state in seen[first - 1 :])
    assert together.history["dual"][-1] <= 3e-3  # of an image that was still running
    assert seen[-1].primal == max(primal for primal, _ in seen[-1].residuals)
    cut = solve(operator, y, smooth, **{**options, "max_iter": first})
    assert cut.stop is Stop.MAX_ITER and rel(cut.x[quick], singles[quick].x[0]) < 1e-6


@pytest.mark.parametrize("name", ["blur-valid", "mask"])
@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_a_batch_resumes_to_the_same_bits(name, algorithm, tmp_path):
    operator = OPERATORS[name]()
    y = with_a_flat_one(operator)
    options = {"noise_std": levels(y, UNLIKE), "max_iter": 60, "rtol": 3e-4, "schedule": [0.1], "algorithm": algorithm}
    whole = solve(operator, y, smooth, **options)
    ends = [s.n_iter for s in alone(operator, y, smooth, **options)]
    assert min(ends) < 10 < whole.n_iter

    def interrupt(at):
        def callback(state):
            if state.k == at:
                raise KeyboardInterrupt

        return callback

    options["checkpoint"] = tmp_path / "c"
    for at in sorted({1, min(ends), min(ends) + 1, whole.n_iter}):
        found = solve(operator, y, smooth, **options, callback=interrupt(at))
        assert found.stop is Stop.INTERRUPTED and found.n_iter == at
    found = solve(operator, y, smooth, **options)
    assert torch.equal(found.x, whole.x) and found.history == whole.history
    assert (found.n_iter, found.stop) == (whole.n_iter, whole.stop) and not (tmp_path / "c").exists()


def test_a_batch_ends_where_one_of_its_images_diverges():
    y = torch.cat([image(), 1e9 * image()])

    def growing(x: Tensor, sigma: Any) -> Tensor:
        factor = torch.tensor([-30.0, 1.0], dtype=x.dtype).reshape(2, 1, 1, 1)
        return factor[: len(x)] * x if len(x) == 2 else (-30 if float(x.abs().max()) < 1e8 else 1) * x

    found = solve(Diagonal(torch.ones(1, 1)), y, growing, noise_std=0.1, schedule=[0.01], max_iter=200)
    assert found.stop is Stop.DIVERGED and found.x[0].abs().max() < 1e8


# Parts of it


class OneAlpha(Diagonal):
    """A data step that takes one alpha alone."""

    def data_step(self, y: Tensor, weights: Tensor) -> Any:
        step = super().data_step(y, weights)
        return lambda z, alpha: step(z, float(alpha))


def test_data_steps_of_one_alpha_are_called_image_by_image():
    d = 1 + rand(*SHAPE, seed=1).abs()
    y = noisy(Diagonal(d))
    for noise in (levels(y), 0.1, levels(y) * (1 + rand(*y.shape, seed=5).abs())):
        expected = solve(Diagonal(d), y, smooth, noise_std=noise, max_iter=6)
        found = solve(OneAlpha(d), y, smooth, noise_std=noise, max_iter=6)
        assert all(rel(a, b) < 1e-12 for a, b in zip(found.x, expected.x, strict=True))


def test_weights_of_images_enter_by_alpha():
    """(w A*A + alpha)^-1 (w A*y + alpha v), with a closed form that takes scalar weights alone."""
    M = rand(30, 42, seed=2)

    class ScalarWeights(Matrix):
        def data_step(self, y: Tensor, weights: Tensor) -> Any:
            if weights.ndim:
                return None
            S, V = torch.linalg.eigh(weights * self.M.T @ self.M)
            b = weights * self.A_adjoint(y)
            return lambda z, alpha: (((b + alpha * z).flatten(2) @ V) / (S + alpha.reshape(-1, 1, 1)) @ V.T).view(
                z.shape
            )

    y, v = rand(3, 1, 30, seed=3), rand(3, 1, 6, 7, seed=4)
    w, alpha = torch.tensor([0.1, 2.0, 30.0], dtype=F64), torch.tensor([3.0, 0.2, 1.0], dtype=F64)
    h = LeastSquares().bind(ScalarWeights(M), y, w.reshape(3, 1, 1))
    x = h(v, alpha.reshape(3, 1, 1, 1))
    assert h.inner_iterations == 0
    exact = LeastSquares(rtol=1e-13, max_iter=500).bind(Matrix(M), y, w.reshape(3, 1, 1))(v, alpha.reshape(3, 1, 1, 1))
    assert exact.shape == x.shape and rel(exact, x) < 1e-10
    for b in range(3):
        H = w[b] * M.T @ M + alpha[b] * torch.eye(42, dtype=F64)
        truth = torch.linalg.solve(H, w[b] * M.T @ y[b, 0] + alpha[b] * v[b].flatten())
        assert rel(x[b].flatten(), truth) < 1e-10


def test_norms_of_images_are_those_of_each_alone():
    d = torch.stack([rand(*SHAPE, seed=b) * 10.0**b for b in range(4)])[:, None]
    d[3] = 0
    norms = operator_norms(lambda x: d**2 * x, torch.zeros(4, 1, *SHAPE, dtype=F64), rtol=1e-2)
    for b, norm in enumerate(norms):
        single = operator_norm(lambda x, b=b: d[b : b + 1] ** 2 * x, torch.zeros(1, 1, *SHAPE, dtype=F64), rtol=1e-2)
        assert norm == pytest.approx(single, rel=1e-12)


def test_an_image_without_information_is_refused():
    y = noisy(Identity(SHAPE))
    std = levels(y).clone()
    std[1] = math.inf
    with pytest.raises(ValueError, match="noise_std") as caught:
        solve(Identity(SHAPE), y, smooth, noise_std=std)
    assert "image 1" in str(caught.value) and len(str(caught.value)) < 400
