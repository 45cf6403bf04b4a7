"""Evaluate MLPatch on the pixel grid, with mirrored borders, in tiles with a halo; no tiling changes the numbers."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

from .geometry import mirrored
from .network import LocalModel

TILE = (128, 256)
"""Queries of one tile, (rows, columns): bounds the memory of the features. Smaller images share a tile."""


def evaluate(model: LocalModel, x: Tensor, sigma: Tensor, stride: int, *, progress: bool = False) -> Tensor:
    """Denoise x (B, C, H, W) tile by tile, or in one piece where gradients are wanted."""
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
    largest = [queries * min(stride, model.network.spacing) for queries in TILE]
    rows, cols = (_tile(n, side, stride) for n, side in zip((height, width), largest, strict=True))
    halo = before + after
    images = max(1, (largest[0] + halo) * (largest[1] + halo) // ((rows + halo) * (cols + halo)))
    corners = list(product(range(0, len(x), images), range(0, height, rows), range(0, width, cols)))
    out = torch.empty_like(x)
    for b, r, c in tqdm(corners, desc="MLPatch", unit="tile", disable=not progress):  # on stderr
        h, w = min(rows, height - r), min(cols, width - c)
        y = mirrored(x[b : b + images], (r - before, r + h + after), (c - before, c + w + after))
        piece = model.estimate(y, sigma[b : b + images], stride, folded)
        out[b : b + images, :, r : r + h, c : c + w] = piece[:, :, :h, :w]
    return out


def _tile(n: int, largest: int, stride: int) -> int:
    """Return the side of the tiles that cover n pixels: about equal, of about `largest` pixels at most.

    The side is a multiple of the stride, so that the lattices of queries are the same for any tiling.
    """
    count = -(-n // max(largest, stride))
    return -(-n // (count * stride)) * stride
