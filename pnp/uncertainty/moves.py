"""Moves of images that leave the set of plausible images as it is: shifts, flips, quarter turns and zooms.

Shifts, flips and turns are permutations of pixels: T^-1 T = 1 holds exactly, every pixel keeps its value, and errors
moved back have one at every pixel. Shifts are therefore circular, by at most a fraction of the side. Around an object
with air this is the same as a shift that fills with zeros. Of an image that fills its frame, opposite edges meet in a
seam, where the errors come out larger, not smaller. Quarter turns need square images; others turn by half a turn.

A zoom shows the image at half its size: means of 2 x 2 pixels, the frame filled up with the values at its border. What
has the size of two pixels in x then has that of one, and is lost, as detail of that size was when x was found. An error
moved back is that of the mean of 2 x 2 pixels. That the world looks alike at all sizes is what makes it plausible: J.
Scanvic, M. Davies, P. Abry and J. Tachella, Self-supervised learning for image super-resolution and deblurring (arXiv
2312.11232), train networks by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import short

KINDS = ("shift", "flip", "turn", "zoom")
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


class Zoom(NamedTuple):
    """A move, and then a zoom to half the size.

    Attributes:
        move: the flip and the turn.
        corner: first pixel of the small image along each axis.

    >>> zoom = Zoom(Move((), 0, (0, 0)), (1, 1))
    >>> zoom.forth(torch.arange(16.0).reshape(1, 1, 4, 4))[0, 0, 1]
    tensor([2.5000, 2.5000, 4.5000, 4.5000])
    """

    move: Move
    corner: tuple[int, ...]

    def forth(self, x: Tensor) -> Tensor:
        """Return T x, of the shape of x."""
        x = self.move.forth(x)
        for axis, first in zip(_axes(x), self.corner, strict=True):
            n = x.shape[axis]
            pixels = torch.arange(0, n, 2, device=x.device)
            small = (x.index_select(axis, pixels) + x.index_select(axis, (pixels + 1).clamp(max=n - 1))) / 2
            x = small.index_select(axis, (torch.arange(n, device=x.device) - first).clamp(0, len(pixels) - 1))
        return x

    def back(self, errors: Tensor) -> Tensor:
        """Return the error of T x that belongs to each pixel of x."""
        for axis, first in zip(_axes(errors), self.corner, strict=True):
            pixels = first + torch.arange(errors.shape[axis], device=errors.device) // 2
            errors = errors.index_select(axis, pixels)
        return self.move.back(errors)


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


def draw_zoom(kinds: Sequence[str], sizes: Sequence[int], max_shift: float, generator: torch.Generator) -> Zoom:
    """Return a random zoom about the middle of the frame, which scanners see best; arguments as of `draw_move`."""
    move = draw_move([kind for kind in kinds if kind != "shift"], sizes, max_shift, generator)
    corner = []
    for n, u in zip(sizes, _uniform(len(sizes), generator), strict=True):
        free = n // 2
        reach = min(int(max_shift * n), free // 2)
        corner.append(free // 2 + int(u * (2 * reach + 1)) - reach)
    return Zoom(move, tuple(corner))


def _uniform(n: int, generator: torch.Generator) -> list[float]:
    return [float(u) for u in torch.rand(n, generator=generator, dtype=torch.float64)]


def _axes(x: Tensor) -> list[int]:
    return list(range(FIRST, x.ndim))
