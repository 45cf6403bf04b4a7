"""Flats and darks: spoiled frames, zingers in single frames, and a beam that drifts in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from disc_scans import HEAD, transmissions

from pnp.ct import line_integrals
from pnp.readers import CtScan

N, VIEWS, BEAM = 200, 60, 1e4
ANGLES = np.arange(VIEWS) * np.pi / VIEWS
THROUGH = transmissions(HEAD, ANGLES, N)
PROFILE = BEAM * (1 + 0.2 * np.sin(np.arange(N) / 25))
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(PROFILE * THROUGH) + 100 + 4 * RNG.standard_normal((VIEWS, N))
FLAT = RNG.poisson(np.tile(PROFILE, (10, 1))) + 100 + 4 * RNG.standard_normal((10, N))
DARK = 100 + 4 * RNG.standard_normal((10, N))
CLEAN = line_integrals(COUNTS, FLAT, DARK)


@pytest.mark.parametrize("value", [60000.0, 1.5 * BEAM])
def test_a_zinger_in_one_flat_makes_no_ring_and_no_gain(value: float) -> None:
    flat = FLAT.copy()
    flat[4, 77] = value
    record = line_integrals(COUNTS, flat, DARK)
    assert np.abs(record.y - CLEAN.y).max() < 0.01 and not record.bad_pixels.any() and record.dropped_flats == ()
    assert record.photons_per_count == pytest.approx(CLEAN.photons_per_count, rel=0.01)
    np.testing.assert_array_equal(np.delete(record.y, 77, -1), np.delete(CLEAN.y, 77, -1))


def test_a_zinger_in_one_dark_and_in_one_of_two_flats() -> None:
    dark = DARK.copy()
    dark[3, 50] += 5000
    record = line_integrals(COUNTS, FLAT, dark)
    assert np.abs(record.y - CLEAN.y).max() < 0.02
    assert record.electronic_std == pytest.approx(4, rel=0.1)
    two = FLAT[:2].copy()
    two[1, 120] = 50000
    assert np.abs(line_integrals(COUNTS, two, DARK).y - line_integrals(COUNTS, FLAT[:2], DARK).y).max() < 0.03


def spoil(kind: str, flat: Any) -> Any:
    changed = flat.copy()
    if kind == "closed":
        changed[6] = DARK[0]
    elif kind == "object":
        changed[6, 40:90] = 100 + 0.6 * (changed[6, 40:90] - 100)
    elif kind == "saturated":
        changed[6] = np.minimum(8 * changed[6], 65535)
    else:
        changed[6] = 100 + 1.6 * (changed[6] - 100)
    return changed


@pytest.mark.parametrize("kind", ["closed", "object", "saturated", "brighter"])
def test_spoiled_flats_are_dropped_and_named(kind: str) -> None:
    with pytest.warns(UserWarning, match=r"frames of flat \(6\)"):
        record = line_integrals(COUNTS, spoil(kind, FLAT), DARK)
    assert record.dropped_flats == (6,) and record.dropped_darks == ()
    kept = line_integrals(COUNTS, np.delete(FLAT, 6, 0), DARK)
    np.testing.assert_array_equal(record.y, kept.y)
    np.testing.assert_array_equal(record.noise_std, kept.noise_std)


def test_one_of_two_flats_with_the_shutter_closed_and_a_dark_with_it_open() -> None:
    with pytest.warns(UserWarning, match=r"frames of flat \(1\)"):
        assert line_integrals(COUNTS, np.stack([FLAT[0], DARK[0]]), DARK).dropped_flats == (1,)
    dark = DARK.copy()
    dark[0] = FLAT[0]
    with pytest.warns(UserWarning, match=r"frames of dark \(0\)"):
        record = line_integrals(COUNTS, FLAT, dark)
    assert record.dropped_darks == (0,) and np.abs(record.y - CLEAN.y).max() < 0.02


def drifting(seed: int = 1) -> dict[str, Any]:
    """Flats before and after a scan in which the beam falls to 60 % and changes its profile."""
    rng = np.random.default_rng(seed)
    times = 10 + np.arange(VIEWS)
    flat_times = np.concatenate([np.arange(8), 70 + np.arange(8)]).astype(float)

    def beam(t: Any) -> Any:
        fall = np.interp(t, (3.5, 73.5), (0, 1))[:, None]  # between the middles of both groups
        return PROFILE * (1 - 0.4 * fall * (1 + 0.3 * np.cos(np.arange(N) / 30)))

    at_flats = np.concatenate([np.full(8, 3.5), np.full(8, 73.5)])
    return {
        "counts": rng.poisson(beam(times.astype(float)) * THROUGH),
        "flat": rng.poisson(beam(at_flats)),
        "times": times,
        "flat_times": flat_times,
    }


def test_flats_before_and_after_are_interpolated_in_time() -> None:
    scan = drifting()
    plain = line_integrals(scan["counts"], scan["flat"])
    record = line_integrals(**scan)
    lines = -np.log(THROUGH)
    off = [np.abs(r.y - lines)[:, lines[0] < 0.5].mean() for r in (plain, record)]
    assert off[0] > 0.05 and off[1] < 0.012
    assert np.abs(((record.y - lines) / record.noise_std)[lines < 2].std() - 1) < 0.05
    # A jump between the groups is no noise.
    assert record.photons_per_count == pytest.approx(1, rel=0.1)
    assert record.dropped_flats == () and record.n_zingers == record.n_bad == 0
    # Any order of the frames, any unit and origin; and from a scan, also of some of its views.
    order = np.random.default_rng(2).permutation(16)
    other = {"times": 3 * scan["times"] - 7, "flat_times": 3 * scan["flat_times"][order] - 7}
    np.testing.assert_allclose(
        line_integrals(scan["counts"], scan["flat"][order], **other).y, record.y, rtol=1e-4, atol=1e-5
    )
    held = CtScan(
        y=scan["counts"], angles=ANGLES, kind="counts", flat=scan["flat"],
        times=scan["times"], flat_times=scan["flat_times"],
    )  # fmt: skip
    np.testing.assert_allclose(line_integrals(held).y, record.y, atol=1e-5)
    part = line_integrals(held.subset(slice(20, 40)))
    np.testing.assert_allclose(part.y, record.y[20:40], atol=1e-5)


def test_frames_at_one_time_are_averaged_and_outside_the_beam_is_constant() -> None:
    flat = np.array([[100.0] * 5, [120.0] * 5, [220.0] * 5, [200.0] * 5])
    counts = np.full((4, 5), 50.0)
    record = line_integrals(
        counts, flat, flat_times=[1, 1, 5, 5], times=[0, 2, 4, 9], photons_per_count=1.0, bad_pixels=np.zeros(5, bool)
    )
    np.testing.assert_allclose(np.exp(record.y[:, 0]) * 50, [110, 135, 185, 210], rtol=1e-6)
    share = np.array([1 / 2, (9 + 1) / 16 / 2, (9 + 1) / 16 / 2, 1 / 2])  # of the variance of a frame
    np.testing.assert_allclose(record.noise_std[:, 0] ** 2, 1 / 50 + share / [110, 135, 185, 210], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"times": None}, "flat_times needs times"),
        ({"flat_times": [1.0]}, "flat_times"),
        ({"times": [1.0]}, ": times "),
        ({"dark_times": [1.0]}, "dark_times"),
        ({"flat_times": [np.nan] * 16}, "flat_times"),
    ],
)
def test_times_that_cannot_be(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        line_integrals(**drifting() | changes)
    assert len(str(caught.value)) < 400


def test_the_gain_is_known_where_every_bin_is_bad_in_some_row() -> None:
    n, gain, electronic = 40, 4.0, 12.0
    beam = np.full((n, 1, n), 2e4)
    beam[np.arange(n), 0, np.arange(n)] = 0
    rng = np.random.default_rng(0)
    flat, counts = (gain * rng.poisson(beam.repeat(views, 1) * share) for views, share in ((10, 1.0), (30, 0.5)))
    noise = [100 + electronic * rng.standard_normal(shape) for shape in (counts.shape, flat.shape, flat.shape)]
    record = line_integrals(counts + noise[0], flat + noise[1], noise[2])
    assert record.bad_pixels.sum() == n
    assert record.photons_per_count == pytest.approx(1 / gain, rel=0.05)
    assert record.electronic_std == pytest.approx(electronic, rel=0.05)
