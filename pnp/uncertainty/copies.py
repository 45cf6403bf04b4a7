"""Copies of a measurement: images are moved, measured, with noise of the data term, and solved for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..algorithms.common_errors import VIEWS, ErrorModel
from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.protocols import BoundDataTerm, DataTerm, Operator
from ..checks import as_tensor
from ..drivers.arguments import as_measurements, as_operator
from ..drivers.binding import as_data_term, bind
from ..drivers.noise_weights import clean_and_weigh
from ..drivers.parts import Joined, check_parts, join, noise_used
from ..drivers.physics_noise import owners_of
from ..drivers.result import Result, Stop
from ..drivers.solve import solve
from .held_out import N_FOLDS, Without, draw_groups, kind_for, sums_of
from .moves import FIRST, draw_move, draw_zoom

SAME_NOISE = 0.01
"""Largest relative difference of a noise level that is still the same."""
GROUPS, COPIES, CHECKS, ZOOMS = range(4)
"""Streams of random numbers."""


class Task(NamedTuple):
    """What is to be solved for: a copy, a zoomed copy, or a check by held-out measurements, of its own number.

    Attributes:
        kind: "copy", "zoom" or "check".
        i: its number, from 0.
    """

    kind: str
    i: int


class Outcome(NamedTuple):
    """What a task has found.

    Attributes:
        task: the task.
        value: E_i of a copy, (B, C, H, W); the sums of a check, (3, B, n_groups), see `Simulation.check`.
        n_diverged: how many of its solves diverged.
    """

    task: Task
    value: Tensor
    n_diverged: int


@dataclass
class Simulation:
    """Where copies are simulated and solved for.

    Attributes:
        operator: A, of joined measurements where y has parts.
        given: the operator, denoiser, noise level and options that `solve` takes.
        h: the data term bound to y, without rejected measurements; it simulates.
        judge: the same with the errors in common that were estimated; it gives residuals.
        term, rejected: the caller's data term, and the measurements that it is left without.
        x: the image.
        found: the estimated errors in common, of bins, like y, and of views, (B, C, n_views, 1...); their signs are
            drawn.
        groups: the group of each measurement, see `held_out`; None: nothing is held out.
    """

    operator: Operator
    owners: Any
    given: dict[str, Any]
    options: dict[str, Any]
    h: Any
    judge: BoundDataTerm
    term: DataTerm
    rejected: Tensor | None
    x: Tensor
    found: tuple[Tensor | None, Tensor | None]
    is_numpy: bool
    kinds: tuple[str, ...] = ()
    max_shift: float = 0.0
    seed: int = 0
    groups: Tensor | None = None

    @classmethod
    def of(
        cls, operator: Any, y: Any, denoiser: Any, noise_std: Any, data_term: Any, result: Result, options: Any
    ) -> Simulation:
        """Bind the data term as `solve` does, with the noise level and the rejected measurements of the result."""
        given = {"operator": operator, "denoiser": denoiser, "noise_std": noise_std}
        operator, term = as_operator(operator, "bootstrap"), as_data_term(data_term)
        y, is_numpy = as_measurements(y, caller="bootstrap")
        if isinstance(y, Tensor):
            check_parts(operator, y)
            owners: Any = operator
            y, weights, _ = clean_and_weigh(operator, y, noise_std, term)
        else:
            owners = owners_of(operator, len(y))
            operator, y, weights, _ = join(operator, y, noise_std, term)
        if result.noise_std is not None:
            _check_noise(noise_used(operator.part_weights if isinstance(operator, Joined) else weights, False), result)
        rejected = None if result.rejected is None else _joined(result.rejected, y)
        h: Any = bind(Without(term, rejected), operator, y, weights, options.get("check_adjoint", True))
        if not callable(getattr(h, "simulate", None)):
            raise TypeError(
                f"bootstrap: data_term must be LeastSquares, Poisson or ct.Transmission, which can simulate "
                f"measurements, got {type(term).__name__}; its bound term needs simulate(x, generator)"
            )
        x = as_tensor("result.x", result.x, caller="bootstrap").to(h.back_projection)
        if x.shape != h.back_projection.shape:
            raise ValueError(
                f"bootstrap: result must be that of these measurements, with x {tuple(h.back_projection.shape)}, got "
                f"{tuple(x.shape)}"
            )
        found, judge = _estimated_errors(term, result, y, h)
        return cls(operator, owners, given, options, h, judge, term, rejected, x, found, is_numpy)

    def hold(self, kind: Any) -> Any:
        """Draw the held-out measurements; return of what kind they are."""
        if kind is None:
            return None
        generator = self.generator(GROUPS, 0)
        if not isinstance(self.operator, Joined):
            kind = kind_for(self.owners, self.h.y) if kind == "auto" else kind
            self.groups = draw_groups(kind, self.owners, self.h.y, generator)
        else:
            parts = self.operator.split(self.h.y)
            chosen = [kind_for(a, part) if kind == "auto" else kind for a, part in zip(self.owners, parts, strict=True)]
            drawn = [draw_groups(k, a, p, generator) for k, a, p in zip(chosen, self.owners, parts, strict=True)]
            ends = np.cumsum([0, *(-(-(int(g.max()) + 1) // N_FOLDS) * N_FOLDS for g in drawn)])
            self.groups = torch.cat([g.flatten(1) + int(end) for g, end in zip(drawn, ends[:-1], strict=True)], 1)
            kind = tuple(chosen)
        return kind

    def generator(self, stream: int, i: int) -> torch.Generator:
        """Return the generator of one copy."""
        (state,) = np.random.SeedSequence([self.seed, stream, i]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state) % 2**63)

    def simulate(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Return measurements of an image."""
        y: Tensor = self.h.simulate(u, generator)
        bins, views = self.found
        if bins is not None:
            y = y + bins * _signs(bins.narrow(VIEWS, 0, 1), generator)
        if views is not None:
            y = y + views * _signs(views, generator)
        return y

    def solve(self, y: Tensor, left_out: Tensor | None) -> Result:
        """Solve with the settings of x; Ctrl-C raises KeyboardInterrupt."""
        out = self.rejected
        if left_out is not None:
            out = left_out if out is None else out | left_out
        data: Any = self.operator.split(y) if isinstance(self.operator, Joined) else y
        found = solve(y=data, data_term=Without(self.term, out), **self.given, **self.options)
        if found.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        return found

    def copy(self, stream: int, i: int, left_out: Tensor | None) -> tuple[Any, Tensor, Tensor, Result]:
        """Return a copy's move, its moved image, its measurements and its solution."""
        generator = self.generator(stream, i)
        move = draw_move(self.kinds, self.x.shape[FIRST:], self.max_shift, generator)
        u = move.forth(self.x)
        y = self.simulate(u, generator)
        return move, u, y, self.solve(y, left_out)

    def run(self, task: Task) -> Outcome:
        """Work on a task, which depends on the seed and its own number alone."""
        if task.kind == "check":
            value, results = self.check(task.i)
        elif task.kind == "copy":
            move, _, _, result = self.copy(COPIES, task.i, None)
            value, results = move.back(result.x) - self.x, [result]
        else:
            value, results = self.zoomed(task.i)
        return Outcome(task, value, sum(result.stop is Stop.DIVERGED for result in results))

    def zoomed(self, i: int) -> tuple[Tensor, list[Result]]:
        """Return the error of a zoomed copy, moved back, and its solution."""
        generator = self.generator(ZOOMS, i)
        zoom = draw_zoom(self.kinds, self.x.shape[FIRST:], self.max_shift, generator)
        u = zoom.forth(self.x)
        result = self.solve(self.simulate(u, generator), None)
        return zoom.back(result.x - u), [result]

    def check(self, i: int) -> tuple[Tensor, list[Result]]:
        """Solve for x and for a copy without a part of the measurements.

        Returns sums over groups (3, B, n_groups), of the part alone, of r(x_i, y)^2 and of
        (r(z_i, y_i) - r(u_i, y_i))^2, and of all measurements of r(u_i, y_i)^2; and both solutions.
        """
        assert self.groups is not None
        part = self.groups % N_FOLDS == i
        ours = self.solve(self.h.y, part)
        _, u, y, theirs = self.copy(CHECKS, i, part)
        seen, counted = self.judge.residuals(ours.x)
        judge = self.judge_of(y)
        of_u = judge.residuals(u)[0]
        error = judge.residuals(theirs.x)[0] - of_u
        held = sums_of(seen.abs().square(), self.groups, counted & part)
        predicted = sums_of(error.abs().square(), self.groups, counted & part)
        noise = sums_of(of_u.abs().square(), self.groups, counted)
        return torch.stack([held, predicted, noise]), [ours, theirs]

    def judge_of(self, y: Tensor) -> BoundDataTerm:
        """Return what `judge` would be with these measurements."""
        judge = self.judge
        weights = judge.weights if isinstance(judge, LeastSquaresStep) else torch.ones(())
        h = Without(self.term, self.rejected).bind(self.operator, y, weights)
        if isinstance(judge, LeastSquaresStep) and isinstance(h, LeastSquaresStep):
            return h.with_errors(judge.model)
        return h


def _check_noise(used: Any, result: Result) -> None:
    """Refuse a result of another noise level: its error bars would be of neither."""
    several = isinstance(used, tuple)
    parts = zip(*((used, result.noise_std) if several else ((used,), (result.noise_std,))), strict=True)
    for mine, theirs in parts:
        ours, given = torch.as_tensor(mine), torch.as_tensor(theirs)
        given = given.to(ours.device)
        both = ours.isfinite() & given.isfinite()
        ratio = torch.where(both, given / ours, 1)
        if bool((ours.isfinite() != given.isfinite()).any()) or bool(((ratio - 1).abs() > SAME_NOISE).any()):
            raise ValueError(
                "bootstrap: result must be of solve with the same noise_std, got one with "
                f"{float(ratio.min()):.3g} to {float(ratio.max()):.3g} times that; pass that of the call, or leave "
                "result out"
            )


def _joined(rejected: Any, y: Tensor) -> Tensor:
    """Return the mask of rejected measurements, of the shape of y."""
    parts = rejected if isinstance(rejected, tuple) else (rejected,)
    masks = [torch.as_tensor(part).to(y.device) for part in parts]
    return masks[0] if len(masks) == 1 else torch.cat([m.flatten(1) for m in masks], 1)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)


def _estimated_errors(
    term: DataTerm, result: Result, y: Tensor, h: BoundDataTerm
) -> tuple[tuple[Tensor | None, Tensor | None], BoundDataTerm]:
    """Return the errors of bins and of views that were estimated, and the data term that knows how large they are."""
    if not isinstance(h, LeastSquaresStep) or result.common_errors is None:
        return (None, None), h
    bins, views = (getattr(term, name, None) for name in ("bin_std", "view_std"))
    model, errors = h.model or ErrorModel(), torch.as_tensor(result.common_errors).to(y)
    of_views = errors.mean(tuple(range(VIEWS + 1, y.ndim)), keepdim=True)
    of_bins = errors if views is None else errors - of_views
    if isinstance(bins, str):
        model = replace(model, bin_std=of_bins.square().mean(VIEWS, keepdim=True).sqrt())
    if isinstance(views, str):
        model = replace(model, view_std=of_views.flatten(VIEWS).abs())
    found = of_bins if isinstance(bins, str) else None, of_views if isinstance(views, str) else None
    return found, h.with_errors(model)
