"""Filtered back-projection of cone-beam views: Feldkamp, Davis and Kress, J. Opt. Soc. Am. A 1 (1984) 612.

    x(r) = sum_v (so/s)^2 f_v(u, v),    f_v = ramp * (w_v(u) L/sqrt(L^2 + u^2 + v^2) y_v)

with s the distance of r from the source along the central ray, (u, v) where its ray meets the detector, and w_v the
view's share of the circle, split between opposite rays as in `FanBeam.fbp`. It is exact in the plane of a circular
orbit. Slices that some views do not see, and all slices of a helix, are divided by the share of the views that do.
x is a mean over voxels, y over bins: where voxels, at the axis, are larger than bins, a view is averaged over what its
bins lack to the voxels' shadow. A sample at the voxel's centre would leave out bins, and alias.
Views of a detector that is turned, tilted or curved are first interpolated on the flat one opposite the source.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from .cone_detector import flat_resampling, middle_ends
from .cone_projector import Orbit
from .cone_tables import Grid, View, columns_at, slice_points, slope, stack_levels, stack_points
from .fan_beam import FanBeam
from .projector import ramp_filtered
from .truncation import continued
from .view_weights import view_weights

_FINER = 2
"""Samples of the filtered views in each bin, between which they are interpolated linearly."""
_EVERY = 2
"""Which of the magnifications of the projector are used: errors here grow by a fiftieth, time falls by a third."""


def fan_twin(grid: Grid, orbit: Orbit) -> FanBeam:
    """Return the fan of the mean view in the plane of the orbit, with square pixels."""
    mean = {name: float(part.mean()) for name, part in zip(("so", "od", "offset"), orbit.parts[1:4], strict=True)}
    height, width = len(grid.y) * grid.voxel_size[1], len(grid.x) * grid.voxel_size[2]
    size = min(grid.voxel_size[1:])
    return FanTwin(
        (max(1, int(height / size * (1 + 1e-9))), max(1, int(width / size * (1 + 1e-9)))),
        orbit.parts[0].remainder(2 * math.pi),
        source_origin=mean["so"],
        origin_detector=mean["od"],
        n_detectors=grid.detector_shape[1],
        pitch=grid.pitch[1],
        offset=mean["offset"],
        pixel_size=size,
    )


class FanTwin(FanBeam):
    """A fan whose geometry was checked before."""

    def _check_field(self) -> None:
        pass


def flattened(grid: Grid, orbit: Orbit) -> tuple[Grid, Orbit]:
    """Return the flat detector that reaches from end to end of the middle row and column of each view's own."""
    if grid.bins is None:
        return grid, orbit
    ends = [middle_ends(grid.bins, grid.pitch, view) for view in orbit.different()]
    # Along v and along u: (n_angles, 2) each, of a circle (1, 2).
    along, across = (torch.stack([torch.stack(end[axis]) for end in ends]) for axis in (0, 1))
    shape = [
        max(1, int(float((end[:, 1] - end[:, 0]).min()) / size + 0.5))
        for end, size in zip((along, across), grid.pitch, strict=True)
    ]
    if orbit.is_circle:
        along, across = along[0], across[0]
    parts = list(orbit.parts)
    parts[3], parts[4] = across.mean(-1), along.mean(-1)
    return grid._replace(detector_shape=(shape[0], shape[1])), Orbit(tuple(parts))


def flat_views(y: Tensor, grid: Grid, orbit: Orbit) -> tuple[Tensor, Grid, Orbit]:
    """Return views (B, n_angles, rows, columns) on the flat detector, with its grid and orbit."""
    if grid.bins is None:
        return y, grid, orbit
    flat, moved = flattened(grid, orbit)
    dtype, table, views = torch.promote_types(y.dtype, torch.float32), None, []
    for v in range(orbit.n_angles):
        if table is None or not orbit.is_circle:
            table = flat_resampling(flat, grid.bins, orbit.view(v), moved.view(v), dtype)
        views.append(torch.stack([table.times(view[v].to(dtype)) for view in y]))
    return torch.stack(views, 1).to(y.dtype), flat, moved


def fdk(y: Tensor, grid: Grid, orbit: Orbit, window: str, open_ends: tuple[bool, bool]) -> Tensor:
    """Return the volumes (B, D, H, W) of views (B, n_angles, rows, columns); of one image where an end is open.

    Args:
        y: line integrals.
        grid, orbit: without gradients.
        window: one of WINDOWS.
        open_ends: whether y does not fall to 0 at the first and at the last column: it is then continued.
    """
    dtype, fan = torch.promote_types(y.dtype, torch.float32), fan_twin(grid, orbit)
    grid = grid._replace(levels=torch.cat([grid.levels[:-1:_EVERY], grid.levels[-1:]]))
    beyond, columns = fan._beyond(), grid.detector_shape[1]
    more, chords = max(beyond), None
    if any(open_ends):
        more = max(more, 2 * columns)  # the filter sees what lies farther off, too
        chords = fan._fitted_chords(y.transpose(1, 2), more)
    weights = _ray_weights(grid, orbit, fan).to(dtype)
    shares = view_weights(orbit.parts[0], 2 * math.pi).shares
    partly = _sees_parts(grid, orbit)
    stacks = y.new_zeros(len(y), len(grid.y) * len(grid.x), len(grid.z), dtype=dtype)
    seen = torch.zeros_like(stacks[0]) if partly else None
    for v in range(orbit.n_angles):
        view = orbit.view(v)
        slices = slice_points(grid, view, dtype)
        table = stack_points(grid, view, dtype, _FINER * (columns + sum(beyond)), -float(beyond[0]), _FINER)
        ray_weights = weights[v] / slope(grid, view).to(dtype)
        for b in range(len(y)):
            if chords is None:
                longer = nn.functional.pad(y[b, v].to(dtype) * ray_weights, (more, more))
            else:
                longer = continued(y[b, v][:, None].to(dtype), chords[v : v + 1].to(dtype), open_ends)[:, 0]
                longer = longer * nn.functional.pad(ray_weights, (more, more), mode="replicate")
            filtered = ramp_filtered("ConeBeam", longer, window, _FINER, partial(_voxel_over_bin, grid, view))
            filtered = filtered[:, _FINER * (more - beyond[0]) : _FINER * (more + columns + beyond[1])]
            planes = slices.times(filtered)
            table.add_times(planes.t().reshape(-1, len(grid.z)), stacks[b])
        if seen is not None:
            levels = slices.weight.sum(1).view(grid.n_levels, -1)
            seen += shares[v].to(dtype) * stack_levels(grid, view, dtype).times(levels)
    if seen is not None:
        part = seen / shares.sum().to(dtype)
        stacks = torch.where(part > 1e-6, stacks / part, 0)
    return stacks.mT.reshape(len(y), len(grid.z), len(grid.y), len(grid.x)).to(y.dtype).contiguous()


def _ray_weights(grid: Grid, orbit: Orbit, fan: FanBeam) -> Tensor:
    """Return weights (n_angles, columns) of the rays, but for their slope."""
    rows = []
    for v in range(orbit.n_angles):
        view = orbit.view(v)
        u = columns_at(grid, view)
        gamma = torch.atan(u / view.length)
        rows.append((u, gamma, gamma.cos() * (view.length / (view.source_origin * grid.pitch[1]))))
    u, gamma, factors = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return fan._redundancy(u, gamma) * factors


def _voxel_over_bin(grid: Grid, view: View, f: Tensor) -> Tensor:
    """Return the spectrum of a voxel's shadow along u at the axis over that of a bin, at most 1.

    Args:
        grid, view: voxels and bins.
        f: frequencies in cycles per bin.
    """
    bins = view.length / (view.source_origin * grid.pitch[1])
    _, height, width = grid.voxel_size
    shadow = torch.sinc(f * (bins * width * view.angle.cos())) * torch.sinc(f * (bins * height * view.angle.sin()))
    return (shadow / torch.sinc(f)).clamp(max=1)


def _sees_parts(grid: Grid, orbit: Orbit) -> bool:
    """Whether some view misses a part of the volume above or below."""
    source, detector, _, offset, shift = orbit.parts[1:6]
    half = (len(grid.z) - 1) * grid.voxel_size[0] / 2
    largest = (source + detector) / (source - grid.radius)
    reach = largest * (half + shift.abs()) + offset.abs()
    return bool((reach > grid.detector_shape[0] * grid.pitch[0] / 2).any())
