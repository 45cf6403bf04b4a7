"""Orbits of a SPECT camera: the distance from the axis to the collimator's face in each view, wherever a file keeps it.

A radius of 0 is a place that nobody filled in: the orbit is then not known, which is said. Files of radii hold a line
for each view, the radius first: those of SIMIND (.cor), in centimetres, then have the centre of rotation, those that
begin with COR_USAGE=DEFINE_ROTATION the angle in degrees.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..io.guards import check_file, reading

_Array = npt.NDArray[np.float64]
MIN_RADIUS_MM = 60.0
"""Smallest radius of a camera for patients; a smaller number is taken for cm where its unit is not stated."""
_MAX_LINES = 100_000


class OrbitFile(NamedTuple):
    """Radii as a file has them, in its own unit, and its angles in degrees or None."""

    radii: _Array
    angles: _Array | None


def read_orbit_file(path: str | Path) -> OrbitFile:
    """Read a line for each view: the radius first, then a centre or, after COR_USAGE=DEFINE_ROTATION, an angle.

    Raises:
        ValueError: the file is missing, or a line does not begin with a number.
    """
    with reading(check_file(path), "orbit"), open(path, encoding="latin-1") as file:
        lines = [line for _, line in zip(range(_MAX_LINES), file, strict=False)]
    has_angles = bool(lines) and "=" in lines[0]
    rows = [line.replace(",", " ").split() for line in lines[has_angles:] if line.strip()]
    try:
        numbers = [[float(part) for part in row[:2]] for row in rows if not row[0].startswith(("#", ";"))]
    except ValueError:
        raise ValueError(f"{path} must hold a radius for each view, one a line, got words; correct it") from None
    radii = np.array([row[0] for row in numbers], dtype=np.float64)
    with_angles = has_angles and all(len(row) > 1 for row in numbers)
    return OrbitFile(radii, np.array([row[1] for row in numbers]) if with_angles else None)


def parse_radii(text: str) -> _Array | None:
    """Return the numbers of "230", "230, 231" or "{230, 231}"; None: the text is not made of numbers."""
    try:
        return np.array([float(part) for part in text.strip("{}() ").replace(",", " ").split()], dtype=np.float64)
    except ValueError:
        return None


def in_mm(radii: _Array, unit: str | None, *, small_is_cm: bool) -> _Array:
    """Return radii in mm: from "mm" or "cm", or, without a unit, from cm where they are smaller than any camera's."""
    if unit is None:
        known = radii[radii > 0]
        unit = "cm" if small_is_cm and known.size and known.max() < MIN_RADIUS_MM else "mm"
    if unit not in ("mm", "cm"):
        raise ValueError(f"radius_unit must be 'mm' or 'cm', got {unit!r:.24}")
    return radii * (10.0 if unit == "cm" else 1.0)


def fitted(where: str, radii: _Array, n_views: int, doubts: list[str]) -> _Array | None:
    """Return a radius for each view; None, with a sentence, where there are more, fewer, or one is 0.

    Raises:
        ValueError: a radius is negative or not finite.
    """
    if not ((radii >= 0) & np.isfinite(radii)).all():
        raise ValueError(f"{where} must be a positive radius, got {radii.min(initial=math.inf):g}; correct it")
    if radii.size not in (1, n_views):
        doubts.append(
            f"{where} has {radii.size} radii for {n_views} views, so that the orbit is not known; give the radius"
        )
        return None
    missing = int((radii == 0).sum())
    if missing:
        doubts.append(
            f"{where} is 0 in {missing} of {radii.size} places, so that the orbit is not known; give the radius"
        )
        return None
    return np.broadcast_to(radii, (n_views,)).copy()


def given_radii(where: str, radius_mm: Any, n_views: int) -> _Array:
    """Return radii that the caller gives, a number or one for each view, instead of a file's.

    Raises:
        ValueError: they are not positive, or of another number.
    """
    radii = np.atleast_1d(np.asarray(radius_mm, dtype=np.float64))
    if radii.ndim != 1 or radii.size not in (1, n_views) or not ((radii > 0) & np.isfinite(radii)).all():
        raise ValueError(
            f"{where}: radius_mm must be a positive number or one for each of {n_views} views, got {radii.size} from "
            f"{radii.min(initial=math.inf):g} on"
        )
    return np.broadcast_to(radii, (n_views,)).copy()
