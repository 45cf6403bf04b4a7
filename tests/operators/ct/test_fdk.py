"""FDK: the value of a ball for every kind of scan, the fan in the plane of the orbit, windows, truncated views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel, uniform
from ellipsoids import Ellipsoid, cone_views
from radon_truth import turn

from operators import ConeBeam, FanBeam
from operators.ct.projector import WINDOWS

N = 40
BALL = Ellipsoid((3, -4, 2), (11, 11, 11))
GEOMETRY: dict[str, Any] = {"source_origin": 150.0, "origin_detector": 75.0, "pitch": 1.5, "detector_shape": (57, 63)}
HELIX = np.linspace(-25, 25, 180)


def cone(angles: Any, shape: tuple[int, int, int] = (N, N, N), **options: Any) -> ConeBeam:
    return ConeBeam(shape, angles, **(GEOMETRY | options))


SCANS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full turn": (turn(120), {}),
    "backwards, from anywhere": (5.0 - turn(120), {}),
    "both ends of the turn": (np.arange(121) * math.radians(3), {}),
    "two turns": (np.arange(160) * math.radians(4.5), {}),
    "short scan": (np.arange(72) * math.radians(3), {}),  # half a turn and the fan's opening
    "a block missing": (np.array([a for a in range(120) if not 30 <= a < 40]) * math.radians(3), {}),
    "half a detector": (turn(120), {"detector_shape": (57, 39), "offset": 17.0}),
    "the other half": (turn(120), {"detector_shape": (57, 39), "offset": -17.0}),
    "raised detector": (turn(120), {"row_offset": 6.0, "shift": -3.0}),
    "flat voxels": (turn(120), {"shape": (28, 50, 36), "voxel_size": (1.4, 0.8, 1.1)}),
    "wide bins": (turn(120), {"pitch": (2.5, 1.2), "detector_shape": (35, 79)}),
    "a source that wobbles": (turn(120), {"source_origin": 150 + 3 * np.sin(turn(120))}),
    "helix": (np.linspace(0, 6 * math.pi, 180), {"shift": HELIX, "detector_shape": (25, 63)}),
}


@pytest.mark.parametrize("scan", SCANS)
def test_fdk_of_a_ball_is_the_ball(scan: str) -> None:
    angles, options = SCANS[scan]
    op = cone(angles, **options)
    x = op.fbp(cone_views(op, BALL))
    inside, outside = x[BALL.inside(op, 0.75)], x[BALL.outside(op, 1.3)]
    assert float(inside.mean()) == pytest.approx(1, abs=0.01)
    assert float(inside.std()) < 0.03
    assert abs(float(outside.mean())) < 0.003


def test_the_plane_of_the_orbit_is_a_fans() -> None:
    """There FDK is the fan's filtered back-projection."""
    disc, angles = Ellipsoid((6, -8, 0), (14, 10, 1e4), 0.4), turn(150)
    options = {name: GEOMETRY[name] for name in ("source_origin", "origin_detector", "pitch")} | {"offset": 1.1}
    op = ConeBeam((3, 56, 56), angles, detector_shape=(3, 97), **options)
    y = cone_views(op, disc)
    for window, at_most in (("ramp", 0.015), ("hann", 0.005)):  # linear interpolation smooths the finest noise
        want = FanBeam((56, 56), angles, n_detectors=97, **options).fbp(y[:, :, :, 1], window)
        assert rel(op.fbp(y, window)[:, :, 1], want) < at_most


@pytest.mark.parametrize("pitch", [(1.5, 0.75), (0.75, 1.5), (0.5, 0.5)])
def test_voxels_larger_than_bins_are_means(pitch: tuple[float, float]) -> None:
    """All bins in a voxel's shadow count: samples at its centre would be off by 9 to 14 %, and noisier."""
    op = cone(
        turn(160), (20, 20, 20), voxel_size=2.0, pitch=pitch, detector_shape=(int(84 / pitch[0]), int(90 / pitch[1]))
    )
    assert rel(op.fbp(cone_views(op, BALL)), BALL.raster(op)) < 0.05


def test_errors_grow_with_the_cone_angle_and_vanish_in_the_middle() -> None:
    """A tall cylinder loses density away from the orbit's plane: FDK lacks what a circle does not measure."""
    tall = Ellipsoid((0, 0, 0), (9, 9, 17))
    op = cone(turn(90), source_origin=60.0, origin_detector=60.0, detector_shape=(61, 61), pitch=2.2)
    x = op.fbp(cone_views(op, tall))[0, 0]
    core = slice(N // 2 - 2, N // 2 + 2)
    means = [float(x[N // 2 + k, core, core].mean()) for k in (0, 6, 12)]
    assert means[0] == pytest.approx(1, abs=0.01)
    assert means[0] > means[1] > means[2] > 0.85


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_keep_the_level_and_smooth(window: str) -> None:
    op = cone(turn(60))
    x, noise = op.fbp(cone_views(op, BALL), window), op.fbp(rand(1, 1, 60, 57, 63))
    assert float(x[BALL.inside(op, 0.7)].mean()) == pytest.approx(1, abs=0.012)
    assert float(op.fbp(rand(1, 1, 60, 57, 63), window).std()) <= float(noise.std())


def test_columns_that_truncate_the_object_are_continued() -> None:
    wide = Ellipsoid((1, -2, 0), (19, 18, 60))
    op = cone(turn(60), detector_shape=(57, 25))
    y = cone_views(op, wide)
    assert op.is_truncated(y) == [True] and not op.sees_whole_image
    middle = (0, 0, slice(18, 22), slice(16, 24), slice(16, 24))
    assert float(op.fbp(y)[middle].mean()) == pytest.approx(1, abs=0.05)
    assert float(op.fbp(y, extend=False)[middle].mean()) > 1.08
    whole = cone(turn(60))
    assert whole.is_truncated(cone_views(whole, BALL)) == [False]
    assert 34 <= op.image_size(y) <= 46
    both = op.fbp(torch.cat([y, 2 * y]))
    assert rel(both[1:], 2 * op.fbp(y)) < 1e-9


def test_rows_that_some_views_do_not_see_take_their_value_from_the_others() -> None:
    op = cone(turn(120), detector_shape=(41, 63))
    tall = Ellipsoid((0, 0, 0), (10, 10, 60))
    x = op.fbp(cone_views(op, tall))[0, 0]
    core = slice(N // 2 - 3, N // 2 + 3)
    seen = [k for k in range(N) if abs(k - (N - 1) / 2) < 19]
    assert all(float(x[k, core, core].mean()) == pytest.approx(1, abs=0.04) for k in seen)


def test_batches_dtypes_units_and_gradients() -> None:
    op = cone(turn(30), (6, 12, 10), detector_shape=(9, 19))
    y = rand(2, 1, 30, 9, 19)
    x = op.fbp(y)
    assert rel(op.fbp(y[1:]), x[1:]) < 1e-12 and rel(op.fbp(1e-6 * y), 1e-6 * x) < 1e-9
    assert op.fbp(y.float()).dtype == torch.float32 and rel(op.fbp(y.float()).double(), x) < 1e-4
    leaf = y.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: op.fbp(v, extend=False), (leaf[:1],), fast_mode=True)


def test_wrong_measurements_are_explained() -> None:
    op = cone(turn(4), (2, 3, 3), detector_shape=(3, 5))
    for y, part in (
        (uniform(1, 1, 4, 5, 3), "swapaxes"),
        (uniform(1, 4, 3, 5), "y[None"),
        (uniform(1, 1, 4, 3, 4), "y"),
    ):
        with pytest.raises(ValueError, match=r"ConeBeam\.fbp: y") as error:
            op.fbp(y)
        assert part in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(ValueError, match=r"ConeBeam\.fbp: window"):
        op.fbp(torch.zeros(1, 1, 4, 3, 5, dtype=F64), "boxcar")
