"""Tiles of an image, or a volume, larger than memory, on disk: one iteration on them, and sums over them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..drivers.noise_weights import EXACT_RTOL
from .results_store import new_array
from .sources import FileSource, as_source
from .tiling import Tiling, as_mosaic, run, zarr_writer

Array = npt.NDArray[Any]
Bounds = tuple[float | None, float | None]
SAMPLE_PIXELS = 1_000_000
"""Number of pixels from which the robust range of the first estimate is found, as in `schedules.robust_range`."""


class Problem(Protocol):
    """Data term of a mosaic, the counterpart of `BoundDataTerm`; images are Dask arrays."""

    curvature: float
    spectral_flatness: float
    coverage: float

    def initial(self, bounds: Bounds) -> Any:
        """Return the regularised solution `LeastSquaresStep.initial`, within the bounds."""

    def x_update(self, v: Any, alpha: float) -> Any:
        """Return h(v, alpha)."""

    def misfit(self, z: Any) -> float:
        """Return the mean of w (A z - y)^2 over the measurements that count and that A reaches."""


class Tiles:
    """Measurements y in tiles (C, h, w), or blocks (C, d, h, w) of a volume, with the axes of y.

    Attributes:
        size: number of pixels in all channels.
        y, w: measurements, 0 where they do not count, and their weights 1/noise_std^2.
        n_live: number of measurements that count.
    """

    def __init__(self, y: Any, noise_std: Any, tiling: Tiling, client: Any, caller: str) -> None:
        self.tiling, self.client, self.caller = tiling, client, caller
        self.shape, self.dtype, self.size = (1, *y.shape)[-tiling.ndim :], y.dtype, math.prod(y.shape)
        raw, std = as_mosaic(y, tiling), self.like("noise_std", noise_std)
        bad, n_live, energy, least_std = self.sums(_survey, 4, raw, std)
        if not least_std.min() > 0:
            raise ValueError(
                f"{caller}: noise_std must be positive, got {least_std.min():.4g}; use infinity for no information"
            )
        if bad.any():
            raise ValueError(
                f"{caller}: y must be finite, got NaN or infinity in {bad.sum():.0f} of {self.size} pixels; set "
                "noise_std to infinity there to leave them out"
            )
        if not n_live.any():
            raise ValueError(f"{caller}: noise_std is infinite everywhere, so y carries no information")
        self.n_live = float(n_live.sum())
        least = EXACT_RTOL * math.sqrt(energy.sum() / self.n_live)  # smaller noise is raised to this
        self.w = self.map(_weights, std, least=least)
        self.y = self.map(_living, raw, self.w)

    def keep_first(self, problem: Problem, path: Path, bounds: Bounds) -> float:
        """Write the first estimate; return its sum of squares."""
        z = problem.initial(bounds)
        self.run(self._writer(z, path))
        return float(self.sums(square, 1, self.read(path))[0].sum())

    def iterate(
        self,
        problem: Problem,
        denoiser: Any,
        old: tuple[Path, Path | None],
        new: tuple[Path, Path | None],
        sigma: float,
        alpha: float,
        rescale: float,
        bounds: Bounds,
        relaxation: float,
    ) -> list[float]:
        """Write one iteration.

        Args:
            problem: data term that makes the x-update.
            denoiser: Dask task of the denoiser.
            old, new: paths from which z and u are read and to which they are written; u is None for HQS, and for
                u = 0 in ADMM's first iteration.
            sigma, alpha: noise level and coupling of this iteration.
            rescale: alpha_old / alpha, by which u is multiplied.
            bounds: limits of z.
            relaxation: rho of ADMM.

        Returns:
            The norms of x, z, z_old, x - z and z - z_old.
        """
        z_old = self.read(old[0])
        u = None if old[1] is None else self.map(_times, self.read(old[1]), factor=rescale)
        x = problem.x_update(z_old if u is None else z_old - u, alpha)
        v = x if u is None else self.map(_relaxed, x, z_old, rho=relaxation) + u
        z = self.tiling.denoise(v, denoiser, sigma, *bounds)
        tasks = [self.map(_norms, x, z, z_old, n=5), self._writer(z, new[0])]
        if new[1] is not None:
            tasks.append(self._writer(v - z, new[1]))
        sums: Array = self.run(*tasks)[0].reshape(5, -1).sum(axis=1)
        return [math.sqrt(s) for s in sums]

    def sample(self, z: Path) -> torch.Tensor:
        """Return the pixels of the whole image, evenly spaced, from which `robust_range` finds its range."""
        import dask

        image, stride, picked = self.read(z), 1 + self.size // SAMPLE_PIXELS, []
        starts = [np.cumsum((0, *sizes)) for sizes in image.chunks]
        for index, block in np.ndenumerate(image.to_delayed()):
            corner = tuple(int(s[i]) for s, i in zip(starts, index, strict=True))
            picked.append(dask.delayed(_pick)(block, corner, self.shape, stride))
        return torch.from_numpy(np.concatenate(self.run(*picked)))

    def read(self, path: Path) -> Any:
        """Return one of our Zarr arrays as a Dask array."""
        return as_mosaic(FileSource(path, self.caller), self.tiling)

    def shaped(self, z: Path, path: Path, ndim: int) -> Path:
        """Return the path of z with the axes of y, ndim of them; if y has none for channels, z is copied to `path`."""
        if ndim == self.tiling.ndim:
            return z
        sides = tuple(sizes[0] for sizes in self.tiling.chunks[1:])
        new_array(path, self.shape[1:], sides, self.dtype, 0)
        self.run(zarr_writer(self.read(z), path, ndim))
        return path

    def like(self, name: str, value: Any) -> Any:
        """Return a number, or an array shaped as y or as one of its channels, as a Dask array of y's shape."""
        import dask.array as da

        if isinstance(value, (int, float, np.number)):
            return da.full(self.shape, value, dtype=self.dtype, chunks=self.tiling.chunks)
        source = as_source(value, self.caller, name)
        axes = self.tiling.ndim
        shape = (1, *source.shape)[-axes:]
        if source.ndim not in (axes - 1, axes) or shape[1:] != self.shape[1:] or shape[0] not in (1, self.shape[0]):
            raise ValueError(
                f"{self.caller}: {name} must be a number or have y's shape {self.shape}, got {tuple(source.shape)}"
            )
        array = as_mosaic(source, self.tiling if shape == self.shape else self.tiling.of_one_channel())
        return da.broadcast_to(array.astype(self.dtype), self.shape, chunks=self.tiling.chunks)

    def map(self, function: Any, *arrays: Any, n: int | None = None, **options: Any) -> Any:
        """Apply a function tile by tile; with n, the function returns n numbers per tile."""
        import dask.array as da

        tiling = self.tiling
        if n is None:
            chunks, meta = tiling.chunks, np.empty((0,) * tiling.ndim, self.dtype)
        else:
            chunks, meta = ((n,), *((1,) * len(sizes) for sizes in tiling.chunks[1:])), np.empty((0,) * tiling.ndim)
            function = partial(_column, function)
        return da.map_blocks(function, *arrays, **options, dtype=meta.dtype, chunks=chunks, meta=meta)

    def sums(self, function: Any, n: int, *arrays: Any) -> Array:
        """Return n numbers for each tile, (n, tiles)."""
        values: Array = self.run(self.map(function, *arrays, n=n))[0]
        return values.reshape(n, -1)

    def run(self, *tasks: Any) -> list[Any]:
        """Compute Dask arrays together."""
        return run(list(tasks), self.client)

    def _writer(self, x: Any, path: Path) -> Any:
        return zarr_writer(x, self._new(path), self.tiling.ndim)

    def _new(self, path: Path) -> Path:
        new_array(path, self.shape, tuple(sizes[0] for sizes in self.tiling.chunks), self.dtype, 0)
        return path


# ---------------------------------------------------------------- tile by tile


def as_column(*values: Any) -> Array:
    """Return the numbers of one tile, as `Tiles.sums` expects them."""
    return np.array(values, dtype=np.float64).ravel()


def space(x: Array) -> tuple[int, ...]:
    """Return the axes of space of an image (C, H, W) or a volume (C, D, H, W)."""
    return tuple(range(1, x.ndim))


def _column(function: Any, *tiles: Array, **options: Any) -> Array:
    """Return the numbers of one tile along the first of as many axes as the tile has."""
    column: Array = function(*tiles, **options)
    return column.reshape(-1, *[1] * (tiles[0].ndim - 1))


def square(x: Array) -> Array:
    """Return the sum of squares of a tile."""
    return as_column((x.astype(np.float64) ** 2).sum())


def clipped(x: Array, bounds: Bounds) -> Array:
    """Return a tile within the bounds."""
    return x if bounds == (None, None) else np.clip(x, *bounds).astype(x.dtype)


def _survey(y: Array, std: Array) -> Array:
    """Return the number of bad and of live pixels, the latter's sum of squares, and the least noise_std."""
    live = ~np.isinf(std)
    return as_column((~np.isfinite(y) & live).sum(), live.sum(), square(np.where(live, y, 0)).sum(), std.min())


def _weights(std: Array, *, least: float) -> Array:
    return np.maximum(std, np.asarray(least, std.dtype)) ** -2  # type: ignore[no-any-return]


def _living(y: Array, w: Array) -> Array:
    return np.where(w > 0, y, np.zeros((), y.dtype))


def _times(u: Array, *, factor: float) -> Array:
    return u * np.asarray(factor, u.dtype)  # type: ignore[no-any-return]


def _relaxed(x: Array, z: Array, *, rho: float) -> Array:
    return np.asarray(rho, x.dtype) * x + np.asarray(1 - rho, x.dtype) * z  # type: ignore[no-any-return]


def _norms(x: Array, z: Array, z_old: Array) -> Array:
    return np.concatenate([square(a) for a in (x, z, z_old, x - z, z - z_old)])


def _pick(block: Array, corner: tuple[int, ...], shape: tuple[int, ...], stride: int) -> Array:
    """Return the values whose index in the whole image, flattened, is a multiple of the stride."""
    index: Any = 0
    for along, n in zip(
        np.ogrid[tuple(slice(o, o + k) for o, k in zip(corner, block.shape, strict=True))], shape, strict=True
    ):
        index = index * n + along
    return block[index % stride == 0]  # type: ignore[no-any-return]
