"""Pictures as codes that a browser can colour: value = low + (code - 1) step, code 0 where there is no finite number.

All pictures of a page share one size and one number of bits, so that the page stays bounded: 16 bits a pixel where
that fits into `LIMIT`, else 8, else means over blocks of f x f pixels (f x f x f voxels) for the least f that fits.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LIMIT = 24 * 2**20
"""Bytes of pixels in a page, 4/3 of that as text."""
MOST_ITEMS = 256
"""Images of a batch, times channels, in a page; more are thinned out evenly."""
COLOURS = {"gray": "grey", "viridis": "viridis", "inferno": "inferno", "cividis": "cividis", "RdBu_r": "blue to red"}
"""Colour maps of matplotlib that the page offers, and their names there; the last is that of differences."""
CLIPPED = 0.05
"""Per cent of the values at either end that 8 bits do not resolve: outliers would take the steps of all others."""
SAMPLE = 2**21
"""Values that percentiles are taken from, evenly spaced."""


@dataclass(frozen=True)
class Plan:
    """How the pictures (N, ...) of a page are stored.

    Attributes:
        items: which of the N images are kept.
        factor: side of the blocks that are averaged, 1 for none.
        bits: 8 or 16.
        shape: of what is stored, (N, H, W) or (N, nx, ny, nz).
    """

    items: tuple[int, ...]
    factor: int
    bits: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Codes:
    """A quantised picture.

    Attributes:
        text: its codes in base64, little endian, C order.
        low: value of code 1.
        step: difference of neighbouring codes, 0 for a constant picture.
        clipped: whether values beyond the outermost codes were moved to them.
    """

    text: str
    low: float
    step: float
    clipped: bool


def plan(shape: tuple[int, ...], n_panels: int, *, limit: int = LIMIT) -> Plan:
    """Return how to store n_panels pictures of a shape (N, H, W) or (N, nx, ny, nz) in at most `limit` bytes.

    >>> plan((1, 512, 512), 4).bits, plan((1, 512, 512, 512), 3).shape
    (16, (1, 171, 171, 171))
    """
    kept = tuple(range(0, shape[0], math.ceil(shape[0] / MOST_ITEMS)))
    for factor in range(1, max(shape[1:]) + 1):
        small = (len(kept), *(math.ceil(n / factor) for n in shape[1:]))
        for bits in (16, 8):
            if n_panels * math.prod(small) * bits // 8 <= limit:
                return Plan(kept, factor, bits, small)
    raise ValueError(f"report: {n_panels} pictures of shape {shape} do not fit into {limit} bytes; compare fewer")


def block_mean(values: Array, factor: int) -> Array:
    """Return the means of the finite values over blocks of all axes but the first; NaN where there are none.

    >>> block_mean(np.array([[1.0, 3.0, 5.0]]), 2)
    array([[2., 5.]])
    """
    if factor == 1:
        return values
    means = np.empty((len(values), *(math.ceil(n / factor) for n in values.shape[1:])))
    for index in np.ndindex(*means.shape[:2]):  # a row of blocks at a time: float64 of all would not fit
        rows = values[index[0], index[1] * factor : (index[1] + 1) * factor]
        finite = np.isfinite(rows)
        with np.errstate(over="ignore"):  # a sum out of range has no mean
            total, count = (part.sum(axis=0, dtype=np.float64) for part in (np.where(finite, rows, 0), finite))
            for axis in range(total.ndim):
                starts = np.arange(0, total.shape[axis], factor)
                total, count = (np.add.reduceat(part, starts, axis=axis) for part in (total, count))
        means[index] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def quantise(values: Array, bits: int) -> Codes:
    """Quantise an array to 8 or 16 bits; what is not finite becomes code 0.

    >>> codes = quantise(np.array([[0.0, 1.0, np.nan]]), 16)
    >>> np.frombuffer(base64.b64decode(codes.text), "<u2").tolist(), codes.low + 65534 * codes.step
    ([1, 65535, 0], 1.0)
    """
    kind, top = ("<u2", 2**16 - 1) if bits == 16 else ("u1", 2**8 - 1)
    finite = np.isfinite(values)
    inside = values[finite].astype(np.float64)
    codes = np.zeros(values.shape, dtype=kind)
    if not inside.size:
        return Codes(_base64(codes), 0.0, 0.0, False)
    low, high = float(inside.min()), float(inside.max())
    outliers = bits == 8
    if outliers:
        least, most = robust_range(inside, CLIPPED)
        if least < most:
            outliers, low, high = low < least or high > most, least, most
    step = high / (top - 1) - low / (top - 1)  # not (high - low)/..., which may overflow
    # Halves, since the difference of two floats may overflow.
    scaled = (inside / 2 - low / 2) / (step / 2) if step / 2 > 0 else np.zeros_like(inside)
    codes[finite] = np.clip(np.rint(scaled), 0, top - 1).astype(kind) + np.array(1, dtype=kind)
    return Codes(_base64(codes), low, step, outliers)


def pack(mask: Array) -> str:
    """Return the truth values of an array, eight a byte, the first in the highest bit, in base64."""
    return _base64(np.packbits(mask))


def robust_range(values: Array, percent: float = 0.1) -> tuple[float, float]:
    """Return a percentile from either end of the finite values, (0, 1) where there are none.

    Of more than two million values, some two million evenly spaced ones are asked.
    """
    flat = sample(values)
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 1.0
    low, high = np.percentile(flat.astype(np.float64), [percent, 100 - percent])
    return float(low), float(high)


def sample(values: Array) -> Array:
    """Return all values of an array, or some two million of a larger one, as a vector."""
    flat = np.ravel(values)
    return flat[:: math.ceil(flat.size / SAMPLE) | 1]  # an odd stride meets all columns of a picture


@lru_cache(maxsize=1)
def colour_tables() -> dict[str, str]:
    """Return 256 colours of every map in `COLOURS`, three bytes each, in base64."""
    from matplotlib import colormaps

    levels = np.arange(256)
    return {name: _base64(colormaps[name](levels, bytes=True)[:, :3]) for name in COLOURS}


def _base64(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
