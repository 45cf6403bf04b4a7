"""Cone beams of the Reconstruction Toolkit (RTK): the XML file of a ThreeDCircularProjectionGeometry.

Lengths are in one unit, usually mm, angles in degrees. RTK turns about its y; with its axes x, y, z, `ConeBeam` has

    X = x,   Y = -z,   Z = y,   theta = GantryAngle.

In rotated coordinates Rz(-InPlaneAngle) Rx(-OutOfPlaneAngle) Ry(-GantryAngle) (x, y, z), the source is at
(SourceOffsetX, SourceOffsetY, SourceToIsocenterDistance), the columns of a projection lie along the first axis, its
rows along the second, and its point (0, 0) is at (ProjectionOffsetX, ProjectionOffsetY, SourceToIsocenterDistance -
SourceToDetectorDistance). What a <Projection> does not state is as in the one before; what the file does not state is
0. A cylindrical detector about the source counts u along its arc. RTK documentation, "3D Circular Projection
Geometry"; rtk::ThreeDCircularProjectionGeometry and its XML reader.

As arrays (`itk.array_from_image`), projections are (angles, rows, columns) and volumes (z, y, x). Ours are (y, z, x):
slices along RTK's y, rows along its z.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat

import numpy as np

from ..io.guards import check_file, one_line, reading
from .ct_arguments import in_radians
from .ct_cone_geometry import (
    TOLERANCE,
    AxisOrder,
    ConeGeometry,
    Floats,
    Vectors,
    entry_counts,
    entry_lengths,
    entry_numbers,
    fit_cone,
    rotation,
    turned,
)

_MAX_BYTES = 2**26
"""Largest file: 64 MiB, of some hundred thousand views."""
_ROOT = "rtkthreedcirculargeometry"
_VERSIONS = ("2", "3")
_ANGLES = ("GantryAngle", "OutOfPlaneAngle", "InPlaneAngle")
_LENGTHS = ("SourceToIsocenterDistance", "SourceToDetectorDistance", "SourceOffsetX", "SourceOffsetY")
_OFFSETS = ("ProjectionOffsetX", "ProjectionOffsetY")
_NAMES = {name.lower(): name for name in (*_ANGLES, *_LENGTHS, *_OFFSETS)} | {"angle": "GantryAngle"}
_COLLIMATION = ("collimationuinf", "collimationusup", "collimationvinf", "collimationvsup")
_MATRIX_ATOL = 1e-3
"""Largest deviation of the file's matrix from its parameters, relative to its largest entry."""
_MAX_TEXT = 4096
"""Characters of an entry."""


def read_rtk_geometry(
    path: str | os.PathLike[str],
    detector_shape: tuple[int, int],
    pitch: float | tuple[float, float],
    *,
    first_bin: tuple[float, float] | None = None,
    angles: Literal["deg", "rad"] | None = None,
    tolerance: float = TOLERANCE,
) -> ConeGeometry:
    """Read RTK's geometry file; the sizes of the projections, which it does not state, are arguments.

    Args:
        path: the .xml file.
        detector_shape: (rows, columns) of the projections.
        pitch: distance between bins, in the file's unit of length, or (of rows, of columns): ITK's GetSpacing(), which
            has the columns first.
        first_bin: (v, u) of the middle of bin (0, 0), v along the rows, u along the columns: ITK's GetOrigin(), which
            has u first. None: the middle of a projection is its point (0, 0).
        angles: "rad" where the file, against RTK's rule, holds radians.
        tolerance: largest shift of a bin, in bins, by turns of the detector that are left out.

    Raises:
        ValueError: the file is missing, broken, of another kind or version, lacks an entry, or holds what is no number
            or what ConeBeam does not have: turns by more than 45 degrees, a cylinder that is not about the source, a
            parallel beam.
    """
    file = check_file(path)
    where = str(file)
    rows, columns = entry_counts(where, "detector_shape", detector_shape, 2)
    row_pitch, pitch_ = np.broadcast_to(entry_lengths(where, "pitch", pitch, ((), (2,))), (2,)).tolist()
    corner = (-row_pitch * (rows - 1) / 2, -pitch_ * (columns - 1) / 2)
    corner = corner if first_bin is None else tuple(entry_numbers(where, "first_bin", first_bin, ((2,),)).tolist())
    if angles not in (None, "deg", "rad"):
        raise ValueError(f"{where}: angles must be 'deg' or 'rad', the unit of the file's, got {angles!r:.40}")
    reader = _Reader(file, 180 / np.pi if angles == "rad" else 1.0)
    values, doubts = reader.read()
    n = len(values["GantryAngle"])
    turns = {name: np.deg2rad(values[name]) for name in _ANGLES}
    if angles is None:
        in_radians(where, "GantryAngle", values["GantryAngle"], "deg", None, doubts)
    for doubt in doubts:
        warnings.warn(f"{file}: {doubt}", stacklevel=2)
    # From rotated coordinates to RTK's: the inverse of R.
    back = (
        rotation(turns["GantryAngle"], 1) @ rotation(turns["OutOfPlaneAngle"], 0) @ rotation(turns["InPlaneAngle"], 2)
    )
    zero = np.zeros(n)
    source = np.stack([values[name] for name in ("SourceOffsetX", "SourceOffsetY", "SourceToIsocenterDistance")], 1)
    depth = values["SourceToIsocenterDistance"] - values["SourceToDetectorDistance"]
    middle = (corner[0] + row_pitch * (rows - 1) / 2, corner[1] + pitch_ * (columns - 1) / 2)
    centre = np.stack([values["ProjectionOffsetX"] + middle[1], values["ProjectionOffsetY"] + middle[0], depth], 1)
    u, v = np.stack([zero + pitch_, zero, zero], 1), np.stack([zero, zero + row_pitch, zero], 1)

    def causes(k: int) -> str:
        named = ("OutOfPlaneAngle", "InPlaneAngle", "SourceOffsetX")
        return ", ".join(f"{name} = {values[name][k]:.6g}" for name in named if values[name][k])

    return fit_cone(
        where,
        Vectors(*(_ours(turned(back, points)) for points in (source, centre, u, v))),
        (rows, columns),
        tolerance=tolerance,
        given=turns["GantryAngle"],
        describe=causes,
        views=AxisOrder(),
        volume=AxisOrder((1, 0, 2)),
        curved=reader.radius > 0,
    )


def _ours(points: Floats) -> Floats:
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], 1)


class _Reader:
    """Reads the parameters of all projections; the parser runs no entities and fetches nothing."""

    def __init__(self, file: Path, degrees: float) -> None:
        self.file, self.degrees = file, degrees
        self.text, self.depth, self.is_rtk = "", 0, False
        self.current: dict[str, float] = {}
        self.matrix: Floats | None = None
        self.matrices: list[Floats | None] = []
        self.found: list[dict[str, float]] = []
        self.is_collimated = False
        self.radius = 0.0

    def read(self) -> tuple[dict[str, Floats], list[str]]:
        """Return the values of every parameter, (n,) each, and sentences on what is not applied."""
        if self.file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{self.file} is no RTK geometry: it has over {_MAX_BYTES >> 20} MiB; give its XML file")
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.EntityDeclHandler = self._characters, self._entity
        with reading(self.file, "XML"):
            parser.Parse(self.file.read_bytes(), True)
        if not self.is_rtk:
            self._not_rtk()
        if not self.found:
            raise ValueError(f"{self.file} must have a <Projection> for each view, got none")
        for name in ("SourceToIsocenterDistance", "SourceToDetectorDistance", "GantryAngle"):
            missing = [k for k, one in enumerate(self.found) if name not in one]
            if missing and (name != "GantryAngle" or len(self.found) > 1):
                raise ValueError(f"{self.file} must have {name}, projection {missing[0]} has none; add it")
        values = {name: np.array([one.get(name, 0.0) for one in self.found]) for name in _NAMES.values()}
        values |= {name: self.degrees * values[name] for name in _ANGLES}
        self._check(values)
        doubts = ["Collimation is not applied; give noise_std=inf to the bins beyond it"] if self.is_collimated else []
        return values, doubts

    def _check(self, values: dict[str, Floats]) -> None:
        near, far = values["SourceToIsocenterDistance"], values["SourceToDetectorDistance"]
        for name, distance in (("SourceToIsocenterDistance", near), ("SourceToDetectorDistance", far)):
            if not (distance > 0).all():
                parallel = "is a parallel beam: use Radon" if name == "SourceToDetectorDistance" else "is no distance"
                raise ValueError(f"{self.file}: {name} must be positive, got {distance.min():g}, which {parallel}")
        turns = ("SourceOffsetX", "InPlaneAngle", "OutOfPlaneAngle")
        if self.radius and (np.abs(far / self.radius - 1).max() > 1e-6 or any(values[name].any() for name in turns)):
            raise ValueError(
                f"{self.file}: RadiusCylindricalDetector must be 0, a flat detector, or SourceToDetectorDistance, a "
                f"cylinder about the source, with {', '.join(turns)} of 0, got {self.radius:g}; resample the views"
            )
        for k, stated in enumerate(self.matrices):
            if stated is None:
                continue
            off = float(np.abs(stated - _matrix({name: float(column[k]) for name, column in values.items()})).max())
            if off > _MATRIX_ATOL * max(1.0, float(np.abs(stated).max())):
                raise ValueError(
                    f"{self.file}: Matrix of projection {k} must follow from its parameters, it is off by {off:.3g}; "
                    "one of them was changed, or the angles are no degrees: write the file again"
                )

    def _not_rtk(self) -> None:
        raise ValueError(
            f"{self.file} is no RTK geometry: it must begin with <RTKThreeDCircularGeometry>; check the name"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.text, self.depth = "", self.depth + 1
        if self.depth == 1:
            if name.lower() != _ROOT:
                self._not_rtk()
            self.is_rtk = True
            if (version := attributes.get("version", "none")) not in _VERSIONS:
                raise ValueError(f"{self.file}: version must be {' or '.join(_VERSIONS)}, got {one_line(version, 40)}")

    def _characters(self, text: str) -> None:
        if len(self.text) < _MAX_TEXT:
            self.text += text

    def _entity(self, name: str, *_: Any) -> None:
        raise ValueError(f"{self.file} defines the entity {one_line(name, 40)}, which no geometry needs; remove it")

    def _end(self, name: str) -> None:
        self.depth -= 1
        key = name.lower()
        if key in _NAMES:
            self.current[_NAMES[key]] = self._numbers(name, 1)[0]
        elif key == "radiuscylindricaldetector":
            self.radius = self._numbers(name, 1)[0]
        elif key in _COLLIMATION:
            self.is_collimated |= self._numbers(name, 1)[0] < 1e300
        elif key == "matrix":
            self.matrix = np.array(self._numbers(name, 12)).reshape(3, 4)
        elif key == "projection":
            self.found.append(dict(self.current))
            self.matrices.append(self.matrix)
            self.matrix = None
        self.text = ""

    def _numbers(self, name: str, n: int) -> list[float]:
        where = f"{self.file}: {one_line(name, 40)} of projection {len(self.found)}"
        try:
            values = [float(part) for part in self.text.split()]
        except ValueError:
            values = []
        if len(values) != n or not np.isfinite(values).all():
            raise ValueError(f"{where} must be {n} finite numbers, got {one_line(self.text.strip(), 40)!r}; correct it")
        return values


def _matrix(value: dict[str, float]) -> Floats:
    """Return RTK's projection matrix (3, 4) of a view."""
    gantry, out, inside = (np.deg2rad([value[name]]) for name in _ANGLES)
    turn = np.eye(4)
    turn[:3, :3] = (rotation(-inside, 2) @ rotation(-out, 0) @ rotation(-gantry, 1))[0]
    sid, sdd, sx, sy = (value[name] for name in _LENGTHS)
    move, source = np.eye(3), np.eye(4)
    move[:2, 2] = sx - value["ProjectionOffsetX"], sy - value["ProjectionOffsetY"]
    source[:2, 3] = -sx, -sy
    magnify = np.array([[-sdd, 0, 0, 0], [0, -sdd, 0, 0], [0, 0, 1, -sid]])
    matrix: Floats = move @ magnify @ source @ turn
    return matrix
