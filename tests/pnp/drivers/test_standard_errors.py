"""Standard errors of means of values that are like their neighbours."""

from __future__ import annotations

import math

import pytest
import torch

from pnp.drivers.standard_errors import FEWEST_GROUPS, neighbourhoods, standard_error


def test_it_is_that_of_independent_groups_of_the_size_that_gives_most():
    values = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    sizes = torch.arange(8), torch.arange(8) // 2, torch.arange(8) // 4
    assert standard_error(values, sizes[:1]) == pytest.approx(1 / 7**0.5)
    assert standard_error(values, sizes[:2]) == standard_error(values, sizes) == pytest.approx(1 / 3**0.5)
    assert standard_error(values, (torch.zeros(8, dtype=torch.long),)) == math.inf


def test_neighbourhoods_are_boxes_of_twice_the_side_each():
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, ::2, 5:90] = True
    groups = neighbourhoods(mask, (1, 4, 4))
    where = mask.nonzero()
    for i, found in enumerate(groups):
        side = 4 * 2**i
        boxes = where[:, 1] // side * 1000 + where[:, 2] // side
        pairs = torch.unique(torch.stack([found, boxes]), dim=1)
        assert pairs.shape[1] == len(torch.unique(found)) == len(torch.unique(boxes)) >= FEWEST_GROUPS
    assert len(groups) == 3  # of side 32 there would be 6


@pytest.mark.parametrize("length", [0, 1, 4])
def test_it_holds_for_correlated_noise(length):
    """The spread of means of squares of noise that is averaged over neighbours, against what each sample says."""
    generator = torch.Generator().manual_seed(0)
    width = 2 * length + 1
    noise = torch.randn(200, 8, 400 + width - 1, generator=generator, dtype=torch.float64)
    squares = noise.unfold(2, width, 1).mean(3).square() * width
    groups = neighbourhoods(torch.ones(8, 400, dtype=torch.bool), (1, 8))
    found = torch.tensor([standard_error(one.flatten(), groups) for one in squares])
    assert float(found.mean() / squares.mean((1, 2)).std()) == pytest.approx(1.0, abs=0.2)
    assert float(found.std() / found.mean()) < 0.25


def test_few_values_are_one_size_of_groups():
    mask = torch.ones(5, dtype=torch.bool)
    assert len(neighbourhoods(mask, (1,))) == 1 and len(neighbourhoods(mask, (1,))[0]) == 5
