"""MLPatch at continuous coordinates.

On the grid at stride 1 a value is the average of the patches that cover it. Between pixels it is the same: the
last stage is queried at the coordinate plus each integer offset of its output patch, its windows read from the
image and the features by bicubic interpolation, and the overlapping values are averaged. Bicubic interpolation
is exact at integers, so at pixel centres this is the grid's result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .geometry import bicubic_weights, overlap_window
from .grid import mirrored
from .stage import Folded

if TYPE_CHECKING:
    from .model import MLPatch

__all__ = ["evaluate_at"]

COORDS_PER_CHUNK = 1024


def evaluate_at(model: MLPatch, x: Tensor, coords: Tensor, sigma: Tensor) -> Tensor:
    """Values (B, C, N) of x (B, C, H, W) denoised at coords (N, 2), (row, column) in pixels."""
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
    folded = model.fold(model.compute_dtype(x))
    stages = model._stages()
    last = stages[-1]
    # A query at an offset of the output patch has its window within `reach` of the coordinate; interpolation and
    # coordinates half a pixel outside take two samples more.
    reach = last.radius + last.patch // 2
    before, after = (sum(s.margins(1)[k] for s in stages[:-1]) + reach + 2 for k in (0, 1))
    y = mirrored(x, (-before, height + after), (-before, width + after))
    y, f, _ = model.features(y, sigma, 1, folded)
    field = y if f is None else torch.cat([y, f], 3)
    chunk = max(1, COORDS_PER_CHUNK // len(x))
    parts = [coords[i : i + chunk] for i in range(0, len(coords), chunk)]
    values = [_query(model, field, part, reach, sigma, folded[-1]) for part in parts]
    return torch.cat(values, 1).movedim(-1, 1)


def _query(model: MLPatch, field: Tensor, coords: Tensor, reach: int, sigma: Tensor, folded: Folded) -> Tensor:
    """Values (B, n, C) at coords (n, 2) from image and features (B, H, W, C + F) that begin reach + 2 before x."""
    last, channels, n = model._stages()[-1], model.channels, 2 * reach + 1
    base = coords.floor()
    span = torch.arange(n + 3, device=coords.device) + 1
    rows, cols = (base[:, k].long()[:, None] + span for k in (0, 1))
    around = field[:, rows[:, :, None], cols[:, None, :]]
    w = bicubic_weights(torch.arange(-1, 3, device=coords.device) - (coords - base)[..., None])
    w = w[..., None, None, None]
    around = torch.stack([w[:, 0, k] * around[:, :, k : k + n] for k in range(4)]).sum(0)
    around = torch.stack([w[:, 1, k] * around[:, :, :, k : k + n] for k in range(4)]).sum(0)
    flat = around.flatten(0, 1)
    y, f = flat[..., :channels], flat[..., channels:] if flat.shape[3] > channels else None
    s = sigma.repeat_interleave(len(coords))
    windows = last.inputs(y, f, s, 1, model.normalization, model.level, folded.layers[0][0].dtype)
    patches = last.mlp(windows, folded, y.dtype)
    # The patch of the query at offset d covers the coordinate with its entry -d.
    covering = patches.flip(1, 2).diagonal(dim1=1, dim2=3).diagonal(dim1=1, dim2=2)
    g = covering.sum((-1, -2)) / overlap_window(last.patch).sum().to(flat) ** 2
    return model.combine(y[:, reach, reach], g, s).reshape(len(field), len(coords), channels)
