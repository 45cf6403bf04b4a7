"""A core of spongy bone, as a biopsy in a micro-CT scanner: trabeculae and marrow in a plastic tube."""

from __future__ import annotations

import torch
from torch import Tensor

from .random_fields import check_size

TRABECULA, MARROW, PLASTIC = 0.128, 0.0228, 0.0213
"""Attenuation in 1/mm at 40 keV of cortical bone, adipose tissue and polyethylene.

Mass attenuation 0.6655, 0.2396 and 0.2268 cm^2/g (J. H. Hubbell, S. M. Seltzer, NISTIR 5632) times 1.92, 0.95 and
0.94 g/cm^3.
"""
_DRAWN = 96
"""Voxels on a side of the grid on which the trabeculae are drawn, whatever the size."""
_CYCLES = 9.0
"""Trabeculae and gaps along a side."""


def bone_core(size: int = 128, *, generator: torch.Generator | None = None) -> Tensor:
    """Return a core of spongy bone in a tube (1, 1, size, size, size) in 1/mm; edges averaged over 2 x 2 x 2 samples.

    The tube stands along the first axis, 0.9 of the volume wide and 0.84 high; air surrounds it. Trabeculae are rods
    and plates near the zeros of two random fields, a fifth of the core, about a twentieth of a side apart; they
    become thicker from one end to the other. The same generator gives the same core at every size.

    Args:
        size: voxels on a side.
        generator: draws the trabeculae; None: one seeded with 0.
    """
    check_size(size, "bone_core")
    g = torch.Generator().manual_seed(0) if generator is None else generator
    n = 2 * size
    fields = torch.nn.functional.interpolate(_fields(g)[None], size=(n, n, n), mode="trilinear", align_corners=False)[0]
    t = (torch.arange(n) - (n - 1) / 2) / (n / 2)
    z, r = t[:, None, None], torch.hypot(t[:, None], t)
    thick = 0.30 + 0.12 * z
    rods, plates = torch.hypot(*fields) < 1.7 * thick, fields[0].abs() < 0.55 * thick
    inside = (r < 0.78) & (z.abs() < 0.8)
    x = torch.where(inside & (rods | plates), TRABECULA, torch.where(inside, MARROW, 0.0))
    wall = (r >= 0.82) & (r < 0.9) & (z.abs() < 0.84)
    x = torch.where(wall, PLASTIC, x)
    return x.reshape(1, 1, size, 2, size, 2, size, 2).mean((3, 5, 7))


def _fields(generator: torch.Generator) -> Tensor:
    """Return two random fields (2, n, n, n) of unit variance in a band about _CYCLES per side."""
    k = torch.fft.fftfreq(_DRAWN) * _DRAWN
    radius = (k[:, None, None] ** 2 + k[:, None] ** 2 + (torch.fft.rfftfreq(_DRAWN) * _DRAWN) ** 2).sqrt()
    band = torch.exp(-0.5 * ((radius - _CYCLES) / (0.3 * _CYCLES)) ** 2)
    noise = torch.randn(2, *(_DRAWN,) * 3, generator=generator)
    f = torch.fft.irfftn(torch.fft.rfftn(noise, dim=(1, 2, 3)) * band, s=(_DRAWN,) * 3, dim=(1, 2, 3))
    unit: Tensor = f / f.std(dim=(1, 2, 3), keepdim=True)
    return unit
