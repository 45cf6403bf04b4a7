"""Odd grids around a field, and reduced shear where it no longer determines the mass."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import F64, rand
from hypothesis import given, settings
from hypothesis import strategies as st

from pnp.lensing.padding import OddGrid, next_fast_odd
from pnp.lensing.reduced_shear import reduced_to_shear, shear_to_reduced, undo_reduction


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 50), margin=st.integers(0, 99))
def test_odd_grids_hold_the_field_and_its_margin(height: int, width: int, margin: int) -> None:
    grid = OddGrid((height, width), margin_px=margin)
    for n, size in zip((height, width), grid.shape, strict=True):
        assert size % 2 == 1 and n + margin <= size
        assert (3 * 5 * 7 * 11) ** 13 % size == 0, "no prime factor beyond 11"
        assert size <= 1.35 * (n + margin) + 2
    maps = rand(2, 1, height, width)
    around = grid.embed(maps, math.inf)
    assert torch.equal(grid.crop(around), maps)
    assert int(around.isinf().sum()) == around.numel() - maps.numel()


def test_fast_odd_lengths_are_the_next() -> None:
    smooth = sorted(3**a * 5**b * 7**c * 11**d for a in range(7) for b in range(5) for c in range(4) for d in range(4))
    for n in range(1, 700):
        assert next_fast_odd(n) == next(s for s in smooth if s >= n)
    with pytest.raises(ValueError, match=r"OddGrid\.embed: maps"):
        OddGrid((4, 5)).embed(torch.zeros(5, 4), 0)
    with pytest.raises(ValueError, match=r"OddGrid\.crop: maps"):
        OddGrid((4, 5)).crop(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="margin_px"):
        OddGrid((4, 5), margin_px=-1)


def test_reduced_shear_near_the_critical_curve_stays_finite() -> None:
    g, std = torch.ones(1, 2, 1, 2, dtype=F64), torch.tensor([[[[0.1, math.inf]]]], dtype=F64)
    kappa = torch.tensor([[[[5.0, -1.0]]]], dtype=F64)
    shear, noise = reduced_to_shear(g, std, kappa)
    assert torch.allclose(shear[0, 0, 0], torch.tensor([0.1, 2.0], dtype=F64))
    assert float(noise[0, 0, 0, 0]) == pytest.approx(0.01) and noise[..., 1].isinf().all()
    with pytest.raises(ValueError, match=r"kappa .* 5"):
        shear_to_reduced(g, kappa)
    with pytest.warns(UserWarning, match="convergence .* 5"):
        maps, changes = undo_reduction(lambda y, s: kappa, g, std)
    assert torch.equal(maps, kappa) and changes == [0.0]
