"""A SPECT scan by itself, scatter from energy windows, attenuation from Hounsfield units, and the page on all of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from reader_files import refused
from spect_files import assert_upright, items, phantom, write_interfile, write_nm

from operators import SPECT, collimator_fwhm
from pnp.io import write_nifti
from pnp.readers import EnergyWindow, SpectScan
from pnp.spect import attenuation_from_hu, triple_energy_window


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"y": np.ones((1, 4, 6, 3))}, "y"),
        ({"angles": np.zeros(3)}, "angle"),
        ({"angles": np.array([0, 1, math.nan, 2])}, "got 1 NaN"),
        ({"y": -np.ones((1, 1, 4, 6, 3))}, "y"),
        ({"y": np.full((1, 1, 4, 6, 3), math.nan)}, "got 72 NaN"),
        ({"pixel_size_mm": (4.8, -1)}, "pixel_size_mm"),
        ({"radius_mm": np.ones(3)}, "radius_mm"),
        ({"radius_mm": np.array([1, 0, 1, 1])}, "positive numbers"),
        ({"windows": (EnergyWindow("", 1, 2),) * 2}, "windows"),
    ],
)
def test_scan_refuses(changes, part):
    scan = SpectScan(np.ones((1, 1, 4, 6, 3), np.float32), np.arange(4.0), (4.8, 5.0))
    assert part in refused(lambda: replace(scan, **changes))


def test_scan_gives_what_solve_takes():
    views = np.random.default_rng(0).poisson(5.0, (2, 1, 4, 6, 3))
    scan = SpectScan(views, np.arange(4) * np.pi / 2, (4.8, 5.0), np.full(4, 200.0))
    y, noise_std = scan.tensors()
    assert noise_std is None and y.dtype == torch.float32
    np.testing.assert_array_equal(y, views)
    y += 1
    np.testing.assert_array_equal(scan.y, views)  # y is a copy
    mu, sheet = torch.full((6, 8, 3), 0.01), {"hole_diameter": 3.0, "hole_length": 40.0}
    A = scan.operator((6, 8, 3), attenuation=mu, collimator=sheet)
    fwhm = collimator_fwhm(8, scan.radius_mm, voxel_size=4.8, **sheet)
    B = SPECT((6, 8, 3), scan.angles, voxel_size=(4.8, 5.0), attenuation=mu, fwhm=fwhm)
    torch.testing.assert_close(A.A_adjoint(y), B.A_adjoint(y), rtol=0, atol=0)
    assert scan.operator().shape == (6, 6, 3)
    assert "shape must be (6, ny, 3)" in refused(scan.operator, (6, 6, 4))
    assert "radius_mm" in refused(replace(scan, radius_mm=None).operator, collimator=sheet)


def test_scan_notices_degrees():
    with pytest.warns(UserWarning, match="deg2rad"):
        SpectScan(np.ones((1, 1, 4, 6, 3), np.float32), np.arange(4.0) * 90, (4.8, 5.0))


# ------------------------------------------------------------------------------------------- scatter, attenuation


def test_scatter_of_a_spectrum_that_is_a_straight_line_is_exact():
    """Counts of the line a + b E integrated over windows that touch the peak, which holds nothing else."""
    a, b = 5.0, -0.02
    area = lambda low, high: a * (high - low) + b * (high**2 - low**2) / 2  # noqa: E731
    edges = [(124.0, 126.0), (126.0, 154.0), (154.0, 156.0)]
    lower, peak, upper = (torch.tensor([area(*e)], dtype=torch.float64) for e in edges)
    assert float(triple_energy_window(lower, upper, (2, 28, 2))) == pytest.approx(float(peak), rel=1e-12)
    assert float(triple_energy_window(lower, None, (2, 28))) == pytest.approx(float(lower) / 2 * 28 / 2)


@pytest.mark.parametrize(
    ("lower", "upper", "widths", "part"),
    [
        (np.ones(3), np.ones(3), (2, 28), ": widths_kev "),
        (np.ones(3), None, (2, 28, 2), ": widths_kev "),
        (np.ones(3), np.ones(2), (2, 28, 2), "(3,) and (2,)"),
        (-np.ones(3), np.ones(3), (2, 28, 2), "lower"),
        (np.ones(3), np.full(3, math.nan), (2, 28, 2), "upper"),
        (np.ones(3), np.ones(3), (2, 0, 2), ": widths_kev "),
    ],
)
def test_scatter_refuses(lower, upper, widths, part):
    assert part in refused(triple_energy_window, lower, upper, widths)


def test_attenuation_meets_its_materials():
    """Air, water and bone as the tables have them at energies of the tables, whatever the CT's energy."""
    for ct in (60.0, 80.0):
        water, bone = {60.0: (0.02059, 0.3148 * 0.192), 80.0: (0.01837, 0.2229 * 0.192)}[ct]
        hu = np.array([-2000.0, -1000.0, 0.0, 1000 * (bone / water - 1)])
        mu = attenuation_from_hu(hu, 200.0, ct_kev=ct)
        np.testing.assert_allclose(mu, [0, 0, 0.01370, 0.1309 * 0.192], rtol=1e-9)
    assert mu.min() == 0  # not a rounding below, which SPECT refuses
    # The torso's water at 208 keV, and what is quoted for 99mTc: 0.15/cm.
    assert attenuation_from_hu(0.0, 208.0) == pytest.approx(0.01351, rel=2e-3)
    assert attenuation_from_hu(0.0, 140.5) == pytest.approx(0.0154, rel=5e-3)
    volume = torch.linspace(-1000, 2000, 24).reshape(2, 3, 4)
    found = attenuation_from_hu(volume, 208.0)
    assert found.dtype == torch.float32 and bool((found.flatten().diff() > 0).all())
    np.testing.assert_allclose(found, attenuation_from_hu(volume.numpy(), 208.0), rtol=1e-6)
    assert attenuation_from_hu(np.array([-1024, 0], np.int16), 208.0)[0] == 0


def test_attenuation_refuses():
    assert "0.208" in refused(attenuation_from_hu, 0.0, 0.208)
    assert "ct_kev" in refused(attenuation_from_hu, 0.0, 208.0, ct_kev=1000.0)
    assert ": hu " in refused(attenuation_from_hu, np.array([math.nan]), 208.0)


# ------------------------------------------------------------------------------------------- the documentation


def test_the_page_runs(tmp_path, monkeypatch):
    """Every block of the page, in order, on files like those that it names."""
    page = ROOT / "docs" / "bring_your_data_spect.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    patient, y, degrees = phantom()
    frames = np.rint(y[0, 0].numpy()).transpose(0, 2, 1)[:, ::-1]
    window = lambda a, b: {  # noqa: E731
        "EnergyWindowRangeSequence": items({"EnergyWindowLowerLimit": a, "EnergyWindowUpperLimit": b})
    }
    write_nm(
        tmp_path / "lu177.dcm",
        np.concatenate([frames // 8, frames, frames // 16]),
        EnergyWindowVector=np.repeat([1, 2, 3], 12).tolist(),
        DetectorVector=([1] * 6 + [2] * 6) * 3,
        AngularViewVector=[*range(1, 7)] * 6,
        EnergyWindowInformationSequence=items(window(167, 187), window(187, 229), window(229, 250)),
        DetectorInformationSequence=items(
            *({"StartAngle": start, "RadialPosition": ["250"]} for start in ("90", "270"))
        ),
        rotation={"StartAngle": "90", "AngularStep": "30", "RotationDirection": "CW"},
        PixelSpacing=["16", "16"],
    )
    order = np.argsort((degrees - 180) % 360)
    lines = {"[1] := 4.800": "[1] := 16", "[2] := 5.000": "[2] := 16"}
    write_interfile(tmp_path / "simulation.h00", frames[order], replace=lines)
    mu = patient.attenuation.numpy()
    write_nifti(tmp_path / "mu.nii.gz", mu, 16.0)
    write_nifti(tmp_path / "organs.nii.gz", patient.labels.numpy(), 16.0)
    write_nifti(tmp_path / "ct.nii.gz", np.where(mu > 0, 0.0, -1000.0), 16.0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert (tmp_path / "osem.nii.gz").is_file() and (tmp_path / "scan.h5").is_file()
    assert_upright(names["x"][0, 0], patient)
