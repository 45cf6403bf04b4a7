"""Linear operators y = A x with exact adjoints, as torch modules.

`OPERATORS` maps the names used by the command line and by files to the classes; `KaiserSquiresSphere`, of maps of the
whole sky, has none.
"""

from __future__ import annotations

from .algebra import stack
from .base import LinearOperator
from .blur import Blur, gaussian_kernel
from .ct import ConeBeam, FanBeam, ParallelBeam, Radon
from .downsample import Downsample
from .identity import Identity
from .lensing import KaiserSquires, KaiserSquiresEB, KaiserSquiresSphere
from .mask import Mask
from .spect import SPECT, camera_response, collimator_fwhm, spect_camera

__all__ = [
    "OPERATORS",
    "SPECT",
    "Blur",
    "ConeBeam",
    "Downsample",
    "FanBeam",
    "Identity",
    "KaiserSquires",
    "KaiserSquiresEB",
    "KaiserSquiresSphere",
    "LinearOperator",
    "Mask",
    "ParallelBeam",
    "Radon",
    "camera_response",
    "collimator_fwhm",
    "gaussian_kernel",
    "spect_camera",
    "stack",
]


class _Names(dict[str, type[LinearOperator]]):
    """Operator classes by name; an unknown name is a ValueError that lists the choices."""

    def __missing__(self, name: object) -> type[LinearOperator]:
        raise ValueError(f"OPERATORS: unknown operator {name!r}; choose one of {', '.join(sorted(self))}")


OPERATORS: dict[str, type[LinearOperator]] = _Names(
    blur=Blur,
    cone_beam=ConeBeam,
    downsample=Downsample,
    fan_beam=FanBeam,
    identity=Identity,
    kaiser_squires=KaiserSquires,
    kaiser_squires_eb=KaiserSquiresEB,
    mask=Mask,
    parallel_beam=ParallelBeam,
    radon=Radon,
    spect=SPECT,
)
"""Operator classes by name: `OPERATORS["radon"]` is `Radon`; an unknown name is a ValueError."""
