"""The problem that `solve` iterates on: checked arguments, the bound data term, defaults for what was left open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.iterations import ALGORITHMS, State
from ..algorithms.least_squares import LeastSquares
from ..algorithms.protocols import BoundDataTerm, DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule, coupling, robust_range
from ..checks import check_number, short
from .arguments import (
    as_bounds,
    as_initial,
    as_levels,
    as_measurements,
    as_operator,
    check_device,
)
from .denoising import as_denoiser, guard_denoiser
from .noise_weights import clean_and_weigh, norm
from .parts import Joined, check_parts, join, noise_used
from .result import Result, Stop

HISTORY = ("sigma", "alpha", "primal", "dual", "inner")
"""Names in `Result.history`; each holds one entry per iteration."""
FIRST_SIGMA = 0.4
"""First noise level over the robust range of the first estimate."""
ANNEALING = 20
"""Iterations from the first noise level to the last, unless max_iter is less."""
MAX_ITER = 24
RTOL = 1e-3
DIVERGENCE_FACTOR = 1e6
"""An iterate so many times larger than the first estimate, or than its noise, has diverged."""


@dataclass
class Problem:
    """The x-update h, the denoiser, the noise levels, and where the iteration stands.

    Attributes:
        operator, denoiser: as given, made callable in one way.
        h: the bound data term.
        denoise: the denoiser within the bounds, its answers checked.
        z: the current image: the first estimate, later that of `state`.
        levels: (sigma_k, alpha_k) of all iterations.
        last: the k from which on sigma_k is the last level.
        limit: norm beyond which an iterate has diverged.
        settings: what must be the same for a checkpoint to be resumed, by name.
        noise_std: standard deviation of the noise that is used, as `Result.noise_std`.
        state: the last finished iteration.
    """

    operator: Operator
    denoiser: Denoiser
    h: BoundDataTerm
    denoise: Callable[[Tensor, float], Tensor]
    z: Tensor
    algorithm: str
    levels: list[tuple[float, float]]
    last: int
    rtol: float
    limit: float
    settings: dict[str, Any]
    noise_std: Any
    noise_estimated: bool
    is_numpy: bool
    state: State | None = None
    _misfit: float | None = None

    def iterate(self, after: State | None) -> Iterator[State]:
        """Yield the iterations, from the first estimate or after one of a checkpoint."""
        done = 0 if after is None else after.k
        return ALGORITHMS[self.algorithm](self.h, self.denoise, self.z, self.levels[done:], after=after)

    def accept(self, state: State) -> bool:
        """Take over an iteration; refuse one that has diverged, NaN included."""
        if not norm(state.x) + norm(state.z) <= self.limit:
            return False
        self.state, self.z = state, state.z
        return True

    def converged(self, k: int, primal: float, dual: float) -> bool:
        """Whether iteration k, counted from 1, moved the image by at most rtol."""
        return has_converged(self.algorithm, self.rtol, k - 1 > self.last, primal, dual)

    def misfit(self) -> float:
        """||W^(1/2) (A z - y)||^2 per measurement, computed once."""
        if self._misfit is None:
            self._misfit = self.h.misfit(self.z)
        return self._misfit

    def measured(self) -> Any:
        """Return the operator's measurements of an image that y determines: they identify the operator."""
        return self.operator.A(self.h.back_projection)

    def result(self, stop: Stop, history: dict[str, list[float]]) -> Result:
        """Return the image and how it was reached."""
        x: Any = self.z.numpy() if self.is_numpy else self.z
        n_iter = 0 if self.state is None else self.state.k
        return Result(x, n_iter, stop, history, self.noise_std, self.noise_estimated, self.misfit())


def prepare(
    operator: Any,
    y: Any,
    denoiser: Any,
    *,
    noise_std: Any,
    algorithm: str,
    strength: float,
    schedule: Schedule | Callable[[int], float] | Sequence[float] | None,
    bounds: Any,
    data_term: DataTerm | None,
    x0: Any,
    max_iter: int,
    rtol: float,
) -> Problem:
    """Check the arguments of `solve`, and choose what they leave open; arguments and errors are those of `solve`."""
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"solve: algorithm must be one of {sorted(ALGORITHMS)}, got {short(repr(algorithm), 60)}")
    operator, D, term = as_operator(operator), as_denoiser(denoiser), as_data_term(data_term)
    strength = check_number("strength", strength, above=0)
    rtol = check_number("rtol", rtol, above=0, or_equal=True)
    low, high = as_bounds(bounds)
    settings = {"y": y, "noise_std": noise_std, "x0": x0, "bounds": (low, high)}
    settings |= {"algorithm": algorithm, "strength": float(strength), "rtol": float(rtol), "data_term": term}

    y, is_numpy = as_measurements(y)
    device = (y if isinstance(y, Tensor) else next(iter(y))).device
    check_device("operator", operator, device)
    check_device("denoiser", denoiser, device)
    if isinstance(y, Tensor):
        check_parts(operator, y)
        y, weights, estimated = clean_and_weigh(operator, y, noise_std, term)
    else:
        operator, y, weights, estimated = join(operator, y, noise_std, term)
    h = bind(term, operator, y, weights)
    z = first_estimate(h, x0, low, high)

    levels = default_schedule(h, z, D, max_iter) if schedule is None else schedule
    sigmas, last = as_levels(levels, max_iter)
    weight = strength * coupling(algorithm, h.spectral_flatness())
    # Of max_iter only what the levels need: more iterations are the same run.
    settings["schedule"] = f"default over {min(ANNEALING, max_iter)}" if schedule is None else sigmas[: last + 1]
    parts = operator.part_weights if isinstance(operator, Joined) else weights
    return Problem(
        operator=operator,
        denoiser=denoiser,
        h=h,
        denoise=guard_denoiser(D, low, high),
        z=z,
        algorithm=algorithm,
        levels=[(sigma, weight / sigma**2) for sigma in sigmas],
        last=last,
        rtol=rtol,
        limit=DIVERGENCE_FACTOR * max(norm(z), (z.numel() / h.curvature()) ** 0.5),
        settings=settings,
        noise_std=noise_used(parts, is_numpy) if term.needs_noise_std else None,
        noise_estimated=estimated,
        is_numpy=is_numpy,
    )


def has_converged(algorithm: str, rtol: float, held: bool, primal: float, dual: float) -> bool:
    """Whether the relative residuals are at most rtol.

    Args:
        algorithm: HQS keeps a gap between x and z: only the change of z counts.
        rtol: 0: never.
        held: whether the noise level was the last one before, too: while it falls the residuals measure the schedule.
        primal, dual: relative residuals.
    """
    return held and rtol > 0 and dual <= rtol and (primal <= rtol or algorithm == "hqs")


def as_data_term(data_term: Any) -> DataTerm:
    """Return the data term, least squares where none is given."""
    term = LeastSquares() if data_term is None else data_term
    if not hasattr(term, "bind") or not hasattr(term, "needs_noise_std"):
        known = "LeastSquares(), Poisson() or ct.Transmission()"
        raise TypeError(f"solve: data_term must be {known}, got {short(repr(term), 60)}")
    return term  # type: ignore[no-any-return]


def first_estimate(h: BoundDataTerm, x0: Any, low: float | None, high: float | None) -> Tensor:
    """Return x0, or the data term's own first estimate, within the bounds."""
    z = as_initial(x0, h.back_projection) if x0 is not None else h.initial()
    if not bool(z.isfinite().all()):
        raise ValueError(
            "solve: the first estimate, from the operator and y alone, holds NaN or infinity; check that the operator "
            "is finite and its adjoint right, and the scale of y and noise_std"
        )
    if low is None and high is None:
        return z
    if z.is_complex():
        raise ValueError(f"solve: bounds must be None for complex images, which have no order, got {(low, high)}")
    return z.clamp(low, high)


def bind(term: DataTerm, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
    """Bind the data term and check that the operator and y belong together, shape and scale."""
    shape = f"of shape {tuple(y.shape)} " if isinstance(y, Tensor) else ""
    try:
        h = term.bind(operator, y, weights)
        again = operator.A(h.back_projection)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a foreign operator raises for measurements that are not its own
        if isinstance(error, (ValueError, TypeError)) and len(str(error)) < 400 and "\n" not in str(error):
            raise
        if (own := _dtype_that_works(operator, y)) is not None:
            raise TypeError(
                f"solve: y is {y.dtype}, and the operator computes in {own}: {short(error, 120)}; use "
                f"operator.to({y.real.dtype}) if it is a module, or y in {own}"
            ) from error
        raise ValueError(
            f"solve: y {shape}does not fit the operator, whose A_adjoint(y) failed: {short(error)}; "
            "y must look like operator.A(x), batch first"
        ) from error
    if isinstance(y, Tensor) and not isinstance(again, Tensor):
        raise TypeError(f"solve: operator.A must return a torch.Tensor as y is, got {type(again).__name__}")
    if isinstance(y, Tensor) and again.shape != y.shape:
        raise ValueError(
            f"solve: y must have the shape of operator.A(x), {tuple(again.shape)} for images "
            f"{tuple(h.back_projection.shape)}, got {tuple(y.shape)}; images are (B, C, H, W), e.g. y[None, None]"
        )
    if not h.curvature() > 0:
        raise ValueError("solve: the operator measures nothing, A*A x vanishes; check its mask or kernel")
    return h


def _dtype_that_works(operator: Operator, y: Any) -> torch.dtype | None:
    """Return the other precision if the operator, which failed for y, works in it; None otherwise."""
    if not isinstance(y, Tensor):
        return None
    real = torch.float32 if y.real.dtype == torch.float64 else torch.float64
    other = y.to(real.to_complex() if y.is_complex() else real)
    try:
        again = operator.A(operator.A_adjoint(other))
    except Exception:  # so it is not the precision
        return None
    return other.dtype if isinstance(again, Tensor) and again.shape == y.shape else None


def default_schedule(h: BoundDataTerm, x: Tensor, denoiser: Denoiser, max_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to ||A*WA||^(-1/2), within the denoiser's range."""
    sigma_min = h.curvature() ** -0.5
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, min(ANNEALING, max_iter))
