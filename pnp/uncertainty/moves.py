"""Moves of images that leave the set of plausible images as it is: shifts, flips and quarter turns.

All are permutations of pixels: T^-1 T = 1 holds exactly, every pixel keeps its value, and errors moved back have one at
every pixel. Shifts are therefore circular, by at most a fraction of the side. Around an object with air this is the
same as a shift that fills with zeros. Of an image that fills its frame, opposite edges meet in a seam, where the errors
come out larger, not smaller. Quarter turns need square images; others turn by half a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import short

KINDS = ("shift", "flip", "turn")
"""The moves; "equivariant" stands for all, "none" for none."""
FIRST = 2
"""First axis of an image behind batch and channel."""


class Move(NamedTuple):
    """A flip, then a turn in the plane of the first two axes of the image, then a circular shift.

    Attributes:
        flips: axes that are reversed.
        turns: quarter turns.
        shift: pixels along each axis of the image.

    >>> x = torch.arange(12.0).reshape(1, 1, 3, 4)
    >>> move = Move((3,), 2, (1, -1))
    >>> bool((move.back(move.forth(x)) == x).all())
    True
    """

    flips: tuple[int, ...]
    turns: int
    shift: tuple[int, ...]

    def forth(self, x: Tensor) -> Tensor:
        """Return T x."""
        turned = x.flip(self.flips).rot90(self.turns, (FIRST, FIRST + 1)) if x.ndim > FIRST + 1 else x.flip(self.flips)
        return turned.roll(self.shift, _axes(x))

    def back(self, x: Tensor) -> Tensor:
        """Return T^-1 x."""
        rolled = x.roll([-n for n in self.shift], _axes(x))
        return (rolled.rot90(-self.turns, (FIRST, FIRST + 1)) if x.ndim > FIRST + 1 else rolled).flip(self.flips)


def as_kinds(moves: Any) -> tuple[str, ...]:
    """Return the moves that are drawn, of "equivariant", "none" or some of `KINDS`."""
    if isinstance(moves, str) and moves in ("equivariant", "none"):
        return KINDS if moves == "equivariant" else ()
    if isinstance(moves, (tuple, list)) and all(isinstance(kind, str) and kind in KINDS for kind in moves):
        return tuple(kind for kind in KINDS if kind in moves)
    raise ValueError(f'bootstrap: moves must be "equivariant", "none" or some of {KINDS}, got {short(repr(moves), 60)}')


def draw_move(kinds: Sequence[str], sizes: Sequence[int], max_shift: float, generator: torch.Generator) -> Move:
    """Return a random move of images.

    Args:
        kinds: some of `KINDS`.
        sizes: sides of the image, in pixels.
        max_shift: largest shift along an axis, as a fraction of the side.
        generator: of the CPU. It is drawn from alike whatever the kinds.
    """
    reach = [int(max_shift * n) if "shift" in kinds else 0 for n in sizes]
    shift = tuple(int(u * (2 * n + 1)) - n for u, n in zip(_uniform(len(sizes), generator), reach, strict=True))
    flipped = _uniform(len(sizes), generator)
    flips = [FIRST + k for k, u in enumerate(flipped) if u < 0.5 and k > 0 and "flip" in kinds]
    quarter = int(4 * _uniform(1, generator)[0])
    square = len(sizes) > 1 and sizes[0] == sizes[1]
    turns = 0 if "turn" not in kinds else quarter if square else quarter // 2 * 2
    return Move(tuple(flips), turns, shift)


def _uniform(n: int, generator: torch.Generator) -> list[float]:
    return [float(u) for u in torch.rand(n, generator=generator, dtype=torch.float64)]


def _axes(x: Tensor) -> list[int]:
    return list(range(FIRST, x.ndim))
