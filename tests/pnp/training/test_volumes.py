"""Synthetic volumes: leaves in space, coverages, any size from a seed, anisotropy, and the same ones after a stop."""

import math

import numpy as np
import pytest
import torch
from renewed_samplers import check_resumes

from denoisers import MLPatch
from pnp.training import NoiseLevels, TrainingOptions, train_denoiser
from pnp.training.volume_shapes import coverage, dead_leaves, drilled, layers, noise, sponge, texture
from pnp.training.volumes import SyntheticVolumes, _anatomy, _fibres, _leaves, _material, synthetic_volume, volume_set


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_leaves_have_power_law_radii():
    found = dead_leaves(120, 2.0, 20.0, np.random.default_rng(0), shapes=(1, 0, 0))
    inside = (np.abs(found.centre - 60) < 40).all(1)
    inside[0] = False
    # Of a density r^-4 on [2, 20], the median is (0.5 (2^-3 + 20^-3))^(-1/3).
    assert np.median(found.radius[inside]) == pytest.approx((0.5 * (2.0**-3 + 20.0**-3)) ** (-1 / 3), rel=0.05)


@pytest.mark.parametrize(
    ("shapes", "fraction"),
    # Of the sphere around it: an ellipsoid with equal half axes fills it, a cube 2 / (pi sqrt(3)), a cylinder as wide
    # as high 3 / (4 sqrt(2)) .
    [((1, 0, 0), 1.0), ((0, 1, 0), 2 / (math.pi * math.sqrt(3))), ((0, 0, 1), 3 / (4 * math.sqrt(2)))],
)
def test_a_leaf_has_its_volume_and_its_place(shapes, fraction):
    rng = np.random.default_rng(1)
    found = dead_leaves(64, 12.0, 12.5, rng, cover=3, shapes=shapes, thinnest=1.0)
    whole = np.flatnonzero((np.abs(found.centre - 32) < 19).all(1))
    last = int(whole[whole > 0].max())
    shown = found.labels == last
    later = range(last + 1, len(found.radius))
    if all(np.linalg.norm(found.centre[k] - found.centre[last]) > 26 for k in later):  # nothing lies on it
        assert shown.sum() == pytest.approx(4 / 3 * math.pi * found.radius[last] ** 3 * fraction, rel=0.03)
        np.testing.assert_allclose(np.argwhere(shown).mean(0) + 0.5, found.centre[last], atol=0.2)
    assert shown.sum() <= 4 / 3 * math.pi * (found.radius[last] + 1) ** 3 * fraction


def test_later_leaves_are_in_front():
    found = dead_leaves(24, 3.0, 10.0, np.random.default_rng(3), cover=5, shapes=(1, 0, 0), thinnest=0.5)
    at = np.stack(np.meshgrid(*[np.arange(24) + 0.5] * 3, indexing="ij"), -1)
    certain = np.zeros((24, 24, 24), int)  # spheres within the ellipsoids
    for k in range(1, len(found.radius)):
        certain[np.linalg.norm(at - found.centre[k], axis=-1) < 0.49 * found.radius[k]] = k
    assert (found.labels >= certain).all() and len(np.unique(found.labels)) > 10


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_noise_has_its_slope(exponent):
    x = noise(64, np.random.default_rng(0), slope=exponent)
    assert x.mean() == pytest.approx(0, abs=1e-5) and x.std() == pytest.approx(1, rel=1e-5)
    f = np.fft.fftfreq(64, 1 / 64)
    ring = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2).round().astype(int).ravel()
    power = np.bincount(ring, (np.abs(np.fft.fftn(x)) ** 2).ravel()) / np.bincount(ring)
    k = np.arange(5, 28)
    assert np.polyfit(np.log(k), np.log(power[k]), 1)[0] == pytest.approx(-2 * exponent, abs=0.15)


def test_coverage_is_the_part_of_a_voxel():
    at = np.stack(np.meshgrid(*[np.arange(40.0) - 19.5] * 3, indexing="ij"), -1).astype(np.float32)
    part = coverage((150 - (at**2).sum(-1)).astype(np.float32))
    assert part.sum() == pytest.approx(4 / 3 * math.pi * 150**1.5, rel=0.01)
    plane = coverage((at @ np.float32([0.6, 0.8, 0])).astype(np.float32))
    assert plane.mean() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("draw", [sponge, drilled])
def test_bodies_are_coverages_with_smooth_edges(draw):
    parts = np.stack([draw(32, np.random.default_rng(seed)) for seed in range(10)])
    assert parts.shape == (10, 32, 32, 32) and parts.dtype == np.float32
    assert parts.min() == 0 and parts.max() == 1 and 0.02 < ((parts > 0.1) & (parts < 0.9)).mean() < 0.6


@pytest.mark.parametrize("draw", [texture, layers])
def test_textures_have_unit_variance(draw):
    for seed in range(6):
        x = draw(32, np.random.default_rng(seed))
        assert x.shape == (32, 32, 32) and np.isfinite(x).all() and x.std() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("draw", [_leaves, _material, _fibres, _anatomy])
def test_kinds_vary_along_every_axis(draw):
    x = draw(32, np.random.default_rng(2))
    assert x.shape == (32, 32, 32) and x.dtype == np.float32 and np.isfinite(x).all()
    assert all(np.abs(np.diff(x, axis=axis)).max() > 1e-3 for axis in range(3))


def test_volumes_depend_on_seed_and_number_alone():
    x, y, other, seed = (synthetic_volume(k, size=35, seed=s) for k, s in ((3, 1), (3, 1), (4, 1), (3, 2)))
    assert x.shape == (1, 35, 35, 35) and x.dtype == torch.float16
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert torch.equal(x, y) and not torch.equal(x, other) and not torch.equal(x, seed)


def test_half_of_anisotropic_volumes_have_fewer_voxels_along_an_axis():
    shapes = [tuple(synthetic_volume(k, size=32, anisotropy=3.0).shape[1:]) for k in range(16)]
    thin = [s for s in shapes if s != (32, 32, 32)]
    assert 3 < len(thin) < 13 and all(10 <= s[0] < 32 and s[1:] == (32, 32) for s in thin)
    crops = SyntheticVolumes(10, size=32, anisotropy=3.0, kept=8)(8, generator=generator())
    assert crops.shape == (8, 1, 10, 10, 10)


def test_volumes_are_renewed_and_sought():
    def sampler():
        return SyntheticVolumes(16, size=32, kept=4, every=2)

    whole, first = check_resumes(sampler)
    assert first.shape == (3, 1, 16, 16, 16) and first.dtype == torch.float32
    assert set(whole.volumes) <= {4, 5, 6, 7}  # after nine calls


def test_crops_lie_in_all_48_ways(monkeypatch):
    monkeypatch.setattr("pnp.training.volumes._draw", lambda *_: torch.arange(32.0**3).reshape(1, 32, 32, 32))
    sampler = SyntheticVolumes(2, size=32, kept=1)
    x = sampler(600, generator=generator())[:, 0]
    steps = torch.stack([x[:, 1, 0, 0], x[:, 0, 1, 0], x[:, 0, 0, 1]], 1) - x[:, 0, 0, 0, None]
    assert len({tuple(s) for s in steps.tolist()}) == 48
    assert {tuple(s) for s in steps.abs().sort(1).values.tolist()} == {(1.0, 32.0, 1024.0)}


def test_training_on_synthetic_volumes_resumes_to_the_same_weights(tmp_path):
    def train(steps, name, **more):
        torch.manual_seed(0)
        net = MLPatch(dimensions=3, taps=3, features=8, hidden=8, dilations=(1,), precision="float32")
        sampler = SyntheticVolumes(16, size=32, kept=2, every=1)
        options = TrainingOptions(steps, batch=2, warmup=2, border=2)
        levels = NoiseLevels(0.02, 0.2)
        return train_denoiser(net, sampler, levels, options, checkpoint=tmp_path / name, **more).state_dict()

    whole = train(4, "whole")

    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            train(4, "stopped", resume=True, validate=stop, validate_minutes=1e-9)
    for name, w in train(4, "stopped", resume=True).items():
        assert torch.equal(w, whole[name]), name


def test_training_learns_to_denoise_volumes(tmp_path):
    torch.manual_seed(0)
    net = MLPatch(dimensions=3, taps=3, features=12, hidden=12, dilations=(1,), precision="float32")
    sampler = SyntheticVolumes(16, size=32, kept=2, every=100)
    options = TrainingOptions(60, batch=2, warmup=5, border=2, muon_rate=0.01, rate=0.01)
    train_denoiser(net, sampler, NoiseLevels(0.1, 0.1), options, checkpoint=tmp_path / "c")
    x = sampler(4, generator=generator(9))
    y = x + 0.1 * torch.randn(x.shape, generator=generator(8))
    assert float((net(y, 0.1) - x).square().mean()) < 0.7 * 0.1**2


def test_a_set_for_training(monkeypatch):
    monkeypatch.setattr("pnp.training.volumes._N_HELD_OUT", 2)
    job = volume_set(crop=60, seed=4, anisotropy=3.0)
    assert job.sampler.size == 180 and job.sampler.crop == 60 and job.n_held_out == 2
    assert job.validate(lambda y, sigma: y) == pytest.approx(20.6, abs=0.7)  # sigma 25/255, clipped
    assert "seed 4" in job.about and job.options.border == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synthetic_volume(0, size=31), "size"),
        (lambda: synthetic_volume(-1), "number"),
        (lambda: synthetic_volume(0, seed=-1), "seed"),
        (lambda: synthetic_volume(0, anisotropy=0.5), "anisotropy"),
        (lambda: SyntheticVolumes(0), "crop"),
        (lambda: SyntheticVolumes(60, size=64, anisotropy=2.0), "crop"),
        (lambda: SyntheticVolumes(16, kept=0), "kept"),
        (lambda: SyntheticVolumes(16, every=0), "every"),
        (lambda: volume_set(crop=97), "crop"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert len(str(caught.value)) < 400
