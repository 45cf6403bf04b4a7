"""The axis of every row of a tilted scan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from radon_truth import SHEPP_LOGAN, Array, half_turn, turn

from pnp.ct import find_centres

BINS, ROWS = 110, 15
PITCH = 1.5
FAN = {"source_origin": 300.0, "origin_detector": 150.0, "pitch": PITCH}
SCANS: dict[str, tuple[Array, float, float, dict[str, Any]]] = {
    "full": (turn(120), 52.3, 45, {}),
    "truncated": (turn(120), 45.0, 70, {}),
    "half acquisition": (turn(120), 6.0, 80, {}),
    "half a turn": (half_turn(120), 55.4, 45, {}),
    "scattered": (np.random.default_rng(0).uniform(0, 2 * np.pi, 120), 52.3, 45, {}),
    "fan": (turn(60), 20.0, 60, FAN),
}


def volume(scan: str, slope: float, noise: float = 0.01) -> tuple[Array, Array]:
    """Return a head whose rows differ in size and density, and the axes of its rows."""
    angles, first, radius, fan = SCANS[scan]
    centres = first + slope * np.arange(ROWS)
    rows = []
    for r, centre in enumerate(centres):
        parts = [e.scaled(radius * (1 - 0.3 * r / ROWS)) for e in SHEPP_LOGAN[:4]]
        t = np.arange(BINS) - centre
        rows.append(
            sum(e.fan_sinogram(angles, PITCH * t, PITCH, 300.0, 450.0) for e in parts)
            if fan
            else sum(e.sinogram(angles, t, 1.0) for e in parts)
        )
    y = np.array(rows)
    return y + noise * y.max() * np.random.default_rng(0).standard_normal(y.shape), centres


@pytest.mark.parametrize("slope", [0.0, 0.09, -0.06])
@pytest.mark.parametrize("scan", SCANS)
def test_a_tilted_axis(scan: str, slope: float) -> None:
    y, centres = volume(scan, max(slope, 0.0) if scan == "half acquisition" else slope)
    angles, *_, fan = SCANS[scan]
    found = find_centres(y, angles, **fan)
    np.testing.assert_allclose(found.centres, centres, atol=0.1)
    assert found.tilt == pytest.approx(math.atan(found.slope))
    assert found.scatter < 0.1 and found.rows.tolist() == list(range(ROWS))


@pytest.mark.parametrize("scan", ["full", "half a turn", "half acquisition"])
def test_rows_of_air_and_noise_do_not_spoil_the_line(scan: str) -> None:
    y, centres = volume(scan, 0.06)
    rng = np.random.default_rng(1)
    y[:3] = 0.01 * y.max() * rng.standard_normal(y[:3].shape)
    y[9] = 3 * y.max() * rng.standard_normal(y[0].shape)
    y[12] = 0
    found = find_centres(torch.as_tensor(y), SCANS[scan][0], search=(2, 70))
    np.testing.assert_allclose(found.centres, centres, atol=0.15)
    assert bool(found.found[12].isnan()) and found.scatter < 0.15


def test_many_rows_are_sampled() -> None:
    y, _ = volume("full", 0.05)
    found = find_centres(np.repeat(y, 8, axis=0), turn(120))
    assert len(found.rows) == 64 and len(found.centres) == 8 * ROWS
    assert abs(found.slope - 0.05 / 8) < 0.002


@pytest.mark.parametrize(
    ("change", "options", "name"),
    [
        (lambda y, a: (y[0], a), {}, "y"),
        (lambda y, a: (y[:2], a), {}, "rows"),
        (lambda y, a: (y[:, :100], a[:100] / 4), {}, "angles"),
        (lambda y, a: (y, a), {"method": "moments"}, "method"),
        (lambda y, a: (y, a), {"search": (3, 1)}, "search"),
        (lambda y, a: (y, a), {"pitch": 1.0}, "source_origin"),
        (lambda y, a: (np.random.default_rng(0).standard_normal(y.shape), a), {}, "search"),
    ],
)
def test_what_cannot_be_is_said(change: Any, options: dict[str, Any], name: str) -> None:
    y, angles = change(volume("full", 0.0)[0], turn(120))
    with pytest.raises(ValueError, match=name) as caught:
        find_centres(y, angles, **options)
    assert len(str(caught.value)) < 400
