"""The Poisson data term: EM surrogates against a dense optimiser, counts in and out of sight."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from arrays import rand, rel, uniform
from scipy import optimize, stats
from torch import Tensor
from toys import SHAPE, Diagonal, Matrix, image, smooth

from denoisers import MLPatch
from operators import Radon
from pnp import LeastSquares, Poisson, mlem, psnr, solve
from pnp.drivers.fingerprint import fingerprint

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    from deepinv.physics import Denoising, PoissonGaussianNoise, PoissonNoise

N = SHAPE[0] * SHAPE[1]
EXACT = LeastSquares(rtol=1e-12, max_iter=500)
ONE = torch.ones(())
IDENTITY = Diagonal(torch.ones(1, 1))


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
    values = [objective(h.initial())] + [objective(h(v, alpha)) for _ in range(60)]
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


def test_em_does_not_cancel() -> None:
    # Tiny alpha: the naive root -q + sqrt(q^2 + small) would be pure rounding in float32.
    operator, y, r = poisson_problem()
    found = []
    for dtype in (torch.float32, torch.float64):
        counts = Poisson(background=r).bind(operator, y.to(dtype), torch.ones(()))._problem
        x, v = torch.ones(1, 1, *SHAPE, dtype=dtype), torch.zeros(1, 1, *SHAPE, dtype=dtype)
        for _ in range(16):
            x = counts.em(x, v, torch.tensor(1e-12, dtype=dtype))
        found.append(x.double())
    assert rel(*found) < 1e-4


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


def scaled_problem(gain: float, background: float = 2.0, scale: float = 1.0) -> tuple[Matrix, Tensor, Poisson]:
    """Counts of `poisson_problem` in another unit: everything times gain."""
    operator, y, r = poisson_problem()
    return operator, gain * scale * y, Poisson(background=gain * scale * r, gain=gain * scale)


@pytest.mark.parametrize("gain", [1e-3, 0.3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gain_is_a_unit(gain: float, dtype: torch.dtype) -> None:
    operator, y, r = poisson_problem()
    y = y.to(dtype)
    plain, scaled = Poisson(background=r), Poisson(background=gain * r, gain=gain)
    eps = 200 * torch.finfo(dtype).eps
    h, hs = plain.bind(operator, y, ONE), scaled.bind(operator, gain * y, ONE)
    x = h.initial()
    assert rel(hs.initial(), gain * x) < eps
    v, alpha = 5 * rand(1, 1, *SHAPE, seed=7, dtype=dtype), torch.tensor(10.0, dtype=dtype)
    assert rel(hs(gain * v, alpha / gain**2), gain * h(v, alpha)) < eps
    assert hs.curvature() * gain**2 == pytest.approx(h.curvature(), rel=1e-4)
    assert hs.spectral_flatness() == pytest.approx(h.spectral_flatness(), rel=1e-4)
    assert hs.misfit(gain * x) == pytest.approx(h.misfit(x), rel=1e-4)
    assert rel(hs.residuals(gain * x)[0], h.residuals(x)[0]) < 1e3 * eps
    one, other = (
        solve(operator, c * y, smooth, data_term=term, bounds=(0, None)).x for c, term in ((1, plain), (gain, scaled))
    )
    assert rel(other, gain * one) < 1e-3 if dtype == torch.float32 else 1e-9


def test_gain_and_read_noise_may_be_arrays() -> None:
    operator, y, r = poisson_problem()
    gain = 0.1 + uniform(40, seed=4)
    h = Poisson(background=r * gain, gain=gain).bind(operator, gain * y, ONE)
    v, alpha = 5 * rand(1, 1, *SHAPE, seed=7), torch.tensor(10.0, dtype=y.dtype)
    for _ in range(20):
        x = h(v, alpha)
    # A row times gain, and counts times gain: the gradient of the same likelihood with the rows M/gain.
    expected = operator.A(x) / gain + r
    gradient = Matrix(operator.M / gain[:, None]).A_adjoint(1 - y / expected) + alpha * (x - v)
    inside = x > 1e-3
    assert float(gradient[inside].abs().max()) < 1e-4 * float(alpha * (x - v).abs().max())
    assert bool((gradient[~inside] > -1e-3).all())
    each = Poisson(gain=0.5, read_noise=torch.full((40,), 3.0)).bind(operator, y, ONE)
    both = Poisson(gain=0.5, read_noise=3.0).bind(operator, y, ONE)
    assert torch.equal(each(v, alpha), both(v, alpha))


def test_ten_em_iterations_are_those_of_mlem() -> None:
    operator, y, term = scaled_problem(0.25)
    first = term.bind(operator, y, ONE).initial()
    assert rel(first, 0.25 * mlem(operator, y / 0.25, background=2.0, max_iter=10).x) < 1e-6


@pytest.mark.parametrize(("gain", "read_noise"), [(0.01, 0.0), (5.0, 0.0), (1.0, 2.0), (0.05, 0.1), (10.0, 4.0)])
def test_misfit_is_one_and_the_mean_square_residual_too_at_the_truth(gain: float, read_noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = gain * (10 + 40 * uniform(1, 1, 100, 200, seed=1))
    y = gain * torch.poisson(x / gain, generator=generator)
    y = y + read_noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    h = Poisson(gain=gain, read_noise=read_noise).bind(IDENTITY, y, ONE)
    assert h.misfit(x) == pytest.approx(1, abs=0.04)
    residual, counted = h.residuals(x)
    assert bool(counted.all()) and float((residual**2).mean()) == pytest.approx(1, abs=0.05)
    assert h.curvature() == pytest.approx(1 / (gain * float(x.mean()) + read_noise**2), rel=0.02)


def test_read_noise_leaves_no_bias_where_counts_are_few() -> None:
    # One unknown mean behind 40,000 pixels: the likelihood's maximum is near the truth, within its standard error.
    class Sum:
        def A(self, x: Tensor) -> Tensor:
            return x.expand(1, 1, 200, 200)

        def A_adjoint(self, y: Tensor) -> Tensor:
            return y.sum((2, 3), keepdim=True)

    generator = torch.Generator().manual_seed(0)
    y = torch.poisson(torch.full((1, 1, 200, 200), 3.0, dtype=torch.float64), generator=generator)
    y = y + 2 * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    h = Poisson(read_noise=2.0).bind(Sum(), y, ONE)
    found = float(h(torch.full((1, 1, 1, 1), 3.0, dtype=y.dtype), torch.tensor(1e-6, dtype=y.dtype)))
    # Clamping the few values below -read_noise^2 adds a little.
    assert found == pytest.approx(float(y.mean()), abs=0.05) and float(y.min()) < -4


def dose() -> tuple[Tensor, Tensor]:
    x = (0.2 + image()).float() / 3
    return x, 0.01 * torch.poisson(x / 0.01, generator=torch.Generator().manual_seed(0))


def test_the_gain_of_deepinvs_noise_is_as_good_as_counts() -> None:
    D = MLPatch.from_pretrained("gray")
    x, y = dose()
    physics = Denoising(PoissonNoise(gain=0.01))
    given, asked, counts, ignored = (
        solve(physics, y * c, D, data_term=term, bounds=(0, None)).x / c
        for term, c in ((Poisson(gain=0.01), 1), (Poisson(gain=None), 1), (Poisson(), 100), (Poisson(), 1))
    )
    assert torch.equal(given, asked) and rel(given, counts) < 1e-3
    assert psnr(given, x, data_range=1) > max(psnr(ignored, x, data_range=1), psnr(y, x, data_range=1)) + 3


def test_read_noise_of_a_camera_is_better_modelled_than_ignored() -> None:
    D = MLPatch.from_pretrained("gray")
    x = 20 * (0.1 + image()).float()
    generator = torch.Generator().manual_seed(0)
    y = torch.poisson(x, generator=generator) + 3 * torch.randn(x.shape, generator=generator)
    with pytest.raises(ValueError, match="read_noise"):
        solve(IDENTITY, y, D, data_term=Poisson())
    known = solve(IDENTITY, y, D, data_term=Poisson(read_noise=3.0), bounds=(0, None))
    ignored = solve(IDENTITY, y.clamp(min=0), D, data_term=Poisson(), bounds=(0, None))
    assert rel(known.x, x) < 0.9 * rel(ignored.x, x) and 0.75 < known.misfit < 1.1


@pytest.mark.parametrize(
    ("model", "term", "scale", "expected"),
    [
        (PoissonNoise(0.01), Poisson(), 1, "0.01"),
        (PoissonNoise(0.01), Poisson(gain=0.02), 1, "0.02"),
        (PoissonNoise(0.01), Poisson(gain=0.01), 1, ""),
        (PoissonNoise(0.01), Poisson(gain=None), 1, ""),
        (PoissonNoise(0.01), Poisson(), 100, ""),  # divided by the gain
        (PoissonNoise(0.01, normalize=False), Poisson(), 100, "normalize"),
        (PoissonNoise(0.01, normalize=False), Poisson(gain=None), 100, "normalize"),
        (PoissonNoise(0.01, normalize=False), Poisson(gain=0.01), 1, ""),
        (PoissonNoise(1.0, normalize=False), Poisson(), 100, ""),
        (PoissonGaussianNoise(0.01, 0.1), Poisson(gain=0.01), 1, "0.1"),
        (PoissonGaussianNoise(0.01, 0.1), Poisson(gain=None, read_noise=None), 1, ""),
        (PoissonGaussianNoise(0.01, 0.1), Poisson(gain=1.0, read_noise=10.0), 100, ""),
        (None, Poisson(gain=None, read_noise=None), 100, ""),
        (None, Poisson(), 1, "steps"),
        (None, Poisson(read_noise=0.1), 1, ""),
    ],
)
def test_a_gain_that_the_operator_contradicts_is_said(model: object, term: Poisson, scale: int, expected: str) -> None:
    physics = IDENTITY if model is None else Denoising(model)
    _, y = dose()
    found = term.bind(physics, scale * y, ONE).concerns()
    assert bool(found) == bool(expected) and all(expected in s and len(s) < 400 for s in found)


def test_each_image_of_a_batch_has_its_own_gain() -> None:
    x, y = dose()
    physics = Denoising(PoissonNoise(torch.tensor([0.01, 0.02])))
    together = Poisson(gain=None).bind(physics, torch.cat([y, 2 * y]), ONE)
    alone = Poisson(gain=0.02).bind(physics, 2 * y, ONE)
    v, alpha = torch.cat([x, x]), torch.tensor(3.0)
    for step in (together, alone):
        step.last_x = torch.ones(())  # the first image is shared by a batch
    assert rel(together(v, alpha)[1:], alone(x, alpha)) < 1e-6
    assert together.concerns() == []


@pytest.mark.parametrize("robust", [False, True])
def test_without_rejected_counts_it_is_the_problem_of_the_others(robust: bool) -> None:
    operator, y, r = poisson_problem()
    rejected = torch.zeros_like(y, dtype=torch.bool)
    rejected[..., [3, 17, 30]] = True
    y[rejected] = 1e6
    kept = ~rejected.flatten()
    term = Poisson(background=r, gain=2.0, robust=robust)
    whole = term.bind(operator, y, ONE)
    whole.last_x = torch.ones(1, 1, *SHAPE, dtype=y.dtype)
    h, others = whole.reject(rejected), term.bind(Matrix(operator.M[kept]), y[..., kept], ONE)
    assert h.last_x is whole.last_x and type(h) is type(whole)
    h.last_x = None
    assert rel(h.initial(), others.initial()) < 1e-12
    v, alpha = 5 * rand(1, 1, *SHAPE, seed=7), torch.tensor(10.0, dtype=y.dtype)
    x = h(v, alpha)
    assert rel(x, others(v, alpha)) < 1e-12
    assert h.misfit(x) == pytest.approx(others.misfit(x), rel=1e-12)
    assert h.curvature() == pytest.approx(others.curvature(), rel=0.02)
    assert h.spectral_flatness() == pytest.approx(others.spectral_flatness(), rel=0.05)
    residual, counted = h.residuals(x)
    assert torch.equal(counted, ~rejected) and rel(residual[counted], others.residuals(x)[0].flatten()) < 1e-9
    more = h.reject(torch.arange(40).expand(1, 1, 40) == 5)
    assert int(more.residuals(x)[1].sum()) == 36
    with pytest.raises(ValueError, match="rejected"):
        h.reject(torch.ones_like(rejected))


def test_outliers_stand_out_and_nothing_else_does() -> None:
    x = 20 * (0.2 + image())
    y = torch.poisson(x, generator=torch.Generator().manual_seed(1))
    y[..., 10, 10:12] = torch.tensor([0.0, 90.0], dtype=y.dtype)
    residual, counted = Poisson(robust=True).bind(IDENTITY, y, ONE).residuals(x)
    assert residual[..., 10, 11] < -6 and residual[..., 10, 10] > 2
    others = counted & (torch.arange(40) != 11)
    assert float(residual[others].abs().max()) < 5
    m, k = float(x[..., 10, 11]), 90
    deviance = 2 * (stats.poisson.logpmf(k, k) - stats.poisson.logpmf(k, m))
    assert float(residual[..., 10, 11]) == pytest.approx(-(deviance**0.5), rel=1e-9)


def test_a_hot_pixel_beside_the_object_is_seen() -> None:
    x = 20 * (0.2 + image())
    x[..., :5] = 0
    y = torch.poisson(x, generator=torch.Generator().manual_seed(1))
    y[..., 10, 2] = 30
    residual, counted = Poisson(robust=True).bind(IDENTITY, y, ONE).residuals(x)
    assert counted[..., 10, 2] and residual[..., 10, 2] < -6 and int(counted[..., :5].sum()) == 1


@pytest.mark.parametrize("name", ["gain", "read_noise", "background", "robust"])
def test_levels_that_cannot_be(name: str) -> None:
    bad = {"gain": 0.0, "read_noise": -1.0, "background": -1.0, "robust": 1}[name]
    with pytest.raises((ValueError, TypeError), match=f"Poisson: {name}"):
        Poisson(**{name: bad})  # type: ignore[arg-type]
    operator, y, _ = poisson_problem()
    with pytest.raises(TypeError, match=f"Poisson: {name}"):
        Poisson(**{name: "much"})  # type: ignore[arg-type]
    if name != "robust":
        with pytest.raises(ValueError, match=f"Poisson: {name}"):
            Poisson(**{name: torch.ones(3)}).bind(operator, y, ONE)  # type: ignore[arg-type]


def test_gaussian_noise_of_the_operator_has_no_gain() -> None:
    physics = Denoising(PoissonGaussianNoise(gain=0.0, sigma=0.1))
    with pytest.raises(ValueError, match="gain"):
        Poisson(gain=None).bind(physics, dose()[1], ONE)


def test_values_below_zero_are_allowed_as_far_as_read_noise_goes() -> None:
    operator, y, _ = poisson_problem()
    y[..., 5] = -7.0
    assert Poisson(read_noise=1.0).bind(operator, y, ONE).initial().isfinite().all()
    with pytest.raises(ValueError, match="read_noise") as caught:
        Poisson(read_noise=0.8).bind(operator, y, ONE)
    assert len(str(caught.value)) < 400


def test_a_checkpoint_tells_the_options_apart() -> None:
    terms = [Poisson(), Poisson(robust=True), Poisson(gain=2.0), Poisson(gain=None), Poisson(read_noise=1.0)]
    assert len({fingerprint(term) for term in terms}) == len(terms)


def test_repr_is_the_call() -> None:
    assert repr(Poisson()) == "Poisson(background=0.0, n_inner=1)"
    for term in (Poisson(background=1.0, robust=True), Poisson(gain=0.1, read_noise=2.0), Poisson(gain=None)):
        assert repr(eval(repr(term))) == repr(term) != repr(Poisson())
    assert "robust=True" in repr(Poisson(robust=True))
