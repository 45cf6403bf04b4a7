"""Units of lengths and angles in files of instruments, in any spelling, and their factors to mm and rad.

`hdf5_units.py` has the few units of this project's own layout, which are not read in other spellings.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np

_MAX_CHARACTERS = 40
_METRE = {"": 1e3, "milli": 1.0, "centi": 10.0, "micro": 1e-3, "nano": 1e-6, "kilo": 1e6}
_KNOWN = {
    "rad": dict.fromkeys(("rad", "radian"), 1.0) | dict.fromkeys(("deg", "degree", "°", "º"), math.pi / 180),
    "mm": {f"{prefix}{metre}": mm for prefix, mm in _METRE.items() for metre in ("metre", "meter")}
    | {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6, "mu": 1e-3}
    | dict.fromkeys(("micron", "mum", "mu m"), 1e-3)
    | dict.fromkeys(("å", "a", "ang", "angstrom", "ångström"), 1e-7),
}
"""Factors to rad and to mm by the spelling in lower case, without a plural's s."""
_PER_PIXEL = re.compile(r"\s*(/|per)\s*(pixel|pix|px|voxel|bin)s?$")


def to_unit(unit: str, ours: str) -> float | None:
    """Return the factor from a unit, in any spelling, to "mm" or "rad"; None for what is no length, or no angle.

    Case, spaces, brackets, a plural and "per pixel" do not matter. What is not known here is left to astropy.units. A
    number in it is no unit: "0.65 um" may repeat the value, or be a factor.

    >>> [to_unit(unit, "mm") for unit in ("Microns", " [mm] ", "um/pixel", "deg", "0.65 um")]
    [0.001, 1.0, 0.001, None, None]
    >>> round(to_unit("Degrees ", "rad"), 6)
    0.017453
    """
    plain = unit.strip().strip("[]().\x00").strip().replace("µ", "u").replace("μ", "u").replace("\\", "")
    lower = _PER_PIXEL.sub("", plain.lower())
    if not lower or len(plain) > _MAX_CHARACTERS or re.search(r"\d", lower):
        return None
    for spelling in (lower, lower.removesuffix("s")):
        if spelling in _KNOWN[ours]:
            return _KNOWN[ours][spelling]
    return _by_astropy((plain, lower, lower.removesuffix("s")), ours)


def text_of(value: Any) -> str:
    """Return text of HDF5, bytes or str or an array of one of them, as str."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _by_astropy(spellings: tuple[str, ...], ours: str) -> float | None:
    from astropy.units import Unit

    for spelling in spellings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                factor = float(Unit(spelling).to(ours))
        except Exception:  # a unit of something else, or of nothing: its parser raises errors of several families
            continue
        if 0 < factor < math.inf:
            return factor
    return None
