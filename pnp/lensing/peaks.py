"""Peaks of a mass map: pixels higher than their eight neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_number, short


class Peaks(NamedTuple):
    """Peaks of a batch of maps, the highest first in each map; vectors of equal length."""

    image: Tensor
    """Index of the map in the batch."""
    row: Tensor
    column: Tensor
    height: Tensor
    """The map at the peak; in units of its noise where that was given."""


def find_peaks(
    x: Tensor, *, threshold: float | None = None, mask: Tensor | None = None, noise_std: Tensor | None = None
) -> Peaks:
    """Return the local maxima of maps (B, 1, H, W): pixels above all of their eight neighbours.

    A peak and its neighbours must lie inside the map and the mask: at an edge a slope would look like a peak.

    Args:
        x: maps; may be NaN outside the mask.
        threshold: lower limit of heights, exclusive, in units of x, or of noise_std where that is given; None: all.
        mask: true where observed, broadcasts against x.
        noise_std: the map's own noise per pixel, broadcasts against x: peaks are then found in x/noise_std.
    """
    _check_maps("find_peaks", x)
    if threshold is not None:
        check_number("threshold", threshold, above=-float("inf"), caller="find_peaks")
    if noise_std is not None:
        x = x / noise_std
    counts = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    if min(x.shape[-2:]) >= 3:
        counts[..., 1:-1, 1:-1] = True
    centre = x[..., 1:-1, 1:-1]
    inside = torch.ones_like(counts) if mask is None else (mask != 0).expand(x.shape)
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            window = (..., slice(down, x.shape[-2] - 2 + down), slice(right, x.shape[-1] - 2 + right))
            higher = (centre > x[window]) if (down, right) != (1, 1) else torch.isfinite(centre)
            counts[..., 1:-1, 1:-1] &= inside[window] & higher
    if threshold is not None:
        counts &= x > threshold
    image, _, row, column = counts.nonzero(as_tuple=True)
    height = x[counts]
    order = torch.argsort(height, descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]
    return Peaks(image[order], row[order], column[order], height[order])


def peak_counts(x: Tensor, edges: Tensor, *, mask: Tensor | None = None, noise_std: Tensor | None = None) -> Tensor:
    """Return the number of peaks of maps (B, 1, H, W) in each bin edges[i] <= height < edges[i + 1], (B, n) integers.

    Args:
        x: maps.
        edges: (n + 1,) rising, in units of x, or of noise_std where that is given.
        mask: as in `find_peaks`.
        noise_std: as in `find_peaks`.
    """
    if not isinstance(edges, Tensor) or edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"peak_counts: edges must be a rising 1D tensor of two or more, got {short(repr(edges), 80)}")
    peaks = find_peaks(x, mask=mask, noise_std=noise_std)
    n = len(edges) - 1
    bins = torch.bucketize(peaks.height, edges.to(peaks.height), right=True) - 1
    inside = (bins >= 0) & (bins < n)
    return torch.bincount(peaks.image[inside] * n + bins[inside], minlength=len(x) * n).reshape(len(x), n)


def match_peaks(peaks: Peaks, truth: Peaks, *, radius_px: float) -> int:
    """Return the number of true peaks that match a peak within a radius: nearest pairs first, each peak in one pair.

    Args:
        peaks: peaks of the reconstruction.
        truth: peaks of the truth.
        radius_px: largest distance of a pair in pixels.
    """
    check_number("radius_px", radius_px, above=0, or_equal=True, caller="match_peaks")
    if not len(peaks.row) or not len(truth.row):
        return 0
    distance = torch.hypot((truth.row[:, None] - peaks.row).double(), (truth.column[:, None] - peaks.column).double())
    distance = distance.masked_fill(truth.image[:, None] != peaks.image, float("inf"))
    pairs = (distance <= radius_px).nonzero()
    taken: tuple[set[int], set[int]] = (set(), set())
    for i, j in pairs[torch.argsort(distance[distance <= radius_px], stable=True)].tolist():
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
    return len(taken[0])


def _check_maps(caller: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else short(repr(x), 60)
        raise ValueError(f"{caller}: x must be maps (B, 1, H, W), got {got}; use x[None, None] for one map")
