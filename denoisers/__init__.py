"""Denoisers D(x, sigma) on images (B, C, H, W), sigma in the units of x. They know nothing of operators or solvers.

`DENOISERS` maps names to classes; `Equivariant`, `PerChannel` and `Rescaled` wrap what others made, `SliceWise` makes
denoisers of volumes of it. `SuperResolver` is MLPatch's other use, S(x, factor=f): no denoiser.
"""

from .adapters import Equivariant, PerChannel, Rescaled, SliceWise
from .mlpatch import MLPatch, SuperResolver
from .tv import TV

DENOISERS = {"mlpatch": MLPatch, "tv": TV}
"""The denoisers of the command line, by name."""

__all__ = ["DENOISERS", "TV", "Equivariant", "MLPatch", "PerChannel", "Rescaled", "SliceWise", "SuperResolver"]
