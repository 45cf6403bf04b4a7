"""Sources of slices and mosaics: HDF5 and Zarr files, read in the process that needs them, and arrays.

A path may name a dataset after two colons, "scan.h5::raw/counts". The default is `measurements`, (n, C, ...), as in
docs/hdf5_layout.md, in HDF5 files and Zarr groups; a path to a Zarr array takes no name.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..checks import short
from ..io.hdf5_safe import listed, numbers, open_hdf5

Array = npt.NDArray[Any]


class FileSource:
    """A dataset of an HDF5 or Zarr file; it is opened for every read, so that it can be sent to other processes.

    Args:
        path: the file or folder, with "::dataset" if the dataset is not `measurements`.
        caller: prefix of messages.

    Raises:
        ValueError: there is no such file or dataset, or it does not hold real numbers.
    """

    def __init__(self, path: str | os.PathLike[str], caller: str) -> None:
        name, _, dataset = os.fspath(path).partition("::")
        self.path, self.dataset = Path(name).resolve(), dataset or "measurements"
        self.is_zarr = self.path.is_dir()
        if not self.path.exists():
            raise ValueError(f"{caller}: {name}: there is no such file; check the name")
        if not self.is_zarr:
            self._seen = self._stamp()
            with open_hdf5(self.path) as file:
                if self.dataset not in file or not hasattr(file[self.dataset], "shape"):
                    held = listed(file)
                    raise ValueError(
                        f"{self.path} must have a dataset '{self.dataset}', it holds {held}; name one after ::"
                    )
                self.shape, dtype = tuple(file[self.dataset].shape), file[self.dataset].dtype
        else:
            array = self._zarr(named=bool(dataset))
            self.shape, dtype = tuple(array.shape), array.dtype
        if np.dtype(dtype).kind not in "fiub":
            raise ValueError(f"{path}: '{self.dataset}' must hold real numbers, got {dtype}")
        self.dtype, self.ndim = as_floating(np.empty(0, dtype)).dtype, len(self.shape)

    def __getitem__(self, part: Any) -> Array:
        """Read a part; float64 stays, everything else becomes float32."""
        if self.is_zarr:
            return as_floating(np.asarray(self._zarr(named=True)[part]))
        now = self._stamp()
        # Links are checked once for each state of the file: thousands of objects take a tenth of a second.
        with open_hdf5(self.path, links=now != self._seen) as file:
            self._seen = now
            return as_floating(numbers(self.path, file[self.dataset], part))

    def sibling(self, name: str) -> Any:
        """Return another dataset of an HDF5 file in our layout, as a number or a source; None if there is none."""
        if self.is_zarr or self.dataset != "measurements":
            return None
        with open_hdf5(self.path) as file:
            if name not in file:
                return None
            if file[name].ndim == 0:
                return float(file[name][()])
        return FileSource(f"{self.path}::{name}", self.path.name)

    def _stamp(self) -> tuple[int, int]:
        """Return modification time (ns) and size (bytes), to notice a changed file."""
        try:
            now = self.path.stat()
        except OSError:  # `open_hdf5` raises a message
            return 0, 0
        return now.st_mtime_ns, now.st_size

    def _zarr(self, *, named: bool) -> Any:
        import zarr

        try:
            found = zarr.open(str(self.path), mode="r")
            if not hasattr(found, "shape"):
                found = found[self.dataset]
            elif named and self.dataset != "measurements":
                raise KeyError(self.dataset)
        except (KeyError, ValueError, OSError) as error:  # what Zarr 2 and 3 raise for no group, no array
            raise ValueError(
                f"{self.path} must be a Zarr array, or a group with '{self.dataset}': {short(error)}; name one after ::"
            ) from error
        return found


class _ArraySource:
    """A NumPy array or tensor in memory; its slices are sent with their tasks."""

    def __init__(self, array: Any, caller: str, name: str) -> None:
        self.array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        if self.array.dtype.kind not in "fiub":
            raise TypeError(f"{caller}: {name} must hold real numbers, got {self.array.dtype}")
        self.shape, self.ndim = self.array.shape, self.array.ndim
        self.dtype = as_floating(self.array[:0]).dtype if self.ndim else self.array.dtype

    def __getitem__(self, part: Any) -> Array:
        return as_floating(self.array[part])


class DaskSource:
    """A Dask array; the cluster computes its slices."""

    def __init__(self, array: Any, caller: str, name: str) -> None:
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{caller}: {name} must hold real numbers, got {array.dtype}")
        self.array = array if array.dtype == np.float64 else array.astype("float32")
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, self.array.dtype

    def __getitem__(self, part: Any) -> Array:
        return np.asarray(self.array[part].compute(scheduler="synchronous"))


SOURCES = (FileSource, _ArraySource, DaskSource)


def as_source(value: Any, caller: str, name: str = "measurements") -> Any:
    """Return a source of a path, "path::dataset", a NumPy array, a tensor or a Dask array."""
    if isinstance(value, SOURCES):
        return value
    if isinstance(value, (str, os.PathLike)):
        return FileSource(value, caller)
    if hasattr(value, "dask") and hasattr(value, "chunks"):
        return DaskSource(value, caller, name)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return _ArraySource(value, caller, name)
    raise TypeError(
        f"{caller}: {name} must be a path, 'path::dataset', a numpy or a Dask array, got {type(value).__name__}"
    )


def constant_or_source(value: Any, n: int, ndim: int, caller: str, name: str) -> Any:
    """Return a value common to all slices (None, a number or an array), or a source with one entry per slice.

    Args:
        value: None, a number, or what `as_source` takes.
        n: number of slices.
        ndim: number of axes of the measurements, including that of the slices.
        caller, name: used in messages.
    """
    if value is None or isinstance(value, (int, float, np.number)):
        return value
    source = as_source(value, caller, name)
    if source.ndim == ndim and source.shape[0] == n:
        return source
    if source.ndim == ndim and source.shape[0] != 1:
        raise ValueError(
            f"{caller}: {name} must be a number, an array for one slice, or have the {n} slices of the measurements, "
            f"got {tuple(source.shape)}"
        )
    return source[()] if source.ndim < ndim else source[0:1]


def as_floating(values: Array) -> Array:
    """Return float64 values as they are and all others as float32, in native byte order."""
    return np.ascontiguousarray(values, dtype=np.float64 if values.dtype.str[1:] == "f8" else np.float32)


def content_hash(source: Any) -> str:
    """Return the shape and a short hash of the first and last slice; moving a file does not change it."""
    digest = hashlib.sha256()
    for k in {0, source.shape[0] - 1}:
        digest.update(np.ascontiguousarray(source[k : k + 1]).tobytes())
    return f"{tuple(source.shape)} {source.dtype} {digest.hexdigest()[:16]}"
