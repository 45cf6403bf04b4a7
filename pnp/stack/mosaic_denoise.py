"""Denoise an image, or a volume, larger than memory in tiles, without seams; an interrupted run resumes.

With a local denoiser the value of a pixel depends only on the `receptive_field` around it. Every tile is read with a
halo of half of it, and the halo is cut off afterwards, which gives the values of the whole. At the border of the image,
where nothing is added, the denoiser mirrors as it does for the whole. Tiles begin at multiples of the denoiser's
stride, so that its queries are the same pixels in any tiling.

Meanwhile a hidden folder beside the output, `.NAME.unfinished`, holds the image and a ledger of the finished tiles.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.protocols import Denoiser
from ..checks import check_number
from ..drivers.denoising import as_denoiser
from ..drivers.fingerprint import fingerprint
from ..io.atomic import atomic_hdf5, check_output
from ..io.lock import exclusive, part_path, remove_renamed
from .cluster import require
from .results_store import DONE, OPEN, changed_settings, free_folder, new_array, settings_of_run
from .sources import DaskSource, FileSource, as_source
from .tasks import Shared, run_tasks, shared
from .tiling import Array, Tiling, denoise_tile, publish, refused, tiling_for

FORMAT = "pnp mosaic"
_HASHED_SIDE = 64
"""Side of the blocks by which a source is recognised: one at its beginning, one in the middle, one at its end."""


def denoise_mosaic(
    image: Any,
    denoiser: Denoiser,
    sigma: float,
    *,
    output: str | os.PathLike[str],
    dimensions: int | None = None,
    tile: int | None = None,
    halo: int | None = None,
    client: Any = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Denoise an image or a volume larger than memory; equal to the denoiser on the whole, borders included.

    Equal means up to rounding; MLPatch gives the same bits where the tiles of the mosaic are made of the tiles of the
    whole, as for sides that are multiples of 256. It computes in bfloat16 where the processor supports it, and rounds
    accordingly, unless its `precision` is "float32".

    A run that ended early, by an error, Ctrl-C or a kill, resumes when it is called again with the same arguments:
    finished tiles are not computed again.

    Args:
        image: (H, W) or (C, H, W), or a volume (D, H, W) or (C, D, H, W), float32 or float64 (others become float32):
            a Zarr array's path, "file.h5::name", a Dask or a numpy array.
        denoiser: local, D(x, sigma) on (B, C, H, W) or (B, C, D, H, W).
        sigma: standard deviation of the noise, in units of the image: one number for the whole.
        output: path of a Zarr array to create, of the image's shape, or of an .h5 file, to whose dataset `image` it is
            copied at the end; it is written atomically.
        dimensions: 2 for images, 3 for volumes. None: those of the denoiser, `MLPatch.dimensions`; 2 if it has none and
            the image less than four axes.
        tile: approximate side of the tiles in pixels; None: 2048, of volumes 256. Each process holds one tile in
            memory.
        halo: pixels beyond a tile that the denoiser sees; None: half its `receptive_field`.
        client: a `distributed.Client`. None: this process, with all of torch's threads.
        overwrite: replace an existing output, or an unfinished run with other settings.
        progress: show a bar of tiles on stderr.

    Returns:
        The path of the output.

    Raises:
        ImportError: Dask or Zarr is not installed.
        ValueError, TypeError: an argument does not fit; the denoiser has no receptive field and halo is None; an
            unfinished run had other settings.
        OSError: the output cannot be written; finished tiles are kept.

    >>> denoise_mosaic(np.zeros((4, 4)), lambda x, sigma: x, 0.1, output="none.zarr")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: denoise_mosaic: halo must be given ...
    """
    caller = "denoise_mosaic"
    require(caller)
    D = as_denoiser(denoiser, caller)
    sigma = check_number("sigma", sigma, above=0, or_equal=True, caller=caller)
    source = as_source(image, caller, "image")
    tiling = tiling_for(source, denoiser, tile, halo, caller, dimensions)
    is_hdf5 = Path(output).suffix.lower() in (".h5", ".hdf5")
    if is_hdf5:
        folder = check_output(Path(output).resolve(), overwrite=overwrite)
    else:
        folder = free_folder(output, caller, overwrite=overwrite)
    settings = {
        "denoiser": fingerprint(denoiser),
        "image": _content(source),
        "sigma": fingerprint(float(sigma)),
        "tiles": str((tiling.chunks, tiling.halo)),
    }
    with exclusive(folder, caller), _kept(folder, settings, source, tiling, overwrite, caller) as run:
        job = Job(f"pnp-mosaic-{secrets.token_hex(4)}", run, tiling, source, D, sigma)
        ledger = job.ledger()
        todo = [int(k) for k in np.flatnonzero(ledger != DONE)]
        with _bar(len(ledger), len(ledger) - len(todo), progress) as bar:
            for _ in _computed(job, todo, client, caller):
                bar.update()
        if is_hdf5:
            _to_hdf5(run, folder, tiling, overwrite)
        else:
            publish(run / "image", folder, caller, overwrite=overwrite)
    return folder


class Job(Shared):
    """Tiles of one mosaic, in this process or, as a Dask worker plugin, in those of a cluster."""

    def __init__(self, name: str, run: Path, tiling: Tiling, source: Any, denoiser: Any, sigma: float) -> None:
        super().__init__(name, None)
        self.folder, self.tiling, self.source = run, tiling, source
        self.denoiser, self.sigma = denoiser, sigma

    def sent(self) -> Job:
        """Return the job for other processes: only files are read there, other data are sent with their tasks."""
        source = self.source if isinstance(self.source, FileSource) else None
        return Job(self.name, self.folder, self.tiling, source, self.denoiser, self.sigma)

    def ledger(self) -> Array:
        """Read which tiles are finished."""
        import zarr

        return np.asarray(zarr.open_array(str(self.folder / "ledger"), mode="r")[:])

    def place(self, k: int) -> tuple[slice, ...]:
        """Return the part of the image that tile k reads."""
        return tuple(self.tiling.tile(k)[1])

    def denoise(self, k: int, data: Any = None) -> None:
        """Denoise tile k and write it, and then its entry in the ledger."""
        import zarr

        at, around, inside = self.tiling.tile(k)
        x = np.asarray(self.source[(..., *around)] if data is None else data)
        x = x if x.ndim == self.tiling.ndim else x[None]
        z = denoise_tile(x, inside, self.denoiser, self.sigma)
        image = zarr.open_array(str(self.folder / "image"), mode="r+")
        image[(..., *at)] = z.reshape(z.shape[z.ndim - image.ndim :])
        zarr.open_array(str(self.folder / "ledger"), mode="r+")[k : k + 1] = np.array([DONE], np.uint8)


def denoise_on_worker(name: str, k: int, data: Any = None) -> None:
    """Denoise tile k of the named job."""
    shared(name).denoise(k, data)


def _computed(job: Job, todo: list[int], client: Any, caller: str) -> Iterator[int]:
    """Yield the numbers of the tiles as they are finished.

    Raises:
        Exception: that of a tile; the others, which are finished, are kept.
    """
    if client is None:
        for k in todo:
            job.denoise(k)
            yield k
        return

    def submit(k: int) -> Any:
        """Submit tile k, with the data that a worker cannot read itself."""
        data, part = None, (..., *job.place(k))
        if isinstance(job.source, DaskSource):
            data = client.compute(job.source.array[part])
        elif not isinstance(job.source, FileSource):
            data = job.source[part]
        return client.submit(denoise_on_worker, job.name, k, data, pure=False)

    client.register_plugin(job.sent(), name=job.name)
    try:
        for k, _, error in run_tasks(client, submit, todo, caller, lambda k: bool(job.ledger()[k] == DONE)):
            if error is not None and job.ledger()[k] != DONE:
                raise error
            yield k
    finally:
        with suppress(Exception):  # a worker that is being restarted has none to remove
            client.unregister_worker_plugin(job.name)


@contextmanager
def _kept(
    folder: Path, settings: dict[str, str], source: Any, tiling: Tiling, overwrite: bool, caller: str
) -> Iterator[Path]:
    """Yield the folder of the run, a new or an unfinished one; it is kept if tiles were finished and the block fails.

    Raises:
        ValueError: an unfinished run had other settings, and overwrite is False.
    """
    import zarr

    run = folder.with_name(f".{folder.name}.unfinished")
    with refused(folder, caller):
        held = _settings(run)
        if held is not None and held != settings:
            if not overwrite:
                raise ValueError(
                    f"{caller}: output {folder} has an unfinished run with other settings "
                    f"({changed_settings(held, settings):.150}); choose another name, or overwrite=True to restart"
                )
            remove_renamed(run)
        if held != settings:
            _create(run, folder, settings, source, tiling)
        done = False
        try:
            yield run
            done = True
        finally:
            if done or not (np.asarray(zarr.open_array(str(run / "ledger"), mode="r")[:]) == DONE).any():
                shutil.rmtree(run, ignore_errors=True)


def _settings(run: Path) -> dict[str, str] | None:
    """Return the settings of an unfinished run; None if there is none. What cannot be read is removed."""
    if not run.exists():
        return None
    held = settings_of_run(run, FORMAT)
    if held is None:
        remove_renamed(run)
    return held


def _create(run: Path, folder: Path, settings: dict[str, str], source: Any, tiling: Tiling) -> None:
    """Make the folder of a run, atomically: the image, a chunk a tile, and the ledger."""
    import zarr

    part = part_path(folder)
    try:
        group = zarr.open_group(str(part), mode="w")
        sides = tuple(sizes[0] for sizes in tiling.chunks)
        # A process that writes a larger last tile writes all of its chunks.
        new_array(part / "image", source.shape, sides[tiling.ndim - source.ndim :], source.dtype, 0)
        new_array(part / "ledger", (math.prod(tiling.counts),), (1,), "uint8", OPEN)
        group.attrs.update({"format": FORMAT, "format_version": 1, "settings": settings})
        os.rename(part, run)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _to_hdf5(run: Path, path: Path, tiling: Tiling, overwrite: bool) -> None:
    """Copy the image tile by tile to an HDF5 file, which appears when it is whole."""
    import zarr

    image = zarr.open_array(str(run / "image"), mode="r")
    with atomic_hdf5(path, overwrite=overwrite) as file:
        copied = file.create_dataset("image", image.shape, image.dtype, chunks=image.chunks)
        for k in range(math.prod(tiling.counts)):
            at = (..., *tiling.tile(k)[0])
            copied[at] = image[at]


def _content(source: Any) -> str:
    """Return the shape and a short hash of three blocks of a source; moving a file does not change it."""
    digest = hashlib.sha256()
    for share in (0.0, 0.5, 1.0):
        starts = [round(share * max(0, n - _HASHED_SIDE)) for n in source.shape]
        block = source[tuple(slice(s, s + _HASHED_SIDE) for s in starts)]
        digest.update(np.ascontiguousarray(block).tobytes())
    return f"{tuple(source.shape)} {source.dtype} {digest.hexdigest()[:16]}"


def _bar(total: int, done: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, desc="mosaic", unit="tile", disable=not shown, smoothing=0.1)
