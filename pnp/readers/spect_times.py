"""When the views of SPECT were counted.

DICOM states the time of a view as ActualFrameDuration of its rotation, in milliseconds (PS3.3, C.8.4.12, NM Tomo
Acquisition); heads count at the same time, view after view, and rotations follow each other. Pauses between views are
not stated: they are seconds, half-lives hours. AcquisitionDate and AcquisitionTime are those of the scan's start.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import Acquisition
from .ct_dicom import MAX_VALUE

_Array = npt.NDArray[Any]


def dicom_acquisition(data: Any, turns: _Array, detectors: _Array, views: _Array, isotope: str) -> Acquisition | None:
    """Return when the views of a DICOM file were counted, in their order; None where it does not say anything.

    Args:
        data: the file.
        turns, detectors, views: number of the rotation, the detector and the view of each, from 1.
        isotope: as the file names it.
    """
    is_corrected = "DECY" in np.atleast_1d(data.get("CorrectedImage") or [])
    view_s, start_s = _times(data.get("RotationInformationSequence") or [], turns, detectors, views)
    started = _started(data)
    if view_s is None and not isotope and not started:
        return None
    return Acquisition(view_s, start_s, isotope, started, bool(is_corrected))


def _times(rotations: Any, turns: _Array, detectors: _Array, views: _Array) -> tuple[Any, Any]:
    """Return seconds and start of each view, None where they are not known."""
    last = int(turns.max())
    seconds = np.array([_seconds(item) for item in rotations[:last]])
    if len(seconds) < last or not np.isfinite(seconds[np.unique(turns) - 1]).all():
        return None, None
    of_view = seconds[turns - 1]
    view_s = float(of_view[0]) if np.ptp(of_view) == 0 else of_view
    begins = np.zeros(last)
    if not (turns == detectors).all():  # else each head has a rotation of its own, at the same time
        numbers = [float(item.get("NumberOfFramesInRotation") or math.nan) for item in rotations[: last - 1]]
        begins[1:] = np.cumsum(seconds[:-1] * numbers)
    start_s = begins[turns - 1] + (views - 1) * of_view
    return view_s, start_s if np.isfinite(start_s).all() else None


def _seconds(item: Any) -> float:
    """Return the seconds of a rotation's views, NaN where they are not stated."""
    value = item.get("ActualFrameDuration")
    seconds = math.nan if value is None or value == "" else float(value) / 1000
    return seconds if 0 < seconds < MAX_VALUE else math.nan


def _started(data: Any) -> str:
    """Return date and time of the acquisition, "" where they are not stated."""
    text = str(data.get("AcquisitionDateTime") or "")
    if not text and data.get("AcquisitionDate") and data.get("AcquisitionTime"):
        text = f"{data.AcquisitionDate}{data.AcquisitionTime}"
    try:
        return datetime.strptime(text[:14], "%Y%m%d%H%M%S").isoformat()
    except ValueError:
        return ""
