"""Plug-and-play image reconstruction: `solve(operator, y, denoiser)`.

>>> from pnp import solve
>>> from operators import Mask  # doctest: +SKIP
>>> from denoisers import MLPatch  # doctest: +SKIP
>>> result = solve(Mask(mask), y, MLPatch.from_pretrained("gray"), noise_std=0.05)  # doctest: +SKIP
"""

from __future__ import annotations

from .algorithms.iterations import State, admm, hqs
from .algorithms.least_squares import LeastSquares
from .algorithms.poisson import Poisson
from .algorithms.schedules import Schedule
from .drivers.checkpoint import Checkpoint
from .drivers.em import mlem, osem
from .drivers.result import Result, Stop
from .drivers.solve import estimate_noise_std, solve
from .interop import to_deepinv
from .metrics import psnr

__all__ = [
    "Checkpoint",
    "LeastSquares",
    "Poisson",
    "Result",
    "Schedule",
    "State",
    "Stop",
    "admm",
    "estimate_noise_std",
    "hqs",
    "mlem",
    "osem",
    "psnr",
    "solve",
    "to_deepinv",
]
