"""A slice of a head: skull with diploe, brain with folds, ventricles, vessels and a lesion.

Grey and white matter are folded by a band-limited random field. Contrast between soft tissues is about three times that
of a real head, as after windowing; attenuation of water is 0.02 per mm (65 keV).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .random_fields import check_size, random_fields

# Attenuation in 1/mm.
_SKIN, BONE, _DIPLOE, _FLUID, _WHITE, _GREY, _VESSEL, _LESION = (
    0.0195,
    0.040,
    0.031,
    0.0200,
    0.0215,
    0.0232,
    0.0262,
    0.0250,
)


def head(size: int = 512, *, generator: torch.Generator | None = None) -> Tensor:
    """Return a slice of a head (1, 1, size, size) in 1/mm, face up, edges averaged over 2 x 2 samples.

    Args:
        size: pixels on a side; the head is about 0.68 of it wide and 0.85 high.
        generator: draws the folds, texture, vessels and lesion; None: one seeded with 0.
    """
    check_size(size, "head")
    g = torch.Generator().manual_seed(0) if generator is None else generator
    n = 2 * size
    t = (torch.arange(n) - (n - 1) / 2) / (n / 2)
    x, y = t[None, :], -t[:, None]
    folds, slow, fine, edge = random_fields(n, ((9.0, 0.25), (3.0, 0.5), (40.0, 0.5), (5.0, 0.4)), g)
    # The midline: both halves fold alike, but not quite.
    folds = 0.6 * (folds + folds.flip(1)) + 0.4 * folds
    # Distance from the centre: 1 on the head's outline.
    r = torch.hypot(x / (0.68 - 0.05 * y), y / 0.85) + 0.004 * slow
    image = torch.zeros(n, n)

    def paint(where: Tensor, value: float | Tensor) -> None:
        image.copy_(torch.where(where, torch.as_tensor(value), image))

    paint(r < 1, _SKIN)
    paint(r < 0.95, BONE + 0.0008 * slow)
    paint((r < 0.93) & (r > 0.895 + 0.006 * edge), _DIPLOE + 0.002 * fine)
    paint(r < 0.875, _FLUID)
    brain = r + 0.018 * edge < 0.85
    # Sulci: thin sheets of fluid where the fold field crosses zero near the surface, and the cleft of the midline.
    depth = (0.85 - r).clamp(min=0)
    sulcus = (folds.abs() < 0.16) & (depth < 0.17 + 0.03 * slow)
    cleft = (x.abs() < 0.008 + 0.004 * (1 + slow).clamp(min=0)) & ((y > 0.28) | (y < -0.36))
    cortex = (depth < 0.065) | ((folds.abs() < 0.55) & (depth < 0.2 + 0.03 * slow))
    paint(brain, _WHITE + 0.00012 * fine + 0.0001 * slow)
    paint(brain & cortex, _GREY + 0.00015 * fine)
    for side in (-1, 1):
        u, v = side * x, y
        paint(torch.hypot((u - 0.17) / 0.085, (v - 0.02) / 0.15) + 0.03 * edge < 1, _GREY + 0.00012 * fine)
        # Frontal and occipital horns of the ventricle.
        front = torch.hypot((u - 0.075 - 0.25 * (v - 0.2) ** 2) / 0.045, (v - 0.19) / 0.15)
        back = torch.hypot((u - 0.13 - 0.5 * (v + 0.2)) / 0.05, (v + 0.26) / 0.13)
        paint((front + 0.05 * slow < 1) | (back + 0.05 * slow < 1), _FLUID)
    paint(brain & (sulcus | cleft), _FLUID)
    spots = torch.rand(14, 3, generator=g)
    for a, b, s in spots.tolist():
        cx, cy, radius = 0.9 * (a - 0.5), 1.2 * (b - 0.5), 0.005 + 0.008 * s
        paint(brain & (torch.hypot(x - cx, y - cy) < radius), _VESSEL)
    a, b, s = torch.rand(3, generator=g).tolist()
    lesion = torch.hypot((x - 0.3 - 0.08 * a) / (0.05 + 0.02 * s), (y + 0.1 - 0.2 * b) / 0.06) + 0.12 * edge
    paint(brain & (lesion < 1), _LESION + 0.0003 * fine)
    paint(brain & (lesion < 0.5), _FLUID)
    return image.reshape(1, 1, size, 2, size, 2).mean((3, 5))
