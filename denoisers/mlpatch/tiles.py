"""Evaluate MLPatch on the pixel grid, with mirrored borders, in tiles with a halo; no tiling changes the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

from .geometry import mirrored, window
from .network import LocalModel

TILE = {2: (128, 256), 3: (64, 64, 64)}
"""Queries of one tile along each axis of images and of volumes: bounds the memory of the features.

Smaller images share a tile.
"""


def evaluate(
    model: LocalModel,
    x: Tensor,
    sigma: Tensor,
    stride: int,
    *,
    part: tuple[Sequence[int], Sequence[int]] | None = None,
    progress: bool = False,
) -> Tensor:
    """Denoise x (B, C, H, W) or (B, C, D, H, W) tile by tile, or in one piece where gradients are wanted.

    `part` holds the starts, multiples of the stride, and the sizes of what is denoised; None: all of x.
    """
    wanted = x.requires_grad or sigma.requires_grad or any(p.requires_grad for p in model.parameters())
    if torch.is_grad_enabled() and not wanted:
        with torch.no_grad():
            return evaluate(model, x, sigma, stride, part=part, progress=progress)
    folded = model.fold(x)
    before, after = model.network.margins(stride)
    starts, sizes = part or ([0] * (x.ndim - 2), x.shape[2:])
    if torch.is_grad_enabled():
        y = mirrored(x, *((at - before, at + n + after) for at, n in zip(starts, sizes, strict=True)))
        return window(model.estimate(y, sigma, stride, folded), 0, sizes)
    largest = [queries * min(stride, model.network.spacing) for queries in TILE[len(sizes)]]
    sides = [_tile(n, side, stride) for n, side in zip(sizes, largest, strict=True)]
    halo = before + after
    images = max(1, math.prod(n + halo for n in largest) // math.prod(n + halo for n in sides))
    along = (range(0, n, side) for n, side in zip(sizes, sides, strict=True))
    corners = list(product(range(0, len(x), images), *along))
    out = x.new_empty(*x.shape[:2], *sizes)
    # Freed and taken again for each tile, so much memory would leave holes that nothing else fills.
    room = x.new_empty(min(images, len(x)) * x.shape[1] * math.prod(n + halo for n in sides)) if x.ndim == 5 else None
    for b, *corner in tqdm(corners, desc="MLPatch", unit="tile", disable=not progress):  # on stderr
        inside = [min(side, n - at) for side, n, at in zip(sides, sizes, corner, strict=True)]
        first = [start + at for start, at in zip(starts, corner, strict=True)]
        ranges = ((at - before, at + n + after) for at, n in zip(first, inside, strict=True))
        y = mirrored(x[b : b + images], *ranges, room=room)
        piece = model.estimate(y, sigma[b : b + images], stride, folded)
        window(out[b : b + images], corner, inside).copy_(window(piece, 0, inside))
        del piece  # or it would lie between the pieces of the next tile
    return out


def _tile(n: int, largest: int, stride: int) -> int:
    """Return the side of the tiles that cover n pixels: about equal, of about `largest` pixels at most.

    The side is a multiple of the stride, so that the lattices of queries are the same for any tiling.
    """
    count = -(-n // max(largest, stride))
    return -(-n // (count * stride)) * stride
