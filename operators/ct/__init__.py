"""X-ray projectors: parallel and fan beam by Fourier slices, with filtered back-projection."""

from .fan_beam import FanBeam
from .radon import Radon

__all__ = ["FanBeam", "Radon"]
