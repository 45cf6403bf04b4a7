"""The measurements of a mosaic cut in tiles, one iteration on them, and the sums over them that `solve` needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..api import EXACT
from .mosaic import Tiling, as_mosaic, run, written
from .parts import new_array
from .sources import FileSource, as_source

__all__ = ["MosaicProblem"]

Array = npt.NDArray[Any]
Bounds = tuple[float | None, float | None]
SAMPLES = 1_000_000
"""Pixels that tell the robust range of the first estimate, as in `schedules.robust_range`."""
CONSTANT = 1e-3
"""Share of alpha below which a channel's mean is not measured, as in `LeastSquaresStep.initial`."""


class MosaicProblem:
    """y = m x + noise on tiles (C, h, w).

    Attributes:
        size: number of pixels, in all channels.
        curvature: max m^2 times the mean of w, over the pixels that count.
        evenness: tr(M^2) / (||M|| tr M) of M = m^2 w.
    """

    def __init__(self, y: Any, mask: Any, noise_std: Any, tiling: Tiling, client: Any, caller: str) -> None:
        self.tiling, self.client, self.caller = tiling, client, caller
        self.shape, self.dtype, self.size = (1, *y.shape)[-3:], y.dtype, math.prod(y.shape)
        raw, m, std = as_mosaic(y, tiling), self._like("mask", mask), self._like("noise_std", noise_std)
        bad, n_live, energy, least_m, least_std = self._sums(_survey, 5, raw, m, std)
        least_m, least_std = least_m.min(), least_std.min()
        if not least_m >= 0:  # NaN fails too
            raise ValueError(f"{caller}: mask must be finite and >= 0, got {least_m:.4g} among its values")
        if not least_std > 0:
            raise ValueError(f"{caller}: noise_std must be positive, got {least_std:.4g}; infinity: no information")
        if bad.any():
            raise ValueError(
                f"{caller}: y must be finite, got NaN or infinity in {bad.sum():.0f} of {self.size} pixels; set "
                "noise_std to infinity there to leave them out"
            )
        if not n_live.any():
            raise ValueError(f"{caller}: noise_std is infinite everywhere, so y carries no information")
        least = EXACT * math.sqrt(energy.sum() / n_live.sum())  # better measurements are treated as just as good
        self.m, self.w = m, self._map(_weights, std, least=least)
        self.y = self._map(_living, raw, self.w)

        channels = self.shape[0]
        counted, w, m2, *sums = self._sums(_moments, 3 + 3 * channels, self.y, self.m, self.w)
        if not m2.any():
            raise ValueError(f"{caller}: mask measures nothing; is it inverted or empty?")
        back, normal, square = np.array([s.sum() for s in sums]).reshape(3, channels)
        self.n_counted = float(counted.sum())
        self.curvature = float(w.sum() / n_live.sum() * m2.max())
        self.evenness = min(1.0, float(square.sum() / (self.curvature * normal.sum())))
        self._alpha = 0.01 * self.curvature
        seen = normal > CONSTANT * self._alpha * self.size / channels
        self._constants = np.where(seen, back / np.where(seen, normal, 1), 0)

    def first(self, path: Path, bounds: Bounds) -> float:
        """Write the regularised solution `LeastSquaresStep.initial`, within the bounds; return its sum of squares."""
        c = self._constants.astype(self.dtype)[:, None, None]
        z = self._map(_first, self.y, self.m, self.w, constants=c, alpha=self._alpha, bounds=bounds)
        self._run(written(z, self._new(path)))
        return float(self._sums(_square, 1, z)[0].sum())

    def iterate(
        self,
        denoiser: Any,
        old: tuple[Path, Path | None],
        new: tuple[Path, Path | None],
        sigma: float,
        alpha: float,
        rescale: float,
        bounds: Bounds,
    ) -> list[float]:
        """Write one iteration.

        Args:
            denoiser: a task.
            old, new: where z and u are read and written; without u for HQS, and u = 0 in ADMM's first iteration.
            sigma, alpha: the iteration's.
            rescale: alpha_old / alpha, by which u is multiplied.
            bounds: of z.

        Returns:
            The norms of x, z, z_old, x - z and z - z_old.
        """
        z_old, u = self.read(old[0]), () if old[1] is None else (self._map(_times, self.read(old[1]), factor=rescale),)
        x = self._map(_x_update, self.y, self.m, self.w, z_old, *u, alpha=alpha)
        v = x + u[0] if u else x
        z = self.tiling.denoise(v, denoiser, sigma, *bounds)
        tasks = [self._map(_norms, x, z, z_old, n=5), written(z, self._new(new[0]))]
        if new[1] is not None:
            tasks.append(written(v - z, self._new(new[1])))
        sums: Array = self._run(*tasks)[0].sum(axis=(1, 2))
        return [math.sqrt(s) for s in sums]

    def sample(self, z: Path) -> torch.Tensor:
        """Return every so many-th pixel of the whole image: those by which `robust_range` would judge."""
        import dask

        image, stride, picked = self.read(z), 1 + self.size // SAMPLES, []
        starts = [np.cumsum((0, *sizes)) for sizes in image.chunks]
        for index, block in np.ndenumerate(image.to_delayed()):
            corner = tuple(int(s[i]) for s, i in zip(starts, index, strict=True))
            picked.append(dask.delayed(_pick)(block, corner, self.shape, stride))
        return torch.from_numpy(np.concatenate(self._run(*picked)))

    def misfit(self, z: Path) -> float:
        """Return w (m z - y)^2 per pixel that counts and is measured."""
        return float(self._sums(_misfit, 1, self.read(z), self.y, self.m, self.w)[0].sum()) / self.n_counted

    def read(self, path: Path) -> Any:
        """Return one of our Zarr arrays as a Dask array."""
        return as_mosaic(FileSource(path, self.caller), self.tiling)

    def shaped(self, z: Path, path: Path, ndim: int) -> Path:
        """Return where z is an array of y's axes: in `path`, if y is (H, W)."""
        if ndim == 3:
            return z
        sides = tuple(sizes[0] for sizes in self.tiling.chunks[1:])
        new_array(path, self.shape[1:], sides, self.dtype, 0)
        self._run(written(self.read(z), path, 2))
        return path

    def _like(self, name: str, value: Any) -> Any:
        """Return a number or an array, as y, (H, W) or (1, H, W), as a Dask array of y's shape."""
        import dask.array as da

        if isinstance(value, (int, float, np.number)):
            return da.full(self.shape, value, dtype=self.dtype, chunks=self.tiling.chunks)
        source = as_source(value, self.caller, name)
        shape = (1, *source.shape)[-3:]
        if source.ndim not in (2, 3) or shape[1:] != self.shape[1:] or shape[0] not in (1, self.shape[0]):
            raise ValueError(
                f"{self.caller}: {name} must be a number or have y's shape {self.shape}, got {tuple(source.shape)}"
            )
        array = as_mosaic(source, self.tiling if shape == self.shape else self.tiling.of_one_channel())
        return da.broadcast_to(array.astype(self.dtype), self.shape, chunks=self.tiling.chunks)

    def _new(self, path: Path) -> Path:
        new_array(path, self.shape, tuple(sizes[0] for sizes in self.tiling.chunks), self.dtype, 0)
        return path

    def _map(self, function: Any, *arrays: Any, n: int | None = None, **options: Any) -> Any:
        """Apply a function tile by tile; with n, one that returns n numbers a tile."""
        import dask.array as da

        chunks = self.tiling.chunks if n is None else ((n,), *((1,) * len(sizes) for sizes in self.tiling.chunks[1:]))
        meta = np.empty((0, 0, 0), self.dtype if n is None else np.float64)
        return da.map_blocks(function, *arrays, **options, dtype=meta.dtype, chunks=chunks, meta=meta)

    def _sums(self, function: Any, n: int, *arrays: Any) -> Array:
        """Return n numbers for each tile, (n, tiles)."""
        values: Array = self._run(self._map(function, *arrays, n=n))[0]
        return values.reshape(n, -1)

    def _run(self, *tasks: Any) -> list[Any]:
        return run(list(tasks), self.client, False)


# ---------------------------------------------------------------- tile by tile


def _column(*values: Any) -> Array:
    return np.array(values, dtype=np.float64).reshape(-1, 1, 1)


def _survey(y: Array, m: Array, std: Array) -> Array:
    """Return bad pixels, live pixels, their sum of squares, and the least m and noise_std."""
    live = ~np.isinf(std)
    lowest = m.min() if np.isfinite(m).all() else np.nan
    return _column((~np.isfinite(y) & live).sum(), live.sum(), _square(np.where(live, y, 0)).sum(), lowest, std.min())


def _weights(std: Array, *, least: float) -> Array:
    return np.maximum(std, np.asarray(least, std.dtype)) ** -2  # type: ignore[no-any-return]


def _living(y: Array, w: Array) -> Array:
    return np.where(w > 0, y, np.zeros((), y.dtype))


def _moments(y: Array, m: Array, w: Array) -> Array:
    """Return pixels that count, sum of w, max m^2 where it counts; by channel the sums of m w y, m^2 w, (m^2 w)^2."""
    y, m, w = (a.astype(np.float64) for a in (y, m, w))
    normal = m**2 * w
    sums = [s for values in (m * w * y, normal, normal**2) for s in values.sum(axis=(1, 2))]
    return _column(((w > 0) & (m != 0)).sum(), w.sum(), (m**2 * (w > 0)).max(), *sums)


def _x_update(y: Array, m: Array, w: Array, z: Array, u: Array | None = None, *, alpha: float) -> Array:
    """Return (m w y + alpha (z - u)) / (m^2 w + alpha)."""
    a = np.asarray(alpha, y.dtype)
    return (m * w * y + a * (z if u is None else z - u)) / (m**2 * w + a)  # type: ignore[no-any-return]


def _first(y: Array, m: Array, w: Array, *, constants: Array, alpha: float, bounds: Bounds) -> Array:
    x = _x_update(y, m, w, constants, alpha=alpha)
    return x if bounds == (None, None) else np.clip(x, *bounds).astype(x.dtype)


def _times(u: Array, *, factor: float) -> Array:
    return u * np.asarray(factor, u.dtype)  # type: ignore[no-any-return]


def _square(x: Array) -> Array:
    return _column((x.astype(np.float64) ** 2).sum())


def _norms(x: Array, z: Array, z_old: Array) -> Array:
    return np.concatenate([_square(a) for a in (x, z, z_old, x - z, z - z_old)])


def _misfit(z: Array, y: Array, m: Array, w: Array) -> Array:
    return _square(np.sqrt(w) * (m * z - y))


def _pick(block: Array, corner: tuple[int, ...], shape: tuple[int, ...], stride: int) -> Array:
    """Return the values whose place in the whole image, flattened, is a multiple of the stride."""
    c, i, j = np.ogrid[tuple(slice(o, o + n) for o, n in zip(corner, block.shape, strict=True))]
    return block[((c * shape[1] + i) * shape[2] + j) % stride == 0]  # type: ignore[no-any-return]
