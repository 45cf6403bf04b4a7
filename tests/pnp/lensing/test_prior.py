"""When a convergence prior fits, and what serves skies of another amplitude."""

from __future__ import annotations

import pytest
import torch
from arrays import rand

from denoisers import MLPatch
from pnp.lensing import LognormalKappa, ScaledPrior, check_prior, map_mass
from pnp.metrics import nrmse


@pytest.mark.parametrize("std", [0.013, 0.015, 0.02, 0.03, 0.035])
@pytest.mark.parametrize("pixel", [0.15, 0.29, 0.57])
def test_skies_like_the_simulated_ones_fit(std, pixel):
    found = check_prior(std, pixel)
    assert found.fits and found.scale == 1 and "as the prior expects" in found.advice


@pytest.mark.parametrize("std", [0.005, 0.06])
def test_another_amplitude_is_scaled(std):
    found = check_prior(std, 0.29)
    assert not found.fits and found.scale == pytest.approx(std / 0.0212, rel=0.01)
    assert f"ScaledPrior(D, {found.scale:g})" in found.advice
    assert check_prior(std / found.scale, 0.29).fits


def test_other_pixels_want_weights_of_their_own():
    found = check_prior(0.01, 2.0)
    assert not found.fits and "pnp train denoiser --kind convergence --std 0.0075,0.01,0.013,0.015" in found.advice
    assert "--pixel-arcmin 2 -o mine.safetensors" in found.advice
    assert check_prior(0.01, 2.0, trained_std=(0.0075, 0.015), trained_arcmin=2.0).fits


def test_a_scaled_prior_is_the_prior_in_other_units():
    def D(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x / (1 + sigma**2) + x.square()

    x = rand(2, 1, 5, 6)
    torch.testing.assert_close(ScaledPrior(D, 4.0)(x, 0.2), 4 * D(x / 4, 0.05))
    weights = MLPatch.from_pretrained("convergence")
    low, high = weights.sigma_range
    assert ScaledPrior(weights, 0.25).sigma_range == (0.25 * low, 0.25 * high)
    assert not hasattr(ScaledPrior(D, 2.0), "sigma_range")


def test_the_scaled_prior_is_better_on_fainter_skies():
    """Maps of a fifth of the amplitude, noise in proportion: the shipped weights take their peaks for noise."""
    D, sky = MLPatch.from_pretrained("convergence"), LognormalKappa((96, 96), std=0.004)
    g = torch.Generator().manual_seed(0)
    kappa = sky(2, generator=g)
    noisy = kappa + 0.03 * torch.randn(kappa.shape, generator=g)
    scaled = ScaledPrior(D, check_prior(sky.std, sky.pixel_arcmin).scale)
    assert nrmse(scaled(noisy, 0.03), kappa, centred=True) < 0.95 * nrmse(D(noisy, 0.03), kappa, centred=True)


def test_map_mass_takes_it_with_its_range():
    shear, D = 0.01 * rand(1, 2, 33, 33).float(), ScaledPrior(MLPatch.from_pretrained("convergence"), 0.1)
    found = map_mass(shear, 0.1, denoiser=D, max_iter=1)
    assert found.sigma == pytest.approx(0.05)  # a tenth of the weights' highest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_prior(0.0, 0.29), "check_prior: std"),
        (lambda: check_prior(0.02, -1.0), "check_prior: pixel_arcmin"),
        (lambda: ScaledPrior(lambda x, s: x, 0), "ScaledPrior: scale"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
