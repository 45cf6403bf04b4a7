"""Activity in MBq/ml from the counts of SPECT: calibration, seconds of a view, decay and the volume of a voxel.

x is the counts that a view would record from a voxel without attenuation. A camera whose head counts S per second and
MBq records, in a view from t to t + T, of an activity a at the reference time t_0,

    x = S a integral_t^(t+T) exp(-lambda (s - t_0)) ds = S a T exp(-lambda (t - t_0)) (1 - exp(-lambda T))/(lambda T),

lambda = ln 2 / half-life (Cherry, Sorenson and Phelps, Physics in Nuclear Medicine, 4th ed. 2012, chapter 4). Of
several views x is the mean over them. Half-lives: M.-M. Be et al., Table of Radionuclides, Monographie BIPM-5, volumes
1 to 8 (Decay Data Evaluation Project).
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_number

HOUR, DAY = 3600.0, 86400.0
HALF_LIFE_S = {
    "67Ga": 3.2613 * DAY,
    "90Y": 2.6684 * DAY,
    "99mTc": 6.0067 * HOUR,
    "111In": 2.8049 * DAY,
    "123I": 13.2234 * HOUR,
    "131I": 8.0233 * DAY,
    "177Lu": 6.647 * DAY,
    "201Tl": 3.0421 * DAY,
}
"""Half-lives in seconds."""
_ELEMENTS = {
    "gallium": "ga", "yttrium": "y", "technetium": "tc", "indium": "in", "iodine": "i", "lutetium": "lu",
    "thallium": "tl",
}  # fmt: skip
_MM3_PER_ML = 1000.0


def isotope_name(text: str) -> str | None:
    """Return the isotope that a file names, as the keys of `HALF_LIFE_S`; None for another.

    >>> [isotope_name(text) for text in ("lu177", "^177^Lutetium", "Tc-99m", "Technetium Tc 99m", "F-18")]
    ['177Lu', '177Lu', '99mTc', '99mTc', None]
    """
    plain = re.sub(r"[^a-z0-9 ]", " ", text.lower()[:80])
    for word, symbol in _ELEMENTS.items():
        plain = re.sub(rf"\b{word}", f"{symbol} ", plain)
    for name in HALF_LIFE_S:
        symbol = name.lstrip("0123456789m").lower()
        number = name[: -len(symbol)]
        if re.search(rf"(?<![a-z0-9])({number}\s*{symbol}|{symbol}\s*{number})(?![a-z0-9])", plain):
            return name
    return None


def half_life(isotope: str) -> float:
    """Return the half-life of an isotope in seconds.

    Args:
        isotope: 67Ga, 90Y, 99mTc, 111In, 123I, 131I, 177Lu or 201Tl, in any spelling.

    Raises:
        ValueError: another isotope.

    >>> half_life("Lu-177") / 86400
    6.647
    """
    name = isotope_name(isotope)
    if name is None:
        raise ValueError(
            f"half_life: isotope must be one of {', '.join(HALF_LIFE_S)}, got {isotope!r:.40}; give its half-life"
        )
    return HALF_LIFE_S[name]


def activity_scale(
    calibration_cps_per_mbq: float,
    view_s: npt.ArrayLike,
    voxel_size_mm: float | tuple[float, float],
    *,
    half_life_s: float,
    start_s: npt.ArrayLike = 0.0,
    reference_s: float = 0.0,
) -> float:
    """Return the factor from x, counts per view and voxel, to MBq/ml at the reference time.

    Args:
        calibration_cps_per_mbq: counts per second of one head in the photopeak's window, of 1 MBq in air.
        view_s: seconds of each view, or one number for all.
        voxel_size_mm: side of a voxel, or (transaxial, axial).
        half_life_s: in seconds; infinity: no decay, as for views that are corrected for it.
        start_s: seconds from the scan's start to that of each view.
        reference_s: seconds from the scan's start to the reference time; negative before it, as for an injection.

    Raises:
        ValueError, TypeError: a number is not positive or not finite, or view_s and start_s do not fit each other.

    >>> activity_scale(10.0, 20.0, 10.0, half_life_s=float("inf"))
    0.005
    """
    caller = "activity_scale"
    calibration = check_number("calibration_cps_per_mbq", calibration_cps_per_mbq, above=0, caller=caller)
    sizes = np.atleast_1d(np.asarray(voxel_size_mm, dtype=np.float64))
    if sizes.shape not in ((1,), (2,)) or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"{caller}: voxel_size_mm must be positive, or (transaxial, axial), got {voxel_size_mm!r:.60}")
    volume_ml = float(sizes[0] ** 2 * sizes[-1]) / _MM3_PER_ML
    counted = counted_seconds(view_s, start_s, half_life_s, reference_s)
    return float(1.0 / (calibration * counted.mean() * volume_ml))


def counted_seconds(
    view_s: npt.ArrayLike, start_s: npt.ArrayLike, half_life_s: float, reference_s: float = 0.0
) -> npt.NDArray[Any]:
    """Return the seconds in which each view would have its counts if the activity stayed that of the reference time."""
    caller = "activity_scale"
    if not half_life_s > 0:  # NaN fails too
        raise ValueError(f"{caller}: half_life_s must be seconds above 0, or infinity, got {half_life_s!r:.24}")
    check_number("reference_s", reference_s, above=-math.inf, caller=caller)
    try:
        seconds, starts = np.broadcast_arrays(np.asarray(view_s, np.float64), np.asarray(start_s, np.float64))
    except ValueError:
        raise ValueError(
            f"{caller}: start_s must be one for each view, as view_s {np.shape(view_s)}, got {np.shape(start_s)}"
        ) from None
    if not ((seconds > 0) & np.isfinite(seconds) & np.isfinite(starts)).all():
        raise ValueError(f"{caller}: view_s must be seconds above 0, and start_s finite, got {view_s!s:.60}")
    rate = math.log(2) / half_life_s
    return np.asarray(seconds * np.exp(-rate * (starts - reference_s)) * _mean_decay(rate * seconds))


def _mean_decay(u: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return (1 - exp(-u))/u, 1 at 0."""
    return np.where(u > 0, -np.expm1(-u) / np.where(u > 0, u, 1.0), 1.0)
