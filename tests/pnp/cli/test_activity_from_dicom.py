"""One command from a DICOM NM file and a CT series to MBq/ml in NIfTI and DICOM: a cylinder of known activity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from command import run
from reader_files import write_dicom
from spect_files import items, write_interfile, write_nm

from operators import SPECT, collimator_fwhm
from pnp.spect import attenuation_from_hu, half_life, lead_attenuation, post_filter

N, NZ, SIZE, VIEWS = 24, 8, 9.6, 24
CENTRE = np.array([20.0, -150.0, 700.0])
"""Where the axis meets the middle slice in the study's frame, in mm."""
RADIUS, BODY = 45.0, 90.0
"""Radii of the activity and of the water, in mm."""
CONCENTRATION, CALIBRATION, SECONDS = 0.5, 80.0, 25.0
"""MBq/ml when the scan starts, cps/MBq, and seconds of a view."""
SLICES = slice(2, 6)
COLLIMATOR = {"hole_diameter": 1.5, "hole_length": 25.0, "septal_attenuation": lead_attenuation(140.5)}
SIDES = 3.0
"""Counts of each bin in the two windows of 6 keV beside the photopeak's of 28.6 keV."""


def disc(n: int, radius: float) -> torch.Tensor:
    """The part of each pixel of a grid of n inside a circle, by 8 x 8 points."""
    fine = (torch.arange(8 * n) - (8 * n - 1) / 2) * (N * SIZE / (8 * n))
    return (fine[:, None] ** 2 + fine**2 < radius**2).double().view(n, 8, n, 8).mean((1, 3))


def write_views(path: Path) -> Path:
    """Two heads, each half a turn, as PS3.3 has them; simulated on voxels of half the side."""
    degrees = np.concatenate([np.arange(VIEWS // 2) * 15.0 + start for start in (0.0, 180.0)])
    m, mz = 2 * N, 2 * NZ
    mu = attenuation_from_hu(0.0, 140.5) * disc(m, BODY)[..., None].expand(m, m, mz).float()
    fwhm = collimator_fwhm(m, 200.0, voxel_size=SIZE / 2, **COLLIMATOR, intrinsic=3.8)
    A = SPECT((m, m, mz), np.deg2rad(180 - degrees), voxel_size=SIZE / 2, attenuation=mu, fwhm=fwhm)
    x = torch.zeros(1, 1, m, m, mz)
    x[..., 2 * SLICES.start : 2 * SLICES.stop] = disc(m, RADIUS)[..., None].float()
    primary = A.A(x).view(VIEWS, N, 2, NZ, 2).sum((2, 4)).numpy() * CONCENTRATION * (SIZE / 2) ** 3 / 1000 * CALIBRATION
    rate, start_s = math.log(2) / half_life("99mTc"), np.arange(VIEWS) % (VIEWS // 2) * SECONDS
    counted = (np.exp(-rate * start_s) - np.exp(-rate * (start_s + SECONDS))) / rate
    expected = np.stack(
        [
            np.full(primary.shape, SIDES),
            primary * counted[:, None, None] + SIDES / 6 * 28.6,
            np.full(primary.shape, SIDES),
        ]
    )
    counts = np.random.default_rng(0).poisson(expected)  # (window, view, x, z)
    frames = counts[..., ::-1].transpose(0, 1, 3, 2).reshape(-1, NZ, N)  # rows from the head down

    def head(start: float) -> dict[str, Any]:
        phi = math.radians(start)
        along, out = np.array([-math.cos(phi), math.sin(phi), 0.0]), np.array([math.sin(phi), math.cos(phi), 0.0])
        first = CENTRE + 200.0 * out - along * SIZE * (N - 1) / 2 + np.array([0, 0, SIZE * (NZ - 1) / 2])
        place = {"ImagePositionPatient": [f"{v:.4f}" for v in first], "CollimatorType": "PARA"}
        place["ImageOrientationPatient"] = [f"{v:.6f}" for v in (*along, 0, 0, -1)]
        return place | {"StartAngle": f"{start:g}", "RadialPosition": ["200"]}

    limits = [("120.0", "126.0"), ("126.0", "154.6"), ("154.6", "160.6")]
    windows = [
        {"EnergyWindowRangeSequence": items({"EnergyWindowLowerLimit": low, "EnergyWindowUpperLimit": high})}
        for low, high in limits
    ]
    code = items({"CodeValue": "C-163A8", "CodingSchemeDesignator": "SRT", "CodeMeaning": "^99m^Technetium"})
    per_head = VIEWS // 2
    return write_nm(
        path,
        frames,
        PixelSpacing=[str(SIZE)] * 2,
        EnergyWindowVector=np.repeat([1, 2, 3], VIEWS).tolist(),
        DetectorVector=np.tile(np.repeat([1, 2], per_head), 3).tolist(),
        AngularViewVector=np.tile(np.arange(per_head) + 1, 6).tolist(),
        EnergyWindowInformationSequence=items(*windows),
        DetectorInformationSequence=items(head(0.0), head(180.0)),
        rotation={
            "AngularStep": "15",
            "ActualFrameDuration": f"{1000 * SECONDS:g}",
            "NumberOfFramesInRotation": per_head,
        },
        RadiopharmaceuticalInformationSequence=items({"RadionuclideCodeSequence": code}),
        AcquisitionDate="20260301",
        AcquisitionTime="103000",
        PatientID="17",
        FrameOfReferenceUID="1.2.6",
    )


def write_ct(folder: Path) -> Path:
    """Water of that radius around the axis, pixels of 2.5 mm, slices of 5 mm."""
    folder.mkdir()
    n = 96
    places = (np.arange(n) - (n - 1) / 2) * 2.5
    hu = np.where(places[:, None] ** 2 + places**2 < BODY**2, 0, -1000).astype(np.int16)
    for k, z in enumerate(np.arange(-50.0, 51.0, 5.0)):
        first = CENTRE + np.array([places[0], places[0], z])
        write_dicom(
            folder / f"{k}.dcm",
            pixels=hu + np.int16(1024),
            slope="1",
            SOPInstanceUID=f"1.2.3.{k}",
            ImagePositionPatient=[f"{v:g}" for v in first],
            PixelSpacing=["2.5", "2.5"],
            SliceThickness="5",
            KVP="120",
        )
    return folder


def test_from_dicom_to_activity_in_one_command(monkeypatch, capsys, tmp_path):
    views, ct = write_views(tmp_path / "views.dcm"), write_ct(tmp_path / "ct")
    options = ("--mu", ct, "--energy", 140.5, "--photopeak", 2, "--scatter", "1,3", "--collimator", "1.5,25,2.69,3.8")
    options += ("--calibration", CALIBRATION, "--subsets", 4, "--iterations", 12)
    outputs = ("-o", tmp_path / "x.nii.gz", "-o", tmp_path / "x.dcm")
    assert run(monkeypatch, "osem", views, *outputs, *options) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err, said.err
    assert "99mTc, half-life 6.0067 h" in said.out and "scatter of 120-126 keV and 154.6-160.6 keV" in said.out
    image = nibabel.load(tmp_path / "x.nii.gz")
    x = image.get_fdata()
    volume_ml, total = SIZE**3 / 1000, CONCENTRATION * math.pi * RADIUS**2 * 4 * SIZE / 1000
    assert x.sum() * volume_ml == pytest.approx(total, rel=0.02)
    inside = disc(N, RADIUS - 15).numpy() == 1
    assert x[inside][:, 3:5].mean() == pytest.approx(CONCENTRATION, rel=0.05)
    np.testing.assert_allclose(
        image.affine @ [(N - 1) / 2, (N - 1) / 2, (NZ - 1) / 2, 1], [-20, 150, 700, 1], atol=0.01
    )
    assert image.header["descrip"].item().startswith(b"SPECT: activity in MBq/ml")
    data = pydicom.dcmread(tmp_path / "x.dcm")
    slope = float(data.RescaleSlope)
    np.testing.assert_allclose(data.pixel_array.transpose(2, 1, 0) * slope, 1e6 * x, atol=slope)
    assert (data.Units, list(data.CorrectedImage)) == ("BQML", ["ATTN", "SCAT", "DECY"])
    assert (data.PatientID, data.FrameOfReferenceUID) == ("17", "1.2.6")
    smooth = ("-o", tmp_path / "s.nii.gz", "--post-filter", "1.2cm")
    assert run(monkeypatch, "osem", views, *smooth, *options) == 0
    found = nibabel.load(tmp_path / "s.nii.gz")
    np.testing.assert_allclose(found.get_fdata(), post_filter(x, 12.0, SIZE), atol=1e-6)
    assert found.header["descrip"].item().endswith(b"; FWHM 12 mm")
    assert "Gaussian of 12 mm" in capsys.readouterr().out


def test_a_post_filter_is_a_gaussian_of_this_width() -> None:
    """A point becomes a Gaussian: half its height at half the width, along every axis, and its sum stays."""
    x = torch.zeros(1, 1, 41, 41, 41, dtype=torch.float64)
    x[0, 0, 20, 20, 20] = 1
    y = post_filter(x, 8.0, (1.0, 2.0))[0, 0]
    assert y[24, 20, 20] / y[20, 20, 20] == pytest.approx(0.5) == y[20, 20, 22] / y[20, 20, 20]
    assert y.sum() == pytest.approx(1)
    for name, arguments in (
        ("fwhm_mm", (x, 0.0, 4.0)),
        ("voxel_size_mm", (x, 8.0, -1.0)),
        ("x", (np.ones((3, 3)), 8.0, 4.0)),
    ):
        with pytest.raises(ValueError, match=name):
            post_filter(*arguments)


def test_options_that_do_not_fit_are_refused(monkeypatch, capsys, tmp_path):
    views = write_interfile(tmp_path / "a.h00", np.ones((4, 3, 6)))
    assert run(monkeypatch, "convert", views, "-o", tmp_path / "y.h5") == 0
    output = ("-o", tmp_path / "x.nii")
    for part, path, *options in [
        ("--post-filter", views, "--post-filter", "8"),
        ("--post-filter", views, "--post-filter", "0mm"),
        ("--photopeak", tmp_path / "y.h5", "--photopeak", 1),
        ("--energy", tmp_path / "y.h5", "--energy", 140),
        ("further files", tmp_path / "y.h5", views),
        ("--output", views, *output),
        ("--like", views, "--like", views),
    ]:
        capsys.readouterr()
        code = run(monkeypatch, "osem", path, *options, *output)
        assert code == 2 and part in capsys.readouterr().err.splitlines()[-1]
