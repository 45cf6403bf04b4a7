"""Mass maps of the whole sky, on HEALPix grids."""

from .tangent_patches import TangentPatches

__all__ = ["TangentPatches"]
