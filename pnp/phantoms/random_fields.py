"""Random fields for phantoms, the same at every resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_size(size: int, caller: str) -> None:
    """Refuse images too small for anatomy."""
    if size < 16:
        raise ValueError(f"{caller}: size must be at least 16 pixels, got {size}")


def random_fields(
    n: int, bands: Sequence[tuple[float, float]], generator: torch.Generator, *, drawn: int = 256
) -> Tensor:
    """Return fields (len(bands), n, n) of unit variance, the same at every n but for interpolation.

    Args:
        n: samples on a side.
        bands: (cycles per image, relative width) of each.
        generator: draws them.
        drawn: samples on a side of the grid on which they are drawn, whatever n is.
    """
    fields = torch.stack([_field(drawn, cycles, width, generator) for cycles, width in bands])
    if n != drawn:
        fields = torch.nn.functional.interpolate(fields[None], size=(n, n), mode="bicubic", align_corners=False)[0]
    return fields


def _field(n: int, cycles: float, width: float, generator: torch.Generator) -> Tensor:
    """Return a random field (n, n) of unit variance with `cycles` per image, in a band of relative width `width`."""
    k = torch.hypot(torch.fft.fftfreq(n)[:, None] * n, torch.fft.rfftfreq(n) * n)
    band = torch.exp(-0.5 * ((k - cycles) / (width * cycles)) ** 2)
    f = torch.fft.irfft2(torch.fft.rfft2(torch.randn(n, n, generator=generator)) * band, s=(n, n))
    unit: Tensor = f / f.std()
    return unit
