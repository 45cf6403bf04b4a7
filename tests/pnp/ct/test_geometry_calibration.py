"""Angles and offset from the measurements: what is found, what cannot be, and how it ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rel

from denoisers import MLPatch
from operators import FanBeam, Radon
from pnp.ct import calibrate
from pnp.phantoms import perforated_disc

SIZE, VIEWS = 64, 60
X = perforated_disc(SIZE, generator=torch.Generator().manual_seed(9)).double() / 0.034


def parallel(angles, offset):
    return Radon((SIZE, SIZE), angles, offset=offset, n_detectors=93)


def fan(angles, offset):
    geometry = {"source_origin": 120.0, "origin_detector": 30.0, "pitch": 1.3, "n_detectors": 103}
    return FanBeam((SIZE, SIZE), angles, offset=offset, **geometry)


def angle_error(found, true):
    """Root mean square in degrees, without the common rotation."""
    change = found - true
    return math.degrees(float((change - change.mean()).square().mean().sqrt()))


def scan(make, turn, noise=0.0):
    """Return the true angles, those believed and the measurements."""
    rng = np.random.default_rng(0)
    true = torch.arange(VIEWS, dtype=F64) * (turn / VIEWS)
    y = make(true, torch.tensor(0.8, dtype=F64)).A(X)
    y = y + noise * y.square().mean().sqrt() * torch.from_numpy(rng.standard_normal(y.shape))
    return true, true + torch.from_numpy(np.deg2rad(2) * rng.standard_normal(VIEWS)), y


@pytest.mark.parametrize(("noise", "factor"), [(0.0, 10), (0.01, 7)])
def test_the_error_of_the_angles_falls(noise, factor):
    true, believed, y = scan(parallel, math.pi, noise)
    found = calibrate(parallel, y, believed)
    assert angle_error(found.angles, true) < angle_error(believed, true) / factor
    assert found.offset == pytest.approx(0.8, abs=0.05)
    assert float(found.angles.mean()) == pytest.approx(float(believed.mean()))
    # The image is the better for it, seen in the frame that no measurement can tell.
    common = (found.angles - true).mean()
    geometries = ((believed - common, 0.0), (found.angles - common, found.offset), (true, 0.8))
    before, after, best = (rel(parallel(a, o).fbp(y, "hann"), X) for a, o in geometries)
    assert after < 1.02 * best < 0.9 * before


@pytest.mark.slow
def test_the_error_of_the_angles_falls_in_a_fan():
    true, believed, y = scan(fan, 2 * math.pi)
    found = calibrate(fan, y, believed)
    assert angle_error(found.angles, true) < angle_error(believed, true) / 10
    assert found.offset == pytest.approx(0.8, abs=0.05)


def test_a_fan_is_calibrated_too():
    _, believed, y = scan(fan, 2 * math.pi)
    found = calibrate(fan, y, believed, max_iter=6)
    assert found.offset == pytest.approx(0.8, abs=0.3)  # the offset comes first
    assert found.objective[-1] < found.objective[0]


def test_a_denoiser_finds_what_the_measurements_hardly_tell():
    true, believed, y = scan(parallel, math.pi, 0.01)
    D = MLPatch.from_pretrained()
    found = calibrate(parallel, y.float(), believed, denoiser=D, bounds=(0, None), max_iter=90)
    assert angle_error(found.angles, true) < angle_error(believed, true) / 10.5  # the measurements alone: 9.0
    assert rel(found.x, X) < 0.08


def test_a_wrong_denoiser_is_explained():
    _, believed, y = scan(parallel, math.pi)
    with pytest.raises(ValueError, match="calibrate: denoiser"):
        calibrate(parallel, y, believed, denoiser=lambda x, sigma: x[..., 1:], max_iter=40)
    with pytest.raises(ValueError, match="calibrate: bounds"):
        calibrate(parallel, y, believed, denoiser=lambda x, sigma: x, bounds=(1, 0))
    with pytest.raises(ValueError, match="max_iter"):
        calibrate(parallel, y, believed, denoiser=lambda x, sigma: x, max_iter=20)
    with pytest.raises(TypeError, match="calibrate: denoiser"):
        calibrate(parallel, y, believed, denoiser=3)


def test_noise_levels_stay_in_the_denoisers_range():
    _, believed, y = scan(parallel, math.pi)
    seen = []

    def D(x, sigma):
        seen.append(sigma)
        return x

    D.sigma_range = (3.0, 3.5)  # the disc has values of 1, noise levels would be 0.2 and less
    calibrate(parallel, y, believed, denoiser=D, max_iter=31)
    assert seen == [3.0]


def test_a_right_geometry_stays():
    true, _, y = scan(parallel, math.pi)
    found = calibrate(parallel, y.float(), true, 0.8, max_iter=20)
    assert angle_error(found.angles, true) < 0.05 and found.offset == pytest.approx(0.8, abs=0.01)
    assert found.x.dtype == torch.float32 and found.x.shape == X.shape


def test_units_of_length():
    _, believed, y = scan(parallel, math.pi)

    def in_mm(angles, offset):
        return Radon((SIZE, SIZE), angles, offset=offset, n_detectors=93, pitch=0.1, pixel_size=0.1)

    a = calibrate(parallel, y, believed, max_iter=10)
    b = calibrate(in_mm, 0.1 * y, believed, max_iter=10)
    torch.testing.assert_close(a.angles, b.angles, rtol=0, atol=1e-4)
    assert b.offset == pytest.approx(0.1 * a.offset, rel=1e-3)


def test_callback_stops_and_ctrl_c_keeps_what_was_found():
    _, believed, y = scan(parallel, math.pi)
    seen = []
    found = calibrate(parallel, y, believed, callback=lambda k, angles, offset: seen.append(angles) or k == 3)
    assert len(seen) == len(found.objective) == 3 and found.stop.name == "CALLBACK"
    torch.testing.assert_close(found.angles, seen[-1])

    def interrupt(k, angles, offset):
        if k == 2:
            raise KeyboardInterrupt

    found = calibrate(parallel, y, believed, callback=interrupt)
    assert found.stop.name == "INTERRUPTED" and len(found.objective) == 2
    assert found.objective[1] < found.objective[0]
    assert angle_error(found.angles, believed) > 0.01


@pytest.mark.parametrize(
    ("y", "angles", "options", "message"),
    [
        (torch.zeros(VIEWS, 93), np.zeros(VIEWS), {}, ": y "),
        (torch.zeros(1, 1, VIEWS, 93), np.zeros(VIEWS - 1), {}, "59"),
        (torch.zeros(1, 1, VIEWS, 93), np.zeros(VIEWS), {"max_iter": 0}, "max_iter"),
        (torch.full((1, 1, VIEWS, 93), math.nan), np.zeros(VIEWS), {}, "finite"),
        (torch.zeros(1, 1, VIEWS, 93), np.zeros(VIEWS), {}, "zero"),
        (torch.ones(1, 1, VIEWS, 93), np.zeros(VIEWS), {"noise_std": 0.0}, "noise_std"),
        (torch.ones(1, 1, VIEWS, 93), np.zeros(VIEWS), {"noise_std": torch.ones(7)}, "broadcast"),
    ],
)
def test_bad_input_is_explained(y, angles, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(parallel, y, angles, **options)


def test_rays_without_weight_do_not_count():
    # Two iterations: with several threads finufft adds in any order, and every iteration magnifies that rounding.
    _, believed, y = scan(parallel, math.pi)
    spoiled, std = y.clone(), torch.ones(y.shape[-1])
    spoiled[..., 30:33], std[30:33] = 7.0, math.inf
    want = calibrate(parallel, y, believed, noise_std=std, max_iter=2)
    got = calibrate(parallel, spoiled, believed, noise_std=std, max_iter=2)
    assert float((got.angles - want.angles).abs().max()) < 1e-5
    counted = calibrate(parallel, spoiled, believed, max_iter=2)
    assert float((counted.angles - want.angles).abs().max()) > 1e-2
