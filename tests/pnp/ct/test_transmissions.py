"""Transmissions, 0 to 1: the logarithm of what was measured, and a noise that is known, fitted or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from disc_scans import HEAD, transmissions

from pnp.ct import line_integrals
from pnp.readers import CtScan

N, VIEWS = 96, 120
ANGLES = np.arange(VIEWS) * np.pi / VIEWS
EXPECTED = transmissions(HEAD, ANGLES, N) ** 0.7


def measured(photons: float, read_out: float, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.poisson(photons * EXPECTED) + read_out * rng.standard_normal(EXPECTED.shape)) / photons


def test_the_logarithm_is_that_of_what_was_measured() -> None:
    t = np.array([[1.0, 0.9, 0.5, 0.3, 0.1, 0.05, 0.9, 1.0]], np.float32).repeat(4, 0)
    for given in (
        {"counts": t, "i0": 1.0},
        {"counts": torch.from_numpy(t), "i0": 1.0},
        {"counts": 0.8 * t + 0.05, "flat": np.full(8, 0.85, np.float32), "dark": np.full(8, 0.05, np.float32)},
        {"counts": CtScan(y=t, angles=np.arange(4.0) / 2, kind="transmissions")},
    ):
        record = line_integrals(**given)
        np.testing.assert_allclose(np.asarray(record.y), -np.log(t), atol=1e-5)
        assert record.n_bad == record.n_clamped == 0 and record.noise_fitted
        assert np.all((np.asarray(record.noise_std) > 0) & np.isfinite(np.asarray(record.noise_std)))


@pytest.mark.parametrize(("photons", "read_out"), [(300.0, 0.0), (1e4, 0.0), (1e4, 60.0), (2e5, 0.0)])
def test_the_noise_is_fitted_to_the_transmissions(photons: float, read_out: float) -> None:
    t = measured(photons, read_out)
    record = line_integrals(t, i0=1.0)
    expected = np.sqrt(photons * EXPECTED + read_out**2) / (photons * EXPECTED)
    clear = photons * EXPECTED > 30 + 5 * read_out
    assert np.median((record.noise_std / expected)[clear]) == pytest.approx(1, abs=0.15)
    spread = ((record.y + np.log(EXPECTED)) / record.noise_std)[clear]
    assert spread.std() == pytest.approx(1, abs=0.2)
    assert record.photons_per_count == pytest.approx(photons, rel=0.3) and record.n_zingers == 0
    # As fractions of full scale with one averaged flat it is the same.
    scaled = line_integrals(0.6 * t + 0.1, np.full(N, 0.7), np.full(N, 0.1))
    np.testing.assert_allclose(scaled.noise_std, record.noise_std, rtol=1e-3)
    np.testing.assert_allclose(scaled.y, record.y, atol=1e-9)


def test_photons_that_are_given_are_the_noise() -> None:
    t = measured(1e4, 0.0)
    record = line_integrals(t, i0=1.0, photons_per_count=1e4)
    np.testing.assert_allclose(record.noise_std, (1e4 * t) ** -0.5)
    counts = line_integrals(1e4 * t, i0=1e4)
    np.testing.assert_allclose(record.y, counts.y, atol=1e-9)
    assert not record.noise_fitted and not counts.noise_fitted


def test_what_is_not_above_the_dark_is_marked_and_many_clamps_are_said() -> None:
    t = measured(1e4, 0.0)
    t[5, 40], t[80, 20], t[60, 50] = 0.0, -0.01, 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = line_integrals(t, i0=1.0, photons_per_count=1e4, zingers="keep")
    assert (record.n_starved, record.n_clamped, record.n_bad) == (2, 1, 2)
    assert np.argwhere(np.isinf(record.noise_std)).tolist() == [[5, 40], [80, 20]]
    assert record.y[60, 50] == pytest.approx(np.log(2e4)) and np.isfinite(record.y).all()
    with pytest.warns(UserWarning, match="photons_per_count"):
        line_integrals(np.where(t > 0, t, 1.0), i0=1.0, photons_per_count=2.0)


def test_zingers_in_transmissions() -> None:
    t = measured(1e4, 0.0)
    t[30, 30] = 2.5
    record = line_integrals(t, i0=1.0)
    assert record.n_zingers == 1 and np.isinf(record.noise_std[30, 30])


def test_a_scan_of_transmissions() -> None:
    scan = CtScan(y=measured(1e4, 0.0), angles=ANGLES, kind="transmissions")
    with pytest.raises(ValueError, match=r"transmissions.*line_integrals"):
        scan.tensors()
    y, std = line_integrals(scan).tensors()
    assert y.shape == std.shape == (1, 1, VIEWS, N)
    np.testing.assert_allclose(scan.binned(2).y, (scan.y[:, ::2] + scan.y[:, 1::2]) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="flat"):
        line_integrals(scan, np.ones(N))


def test_too_few_samples_have_no_noise() -> None:
    with pytest.raises(ValueError, match="photons_per_count"):
        line_integrals(np.array([[0.5, 0.25]]), i0=1.0)
    assert line_integrals(np.array([[0.5, 0.25]]), i0=1.0, photons_per_count=100.0).n_bad == 0
