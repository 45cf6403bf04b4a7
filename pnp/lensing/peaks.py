"""Peaks of a mass map: pixels higher than their eight neighbours, and one pixel of each plateau that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
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

    Of a plateau, pixels of one value that touch, whose neighbours are all lower, the pixel nearest its centre counts.
    A peak and its neighbours must lie inside the map and the mask: at an edge a slope would look like a peak.

    Args:
        x: maps; may be NaN outside the mask.
        threshold: lower limit of heights, exclusive, in units of x, or of noise_std where that is given; None: all.
        mask: true where observed, broadcasts against x.
        noise_std: the map's own noise per pixel, broadcasts against x: peaks are then found in x/noise_std.
    """
    check_maps("find_peaks", x)
    if threshold is not None:
        check_number("threshold", threshold, above=-float("inf"), caller="find_peaks")
    if noise_std is not None:
        x = x / noise_std
    highest = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    if min(x.shape[-2:]) >= 3:
        highest[..., 1:-1, 1:-1] = True
    inside = torch.ones_like(highest) if mask is None else (mask != 0).expand(x.shape)
    centre, flat = x[..., 1:-1, 1:-1], torch.zeros_like(highest)
    for around in _windows(x):
        highest[..., 1:-1, 1:-1] &= inside[around] & (centre >= x[around])
    highest &= inside & x.isfinite()
    for around in _windows(x):
        flat[..., 1:-1, 1:-1] |= (centre == x[around]) & highest[..., 1:-1, 1:-1]
    counts = highest & ~flat
    if bool(flat.any()):
        for b, i, j in _plateaus(x, highest, flat):
            counts[b, 0, i, j] = True
    if threshold is not None:
        counts &= x > threshold
    image, _, row, column = counts.nonzero(as_tuple=True)
    height = x[counts]
    order = torch.argsort(height, descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]
    return Peaks(image[order], row[order], column[order], height[order])


def _windows(x: Tensor) -> Iterator[Any]:
    """Yield the parts of maps that hold the eight neighbours of all inner pixels, one neighbour at a time."""
    height, width = x.shape[-2:]
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            if (down, right) != (1, 1):
                yield ..., slice(down, height - 2 + down), slice(right, width - 2 + right)


def _plateaus(x: Tensor, highest: Tensor, flat: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield image, row and column of one pixel of each plateau.

    Args:
        x: maps.
        highest: pixels that no neighbour exceeds; two of them that touch are equal.
        flat: those of them that have an equal neighbour.
    """
    from scipy import ndimage

    # Where an equal neighbour has a higher one, or lies at an edge, the plateau is a terrace of a slope.
    open_ = torch.zeros_like(flat)
    for around in _windows(x):
        open_[..., 1:-1, 1:-1] |= flat[..., 1:-1, 1:-1] & (x[..., 1:-1, 1:-1] == x[around]) & ~highest[around]
    for image in flat.flatten(1).any(1).nonzero().flatten().tolist():
        label, _ = ndimage.label(flat[image, 0].cpu().numpy(), np.ones((3, 3)))
        terraces = set(label[open_[image, 0].cpu().numpy()].tolist())
        for k, place in enumerate(ndimage.find_objects(label), 1):
            if k in terraces:
                continue
            at = np.argwhere(label[place] == k)
            row, column = at[np.square(at - at.mean(0)).sum(1).argmin()]
            yield image, int(row) + place[0].start, int(column) + place[1].start


def peak_counts(x: Tensor, edges: Tensor, *, mask: Tensor | None = None, noise_std: Tensor | None = None) -> Tensor:
    """Return the number of peaks of maps (B, 1, H, W) in each bin edges[i] <= height < edges[i + 1], (B, n) integers.

    Args:
        x: maps.
        edges: (n + 1,) rising, in units of x, or of noise_std where that is given.
        mask: as in `find_peaks`.
        noise_std: as in `find_peaks`.
    """
    check_edges("peak_counts", edges)
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


def check_edges(caller: str, edges: Tensor) -> None:
    """Raise unless the edges of bins rise."""
    if not isinstance(edges, Tensor) or edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"{caller}: edges must be a rising 1D tensor of two or more, got {short(repr(edges), 80)}")


def check_maps(caller: str, x: Tensor) -> None:
    """Raise unless x is maps (B, 1, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else short(repr(x), 60)
        raise ValueError(f"{caller}: x must be maps (B, 1, H, W), got {got}; use x[None, None] for one map")
