"""Pixels that their counts give away: constant, too quiet or too noisy; NaN in pixels that are named."""

from __future__ import annotations

import numpy as np
import pytest
from disc_scans import HEAD, transmissions

from pnp.ct import line_integrals

N, VIEWS, BEAM = 96, 120, 1e4
ANGLES = np.arange(VIEWS) * np.pi / VIEWS
OFF_CENTRE = [(x + 0.05, y, 0.9 * r, a) for x, y, r, a in HEAD]
EXPECTED = BEAM * transmissions(OFF_CENTRE, ANGLES, N)
COUNTS = np.random.default_rng(0).poisson(EXPECTED).astype(float)


@pytest.mark.parametrize("level", [0.7, 0.1, 0.99])
@pytest.mark.parametrize("bins", [(50,), (40, 41), (30, 60)])
def test_bins_that_hold_a_constant(level: float, bins: tuple[int, ...]) -> None:
    counts = COUNTS.copy()
    counts[:, bins] = level * BEAM
    record = line_integrals(counts, i0=BEAM)
    assert np.flatnonzero(record.bad_pixels).tolist() == list(bins) and record.n_unresponsive == len(bins)
    assert np.isinf(record.noise_std[:, bins]).all() and record.n_zingers == 0
    assert np.abs(record.y + np.log(EXPECTED / BEAM))[:, bins].mean() < 0.2


def test_bins_that_are_too_quiet_or_too_noisy() -> None:
    rng = np.random.default_rng(1)
    counts = COUNTS.copy()
    counts[:, 33] = 0.4 * BEAM + 5 * rng.standard_normal(VIEWS)
    counts[:, 70] *= 1 + 0.3 * rng.standard_normal(VIEWS)
    record = line_integrals(np.maximum(counts, 1), i0=BEAM)
    assert np.flatnonzero(record.bad_pixels).tolist() == [33, 70]
    named = line_integrals(counts, i0=BEAM, bad_pixels=np.zeros(N, bool), zingers="keep")
    assert not named.bad_pixels.any() and named.n_unresponsive == 0


@pytest.mark.parametrize("discs", [OFF_CENTRE, [(0.0, 0.0, 0.7, 2.0)], [(0.3, 0.0, 0.3, 2.0)]])
@pytest.mark.parametrize("photons", [3.0, 100.0, 1e6, None])
def test_clean_scans_have_no_silent_bins(discs: list[tuple[float, ...]], photons: float | None) -> None:
    """None: without noise, where the same from all sides is constant."""
    expected = transmissions(discs, ANGLES, N)
    for seed in range(5):
        counts = 1e5 * expected if photons is None else np.random.default_rng(seed).poisson(photons * expected)
        record = line_integrals(counts, i0=photons or 1e5)
        assert record.n_unresponsive == record.n_zingers == 0 and not record.bad_pixels.any()


def test_nan_is_accepted_in_pixels_that_are_named() -> None:
    counts, named = COUNTS.copy(), np.zeros(N, bool)
    counts[:, 20], named[20] = np.nan, True
    flat = np.random.default_rng(2).poisson(np.full((5, N), BEAM)).astype(float)
    flat[:, 20] = np.nan
    record = line_integrals(counts, flat, bad_pixels=named)
    assert np.isfinite(record.y).all() and np.isinf(record.noise_std[:, 20]).all() and record.n_bad == VIEWS
    rows = line_integrals(np.stack([counts, counts]), np.stack([flat, flat]), bad_pixels=np.stack([named, named]))
    np.testing.assert_allclose(rows.y[1], record.y, atol=1e-6)
    counts[3, 30] = np.inf
    with pytest.raises(ValueError, match=r"1 of 11520.*bad_pixels") as caught:
        line_integrals(counts, flat, bad_pixels=named)
    assert len(str(caught.value)) < 400
