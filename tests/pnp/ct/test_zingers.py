"""Zingers and dead samples in counts: found where they were put, and nowhere in clean scans of other makers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from disc_scans import BEADS, HEAD, transmissions

from operators import FanBeam
from pnp.ct import line_integrals, simulate_counts
from pnp.phantoms import chest, head, perforated_disc
from pnp.readers import CtScan

N, VIEWS, BEAM = 96, 150, 2e4
ANGLES = np.arange(VIEWS) * np.pi / VIEWS
EXPECTED = BEAM * transmissions(HEAD, ANGLES, N)
COUNTS = np.random.default_rng(0).poisson(EXPECTED).astype(np.float64)
FLAT = np.random.default_rng(1).poisson(np.full((10, N), BEAM))
DRAWN = np.random.default_rng(2).permutation(COUNTS.size)


def spoiled(where: Any, value: Any) -> tuple[Any, Any]:
    """The record of counts with a value, or a factor, at some samples, and the mask of those."""
    counts, hit = COUNTS.copy(), np.zeros(COUNTS.shape, dtype=bool)
    hit.ravel()[where] = True
    counts[hit] = value(counts[hit]) if callable(value) else value
    return line_integrals(CtScan(y=counts, angles=ANGLES, kind="counts", flat=FLAT)), hit


@pytest.mark.parametrize("value", [3 * BEAM, 1.3 * BEAM, 65535.0, lambda c: c + 2 * BEAM])
@pytest.mark.parametrize("n", [1, 40, 150])
def test_zingers_brighter_than_the_open_beam_are_all_found_and_nothing_else(value: Any, n: int) -> None:
    record, hit = spoiled(DRAWN[:n], value)
    marked = np.isinf(record.noise_std)
    # Where one in a hundred is spoiled, edges with another zinger nearby hide a few that are hardly above the beam.
    assert not (marked & ~hit).any() and marked.sum() >= (n if n < 150 or value != 1.3 * BEAM else 0.95 * n)
    assert record.n_zingers == record.n_bad == marked.sum() and record.n_starved == 0 and not record.bad_pixels.any()
    # y is bridged, so that filtered back-projection does not see them either.
    assert np.abs(record.y - -np.log(EXPECTED / BEAM))[marked].max() < 0.5


def test_zingers_behind_the_object_as_bright_as_the_open_beam() -> None:
    dark = np.flatnonzero(EXPECTED.ravel() < 0.3 * BEAM)
    where = np.random.default_rng(3).choice(dark, 30, replace=False)
    record, hit = spoiled(where, BEAM)
    marked = np.isinf(record.noise_std)
    assert not (marked & ~hit).any() and (marked & hit).sum() >= 20  # the others lie beside an edge


def test_dead_samples_and_samples_that_are_too_low() -> None:
    record, hit = spoiled(DRAWN[:20], 0.0)
    np.testing.assert_array_equal(np.isinf(record.noise_std), hit)
    assert (record.n_starved, record.n_zingers) == (20, 0)
    assert np.abs(record.y - -np.log(EXPECTED / BEAM))[hit].max() < 0.35  # not the logarithm of half a photon
    low, hit = spoiled(DRAWN[:20], lambda c: 0.1 * c)
    marked = np.isinf(low.noise_std)
    assert not (marked & ~hit).any() and (marked & hit).sum() >= 14


def test_a_zinger_in_two_bins_and_equal_ones_nearby() -> None:
    where = np.ravel_multi_index(([70, 70, 72, 20, 20], [50, 51, 50, 30, 33]), COUNTS.shape)
    record, hit = spoiled(where, 65535.0)
    np.testing.assert_array_equal(np.isinf(record.noise_std), hit)


def test_zingers_can_be_kept_or_refused() -> None:
    counts = COUNTS.copy()
    counts[30, 30] = 3 * BEAM
    kept = line_integrals(counts, FLAT, zingers="keep")
    assert kept.n_zingers == 0 and np.isfinite(kept.noise_std).all() and kept.y[30, 30] < -1
    with pytest.raises(ValueError, match="1 zingers"):
        line_integrals(counts, FLAT, bad="raise")
    with pytest.raises(ValueError, match=": zingers "):
        line_integrals(counts, FLAT, zingers="remove")


def test_a_gain_and_read_out_noise_and_torch_alike() -> None:
    rng = np.random.default_rng(4)

    def read(photons: Any) -> Any:
        return 5 * rng.poisson(photons) + 200 + 15 * rng.standard_normal(np.shape(photons))

    counts, flat, dark = read(EXPECTED / 20), read(np.full((10, N), BEAM / 20)), read(np.zeros((10, N)))
    counts[40, [20, 60]] += 2e4
    for given in (counts, torch.from_numpy(counts)):
        record = line_integrals(given, flat, dark)
        assert np.argwhere(np.isinf(np.asarray(record.noise_std))).tolist() == [[40, 20], [40, 60]]


def test_views_in_any_order_with_their_angles() -> None:
    order = np.random.default_rng(5).permutation(VIEWS)
    counts = COUNTS.copy()
    where = np.argwhere(EXPECTED < 0.2 * BEAM)[7::400]
    counts[tuple(where.T)] = BEAM
    for angles, least in ((ANGLES, 0.7), (ANGLES + 2 * np.pi * (np.arange(VIEWS) % 2), 0.7)):
        scan = CtScan(y=counts[order], angles=angles[order], kind="counts", flat=FLAT)
        marked = np.isinf(line_integrals(scan).noise_std)[np.argsort(order)]
        assert marked[tuple(where.T)].mean() > least and marked.sum() == marked[tuple(where.T)].sum()
    # Without angles nothing is known of what neighbours are: the object is left alone.
    assert line_integrals(COUNTS[order], FLAT).n_zingers == 0


def test_rows_are_searched_one_by_one() -> None:
    rows = np.stack([COUNTS, COUNTS, COUNTS])
    rows[1, 10, 20] = 3 * BEAM
    rows[2, :, 40] = 0
    record = line_integrals(rows, np.stack([FLAT] * 3))
    assert record.n_zingers == 1 and np.isinf(record.noise_std[1, 10, 20]) and record.n_starved == VIEWS


@pytest.mark.parametrize("n_views", [3, 16, 20, 36, 90, 300])
@pytest.mark.parametrize("discs", [HEAD, BEADS])
def test_clean_scans_are_left_as_they_are(discs: Any, n_views: int) -> None:
    for arc in (np.pi, 2 * np.pi, np.pi / 2):
        expected = transmissions(discs, np.arange(n_views) * arc / n_views, N)
        for seed, photons in enumerate((30.0, 1e3, 1e5, 1e7)):
            counts = np.random.default_rng(seed).poisson(photons * expected)
            marked = line_integrals(counts, i0=photons)
            kept = line_integrals(counts, i0=photons, zingers="keep")
            assert marked.n_zingers == marked.n_unresponsive == 0
            np.testing.assert_array_equal(marked.y, kept.y)
            np.testing.assert_array_equal(marked.noise_std, kept.noise_std)


@pytest.mark.parametrize("phantom", [head, chest, perforated_disc])
@pytest.mark.parametrize("n_views", [20, 180])
def test_phantoms_are_left_as_they_are(phantom: Any, n_views: int) -> None:
    x = phantom(N)
    angles = torch.arange(n_views) * (2 * math.pi / n_views)
    lines = FanBeam((N, N), angles, n_detectors=N, source_origin=2.0 * N, origin_detector=1.0 * N, pitch=1.6).A(x)[0, 0]
    for height in (1.5, 5.0):
        for photons in (1e2, 1e4, 1e6):
            generator = torch.Generator().manual_seed(n_views)
            counts = simulate_counts(height * lines / float(lines.max()), photons, generator=generator)
            record = line_integrals(counts, i0=photons)
            assert record.n_zingers == record.n_unresponsive == 0


@pytest.mark.parametrize("kind", ["flicker", "gains", "dispersed"])
def test_a_beam_that_is_not_ideal_is_not_taken_for_zingers(kind: str) -> None:
    rng = np.random.default_rng(6)
    expected = EXPECTED.copy()
    if kind == "flicker":
        expected *= 1 + 0.05 * rng.standard_normal((VIEWS, 1))
    elif kind == "gains":
        expected *= 1 + 0.03 * rng.standard_normal(N)
    else:  # noise in proportion to the signal, which the gain does not know of
        expected *= rng.gamma(50.0, 1 / 50.0, expected.shape)
    record = line_integrals(rng.poisson(expected), i0=BEAM)
    assert record.n_zingers == record.n_unresponsive == 0
