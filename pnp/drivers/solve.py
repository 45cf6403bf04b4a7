"""`solve`: plug-and-play reconstruction of an image x from measurements y = A x + noise.

    min_x 1/2 ||W^(1/2) (A x - y)||^2 + R(x),    W = 1/noise_std^2,

with R known only by a denoiser D(x, sigma). The iterations are in `algorithms.iterations`, their x-updates in
`algorithms.least_squares` and `algorithms.poisson`, their noise levels in `algorithms.schedules`; `problem` prepares
what they need and chooses what the caller left open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ..algorithms.iterations import State
from ..algorithms.protocols import DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule
from ..checks import check_number
from .checkpoint import Checkpoint, RunState, checkpointed
from .held_out import as_held_out
from .levels import MAX_ITER, Tuning
from .monitor import Monitor, as_text
from .problem import HISTORY, RTOL, Problem, prepare
from .result import Result, Stop
from .result_warning import warn_of
from .solver_state import denoiser_fingerprint, restore_state, save_final, save_state
from .strength_trials import choose
from .verdict import judge


@torch.no_grad()
def solve(
    operator: Operator,
    y: Any,
    denoiser: Denoiser,
    *,
    noise_std: Any = None,
    algorithm: str = "admm",
    relaxation: float | None = None,
    strength: float | str = 1.0,
    schedule: Schedule | Callable[[int], float] | Sequence[float] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    data_term: DataTerm | None = None,
    x0: Any = None,
    max_iter: int | None = None,
    rtol: float | None = None,
    held_out: str | None = None,
    check_adjoint: bool = True,
    callback: Callable[[State], Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
) -> Result:
    """Reconstruct an image from measurements y = A x + noise by plug-and-play ADMM or HQS.

    Each image of a batch gets what it would get alone: its own first and last noise level, coupling and stopping; one
    that has converged keeps its z, and the run ends when all have. A `schedule` that is given is shared.

    Args:
        operator: A, with `A(x)` and `A_adjoint(y)`; any deepinv LinearPhysics as it is. It is never changed.
        y: measurements in the layout of `operator.A(x)`, batch first, float32 or float64, a tensor or a numpy
            array: the answer comes back as the same, on the same device. NaN is allowed where noise_std is infinite.
            For `operators.stack` a tuple or list of them.
        denoiser: D(x, sigma), sigma the noise's standard deviation in units of x; any deepinv denoiser.
        noise_std: standard deviation of the noise in units of y, a scalar, one number an image (B,), or an array
            broadcasting to y; infinity marks measurements without information. For a stack, one for all parts, or a
            tuple, list or 1-D array with one for each part of y. None: sigma of deepinv's `GaussianNoise` where the
            operator has one as `noise_model`, else `estimate_noise_std(y)` image by image, where neighbours in y are
            neighbours in an image or a sinogram (`y_is_sampled`). Values below 1e-4 of the root mean square of an
            image's measurements are raised to it, so that exact data stay well-posed.
        algorithm: "admm" or "hqs".
        relaxation: rho of ADMM, above 0 and below 2 (see `algorithms.iterations`); 1 is ADMM as most papers have it.
            Default: 1.7 where the measurements determine little of x, down to 1 (see `schedules.relaxation`).
        strength: weight of the prior: alpha_k = lambda strength / sigma_k^2, lambda from `schedules.coupling`; more is
            smoother. "auto": measurements that are held out choose it, for each image; x is then solved for with all
            measurements. That takes two to three times as many calls of the denoiser, five behind masks, see
            `pnp.drivers.held_out`; `Result.strength_source` says what was held out, or why the default, 1, was taken.
        schedule: noise levels sigma_k in units of x: a `Schedule`, a sequence whose last level is held, or a
            function of k = 0, 1, ..., asked for all k < max_iter at once. None: log-spaced over 12 iterations, 20 for
            HQS (or max_iter, if less), from 0.4 times the first estimate's 1 to 99 % range down to ||A*WA||^(-1/2),
            for ADMM up to 1.5 times that where A*WA falls off (`schedules.last_level`), at most a thousandfold and
            within `denoiser.sigma_range` where it has one.
        bounds: (low, high) of x, None where open; kept by every iterate z and by the answer.
        data_term: `LeastSquares()` (default), `Poisson(...)` for counts, `ct.Transmission(...)` for counts behind an
            object. Outliers among the measurements that stand out are left out and x is solved for again, for counts
            where the term has robust=True: `Result.rejected`. A callback then sees k = 1, 2, ... once more.
        x0: first estimate (B, C, H, W). None: `operator.fbp(y)` where there is one, else a regularised solution.
        max_iter: at most so many iterations. Default 12, for HQS 24.
        rtol: stop once the last noise level is reached and the relative residuals are at most rtol: ||x - z|| (ADMM
            only: HQS keeps a gap) and the change of z. 0: never. Default 1e-3.
        held_out: what strength="auto" holds out: whole "views" (the default for scans of 20 views or more), "blocks" of
            4 x 4 measurements (for images), single "measurements" (elsewhere), or "thinning" of counts (for `Poisson`,
            if they are whole). "sure": nothing,
            Stein's estimate by one random probe says what is predicted of A x, in two solves for each strength; behind
            masks single pixels are held out, too, which is the default there.
        check_adjoint: check A_adjoint, and that A is linear, on one random pair: one application of each.
        callback: called with each `State`; a true answer stops, an array of several truth values does not. Solves
            without what "auto" holds out do not call it.
        checkpoint: a file for the state, written every three minutes, at Ctrl-C and after an error, and removed at the
            end. If it exists, the same call resumes from it, bit for bit on the same machine, with the strength that
            "auto" had chosen; a callback then sees the remaining iterations. Pass a `Checkpoint` to change the
            interval. Failed writes are warnings.
        progress: show a bar on stderr.

    Returns:
        The last denoised iterate and how it was reached, see `Result`. Its `warnings` say what looks wrong, with
        likely cause and remedy: x that does not explain y or follows its noise, outliers, an iteration that has not
        converged or diverged; `str(result)` is a summary.

    Warns:
        ResultWarning: all of them in one warning.
        UserWarning: A_adjoint is a little off, the operator's A_adjoint_A is not A*A, or a checkpoint was not written.

    Raises:
        ValueError, TypeError: an argument does not fit, or the denoiser changes shape or returns NaN; the checkpoint
            is another run's, or in use by one.

    >>> from types import SimpleNamespace
    >>> A = SimpleNamespace(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    >>> y = 2 * torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> result = solve(A, y, lambda x, sigma: x, noise_std=0.1)
    >>> result.stop, bool((result.x - y / 2).abs().max() < 1e-2)
    (<Stop.MAX_ITER: 'The iterations ran to max_iter.'>, True)
    """
    max_iter = check_number(
        "max_iter",
        MAX_ITER.get(str(algorithm), 1) if max_iter is None else max_iter,
        above=1,
        integer=True,
        or_equal=True,
    )
    how = as_held_out(held_out, strength)
    monitor = Monitor("solve", max_iter, HISTORY, callback=callback, progress=progress)
    problem = prepare(
        operator,
        y,
        denoiser,
        noise_std=noise_std,
        algorithm=algorithm,
        relaxation=relaxation,
        strength=strength,
        schedule=schedule,
        bounds=bounds,
        data_term=data_term,
        x0=x0,
        max_iter=max_iter,
        rtol=RTOL if rtol is None else rtol,
        check_adjoint=check_adjoint,
    )

    def settings() -> dict[str, Any]:
        held = {"held_out": how} if isinstance(strength, str) else {}
        return problem.settings | held | {"denoiser": denoiser_fingerprint(denoiser)}

    def chosen() -> Tuning:
        return choose(problem, how, max_iter, short=schedule is None, progress=progress)

    with checkpointed(checkpoint, "solve", settings, problem.z, problem.measured) as kept:
        if isinstance(strength, str):
            _tune(problem, kept, chosen)
        _iterate(problem, monitor, kept)
        while monitor.stop in (Stop.CONVERGED, Stop.MAX_ITER):
            finished = problem.snapshot()
            if not _again(problem, monitor, finished, chosen if isinstance(strength, str) else None):
                break
            history = monitor.restart()
            kept.restart()
            if _iterate(problem, monitor, kept) is Stop.INTERRUPTED:  # the image of the solve before is the better one
                problem.restore(finished)
                monitor.history.update(history)
        if monitor.stop is not Stop.INTERRUPTED:
            with suppress(KeyboardInterrupt):  # it is then computed once more below
                problem.misfit()  # while the checkpoint is there
            save_final(kept, problem, monitor)
    try:
        said = judge(problem, monitor.stop)
    except KeyboardInterrupt:  # the image is there
        said = ("Ctrl-C came before x was judged",)
    result = problem.result(monitor.stop, monitor.history, said)
    warn_of("solve", result.warnings)
    return result


def _tune(problem: Problem, kept: RunState, chosen: Callable[[], Tuning]) -> None:
    """Start with the strength and the number of iterations of the checkpoint, or choose them.

    Where common errors are to be estimated, they are estimated with the default before.
    """
    if (held := kept.numbers.get("tuned")) is not None:
        problem.tune(Tuning.of_numbers(held))
    elif problem.estimate is None:
        problem.tune(chosen())


def _tune_again(problem: Problem, chosen: Callable[[], Tuning]) -> bool:
    """Choose once more where the noise model is another one than that of the choice; return whether a solve begins."""
    tuned = problem.tuned
    if tuned.final or (problem.estimate is None and tuned.n_rejected == problem.n_rejected):
        return False
    problem.tune(replace(chosen(), final=True))
    return True


def _again(problem: Problem, monitor: Monitor, finished: dict[str, Any], chosen: Callable[[], Tuning] | None) -> bool:
    """Return whether a solve with another noise model, or another strength for it, begins.

    Ctrl-C then ends the run, and its checkpoint stays.
    """
    try:
        if not problem.tuned.final and problem.again():
            return True
        return chosen is not None and _tune_again(problem, chosen)
    except KeyboardInterrupt:  # the next solve may have begun, and the image be its first estimate
        problem.restore(finished)
        monitor.stop = Stop.INTERRUPTED
        return False


def _iterate(problem: Problem, monitor: Monitor, kept: RunState) -> Stop:
    """Run the iterations, record them, and return why they stop: they diverge, converge, or the callback asks to."""
    states = problem.iterate(after=restore_state(kept, problem, monitor))
    with monitor:
        for state in states:
            if not problem.accept(state):
                monitor.stop = Stop.DIVERGED
                problem.step_back()
                break
            primal, dual = problem.residuals
            monitor.record(state.sigma, state.alpha, primal, dual, problem.used.inner_iterations)
            save_state(kept, problem, monitor)
            monitor.show(f"sigma {as_text(state.sigma)}, residuals {primal:.1e} {dual:.1e}")
            if monitor.asks_to_stop(state):
                break
            if problem.converged:
                monitor.stop = Stop.CONVERGED
                break
        monitor.finish()
    return monitor.stop
