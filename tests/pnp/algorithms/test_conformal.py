"""Conformal factors of known scores, and the bound of risk control."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import seeded

from pnp.algorithms.conformal import (
    _upper_bound,
    conformal_factor,
    factors,
    fewest,
    image_factor,
    is_enough,
    rank_groups,
    risk_controlling_factor,
)


def test_the_bound_is_above_the_mean_with_its_confidence_and_tightens():
    g, misses, n = seeded(), 0, 60
    for _ in range(200):
        losses = (torch.rand(n, generator=g) < 0.15).double().tolist()  # the most variable losses there are
        misses += _upper_bound(losses, 0.1) < 0.15
    assert misses <= 200 * 0.1 + 3 * math.sqrt(200 * 0.09)
    even = [_upper_bound([0.1] * k, 0.1) for k in (20, 100, 1000)]
    assert even[0] > even[1] > even[2] > 0.1
    assert _upper_bound([1.0] * 5, 0.1) == 1.0


def test_factors_of_known_scores():
    scores = torch.arange(1.0, 20.0)[torch.randperm(19, generator=seeded())][:, None].expand(19, 3)
    assert conformal_factor(scores, 0.9).tolist() == [18.0] * 3
    assert conformal_factor(scores, 0.5).tolist() == [10.0] * 3
    flat = torch.ones(200, 10)
    assert float(risk_controlling_factor(flat, 0.9, 0.1)) == pytest.approx(1, rel=2e-3)


def test_pixels_without_an_error_need_no_factor():
    scores = torch.zeros(200, 100)
    assert float(risk_controlling_factor(scores, 0.9, 0.1)) == 0  # and no endless search
    scores[:, :2] = 1
    assert float(risk_controlling_factor(scores, 0.9, 0.1)) == 0
    scores[:, :20] = 1
    assert float(risk_controlling_factor(scores, 0.9, 0.1)) == pytest.approx(1, rel=2e-3)


@pytest.mark.parametrize(("c", "form", "delta"), [(0.9, "field", 0.1), (0.97, "field", 0.2), (0.9, "value", 0.03)])
def test_fewest_finds_the_least_number_of_images(c, form, delta):
    assert fewest(c, form, delta) == next(n for n in range(1, 200) if is_enough(n, c, form, delta))


def test_image_factors_of_known_scores():
    scores = torch.arange(1.0, 11.0).expand(9, 10) * torch.arange(1.0, 10.0)[:, None]
    members = torch.zeros(9, 10, dtype=torch.bool)
    members[:, :5] = True
    # 4 of 5 members are covered at 4 times the image's number; of nine images the fifth is the middle one
    assert float(image_factor(scores, members, 0.8, 0.5)) == 4 * 5
    assert float(image_factor(scores, members, 0.8, 0.1)) == 4 * 9
    assert float(image_factor(scores, ~members, 1.0, 0.5)) == 10 * 5


def test_groups_are_the_ranks_in_each_map():
    maps = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    assert rank_groups(maps, (0.5, 0.75)).tolist() == [[2, 0, 1, 0], [0, 0, 1, 2]]


def test_forms():
    scores = torch.rand(60, 8, generator=seeded())
    group = rank_groups(scores, (0.5,))
    assert torch.equal(factors(scores, group, 2, 0.8, "pixel", 0.1), conformal_factor(scores, 0.8))
    assert torch.equal(factors(scores, group, 2, 0.8, "field", 0.1), risk_controlling_factor(scores, 0.8, 0.1))
    by_group = [image_factor(scores, group == g, 0.8, 0.1) for g in (0, 1)]
    assert torch.equal(factors(scores, group, 2, 0.8, "value", 0.1), torch.stack(by_group))


@pytest.mark.parametrize(("form", "least"), [("pixel", 9), ("value", 9)])
def test_the_least_number_of_images(form, least):
    assert is_enough(least, 0.9, form, 0.1) and not is_enough(least - 1, 0.9, form, 0.1)
