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

__all__ = ["check_precision", "compute_dtype", "evaluate", "has_fast_bfloat16", "mirrored"]

PRECISIONS = ("auto", "float32", "bfloat16")

# Queries of one tile, rows and columns: bounds the memory of the features. Smaller images share a tile.
TILE = (128, 256)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run natively on the device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def check_precision(caller: str, precision: str) -> str:
    """Return precision, one of PRECISIONS; refuse any other."""
    if precision not in PRECISIONS:
        raise ValueError(f"{caller}: precision must be one of {PRECISIONS}, got {precision!r}")
    return precision


def compute_dtype(x: Tensor, precision: str) -> torch.dtype:
    """The dtype of the matrix products for input x: "auto" is bfloat16 where that is native; float64 stays."""
    if x.dtype == torch.float64:
        return torch.float64
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(x.device) else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def mirrored(x: Tensor, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
    """Samples rows[0]..rows[1]-1, cols[0]..cols[1]-1 of x (B, C, H, W), mirrored at the edges."""
    i, j = reflect_indices(*rows, x.shape[2]), reflect_indices(*cols, x.shape[3])
    # Only the part that is used is read: a strip of a wide image would be larger than a tile.
    top, left = int(i.min()), int(j.min())
    part = x[:, :, top : int(i.max()) + 1, left : int(j.max()) + 1]
    return part.index_select(2, (i - top).to(x.device)).index_select(3, (j - left).to(x.device))


def evaluate(model: MLPatch, x: Tensor, sigma: Tensor, stride: int, *, progress: bool = False) -> Tensor:
    """Denoise x (B, C, H, W) tile by tile; where gradients are wanted, in one piece."""
    wanted = x.requires_grad or sigma.requires_grad or any(p.requires_grad for p in model.parameters())
    if torch.is_grad_enabled() and not wanted:
        with torch.no_grad():
            return evaluate(model, x, sigma, stride, progress=progress)
    folded = model.fold(x)
    before, after = model.network.margins(stride)
    height, width = x.shape[2:]
    if torch.is_grad_enabled():
        y = mirrored(x, (-before, height + after), (-before, width + after))
        return model.estimate(y, sigma, stride, folded)[:, :, :height, :width]
    rows, cols = (_tile(n, most, stride) for n, most in zip((height, width), TILE, strict=True))
    halo = before + after
    images = max(1, (TILE[0] * stride + halo) * (TILE[1] * stride + halo) // ((rows + halo) * (cols + halo)))
    corners = list(product(range(0, len(x), images), range(0, height, rows), range(0, width, cols)))
    out = torch.empty_like(x)
    for b, r, c in tqdm(corners, desc="MLPatch", unit="tile", disable=not progress):  # on stderr
        h, w = min(rows, height - r), min(cols, width - c)
        y = mirrored(x[b : b + images], (r - before, r + h + after), (c - before, c + w + after))
        piece = model.estimate(y, sigma[b : b + images], stride, folded)
        out[b : b + images, :, r : r + h, c : c + w] = piece[:, :, :h, :w]
    return out


def _tile(n: int, queries: int, stride: int) -> int:
    """Side of the tiles that cover n pixels: about equal, at most about so many queries, and a multiple of the stride.

    A multiple, so that the lattice of queries is the same for any tiling.
    """
    count = -(-n // (queries * stride))
    return -(-n // (count * stride)) * stride
