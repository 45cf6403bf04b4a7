"""Emission tomography from raw data: scatter from neighbouring energy windows, attenuation from CT, activity in MBq/ml.

`pnp.readers` reads the views, `operators.SPECT` projects, `mlem`, `osem` and `solve` reconstruct.
"""

from .attenuation import attenuation_from_hu
from .collimator import intrinsic_fwhm, lead_attenuation
from .quantity import HALF_LIFE_S, activity_scale, half_life, isotope_name
from .recovery import Recovery, fit_recovery, sphere_diameter
from .regions import RegionActivity, region_activity
from .scatter import triple_energy_window
from .smoothing import post_filter

__all__ = [
    "HALF_LIFE_S",
    "Recovery",
    "RegionActivity",
    "activity_scale",
    "attenuation_from_hu",
    "fit_recovery",
    "half_life",
    "intrinsic_fwhm",
    "isotope_name",
    "lead_attenuation",
    "post_filter",
    "region_activity",
    "sphere_diameter",
    "triple_energy_window",
]
