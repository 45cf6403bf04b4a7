"""Cone-beam projection of volumes and its exact adjoint, one view at a time, and derivatives in the geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cone_detector import Resampling, resampling_for
from .cone_tables import Grid, Table, View, slice_table, slope, stack_table

_TOGETHER = 2**20
"""Numbers between the tables of slices and of stacks that are held at once: they stay in the cache."""


class Orbit(NamedTuple):
    """Geometry of all views: tensors () or (n_angles,), float64, in the order of `View`."""

    parts: tuple[Tensor, ...]

    @property
    def n_angles(self) -> int:
        """Number of views."""
        return len(self.parts[0])

    def view(self, v: int) -> View:
        """Return the geometry of view v."""
        return View(*(part[v] if part.ndim else part for part in self.parts))

    def different(self) -> list[View]:
        """Return the views that differ in more than their angles: of a circle, one."""
        return [self.view(v) for v in range(1 if self.is_circle else self.n_angles)]

    @property
    def is_circle(self) -> bool:
        """Whether views differ in their angles alone."""
        return all(part.ndim == 0 for part in self.parts[1:])


def project(x: Tensor, grid: Grid, orbit: Orbit) -> Tensor:
    """Return the views (B, n_angles, rows, columns) of volumes (B, D, H, W)."""
    dtype, (rows, columns) = torch.promote_types(x.dtype, torch.float32), grid.detector_shape
    stacks = [volume.to(dtype).flatten(1).t().contiguous() for volume in x]
    y = x.new_zeros(len(x), orbit.n_angles, *(grid.bins.shape if grid.bins else (rows, columns)))
    levels_and_slices = grid.n_levels * len(grid.z)
    together = _parts(columns, levels_and_slices)
    slices = oblique = bins = None
    for v in range(orbit.n_angles):
        view = orbit.view(v)
        if slices is None or oblique is None or not orbit.is_circle:
            slices = slice_table(grid, view, dtype).transposed(rows)
            oblique, bins = slope(grid, view).to(dtype), resampling_for(grid, view, dtype)
        table = stack_table(grid, view, dtype).transposed(columns * grid.n_levels)
        for volume, views in zip(stacks, y, strict=True):
            flat = views[v] if bins is None else oblique.new_empty(rows, columns)
            for some in together:  # of the columns: what is between both tables stays small
                part = table.rows(some.start * grid.n_levels, some.stop * grid.n_levels)
                planes = part.times(volume).view(-1, levels_and_slices).t().contiguous()
                flat[:, some] = slices.times(planes) * oblique[:, some]
            if bins is not None:
                views[v] = bins.times(flat)
    return y


def backproject(y: Tensor, grid: Grid, orbit: Orbit) -> Tensor:
    """Apply the transpose of `project` to views (B, n_angles, rows, columns): (B, D, H, W)."""
    dtype = torch.promote_types(y.dtype, torch.float32)
    stacks = y.new_zeros(len(y), len(grid.y) * len(grid.x), len(grid.z), dtype=dtype)
    planes = stacks.new_empty(grid.detector_shape[1], grid.n_levels * len(grid.z))
    slices = oblique = bins = None
    for v in range(orbit.n_angles):
        view = orbit.view(v)
        if slices is None or oblique is None or not orbit.is_circle:
            slices, oblique = slice_table(grid, view, dtype), slope(grid, view).to(dtype)
            bins = resampling_for(grid, view, dtype)
        table = stack_table(grid, view, dtype)
        for volume, views in zip(stacks, y, strict=True):
            spread(_on_flat(views[v].to(dtype), bins) * oblique, slices, planes)
            table.add_times(planes.view(-1, len(grid.z)), volume)
    volumes = stacks.mT.reshape(len(y), len(grid.z), len(grid.y), len(grid.x))
    return volumes.to(y.dtype).contiguous()


def _on_flat(view: Tensor, bins: Resampling | None) -> Tensor:
    """Return the transpose of a view's resampling, applied to it."""
    return view if bins is None else bins.transposed_times(view)


def spread(view: Tensor, slices: Table, planes: Tensor) -> None:
    """Write the slices' share of a view (rows, samples) to planes (samples, levels D)."""
    for some in _parts(*planes.shape):
        planes[some] = slices.times(view[:, some].contiguous()).t()


def _parts(n: int, size: int) -> list[slice]:
    """Return slices of n columns of so many numbers each, some MiB together."""
    step = max(16, _TOGETHER // size)
    return [slice(first, min(n, first + step)) for first in range(0, n, step)]


def geometry_gradients(x: Tensor, y: Tensor, grid: Grid, orbit: Orbit, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Return the derivatives of <A x, y> in the parts of the orbit, None where they are not wanted."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    stacks = x.to(dtype).flatten(2).mT  # (B, H W, D)
    found = [torch.zeros_like(part) if want else None for part, want in zip(orbit.parts, wanted, strict=True)]
    for v in range(orbit.n_angles):
        with torch.enable_grad():
            leaves = View(*(p.detach().requires_grad_(w) for p, w in zip(orbit.view(v), wanted, strict=True)))
            slices, oblique = slice_table(grid, leaves, dtype), slope(grid, leaves).to(dtype)
            table, bins = stack_table(grid, leaves, dtype), resampling_for(grid, leaves, dtype)
            total = torch.zeros((), device=x.device, dtype=torch.float64)
            for volume, views in zip(stacks, y, strict=True):
                planes = slices.times(_on_flat(views[v].to(dtype), bins) * oblique)
                back = table.times(planes.t().reshape(-1, len(grid.z)))
                total = total + (back * volume).sum(dtype=torch.float64)
        names = [name for name, want in zip(View._fields, wanted, strict=True) if want]
        gradients = torch.autograd.grad(total, [getattr(leaves, name) for name in names], materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            part = found[View._fields.index(name)]
            if part is not None:
                (part[v] if part.ndim else part).add_(gradient)
    return found


def linear(argument: Tensor, grid: Grid, orbit: Orbit, adjoint: bool) -> Tensor:
    """Apply `project`, or `backproject`, with derivatives in the argument and in the orbit."""
    out: Tensor = _Linear.apply(argument, grid, adjoint, *orbit.parts)
    return out


class _Linear(torch.autograd.Function):
    """A or its adjoint: each is the other's derivative in its argument, so that nothing is kept for it.

    Where the geometry requires grad, the argument is kept, and the tables are made again for one view at a time;
    derivatives of these gradients are not there.
    """

    @staticmethod
    def forward(argument: Tensor, grid: Grid, adjoint: bool, *parts: Tensor) -> Tensor:
        apply = backproject if adjoint else project
        with torch.autocast(argument.device.type, enabled=False):  # in half precision the adjoint would not be exact
            return apply(argument, grid, Orbit(parts))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        argument, ctx.grid, ctx.adjoint, *parts = inputs
        ctx.moves = any(ctx.needs_input_grad[3:])
        ctx.save_for_backward(*parts, *((argument,) if ctx.moves else ()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        parts = ctx.saved_tensors[: len(View._fields)]
        back = None
        if ctx.needs_input_grad[0]:
            back = _Linear.apply(gradient, ctx.grid, not ctx.adjoint, *parts)
        moved: list[Tensor | None] = [None] * len(parts)
        if ctx.moves:
            argument = ctx.saved_tensors[-1]
            x, y = (gradient, argument) if ctx.adjoint else (argument, gradient)
            with torch.autocast(x.device.type, enabled=False):
                moved = geometry_gradients(x.detach(), y.detach(), ctx.grid, Orbit(parts), ctx.needs_input_grad[3:])
        return back, None, None, *moved
