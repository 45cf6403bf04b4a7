"""Equivariant bootstrap: error bars from copies of a measurement, without truth and without training.

    u_i = T_i x,    y_i ~ the noise model at A u_i,    z_i = solve(A, y_i),    E_i = T_i^-1 z_i - x,    i = 1 ... n

J. Tachella and M. Pereyra, Equivariant bootstrapping for uncertainty quantification in imaging inverse problems
(AISTATS 2024, arXiv 2310.11838). T_i is a random shift, flip or turn, see `moves`. Without it (`moves="none"`, the
parametric bootstrap: B. Efron, Ann. Stat. 7 (1979) 1) x has already lost what A and the prior lose, the copies lose
nothing more, and the error bars come out far too small. With it they are still too small where detail was lost. Two
things mend that. Held-out measurements say by which factor errors are larger, see `held_out`. And further copies are
zoomed to half their size, so that they have detail as fine as x has lost; the error bar of a pixel is the larger one.

Noise is drawn from the data term: Gaussian with its noise_std, none where that is infinite; counts of `Poisson`, with
gain and read noise, and of `ct.Transmission`. Errors that measurements have in common are drawn from `bin_std` and
`view_std` where they are given; where they are estimated, those that were found get random signs. Measurements that
were rejected as outliers are left out of the copies.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor

from ..algorithms.protocols import DataTerm, Denoiser, Operator
from ..checks import check_number
from ..drivers.checkpoint import Checkpoint, checkpointed
from ..drivers.result import Result, Stop
from ..drivers.result_warning import ignore_result_warnings, warn_of
from ..drivers.solve import solve
from ..drivers.solver_state import denoiser_fingerprint
from .copies import Simulation
from .moves import as_kinds
from .record import Bootstrap
from .runs import MIN_COPIES, Runs, run

RESERVED = ("x0", "callback")
"""Arguments of `solve` that have no place here: copies begin at their own first estimates."""


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
    client: Any = None,
    n_workers: int | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: bool = False,
    **options: Any,
) -> Bootstrap:
    """Return a reconstruction with error bars: as long as 1.83 n + 1 calls of `solve`.

    Copy i depends on the seed and i alone: more copies keep the first ones.

    Args:
        operator, y, denoiser, noise_std, data_term: as of `solve`.
        n: copies, at least 2. Without a window, error bars scatter by a fraction (2 n)^(-1/2), 14 % for 24.
        moves: "equivariant": shifts, flips and turns, and n/3 more copies that are zoomed; a tuple of some of "shift",
            "flip", "turn" and "zoom", where others would not leave an image plausible, or would move it away from what
            the operator knows about it, such as the attenuation of a body in SPECT; "none": a parametric bootstrap, for
            comparison.
        max_shift: largest shift, as a fraction of the side.
        window: side of the window, in pixels, over which standard deviations are averaged. 1: each pixel by itself,
            where neighbours differ, as those that a mask measures and drops.
        hold_out: measurements whose errors give the factor, a tenth of them at a time: "views" of a sinogram, "blocks"
            of 4 x 4 pixels, or single "measurements". "auto": views for operators with angles, blocks for other images,
            single ones where an operator acts pixel by pixel or is not known. None: the factor is 1.
        result: the `Result` of `solve` for the same arguments, if it is there; None: it is computed.
        seed: of moves, noise and held-out measurements.
        client: a `distributed.Client` whose workers solve for the copies, as in `pnp.stack.solve_stack`.
        n_workers: number of processes of this machine that do, with one thread each: the numbers are the same, bit for
            bit, whatever their number. Start it under `if __name__ == "__main__":` in a script. None, and no client:
            this process.
        checkpoint: a file for the copies so far, as of `solve`. The same call resumes from it; n may be another.
        progress: show a bar on stderr.
        **options: passed to `solve`: algorithm, relaxation, strength, held_out, schedule, bounds, max_iter, rtol,
            check_adjoint.

    Returns:
        Image, standard deviations, intervals and means of regions, see `Bootstrap`. Ctrl-C returns the copies so far,
        with as many zoomed ones and held-out measurements as belong to them; the first two copies are needed.

    Warns:
        ResultWarning: what `solve` finds wrong with x, and copies that diverged.

    Raises:
        ValueError, TypeError: an argument does not fit; the checkpoint is another run's.
        ImportError: Dask or Zarr is not installed, for n_workers or client.
        RuntimeError: a worker died each time it solved for a copy; the checkpoint has the others.
        KeyboardInterrupt: Ctrl-C came before two copies were there.

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
    if "held_out" in options and not isinstance(options.get("strength"), str):
        raise TypeError('bootstrap: held_out is of solve(strength="auto"); hold_out says what the factor comes from')
    if result is not None and not isinstance(result, Result):
        raise TypeError(f"bootstrap: result must be what solve returned, got {type(result).__name__}")
    if client is not None or n_workers is not None:
        from ..stack.cluster import check_engine  # Dask takes a second to import

        check_engine(client, n_workers, "bootstrap")
    given = {"y": y, "noise_std": noise_std, "data_term": data_term, "x": None if result is None else result.x}
    news: tuple[str, ...] = ()  # of a result that is given, solve has said them
    with warnings.catch_warnings():
        ignore_result_warnings()
        if result is None:
            result = solve(operator, y, denoiser, noise_std=noise_std, data_term=data_term, **options)
            if result.stop is Stop.INTERRUPTED:
                raise KeyboardInterrupt("bootstrap: Ctrl-C came in the solve with all measurements; nothing is kept")
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
            runs = run(world, n, kept, progress, client, n_workers)
    found = _record(world, runs, n, hold, int(window), result)
    warn_of("bootstrap", (*news, *found.warnings))
    return found


def _record(world: Simulation, runs: Runs, n: int, hold: Any, window: int, result: Result) -> Bootstrap:
    """Return the error bars."""
    factor, spread = runs.factor(len(world.x))

    def as_given(value: Tensor) -> Any:
        return value.cpu().numpy() if world.is_numpy else value

    one = len(factor) == 1
    said = []
    if runs.n_diverged:
        said.append(f"{runs.n_diverged} solves of copies diverged, and their errors are in the error bars")
    if runs.interrupted:
        said += _missing(world, runs)
    return Bootstrap(
        x=as_given(world.x),
        samples=as_given(runs.errors("copy", world.x)),
        zoomed=as_given(runs.errors("zoom", world.x)),
        factor=float(factor) if one else as_given(factor),
        factor_std=float(spread) if one else as_given(spread),
        hold_out=hold,
        moves=world.kinds,
        window=window,
        result=result,
        interrupted=runs.interrupted,
        n_asked=n,
        warnings=tuple(said),
    )


def _missing(world: Simulation, runs: Runs) -> list[str]:
    """Return what error bars lack that Ctrl-C ended before a check or a zoomed copy was there."""
    no_check = world.groups is not None and not runs.found["check"]
    no_zoom = "zoom" in world.kinds and not runs.found["zoom"]
    said = ["the factor from held-out measurements is missing, and is taken for 1"] * no_check
    said += ["zoomed copies are missing"] * no_zoom
    return [f"Ctrl-C came early: {' and '.join(said)}; the error bars may be too small"] if said else []
