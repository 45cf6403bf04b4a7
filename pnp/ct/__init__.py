"""Computed tomography from raw measurements: line integrals of counts, centre of rotation, units, transmission.

`calibrate` finds the angles and the offset of a scan from its measurements alone.
"""

from ..installation import hidden_package

if hidden_package("operators"):
    raise ImportError(hidden_package("operators"))

from .bad_pixels import find_bad_pixels
from .centre import find_centre, offset_from_centre
from .centre_rows import Centres, find_centres
from .geometry_calibration import Calibration, calibrate
from .hounsfield import attenuation, hounsfield, water_attenuation
from .line_integrals import LineIntegrals, line_integrals, simulate_counts
from .prepare_scan import PreparedScan, RowOperators, prepare_scan
from .transmission import Transmission

__all__ = [
    "Calibration",
    "Centres",
    "LineIntegrals",
    "PreparedScan",
    "RowOperators",
    "Transmission",
    "attenuation",
    "calibrate",
    "find_bad_pixels",
    "find_centre",
    "find_centres",
    "hounsfield",
    "line_integrals",
    "offset_from_centre",
    "prepare_scan",
    "simulate_counts",
    "water_attenuation",
]
