"""ConeBeam: accuracy on ellipsoids, and the time of a view, beside two other schemes in torch and the floor.

Claims: A and A* at least five times as fast as planes that are rotated and magnified by dense matrices, and as accurate
as 16 rays a bin. "rays" samples the volume by trilinear interpolation along the rays, which is what most projectors in
torch do; "rotated planes" turns the volume by area weights, scales every plane that is parallel to the detector by
matrices of overlaps, and sums the planes. The floor is one copy of the volume a view: each voxel is read, and written.
"peers" compares with itk-rtk, diffct and mbirjax where they are installed, none of them a requirement of this package:
error against the analytic views, and against the voxels' own, error of FDK of analytic views, and CPU time of the
process, which a busy machine distorts little, on one thread. ASTRA's cone beam needs CUDA.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from cone_peers import Peer, peers
from numpy.typing import NDArray
from radon import on_one_thread
from report import Row, main
from timing import Spread, interleaved
from torch import Tensor, nn

from operators import ConeBeam
from operators.spect.rotation import Rotation

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
SIZE_MM, SOURCE_ORIGIN_MM, ORIGIN_DETECTOR_MM = 64.0, 300.0, 200.0
DETECTOR_MM = 134.4
ELLIPSOIDS = (  # density, centre, half-axes, rotation about Z
    (1.0, (0.0, 0.0, 0.0), (26.0, 22.0, 24.0), 0.3),
    (0.5, (9.0, -7.0, 5.0), (9.0, 6.0, 11.0), 1.0),
    (-0.7, (-10.0, 5.0, -12.0), (5.0, 5.0, 5.0), 0.0),
)


def scanner(n: int, angles: Any) -> ConeBeam:
    """Return the operator of n^3 voxels and (1.75 n)^2 bins, a cone of 15 degrees."""
    bins = int(1.75 * n)
    return ConeBeam(
        (n, n, n),
        angles,
        source_origin=SOURCE_ORIGIN_MM,
        origin_detector=ORIGIN_DETECTOR_MM,
        detector_shape=(bins, bins),
        pitch=DETECTOR_MM / bins,
        voxel_size=SIZE_MM / n,
    )


# ---------------------------------------------------------------- the other schemes


def rays(op: ConeBeam, x: Tensor, angle: float, per_bin: int, samples: int) -> Tensor:
    """Return a view (rows, columns) by trilinear samples along per_bin^2 rays a bin, `samples` a voxel's side."""
    source, ends = _rays(op, angle, per_bin)
    reach = math.sqrt(3) * SIZE_MM / 2
    steps = math.ceil(samples * 2 * reach * len(x) / SIZE_MM)
    direction = ends / np.linalg.norm(ends, axis=-1, keepdims=True)
    total = torch.zeros(ends.shape[:2])
    for k in range(steps):
        place = source + (SOURCE_ORIGIN_MM - reach + (k + 0.5) * 2 * reach / steps) * direction
        grid = torch.from_numpy(2 * place * np.array([1, -1, 1]) / SIZE_MM).float()[None, None]
        total += nn.functional.grid_sample(x[None, None], grid, align_corners=False)[0, 0, 0]
    rows, columns = op.detector_shape
    return total.reshape(rows, per_bin, columns, per_bin).mean((1, 3)) * (2 * reach / steps)


def rotated_planes(op: ConeBeam) -> Callable[[Tensor, float], Tensor]:
    """Return the projector (volume (D, H, W), angle) of rotated planes and dense matrices."""
    n, size, pitch = op.shape[0], op.voxel_size[0], op.pitch[0]
    bins, length = op.detector_shape[0], SOURCE_ORIGIN_MM + ORIGIN_DETECTOR_MM
    depth = size * (np.arange(n) - (n - 1) / 2)
    voxels, edges = size * (np.arange(n + 1) - n / 2), pitch * (np.arange(bins + 1) - bins / 2)
    magnified = (length / (SOURCE_ORIGIN_MM + depth))[:, None] * voxels
    low = np.maximum(magnified[:, None, :-1], edges[:-1, None])
    high = np.minimum(magnified[:, None, 1:], edges[1:, None])
    matrices = torch.from_numpy(np.clip(high - low, 0, None) / pitch).float()  # (depth, bins, n)
    centres = pitch * (torch.arange(bins) - (bins - 1) / 2)
    slope = size * (1 + (centres[:, None] ** 2 + centres**2) / length**2).sqrt()
    rotation = Rotation((n, n), "area")

    def project(x: Tensor, angle: float) -> Tensor:
        quarters, ticks = rotation.split(angle)
        slices = x.permute(2, 1, 0).flip(1).contiguous()  # Y grows with its index there
        turned = rotation.turn(slices, quarters).reshape(n * n, n)
        planes = rotation.rotate(turned.contiguous(), ticks).view(n, n, n)  # by depth, then across, then Z
        view = torch.bmm(torch.bmm(matrices, planes), matrices.mT).sum(0)
        return (view * slope).T

    return project


# ---------------------------------------------------------------- the truth


def _rays(op: ConeBeam, angle: float, fine: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the source, and the rays from it to fine^2 points of each bin (rows, columns, 3)."""
    across = np.array([math.cos(angle), math.sin(angle), 0.0])
    towards = np.array([-math.sin(angle), math.cos(angle), 0.0])
    rows, columns = (
        (np.arange(n * fine) - (n * fine - 1) / 2) * (pitch / fine)
        for n, pitch in zip(op.detector_shape, op.pitch, strict=True)
    )
    ends = (SOURCE_ORIGIN_MM + ORIGIN_DETECTOR_MM) * towards + columns[:, None] * across
    return -SOURCE_ORIGIN_MM * towards, ends + rows[:, None, None] * np.array([0.0, 0.0, 1.0])


def truth(op: ConeBeam, angle: float, fine: int = 4) -> Tensor:
    """Return the ellipsoids' view (rows, columns), averaged over fine^2 rays a bin."""
    source, ends = _rays(op, angle, fine)
    ends = ends / np.linalg.norm(ends, axis=-1, keepdims=True)
    total = np.zeros(ends.shape[:2])
    for density, centre, half, phi in ELLIPSOIDS:
        turn = np.array([[math.cos(phi), math.sin(phi), 0], [-math.sin(phi), math.cos(phi), 0], [0, 0, 1]])
        unit = turn / np.array(half)[:, None]
        start, step = unit @ (source - np.array(centre)), ends @ unit.T
        a, b = (step**2).sum(-1), step @ start
        total += density * 2 * np.sqrt(np.clip(b * b - a * (start @ start - 1), 0, None)) / a
    rows, columns = op.detector_shape
    return torch.from_numpy(total.reshape(rows, fine, columns, fine).mean((1, 3)))


def exact(op: ConeBeam, x: NDArray[np.float32], angle: float, fine: int = 3) -> NDArray[np.float64]:
    """Return the view of cubic voxels, cut by fine^2 rays a bin (Siddon, Medical Physics 12 (1985) 252)."""
    n, size = len(x), op.voxel_size[0]
    source, ends = _rays(op, angle, fine)
    # In voxels from the first one's corner, along columns, rows and slices.
    start, steps = source * (1, -1, 1) / size + n / 2, ends.reshape(-1, 3) * (1, -1, 1) / size
    views = []
    for step in np.array_split(np.where(abs(steps) < 1e-12, 1e-12, steps), len(steps) // 2000 + 1):
        t = np.sort(np.concatenate([(np.arange(n + 1) - start[i]) / step[:, i : i + 1] for i in range(3)], 1), 1)
        at = np.floor(start + (t[:, 1:] + t[:, :-1])[..., None] / 2 * step[:, None]).astype(int)
        column, row, slice_ = at.clip(0, n - 1).transpose(2, 0, 1)
        values = x[slice_, row, column] * (at == at.clip(0, n - 1)).all(-1)
        views.append((np.diff(t) * values).sum(1) * np.linalg.norm(step, axis=1) * size)
    rows, columns = op.detector_shape
    found: NDArray[np.float64] = np.concatenate(views).reshape(rows, fine, columns, fine).mean((1, 3))
    return found


def volume(n: int, fine: int = 4) -> Tensor:
    """Return the ellipsoids (n, n, n), averaged over fine^3 samples a voxel, slab by slab."""
    axis = SIZE_MM / (n * fine) * (np.arange(n * fine) - (n * fine - 1) / 2)
    slabs = []
    for z in axis.reshape(n, fine):
        slab = np.zeros((fine, n * fine, n * fine))
        for density, (x0, y0, z0), (a, b, c), phi in ELLIPSOIDS:
            x, y = axis - x0, (-axis - y0)[:, None]
            u, v = x * math.cos(phi) + y * math.sin(phi), y * math.cos(phi) - x * math.sin(phi)
            slab += density * ((u / a) ** 2 + (v / b) ** 2 + ((z[:, None, None] - z0) / c) ** 2 < 1)
        slabs.append(slab.reshape(fine, n, fine, n, fine).mean((0, 2, 4)))
    return torch.from_numpy(np.stack(slabs)).float()


# ---------------------------------------------------------------- the rows


def accuracy(quick: bool) -> Iterator[Row]:
    """Yield errors relative to the analytic views; what voxels cannot show, their staircase, is in all of them."""
    n, angles = (16 if quick else 64), (0.0, 0.4, 1.1, 2.3)
    op, x = scanner(n, angles), volume(n)
    planes = rotated_planes(op)
    views: dict[str, Callable[[int], Tensor]] = {
        "ours": lambda k: op.A(x[None, None])[0, 0, k],
        "rotated planes": lambda k: planes(x, angles[k]),
        "rays, 1 a bin": lambda k: rays(op, x, angles[k], 1, 2),
        "rays, 16 a bin": lambda k: rays(op, x, angles[k], 4, 2),
    }
    want = [truth(op, angle) for angle in angles]
    for who, view in views.items():
        errors = tuple(float((view(k) - y).norm() / y.norm()) for k, y in enumerate(want))
        yield Row(f"||A x - truth|| / ||truth||, {n}^3", who, Spread(errors), "")


def turned(quick: bool) -> Iterator[Row]:
    """Yield errors of detectors that are turned, relative to an ellipsoid's analytic views."""
    sys.path.insert(0, str(SUPPORT))
    from ellipsoids import Ellipsoid, cone_views

    n = 16 if quick else 48
    ball = Ellipsoid((-3 * n / 48, 5 * n / 48, 7 * n / 48), (14 * n / 48, 8 * n / 48, 11 * n / 48), 0.7)
    for degrees in (0.0, 0.3, 10.0, 40.0):
        for name in ("roll", "tilt", "slant") if degrees else ("roll",):
            turn: dict[str, Any] = {name: math.radians(degrees)}
            op = ConeBeam(
                (n, n, n),
                [0.0, 0.4, 2.3],
                source_origin=2.5 * n,
                origin_detector=1.25 * n,
                detector_shape=(2 * n + 5, 2 * n + 5),
                pitch=1.5,
                **turn,
            )
            got, want = op.A(ball.raster(op)), cone_views(op, ball)
            error = float((got - want).norm() / want.norm())
            yield Row(f"||A x - truth|| / ||truth||, {n}^3", f"{name}, {degrees:g} degrees", Spread((error,)), "")


def times(quick: bool) -> Iterator[Row]:
    """Yield the time of a view, over views that share nothing."""
    for n in (16,) if quick else (64, 128, 256):
        views = 4 if n > 128 else 12
        angles = [0.3 + 0.5 * k for k in range(views)]
        op, x = scanner(n, angles), torch.rand(1, 1, n, n, n)
        y, copy = op.A(x), torch.empty(n, n, n)
        calls: dict[tuple[str, str], tuple[Callable[[], Any], int]] = {
            ("A", "ours, 1 thread"): (partial(op.A, x), views),
            ("A*", "ours, 1 thread"): (partial(op.A_adjoint, y), views),
            ("FDK", "ours, 1 thread"): (partial(op.fbp, y, extend=False), views),
            ("A", "floor: a copy"): (partial(copy.copy_, x[0, 0]), 1),
        }
        if n <= 128:
            calls["A", "rotated planes"] = partial(_every, rotated_planes(op), x[0, 0], angles), views
            calls["A", "rays, 1 a bin"] = partial(rays, op, x[0, 0], angles[0], 1, 1), 1
        seconds = interleaved({key: on_one_thread(call) for key, (call, _) in calls.items()}, rounds=2 if quick else 5)
        found = {key: time.map(lambda s, v=calls[key][1]: s / v) for key, time in seconds.items()}
        ours = found["A", "ours, 1 thread"]
        for (what, who), time in found.items():
            name = f"{what}, a view, {n}^3, {op.detector_shape[0]}^2 bins"
            if who.startswith("ours"):
                yield Row(name, who, time)
            elif who.startswith("floor"):
                yield Row(name, who, time, ratio=ours / time, note="ratio: ours / floor")
            else:
                target = (">=", 5.0) if n == 128 and who == "rotated planes" else None
                yield Row(name, who, time, ratio=time / ours, target=target)


def _every(project: Callable[[Tensor, float], Tensor], x: Tensor, angles: list[float]) -> list[Tensor]:
    return [project(x, angle) for angle in angles]


def peer_errors(quick: bool) -> Iterator[Row]:
    """Yield errors of other packages beside ours; none where none is installed."""
    n, n_views = (16, 8) if quick else (64, 120)
    angles = tuple(2 * math.pi * k / n_views for k in range(n_views))
    op, x = scanner(n, angles), volume(n).numpy()
    everyone = _everyone(op)
    if len(everyone) == 1:
        return
    y = np.stack([truth(op, angle, 2).numpy() for angle in angles]).astype(np.float32)
    some = [0, n_views // 17, n_views // 6, 3 * n_views // 8]
    cut = np.stack([exact(op, x, angles[k]) for k in some]).astype(np.float32)
    yield Row(f"A x against analytic views, {n}^3", "the voxels, exactly", _error(cut, y[some]), "")
    for who, one in everyone.items():
        yield Row(f"A x against analytic views, {n}^3", who, _error(one.project(x), y), "")
        yield Row(f"A x against exact views of the voxels, {n}^3", who, _error(one.project(x)[some], cut), "")
        yield Row(f"FDK of analytic views, {n}^3, {n_views} views", who, _error(one.fdk(y), x), "")
        Ax, Aty = one.project(x), one.backproject(y)
        inner = tuple(float(np.vdot(a.astype(np.float64), b)) for a, b in ((Ax, y), (x, Aty)))
        yield Row(f"<A x, y> / <x, A* y> - 1, {n}^3", who, Spread((inner[0] / inner[1] - 1,)), "")


def peer_times(quick: bool) -> Iterator[Row]:
    """Yield CPU times of other packages beside ours; none where none is installed."""
    n, n_views, rounds = (16, 4, 1) if quick else (128, 4, 3)
    op, x = scanner(n, [0.3 + 2 * math.pi * k / n_views for k in range(n_views)]), volume(n, 1).numpy()
    y = op.A(torch.from_numpy(x)[None, None])[0, 0].numpy()
    everyone, ours = _everyone(op), {}
    for who, one in everyone.items() if len(everyone) > 1 else ():
        calls = {"A": partial(one.project, x), "A*": partial(one.backproject, y), "FDK": partial(one.fdk, y)}
        for what, call in calls.items():
            call()
            found = Spread(tuple(_cpu_seconds(call) / n_views for _ in range(rounds)))
            ours.setdefault(what, found)
            ratio = None if who == "ours" else found / ours[what]
            yield Row(f"{what}, CPU time a view, {n}^3, {op.detector_shape[0]}^2 bins", who, found, ratio=ratio)


def _everyone(op: ConeBeam) -> dict[str, Peer]:
    def call(apply: Callable[[Tensor], Tensor]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda values: apply(torch.from_numpy(np.ascontiguousarray(values))[None, None])[0, 0].numpy()

    return {"ours": Peer(call(op.A), call(op.A_adjoint), call(partial(op.fbp, extend=False)))} | peers(op)


def _error(got: NDArray[np.float32], want: NDArray[np.float32]) -> Spread:
    return Spread((float(np.linalg.norm(got - want) / np.linalg.norm(want)),))


def _cpu_seconds(call: Callable[[], Any]) -> float:
    start = process_time()
    on_one_thread(call)()
    return process_time() - start


if __name__ == "__main__":
    main(
        "ConeBeam: accuracy and time of a view",
        {
            "accuracy": accuracy,
            "turned": turned,
            "times": times,
            "peers: errors": peer_errors,
            "peers: times": peer_times,
        },
    )
