"""Computed tomography from raw measurements: counts to line integrals, centre of rotation, units, transmission."""

from .centre import find_centre, offset_from_centre
from .counts import LineIntegrals, find_bad_pixels, line_integrals, simulate_counts
from .transmission import Transmission
from .units import attenuation, hounsfield, water_attenuation

__all__ = [
    "LineIntegrals",
    "Transmission",
    "attenuation",
    "find_bad_pixels",
    "find_centre",
    "hounsfield",
    "line_integrals",
    "offset_from_centre",
    "simulate_counts",
    "water_attenuation",
]
