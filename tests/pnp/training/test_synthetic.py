"""Synthetic images: statistics of photographs, any size and colour, and the same ones after a stop."""

import math

import numpy as np
import pytest
import torch
from renewed_samplers import check_resumes

from denoisers import MLPatch
from pnp.training import NoiseLevels, TrainingOptions
from pnp.training.dead_leaves import dead_leaves
from pnp.training.denoiser import train_denoiser
from pnp.training.synthetic import SyntheticImages, synthetic_image, synthetic_set
from pnp.training.textures import fractal, rough, strokes, text, tiles, waves


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(images, low=4, high=64):
    """Exponent of the mean power spectrum of images (n, n), averaged over rings of whole cycles per image."""
    n = len(images[0])
    window = np.outer(np.hanning(n), np.hanning(n))
    power = sum(np.abs(np.fft.fft2((x - x.mean()) * window)) ** 2 for x in images)
    ring = np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.fft.fftfreq(n, 1 / n)).round().astype(int).ravel()
    k = np.arange(low, high)
    mean = np.bincount(ring, power.ravel())[k] / np.bincount(ring)[k]
    return np.polyfit(np.log(k), np.log(mean), 1)[0]


def kurtosis(d):
    d = d - d.mean()
    return (d**4).mean() / (d**2).mean() ** 2


@pytest.fixture(scope="module")
def images():
    return [synthetic_image(k, seed=5)[0].double().numpy() / 255 for k in range(30)]


def test_images_have_the_statistics_of_photographs(images):
    # Power falls like k^-2 or a little faster (Field 1987); differences of neighbours are far from Gaussian, whose
    # kurtosis is 3.
    assert slope(images) == pytest.approx(-2.25, abs=0.5)
    assert np.median([kurtosis(np.diff(x, axis=1)) for x in images]) > 8
    assert kurtosis(np.concatenate([np.diff(x, axis=1).ravel() for x in images])) > 6


def test_images_fill_the_range_of_greys(images):
    assert 0.3 < np.mean(images) < 0.6 and 0.1 < np.mean([x.std() for x in images]) < 0.3
    share, _ = np.histogram(np.concatenate([x.ravel() for x in images]), 10, (0, 1))
    assert (share / share.sum() > 0.02).all()
    assert any((x == 1).mean() > 0.01 for x in images)  # saturated
    assert len({x.tobytes() for x in images}) == len(images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 75, 160])
def test_any_size_and_colour_from_a_seed(size, channels):
    x, y, other = (synthetic_image(3, size=size, channels=channels, seed=seed) for seed in (1, 1, 2))
    assert x.shape == (channels, size, size) and x.dtype == torch.uint8
    assert torch.equal(x, y) and not torch.equal(x, other)


def test_channels_are_alike_but_not_the_same():
    images = torch.stack([synthetic_image(k, size=96, channels=3) for k in range(30)]).double()
    flat = images.flatten(2) - images.flatten(2).mean(2, keepdim=True)
    across = torch.nn.functional.cosine_similarity(flat[:, 0], flat[:, 2], dim=1)
    assert 0.7 < float(across.median()) <= 1 and float(across.min()) < 0.95


def test_leaves_have_power_law_radii_and_hide_earlier_ones():
    rng = np.random.default_rng(0)
    found = dead_leaves(400, 2.0, 50.0, rng, cover=3, shapes=(1, 0, 0))
    inside = (np.abs(found.x - 200) < 150) & (np.abs(found.y - 200) < 150)
    inside[0] = False
    r = found.radius[inside]
    # Of a density r^-3 on [2, 50], the median is (0.5 (2^-2 + 50^-2))^-0.5.
    assert np.median(r) == pytest.approx((0.5 * (2.0**-2 + 50.0**-2)) ** -0.5, rel=0.06)
    last = int(np.flatnonzero(inside)[-1])  # nothing lies on it
    shown = found.labels == last
    row, column = np.argwhere(shown).mean(0)
    assert column + 0.5 == pytest.approx(found.x[last], abs=0.5) and row + 0.5 == pytest.approx(found.y[last], abs=0.5)
    assert shown.sum() <= math.pi * (found.radius[last] + 1) ** 2


def test_leaves_are_painted_in_order_whatever_their_size():
    # Of two leaves at one place the later one is in front: labels are the largest number of those that cover a sample.
    rng = np.random.default_rng(3)
    found = dead_leaves(64, 3.0, 30.0, rng, cover=6, shapes=(1, 0, 0))
    t = np.arange(64) + 0.5
    certain = np.zeros((64, 64), int)  # circles within the ellipses: the aspect is at least 0.3
    for k in range(1, len(found.x)):
        certain[np.hypot(t - found.x[k], t[:, None] - found.y[k]) < 0.3 * found.radius[k]] = k
    assert (found.labels >= certain).all()
    assert len(np.unique(found.labels)) > 10


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_fractal_noise_has_its_slope(exponent):
    x = fractal(256, exponent, np.random.default_rng(0))
    assert x.mean() == pytest.approx(0, abs=1e-5) and x.std() == pytest.approx(1, rel=1e-5)
    assert slope([x], 6, 100) == pytest.approx(-2 * exponent, abs=0.15)


@pytest.mark.parametrize("draw", [rough, waves, tiles])
def test_textures_have_unit_variance(draw):
    for seed in range(8):
        x = draw(64, np.random.default_rng(seed))
        assert x.shape == (64, 64) and np.isfinite(x).all() and x.std() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("draw", [strokes, text])
def test_drawings_are_coverages_with_smooth_edges(draw):
    covered = np.stack([draw(96, np.random.default_rng(seed)) for seed in range(12)])
    assert covered.min() == 0 and covered.max() == 1
    assert ((covered > 0.1) & (covered < 0.9)).any() and 0.01 < covered.mean() < 0.5


def test_images_are_renewed_and_sought():
    def sampler():
        return SyntheticImages(16, size=32, kept=4, every=2)

    whole, first = check_resumes(sampler)
    assert first.shape == (3, 1, 16, 16) and 0 <= float(first.min()) and float(first.max()) <= 1
    assert set(whole.images) <= {4, 5, 6, 7}  # after nine calls


def test_training_on_synthetic_images_resumes_to_the_same_weights(tmp_path):
    def train(steps, name, **more):
        torch.manual_seed(0)
        net = MLPatch(taps=3, features=8, hidden=8, dilations=(1,), precision="float32")
        sampler = SyntheticImages(24, size=32, kept=3, every=1)
        options = TrainingOptions(steps, batch=2, warmup=2)
        levels = NoiseLevels(0.02, 0.2)
        return train_denoiser(net, sampler, levels, options, checkpoint=tmp_path / name, **more).state_dict()

    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    whole = train(6, "whole")
    # Validation fails after every step: the state is saved, as by a stop.
    for _ in range(3):
        with pytest.raises(Stop):
            train(6, "parts", resume=True, validate=stop, validate_minutes=1e-9)
    for name, w in train(6, "parts", resume=True).items():
        assert torch.equal(w, whole[name]), name


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_for_training(channels):
    job = synthetic_set(channels=channels, crop=64, seed=4)
    assert job.sampler(2, generator=generator()).shape == (2, channels, 64, 64)
    assert job.validate(lambda y, sigma: y) == pytest.approx(20.4, abs=0.5)  # sigma 25/255, clipped
    assert "seed 4" in job.about and job.n_held_out == 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synthetic_image(0, channels=2), "channels"),
        (lambda: synthetic_image(0, size=31), "size"),
        (lambda: synthetic_image(-1), "number"),
        (lambda: synthetic_image(0, seed=-1), "seed"),
        (lambda: SyntheticImages(0), "crop"),
        (lambda: SyntheticImages(100, size=64), "crop"),
        (lambda: SyntheticImages(16, kept=0), "kept"),
        (lambda: SyntheticImages(16, every=0), "every"),
        (lambda: synthetic_set(crop=129), "crop"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
