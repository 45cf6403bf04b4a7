"""The problem that `solve` iterates on: checked arguments, the bound data term, defaults for what was left open."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import each, per_image
from ..algorithms.iterations import Level, State
from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.protocols import BoundDataTerm, DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule, coupling
from ..checks import check_number
from .arguments import (
    as_bounds,
    as_measurements,
    as_operator,
    as_relaxation,
    as_strength,
    check_device,
)
from .binding import as_data_term, bind
from .common_errors import ErrorEstimate
from .denoiser_verdict import Answer, answers
from .denoising import Denoise, as_denoiser, guard_denoiser
from .levels import (
    ANNEALING,
    Start,
    Tuning,
    first_estimate,
    iteration_of,
    join_levels,
    levels_of_images,
    norms,
)
from .noise_weights import clean_and_weigh
from .outliers import Outliers, Rejection, find_outliers, find_suspects
from .parts import Joined, check_parts, join, noise_used
from .physics_noise import is_sampled
from .result import DECLARED, ESTIMATED, GIVEN, Result, Stop

HISTORY = ("sigma", "alpha", "primal", "dual", "inner")
"""Names in `Result.history`; each holds one entry per iteration."""
RTOL = 1e-3
DIVERGENCE_FACTOR = 1e6
"""An iterate so many times larger than the first estimate, or than its noise, has diverged."""
GROWTH_FACTOR = 2.0
"""One so many times larger is not returned after a divergence."""
WITHOUT_RINGS = 0.5
"""Noise level, over the first one, at which denoising removes rings from the first estimate."""


@dataclass
class Problem:
    """The x-update, the denoiser, the noise levels, and where the iteration stands.

    Attributes:
        operator, denoiser: as given, made callable in one way.
        h: the data term bound to all measurements.
        begin: returns the `Start` of a bound data term for a strength and a number of iterations.
        tuned: strength and number of iterations.
        without_rings: returns a bound data term's own first estimate, denoised until rings are gone; x0 may have none
            of the object, and a schedule may begin at low levels.
        guarded: the denoiser within the bounds, its answers checked.
        robust: whether outliers among the measurements are left out; None: those that stand out.
        estimate: the search for errors that measurements have in common; None where they are given, or none are.
        settings: what must be the same for a checkpoint to be resumed, by name.
        noise_std, noise_source: standard deviation of the noise that is used, and where it is from, as in `Result`.
        adjoint_checked: whether A and A_adjoint passed their check.
        used: the data term of the current solve: h, or h without the measurements that are rejected.
        rejection: the state of the search for outliers; None where none is looked for.
        packed: the mask of the current solve as a checkpoint holds it, once it was written.
        z: the current image: the first estimate, later that of `state`.
        levels: (sigma_k, alpha_k) of all iterations: numbers, or tensors (B,) where the images have their own.
        state: the last finished iteration.
        first_answers: what the denoiser did in the first one; None before, and where a checkpoint has none.
        residuals: its largest relative residuals, primal and dual, among the images that were not finished before.
        finished: for each image the iteration that brought its convergence, 0 before; it keeps its z from then on.
    """

    operator: Operator
    denoiser: Denoiser
    h: BoundDataTerm
    begin: Callable[[BoundDataTerm, Tuning], Start]
    tuned: Tuning
    without_rings: Callable[[BoundDataTerm], Tensor]
    guarded: Denoise
    algorithm: str
    rtol: float
    robust: bool | None
    estimate: ErrorEstimate | None
    settings: dict[str, Any]
    noise_std: Any
    noise_source: str | None
    is_numpy: bool
    adjoint_checked: bool = True
    residuals: tuple[float, float] = (math.inf, math.inf)

    def __post_init__(self) -> None:
        self.start(self.h)
        if self.estimate is not None and isinstance(self.h, LeastSquaresStep):
            self.estimate.begin(self.h, self.without_rings(self.h))
            self.set_errors()
            if self.used is not self.h:
                self.start(self.h)
        self.rejection: Rejection | None = None
        if self.robust is not False:
            suspects = find_suspects(self.h, self.fit()[1], min(self.flatness)) if self.robust else None
            none = torch.zeros(self.h.y.shape, dtype=torch.bool, device=self.z.device)
            self.rejection = Rejection(self.robust, none if suspects is None else suspects)
            self.leave_out()

    def start(self, used: BoundDataTerm) -> None:
        """Start a solve with this data term at its own first estimate and noise levels, whatever was solved before."""
        found = self.begin(used, self.tuned)
        self.used, self.z, self.levels, self.last = used, found.z, found.levels, found.last
        self.scales, self.flatness, self.iteration = found.scales, found.flatness, found.iteration
        self.stops = self.tuned.of_images(len(self.z))[1]
        self.state: State | None = None
        self.calm: Tensor = self.z
        self.first_answers: list[Answer] | None = None
        self.finished = [0] * len(self.z)
        self.packed: str | None = None
        self._misfit: float | None = None
        self._fit: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self._common: tuple[Tensor, Tensor] | None = None
        self._outliers: tuple[Tensor, list[Outliers]] | None = None

    def tune(self, tuned: Tuning) -> None:
        """Start a solve with another strength and number of iterations."""
        self.tuned = tuned
        self.start(self._without_rejected())

    def leave_out(self) -> None:
        """Start a solve without the measurements that are rejected, if there are any."""
        if self.n_rejected or self.used is not self.h:
            self.start(self._without_rejected())

    def _without_rejected(self) -> BoundDataTerm:
        """Return the data term without the measurements that are rejected."""
        return self.h if self.rejection is None or not self.n_rejected else self.h.reject(self.rejection.rejected)

    def again(self) -> bool:
        """Start a solve with another noise model if z calls for one: without outliers, or with larger common errors."""
        if self.estimate is None or not isinstance(self.used, LeastSquaresStep):
            return self.leave_out_outliers()
        if not self.estimate.update(self.used, self.z):
            return self.leave_out_outliers()
        self.set_errors()
        self.leave_out()
        return True

    def set_errors(self) -> None:
        """Take the current estimate of the common errors into the data term; `leave_out` then starts with it."""
        if self.estimate is None or not isinstance(self.h, LeastSquaresStep):
            return
        model = self.estimate.model
        if model.bin_std is not None or model.view_std is not None:
            self.h = self.h.with_errors(model)

    def leave_out_outliers(self) -> bool:
        """Start a solve without the measurements that z contradicts; False where these were left out already.

        After Ctrl-C the image of the last solve is still there, with its mask.
        """
        if self.rejection is None:
            return False
        before, interrupted = self.rejection.rejected.clone(), False
        try:
            self.fit()
        except KeyboardInterrupt:  # of a run that had ended, unless there are outliers
            interrupted = True
        try:
            if not self.rejection.update(self.outliers(), self.fit()[1]):
                return False
            if interrupted:
                raise KeyboardInterrupt
            self.leave_out()
        except KeyboardInterrupt:
            self.rejection.rejected = before
            raise
        except ValueError:  # nothing would be left
            self.rejection.rejected = before
            return False
        return True

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` takes: the image of a finished solve, and how it was reached."""
        held = dict(vars(self))
        return held | {"rejection": copy.deepcopy(self.rejection), "estimate": copy.copy(self.estimate)}

    def restore(self, held: dict[str, Any]) -> None:
        """Return to a finished solve."""
        vars(self).update(held)

    @property
    def rejected(self) -> Tensor | None:
        """Measurements that are left out, a mask like y; None where none is looked for, or found unasked."""
        if self.rejection is None or (self.robust is None and not bool(self.rejection.rejected.any())):
            return None
        return self.rejection.rejected

    @property
    def n_rejected(self) -> int:
        """Number of measurements that the current solve leaves out."""
        return 0 if self.rejection is None else int(self.rejection.rejected.sum())

    def fit(self) -> tuple[Tensor, Tensor]:
        """Return the residuals of z in noise levels, of all measurements, and which count; computed once."""
        if self._fit is None or self._fit[0] is not self.z:
            self._fit = self.z, self.h.residuals(self.z)
        return self._fit[1]

    def outliers(self) -> list[Outliers]:
        """Return which of all measurements z contradicts, for each image; computed once."""
        if self._outliers is None or self._outliers[0] is not self.z:
            suspects = None if self.rejection is None else self.rejection.suspects
            self._outliers = self.z, find_outliers(*self.fit(), suspects)
        return self._outliers[1]

    def iterate(self, after: State | None) -> Iterator[State]:
        """Yield the iterations, from the first estimate or after one of a checkpoint."""
        done = 0 if after is None else after.k
        return self.iteration(self.used, self.denoise, self.z, self.levels[done:], after=after)

    def denoise(self, v: Tensor, sigma: Level) -> Tensor:
        """Return D(v, sigma), and for images that have finished their last z."""
        z = self.guarded(v, sigma)
        held = [k > 0 for k in self.finished]
        return torch.where(per_image(torch.tensor(held), z) > 0, self.z, z) if any(held) else z

    def accept(self, state: State) -> bool:
        """Take over an iteration and note which images it finished; refuse one that has diverged, NaN included."""
        sizes = list(zip(state.norms, self.scales, strict=True))
        if not all(image.x + image.z <= DIVERGENCE_FACTOR * scale for image, scale in sizes):
            return False
        self.state, self.z = state, state.z
        if state.k == 1:
            self.first_answers = answers(state, self.algorithm, self.settings["bounds"])
        if all(image.z <= GROWTH_FACTOR * scale for image, scale in sizes):
            self.calm = state.z
        running = {b: residuals for b, residuals in enumerate(state.residuals) if self.finished[b] == 0}
        primal, dual = zip(*running.values(), strict=True)
        self.residuals = max(primal), max(dual)
        for b, residuals in running.items():
            held, stops = state.k - 1 > self.last[b], self.stops[b] == state.k < len(self.levels)
            if stops or has_converged(self.algorithm, self.rtol, held, *residuals):
                self.finished[b] = state.k
        return True

    @property
    def converged(self) -> bool:
        """Whether every image has converged: an iteration moved it by at most rtol."""
        return all(k > 0 for k in self.finished)

    def common_errors(self) -> Tensor | None:
        """Return the errors that measurements have in common, of the shape of y; None where none are modelled.

        They are computed once for an image.
        """
        if not isinstance(self.used, LeastSquaresStep) or self.used.errors is None:
            return None
        if self._common is None or self._common[0] is not self.z:
            self._common = self.z, self.used.errors.found(self.used.y - self.operator.A(self.z))
        return self._common[1]

    def misfit(self) -> float:
        """Misfit of z per measurement that was not rejected, computed once."""
        if self._misfit is None and isinstance(self.h, LeastSquaresStep):  # its misfit is that of its residuals
            r, counted = self.fit()
            kept = counted if self.rejected is None else counted & ~self.rejected
            self._misfit = float((r.abs()[kept] ** 2).mean())
        elif self._misfit is None:
            self._misfit = self.used.misfit(self.z)
        return self._misfit

    def measured(self) -> Any:
        """Return the operator's measurements of an image that y determines: they identify the operator."""
        return self.operator.A(self.h.back_projection)

    def step_back(self) -> None:
        """Return to the last image before the iterates grew."""
        self.z, self._misfit = self.calm, None

    def result(self, stop: Stop, history: dict[str, list[float]], warnings: tuple[str, ...]) -> Result:
        """Return the image and how it was reached."""
        x: Any = self.z.cpu().numpy() if self.is_numpy else self.z
        rejected: Any = self.rejected
        if self.is_numpy and rejected is not None:
            rejected = rejected.cpu().numpy()
        if isinstance(self.operator, Joined) and rejected is not None:
            rejected = self.operator.split(rejected)
        errors: Any = self.common_errors()
        if self.is_numpy and errors is not None:
            errors = errors.cpu().numpy()
        return Result(
            x=x,
            n_iter=0 if self.state is None else self.state.k,
            stop=stop,
            history=history,
            noise_std=self.noise_std,
            noise_source=self.noise_source,
            misfit=self.misfit(),
            warnings=warnings,
            rejected=rejected,
            common_errors=errors,
            **self.tuned.report,
        )


def prepare(
    operator: Any,
    y: Any,
    denoiser: Any,
    *,
    noise_std: Any,
    algorithm: str,
    relaxation: float | None,
    strength: float | str,
    schedule: Schedule | Callable[[int], float] | Sequence[float] | None,
    bounds: Any,
    data_term: DataTerm | None,
    x0: Any,
    max_iter: int,
    rtol: float,
    check_adjoint: bool,
) -> Problem:
    """Check the arguments of `solve`, and choose what they leave open; arguments and errors are those of `solve`."""
    rho = as_relaxation(algorithm, relaxation)
    operator, D, term = as_operator(operator), as_denoiser(denoiser), as_data_term(data_term)
    number, rtol = as_strength(strength), check_number("rtol", rtol, above=0, or_equal=True)
    low, high = as_bounds(bounds)
    settings = {"y": y, "noise_std": noise_std, "x0": x0, "bounds": (low, high)}
    settings |= {"algorithm": algorithm, "relaxation": rho, "strength": number or "auto"}
    settings |= {"rtol": float(rtol), "data_term": term}

    y, is_numpy = as_measurements(y)
    operator, y, weights, estimated = _weighed(operator, y, denoiser, noise_std, term)
    source = ESTIMATED if estimated else GIVEN if noise_std is not None else DECLARED
    if source == DECLARED and term.needs_noise_std:  # the physics' own, which may change
        settings["noise_std"] = weights
    h = bind(term, operator, y, weights, check_adjoint)
    guarded = guard_denoiser(D, low, high)

    def without_rings(h: BoundDataTerm) -> Tensor:
        z = first_estimate(h, None, low, high)
        found = levels_of_images(
            None, algorithm, each(h.curvature(), len(z)), [1.0] * len(z), z, D, [max_iter] * len(z)
        )
        return guarded(z, join_levels([s for s, _ in found], [1.0] * len(z))[0][0] * WITHOUT_RINGS)

    def begin(h: BoundDataTerm, tuned: Tuning) -> Start:
        z = first_estimate(h, x0, low, high)
        curvatures, flatness = (each(value, len(z)) for value in (h.curvature(), h.spectral_flatness()))
        strengths, n_iters = tuned.of_images(len(z))
        found = levels_of_images(schedule, algorithm, curvatures, flatness, z, D, n_iters)
        # Of max_iter only what the levels need: more iterations are the same run.
        usual = None if schedule is not None else f"default over {min(ANNEALING[algorithm], max_iter)}"
        settings["schedule"] = usual or found[0][0][: found[0][1] + 1]
        couplings = [s * coupling(algorithm, e) for s, e in zip(strengths, flatness, strict=True)]
        levels = join_levels([s for s, _ in found], couplings)
        scales = [max(n, (z[0].numel() / c) ** 0.5) for n, c in zip(norms(z), curvatures, strict=True)]
        last = [last for _, last in found]
        return Start(z, levels, last, scales, flatness, iteration_of(algorithm, rho, h, len(z)))

    parts = operator.part_weights if isinstance(operator, Joined) else weights
    return Problem(
        operator=operator,
        denoiser=denoiser,
        h=h,
        begin=begin,
        tuned=Tuning((1.0 if number is None else number,), (max_iter,)),
        without_rings=without_rings,
        guarded=guarded,
        algorithm=algorithm,
        rtol=rtol,
        robust=_as_robust(term, operator),
        estimate=_as_estimate(term),
        settings=settings,
        noise_std=noise_used(parts, is_numpy) if term.needs_noise_std else None,
        noise_source=source if term.needs_noise_std else None,
        is_numpy=is_numpy,
        adjoint_checked=check_adjoint,
    )


def _weighed(
    operator: Operator, y: Any, denoiser: Denoiser, noise_std: Any, term: DataTerm
) -> tuple[Operator, Any, Any, Any]:
    """Return operator and y, those of a stack joined, the weights, and what of the noise was estimated."""
    device = (y if isinstance(y, Tensor) else next(iter(y))).device
    check_device("operator", operator, device)
    check_device("denoiser", denoiser, device)
    if not isinstance(y, Tensor):
        return join(operator, y, noise_std, term)
    check_parts(operator, y)
    return operator, *clean_and_weigh(operator, y, noise_std, term)


def _as_robust(term: DataTerm, operator: Operator) -> bool | None:
    """Return the term's `robust`; unasked, outliers are looked for in images and sinograms alone.

    Elsewhere single measurements may determine x, as low frequencies do in k-space, and differ from all others.
    """
    robust: bool | None = getattr(term, "robust", False)
    return False if robust is None and not is_sampled(operator) else robust


def _as_estimate(term: DataTerm) -> ErrorEstimate | None:
    """Return the search for common errors that the term asks for."""
    wanted = [isinstance(getattr(term, name, None), str) for name in ("bin_std", "view_std")]
    return ErrorEstimate(*wanted) if any(wanted) else None


def has_converged(algorithm: str, rtol: float, held: bool, primal: float, dual: float) -> bool:
    """Whether the relative residuals are at most rtol.

    Args:
        algorithm: HQS keeps a gap between x and z: only the change of z counts.
        rtol: 0: never.
        held: whether the noise level was the last one before, too: while it falls the residuals measure the schedule.
        primal, dual: relative residuals.
    """
    return held and rtol > 0 and dual <= rtol and (primal <= rtol or algorithm == "hqs")
