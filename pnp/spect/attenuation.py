"""Attenuation at a gamma ray's energy from CT's Hounsfield units, by two straight lines that meet at water.

With mu_w and mu_b the coefficients of water and compact bone, E the gamma ray's energy and E_ct the CT's effective one,

    mu(E) = mu_w(E) (1 + HU/1000),                                                                       HU <= 0
    mu(E) = mu_w(E) + HU/1000 mu_w(E_ct) (mu_b(E) - mu_w(E)) / (mu_b(E_ct) - mu_w(E_ct)),                HU > 0

below 0 a mixture of air and water, above 0 one of water and bone: J. A. Patton and T. G. Turkington, SPECT/CT physical
principles and attenuation correction, J. Nucl. Med. Technol. 36 (2008) 1. Coefficients: J. H. Hubbell and S. M.
Seltzer, NIST Standard Reference Database 126, table 4, "Water, Liquid", 1.000 g/cm^3, and "Bone, Cortical (ICRU-44)",
1.920 g/cm^3; between the energies of the table cubic splines in logarithms.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..checks import check_number

_T = TypeVar("_T")

# Photon energy in keV, and mass attenuation coefficients there in cm^2/g; those of bone from 30 keV on.
_ENERGY = (10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0, 600.0)
_WATER: tuple[float, ...] = (5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505, 0.1370)
_WATER += (0.1186, 0.1061, 0.09687, 0.08956)
_BONE = (1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480, 0.1309, 0.1113, 0.09908, 0.09022, 0.08332)
WATER = dict(zip(_ENERGY, _WATER, strict=True))
"""Mass attenuation of liquid water in cm^2/g by energy in keV."""
_BONE_TABLE = dict(zip(_ENERGY[3:], _BONE, strict=True))
"""Mass attenuation of compact bone in cm^2/g by energy in keV."""
_BONE_DENSITY = 1.920
MM_PER_CM = 10.0


def attenuation_from_hu(hu: _T, energy_kev: float, *, ct_kev: float = 70.0) -> _T:
    """Return linear attenuation in 1/mm at a gamma ray's energy from Hounsfield units.

    Resample the CT to the voxels of SPECT first, or smooth it to their size: attenuation averages, and bones do not
    fill voxels. Below -1000 HU (padding) there is nothing: 0.

    Args:
        hu: Hounsfield units, a tensor, an array or a number.
        energy_kev: photon energy, 30 to 600 keV: 140.5 for 99mTc, 208 for 177Lu, 364 for 131I.
        ct_kev: the CT's effective energy; a tube at 120 kV has about 70 keV.

    Raises:
        ValueError, TypeError: an energy is not a number in that range, or hu is not finite.

    >>> [round(attenuation_from_hu(hu, 140.5), 5) for hu in (-1000.0, 0.0, 1000.0)]
    [0.0, 0.01536, 0.0243]
    """
    caller = "attenuation_from_hu"
    mu_water, mu_bone = _linear(caller, energy_kev, "energy_kev")
    ct_water, ct_bone = _linear(caller, ct_kev, "ct_kev")
    above = ct_water * (mu_bone - mu_water) / (ct_bone - ct_water) / 1000
    values: Any = hu
    if isinstance(values, Tensor):
        finite, low, high = bool(values.isfinite().all()), values.clamp(-1000, 0), values.clamp(0)
    else:
        values = np.asarray(values) if isinstance(values, (list, tuple)) else values
        finite = bool(np.isfinite(values).all())
        low, high = np.clip(values, -1000, 0), np.clip(values, 0, None)
    if not finite:
        raise ValueError(f"{caller}: hu must be finite, got NaN or infinity; set what lies outside the CT to -1000")
    mu = mu_water * (1 + low / 1000) + above * high
    return float(mu) if isinstance(hu, (int, float)) else mu  # type: ignore[return-value]


def _linear(caller: str, energy_kev: float, name: str) -> tuple[float, float]:
    """Return the coefficients of water and bone in 1/mm."""
    energy = check_number(name, energy_kev, above=0, caller=caller)
    low, high = min(_BONE_TABLE), max(_BONE_TABLE)
    if not low <= energy <= high:
        raise ValueError(f"{caller}: {name} must be {low:g} to {high:g} keV, got {energy!r}; give keV, not MeV or eV")
    water, bone = interpolated({e: WATER[e] for e in _BONE_TABLE}, energy), interpolated(_BONE_TABLE, energy)
    return water / MM_PER_CM, bone * _BONE_DENSITY / MM_PER_CM


def interpolated(table: dict[float, float], energy_kev: float) -> float:
    """Return a coefficient between the energies of a table, by a natural cubic spline in logarithms."""
    spline = CubicSpline(np.log(list(table)), np.log(list(table.values())), bc_type="natural")
    return math.exp(float(spline(math.log(energy_kev))))
