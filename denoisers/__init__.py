"""Denoisers D(x, sigma) on images (B, C, H, W), sigma in the units of x. They depend on no operator and no solver.

`DENOISERS` maps names to classes. `Blind`, `SigmaMap`, `Rescaled`, `PerChannel`, `ComplexParts` and `Equivariant` adapt
any network or denoiser of images, also one of another library; `SliceWise` makes it a denoiser of volumes.
`SuperResolver`, S(x, factor=f), is a network like MLPatch for super-resolution, and no denoiser.
"""

from .adapters import Blind, ComplexParts, Equivariant, PerChannel, Rescaled, SigmaMap, SliceWise
from .mlpatch import MLPatch, SuperResolver
from .tv import TV

DENOISERS = {"mlpatch": MLPatch, "tv": TV}
"""Denoiser classes by the names that the command line uses."""

__all__ = [
    "DENOISERS",
    "TV",
    "Blind",
    "ComplexParts",
    "Equivariant",
    "MLPatch",
    "PerChannel",
    "Rescaled",
    "SigmaMap",
    "SliceWise",
    "SuperResolver",
]
