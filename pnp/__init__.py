"""Plug-and-play image reconstruction: `solve(operator, y, denoiser)`.

>>> from pnp import solve
>>> from operators import Mask  # doctest: +SKIP
>>> from denoisers import MLPatch  # doctest: +SKIP
>>> result = solve(Mask(mask), y, MLPatch.from_pretrained("gray"), noise_std=0.05)  # doctest: +SKIP

Names are imported when they are first used: `import pnp` loads neither PyTorch nor SciPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not see __getattr__
    from . import ct as ct
    from . import interop as interop
    from . import io as io
    from . import learned as learned
    from . import lensing as lensing
    from . import metrics as metrics
    from . import phantoms as phantoms
    from . import plots as plots
    from . import readers as readers
    from . import report as report
    from . import spect as spect
    from . import stack as stack
    from . import training as training
    from . import uncertainty as uncertainty
    from .algorithms.iterations import State, admm, hqs
    from .algorithms.least_squares import LeastSquares
    from .algorithms.noise_estimate import estimate_noise_std
    from .algorithms.poisson import Poisson
    from .algorithms.schedules import Schedule
    from .drivers.bsrem import bsrem
    from .drivers.checkpoint import Checkpoint
    from .drivers.em import mlem, osem
    from .drivers.result import Result, Stop
    from .drivers.result_warning import ResultWarning
    from .drivers.solve import solve
    from .interop import to_deepinv
    from .metrics import psnr

    __version__: str

__all__ = [
    "Checkpoint",
    "LeastSquares",
    "Poisson",
    "Result",
    "ResultWarning",
    "Schedule",
    "State",
    "Stop",
    "admm",
    "bsrem",
    "estimate_noise_std",
    "hqs",
    "mlem",
    "osem",
    "psnr",
    "solve",
    "to_deepinv",
]

_MODULE_OF = {
    "Checkpoint": ".drivers.checkpoint",
    "LeastSquares": ".algorithms.least_squares",
    "Poisson": ".algorithms.poisson",
    "Result": ".drivers.result",
    "Schedule": ".algorithms.schedules",
    "State": ".algorithms.iterations",
    "ResultWarning": ".drivers.result_warning",
    "Stop": ".drivers.result",
    "admm": ".algorithms.iterations",
    "bsrem": ".drivers.bsrem",
    "estimate_noise_std": ".algorithms.noise_estimate",
    "hqs": ".algorithms.iterations",
    "mlem": ".drivers.em",
    "osem": ".drivers.em",
    "psnr": ".metrics",
    "solve": ".drivers.solve",
    "to_deepinv": ".interop",
}
_SUBMODULES = (
    "algorithms", "checks", "cli", "ct", "drivers", "installation", "interop", "io", "learned", "lensing", "metrics",
    "phantoms", "plots", "readers", "report", "spect", "stack", "training", "uncertainty",
)  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import what a name stands for, and keep it."""
        if name in _SUBMODULES:
            return import_module(f".{name}", __name__)
        if name in _MODULE_OF:
            value = getattr(import_module(_MODULE_OF[name], __name__), name)
        elif name == "__version__":
            value = import_module(".installation", __name__).version()
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
