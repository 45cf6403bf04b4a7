"""Moves are permutations that are undone exactly, and drawn from the whole group."""

from __future__ import annotations

import pytest
import torch
from arrays import rand, seeded

from pnp.uncertainty.held_out import N_FOLDS, draw_groups, factor_of
from pnp.uncertainty.moves import KINDS, as_kinds, draw_move, draw_zoom


@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (1, 3, 8, 11), (1, 1, 6, 6, 5), (1, 1, 13)])
def test_moves_are_undone_and_keep_shapes(shape):
    x, g = rand(*shape), seeded()
    for _ in range(30):
        move = draw_move(KINDS, shape[2:], 0.3, g)
        moved = move.forth(x)
        assert moved.shape == x.shape and torch.equal(move.back(moved), x)
        assert torch.equal(moved.flatten().sort().values, x.flatten().sort().values)


def test_all_moves_of_a_square_are_drawn():
    g, found = seeded(), [draw_move(KINDS, (20, 20), 0.1, seeded(i)) for i in range(300)]
    assert {(len(m.flips), m.turns) for m in found} == {(f, t) for f in (0, 1) for t in range(4)}
    assert {m.shift[0] for m in found} == set(range(-2, 3))
    assert all(draw_move((), (20, 20), 0.1, g)[:] == ((), 0, (0, 0)) for _ in range(5))
    assert all(draw_move(("turn",), (20, 21), 0.1, g).turns in (0, 2) for _ in range(20))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 3, 8, 12), (1, 1, 6, 6, 4), (1, 1, 14)])
def test_zooms_are_undone_but_for_means_of_neighbours(shape):
    x = rand(*shape)
    for axis in range(2, x.ndim):
        x = x.unflatten(axis, (-1, 2)).mean(axis + 1).repeat_interleave(2, axis)
    for seed in range(10):
        zoom = draw_zoom(KINDS, shape[2:], 0.2, seeded(seed))
        small = zoom.forth(x)
        torch.testing.assert_close(zoom.back(small), x)
        assert small.shape == x.shape and all(0 <= c <= n // 2 for c, n in zip(zoom.corner, shape[2:], strict=True))


def test_zooms_fill_the_frame_with_the_border_and_take_odd_sides():
    x = rand(1, 1, 9, 7)
    zoom = draw_zoom(("zoom",), (9, 7), 0.0, seeded())
    small = zoom.forth(x)
    assert zoom.corner == (2, 1) and zoom.back(small).shape == small.shape == x.shape
    assert torch.equal(small[..., 0, :], small[..., 2, :]) and torch.equal(small[..., 0], small[..., 1])
    assert torch.equal(small[..., 6, 4], x[..., 8, 6])  # the last pixel has no neighbour to be averaged with
    torch.testing.assert_close(small[..., 3, 2], x[..., 2:4, 2:4].mean((-1, -2)))


def test_names():
    assert as_kinds("equivariant") == KINDS and as_kinds("none") == () and as_kinds(["turn", "shift"])[0] == "shift"


def test_held_out_views_are_whole_and_even():
    groups = draw_groups("views", None, torch.zeros(2, 1, 60, 7), seeded())
    assert groups.shape == (2, 1, 60, 7) and bool((groups == groups[:, :, :, :1]).all())
    assert sorted(groups.unique().tolist()) == list(range(60))
    held = (groups[0, 0, :, 0] % N_FOLDS == 3).nonzero()[:, 0]
    assert len(held) == 6 and set(held.diff().tolist()) == {10}


def test_held_out_blocks_are_blocks():
    groups = draw_groups("blocks", None, torch.zeros(1, 1, 64, 62), seeded())[0, 0]
    held = (groups % N_FOLDS == 0)[:, :60].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).float().mean(-1)
    assert set(held.unique().tolist()) == {0.0, 1.0} and 0.05 < float(held.mean()) < 0.15


def test_every_part_of_single_measurements_is_a_tenth():
    groups = draw_groups("measurements", None, torch.zeros(3, 2, 50), seeded())
    assert (groups[0] % N_FOLDS).flatten().bincount().tolist() == [10] * 10
    assert bool((groups == groups[:1]).all()) and int(groups.max()) < 200


def test_factor_is_the_root_of_the_ratio_and_at_least_one():
    predicted = torch.ones(3, 10, dtype=torch.float64)
    above = torch.tensor([4.0, 0.25, -1.0], dtype=torch.float64)[:, None].expand(3, 10)
    factor, spread = factor_of(above, predicted)
    assert factor.tolist() == [2.0, 1.0, 1.0] and spread.tolist() == [0.0, 0.0, 0.0]
    noisy = 4 + rand(1, 400, seed=2)
    factor, spread = factor_of(noisy, torch.ones(1, 400, dtype=torch.float64))
    assert float(spread) == pytest.approx(float(noisy.std()) / 400**0.5 / (2 * float(factor)), rel=0.02)
