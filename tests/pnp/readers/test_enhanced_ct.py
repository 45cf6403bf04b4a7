"""DICOM slices in files of frames, in files without preamble, and files that hold no CT."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from reader_files import ENHANCED_SEQUENCES, refused, write_dicom, write_enhanced

from pnp.readers import read_dicom

PLACES = (5.0, 0.0, 2.5)
HU = {z: (1 + k) * (10 * z + 1024 * k) - 1024 for k, z in enumerate(PLACES)}
"""Value of the frame at each place, by its own slope."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shared", [(), ENHANCED_SEQUENCES[:1], ENHANCED_SEQUENCES[2:3], ENHANCED_SEQUENCES[0:3:2]])
def test_frames_are_slices_sorted_by_place(tmp_path, shared, legacy):
    got = read_dicom(write_enhanced(tmp_path / "a.dcm", PLACES, shared=shared, legacy=legacy))
    np.testing.assert_array_equal(got.volume, np.broadcast_to([[[HU[z]]] for z in sorted(PLACES)], (3, 6, 5)))
    np.testing.assert_array_equal(got.positions_mm, [[-1, -2, z] for z in sorted(PLACES)])
    assert got.spacing_mm == (2.5, 0.7, 0.8) and got.unit == "HU" and got.volume.dtype == np.float32


def test_one_shared_scale(tmp_path):
    got = read_dicom(write_enhanced(tmp_path / "a.dcm", PLACES, shared=ENHANCED_SEQUENCES[3:]))
    stored = {z: 10 * z + 1024 * k - 1024 for k, z in enumerate(PLACES)}
    np.testing.assert_array_equal(got.volume[:, 0, 0], [stored[z] for z in sorted(PLACES)])


@pytest.mark.parametrize("per_frame", [True, False])
def test_a_single_frame_has_its_groups_too(tmp_path, per_frame):
    changes = {} if per_frame else {"PerFrameFunctionalGroupsSequence": None}
    shared = () if per_frame else ENHANCED_SEQUENCES
    got = read_dicom(write_enhanced(tmp_path / "a.dcm", (102.4,), shared=shared, **changes))
    np.testing.assert_array_equal(got.volume, np.zeros((1, 6, 5)))
    assert (got.unit, got.spacing_mm) == ("HU", (3.0, 0.7, 0.8))
    np.testing.assert_array_equal(got.positions_mm, [[-1, -2, 102.4]])


def test_frames_of_several_files_make_one_volume(tmp_path):
    write_enhanced(tmp_path / "a.dcm", (0.0, 5.0))
    write_enhanced(tmp_path / "b.dcm", (7.5, 2.5))
    np.testing.assert_array_equal(read_dicom(tmp_path).positions_mm[:, 2], [0, 2.5, 5, 7.5])


def test_compressed_frames(tmp_path):
    data = dcmread(write_enhanced(tmp_path / "a.dcm", PLACES))
    data.compress(RLELossless)
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_dicom(tmp_path / "a.dcm").volume[:, 0, 0], [HU[z] for z in sorted(PLACES)])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"PerFrameFunctionalGroupsSequence": None}, "without positions"),
        ({"PerFrameFunctionalGroupsSequence": [Dataset()] * 2}, "each of its 3 frames, got 2 groups"),
        ({"PerFrameFunctionalGroupsSequence": [Dataset()] * 3}, "lacks ImagePositionPatient"),
        ({"NumberOfFrames": 2_000_000_000}, "each of its 2000000000 frames"),
        ({"NumberOfFrames": -1}, "each of its -1 frames"),
        ({"PixelData": bytes(100)}, "a.dcm"),
        ({"places": (0.0, 0.0)}, "(frame 1) and a.dcm (frame 2) are at the same place"),
        ({"places": (0.0, 1.0, 3.0, 4.0)}, "(frame 2) and a.dcm (frame 3) are 2 mm apart"),
        ({"Modality": "SEG"}, "segmentation"),
    ],
)
def test_frames_that_make_no_volume(tmp_path, changes, part):
    changes = dict(changes)
    places = changes.pop("places", PLACES)
    assert part in refused(read_dicom, write_enhanced(tmp_path / "a.dcm", places, **changes))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("meta", [True, False])
def test_files_without_preamble(tmp_path, syntax, meta):
    whole = write_dicom(tmp_path / "whole.dcm", 4.0, syntax=syntax)
    if meta:  # the file's own header follows at once
        (tmp_path / "a.dcm").write_bytes(whole.read_bytes()[132:])
    else:
        data = dcmread(whole)
        del data.file_meta
        data.preamble = None
        dcmwrite(
            tmp_path / "a.dcm",
            data,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
            force_encoding=True,
        )
    assert (tmp_path / "a.dcm").read_bytes()[:2] == (b"\x02\x00" if meta else b"\x08\x00")
    got = read_dicom(tmp_path / "a.dcm")
    np.testing.assert_array_equal(got.volume, read_dicom(whole).volume)
    assert got.unit == "HU"


@pytest.mark.parametrize(
    "start", [b"\x08\x00\x05\x00CS\x0a\x00", b"\x02\x00\x00\x00UL\x04\x00", b"\x08\x00\x16\x00\x10\0\0\0"]
)
def test_bytes_that_begin_like_dicom(tmp_path, start):
    for k, rest in enumerate((b"", b"\0" * 500, bytes(range(256)) * 4, b"\xff" * 300)):
        (tmp_path / f"{k}.dcm").write_bytes(start + rest)
        assert f"{k}.dcm" in refused(read_dicom, tmp_path / f"{k}.dcm")


def test_how_values_are_shown_does_not_change_them(tmp_path):
    shown = read_dicom(write_dicom(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(shown.volume, read_dicom(write_dicom(tmp_path / "b.dcm")).volume)


def test_files_of_other_readers(tmp_path):
    assert "read_dicom_nm" in refused(read_dicom, write_dicom(tmp_path / "a.dcm", Modality="NM"))
    assert "dose" in refused(read_dicom, write_dicom(tmp_path / "a.dcm", Modality="RTDOSE"))
    assert read_dicom(write_dicom(tmp_path / "a.dcm", Modality="PT", RescaleType="BQML")).unit == ""
