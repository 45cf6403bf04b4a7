"""Attenuation in physical units and in Hounsfield units, HU = 1000 (mu - mu_water) / mu_water.

Water's coefficient is that of J. H. Hubbell and S. M. Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NIST
Standard Reference Database 126, table 4, "Water, Liquid", 1.000 g/cm^3. Vacuum is -1000 HU, water 0 HU. The scale
holds at one energy: a tube's spectrum is best calibrated with a scan of water.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ..checks import check_number
from ..spect.attenuation import MM_PER_CM, WATER, interpolated

_T = TypeVar("_T")

_LOWEST, _HIGHEST = 10.0, 200.0  # keV, of the energies that X-ray tubes reach


def hounsfield(mu: _T, mu_water: float) -> _T:
    """Return Hounsfield units from linear attenuation.

    Args:
        mu: attenuation per unit length, a tensor, an array or a number; 0 is vacuum.
        mu_water: attenuation of water at the same energy, in the same unit as mu.

    Raises:
        ValueError, TypeError: mu_water is not a positive number.

    >>> hounsfield(0.0, 0.02), hounsfield(0.02, 0.02), hounsfield(0.03, 0.02)
    (-1000.0, 0.0, 500.0)
    """
    check_number("mu_water", mu_water, above=0, caller="hounsfield")
    values: Any = mu
    return 1000 * (values / mu_water - 1)  # type: ignore[no-any-return]


def attenuation(hu: _T, mu_water: float) -> _T:
    """Return linear attenuation, in the unit of mu_water, from Hounsfield units. The inverse of `hounsfield`.

    Args:
        hu: Hounsfield units, a tensor, an array or a number. Values below -1000 (padding outside the scanner's
            circle) become negative attenuation: clamp them first where it matters.
        mu_water: attenuation of water per unit length.

    Raises:
        ValueError, TypeError: mu_water is not a positive number.

    >>> attenuation(-1000.0, 0.02), attenuation(0.0, 0.02)
    (0.0, 0.02)
    """
    check_number("mu_water", mu_water, above=0, caller="attenuation")
    values: Any = hu
    return (values / 1000 + 1) * mu_water  # type: ignore[no-any-return]


def water_attenuation(energy_kev: float) -> float:
    """Return the linear attenuation of liquid water in 1/mm at one photon energy.

    The table's values at 10, 15, 20, 30, 40, 50, 60, 80, 100, 150 and 200 keV; between them a cubic spline in
    logarithms, within 0.2 % of XCOM at 13 energies from 20 to 30 keV and near 150 keV.

    Args:
        energy_kev: photon energy, 10 to 200 keV; a tube at 120 kV has a mean energy of about half of that.

    Raises:
        ValueError, TypeError: energy_kev is not a number in that range.

    >>> round(water_attenuation(60), 6)
    0.02059
    """
    check_number("energy_kev", energy_kev, above=0, caller="water_attenuation")
    if not _LOWEST <= energy_kev <= _HIGHEST:
        raise ValueError(
            f"water_attenuation: energy_kev must be {_LOWEST:g} to {_HIGHEST:g} keV, got {energy_kev!r}; "
            "give keV, not MeV or eV"
        )
    table = {energy: mu for energy, mu in WATER.items() if energy <= _HIGHEST}
    return interpolated(table, energy_kev) / MM_PER_CM
