"""The noise estimate where pixels are missing or have gains: what was measured, and nothing else."""

from __future__ import annotations

import pytest
import torch
from arrays import F64, rand, uniform
from torch import Tensor

from pnp import estimate_noise_std

SIZE = (128, 128)


def scene(n_channels: int = 1) -> Tensor:
    """A ramp with a step, whose second differences vanish but at the step."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=F64) for n in SIZE), indexing="ij")
    return (0.01 * rows - 0.02 * columns + (columns > 70)).expand(1, n_channels, *SIZE)


def noisy(std: float, n_channels: int = 1) -> Tensor:
    return scene(n_channels) + std * rand(1, n_channels, *SIZE, seed=1)


def test_a_gain_of_one_changes_no_bit():
    for dtype in (torch.float32, torch.float64, torch.complex64):
        y = noisy(0.1).to(dtype) + (0.1j * rand(*SIZE, seed=2) if dtype.is_complex else 0)
        assert estimate_noise_std(y, torch.ones(SIZE, dtype=torch.bool)) == estimate_noise_std(y)
    kept = uniform(*SIZE, seed=3) > 0.2
    assert estimate_noise_std(noisy(0.1), kept) == estimate_noise_std(kept * noisy(0.1))


@pytest.mark.parametrize("holes", [0.0, 1.0, "noise", "huge"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_what_a_hole_holds_does_not_count(share, holes):
    kept = uniform(*SIZE, seed=4) < share
    filled = {"noise": rand(1, 1, *SIZE, seed=5), "huge": 1e9 * rand(1, 1, *SIZE, seed=5)}.get(str(holes), holes)
    y = torch.where(kept, noisy(0.05), torch.as_tensor(filled, dtype=F64))
    tolerance = 0.05 if share > 0.4 else 0.15 if share > 0.15 else 0.35  # of 77 triples at the least
    assert estimate_noise_std(y, kept) == pytest.approx(0.05, rel=tolerance)


def test_gains_are_divided_out_before_neighbours_are_compared():
    gain = 0.5 + 2 * uniform(*SIZE, seed=6)
    gain[uniform(*SIZE, seed=7) < 0.3] = 0
    y = gain * (100 + scene()) + 0.05 * rand(1, 1, *SIZE, seed=8)
    assert estimate_noise_std(y) > 1  # as they are, the gains are taken for noise
    for scale in (1.0, 7.0):
        assert estimate_noise_std(y, scale * gain) == pytest.approx(0.05, rel=0.1)


def test_a_mosaic_of_colours_is_estimated_along_its_diagonals():
    """Bayer's pattern: no three neighbours in a row, but greens along the diagonals."""
    mask = torch.zeros(3, *SIZE)
    mask[0, 1::2, 1::2] = mask[1, 0::2, 1::2] = mask[1, 1::2, 0::2] = mask[2, 0::2, 0::2] = 1
    assert estimate_noise_std(mask * noisy(0.05, 3), mask) == pytest.approx(0.05, rel=0.05)


def test_columns_alone_suffice_and_too_few_pixels_are_refused():
    columns = torch.zeros(SIZE, dtype=torch.bool)
    columns[:, ::3] = True
    assert estimate_noise_std(noisy(0.05), columns) == pytest.approx(0.05, rel=0.05)
    grid = torch.zeros(SIZE, dtype=torch.bool)
    grid[::2, ::2] = True
    with pytest.raises(ValueError, match="noise_std"):
        estimate_noise_std(noisy(0.05), grid)
    with pytest.raises(ValueError, match="noise_std"):
        estimate_noise_std(0 * noisy(0.05), columns)
