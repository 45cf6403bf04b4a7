"""Run `pnp.solve` on an image, or a volume, larger than memory.

    x = h(z - u; alpha)     pixel by pixel (`mosaic_mask`); local operators in tiles with a halo (`mosaic_operator`)
    v = rho x + (1 - rho) z + u
    z = D(v; sigma)         in tiles with a halo
    u = v - z

z and u are kept on disk between iterations, twice: tiles read the old values of their neighbours while they write the
new ones. Noise levels and couplings are those of `solve`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..algorithms.iterations import ALGORITHMS
from ..algorithms.protocols import Denoiser
from ..algorithms.schedules import Schedule, coupling, relaxation
from ..checks import check_number
from ..drivers.arguments import as_bounds, as_levels
from ..drivers.denoising import as_denoiser
from ..drivers.levels import ANNEALING, MAX_ITER, default_schedule, last_sigma
from ..drivers.monitor import Monitor
from ..drivers.problem import DIVERGENCE_FACTOR, HISTORY, RTOL, has_converged
from ..drivers.result import GIVEN, Result, Stop
from ..drivers.result_warning import warn_of
from ..drivers.verdict import judge_misfit, not_converged
from .cluster import require
from .mosaic_mask import Pixels
from .mosaic_operator import LocalOperator
from .mosaic_tiles import Problem, Tiles
from .results_store import free_folder
from .sources import as_source
from .tiling import as_delayed, publish, scratch_folder, tiling_for


def solve_mosaic(
    operator: Any,
    y: Any,
    denoiser: Denoiser,
    *,
    noise_std: Any,
    output: str | os.PathLike[str],
    dimensions: int | None = None,
    tile: int | None = None,
    halo: int | None = None,
    client: Any = None,
    algorithm: str = "admm",
    strength: float = 1.0,
    schedule: Schedule | Sequence[float] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    max_iter: int | None = None,
    rtol: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Result:
    """Reconstruct an image or a volume larger than memory from masked, weighted, blurred or noisy pixels, as `solve`.

    The result equals that of `solve` up to rounding for masks of 0 and 1 with one noise level, or for HQS with given
    noise levels. Otherwise alpha and the last noise level differ by about 1 %, for large images by less: `solve`
    estimates ||A*A|| and the spectral flatness by random images of the whole, this function by exact sums, or by
    random images of a part.

    Args:
        operator: the gain m >= 0 of each pixel, shaped as y or as one of its channels: 1 measured, 0 not; or a number.
            Or a function that makes a local operator for images of any shape (height, width), or volumes (depth,
            height, width), which keeps their shape: `lambda shape: Blur(kernel, shape, boundary="reflect")`; on a
            cluster, workers must be able to import it.
        y: measurements (H, W) or (C, H, W), of a volume (D, H, W) or (C, D, H, W), float32 or float64 (others become
            float32). Like gains and noise_std, a Zarr array's path, "file.h5::name", a Dask or a numpy array.
        denoiser: local, D(x, sigma) on (B, C, H, W) or (B, C, D, H, W).
        noise_std: standard deviation of the noise in units of y: a number, or an array like the gains. Where it is
            infinite, y is not used and may be NaN.
        output: path of a Zarr array to create, of y's shape; it is written atomically. Meanwhile four images are
            kept beside it.
        dimensions, tile, halo, client: see `denoise_mosaic`. Each process holds a few tiles in memory.
        algorithm, strength, schedule, bounds, max_iter, rtol: see `solve`.
        overwrite: replace an existing Zarr array.
        progress: show a bar of iterations on stderr.

    Returns:
        As `solve`; x is the path of the output, noise_std what was passed; inner iterations are not counted (0), and
        misfit is NaN if Ctrl-C arrived while it was computed. The warnings are those of misfit and iterations.

    Warns:
        ResultWarning: all of them in one warning.

    Raises:
        ImportError: Dask or Zarr is not installed.
        ValueError, TypeError: an argument does not fit, or the denoiser returns NaN.
    """
    caller = "solve_mosaic"
    require(caller)
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"{caller}: algorithm must be one of {sorted(ALGORITHMS)}, got {algorithm!r:.60}")
    if hasattr(operator, "A_adjoint"):
        raise TypeError(
            f"{caller}: operator must be a function of a tile's shape, got {type(operator).__name__:.60}; "
            'e.g. lambda shape: Blur(kernel, shape, boundary="reflect"), or the gains of a mask as an array'
        )
    task = as_delayed(as_denoiser(denoiser, caller))
    strength = check_number("strength", strength, above=0, caller=caller)
    max_iter = MAX_ITER[algorithm] if max_iter is None else max_iter
    max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller=caller)
    rtol = check_number("rtol", RTOL if rtol is None else rtol, above=0, or_equal=True, caller=caller)
    limits = as_bounds(bounds, caller)
    source = as_source(y, caller, "y")
    tiling = tiling_for(source, denoiser, tile, halo, caller, dimensions)
    folder = free_folder(output, caller, overwrite=overwrite)
    tiles = Tiles(source, noise_std, tiling, client, caller)
    problem: Problem = LocalOperator(tiles, operator) if callable(operator) else Pixels(tiles, operator)

    monitor = Monitor(caller, max_iter, HISTORY, progress=progress)
    with scratch_folder(folder, caller) as part:
        z, u, alpha_old = part / "z0", None, None
        energy = tiles.keep_first(problem, z, limits)
        if schedule is None:
            last = last_sigma(algorithm, problem.curvature, problem.spectral_flatness)
            schedule = default_schedule(last, tiles.sample(z), denoiser, min(ANNEALING[algorithm], max_iter))
        sigmas, last = as_levels(schedule, max_iter)
        weight, rho = strength * coupling(algorithm, problem.spectral_flatness), relaxation(problem.coverage)
        diverged = DIVERGENCE_FACTOR * math.sqrt(max(energy, tiles.size / problem.curvature))
        with monitor:  # after Ctrl-C z is that of the last finished iteration
            for k, sigma in enumerate(sigmas, start=1):
                alpha = weight / sigma**2
                z_new, u_new = part / f"z{k % 2}", part / f"u{k % 2}" if algorithm == "admm" else None
                rescale = 1.0 if alpha_old is None else alpha_old / alpha
                x_norm, z_norm, z_old_norm, gap, change = tiles.iterate(
                    problem, task, (z, u), (z_new, u_new), sigma, alpha, rescale, limits, rho
                )
                if not math.isfinite(z_norm):
                    raise ValueError(
                        f"{caller}: denoiser returned NaN or infinity at sigma = {sigma:.4g}, expected finite values"
                    )
                if x_norm + z_norm > diverged:
                    monitor.stop = Stop.DIVERGED
                    break
                z, u, alpha_old = z_new, u_new, alpha
                primal, dual = gap / (max(x_norm, z_norm) or 1), change / (max(z_norm, z_old_norm) or 1)
                text = f"sigma {sigma:.3g}, residuals {primal:.1e} {dual:.1e}"
                monitor.record(sigma, alpha, primal, dual, 0)
                monitor.show(text)
                if has_converged(algorithm, rtol, k - 1 > last, primal, dual):
                    monitor.stop = Stop.CONVERGED
                    break
        misfit = math.nan
        with suppress(KeyboardInterrupt):  # the image of a long run is worth more than its misfit
            misfit = problem.misfit(tiles.read(z))
        publish(tiles.shaped(z, part / "image", source.ndim), folder, caller, overwrite=overwrite)
    said = tuple(_judge(misfit, tiles.n_live, problem.spectral_flatness, monitor))
    warn_of(caller, said, 3)
    return Result(folder, monitor.n_iter, monitor.stop, monitor.history, noise_std, GIVEN, misfit, said)


def _judge(misfit: float, n: float, flatness: float, monitor: Monitor) -> list[str]:
    """Return what looks wrong: without residuals, what the misfit and the iterations say."""
    if monitor.stop is Stop.DIVERGED:
        return [
            "the iterates grew without limit, and the image from before is returned: the denoiser amplifies, or "
            "A_adjoint is not the adjoint of A; check the denoiser's value range (Rescaled), or raise strength"
        ]
    said = judge_misfit(misfit, n, flatness=flatness)
    if monitor.stop is Stop.MAX_ITER and not said and not math.isnan(misfit):
        said = not_converged(max(monitor.history["primal"][-1], monitor.history["dual"][-1]))
    return said
