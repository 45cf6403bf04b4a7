"""The Wiener filter's error map: samples against the dense posterior."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import seeded

from operators import KaiserSquires
from pnp.lensing import pixel_spectrum, survey_noise, wiener_samples, wiener_std


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


def test_no_draws_are_one_sentence():
    A, spectrum = KaiserSquires((8, 8)), pixel_spectrum((8, 8))
    with pytest.raises(ValueError, match="draws"):
        wiener_std(A, torch.zeros(1, 2, 8, 8), torch.ones(1), spectrum, generator=seeded(), draws=0)
