"""TIGRE's cone beams: points are seen where computeDeltas_Siddon of its source code puts source and detector."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cone_points import CLOSE, VOXELS, seen, shadows
from reader_files import refused

from pnp.readers import cone_from_tigre

ANGLES = np.array([0.3, 1.9, -2.5])


def tigre(**changes):
    """What `tigre.geometry()` holds after a demo's lines; sizes in the order z, y, x and rows, columns."""
    values = {
        "mode": "cone",
        "DSD": 400.0,
        "DSO": 240.0,
        "nDetector": np.array([34, 48]),
        "dDetector": np.array([1.3, 1.1]),
        "nVoxel": np.array([8, 10, 12]),
        "dVoxel": np.array([1.5, 1.6, 1.4]),
        "offOrigin": np.array([1.0, 0.0, 0.0]),
        "offDetector": np.array([1.7, -2.2]),
        "rotDetector": np.array([0.0, 0.0, 0.0]),
        "COR": 0,
    } | changes
    geometry = SimpleNamespace(**{key: value for key, value in values.items() if value is not None})
    for kind in ("Detector", "Voxel"):
        if f"s{kind}" not in changes and f"n{kind}" in values:
            setattr(geometry, f"s{kind}", np.asarray(values[f"n{kind}"]) * np.asarray(values[f"d{kind}"], float))
    return geometry


def seen_by_tigre(geo, angles):
    """Computed a view and a voxel at a time from TIGRE's own description, in mm from the middle of the volume."""
    found = np.empty((len(VOXELS), len(angles), 2))
    per_view = {
        n: np.broadcast_to(getattr(geo, n), (len(angles), s))
        for n, s in (("offDetector", 2), ("offOrigin", 3), ("rotDetector", 3))
    }
    near, far = (np.broadcast_to(d, (len(angles),)) for d in (geo.DSO, geo.DSD))
    for k, alpha in enumerate(angles):
        turn = np.array([[np.cos(alpha), -np.sin(alpha), 0], [np.sin(alpha), np.cos(alpha), 0], [0, 0, 1]])
        low_row = -geo.dDetector[0] * (geo.nDetector[0] / 2 - 0.5)
        first_column = geo.dDetector[1] * (0 - geo.nDetector[1] / 2 + 0.5)
        off_v, off_u = per_view["offDetector"][k]
        about_x, about_y, about_z = per_view["rotDetector"][k]
        tilt = np.eye(3)
        for angle, axis in ((about_x, 0), (about_y, 1), (about_z, 2)):  # roll, pitch, yaw
            one, other = (axis + 1) % 3, (axis + 2) % 3
            step = np.eye(3)
            step[one, one] = step[other, other] = np.cos(angle)
            step[other, one], step[one, other] = np.sin(angle), -np.sin(angle)
            tilt = step @ tilt
        middle = np.array([-(far[k] - near[k]), off_u, off_v])
        corner = middle + tilt @ np.array([0, first_column, low_row])
        moved = -per_view["offOrigin"][k][::-1] + np.broadcast_to(geo.COR, (len(angles),))[k] * turn[:, 1]
        source, corner = (turn @ p + moved for p in (np.array([near[k], 0, 0]), corner))
        u, v = turn @ tilt @ [0, geo.dDetector[1], 0], turn @ tilt @ [0, 0, geo.dDetector[0]]
        for j, (slice_, row, column) in enumerate(VOXELS):
            index = np.array([column, geo.nVoxel[1] - 1 - row, slice_])  # x, y, z: its rows run along +y
            point = (index - (geo.nVoxel[::-1] - 1) / 2) * geo.dVoxel[::-1]
            found[j, k] = seen(source, corner, u, v, point)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "offOrigin": np.array([[1.0, 0, 0], [0, 0, 0], [-1, 0, 0]]),
            "offDetector": np.array([[1, 2], [0, -1], [2, 0]]),
        },
        {"DSO": np.array([240.0, 250.0, 260.0]), "DSD": np.array([400.0, 410.0, 390.0])},
        {"rotDetector": np.array([0.05, 0.0, 0.0])},
        {"rotDetector": np.array([[0.0, 0.2, 0.0], [0.1, 0.0, -0.2], [-0.3, 0.1, 0.15]])},
        {"COR": 2.0},
        {"offOrigin": np.array([1.0, 2.0, -1.5])},
    ],
    ids=["circle", "helix", "distances", "roll", "turned", "COR", "volume beside the axis"],
)
def test_points_are_seen_where_tigre_sees_them(changes):
    geometry = tigre(**changes)
    ours = cone_from_tigre(geometry, ANGLES)
    if not np.any(geometry.COR) and not np.any(np.atleast_2d(geometry.offOrigin)[:, 1:]):
        np.testing.assert_allclose(ours.angles, ANGLES + np.pi / 2, atol=1e-12)
    assert (ours.shape, ours.voxel_size, ours.pitch) == ((8, 10, 12), (1.5, 1.6, 1.4), pytest.approx((1.3, 1.1)))
    np.testing.assert_allclose(shadows(ours.operator()), seen_by_tigre(geometry, ANGLES), atol=CLOSE)


def test_a_small_shift_of_the_axis_is_left_out_on_demand():
    """COR puts the source off the axis: a slant of arctan(COR / DSO)."""
    geometry = tigre(COR=2.0)
    assert np.degrees(cone_from_tigre(geometry, ANGLES).slant) == pytest.approx(
        -np.degrees(np.arctan(2 / 240)), abs=1e-9
    )
    ours = cone_from_tigre(geometry, ANGLES, tolerance=0.3)
    assert ours.slant == 0.0
    np.testing.assert_allclose(shadows(ours.operator()), seen_by_tigre(geometry, ANGLES), atol=2 * CLOSE)
    assert cone_from_tigre(tigre(COR=np.full(3, 0.01)), ANGLES).slant == 0.0


def test_arrays_are_laid_out_as_tigre_has_them():
    ours = cone_from_tigre(tigre(), ANGLES)
    y, x = np.random.default_rng(0).random((3, 34, 48)), np.random.default_rng(1).random((8, 10, 12))
    np.testing.assert_array_equal(ours.views_from(y)[0, 0], y)
    np.testing.assert_array_equal(ours.volume_from(x)[0, 0], x[:, ::-1])
    np.testing.assert_array_equal(ours.volume_to(ours.volume_from(x)), x)


def test_turns_about_z_of_three_angles():
    three = np.stack([ANGLES, 0 * ANGLES, [0.1, 0.2, 0.3]], 1)
    np.testing.assert_allclose(cone_from_tigre(tigre(), three).angles, three.sum(1) + np.pi / 2, atol=1e-12)
    three[1, 1] = 1.2
    assert "the second angle = 1.2" in refused(cone_from_tigre, tigre(), three)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rotDetector": np.array([0.9, 0.0, 0.0])}, ("rotDetector", "45 degrees")),
        ({"rotDetector": np.array([0.0, 1.5, 0.0])}, ("rotDetector", "exchange rows")),
        ({"mode": "parallel"}, ("mode",)),
        ({"DSO": None}, ("DSO",)),
        ({"DSO": 500.0}, ("DSD",)),
        ({"DSD": np.nan}, ("DSD",)),
        ({"DSO": -1.0}, ("DSO",)),
        ({"nVoxel": None, "sVoxel": None}, ("nVoxel",)),
        ({"nDetector": np.array([34, 48, 1]), "sDetector": None}, ("nDetector",)),
        ({"dDetector": np.array([1.3, 0.0])}, ("dDetector",)),
        ({"sVoxel": np.array([12.0, 16.0, 15.0])}, ("sVoxel",)),
        ({"offDetector": np.array([1.0, 2.0, 3.0])}, ("offDetector",)),
        ({"COR": "left"}, ("COR",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_named(changes, parts):
    message = refused(cone_from_tigre, tigre(**changes), ANGLES)
    assert all(part in message for part in parts), message


def test_angles():
    assert "angles" in refused(cone_from_tigre, tigre(), np.zeros((3, 2)))
    assert "angles" in refused(cone_from_tigre, tigre(), [0.0, np.nan])
    with pytest.warns(UserWarning, match="degrees"):
        cone_from_tigre(tigre(), [0.0, 90.0, 180.0])
