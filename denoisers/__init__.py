"""Denoisers D(x, sigma) on images (B, C, H, W), sigma in the units of x. They know nothing of operators or solvers.

`DENOISERS` maps names to classes; `PerChannel` and `Rescaled` wrap what others made.
"""

from .adapters import PerChannel, Rescaled
from .mlpatch import MLPatch, StageSpec
from .tv import TV

DENOISERS = {"mlpatch": MLPatch, "tv": TV}

__all__ = ["DENOISERS", "TV", "MLPatch", "PerChannel", "Rescaled", "StageSpec"]
