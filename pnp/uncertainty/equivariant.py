"""Equivariant bootstrap: error bars from copies of a measurement, without truth and without training.

    u_i = T_i x,    y_i ~ the noise model at A u_i,    z_i = solve(A, y_i),    E_i = T_i^-1 z_i - x,    i = 1 ... n

J. Tachella and M. Pereyra, Equivariant bootstrapping for uncertainty quantification in imaging inverse problems
(AISTATS 2024, arXiv 2310.11838). T_i is a random shift, flip or turn, see `moves`. Without it (`moves="none"`, the
parametric bootstrap: B. Efron, Ann. Stat. 7 (1979) 1) x has already lost what A and the prior lose, the copies lose
nothing more, and the error bars come out far too small. With it they are still too small where detail was lost.
Held-out measurements say by which factor, see `held_out`.

Noise is drawn from the data term: Gaussian with its noise_std, none where that is infinite; counts of `Poisson`, with
gain and read noise, and of `ct.Transmission`. Errors that measurements have in common are drawn from `bin_std` and
`view_std` where they are given; where they are estimated, those that were found get random signs. Measurements that
were rejected as outliers are left out of the copies.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.protocols import DataTerm, Denoiser, Operator
from ..checks import check_number
from ..drivers.checkpoint import Checkpoint, RunState, checkpointed
from ..drivers.progress import progress_bar
from ..drivers.result import Result, Stop
from ..drivers.result_warning import ignore_result_warnings, warn_of
from ..drivers.solve import solve
from ..drivers.solver_state import denoiser_fingerprint
from .copies import COPIES, Simulation
from .held_out import N_FOLDS, factor_of
from .moves import as_kinds
from .record import Bootstrap

RESERVED = ("x0", "callback")
"""Arguments of `solve` that have no place here: copies begin at their own first estimates."""
MIN_COPIES = 2
CHECKS_PER_COPY, MIN_CHECKS = 0.25, 4
"""Pairs of solves without a tenth of the measurements, over n, and the fewest."""


@torch.no_grad()
def bootstrap(
    operator: Operator,
    y: Any,
    denoiser: Denoiser,
    *,
    n: int = 24,
    moves: Any = "equivariant",
    max_shift: float = 0.1,
    window: int = 7,
    hold_out: str | None = "auto",
    noise_std: Any = None,
    data_term: DataTerm | None = None,
    result: Result | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
    **options: Any,
) -> Bootstrap:
    """Return a reconstruction with error bars: as long as 1.5 n + 1 calls of `solve`.

    Copy i depends on the seed and i alone: more copies keep the first ones.

    Args:
        operator, y, denoiser, noise_std, data_term: as of `solve`.
        n: copies, at least 2. Without a window, error bars scatter by a fraction (2 n)^(-1/2), 14 % for 24.
        moves: "equivariant": shifts, flips and turns; a tuple of some of "shift", "flip" and "turn", where others would
            not leave an image plausible, or would move it away from what the operator knows about it, such as the
            attenuation of a body in SPECT; "none": a parametric bootstrap, for comparison.
        max_shift: largest shift, as a fraction of the side.
        window: side of the window, in pixels, over which standard deviations are averaged. 1: each pixel by itself,
            where neighbours differ, as those that a mask measures and drops.
        hold_out: measurements whose errors give the factor, a tenth of them at a time: "views" of a sinogram, "blocks"
            of 4 x 4 pixels, or single "measurements". "auto": views for operators with angles, blocks for other images,
            single ones where an operator acts pixel by pixel or is not known. None: the factor is 1.
        result: the `Result` of `solve` for the same arguments, if it is there; None: it is computed.
        seed: of moves, noise and held-out measurements.
        checkpoint: a file for the copies so far, as of `solve`. The same call resumes from it; n may be another.
        progress: show a bar on stderr.
        **options: passed to `solve`: algorithm, strength, schedule, bounds, max_iter, rtol, check_adjoint.

    Returns:
        Image, standard deviations, intervals and means of regions, see `Bootstrap`. Ctrl-C returns the copies so far,
        where there are two at least.

    Warns:
        ResultWarning: what `solve` finds wrong with x, and copies that diverged.

    Raises:
        ValueError, TypeError: an argument does not fit; the checkpoint is another run's.

    >>> from types import SimpleNamespace
    >>> A = SimpleNamespace(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    >>> y = 2 * torch.arange(64.0).reshape(1, 1, 8, 8)
    >>> found = bootstrap(A, y, lambda x, sigma: x, n=100, noise_std=0.1, hold_out=None)  # no prior: 0.1/2
    >>> round(float(found.std.mean()), 2)
    0.05
    """
    n = check_number("n", n, above=MIN_COPIES, or_equal=True, integer=True, caller="bootstrap")
    seed = check_number("seed", seed, above=0, or_equal=True, integer=True, caller="bootstrap")
    max_shift = check_number("max_shift", max_shift, above=0, or_equal=True, caller="bootstrap")
    window = check_number("window", window, above=1, or_equal=True, integer=True, caller="bootstrap")
    kinds = as_kinds(moves)
    if reserved := [name for name in RESERVED if options.get(name) is not None]:
        raise TypeError(f"bootstrap: {reserved[0]} cannot be used, since every copy begins at its own first estimate")
    if result is not None and not isinstance(result, Result):
        raise TypeError(f"bootstrap: result must be what solve returned, got {type(result).__name__}")
    given = {"y": y, "noise_std": noise_std, "data_term": data_term, "x": None if result is None else result.x}
    news: tuple[str, ...] = ()  # of a result that is given, solve has said them
    with warnings.catch_warnings():
        ignore_result_warnings()
        if result is None:
            result = solve(operator, y, denoiser, noise_std=noise_std, data_term=data_term, **options)
            if result.stop is Stop.INTERRUPTED:
                raise KeyboardInterrupt
            news = result.warnings
        noise_std = result.noise_std if noise_std is None else noise_std
        world = Simulation.of(operator, y, denoiser, noise_std, data_term, result, options)
        world.kinds, world.max_shift, world.seed = kinds, float(max_shift), int(seed)
        hold = world.hold(hold_out)
        settings = given | options | {"moves": kinds, "max_shift": float(max_shift), "seed": int(seed)}
        settings |= {"noise_std": noise_std, "hold_out": hold, "denoiser": denoiser_fingerprint(denoiser)}
        with checkpointed(
            checkpoint, "bootstrap", lambda: settings, world.x, lambda: world.operator.A(world.x)
        ) as kept:
            runs = _run(world, n, kept, progress)
    found = _record(world, runs, hold, int(window), result)
    warn_of("bootstrap", (*news, *found.warnings))
    return found


SUMS = ("held", "predicted", "noise")
"""Sums over groups that a check gives, in this order."""


@dataclass
class _Runs:
    """What has been solved for: errors by copy, sums over groups by check, and whether Ctrl-C came."""

    errors: list[Tensor]
    sums: dict[str, list[Tensor]]
    n_diverged: int = 0
    interrupted: bool = False


def _run(world: Simulation, n: int, kept: RunState, progress: bool) -> _Runs:
    """Solve for all copies that the checkpoint does not have; checks come first."""
    n_checks = 0 if world.groups is None else min(N_FOLDS, max(MIN_CHECKS, round(CHECKS_PER_COPY * n)))
    runs = _restored(kept, n, n_checks)
    bar: Any = progress_bar("bootstrap", n + 2 * n_checks) if progress else None

    def advance(*results: Result) -> None:
        runs.n_diverged += sum(result.stop is Stop.DIVERGED for result in results)
        tensors = {f"error {i:06d}": error for i, error in enumerate(runs.errors)}
        sums = {name: [s.tolist() for s in values] for name, values in runs.sums.items()}
        kept.keep(tensors, {"n_diverged": runs.n_diverged, **sums})
        if bar is not None:
            bar.update(len(results))

    try:
        if bar is not None:
            bar.update(len(runs.errors) + 2 * len(runs.sums["held"]))
        for i in range(len(runs.sums["held"]), n_checks):
            *found, results = world.check(i)
            for name, sums in zip(SUMS, found, strict=True):
                runs.sums[name].append(sums)
            advance(*results)
        for i in range(len(runs.errors), n):
            move, _, _, result = world.copy(COPIES, i, None)
            runs.errors.append(move.back(result.x) - world.x)
            advance(result)
        kept.end("done", dict(kept.tensors), dict(kept.numbers))
    except KeyboardInterrupt:
        if len(runs.errors) < MIN_COPIES:
            raise
        runs.interrupted = True
    finally:
        if bar is not None:
            bar.close()
    return runs


def _restored(kept: RunState, n: int, n_checks: int) -> _Runs:
    """Return what the checkpoint has of these copies."""
    errors = [kept.tensors[name] for name in sorted(kept.tensors)]
    sums = {
        name: [torch.tensor(s, dtype=torch.float64) for s in kept.numbers.get(name, [])][:n_checks] for name in SUMS
    }
    return _Runs(errors[:n], sums, int(kept.numbers.get("n_diverged", 0)))


def _factor(runs: _Runs, n_images: int) -> tuple[Tensor, Tensor]:
    """Return the factor of each image and its standard error; 1 and NaN where nothing was held out."""
    if not runs.sums["held"]:
        return torch.ones(n_images, dtype=torch.float64), torch.full((n_images,), torch.nan, dtype=torch.float64)
    held, predicted, noise = (torch.stack(runs.sums[name]) for name in SUMS)
    used = torch.arange(held.shape[-1]) % N_FOLDS < len(held)
    above = held.sum(0) - noise.mean(0)
    return factor_of(above[:, used], predicted.sum(0)[:, used])


def _record(world: Simulation, runs: _Runs, hold: Any, window: int, result: Result) -> Bootstrap:
    """Return the error bars."""
    factor, spread = _factor(runs, len(world.x))

    def as_given(value: Tensor) -> Any:
        return value.cpu().numpy() if world.is_numpy else value

    one = len(factor) == 1
    said = []
    if runs.n_diverged:
        said.append(f"{runs.n_diverged} solves of copies diverged, and their errors are in the error bars")
    return Bootstrap(
        x=as_given(world.x),
        samples=as_given(torch.stack(runs.errors)),
        factor=float(factor) if one else as_given(factor),
        factor_std=float(spread) if one else as_given(spread),
        hold_out=hold,
        moves=world.kinds,
        window=window,
        result=result,
        interrupted=runs.interrupted,
        warnings=tuple(said),
    )
