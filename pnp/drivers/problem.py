"""The problem that `solve` iterates on: checked arguments, the bound data term, defaults for what was left open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..algorithms.iterations import ALGORITHMS, Level, State
from ..algorithms.least_squares import LeastSquares
from ..algorithms.linalg import each, images, per_image
from ..algorithms.protocols import BoundDataTerm, DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule, coupling, robust_range
from ..checks import check_number, short
from .adjoint_check import check_adjoint as check_adjoint_of
from .adjoint_check import shortcut_fits
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
from .matrices import FunctionOperator
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
        guarded: the denoiser within the bounds, its answers checked.
        z: the current image: the first estimate, later that of `state`.
        levels: (sigma_k, alpha_k) of all iterations: numbers, or tensors (B,) where the images have their own.
        last: for each image the k from which on sigma_k is the last level.
        limits: for each image the norm beyond which an iterate has diverged.
        settings: what must be the same for a checkpoint to be resumed, by name.
        noise_std: standard deviation of the noise that is used, as `Result.noise_std`.
        state: the last finished iteration.
        residuals: its largest relative residuals, primal and dual, among the images that were not finished before.
        finished: for each image the iteration that brought its convergence, 0 before; it keeps its z from then on.
    """

    operator: Operator
    denoiser: Denoiser
    h: BoundDataTerm
    guarded: Callable[[Tensor, float], Tensor]
    z: Tensor
    algorithm: str
    levels: list[tuple[Level, Level]]
    last: list[int]
    rtol: float
    limits: list[float]
    settings: dict[str, Any]
    noise_std: Any
    noise_estimated: bool
    is_numpy: bool
    state: State | None = None
    residuals: tuple[float, float] = (math.inf, math.inf)
    finished: list[int] = field(default_factory=list)
    _misfit: float | None = None

    def __post_init__(self) -> None:
        self.finished = [0] * len(self.z)

    def iterate(self, after: State | None) -> Iterator[State]:
        """Yield the iterations, from the first estimate or after one of a checkpoint."""
        done = 0 if after is None else after.k
        return ALGORITHMS[self.algorithm](self.h, self.denoise, self.z, self.levels[done:], after=after)

    def denoise(self, v: Tensor, sigma: Level) -> Tensor:
        """Return D(v, sigma), and for images that have finished their last z."""
        z = denoise_each(self.guarded, v, sigma)
        held = [k > 0 for k in self.finished]
        return torch.where(per_image(torch.tensor(held), z) > 0, self.z, z) if any(held) else z

    def accept(self, state: State) -> bool:
        """Take over an iteration and note which images it finished; refuse one that has diverged, NaN included."""
        if not all(a + b <= limit for a, b, limit in zip(norms(state.x), norms(state.z), self.limits, strict=True)):
            return False
        self.state, self.z = state, state.z
        running = {b: residuals for b, residuals in enumerate(state.residuals) if self.finished[b] == 0}
        primal, dual = zip(*running.values(), strict=True)
        self.residuals = max(primal), max(dual)
        for b, residuals in running.items():
            if has_converged(self.algorithm, self.rtol, state.k - 1 > self.last[b], *residuals):
                self.finished[b] = state.k
        return True

    @property
    def converged(self) -> bool:
        """Whether every image has converged: an iteration moved it by at most rtol."""
        return all(k > 0 for k in self.finished)

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
    check_adjoint: bool,
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
    h = bind(term, operator, y, weights, check_adjoint)
    z = first_estimate(h, x0, low, high)

    curvatures, flatness = (each(value, len(z)) for value in (h.curvature(), h.spectral_flatness()))
    found = levels_of_images(schedule, curvatures, z, D, max_iter)
    sigmas, last = found[0]
    # Of max_iter only what the levels need: more iterations are the same run.
    settings["schedule"] = f"default over {min(ANNEALING, max_iter)}" if schedule is None else sigmas[: last + 1]
    parts = operator.part_weights if isinstance(operator, Joined) else weights
    return Problem(
        operator=operator,
        denoiser=denoiser,
        h=h,
        guarded=guard_denoiser(D, low, high),
        z=z,
        algorithm=algorithm,
        levels=join_levels([s for s, _ in found], [strength * coupling(algorithm, e) for e in flatness]),
        last=[last for _, last in found],
        rtol=rtol,
        limits=[
            DIVERGENCE_FACTOR * max(n, (z[0].numel() / c) ** 0.5) for n, c in zip(norms(z), curvatures, strict=True)
        ],
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


def bind(term: DataTerm, operator: Operator, y: Any, weights: Tensor, check_adjoint: bool = True) -> BoundDataTerm:
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
    own_weights = images(weights) if isinstance(y, Tensor) and weights.ndim == y.ndim else []
    if silent := [b for b, w in enumerate(own_weights) if not bool((w > 0).any())]:
        raise ValueError(
            f"solve: noise_std is infinite everywhere in image {silent[0]} of the batch, so it carries no information; "
            "give finite values, or leave the image out"
        )
    if check_adjoint and isinstance(y, Tensor):
        check_adjoint_of(operator, h.back_projection, y)
        if not shortcut_fits(operator, h.back_projection):
            h = term.bind(FunctionOperator(operator.A, operator.A_adjoint), y, weights)
    if not all(c > 0 for c in each(h.curvature(), len(h.back_projection))):
        if bool((operator.A(torch.ones_like(h.back_projection)) != 0).any()):
            raise ValueError("solve: operator.A_adjoint must be the adjoint of A, got <x, A_adjoint(A(x))> <= 0")
        raise ValueError("solve: the operator measures nothing, A x vanishes; check its mask, kernel and noise_std")
    return h


def norms(x: Tensor) -> list[float]:
    """Return ||x|| of each image, summed in float64."""
    if len(x) == 1:
        return [norm(x)]
    return torch.linalg.vector_norm(x.abs().double().flatten(1), dim=1).tolist()  # type: ignore[no-any-return]


def levels_of_images(
    schedule: Any, curvatures: Sequence[float], z: Tensor, denoiser: Denoiser, max_iter: int
) -> list[tuple[list[float], int]]:
    """Return what `as_levels` does for each image: of one schedule for all where it is given, else of its own."""
    if schedule is not None:
        return [as_levels(schedule, max_iter)] * len(z)
    pairs = zip(curvatures, images(z), strict=True)
    return [as_levels(default_schedule(c, x, denoiser, max_iter), max_iter) for c, x in pairs]


def default_schedule(curvature: float, x: Tensor, denoiser: Denoiser, max_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to ||A*WA||^(-1/2), within the denoiser's range.

    Args:
        curvature: ||A*WA||.
        x: the first estimate of one image.
        denoiser: its `sigma_range` counts, where it has one.
        max_iter: levels at most.
    """
    sigma_min = curvature**-0.5
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, min(ANNEALING, max_iter))


def join_levels(sigmas: Sequence[Sequence[float]], weights: Sequence[float]) -> list[tuple[Level, Level]]:
    """Return (sigma_k, weight / sigma_k^2) for all k: numbers where all images share them in all iterations.

    Args:
        sigmas: the noise levels of each image.
        weights: lambda strength of each image.

    >>> join_levels([[0.2, 0.1]], [1.0])
    [(0.2, 24.999999999999996), (0.1, 99.99999999999999)]
    >>> join_levels([[2.0], [4.0]], [1.0, 4.0])
    [(tensor([2., 4.], dtype=torch.float64), 0.25)]
    """
    alphas = [[w / sigma**2 for sigma in levels] for levels, w in zip(sigmas, weights, strict=True)]
    return list(zip(_columns(sigmas), _columns(alphas), strict=True))


def _columns(rows: Sequence[Sequence[float]]) -> list[Level]:
    """Return the numbers of each iteration, the rows those of an image: a number where all rows are equal."""
    if all(row == rows[0] for row in rows[1:]):
        return list(rows[0])
    columns: list[Level] = []
    before = None
    for column in zip(*rows, strict=True):
        columns.append(columns[-1] if column == before else torch.tensor(column, dtype=torch.float64))
        before = column
    return columns


def denoise_each(denoise: Callable[[Tensor, float], Tensor], v: Tensor, sigma: Level) -> Tensor:
    """Return D(v, sigma), image by image where each has its own noise level."""
    if not isinstance(sigma, Tensor):
        return denoise(v, sigma)
    return torch.cat([denoise(one, float(s)) for one, s in zip(images(v), sigma, strict=True)])
