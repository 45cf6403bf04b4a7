"""Peaks of a mass map of the sphere: pixels higher than all their neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...checks import check_number
from .pixels import directions, grid
from .shear import check_n_pix


class SpherePeaks(NamedTuple):
    """Peaks of one map, the highest first; vectors of equal length."""

    pixel: Tensor
    """Pixel in ring order."""
    ra: Tensor
    """Right ascension of its centre in degrees, float64."""
    dec: Tensor
    """Declination in degrees, float64."""
    height: Tensor
    """The map there; in units of its noise where that was given."""


def find_peaks(
    x: Tensor, *, threshold: float | None = None, mask: Tensor | None = None, noise_std: Tensor | None = None
) -> SpherePeaks:
    """Return the local maxima of a map (1, 1, n_pix): pixels above all their neighbours, of which there are 7 or 8.

    A peak and its neighbours must lie in the mask.

    Args:
        x: the map; may be NaN outside the mask.
        threshold: lower limit of heights, exclusive, in units of x, or of noise_std where that is given; None: all.
        mask: (1, 1, n_pix), true where observed.
        noise_std: the map's own noise per pixel, broadcasts against x: peaks are then found in x/noise_std.
    """
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[:2] != (1, 1):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"find_peaks: x must be a map (1, 1, n_pix), got {got}; use x[None, None]")
    nside = check_n_pix("find_peaks", int(x.shape[-1]))
    values = (x if noise_std is None else x / noise_std)[0, 0].detach().cpu()
    inside = torch.ones_like(values, dtype=torch.bool) if mask is None else (mask != 0).expand(x.shape)[0, 0].cpu()
    pixels = inside.nonzero()[:, 0].numpy()
    around = torch.from_numpy(grid(nside).neighbors(pixels).astype(np.int64))
    there = around >= 0
    around = around.clamp(min=0)
    lower = (values[around] < values[pixels][:, None]) & inside[around]
    kept = pixels[(lower | ~there).all(dim=1).numpy() & values[pixels].isfinite().numpy()]
    if threshold is not None:
        least = check_number("threshold", threshold, above=-float("inf"), caller="find_peaks")
        kept = kept[(values[kept] > least).numpy()]
    kept = kept[torch.argsort(values[kept], descending=True, stable=True).numpy()]
    theta, phi = grid(nside).pix2ang(kept).reshape(-1, 2).T
    ra, dec = torch.from_numpy(np.degrees(phi)), torch.from_numpy(90 - np.degrees(theta))
    return SpherePeaks(torch.from_numpy(kept), ra, dec, values[kept])


def match_peaks(peaks: SpherePeaks, truth: SpherePeaks, *, nside: int, radius_arcmin: float) -> int:
    """Return the number of true peaks that match a peak within a radius: nearest pairs first, each peak in one pair.

    Args:
        peaks: peaks of the reconstruction.
        truth: peaks of the truth.
        nside: resolution of both maps.
        radius_arcmin: largest distance of a pair.
    """
    from scipy.spatial import cKDTree

    radius = np.radians(check_number("radius_arcmin", radius_arcmin, above=0, caller="match_peaks") / 60)
    if not len(peaks.pixel) or not len(truth.pixel):
        return 0
    a, b = (cKDTree(directions(nside, p.pixel.numpy())) for p in (truth, peaks))
    near = a.sparse_distance_matrix(b, 2 * np.sin(radius / 2) * (1 + 1e-9), output_type="coo_matrix")
    taken: tuple[set[int], set[int]] = (set(), set())
    order = np.lexsort((near.col, near.row, near.data))
    for i, j in zip(near.row[order].tolist(), near.col[order].tolist(), strict=True):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
    return len(taken[0])
