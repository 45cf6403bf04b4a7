"""Find the peaks of mass maps that the page marks and counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..lensing.peaks import find_peaks
from .images import Plan
from .panels import Panel

Array = npt.NDArray[Any]

PEAK_THRESHOLD = 3.0
"""Least height of a peak above the median, in robust standard deviations of the map."""
MAX_PEAKS = 20
"""Maximum number of marked peaks per map; the highest are marked."""


class _Marks(NamedTuple):
    """Peaks of the maps (N, H, W) of a picture."""

    marked: dict[str, list[list[float]]]
    """Index of a stored map -> [row, column] of its highest peaks, in stored pixels."""
    n_peaks: int
    """Number of peaks in all stored maps."""
    highest: float
    """Height of the highest peak above the median of its map, in robust standard deviations; 0 without peaks."""


def mark_peaks(panel: Panel, mask: Array | None, stored: Plan) -> _Marks:
    """Find the peaks of a picture inside the survey, at full resolution even if fewer pixels are stored."""
    marked: dict[str, list[list[float]]] = {}
    n_peaks, highest = 0, 0.0
    for k, item in enumerate(stored.items):
        x = panel.values[item].astype(np.float64)
        seen = np.isfinite(x) if mask is None else np.isfinite(x) & mask[item]
        if not seen.any():
            continue
        middle = np.median(x[seen])
        spread = 1.4826 * np.median(np.abs(x[seen] - middle))
        if not spread > 0:
            continue
        with np.errstate(over="ignore"):
            heights = np.where(seen, (x - middle) / spread, np.nan)
        inside = torch.from_numpy(seen.copy())[None, None]
        peaks = find_peaks(torch.from_numpy(heights)[None, None], threshold=PEAK_THRESHOLD, mask=inside)
        if len(peaks.row):
            n_peaks += len(peaks.row)
            highest = max(highest, float(peaks.height[0]))
            centres = (torch.stack([peaks.row, peaks.column], 1)[:MAX_PEAKS].double() + 0.5) / stored.factor
            marked[str(k)] = [[round(v, 2) for v in centre] for centre in centres.tolist()]
    return _Marks(marked, n_peaks, highest)
