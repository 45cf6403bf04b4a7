"""A cone beam as other software describes it, as the arguments of `ConeBeam`, and the order of the axes there and here.

Every description ends as vectors, one set for each view, in the frame of `ConeBeam`, from the middle of the volume: the
source S, the middle of the detector C, and the steps u from column to column and v from row to row. The operator turns
so that its source is S exactly; its detector is perpendicular to the line from S to the axis. What is left is a tilt of
the detector, measured by how far it moves the outermost bins along the rays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from operators import ConeBeam

TOLERANCE = 0.01
"""Largest shift of a bin, in bins, by a tilt of the detector that is taken for rounding."""
Floats = npt.NDArray[np.float64]
_Array = TypeVar("_Array", Tensor, npt.NDArray[Any])
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
    """Return the geometry whose source is that of the vectors, and whose detector is theirs up to a tilt.

    A detector scaled along the rays measures the same: a pitch that varies becomes a distance that varies, and a
    detector in front of the axis is scaled to it.

    Args:
        caller: start of messages.
        vectors: the views.
        detector_shape: (rows, columns).
        tolerance: largest shift of a bin, in bins, by the tilt that is left out.
        given: (n_angles,), angles, radians, in whose turn the fitted ones are returned; None: -pi to pi.
        describe: what view k has that tilts it, for the message.
        views: order of the axes of projections, were columns and rows along u and v.
        others: further fields of `ConeGeometry`.

    Raises:
        ValueError: a source on the axis, a detector behind it, or one that is tilted.
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
    k = int(moved.argmax())
    if not moved[k] <= tolerance:
        raise ValueError(f"{caller}: {_tilted(k, signs[0] * u[k], signs[1] * v[k], float(moved[k]), describe(k))}")
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


def _tilted(k: int, u: Floats, v: Floats, moved: float, cause: str) -> str:
    """Return the sentence that refuses view k."""
    normal = np.cross(u, v)
    turned = np.degrees(np.arctan2(u[1], u[0]))
    tilt = np.degrees(np.arctan2(np.hypot(normal[0], normal[1]), normal[2]))
    sentence = (
        "the detector must be perpendicular to the line from source to axis, its rows along the axis; that of view "
        f"{k}{f' ({cause})' if cause else ''} is tilted by {tilt:.3g} degrees and turned in its plane by {turned:.3g}, "
        f"which moves bins by up to {moved:.3g}; resample the views"
    )
    if moved >= 1:
        return sentence
    digits = 1 - math.floor(math.log10(moved))
    return f"{sentence}, or leave that out with tolerance={math.ceil(moved * 10**digits) / 10**digits:g}"


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
