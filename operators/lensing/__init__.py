"""Weak-lensing operators: from convergence, or its E and B modes, to shear, on the flat sky and on the sphere."""

from .kaiser_squires import KaiserSquires
from .kaiser_squires_eb import KaiserSquiresEB
from .kaiser_squires_sphere import KaiserSquiresSphere

__all__ = ["KaiserSquires", "KaiserSquiresEB", "KaiserSquiresSphere"]
