"""Coverage of a slice by tubes: vessels, bronchi, ribs and processes of a vertebra.

A tube runs from a to b in space with a radius that changes linearly; the slice is the plane z = 0. A tube across the
slice appears as a dot, one within it as a streak. Only a box of samples around each is visited.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_REACH_BOUNDARIES = (0.025, 0.04, 0.06)
"""Boundaries between the classes of reach in which tubes are drawn together."""


def tube_coverage(n: int, a: Tensor, b: Tensor, radius_a: Tensor, radius_b: Tensor) -> Tensor:
    """Return the fraction of each sample of the slice that tubes cover, (n, n), in [0, 1].

    Args:
        n: samples on a side of the square [-1, 1] x [-1, 1]; rows run down, y runs up.
        a, b: ends (n_tubes, 3) as (x, y, z).
        radius_a, radius_b: radii (n_tubes,) at the ends.
    """
    h = 2 / n
    canvas = torch.zeros(n * n)
    widest = torch.maximum(radius_a, radius_b)
    low, high = torch.minimum(a[:, 2], b[:, 2]), torch.maximum(a[:, 2], b[:, 2])
    seen = (low < widest) & (high > -widest)
    a, b, radius_a, radius_b, widest = a[seen], b[seen], radius_a[seen], radius_b[seen], widest[seen]
    reach = 0.5 * (b - a)[:, :2].norm(dim=1) + widest
    # Long and short tubes separately: all boxes are as large as the longest tube needs.
    kind = torch.bucketize(reach, torch.tensor(_REACH_BOUNDARIES))
    for k in range(len(_REACH_BOUNDARIES) + 1):
        part = (kind == k).nonzero()[:, 0]
        if len(part):
            _add_coverage(canvas, n, h, a[part], b[part], radius_a[part], radius_b[part], float(reach[part].max()))
    return canvas.reshape(n, n)


def _add_coverage(canvas: Tensor, n: int, h: float, a: Tensor, b: Tensor, ra: Tensor, rb: Tensor, reach: float) -> None:
    k = math.ceil(reach / h) + 1
    box = torch.arange(-k, k + 1)
    middle = 0.5 * (a + b)
    columns = ((middle[:, 0] + 1) / h - 0.5).round().long()[:, None, None] + box[None, None, :]
    rows = ((1 - middle[:, 1]) / h - 0.5).round().long()[:, None, None] + box[None, :, None]
    dx = (columns + 0.5) * h - (1 + a[:, 0, None, None])
    dy = (1 - a[:, 1, None, None]) - (rows + 0.5) * h
    dz = -a[:, 2, None, None]
    ux, uy, uz = (b - a)[:, :, None, None].unbind(1)
    along = ((dx * ux + dy * uy + dz * uz) / (ux * ux + uy * uy + uz * uz).clamp(min=1e-12)).clamp_(0, 1)
    ex, ey, ez = dx - along * ux, dy - along * uy, dz - along * uz
    r = along.mul_((rb - ra)[:, None, None]).add_(ra[:, None, None])
    d = (ex.square_() + ey.square_() + ez.square_()).sqrt_()
    covered = ((r - d) / h + 0.5).clamp_(0, 1)
    inside = (rows >= 0) & (rows < n) & (columns >= 0) & (columns < n)
    index = (rows.clamp(0, n - 1) * n + columns.clamp(0, n - 1)).reshape(-1)
    canvas.scatter_reduce_(0, index, torch.where(inside, covered, 0.0).reshape(-1), "amax")
