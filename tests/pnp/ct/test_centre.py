"""The axis of rotation and Hounsfield units, against analytic sinograms and tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rel
from radon_truth import SHEPP_LOGAN, Array, Ellipse, half_turn, tensor

from operators import FanBeam, Radon
from pnp.ct import attenuation, find_centre, hounsfield, line_integrals, offset_from_centre, water_attenuation
from pnp.readers import read_dxchange

BINS, RADIUS = 161, 55
LUMP = [Ellipse(1.0, 0.5, 0.35, 0.1, -0.05, 0.3), Ellipse(0.8, 0.08, 0.12, -0.15, 0.1, 0)]
FULL, HALF, CLOSED = 2 * half_turn(180), half_turn(180), np.linspace(0, np.pi, 181)
SCATTERED = np.random.default_rng(0).uniform(0, 2 * np.pi, 180)
WAYS = [
    ("auto", FULL), ("auto", HALF), ("auto", CLOSED), ("auto", SCATTERED), ("auto", 0.4 - HALF), ("opposite", FULL),
    ("opposite", CLOSED), ("wedge", HALF), ("wedge", CLOSED), ("moments", FULL), ("moments", HALF),
    ("moments", SCATTERED),
]  # fmt: skip


def sinogram(centre: float, angles: Array, parts: list[Ellipse] = SHEPP_LOGAN) -> Array:
    t = np.arange(BINS) - centre
    return np.sum([e.scaled(RADIUS).sinogram(angles, t, 1.0) for e in parts], axis=0)  # type: ignore[no-any-return]


def noisy(y: Array, seed: int) -> Array:
    return y + 0.05 * y.max() * np.random.default_rng(seed).standard_normal(y.shape)


@pytest.mark.parametrize(("method", "angles"), WAYS)
@pytest.mark.parametrize("parts", [SHEPP_LOGAN, LUMP])
@pytest.mark.parametrize("centre", [80.0, 83.3, 71.85, 96.6])
def test_the_axis_is_found_within_a_twentieth_of_a_bin(
    method: str, angles: Array, parts: list[Ellipse], centre: float
) -> None:
    assert abs(find_centre(sinogram(centre, angles, parts), angles, method=method) - centre) < 0.05


@pytest.mark.parametrize(("method", "angles"), WAYS)
def test_the_axis_is_found_under_noise(method: str, angles: Array) -> None:
    centres = (80.0, 83.3, 71.85)
    found = [
        find_centre(noisy(sinogram(c, angles), seed), angles, method=method) for seed, c in enumerate(centres)
    ]  # 5 % of the largest line integral
    assert max(abs(a - b) for a, b in zip(found, centres, strict=True)) < 0.3


@pytest.mark.parametrize("centre", [30.4, 40.0, 128.7])  # the object reaches 51 bins to both sides
@pytest.mark.parametrize("angles", [FULL, CLOSED, SCATTERED])
def test_opposite_views_find_the_axis_of_a_truncated_object(centre: float, angles: Array) -> None:
    y = sinogram(centre, angles)
    assert max(y[:, 0].max(), y[:, -1].max()) > 0.1 * y.max()
    assert abs(find_centre(y, angles) - centre) < 0.05
    assert abs(find_centre(noisy(y, 0), angles) - centre) < (0.5 if angles is CLOSED else 0.3)  # a single pair


def test_half_a_turn_of_a_truncated_object_is_warned_of() -> None:
    """ "wedge" is 2.9 bins off, and no opposite view shows it."""
    y = sinogram(83.3, HALF)[:, 40:120]
    with pytest.warns(UserWarning, match="truncated"):
        found = find_centre(y, HALF)
    assert abs(found - 43.3) > 0.5


def test_moments_refuse_a_truncated_object_that_they_can_tell() -> None:
    with pytest.raises(ValueError, match="truncated"):
        find_centre(sinogram(25.0, FULL, LUMP), FULL, method="moments")


def test_slices_share_the_axis_and_numbers_may_be_of_any_kind() -> None:
    y = np.stack([sinogram(83.3, HALF), sinogram(83.3, HALF, LUMP)])
    found = find_centre(y, HALF)
    assert abs(found - 83.3) < 0.05
    assert find_centre(torch.tensor(y), torch.tensor(HALF)) == found
    assert abs(find_centre(y.astype(">f4"), list(HALF)) - found) < 1e-3
    order = np.random.default_rng(1).permutation(180)
    assert abs(find_centre(y[:, order], HALF[order]) - found) < 1e-9


def test_the_offset_is_radons() -> None:
    centre, pitch = 71.85, 0.5
    A = Radon((128, 128), FULL, n_detectors=BINS, pitch=pitch, pixel_size=pitch,
              offset=offset_from_centre(centre, BINS, pitch))  # fmt: skip
    x = tensor(np.sum([e.scaled(RADIUS).image((128, 128)) for e in LUMP], axis=0))
    y = A.A(x)
    assert rel(y, pitch * tensor(sinogram(centre, FULL, LUMP))) < 0.02
    assert abs(find_centre(y, FULL) - centre) < 0.05


@pytest.mark.parametrize(
    ("change", "method", "part"),
    [
        (lambda y, a: (y.T, a), "auto", "swapaxes"),
        (lambda y, a: (y[:90], a), "auto", "181 angles"),
        (lambda y, a: (y[:120], a[:120]), "opposite", "opposite"),
        (lambda y, a: (y[:120], a[:120]), "wedge", "half a turn"),
        (lambda y, a: (y[:2], a[:2]), "moments", "three"),
        (lambda y, a: (np.repeat(y[:1], 9, 0), np.repeat(a[:1], 9)), "auto", "three"),
        (lambda y, a: (y[:1], a[:1]), "auto", "2 views"),
        (lambda y, a: (0 * y, a), "auto", "zero everywhere"),
        (lambda y, a: (-y, a), "moments", "-log"),
        (lambda y, a: (y * np.where(y == y.max(), np.nan, 1), a), "auto", "finite"),
        (lambda y, a: (y, a), "fft", ": method "),
    ],
)
def test_what_cannot_be_is_said(change: Any, method: str, part: str) -> None:
    y, angles = change(sinogram(80.0, CLOSED), CLOSED)
    with pytest.raises(ValueError, match=part) as caught:
        find_centre(y, angles, method=method)
    assert len(str(caught.value)) < 400


def test_transmissions_are_noticed() -> None:
    with pytest.warns(UserWarning, match="transmissions"):
        find_centre(np.exp(-sinogram(80.0, FULL)), FULL)


def test_a_fan_over_a_full_turn_has_its_axis_found_too() -> None:
    angles = np.arange(360) * math.radians(1)
    for offset in (0.0, -13.4):
        op = FanBeam((64, 64), angles, source_origin=160.0, origin_detector=60.0, n_detectors=131, offset=offset)
        x = torch.zeros(1, 1, 64, 64)
        x[..., 12:40, 20:50], x[..., 20:30, 26:33] = 1.0, 2.0
        found = find_centre(op.A(x)[0, 0], angles)
        assert offset_from_centre(found, 131) == pytest.approx(offset, abs=0.1)


def test_degrees_are_noticed() -> None:
    with pytest.warns(UserWarning, match="deg2rad"):
        find_centre(sinogram(80.0, FULL), np.rad2deg(FULL))


def test_the_tooth_turns_about_bin_296(data_dir: Path) -> None:
    scan = read_dxchange(data_dir / "ct" / "tooth.h5")
    record, angles = line_integrals(scan), scan.angles
    assert 1 < record.photons_per_count < 2
    assert abs(find_centre(record.y, angles) - 295.86) < 0.1  # where CG's residual at 448 x 448 is least, too
    assert abs(find_centre(record.y, angles, method="moments") - 296) < 0.5
    # The predicted noise is that of air between one view and the next.
    air = np.diff(record.y[..., :40], n=2, axis=1) / math.sqrt(6)
    assert air.std() == pytest.approx(float(np.median(record.noise_std[..., :40])), rel=0.15)


def test_water_is_zero_and_air_is_minus_1000() -> None:
    mu = torch.tensor([0.0, 0.02, 0.03], dtype=torch.float64)
    assert torch.allclose(hounsfield(mu, 0.02), torch.tensor([-1000.0, 0, 500], dtype=mu.dtype), atol=1e-9)
    assert torch.allclose(attenuation(hounsfield(mu, 0.02), 0.02), mu)
    assert attenuation(np.float32([-1000, 0]), 0.2).dtype == np.float32
    with pytest.raises(ValueError, match="mu_water"):
        hounsfield(mu, 0.0)


@pytest.mark.parametrize(
    # Points of NIST's XCOM between those of the table, in 1/cm.
    ("energy", "per_cm"),
    [(21, 0.7253), (22, 0.6557), (23, 0.5978), (25, 0.5082), (27, 0.4433), (29, 0.3951), (155, 0.149), (160, 0.1475)],
)
def test_water_between_the_points_of_the_table(energy: float, per_cm: float) -> None:
    assert 10 * water_attenuation(energy) == pytest.approx(per_cm, rel=0.003)


@pytest.mark.parametrize("energy", [0.06, 60_000, -1])
def test_energies_in_other_units_are_refused(energy: float) -> None:
    with pytest.raises(ValueError, match="energy_kev"):
        water_attenuation(energy)
