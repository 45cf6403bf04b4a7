"""X-ray projectors: parallel and fan beam by Fourier slices, cone beam by footprints, with filtered back-projection."""

from .cone_beam import ConeBeam
from .fan_beam import FanBeam
from .radon import Radon

__all__ = ["ConeBeam", "FanBeam", "Radon"]
