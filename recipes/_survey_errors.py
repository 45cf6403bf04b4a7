"""Noise and error maps, for `shear_survey.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _survey import finished
from torch import Tensor

from operators import KaiserSquires, KaiserSquiresEB
from pnp.algorithms.schedules import RELAXATION
from pnp.lensing import (
    EModeOnly,
    LognormalKappa,
    MassMap,
    calibrate_error,
    simulated_errors,
    wiener_std,
)
from pnp.lensing.gaussian_filter import Gaussian
from pnp.uncertainty import bootstrap

PEAKS = "at peaks it is too small: intervals of 90 % held the truth at 48 to 60 % of the highest pixels"
"""What docs/uncertainty.md has measured of mass maps."""


class ErrorMap(NamedTuple):
    """An error map (1, 1, H, W) of the E mode, NaN outside the mask.

    Attributes:
        error: about one standard deviation.
        unit: the error map in whose units peaks are detected.
        title: of its panel in the figure.
        header: its cards in the FITS file.
        said: what to print on it.
    """

    error: Tensor
    unit: Tensor
    title: str
    header: dict[str, Any]
    said: str


def add_error_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments that say where the error map comes from."""
    p.add_argument(
        "--errors",
        choices=("simulations", "bootstrap"),
        default="simulations",
        help="error map: calibrated on simulated skies, or by pnp.uncertainty.bootstrap, which needs none; "
        f"{PEAKS.replace('%', '%%')} (default: simulations)",
    )
    p.add_argument(
        "--skies", type=int, default=32, help="number of simulated skies to calibrate and test the error map"
    )
    p.add_argument("--copies", type=int, default=24, help="number of copies of --errors bootstrap")


def from_simulations(
    solve: Callable[..., MassMap],
    mass: MassMap,
    A: KaiserSquires,
    sky: tuple[KaiserSquires, LognormalKappa],
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    n_skies: int,
    draws: int,
    generator: torch.Generator,
) -> ErrorMap:
    """Return the error of the Wiener filter, scaled to cover 68.3 % of the errors of MLPatch on simulated skies.

    The factors are for groups of pixels by map value; delta = 1/2: the median sky has this coverage. This is the error
    of a peak's height. Peaks are detected, in E and B alike, in units of an error map with one scale for all pixels.
    """

    def run(*seen: Tensor) -> Tensor:
        return finished(solve(*seen, b_mode=False, max_iter=mass.n_iter))

    simulated = simulated_errors(run, *sky, noise_std, n_skies, generator=generator, progress=True)
    sigma = wiener_error(A, y, noise_std, spectrum, draws=draws, generator=generator)
    how: dict[str, Any] = {"coverage": 0.683, "form": "value", "delta": 0.5, "heuristic": sigma, "kappa": mass.kappa_e}
    calibrated, uniform = calibrate_error(simulated, **how), calibrate_error(simulated, ranks=(), **how)
    header = {"ERRORS": "simulations", "COVERAGE": calibrated.coverage}
    said = f"error map: {calibrated}\nwith one scale: {uniform}"
    return ErrorMap(calibrated.error, uniform.error, "calibrated error of E", header, said)


def from_bootstrap(
    A: KaiserSquiresEB, denoiser: Any, mass: MassMap, y: Tensor, noise_std: Tensor, sigma: Tensor, *, n: int, seed: int
) -> ErrorMap:
    """Return standard deviations of E by the equivariant bootstrap; copies have the noise level and iterations of E.

    Copies begin at a regularised solution, and the map at 0: their own map is not quite the same, which is printed.
    Where E has a peak its error is large, since copies lose it, and B has none: to detect peaks, in E and B alike,
    sigma, the error of the Wiener filter, is scaled to the root mean square of the error map.
    """
    options: dict[str, Any] = {"schedule": [mass.sigma], "max_iter": mass.n_iter, "relaxation": RELAXATION}
    bars = bootstrap(A, y, EModeOnly(denoiser), noise_std=noise_std, n=n, seed=seed, progress=True, **options)
    mask = noise_std.isfinite().all(1, keepdim=True)
    error = torch.where(mask, bars.std[:, :1], torch.nan)
    unit = sigma * (error[mask].square().mean() / sigma[mask].square().mean()).sqrt()
    change = float((bars.x[:, :1] - mass.kappa_e)[mask].norm() / mass.kappa_e[mask].norm())
    lines = [
        f"error map: bootstrap, not calibrated, median {float(error[mask].median()):.3g}; {PEAKS}",
        f"bootstrap: {str(bars).splitlines()[0]}; its map differs from E by {change:.3f} of E",
    ]
    if not bars.factor_std < bars.factor / 2:
        lines.append("bootstrap: the held-out shear hardly determines the factor, nor the scale of the error map")
    lines += [f"bootstrap: {warning}" for warning in bars.warnings]
    lines += ["bootstrap: interrupted, fewer copies than asked for"] * bars.interrupted
    header = {"ERRORS": "bootstrap", "COPIES": bars.n, "FACTOR": float(bars.factor)}
    return ErrorMap(error, unit, "error of E by bootstrap", header, "\n".join(lines))


def wiener_error(
    A: KaiserSquires, y: Tensor, noise_std: Tensor, spectrum: Tensor, *, draws: int, generator: torch.Generator
) -> Tensor:
    """Return the standard deviation of the Wiener filter's error, found from few draws and smoothed."""
    mask = noise_std.isfinite().all(1, keepdim=True)
    return smooth_inside(wiener_std(A, y, noise_std, spectrum, generator=generator, draws=draws), mask)


def smooth_inside(values: Tensor, mask: Tensor, px: float = 2.0) -> Tensor:
    """Return the local root mean square within the mask, to smooth a standard deviation found from few draws."""
    smooth = Gaussian((int(mask.shape[-2]), int(mask.shape[-1])), px)
    inside = mask.double().cpu()
    square = smooth(torch.where(mask, values, 0).double().cpu().square()) / smooth(inside)
    return torch.where(mask, square.clamp(min=0).sqrt().to(values), 0)
