"""Arguments that the readers of CT scans share: rows, angles and the size of a bin."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.physical_units import to_unit

MIN_STEP_DEGREES = 0.02
"""Smallest usual step between views in degrees; smaller ones over half a turn or a turn of radians are radians."""
_TURN_RTOL = 1e-3
"""Relative deviation of a span from half a turn or a turn in radians that is no chance."""

KINDS = ("line integrals", "counts", "transmissions")
"""What the values of a scan may be."""
_MIN_BINS = 3
"""Fewest bins of a detector that show anything of an object."""
_UNITS = {"deg": "degrees", "rad": "radians"}


def check_rows(caller: str, rows: object) -> None:
    """Refuse rows that are no slice; None: all of them."""
    if rows is not None and not isinstance(rows, slice):
        raise TypeError(f"{caller}: rows must be a slice, got {rows!r:.40}; use slice(k, k + 1) for row k")


def picked_rows(path: str | os.PathLike[str], n_rows: int, rows: slice | None) -> slice:
    """Return rows as a slice within the detector; no requested row is left out silently."""
    start, stop, step = (rows or slice(None)).indices(n_rows)
    asked = (rows.start, rows.stop) if rows is not None else ()
    if step < 1 or start >= stop or any(end is not None and not -n_rows <= end <= n_rows for end in asked):
        raise ValueError(f"{path}: rows must lie within 0..{n_rows - 1}, those of the detector, upwards, got {rows}")
    return slice(start, stop, step)


def check_bins(path: str | os.PathLike[str], name: str, shape: tuple[int, ...], axes: str, remedy: str) -> None:
    """Refuse data whose axis x is too short for a detector's bins: it holds rows or views, in another order."""
    n = shape[axes.split(":").index("x")]
    if n < _MIN_BINS:
        raise ValueError(
            f"{path}: {name} must have {_MIN_BINS} bins or more, got {n} in {shape} ({axes}), x the bins; is it "
            f"transposed? {remedy}"
        )


def checked_kind(path: str | os.PathLike[str], kind: object) -> Any:
    """Return what the values of a file are; None: counts."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{path}: kind must be one of {KINDS}, got {kind!r:.40}")
    return kind or "counts"


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
    """Return angles in radians by the unit that the caller gives, else the one that the file states."""
    factor = to_unit(given or stated, "rad")
    if factor is None:
        raise ValueError(
            f"{path}: {where} must have the attribute units, degrees or radians, got {stated!r:.40}; give "
            "angles='deg' or angles='rad', the unit of the file's angles, or the angles themselves, in radians"
        )
    if given and stated.strip() and to_unit(stated, "rad") != factor:
        doubts.append(f"{where} is labelled {stated!r:.24}, but taken for {_UNITS[given]}, as angles={given!r} says")
    span = float(np.ptp(theta)) if theta.size else 0.0
    if factor == 1.0 and span > 4 * math.pi:
        raise ValueError(
            f"{path}: {where} spans {span:.4g} radians, more than two turns: are these degrees? Give angles='deg' "
            "then, the unit of the file's angles"
        )
    step = float(np.median(np.abs(np.diff(theta)))) if theta.size > 1 else math.inf
    turns = (abs(whole / turn - 1) for whole in (span, span + step) for turn in (math.pi, 2 * math.pi))
    is_turn = min(turns) < _TURN_RTOL
    small = step < MIN_STEP_DEGREES and 3 < span <= 2 * math.pi
    if not given and factor == to_unit("deg", "rad") and (small or is_turn):
        doubts.append(
            f"{where} spans {span:.4g} degrees in steps of {step:.2g}; are these radians? Give angles='rad' then"
        )
    return theta * factor
