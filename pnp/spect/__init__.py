"""Emission tomography from raw data: scatter from neighbouring energy windows, attenuation from CT.

`pnp.readers` reads the views, `operators.SPECT` projects, `mlem`, `osem` and `solve` reconstruct.
"""

from .attenuation import attenuation_from_hu
from .scatter import triple_energy_window

__all__ = ["attenuation_from_hu", "triple_energy_window"]
