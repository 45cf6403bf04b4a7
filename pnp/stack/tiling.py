"""Tiles of an image, or a volume, larger than memory, denoised without seams.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..checks import check_number
from ..io.atomic import refusal
from ..io.lock import exclusive, part_path, remove_renamed
from .results_store import free_folder
from .sources import DaskSource

Array = npt.NDArray[Any]
TILES = {2: 2048, 3: 256}
"""Default side of the tiles of images, in pixels, and of volumes."""
TILE_MULTIPLE = 8
"""Tiles and halos are multiples of it in pixels, and of the denoiser's stride."""


class Tiling:
    """Tiles of an image (C, H, W) or a volume (C, D, H, W), and functions applied to every tile with its halo."""

    def __init__(self, shape: tuple[int, ...], tile: int, halo: int, step: int) -> None:
        self.chunks = ((shape[0],), *(_cuts(n, tile, halo, step) for n in shape[1:]))
        self.halo, self.ndim = halo, len(shape)

    def of_one_channel(self) -> Tiling:
        """Return the same tiling for an image with one channel."""
        other = copy.copy(self)
        other.chunks = ((1,), *self.chunks[1:])
        return other

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis of space."""
        return tuple(map(len, self.chunks[1:]))

    def tile(self, k: int) -> tuple[list[slice], list[slice], list[slice]]:
        """Return where tile k and the tile with its halo lie in the image, and where the tile lies in its halo."""
        index = np.unravel_index(k, self.counts)
        at, around, inside = [], [], []
        for i, sizes in zip(index, self.chunks[1:], strict=True):
            start, n = sum(sizes[:i]), sum(sizes)
            first, stop = max(0, start - self.halo), min(n, start + sizes[i] + self.halo)
            at.append(slice(start, start + sizes[i]))
            around.append(slice(first, stop))
            inside.append(slice(start - first, start - first + sizes[i]))
        return at, around, inside

    def denoise(self, x: Any, denoiser: Any, sigma: float, low: float | None = None, high: float | None = None) -> Any:
        """Return D(x; sigma) within the bounds as a Dask array; `denoiser` may be a `dask.delayed` object."""
        options = {"denoiser": denoiser, "sigma": sigma, "bounds": (low, high), "cut": self.halo}
        return self.overlapped(_denoise_block, self.halo, x, trim=False, chunks=x.chunks, **options)

    def overlapped(self, function: Any, halo: int, *arrays: Any, **options: Any) -> Any:
        """Apply a function to tiles with a halo, and cut the halo off; nothing is added at the border."""
        import dask.array as da

        # An axis in one piece has no neighbours.
        depth = {axis: halo if len(sizes) > 1 else 0 for axis, sizes in enumerate(self.chunks)}
        dtype = arrays[0].dtype
        return da.map_overlap(
            function,
            *arrays,
            depth=[depth] * len(arrays),
            boundary="none",
            dtype=dtype,
            meta=np.empty((0,) * self.ndim, dtype),
            **options,
        )


def tiling_for(
    source: Any, denoiser: Any, tile: int | None, halo: int | None, caller: str, dimensions: int | None = None
) -> Tiling:
    """Return the tiling of a source (H, W) or (C, H, W), or of a volume with one axis more, for a denoiser."""
    own = getattr(denoiser, "dimensions", 3 if source.ndim == 4 else 2)
    d = (
        own
        if dimensions is None
        else check_number("dimensions", dimensions, above=2, integer=True, caller=caller, or_equal=True)
    )
    if d not in TILES:
        raise ValueError(f"{caller}: dimensions must be 2 for images or 3 for volumes, got {d!r:.60}")
    if d != getattr(denoiser, "dimensions", d):
        raise ValueError(f"{caller}: dimensions must be {own}, as the denoiser's, got {d}")
    if source.ndim not in (d, d + 1) or 0 in source.shape:
        axes = "image must be (H, W) or (C, H, W)" if d == 2 else "image must be a volume (D, H, W) or (C, D, H, W)"
        raise ValueError(f"{caller}: {axes}, got {tuple(source.shape)}")
    tile = check_number("tile", TILES[d] if tile is None else tile, above=1, integer=True, or_equal=True, caller=caller)
    stride = int(getattr(denoiser, "stride", 1))
    if halo is None:
        field = getattr(denoiser, "receptive_field", None)
        if not isinstance(field, int):
            raise ValueError(
                f"{caller}: halo must be given in pixels for a denoiser without receptive_field, as "
                f"{type(denoiser).__name__:.60} is; half the side of the window that a pixel depends on"
            )
        halo = field // 2 + stride - 1  # so that a tile reads what it would read of the whole
    halo = check_number("halo", halo, above=0, integer=True, or_equal=True, caller=caller)
    step = math.lcm(TILE_MULTIPLE, stride)
    return Tiling((1, *source.shape)[-d - 1 :], tile, -(-halo // step) * step, step)


def as_mosaic(source: Any, tiling: Tiling) -> Any:
    """Return a source as a Dask array (C, H, W) or (C, D, H, W), one tile per chunk, read where it is needed."""
    import dask.array as da

    chunks = tiling.chunks[tiling.ndim - source.ndim :]
    if isinstance(source, DaskSource):
        x = source.array.rechunk(chunks)
    else:
        x = da.from_array(source, chunks=chunks, name=f"mosaic-{secrets.token_hex(8)}", meta=np.empty(0, source.dtype))
    return x if source.ndim == tiling.ndim else x[None]


def as_delayed(denoiser: Any) -> Any:
    """Return the denoiser as a Dask task, which is sent to each worker once instead of with each tile."""
    from dask import delayed

    return delayed(denoiser, name=f"denoiser-{secrets.token_hex(8)}", traverse=False)


def zarr_writer(x: Any, path: Path, ndim: int) -> Any:
    """Return a Dask array, one number per tile, whose computation writes x to a Zarr array with ndim axes."""
    import dask.array as da

    ones = tuple((1,) * len(sizes) for sizes in x.chunks)
    return da.map_blocks(
        _write_tile, x, path=str(path), ndim=ndim, dtype=np.uint8, chunks=ones, meta=np.empty((0,) * x.ndim)
    )


def run(arrays: list[Any], client: Any) -> list[Any]:
    """Compute Dask arrays together, on a client or, tile by tile, in this process."""
    import dask

    if client is not None:
        return list(client.gather(client.compute(arrays)))
    return list(dask.compute(*arrays, scheduler="synchronous"))


@contextmanager
def scratch_folder(folder: Path, caller: str) -> Iterator[Path]:
    """Yield a hidden folder beside the output, locked for this run and removed when the block ends."""
    part = part_path(folder)
    with exclusive(folder, caller):
        part.mkdir()
        try:
            with refused(folder, caller):
                yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def refused(folder: Path, caller: str) -> Iterator[None]:
    """Say which output cannot be written, and why, where the system refuses to write beside it."""
    try:
        yield
    except OSError as error:
        probe = part_path(folder)
        try:
            reason = refusal(error, probe)
        finally:
            probe.unlink(missing_ok=True)
        if reason is None:
            raise
        raise OSError(f"{caller}: output {folder} cannot be written: {reason}") from error


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


def denoise_tile(
    x: Array,
    inside: Sequence[slice],
    denoiser: Callable[..., Any],
    sigma: float,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Array:
    """Return D(x; sigma) inside a tile x (C, ...) with its halo, within the bounds, computed where the denoiser is."""
    weight = next(denoiser.parameters(), None) if isinstance(denoiser, torch.nn.Module) else None
    image = torch.from_numpy(np.array(x, order="C"))[None].to("cpu" if weight is None else weight.device)
    starts, sizes = [s.start for s in inside], [s.stop - s.start for s in inside]
    with torch.no_grad():
        if hasattr(denoiser, "part"):  # no second halo
            z = denoiser.part(image, sigma, starts, sizes)[0]
        else:
            z = denoiser(image, sigma)[0]
            if z.shape != x.shape:
                raise ValueError(f"denoiser must keep the shape {x.shape}, got {tuple(z.shape)}; check its channels")
            z = z[(slice(None), *inside)]
    if bounds != (None, None):
        z = z.clamp(*bounds)
    return z.cpu().numpy().astype(x.dtype, copy=False)  # type: ignore[no-any-return]


def _denoise_block(x: Array, *, cut: int, block_info: Any = None, **options: Any) -> Array:
    """Denoise a block of `map_overlap`, which has a halo where it has neighbours."""
    place, counts = block_info[0]["chunk-location"][1:], block_info[0]["num-chunks"][1:]
    inside = [
        slice(cut if i > 0 else 0, size - (cut if i < n - 1 else 0))
        for i, n, size in zip(place, counts, x.shape[1:], strict=True)
    ]
    return denoise_tile(x, inside, **options)


def _write_tile(x: Array, *, path: str, ndim: int, block_info: Any = None) -> Array:
    import zarr

    place = tuple(slice(*ends) for ends in block_info[0]["array-location"])
    axes = slice(x.ndim - ndim, None)
    zarr.open_array(path, mode="r+")[place[axes]] = x.reshape(x.shape[axes])
    return np.ones((1,) * x.ndim, np.uint8)


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
