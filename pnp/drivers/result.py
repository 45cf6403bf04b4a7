"""Result of a reconstruction: the image, why it stopped, its history and its misfit."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Stop(enum.Enum):
    """Why `solve` stopped; the value is a sentence."""

    CONVERGED = "The relative residuals fell below rtol at the last noise level."
    MAX_ITER = "The iterations ran to max_iter; raise it, or rtol, if the history still falls."
    CALLBACK = "The callback asked to stop."
    INTERRUPTED = "Interrupted (Ctrl-C); the last finished iterate is returned."
    DIVERGED = (
        "The iterates grew without limit and the last sound one is returned; "
        "raise strength, check noise_std, or take a denoiser that does not amplify."
    )

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Result:
    """Result of `solve`.

    Attributes:
        x: the reconstruction (B, C, H, W): the last denoised iterate z, within the bounds; numpy where y was.
        n_iter: finished iterations.
        stop: why it ended; `str(result.stop)` is a sentence.
        history: one entry per iteration: "sigma" (units of x), "alpha" (1/units of x squared), "primal" and "dual"
            (relative residuals), "inner" (inner iterations of the x-update, 0 for a closed form).
        noise_std: the noise level used, in units of y, like the argument; a tuple where y has parts; None where the
            data term needs none.
        noise_estimated: whether noise_std was estimated from y.
        misfit: ||W^(1/2) (A x - y)||^2 per measurement: about 1 where x explains y up to its noise.
    """

    x: Any
    n_iter: int
    stop: Stop
    history: dict[str, list[float]] = field(repr=False)
    noise_std: Any
    noise_estimated: bool
    misfit: float
