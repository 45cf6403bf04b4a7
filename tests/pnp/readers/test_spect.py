"""SPECT in DICOM and Interfile: where the camera was and which way is up, and broken files."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_files import refused
from spect_files import NX, NZ, QUARTERS, VOLUME, assert_upright, items, phantom, seen_from, write_interfile, write_nm

from pnp import osem
from pnp.readers import EnergyWindow, SpectScan, read_dicom_nm, read_interfile


def projected(scan: SpectScan) -> np.ndarray:
    """What SPECT says the scan's camera sees of VOLUME."""
    A = scan.operator()
    return A.A(torch.from_numpy(VOLUME[None, None].astype(np.float32))).numpy()


# ------------------------------------------------------------------------------------------- DICOM


@pytest.mark.parametrize("start", [0, 90, 180, 270])
@pytest.mark.parametrize("direction", ["CC", "CW"])
def test_dicom_views_are_those_of_the_projector(tmp_path, start, direction):
    degrees = [start + k * (90 if direction == "CC" else -90) for k in range(4)]
    frames = np.stack([seen_from(phi) for phi in degrees])
    options = {"rotation": {"RotationDirection": direction}, "detector": {"StartAngle": str(start)}}
    scan = read_dicom_nm(write_nm(tmp_path / "a.dcm", frames, **options))
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert scan.y.shape == (1, 1, 4, NX, NZ) and scan.pixel_size_mm == (4.8, 5.0)
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == [230.0] * 4
    assert scan.windows == (EnergyWindow("Lu208", 187.2, 228.8),) and scan.isotope == "^177^Lutetium"
    assert scan.facts == {"detectors": 1, "collimator": "MEGP", "duration_s": 20.0, "study": "torso"}


def test_dicom_angles_are_ours_turned_around(tmp_path):
    """PS3.3 C.8.4.12: 0 is behind the patient, 90 at his left. Ours: 0 before him, pi/2 at his left."""
    scan = read_dicom_nm(write_nm(tmp_path / "a.dcm", QUARTERS))
    assert np.rad2deg(scan.angles).tolist() == pytest.approx([180, 90, 0, 270])


def test_dicom_detectors_and_windows_in_any_order_of_frames(tmp_path):
    """Two detectors opposite each other, three windows, a radius a view, and frames shuffled."""
    frames, vectors = [], []
    for w in range(3):
        for d, start in enumerate((90, 270)):
            for v in range(2):
                frames.append(seen_from(start - 90 * v) * (w + 1))
                vectors.append((w + 1, d + 1, v + 1))
    order = np.random.default_rng(0).permutation(len(frames))
    numbers = np.array(vectors)[order].T.tolist()
    names = ("EnergyWindowVector", "DetectorVector", "AngularViewVector")
    ranges = [(170, 187), (187, 229), (229, 246)]
    windows = items(*(
        {"EnergyWindowRangeSequence": items({"EnergyWindowLowerLimit": a, "EnergyWindowUpperLimit": b})}
        for a, b in ranges
    ))  # fmt: skip
    path = write_nm(
        tmp_path / "a.dcm",
        np.stack(frames)[order],
        **dict(zip(names, numbers, strict=True)),
        EnergyWindowInformationSequence=windows,
        DetectorInformationSequence=items(
            {"StartAngle": "90", "RadialPosition": ["200", "210"]},
            {"StartAngle": "270", "RadialPosition": ["220", "230"]},
        ),
        rotation={"StartAngle": "90", "RotationDirection": "CW"},
    )
    scan = read_dicom_nm(path)
    assert scan.y.shape == (3, 1, 4, NX, NZ)
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == [200, 210, 220, 230]
    assert [w.width_kev for w in scan.windows] == [17, 42, 17]
    for k in range(3):
        np.testing.assert_allclose(scan.window(k).y, (k + 1) * projected(scan), rtol=1e-6)
        assert scan.window(k).windows == scan.windows[k : k + 1]
    scatter = scan.scatter(1, 0, 2)
    np.testing.assert_allclose(scatter, (1 / 17 + 3 / 17) * 42 / 2 * projected(scan), rtol=1e-6)
    np.testing.assert_allclose(scan.scatter(1, 0), 1 / 17 * 42 / 2 * projected(scan), rtol=1e-6)
    assert "energy" in refused(scan.scatter, 1, 2, 0)
    assert "0 to 2" in refused(scan.scatter, 3, 0)


def test_dicom_without_numbers_of_views_and_with_a_slope(tmp_path):
    path = write_nm(tmp_path / "a.dcm", QUARTERS, AngularViewVector=None, RescaleSlope="0.5", RescaleIntercept="1")
    scan = read_dicom_nm(path)
    np.testing.assert_allclose(scan.y, 0.5 * projected(scan) + 1, rtol=1e-6)


def test_dicom_rotations_are_read_one_by_one(tmp_path):
    turns = items(*(
        {"StartAngle": start, "AngularStep": "90", "RotationDirection": direction}
        for start, direction in (("0", "CC"), ("90", "CW"))
    ))  # fmt: skip
    frames = np.stack([seen_from(phi) for phi in (0, 90, 90, 0)])
    vectors = {"RotationVector": [1, 1, 2, 2], "AngularViewVector": [1, 2, 1, 2]}
    path = write_nm(tmp_path / "a.dcm", frames, RotationInformationSequence=turns, **vectors)
    assert "rotation=1" in refused(read_dicom_nm, path)
    for rotation in (1, 2):
        scan = read_dicom_nm(path, rotation=rotation)
        np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert "rotation" in refused(read_dicom_nm, path, rotation=3)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"Modality": "CT"}, "raw views"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO"]}, "reconstruction"),
        ({"ImageType": None}, "raw views"),
        ({"TimeSlotVector": [1, 2, 1, 2]}, "TimeSlotVector"),
        ({"AngularViewVector": [1, 2, 3]}, "AngularViewVector"),
        ({"AngularViewVector": [1, 2, 3, 3]}, "each view"),
        ({"EnergyWindowVector": [1, 1, 1, 2]}, "each view"),
        ({"DetectorVector": [1, 1, 2, 2]}, "StartAngle"),
        ({"NumberOfFrames": 5, "AngularViewVector": None}, "5 frames"),
        ({"Rows": 4}, "DICOM"),
        ({"RotationInformationSequence": None}, "RotationInformationSequence"),
        ({"rotation": {"AngularStep": "0"}}, "AngularStep > 0"),
        ({"rotation": {"RotationDirection": "UP"}}, "'UP'"),
        ({"rotation": {"StartAngle": None}}, "StartAngle"),
        ({"detector": {"CollimatorType": "PINH"}}, "'PINH'"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"RescaleSlope": "0"}, "RescaleSlope"),
        ({"RescaleIntercept": "-9999", "RescaleSlope": "1"}, "counts"),
        ({"PixelData": b"\0" * 10}, "DICOM"),
        ({"PixelData": None}, "DICOM"),
    ],
)
def test_dicom_refuses(tmp_path, changes, part):
    assert part in refused(read_dicom_nm, write_nm(tmp_path / "a.dcm", QUARTERS, **changes))


@pytest.mark.parametrize("kept", [0, 40, 200, 700, -1])
def test_dicom_truncated(tmp_path, kept):
    path = write_nm(tmp_path / "a.dcm", QUARTERS)
    path.write_bytes(path.read_bytes()[:kept])
    refused(read_dicom_nm, path)
    assert "no such file" in refused(read_dicom_nm, tmp_path / "b.dcm")


@pytest.mark.parametrize(
    ("detector", "warning"),
    [
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]}, "start angle"),
        ({"ImageOrientationPatient": ["-1", "0", "0", "0", "0", "1"]}, "start angle"),
        ({"ImageOrientationPatient": ["-1", "0", "0", "0", "0", "-1"]}, None),  # at the back, as the start angle says
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}, None),  # of transaxial slices: junk
        ({"CenterOfRotationOffset": "3.0"}, "CenterOfRotationOffset"),
        ({"CenterOfRotationOffset": "0.0"}, None),
    ],
)
def test_dicom_says_where_it_contradicts_itself(tmp_path, detector, warning):
    path = write_nm(tmp_path / "a.dcm", QUARTERS, detector=detector)
    if warning is None:
        read_dicom_nm(path)
    else:
        with pytest.warns(UserWarning, match=warning):
            read_dicom_nm(path)


def test_a_dicom_file_becomes_an_upright_patient(tmp_path):
    """Frames as DICOM has them: rows from the head to the feet, columns to the right, seen from the camera."""
    patient, y, _ = phantom()
    frames = np.rint(y[0, 0].numpy()).transpose(0, 2, 1)[:, ::-1]
    path = write_nm(
        tmp_path / "torso.dcm",
        frames,
        DetectorVector=[1] * 6 + [2] * 6,
        AngularViewVector=[*range(1, 7)] * 2,
        DetectorInformationSequence=items({"StartAngle": "90"}, {"StartAngle": "270"}),
        rotation={"StartAngle": "90", "AngularStep": "30", "RotationDirection": "CW"},
        PixelSpacing=["16", "16"],
    )
    scan = read_dicom_nm(path)
    assert scan.radius_mm is None
    A = scan.operator(attenuation=patient.attenuation, fwhm=12.0)
    assert_upright(osem(A, scan.tensors()[0], n_subsets=4, max_iter=4).x[0, 0].numpy(), patient)


# ------------------------------------------------------------------------------------------- Interfile


@pytest.mark.parametrize(
    ("form", "size"),
    [("short float", 4), ("float", 4), ("long float", 8), ("signed integer", 2), ("unsigned integer", 4)],
)
@pytest.mark.parametrize("order", ["LITTLEENDIAN", "BIGENDIAN"])
def test_interfile_views_are_those_of_the_projector(tmp_path, form, size, order):
    """From the front, counter-clockwise seen from the feet: to the patient's right, DICOM's 180 to 270."""
    frames = np.stack([seen_from(180 + 90 * k) for k in range(4)])
    scan = read_interfile(write_interfile(tmp_path / "a.h00", frames, form=form, size=size, order=order))
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)
    assert scan.pixel_size_mm == (4.8, 5.0) and scan.windows == (EnergyWindow("", 187.2, 228.8),)
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == [230.0] * 4  # SIMIND's centimetres
    assert scan.isotope == "lu177" and scan.facts["duration_s"] == 20 and scan.facts["photon_kev"] == 208
    sheet = {"hole_diameter": 2.94, "hole_length": 40.64, "intrinsic": 3.8 * (140 / 208) ** 0.5}
    assert scan.facts["collimator_mm"] == pytest.approx(sheet | {"septal_attenuation": 1.04}, rel=1e-2)


@pytest.mark.parametrize(
    ("direction", "start", "zero", "first", "step"),
    [
        ("CW", 0, "front", 180, -90),
        ("CCW", 90, "front", 270, 90),
        ("CW", 90, "back", 90, -90),
        ("CCW", 180, "back", 180, 90),
    ],
)
def test_interfile_directions_and_zeros(tmp_path, direction, start, zero, first, step):
    frames = np.stack([seen_from(first + step * k) for k in range(4)])
    path = write_interfile(tmp_path / "a.h00", frames, direction=direction, start=start)
    scan = read_interfile(path, zero=zero, start_sense="counter-clockwise")
    np.testing.assert_allclose(scan.y, projected(scan), rtol=1e-6)


def test_interfile_radii(tmp_path):
    def radii(replace: dict[str, str] | None = None, **options: Any) -> list[float] | None:
        found = read_interfile(write_interfile(tmp_path / "a.h00", QUARTERS, replace=replace), **options).radius_mm
        return None if found is None else found.tolist()

    assert radii({"Radius := 23.0": "Radius := 230"}) == [230.0] * 4  # newer versions of SIMIND
    assert radii({"Radius := 23.0": "Radii := {200, 210, 220, 230}"}) == [200, 210, 220, 230]
    assert radii({"Radius := 23.0": "Radius := 40", "simind": "camera"}) == [40.0] * 4
    assert radii({"Radius := 23.0": "Radius := 40"}, radius_unit="mm") == [40.0] * 4
    assert radii({"Radius := 23.0\n": ""}) is None
    np.savetxt(tmp_path / "a.cor", [[20, 0], [21, 0], [22, 0], [23, 0]])
    assert radii({"Radius := 23.0": ";# Non-Uniform Orbit File := a.cor"}) == [200, 210, 220, 230]


def test_interfile_of_stir_with_comments_and_several_windows(tmp_path):
    """As STIR writes it: other spellings, a comment that is none of the facts, and the data under another folder."""
    (tmp_path / "views.s").write_bytes(np.concatenate([QUARTERS, 2 * QUARTERS]).astype(">f4").tobytes())
    header = f"""!INTERFILE  :=
; Radius := {{1, 2, 3, ....}}
!name of data file := C:\\data\\views.s
!type of data := Tomographic
number of energy windows := 2
energy window lower level[1] := 120
energy window upper level[1] := 126
energy window lower level[2] := 126
energy window upper level[2] := 154
!number format := float
!number of bytes per pixel := 4
!number of projections := 4
!extent of rotation := 360
process status := acquired
!direction of rotation := CCW
start angle := 0
!matrix size [1] := {NX}
!scaling factor (mm/pixel) [1] := 4.8
!matrix size [2] := {NZ}
!scaling factor (mm/pixel) [2] := 5
!END OF INTERFILE :=
"""
    (tmp_path / "views.hs").write_text(header)
    scan = read_interfile(tmp_path / "views.hs", zero="back")
    np.testing.assert_allclose(scan.y[:1], projected(scan), rtol=1e-6)
    np.testing.assert_allclose(scan.y[1:], 2 * projected(scan), rtol=1e-6)
    assert [w.width_kev for w in scan.windows] == [6, 28] and scan.radius_mm is None


@pytest.mark.parametrize(
    ("replace", "part"),
    [
        ({"!INTERFILE": "!OTHER"}, "Interfile"),
        ({"tomographic": "static"}, "'type of data'"),
        ({"acquired\n": "reconstructed\n"}, "'process status'"),
        ({"!matrix size [1] := 6\n": ""}, "'matrix size [1]'"),
        ({"matrix size [1] := 6": "matrix size [1] := 6.5"}, "6.5"),
        ({"matrix size [1] := 6": "matrix size [1] := many"}, "'many'"),
        ({"matrix size [1] := 6": "matrix size [1] := 7"}, "336 bytes"),
        ({"matrix size [1] := 6": "matrix size [1] := 60000000000"}, "would take"),
        ({"projections := 4": "projections := 3"}, "number format"),
        ({"projections := 4": "projections := 5"}, "truncated?"),
        ({"offset in bytes := 0": "offset in bytes := 8"}, "truncated?"),
        ({"pixel := 4": "pixel := 2"}, "'number format'"),
        ({"short float": "ASCII"}, "got 'ascii'"),
        ({"LITTLEENDIAN": "MIDDLE"}, "'MIDDLE'"),
        ({"LITTLEENDIAN": "BIGENDIAN"}, "'imagedata byte order'"),
        ({"rotation := 360": "rotation := 0"}, "'extent of rotation'"),
        ({"rotation := CCW": "rotation := UP"}, "'UP'"),
        ({"a.a00": "b.a00"}, "no such file"),
        ({"Radius := 23.0": "Radius := -23"}, "'radius'"),
        ({"Radius := 23.0": "Radius := wide"}, "'radius'"),
        ({"[1] := 4.800": "[1] := 0"}, "pixel_size_mm"),
        ({"start angle := 0.0": "start angle := 0\nstart angle := 180"}, "'0' and '180'"),
    ],
)
def test_interfile_refuses(tmp_path, replace, part):
    assert part in refused(read_interfile, write_interfile(tmp_path / "a.h00", QUARTERS, replace=replace))


def test_interfile_refuses_bad_numbers_and_positions(tmp_path):
    for value, part in ((-1.0, "counts"), (math.nan, "72")):
        frames = QUARTERS.astype(float)
        frames[1, 2, 3] = value
        assert part in refused(read_interfile, write_interfile(tmp_path / "a.h00", frames))
    path = write_interfile(tmp_path / "a.h00", QUARTERS)
    assert ": zero " in refused(read_interfile, path, zero="top")
    assert "radius_unit" in refused(read_interfile, path, radius_unit="inch")
    with pytest.warns(UserWarning, match="other and supine"):
        read_interfile(write_interfile(tmp_path / "a.h00", QUARTERS, replace={"head_in": "other"}))


@settings(deadline=None, max_examples=30)
@given(line=st.integers(0, 36), junk=st.binary(max_size=12))
def test_interfile_with_a_line_of_junk_is_read_or_refused(tmp_path_factory, line, junk):
    path = write_interfile(tmp_path_factory.mktemp("junk") / "a.h00", QUARTERS)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:line], junk, *lines[line + 1 :]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_interfile(path)
        except ValueError as error:
            assert len(str(error)) < 400


def test_an_interfile_becomes_an_upright_patient(tmp_path):
    """SIMIND's views begin in front of the patient; the torso's are exact here, small and not whole counts."""
    patient, y, degrees = phantom()
    order = np.argsort((degrees - 180) % 360)  # counter-clockwise from the front
    frames = 1e-3 * y[0, 0].numpy()[order].transpose(0, 2, 1)[:, ::-1]
    path = write_interfile(
        tmp_path / "a.h00", frames, replace={"[1] := 4.800": "[1] := 16", "[2] := 5.000": "[2] := 16"}
    )
    scan = read_interfile(path)
    A = scan.operator(attenuation=patient.attenuation, fwhm=12.0)
    assert_upright(osem(A, scan.tensors()[0], n_subsets=4, max_iter=4).x[0, 0].numpy(), patient)
