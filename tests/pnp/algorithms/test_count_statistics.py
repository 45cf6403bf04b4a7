"""Deviance residuals against SciPy's Poisson distribution, and which numbers are told from counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from arrays import rand, uniform
from scipy import stats
from torch import Tensor

from pnp.algorithms.count_statistics import are_whole, concerns_of_counts, count_step, deviance_residuals, fano_factor

SCENE = 0.2 + uniform(1, 1, 1, 5, seed=1).repeat_interleave(20, -1) + uniform(1, 1, 50, 1, seed=2).cumsum(2) / 30


def drawn(mean: Tensor, seed: int = 0) -> Tensor:
    return torch.poisson(mean, generator=torch.Generator().manual_seed(seed))


def warned(y: Tensor, gain: float = 1.0) -> bool:
    found = concerns_of_counts(y / gain, torch.tensor(gain, dtype=y.dtype))
    assert all(len(sentence) < 400 and "gain" in sentence for sentence in found)
    return bool(found)


@pytest.mark.parametrize("mean", [1e-4, 0.3, 1.0, 7.0, 200.0, 1e6])
def test_the_deviance_is_twice_the_difference_of_log_likelihoods(mean: float) -> None:
    y = np.unique(stats.poisson(mean).ppf([1e-9, 1e-3, 0.2, 0.5, 0.9, 0.999, 1 - 1e-9]))
    expected = 2 * (stats.poisson.logpmf(y, y) - stats.poisson.logpmf(y, mean))
    found = deviance_residuals(torch.from_numpy(y), torch.full((len(y),), mean, dtype=torch.float64)).numpy()
    assert np.allclose(found**2, expected, rtol=1e-6, atol=1e-8)
    assert np.array_equal(np.sign(found), np.sign(mean - y))


def test_deviance_residuals_do_not_cancel_in_single_precision() -> None:
    m = torch.full((201,), 2.0**22, dtype=torch.float64)
    y = (m + torch.linspace(-9, 9, 201, dtype=m.dtype) * m.sqrt()).round()
    single = deviance_residuals(y.float(), m.float()).double()
    assert torch.allclose(single, (m - y) / m.sqrt(), atol=0.02) and bool(single.diff().lt(0).all())


def test_no_expected_count_is_finite() -> None:
    r = deviance_residuals(torch.tensor([0.0, 1.0, 1e6]), torch.zeros(3))
    assert bool(r.isfinite().all()) and abs(r[0]) < 1e-9 and r[2] < r[1] < -10


@pytest.mark.parametrize("mean", [50.0, 1000.0])
def test_residuals_of_many_counts_are_normal(mean: float) -> None:
    m = torch.full((40_000,), mean, dtype=torch.float64)
    r = deviance_residuals(drawn(m), m)
    assert stats.kstest(r.numpy() - float(r.mean()), "norm").statistic < 0.5 / mean**0.5
    assert abs(float(r.mean())) < 0.5 / mean**0.5 and float((r**2).mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("mean", [0.02, 0.5, 3.0])
def test_residuals_of_few_counts_have_the_mean_square_that_their_distribution_gives(mean: float) -> None:
    k = np.arange(60)
    deviance = 2 * (stats.poisson.logpmf(k, k) - stats.poisson.logpmf(k, mean))
    exact = float((stats.poisson.pmf(k, mean) * deviance).sum())
    m = torch.full((200_000,), mean, dtype=torch.float64)
    r = deviance_residuals(drawn(m), m)
    assert float((r**2).mean()) == pytest.approx(exact, rel=0.03)
    # Chernoff's bound: residuals beyond 6 are as rare as those of a normal distribution, up to a small factor.
    beyond = deviance > 36
    assert (stats.poisson.pmf(k, mean) * beyond).sum() < 10 * stats.norm.sf(6)


@pytest.mark.parametrize("step", [1.0, 0.01, 2.5, 1 / 255, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_of_counts_is_found(step: float, dtype: torch.dtype) -> None:
    counts = drawn(30 * SCENE).to(dtype)
    found = count_step((step * counts)[counts > 0])
    assert found == pytest.approx(step, rel=1e-5)
    assert count_step(torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=dtype)) is None
    assert count_step(torch.empty(0)) is None


@pytest.mark.parametrize("mean", [0.01, 1.0, 30.0])
def test_the_variance_of_neighbouring_counts_is_about_their_mean(mean: float) -> None:
    fano = fano_factor(drawn(mean * SCENE))
    assert fano is not None and 0.8 < fano < 1.3
    assert fano_factor(torch.zeros(1, 1, 4, 9)) is None and fano_factor(torch.ones(1, 1, 4, 2)) is None


def test_whole_numbers() -> None:
    counts = drawn(30 * SCENE).float()
    assert are_whole(counts) and are_whole(counts * 0.01 / 0.01) and not are_whole(counts * 0.01)


@pytest.mark.parametrize("mean", [0.1, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_and_counts_in_their_own_gain_raise_no_concern(mean: float, dtype: torch.dtype) -> None:
    counts = drawn(mean * SCENE).to(dtype)
    assert not warned(counts)
    for gain in (1e-3, 0.01, 0.37, 17.0):
        assert not warned(gain * counts, gain)


@pytest.mark.parametrize(
    "correct",
    [
        lambda y: (y - 0.4 * 20 * SCENE).clamp(min=0),  # scatter, estimated smoothly
        lambda y: (y - drawn(0.1 * 20 * SCENE, 3) * 3.5).clamp(min=0),  # scatter, from a narrow window
        lambda y: y * (1 + 4 * uniform(1, 1, 50, 100, seed=5)),  # attenuation, or the bins' efficiency
        lambda y: y * 1.2,  # decay
        lambda y: y + 0.3,
        lambda y: y.clamp(max=25),
        lambda y: torch.where(uniform(1, 1, 50, 100, seed=6) < 0.02, -0.0, y),  # dead bins
        lambda y: torch.where(uniform(1, 1, 50, 100, seed=6) < 0.01, 3e5 + 0.5, y),  # hot ones
    ],
    ids=["smooth scatter", "scatter window", "attenuation", "decay", "offset", "saturated", "dead", "hot"],
)
def test_corrected_counts_raise_no_concern(correct: Callable[[Tensor], Tensor]) -> None:
    assert not warned(correct(drawn(20 * SCENE)))


@pytest.mark.parametrize("gain", [0.01, 0.4, 1.37, 3.0, 100.0])
def test_scaled_counts_name_their_gain(gain: float) -> None:
    y = gain * drawn(30 * SCENE)
    assert warned(y)
    (sentence,) = concerns_of_counts(y, torch.ones(()))
    assert f"Poisson(gain={gain:.4g})" in sentence
    assert warned(y, 7.7 * gain)  # another gain, as wrong


@pytest.mark.parametrize(
    "y",
    [
        (255 * SCENE / SCENE.max()).round() / 255,  # a picture
        SCENE / SCENE.max() + 0.02 * rand(*SCENE.shape).abs(),
        300 * SCENE,  # no noise at all
        sum(drawn(30 * SCENE, seed) for seed in range(7)) / 7,  # a mean of frames
        torch.nn.functional.avg_pool2d(drawn(30 * SCENE), 3, 1, 1),  # smoothed
    ],
    ids=["8 bits", "noisy picture", "clean", "mean", "smoothed"],
)
def test_what_is_no_counts_raises_a_concern(y: Tensor) -> None:
    assert warned(y)


def test_a_few_numbers_say_nothing() -> None:
    assert not warned(0.01 * drawn(30 * SCENE)[..., :6, :9])
    assert not warned(torch.zeros(1, 1, 20, 30))
