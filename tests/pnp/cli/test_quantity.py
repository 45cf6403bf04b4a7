"""Activity on the command line: what the file states, what options state, units in every format, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from command import run
from spect_files import QUARTERS, items, write_interfile, write_nm

from pnp.io import Acquisition, read_measurements, read_result
from pnp.readers import read_dicom_nm, read_interfile
from pnp.spect import half_life

HOUR = 3600.0


@pytest.fixture
def file(monkeypatch: Any, tmp_path: Path) -> Path:
    """Four views of 20 s of 177Lu, from 10:30 on."""
    views = write_nm(tmp_path / "a.dcm", QUARTERS, AcquisitionDate="20260301", AcquisitionTime="103000.25")
    assert run(monkeypatch, "convert", views, "-o", tmp_path / "y.h5") == 0
    return tmp_path / "y.h5"


def test_times_of_views_are_read(tmp_path: Path) -> None:
    """Two heads count at once, two rotations after each other; a head with its own rotation counts with the other."""
    heads = items({"StartAngle": "0", "CollimatorType": "PARA"}, {"StartAngle": "180", "CollimatorType": "PARA"})
    one = {"StartAngle": "0", "AngularStep": "90", "RotationDirection": "CC", "NumberOfFramesInRotation": 2}
    one |= {"ActualFrameDuration": "20000"}
    two = one | {"ActualFrameDuration": "30000"}
    vectors = {"DetectorVector": [1, 1, 2, 2], "AngularViewVector": [1, 2, 1, 2]}
    common = {"DetectorInformationSequence": heads, **vectors}
    both = write_nm(tmp_path / "both.dcm", QUARTERS, RotationInformationSequence=items(one), **common)
    found = read_dicom_nm(both).acquisition
    assert found is not None and found.view_s == 20 and found.start_s.tolist() == [0, 20, 0, 20]
    assert (found.isotope, found.started, found.decay_corrected) == ("^177^Lutetium", "", False)
    own = items(one, two | {"StartAngle": "180"})
    apart = write_nm(
        tmp_path / "apart.dcm", QUARTERS, RotationInformationSequence=own, RotationVector=[1, 1, 2, 2], **common
    )
    found = read_dicom_nm(apart).acquisition
    assert found.view_s.tolist() == [20, 20, 30, 30] and found.start_s.tolist() == [0, 20, 0, 30]
    later = write_nm(
        tmp_path / "later.dcm",
        QUARTERS,
        RotationInformationSequence=items(one, two),
        RotationVector=[1, 1, 2, 2],
        AngularViewVector=[1, 2, 1, 2],
        CorrectedImage=["UNIF", "DECY"],
        AcquisitionDateTime="20260301103000",
    )
    found = read_dicom_nm(later, rotation=2).acquisition
    assert found.view_s == 30 and found.start_s.tolist() == [40, 70] and found.decay_corrected
    assert found.started == "2026-03-01T10:30:00"
    simulation = read_interfile(write_interfile(tmp_path / "a.h00", QUARTERS)).acquisition
    assert simulation.view_s == 20 and simulation.start_s.tolist() == [0, 20, 40, 60] and simulation.started == ""


def test_activity_has_its_unit_in_every_format(monkeypatch, capsys, file):
    options = ("--subsets", 1, "--iterations", 3)
    for name, more in (("n.h5", ()), ("x.h5", ("--calibration", 9.2))):
        assert run(monkeypatch, "osem", file, "-o", file.with_name(name), *options, *more) == 0
    out = capsys.readouterr().out
    assert "MBq/ml at the scan's start, 2026-03-01T10:30:00: 9.2 cps/MBq, 20 s a view, 177Lu, half-life 6.647 d" in out
    counts, saved = read_result(file.with_name("n.h5")), read_result(file.with_name("x.h5"))
    rate = math.log(2) / half_life("177Lu")
    decay = (1 - math.exp(-rate * 80)) / (rate * 80)  # four views without pauses
    scale = 1 / (9.2 * 20 * decay * 4.8**2 * 5 / 1000)
    np.testing.assert_allclose(saved.x, counts.x * scale, rtol=1e-5)
    assert (counts.units, saved.units) == ("1", "MBq/ml") and saved.attributes["calibration_cps_per_mbq"] == 9.2
    assert saved.attributes["misfit"] == pytest.approx(counts.attributes["misfit"])
    for name in ("x.nii.gz", "x.dcm"):
        assert run(monkeypatch, "osem", file, "-o", file.with_name(name), *options, "--calibration", 9.2) == 0
    image = nibabel.load(file.with_name("x.nii.gz"))
    np.testing.assert_allclose(image.get_fdata(), saved.x[0, 0], rtol=1e-5)
    assert image.header["descrip"].item().decode() == (
        "SPECT: activity in MBq/ml at the scan's start, 2026-03-01T10:30:00"
    )
    data = pydicom.dcmread(file.with_name("x.dcm"))
    assert (data.Units, data.CorrectedImage, data.DecayCorrectionDateTime) == ("BQML", "DECY", "20260301103000")
    mapping = data.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "Bq/ml"
    values = data.pixel_array.transpose(2, 1, 0) * mapping.RealWorldValueSlope
    np.testing.assert_allclose(values, 1e6 * saved.x[0, 0], atol=mapping.RealWorldValueSlope)


@pytest.mark.parametrize("time", ["-24h", "2026-02-28T10:30:00"])
def test_decay_to_a_reference_time(monkeypatch, file, time):
    sums = []
    for more in ((), (f"--reference-time={time}",)):
        output = file.with_name("x.npy")
        options = ("--iterations", 1, "--subsets", 1, "--calibration", 9, "--overwrite")
        assert run(monkeypatch, "osem", file, "-o", output, *options, *more) == 0
        sums.append(np.load(output).sum())
    assert sums[1] / sums[0] == pytest.approx(2 ** (24 * HOUR / half_life("177Lu")), rel=1e-5)


def test_reconstruct_writes_activity_with_its_error_bars(monkeypatch, capsys, file):
    sums = []
    for name, more in (("a.h5", ()), ("b.h5", ("--calibration", 9.2, "--half-life", "inf"))):
        options = ("--denoiser", "tv", "--max-iter", 2, "--error-bars", 2, *more)
        assert run(monkeypatch, "reconstruct", file, "-o", file.with_name(name), *options) == 0
        saved = read_result(file.with_name(name))
        sums.append((saved.x.sum(), saved.error_bars.std.sum()))
    assert saved.units == "MBq/ml" and "no correction for decay" in capsys.readouterr().out
    np.testing.assert_allclose(np.divide(*sums[::-1]), 1 / (9.2 * 20 * 4.8**2 * 5 / 1000), rtol=1e-4)


def test_what_is_not_known_is_asked_for(monkeypatch, capsys, file):
    def refused(part: str, *options: Any) -> None:
        capsys.readouterr()
        code = run(monkeypatch, "osem", file, "-o", file.with_name("z.nii"), "--iterations", 1, *options)
        line = capsys.readouterr().err.splitlines()[-1]
        assert code == 2 and part in line and len(line) < 400, line

    refused("--calibration", "--reference-time=-24h")
    refused("--calibration", "--calibration", 0)
    refused("--half-life", "--calibration", 9, "--half-life", "soon")
    refused("--reference-time", "--calibration", 9, "--reference-time", "noon")
    refused("--reference-time", "--calibration", 9, "--half-life", "inf", "--reference-time=-24h")
    refused("--view-seconds", "--calibration", 9, "--view-seconds", -1)
    refused("--isotope", "--calibration", 9, "--isotope", "18F")
    with h5py.File(file, "a") as content:
        del content["acquisition/view_s"], content["acquisition"].attrs["started"]
        content["acquisition"].attrs["decay_corrected"] = True
    refused("--view-seconds", "--calibration", 9)
    refused("--half-life inf", "--calibration", 9, "--view-seconds", 20)
    with h5py.File(file, "a") as content:
        content["acquisition"].attrs["decay_corrected"] = False
        content["acquisition"].attrs["isotope"] = ""
    refused("--isotope", "--calibration", 9, "--view-seconds", 20)
    refused("--reference-time=-24h", "--calibration", 9, "--view-seconds", 20, "--isotope", "y90", "--reference-time",
            "2026-02-28T10:30:00")  # fmt: skip
    with h5py.File(file, "a") as content:
        content["acquisition/view_s"] = [1.0, -1.0]
        content["acquisition/view_s"].attrs["units"] = "s"
    refused("view_s", "--calibration", 9)
    with pytest.raises(ValueError, match="started"):
        Acquisition(started="today")


def test_long_scans_of_short_lived_isotopes_are_questioned(monkeypatch, capsys, file):
    options = ("-o", file.with_name("x.nii"), "--iterations", 1, "--calibration", 9, "--isotope", "Tc-99m")
    assert run(monkeypatch, "osem", file, *options) == 0
    assert "decays" not in capsys.readouterr().err
    assert run(monkeypatch, "osem", file, *options, "--view-seconds", 1800, "--overwrite") == 0
    assert "21% of the activity decays" in capsys.readouterr().err
    assert read_measurements(file).acquisition.view_s == 20
