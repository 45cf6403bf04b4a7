"""Taps and borders: the linear geometry of MLPatch.

A tap is a point of the window around a pixel at a sub-pixel offset, read by bicubic interpolation (Keys, IEEE
TASSP 29, 1981, a = -1/2). The window's samples are the same for every pixel, so reading all taps is one matrix,
`tap_matrix`, which is folded into the first layer of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_taps(n: int) -> Tensor:
    """Return the offsets (n*n, 2) of an n x n grid of taps with unit spacing, (row, column), centred on 0."""
    r = torch.arange(n) - (n - 1) / 2
    return torch.cartesian_prod(r, r)


def bicubic_weights(t: Tensor) -> Tensor:
    """Return Keys' cubic convolution kernel (a = -1/2) at distances t: 1 at 0, 0 at the other integers."""
    d = t.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def tap_matrix(offsets: Tensor, support: int) -> Tensor:
    """Return the matrix (n_taps, support**2) that reads taps at `offsets` from a support x support window.

    Args:
        offsets: (n_taps, 2), (row, column) in pixels from the window's centre; clamped to the window.
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
    return (w[:, 0, :, None] * w[:, 1, None, :]).flatten(1)


def reflect_indices(start: int, stop: int, n: int) -> Tensor:
    """Return indices into n samples for positions start..stop-1, mirrored about the first and the last sample.

    Positions may lie any distance beyond the edge, also several times the length.

    >>> reflect_indices(-3, 6, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    period = max(2 * (n - 1), 1)
    i = torch.arange(start, stop) % period
    return torch.where(i < n, i, period - i)


def mirrored(x: Tensor, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
    """Return samples rows[0]..rows[1]-1, cols[0]..cols[1]-1 of x (B, C, H, W), mirrored at the edges."""
    i, j = reflect_indices(*rows, x.shape[2]), reflect_indices(*cols, x.shape[3])
    # Read only the part that is used: a strip of a wide image would be larger than a tile.
    top, left = int(i.min()), int(j.min())
    part = x[:, :, top : int(i.max()) + 1, left : int(j.max()) + 1]
    return part.index_select(2, (i - top).to(x.device)).index_select(3, (j - left).to(x.device))
