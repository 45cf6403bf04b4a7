"""Simulated patients, which need no download.

CT slices in attenuation per millimetre, `head`, `chest`, `perforated_disc`; and `torso`, volumes of activity and
attenuation for emission tomography.
"""

from .chest import chest
from .disc import ACRYLIC, perforated_disc
from .head import BONE, head
from .torso import REGIONS, Torso, region_means, torso

__all__ = ["ACRYLIC", "BONE", "REGIONS", "Torso", "chest", "head", "perforated_disc", "region_means", "torso"]
