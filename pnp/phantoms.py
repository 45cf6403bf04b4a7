"""Simulated CT slices in attenuation per millimetre, which need no download.

`head`: skull with diploe, grey and white matter folded by a band-limited random field, fluid in the folds and in two
ventricles, vessels and a lesion. Contrast between soft tissues is about three times that of a real head, as after
windowing; attenuation of water is 0.02 per mm (near 70 keV).

`perforated_disc`: a disc of acrylic with holes of many shapes, as in the Helsinki Tomography Challenge 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["head", "perforated_disc"]

# Attenuation in 1/mm.
SKIN, BONE, DIPLOE, FLUID, WHITE, GREY, VESSEL, LESION = 0.0195, 0.040, 0.031, 0.0200, 0.0215, 0.0232, 0.0262, 0.0250
ACRYLIC = 0.034
"""As the scanner of the challenge saw it, at 45 kV."""


def _field(n: int, cycles: float, width: float, generator: torch.Generator) -> Tensor:
    """A random field (n, n) of unit variance with `cycles` per image, in a band of relative width `width`."""
    k = torch.hypot(torch.fft.fftfreq(n)[:, None] * n, torch.fft.rfftfreq(n) * n)
    band = torch.exp(-0.5 * ((k - cycles) / (width * cycles)) ** 2)
    f = torch.fft.irfft2(torch.fft.rfft2(torch.randn(n, n, generator=generator)) * band, s=(n, n))
    unit: Tensor = f / f.std()
    return unit


def head(size: int = 512, *, generator: torch.Generator | None = None) -> Tensor:
    """A slice of a head (1, 1, size, size) in 1/mm, face up, edges averaged over 2 x 2 samples.

    Args:
        size: pixels on a side; the head is about 0.68 of it wide and 0.85 high.
        generator: draws the folds, texture, vessels and lesion; None: one seeded with 0.
    """
    if size < 16:
        raise ValueError(f"head: size must be at least 16 pixels, got {size}")
    g = torch.Generator().manual_seed(0) if generator is None else generator
    n = 2 * size
    t = (torch.arange(n) - (n - 1) / 2) / (n / 2)
    x, y = t[None, :], -t[:, None]
    # Random fields are drawn at one size, so that the anatomy does not depend on the resolution.
    drawn = torch.stack([_field(256, c, w, g) for c, w in ((9.0, 0.25), (3.0, 0.5), (40.0, 0.5), (5.0, 0.4))])
    folds, slow, fine, edge = torch.nn.functional.interpolate(
        drawn[None], size=(n, n), mode="bicubic", align_corners=False
    )[0]
    # The midline: both halves fold alike, but not quite.
    folds = 0.6 * (folds + folds.flip(1)) + 0.4 * folds
    # Distance from the centre: 1 on the head's outline.
    r = torch.hypot(x / (0.68 - 0.05 * y), y / 0.85) + 0.004 * slow
    image = torch.zeros(n, n)

    def paint(where: Tensor, value: float | Tensor) -> None:
        image.copy_(torch.where(where, torch.as_tensor(value), image))

    paint(r < 1, SKIN)
    paint(r < 0.95, BONE + 0.0008 * slow)
    paint((r < 0.93) & (r > 0.895 + 0.006 * edge), DIPLOE + 0.002 * fine)
    paint(r < 0.875, FLUID)
    brain = r + 0.018 * edge < 0.85
    # Sulci: thin sheets of fluid where the fold field crosses zero near the surface, and the cleft of the midline.
    depth = (0.85 - r).clamp(min=0)
    sulcus = (folds.abs() < 0.16) & (depth < 0.17 + 0.03 * slow)
    cleft = (x.abs() < 0.008 + 0.004 * (1 + slow).clamp(min=0)) & ((y > 0.28) | (y < -0.36))
    cortex = (depth < 0.065) | ((folds.abs() < 0.55) & (depth < 0.2 + 0.03 * slow))
    paint(brain, WHITE + 0.00012 * fine + 0.0001 * slow)
    paint(brain & cortex, GREY + 0.00015 * fine)
    for side in (-1, 1):
        u, v = side * x, y
        paint(torch.hypot((u - 0.17) / 0.085, (v - 0.02) / 0.15) + 0.03 * edge < 1, GREY + 0.00012 * fine)
        # Frontal and occipital horns of the ventricle.
        front = torch.hypot((u - 0.075 - 0.25 * (v - 0.2) ** 2) / 0.045, (v - 0.19) / 0.15)
        back = torch.hypot((u - 0.13 - 0.5 * (v + 0.2)) / 0.05, (v + 0.26) / 0.13)
        paint((front + 0.05 * slow < 1) | (back + 0.05 * slow < 1), FLUID)
    paint(brain & (sulcus | cleft), FLUID)
    spots = torch.rand(14, 3, generator=g)
    for a, b, s in spots.tolist():
        cx, cy, radius = 0.9 * (a - 0.5), 1.2 * (b - 0.5), 0.005 + 0.008 * s
        paint(brain & (torch.hypot(x - cx, y - cy) < radius), VESSEL)
    a, b, s = torch.rand(3, generator=g).tolist()
    lesion = torch.hypot((x - 0.3 - 0.08 * a) / (0.05 + 0.02 * s), (y + 0.1 - 0.2 * b) / 0.06) + 0.12 * edge
    paint(brain & (lesion < 1), LESION + 0.0003 * fine)
    paint(brain & (lesion < 0.5), FLUID)
    return image.reshape(1, 1, size, 2, size, 2).mean((3, 5))


def perforated_disc(size: int = 512, *, generator: torch.Generator | None = None) -> Tensor:
    """A disc with holes (1, 1, size, size) in 1/mm: 0 or ACRYLIC, edges averaged over 4 x 4 samples.

    The disc is 0.92 of the image wide, more or less. Holes, 1 to 25 of them, are ellipses and polygons of three to
    seven sides, similar to one another or not, and leave walls of 1 % of the image or more.

    Args:
        size: pixels on a side.
        generator: draws the disc and its holes; None: one seeded with 0.
    """
    if size < 16:
        raise ValueError(f"perforated_disc: size must be at least 16 pixels, got {size}")
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
    """Where a hole within `reach` of its centre is: an ellipse for two sides, else a convex polygon."""
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    inside = torch.hypot(u, v / aspect) < reach
    if sides > 2:
        normals = (torch.arange(sides) + 0.3 * torch.rand(sides, generator=g)) * (2 * math.pi / sides)
        for phi in normals.tolist():
            inside = inside & (u * math.cos(phi) + v / aspect * math.sin(phi) < 0.6 * reach)
    return inside
