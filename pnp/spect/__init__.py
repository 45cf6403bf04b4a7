"""Emission tomography from raw data: scatter from neighbouring energy windows, attenuation from CT.

`pnp.readers` reads the views, `operators.SPECT` projects, `mlem`, `osem` and `solve` reconstruct.
"""

from .attenuation import attenuation_from_hu
from .collimator import intrinsic_fwhm, lead_attenuation
from .scatter import triple_energy_window

__all__ = ["attenuation_from_hu", "intrinsic_fwhm", "lead_attenuation", "triple_energy_window"]
