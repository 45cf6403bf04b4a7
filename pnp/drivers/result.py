"""Result of a reconstruction: the image, why it stopped, its history and its misfit."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..algorithms.noise_estimate import typical_noise_std

HIGH_MISFIT = 3.0
"""Misfit from which on x does not explain y: residuals 1.7 times the noise."""
LOW_MISFIT = 0.1
"""Misfit below which x follows y more closely than noise of the given level would allow."""
ESTIMATED, DECLARED, GIVEN = "estimated from y", "from the operator's noise_model", "given"
"""Sources of a noise level."""


class Stop(enum.Enum):
    """Why `solve` stopped; the value is a sentence."""

    CONVERGED = "The relative residuals fell below rtol at the last noise level."
    MAX_ITER = "The iterations ran to max_iter."
    CALLBACK = "The callback asked to stop."
    INTERRUPTED = "Interrupted (Ctrl-C); the last finished iterate is returned."
    DIVERGED = "The iterates grew without limit; the last one before is returned."

    def __str__(self) -> str:
        return self.value


class Candidate(NamedTuple):
    """A strength that `solve(strength="auto")` tried.

    Attributes:
        strength, n_iter: of the trial, a solve without the measurements that were held out; n_iter is often less than
            that of the solve with all.
        error: mean square of A x - y over these, in noise levels; the noise alone gives 1.
        standard_error: of `error`, from groups of measurements that are taken for independent.
    """

    strength: float
    n_iter: int
    error: float
    standard_error: float


@dataclass(frozen=True)
class Result:
    """Result of `solve`, `mlem`, `osem` and `solve_mosaic`.

    Attributes:
        x: the reconstruction (B, C, H, W): the last denoised iterate z, within the bounds; numpy where y was.
        n_iter: finished iterations.
        stop: why it ended; `str(result.stop)` is a sentence.
        history: one entry per iteration: "sigma" (units of x), "alpha" (1/units of x squared), "primal" and "dual"
            (relative residuals), "inner" (inner iterations of the x-update, 0 for a closed form). Where the images of
            a batch have their own, an entry of "sigma" or "alpha" is a list with one for each; "primal" and "dual" are
            the largest of the images that have not converged before.
        noise_std: the noise level used, in units of y: a number, or an array that broadcasts to y, (B, 1, ..., 1) where
            each image has its own; a tuple where y has parts; None where the data term needs none. `solve` takes it
            as it is.
        noise_source: "given", "estimated from y" (for a tuple: one of its parts was) or "from the operator's
            noise_model"; None where noise_std is.
        misfit: ||W^(1/2) (A x - y)||^2 per measurement: about 1 where x explains y up to its noise; NaN where Ctrl-C
            arrived before it was known.
        warnings: sentences on what looks wrong, each with its likely cause and a remedy; empty where nothing does.
        rejected: where y was taken for an outlier, a mask of the kind and shape of y (a tuple where y has parts); None
            where none is looked for, or none found unasked.
        common_errors: the errors that measurements have in common, of the kind and shape of y and in its unit: x
            explains y - common_errors. None where the data term has none.
        strength: of the prior, as used; a tuple where strength="auto" chose one for each image of a batch. None where
            there is none.
        strength_source: "given", or which measurements strength="auto" held out, or why it took the default.
        prediction_error: mean square of A x - y over measurements that were held out, in noise levels, or Stein's
            estimate of it, and its standard error, for this strength; a tuple of such pairs for a batch. None where
            nothing was tried, also in such a tuple.
        candidates: each `Candidate` that was tried, the chosen one first; for a batch a tuple of such tuples, one for
            each image. Empty where nothing was tried.
    """

    x: Any
    n_iter: int
    stop: Stop
    history: dict[str, list[Any]] = field(repr=False)
    noise_std: Any
    noise_source: str | None
    misfit: float
    warnings: tuple[str, ...] = ()
    rejected: Any = None
    common_errors: Any = field(default=None, repr=False)
    strength: float | tuple[float, ...] | None = None
    strength_source: str | None = None
    prediction_error: Any = None
    candidates: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def noise_estimated(self) -> bool:
        """Whether noise_std was estimated from y."""
        return self.noise_source == ESTIMATED

    @property
    def n_rejected(self) -> int:
        """Number of measurements that were taken for outliers and left out."""
        masks = self.rejected if isinstance(self.rejected, tuple) else (self.rejected,)
        return sum(int(mask.sum()) for mask in masks if mask is not None)

    @property
    def common_errors_rms(self) -> float:
        """Root mean square of `common_errors`, in units of y; 0 where there are none."""
        if self.common_errors is None:
            return 0.0
        return float(float((self.common_errors**2).mean()) ** 0.5)

    @property
    def verdict(self) -> str:
        """One line: the misfit and what it says, or the warnings that explain it."""
        rejected = f", {rejections(self.n_rejected)}" if self.n_rejected else ""
        judgement = "x explains y up to its noise"
        if not 0.5 < self.misfit < 1.5:
            judgement = f"residuals are {abs(self.misfit) ** 0.5:.2g} times the noise"
        if self.warnings:
            judgement = "; ".join(self.warnings)
        elif math.isnan(self.misfit):
            return f"misfit unknown{rejected}"
        elif not LOW_MISFIT <= self.misfit <= HIGH_MISFIT:  # too few measurements to say why, or EM with many voxels
            judgement = "about 1 is expected where x explains y up to its noise"
        return f"misfit {self.misfit:.3g}{rejected}: {judgement}"

    def __str__(self) -> str:
        """Return a summary of a few lines; `repr` shows the fields."""
        noise = "" if self.noise_std is None else f", noise_std {_typical(self.noise_std)} {self.noise_source}"
        rejected = f"; {rejections(self.n_rejected)}" if self.n_rejected else ""
        common = f"; errors common to bins or views {self.common_errors_rms:.2g} rms" if self.common_errors_rms else ""
        lines = [
            f"x {tuple(getattr(self.x, 'shape', ()))} after {self.n_iter} iterations{noise}",
            f"misfit {self.misfit:.3g} per measurement, about 1 expected{rejected}{common}",
            str(self.stop),
            *([self.choice] if self.choice else []),
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    @property
    def choice(self) -> str:
        """One line on what strength="auto" chose, and from what; empty where the strength was given."""
        if self.strength_source in (None, GIVEN):
            return ""
        alone = not isinstance(self.strength, tuple)
        strengths: Any = (self.strength,) if alone else self.strength
        errors: Any = (self.prediction_error,) if alone else self.prediction_error
        error = ""
        if self.prediction_error is not None:
            error = ", prediction error " + ", ".join(
                "none" if e is None else f"{e[0]:.3f} +- {e[1]:.3f}" for e in errors
            )
        return f"strength {', '.join(f'{s:.3g}' for s in strengths)}, {self.strength_source}{error}"


def rejections(n: int) -> str:
    """Return how many measurements were rejected, as text.

    >>> rejections(1), rejections(2)
    ('1 measurement rejected as outlier', '2 measurements rejected as outliers')
    """
    ending = "" if n == 1 else "s"
    return f"{n} measurement{ending} rejected as outlier{ending}"


def _typical(noise_std: Any) -> str:
    """Return a noise level as text: a number, or the median of an array; parts in brackets."""
    if isinstance(noise_std, tuple):
        return f"({', '.join(map(_typical, noise_std))})"
    level = typical_noise_std(noise_std)
    return f"{level:.3g}" if isinstance(noise_std, float) else f"{level:.3g} (median)"
