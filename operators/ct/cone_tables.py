"""Sparse matrices of one cone-beam view: separable footprints of voxels on a flat detector, at a few magnifications.

A voxel's shadow on the detector is nearly the product of two functions of one coordinate each (Long, Fessler and
Balter, IEEE Trans. Med. Imaging 29 (2010) 1839, SF-TR): along the columns u of the detector a trapezoid, the shadow of
the voxel's transaxial rectangle, and along its rows v a rectangle whose width and place scale with the magnification

    M = L/s,    L = source_origin + origin_detector,    s: the voxel's distance from the source along the central ray.

M is the same for all voxels above each other. Between a few magnifications M_k it is interpolated linearly, so that a
view is two sparse matrices, one for the stacks of voxels and one for the slices,

    y[v, u] = O[v, u] sum_{k, z} R[v, (k, z)] sum_{stacks} C[(u, k), stack] x[stack, z],

with O = sqrt(1 + v^2/(L^2 + u^2)) for the rays' slope. Between magnifications a slice's shadow is blurred by up to half
the way that it moves from one to the next. This way is at most a third of the larger of a bin and a slice where these
are alike, else of the smaller, and a sixth where all rows are above or all below the source's plane: those may see no
more than the edge of an object. Where the slope of the rays is small, a view's sum over its bins is exact. Both
matrices are made for one view in a fraction of the time that they save, and are differentiable in its geometry.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

_ALIKE = 2.0
"""Largest ratio of bins and slices on the detector up to which they are alike."""
_NARROWEST = 1e-5
"""Smallest width of a trapezoid's slopes over its own width."""
_CHUNK_BYTES = 2**22
"""Size of what is added to a volume at once: fresh memory is slow where there is much of it."""
_FARTHEST = 2.0**24
"""Largest number of a bin, on the detector or off it."""


class View(NamedTuple):
    """Geometry of one view: scalars, float64."""

    angle: Tensor
    source_origin: Tensor
    origin_detector: Tensor
    offset: Tensor
    row_offset: Tensor
    shift: Tensor
    roll: Tensor
    tilt: Tensor
    slant: Tensor

    @property
    def length(self) -> Tensor:
        """Distance from the source to the detector."""
        return self.source_origin + self.origin_detector


class Bins(NamedTuple):
    """A detector that is not the flat one opposite the source."""

    shape: tuple[int, int]
    """Numbers of rows and columns."""
    is_curved: bool
    """Whether it is a cylinder about the source."""


class Grid(NamedTuple):
    """Voxels and bins of the flat detector opposite the source."""

    x: Tensor
    """(W,), float64: positions of the voxels, as those below."""
    y: Tensor
    """(H,), falling."""
    z: Tensor
    """(D,)."""
    voxel_size: tuple[float, float, float]
    """Sides along z, y and x."""
    detector_shape: tuple[int, int]
    """Numbers of rows and columns."""
    pitch: tuple[float, float]
    """Sides of a bin along a column and along a row."""
    levels: Tensor
    """(levels,), float64: the magnifications, from 0 for the smallest to 1 for the largest."""
    bins: Bins | None = None
    """The detector, where it is another; see `cone_detector.py`."""

    @property
    def n_levels(self) -> int:
        """Number of magnifications."""
        return len(self.levels)

    @property
    def radius(self) -> float:
        """Distance of the farthest voxel's centre from the axis, at least the thousandth part of a voxel."""
        return max(math.hypot(float(self.x[-1]), float(self.y[0])), 1e-3 * min(self.voxel_size[1:]))


class Table(NamedTuple):
    """Sparse matrix by rows with equally many entries each: columns (n, m), int32, and weights (n, m)."""

    columns: Tensor
    weight: Tensor

    def times(self, rows: Tensor) -> Tensor:
        """Return the matrix times (n_columns, ...): (n, ...)."""
        return nn.functional.embedding_bag(self.columns, rows, mode="sum", per_sample_weights=self.weight)

    def add_times(self, rows: Tensor, to: Tensor) -> None:
        """Add the matrix times rows to a tensor (n, ...), some MiB at a time."""
        step = max(1, _CHUNK_BYTES // (to.shape[1] * to.element_size()))
        for first in range(0, len(to), step):
            some = slice(first, first + step)
            to[some].add_(Table(self.columns[some], self.weight[some]).times(rows))

    def transposed(self, n_columns: int) -> Transposed:
        """Return the transpose of the matrix, which has so many columns."""
        n, m = self.columns.shape
        if self.columns.device.type == "cpu":  # several times faster than a sort
            entries = (self.weight.detach().numpy().ravel(), self.columns.numpy().ravel())
            matrix = csr_matrix((*entries, np.arange(n + 1, dtype=np.int32) * m), shape=(n, n_columns)).tocsc()
            return Transposed(*(torch.from_numpy(part) for part in (matrix.indices, matrix.indptr, matrix.data)))
        return sorted_transpose(self, n_columns)


class Transposed(NamedTuple):
    """Sparse matrix by rows: columns of its entries, offsets of the rows (with the end), and weights."""

    columns: Tensor
    starts: Tensor
    weight: Tensor

    def rows(self, first: int, end: int) -> Transposed:
        """Return the rows from the first to before the end."""
        if first == 0 and end == len(self.starts) - 1:
            return self
        begin, stop = int(self.starts[first]), int(self.starts[end])
        return Transposed(self.columns[begin:stop], self.starts[first : end + 1] - begin, self.weight[begin:stop])

    def times(self, rows: Tensor) -> Tensor:
        """Return the matrix times (n_columns, ...); the order of its sums does not depend on the number of threads."""
        return nn.functional.embedding_bag(
            self.columns, rows, self.starts, mode="sum", per_sample_weights=self.weight, include_last_offset=True
        )


def sorted_transpose(table: Table, n_columns: int) -> Transposed:
    """Return the transpose of a table with so many columns, on any device."""
    key, order = table.columns.flatten().sort(stable=True)
    starts = torch.searchsorted(key, torch.arange(n_columns + 1, device=key.device, dtype=key.dtype))
    row = order // table.columns.shape[1]
    return Transposed(row.to(key.dtype), starts.to(key.dtype), table.weight.detach().flatten()[order])


def levels_for(grid: Grid, source: float, length: float, reach: float, rows: tuple[float, float]) -> Tensor:
    """Return which magnifications a view needs, from the smallest (0) to the largest (1), float64.

    Args:
        grid: voxels and bins.
        source: distance of the source from the axis.
        length: distance of the source from the detector.
        reach: height of the farthest slice above or below the source.
        rows: on the detector, the height of the nearest row above or below the source, 0 where rows are on both sides,
            and twice that of the farthest one, for a margin.
    """
    part = torch.linspace(0, 1, 1025, dtype=torch.float64)
    farthest, nearest = length / (source + grid.radius), length / (source - grid.radius)
    magnification = farthest + part * (nearest - farthest)
    # How far the farthest slice that the detector sees moves from one magnification to the next, over what is allowed.
    seen = (rows[1] / magnification).clamp(max=reach)
    slices = magnification * grid.voxel_size[0]
    larger, smaller = slices.clamp(min=grid.pitch[0]), slices.clamp(max=grid.pitch[0])
    allowed = (smaller / 2 if rows[0] > 0 else torch.where(larger > _ALIKE * smaller, smaller, larger)) / 3
    so_far = torch.cumulative_trapezoid(seen * (nearest - farthest) / allowed, part)
    n = max(2, math.ceil(float(so_far[-1])) + 1)
    wanted = np.linspace(0, max(float(so_far[-1]), 1e-30), n)[1:-1]
    # Rounded, as gradients in the geometry hold where the levels stay: they must not move with every small step of it.
    between = np.round(np.interp(wanted, so_far.numpy(), part[1:].numpy()), 4)
    return torch.from_numpy(np.unique(np.concatenate([[0.0], between, [1.0]])))


def slope(grid: Grid, view: View) -> Tensor:
    """Return O (rows, columns), float64: the length of each ray over that of its transaxial part."""
    u, v = columns_at(grid, view), rows_at(grid, view)
    return (1 + v.square()[:, None] / (view.length.square() + u.square())).sqrt()


def columns_at(grid: Grid, view: View) -> Tensor:
    """Return where the columns' centres are on the detector, (columns,)."""
    n = grid.detector_shape[1]
    return view.offset + grid.pitch[1] * (torch.arange(n, device=grid.x.device, dtype=torch.float64) - (n - 1) / 2)


def rows_at(grid: Grid, view: View) -> Tensor:
    """Return where the rows' centres are on the detector, seen from the source's height, (rows,)."""
    n = grid.detector_shape[0]
    return view.row_offset + grid.pitch[0] * (torch.arange(n, device=grid.x.device, dtype=torch.float64) - (n - 1) / 2)


class Stacks(NamedTuple):
    """The stacks of voxels (H W,) as a view sees them, float64."""

    from_source: tuple[Tensor, Tensor]
    """Distances from the source along x (W,) and along y (H, 1)."""
    magnification: Tensor
    """(H, W)."""
    u: Tensor
    """(H, W): the central ray's distance on the detector."""


def stacks_of(grid: Grid, view: View) -> Stacks:
    """Return where the stacks of voxels are in a view."""
    cos, sin = view.angle.cos(), view.angle.sin()
    dx, dy = grid.x - view.source_origin * sin, grid.y[:, None] + view.source_origin * cos
    magnification = view.length / (dy * cos - dx * sin)
    return Stacks((dx, dy), magnification, magnification * (dx * cos + dy * sin))


def magnifications(grid: Grid, view: View) -> Tensor:
    """Return the magnifications M_k (levels,)."""
    farthest = view.length / (view.source_origin + grid.radius)
    return farthest + grid.levels * (view.length / (view.source_origin - grid.radius) - farthest)


def on_levels(grid: Grid, view: View, stacks: Stacks, index: Tensor, weight: Tensor) -> Table:
    """Return the table of stacks from their bins (m, H, W), each shared by the two magnifications next to its own."""
    known = magnifications(grid, view)
    below = torch.bucketize(stacks.magnification.detach(), known[1:-1].detach(), out_int32=True)
    low = known[below]
    part = ((stacks.magnification - low) / (known[below + 1] - low)).to(weight.dtype)
    index = index * grid.n_levels + below
    both = torch.cat([index, index + 1]), torch.cat([weight * (1 - part), weight * part])
    index, weight = (values.flatten(1).t().contiguous() for values in both)
    return Table(index, weight)


def stack_table(grid: Grid, view: View, dtype: torch.dtype) -> Table:
    """Return C*, (H W, (columns levels)): the footprints of the stacks of voxels along the detector's rows."""
    stacks = stacks_of(grid, view)
    dx, dy = stacks.from_source
    n, pitch = grid.detector_shape[1], grid.pitch[1]
    _, height, width = grid.voxel_size
    # How fast a point's shadow moves along u, for a step along x and along y; in bins.
    rate = (stacks.magnification.square() / (view.length * pitch)).to(dtype)
    a, b = rate * (width * dy.abs()).to(dtype), rate * (height * dx.abs()).to(dtype)
    area = rate * (dx.square() + dy.square()).sqrt().to(dtype) * (width * height)
    wide = torch.maximum(a, b)
    narrow = torch.maximum(torch.minimum(a, b), _NARROWEST * wide)
    inner, outer = (wide - narrow) / 2, (wide + narrow) / 2
    centre = (stacks.u - view.offset) / pitch + n / 2
    first = (centre - outer).detach().floor().clamp(-_FARTHEST, _FARTHEST)
    taps = int(2 * float(outer.detach().max())) + 2
    edge = torch.arange(taps + 1, device=first.device, dtype=dtype)[:, None, None] - (centre - first).to(dtype)
    # The trapezoid's integral from its middle to the edges of the bins.
    t = torch.minimum(edge.abs(), outer)
    integral = (t / wide - (t - inner).clamp(min=0).square() / (2 * wide * narrow)).copysign(edge.detach())
    bins = first.to(torch.int32) + torch.arange(taps, device=first.device, dtype=torch.int32)[:, None, None]
    weight = (integral[1:] - integral[:-1]) * area * ((bins >= 0) & (bins < n))
    return on_levels(grid, view, stacks, bins.clamp(0, n - 1), weight)


def slice_table(grid: Grid, view: View, dtype: torch.dtype) -> Table:
    """Return R*, ((levels D), rows): the footprints of the slices along the detector's columns."""
    n, pitch = grid.detector_shape[0], grid.pitch[0]
    magnification = magnifications(grid, view)[:, None]
    half = magnification * (grid.voxel_size[0] / (2 * pitch))
    centre = (magnification * (grid.z - view.shift) - view.row_offset) / pitch + n / 2
    first = (centre - half).detach().floor().clamp(-_FARTHEST, _FARTHEST)
    taps = int(2 * float(half.detach().max())) + 2
    place = (centre - first)[..., None]
    edge = torch.arange(taps, device=first.device, dtype=torch.float64)
    shared = torch.minimum(place + half[..., None], edge + 1) - torch.maximum(place - half[..., None], edge)
    return _rows_table(first, shared.clamp(min=0).to(dtype), n)


def _rows_table(first: Tensor, weight: Tensor, n: int) -> Table:
    """Return the table of slices (levels, D) whose shares (levels, D, taps) of rows begin at row `first`."""
    taps = weight.shape[-1]
    rows = first.to(torch.int32)[..., None] + torch.arange(taps, device=first.device, dtype=torch.int32)
    weight = weight * ((rows >= 0) & (rows < n))
    return Table(rows.clamp(0, n - 1).reshape(-1, taps), weight.reshape(-1, taps))


def stack_points(grid: Grid, view: View, dtype: torch.dtype, n: int, first: float, finer: int) -> Table:
    """Return the table (H W, (n levels)) that interpolates linearly between samples of a view, over squared distances.

    Args:
        grid, view, dtype: as of `stack_table`.
        n: number of samples along u.
        first: place of the first sample, in bins from the first bin's centre.
        finer: samples per bin.
    """
    stacks = stacks_of(grid, view)
    bins = (stacks.u - view.offset) / grid.pitch[1] + (grid.detector_shape[1] - 1) / 2
    place, below, part = _between((bins - first) * finer, n)
    index = torch.stack([below, (below + 1).clamp(max=n - 1)])
    closer = (stacks.magnification * (view.source_origin / view.length)).square() * (place == place.clamp(0, n - 1))
    weight = torch.stack([(1 - part) * closer, part * closer]).to(dtype)
    return on_levels(grid, view, stacks, index.to(torch.int32), weight)


def stack_levels(grid: Grid, view: View, dtype: torch.dtype) -> Table:
    """Return the table (H W, levels) that interpolates linearly between magnifications."""
    stacks = stacks_of(grid, view)
    one = torch.ones_like(stacks.u[None])
    return on_levels(grid, view, stacks, torch.zeros_like(one, dtype=torch.int32), one.to(dtype))


def slice_points(grid: Grid, view: View, dtype: torch.dtype) -> Table:
    """Return the table ((levels D), rows) that interpolates linearly between the rows of a view; 0 beyond them.

    Slices that are larger than a row take the mean over a box that makes up for the difference.
    """
    n, magnification = grid.detector_shape[0], magnifications(grid, view)[:, None]
    place = (magnification * (grid.z - view.shift) - view.row_offset) / grid.pitch[0] + (n - 1) / 2
    inside = (place >= -0.5) & (place <= n - 0.5)
    half = ((magnification * (grid.voxel_size[0] / grid.pitch[0]) - 1) / 2).clamp(min=0)
    first = (place - half - 1).floor().clamp(-_FARTHEST, _FARTHEST) + 1
    taps = math.ceil(2 * float(half.max()) + 2 - 1e-9)
    away = (first - place)[..., None] + torch.arange(taps, device=first.device, dtype=torch.float64)
    half = half[..., None].clamp(min=1e-6)
    weight = (_hat_integral(away + half) - _hat_integral(away - half)) / (2 * half) * inside[..., None]
    rows = first.to(torch.int32)[..., None] + torch.arange(taps, device=first.device, dtype=torch.int32)
    return Table(rows.clamp(0, n - 1).reshape(-1, taps), weight.to(dtype).reshape(-1, taps))


def _hat_integral(t: Tensor) -> Tensor:
    """Return the integral of max(0, 1 - |t|) from 0 to t."""
    near = t.abs().clamp(max=1)
    return (near - near.square() / 2).copysign(t)


def _between(place: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return places, the samples below them, 0 to n - 2 where there are two, and the parts of a sample beyond."""
    below = place.floor().clamp(0, max(n - 2, 0))
    return place, below, (place - below).clamp(0, 1)
