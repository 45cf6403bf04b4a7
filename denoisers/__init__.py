"""Denoisers D(x, sigma) on images (B, C, H, W), sigma in the units of x. They depend on no operator and no solver.

`DENOISERS` maps names to classes. `Equivariant`, `PerChannel` and `Rescaled` adapt any denoiser of images, also one of
another library; `SliceWise` makes it a denoiser of volumes. `SuperResolver`, S(x, factor=f), is a network like MLPatch
for super-resolution, and no denoiser.
"""

from .adapters import Equivariant, PerChannel, Rescaled, SliceWise
from .mlpatch import MLPatch, SuperResolver
from .tv import TV

DENOISERS = {"mlpatch": MLPatch, "tv": TV}
"""Denoiser classes by the names that the command line uses."""

__all__ = ["DENOISERS", "TV", "Equivariant", "MLPatch", "PerChannel", "Rescaled", "SliceWise", "SuperResolver"]
