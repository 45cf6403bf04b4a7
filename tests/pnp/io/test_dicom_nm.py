"""Volumes in DICOM NM, read back by pydicom: values, place, and the study that they belong to."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from reader_files import refused
from spect_files import QUARTERS, write_nm

from pnp.io import write_dicom_nm

X = np.random.default_rng(3).random((5, 5, 4)).astype("f4") * 7


def test_every_voxel_is_where_the_study_has_it(tmp_path):
    centre = (12.0, -7.0, 900.0)
    write_dicom_nm(tmp_path / "x.dcm", X, (4.8, 5.0), centre_mm=centre, description="activity", unit="MBq/ml")
    data = pydicom.dcmread(tmp_path / "x.dcm")
    assert data.SOPClassUID.name == "Nuclear Medicine Image Storage"
    assert list(data.ImageType) == ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    np.testing.assert_allclose(values.transpose(2, 1, 0), X, atol=7 / 65535)
    detector = data.DetectorInformationSequence[0]
    first, axes = (
        np.array(detector[name].value, float) for name in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    (dy, dx), dz = map(float, data.PixelSpacing), float(data.SpacingBetweenSlices)
    normal = np.cross(axes[:3], axes[3:])
    middle = first + axes[:3] * dx * 2 + axes[3:] * dy * 2 + normal * dz * 1.5
    assert middle == pytest.approx(centre) and (dx, dz) == (4.8, 5.0)
    assert axes.tolist() == [1, 0, 0, 0, 1, 0]  # columns to the left, rows to the back
    mapping = data.RealWorldValueMappingSequence[0]
    assert mapping.RealWorldValueSlope == float(data.RescaleSlope)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "MBq/ml"
    assert data.SliceVector == [1, 2, 3, 4] and data.NumberOfFrames == 4


def test_it_joins_the_study_of_another_file(tmp_path):
    study = {"PatientName": "Doe^Jane", "PatientID": "17", "StudyInstanceUID": "1.2.5", "FrameOfReferenceUID": "1.2.6"}
    views = write_nm(tmp_path / "views.dcm", QUARTERS, **study)
    write_dicom_nm(tmp_path / "x.dcm", X, 4.8, like=views)
    data = pydicom.dcmread(tmp_path / "x.dcm")
    assert {name: str(data.get(name)) for name in study} == study
    assert data.SOPInstanceUID != pydicom.dcmread(views).SOPInstanceUID and "RotationInformationSequence" not in data
    assert "ImagePositionPatient" not in data.DetectorInformationSequence[0]  # not known
    write_dicom_nm(tmp_path / "x.dcm", np.zeros((2, 2, 2)), 4.8, overwrite=True)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientID == ""
    write_dicom_nm(tmp_path / "x.dcm", X - 3, 4.8, overwrite=True)
    again = pydicom.dcmread(tmp_path / "x.dcm")
    values = again.pixel_array * float(again.RescaleSlope) + float(again.RescaleIntercept)
    np.testing.assert_allclose(values.transpose(2, 1, 0), X - 3, atol=7 / 65535)


def test_it_refuses(tmp_path):
    (tmp_path / "text").write_text("no DICOM")
    assert "volume" in refused(write_dicom_nm, tmp_path / "x.dcm", X[0], 4.8)
    assert "volume" in refused(write_dicom_nm, tmp_path / "x.dcm", X * np.nan, 4.8)
    assert "voxel_size_mm" in refused(write_dicom_nm, tmp_path / "x.dcm", X, 0.0)
    assert ".dcm" in refused(write_dicom_nm, tmp_path / "x.nii", X, 4.8)
    assert "DICOM" in refused(write_dicom_nm, tmp_path / "x.dcm", X, 4.8, like=tmp_path / "text")
    assert not (tmp_path / "x.dcm").exists()


def test_decimal_strings_are_at_most_16_bytes(tmp_path):
    """Sizes such as 4.795199871063232 mm, as cameras state them, and places of many digits (PS3.5, 6.2)."""
    path = tmp_path / "a.dcm"
    values = -np.random.default_rng(0).random((3, 4, 5)) / 3e20
    write_dicom_nm(path, values, (4.795199871063232, 1 / 3), centre_mm=(-1e-7 / 3, -200 / 3, 1e5 / 3))
    texts = [
        str(value)
        for element in pydicom.dcmread(path).iterall()
        if element.VR == "DS"
        for value in (element.value if element.VM > 1 else [element.value])
    ]
    assert len(texts) == 15 and max(map(len, texts)) <= 16
