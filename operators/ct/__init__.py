"""X-ray projectors: parallel and fan beams by Fourier slices, cone beams by footprints; filtered back-projection."""

from .cone_beam import ConeBeam
from .fan_beam import FanBeam
from .parallel_beam import ParallelBeam
from .radon import Radon

__all__ = ["ConeBeam", "FanBeam", "ParallelBeam", "Radon"]
