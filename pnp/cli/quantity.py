"""Options of SPECT for activity in MBq/ml: calibration, seconds of a view, isotope and reference time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import as_typed
from .output import print_warning

if TYPE_CHECKING:
    from ..drivers.result import Result
    from ..io import Acquisition, Measurements
    from ..uncertainty import Bootstrap

UNIT = "MBq/ml"
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNEQUAL = 0.05
"""Part of the mean by which seconds of views may differ: the operator takes them for equal."""
_FAST_DECAY = 0.1
"""Part of the activity that may decay during the scan: a mean over the views corrects it."""
Calibration = Annotated[
    float | None,
    typer.Option(
        help="SPECT: write activity in MBq/ml. Counts per second of one head in the photopeak's window, of 1 MBq in "
        "air (cps/MBq).",
        show_default=False,
    ),
]
ViewSeconds = Annotated[
    float | None, typer.Option(help="SPECT: seconds of a view; default: from the file.", show_default=False)
]
Isotope = Annotated[
    str | None, typer.Option(help="SPECT: isotope, such as 177Lu; default: from the file.", show_default=False)
]
HalfLife = Annotated[
    str | None,
    typer.Option(
        help="SPECT: half-life of another isotope, such as 26.8h or 6.647d; inf: no correction for decay.",
        show_default=False,
    ),
]
ReferenceTime = Annotated[
    str | None,
    typer.Option(
        help="SPECT: time to which decay is corrected: 2026-03-01T10:30:00 on the camera's clock, or from the scan's "
        "start, e.g. --reference-time=-24h; default: the scan's start.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class QuantityOptions:
    """Options for activity in MBq/ml."""

    calibration: Calibration = None
    view_seconds: ViewSeconds = None
    isotope: Isotope = None
    half_life: HalfLife = None
    reference_time: ReferenceTime = None

    def given(self) -> list[str]:
        """Return the options that are given, as they are typed."""
        return [as_typed(f.name) for f in fields(self) if getattr(self, f.name) is not None]


@dataclass(frozen=True)
class Activity:
    """How counts become activity.

    Attributes:
        scale: MBq/ml per count, view and voxel.
        how: in words, for a line of output.
        facts: numbers for the attributes of an HDF5 file.
        description: what the numbers of the volume are, with the reference time.
        reference: the reference time, ISO 8601, "" where the clock is not known.
        is_decayed: decay is corrected.
    """

    scale: float
    how: str
    facts: dict[str, Any]
    description: str
    reference: str
    is_decayed: bool

    def of(self, result: Result) -> Result:
        """Return the result with x in MBq/ml."""
        return replace(result, x=result.x * self.scale)

    def of_bars(self, bars: Bootstrap | None) -> Bootstrap | None:
        """Return the error bars in MBq/ml."""
        if bars is None:
            return None
        zoomed = bars.zoomed * self.scale if len(bars.zoomed) else bars.zoomed
        return replace(
            bars, x=bars.x * self.scale, samples=bars.samples * self.scale, zoomed=zoomed, result=self.of(bars.result)
        )

    def of_data(self, data: Measurements) -> Measurements:
        """Return the measurements with the reference image in MBq/ml."""
        return data if data.reference is None else replace(data, reference=data.reference * self.scale)


def activity(options: QuantityOptions, data: Measurements) -> Activity | None:
    """Return how counts of these measurements become MBq/ml; None where that is not asked for.

    Raises:
        ValueError: something that is needed is not known, with the option that gives it.
    """
    if options.calibration is None:
        if options.given():
            raise ValueError(f"{', '.join(options.given())} needs --calibration, in cps/MBq; give it, too")
        return None
    if data.operator != "spect":
        raise ValueError(f"--calibration is for SPECT, these are measurements of {data.operator}; leave it out")
    if not 0 < options.calibration < math.inf:
        raise ValueError(f"--calibration must be counts per second and MBq above 0, got {options.calibration:g}")
    from ..io import Acquisition
    from ..spect.quantity import activity_scale, counted_seconds

    known = data.acquisition or Acquisition()
    view_s, start_s = _times(options, known, data)
    half_life_s, name = _half_life(options, known)
    reference_s, when, reference = _reference(options, known, is_needed=math.isfinite(half_life_s))
    scale = activity_scale(
        options.calibration,
        view_s,
        data.parameters["voxel_size"],
        half_life_s=half_life_s,
        start_s=start_s,
        reference_s=reference_s,
    )
    decay = float((counted_seconds(view_s, start_s, half_life_s, reference_s) / view_s).mean())
    _warn(view_s, start_s, half_life_s)
    said = f"half-life {_duration(half_life_s)}" if math.isfinite(half_life_s) else "no correction for decay"
    # Also in a header of 79 bytes.
    description = f"SPECT: activity in {UNIT}" + (f" at {when}" if math.isfinite(half_life_s) else "")
    seconds = float(view_s.mean())
    return Activity(
        scale,
        f"activity in {UNIT}{f' at {when}' if math.isfinite(half_life_s) else ''}: {options.calibration:g} cps/MBq, "
        f"{seconds:g} s a view, {f'{name}, ' if name else ''}{said}"
        + (f", factor {1 / decay:.4f}" if math.isfinite(half_life_s) else ""),
        {
            "calibration_cps_per_mbq": options.calibration,
            "view_s": seconds,
            "half_life_s": half_life_s,
            "decay_factor": 1 / decay,
            "reference_time": reference or when,
        },
        description[:79],
        reference,
        math.isfinite(half_life_s) or known.decay_corrected,
    )


def _times(options: QuantityOptions, known: Acquisition, data: Measurements) -> tuple[Any, Any]:
    """Return seconds and start of each view."""
    import numpy as np

    n = data.y.shape[2]
    if options.view_seconds is not None and not 0 < options.view_seconds < math.inf:
        raise ValueError(f"--view-seconds must be seconds above 0, got {options.view_seconds:g}")
    view_s = known.view_s if options.view_seconds is None else options.view_seconds
    if view_s is None:
        raise ValueError(
            "--calibration needs the seconds of a view, which the file does not state; give --view-seconds"
        )
    seconds, starts = np.asarray(view_s, dtype=np.float64), known.start_s
    for name, values in (("view_s", seconds), ("start_s", starts)):
        if values is not None and values.ndim and values.shape != (n,):
            raise ValueError(f"/acquisition/{name} must be one for each of {n} views, got {values.shape}; correct it")
    if starts is not None and options.view_seconds is not None and known.view_s is not None:
        starts = starts * (options.view_seconds / np.mean(known.view_s))
    if starts is None:
        starts = np.arange(n) * seconds  # one head, which the file does not contradict
    return np.broadcast_to(seconds, (n,)), starts


def _half_life(options: QuantityOptions, known: Acquisition) -> tuple[float, str]:
    """Return the half-life in seconds, infinity for none, and the isotope's name."""
    from ..spect.quantity import HALF_LIFE_S, isotope_name

    text = options.half_life
    if text is not None:
        seconds = math.inf if text == "inf" else _seconds(text)
        if not seconds > 0:  # NaN fails too
            raise ValueError(f"--half-life must be a time such as 26.8h or 6.647d, or inf, got {text!r:.40}")
        if math.isfinite(seconds) and known.decay_corrected:
            raise ValueError(_CORRECTED)
        return seconds, options.isotope or ""
    if known.decay_corrected:
        raise ValueError(_CORRECTED)
    stated = options.isotope or known.isotope
    name = isotope_name(stated)
    if name is None:
        got = f"{stated!r:.40} is not one of {', '.join(HALF_LIFE_S)}" if stated else "which the file does not state"
        raise ValueError(
            f"--calibration needs the isotope, to correct decay: {got}; give --isotope or --half-life (inf: none)"
        )
    return HALF_LIFE_S[name], name


_CORRECTED = (
    "--calibration: the views are corrected for decay already (CorrectedImage DECY), and DICOM does not say to which "
    "time; give --half-life inf, and the activity is that at the camera's own time"
)


def _reference(options: QuantityOptions, known: Acquisition, *, is_needed: bool) -> tuple[float, str, str]:
    """Return seconds from the scan's start to the reference time, that time in words, and on the clock or ""."""
    from datetime import timedelta

    text = options.reference_time
    if not is_needed:
        if text is not None:
            raise ValueError("--reference-time is for a correction of decay, which --half-life inf leaves out")
        return 0.0, "the time of the scan", ""
    started = datetime.fromisoformat(known.started) if known.started else None
    if text is None:
        return 0.0, "the scan's start" + (f", {known.started}" if started else ""), known.started
    seconds = _seconds(text)
    if math.isfinite(seconds):
        clock = "" if started is None else (started + timedelta(seconds=seconds)).isoformat()
        sense = "before" if seconds < 0 else "after"
        return seconds, f"{text.lstrip('+-')} {sense} the scan's start{f', {clock}' if clock else ''}", clock
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"--reference-time must be a date and time, 2026-03-01T10:30:00, or a time from the scan's start, -24h, "
            f"got {text!r:.40}"
        ) from None
    if started is None:
        raise ValueError(
            "--reference-time: the file does not state when the scan started; give the time from its start, such as "
            "--reference-time=-24h"
        )
    if (when.tzinfo is None) != (started.tzinfo is None):
        raise ValueError(f"--reference-time must be on the camera's clock, {known.started}, without a time zone")
    return (when - started).total_seconds(), when.isoformat(), when.isoformat()


def _seconds(text: str) -> float:
    """Return a time such as 6.647d or -24h in seconds, NaN where it is none."""
    found = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\s*(s|min|h|d)", text.strip())
    return float(found[1]) * _SECONDS[found[2]] if found else math.nan


def _duration(seconds: float) -> str:
    """Return a half-life in days or hours."""
    unit = "d" if seconds >= 2 * _SECONDS["d"] else "h"
    return f"{seconds / _SECONDS[unit]:.5g} {unit}"


def _warn(view_s: Any, start_s: Any, half_life_s: float) -> None:
    """Say where a mean over the views is not enough."""
    spread = float((view_s.max() - view_s.min()) / view_s.mean())
    if spread > _UNEQUAL:
        print_warning(
            f"views were counted for {view_s.min():g} to {view_s.max():g} s, which the operator takes for equal: the "
            "activity is that of their mean, and x may be uneven"
        )
    lost = 1 - 2 ** (-(float((start_s + view_s).max()) - float(start_s.min())) / half_life_s)
    if lost > _FAST_DECAY:
        print_warning(
            f"{lost:.0%} of the activity decays during the scan, which a mean over the views corrects: x may be uneven"
        )
