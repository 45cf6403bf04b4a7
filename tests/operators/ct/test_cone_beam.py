"""The cone-beam projector: analytic ellipsoids, the fan and the parallel limit, signs, derivatives, any geometry."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel, uniform
from ellipsoids import Ellipsoid, cone_views
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_copies import check_copies
from torch import Tensor

from operators import ConeBeam, FanBeam, Radon
from operators.ct import cone_projector, cone_tables

N = 48
GEOMETRY: dict[str, Any] = {"source_origin": 200.0, "origin_detector": 100.0, "pitch": 1.5}
ANGLES = [0.0, 0.4, 1.1, 2.3, 4.0]


def cone(shape: tuple[int, int, int] = (N, N, N), angles: Any = tuple(ANGLES), **options: Any) -> ConeBeam:
    return ConeBeam(shape, angles, **(GEOMETRY | options))


# ------------------------------------------------------------------------------------------------- physics


@pytest.mark.parametrize(
    ("ellipsoid", "options"),
    [
        (Ellipsoid((0, 0, 0), (16, 16, 16)), {}),
        (Ellipsoid((7, -5, 4), (12, 12, 12)), {}),
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7, 1.3), {}),
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7), {"source_origin": 60.0, "origin_detector": 30.0}),  # 30 degrees
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7), {"offset": 5.3, "row_offset": -3.7}),
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7), {"shift": [0.0, 5.0, -7.0, 12.0, -15.0]}),
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7), {"source_origin": [200.0, 180, 150, 220, 90]}),
        (Ellipsoid((-4, 6, -8), (15, 9, 11), 0.7), {"pitch": (0.9, 2.1)}),
        (Ellipsoid((-4, 6, -8), (13, 9, 11), 0.7), {"voxel_size": (1.4, 0.8, 1.1), "shape": (34, 56, 48)}),
    ],
    ids=str,
)
def test_an_ellipsoid_has_its_analytic_views(ellipsoid: Ellipsoid, options: dict[str, Any]) -> None:
    op = cone(**options)
    got, want = op.A(ellipsoid.raster(op)), cone_views(op, ellipsoid)
    for v in range(5):
        # Measured 1.5 to 3.6 %, the staircase of the voxels; a voxel off would be 15 %.
        assert rel(got[0, 0, v], want[0, 0, v]) < 0.04
        # The whole view, where the voxels have the ellipsoid's own volume.
        assert float(got[0, 0, v].sum() / want[0, 0, v].sum()) == pytest.approx(1, abs=3e-3)


def test_rows_far_from_the_plane_of_the_source() -> None:
    """A few rows high above the source, as of a part of a scan, see what the same rows of a tall detector see."""
    x = Ellipsoid((-4, 6, 9), (15, 9, 11), 0.7).raster(cone())
    few = cone(detector_shape=(6, 61), pitch=(0.5, 1.5), row_offset=60.0, shift=-33.0)
    tall = cone(detector_shape=(246, 61), pitch=(0.5, 1.5), shift=-33.0)
    assert rel(few.A(x), tall.A(x)[:, :, :, -6:]) < 0.02  # 0.3 where magnifications are too far apart


def test_smooth_volumes_have_their_views_to_a_part_in_a_thousand() -> None:
    """A Gaussian's integral along a ray at distance d from its centre is sqrt(2 pi) s exp(-d^2 / 2 s^2)."""
    op, s, centre = cone(), 5.0, np.array([6.0, -4.0, 7.0])
    z, y, x = np.mgrid[:N, :N, :N] - (N - 1) / 2
    r2 = (x - centre[0]) ** 2 + (-y - centre[1]) ** 2 + (z - centre[2]) ** 2
    got = op.A(torch.from_numpy(np.exp(-r2 / (2 * s * s)))[None, None])[0, 0]
    rows, columns = (1.5 * (np.arange(n) - (n - 1) / 2) for n in op.detector_shape)
    for v, angle in enumerate(ANGLES):
        towards = np.array([-math.sin(angle), math.cos(angle), 0])
        rays = 300 * towards + columns[:, None] * np.array([math.cos(angle), math.sin(angle), 0])
        rays = rays + rows[:, None, None] * np.array([0, 0, 1.0])
        away = np.cross(rays / np.linalg.norm(rays, axis=-1, keepdims=True), centre + 200 * towards)
        want = math.sqrt(2 * math.pi) * s * np.exp(-(away**2).sum(-1) / (2 * s * s))
        # Voxels and bins are averages over a voxel: 1/12 of its square widens the Gaussian.
        assert rel(got[v], want) < 0.015


def test_total_counts() -> None:
    """The sum over a view's bins is the volume's, each voxel times its magnification squared and its ray's slope."""
    op = cone((9, 9, 9), voxel_size=(1.3, 0.7, 0.9), pitch=(0.8, 1.1))
    for k in ((4, 4, 4), (0, 8, 2), (7, 1, 0)):
        x = torch.zeros(1, 1, 9, 9, 9, dtype=F64)
        x[(0, 0, *k)] = 1
        sums = op.A(x).sum((0, 1, 3, 4)) * 0.8 * 1.1
        Z, Y, X = (k[0] - 4) * 1.3, (4 - k[1]) * 0.7, (k[2] - 4) * 0.9
        for total, angle in zip(sums.tolist(), ANGLES, strict=True):
            depth = 200 + Y * math.cos(angle) - X * math.sin(angle)
            ray = math.sqrt(depth**2 + (X * math.cos(angle) + Y * math.sin(angle)) ** 2 + Z**2)
            assert total == pytest.approx(1.3 * 0.7 * 0.9 * (300 / depth) ** 2 * ray / depth, rel=1e-4)


def smooth(height: int, width: int) -> Tensor:
    """An image that is lopsided in every direction: no flip, turn or transposition can pass."""
    i, j = np.mgrid[:height, :width]
    a = np.exp(-((i - 0.3 * height) ** 2) / 60 - (j - 0.65 * width) ** 2 / 90)
    return torch.from_numpy(a + 0.5 * np.exp(-((i - 0.7 * height) ** 2 + (j - 0.3 * width) ** 2) / 50))


def test_the_plane_of_the_orbit_is_a_fan() -> None:
    angles = np.random.default_rng(0).uniform(-1, 7, 9)
    options: dict[str, Any] = {"source_origin": 100.0, "origin_detector": 50.0, "pitch": 1.4, "offset": 1.1}
    fan = FanBeam((50, 64), angles, n_detectors=121, **options)
    op = ConeBeam((3, 50, 64), angles, detector_shape=(3, 121), **options)
    x = smooth(50, 64).expand(1, 1, 3, 50, 64)
    assert rel(op.A(x)[0, 0, :, 1], fan.A(x[:, :, 0])[0, 0]) < 1e-3


def test_from_far_away_every_row_is_a_parallel_beam() -> None:
    angles = np.random.default_rng(1).uniform(-1, 7, 9)
    options: dict[str, Any] = {"pitch": 1.0, "offset": 2.3}
    parallel = Radon((50, 64), angles, n_detectors=95, **options)
    op = ConeBeam((3, 50, 64), angles, source_origin=1e6, origin_detector=0.0, detector_shape=(3, 95), **options)
    x = smooth(50, 64) * torch.tensor([1.0, 3.0, -2.0], dtype=F64)[:, None, None]
    want = parallel.A(x[None]).transpose(1, 2)
    assert rel(op.A(x[None, None])[0, 0], want[0]) < 1e-3


def centre_of_mass(view: Tensor, pitch: float) -> tuple[float, float]:
    """The centre of mass of a view (rows, columns), from its middle."""
    rows, columns = (pitch * (torch.arange(n, dtype=F64) - (n - 1) / 2) for n in view.shape)
    return float((view.sum(1) * rows).sum() / view.sum()), float((view.sum(0) * columns).sum() / view.sum())


def test_shadows_move_with_the_voxel_the_source_and_the_detector() -> None:
    def seen(k: tuple[int, int, int], angle: float = 0.0, **options: Any) -> tuple[float, float]:
        x = torch.zeros(1, 1, 9, 9, 9, dtype=F64)
        x[(0, 0, *k)] = 1
        op = cone((9, 9, 9), [angle], detector_shape=(201, 201), pitch=0.1, **options)
        return centre_of_mass(op.A(x)[0, 0, 0], 0.1)

    assert seen((4, 4, 4)) == pytest.approx((0, 0), abs=1e-9)
    assert seen((4, 4, 7)) == pytest.approx((0, 4.5), abs=0.01)  # columns of the volume run along the detector's
    assert seen((7, 4, 4)) == pytest.approx((4.5, 0), abs=0.01)  # slices along its rows
    assert seen((4, 7, 4)) == pytest.approx((0, 0), abs=1e-9)  # towards the source at angle 0
    assert seen((7, 7, 4))[0] == pytest.approx(3 * 300 / 197, abs=0.01)
    assert seen((4, 1, 4), math.pi / 2) == pytest.approx((0, 4.5), abs=0.01)  # Y points up
    assert seen((4, 4, 4), offset=3.0, row_offset=-2.0) == pytest.approx((2, -3), abs=1e-9)
    assert seen((4, 4, 4), shift=2.0) == pytest.approx((-3, 0), abs=0.01)


def test_a_helix_of_a_tall_object_is_the_circle_moved() -> None:
    """The view at height h of a volume is that at height 0 of the volume moved down."""
    x = uniform(1, 1, 13, 8, 8)
    moved = torch.zeros_like(x)
    moved[:, :, :10] = x[:, :, 3:]
    options: dict[str, Any] = {"detector_shape": (9, 25), "voxel_size": 1.5}
    high = cone((13, 8, 8), [0.7], shift=4.5, **options).A(x)
    # Other slices' magnifications are interpolated between others.
    assert rel(high, cone((13, 8, 8), [0.7], **options).A(moved)) < 2e-3


def test_units_of_length() -> None:
    x, size = uniform(1, 1, 6, 9, 7), 0.05
    lengths = GEOMETRY | {"offset": 0.7, "row_offset": 0.2, "shift": 1.3}
    want = ConeBeam((6, 9, 7), ANGLES, detector_shape=(9, 15), **lengths).A(x)
    scaled = {name: size * value for name, value in lengths.items()}
    op = ConeBeam((6, 9, 7), ANGLES, detector_shape=(9, 15), voxel_size=size, **scaled)
    torch.testing.assert_close(op.A(x), size * want)


def test_the_default_detector_sees_the_whole_volume() -> None:
    op = cone((11, 9, 12), shift=[0.0, 3.0, -4.0, 2.0, 1.0], offset=1.0, voxel_size=(1.2, 0.9, 1.1))
    y = op.A(torch.ones(1, 1, 11, 9, 12, dtype=F64))
    more = copy.deepcopy(op)
    more.detector_shape = (op.detector_shape[0] + 20, op.detector_shape[1] + 20)
    assert op.sees_whole_image and rel(more.A(torch.ones(1, 1, 11, 9, 12, dtype=F64)).sum(), y.sum()) < 1e-12
    assert not cone(detector_shape=(31, 41)).sees_whole_image
    assert cone(detector_shape=(31, 91)).sees_whole_image  # short columns do not spoil FDK


# --------------------------------------------------------------------------------------------- calculus


def test_gradients_are_the_adjoint_and_nothing_is_kept() -> None:
    op = cone((8, 8, 6))
    x = uniform(1, 1, 8, 8, 6).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Ax = op.A(x)
    assert sum(t.numel() for t in kept) <= 9 * (len(ANGLES) + 1)  # the orbit
    y = rand(*Ax.shape)
    (gradient,) = torch.autograd.grad(Ax, x, y)
    assert rel(gradient, op.A_adjoint(y)) < 1e-15
    assert torch.autograd.gradgradcheck(lambda t: op.A(t).square(), (x,), fast_mode=True)


ORBIT: dict[str, Any] = {
    "angles": [0.1, 0.9, 4.0],
    "source_origin": 40.0,
    "origin_detector": [20.0, 21.0, 19.0],
    "offset": 0.7,
    "row_offset": -0.4,
    "shift": [0.0, 1.0, -2.0],
    "roll": [0.03, -0.2, 0.1],
    "tilt": 0.07,
    "slant": -0.11,
}


@pytest.mark.parametrize("detector", ["flat", "turned", "curved"])
@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_in_the_geometry_are_differences(adjoint: bool, detector: str) -> None:
    names = list(ORBIT)[: 9 if detector == "turned" else 6]
    parts = tuple(torch.tensor(ORBIT[name], dtype=F64, requires_grad=True) for name in names)
    options: dict[str, Any] = {"detector_shape": (9, 15), "pitch": (1.3, 0.9), "voxel_size": (1.1, 0.8, 1.2)}
    options["curved"] = detector == "curved"
    x, y = uniform(1, 1, 5, 6, 7), rand(1, 1, 3, 9, 15)

    def value(*parts: Tensor) -> Tensor:
        op = ConeBeam((5, 6, 7), **dict(zip(names, parts, strict=True)), **options)
        return (op.A_adjoint(y) * x).sum() if adjoint else (op.A(x) * y).sum()

    assert torch.autograd.gradcheck(value, parts, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_a_calibration_finds_the_detectors_offset_and_the_source() -> None:
    ball = Ellipsoid((2, -1, 1), (4, 4, 3))
    truth = cone((10, 12, 12), np.arange(3) * 1.0, offset=0.8, row_offset=-0.6)
    x, y = ball.raster(truth), truth.A(ball.raster(truth))
    offset, row_offset = (torch.zeros((), dtype=F64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([offset, row_offset], max_iter=6)

    def loss() -> Tensor:
        optimizer.zero_grad()
        shape = truth.detector_shape
        op = cone((10, 12, 12), np.arange(3) * 1.0, offset=offset, row_offset=row_offset, detector_shape=shape)
        misfit = (op.A(x) - y).square().mean()
        misfit.backward()
        return misfit

    optimizer.step(loss)  # type: ignore[arg-type]
    assert float(offset.detach()) == pytest.approx(0.8, abs=1e-3)
    assert float(row_offset.detach()) == pytest.approx(-0.6, abs=1e-3)


# --------------------------------------------------------------------------------------------- programming


@pytest.mark.filterwarnings("ignore:ConeBeam. the detector is")  # a narrow one is worth a warning, and right
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    angles=st.lists(st.floats(-6, 6), min_size=1, max_size=3),
    detector_shape=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    pitch=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    offsets=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)),
    source=st.floats(1.1, 20),
    detector=st.floats(0, 3),
    voxel_size=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(0.5, 2)),
)
def test_any_geometry_is_linear_and_adjoint(
    shape: tuple[int, int, int],
    angles: list[float],
    detector_shape: tuple[int, int] | None,
    pitch: tuple[float, float],
    offsets: tuple[float, float, float],
    source: float,
    detector: float,
    voxel_size: tuple[float, float, float],
) -> None:
    depth, height, width = (n * size for n, size in zip(shape, voxel_size, strict=True))
    radius = math.hypot(height, width) / 2
    op = ConeBeam(
        shape,
        angles,
        source_origin=source * radius,
        origin_detector=detector * radius,
        detector_shape=detector_shape,
        pitch=pitch,
        voxel_size=voxel_size,
        offset=0.4 * offsets[0] * min(height, width),  # the detector sees something of the volume
        row_offset=0.2 * offsets[1] * depth,
        shift=0.2 * offsets[2] * depth,
    )
    x = rand(2, 1, *shape)
    Ax = op.A(x)
    y = rand(*Ax.shape, seed=1)
    assert Ax.shape == (2, 1, len(angles), *op.detector_shape)
    Aty = op.A_adjoint(y)
    size = float(x.norm() * Aty.norm() + Ax.norm() * y.norm())
    assert abs(float((Ax * y).sum() - (x * Aty).sum())) <= 1e-11 * size
    torch.testing.assert_close(op.A(2 * x[:1] - x[1:]), 2 * Ax[:1] - Ax[1:], rtol=0, atol=1e-10 * float(Ax.norm()))
    assert (op.A(x.abs()) >= -1e-12 * x.abs().max() * radius).all()
    assert torch.isfinite(op.fbp(y)).all()


def test_what_is_held_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op = cone((12, 10, 14), detector_shape=(17, 33))
    x = uniform(2, 1, 12, 10, 14)
    y = op.A(x)
    back = op.A_adjoint(y)
    monkeypatch.setattr(cone_projector, "_TOGETHER", 16)
    monkeypatch.setattr(cone_tables, "_CHUNK_BYTES", 64)
    assert rel(op.A(x), y) < 1e-14 and rel(op.A_adjoint(y), back) < 1e-14


def test_tables_are_transposed_alike_on_all_devices() -> None:
    grid, orbit = cone((6, 8, 7))._grid(), cone((6, 8, 7))._orbit()
    table = cone_tables.stack_table(grid, orbit.view(1), F64)
    n = grid.detector_shape[1] * grid.n_levels
    x = rand(8 * 7, 3)
    assert rel(cone_tables.sorted_transpose(table, n).times(x), table.transposed(n).times(x)) < 1e-14


def peak_of_allocations(f: Any) -> int:
    """The most memory that torch held at once during a call, in bytes."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        f()
    held = most = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_memory_does_not_grow_with_the_number_of_views() -> None:
    few, many = (cone((16, 16, 16), np.arange(n) * 0.1, detector_shape=(5, 33)) for n in (2, 40))
    x = uniform(1, 1, 16, 16, 16).requires_grad_()
    most = []
    for op in (few, many):
        y = rand(1, 1, len(op.angles), 5, 33)

        def both(op: ConeBeam = op, y: Tensor = y) -> None:
            op.A(x).backward(y)

        both()
        most.append(peak_of_allocations(both) - y.numel() * y.element_size())
    assert most[1] < 1.2 * most[0]


def test_copies_and_moves_keep_the_geometry() -> None:
    op = cone((5, 7, 6), offset=0.4, row_offset=0.3, shift=1.0)
    x = rand(1, 1, 5, 7, 6)
    check_copies(op, x, op.A(x))
    assert set(op.state_dict()) == set(op.TENSORS)
    assert "shift=<array>" in repr(cone(shift=[0.0] * 5))


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    op, x = cone((6, 8, 7), shift=[0.0, 1.0, -2.0, 3.0, 0.5]), uniform(2, 1, 6, 8, 7)
    y = op.A(x)
    moved = copy.deepcopy(op).to("cuda")
    assert rel(moved.A(x.cuda()).cpu(), y) < 1e-12
    assert rel(moved.A_adjoint(y.cuda()).cpu(), op.A_adjoint(y)) < 1e-12
    assert rel(moved.fbp(y.cuda()).cpu(), op.fbp(y)) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    op, x = cone((6, 7, 8)), uniform(1, 1, 6, 7, 8).to(dtype)
    y = op.A(x)
    assert y.dtype == dtype and rel(y.float(), op.A(x.float())) < 0.01
    want = op.A(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(op.A(x.float()), want)
    with torch.inference_mode():
        assert torch.equal(cone((6, 7, 8)).A(x.float()), want) and torch.equal(op.A(x.float()), want)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"shape": (8, 8)}, (": shape", "(8, 8)")),
        ({"shape": (8, 0, 8)}, (": shape", "(8, 0, 8)")),
        ({"shape": 8}, (": shape",)),
        ({"angles": []}, (": angles", "(0,)")),
        ({"angles": [0.0, math.nan]}, (": angles", "1 NaN")),
        ({"source_origin": 5.0}, ("source_origin", "5.657")),
        ({"source_origin": [20.0, 5.0]}, ("source_origin", "5.657")),
        ({"source_origin": [20.0] * 3}, ("source_origin", "(2,)", "(3,)")),
        ({"source_origin": "far"}, ("source_origin",)),
        ({"origin_detector": -1.0}, ("origin_detector", "-1")),
        ({"detector_shape": 9}, ("detector_shape", "rows, columns")),
        ({"detector_shape": (9, 2.5)}, ("detector_shape",)),
        ({"detector_shape": (9, 0)}, ("detector_shape", "(9, 0)")),
        ({"offset": 60.0, "detector_shape": (9, 9)}, ("no ray", "columns")),
        ({"row_offset": 60.0, "detector_shape": (9, 9)}, ("no ray", "rows")),
        ({"shift": [0.0, math.inf]}, ("shift", "1 NaN or infinite")),
        ({"pitch": -1.0}, ("pitch",)),
        ({"pitch": (1.0, 1.0, 1.0)}, ("pitch", "rows, columns")),
        ({"voxel_size": (1.0, 2.0)}, ("voxel_size", "depth, height, width")),
        ({"voxel_size": (1.0, 2.0, "x")}, ("voxel_size",)),
        ({"offset": torch.zeros(2, dtype=torch.bool)}, ("offset", "bool")),
    ],
)
def test_bad_geometry_is_explained(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    arguments = {"shape": (8, 8, 8), "angles": [0.0, 1.0], "source_origin": 20.0, "origin_detector": 10.0} | options
    with pytest.raises((ValueError, TypeError)) as error:
        ConeBeam(arguments.pop("shape"), arguments.pop("angles"), **arguments)
    message = str(error.value)
    assert message.startswith("ConeBeam: ") and len(message) < 400
    assert all(part in message for part in parts), message


def test_sizes_may_be_arrays() -> None:
    op = cone((4, 5, 6), pitch=np.array([1.0, 2.0]), voxel_size=torch.tensor([1.0, 2.0, 3.0]))
    assert op.pitch == (1.0, 2.0) and op.voxel_size == (1.0, 2.0, 3.0)
    assert cone((4, 5, 6), pitch=np.float64(2)).pitch == (2.0, 2.0)


def test_degrees_and_units_are_noticed_and_helices_are_not() -> None:
    with pytest.warns(UserWarning, match="ConeBeam: angles .*deg2rad"):
        cone(angles=np.arange(360.0))
    with pytest.warns(UserWarning, match="ConeBeam: the detector is"):
        cone(pitch=0.01, detector_shape=(91, 91))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cone(angles=np.arange(0, 40, 0.4), shift=np.arange(100) * 0.1, detector_shape=(21, 91))
