"""The cone beam of a scan: voxels, seen from above and with z up, where a Nikon file's projections show them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from cone_points import CLOSE, shadows
from nikon_files import write_points, write_xtekct

from pnp.ct import line_integrals
from pnp.readers import CtScan, read_xtekct

SHAPE, VOXEL = (12, 20, 24), 0.9
VOXEL_AT = (9, 4, 19)
POINT = (VOXEL * (19 - 11.5), VOXEL * (9.5 - 4), VOXEL * (9 - 5.5))
"""Its middle in mm, seen from above: x to the right, y along the first beam, z up."""


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    return write_points(tmp_path_factory.mktemp("nikon") / "rod.xtekct", [POINT], 30, 80, 0.8)


def centroids(y):
    """Return the centroids (row, column) of spots (n_angles, rows, columns)."""
    rows, columns = (np.arange(n) for n in y.shape[1:])
    return np.stack([y.sum(2) @ rows, y.sum(1) @ columns], -1) / y.sum((1, 2))[:, None]


def integrals(scan):
    """Line integrals of transmissions without noise."""
    return replace(scan, y=-np.log(scan.y), kind="line integrals")


@pytest.mark.parametrize("rows", [None, slice(1, 15)], ids=["all", "some"])
def test_a_voxel_is_seen_where_the_projections_show_it(scanned, rows):
    scan = integrals(read_xtekct(scanned, rows=rows))
    assert scan.row_pitch_mm == 0.8
    A = scan.cone_operator(SHAPE, voxel_size=VOXEL)
    y, noise_std = scan.cone_tensors()
    assert noise_std is None and tuple(y.shape) == (1, *A.y_shape) and y.is_contiguous()
    np.testing.assert_allclose(shadows(A, [VOXEL_AT])[0], centroids(y[0, 0].double().numpy()), atol=2 * CLOSE)


def test_the_middle_row_is_that_of_the_fan(tmp_path):
    """A volume that is the same in all slices: the row in the source's plane sees it as FanBeam does."""
    scan = integrals(read_xtekct(write_xtekct(tmp_path / "rod.xtekct")))
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    x = torch.exp(-((rows - 9) ** 2 + (columns - 14) ** 2) / (2 * 2.5**2))[None, None]
    fan = scan.operator((24, 24), offset=0.5, pixel_size=1.2).A(x)[0, 0]
    cone = scan.cone_operator((7, 24, 24), offset=0.5, voxel_size=1.2).A(x[:, :, None].expand(-1, -1, 7, -1, -1))
    assert (cone[0, 0, :, 2] - fan).abs().max() < 0.02 * fan.max()


def test_a_volume_by_default_holds_what_the_rows_see(scanned):
    geometry = read_xtekct(scanned).cone_geometry()
    assert geometry["shape"] == (40, 80, 80) and geometry["voxel_size"] == pytest.approx(0.4)  # 30 rows of 0.8 / 1.5
    assert geometry["row_offset"] == 0.0 and geometry["detector_shape"] == (30, 80) and geometry["pitch"] == (0.8, 0.6)
    assert read_xtekct(scanned).cone_geometry(offset=1.0, row_offset=2.0)["row_offset"] == 2.0
    one = read_xtekct(scanned).row(3)
    assert one.cone_geometry()["row_offset"] == pytest.approx(0.8 * 11.5) and one.cone_geometry()["shape"][0] == 2


def test_transmissions_and_their_noise(scanned):
    scan = read_xtekct(scanned)
    with pytest.raises(ValueError, match="cone_views"):
        scan.cone_tensors()
    record = line_integrals(scan, photons_per_count=1e4)
    y, noise_std = scan.cone_views(record.y), scan.cone_views(record.noise_std)
    assert y.shape == noise_std.shape == (1, 1, 4, 30, 80)
    np.testing.assert_array_equal(y[0, 0, 2, 0], record.y[-1, 2])
    with pytest.raises(ValueError, match="y"):
        scan.cone_views(record.y[:3])


def test_what_a_scan_lacks_is_named(scanned, tmp_path):
    with pytest.raises(ValueError, match="row_pitch_mm"):
        replace(read_xtekct(scanned), row_pitch_mm=None).cone_operator()
    with pytest.raises(ValueError, match="source_origin_mm"):
        CtScan(np.zeros((2, 3, 5), np.float32), np.arange(3.0), "line integrals").cone_operator()
    with pytest.raises(ValueError, match="rows"):
        read_xtekct(scanned, rows=slice(0, 9, 2)).cone_operator()
    assert read_xtekct(write_xtekct(tmp_path / "rod.xtekct", DetectorPixelSizeY=None)).row_pitch_mm is None
    with pytest.raises(ValueError, match="DetectorPixelSizeY"):
        read_xtekct(write_xtekct(tmp_path / "rod.xtekct", DetectorPixelSizeY="nan"))


def test_an_offset_of_unknown_sign_is_not_applied(scanned):
    scan = read_xtekct(scanned)
    for stated, warned in (("3.5", 1), ("0.000", 0), ("", 0)):
        other = replace(scan, facts=scan.facts | {"DetectorOffsetY": stated})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            other.cone_geometry()
        assert [("row_offset" in str(w.message), w.filename == __file__) for w in caught] == [(True, True)] * warned


def test_rows_from_the_bottom_stay():
    """As Zeiss has them: the first row is the lowest."""
    y = np.random.default_rng(0).random((4, 3, 9)).astype(np.float32)
    facts = {"rows": (2, 6, 1), "middle_row": 4.5}
    known = {"source_origin_mm": 100.0, "origin_detector_mm": 50.0, "pitch_mm": 1.5, "row_pitch_mm": 1.0}
    scan = CtScan(y, np.arange(3.0), "line integrals", facts=facts, **known)
    assert scan.cone_geometry()["row_offset"] == -1.0
    assert torch.equal(scan.cone_tensors()[0][0, 0, 1, 3], torch.from_numpy(y[3, 1]))
