"""Collimators, and what SPECT says of bad input."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from operators import SPECT, collimator_fwhm

VOXEL = 4.8


def test_collimator() -> None:
    """A hole and what it lets through grow with the distance; planes behind the collimator touch it."""
    bare = collimator_fwhm(5, 50.0, voxel_size=40.0, hole_diameter=2.0, hole_length=20.0)
    assert bare.tolist() == pytest.approx([2.0, 3.0, 7.0, 11.0, 15.0])
    orbit = collimator_fwhm(5, [50.0, 90.0], voxel_size=40.0, hole_diameter=2.0, hole_length=21.0, septal_attenuation=2)
    assert orbit.shape == (2, 5) and torch.equal(orbit[0], bare) and torch.equal(orbit[0, 1:], orbit[1, :-1])
    wide = collimator_fwhm(5, 50.0, voxel_size=40.0, hole_diameter=2.0, hole_length=20.0, intrinsic=4.0)
    assert torch.allclose(wide.square(), bare.square() + 16, rtol=1e-14, atol=0)


SHAPE = (4, 4, 3)
PSF = torch.full((4, 3, 3), 1 / 9)


@pytest.mark.parametrize(
    ("error", "options", "parts"),
    [
        (ValueError, {"attenuation": torch.zeros(4, 4, 4)}, ("attenuation", "(4, 4, 4)", "resample")),
        (ValueError, {"attenuation": torch.zeros(1, 1, *SHAPE)}, ("attenuation", "attenuation[0, 0]")),
        (ValueError, {"attenuation": -torch.ones(SHAPE)}, ("attenuation", "-1", "Hounsfield")),
        (ValueError, {"attenuation": torch.full(SHAPE, math.nan)}, ("attenuation", "48 NaN")),
        (ValueError, {"attenuation": torch.zeros(SHAPE).requires_grad_()}, ("attenuation", "detach()")),
        (TypeError, {"attenuation": torch.zeros(SHAPE, dtype=torch.bool)}, ("attenuation", "bool")),
        (ValueError, {"psf": PSF[:, :2] * 1.5}, ("psf", "(4, 2, 3)", "zeros")),
        (ValueError, {"psf": 2 * PSF}, ("psf", "2 to 2", "keepdims")),
        (ValueError, {"psf": PSF[:3]}, ("psf", "(3, 3, 3)")),
        (ValueError, {"psf": PSF - 0.2}, ("psf", "-0.08889")),
        (ValueError, {"psf": PSF * torch.tensor([1, 1, 0.5, 1])[:, None, None]}, ("psf", "0.5 to 1")),
        (ValueError, {"psf": PSF * math.nan}, ("psf", "36 NaN")),
        (ValueError, {"fwhm": math.nan}, ("fwhm",)),
        (TypeError, {"psf": PSF.long()}, ("psf", "int64")),
        (ValueError, {"psf": PSF, "fwhm": 3.0}, ("fwhm or psf",)),
        (ValueError, {"psf": PSF, "psf_rtol": 1.0}, ("psf_rtol", "1.0")),
        (ValueError, {"fwhm": [3.0, 4.0]}, ("fwhm", "(2, 4)", "collimator_fwhm")),
        (ValueError, {"fwhm": -1.0}, ("fwhm", "-1")),
        (ValueError, {"voxel_size": 0.0}, ("voxel_size", "0.0")),
        (ValueError, {"voxel_size": (1.0, 1.0, 1.0)}, ("voxel_size",)),
        (ValueError, {"angles": []}, (": angles ", "(0,)")),
        (ValueError, {"angles": [0.0, math.inf]}, (": angles ",)),
        (ValueError, {"interpolation": "cubic"}, ("interpolation", "cubic")),
        (TypeError, {"shape": (4, 4)}, (": shape ", "(4, 4)")),
        (ValueError, {"shape": (4, 0, 4)}, (": shape ", "(4, 0, 4)")),
        (ValueError, {"attenuation": torch.zeros(SHAPE, device="meta")}, ("attenuation",)),
    ],
)
def test_bad_input_is_explained(error: type[Exception], options: dict[str, Any], parts: tuple[str, ...]) -> None:
    arguments = {"shape": SHAPE, "angles": [0.0, 1.0], "voxel_size": VOXEL} | options
    with pytest.raises(error) as caught:
        SPECT(arguments.pop("shape"), arguments.pop("angles"), **arguments)
    message = str(caught.value)
    assert message.startswith("SPECT: ") and len(message) < 400, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("b", "n", "error"), [(2, 2, ValueError), (-1, 2, ValueError), (0, 8, ValueError), (0.5, 2, TypeError)]
)
def test_bad_subsets_are_explained(b: Any, n: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"SPECT\.subset: .*b.*n.*got"):
        SPECT(SHAPE, torch.arange(7), voxel_size=VOXEL).subset(b, n)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"septal_attenuation": 0.05}, "septal_attenuation"),
        ({"septal_attenuation": -1.0}, "septal_attenuation"),
        ({"radius": [-5.0, 3.0]}, "radius"),
        ({"hole_length": 0.0}, "hole_length"),
    ],
)
def test_bad_collimators_are_explained(options: dict[str, Any], part: str) -> None:
    arguments: dict[str, Any] = {
        "radius": 100.0,
        "voxel_size": 4.0,
        "hole_diameter": 1.5,
        "hole_length": 20.0,
    } | options
    with pytest.raises(ValueError, match=f"collimator_fwhm: {part}"):
        collimator_fwhm(4, **arguments)


def test_attenuation_that_oblique_views_lose_is_warned_of() -> None:
    """Water that fills a square, of which a circle holds pi/4; and a body with a table below it, or without."""
    square = torch.full((40, 40, 3), 0.0135)
    with pytest.warns(UserWarning, match="21 % of the attenuation .* outside the cylinder"):
        SPECT((40, 40, 3), [0.0], voxel_size=4.8, attenuation=square)
    places = torch.arange(40) - 19.5
    body = 0.0135 * (places[:, None] ** 2 + places**2 < 400).float()[..., None].expand(40, 40, 3)
    table = body.clone()
    table[4:36, 37:] = 0.0135
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SPECT((40, 40, 3), [0.0], voxel_size=4.8, attenuation=body)
        SPECT((40, 40, 3), [0.0], voxel_size=4.8, attenuation=torch.zeros(40, 40, 3))
    with pytest.warns(UserWarning, match="table"):
        SPECT((40, 40, 3), [0.0], voxel_size=4.8, attenuation=table)


def test_suspicious_units_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"attenuation .*0\.15"):
        SPECT(SHAPE, [0.0], voxel_size=VOXEL, attenuation=torch.full(SHAPE, 0.15))
    with pytest.warns(UserWarning, match="angles .*deg2rad"):
        SPECT(SHAPE, torch.arange(60) * 6.0, voxel_size=VOXEL)
    for few in ([90.0], [-90.0], [180.0, 183.0]):  # no span to speak of
        with pytest.warns(UserWarning, match="angles .*deg2rad"):
            SPECT(SHAPE, few, voxel_size=VOXEL)
    with pytest.warns(UserWarning, match="angles .*deg2rad"):
        SPECT(SHAPE, [0.0, 3.0, 6.0, 9.0], voxel_size=VOXEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = torch.zeros(SHAPE)
        inside[SHAPE[0] // 2, SHAPE[1] // 2] = 1
        SPECT(SHAPE, [0.0], voxel_size=0.48, attenuation=0.15 * inside)  # cm and 1/cm
        SPECT(SHAPE, [0.0], voxel_size=VOXEL, attenuation=0.03 * inside)  # bone
        for turns in ([0.0], [1.0, 2.0], [math.pi, 4 * math.pi], [7.5]):  # radians, up to two turns
            SPECT(SHAPE, turns, voxel_size=VOXEL)
