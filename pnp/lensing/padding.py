"""Embed fields in larger odd grids, for maps that are not periodic.

Fourier methods assume periodic maps; around a real field there is more sky. In a larger grid, not observed outside the
field (infinite noise), opposite edges do not touch, and mass just outside can explain shear just inside. Sides are odd,
so that the kernel of Kaiser and Squires is unitary, and have only the factors 3, 5, 7 and 11, for fast FFTs.
"""

from __future__ import annotations

from torch import Tensor

from ..checks import check_number


def next_fast_odd(n: int) -> int:
    """Return the least odd number of at least n without prime factors beyond 11.

    >>> [next_fast_odd(n) for n in (1, 256, 360, 361, 1024, 4096)]
    [1, 275, 363, 363, 1029, 4125]
    """
    size = check_number("n", n, above=1, integer=True, or_equal=True, caller="next_fast_odd") | 1
    while not _is_smooth(size):
        size += 2
    return int(size)


def _is_smooth(n: int) -> bool:
    for factor in (3, 5, 7, 11):
        while n % factor == 0:
            n //= factor
    return n == 1


class OddGrid:
    """An odd grid around a field.

    Args:
        shape: (H, W) of the field in pixels.
        margin_px: smallest distance in pixels between the field and its periodic copies; 0: only to make the grid odd.

    >>> grid = OddGrid((360, 360), margin_px=10)
    >>> grid.shape, grid.offset
    ((375, 375), (7, 7))
    """

    def __init__(self, shape: tuple[int, int], *, margin_px: int = 0) -> None:
        margin = check_number("margin_px", margin_px, above=0, integer=True, or_equal=True, caller="OddGrid")
        height, width = shape
        self.field = (int(height), int(width))
        self.margin_px = int(margin)
        self.shape = (next_fast_odd(self.field[0] + self.margin_px), next_fast_odd(self.field[1] + self.margin_px))
        self.offset = ((self.shape[0] - self.field[0]) // 2, (self.shape[1] - self.field[1]) // 2)

    def __repr__(self) -> str:
        return f"OddGrid({self.field}, margin_px={self.margin_px})"

    def embed(self, maps: Tensor, fill: float) -> Tensor:
        """Return maps (..., H, W) on the grid, with `fill` around them: 0 for shear, infinity for its noise."""
        if tuple(maps.shape[-2:]) != self.field:
            raise ValueError(f"OddGrid.embed: maps must be (..., {self.field[0]}, {self.field[1]}), got {_shape(maps)}")
        out = maps.new_full((*maps.shape[:-2], *self.shape), fill)
        self.crop(out)[...] = maps
        return out

    def crop(self, maps: Tensor) -> Tensor:
        """Return the field (..., H, W) of maps on the grid, a view."""
        if tuple(maps.shape[-2:]) != self.shape:
            raise ValueError(f"OddGrid.crop: maps must be (..., {self.shape[0]}, {self.shape[1]}), got {_shape(maps)}")
        (top, left), (height, width) = self.offset, self.field
        return maps[..., top : top + height, left : left + width]


def _shape(maps: Tensor) -> tuple[int, ...]:
    return tuple(maps.shape)
