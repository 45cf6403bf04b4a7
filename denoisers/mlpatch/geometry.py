"""Patches and taps: the linear geometry of MLPatch.

Images are channels-last here, (B, H, W, C): a row of a patch is then one contiguous run of memory.

`extract_patches` gathers windows on a lattice and `overlap_add` is its exact transpose, so that each is the
other's derivative. A tap is a point of the window at a sub-pixel offset, read by bicubic interpolation (Keys,
IEEE TASSP 29, 1981, a = -1/2); as the window's samples are the same for every pixel, reading all taps is one
matrix, `tap_matrix`, which is folded into the first layer of the network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "bicubic_weights",
    "extract_patches",
    "grid_taps",
    "overlap_add",
    "overlap_window",
    "reflect_indices",
    "tap_matrix",
]


def grid_taps(n: int) -> Tensor:
    """Offsets (n*n, 2) of an n x n grid of taps with unit spacing, (row, column), centred on 0."""
    r = torch.arange(n) - (n - 1) / 2
    return torch.cartesian_prod(r, r)


def bicubic_weights(t: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (a = -1/2) at distances t: 1 at 0, 0 at the other integers."""
    d = t.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def tap_matrix(offsets: Tensor, support: int) -> Tensor:
    """Matrix (n_taps, support**2) that reads taps at `offsets` from a support x support window.

    Args:
        offsets: (n_taps, 2), (row, column) in pixels from the window's centre; clamped to the window.
        support: side of the window in pixels, odd. Samples beyond its edge repeat the edge.

    Rows sum to one, so that reading commutes with adding a constant.
    """
    radius = support // 2
    at = offsets.clamp(-radius, radius) + radius
    # Two more samples on each side, folded back on the edge they repeat.
    i = torch.arange(-2, support + 2, device=offsets.device)
    w = bicubic_weights(at[:, :, None] - i)
    w = (
        torch.cat([w[..., :3].sum(-1, keepdim=True), w[..., 3:-3], w[..., -3:].sum(-1, keepdim=True)], -1)
        if support > 1
        else w.sum(-1, keepdim=True)
    )
    return (w[:, 0, :, None] * w[:, 1, None, :]).flatten(1)


def overlap_window(size: int) -> Tensor:
    """Weights g (size,) of an output patch, g x g, when overlapping patches are averaged: a Gaussian, std size/3."""
    t = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-(t**2) / (2 * (size / 3) ** 2))


def reflect_indices(start: int, stop: int, n: int) -> Tensor:
    """Indices into n samples for positions start..stop-1, mirrored about the first and the last sample.

    Any distance beyond the edge is allowed, also several times the length.

    >>> reflect_indices(-3, 6, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    period = max(2 * (n - 1), 1)
    i = torch.arange(start, stop) % period
    return torch.where(i < n, i, period - i)


def lattice_size(n: int, window: int, stride: int) -> int:
    """Number of windows of a given side that fit in n samples at the given stride."""
    return (n - window) // stride + 1


def _windows(x: Tensor, size: int, stride: int, dilation: int) -> Tensor:
    """View (B, a, b, size, size, C) of all windows of x (B, H, W, C)."""
    b, h, w, c = x.shape
    span = dilation * (size - 1) + 1
    sb, sh, sw, sc = x.stride()
    shape = (b, lattice_size(h, span, stride), lattice_size(w, span, stride), size, size, c)
    return x.as_strided(shape, (sb, sh * stride, sw * stride, sh * dilation, sw * dilation, sc), x.storage_offset())


class _ExtractPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, stride: int, dilation: int) -> Tensor:
        ctx.args = (x.shape[1], x.shape[2], stride, dilation)
        return _windows(x, size, stride, dilation).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        height, width, stride, dilation = ctx.args
        return _OverlapAdd.apply(grads[0], height, width, stride, dilation), None, None, None


class _OverlapAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
        b, _, _, size, _, c = p.shape
        ctx.args = (size, stride, dilation)
        out = p.new_zeros(b, height, width, c)
        windows = _windows(out, size, stride, dilation)
        for i in range(size):
            for j in range(size):
                windows[:, :, :, i, j] += p[:, :, :, i, j]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        size, stride, dilation = ctx.args
        return _ExtractPatches.apply(grads[0].contiguous(), size, stride, dilation), None, None, None, None


def extract_patches(x: Tensor, size: int, stride: int, dilation: int = 1) -> Tensor:
    """Windows (B, a, b, size, size, C) of images x (B, H, W, C) on a lattice of the given stride."""
    out: Tensor = _ExtractPatches.apply(x, size, stride, dilation)
    return out


def overlap_add(p: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Sum patches p (B, a, b, size, size, C) at their places in images (B, height, width, C)."""
    out: Tensor = _OverlapAdd.apply(p, height, width, stride, 1)
    return out


def box_blur(x: Tensor, size: int) -> Tensor:
    """Mean over size x size windows (size odd) of images (B, H, W, C), valid part only."""
    if size == 1:
        return x
    y = torch.nn.functional.avg_pool2d(x.movedim(-1, 1), size, 1)
    return y.movedim(1, -1).contiguous()


def scale_radius(dilation: int) -> int:
    """Radius of the mean that precedes sampling at a dilation: 0, 1, 2 for dilations 1, 2, 4."""
    return 0 if dilation == 1 else 2 ** (math.ceil(math.log2(dilation)) - 1)
