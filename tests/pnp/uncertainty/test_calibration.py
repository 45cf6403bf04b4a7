"""Conformal calibration of error bars: coverage of new images, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from arrays import seeded
from toys import Diagonal

from pnp.uncertainty import Bootstrap, bootstrap, calibrate


def pair(generator, scale=2.0, size=20, batch=1):
    """Error bars of 1 to 2, and a truth whose errors are `scale` times as large, more so in bright pixels."""
    x = torch.rand(batch, 1, size, size, generator=generator, dtype=torch.float64)
    std = 1 + torch.rand(x.shape, generator=generator, dtype=torch.float64)
    error = scale * (1 + (x > 0.9)) * std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return SimpleNamespace(x=x, std=std), x + error


def pairs(n, seed=0, **options):
    generator = seeded(seed)
    return [pair(generator, **options) for _ in range(n)]


@pytest.mark.parametrize("form", ["field", "value"])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_new_images_are_covered(form, coverage):
    found = calibrate(pairs(60), coverage=coverage, form=form, delta=0.5, ranks=(0.9,))
    assert found.n == 60 and found.factor.shape == ((2,) if form == "value" else ())
    new = pairs(40, seed=1)
    covered = [found.covered(bars, truth) for bars, truth in new]
    assert np.mean(covered) == pytest.approx(coverage, abs=0.03)
    bright = (
        [found.covered(bars, truth, bars.x > 0.9) for bars, truth in new]
        if form == "field"
        else [
            float(((bars.x - truth).abs() <= found.half_width(bars))[bars.x > 0.9].double().mean())
            for bars, truth in new
        ]
    )
    expected = coverage if form == "value" else {0.5: 0.28, 0.9: 0.63}[coverage]  # one factor leaves bright pixels out
    assert np.mean(bright) == pytest.approx(expected, abs=0.05)


def test_a_batch_counts_as_its_images_and_numpy_gives_numpy():
    whole = pairs(15, batch=2)
    alone = [
        (SimpleNamespace(x=bars.x[k : k + 1].numpy(), std=bars.std[k : k + 1].numpy()), truth[k : k + 1].numpy())
        for bars, truth in whole
        for k in range(2)
    ]
    found, other = calibrate(whole, form="value", delta=0.2), calibrate(alone, form="value", delta=0.2)
    assert found.n == other.n == 30 and torch.equal(found.factor, other.factor)
    low, high = other.interval(alone[0][0])
    assert isinstance(low, np.ndarray) and (low < high).all()


def test_pixels_outside_a_mask_do_not_count():
    mask = torch.zeros(20, 20)
    mask[:, :10] = 1
    images = pairs(40)
    spoiled = [(bars, torch.where(mask > 0, truth, 1e6)) for bars, truth in images]
    left = calibrate([(bars, truth) for bars, truth in images], mask=mask, form="value", delta=0.2)
    assert torch.equal(calibrate(spoiled, mask=mask, form="value", delta=0.2).factor, left.factor)
    assert left.half_width(images[0][0], mask).shape == images[0][0].x.shape
    assert left.covered(*spoiled[0], mask) > 0.8 > left.covered(*spoiled[0])


def test_exact_pixels_may_have_no_error_bars():
    images = pairs(40)
    for bars, truth in images:
        bars.std[..., :5], truth[..., :5] = 0, bars.x[..., :5]
    assert 2 < float(calibrate(images, delta=0.5).factor) < 6
    for _, truth in images:
        truth[..., :5] += 1
    with pytest.raises(ValueError, match="std"):
        calibrate(images)


def test_of_whole_runs():
    """Without a prior the errors are the noise, and the factor is that of a normal distribution."""
    generator, A = seeded(), Diagonal(torch.ones(12, 12))
    images = []
    for seed in range(12):
        truth = torch.rand(1, 1, 12, 12, generator=generator)
        y = truth + 0.1 * torch.randn(truth.shape, generator=generator)
        options = {"strength": 1e-7, "max_iter": 1, "algorithm": "hqs", "check_adjoint": False}
        found = bootstrap(A, y, lambda x, sigma: x, n=6, noise_std=0.1, hold_out=None, seed=seed, **options)
        images.append((found, truth))
    assert isinstance(images[0][0], Bootstrap)
    assert float(calibrate(images, form="value", ranks=(), delta=0.5).factor) == pytest.approx(1.645, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coverage", {"coverage": 1.0}),
        ("delta", {"delta": 0.0}),
        ("form", {"form": "pixel"}),
        ("ranks", {"ranks": (0.5, 0.4)}),
        ("ranks", {"ranks": (0.5, 0.9999), "form": "value"}),
        ("mask", {"mask": torch.ones(3, 3)}),
        ("mask", {"mask": torch.zeros(20, 20)}),
        ("images", {"n": 5}),
        ("images", {"n": 5, "form": "value"}),
        ("truth", {"images": [(pairs(1)[0][0], torch.zeros(3))]}),
        ("images", {"images": pairs(1) + pairs(1, size=10)}),
    ],
)
def test_what_is_refused(name, options):
    images = options.pop("images", None) or pairs(options.pop("n", 30))
    with pytest.raises((TypeError, ValueError), match=name):
        calibrate(images, **options)


def test_complex_images_have_no_ranks():
    bars, truth = pairs(1)[0]
    bars.x = bars.x + 0j
    with pytest.raises(TypeError, match="real"):
        calibrate([(bars, truth + 0j)])


def test_it_is_the_calibration_of_mass_maps():
    """The same scores give the same factors as `pnp.lensing.calibrate_error`, bit for bit."""
    from pnp.lensing import SimulatedErrors, calibrate_error

    generator = seeded(3)
    error, truth = (torch.randn(60, 400, generator=generator, dtype=torch.float64) for _ in range(2))
    shape, ones = (1, 1, 20, 20), torch.ones(1, 1, 20, 20, dtype=torch.float64)
    simulated = SimulatedErrors(error, truth, ones > 0)
    images = [
        (SimpleNamespace(x=(t + e).reshape(shape), std=ones), t.reshape(shape))
        for t, e in zip(truth[:45], error[:45], strict=True)
    ]
    for form in ("field", "value"):
        maps = calibrate_error(simulated, form=form, heuristic=ones, n_test=15, kappa=truth[:1].reshape(shape))
        assert torch.allclose(calibrate(images, form=form).factor, maps.factor, rtol=1e-12, atol=0)


def test_images_that_are_nearly_all_exact_need_no_width():
    """Air about an object that bounds hold at 0, in x and truth."""
    images = pairs(60)
    for bars, truth in images:
        truth[..., 1:, :] = bars.x[..., 1:, :]
    assert float(calibrate(images).factor) == 0


def test_unknown_truth_is_refused_unless_it_does_not_count():
    images, known = pairs(60), torch.ones(20, 20, dtype=torch.bool)
    known[:8] = False
    for _, truth in images:
        truth[..., :8, :] = np.nan
    with pytest.raises(ValueError, match="truth must be finite"):
        calibrate(images)
    assert float(calibrate(images, mask=known).factor) == pytest.approx(float(calibrate(pairs(60)).factor), rel=0.1)


@pytest.mark.parametrize("options", [{"coverage": 0.99999}, {"form": "value", "delta": 1e-7}])
def test_targets_out_of_reach_are_refused_at_once(options):
    with pytest.raises(ValueError, match="images must be more than"):
        calibrate(pairs(2), **options)


def test_pairs_and_ranks_of_another_kind_are_refused():
    images = pairs(9)
    with pytest.raises(TypeError, match="images"):
        calibrate([(truth, bars) for bars, truth in images])
    with pytest.raises(ValueError, match="ranks"):
        calibrate(images, form="value", ranks=0.5)
