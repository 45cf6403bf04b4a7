"""Error bars of a reconstruction, for any operator, noise model and denoiser.

`bootstrap` solves for simulated copies of the measurements. It gives the standard deviation and intervals of each
pixel, and the mean or sum of a region with its standard deviation. Held-out measurements say how far to trust them, and
`calibrate` calibrates them on images whose truth is known. `bootstrap_osem` is for
OSEM. See docs/uncertainty.md.
"""

from .calibration import Calibration, calibrate
from .emission import bootstrap_osem
from .equivariant import bootstrap
from .record import Bootstrap, Region

__all__ = ["Bootstrap", "Calibration", "Region", "bootstrap", "bootstrap_osem", "calibrate"]
