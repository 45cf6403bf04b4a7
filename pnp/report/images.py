"""Quantise pictures for the browser: value = low + (code - 1) step, code 0 where the value is not finite.

All pictures of a page share one size and one number of bits, chosen to keep the page within `PIXEL_BYTES`: 16 bits per
pixel if they fit, else 8, else means over blocks of f x f pixels (f x f x f voxels) with the smallest f that fits.
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

PIXEL_BYTES = 24 * 2**20
"""Maximum size of all pixels of a page in bytes; as text they take 4/3 of it."""
MAX_ITEMS = 256
"""Maximum number of images (batch times channels) in a page; larger numbers are thinned evenly."""
COLOUR_MAPS = {
    "gray": "grey",
    "viridis": "viridis",
    "inferno": "inferno",
    "cividis": "cividis",
    "RdBu_r": "blue to red",
}
"""matplotlib's colour maps that the page offers, with their labels; the last one is for differences."""
CLIPPED_PERCENT = 0.05
"""Percentage of values clipped at either end with 8 bits, so that outliers do not coarsen the steps."""
SAMPLE_SIZE = 2**21
"""Number of evenly spaced values from which percentiles are computed."""


@dataclass(frozen=True)
class Plan:
    """Storage of the pictures (N, ...) of a page.

    Attributes:
        items: indices of the images that are kept.
        factor: side of the averaged blocks, 1 for none.
        bits: 8 or 16.
        shape: shape as stored, (N, H, W) or (N, nx, ny, nz).
    """

    items: tuple[int, ...]
    factor: int
    bits: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Codes:
    """A quantised picture.

    Attributes:
        text: its codes in base64, little endian, C order.
        low: value of code 1.
        step: difference in value of neighbouring codes, 0 for a constant picture.
        clipped: whether values were clipped to the outermost codes.
    """

    text: str
    low: float
    step: float
    clipped: bool


def plan(shape: tuple[int, ...], n_panels: int, *, limit: int = PIXEL_BYTES) -> Plan:
    """Return how to store n_panels pictures of a shape (N, H, W) or (N, nx, ny, nz) in at most `limit` bytes.

    >>> plan((1, 512, 512), 4).bits, plan((1, 512, 512, 512), 3).shape
    (16, (1, 171, 171, 171))
    """
    kept = tuple(range(0, shape[0], math.ceil(shape[0] / MAX_ITEMS)))
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
    for index in np.ndindex(*means.shape[:2]):  # one row of blocks at a time, to limit the memory for float64
        rows = values[index[0], index[1] * factor : (index[1] + 1) * factor]
        finite = np.isfinite(rows)
        with np.errstate(over="ignore"):  # an overflowing sum has no mean
            total, count = (part.sum(axis=0, dtype=np.float64) for part in (np.where(finite, rows, 0), finite))
            for axis in range(total.ndim):
                starts = np.arange(0, total.shape[axis], factor)
                total, count = (np.add.reduceat(part, starts, axis=axis) for part in (total, count))
        means[index] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def quantise(values: Array, bits: int) -> _Codes:
    """Quantise an array to 8 or 16 bits; values that are not finite become code 0.

    >>> codes = quantise(np.array([[0.0, 1.0, np.nan]]), 16)
    >>> np.frombuffer(base64.b64decode(codes.text), "<u2").tolist(), codes.low + 65534 * codes.step
    ([1, 65535, 0], 1.0)
    """
    kind, top = ("<u2", 2**16 - 1) if bits == 16 else ("u1", 2**8 - 1)
    finite = np.isfinite(values)
    inside = values[finite].astype(np.float64)
    codes = np.zeros(values.shape, dtype=kind)
    if not inside.size:
        return _Codes(_base64(codes), 0.0, 0.0, False)
    low, high = float(inside.min()), float(inside.max())
    outliers = bits == 8
    if outliers:
        least, most = robust_range(inside, CLIPPED_PERCENT)
        if least < most:
            outliers, low, high = low < least or high > most, least, most
    step = high / (top - 1) - low / (top - 1)  # not (high - low)/..., which may overflow
    # Halves, since the difference of two floats may overflow.
    scaled = (inside / 2 - low / 2) / (step / 2) if step / 2 > 0 else np.zeros_like(inside)
    codes[finite] = np.clip(np.rint(scaled), 0, top - 1).astype(kind) + np.array(1, dtype=kind)
    return _Codes(_base64(codes), low, step, outliers)


def pack(mask: Array) -> str:
    """Return the truth values of an array in base64, eight per byte, the first in the highest bit."""
    return _base64(np.packbits(mask))


def robust_range(values: Array, percent: float = 0.1) -> tuple[float, float]:
    """Return a low and a high percentile of the finite values, (0, 1) if there are none.

    Larger arrays are sampled at about two million evenly spaced values.
    """
    flat = sample(values)
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 1.0
    low, high = np.percentile(flat.astype(np.float64), [percent, 100 - percent])
    return float(low), float(high)


def sample(values: Array) -> Array:
    """Return the values of an array as a vector, about two million of a larger one."""
    flat = np.ravel(values)
    return flat[:: math.ceil(flat.size / SAMPLE_SIZE) | 1]  # an odd stride visits all columns of a picture


@lru_cache(maxsize=1)
def colour_tables() -> dict[str, str]:
    """Return the 256 colours of every map in `COLOUR_MAPS`, three bytes each, in base64."""
    from matplotlib import colormaps

    levels = np.arange(256)
    return {name: _base64(colormaps[name](levels, bytes=True)[:, :3]) for name in COLOUR_MAPS}


def _base64(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
