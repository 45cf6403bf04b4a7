"""Simulated patients, which need no download.

CT slices in attenuation per millimetre, `head`, `chest`, `perforated_disc`; and `torso`, volumes of activity and
attenuation for emission tomography, with `emission_scan`, what a SPECT camera counts of them.
"""

from .chest import chest
from .disc import ACRYLIC, perforated_disc
from .emission import ISOTOPES, EmissionScan, Isotope, emission_scan
from .head import BONE, head
from .torso import REGIONS, Torso, region_means, torso

__all__ = [
    "ACRYLIC",
    "BONE",
    "ISOTOPES",
    "REGIONS",
    "EmissionScan",
    "Isotope",
    "Torso",
    "chest",
    "emission_scan",
    "head",
    "perforated_disc",
    "region_means",
    "torso",
]
