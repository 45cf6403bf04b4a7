"""Geometry of the HEALPix grid (Gorski et al. 2005, ApJ 622, 759): pixels in ring order, angles in radians."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.lensing.harmonics import ducc

_Array = npt.NDArray[Any]


@lru_cache(maxsize=4)
def grid(nside: int, order: str = "RING") -> Any:
    """Return ducc0's HEALPix grid, "RING" or "NEST"."""
    return ducc().healpix.Healpix_Base(nside, order)


def pixel_side(nside: int) -> float:
    """Return the root of a pixel's area in radians.

    >>> round(60 * math.degrees(pixel_side(512)), 2)
    6.87
    """
    return math.sqrt(math.pi / 3) / nside


def directions(nside: int, pixels: _Array | None = None) -> _Array:
    """Return unit vectors (n, 3) to pixels, or to all."""
    found: _Array = grid(nside).pix2vec(np.arange(12 * nside**2) if pixels is None else pixels)
    return found


def pixels_of(nside: int, ra: _Array, dec: _Array) -> _Array:
    """Return the pixel of each position, in degrees."""
    angles = np.stack([np.radians(90 - np.asarray(dec)), np.radians(np.asarray(ra) % 360)], axis=-1)
    found: _Array = grid(nside).ang2pix(angles)
    return found


def disc(nside: int, centre: _Array, radius: float) -> _Array:
    """Return the pixels whose centres lie within a radius of a direction, a unit vector."""
    theta, phi = math.acos(float(np.clip(centre[2], -1, 1))), math.atan2(float(centre[1]), float(centre[0]))
    ranges = grid(nside).query_disc(np.array([theta, phi % (2 * math.pi)]), radius)
    return np.concatenate([np.arange(a, b) for a, b in ranges.astype(np.int64)] or [np.zeros(0, np.int64)])


def to_ring(values: _Array) -> _Array:
    """Return maps (..., n_pix) in ring order, given in nested order."""
    nside = math.isqrt(values.shape[-1] // 12)
    found: _Array = values[..., grid(nside, "RING").ring2nest(np.arange(values.shape[-1]))]
    return found


def to_nested(values: _Array) -> _Array:
    """Return maps (..., n_pix) in nested order, given in ring order."""
    nside = math.isqrt(values.shape[-1] // 12)
    found: _Array = values[..., grid(nside, "RING").nest2ring(np.arange(values.shape[-1]))]
    return found
