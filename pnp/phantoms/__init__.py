"""Simulated objects, which need no download.

`head`, `chest` and `perforated_disc` are CT slices in attenuation per millimetre; `torso` is a volume of activity and
attenuation for emission tomography, of which `emission_scan` simulates SPECT measurements. `bone_core` is a
volume for cone-beam CT.
"""

from .bone import MARROW, TRABECULA, bone_core
from .chest import chest
from .disc import ACRYLIC, perforated_disc
from .emission import ISOTOPES, EmissionScan, Isotope, emission_scan
from .head import BONE, head
from .torso import REGIONS, Torso, region_means, torso

__all__ = [
    "ACRYLIC",
    "BONE",
    "ISOTOPES",
    "MARROW",
    "REGIONS",
    "TRABECULA",
    "EmissionScan",
    "Isotope",
    "Torso",
    "bone_core",
    "chest",
    "emission_scan",
    "head",
    "perforated_disc",
    "region_means",
    "torso",
]
