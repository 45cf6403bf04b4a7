"""The noise estimate where pixels are missing or have gains: what was measured, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import F64, rand, uniform
from torch import Tensor

from pnp import estimate_noise_std
from pnp.algorithms.noise_estimate import least_noise_std

SIZE = (128, 128)


def scene(n_channels: int = 1) -> Tensor:
    """A ramp with a step, whose second differences vanish but at the step."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=F64) for n in SIZE), indexing="ij")
    return (0.01 * rows - 0.02 * columns + (columns > 70)).expand(1, n_channels, *SIZE)


def noisy(std: float, n_channels: int = 1) -> Tensor:
    return scene(n_channels) + std * rand(1, n_channels, *SIZE, seed=1)


def test_a_gain_of_one_changes_no_bit():
    for dtype in (torch.float32, torch.float64, torch.complex64):
        y = noisy(0.1).to(dtype) + (0.1j * rand(*SIZE, seed=2) if dtype.is_complex else 0)
        assert estimate_noise_std(y, torch.ones(SIZE, dtype=torch.bool)) == estimate_noise_std(y)
    kept = uniform(*SIZE, seed=3) > 0.2
    assert estimate_noise_std(noisy(0.1), kept) == estimate_noise_std(kept * noisy(0.1))


@pytest.mark.parametrize("holes", [0.0, 1.0, "noise", "huge"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_what_a_hole_holds_does_not_count(share, holes):
    kept = uniform(*SIZE, seed=4) < share
    filled = {"noise": rand(1, 1, *SIZE, seed=5), "huge": 1e9 * rand(1, 1, *SIZE, seed=5)}.get(str(holes), holes)
    y = torch.where(kept, noisy(0.05), torch.as_tensor(filled, dtype=F64))
    tolerance = 0.05 if share > 0.4 else 0.15 if share > 0.15 else 0.35  # of 77 triples at the least
    assert estimate_noise_std(y, kept) == pytest.approx(0.05, rel=tolerance)


def test_gains_are_divided_out_before_neighbours_are_compared():
    gain = 0.5 + 2 * uniform(*SIZE, seed=6)
    gain[uniform(*SIZE, seed=7) < 0.3] = 0
    y = gain * (100 + scene()) + 0.05 * rand(1, 1, *SIZE, seed=8)
    assert estimate_noise_std(y) > 1  # as they are, the gains are taken for noise
    for scale in (1.0, 7.0):
        assert estimate_noise_std(y, scale * gain) == pytest.approx(0.05, rel=0.1)


def test_a_mosaic_of_colours_is_estimated_along_its_diagonals():
    """Bayer's pattern: no three neighbours in a row, but greens along the diagonals."""
    mask = torch.zeros(3, *SIZE)
    mask[0, 1::2, 1::2] = mask[1, 0::2, 1::2] = mask[1, 1::2, 0::2] = mask[2, 0::2, 0::2] = 1
    assert estimate_noise_std(mask * noisy(0.05, 3), mask) == pytest.approx(0.05, rel=0.05)


def test_columns_alone_suffice_and_too_few_pixels_are_refused():
    columns = torch.zeros(SIZE, dtype=torch.bool)
    columns[:, ::3] = True
    assert estimate_noise_std(noisy(0.05), columns) == pytest.approx(0.05, rel=0.05)
    grid = torch.zeros(SIZE, dtype=torch.bool)
    grid[::2, ::2] = True
    with pytest.raises(ValueError, match="noise_std"):
        estimate_noise_std(noisy(0.05), grid)
    with pytest.raises(ValueError, match="noise_std"):
        estimate_noise_std(0 * noisy(0.05), columns)


def red(seed: int) -> Tensor:
    """Texture with the power spectrum 1/f^3 of photographs, of variance 1."""
    f = torch.fft.fftfreq(SIZE[0], dtype=F64)
    radius = torch.hypot(f[:, None], f)
    radius[0, 0] = math.inf
    texture = torch.fft.ifft2(torch.fft.fft2(rand(1, 1, *SIZE, seed=seed)) * radius**-1.5).real
    return texture / texture.std()


def test_the_least_noise_is_that_of_white_noise_and_not_of_texture():
    assert least_noise_std(noisy(0.05)) == pytest.approx(0.05, rel=0.1)
    assert least_noise_std(red(9)) == 0 < estimate_noise_std(red(9))
    y = red(9) + 0.5 * rand(1, 1, *SIZE, seed=10)
    assert 0.3 < least_noise_std(y) <= 0.55
    assert least_noise_std(y) < estimate_noise_std(y)


def test_the_least_noise_sees_measured_pixels_and_their_gains_only():
    kept = uniform(*SIZE, seed=11) < 0.6
    y = torch.where(kept, noisy(0.05), 1e9)
    assert least_noise_std(y, kept) == pytest.approx(0.05, rel=0.15)
    gain = 0.5 + 2 * uniform(*SIZE, seed=12)
    y = gain * (100 + scene()) + 0.05 * rand(1, 1, *SIZE, seed=13)
    assert least_noise_std(y, gain) == pytest.approx(0.05, rel=0.15)
    variance = 0.5 + uniform(*SIZE, seed=14)
    y = scene() + 0.05 * variance.sqrt() * rand(1, 1, *SIZE, seed=15)
    assert least_noise_std(y, variance=variance) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("shape", [(5000,), (1, 1, 4, 4), (1, 1, 2, 500), (1, 1, 30, 4)])
def test_too_few_pixels_say_nothing_about_the_least_noise(shape):
    assert math.isnan(least_noise_std(rand(*shape)))
