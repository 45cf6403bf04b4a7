"""Figures of `shear_survey.py`: maps in the conventions of the field, and iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pnp.io.atomic import atomic
from pnp.lensing import MassMap, Peaks, band_powers
from pnp.readers import ShearMap


class Panel(NamedTuple):
    """A map (1, 1, H, W) of a figure, with colours, limits, and peaks to circle."""

    values: Tensor
    label: str
    limits: tuple[float, float]
    cmap: str = "inferno"
    peaks: Peaks | None = None


def draw_survey(
    path: Path,
    survey: ShearMap,
    others: Mapping[str, Tensor],
    mass: MassMap,
    error: Tensor,
    snr: Tensor,
    peaks: Peaks,
    *,
    error_title: str,
) -> None:
    """Draw the maps with north up and east to the left if known, the mask outlined and peaks circled.

    All maps of convergence share one colour scale. Without a truth, its place is taken by the signal-to-noise map.
    """
    low, high = (float(mass.kappa_e.cpu()[survey.mask].quantile(q)) for q in (0.005, 0.998))
    panels = {name: Panel(values, "convergence", (low, high)) for name, values in others.items()}
    if survey.kappa is None:
        panels["smoothed Kaiser-Squires over its noise"] = Panel(
            torch.where(survey.mask, snr.cpu(), torch.nan), "sigma", (-5, 5), "RdBu_r"
        )
    panels["ADMM + MLPatch: E, peaks"] = Panel(mass.kappa_e, "convergence", (low, high), peaks=peaks)
    panels["ADMM + MLPatch: B"] = Panel(mass.kappa_b, "convergence", (low, high))
    limits = (0.0, float(error.cpu()[survey.mask].quantile(0.99)))
    panels[error_title] = Panel(error, "convergence", limits, "viridis")

    height, width = survey.shape
    n_columns = -(-len(panels) // 2)
    figure = Figure(figsize=(4.4 * n_columns, 1.6 + 6.2 * height / width), dpi=110, layout="constrained")
    for k, (name, panel) in enumerate(panels.items(), start=1):
        axis = figure.add_subplot(2, n_columns, k, projection=survey.wcs)
        shown = _sky(axis, survey, panel)
        axis.set_title(name, fontsize=10)
        figure.colorbar(shown, ax=axis, shrink=0.8, label=panel.label)
    figure.suptitle(f"Convergence: {Path(survey.path).name}")
    with atomic(path, overwrite=True) as part:
        figure.savefig(part)


def _sky(axis: Any, survey: ShearMap, panel: Panel) -> Any:
    """Draw one map with its mask, its peaks and its coordinates on the sky, in arcminutes or in pixels."""
    height, width = survey.shape
    unit, side = ("arcmin", survey.pixel_arcmin) if survey.pixel_arcmin else ("pixels", 1.0)
    extent = None if survey.wcs else (0.0, width * side, 0.0, height * side)
    low, high = panel.limits
    values, mask = panel.values[0, 0].cpu().numpy(), survey.mask[0, 0].numpy()
    shown = axis.imshow(values, cmap=panel.cmap, vmin=low, vmax=high, origin="lower", extent=extent)
    axis.set_facecolor("0.85")
    if not mask.all():
        axis.contour(mask, [0.5], colors="0.7", linewidths=0.5, origin="lower", extent=extent)
    if panel.peaks is not None:
        places = [v.cpu().numpy() for v in (panel.peaks.column, panel.peaks.row)]
        places = [(v + 0.5) * side for v in places] if extent else places
        axis.scatter(*places, s=70, facecolors="none", edgecolors="cyan", linewidths=0.9)
    if survey.wcs is not None and survey.wcs.pixel_scale_matrix[0, 0] > 0:
        axis.invert_xaxis()
    axis.set_xlabel(unit if extent else "right ascension", fontsize=8)
    axis.set_ylabel(unit if extent else "declination", fontsize=8)
    axis.tick_params(labelsize=7)
    return shown


def draw_iterations(
    path: Path,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    sigma: float,
    mask: Tensor,
    truth: Tensor | None,
) -> None:
    """Draw input and output of the denoiser in the central quarter of the map, one colour scale per row.

    With the truth, a third row shows the power of the input's error over sigma^2; the denoiser assumes 1.
    """
    names = list(pairs)
    pairs = {name: pairs[name] for name in [*names[:5], *names[5:][-1:]]}
    rows = 2 if truth is None else 3
    figure = Figure(figsize=(2.25 * len(pairs) + 0.8, 2.4 * rows + 0.6), dpi=100, layout="constrained")
    axes = figure.subplots(rows, len(pairs), squeeze=False)
    middle = [slice(3 * n // 8, n - 3 * n // 8) for n in mask.shape[-2:]]
    last = list(pairs.values())[-1][1]
    limits = tuple(float(last[mask].quantile(q)) for q in (0.005, 0.998))
    for row, (low, high) in enumerate([(-4 * sigma, 4 * sigma), limits]):
        for axis, images in zip(axes[row], pairs.values(), strict=True):
            window = images[row][0, 0].cpu().numpy()[tuple(middle)]
            shown = axis.imshow(window, cmap="inferno", vmin=low, vmax=high, origin="lower")
            axis.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=axes[row].tolist(), shrink=0.8, label="convergence")
        axes[row, 0].set_ylabel(("denoiser input", "denoiser output")[row])
    for column, (name, (given, _)) in enumerate(pairs.items()):
        axes[0, column].set_title(name, fontsize=10)
        if truth is not None:
            power = band_powers(given - truth, mask=mask, n_bands=16)
            axes[2, column].loglog(power.frequency.cpu().numpy(), power.power[0].cpu().numpy() / sigma**2)
            axes[2, column].axhline(1, color="0.6", linewidth=0.8)
            axes[2, column].set(ylim=(0.1, 10), xlabel="cycles per pixel")
            axes[2, column].xaxis.set_minor_formatter("")
            axes[2, column].label_outer()
    if truth is not None:
        axes[2, 0].set_ylabel("power of its error / sigma$^2$")
    figure.suptitle("ADMM on shear: the denoiser's input becomes the map plus white noise")
    with atomic(path, overwrite=True) as part:
        figure.savefig(part)
