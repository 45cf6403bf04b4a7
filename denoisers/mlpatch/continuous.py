"""MLPatch at continuous coordinates.

On the grid at stride 1 a value is the sum over the patches that cover it. Between pixels the same sum is taken: the
last block is queried at the coordinate plus each integer offset of the output patch, with its features and its hidden
layer's sums read by bicubic interpolation. That is exact at integers, so that values at pixel centres are the grid's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import bicubic_weights, mirrored
from .network import Folded, LocalModel

TILE = 128
"""Side in pixels of the tile whose features are in memory at a time."""
VALUES_PER_CHUNK = 2**21
"""Number of values read around the coordinates of one chunk: bounds the memory."""


def evaluate_at(model: LocalModel, x: Tensor, coords: Tensor, sigma: Tensor) -> Tensor:
    """Return values (B, C, N) of the denoised x (B, C, H, W) at coords (N, 2), (row, column) in pixels."""
    height, width = x.shape[2:]
    if not isinstance(coords, Tensor) or coords.ndim != 2 or coords.shape[1] != 2:
        got = tuple(coords.shape) if isinstance(coords, Tensor) else type(coords).__name__
        raise ValueError(f"MLPatch.at: coords must be a tensor (N, 2) of (row, column), got {got}")
    coords = coords.to(x)
    # Half a pixel beyond the outermost centres is still the image.
    top = torch.tensor([height, width]).to(x) - 0.5
    if not bool(((coords >= -0.5) & (coords <= top)).all()):
        raise ValueError(
            f"MLPatch.at: coords must lie in the image, -0.5 to ({height - 0.5}, {width - 0.5}); (0, 0) is the first "
            f"pixel's centre, got {coords.amin(0).tolist()} to {coords.amax(0).tolist()}"
        )
    if len(coords) == 0:
        return x.new_empty(len(x), x.shape[1], 0)
    folded = model.fold(x)
    # Tile by tile, image by image: only the features of one tile are in memory.
    tile = coords.div(TILE, rounding_mode="floor").long()
    key, order = torch.sort(tile[:, 0] * (width // TILE + 2) + tile[:, 1], stable=True)
    counts = torch.unique_consecutive(key, return_counts=True)[1].tolist()
    with torch.autocast(x.device.type, enabled=False):
        values = [
            torch.cat([_query_tile(model, folded, x[b : b + 1], c, sigma[b : b + 1]) for b in range(len(x))])
            for c in torch.split(coords[order], counts)
        ]
    return torch.cat(values, 2)[:, :, order.argsort()]


def _query_tile(model: LocalModel, folded: Folded, x: Tensor, coords: Tensor, sigma: Tensor) -> Tensor:
    """Return values (B, C, n) at coordinates that lie in one tile."""
    net, level = model.network, model.log_level(sigma)
    half = net.patch // 2
    last, kernels = net._blocks()[-1], folded.blocks[-1]
    crop = net.spacing * last.dilation
    # Queries lie within `half` of a coordinate; interpolation reads one sample before and two after them.
    low = coords.amin(0).floor().long() - half - 1
    high = coords.amax(0).floor().long() + half + 3
    rows, cols = ((int(low[k]) - net.reach, int(high[k]) + net.reach) for k in (0, 1))
    y = mirrored(x, rows, cols)
    f = net.features(y, sigma, level, 1, folded, without_last=True)
    # Each case of the coarser lattices has its own features; the value is the mean over them.
    cases = len(f) // len(y)
    z = last.hidden(f, *kernels[:2], None if level is None else level.repeat(cases), net.spacing)
    near = y[:, :, net.reach : -net.reach, net.reach : -net.reach].expand(cases, -1, -1, -1)
    parts = (f[:, :, crop:-crop, crop:-crop], z, near)
    field = torch.cat([p.to(x.dtype) for p in parts], 1).permute(0, 2, 3, 1)
    sizes = [p.shape[1] for p in parts]
    w_b, b_b = kernels[2][:, :, 0, 0].to(x.dtype), kernels[3].to(x.dtype)
    # The query at offset d writes entry -d of its patch at the coordinate.
    write = folded.write.to(x.dtype).flip(2, 3) / net.spacing**2
    values = []
    for part in torch.split(coords, max(1, VALUES_PER_CHUNK // ((net.patch + 3) ** 2 * cases * sum(sizes)))):
        f_q, z_q, y_q = torch.split(_interpolate(field, part - low, net.patch), sizes, dim=4)
        g = torch.einsum("bnijf,fcij->bcn", f_q + F.linear(z_q.relu(), w_b, b_b), write).mean(0, keepdim=True)
        values.append(model.combine(y_q[:1, :, half, half].movedim(2, 1), g, sigma))
    return torch.cat(values, 2)


def _interpolate(field: Tensor, at: Tensor, size: int) -> Tensor:
    """Read a field (B, H, W, K) on a size x size grid of unit spacing around each coordinate: (B, n, size, size, K).

    Args:
        field: samples.
        at: (n, 2) coordinates in the field.
        size: odd.
    """
    base = at.floor()
    span = torch.arange(size + 3, device=at.device) - size // 2 - 1
    rows, cols = (base[:, k].long()[:, None] + span for k in (0, 1))
    around = field[:, rows[:, :, None], cols[:, None, :]]
    w = bicubic_weights(torch.arange(-1, 3, device=at.device) - (at - base)[..., None])[..., None, None, None]
    around = sum((w[:, 0, k] * around[:, :, k : k + size] for k in range(1, 4)), w[:, 0, 0] * around[:, :, :size])
    first = w[:, 1, 0] * around[:, :, :, :size]
    return sum((w[:, 1, k] * around[:, :, :, k : k + size] for k in range(1, 4)), first)
