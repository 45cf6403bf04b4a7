"""Simulated CT slices in attenuation per millimetre, which need no download: `head`, `chest`, `perforated_disc`."""

from .chest import chest
from .disc import ACRYLIC, perforated_disc
from .head import BONE, head

__all__ = ["ACRYLIC", "BONE", "chest", "head", "perforated_disc"]
