"""Units of operator parameters in HDF5 files, and their factors to ours: rad, mm, 1/mm.

Only the parameters listed here have a unit in files. The first unit of each table is ours, and is written. The lengths
of a cone beam, and of a parallel beam of volumes, may be in any one unit; the attribute length_units of /operator says
which, and they are read in mm then.
"""

from __future__ import annotations

import math
from typing import Any

_ANGLE_UNITS = {"rad": 1.0, "deg": math.pi / 180}
_LENGTH_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_ATTENUATION_UNITS = {"1/mm": 1.0, "1/cm": 0.1, "1/m": 0.001}
_LENGTH_PARAMETERS = ("voxel_size", "fwhm", "radius", "hole_diameter", "hole_length", "intrinsic")
"""Parameters of SPECT and of its collimator that are lengths."""
_CONE_LENGTHS = ("source_origin", "origin_detector", "pitch", "voxel_size", "offset", "row_offset", "shift")
LENGTH_UNITS = "length_units"
"""Attribute of /operator."""
IN_SLICES = ("cone_beam", "parallel_beam")
"""Operators whose volumes are (D, H, W), slices along the axis of rotation, and whose lengths have one unit."""
OF_PICTURES = ("mask", "blur", "identity")
"""Operators of images (B, C, H, W) whose images may be volumes (B, C, D, H, W) as well, in no unit."""


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


def in_mm(where: str, operator: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Return parameters of an operator of IN_SLICES with their lengths in mm, without the unit, and the unit in mm.

    None: no unit is stated, and the parameters are returned as they are. Sizes that are left out are 1 in the unit.

    >>> in_mm("scan.h5: /operator", "cone_beam", {"pitch": (1.0, 2.0), "length_units": "cm"})
    ({'pitch': (10.0, 20.0), 'voxel_size': 10.0}, 10.0)
    """
    if LENGTH_UNITS not in parameters:
        return parameters, None
    stated = parameters[LENGTH_UNITS]
    if operator not in IN_SLICES:
        raise ValueError(
            f"{where}: {LENGTH_UNITS} is for {' and '.join(IN_SLICES)}, the operator is {operator!r:.40}; leave it out"
        )
    if stated not in _LENGTH_UNITS:
        *others, last = map(repr, _LENGTH_UNITS)
        raise ValueError(f"{where}: {LENGTH_UNITS} must be {', '.join(others)} or {last}, got {stated!r:.40}")
    factor = _LENGTH_UNITS[stated]
    found = {"pitch": 1.0, "voxel_size": 1.0} | parameters  # the defaults of both
    del found[LENGTH_UNITS]
    for name in _CONE_LENGTHS:
        if name in found:
            value = found[name]
            found[name] = tuple(factor * part for part in value) if isinstance(value, tuple) else factor * value
    return found, factor


def per_mm(x: Any, factor: float | None) -> Any:
    """Return an array per unit of length, or None, per mm; factor as from `in_mm`."""
    return x if x is None or factor in (None, 1.0) else x / x.dtype.type(factor)


def check_one_unit(where: str, name: str, stated: object, lengths: object) -> None:
    """Refuse a dataset of such an operator that states another unit than that of all lengths."""
    if name in _CONE_LENGTHS and stated not in (None, lengths):
        raise ValueError(
            f"{where}/{name} has the units {stated!r:.40}, but all lengths must be in one unit; state "
            f"it in the attribute {LENGTH_UNITS} of {where.rpartition(' ')[2]}"
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
