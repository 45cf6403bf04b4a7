"""Units of operator parameters in HDF5 files, and their factors to ours: rad, mm, 1/mm.

Only the parameters listed here have a unit in files. The first unit of each table is ours, and is written.
"""

from __future__ import annotations

import math

_ANGLE_UNITS = {"rad": 1.0, "deg": math.pi / 180}
_LENGTH_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_ATTENUATION_UNITS = {"1/mm": 1.0, "1/cm": 0.1, "1/m": 0.001}
_LENGTH_PARAMETERS = ("voxel_size", "fwhm", "radius", "hole_diameter", "hole_length", "intrinsic")
"""Parameters of SPECT and of its collimator that are lengths."""


def units_of(operator: str, name: str) -> dict[str, float] | None:
    """Return the units that an operator's parameter may have in a file; None: it has no unit.

    >>> list(units_of("spect", "attenuation") or ()), units_of("radon", "pitch")
    (['1/mm', '1/cm', '1/m'], None)
    """
    if name == "angles":
        return _ANGLE_UNITS
    if operator != "spect":
        return None
    return (
        _LENGTH_UNITS
        if name in _LENGTH_PARAMETERS
        else _ATTENUATION_UNITS
        if name in ("attenuation", "septal_attenuation")
        else None
    )


def unit_factor(where: str, units: object, known: dict[str, float]) -> float:
    """Return the factor from a unit to ours; refuse a unit that is not among the known ones.

    >>> unit_factor("scan.h5: /operator/voxel_size", "cm", _LENGTH_UNITS)
    10.0
    """
    if units not in known:
        *others, last = (repr(name) for name in known)
        got = "none" if units is None else f"{units!r:.40}"
        raise ValueError(f"{where} must have the attribute units {', '.join(others)} or {last}, got {got}")
    return known[str(units)]
