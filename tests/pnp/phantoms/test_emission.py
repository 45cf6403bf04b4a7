"""Simulated SPECT scans, and the camera they are made with."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import rel
from torch import Tensor

from operators import SPECT, collimator_fwhm, spect_camera
from operators.spect.camera import penetrated_psf
from operators.spect.response import gaussian
from pnp.phantoms import ISOTOPES, EmissionScan, emission_scan

ANGLES = torch.arange(12, dtype=torch.float64) * (math.pi / 6)
SHEET = {"hole_diameter": 2.94, "hole_length": 40.64, "septal_attenuation": 1.04, "intrinsic": 3.8}


def scan(name: str, **options: object) -> EmissionScan:
    isotope = ISOTOPES[name]

    def camera(mu: Tensor, voxel: float) -> SPECT:
        kinds = {"collimator": isotope.collimator, "penetration": isotope.penetration}
        return spect_camera(mu, ANGLES, voxel_size=voxel, radius=isotope.radius_mm, **kinds)

    return emission_scan(isotope, camera, (32, 32, 12), voxel_size_mm=12.8, **options)


@pytest.fixture(scope="module", params=ISOTOPES)
def found(request: pytest.FixtureRequest) -> tuple[str, EmissionScan]:
    return request.param, scan(request.param)


def test_counts(found: tuple[str, EmissionScan]) -> None:
    name, s = found
    isotope = ISOTOPES[name]
    assert s.y.shape == s.background.shape == (1, 1, 12, 32, 12)
    assert torch.equal(s.y, s.y.round()) and float(s.background.min()) >= 0
    primary = float(s.y.sum() - s.background.sum())
    assert primary == pytest.approx(isotope.counts, rel=5 * math.sqrt(2 * isotope.counts) / isotope.counts)
    # Some scatter leaves the detector.
    assert 0.5 * isotope.scatter < float(s.background.sum()) / isotope.counts <= isotope.scatter


def test_the_operator_explains_the_counts(found: tuple[str, EmissionScan]) -> None:
    """On voxels twice as large, up to the discretisation."""
    _, s = found
    expected = s.operator.A(s.truth) + s.background
    assert rel(expected, s.y) < 0.05
    assert float(expected.sum()) == pytest.approx(float(s.y.sum()), rel=0.02)


def test_seeds(found: tuple[str, EmissionScan]) -> None:
    name, s = found
    assert torch.equal(scan(name).y, s.y)
    assert not torch.equal(scan(name, seed=1).truth, s.truth)
    assert not torch.equal(scan(name, virtual=True).truth, s.truth)


# ---------------------------------------------------------------- the camera


def test_camera_is_the_collimators() -> None:
    mu = 0.01 * torch.rand(8, 8, 4, generator=torch.Generator().manual_seed(0))
    x = torch.rand(1, 1, 8, 8, 4, generator=torch.Generator().manual_seed(1))
    A = spect_camera(mu, ANGLES, voxel_size=9.6, radius=120.0, collimator=SHEET)
    fwhm = collimator_fwhm(8, 120.0, voxel_size=9.6, **SHEET)
    assert torch.equal(A.A(x), SPECT((8, 8, 4), ANGLES, voxel_size=9.6, attenuation=mu, fwhm=fwhm).A(x))
    # As a psf it is cut off at the same place, and factored again.
    B = spect_camera(mu, ANGLES, voxel_size=9.6, radius=120.0, collimator=SHEET, penetration=(0.0, 50.0))
    assert rel(B.A(x), A.A(x)) < 1e-6


def test_penetration_is_a_share_of_the_counts() -> None:
    """In two Gaussians of very different width, what is beyond the narrow one belongs to the wide one."""
    psf = penetrated_psf(torch.tensor([6.0, 12.0]), share=0.3, penetration_fwhm=100.0, voxel_size=4.0, n=64)
    torch.testing.assert_close(psf.sum((1, 2)), torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=0)
    wide = gaussian(torch.tensor([100.0], dtype=torch.float64), 4.0, 64)[0]
    core = psf - 0.3 * wide[:, None] * wide / wide.sum() ** 2
    middle = psf.shape[1] // 2
    inside = core[:, middle - 8 : middle + 9, middle - 8 : middle + 9].sum((1, 2))
    torch.testing.assert_close(inside, torch.full((2,), 0.7, dtype=torch.float64), rtol=1e-3, atol=0)
    assert torch.linalg.matrix_rank(psf[0], rtol=1e-9) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attenuation": torch.zeros(1, 1, 8, 8, 4)}, "attenuation"),
        ({"penetration": (1.5, 100.0)}, ": share "),
        ({"penetration": (0.3, 0.0)}, "penetration_fwhm"),
        ({"penetration": (0.3, 100.0), "radius": torch.full((12,), 200.0)}, "radius"),
    ],
)
def test_bad_camera(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"voxel_size": 9.6, "radius": 200.0, "collimator": SHEET} | options
    with pytest.raises(ValueError, match=message):
        spect_camera(**{"attenuation": torch.zeros(8, 8, 4), "angles": ANGLES} | arguments)


def test_voxels_may_be_longer_than_wide() -> None:
    mu, x = torch.zeros(8, 8, 4), torch.zeros(1, 1, 8, 8, 4)
    x[..., 4, 4, 2] = 1
    size = (9.6, 19.2)
    for penetration in (None, (0.2, 60.0)):
        A = spect_camera(mu, ANGLES[:1], voxel_size=size, radius=200.0, collimator=SHEET, penetration=penetration)
        y = A.A(x)[0, 0, 0]
        # One bin along z is two along x.
        assert float(y[4, 3] / y[4, 2]) == pytest.approx(float(y[2, 2] / y[4, 2]), rel=1e-4)
