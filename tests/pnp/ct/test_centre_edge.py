"""The axis of half acquisition and of fans, search windows, and what find_centre says where it does not know."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from radon_truth import SHEPP_LOGAN, Array, Ellipse, half_turn, turn

from pnp.ct import find_centre
from pnp.readers import read_htc2022

BINS, PITCH = 130, 1.5
LUMP = [Ellipse(1.0, 0.5, 0.35, 0.1, -0.05, 0.3), Ellipse(0.8, 0.08, 0.12, -0.15, 0.1, 0)]
SCATTERED = np.random.default_rng(0).uniform(0, 2 * np.pi, 180)
FAN = {"source_origin": 300.0, "origin_detector": 150.0, "pitch": PITCH}
EDGES = [3.0, 6.4, 13.2, 126.1]


def parallel(centre: float, angles: Array, radius: float = 96, parts: list[Ellipse] = SHEPP_LOGAN) -> Array:
    t = np.arange(BINS) - centre
    return np.sum([e.scaled(radius).sinogram(angles, t, 1.0) for e in parts], axis=0)  # type: ignore[no-any-return]


def fan(centre: float, angles: Array, radius: float = 80, parts: list[Ellipse] = SHEPP_LOGAN) -> Array:
    u = PITCH * (np.arange(BINS) - centre)
    return np.sum([e.scaled(radius).fan_sinogram(angles, u, PITCH, 300.0, 450.0) for e in parts], axis=0)  # type: ignore[no-any-return]


def noisy(y: Array, share: float, stripes: float = 0.0) -> Array:
    rng = np.random.default_rng(0)
    return y + y.max() * (share * rng.standard_normal(y.shape) + stripes * rng.standard_normal(y.shape[-1]))


@pytest.mark.parametrize("angles", [turn(360), turn(60), SCATTERED, np.linspace(0, 2 * np.pi, 361)])
@pytest.mark.parametrize("centre", EDGES)
def test_half_acquisition_down_to_a_fortieth_of_the_bins(angles: Array, centre: float) -> None:
    y = parallel(centre, angles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(find_centre(y, angles) - centre) < 0.05
        assert abs(find_centre(noisy(y, 0.01), angles) - centre) < 0.1
    search = max(centre - 5, 0), min(centre + 5, BINS - 1)
    assert abs(find_centre(noisy(y, 0.02, 0.005), angles, search=search) - centre) < 0.3


@pytest.mark.parametrize("centre", EDGES)
def test_half_acquisition_of_an_object_without_detail(centre: float) -> None:
    assert abs(find_centre(parallel(centre, turn(180), parts=LUMP), turn(180)) - centre) < 0.05


@pytest.mark.parametrize("centre", [6.4, 116.3])
def test_algotom_finds_the_same_overlap(centre: float) -> None:
    calculation = pytest.importorskip("algotom.prep.calculation")
    angles = np.linspace(0, 2 * np.pi, 361)
    y = noisy(parallel(centre, angles), 0.01)
    theirs = float(calculation.find_center_360(y, 6, ncore=1)[0])
    assert abs(find_centre(y, angles) - theirs) < 0.3


@pytest.mark.parametrize("angles", [turn(120), SCATTERED, turn(140, 220)], ids=["full", "scattered", "short"])
@pytest.mark.parametrize("centre", [3.3, 13.2, 45.8, 64.5, 120.0])
def test_opposite_rays_of_a_fan(angles: Array, centre: float) -> None:
    y = fan(centre, angles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(find_centre(y, angles, **FAN) - centre) < 0.05
        assert abs(find_centre(noisy(y, 0.01), angles, **FAN) - centre) < 0.15


def test_a_wide_fan_taken_for_parallel_beams_is_noticed() -> None:
    y = fan(65.3, turn(120))
    with pytest.warns(UserWarning, match="source_origin"):
        assert abs(find_centre(y, turn(120)) - 65.3) > 0.5
    assert abs(find_centre(y, turn(120), **FAN) - 65.3) < 0.05


@pytest.mark.parametrize("name", ["ta", "tc"])
@pytest.mark.parametrize("left", [8, 28])
def test_half_of_a_measured_scan_has_the_axis_of_the_whole(data_dir: Path, name: str, left: int) -> None:
    scan = read_htc2022(data_dir / "ct" / "htc2022" / f"htc2022_{name}_full.mat")
    geometry = {key: getattr(scan, f"{key}_mm") for key in ("source_origin", "origin_detector", "pitch")}
    y = np.asarray(scan.y)
    whole = find_centre(y, scan.angles, **geometry)
    assert abs(whole - 279.4) < 0.2
    assert abs(find_centre(y[:, 280 - left :], scan.angles, **geometry) - (whole - 280 + left)) < 0.15


def test_air_is_no_evidence() -> None:
    # Without noise, air matches air at every shift; the object lies on one side of the detector.
    y = parallel(45.8, turn(180), 40)
    assert y[:, 90:].max() == 0
    assert abs(find_centre(y, turn(180)) - 45.8) < 0.05


def test_search_is_kept_to() -> None:
    y = parallel(64.7, turn(180), 50)
    assert abs(find_centre(y, turn(180), search=(60, 70)) - 64.7) < 0.05
    assert abs(find_centre(y[:90], half_turn(90), search=(60, 70)) - 64.7) < 0.05
    for angles, method in ((turn(180), "opposite"), (half_turn(180), "wedge"), (turn(180), "moments")):
        with pytest.raises(ValueError, match="search"):
            find_centre(parallel(64.7, angles, 50), angles, method=method, search=(66, 80))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"search": (10, 5)}, "search"),
        ({"search": (0, BINS)}, "search"),
        ({"search": 5}, "search"),
        ({"search": (1, math.nan)}, "search"),
        ({"source_origin": 300.0}, "origin_detector"),
        (FAN | {"pitch": 0}, "pitch"),
        (FAN | {"method": "wedge"}, "method"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        find_centre(parallel(64.7, turn(60), 50), turn(60), **options)
    assert len(str(caught.value)) < 400


def test_an_axis_that_nothing_shows_is_not_made_up() -> None:
    disc = [Ellipse(1.0, 0.8, 0.8, 0, 0, 0)]  # looks the same in all views
    with pytest.raises(ValueError, match="search"):
        find_centre(parallel(6.8, turn(180), 150, disc), turn(180))
    noise = np.random.default_rng(0).standard_normal((180, BINS)) + 3
    with pytest.raises(ValueError, match="search"):
        find_centre(noise, turn(180))


def test_an_uncertain_axis_is_said() -> None:
    ellipse = [Ellipse(1.0, 0.9, 0.5, 0, 0, 0.3)]
    with pytest.warns(UserWarning, match="uncertain"):
        find_centre(noisy(parallel(13.3, turn(60), 150, ellipse), 0.05), turn(60))
