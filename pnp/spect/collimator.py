"""A parallel-hole collimator and its detector at the energy of the photons.

Septa of lead let photons through: `operators.collimator_fwhm` takes their attenuation, mu = 11.35 g/cm^3 (mu/rho), with
mu/rho of J. H. Hubbell and S. M. Seltzer, NIST Standard Reference Database 126, table 3, Z = 82; between the energies
of the table cubic splines in logarithms, on each side of the K edge. A scintillator's resolution follows the number of
photons that it emits (Cherry, Sorenson and Phelps, Physics in Nuclear Medicine, 4th ed. 2012, chapter 14),

    FWHM(E) = FWHM(140 keV) sqrt(140 keV / E).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from ..checks import check_number
from .attenuation import MM_PER_CM, interpolated

_LEAD_DENSITY = 11.35
_K_EDGE = 88.0045
_BELOW_K = {30.0: 30.32, 40.0: 14.36, 50.0: 8.041, 60.0: 5.021, 80.0: 2.419, _K_EDGE: 1.910}
_ABOVE_K = {_K_EDGE: 7.683, 100.0: 5.549, 150.0: 2.014, 200.0: 0.9985, 300.0: 0.4031, 400.0: 0.2323, 500.0: 0.1614}
_ABOVE_K |= {600.0: 0.1248, 800.0: 0.08870}
"""Mass attenuation of lead in cm^2/g by energy in keV, below and above the K edge."""
REFERENCE_KEV = 140.0
"""Energy at which the intrinsic resolution of a camera is stated."""
_PLAUSIBLE_MM = {"hole_diameter": (0.5, 10.0), "hole_length": (10.0, 150.0), "intrinsic": (0.0, 15.0)}
"""Sizes that parallel-hole collimators and Anger cameras have."""


def lead_attenuation(energy_kev: float) -> float:
    """Return the linear attenuation of lead in 1/mm, from 30 to 800 keV.

    Raises:
        ValueError, TypeError: energy_kev is not a number in that range.

    >>> [round(lead_attenuation(energy), 3) for energy in (140.5, 208.0, 364.5)]
    [2.688, 1.033, 0.312]
    """
    energy = check_number("energy_kev", energy_kev, above=0, caller="lead_attenuation")
    low, high = min(_BELOW_K), max(_ABOVE_K)
    if not low <= energy <= high:
        raise ValueError(
            f"lead_attenuation: energy_kev must be {low:g} to {high:g} keV, got {energy:g}; give keV, not MeV or eV"
        )
    table = _BELOW_K if energy < _K_EDGE else _ABOVE_K
    return interpolated(table, energy) * _LEAD_DENSITY / MM_PER_CM


def intrinsic_fwhm(fwhm_mm: float, energy_kev: float) -> float:
    """Return the detector's intrinsic FWHM in mm at an energy from that at 140 keV.

    >>> intrinsic_fwhm(3.8, 35.0)
    7.6
    """
    energy = check_number("energy_kev", energy_kev, above=0, caller="intrinsic_fwhm")
    at_reference = check_number("fwhm_mm", fwhm_mm, above=0, or_equal=True, caller="intrinsic_fwhm")
    return float(at_reference) * math.sqrt(REFERENCE_KEV / float(energy))


def collimator_doubt(collimator_mm: Mapping[str, float]) -> str:
    """Return a sentence on a size that no camera has, "" where all are plausible.

    Args:
        collimator_mm: hole_diameter, hole_length and intrinsic of `operators.collimator_fwhm`, in mm.
    """
    for name, (low, high) in _PLAUSIBLE_MM.items():
        value = float(collimator_mm.get(name, low))
        if not low <= value <= high:
            return (
                f"the collimator's {name} is {value:g} mm, and cameras have {low:g} to {high:g}: are its lengths in "
                "another unit? Give the collimator in mm"
            )
    return ""


def warn_of_collimator(where: str, collimator_mm: Mapping[str, float], *, stacklevel: int = 2) -> None:
    """Warn of a collimator that no camera has; see `collimator_doubt`."""
    doubt = collimator_doubt(collimator_mm)
    if doubt:
        warnings.warn(f"{where}: {doubt}", stacklevel=stacklevel + 1)
