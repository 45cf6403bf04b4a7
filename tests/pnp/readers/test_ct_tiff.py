"""CT scans in TIFF files."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tifffile
from reader_files import COUNTS, N_ANGLES, N_ROWS, refused

from operators import FanBeam
from pnp.readers import read_tiff_scan

ANGLES = np.linspace(0, np.pi, N_ANGLES, endpoint=False)


def write(folder, **options):
    """A folder each of projections, flats and darks, and a file of all projections."""
    for name, frames in {"proj": COUNTS, "flat": COUNTS[:3] + 1, "dark": COUNTS[:2] // 2}.items():
        (folder / name).mkdir()
        for k, frame in enumerate(frames):
            tifffile.imwrite(folder / name / f"{name}_{30 * k}.tif", frame, **options)
    with tifffile.TiffWriter(folder / "pages.tif", bigtiff=True) as tiff:
        for frame in COUNTS:
            tiff.write(frame, contiguous=False, metadata=None, **options)
    tifffile.imwrite(folder / "one.tif", COUNTS, photometric="minisblack", byteorder=">", **options)
    return folder


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 1}])
@pytest.mark.parametrize("rows", [None, slice(1, 2), slice(0, 3, 2)])
@pytest.mark.parametrize("name", ["proj", "proj/proj_*.tif", "pages.tif", "one.tif"])
def test_rows_of_projections_flats_and_darks(tmp_path, options, rows, name):
    write(tmp_path, **options)
    scan = read_tiff_scan(
        tmp_path / name, angles=ANGLES, flat=tmp_path / "flat", dark=tmp_path / "dark" / "*", rows=rows
    )
    picked = rows or slice(None)
    np.testing.assert_array_equal(scan.y, COUNTS.swapaxes(0, 1)[picked])
    np.testing.assert_array_equal(scan.flat, (COUNTS[:3] + 1).swapaxes(0, 1)[picked])
    np.testing.assert_array_equal(scan.dark, (COUNTS[:2] // 2).swapaxes(0, 1)[picked])
    np.testing.assert_array_equal(scan.angles, ANGLES)
    assert scan.kind == "counts" and scan.y.flags.c_contiguous and scan.source_origin_mm is None


def test_angles_in_names_are_degrees(tmp_path):
    write(tmp_path)
    scan = read_tiff_scan(tmp_path / "proj", angles="names", kind="counts")
    np.testing.assert_allclose(scan.angles, np.deg2rad([0, 30, 60, 90, 120, 150]))
    assert "angles" in refused(read_tiff_scan, tmp_path / "proj", angles="degrees", kind="counts")
    assert "angles" in refused(read_tiff_scan, tmp_path / "pages.tif", angles="names", kind="counts")


def test_lengths_make_a_fan(tmp_path):
    lengths = {"source_origin_mm": 100.0, "origin_detector_mm": 50.0, "pitch_mm": 0.3, "pixel_size_mm": 0.2}
    scan = read_tiff_scan(write(tmp_path) / "proj", angles=ANGLES, kind="counts", **lengths).row(1)
    operator = scan.operator((4, 4))
    assert isinstance(operator, FanBeam) and (operator.pitch, operator.pixel_size) == (0.3, 0.2)


def test_what_does_not_fit(tmp_path):
    write(tmp_path)
    proj = tmp_path / "proj"
    with pytest.raises(TypeError, match="rows"):
        read_tiff_scan(proj, angles=ANGLES, rows=1)
    assert "angles" in refused(read_tiff_scan, proj, kind="counts")
    assert "kind" in refused(read_tiff_scan, proj, angles=ANGLES)
    assert "flat" in refused(read_tiff_scan, proj, angles=ANGLES, flat=COUNTS[:, 1:])
    assert "angles" in refused(read_tiff_scan, proj, angles=ANGLES[1:], kind="counts")
    assert "angles" in refused(read_tiff_scan, proj, angles=["a"] * N_ANGLES, kind="counts")
    assert "angles" in refused(read_tiff_scan, proj, angles=[np.nan] * N_ANGLES, kind="counts")
    assert "rows" in refused(read_tiff_scan, proj, angles=ANGLES, rows=slice(0, N_ROWS + 1), kind="counts")
    tifffile.imwrite(tmp_path / "narrow.tif", COUNTS[0, :, 1:])
    assert "narrow.tif: flat" in refused(read_tiff_scan, proj, angles=ANGLES, flat=tmp_path / "narrow.tif")
    assert "narrow.tif: dark" in refused(
        read_tiff_scan, proj, angles=ANGLES, dark=tmp_path / "narrow.tif", kind="counts"
    )
    assert "no such file" in refused(read_tiff_scan, proj, angles=ANGLES, dark=tmp_path / "absent.tif", kind="counts")
    tifffile.imwrite(proj / "proj_60.tif", COUNTS[0].T)
    assert "proj_60.tif is (9, 3)" in refused(read_tiff_scan, proj, angles=ANGLES, rows=slice(0, 1), kind="counts")
    with pytest.warns(UserWarning, match="degrees"):
        read_tiff_scan(tmp_path / "pages.tif", angles=np.rad2deg(ANGLES), kind="counts")


def test_other_rows_stay_on_disk(tmp_path):
    frames = np.ones((8, 512, 1024), np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", frames, photometric="minisblack")
    for k, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / f"p{k}.tif", frame)
    for path in (tmp_path / "p*.tif", tmp_path / "one.tif"):
        tracemalloc.start()
        try:
            scan = read_tiff_scan(path, angles=np.arange(8) / 8, rows=slice(100, 101), kind="counts")
            assert tracemalloc.get_traced_memory()[1] < 2 * frames[0].nbytes
        finally:
            tracemalloc.stop()
        assert scan.y.shape == (1, 8, 1024)
