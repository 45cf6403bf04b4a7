"""`solve`: plug-and-play reconstruction of an image x from measurements y = A x + noise.

    min_x 1/2 ||W^(1/2) (A x - y)||^2 + R(x),    W = 1/noise_std^2,

with R known only by a denoiser D(x, sigma). The iterations are in `solvers`, their x-updates in `data_terms`,
their noise levels in `schedules`; this file chooses what the caller left open, stops, and reports.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint, checkpointed
from .data_terms import LeastSquares
from .interop import as_denoiser, as_operator
from .iterating import is_true, progress_bar
from .kept_state import check_denoiser, end, found, identity, keep
from .noise import estimate_noise_std
from .protocols import BoundDataTerm, DataTerm, Denoiser, Operator
from .schedules import Schedule, coupling, robust_range
from .solvers import ALGORITHMS, State
from .validation import (
    as_bounds,
    as_initial,
    as_levels,
    as_measurements,
    as_weights,
    check_device,
    check_number,
    guard_denoiser,
    short,
)

__all__ = ["Result", "Stop", "estimate_noise_std", "solve"]

FIRST_SIGMA = 0.4
"""First noise level over the robust range of the first estimate."""
ANNEALING = 20
"""Iterations from the first noise level to the last, unless max_iter is less."""
MAX_ITER = 24
RTOL = 1e-3
EXACT = 1e-4
"""Measurements better than this fraction of their root mean square are treated as just as good."""
DIVERGED = 1e6
"""An iterate so many times larger than the first estimate, or than its noise, has diverged."""


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
    """What `solve` returns.

    Attributes:
        x: the reconstruction (B, C, H, W): the last denoised iterate z, within the bounds; numpy where y was.
        n_iter: finished iterations.
        stop: why it ended; `str(result.stop)` is a sentence.
        history: one entry an iteration: "sigma" (units of x), "alpha" (1/units of x squared), "primal" and "dual"
            (relative residuals), "inner" (inner iterations of the x-update, 0 for a closed form).
        noise_std: the noise level used, in units of y, like the argument; None where the data term needs none.
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


@torch.no_grad()
def solve(
    operator: Operator,
    y: Any,
    denoiser: Denoiser,
    *,
    noise_std: Any = None,
    algorithm: str = "admm",
    strength: float = 1.0,
    schedule: Schedule | Callable[[int], float] | Sequence[float] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    data_term: DataTerm | None = None,
    x0: Any = None,
    max_iter: int | None = None,
    rtol: float | None = None,
    callback: Callable[[State], Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
) -> Result:
    """Reconstruct an image from measurements y = A x + noise by plug-and-play ADMM or HQS.

    The images of a batch share one schedule, one stopping rule and, where it is estimated, one noise level; solve
    images of different brightness or noise one by one.

    Args:
        operator: A, with `A(x)` and `A_adjoint(y)`; any deepinv LinearPhysics as it is. It is never changed.
        y: measurements in the layout of `operator.A(x)`, batch first, float32 or float64, a tensor or a numpy
            array: the answer comes back as the same, on the same device. NaN is allowed where noise_std is infinite.
        denoiser: D(x, sigma), sigma the noise's standard deviation in units of x; any deepinv denoiser.
        noise_std: standard deviation of the noise in units of y, a scalar or an array broadcasting to y; infinity
            marks measurements without information. None: `estimate_noise_std(y)`. Values below 1e-4 of the root
            mean square of y are raised to it, so that exact data stay well-posed.
        algorithm: "admm" or "hqs".
        strength: weight of the prior: alpha_k = lambda strength / sigma_k^2, lambda from `schedules.coupling`; more is
            smoother.
        schedule: noise levels sigma_k in units of x: a `Schedule`, a sequence whose last level is held, or a
            function of k = 0, 1, ..., asked for all k < max_iter at once. None: log-spaced over 20 iterations (or
            max_iter, if less) from 0.4 times the first estimate's 1 to 99 % range down to ||A*WA||^(-1/2), at most a
            thousandfold and within `denoiser.sigma_range` where it has one.
        bounds: (low, high) of x, None where open; kept by every iterate z and by the answer.
        data_term: `LeastSquares()` (default), `Poisson(...)` for counts, `ct.Transmission(...)` for counts behind an
            object.
        x0: first estimate (B, C, H, W). None: `operator.fbp(y)` where there is one, else a regularised solution.
        max_iter: at most so many iterations. Default 24.
        rtol: stop once the last noise level is reached and the relative residuals are at most rtol: ||x - z|| (ADMM
            only: HQS keeps a gap) and the change of z. 0: never. Default 1e-3.
        callback: called with each `State`; a true answer stops, an array of several truth values does not.
        checkpoint: a file for the state, written every three minutes, at Ctrl-C and after an error, and removed at the
            end; a `Checkpoint` says otherwise. Where it exists the same call goes on from it, on the same machine to
            the same bits; a callback then sees the iterations that are left. A disk that refuses is a warning.
        progress: show a bar on stderr.

    Returns:
        The last denoised iterate and how it was reached, see `Result`.

    Raises:
        ValueError, TypeError: an argument does not fit, or the denoiser changes shape or returns NaN; the checkpoint
            is another run's, or in use by one.

    >>> from types import SimpleNamespace
    >>> A = SimpleNamespace(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    >>> y = 2 * torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> result = solve(A, y, lambda x, sigma: x, noise_std=0.1)
    >>> result.stop, bool((result.x - y / 2).abs().max() < 1e-2)
    (<Stop.CONVERGED: 'The relative residuals fell below rtol at the last noise level.'>, True)
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"solve: algorithm must be one of {sorted(ALGORITHMS)}, got {short(repr(algorithm), 60)}")
    operator = as_operator(operator)
    D = as_denoiser(denoiser)
    strength = check_number("strength", strength, above=0)
    max_iter = MAX_ITER if max_iter is None else max_iter
    max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True)
    rtol = check_number("rtol", RTOL if rtol is None else rtol, above=0, or_equal=True)
    low, high = as_bounds(bounds)
    if callback is not None and not callable(callback):
        raise TypeError(f"solve: callback must be a function of a State, got {type(callback).__name__}")

    settings = {"y": y, "noise_std": noise_std, "x0": x0, "bounds": (low, high)}
    settings |= {"algorithm": algorithm, "strength": float(strength), "rtol": float(rtol)}
    term = LeastSquares() if data_term is None else data_term
    if not hasattr(term, "bind") or not hasattr(term, "needs_noise_std"):
        known = "LeastSquares(), Poisson() or ct.Transmission()"
        raise TypeError(f"solve: data_term must be {known}, got {short(repr(term), 60)}")
    y, is_numpy = as_measurements(y)
    device = (y if isinstance(y, Tensor) else next(iter(y))).device
    check_device("operator", operator, device)
    check_device("denoiser", denoiser, device)
    y, weights, estimated = _clean_and_weigh(operator, y, noise_std, term)
    h = _bind(term, operator, y, weights)

    z = as_initial(x0, h.back_projection) if x0 is not None else h.initial()
    if not bool(z.isfinite().all()):
        raise ValueError(
            "solve: the first estimate, from the operator and y alone, holds NaN or infinity; check that the operator "
            "is finite and its adjoint right, and the scale of y and noise_std"
        )
    if low is not None or high is not None:
        if z.is_complex():
            raise ValueError(f"solve: bounds must be None for complex images, which have no order, got {(low, high)}")
        z = z.clamp(low, high)
    sigmas, last = as_levels(default_schedule(h, z, D, max_iter) if schedule is None else schedule, max_iter)
    weight = strength * coupling(algorithm, h.evenness())
    levels = [(sigma, weight / sigma**2) for sigma in sigmas]
    # Of max_iter only what the levels know: more iterations are the same run.
    course = f"default over {min(ANNEALING, max_iter)}" if schedule is None else sigmas[: last + 1]
    settings |= {"data_term": term, "schedule": course}
    if checkpoint is not None:
        settings["denoiser"] = identity(denoiser)  # reads all its weights

    # The loop. A generator yields the iterations; here they are only counted, judged and recorded.
    history: dict[str, list[float]] = {name: [] for name in ("sigma", "alpha", "primal", "dual", "inner")}
    limit = DIVERGED * max(_norm(z), (z.numel() / h.curvature()) ** 0.5)
    done: State | None = None
    stop, misfit = Stop.MAX_ITER, None
    denoise = guard_denoiser(D, low, high)
    bar = progress_bar("solve", max_iter) if progress else None
    try:
        with checkpointed(checkpoint, "solve", settings, z, lambda: operator.A(h.back_projection)) as kept:
            done = found(kept, h, history)
            if done is not None:
                z = done.z
                check_denoiser(done, denoise, denoiser)
                if done.k > max_iter:
                    raise ValueError(f"solve: max_iter must be at least the {done.k} iterations of checkpoint")
                if bar is not None:
                    bar.update(done.k)
            if kept.ended not in (None, Stop.MAX_ITER.name):
                stop, levels = Stop[kept.ended], []
            for state in ALGORITHMS[algorithm](h, denoise, z, levels[done.k if done else 0 :], after=done):
                if not _norm(state.x) + _norm(state.z) <= limit:  # NaN fails too
                    stop = Stop.DIVERGED
                    break
                done, z, primal, dual = state, state.z, state.primal, state.dual
                values = (state.sigma, state.alpha, primal, dual, h.inner_iterations)
                for name, value in zip(history, values, strict=True):
                    history[name].append(value)
                keep(kept, state, history)
                if bar is not None:
                    bar.set_postfix_str(f"sigma {state.sigma:.3g}, residuals {primal:.1e} {dual:.1e}", refresh=False)
                    bar.update()
                if callback is not None and is_true(callback(state)):
                    stop = Stop.CALLBACK
                    break
                # While sigma falls the residuals measure the schedule, not convergence; on a plateau, not the last
                # level.
                held = state.k - 1 > last
                if held and rtol > 0 and dual <= rtol and (primal <= rtol or algorithm == "hqs"):
                    stop = Stop.CONVERGED
                    break
            misfit = h.misfit(z)  # while the checkpoint is there
            end(kept, done, history, stop.name)
    except KeyboardInterrupt:
        stop = Stop.INTERRUPTED
    finally:
        if bar is not None:
            bar.close()

    used: Any = None
    if term.needs_noise_std:
        used = float(weights**-0.5) if weights.ndim == 0 else weights**-0.5
    if is_numpy and isinstance(used, Tensor):
        used = used.cpu().numpy()
    misfit = h.misfit(z) if misfit is None else misfit
    return Result(z.numpy() if is_numpy else z, 0 if done is None else done.k, stop, history, used, estimated, misfit)


def _clean_and_weigh(operator: Operator, y: Any, noise_std: Any, term: DataTerm) -> tuple[Any, Tensor, bool]:
    """Return y without NaN, the weights W = 1/noise_std^2, and whether noise_std was estimated."""
    one = torch.ones((), dtype=torch.real(y if isinstance(y, Tensor) else next(iter(y))).dtype)
    if not term.needs_noise_std and noise_std is not None:
        raise ValueError(
            f"solve: noise_std must be None with {type(term).__name__}, which takes the noise from the counts, "
            f"got {short(repr(noise_std), 60)}"
        )
    estimated = noise_std is None and term.needs_noise_std
    weights = None if noise_std is None else as_weights(noise_std, y)
    if isinstance(y, Tensor):
        dead = torch.zeros_like(y, dtype=torch.bool) if weights is None else (weights == 0).expand(y.shape)
        if not bool((y.isfinite() | dead).all()):
            bad = int((~y.isfinite() & ~dead).sum())
            raise ValueError(
                f"solve: y must be finite, got NaN or infinity in {bad} of {y.numel()} measurements; set noise_std to "
                "infinity there to leave them out, or use torch.nan_to_num(y) where the operator drops them"
            )
        y = torch.where(dead, 0, y)
        one = one.to(y.device)
        rms = _norm(y) / max(int((~dead).sum()), 1) ** 0.5
    else:
        rms = 0.0
    if not term.needs_noise_std:
        return y, one, False
    if estimated:
        if not isinstance(y, Tensor):
            raise ValueError("solve: noise_std cannot be estimated from a list of measurements; pass noise_std")
        own = getattr(operator, "estimate_noise", estimate_noise_std)
        weights = as_weights(max(float(own(y)), EXACT * rms), y)
    assert weights is not None
    if rms > 0:
        weights = weights.clamp(max=min((EXACT * rms) ** -2, torch.finfo(weights.dtype).max))
    return y, weights, estimated


def _bind(term: DataTerm, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
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


def default_schedule(h: BoundDataTerm, x: Tensor, denoiser: Denoiser, max_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to ||A*WA||^(-1/2), within the denoiser's range."""
    sigma_min = h.curvature() ** -0.5
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, min(ANNEALING, max_iter))


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.abs().double()))  # float32 has no room for squares of faint images
