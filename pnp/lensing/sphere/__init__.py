"""Mass maps of the whole sky, on HEALPix grids in ring order: needs the extra `sphere` (ducc0).

`map_catalogue` bins galaxies, `map_mass` and `wiener` reconstruct the convergence, `write_healpix` writes it.
"""

from .baselines import smoothed_kaiser_squires, wiener
from .catalogue import map_catalogue
from .files import is_healpix, read_healpix, read_shear, write_healpix
from .mass_map import map_mass
from .peaks import SpherePeaks, find_peaks, match_peaks
from .shear import SphereShear
from .simulate import LognormalSky, convergence_power, gaussian_maps, survey_noise
from .spectrum import SpherePower, measured_power
from .tangent_patches import TangentPatches

__all__ = [
    "LognormalSky",
    "SpherePeaks",
    "SpherePower",
    "SphereShear",
    "TangentPatches",
    "convergence_power",
    "find_peaks",
    "gaussian_maps",
    "is_healpix",
    "map_catalogue",
    "map_mass",
    "match_peaks",
    "measured_power",
    "read_healpix",
    "read_shear",
    "smoothed_kaiser_squires",
    "survey_noise",
    "wiener",
    "write_healpix",
]
