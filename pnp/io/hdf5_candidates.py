"""What `solve(strength="auto")` tried, as columns of numbers: the group /candidates of a result (docs/hdf5_layout.md).

image                    from 0, of the batch; those for which nothing was tried are missing
strength, n_iter         of a solve without what was held out; the chosen one is the first of its image
error, standard_error    mean square of A x - y over what was held out, in noise levels
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = ("image", "strength", "n_iter", "error", "standard_error")
MAX_ITER, MAX_IMAGES = 1e9, 1e6
"""Numbers of iterations and of images beyond it are none."""


Tried = tuple[float, int, float, float]
"""Strength, n_iter, error and standard_error, as in `pnp.drivers.result.Candidate`."""


def columns_of(candidates: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return `Result.candidates`, of one image or of each image of a batch, as columns; none where it is empty.

    >>> columns_of(((1.0, 8, 1.1, 0.02), (1.0, 24, 1.2, 0.02)))["n_iter"]
    array([ 8, 24])
    """
    alone = len(candidates) > 0 and not any(not one or isinstance(one[0], Sequence) for one in candidates)
    rows = [(b, *one) for b, tried in enumerate((candidates,) if alone else candidates) for one in tried]
    return {name: np.array(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=False)}


def rows_of(path: str | os.PathLike[str], columns: Mapping[str, npt.NDArray[Any]]) -> tuple[tuple[Tried, ...], ...]:
    """Return the candidates of each image; empty where there are no columns.

    Raises:
        ValueError: a column is missing, they have different lengths, or images are not numbered from 0 on.
    """
    if not columns:
        return ()
    shapes = {name: columns[name].shape if name in columns else None for name in COLUMNS}
    n = columns["image"].size if "image" in columns else 0
    if set(shapes.values()) != {(n,)}:
        raise ValueError(f"{path}: /candidates must have columns {COLUMNS} of one length, got {shapes}")
    numbers = [np.asarray(columns[name], dtype=np.float64) for name in COLUMNS]
    image, n_iter = numbers[0], numbers[2]
    whole = (image >= 0) & (image < MAX_IMAGES) & (image == np.floor(image))
    if not whole.all() or not (np.abs(n_iter) < MAX_ITER).all():
        raise ValueError(f"{path}: /candidates must count images from 0 and have n_iter below {MAX_ITER:.0e}")
    found: list[list[Tried]] = [[] for _ in range(int(image.max(initial=-1)) + 1)]
    for b, strength, k, error, standard_error in zip(*(c.tolist() for c in numbers), strict=True):
        found[int(b)].append((strength, int(k), error, standard_error))
    return tuple(map(tuple, found))
