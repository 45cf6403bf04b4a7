"""Where a camera was around a patient who lies feet first, prone or on a side, and heads that share a header."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping as snomed_mapping
from pydicom.sr.codedict import codes
from reader_files import refused
from spect_files import NX, NZ, QUARTERS, VOLUME, items, placed, seen_from, write_interfile, write_nm

from pnp.readers import SpectScan, read_dicom_nm, read_interfile
from pnp.readers.spect_position import dicom_position

# The patient's left, back and head in the gantry's axes X, Y and Z: those of a patient on his back, head first.
LYING = {
    ("head", "supine"): ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ("head", "prone"): ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    ("feet", "supine"): ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    ("feet", "prone"): ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    ("head", "right"): ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    ("feet", "left"): ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
}
DICOM = {("head", "supine"): "HFS", ("head", "prone"): "HFP", ("feet", "supine"): "FFS", ("feet", "prone"): "FFP"}
DICOM |= {("head", "right"): "HFDR", ("feet", "left"): "FFDL"}


def on_the_table(position: tuple[str, str]) -> np.ndarray:
    """VOLUME, whose axes are the patient's, along the gantry's."""
    axes = np.array(LYING[position])  # row k: the patient's axis k in the gantry's
    volume = np.transpose(VOLUME, np.abs(axes).argmax(0))
    return np.flip(volume, [k for k in range(3) if axes[:, k].sum() < 0])


def projected(scan: SpectScan) -> np.ndarray:
    x = torch.from_numpy(VOLUME[None, None].astype(np.float32))
    return scan.operator().A(x).numpy()


def quiet(read: Any, *arguments: Any, **options: Any) -> tuple[SpectScan, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan = read(*arguments, **options)
    return scan, [str(w.message) for w in caught]


@pytest.mark.parametrize("position", LYING, ids=" ".join)
def test_dicom_of_the_gantrys_angles_is_turned_to_the_patient(tmp_path, position):
    frames = np.stack([seen_from(phi, on_the_table(position)) for phi in (0, 90, 180, 270)])
    path = write_nm(tmp_path / "a.dcm", frames, PatientPosition=DICOM[position])
    scan, said = quiet(read_dicom_nm, path, angles_from="gantry")
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert not said


@pytest.mark.parametrize("position", LYING, ids=" ".join)
def test_dicom_angles_are_the_patients_as_the_standard_says(tmp_path, position):
    path = write_nm(tmp_path / "a.dcm", QUARTERS, PatientPosition=DICOM[position])
    scan, said = quiet(read_dicom_nm, path)
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert ["angles_from='gantry'" in text for text in said] == [True] * (position != ("head", "supine"))
    assert quiet(read_dicom_nm, path, angles_from="patient")[1] == []
    # An orientation that agrees with the start angle settles it.
    axes = {"ImageOrientationPatient": ["-1", "0", "0", "0", "0", "-1"]}
    path = write_nm(tmp_path / "b.dcm", QUARTERS, PatientPosition=DICOM[position], detector=axes)
    assert quiet(read_dicom_nm, path)[1] == []


def code(value: str, meaning: str, **more: Any) -> Any:
    return items({"CodeValue": value, "CodingSchemeDesignator": "SRT", "CodeMeaning": meaning, **more})


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"PatientGantryRelationshipCodeSequence": code("F-10480", "feet-first")}, "feet first, supine"),
        ({"PatientGantryRelationshipCodeSequence": code("102541007", "")}, "feet first, supine"),
        (
            {
                "PatientOrientationCodeSequence": code(
                    "F-10450", "recumbent", PatientOrientationModifierCodeSequence=code("F-10310", "prone")
                )
            },
            "head first, prone",
        ),
        ({"PatientOrientationCodeSequence": code("F-10440", "erect")}, "'erect'"),
        ({"PatientPosition": "LFP"}, "'LFP'"),
        ({"detector": {"GantryDetectorTilt": "10"}}, "GantryDetectorTilt"),
    ],
)
def test_dicom_positions_in_codes_and_rotated_tables(tmp_path, elements, said):
    with pytest.warns(UserWarning, match=said):
        read_dicom_nm(write_nm(tmp_path / "a.dcm", QUARTERS, **elements))


def test_dicom_on_his_back_says_nothing(tmp_path):
    supine = code("F-10450", "recumbent", PatientOrientationModifierCodeSequence=code("F-10340", "supine"))
    head = code("F-10470", "headfirst")
    path = write_nm(
        tmp_path / "a.dcm",
        QUARTERS,
        PatientOrientationCodeSequence=supine,
        PatientGantryRelationshipCodeSequence=head,
    )
    assert quiet(read_dicom_nm, path)[1] == []


@pytest.mark.parametrize("concept", ["Prone", "Supine", "RightLateralDecubitus", "LeftLateralDecubitus"])
@pytest.mark.parametrize("scheme", ["SCT", "SRT"])
def test_codes_of_positions_are_those_of_the_standard(concept, scheme):
    """pydicom has the codes of PS3.16, CID 20 and 21; the words beside them are left out."""
    ways, words = (("Headfirst", "head"), ("FeetFirst", "feet")), concept.lower()
    lying = next(word for word in ("prone", "supine", "right", "left") if words.startswith(word))
    for name, first in ways:
        values = [getattr(codes.CID20, concept).value, getattr(codes.CID21, name).value]
        if scheme == "SRT":
            values = [snomed_mapping["SCT"][value] for value in values]
        data = Dataset()
        data.PatientOrientationCodeSequence = code(
            "F-10450", "recumbent", PatientOrientationModifierCodeSequence=code(values[0], "")
        )
        data.PatientGantryRelationshipCodeSequence = code(values[1], "")
        assert dicom_position(data) == (first, lying)


@pytest.mark.parametrize("position", LYING, ids=" ".join)
def test_interfile_angles_are_the_gantrys(tmp_path, position):
    """From above the table, counter-clockwise seen from where the feet are head first: DICOM's 180 to 270."""
    frames = np.stack([seen_from(180 + 90 * k, on_the_table(position)) for k in range(4)])
    names = {"head_in": f"{position[0]}_in", ":= supine": f":= {position[1]}"}
    path = write_interfile(tmp_path / "a.h00", frames, replace=names)
    scan, said = quiet(read_interfile, path)
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert ["angles_from='patient'" in text for text in said] == [True] * (position != ("head", "supine"))
    own = write_interfile(tmp_path / "b.h00", np.roll(QUARTERS, 2, 0), replace=names)
    scan, said = quiet(read_interfile, own, angles_from="patient")
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert not said and "angles_from" in refused(read_interfile, own, angles_from="table")


def test_simind_start_angles_in_both_senses(tmp_path):
    """A quarter on, counter-clockwise, the camera is at the patient's right, DICOM's 270; against it at his left."""
    for start_sense, first in (("counter-clockwise", 270), ("against rotation", 90)):
        frames = np.stack([seen_from(first + 90 * k) for k in range(4)])
        path = write_interfile(tmp_path / "a.h00", frames, start=90)
        scan, said = quiet(read_interfile, path, start_sense=start_sense)
        np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
        assert not said
    assert "against rotation" in quiet(read_interfile, path)[1][0]
    for start, direction in ((180, "CCW"), (90, "CW")):  # both senses agree
        assert (
            quiet(read_interfile, write_interfile(tmp_path / "b.h00", frames, start=start, direction=direction))[1]
            == []
        )


# ------------------------------------------------------------------------------------------- the study's frame


@pytest.mark.parametrize("start", [0, 90, 180, 225])
def test_dicom_places_the_volume_in_the_study(tmp_path, start):
    scan = read_dicom_nm(write_nm(tmp_path / "a.dcm", QUARTERS, detector=placed(start, (12.0, -7.0, 900.0))))
    assert scan.centre_mm == pytest.approx((12.0, -7.0, 900.0), abs=1e-3)


def test_dicom_detectors_must_agree_on_the_place(tmp_path):
    def read(*detectors: dict[str, Any], **changes: Any) -> tuple[SpectScan, list[str]]:
        vectors = {"DetectorVector": [1, 1, 2, 2], "AngularViewVector": [1, 2, 1, 2]}
        changes = {"DetectorInformationSequence": items(*detectors), **vectors, **changes}
        return quiet(read_dicom_nm, write_nm(tmp_path / "a.dcm", QUARTERS, **changes))

    centre = (12.0, -7.0, 900.0)
    assert read(placed(0, centre), placed(180, centre))[0].centre_mm == pytest.approx(centre, abs=1e-3)
    scan, said = read(placed(0, centre, 200.0) | {"RadialPosition": ["0.1"]}, placed(180, centre))
    assert scan.centre_mm is None and "ImagePositionPatient" in said[0]
    assert read_dicom_nm(write_nm(tmp_path / "b.dcm", QUARTERS)).centre_mm is None


# ------------------------------------------------------------------------------------------- several heads

HEAD = """!number of images/energy window := 4
!process status := ACQUIRED
!number of projections := 2
!matrix size [1] := {nx}
!matrix size [2] := {nz}
!number format := UNSIGNED INTEGER
!number of bytes per pixel := 2
!scaling factor (mm/pixel) [1] := 4.8
!scaling factor (mm/pixel) [2] := 5
!extent of rotation := 180
!SPECT STUDY (acquired data) :=
!direction of rotation := CCW
start angle := {start}
orbit := circular
{more}
;
"""
TOP = """!INTERFILE :=
!imaging modality := nucmed
!name of data file := gate.sin
!type of data := TOMOGRAPHIC
imagedata byte order := LITTLEENDIAN
number of energy windows := 1
!SPECT STUDY (general) :=
number of detector heads := 2
"""


def gate(path: Any, starts: list[int], more: tuple[str, str] = ("", ""), top: str = TOP) -> Any:
    """A header as GATE writes it: the block of a head repeated, and one raw file, one head after the other."""
    np.concatenate([np.roll(QUARTERS, 2, 0)]).astype("<u2").tofile(path.parent / "gate.sin")
    blocks = [HEAD.format(nx=NX, nz=NZ, start=start, more=text) for start, text in zip(starts, more, strict=False)]
    path.write_text(top + "".join(blocks) + "!END OF INTERFILE :=\n")
    return path


def test_interfile_of_several_heads(tmp_path):
    scan, said = quiet(read_interfile, gate(tmp_path / "a.h33", [0, 180], ("Radius := 200", "Radius := 210")))
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert not said and scan.radius_mm is not None and scan.radius_mm.tolist() == [200, 200, 210, 210]
    assert np.rad2deg(scan.angles).tolist() == pytest.approx([0, 270, 180, 90]) and scan.facts["detectors"] == 2


def test_interfile_heads_in_files_of_their_own(tmp_path):
    np.roll(QUARTERS, 2, 0)[2:].astype("<u2").tofile(tmp_path / "second.sin")
    path = gate(tmp_path / "a.h33", [0, 180], ("!name of data file := gate.sin", "!name of data file := second.sin"))
    scan = read_interfile(path)
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)


def test_interfile_heads_at_one_place_and_without_keys(tmp_path):
    assert "'start angle'" in refused(read_interfile, gate(tmp_path / "a.h33", [0, 0]))
    assert "2 heads" in refused(read_interfile, gate(tmp_path / "a.h33", [0]))
    three = TOP.replace("heads := 2", "heads := 3")
    assert "3 detector heads" in refused(read_interfile, gate(tmp_path / "a.h33", [0, 180], top=three))
    none = TOP.replace("number of detector heads := 2\n", "")
    assert "'number of detector heads'" in refused(read_interfile, gate(tmp_path / "a.h33", [0, 180], top=none))
