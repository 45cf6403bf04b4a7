"""ASTRA's cone beams: `cone` and `cone_vec` are one operator, and see points where ASTRA's documentation says."""

from __future__ import annotations

import copy

import astra
import numpy as np
import pytest
import torch
from cone_points import CLOSE, VOXELS, seen, shadows
from reader_files import refused

from pnp.readers import cone_from_astra

ANGLES = np.array([0.3, 1.9, -2.5])
VOLUME = astra.create_vol_geom(10, 12, 8, -9.0, 9.0, -8.0, 8.0, -5.0, 7.0)
"""10 rows (y), 12 columns (x), 8 slices (z); the middle is 1 above the origin."""


def cone():
    return astra.create_proj_geom("cone", 1.1, 1.3, 34, 46, ANGLES, 240.0, 160.0)


def vec(**changes):
    """Postaligned: the detector 2.5 bins along u and 1.5 along v; or vectors changed by functions of them."""
    geometry = astra.geom_postalignment(astra.geom_2vec(cone()), (2.5, 1.5))
    for name, change in changes.items():
        columns = {"source": slice(0, 3), "centre": slice(3, 6), "u": slice(6, 9), "v": slice(9, 12)}[name]
        geometry["Vectors"][:, columns] = change(geometry["Vectors"][:, columns])
    return geometry


def points():
    """The voxels' middles in ASTRA's world: slices along z, rows along y, columns along x; ours run down y."""
    sizes, low = np.array([18 / 12, 16 / 10, 12 / 8]), np.array([-9.0, -8.0, -5.0])
    return [low + sizes * (np.array([column, 9 - row, slice_]) + 0.5) for slice_, row, column in VOXELS]


def seen_by_astra(geometry):
    vectors, shape = geometry["Vectors"], (geometry["DetectorRowCount"], geometry["DetectorColCount"])
    found = []
    for point in points():
        views = []
        for s, d, u, v in vectors.reshape(-1, 4, 3):
            corner = d - u * (shape[1] - 1) / 2 - v * (shape[0] - 1) / 2
            views.append(seen(s, corner, u, v, point))
        found.append(views)
    return np.array(found)


def test_both_descriptions_are_one_operator():
    ours, theirs = cone_from_astra(cone(), VOLUME), cone_from_astra(astra.geom_2vec(cone()), VOLUME)
    np.testing.assert_allclose(ours.angles, ANGLES, atol=1e-14)
    np.testing.assert_allclose(np.exp(1j * theirs.angles), np.exp(1j * ANGLES), atol=1e-14)
    for name in ("source_origin", "origin_detector", "pitch", "offset", "row_offset", "shift", "voxel_size"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12)
    assert (ours.source_origin, ours.detector_shape, ours.shift) == (pytest.approx(240), (34, 46), -1.0)
    assert ours.shape == (8, 10, 12) and ours.voxel_size == (1.5, 1.6, 1.5)


def test_points_are_seen_where_astra_sees_them():
    geometry = vec()
    np.testing.assert_allclose(
        shadows(cone_from_astra(geometry, VOLUME).operator()), seen_by_astra(geometry), atol=CLOSE
    )


def test_columns_and_rows_that_run_the_other_way():
    """Their projections are turned round, so that views are those of the operator."""
    geometry = vec(u=np.negative, v=np.negative)
    ours = cone_from_astra(geometry, VOLUME)
    A = ours.operator()
    found = np.array([33, 45]) - shadows(A)
    np.testing.assert_allclose(found, seen_by_astra(geometry), atol=CLOSE)
    theirs = np.random.default_rng(0).random((34, 3, 46))
    np.testing.assert_array_equal(ours.views_from(theirs)[0, 0, 1], theirs[::-1, 1, ::-1])


def test_a_pitch_that_varies_is_a_distance():
    """A view on a detector scaled along the rays is the same."""
    geometry = vec()
    scaled, factor = copy.deepcopy(geometry), np.array([1.0, 1.25, 0.8])[:, None]
    v = scaled["Vectors"]
    v[:, 3:6] = v[:, :3] + factor * (v[:, 3:6] - v[:, :3])
    v[:, 6:] *= factor
    x = torch.rand(1, 1, 8, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (cone_from_astra(g, VOLUME).operator().A(x) for g in (geometry, scaled))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    v[:, 3:6] = v[:, :3] + 0.1 * (v[:, 3:6] - v[:, :3])  # between source and axis
    v[:, 6:] *= 0.1
    torch.testing.assert_close(one, cone_from_astra(scaled, VOLUME).operator().A(x), rtol=1e-6, atol=1e-6)


def test_arrays_there_and_back():
    ours = cone_from_astra(cone(), VOLUME)
    y, x = torch.rand(34, 3, 46), torch.rand(8, 10, 12)
    views, volume = ours.views_from(y), ours.volume_from(x)
    assert views.shape == (1, *ours.operator().y_shape) and torch.equal(views[0, 0, 2, 5], y[5, 2])
    assert torch.equal(volume[0, 0, 3, 0], x[3, 9])
    assert torch.equal(ours.volume_to(volume), x) and torch.equal(ours.volume_to(volume[0, 0]), x)
    np.testing.assert_array_equal(ours.volume_to(volume.numpy()), x.numpy())
    for call, wrong in ((ours.views_from, y.transpose(0, 1)), (ours.volume_from, x[0]), (ours.volume_to, x[None])):
        with pytest.raises(ValueError, match=r"must be"):
            call(wrong)


def tilted(degrees, axis):
    """Vectors turned by degrees about an axis of the first view's detector."""
    angle = np.deg2rad(degrees)
    unit = np.stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES], 1) if axis == "u" else np.array([[0.0, 0, 1]])

    def turned(steps):
        along = (steps * unit).sum(1, keepdims=True) * unit
        return (
            along
            + np.cos(angle) * (steps - along)
            + np.sin(angle) * np.cross(np.broadcast_to(unit, steps.shape), steps)
        )

    return turned


@pytest.mark.parametrize("degrees", [2.0, -20.0])
@pytest.mark.parametrize("axis", ["u", "z"])
def test_tilted_detectors_see_points_where_astra_sees_them(axis, degrees):
    """About u of the first view: for the others it is roll and slant, too."""
    turned = tilted(degrees, axis)
    geometry = vec(u=turned, v=turned)
    ours = cone_from_astra(geometry, VOLUME)
    np.testing.assert_allclose(shadows(ours.operator()), seen_by_astra(geometry), atol=CLOSE)
    named = {"tilt": np.array(ours.tilt), "slant": np.array(ours.slant), "roll": np.array(ours.roll)}
    first = {name: np.degrees(np.broadcast_to(turn, 3)[0]) for name, turn in named.items()}
    assert first["tilt" if axis == "u" else "slant"] == pytest.approx(-degrees if axis == "u" else degrees)
    slight = tilted(1e-3, axis)
    assert np.array_equal(cone_from_astra(vec(u=slight, v=slight), VOLUME).slant, 0.0)
    assert "tilt" in ours.geometry() or "slant" in ours.geometry()
    assert "roll" not in cone_from_astra(cone(), VOLUME).geometry()


def test_detectors_that_roll_and_run_the_other_way():
    def rolled(steps):
        beam = np.stack([-np.sin(ANGLES), np.cos(ANGLES), 0 * ANGLES], 1)
        angle = np.array([0.1, 0.3, -0.2])[:, None]
        return np.cos(angle) * steps + np.sin(angle) * np.cross(beam, steps)

    geometry = vec(u=lambda u: -rolled(u), v=rolled)
    ours = cone_from_astra(geometry, VOLUME)
    np.testing.assert_allclose(np.abs(ours.roll), [0.1, 0.3, 0.2], atol=1e-12)
    found = shadows(ours.operator())
    found[..., 1] = 45 - found[..., 1]
    np.testing.assert_allclose(found, seen_by_astra(geometry), atol=CLOSE)


def test_a_source_or_a_volume_beside_the_axis():
    def beside(s):
        return s + np.stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES], 1) * 3

    off = astra.create_vol_geom(10, 12, 8, -9.0, 9.0, -6.0, 10.0, -5.0, 7.0)
    for geometry, volume, moved in ((vec(source=beside), VOLUME, 0), (vec(), off, 2)):
        ours = cone_from_astra(geometry, volume)
        shifted = geometry["Vectors"].copy()
        shifted[:, [1, 4]] -= moved
        want = seen_by_astra(geometry | {"Vectors": shifted})
        np.testing.assert_allclose(shadows(ours.operator()), want, atol=CLOSE)
        assert np.any(ours.slant)


def test_other_orbits_are_refused():
    assert "right angles" in refused(cone_from_astra, vec(u=lambda u: u + np.array([0, 0, 0.05])), VOLUME)
    stretched = refused(cone_from_astra, vec(v=lambda v: v * np.array([[1.0], [1.1], [1.0]]), u=tilted(2.0, "z")))
    assert "one ratio of pitches" in stretched and "view 1" in stretched
    upright = refused(
        cone_from_astra, vec(u=lambda u: 0 * u + [0, 0, 1.1], v=lambda v: tilted(90, "z")(vec()["Vectors"][:, 6:9]))
    )
    assert "45 degrees" in upright
    edge_on = refused(cone_from_astra, vec(u=lambda u: 20 * tilted(89, "z")(u)))
    assert "45 degrees" in edge_on and "slant 89" in edge_on and "tolerance" not in edge_on
    assert "one side of the detector" in refused(cone_from_astra, vec(centre=lambda c: -4 * c))
    assert "on it" in refused(cone_from_astra, vec(source=lambda s: s * [0, 0, 1]))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        *(({key: None}, key) for key in ("DetectorSpacingX", "DetectorRowCount", "ProjectionAngles")),
        ({"DistanceOriginSource": None}, "DistanceOriginSource"),
        ({"type": "parallel3d"}, "type"),
        ({"type": "cyl_cone_vec"}, "curved"),
        ({"DetectorSpacingY": np.nan}, "DetectorSpacingY"),
        ({"DetectorSpacingX": -1.0}, "DetectorSpacingX"),
        ({"DetectorColCount": 2.5}, "DetectorColCount"),
        ({"DistanceOriginDetector": "far"}, "DistanceOriginDetector"),
        ({"ProjectionAngles": [0.0, np.inf]}, "ProjectionAngles"),
        ({"ProjectionAngles": []}, "ProjectionAngles"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_entries_are_named(changes, name):
    geometry = {key: value for key, value in (cone() | changes).items() if value is not None}
    assert name in refused(cone_from_astra, geometry)


def test_bad_vectors_volumes_and_tolerances():
    assert "Vectors" in refused(cone_from_astra, vec() | {"Vectors": np.zeros((3, 11))})
    assert "steps u" in refused(cone_from_astra, vec(u=lambda u: 0 * u))
    assert "GridSliceCount" in refused(cone_from_astra, cone(), astra.create_vol_geom(10, 12))
    swapped = copy.deepcopy(VOLUME)
    swapped["option"]["WindowMinX"] = 20.0
    assert "WindowMinX" in refused(cone_from_astra, cone(), swapped)
    assert "tolerance" in refused(cone_from_astra, cone(), tolerance=-1.0)
    assert "shape" in refused(cone_from_astra(cone()).operator)
    with pytest.warns(UserWarning, match="degrees"):
        cone_from_astra(cone() | {"ProjectionAngles": np.array([0.0, 90.0, 180.0])})


def test_a_geometry_of_many_views_is_shown_in_short():
    many = astra.create_proj_geom("cone", 1.1, 1.3, 34, 46, np.linspace(0, 6, 2000), 240.0, 160.0)
    shown = repr(cone_from_astra(many, VOLUME))
    assert len(shown) < 1000 and "detector_shape=(34, 46)" in shown and "..." in shown
