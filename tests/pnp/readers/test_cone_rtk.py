"""RTK's geometry files: points are seen where the projection matrix of RTK's documentation puts them."""

from __future__ import annotations

import numpy as np
import pytest
from cone_points import CLOSE, VOXELS, shadows
from reader_files import refused
from rtk_files import VIEWS, matrix, write_rtk

from pnp.readers import read_rtk_geometry

SHAPE, VOXEL, DETECTOR, PITCH, CORNER = (8, 10, 12), (1.5, 1.6, 1.4), (34, 48), (1.3, 1.1), (-21.0, -27.0)


def read(path, **options):
    return read_rtk_geometry(path, DETECTOR, PITCH, **options)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"InPlaneAngle": -7.0},
        {"OutOfPlaneAngle": 3.0},
        {"SourceOffsetX": 5.0},
        {"InPlaneAngle": 12.0, "OutOfPlaneAngle": -4.0, "SourceOffsetX": -3.0},
    ],
    ids=str,
)
def test_points_are_seen_where_rtk_sees_them(tmp_path, change):
    # What a projection does not state is as in the one before.
    views = [VIEWS[0], VIEWS[1] | change, VIEWS[2] | dict.fromkeys(change, 0.0)]
    ours = read(write_rtk(tmp_path / "geometry.xml", views), first_bin=CORNER)
    if not change:
        np.testing.assert_allclose(ours.angles, np.deg2rad([view["GantryAngle"] for view in VIEWS]), atol=1e-12)
    found = np.empty((len(VOXELS), len(VIEWS), 2))
    for j, (slice_, row, column) in enumerate(VOXELS):
        d, h, w = (size * (k - (n - 1) / 2) for k, n, size in zip((slice_, row, column), SHAPE, VOXEL, strict=True))
        point = np.array([w, d, h, 1.0])  # RTK's x, y, z: columns, slices, rows
        for k, view in enumerate(views):
            u, v, scale = matrix(view) @ point
            found[j, k] = (v / scale - CORNER[0]) / PITCH[0], (u / scale - CORNER[1]) / PITCH[1]
    np.testing.assert_allclose(shadows(ours.operator(SHAPE, voxel_size=VOXEL)), found, atol=CLOSE)


def test_a_cylinder_about_the_source(tmp_path):
    """Columns are counted along the arc from the ray to RTK's point (0, 0), rows along the axis."""
    ours = read(write_rtk(tmp_path / "geometry.xml", RadiusCylindricalDetector=400.0), first_bin=CORNER)
    found = np.empty((len(VOXELS), len(VIEWS), 2))
    for j, (slice_, row, column) in enumerate(VOXELS):
        d, h, w = (size * (k - (n - 1) / 2) for k, n, size in zip((slice_, row, column), SHAPE, VOXEL, strict=True))
        for k, view in enumerate(VIEWS):
            gantry = np.deg2rad(view["GantryAngle"])
            x, z = np.cos(gantry) * w - np.sin(gantry) * h, np.sin(gantry) * w + np.cos(gantry) * h
            depth, rise = 240.0 - z, d - view["SourceOffsetY"]
            arc = 400.0 * np.arctan2(x, depth) - view["ProjectionOffsetX"]
            up = view["SourceOffsetY"] + rise * 400.0 / np.hypot(x, depth) - view["ProjectionOffsetY"]
            found[j, k] = (up - CORNER[0]) / PITCH[0], (arc - CORNER[1]) / PITCH[1]
    np.testing.assert_allclose(shadows(ours.operator(SHAPE, voxel_size=VOXEL)), found, atol=CLOSE)
    assert ours.geometry(SHAPE, voxel_size=VOXEL)["curved"] is True


def test_a_projection_about_its_point_0_and_entries_of_the_one_before(tmp_path):
    first, *others = VIEWS
    short = [first, *({"GantryAngle": view["GantryAngle"]} for view in others)]
    ours = read(write_rtk(tmp_path / "short.xml", short, matrices=False))
    assert (ours.offset, ours.row_offset, ours.shift) == pytest.approx((1.5, -2.0, 0.0))
    corner = (-PITCH[0] * 33 / 2, -PITCH[1] * 47 / 2)
    assert read(tmp_path / "short.xml", first_bin=corner).offset == pytest.approx(1.5)


def test_arrays_are_laid_out_as_itk_has_them(tmp_path):
    ours = read(write_rtk(tmp_path / "geometry.xml"))
    y, x = np.random.default_rng(0).random((3, 34, 48)), np.random.default_rng(1).random((10, 8, 12))
    np.testing.assert_array_equal(ours.views_from(y)[0, 0], y)
    np.testing.assert_array_equal(ours.volume_from(x)[0, 0, 3, 7], x[7, 3])
    np.testing.assert_array_equal(ours.volume_to(ours.volume_from(x)), x)


def test_versions_and_old_names(tmp_path):
    views = [{"Angle" if name == "GantryAngle" else name: v for name, v in view.items()} for view in VIEWS]
    path = write_rtk(tmp_path / "old.xml", views, matrices=False, version="2")
    np.testing.assert_allclose(read(path).angles, np.deg2rad([view["GantryAngle"] for view in VIEWS]), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"InPlaneAngle": -53.0}, ("InPlaneAngle = -53", "45 degrees")),
        ({"RadiusCylindricalDetector": 300.0}, ("RadiusCylindricalDetector", "300")),
        ({"RadiusCylindricalDetector": 400.0, "InPlaneAngle": 1.0}, ("RadiusCylindricalDetector", "InPlaneAngle")),
        ({"SourceToDetectorDistance": 0.0}, ("SourceToDetectorDistance", "Radon")),
        ({"SourceToIsocenterDistance": -240.0}, ("SourceToIsocenterDistance",)),
        ({"GantryAngle": "nan"}, ("GantryAngle", "projection 1")),
        ({"ProjectionOffsetX": "left"}, ("ProjectionOffsetX", "projection 1")),
        ({"ProjectionOffsetY": ""}, ("ProjectionOffsetY",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, parts):
    views = [VIEWS[0], VIEWS[1] | change, VIEWS[2]]
    message = refused(read, write_rtk(tmp_path / "a.xml", views, matrices=False))
    assert all(part in message for part in parts), message


def test_entries_of_all_projections(tmp_path):
    assert "SourceToIsocenterDistance" in refused(read, write_rtk(tmp_path / "a.xml", SourceToIsocenterDistance=None))
    assert "SourceToDetectorDistance" in refused(read, write_rtk(tmp_path / "a.xml", SourceToDetectorDistance=None))
    without = [{k: v for k, v in view.items() if k != "GantryAngle"} for view in VIEWS]
    assert "GantryAngle" in refused(read, write_rtk(tmp_path / "a.xml", without, matrices=False))
    assert "<Projection>" in refused(read, write_rtk(tmp_path / "a.xml", []))
    assert "Matrix" in refused(read, write_rtk(tmp_path / "a.xml", SourceToDetectorDistance=500.0))
    with pytest.warns(UserWarning, match="Collimation"):
        read(write_rtk(tmp_path / "a.xml", CollimationUInf=20.0))


def test_radians_are_seen(tmp_path):
    """A turn of radians: of a file whose matrices say so, an error; of one without, a warning."""
    radians = [{"GantryAngle": angle} for angle in np.arange(20) * 2 * np.pi / 20]
    path = write_rtk(tmp_path / "a.xml", radians, matrices=False)
    with pytest.warns(UserWarning, match="GantryAngle"):
        read(path)
    np.testing.assert_allclose(read(path, angles="rad").angles, np.arange(20) * 2 * np.pi / 20, atol=1e-12)
    assert "angles" in refused(read, path, angles="turns")


def test_files_of_others(tmp_path):
    entities = '<!DOCTYPE RTKGEOMETRY [<!ENTITY a "10"><!ENTITY b "&a;&a;">]>\n'
    assert "entity" in refused(read, write_rtk(tmp_path / "a.xml", head=entities))
    outside = '<!DOCTYPE RTKGEOMETRY [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n'
    assert "entity" in refused(read, write_rtk(tmp_path / "a.xml", head=outside))
    assert "version" in refused(read, write_rtk(tmp_path / "a.xml", version="1"))
    for content in (
        b"",
        b"<a/>",
        b"<RTKThreeDCircularGeometry",
        b"\x00\xff",
        b'<?xml version="1.0" encoding="x-none"?><a/>',
    ):
        (tmp_path / "a.xml").write_bytes(content)
        assert "a.xml" in refused(read, tmp_path / "a.xml")
    assert "no such file" in refused(read, tmp_path / "b.xml")
    path = write_rtk(tmp_path / "a.xml")
    for name, arguments in (("detector_shape", ((34,), 1.0)), ("pitch", (DETECTOR, (1.0, 0.0)))):
        assert name in refused(read_rtk_geometry, path, *arguments)
    assert "first_bin" in refused(read, path, first_bin=(0.0,))


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pnp.readers.ct_cone_rtk._MAX_BYTES", 100)
    assert "MiB" in refused(read, write_rtk(tmp_path / "a.xml"))
