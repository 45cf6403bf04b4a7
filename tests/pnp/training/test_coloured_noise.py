"""Coloured noise: its variance, its colours, which images get it, and training with it."""

import math

import pytest
import torch

from pnp.training import NoiseLevels, TrainingOptions
from pnp.training.coloured_noise import colour
from pnp.training.denoiser import DenoisingTask

SIZES = [(64, 64), (24, 20, 22)]


def white(size, batch=64):
    return torch.randn((batch, 1, *size), generator=torch.Generator().manual_seed(0))


def coloured(size, part=1.0, seed=1):
    return colour(white(size), part, generator=torch.Generator().manual_seed(seed))


def neighbours(n):
    """Correlation of each image with itself, shifted by one pixel, along each axis (B, d)."""
    axes = range(2, n.ndim)
    return torch.stack([(n * n.roll(1, axis)).flatten(1).mean(1) for axis in axes], 1)


@pytest.mark.parametrize("size", SIZES)
def test_sigma_stays_the_standard_deviation(size):
    torch.testing.assert_close(coloured(size).flatten(1).square().mean(1), torch.ones(64))


@pytest.mark.parametrize("size", SIZES)
def test_there_are_smooth_rough_directed_and_uneven_noises(size):
    n = coloured(size)
    rho = neighbours(n)
    spread = 4 / math.sqrt(math.prod(size))  # of white noise, four standard deviations
    assert neighbours(white(size)).abs().max() < spread
    assert (rho.amin(1) > 0.3).any() and (rho.amax(1) < -spread).any()
    assert (rho.amax(1) - rho.amin(1) > 0.2).any()  # another colour along one axis than along another
    kurtosis = n.flatten(1).pow(4).mean(1)  # 3 where the variance is the same everywhere
    assert (kurtosis > 3.5).any() and ((kurtosis - 3).abs() < 0.3).any()
    assert (rho.abs().amax(1)[kurtosis > 4] < spread).any()  # white, but uneven


def test_a_part_of_the_images_is_coloured_and_the_others_are_untouched():
    same = (coloured((16, 16), 0.5) == white((16, 16))).flatten(1).all(1)
    assert 20 <= same.sum() <= 44
    assert torch.equal(coloured((16, 16), 0.0), white((16, 16)))


def test_a_seed_repeats_the_noise():
    assert torch.equal(coloured((16, 16)), coloured((16, 16)))
    assert not torch.equal(coloured((16, 16)), coloured((16, 16), seed=2))


def test_the_channels_of_an_image_share_a_colour():
    white_noise = torch.randn(16, 2, 64, 64, generator=torch.Generator().manual_seed(3))
    n = colour(white_noise, 1.0, generator=torch.Generator().manual_seed(4))
    n = n / n.square().mean((2, 3), keepdim=True).sqrt()
    first, second = neighbours(n[:, :1]), neighbours(n[:, 1:])
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.95


def test_training_draws_it():
    def draw(part):
        task = DenoisingTask(
            torch.nn.Linear(1, 1),
            lambda batch, generator: torch.zeros(batch, 1, 32, 32),
            NoiseLevels(0.1, 0.1),
            TrainingOptions(1, coloured=part),
        )
        return task.draw(16, generator=torch.Generator().manual_seed(0))

    _, y, sigma = draw(0.5)
    torch.testing.assert_close(y.flatten(1).std(1), sigma, rtol=0.2, atol=0)
    assert neighbours(y / 0.1).abs().max() > 0.2
    assert neighbours(draw(0.0)[1] / 0.1).abs().max() < 0.2


@pytest.mark.parametrize("part", [-0.1, 1.5, math.nan])
def test_the_part_is_checked(part):
    with pytest.raises(ValueError, match="coloured"):
        TrainingOptions(1, coloured=part)
