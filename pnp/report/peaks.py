"""Peaks of mass maps, as the page marks and counts them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..lensing.peaks import find_peaks
from .images import Plan
from .panels import Panel

Array = npt.NDArray[Any]

PEAKS_ABOVE = 3.0
"""Robust standard deviations of a map that its peaks exceed."""
MOST_PEAKS = 20
"""Peaks of a map that are marked, the highest."""


class Marks(NamedTuple):
    """Peaks of the maps (N, H, W) of a picture."""

    marked: dict[str, list[list[float]]]
    """Index of a map as it is stored -> [row, column] of its highest peaks, in pixels as they are stored."""
    n_peaks: int
    """Peaks of all maps that are stored."""
    highest: float
    """The highest one in robust standard deviations above the median of its map, 0 where there are none."""


def mark_peaks(panel: Panel, mask: Array | None, stored: Plan) -> Marks:
    """Find the peaks of a picture inside the survey: of its own pixels, also where fewer are stored."""
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
        peaks = find_peaks(torch.from_numpy(heights)[None, None], threshold=PEAKS_ABOVE, mask=inside)
        if len(peaks.row):
            n_peaks += len(peaks.row)
            highest = max(highest, float(peaks.height[0]))
            centres = (torch.stack([peaks.row, peaks.column], 1)[:MOST_PEAKS].double() + 0.5) / stored.factor
            marked[str(k)] = [[round(v, 2) for v in centre] for centre in centres.tolist()]
    return Marks(marked, n_peaks, highest)
