"""A disc of acrylic with holes of many shapes, as in the Helsinki Tomography Challenge 2022."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .random_fields import check_size

ACRYLIC = 0.034
"""Attenuation of acrylic in 1/mm, as the scanner of the challenge measured it at 45 kV."""


def perforated_disc(size: int = 512, *, generator: torch.Generator | None = None) -> Tensor:
    """Return a disc with holes (1, 1, size, size) in 1/mm: 0 or ACRYLIC, edges averaged over 4 x 4 samples.

    The disc is about 0.92 of the image wide. Holes, 1 to 25 of them, are ellipses and polygons of three to
    seven sides, similar to one another or not, and leave walls of 1 % of the image or more.

    Args:
        size: pixels on a side.
        generator: draws the disc and its holes; None: one seeded with 0.
    """
    check_size(size, "perforated_disc")
    g = torch.Generator().manual_seed(0) if generator is None else generator

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    n = 4 * size
    t = (torch.arange(n) - (n - 1) / 2) / (n / 2)
    centre, radius = (uniform(-0.03, 0.03), uniform(-0.03, 0.03)), uniform(0.88, 0.95)
    x, y = t[None, :] - centre[0], -t[:, None] - centre[1]
    material = torch.hypot(x, y) < radius
    largest = uniform(0.08, 0.35)
    alike = uniform(0, 1) < 0.5  # one shape again and again, or all different
    placed: list[tuple[float, float, float]] = []
    sides, aspect = 0, 1.0
    for k in range(int(uniform(1, 26))):
        if k == 0 or not alike:
            sides, aspect = int(uniform(2, 8)), uniform(0.4, 1.0)
        reach, turn = uniform(0.6, 1.0) * largest, uniform(0, math.pi)
        for _ in range(20):
            distance, direction = (radius - reach - 0.02) * math.sqrt(uniform(0, 1)), uniform(0, 2 * math.pi)
            u, v = distance * math.cos(direction), distance * math.sin(direction)
            if all(math.hypot(u - a, v - b) > reach + c + 0.02 for a, b, c in placed):
                placed.append((u, v, reach))
                material &= ~_hole(x - u, y - v, reach, turn, aspect, sides, g)
                break
    density: Tensor = material.float().reshape(1, 1, size, 4, size, 4).mean((3, 5))
    return ACRYLIC * density


def _hole(x: Tensor, y: Tensor, reach: float, turn: float, aspect: float, sides: int, g: torch.Generator) -> Tensor:
    """Return the mask of a hole within `reach` of its centre: an ellipse for two sides, else a convex polygon."""
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    inside = torch.hypot(u, v / aspect) < reach
    if sides > 2:
        normals = (torch.arange(sides) + 0.3 * torch.rand(sides, generator=g)) * (2 * math.pi / sides)
        for phi in normals.tolist():
            inside = inside & (u * math.cos(phi) + v / aspect * math.sin(phi) < 0.6 * reach)
    return inside
