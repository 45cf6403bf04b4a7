"""Rotation of the transaxial slices of a volume by one sparse matrix for each angle, and its exact transpose.

A rotated voxel is the average of the voxels under it, weighted by the area they share ("area"), or their bilinear
interpolation at its centre ("bilinear"). Area weights conserve counts exactly as long as nothing leaves the grid (the
columns of the matrix sum to 1), never overshoot (the rows sum to 1 too), and the transpose is the rotation back.
Bilinear weights have the second property only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn

TICKS = 2**8 * 3**3 * 5**2 * 7
"""Number of directions per quarter turn (half a turn of a rectangle), 1.3 microradians apart. The usual numbers of
views divide it, so that the rounding of their angles does not matter."""
_MIN_SHARE = 1e-12
"""Smallest share of a voxel that is kept; the rest is rounding."""

_Table = tuple[Tensor, Tensor, Tensor]
"""Sparse matrix by rows: columns of the entries, offsets of the rows (with the end), and weights."""


class Rotation:
    """Rotations of nx x ny slices about their centre, and their matrices.

    A slice rotated by theta has at (X, Y) the value from (X cos(theta) - Y sin(theta), X sin(theta) + Y cos(theta)).
    Values that leave the grid are lost. Quarter turns of squares, and half turns of rectangles, only permute voxels, so
    that views a quarter (or half) turn apart share a matrix.

    Args:
        shape: (nx, ny).
        interpolation: "area" or "bilinear".
    """

    def __init__(self, shape: tuple[int, int], interpolation: str) -> None:
        self.shape = shape
        self.interpolation = interpolation
        self.quarters = 1 if shape[0] == shape[1] else 2
        """Quarter turns between the angles that share a matrix."""
        self._tables: dict[object, _Table] = {}

    def split(self, angle: float) -> tuple[int, int]:
        """Return an angle as a number of quarter turns and the remaining ticks.

        >>> Rotation((4, 4), "area").split(math.pi + 1e-9)
        (2, 0)
        """
        whole, ticks = divmod(round(angle / (self.quarters * math.pi / 2) * TICKS), TICKS)
        return whole * self.quarters % 4, ticks

    def turn(self, slices: Tensor, quarters: int) -> Tensor:
        """Rotate slices (nx, ny, ...) exactly by a number of quarter turns, backwards where it is negative."""
        return torch.rot90(slices, -quarters, (0, 1))

    def rotate(self, slices: Tensor, ticks: int) -> Tensor:
        """Rotate slices (nx ny, n), ordered by x then y, by a number of ticks: (ny nx, n), ordered by y then x."""
        return _product(self._table(ticks, False, slices), slices)

    def rotate_adjoint(self, slices: Tensor, ticks: int) -> Tensor:
        """Apply the transpose of `rotate` to slices (ny nx, n)."""
        return _product(self._table(ticks, True, slices), slices)

    def _table(self, ticks: int, transpose: bool, like: Tensor) -> _Table:
        key = ticks, transpose, like.dtype, like.device
        if key not in self._tables:
            matrix = self.matrix(ticks * self.quarters * (math.pi / 2) / TICKS)
            with torch.inference_mode(False):
                for flag, m in ((False, matrix), (True, matrix.T.tocsr())):
                    index = [torch.from_numpy(a.astype(np.int32)).to(like.device) for a in (m.indices, m.indptr)]
                    weights = torch.from_numpy(m.data).to(like.device, like.dtype)
                    self._tables[ticks, flag, like.dtype, like.device] = (index[0], index[1], weights)
        return self._tables[key]

    def matrix(self, angle: float) -> csr_matrix:
        """Return the matrix (ny nx, nx ny), float64, that rotates by an angle in radians."""
        nx, ny = self.shape
        overlap, reach = INTERPOLATIONS[self.interpolation]
        y, x = (a.ravel() for a in np.indices((ny, nx)))
        cos, sin = math.cos(angle), math.sin(angle)
        from_x, from_y = x - (nx - 1) / 2, y - (ny - 1) / 2
        centre_x = from_x * cos - from_y * sin + (nx - 1) / 2
        centre_y = from_x * sin + from_y * cos + (ny - 1) / 2
        rows, columns, weights = [], [], []
        for dx in reach:
            for dy in reach:
                near_x, near_y = np.rint(centre_x).astype(int) + dx, np.rint(centre_y).astype(int) + dy
                weight = overlap(centre_x - near_x, centre_y - near_y, angle)
                here = (weight > _MIN_SHARE) & (near_x >= 0) & (near_x < nx) & (near_y >= 0) & (near_y < ny)
                rows.append(np.flatnonzero(here))
                columns.append((near_x * ny + near_y)[here])
                weights.append(weight[here])
        entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
        return csr_matrix(entries, shape=(ny * nx, nx * ny))


def _product(table: _Table, slices: Tensor) -> Tensor:
    """Multiply slices by a sparse matrix; the order of its sums does not depend on the number of threads."""
    columns, starts, weights = table
    return nn.functional.embedding_bag(
        columns, slices, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _hat(dx: NDArray[np.float64], dy: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Return the bilinear weights of voxels at distances (dx, dy)."""
    weights: NDArray[np.float64] = np.maximum(1 - np.abs(dx), 0) * np.maximum(1 - np.abs(dy), 0)
    return weights


def _area(dx: NDArray[np.float64], dy: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Return the area that the unit square shares with one centred at (dx, dy) and rotated by 0 <= angle < pi."""
    if abs(math.sin(2 * angle)) < _MIN_SHARE:  # edges along the axes; one tick is far more
        return _hat(dx, dy, angle)
    # Green's theorem: minus the integral of y dx along the rotated square's edges, y clipped to the unit square's
    # height and x to its width.
    corners = [math.pi / 4 + angle + quarter * math.pi / 2 for quarter in range(5)]
    area = np.zeros_like(dx)
    for a, b in pairwise(corners):
        x_a, y_a = dx + math.cos(a) / math.sqrt(2), dy + math.sin(a) / math.sqrt(2)
        run, rise = (math.cos(b) - math.cos(a)) / math.sqrt(2), (math.sin(b) - math.sin(a)) / math.sqrt(2)
        ends = (np.clip(x, -0.5, 0.5) for x in (x_a, x_a + run))
        height_a, height_b = (y_a + 0.5 + (x - x_a) * (rise / run) for x in ends)
        area -= (_clipped_integral(height_b) - _clipped_integral(height_a)) * (run / rise)
    return area


def _clipped_integral(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral of clip(t, 0, 1) from 0 to s."""
    integral: NDArray[np.float64] = np.square(np.clip(s, 0, 1)) / 2 + np.maximum(s - 1, 0)
    return integral


_Weights = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.float64]]
INTERPOLATIONS: dict[str, tuple[_Weights, range]] = {"area": (_area, range(-1, 2)), "bilinear": (_hat, range(-1, 2))}
"""By name: weights by distance from a voxel, and the neighbours of the nearest voxel whose weights may not be 0."""
