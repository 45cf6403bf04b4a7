"""Calibrated intervals against their promise: over the sky, and group by group of a map's pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from arrays import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import KaiserSquires
from pnp.algorithms.conformal import _upper_bound
from pnp.lensing import (
    LognormalKappa,
    SimulatedErrors,
    calibrate_error,
    pixel_spectrum,
    simulated_errors,
    smoothed_kaiser_squires,
    survey_noise,
    wiener,
)


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
    # The size of a sky is shared by all its pixels: with so many skies it moves the coverage by 0.003, a fifth of the
    # tolerance.
    found = calibrate_error(made_up(800, seed=seed), coverage=coverage, n_heuristic=20, n_test=480)
    n = found.n_calibration
    assert n == 300
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
        assert (_upper_bound(losses, 0.1) <= 0.2) == kept


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


# By reconstructed value


def peaked(skies: int, seed: int = 0, pixels: int = 400) -> SimulatedErrors:
    """A map whose errors grow with its value, from sky to sky more or less: uneven where the map is high."""
    g = seeded(seed)
    mask = torch.ones(1, 1, 20, 21, dtype=torch.bool)
    mask[..., 20:] = False
    maps = torch.randn(skies, pixels, generator=g, dtype=torch.float64).exp()
    size = 1 + torch.rand(skies, 1, generator=g, dtype=torch.float64)
    error = size * maps * torch.randn(skies, pixels, generator=g, dtype=torch.float64)
    return SimulatedErrors(error, maps - error, mask)


@settings(max_examples=8, deadline=None)
@given(coverage=st.sampled_from([0.5, 0.683, 0.9]), seed=st.integers(0, 1000))
def test_value_form_covers_every_group_where_an_even_one_leaves_out_the_high(coverage, seed):
    simulated = peaked(480, seed=seed)
    kappa = torch.rand(1, 1, 20, 21, generator=seeded(seed))
    even = torch.ones(20, 21)
    options = {"coverage": coverage, "delta": 0.5, "ranks": (0.5, 0.9), "heuristic": even, "n_test": 240}
    found = calibrate_error(simulated, form="value", kappa=kappa, **options)
    assert all(part == pytest.approx(coverage, abs=0.05) for part in found.coverage_by_value), str(found)
    assert found.coverage == pytest.approx(coverage, abs=0.04)
    flat = calibrate_error(simulated, form="field", **options)
    assert flat.coverage_by_value[2] < coverage - 0.15 and flat.coverage_by_value[0] > coverage + 0.05
    assert found.coverage_peaks > flat.coverage_peaks + 0.1


def test_value_form_keeps_its_chance_for_a_sky():
    """c of a group's pixels are covered in about 1 - delta of all skies, each with its own calibration."""
    kept = []
    for seed in range(40):
        simulated = peaked(9 + 10, seed=100 + seed)
        found = calibrate_error(
            simulated,
            coverage=0.8,
            form="value",
            delta=0.3,
            kappa=torch.rand(1, 1, 20, 21),
            ranks=(0.9,),
            heuristic=torch.ones(20, 21),
            n_test=10,
        )
        maps, error = simulated.maps[9:], simulated.error[9:].abs()
        high = maps >= maps.kthvalue(361, dim=1, keepdim=True).values
        assert bool((high.sum(1) == 40).all())
        kept += [(float((e[h] <= found.factor[1]).double().mean()) >= 0.8) for e, h in zip(error, high, strict=True)]
    # ceil(10 x 0.7)/10 = 0.7 exactly; 400 skies, ten a calibration
    assert sum(kept) / len(kept) == pytest.approx(0.7, abs=0.09)


def test_the_error_map_follows_the_map_it_is_for():
    simulated = peaked(60)
    kappa = torch.rand(1, 1, 20, 21, generator=seeded())
    found = calibrate_error(simulated, form="value", kappa=kappa, ranks=(0.5, 0.9), heuristic=torch.full((20, 21), 2.0))
    assert found.factor.shape == (3,) and bool((found.factor.diff() > 0).all())
    inside = simulated.mask
    assert torch.equal(found.error.isnan(), ~inside)
    order = kappa[inside].argsort()
    want = torch.repeat_interleave(2 * found.factor, torch.tensor([200, 160, 40]))
    torch.testing.assert_close(found.error[inside][order], want)
    # the constant that shear does not measure moves no pixel to another group
    again = calibrate_error(
        simulated, form="value", kappa=kappa + 0.5, ranks=(0.5, 0.9), heuristic=torch.full((20, 21), 2.0)
    )
    torch.testing.assert_close(again.error, found.error, equal_nan=True)
    assert "0-50 %" in str(found) and "90-100 %" in str(found) and "its peaks" in str(found)


def test_no_ranks_are_one_group():
    simulated, kappa = peaked(120), torch.rand(1, 1, 20, 21)
    options = {"coverage": 0.683, "delta": 0.5, "ranks": (), "heuristic": torch.ones(20, 21), "n_test": 60}
    found = calibrate_error(simulated, form="value", kappa=kappa, **options)
    assert found.factor.shape == (1,) and found.coverage_by_value == pytest.approx((found.coverage,))
    assert found.coverage == pytest.approx(0.683, abs=0.04)
    assert len(found.error[simulated.mask].unique()) == 1


# Skies


def test_what_shear_does_not_measure_is_no_error():
    shape = (16, 18)
    A, sky = KaiserSquires(shape), LognormalKappa(shape)
    noise_std = survey_noise(shape, generator=seeded(), std=1e-9, holes=0)

    def biased(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.full_like(y[:, :1], 0.5)

    centred, raw = (
        simulated_errors(biased, A, sky, noise_std, 3, generator=seeded(1), centred=c) for c in (True, False)
    )
    assert float(raw.error.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(centred.error.mean(1).abs().max()) < 1e-6
    torch.testing.assert_close(centred.error, raw.error - raw.error.mean(1, keepdim=True))
    torch.testing.assert_close(raw.maps, torch.full_like(raw.maps, 0.5))


def test_a_wider_sky_is_cut_with_its_shear():
    """Opposite edges of the field are strangers: the shear is that of the wide sky, and the rest of it is not seen."""
    shape, wide = (12, 14), (30, 33)
    A, sky = KaiserSquires(wide), LognormalKappa(wide)
    kappa = sky(1, generator=seeded(1))
    noise_std = torch.full((1, 2, *shape), 1e-9)
    seen = []

    def reconstruct(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return kappa[..., :12, :14]

    found = simulated_errors(reconstruct, A, sky, noise_std, 1, generator=seeded(1))
    torch.testing.assert_close(seen[0], A.A(kappa)[..., :12, :14])
    assert not found.error.any() and found.truth.shape == (1, 12 * 14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate_error(made_up(40), coverage=0.99), r"coverage 0\.99"),
        (lambda: calibrate_error(made_up(40), form="field"), r"delta 0\.1 .* 20"),
        (lambda: calibrate_error(made_up(6), n_test=5), "more skies"),
        (lambda: calibrate_error(made_up(40), coverage=1.0), "coverage"),
        (lambda: calibrate_error(made_up(40), form="both"), "form"),
        (lambda: calibrate_error(made_up(40), form="value"), "kappa"),
        (lambda: calibrate_error(made_up(40), ranks=(0.9, 0.5)), ": ranks "),
        (
            lambda: calibrate_error(made_up(9), form="value", kappa=torch.rand(1, 1, 20, 21)),
            r"delta 0\.1",
        ),
        (
            lambda: calibrate_error(made_up(40), form="value", kappa=torch.rand(1, 1, 20, 21), ranks=(0.9999,)),
            "group",
        ),
        (lambda: calibrate_error(made_up(40), heuristic=torch.zeros(20, 21)), "heuristic"),
        (lambda: calibrate_error(made_up(40), heuristic=torch.ones(9, 9)), "heuristic"),
        (lambda: calibrate_error(made_up(40), n_heuristic=1), "n_heuristic"),
        (
            lambda: simulated_errors(
                lambda y, s: y,
                KaiserSquires((8, 8)),
                LognormalKappa((8, 8)),
                torch.ones(1, 2, 8, 8),
                2,
                generator=seeded(),
            ),
            "1, 2, 8, 8",
        ),
        (
            lambda: simulated_errors(
                lambda y, s: y,
                KaiserSquires((8, 8)),
                LognormalKappa((7, 8)),
                torch.ones(1, 2, 8, 8),
                2,
                generator=seeded(),
            ),
            ": sky ",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
