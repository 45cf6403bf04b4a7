"""Denoise an image larger than memory in tiles, without seams.

With a local denoiser the value of a pixel depends only on the `receptive_field` around it. Tiles that overlap by half
of it, with the overlap cut off afterwards (`dask.array.map_overlap`), therefore give the values of the whole image.
Nothing is added at the border of the image, where the denoiser mirrors, as it does for the whole. Tiles begin at
multiples of the denoiser's stride, so that its queries are the same pixels in any tiling.
"""

from __future__ import annotations

import copy
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..algorithms.protocols import Denoiser
from ..checks import check_number
from ..drivers.denoising import as_denoiser
from ..io.atomic import refusal
from ..io.lock import exclusive, part_path, remove_renamed
from .cluster import require
from .results_store import free_folder, new_array
from .sources import DaskSource, as_source

Array = npt.NDArray[Any]
TILE_MULTIPLE = 8
"""Tiles and halos are multiples of it in pixels, and of the denoiser's stride."""


class Tiling:
    """Tiles of an image (C, H, W), and functions applied to every tile with its halo."""

    def __init__(self, shape: tuple[int, int, int], tile: int, halo: int, step: int) -> None:
        self.chunks = ((shape[0],), *(_cuts(n, tile, halo, step) for n in shape[1:]))
        self.halo = halo

    def of_one_channel(self) -> Tiling:
        """Return the same tiling for an image with one channel."""
        other = copy.copy(self)
        other.chunks = ((1,), *self.chunks[1:])
        return other

    def denoise(self, x: Any, denoiser: Any, sigma: float, low: float | None = None, high: float | None = None) -> Any:
        """Return D(x; sigma) within the bounds as a Dask array; `denoiser` may be a `dask.delayed` object."""
        return self.overlapped(_denoise_tile, self.halo, x, denoiser=denoiser, sigma=sigma, bounds=(low, high))

    def overlapped(self, function: Any, halo: int, *arrays: Any, **options: Any) -> Any:
        """Apply a function to tiles with a halo, and cut the halo off; nothing is added at the border."""
        import dask.array as da

        # An axis in one piece has no neighbours.
        depth = {0: 0} | {axis: halo if len(self.chunks[axis]) > 1 else 0 for axis in (1, 2)}
        dtype = arrays[0].dtype
        return da.map_overlap(
            function,
            *arrays,
            depth=[depth] * len(arrays),
            boundary="none",
            dtype=dtype,
            meta=np.empty((0, 0, 0), dtype),
            **options,
        )


def denoise_mosaic(
    image: Any,
    denoiser: Denoiser,
    sigma: float,
    *,
    output: str | os.PathLike[str],
    tile: int = 2048,
    halo: int | None = None,
    client: Any = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Denoise an image larger than memory; equal to the denoiser on the whole image up to rounding, borders included.

    MLPatch computes in bfloat16 where the processor supports it, and rounds accordingly, unless its `precision` is
    "float32".

    Args:
        image: (H, W) or (C, H, W), float32 or float64 (others become float32): a Zarr array's path, "file.h5::name",
            a Dask or a numpy array.
        denoiser: local, D(x, sigma) on (B, C, H, W).
        sigma: standard deviation of the noise, in units of the image.
        output: path of a Zarr array to create, of the image's shape; it is written atomically.
        tile: approximate side of the tiles in pixels. Each process holds a few tiles in memory.
        halo: pixels beyond a tile that the denoiser sees; None: half its `receptive_field`.
        client: a `distributed.Client`. None: this process, with all of torch's threads.
        overwrite: replace an existing Zarr array.
        progress: show a bar of Dask's tasks on stderr, without a client only.

    Returns:
        The path of the output.

    Raises:
        ImportError: Dask or Zarr is not installed.
        ValueError, TypeError: an argument does not fit; the denoiser has no receptive field and halo is None.

    >>> denoise_mosaic(np.zeros((4, 4)), lambda x, sigma: x, 0.1, output="none.zarr")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: denoise_mosaic: halo must be given ...
    """
    require("denoise_mosaic")
    caller = "denoise_mosaic"
    D = as_denoiser(denoiser, caller)
    sigma = check_number("sigma", sigma, above=0, or_equal=True, caller=caller)
    source = as_source(image, caller, "image")
    tiling = tiling_for(source, denoiser, tile, halo, caller)
    folder = free_folder(output, caller, overwrite=overwrite)
    with scratch_folder(folder, caller) as part:
        x = as_mosaic(source, tiling)
        z = tiling.denoise(x, as_delayed(D), sigma)
        new_array(part / "image", source.shape, _chunks(z, source.ndim), z.dtype, 0)
        run([zarr_writer(z, part / "image", source.ndim)], client, progress)
        publish(part / "image", folder, caller, overwrite=overwrite)
    return folder


def tiling_for(source: Any, denoiser: Any, tile: int, halo: int | None, caller: str) -> Tiling:
    """Return the tiling of a source (H, W) or (C, H, W) for a denoiser."""
    if source.ndim not in (2, 3) or 0 in source.shape:
        raise ValueError(f"{caller}: image must be (H, W) or (C, H, W), got {tuple(source.shape)}")
    tile = check_number("tile", tile, above=1, integer=True, or_equal=True, caller=caller)
    if halo is None:
        field = getattr(denoiser, "receptive_field", None)
        if not isinstance(field, int):
            raise ValueError(
                f"{caller}: halo must be given in pixels for a denoiser without receptive_field, as "
                f"{type(denoiser).__name__:.60} is; half the side of the window that a pixel depends on"
            )
        halo = field // 2
    halo = check_number("halo", halo, above=0, integer=True, or_equal=True, caller=caller)
    step = math.lcm(TILE_MULTIPLE, int(getattr(denoiser, "stride", 1)))
    return Tiling((1, *source.shape)[-3:], tile, -(-halo // step) * step, step)


def as_mosaic(source: Any, tiling: Tiling) -> Any:
    """Return a source as a Dask array (C, H, W), one tile per chunk, read where it is needed."""
    import dask.array as da

    chunks = tiling.chunks[3 - source.ndim :]
    if isinstance(source, DaskSource):
        x = source.array.rechunk(chunks)
    else:
        x = da.from_array(source, chunks=chunks, name=f"mosaic-{secrets.token_hex(8)}", meta=np.empty(0, source.dtype))
    return x if source.ndim == 3 else x[None]


def as_delayed(denoiser: Any) -> Any:
    """Return the denoiser as a Dask task, which is sent to each worker once instead of with each tile."""
    from dask import delayed

    return delayed(denoiser, name=f"denoiser-{secrets.token_hex(8)}", traverse=False)


def zarr_writer(x: Any, path: Path, ndim: int = 3) -> Any:
    """Return a Dask array, one number per tile, whose computation writes x to a Zarr array with ndim axes."""
    import dask.array as da

    ones = tuple((1,) * len(sizes) for sizes in x.chunks)
    return da.map_blocks(
        _write_tile, x, path=str(path), ndim=ndim, dtype=np.uint8, chunks=ones, meta=np.empty((0,) * 3)
    )


def run(arrays: list[Any], client: Any, progress: bool) -> list[Any]:
    """Compute Dask arrays together, on a client or, tile by tile, in this process."""
    import dask
    from dask.diagnostics import ProgressBar

    if client is not None:
        return list(client.gather(client.compute(arrays)))
    if not progress:
        return list(dask.compute(*arrays, scheduler="synchronous"))
    import sys

    with ProgressBar(out=sys.stderr):
        return list(dask.compute(*arrays, scheduler="synchronous"))


@contextmanager
def scratch_folder(folder: Path, caller: str) -> Iterator[Path]:
    """Yield a hidden folder beside the output, locked for this run and removed when the block ends."""
    part = part_path(folder)
    with exclusive(folder, caller):
        part.mkdir()
        try:
            yield part
        except OSError as error:
            if (reason := refusal(error, part / "probe")) is None:
                raise
            raise OSError(f"{caller}: output {folder} cannot be written: {reason}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, folder: Path, caller: str, *, overwrite: bool) -> None:
    """Rename a finished Zarr array to its final name, replacing an earlier one only then."""
    free_folder(folder, caller, overwrite=overwrite)
    replaced = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.replaced")  # not removed as stale
    if folder.exists():
        os.rename(folder, replaced)
    try:
        os.rename(part, folder)
    except BaseException:
        if replaced.exists():
            os.rename(replaced, folder)
        raise
    if replaced.exists():
        remove_renamed(replaced)


def _denoise_tile(
    x: Array, *, denoiser: Callable[..., Any], sigma: float, bounds: tuple[float | None, float | None]
) -> Array:
    with torch.no_grad():
        z = denoiser(torch.from_numpy(np.array(x, order="C"))[None], sigma)[0]
    if z.shape != x.shape:
        raise ValueError(f"denoiser must keep the shape {x.shape}, got {tuple(z.shape)}; check its channels")
    if bounds != (None, None):
        z = z.clamp(*bounds)
    return z.numpy().astype(x.dtype, copy=False)  # type: ignore[no-any-return]


def _write_tile(x: Array, *, path: str, ndim: int, block_info: Any = None) -> Array:
    import zarr

    place = tuple(slice(*ends) for ends in block_info[0]["array-location"])
    zarr.open_array(path, mode="r+")[place[3 - ndim :]] = x.reshape(x.shape[3 - ndim :])
    return np.ones((1, 1, 1), np.uint8)


def _cuts(n: int, tile: int, halo: int, step: int) -> tuple[int, ...]:
    """Return sides of nearly equal tiles that cover n pixels, all but the last multiples of the step.

    No tile is smaller than the halo, so that a halo lies within the neighbours, or than half the others; the last one
    is then larger.

    >>> _cuts(100, 40, 8, 8), _cuts(81, 40, 8, 8), _cuts(30, 40, 8, 8)
    ((40, 40, 20), (32, 32, 17), (30,))
    """
    side = -(-n // -(-n // tile))
    side = max(-(-side // step) * step, halo)
    sides = [side] * (n // side) + [n % side] * (n % side > 0)
    if len(sides) > 1 and sides[-1] < max(halo, side / 2):
        sides[-2:] = [sides[-2] + sides[-1]]
    return tuple(sides)


def _chunks(x: Any, ndim: int) -> tuple[int, ...]:
    """Return the chunks of a Zarr array: the sides of the first tile. One process writes a larger last tile."""
    return tuple(sizes[0] for sizes in x.chunks)[3 - ndim :]
