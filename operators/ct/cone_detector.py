"""Detectors that are turned in their plane, tilted or curved, as points of the flat detector opposite the source.

With coordinates (u, v, d) from the source, d along the central ray, a detector's bin (r, c) is centred on

    P = (offset, row_offset, L) + a e_u + b e_v,    a = pitch_c (c - (columns-1)/2),  b = pitch_r (r - (rows-1)/2),
    e_u = Q (1, 0, 0),  e_v = Q (0, 1, 0),          Q = Q_roll(u to v) Q_slant(u to d) Q_tilt(v to d),

or, on a cylinder about the source, at the angle (offset + a)/L from the central ray and at the height row_offset + b.
Its ray meets the flat detector at (U, V) = L (P_u, P_v)/P_d, whose bins of the same size are averages about their
centres as this one is. Between these they are interpolated by cubic convolution (Keys, IEEE Trans. Acoust. Speech
Signal Process. 29 (1981) 1153), a sparse matrix that is differentiable in the geometry. That bins are turned and a
little larger or smaller on the flat detector is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .cone_tables import Bins, Grid, View

MAX_TURN = math.pi / 4
"""Largest roll, tilt and slant, and angle of a bin of a curved detector from the central ray."""
_MARGIN = 2
"""Bins about the outermost points that are interpolated between."""
_LEAST_DEPTH = 0.1
"""Smallest distance of a bin from the source along the central ray, over that of the flat detector."""


class Resampling(NamedTuple):
    """Sparse matrix from one image to another, by rows with 16 entries each: columns (n, 16), weights (n, 16)."""

    columns: Tensor
    weight: Tensor
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Rows and columns of the image that it is applied to, and of what it gives."""

    def times(self, image: Tensor) -> Tensor:
        """Return the matrix times an image."""
        return (image.reshape(-1)[self.columns] * self.weight).sum(1).view(self.sizes[1])

    def transposed_times(self, image: Tensor) -> Tensor:
        """Return the transpose times an image."""
        shares = (self.weight * image.reshape(-1, 1)).flatten()
        rows, columns = self.sizes[0]
        return shares.new_zeros(rows * columns).index_add(0, self.columns.flatten(), shares).view(rows, columns)


def resampling_for(grid: Grid, view: View, dtype: torch.dtype) -> Resampling | None:
    """Return the matrix from the flat detector of a view to its own; None where that is the same."""
    if grid.bins is None:
        return None
    middle = (view.row_offset, view.offset)
    places = [
        (where - centre) / pitch + (n - 1) / 2
        for where, centre, pitch, n in zip(
            flat_points(grid.bins, grid.pitch, view), middle, grid.pitch, grid.detector_shape, strict=True
        )
    ]
    return _cubic(places[0], places[1], grid.detector_shape, dtype)


def flat_points(bins: Bins, pitch: tuple[float, float], view: View) -> tuple[Tensor, Tensor]:
    """Return where the rays of a view's bins meet the flat detector: V and U, (rows, columns) each."""
    b, a = (_centred(n, size, view.angle) for n, size in zip(bins.shape, pitch, strict=True))
    b = b[:, None]
    if bins.is_curved:
        gamma = (view.offset + a) / view.length
        return (view.row_offset + b) / gamma.cos(), (view.length * gamma.tan()).expand(bins.shape)
    e_u, e_v = axes_of(view)
    u, v, d = (
        start + a * along + b * up
        for start, along, up in zip((view.offset, view.row_offset, view.length), e_u, e_v, strict=True)
    )
    # Where bins come near the source's plane, the constructor raises.
    scale = view.length / torch.maximum(d, 1e-3 * view.length)
    return scale * v, scale * u


def axes_of(view: View) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the directions (u, v, d) of a view's rows, from column to column, and of its columns."""
    (cr, sr), (ct, st), (cs, ss) = ((t.cos(), t.sin()) for t in (view.roll, view.tilt, view.slant))
    return (cs * cr, cs * sr, ss), (-st * ss * cr - ct * sr, ct * cr - st * ss * sr, st * cs)


def nearest_bin(bins: Bins, pitch: tuple[float, float], view: View) -> tuple[float, float]:
    """Return the least distance of a corner's bin along the central ray, over the detector's, and the largest angle."""
    b, a = (_centred(n, size, view.angle)[[0, -1]] for n, size in zip(bins.shape, pitch, strict=True))
    if bins.is_curved:
        return 1.0, float(((view.offset + a) / view.length).abs().max())
    e_u, e_v = axes_of(view)
    return float((1 + (a * e_u[2] + b[:, None] * e_v[2]) / view.length).min()), 0.0


def check_bins(bins: Bins, pitch: tuple[float, float], view: View, v: int) -> None:
    """Raise where rays of view v do not meet the flat detector, or far out."""
    depth, angle = nearest_bin(bins, pitch, view)
    if angle > MAX_TURN:
        raise ValueError(
            f"ConeBeam: a curved detector must lie within {MAX_TURN:.3g} rad of the central ray, that of view {v} "
            f"reaches {angle:.3g}; check pitch and offset, lengths along the arc, and the distances"
        )
    if depth < _LEAST_DEPTH:
        raise ValueError(
            f"ConeBeam: the detector of view {v} must stay in front of the source, a corner is at {depth:.3g} of its "
            "distance; check tilt, slant, pitch and the distances, in one unit"
        )


def margins(bins: Bins, pitch: tuple[float, float], view: View) -> tuple[int, int]:
    """Return by how many rows and columns the flat detector must be longer, at each end, to hold all bins of a view."""
    V, U = flat_points(bins, pitch, view)
    beyond = (
        float((where - middle).abs().max()) / size - (n - 1) / 2
        for where, middle, size, n in zip((V, U), (view.row_offset, view.offset), pitch, bins.shape, strict=True)
    )
    rows, columns = (max(0, math.ceil(excess - 1e-9)) + _MARGIN for excess in beyond)
    return rows, columns


def middle_ends(bins: Bins, pitch: tuple[float, float], view: View) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return where the ends of the middle column and of the middle row are on the flat detector: along v, along u."""
    rows, columns = bins.shape
    column = flat_points(Bins((2, 1), bins.is_curved), (rows * pitch[0], pitch[1]), view)[0]
    row = flat_points(Bins((1, 2), bins.is_curved), (pitch[0], columns * pitch[1]), view)[1]
    return (column[0, 0], column[1, 0]), (row[0, 0], row[0, 1])


def columns_hold(bins: Bins, pitch: tuple[float, float], view: View, u: Tensor, low: Tensor, high: Tensor) -> bool:
    """Return whether no upright edge of a volume, at u from v = low to v = high, is beyond a view's columns.

    Of the edges what is above or below all rows does not count. Tensors of one shape, on the flat detector.
    """
    rows, columns = bins.shape
    V, U = flat_points(Bins((2, 2), bins.is_curved), (rows * pitch[0], columns * pitch[1]), view)
    V = V.expand(2, 2)
    slack = 1e-9 * columns * pitch[1]
    for v in (low, high):
        seen = v.clamp(V.min(), V.max())
        # The detector's sides are straight on the flat one, too.
        first, last = (U[0, k] + (seen - V[0, k]) * ((U[1, k] - U[0, k]) / (V[1, k] - V[0, k])) for k in (0, 1))
        if not bool(((first <= u + slack) & (u <= last + slack)).all()):
            return False
    return True


def flat_resampling(grid: Grid, bins: Bins, view: View, flat: View, dtype: torch.dtype) -> Resampling:
    """Return the matrix from a view's own bins to the flat ones of a grid, which continues what lies beyond its edges.

    Args:
        grid: with the flat detector.
        bins: the view's own.
        view: where these are.
        flat: the same view with the offsets of the flat detector.
        dtype: of the weights.
    """
    V, U = (
        middle + _centred(n, size, view.angle)
        for middle, n, size in zip((flat.row_offset, flat.offset), grid.detector_shape, grid.pitch, strict=True)
    )
    V, U = V[:, None].expand(grid.detector_shape), U.expand(grid.detector_shape)
    if bins.is_curved:
        gamma = torch.atan2(U, view.length)
        b, a = V * gamma.cos() - view.row_offset, view.length * gamma - view.offset
    else:
        e_u, e_v = (torch.stack(axis) for axis in axes_of(view))
        centre = torch.stack([view.offset, view.row_offset, view.length])
        rays = torch.stack([U, V, view.length.expand_as(U)], -1)
        normal = torch.linalg.cross(e_u, e_v)
        away = rays * ((centre @ normal) / (rays @ normal))[..., None] - centre
        b, a = away @ e_v, away @ e_u
    places = [
        (x / size + (n - 1) / 2).clamp(0, n - 1) for x, size, n in zip((b, a), grid.pitch, bins.shape, strict=True)
    ]
    return _cubic(places[0], places[1], bins.shape, dtype)


def _centred(n: int, size: float, like: Tensor) -> Tensor:
    return size * (torch.arange(n, device=like.device, dtype=torch.float64) - (n - 1) / 2)


def _cubic(row: Tensor, column: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Resampling:
    """Return the matrix that interpolates an image of a shape at places (n, m) each, in bins from the first centre."""
    (rows, row_weight), (columns, column_weight) = (
        _taps(place.flatten(), n) for place, n in zip((row, column), shape, strict=True)
    )
    index = rows[:, :, None] * shape[1] + columns[:, None, :]
    weight = (row_weight[:, :, None] * column_weight[:, None, :]).to(dtype)
    return Resampling(index.flatten(1), weight.flatten(1), (shape, (row.shape[0], row.shape[1])))


def _taps(place: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the four samples about each place, (places, 4), the first and last continued, and Keys' weights."""
    below = place.detach().floor().clamp(0, max(n - 2, 0))
    t = (place - below)[:, None]
    index = below.long()[:, None] + torch.arange(-1, 3, device=place.device)
    weight = torch.cat(
        [
            t * (-0.5 + t * (1 - 0.5 * t)),
            1 + t * t * (1.5 * t - 2.5),
            t * (0.5 + t * (2 - 1.5 * t)),
            t * t * (0.5 * t - 0.5),
        ],
        1,
    )
    return index.clamp(0, n - 1), weight
