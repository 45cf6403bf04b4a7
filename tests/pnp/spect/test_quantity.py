"""Activity in MBq/ml: decay by quadrature, half-lives, and a cylinder of known activity on a finer grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from operators import SPECT
from pnp import osem
from pnp.spect import HALF_LIFE_S, activity_scale, half_life, isotope_name

HOUR = 3600.0


def test_half_lives_are_those_of_other_tables() -> None:
    """Hours and days as nuclear medicine's textbooks round them (Cherry, Sorenson and Phelps, appendix C)."""
    hours = {"99mTc": 6.0, "123I": 13.2, "90Y": 64.1, "111In": 67.3, "201Tl": 73.0, "67Ga": 78.3}
    hours |= {"177Lu": 159.5, "131I": 192.6}
    assert set(hours) == set(HALF_LIFE_S)
    for name, value in hours.items():
        assert half_life(name) / HOUR == pytest.approx(value, rel=3e-3)
    with pytest.raises(ValueError, match="isotope"):
        half_life("18F")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("^99m^Technetium", "99mTc"),
        ("Tc99m", "99mTc"),
        ("TC-99M", "99mTc"),
        ("111 Indium", "111In"),
        ("In-111 chloride", "111In"),
        ("Iodine-123", "123I"),
        ("i131", "131I"),
        ("Yttrium 90", "90Y"),
        ("Tl201", "201Tl"),
        ("^67^Gallium", "67Ga"),
        ("Lu 1777", None),
        ("99Tc", None),
        ("", None),
    ],
)
def test_isotopes_in_any_spelling(text: str, name: str | None) -> None:
    assert isotope_name(text) == name


def test_decay_is_the_integral() -> None:
    lives, view_s = half_life("99mTc"), np.array([20.0, 900.0, 7200.0])
    start_s, reference_s = np.array([0.0, 20.0, 3600.0]), -4 * HOUR
    rate = math.log(2) / lives
    counted = [
        quad(lambda t: math.exp(-rate * (t - reference_s)), a, a + T)[0] for a, T in zip(start_s, view_s, strict=True)
    ]
    scale = activity_scale(8.5, view_s, (4.8, 5.0), half_life_s=lives, start_s=start_s, reference_s=reference_s)
    assert scale == pytest.approx(1 / (8.5 * np.mean(counted) * 4.8**2 * 5 / 1000), rel=1e-9)
    # A short view long after the reference time: the activity then was 2^n times as large.
    late = activity_scale(8.5, 1.0, 10.0, half_life_s=lives, reference_s=-3 * lives)
    assert late == pytest.approx(8 / 8.5, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("calibration", {"calibration_cps_per_mbq": 0.0}),
        ("view_s", {"view_s": 0.0}),
        ("view_s", {"view_s": [1.0, math.nan]}),
        ("voxel_size_mm", {"voxel_size_mm": (4.8, -1.0)}),
        ("half_life_s", {"half_life_s": 0.0}),
        ("half_life_s", {"half_life_s": math.nan}),
        ("start_s", {"view_s": [1.0, 1.0], "start_s": [0.0, 1.0, 2.0]}),
        ("reference_s", {"reference_s": math.inf}),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict) -> None:
    good = {"calibration_cps_per_mbq": 9.0, "view_s": 20.0, "voxel_size_mm": 4.8, "half_life_s": 100.0}
    with pytest.raises(ValueError, match=name):
        activity_scale(**(good | arguments))


def test_a_cylinder_of_known_activity_comes_back() -> None:
    """0.4 MBq/ml of 99mTc in water, counted by two heads in 30 views of 40 s; simulated on voxels of half the side.

    Each view has its own decay; the reconstruction takes the mean. The cylinder's total is that of its true volume.
    """
    n, size, height = 24, 8.0, 6
    calibration, seconds, concentration = 90.0, 40.0, 0.4
    lives, reference_s = half_life("99mTc"), -2 * HOUR
    angles = torch.arange(30) * (2 * math.pi / 30)
    start_s = np.arange(30) % 15 * seconds  # the second head begins half a turn on

    def cylinder(m: int, radius: float) -> torch.Tensor:
        """The part of each voxel of a grid of m inside a circle, by 8 x 8 points."""
        fine = (torch.arange(8 * m) - (8 * m - 1) / 2) * (n * size / (8 * m))
        inside = (fine[:, None] ** 2 + fine**2 < radius**2).double()
        return inside.view(m, 8, m, 8).mean((1, 3))

    def camera(scale: int) -> SPECT:
        m = scale * n
        mu = 0.015 * cylinder(m, 85.0)[..., None].expand(m, m, scale * height).float()
        return SPECT((m, m, scale * height), angles, voxel_size=size / scale, attenuation=mu, fwhm=10.0)

    activity = cylinder(2 * n, 55.0)[..., None].expand(2 * n, 2 * n, 2 * height).clone()
    activity[..., :4] = activity[..., 8:] = 0  # of 12 slices
    rate = math.log(2) / lives
    counts = activity * concentration * (size / 2) ** 3 / 1000 * calibration  # per second
    y = camera(2).A(counts.float()[None, None]).view(1, 1, 30, n, 2, height, 2).sum((4, 6))
    counted = [
        quad(lambda t: math.exp(-rate * (t - reference_s)), start, start + seconds)[0] for start in start_s.tolist()
    ]
    y = torch.poisson(y * torch.tensor(counted).float()[:, None, None], generator=torch.Generator().manual_seed(1))
    x = osem(camera(1), y, n_subsets=5, max_iter=12).x
    scale = activity_scale(calibration, seconds, size, half_life_s=lives, start_s=start_s, reference_s=reference_s)
    found = float(x.sum()) * scale * size**3 / 1000
    true = float(activity.sum()) * concentration * (size / 2) ** 3 / 1000
    assert true == pytest.approx(concentration * math.pi * 5.5**2 * 4 * 0.4, rel=0.01)
    noise = 1 / math.sqrt(float(y.sum()))
    assert abs(found / true - 1) < 4 * noise + 0.005
    inside = cylinder(n, 35.0) == 1
    assert float((x[0, 0, ..., 2:4] * scale)[inside].mean()) == pytest.approx(concentration, rel=0.1)
