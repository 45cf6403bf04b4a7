"""A network, images and blurs for tests of mosaics, which worker processes import as well."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from denoisers import MLPatch
from operators import Blur
from operators.blur import gaussian_kernel


def network(
    channels: int = 1, spacing: int = 2, *, dimensions: int = 2, dilations: tuple[int, ...] = (1, 2)
) -> MLPatch:
    """A small MLPatch with random weights, a field of 17 pixels at spacing 2, in float32 on any processor."""
    torch.manual_seed(0)
    sizes = {"taps": 3, "margin": 0, "features": 6, "hidden": 5, "dilations": dilations}
    model = MLPatch(channels, dimensions=dimensions, spacing=spacing, **sizes)
    model.precision = "float32"
    return model.requires_grad_(False)


class Average(nn.Module):
    """The mean of 3 x 3 pixels, mirrored at the border."""

    receptive_field = 3

    def forward(self, x, sigma):
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return nn.functional.avg_pool2d(padded, 3, stride=1)


def picture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).numpy()


def scene(*shape: int) -> np.ndarray:
    """Smooth waves and an edge, in [0, 1]."""
    i, j = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (0.4 + 0.2 * np.sin(i / 9) * np.cos(j / 7) + 0.3 * (i + 2 * j > 1.4 * shape[0])).astype(np.float32)


def blur(shape: tuple[int, int], std: float = 0.7) -> Blur:
    return Blur(gaussian_kernel(std), shape, boundary="reflect")


def skewed(shape: tuple[int, int]) -> Blur:
    """A kernel unlike its mirror images, which has no closed form beside a border."""
    return Blur(torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 0.0]]), shape, boundary="reflect")
