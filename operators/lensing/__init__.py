"""Weak-lensing operators: from convergence, or its E and B modes, to shear on the flat sky."""

from .kaiser_squires import KaiserSquires
from .kaiser_squires_eb import KaiserSquiresEB

__all__ = ["KaiserSquires", "KaiserSquiresEB"]
