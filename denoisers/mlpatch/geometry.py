"""Taps, borders and convolutions: the linear geometry of MLPatch in two and three dimensions.

A tap is a point of the window around a pixel at a sub-pixel offset, read by bicubic interpolation (Keys, IEEE
TASSP 29, 1981, a = -1/2). The window's samples are the same for every pixel, so reading all taps is one matrix,
`tap_matrix`, which is folded into the first layer of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Order in memory, by the number of dimensions, in which a query's features are neighbours.

In it one convolution of volumes is faster, forward and backward, than three of planes that are added, and than products
of gathered neighbours.
"""


_PLANES = 8
"""Planes that are mirrored at once where there is room for all of them."""


def convolve(f: Tensor, kernel: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    """Convolve images (B, K, H, W) or volumes (B, K, D, H, W)."""
    return (F.conv2d if f.ndim == 4 else F.conv3d)(f, kernel, bias, **options)


def convolve_transpose(f: Tensor, kernel: Tensor, **options: Any) -> Tensor:
    """Apply the transposed convolution to images (B, K, H, W) or volumes (B, K, D, H, W)."""
    return (F.conv_transpose2d if f.ndim == 4 else F.conv_transpose3d)(f, kernel, **options)


def window(x: Tensor, starts: Sequence[int] | int, sizes: Sequence[int]) -> Tensor:
    """Return the part of x (B, C, ...) of these sizes from `starts` on, one number for all axes or one for each."""
    first = [starts] * len(sizes) if isinstance(starts, int) else starts
    for axis, (start, size) in enumerate(zip(first, sizes, strict=True), 2):
        x = x.narrow(axis, start, size)
    return x


def grid_taps(n: int, dimensions: int = 2) -> Tensor:
    """Return the offsets (n^d, d) of a grid of n^d taps with unit spacing, (row, column) or with depth first."""
    r = torch.arange(n) - (n - 1) / 2
    return torch.cartesian_prod(*[r] * dimensions)


def bicubic_weights(t: Tensor) -> Tensor:
    """Return Keys' cubic convolution kernel (a = -1/2) at distances t: 1 at 0, 0 at the other integers."""
    d = t.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def tap_matrix(offsets: Tensor, support: int) -> Tensor:
    """Return the matrix (n_taps, support**d) that reads taps at `offsets` from a window of side `support`.

    Args:
        offsets: (n_taps, d), (row, column) in pixels from the window's centre; clamped to the window.
        support: side of the window in pixels, odd. Samples beyond its edge repeat the edge.

    Rows sum to one, so that reading commutes with adding a constant.
    """
    radius = support // 2
    at = offsets.clamp(-radius, radius) + radius
    # Two more samples on each side, folded back onto the edge that they repeat.
    i = torch.arange(-2, support + 2, device=offsets.device)
    w = bicubic_weights(at[:, :, None] - i)
    w = (
        torch.cat([w[..., :3].sum(-1, keepdim=True), w[..., 3:-3], w[..., -3:].sum(-1, keepdim=True)], -1)
        if support > 1
        else w.sum(-1, keepdim=True)
    )
    matrix = w[:, 0]
    for axis in range(1, offsets.shape[1]):
        matrix = (matrix[:, :, None] * w[:, axis, None]).flatten(1)
    return matrix


def reflect_indices(start: int, stop: int, n: int) -> Tensor:
    """Return indices into n samples for positions start..stop-1, mirrored about the first and the last sample.

    Positions may lie any distance beyond the edge, also several times the length.

    >>> reflect_indices(-3, 6, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    period = max(2 * (n - 1), 1)
    i = torch.arange(start, stop) % period
    return torch.where(i < n, i, period - i)


def mirrored(x: Tensor, *ranges: tuple[int, int], room: Tensor | None = None) -> Tensor:
    """Return samples start..stop-1 along each axis of x (B, C, H, W) or (B, C, D, H, W), mirrored at the edges.

    Where x holds them all, they are a part of x. `room` is memory, flat, that else takes them, plane by plane.
    """
    indices = [reflect_indices(*r, n) for r, n in zip(ranges, x.shape[2:], strict=True)]
    # Read only the part that is used: a strip of a wide image would be larger than a tile.
    first = [int(i.min()) for i in indices]
    x = window(x, first, [int(i.max()) + 1 - f for i, f in zip(indices, first, strict=True)])
    places = [i - f for i, f in zip(indices, first, strict=True)]
    if room is None or all(torch.equal(at, torch.arange(n)) for at, n in zip(places, x.shape[2:], strict=True)):
        return _gathered(x, places)
    shape = (*x.shape[:2], *(len(at) for at in places))
    out = room[: math.prod(shape)].view(shape)
    for start in range(0, shape[2], _PLANES):
        planes = x.index_select(2, places[0][start : start + _PLANES].to(x.device))
        n = planes.shape[2]
        out.narrow(2, start, n).copy_(_gathered(planes, [torch.arange(n), *places[1:]]))
    return out


def _gathered(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    # The last axis first: it is the slowest to gather, and the part is then smallest.
    for axis in range(x.ndim - 1, 1, -1):
        at = places[axis - 2]
        if not torch.equal(at, torch.arange(x.shape[axis])):
            x = x.index_select(axis, at.to(x.device))
    return x
