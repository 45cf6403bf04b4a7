"""LIIF, the learned implicit image function, implemented from its paper: Chen, Liu and Wang, CVPR 2021, section 3.

A value at a coordinate c is an MLP of the feature of a nearby low-resolution pixel, of c relative to that pixel, and of
the size of the requested pixel (cell decoding):

    s(c) = sum_t (S_t / S) f(F_t, c - c_t, cell),    F = 3 x 3 neighbours' features, concatenated (unfolding)

over the four pixels t around c, each with the area S_t of the rectangle between c and the pixel diagonally opposite
(local ensemble). The encoder is EDSR's baseline without its upsampling (Lim et al., CVPR Workshops 2017): 16 residual
blocks of 64 channels, no normalisation. Lengths are in half pixels, as with the paper's coordinates in [-1, 1].
1.57 M parameters in colour.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.mlpatch.super_resolver import output_coords

__all__ = ["LIIF", "ensemble"]


class Residual(nn.Module):
    """Residual block x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


class LIIF(nn.Module):
    """Super-resolution of images (B, channels, H, W) in [0, 1] at any factor.

    Args:
        channels: channels of the image.
        width: channels of the features.
        blocks: residual blocks of the encoder.
        hidden: width of the MLP's four hidden layers.
        residual: add bilinear interpolation to the output of the MLP, unlike the paper.
        max_factor: largest factor of the training; beyond it the cell stays that of this factor, the smallest that the
            MLP was trained on (as in the demonstration in the authors' code).
    """

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 64,
        blocks: int = 16,
        hidden: int = 256,
        residual: bool = False,
        max_factor: float = math.inf,
    ) -> None:
        super().__init__()
        self.residual, self.max_factor = residual, max_factor
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.Sequential(*(Residual(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        sizes = [9 * width + 4, *[hidden] * 4]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.decode = nn.Sequential(*layers, nn.Linear(hidden, channels))

    def encode(self, x: Tensor) -> Tensor:
        """Return unfolded features (B, 9 width, H, W)."""
        f = self.head(2 * x - 1)
        f = f + self.body(f)
        return F.unfold(f, 3, padding=1).unflatten(2, f.shape[2:])

    def query(self, x: Tensor, features: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
        """Return values (B, C, N) at coords (N, 2); cell (2,) is the size of a requested pixel in pixels of x."""
        value = 0
        for pixel, weight in ensemble(coords, x.shape[2:]):
            f = features[:, :, pixel[:, 0], pixel[:, 1]].movedim(1, 2)
            where = torch.cat([2 * (coords - pixel), (2 * cell).expand(len(coords), 2)], 1).to(f.dtype)
            g = self.decode(torch.cat([f, where.expand(len(f), -1, -1)], 2)).float()
            weight = weight.to(g.dtype)
            value = value + weight * (g.movedim(2, 1) + 1) / 2
            if self.residual:
                value = value + weight * (x[:, :, pixel[:, 0], pixel[:, 1]] - 0.5)
        return value

    def at(self, x: Tensor, coords: Tensor, cell: Tensor, *, chunk: int = 16384) -> Tensor:
        """Return values (B, C, N) at coords (N, 2), (row, column) in pixels of x from the first pixel's centre."""
        features, coords, cell = self.encode(x), coords.to(x.device), cell.to(x.device)
        return torch.cat([self.query(x, features, part, cell) for part in coords.split(chunk)], 2)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Super-resolve x on a grid of `size` pixels that covers the same area."""
        rows, cols = (output_coords(n, m) for n, m in zip(x.shape[2:], size, strict=True))
        cell = torch.tensor([x.shape[2] / size[0], x.shape[3] / size[1]], dtype=torch.float64)
        cell = cell.clamp(min=1 / self.max_factor)
        return self.at(x, torch.cartesian_prod(rows, cols), cell).unflatten(2, size)


def ensemble(coords: Tensor, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels (N, 2) around coordinates, inside the image, with weights (N,) that sum to one."""
    low = coords.floor()
    t = coords - low
    last = torch.tensor(shape, device=coords.device) - 1
    return [
        (
            # Outside the border its pixel counts twice.
            (low.long() + torch.tensor([i, j], device=coords.device)).clamp(min=0).minimum(last),
            (t[:, 0] if i else 1 - t[:, 0]) * (t[:, 1] if j else 1 - t[:, 1]),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
