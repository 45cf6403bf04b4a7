"""Regions and recovery: spheres under a Gaussian by quadrature, errors of totals by repeated scans."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from operators import SPECT
from pnp import osem
from pnp.spect import fit_recovery, region_activity, sphere_diameter
from pnp.uncertainty import bootstrap_osem

NEMA_MM = np.array([10.0, 13.0, 17.0, 22.0, 28.0, 37.0])


def recovery_of_sphere(diameter: float, fwhm: float) -> float:
    """The mean of a sphere, blurred by a Gaussian, inside its borders.

    It is the integral of the blur with the part that a sphere shares with itself moved by r, 1 - 3r/4R + r^3/16R^3.
    """
    radius, sigma = diameter / 2, fwhm / 2.354820045

    def density(r: float) -> float:
        shared = 1 - 3 * r / (4 * radius) + r**3 / (16 * radius**3)
        return 4 * math.pi * r**2 * shared * math.exp(-(r**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** 1.5

    return quad(density, 0, diameter)[0]


@pytest.mark.parametrize("fwhm", [8.0, 12.0, 18.0])
def test_the_curve_holds_for_spheres_that_were_not_measured(fwhm: float) -> None:
    curve = fit_recovery(NEMA_MM, [recovery_of_sphere(d, fwhm) for d in NEMA_MM])
    for d in (11.0, 15.0, 20.0, 25.0, 33.0):
        assert curve.at(d)[0] == pytest.approx(recovery_of_sphere(d, fwhm), abs=0.02)
    assert curve.rms < 0.02


def test_the_curve_knows_its_error() -> None:
    """The scatter of many fits is the error that one of them states."""
    truth, std = 1 / (1 + (14.0 / NEMA_MM) ** 2), 0.03
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        found.append(fit_recovery(NEMA_MM, truth + std * rng.standard_normal(6), std).at(16.0))
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(1 / (1 + (14 / 16) ** 2), abs=0.003)
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_regions_are_corrected_and_their_errors_with_them() -> None:
    x, labels = np.zeros((8, 8, 8)), np.zeros((8, 8, 8), int)
    x[2:5, 2:5, 2:5], x[6] = 0.5, 0.25
    labels[2:5, 2:5, 2:5], labels[6] = 3, 7
    curve = fit_recovery([5.0, 17.0, 37.0], 1 / (1 + (14.0 / np.array([5.0, 17.0, 37.0])) ** 2), 0.02)
    small, large = region_activity(x, labels, (4.0, 5.0), std_of=lambda mask: 0.01 * mask.sum(), recovery=curve)
    assert (small.label, large.label) == (3, 7) and small.volume_ml == pytest.approx(27 * 0.08)
    part, part_std = curve.at(sphere_diameter(small.volume_ml))
    assert small.mean == pytest.approx(0.5 / part) and small.total == pytest.approx(small.mean * small.volume_ml)
    assert small.mean_std == pytest.approx(small.mean * math.hypot(0.27 / 0.5, part_std / part))
    bare = region_activity(x, labels, (4.0, 5.0))[1]
    assert (bare.mean, bare.recovery) == (0.25, 1.0) and math.isnan(bare.total_std)
    with pytest.warns(UserWarning, match="extrapolated"):
        curve.at(3.0)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("diameter_mm", lambda: fit_recovery([10, 20], [0.2, 0.5])),
        ("diameter_mm", lambda: fit_recovery([-1, 10, 20], [0.1, 0.2, 0.5])),
        ("recovery", lambda: fit_recovery([10, 20, 30], [20, 50, 70])),
        ("recovery", lambda: fit_recovery([10, 20, 30], [0.7, 0.5, 0.3])),
        ("std", lambda: fit_recovery([10, 20, 30], [0.2, 0.5, 0.7], 0.0)),
        ("labels", lambda: region_activity(np.ones((2, 2, 2)), np.ones((2, 2)), 4.0)),
        ("labels", lambda: region_activity(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), 4.0)),
        ("labels", lambda: region_activity(np.ones((2, 2, 2)), np.full((2, 2, 2), 0.5), 4.0)),
        ("voxel_size_mm", lambda: region_activity(np.ones((2, 2, 2)), np.ones((2, 2, 2)), -4.0)),
        ("volume_ml", lambda: sphere_diameter(0.0)),
    ],
)
def test_wrong_arguments_are_named(name: str, call) -> None:
    with pytest.raises(ValueError, match=name):
        call()


def test_errors_of_regions_are_those_of_repeated_scans() -> None:
    """The standard deviation of a region's mean over 40 scans, and what the copies of one scan say."""
    angles = torch.arange(12) * (2 * math.pi / 12)
    A = SPECT((12, 12, 6), angles, voxel_size=8.0, fwhm=12.0)
    truth = torch.zeros(1, 1, 12, 12, 6)
    truth[..., 3:9, 3:9, 1:5] = 2.0
    truth[..., 4:6, 4:6, 2:4] = 10.0
    mask = truth[0, 0] == 10
    clean, options = A.A(truth) + 1.0, {"n_subsets": 3, "max_iter": 4, "background": 1.0}
    scans = torch.poisson(clean.expand(40, -1, -1, -1, -1), generator=torch.Generator().manual_seed(0))
    means = torch.stack([osem(A, y[None], **options, check_adjoint=False).x[0, 0][mask].mean() for y in scans])
    bars = bootstrap_osem(A, scans[:1], n=40, **options)
    region = bars.region(mask)
    assert region.std == pytest.approx(float(means.std()), rel=0.35)
    assert region.value == pytest.approx(float(means.mean()), abs=4 * float(means.std()))
    again = bootstrap_osem(A, scans[:1].numpy(), n=2, **options)
    assert isinstance(again.x, np.ndarray) and np.allclose(again.samples.sum(0), 0, atol=1e-4)
    first, second = bars.samples[:2].numpy()
    np.testing.assert_allclose(
        np.diff(again.samples, axis=0)[0] / 2**0.5, (second - first) / (40 / 39) ** 0.5, atol=1e-4
    )
    with pytest.raises(ValueError, match="n must"):
        bootstrap_osem(A, scans[:1], n=1, **options)
