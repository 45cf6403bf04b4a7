"""An untrained GLIMPSE beside filtered back-projection, on noise: where the two differ, and by how much."""

from __future__ import annotations

import math

import pytest
import torch

from operators import Radon
from pnp.learned import Glimpse


@pytest.mark.parametrize(("n_detectors", "pitch"), [(91, 1.0), (150, 0.8), (76, 1.2)])
def test_untrained_it_differs_in_the_highest_frequencies_alone(n_detectors, pitch):
    angles = torch.arange(60, dtype=torch.float64) * (math.pi / 60)
    radon = Radon((64, 64), angles, n_detectors=n_detectors, pitch=pitch)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 60, n_detectors, generator=g)
    spectrum = torch.fft.rfft(noise)
    spectrum[..., int(0.95 * spectrum.shape[-1]) :] = 0
    image = torch.randn(1, 1, 64, 64, generator=g)
    model = Glimpse((64, 64), angles, n_detectors=n_detectors, pitch=pitch, features=1, hidden=1, blocks=())
    for y, bound in ((radon.A(image), 0.04), (torch.fft.irfft(spectrum, n=n_detectors), 0.04), (noise, 0.2)):
        with torch.no_grad():
            difference = model(y) - radon.fbp(y)
        assert float(difference.norm() / radon.fbp(y).norm()) < bound
