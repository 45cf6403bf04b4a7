"""Nikon scans: geometry, direction of rotation, and what is said of files that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from nikon_files import DISC, N_COLUMNS, N_ROWS, N_VIEWS, WHITE, write_xtekct
from reader_files import refused

from operators import FanBeam
from pnp.ct import line_integrals
from pnp.readers import read_scan, read_xtekct


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    return write_xtekct(tmp_path_factory.mktemp("nikon") / "rod.xtekct")


def test_what_the_file_says(scanned):
    scan = read_xtekct(scanned)
    assert scan.y.shape == (N_ROWS, N_VIEWS, N_COLUMNS) and scan.kind == "transmissions"
    assert (scan.source_origin_mm, scan.origin_detector_mm, scan.pitch_mm) == (100.0, 50.0, 0.6)
    assert scan.pixel_size_mm == pytest.approx(0.4)
    np.testing.assert_allclose(scan.angles, np.deg2rad(10.0 * np.arange(N_VIEWS)), atol=1e-12)
    assert scan.flat is None
    first = tifffile.imread(scanned.with_name("rod_0001.tif"))
    np.testing.assert_allclose(scan.y[:, 0], first[:, ::-1] / WHITE, rtol=1e-6)
    assert scan.facts["middle_row"] == 2.0 and scan.facts["white_level"] == WHITE and scan.facts["MaskRadius"] == "15.5"
    assert scan.facts["offset_mm"] == pytest.approx(0.45)
    assert scan.y.flags.c_contiguous


def test_the_rod_is_where_it_is_seen_from_above(scanned):
    """Columns, angles and distances fit each other: the rod is round, in its place, and of its attenuation."""
    scan = read_scan(scanned, rows=slice(2, 3))
    y, _ = line_integrals(scan).tensors()
    operator = scan.operator((80, 80))
    assert isinstance(operator, FanBeam)
    image = operator.fbp(y)[0, 0]
    x, up, radius, attenuation = DISC
    columns = 0.4 * (torch.arange(80) - 39.5)
    distance = torch.hypot(columns - x, columns.flip(0)[:, None] - up)
    assert image[distance < radius - 1].mean() == pytest.approx(attenuation, rel=0.02)
    assert image[(distance > radius + 1) & (distance < radius + 4)].abs().mean() < 0.05 * attenuation


def test_rows_and_angles_of_the_caller(scanned):
    whole, angles = read_xtekct(scanned), np.linspace(0, 6, N_VIEWS)
    part = read_xtekct(scanned, rows=slice(1, 5, 2), angles=angles)
    np.testing.assert_array_equal(part.y, whole.y[1:5:2])
    np.testing.assert_array_equal(part.angles, angles)
    with pytest.raises(TypeError, match="rows"):
        read_xtekct(scanned, rows=1)
    assert "rows" in refused(read_xtekct, scanned, rows=slice(0, 6))
    assert "angles" in refused(read_xtekct, scanned, angles=angles[1:])


def test_the_offset_at_the_object(tmp_path):
    scan = read_xtekct(write_xtekct(tmp_path / "rod.xtekct", ObjectOffsetX="0.2", InitialAngle="0"))
    assert scan.facts["offset_mm"] == pytest.approx(0.3)
    np.testing.assert_allclose(scan.angles, np.deg2rad(10.0 * np.arange(N_VIEWS) - 180), atol=1e-12)


@pytest.mark.parametrize(("jitter", "warned"), [(0.3, False), (30.0, True)])
def test_listed_angles_are_compared(tmp_path, jitter, warned, recwarn):
    path = write_xtekct(tmp_path / "rod.xtekct")
    lines = [f"{k + 1}\t{180 + 10 * k + jitter * (k % 3 == 1):.4f}\t{0.5 * k}" for k in range(N_VIEWS)]
    head = "Projs\tFrames\tExposure(ms)\n36\t1\t1000\nProjection\tAngle(deg)\tTime(s)\n"
    (tmp_path / "_ctdata.txt").write_text(head + "\n".join(lines) + "\n")
    np.testing.assert_allclose(read_xtekct(path).angles, np.deg2rad(10.0 * np.arange(N_VIEWS)), atol=1e-12)
    assert [("_ctdata.txt" in str(w.message), w.filename == __file__) for w in recwarn] == [(True, True)] * warned


def test_projections_in_a_folder_below(tmp_path):
    write_xtekct(tmp_path / "rod.xtekct")
    (tmp_path / "raw").mkdir()
    for file in tmp_path.glob("*.tif"):
        file.rename(tmp_path / "raw" / file.name)
    path = write_xtekct(tmp_path / "rod.xtekct", images=False, InputFolderName="raw")
    assert read_xtekct(path).y.shape == (N_ROWS, N_VIEWS, N_COLUMNS)
    outside = tmp_path / "scan"
    outside.mkdir()
    for name in ("../raw", str(tmp_path / "raw"), "a\0b", "x" * 5000):
        path = write_xtekct(outside / "rod.xtekct", images=False, InputFolderName=name)
        assert "found 0" in refused(read_xtekct, path)


LENGTHS = ("SrcToObject", "SrcToDetector", "DetectorPixelSizeX")
NUMBERS = (*LENGTHS, "WhiteLevel", "DetectorPixelsX", "DetectorPixelsY", "Projections")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        *(({name: value}, name) for name in NUMBERS for value in (None, "", "abc", "0", "-1", "nan", "1e300")),
        *(({name: value}, name) for name in ("AngularStep", "InitialAngle") for value in (None, "x", "inf", "1e30")),
        ({"AngularStep": "0"}, "AngularStep"),
        ({"SrcToObject": "151"}, "SrcToDetector"),
        ({"Projections": "36.5"}, "whole"),
        ({"Projections": "40"}, "found 36, without 37, 38, 39, 40;"),
        ({"Projections": "35"}, "found 36"),
        ({"Projections": "999999"}, "found 36"),
        ({"Name": "other"}, "found 0"),
        ({"Name": "../rod"}, "found 0"),
        ({"Name": "z" * 300, "InputSeparator": "z" * 300}, "found 0"),
        ({"DetectorPixelsX": "79"}, "one page (5, 79)"),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_that_do_not_fit(scanned, changes, part):
    path = write_xtekct(scanned.with_name("changed.xtekct"), images=False, **changes)
    message = refused(read_xtekct, path)
    assert part in message and ("changed.xtekct" in message)


def test_missing_and_broken_projections(tmp_path):
    path = write_xtekct(tmp_path / "rod.xtekct")
    (tmp_path / "rod_0007.tif").write_bytes(b"II*\0")
    assert "rod_0007.tif" in refused(read_xtekct, path)
    (tmp_path / "rod_0007.tif").unlink()
    assert "found 35, without 7;" in refused(read_xtekct, path)


@pytest.mark.parametrize("name", ["scan.vgi", "scan.xtekVolume", "scan.ctprofile.xml", "scan.pca"])
def test_other_files_are_named(tmp_path, name):
    (tmp_path / name).write_text("{volume1}\n[file1]\nSize = 1 2 3\n")
    assert ".xtekct" in refused(read_xtekct, tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"[XTekCT]", b"[XTekCT]\n\x00=\xff\n[[[", b"x=1\n[XTekCT]\n", b"[XTekCT]\n" * 3]
)
def test_text_that_is_no_parameters(tmp_path, content):
    (tmp_path / "a.xtekct").write_bytes(content)
    assert "a.xtekct" in refused(read_xtekct, tmp_path / "a.xtekct")
