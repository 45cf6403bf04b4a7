"""Plug-and-play image reconstruction: `solve(operator, y, denoiser)`.

>>> from pnp import solve
>>> from operators import Mask  # doctest: +SKIP
>>> from denoisers import MLPatch  # doctest: +SKIP
>>> result = solve(Mask(mask), y, MLPatch.from_pretrained("gray"), noise_std=0.05)  # doctest: +SKIP
"""

from __future__ import annotations

from .api import Result, Stop, estimate_noise_std, solve
from .checkpoint import Checkpoint
from .data_terms import LeastSquares, Poisson
from .em import mlem, osem
from .interop import to_deepinv
from .metrics import psnr
from .schedules import Schedule
from .solvers import State, admm, hqs

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
