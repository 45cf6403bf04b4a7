"""A cone beam as other software describes it, as the arguments of `ConeBeam`, and the order of the axes there and here.

Every description ends as vectors, one set for each view, in the frame of `ConeBeam`, from the middle of the volume: the
source S, the middle of the detector C, and the steps u from column to column and v from row to row. The operator turns
so that its source is S exactly. Its detector is perpendicular to the line from S to the axis, or, where that moves the
outermost bins along the rays, rolled, tilted and slanted against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from operators import ConeBeam
from operators.ct.cone_detector import MAX_TURN

TOLERANCE = 0.01
"""Largest shift of a bin, in bins, by turns of the detector that are taken for rounding."""
Floats = npt.NDArray[np.float64]
_Array = TypeVar("_Array", Tensor, npt.NDArray[Any])
_LEAST_TURN = 1e-12
"""Radians that are taken for rounding."""
_TURNS = ("roll", "tilt", "slant")
_PARTS = ("source_origin", "origin_detector", "offset", "row_offset", "shift")


@dataclass(frozen=True)
class AxisOrder:
    """How an array of three axes is laid out in other software.

    Attributes:
        axes: for each of our axes, theirs.
        flipped: our axes that run the other way.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[int, ...] = ()

    def to_ours(self, array: _Array) -> _Array:
        """Return an array in our axes; of numpy's a view, of tensors a copy where axes are flipped."""
        ours: _Array = _flip(_permuted(array, self.axes), self.flipped)
        return ours

    def to_theirs(self, array: _Array) -> _Array:
        """Return an array in the axes of the other software, likewise."""
        theirs: _Array = _permuted(_flip(array, self.flipped), tuple(self.axes.index(k) for k in range(3)))
        return theirs

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape there of an array of our shape."""
        return tuple(ours[self.axes.index(k)] for k in range(3))


@dataclass(frozen=True, eq=False)
class ConeGeometry:
    """The geometry of a cone-beam scan: the arguments of `ConeBeam`, and the order of the axes in the other software.

    All lengths are in the unit of the description, angles in radians, axes and signs those of `ConeBeam`.

    Attributes:
        angles: (n_angles,).
        source_origin: from the source to the axis of rotation, a number or (n_angles,), as the next four.
        origin_detector: from the axis to the detector.
        detector_shape: (rows, columns).
        pitch: of rows and of columns, on the detector.
        offset: position of the detector's middle along the columns, from the point opposite the source.
        row_offset: the same along the rows.
        shift: height of the source over the middle of the volume.
        shape: (D, H, W) of the volume; None: not described.
        voxel_size: (depth, height, width) of a voxel; None: not described.
        views: order of the axes (n_angles, rows, columns) of projections.
        volume: order of the axes (D, H, W) of volumes.
        roll: turn of the detector in its plane, a number or (n_angles,), as the next two.
        tilt: turn of its rows away from the source.
        slant: turn of its columns away from the source.
        curved: whether it is a cylinder about the source.
    """

    angles: Floats
    source_origin: float | Floats
    origin_detector: float | Floats
    detector_shape: tuple[int, int]
    pitch: tuple[float, float]
    offset: float | Floats = 0.0
    row_offset: float | Floats = 0.0
    shift: float | Floats = 0.0
    shape: tuple[int, int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None
    views: AxisOrder = AxisOrder()
    volume: AxisOrder = AxisOrder()
    roll: float | Floats = 0.0
    tilt: float | Floats = 0.0
    slant: float | Floats = 0.0
    curved: bool = False

    def __repr__(self) -> str:
        """Return the constructor call, with long arrays shortened."""
        with np.printoptions(threshold=6, edgeitems=2, precision=6):
            parts = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
            return f"ConeGeometry({', '.join(parts)})"

    def geometry(
        self,
        shape: tuple[int, int, int] | None = None,
        *,
        voxel_size: float | tuple[float, float, float] | None = None,
    ) -> dict[str, Any]:
        """Return the arguments of `ConeBeam`, for files.

        Args:
            shape: (D, H, W); None: that of the description.
            voxel_size: side of a voxel, or (depth, height, width), in the unit of the other lengths; None: likewise.

        Raises:
            ValueError: the description has no volume, and none is given.
        """
        shape, size = self.shape if shape is None else shape, self.voxel_size if voxel_size is None else voxel_size
        for name, value in (("shape", shape), ("voxel_size", size)):
            if value is None:
                raise ValueError(f"ConeGeometry: {name} must be given, the description has no volume; give {name}=")
        parts = {name: getattr(self, name) for name in ("angles", *_PARTS)}
        parts |= {name: turn for name in _TURNS if np.any(turn := getattr(self, name))}
        parts |= {"curved": True} if self.curved else {}
        return {"shape": shape, **parts, "detector_shape": self.detector_shape, "pitch": self.pitch, "voxel_size": size}

    def operator(
        self,
        shape: tuple[int, int, int] | None = None,
        *,
        voxel_size: float | tuple[float, float, float] | None = None,
    ) -> ConeBeam:
        """Return the operator. Arguments: see `geometry`."""
        return ConeBeam(**self.geometry(shape, voxel_size=voxel_size))

    def views_from(self, y: _Array) -> _Array:
        """Return projections of the other software, three axes, as (1, 1, n_angles, rows, columns)."""
        expected = self.views.shape((len(self.angles), *self.detector_shape))
        if tuple(y.shape) != expected:
            raise ValueError(f"ConeGeometry.views_from: y must be {expected}, as described, got {tuple(y.shape)}")
        return self.views.to_ours(y)[None, None]

    def volume_from(self, x: _Array) -> _Array:
        """Return a volume of the other software as (1, 1, D, H, W)."""
        if x.ndim != 3:
            raise ValueError(f"ConeGeometry.volume_from: x must be a volume of three axes, got shape {tuple(x.shape)}")
        return self.volume.to_ours(x)[None, None]

    def volume_to(self, x: _Array) -> _Array:
        """Return a volume (D, H, W) or (1, 1, D, H, W) in the axes of the other software."""
        if x.ndim not in (3, 5) or tuple(x.shape[:-3]) not in ((), (1, 1)):
            raise ValueError(f"ConeGeometry.volume_to: x must be (1, 1, D, H, W) or (D, H, W), got {tuple(x.shape)}")
        return self.volume.to_theirs(x.reshape(tuple(x.shape[-3:])))


@dataclass(frozen=True)
class Vectors:
    """Source, detector and steps of every view, (n_angles, 3) each, in the frame of `ConeBeam`."""

    source: Floats
    centre: Floats
    u: Floats
    v: Floats


def fit_cone(
    caller: str,
    vectors: Vectors,
    detector_shape: tuple[int, int],
    *,
    tolerance: float,
    given: Floats | None = None,
    describe: Callable[[int], str] = lambda k: "",
    views: AxisOrder,
    **others: Any,
) -> ConeGeometry:
    """Return the geometry whose source and detector are those of the vectors, but for turns below the tolerance.

    A detector scaled along the rays measures the same: a pitch that varies becomes a distance that varies, and a
    detector in front of the axis is scaled to it.

    Args:
        caller: start of messages.
        vectors: the views.
        detector_shape: (rows, columns).
        tolerance: largest shift of a bin, in bins, by turns of the detector that are left out.
        given: (n_angles,), angles, radians, in whose turn the fitted ones are returned; None: -pi to pi.
        describe: what view k has that tilts it, for the message.
        views: order of the axes of projections, were columns and rows along u and v.
        others: further fields of `ConeGeometry`.

    Raises:
        ValueError: a source on the axis, a detector behind it, turned by more than 45 degrees, or not rectangular.
    """
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"{caller}: tolerance must be a non-negative number of bins, got {tolerance!r:.40}")
    source = vectors.source
    radius, theta = np.hypot(source[:, 0], source[:, 1]), np.arctan2(source[:, 0], -source[:, 1])
    if not (radius > 0).all():
        k = int(radius.argmin())
        raise ValueError(f"{caller}: the source must turn around the z-axis, that of view {k} is on it; turn the axes")
    centre, u, v = _in_views(theta, vectors)
    if not (centre[:, 2] > 0).all():
        k = int(centre[:, 2].argmin())
        raise ValueError(f"{caller}: source and axis must be on one side of the detector, those of view {k} are not")
    signs = np.array([np.sign(u[0, 0]) or 1.0, np.sign(v[0, 1]) or 1.0])
    step = signs[0] * u[:, 0]
    scale = np.divide(step[0], step, out=np.ones_like(step), where=step > 0)
    scale = scale * max(1.0, float((radius / (scale * centre[:, 2])).max()))
    pitch = np.abs([u[0, 0], v[0, 1]]) * scale[0]
    middle, distance = centre[:, :2] * scale[:, None], centre[:, 2] * scale
    moved, size = np.zeros(len(theta)), min(float(np.linalg.norm(vector[0])) for vector in (u, v)) * scale[0]
    for side in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        place = np.array(side) * (np.array(detector_shape[::-1]) - 1) / 2
        corner = centre + place[0] * u + place[1] * v
        moved = np.maximum(moved, _off(corner, distance, middle + place * signs * pitch) / size)
    if not moved.max() <= tolerance:
        u, v = signs[0] * u, signs[1] * v
        _check_rectangle(caller, u, v, detector_shape, tolerance)
        others |= _turns(caller, u, v, describe)
        sizes = np.linalg.norm(u, axis=1)
        scale = sizes[0] / sizes
        scale = scale * max(1.0, float((radius / (scale * centre[:, 2])).max()))
        pitch = np.array([sizes[0], np.linalg.norm(v[0])]) * scale[0]
        middle, distance = centre[:, :2] * scale[:, None], centre[:, 2] * scale
    turns = 0 if given is None else np.round((given - theta) / (2 * np.pi))
    against = {axis for axis, sign in ((1, signs[1]), (2, signs[0])) if sign < 0}
    return ConeGeometry(
        theta + 2 * np.pi * turns,
        _one(radius, radius),
        _one(distance - radius, distance),
        detector_shape,
        (float(pitch[1]), float(pitch[0])),
        _one(middle[:, 0], distance),
        _one(middle[:, 1], distance),
        _one(source[:, 2], distance),
        views=AxisOrder(views.axes, tuple(sorted(against ^ set(views.flipped)))),
        **others,
    )


def _in_views(theta: Floats, vectors: Vectors) -> tuple[Floats, Floats, Floats]:
    """Return middle, u and v of the detectors, from the sources, along each view's columns, the axis and the beam."""
    cos, sin, zero = np.cos(theta), np.sin(theta), np.zeros_like(theta)
    axes = ((cos, sin, zero), (zero, zero, zero + 1), (-sin, cos, zero))
    frame = np.stack([np.stack(axis, -1) for axis in axes], 1)
    centre, u, v = (np.einsum("kij,kj->ki", frame, a) for a in (vectors.centre - vectors.source, vectors.u, vectors.v))
    return centre, u, v


def _off(corner: Floats, distance: Floats, expected: Floats) -> Floats:
    """Return how far the rays to a corner (n, 3) meet the plane at a distance from where they should, (n,)."""
    ahead = corner[:, 2] > 0
    met = corner[:, :2] * (distance / np.where(ahead, corner[:, 2], 1.0))[:, None]
    return np.where(ahead, np.abs(met - expected).max(1), np.inf)


def _check_rectangle(caller: str, u: Floats, v: Floats, shape: tuple[int, int], tolerance: float) -> None:
    """Refuse rows and columns that are not at right angles, or whose pitches have no one ratio."""
    nu, nv = np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1)
    skew = np.abs((u * v).sum(1)) / (nu * np.minimum(nu, nv)) * shape[0] / 2
    stretched = np.abs(nv / nu / (nv[0] / nu[0]) - 1) * shape[0] / 2
    for what, moved in (("at right angles", skew), ("of one ratio of pitches in all views", stretched)):
        if not moved.max() <= max(tolerance, TOLERANCE):
            k = int(moved.argmax())
            raise ValueError(
                f"{caller}: rows and columns of the detector must be {what}, those of view {k} move bins by up to "
                f"{moved[k]:.3g} bins; resample the views"
            )


def _turns(caller: str, u: Floats, v: Floats, describe: Callable[[int], str]) -> dict[str, Any]:
    """Return roll, tilt and slant of detectors with rows along u and columns along v, (n_angles, 3), as one looks on.

    The axes (u, v, d) are those of `ConeBeam`, d away from the source; it is tilted first, then slanted, then rolled.
    """
    (a, b, c), (x, y, z) = (w.T / np.linalg.norm(w, axis=1) for w in (u, v))
    roll, slant = np.arctan2(b, a), np.arcsin(np.clip(c, -1, 1))
    back = np.cos(roll) * x + np.sin(roll) * y
    tilt = np.arctan2(np.cos(slant) * z - np.sin(slant) * back, np.cos(roll) * y - np.sin(roll) * x)
    found = {"roll": roll, "tilt": tilt, "slant": slant}
    most = np.max([np.abs(turn) for turn in found.values()], axis=0)
    k = int(most.argmax())
    if most[k] > MAX_TURN:
        cause, values = describe(k), ", ".join(f"{name} {np.degrees(turn[k]):.3g}" for name, turn in found.items())
        raise ValueError(
            f"{caller}: the detector must be turned by at most 45 degrees from perpendicular to the line from source "
            f"to axis, that of view {k}{f' ({cause})' if cause else ''} has {values}; exchange rows and columns, or "
            "resample the views"
        )
    return {name: 0.0 if np.abs(turn).max() < _LEAST_TURN else _one(turn, np.ones(1)) for name, turn in found.items()}


def _one(values: Floats, sizes: Floats) -> float | Floats:
    """Return a number for values that differ by rounding alone."""
    return float(values[0]) if np.ptp(values) <= 1e-12 * np.abs(sizes).max() else values


def _permuted(array: Any, axes: tuple[int, ...]) -> Any:
    return array.permute(axes) if isinstance(array, Tensor) else np.transpose(array, axes)


def _flip(array: Any, axes: tuple[int, ...]) -> Any:
    return array.flip(axes) if isinstance(array, Tensor) else np.flip(array, axes)


def entry_numbers(caller: str, name: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> Floats:
    """Return an entry as finite float64 of one of the shapes.

    Raises:
        ValueError: text, NaN or infinity, or another shape.
    """
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{caller}: {name} must be numbers, got {value!r:.60}") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{caller}: {name} must be finite, got {values!r:.60}")
    if values.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{caller}: {name} must have shape {wanted}, got {values.shape}")
    return values


def entry_counts(caller: str, name: str, value: Any, n: int) -> tuple[int, ...]:
    """Return an entry as n positive whole numbers."""
    values = entry_numbers(caller, name, value, ((n,),))
    if (values < 1).any() or (values % 1).any():
        raise ValueError(f"{caller}: {name} must be whole numbers above 0, got {value!r:.60}")
    return tuple(int(number) for number in values)


def entry_lengths(caller: str, name: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> Floats:
    """Return an entry as positive lengths."""
    values = entry_numbers(caller, name, value, shapes)
    if not (values > 0).all():
        raise ValueError(f"{caller}: {name} must be positive, got {value!r:.60}")
    return values


def rotation(angle: Floats, axis: int) -> Floats:
    """Return rotations (n, 3, 3) about an axis, counter-clockwise seen from its end."""
    matrix = np.zeros((len(angle), 3, 3))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
    matrix[:, second, first] = np.sin(angle)
    matrix[:, first, second] = -np.sin(angle)
    return matrix


def turned(matrices: Floats, points: Floats) -> Floats:
    """Return points (n, 3), each multiplied by its matrix (n, 3, 3)."""
    found: Floats = np.einsum("kij,kj->ki", matrices, points)
    return found
