"""Arguments that the readers of CT scans share: rows, angles and the size of a bin."""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt

from ..io.physical_units import to_unit

_MIN_STEP_DEGREES = 0.02
"""Smallest usual step between views in degrees; smaller ones over half a turn or a turn of radians are radians."""
_TURN_RTOL = 1e-3
"""Relative deviation of a span from half a turn or a turn in radians that is no chance."""


def picked_rows(path: str | os.PathLike[str], n_rows: int, rows: slice | None) -> slice:
    """Return rows as a slice within the detector; no requested row is left out silently."""
    start, stop, step = (rows or slice(None)).indices(n_rows)
    asked = (rows.start, rows.stop) if rows is not None else ()
    if step < 1 or start >= stop or any(end is not None and not -n_rows <= end <= n_rows for end in asked):
        raise ValueError(f"{path}: rows must lie within the {n_rows} of the detector, upwards, got {rows}")
    return slice(start, stop, step)


def checked_size(path: str | os.PathLike[str], size: object) -> float:
    """Return a size of a bin that the caller gives."""
    if isinstance(size, bool) or not isinstance(size, int | float | np.number) or not 0 < size < math.inf:
        raise ValueError(f"{path}: pixel_size_mm must be a positive length, got {size!r:.40}")
    return float(size)


def in_radians(
    path: str | os.PathLike[str],
    where: str,
    theta: npt.NDArray[np.float64],
    stated: str,
    given: str | None,
    doubts: list[str],
) -> npt.NDArray[np.float64]:
    """Return angles in radians by the unit that the file states, or the caller where it states none."""
    unit = stated or given or ""
    factor = to_unit(unit, "rad")
    if factor is None:
        raise ValueError(
            f"{path}: {where} must have the attribute units, degrees or radians, got {unit!r:.40}; give "
            "angles='deg' or angles='rad', the unit of the file's angles, or the angles themselves, in radians"
        )
    span = float(np.ptp(theta)) if theta.size else 0.0
    if factor == 1.0 and span > 4 * math.pi:
        raise ValueError(
            f"{path}: {where} spans {span:.4g} radians, more than two turns: degrees, left as such? Give angles= in "
            "radians, np.deg2rad of them"
        )
    step = float(np.median(np.abs(np.diff(theta)))) if theta.size > 1 else math.inf
    turns = (abs(whole / turn - 1) for whole in (span, span + step) for turn in (math.pi, 2 * math.pi))
    is_turn = min(turns) < _TURN_RTOL
    small = step < _MIN_STEP_DEGREES and 3 < span <= 2 * math.pi
    if factor == to_unit("deg", "rad") and (small or is_turn):
        doubts.append(f"{where} spans {span:.4g} degrees in steps of {step:.2g}; are these radians? Give angles=")
    return theta * factor
