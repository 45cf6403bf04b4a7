"""Computed tomography from raw measurements: line integrals of counts, centre of rotation, units, transmission.

`calibrate` finds the angles and the offset of a scan from its measurements alone.
"""

from ..installation import hidden_package

if hidden_package("operators"):
    raise ImportError(hidden_package("operators"))

from .bad_pixels import find_bad_pixels
from .beam_hardening import correct_beam_hardening, fit_beam_hardening
from .centre import find_centre, offset_from_centre
from .centre_rows import Centres, find_centres
from .geometry_calibration import Calibration, calibrate
from .hounsfield import attenuation, hounsfield, water_attenuation
from .line_integrals import LineIntegrals, line_integrals, simulate_counts
from .phase import paganin_filter
from .prepare_scan import PreparedScan, RowOperators, prepare_scan
from .stripes import remove_stripes
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
    "correct_beam_hardening",
    "find_bad_pixels",
    "find_centre",
    "find_centres",
    "fit_beam_hardening",
    "hounsfield",
    "line_integrals",
    "offset_from_centre",
    "paganin_filter",
    "prepare_scan",
    "remove_stripes",
    "simulate_counts",
    "water_attenuation",
]
