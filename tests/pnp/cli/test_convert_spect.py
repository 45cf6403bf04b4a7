"""`pnp convert` for SPECT: a file per energy window, radii from options, CTs where they lie, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from command import run
from spect_files import QUARTERS, placed, write_interfile, write_nm

from pnp.cli.problem import read_problem
from pnp.io import read_measurements, read_result
from pnp.readers import join_windows, read_interfile
from pnp.spect import lead_attenuation


def window(path: Path, frames: np.ndarray, low: float, high: float, **lines: str) -> Path:
    """A file of one energy window, as SIMIND and many cameras write them."""
    energies = {
        f"{k} level[1] :=  {old}": f"{k} level[1] :=  {new}"
        for k, old, new in (("lower", 187.2, low), ("upper", 228.8, high))
    }
    return write_interfile(path, frames, replace=energies | lines)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The photopeak's file with 200 counts a bin, and those of two windows below and above it."""
    flat = np.ones_like(QUARTERS, dtype=float)
    return [
        window(tmp_path / "peak.h00", 200 * flat, 187.2, 228.8),
        window(tmp_path / "lower.h00", 10 * flat, 176.5, 187.2),
        window(tmp_path / "upper.h00", 6 * flat, 228.8, 243.5),
    ]


def ends(monkeypatch: Any, capsys: Any, *arguments: Any) -> tuple[int, str, list[str]]:
    capsys.readouterr()
    code = run(monkeypatch, "convert", *arguments)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert all(len(line) < 400 for line in lines)
    return code, said.out, lines


@pytest.mark.parametrize("how", ["files", "names beside the peak", "numbers"])
def test_a_file_for_each_energy_window(monkeypatch, capsys, tmp_path, files, how):
    peak, lower, upper = files
    options: dict[str, list[Any]] = {
        "files": [peak, "--scatter", f"{lower},{upper}"],
        "names beside the peak": [peak, "--scatter", "lower.h00,upper.h00"],
        "numbers": [peak, lower, upper, "--photopeak", 1, "--scatter", "2,3"],
    }
    code, out, err = ends(monkeypatch, capsys, *options[how], "-o", tmp_path / "y.h5")
    assert err == [] and code == 0 and "scatter of 176.5-187.2 keV and 228.8-243.5 keV (peak 187.2-228.8 keV)" in out
    data = read_measurements(tmp_path / "y.h5")
    assert (data.y == 200).all()
    np.testing.assert_allclose(data.background, (10 / 10.7 + 6 / 14.7) * 41.6 / 2, rtol=1e-5)


def test_windows_of_other_scans_and_numbers_without_windows_are_refused(monkeypatch, capsys, tmp_path, files):
    peak, lower, _ = files
    for part, *options in [
        ("--scatter lower.h00,upper.h00", "--scatter", "1,3"),
        ("no such file", "--scatter", "gone.h00"),
        ("--photopeak: 1: 187.2-228.8 keV, 2: 176.5-187.2 keV", lower),
        ("one or two", "--scatter", "1,2,3"),
    ]:
        code, _, err = ends(monkeypatch, capsys, peak, *options, "-o", tmp_path / "y.h5")
        assert code == 2 and part in err[-1], err
    other = window(tmp_path / "other.h00", np.ones((5, *QUARTERS.shape[1:])), 176.5, 187.2)
    code, _, err = ends(monkeypatch, capsys, peak, "--scatter", other, "-o", tmp_path / "y.h5")
    assert code == 2 and "bins must be as in" in err[-1]
    turned = write_interfile(tmp_path / "turned.h00", QUARTERS, direction="CW")
    with pytest.raises(ValueError, match="angles"):
        join_windows(read_interfile(peak), read_interfile(turned))


@pytest.mark.parametrize(
    ("radius", "unit", "expected"),
    [
        ("231", None, 231),
        ("231,232,233,234", None, [231, 232, 233, 234]),
        ("23.1", "cm", 231),
        ("orbit.txt", None, [231, 232, 233, 234]),
        ("orbit.cor", "cm", [231, 232, 233, 234]),
    ],
)
def test_a_radius_overrides_the_files(monkeypatch, capsys, tmp_path, radius, unit, expected):
    (tmp_path / "orbit.txt").write_text("231\n232\n233\n234\n")
    (tmp_path / "orbit.cor").write_text("23.1 64\n23.2 64\n23.3 64\n23.4 64\n")
    path = write_interfile(tmp_path / "a.h00", QUARTERS, replace={"Radius := 23.0": "Radius := 0"})
    monkeypatch.chdir(tmp_path)
    code, _, err = ends(monkeypatch, capsys, path, "-o", "y.h5")
    assert code == 2 and "--radius" in err[-1] and "'radius' is 0" in err[0]
    options = ["--radius", radius, *(["--radius-unit", unit] if unit else [])]
    code, _, err = ends(monkeypatch, capsys, path, "-o", "y.h5", *options)
    assert code == 0 and err == []
    found = read_measurements("y.h5").collimator
    np.testing.assert_allclose(found["radius"], np.broadcast_to(expected, 4))
    assert found["septal_attenuation"] == pytest.approx(lead_attenuation(208.0))
    for bad, part in (
        ("23.1", "--radius-unit cm"),
        ("1,2", "--radius-unit"),
        ("231,232", "4 views"),
        ("no.cor", "--radius"),
    ):
        code, _, err = ends(monkeypatch, capsys, path, "-o", "z.h5", "--radius", bad)
        assert code == 2 and part in err[-1], err


def test_what_can_be_read_otherwise_is_said_with_the_option(monkeypatch, capsys, tmp_path):
    feet = write_interfile(tmp_path / "feet.h00", QUARTERS, start=90, replace={"head_in": "feet_in"})
    output = ("-o", tmp_path / "y.h5", "--overwrite")
    code, _, err = ends(monkeypatch, capsys, feet, *output)
    assert code == 0 and len(err) == 2
    assert "--start-sense 'against rotation'" in err[0] and "--angles-from patient" in err[1]
    sure = ("--start-sense", "against rotation", "--angles-from", "patient")
    code, _, err = ends(monkeypatch, capsys, feet, *output, *sure)
    assert code == 0 and err == []
    dicom = write_nm(tmp_path / "a.dcm", QUARTERS, PatientPosition="FFP")
    code, _, err = ends(monkeypatch, capsys, dicom, *output)
    assert code == 0 and "--angles-from gantry" in err[0]
    code, _, err = ends(monkeypatch, capsys, dicom, *output, "--collimator", "29.4,406")
    assert code == 0 and "hole_diameter is 29.4 mm" in err[-1]
    code, _, err = ends(monkeypatch, capsys, dicom, *output, "--start-sense", "against rotation")
    assert code == 2 and "--start-sense" in err[-1]
    code, _, err = ends(monkeypatch, capsys, dicom, *output, "--angles-from", "table")
    assert code == 2 and "--angles-from" in err[-1]


def test_a_ct_with_another_origin_is_not_taken_as_centred(monkeypatch, capsys, tmp_path):
    """A quadrant of water on the scan's voxels, whose affine says that the grid lies 9.6 mm to the left."""
    hu = np.full((6, 6, 3), -1000.0, "f4")
    hu[1:3, 2:4] = 0
    affine = np.diag([-4.8, -4.8, 5.0, 1.0])
    affine[:3, 3] = [12 - 9.6, 12, -5]
    image = nibabel.Nifti1Image(hu, affine)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    views = write_nm(tmp_path / "a.dcm", QUARTERS)
    options = (views, "-o", tmp_path / "y.h5", "--overwrite", "--attenuation", tmp_path / "ct.nii.gz")
    options += ("--attenuation-unit", "HU", "--energy", 208)
    code, _, err = ends(monkeypatch, capsys, *options)
    assert code == 0 and "(9.6, 0, 0)" in err[0] and "--volume-centre" in err[0]
    mu = read_problem(tmp_path / "y.h5").parameters["attenuation"]
    np.testing.assert_allclose(mu[3:5, 2:4], 0.0135, rtol=2e-3)
    assert mu.sum() == pytest.approx(mu[3:5, 2:4].sum())
    # Given the place, the map is the volume's; a shift moves it.
    for more, columns in ((("--volume-centre", "9.6,0,0"), 1), (("--attenuation-shift", "-4.8,0,0"), 2)):
        code, _, err = ends(monkeypatch, capsys, *options, *more)
        mu = read_problem(tmp_path / "y.h5").parameters["attenuation"]
        assert code == 0 and mu[columns : columns + 2, 2:4].sum() == pytest.approx(mu.sum())
    assert read_measurements(tmp_path / "y.h5").centre_mm is None
    code, _, err = ends(monkeypatch, capsys, *options, "--volume-centre", "9.6,0")
    assert code == 2 and "--volume-centre" in err[-1]
    code, _, err = ends(monkeypatch, capsys, *options, "--volume-centre", "900,0,0")
    assert code == 2 and "not at one place" in err[-1]


def test_from_views_in_a_study_to_volumes_in_it(monkeypatch, capsys, tmp_path):
    """The axis at (12, -7), the views' middle at 900: NIfTI, HDF5 and DICOM have the volume there."""
    place = placed(180, (12.0, -7.0, 900.0))
    views = write_nm(tmp_path / "a.dcm", QUARTERS, detector=place, PatientID="17", FrameOfReferenceUID="1.2.6")
    assert ends(monkeypatch, capsys, views, "-o", tmp_path / "y.h5")[0] == 0
    osem = ("osem", tmp_path / "y.h5", "--iterations", 2, "--subsets", 2, "-o")
    for name, more in (("x.nii.gz", ()), ("x.h5", ()), ("x.dcm", ("--like", views))):
        assert run(monkeypatch, *osem, tmp_path / name, *more) == 0
        said = capsys.readouterr()
        assert "OSEM, 2 iterations of 2 subsets of 2 views, 4 updates" in said.out and "rtol" not in said.out + said.err
    image = nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(image.affine @ [2.5, 2.5, 1, 1], [-12, 7, 900, 1], atol=1e-3)
    assert int(image.header["sform_code"]) == 1 and b"counts" in image.header["descrip"].item()
    assert read_result(tmp_path / "x.h5").centre_mm == pytest.approx((12, -7, 900), abs=1e-3)
    data = pydicom.dcmread(tmp_path / "x.dcm")
    first = np.array(data.DetectorInformationSequence[0].ImagePositionPatient, float)
    np.testing.assert_allclose(first + np.array([12.0, 12.0, 5.0]), [12, -7, 900], atol=1e-3)
    assert (data.PatientID, data.FrameOfReferenceUID) == ("17", "1.2.6")
    values = data.pixel_array.transpose(2, 1, 0) * float(data.RescaleSlope)
    np.testing.assert_allclose(values, image.get_fdata(), atol=float(data.RescaleSlope))
    assert run(monkeypatch, *osem, tmp_path / "z.nii", "--like", views) == 2
    assert "--like" in capsys.readouterr().err
