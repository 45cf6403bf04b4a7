"""Axis of rotation of every row of a scan, found from the views or given."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..readers import CtScan
from .centre import find_centre
from .centre_rows import find_centres
from .opposite import opposite_views
from .scan_rows import ScanRows

_MIN_TILT_ROWS = 5
"""Smallest number of sampled rows that show a tilt."""
_MIN_DRIFT, _MIN_SIGNIFICANCE = 0.25, 4.0
"""Smallest change of the axis over all rows, in bins and in standard deviations, for which every row has its own."""


def find_axes(
    y: npt.NDArray[Any], scan: CtScan, source: ScanRows, centre: Any, search: tuple[float, float] | None
) -> tuple[npt.NDArray[np.float64], str]:
    """Return the axis of every row (n_rows,) in bins, and a sentence on it."""
    n_rows, n_detectors = len(source.rows), scan.y.shape[-1]
    middle = f"(middle: {(n_detectors - 1) / 2:g})"
    if centre is None:
        tilted = _tilted(y, scan, source, search)
        if tilted is not None:
            ends = f"{tilted[0]:.2f} in row {source.numbers[0]} to {tilted[-1]:.2f} in row {source.numbers[-1]}"
            return tilted, f"The axis of rotation is tilted, from bin {ends} {middle}, found from the views."
        found, why = _found_centre(y, scan, search)
        return np.full(n_rows, found), f"The axis of rotation is at bin {found:.2f} {middle}, {why}."
    given = np.asarray(centre, dtype=np.float64)
    if given.shape not in ((), (n_rows,)) or not np.isfinite(given).all():
        raise ValueError(
            f"prepare_scan: centre must be a bin, or one for each of {n_rows} rows, got shape {given.shape} with a sum "
            f"of {float(given.sum()):.4g}"
        )
    low, high = float(given.min()), float(given.max())
    if not (-n_detectors < low and high < 2 * n_detectors):
        raise ValueError(
            f"prepare_scan: centre must be in bins of the detector, 0 to {n_detectors - 1}, got {low:.4g} to {high:.4g}"
        )
    where = f"bin {low:.2f}" if low == high else f"bins {low:.2f} to {high:.2f}"
    return np.broadcast_to(given, n_rows).copy(), f"The axis of rotation is at {where} {middle}, as given."


def _tilted(
    y: npt.NDArray[Any], scan: CtScan, source: ScanRows, search: tuple[float, float] | None
) -> npt.NDArray[np.float64] | None:
    """Return the axis of every row where it differs from row to row beyond its error; None: it does not."""
    if len(y) < _MIN_TILT_ROWS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of axes that scatter
            line = find_centres(y, scan.angles, search=search, **_fan(scan))
    except (ValueError, UserWarning):
        return None
    place = (np.arange(len(source.rows)) - source.first_sampled) / source.every_sampled
    centres: npt.NDArray[np.float64] = float(line.centres[0]) + line.slope * place
    n_found = int(line.found.isfinite().sum())
    drift, error = abs(float(centres[-1] - centres[0])), line.scatter * math.sqrt(12 / n_found)
    return centres if drift > max(_MIN_DRIFT, _MIN_SIGNIFICANCE * error) else None


def _fan(scan: CtScan) -> dict[str, Any]:
    """Return the arguments of `find_centre` for a fan beam; none for a parallel beam."""
    if scan.source_origin_mm is None:
        return {}
    return {"source_origin": scan.source_origin_mm, "origin_detector": scan.origin_detector_mm, "pitch": scan.pitch_mm}


def _found_centre(y: npt.NDArray[Any], scan: CtScan, search: tuple[float, float] | None) -> tuple[float, str]:
    """Return the axis in bins, and how it was found; without opposite views, that of a fan is what its file says."""
    fan = _fan(scan)
    if fan and search is None and opposite_views(torch.from_numpy(scan.angles)) is None:
        stated = float(scan.facts.get("offset_mm", 0.0)) / fan["pitch"]
        how = "as the file says" if "offset_mm" in scan.facts else "which is assumed"
        return (y.shape[-1] - 1) / 2 - stated, f"{how}, since a fan beam without opposite views does not show it"
    return find_centre(y, scan.angles, search=search, **fan), "found from the views"
