"""Paganin's filter against Fresnel propagation of a homogeneous object, and against algotom's filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pnp.ct import paganin_filter

N, PIXEL, ENERGY, DISTANCE, DELTA_BETA = 256, 1e-3, 20.0, 20.0, 1440.0  # pixels, mm, keV, mm, water
WAVELENGTH = 6.62607015e-34 * 299792458.0 / (ENERGY * 1e3 * 1.602176634e-19) * 1e3  # mm
SETTINGS = {"pixel_size_mm": PIXEL, "distance_mm": DISTANCE, "energy_kev": ENERGY, "delta_beta": DELTA_BETA}


def attenuation(width: float, height: float = 0.02) -> NDArray[np.float64]:
    """Line integrals of a smooth object, two blobs of a width in pixels."""
    y, x = np.ogrid[:N, :N]
    blobs = ((110, 120, 1.0), (150, 140, -0.5))
    image: NDArray[np.float64] = sum(
        height * f * np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * width**2)) for r, c, f in blobs
    )
    return image


def propagated(mu_t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intensity at DISTANCE behind the object, by the Fresnel propagator exp(-i pi lambda z f^2)."""
    wave = np.exp(-mu_t / 2 * (1 + 1j * DELTA_BETA))  # mu T/2 = k beta T; the phase is -k delta T
    f2 = np.fft.fftfreq(N, PIXEL)[:, None] ** 2 + np.fft.fftfreq(N, PIXEL) ** 2
    moved = np.fft.ifft2(np.fft.fft2(wave) * np.exp(-1j * math.pi * WAVELENGTH * DISTANCE * f2))
    return np.abs(moved) ** 2


def test_it_inverts_fresnel_propagation() -> None:
    mu_t = attenuation(15.0)
    intensity = propagated(mu_t)
    assert np.abs(-np.log(intensity) - mu_t).max() > 0.25 * mu_t.max()  # without the filter
    found = paganin_filter(np.stack([intensity, np.ones_like(intensity)]), **SETTINGS)
    assert np.abs(found[0] - mu_t).max() < 0.01 * mu_t.max()
    np.testing.assert_allclose(found[1], 0, atol=1e-12)


def test_two_distances_agree() -> None:
    """The filter's strength is that of the distance: doubling z in both gives the same object."""
    mu_t = attenuation(20.0)
    for factor in (0.5, 2.0):
        f2 = np.fft.fftfreq(N, PIXEL)[:, None] ** 2 + np.fft.fftfreq(N, PIXEL) ** 2
        wave = np.exp(-mu_t / 2 * (1 + 1j * DELTA_BETA))
        moved = np.fft.ifft2(np.fft.fft2(wave) * np.exp(-1j * math.pi * WAVELENGTH * factor * DISTANCE * f2))
        found = paganin_filter(np.abs(moved) ** 2, **{**SETTINGS, "distance_mm": factor * DISTANCE})
        assert np.abs(found - mu_t).max() < 0.01 * mu_t.max()


def test_it_is_algotoms_low_pass_filter() -> None:
    filtering = pytest.importorskip("algotom.prep.filtering")
    intensity = propagated(attenuation(10.0))
    length = math.sqrt(WAVELENGTH * DISTANCE * DELTA_BETA / (4 * math.pi)) / PIXEL
    ratio = (2 * math.pi * length) ** 2
    theirs = -np.log(filtering.fresnel_filter(intensity, ratio, dim=2, pad=0, apply_log=False))
    ours = paganin_filter(intensity, **SETTINGS)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(ours).max())


def test_nothing_wraps_around() -> None:
    """A dark edge on the right leaves the left as it is."""
    t = torch.ones(3, 40, 60, dtype=torch.float64)
    t[..., 55:] = 0.2
    found = paganin_filter(t, **SETTINGS)
    length = math.sqrt(WAVELENGTH * DISTANCE * DELTA_BETA / (4 * math.pi)) / PIXEL
    assert 5 < length < 20
    # A step in one dimension is convolved with exp(-|x|/l)/(2 l); edge pixels go on beyond the detector.
    x = torch.arange(60, dtype=torch.float64) - 54.5
    step = torch.where(x < 0, 1 - 0.4 * (x / length).exp(), 0.2 + 0.4 * (-x / length).exp())
    torch.testing.assert_close(found, -step.log().expand_as(found), rtol=0, atol=5e-3)
    single = paganin_filter(t[0].float(), **SETTINGS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found[0], rtol=0, atol=1e-5)


def test_refused_and_warned_of() -> None:
    t = np.full((2, 16, 20), 0.5)
    for name in SETTINGS:
        for value in (0, -1.0, math.nan):
            with pytest.raises(ValueError, match=name):
                paganin_filter(t, **{**SETTINGS, name: value})
    with pytest.raises(ValueError, match="projections"):
        paganin_filter(np.where(np.arange(20) == 3, 0, t), **SETTINGS)
    with pytest.raises(ValueError, match="projections"):
        paganin_filter(1000 * t, **SETTINGS)
    with pytest.warns(UserWarning, match="unit"):
        paganin_filter(t, **{**SETTINGS, "pixel_size_mm": 1.0})  # micrometres taken for mm
