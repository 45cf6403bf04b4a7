"""When the views of SPECT were counted, for how long and of which isotope: /acquisition of a file of measurements."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .hdf5_safe import numbers, plain

_NAME = "acquisition"
_TIMES = ("view_s", "start_s")


@dataclass(frozen=True, eq=False)
class Acquisition:
    """When the views of a scan were counted.

    Attributes:
        view_s: seconds of each view, (n_views,), or a number for all; None: not known.
        start_s: seconds from the scan's start to that of each view, (n_views,); None: not known.
        isotope: as the file names it, or "".
        started: date and time of the scan's start on the clock of the camera, ISO 8601, or "".
        decay_corrected: the views are corrected for decay already.

    Raises:
        ValueError: times are negative or not finite, or `started` is no date and time.
    """

    view_s: float | npt.NDArray[np.float64] | None = None
    start_s: npt.NDArray[np.float64] | None = None
    isotope: str = ""
    started: str = ""
    decay_corrected: bool = False

    def __post_init__(self) -> None:
        for name in _TIMES:
            value = getattr(self, name)
            if value is None:
                continue
            times: Any = np.asarray(value, dtype=np.float64)
            low = times.min(initial=np.inf)
            if not np.isfinite(times).all() or low < 0 or (name == "view_s" and not low > 0):
                raise ValueError(f"Acquisition: {name} must be seconds above 0, got {value!s:.60}; correct the file")
            object.__setattr__(self, name, times if times.ndim else float(times))
        if self.started:
            try:
                datetime.fromisoformat(self.started)
            except ValueError:
                raise ValueError(
                    f"Acquisition: started must be a date and time, 2026-03-01T10:30:00, got {self.started!r:.40}"
                ) from None


def write_acquisition(file: h5py.File, acquisition: Acquisition | None) -> None:
    """Write what is known of the acquisition."""
    if acquisition is None:
        return
    group = file.create_group(_NAME)
    for name in _TIMES:
        value = getattr(acquisition, name)
        if value is not None:
            group[name] = value
            group[name].attrs["units"] = "s"
    for name in ("isotope", "started"):
        if text := getattr(acquisition, name):
            group.attrs[name] = text
    group.attrs["decay_corrected"] = acquisition.decay_corrected


def read_acquisition(path: str | os.PathLike[str], file: h5py.File) -> Acquisition | None:
    """Read the acquisition; None where the file does not state it."""
    group = file.get(_NAME)
    if not isinstance(group, h5py.Group):
        return None
    times: dict[str, Any] = {}
    for name in _TIMES:
        if name in group:
            values, unit = numbers(path, group[name]), plain(group[name].attrs.get("units"))
            if unit != "s" or values.ndim > 1:
                raise ValueError(f"{path}: /{_NAME}/{name} must be a number or one for each view with units 's'")
            times[name] = values
    texts: dict[str, Any] = {name: str(plain(group.attrs.get(name, "")))[:80] for name in ("isotope", "started")}
    try:
        return Acquisition(**times, **texts, decay_corrected=bool(plain(group.attrs.get("decay_corrected", False))))
    except ValueError as error:
        raise ValueError(f"{path}: /{_NAME}: {error}") from error
