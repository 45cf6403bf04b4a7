"""Line integrals of the rows of a scan, in memory or in a file in the layout of measurements (docs/hdf5_layout.md).

Beside /measurements, /noise_std and /operator, that of the middle row, the file holds /centre, the axis of every row in
bins, and attributes: side, of the image in pixels; steps and warnings, sentences on what was done and on what looks
wrong; unmeasured, the slices whose rows measured nothing; and settings, by which a later run knows it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ..drivers.fingerprint import fingerprint
from ..io.hdf5 import create_measurements
from ..io.hdf5_safe import numbers, open_hdf5
from ..io.lock import exclusive

Array = npt.NDArray[Any]


class PreparedRows(NamedTuple):
    """Line integrals, their noise, the axes of the rows, and what was done.

    Attributes:
        y: (n_rows, 1, n_angles, n_detectors), or the path of the file.
        noise_std: as y, or "path::noise_std"; None: not known.
        centre: (n_rows,), bins.
        side: pixels per side of the image.
        steps: sentences.
        warnings: sentences on what looks wrong.
        unmeasured: slices whose rows measured nothing.
    """

    y: Any
    noise_std: Any
    centre: npt.NDArray[np.float64]
    side: int
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    unmeasured: tuple[int, ...]


class _Store:
    """Rows that are written one by one, to arrays or to datasets."""

    def __init__(self, path: Path | None, y: Any, noise_std: Any, file: h5py.File | None) -> None:
        self._path, self._y, self._noise_std, self._file = path, y, noise_std, file

    def put(self, k: int, y: Array, noise_std: Array | None) -> None:
        """Store row k, (1, n_angles, n_detectors)."""
        self._y[k] = y
        if self._noise_std is not None:
            self._noise_std[k] = noise_std

    def finish(
        self,
        centre: npt.NDArray[np.float64],
        side: int,
        steps: tuple[str, ...],
        warnings: tuple[str, ...],
        unmeasured: tuple[int, ...],
    ) -> PreparedRows:
        """Store what is known at the end; return all."""
        if self._file is None:
            return PreparedRows(self._y, self._noise_std, centre, side, steps, warnings, unmeasured)
        self._file.attrs["unmeasured"] = np.asarray(unmeasured, np.int64)
        self._file["centre"] = centre
        self._file.attrs["side"] = side
        for name, texts in (("steps", steps), ("warnings", warnings)):
            self._file.attrs.create(name, list(texts), shape=(len(texts),), dtype=h5py.string_dtype())
        return _in_file(self._path, self._noise_std is not None, centre, side, steps, warnings, unmeasured)


@contextmanager
def new_rows(
    path: str | os.PathLike[str] | None,
    shape: tuple[int, ...],
    problem: tuple[str, dict[str, Any]],
    settings: dict[str, Any],
    *,
    noise: bool,
) -> Iterator[_Store]:
    """Yield a store for rows; a file appears when the block succeeds.

    Args:
        path: the file; None: memory.
        shape: (n_rows, 1, n_angles, n_detectors).
        problem: name of the operator and its parameters.
        settings: what the rows depend on.
        noise: whether they have a noise level.

    Raises:
        ValueError: the file cannot be written, holds something else, or another run writes it.
    """
    if path is None:
        yield _Store(None, np.empty(shape, np.float32), np.empty(shape, np.float32) if noise else None, None)
        return
    path = Path(path)
    with (
        exclusive(path, "prepare_scan"),
        create_measurements(path, operator=problem[0], parameters=problem[1], overwrite=_is_ours(path)) as file,
    ):
        file.attrs["settings"] = fingerprint(settings)
        names = ("measurements", "noise_std") if noise else ("measurements",)
        y, *rest = (file.create_dataset(name, shape, np.float32, chunks=(1, *shape[1:])) for name in names)
        y.attrs["units"] = "1"
        yield _Store(path, y, rest[0] if rest else None, file)


def kept_rows(path: str | os.PathLike[str], settings: dict[str, Any]) -> PreparedRows | None:
    """Return the rows of a finished file with these settings; None: it is missing, or has others and is replaced.

    Raises:
        ValueError: the file holds something else.
    """
    path = Path(path)
    if not path.exists():
        return None
    if not _is_ours(path):
        raise ValueError(f"prepare_scan: working_file {path} holds something else; choose another name")
    with open_hdf5(path) as file:
        if file.attrs["settings"] != fingerprint(settings):
            return None
        steps, warnings = (tuple(str(s) for s in file.attrs[name]) for name in ("steps", "warnings"))
        centre, side = numbers(path, file["centre"]).astype(np.float64), int(file.attrs["side"])
        unmeasured = tuple(int(k) for k in file.attrs.get("unmeasured", ()))  # not in files of earlier versions
        return _in_file(path, "noise_std" in file, centre, side, steps, warnings, unmeasured)


def _in_file(
    path: Path | None,
    noise: bool,
    centre: npt.NDArray[np.float64],
    side: int,
    steps: tuple[str, ...],
    warnings: tuple[str, ...],
    unmeasured: tuple[int, ...],
) -> PreparedRows:
    where = str(path)
    return PreparedRows(where, f"{where}::noise_std" if noise else None, centre, side, steps, warnings, unmeasured)


def _is_ours(path: Path) -> bool:
    """Return whether a file exists and is one of ours."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return {"settings", "steps", "side", "warnings"} <= set(file.attrs) and "centre" in file
