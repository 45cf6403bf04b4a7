"""Data term of a mosaic that is measured pixel by pixel: y = m x + noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from .mosaic_tiles import Array, Bounds, Tiles, as_column, clipped, space, square

MEAN_SHARE = 1e-3
"""Share of alpha below which the mean of a channel counts as not measured, as in `LeastSquaresStep.initial`."""


class Pixels:
    """h(v, alpha) = (m w y + alpha v) / (m^2 w + alpha); `solve` estimates by one random image what is summed here.

    Attributes:
        curvature: max m^2 times the mean of w, over the pixels that count.
        spectral_flatness, coverage: tr(M^2) / (||M|| tr M) and tr M / (n ||M||) of M = m^2 w.
    """

    def __init__(self, tiles: Tiles, mask: Any) -> None:
        self.tiles, self.m, caller = tiles, tiles.like("operator", mask), tiles.caller
        least = tiles.sums(_least, 1, self.m).min()
        if not least >= 0:  # NaN fails too
            raise ValueError(f"{caller}: operator must hold gains >= 0, got {least:.4g}; clip them")
        channels = tiles.shape[0]
        counted, w, m2, *sums = tiles.sums(_moments, 3 + 3 * channels, tiles.y, self.m, tiles.w)
        if not m2.any():
            raise ValueError(f"{caller}: operator measures nothing; is the mask inverted or empty?")
        back, normal, squares = np.array([s.sum() for s in sums]).reshape(3, channels)
        self._n_counted = float(counted.sum())
        self.curvature = float(w.sum() / tiles.n_live * m2.max())
        self.spectral_flatness = min(1.0, float(squares.sum() / (self.curvature * normal.sum())))
        self.coverage = float(normal.sum() / (self.curvature * tiles.size))
        self._alpha = 0.01 * self.curvature
        seen = normal > MEAN_SHARE * self._alpha * tiles.size / channels
        self._constants = np.where(seen, back / np.where(seen, normal, 1), 0).astype(tiles.dtype)
        self._constants = self._constants.reshape(-1, *[1] * (len(tiles.shape) - 1))

    def initial(self, bounds: Bounds) -> Any:
        """See `Problem`."""
        t, c = self.tiles, self._constants
        return t.map(_first, t.y, self.m, t.w, constants=c, alpha=self._alpha, bounds=bounds)

    def x_update(self, v: Any, alpha: float) -> Any:
        """See `Problem`."""
        return self.tiles.map(_x_update, self.tiles.y, self.m, self.tiles.w, v, alpha=alpha)

    def misfit(self, z: Any) -> float:
        """See `Problem`."""
        return float(self.tiles.sums(_misfit, 1, z, self.tiles.y, self.m, self.tiles.w).sum()) / self._n_counted


def _least(m: Array) -> Array:
    return as_column(m.min() if np.isfinite(m).all() else np.nan)


def _moments(y: Array, m: Array, w: Array) -> Array:
    """Return the count of used pixels, sum of w, largest m^2; per channel the sums of m w y, m^2 w, (m^2 w)^2."""
    y, m, w = (a.astype(np.float64) for a in (y, m, w))
    normal = m**2 * w
    sums = [s for values in (m * w * y, normal, normal**2) for s in values.sum(axis=space(y))]
    return as_column(((w > 0) & (m != 0)).sum(), w.sum(), (m**2 * (w > 0)).max(), *sums)


def _x_update(y: Array, m: Array, w: Array, v: Array, *, alpha: float) -> Array:
    a = np.asarray(alpha, y.dtype)
    return (m * w * y + a * v) / (m**2 * w + a)  # type: ignore[no-any-return]


def _first(y: Array, m: Array, w: Array, *, constants: Array, alpha: float, bounds: Bounds) -> Array:
    return clipped(_x_update(y, m, w, constants, alpha=alpha), bounds)


def _misfit(z: Array, y: Array, m: Array, w: Array) -> Array:
    return square(np.sqrt(w) * (m * z - y))
