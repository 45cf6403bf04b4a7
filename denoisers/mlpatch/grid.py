"""Evaluate MLPatch on the pixel grid: mirrored borders, tiles with halo, one set of numbers whatever the tiling."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from .geometry import reflect_indices

if TYPE_CHECKING:
    from .model import MLPatch

__all__ = ["evaluate", "has_fast_bfloat16", "mirrored"]

# Output pixels of one tile, all images of a batch together: bounds the memory of features and patches.
TILE = 512


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run natively on the device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def mirrored(x: Tensor, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
    """Samples rows[0]..rows[1]-1, cols[0]..cols[1]-1 of x (B, C, H, W), mirrored at the edges; channels last."""
    i = reflect_indices(*rows, x.shape[2]).to(x.device)
    j = reflect_indices(*cols, x.shape[3]).to(x.device)
    return x.index_select(2, i).index_select(3, j).movedim(1, -1).contiguous()


def evaluate(model: MLPatch, x: Tensor, sigma: Tensor, stride: int, *, progress: bool = False) -> Tensor:
    """Denoise x (B, C, H, W) tile by tile; where gradients are wanted, in one piece."""
    wanted = x.requires_grad or sigma.requires_grad or any(p.requires_grad for p in model.parameters())
    if torch.is_grad_enabled() and not wanted:
        with torch.no_grad():
            return evaluate(model, x, sigma, stride, progress=progress)
    dtype = model.compute_dtype(x)
    folded = model.fold(dtype)
    before, after = model.margins(stride)
    height, width = x.shape[2:]
    if torch.is_grad_enabled():
        y = mirrored(x, (-before, height + after), (-before, width + after))
        return model.estimate(y, sigma, stride, folded)[0][:, :height, :width].movedim(-1, 1)
    rows, cols = _tile(height, stride), _tile(width, stride)
    images = max(1, TILE**2 // (rows * cols))
    corners = list(product(range(0, len(x), images), range(0, height, rows), range(0, width, cols)))
    out = torch.empty_like(x)
    for b, r, c in tqdm(corners, desc="MLPatch", unit="tile", disable=not progress):  # on stderr
        h, w = min(rows, height - r), min(cols, width - c)
        y = mirrored(x[b : b + images], (r - before, r + h + after), (c - before, c + w + after))
        piece = model.estimate(y, sigma[b : b + images], stride, folded)[0]
        out[b : b + images, :, r : r + h, c : c + w] = piece[:, :h, :w].movedim(-1, 1)
    return out


def _tile(n: int, stride: int) -> int:
    """Side of the tiles that cover n pixels: about equal, at most about TILE, and a multiple of the stride.

    A multiple, so that the lattice of patches is the same for any tiling.
    """
    count = -(-n // TILE)
    return -(-n // (count * stride)) * stride
