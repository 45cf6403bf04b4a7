"""Error maps: Wiener samples against the dense posterior, calibrated intervals against their promise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import KaiserSquires
from pnp.lensing import LognormalKappa, pixel_spectrum, smoothed_kaiser_squires, survey_noise, wiener
from pnp.lensing.conformal import conformal_factor, risk_controlling_factor, upper_bound
from pnp.lensing.uncertainty import (
    SimulatedErrors,
    calibrate_error,
    simulated_errors,
    wiener_samples,
    wiener_std,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_wiener_std_of_even_noise_is_closed_form():
    A, spectrum = KaiserSquires((33, 31)), pixel_spectrum((33, 31))
    noise_std = torch.full((1, 2, 1, 1), 0.1, dtype=torch.float64)
    exact = float((spectrum / (1 + spectrum / 0.1**2)).mean().sqrt())
    std = wiener_std(
        A, torch.zeros(1, 2, 33, 31, dtype=torch.float64), noise_std, spectrum, generator=seeded(), draws=200
    )
    assert std.shape == (1, 1, 33, 31)
    assert float(std.square().mean().sqrt()) == pytest.approx(exact, rel=0.03)
    assert float(std.std() / std.mean()) < 2 / math.sqrt(2 * 200)  # no pixel differs but by chance


def test_wiener_samples_have_the_dense_posterior():
    shape, n = (5, 6), 30
    A, spectrum = KaiserSquires(shape), 4 * pixel_spectrum(shape)
    noise_std = torch.full((1, 2, *shape), 0.03, dtype=torch.float64)
    noise_std[..., 1:4, 2:4] = math.inf
    identity = torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape)
    dense = A.A(identity).reshape(n, -1).T
    S = torch.fft.ifft2(torch.fft.fft2(identity) * spectrum).real.reshape(n, n)
    W = torch.diag(noise_std.flatten() ** -2)
    covariance = torch.linalg.solve(torch.eye(n, dtype=torch.float64) + S @ dense.T @ W @ dense, S)
    y = torch.randn(1, 2, *shape, generator=seeded(1), dtype=torch.float64) * 0.1
    draws = 3000
    many = y.expand(300, -1, -1, -1)
    samples = wiener_samples(A, many, noise_std, spectrum, generator=seeded(2), draws=10).reshape(draws, n)
    mean = (covariance @ dense.T @ W @ y.flatten()).flatten()
    std = covariance.diagonal().sqrt()
    assert float(((samples.mean(0) - mean) / std).abs().max()) < 4.5 / math.sqrt(draws)
    measured = torch.cov(samples.T)
    assert float((measured - covariance).norm() / covariance.norm()) < 0.12
    assert float(std[8 + 6 : 10 + 6].mean()) > 1.1 * float(std[0])  # less is known behind the mask


def test_wiener_std_does_not_see_the_data_and_follows_seed_and_unit():
    A, spectrum = KaiserSquires((16, 16)), pixel_spectrum((16, 16))
    noise_std = survey_noise((16, 16), generator=seeded(), holes=1)
    y = torch.randn(1, 2, 16, 16, generator=seeded())
    one, two = (wiener_std(A, d, noise_std, spectrum, generator=seeded(), draws=4) for d in (y, 0 * y))
    assert torch.equal(one, two) and one.dtype == torch.float32
    tiny = wiener_std(A, y, 1e-6 * noise_std, 1e-12 * spectrum, generator=seeded(), draws=4)
    torch.testing.assert_close(1e6 * tiny, one, rtol=1e-4, atol=1e-5 * float(one.max()))


# Calibration


def made_up(skies: int, pixels: int = 400, seed: int = 0) -> SimulatedErrors:
    """Gaussian errors, uneven over the map, exchangeable from sky to sky, whose size varies."""
    g = seeded(seed)
    mask = torch.ones(1, 1, 20, 21, dtype=torch.bool)
    mask[..., 20:] = False
    spread = torch.linspace(0.5, 2, pixels, dtype=torch.float64)
    size = 1 + 0.3 * torch.rand(skies, 1, generator=g, dtype=torch.float64)
    error = (spread * size * torch.randn(skies, pixels, generator=g, dtype=torch.float64)).abs()
    return SimulatedErrors(error, torch.randn(skies, pixels, generator=g, dtype=torch.float64), mask)


@settings(max_examples=10, deadline=None)
@given(coverage=st.sampled_from([0.5, 0.68, 0.9]), seed=st.integers(0, 1000))
def test_pixel_form_covers_as_promised(coverage, seed):
    found = calibrate_error(made_up(200, seed=seed), coverage=coverage, n_heuristic=20, n_test=120)
    n = found.n_calibration
    assert n == 60
    promise = math.ceil((n + 1) * coverage) / (n + 1)  # exactly, for continuous errors
    assert found.coverage == pytest.approx(promise, abs=0.015)
    assert found.coverage > coverage - 0.015


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_field_form_covers_at_least_as_promised_and_is_the_bound(seed):
    simulated = made_up(400, seed=seed)
    found = calibrate_error(simulated, coverage=0.8, form="field", n_heuristic=20, n_test=100)
    assert 0.79 < found.coverage < 0.87 and found.factor.ndim == 0
    scores = simulated.error[20:300] / found.heuristic[found.heuristic.isfinite()]
    for factor, kept in ((float(found.factor), True), (0.99 * float(found.factor), False)):
        losses = (scores > factor).double().mean(1).tolist()
        assert (upper_bound(losses, 0.1) <= 0.2) == kept


def test_the_bound_is_above_the_mean_with_its_confidence_and_tightens():
    g, misses, n = seeded(), 0, 60
    for _ in range(200):
        losses = (torch.rand(n, generator=g) < 0.15).double().tolist()  # the most variable losses there are
        misses += upper_bound(losses, 0.1) < 0.15
    assert misses <= 200 * 0.1 + 3 * math.sqrt(200 * 0.09)
    even = [upper_bound([0.1] * k, 0.1) for k in (20, 100, 1000)]
    assert even[0] > even[1] > even[2] > 0.1
    assert upper_bound([1.0] * 5, 0.1) == 1.0


def test_a_bad_heuristic_is_mended_and_a_good_one_is_told():
    simulated = made_up(300)
    truth = torch.linspace(0.5, 2, 400, dtype=torch.float64)
    sigma = torch.full((20, 21), torch.nan, dtype=torch.float64)
    sigma[:, :20] = truth.reshape(20, 20)
    sigma = torch.where(simulated.mask[0, 0], torch.nan, sigma).masked_scatter(simulated.mask[0, 0], truth)
    small = calibrate_error(simulated, heuristic=0.1 * sigma)
    assert small.heuristic_coverage < 0.3 and small.coverage == pytest.approx(0.9, abs=0.02)
    assert small.n_heuristic == 0 and small.n_calibration == 225 and small.n_test == 75
    good = calibrate_error(simulated, heuristic=1.15 * sigma)
    assert good.heuristic_coverage == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(good.error, small.error, rtol=1e-9, atol=0, equal_nan=True)
    assert "held-out" in str(good) and f"{good.coverage:.3f}" in str(good)


def test_held_out_skies_have_no_part_in_the_error_map():
    simulated = made_up(100)
    error = simulated.error.clone()
    error[-25:] *= 100
    changed = calibrate_error(simulated._replace(error=error))
    torch.testing.assert_close(changed.error, calibrate_error(simulated).error, equal_nan=True)
    assert changed.coverage < 0.2


def test_high_pixels_are_counted_apart():
    simulated = made_up(200)
    truth = torch.zeros_like(simulated.truth)
    truth[:, :4] = 1
    error = simulated.error.clone()
    error[150:, :4] = 1e9
    found = calibrate_error(SimulatedErrors(error, truth, simulated.mask), n_test=50)
    assert found.coverage_high == 0 and found.coverage > 0.85


def test_factors_of_known_scores():
    scores = torch.arange(1.0, 20.0)[torch.randperm(19, generator=seeded())][:, None].expand(19, 3)
    assert conformal_factor(scores, 0.9).tolist() == [18.0] * 3
    assert conformal_factor(scores, 0.5).tolist() == [10.0] * 3
    flat = torch.ones(200, 10)
    assert float(risk_controlling_factor(flat, 0.9, 0.1)) == pytest.approx(1, rel=2e-3)


@pytest.mark.parametrize("method", ["wiener", "smoothed"])
def test_any_reconstruction_is_calibrated_on_simulated_surveys(method):
    shape = (24, 24)
    A, sky, spectrum = KaiserSquires(shape), LognormalKappa(shape), pixel_spectrum(shape)
    noise_std = survey_noise(shape, generator=seeded(), std=0.1, holes=2)

    def reconstruct(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return wiener(A, y, s, spectrum) if method == "wiener" else smoothed_kaiser_squires(A, y, s, 3)

    simulated = simulated_errors(reconstruct, A, sky, noise_std, 160, generator=seeded(1))
    again = simulated_errors(reconstruct, A, sky, noise_std, 2, generator=seeded(1))
    assert torch.equal(simulated.error[:2], again.error)
    pixel, field = (calibrate_error(simulated, form=form) for form in ("pixel", "field"))
    assert 0.87 < pixel.coverage < 0.94
    assert 0.9 < field.coverage < 1
    mask = noise_std.isfinite().all(1, keepdim=True)
    assert torch.equal(pixel.error.isfinite(), mask) and torch.equal(field.error.isfinite(), mask)
    assert torch.equal(pixel.factor.isfinite(), mask)
    assert replace(pixel, coverage=0.5).coverage == 0.5  # a plain record


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate_error(made_up(40), coverage=0.99), "must leave more skies to calibrate coverage 0.99"),
        (lambda: calibrate_error(made_up(40), form="field"), "at delta 0.1 in the field form, got 20"),
        (lambda: calibrate_error(made_up(6), n_test=5), "more skies"),
        (lambda: calibrate_error(made_up(40), coverage=1.0), "coverage must be below 1"),
        (lambda: calibrate_error(made_up(40), form="both"), "pixel or field"),
        (lambda: calibrate_error(made_up(40), heuristic=torch.zeros(20, 21)), "heuristic must be positive"),
        (lambda: calibrate_error(made_up(40), heuristic=torch.ones(9, 9)), "heuristic must be"),
        (lambda: calibrate_error(made_up(40), n_heuristic=1), "n_heuristic must be an integer >= 2"),
        (
            lambda: simulated_errors(
                lambda y, s: y,
                KaiserSquires((8, 8)),
                LognormalKappa((8, 8)),
                torch.ones(1, 2, 8, 8),
                2,
                generator=seeded(),
            ),
            r"must return a tensor \(1, 1, 8, 8\), got \(1, 2, 8, 8\)",
        ),
        (
            lambda: simulated_errors(
                lambda y, s: y,
                KaiserSquires((8, 8)),
                LognormalKappa((9, 8)),
                torch.ones(1, 2, 8, 8),
                2,
                generator=seeded(),
            ),
            "sky must give maps",
        ),
        (
            lambda: wiener_std(
                KaiserSquires((8, 8)),
                torch.zeros(1, 2, 8, 8),
                torch.ones(1),
                pixel_spectrum((8, 8)),
                generator=seeded(),
                draws=0,
            ),
            "draws must be an integer >= 1",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
