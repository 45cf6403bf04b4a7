"""Noise of a map from turned shapes, against the noise in closed form."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from arrays import seeded

from operators import KaiserSquires
from pnp.lensing import rotated_std, smoothed_kaiser_squires, smoothed_noise
from pnp.lensing.shear import noise_like


@pytest.fixture(scope="module")
def noisy():
    std = torch.full((1, 2, 33, 35), 0.2)
    std[..., 20:] *= 2
    std[..., 5:12, 8:15] = math.inf
    return KaiserSquires((33, 35)), std, noise_like(torch.zeros(1, 2, 33, 35), std, generator=seeded(3))


def test_noise_of_the_smoothed_map_is_that_of_simulations(noisy):
    A, std, _ = noisy
    n = noise_like(torch.zeros(300, 2, 33, 35), std, generator=seeded(1))
    found = smoothed_kaiser_squires(A, n, std, 2.0).std(0, keepdim=True)
    torch.testing.assert_close(smoothed_noise(A, std, 2.0), found, rtol=0.2, atol=0)


def test_turned_shapes_have_the_noise_of_the_map(noisy):
    A, std, y = noisy
    run = partial(smoothed_kaiser_squires, A, smoothing_px=2.0)
    unseen = torch.where(std.isfinite(), y, torch.nan)
    found = rotated_std(run, unseen, std, generator=seeded(2), draws=200)
    assert found.shape == (1, 1, 33, 35) and found.dtype == y.dtype
    torch.testing.assert_close(found.mean(), smoothed_noise(A, std, 2.0).mean(), rtol=0.05, atol=0)
    torch.testing.assert_close(rotated_std(run, unseen, std, generator=seeded(2), draws=200), found)


def test_lensing_is_spread_evenly_over_e_and_b(noisy):
    """Mass alone: of turned shapes its map holds half of the shear's power, the other half are B modes."""
    A, std, _ = noisy
    shear = A.A(torch.randn(1, 1, 33, 35, generator=seeded(4)))
    found = rotated_std(lambda y, s: A.A_adjoint(y), shear, std.clamp(max=0.2), generator=seeded(5), draws=40)
    assert float(found.square().mean()) == pytest.approx(float(shear.square().sum(1).mean()) / 2, rel=0.05)


def test_draws_are_at_least_two(noisy):
    A, std, y = noisy
    with pytest.raises(ValueError, match="draws"):
        rotated_std(lambda y, s: A.A_adjoint(y), y, std, generator=seeded(), draws=1)
