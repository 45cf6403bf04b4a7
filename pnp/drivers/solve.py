"""`solve`: plug-and-play reconstruction of an image x from measurements y = A x + noise.

    min_x 1/2 ||W^(1/2) (A x - y)||^2 + R(x),    W = 1/noise_std^2,

with R known only by a denoiser D(x, sigma). The iterations are in `solvers`, their x-updates in `data_terms`,
their noise levels in `schedules`; this file chooses what the caller left open, stops, and reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algorithms.iterations import ALGORITHMS, State
from ..algorithms.least_squares import LeastSquares
from ..algorithms.noise_estimate import estimate_noise_std
from ..algorithms.protocols import DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule, coupling
from ..checks import check_number, short
from .arguments import (
    as_bounds,
    as_denoiser,
    as_initial,
    as_levels,
    as_measurements,
    as_operator,
    check_device,
    guard_denoiser,
)
from .checkpoint import Checkpoint, checkpointed
from .parts import Joined, join, noise_used
from .problem import ANNEALING, DIVERGED, MAX_ITER, RTOL, _bind, _clean_and_weigh, _norm, default_schedule
from .progress import is_true, progress_bar
from .result import Result, Stop
from .solver_state import check_denoiser, end, found, identity, keep

__all__ = ["estimate_noise_std", "solve"]


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
            For `operators.stack` a tuple or list of them.
        denoiser: D(x, sigma), sigma the noise's standard deviation in units of x; any deepinv denoiser.
        noise_std: standard deviation of the noise in units of y, a scalar or an array broadcasting to y; infinity
            marks measurements without information. None: `estimate_noise_std(y)`. Values below 1e-4 of the root
            mean square of y are raised to it, so that exact data stay well-posed. For a stack, one for all parts, or a
            tuple or list with one for each part of y.
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
    if isinstance(y, Tensor):
        y, weights, estimated = _clean_and_weigh(operator, y, noise_std, term)
    else:
        operator, y, weights, estimated = join(operator, y, noise_std, term)
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

    used = noise_used(operator.part_weights if isinstance(operator, Joined) else weights, is_numpy)
    used = used if term.needs_noise_std else None
    misfit = h.misfit(z) if misfit is None else misfit
    return Result(z.numpy() if is_numpy else z, 0 if done is None else done.k, stop, history, used, estimated, misfit)
