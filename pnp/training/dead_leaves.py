"""Dead leaves: opaque shapes of power-law sizes that fall on one another.

Shapes have sizes of density r^-exponent and random places; each hides those that fell before it. With exponent 3 the
picture has no scale of its own: its power spectrum falls like 1/k^2 and its gradients have heavy tails, like those of
photographs.

Source: A. B. Lee, D. Mumford and J. Huang, Occlusion models for natural images, IJCV 41, 2001.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

_MAX_LEAVES = 20000
_CHUNK = 2**16
"""Samples that are tested against leaves at a time."""
_ELLIPSE, _RECTANGLE, _POLYGON = range(3)
_SIDES = 6
"""Half-planes of a polygon; triangles and quadrilaterals repeat some."""


class Leaves(NamedTuple):
    """A picture of leaves: which one is seen where, and where they are."""

    labels: Integers
    """Number of the leaf in front, (n, n); 0 where the ground is seen."""
    x: Floats
    """Column of each leaf's centre in samples, the ground first."""
    y: Floats
    """Row of each centre."""
    radius: Floats
    """Radius of each leaf in samples; half the width of the picture for the ground."""


_BALL = {2: math.pi, 3: 4 / 3 * math.pi}
"""Area or volume of the unit ball."""


def power_law_radii(
    n: int,
    smallest: float,
    largest: float,
    rng: np.random.Generator,
    *,
    exponent: float,
    cover: float,
    dimensions: int,
    most: int,
) -> NDArray[np.float64]:
    """Draw radii of density r^-exponent, as many as cover a picture of n samples a side so many times.

    Args:
        n: samples on a side.
        smallest, largest: limits of the radii in samples.
        rng: draws them.
        exponent: of the density.
        cover: area, or volume, of the balls with these radii over that of the picture.
        dimensions: of the picture, 2 or 3.
        most: radii at most.
    """
    edges = np.geomspace(smallest, largest, 257)
    middle = np.sqrt(edges[1:] * edges[:-1])
    # Times the area from which a leaf reaches into the picture.
    density = middle ** (1 - exponent) * (n + 2 * middle) ** dimensions
    density /= density.sum()
    ball = _BALL[dimensions] * middle**dimensions
    reached = float(density @ (ball * n**dimensions / (n + 2 * middle) ** dimensions))
    count = int(min(most, max(1, cover * n**dimensions / reached)))
    radii: NDArray[np.float64] = rng.choice(middle, count, p=density) * rng.uniform(0.99, 1.01, count)
    return radii


def dead_leaves(
    n: int,
    smallest: float,
    largest: float,
    rng: np.random.Generator,
    *,
    exponent: float = 3.0,
    cover: float = 3.0,
    shapes: tuple[float, float, float] = (0.5, 0.2, 0.3),
) -> Leaves:
    """Draw leaves onto n x n samples.

    Args:
        n: samples on a side.
        smallest, largest: limits of the radii in samples.
        rng: draws them.
        exponent: of the density of radii, r^-exponent.
        cover: area of all leaves' circumscribed discs over that of the picture; at most 20000 leaves are drawn.
        shapes: shares of ellipses, rectangles and polygons.
    """
    radius = power_law_radii(n, smallest, largest, rng, exponent=exponent, cover=cover, dimensions=2, most=_MAX_LEAVES)
    count = len(radius)
    x, y = rng.uniform(-radius, n + radius), rng.uniform(-radius, n + radius)
    kind = rng.choice(3, count, p=shapes)
    turn = rng.uniform(0, 2 * math.pi, count)
    aspect = np.where(kind == _RECTANGLE, np.exp(rng.uniform(-2.5, 0, count)), rng.uniform(0.3, 1.0, count))
    aspect[(kind == _ELLIPSE) & (rng.random(count) < 0.5)] = 1.0
    sides = rng.integers(3, _SIDES + 1, count)[:, None]
    step = np.arange(_SIDES) % sides + rng.uniform(-0.3, 0.3, (count, _SIDES))
    normals = np.where(np.arange(_SIDES) < sides, step, step[:, :1]) * (2 * math.pi / sides)

    labels = np.zeros(n * n, np.int32)
    # Classes of half an octave: all boxes of a class are as large as its largest leaf.
    size = np.ceil(2 * np.log2(np.maximum(radius, 1.0))).astype(int)
    for level in np.unique(size):
        for shape in (_ELLIPSE, _RECTANGLE, _POLYGON):
            which = np.flatnonzero((size == level) & (kind == shape))
            reach = math.ceil(2 ** (level / 2)) + 1
            per = max(1, _CHUNK // (2 * reach + 1) ** 2)
            for part in np.split(which, range(per, len(which), per)) if len(which) else ():
                _fall(labels, n, reach, shape, part, x, y, radius, turn, aspect, normals)
    single = np.float32
    return Leaves(
        labels.reshape(n, n),
        np.concatenate([[n / 2], x]).astype(single),
        np.concatenate([[n / 2], y]).astype(single),
        np.concatenate([[n / 2], radius]).astype(single),
    )


def _fall(
    labels: Integers,
    n: int,
    reach: int,
    shape: int,
    part: NDArray[np.intp],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    turn: NDArray[np.float64],
    aspect: NDArray[np.float64],
    normals: NDArray[np.float64],
) -> None:
    """Write the numbers of some leaves of one shape where they are in front."""
    left, top = np.floor(x[part]).astype(np.int32), np.floor(y[part]).astype(np.int32)
    if len(part) == 1:  # a large one: only the part of its box within the picture
        columns = np.arange(max(0, left[0] - reach), min(n, left[0] + reach + 1), dtype=np.int32)[None]
        rows = np.arange(max(0, top[0] - reach), min(n, top[0] + reach + 1), dtype=np.int32)[None]
    else:
        box = np.arange(-reach, reach + 1, dtype=np.int32)
        columns, rows = left[:, None] + box, top[:, None] + box
    single = np.float32
    dx = ((columns + 0.5 - x[part, None]) / radius[part, None]).astype(single)
    dy = ((rows + 0.5 - y[part, None]) / radius[part, None]).astype(single)
    # Points outside the picture are never inside a leaf.
    dx[(columns < 0) | (columns >= n)] = 9.0
    dy[(rows < 0) | (rows >= n)] = 9.0
    c, s, a = (values.astype(single)[:, None] for values in (np.cos(turn[part]), np.sin(turn[part]), aspect[part]))
    seen: NDArray[np.bool_]
    if shape == _POLYGON:
        widest: Floats = np.full((1, 1, 1), -np.inf, single)
        for k in range(_SIDES):
            p, q = (values.astype(single)[:, None] for values in (np.cos(normals[part, k]), np.sin(normals[part, k])))
            plane = ((c * p - s * q / a) * dx)[:, None, :] + ((s * p + c * q / a) * dy)[:, :, None]
            widest = np.maximum(widest, plane)
        seen = widest < 0.5
        seen &= (np.square(dx)[:, None, :] + np.square(dy)[:, :, None]) < 1
    else:
        # Along the leaf's axes; v is stretched to the aspect.
        u = (c * dx)[:, None, :] + (s * dy)[:, :, None]
        v = (-s / a * dx)[:, None, :] + (c / a * dy)[:, :, None]
        seen = u * u + v * v < 1 if shape == _ELLIPSE else np.maximum(np.abs(u), np.abs(v)) < 0.7
    at = ((rows * n)[:, :, None] + columns[:, None, :])[seen]
    number = np.repeat((part + 1).astype(np.int32), np.count_nonzero(seen, (1, 2)))
    # Leaves are in order, and of several values for one place the last one is kept.
    ahead = number > labels[at]
    labels[at[ahead]] = number[ahead]
