"""Zeiss scans in compound files."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from compound_file import write_compound_file
from nikon_files import DISC, N_COLUMNS, line_integrals
from reader_files import refused
from zeiss_files import ANGLES, IMAGES, N_ROWS, N_VIEWS, REFERENCE, write_txrm, zeiss_streams

from operators import FanBeam
from pnp import ct
from pnp.readers import read_scan, read_txrm

olefile = pytest.importorskip("olefile")


def test_the_files_of_these_tests_are_compound_files(tmp_path):
    """Another library finds every stream in them, and nothing to complain of."""
    path = write_txrm(tmp_path / "a.txrm")
    with olefile.OleFileIO(path, raise_defects=olefile.DEFECT_UNSURE) as ole:
        streams = {"/".join(name): ole.openstream(name).read() for name in ole.listdir()}
        assert streams == zeiss_streams() and not ole.parsing_issues


def test_another_reader_finds_the_same(tmp_path):
    txrm2tiff = pytest.importorskip("txrm2tiff")
    with txrm2tiff.open_txrm(write_txrm(tmp_path / "a.txrm"), load_images=True, load_reference=True) as other:
        scan = read_txrm(tmp_path / "a.txrm")
        np.testing.assert_array_equal(scan.y.swapaxes(0, 1), other.get_images())
        np.testing.assert_array_equal(scan.flat[:, 0], other.get_reference())
        np.testing.assert_allclose(scan.angles, -np.deg2rad(other.image_info["Angles"]))


def test_views_angles_and_geometry(tmp_path):
    scan = read_txrm(write_txrm(tmp_path / "a.txrm"))
    np.testing.assert_array_equal(scan.y, IMAGES.swapaxes(0, 1))
    np.testing.assert_array_equal(scan.flat[:, 0], REFERENCE)
    np.testing.assert_allclose(scan.angles, -np.deg2rad(ANGLES.astype(np.float64)))
    assert scan.kind == "counts" and scan.dark is None
    assert (scan.source_origin_mm, scan.origin_detector_mm) == (40.0, 60.0)
    assert (scan.pixel_size_mm, scan.pitch_mm) == (0.0125, 0.03125)  # 12.5 um at the axis, magnified 2.5 times
    assert scan.facts["middle_row"] == 1.5 and scan.facts["Voltage"] == 80.0 and len(scan.facts["x_shifts"]) == N_VIEWS


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<f4"])
def test_types_and_rows(tmp_path, dtype):
    images = (IMAGES[:5] >> 8).astype(dtype)
    scan = read_scan(write_txrm(tmp_path / "a.txrm", images), rows=slice(1, 4, 2))
    np.testing.assert_array_equal(scan.y, images.swapaxes(0, 1)[1:4:2])
    np.testing.assert_array_equal(scan.flat[:, 0], REFERENCE[1:4:2])
    assert scan.facts["rows"] == (1, 4, 2)


def test_angles_of_the_caller_and_rows_that_are_not_there(tmp_path):
    path = write_txrm(tmp_path / "a.txrm", IMAGES[:5])
    np.testing.assert_array_equal(read_txrm(path, angles=np.arange(5) / 5).angles, np.arange(5) / 5)
    with pytest.raises(TypeError, match="rows"):
        read_txrm(path, rows=1)
    assert "rows" in refused(read_txrm, path, rows=slice(0, N_ROWS + 1))
    assert "angles" in refused(read_txrm, path, angles=np.arange(4.0))


def test_a_rod_is_where_it_is_seen_from_above(tmp_path):
    """Columns run from left to right seen from the source, the object turns counter-clockwise: the rod is in place."""
    angles = np.arange(36) * 10.0
    views = np.stack([1000 * np.exp(-line_integrals(-np.deg2rad(a))) for a in angles])
    images = np.repeat(views[:, None], 2, axis=1).astype(np.float32)
    flat = np.full((2, N_COLUMNS), 1000, np.float32).tobytes()
    lengths = {"ImageInfo__StoRADistance": ("<f4", 100.0), "ImageInfo__DtoRADistance": ("<f4", 50.0)}
    path = write_txrm(
        tmp_path / "a.txrm", images, ImageInfo__Angles=angles.astype("<f4").tobytes(), ReferenceData__Image=flat,
        ImageInfo__PixelSize=("<f4", 400.0), **lengths,
    )  # fmt: skip
    scan = read_txrm(path, rows=slice(0, 1))
    y, _ = ct.line_integrals(scan).tensors()
    operator = scan.operator((80, 80))
    assert isinstance(operator, FanBeam)
    image = operator.fbp(y)[0, 0]
    columns = 0.4 * (torch.arange(80) - 39.5)
    distance = torch.hypot(columns - DISC[0], columns.flip(0)[:, None] - DISC[1])
    assert image[distance < DISC[2] - 1].mean() == pytest.approx(DISC[3], rel=0.02)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ImageInfo__ImagesTaken": ("<u4", 3), "ImageData1__Image4": None}, "3 of 5 views"),
        ({"Alignment__X_Shifts": ("<f4", 0, 1, -7.5, 2, 3)}, "up to 7.5 pixels"),
        ({"ReferenceData__ImageInfo__ExpTimes": ("<f4", 4.0)}, "exposed for 4 s"),
        ({"ImageInfo__XrayGeometry": None}, "XrayGeometry"),
    ],
)
def test_what_is_warned_of(tmp_path, changes, part):
    with pytest.warns(UserWarning, match=part) as caught:
        scan = read_txrm(write_txrm(tmp_path / "a.txrm", IMAGES[:5], **changes))
    assert caught[0].filename == __file__ and "a.txrm" in str(caught[0].message)
    if "views" in part:
        assert scan.y.shape[1] == len(scan.angles) == 3
    if "exposed" in part:
        np.testing.assert_allclose(scan.flat[:, 0], REFERENCE / 2)
    if "Xray" in part:
        assert scan.source_origin_mm is None and scan.pitch_mm == 0.0125


def test_parallel_beam_and_no_reference(tmp_path):
    changes = {"ImageInfo__XrayGeometry": ("<i4", 0), "ReferenceData__Image": None, "Alignment__X_Shifts": None}
    scan = read_txrm(write_txrm(tmp_path / "a.txrm", IMAGES[:5], **changes))
    assert scan.flat is None and scan.source_origin_mm is None and scan.pitch_mm == scan.pixel_size_mm == 0.0125
    assert read_txrm(write_txrm(tmp_path / "b.txrm", IMAGES[:5], ImageInfo__PixelSize=None, **changes)).pitch_mm is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        *(({f"ImageInfo__{name}": None}, name) for name in ("NoOfImages", "ImageWidth", "ImageHeight", "DataType")),
        *(({f"ImageInfo__{name}": ("<i4", value)}, name) for name in ("NoOfImages", "ImageWidth", "DataType")
          for value in (0, -1, 2**24)),
        ({"ImageInfo__Angles": None}, "Angles"),
        ({"ImageInfo__Angles": ("<f4", 1, 2)}, "Angles must be 5"),
        ({"ImageInfo__Angles": ("<f4", 1, 2, np.nan, 4, 5)}, "angles must be finite"),
        ({"ImageInfo__ImageWidth": b"\x01"}, "ImageWidth"),
        ({"ImageInfo__ImageWidth": ("<i4", 7)}, "ImageData1/Image1 must have 56 bytes"),
        ({"ImageInfo__DataType": ("<i4", 10)}, "ImageData1/Image1 must have 96 bytes"),
        ({"ImageData1__Image3": None}, "ImageData1/Image3"),
        ({"ImageData1__Image3": b"123"}, "it has 3"),
        ({"ReferenceData__Image": b"123"}, "ReferenceData/Image must have 96 bytes"),
        ({"ImageInfo__PixelSize": None}, "PixelSize"),
        ({"ImageInfo__StoRADistance": ("<f4", 0.0)}, "StoRADistance"),
        ({"ImageInfo__AcquisitionMode": ("<i4", 2)}, "volume"),
        ({"ImageInfo__MosiacRows": ("<i4", 2), "ImageInfo__MosiacColumns": ("<i4", 3)}, "mosaic of 2 x 3"),
        ({"ImageInfo__ImageWidth": ("<i4", 2**20), "ImageInfo__ImageHeight": ("<i4", 2**20)}, "claims"),
    ],
    ids=str,
)  # fmt: skip
def test_files_that_are_no_scans(tmp_path, changes, part):
    message = refused(read_txrm, write_txrm(tmp_path / "a.txrm", IMAGES[:5], **changes))
    assert part in message and "a.txrm" in message


def test_other_files(tmp_path):
    assert "volume" in refused(read_txrm, write_txrm(tmp_path / "a.txm", IMAGES[:5]))
    write_compound_file(tmp_path / "letter.doc", {"WordDocument": bytes(5000)})
    assert "letter.doc has no stream ImageInfo" in refused(read_txrm, tmp_path / "letter.doc")
    whole = write_txrm(tmp_path / "whole.txrm", IMAGES[:5]).read_bytes()
    for size in (0, 8, 100, 511, 1024, len(whole) // 2, len(whole) - 600):
        (tmp_path / "part.txrm").write_bytes(whole[:size])
        assert "part.txrm" in refused(read_txrm, tmp_path / "part.txrm")


def test_without_the_package(tmp_path, monkeypatch):
    load = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "olefile":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'pnp-local[ct]'" in refused(read_txrm, write_txrm(tmp_path / "a.txrm", IMAGES[:5]))
