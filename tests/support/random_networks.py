"""MLPatch with random weights, whose output is far from its input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from denoisers import MLPatch
from denoisers.mlpatch import tiles

SMALL: dict[str, Any] = {"taps": 5, "margin": 1, "features": 8, "hidden": 10, "dilations": (1, 2, 1)}
TWO_LATTICES: dict[str, Any] = {
    "taps": 5,
    "spacing": (2, 4, 2),
    "features": (8, 12, 8),
    "hidden": (10, 9, 7),
    "dilations": ((1,), (1, 2), (1,)),
}


def random_model(seed: int = 0, **options: Any) -> MLPatch:
    """A model whose every weight is random, and every tap off its grid."""
    model = MLPatch(**{**SMALL, **options})
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=g)) if name.endswith("taps") else p.copy_(
                torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
            )
    return model.eval()


def check_tiling(model: MLPatch, x: Tensor, sigma: float | Tensor, stride: int, tile: tuple[int, ...]) -> Tensor:
    """Check that the answer does not depend on the tiles, and return it."""
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        whole: Tensor = model(x, sigma, stride=stride)
        patch.setitem(tiles.TILE, len(tile), tile)
        tiled = model(x, sigma, stride=stride)
    assert whole.shape == x.shape
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-12)
    return whole
