"""Columns of catalogues by name, and components of columns of vectors: "g[0]", "R[0,1]"."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..io.tables import Columns

_COMPONENT = re.compile(r"(.+)\[(\d+(?:,\d+)?)\]")


def is_component(held: Columns, name: str) -> bool:
    """Return whether a name is that of a component of a column."""
    part = _COMPONENT.fullmatch(name)
    return part is not None and part[1] in held


def column_of(held: Columns, name: str) -> str:
    """Return the column that holds "g" or its component "g[0]"."""
    return name if name in held else name.partition("[")[0]


def column_values(held: Columns, name: str) -> Any:
    """Return the values of a column, or of a component of a column of vectors or matrices: "g[0]", "R[0,1]"."""
    if name in held:
        return held[name].values
    stem, _, index = name[:-1].partition("[")
    values, at = held[stem].values, tuple(int(k) for k in index.split(","))
    if any(k >= size for k, size in zip(at, values.shape[1:], strict=False)) or len(at) != values.ndim - 1:
        raise ValueError(
            f"column {stem} has no component [{index}], got shape {values.shape} of galaxies and components"
        )
    return values[(slice(None), *at)]


def hold_alike(held: Columns, names: list[str]) -> bool:
    """Return whether columns hold equal numbers, but for rounding, in equal units."""
    if len({str(held[name].unit) for name in names}) > 1:
        return False
    arrays: list[Any] = [np.ma.asarray(held[name].values) for name in names]
    if any(a.dtype.kind not in "fiu" or a.shape != arrays[0].shape for a in arrays):
        return False
    first, *others = (a.astype(np.float64).filled(np.nan) for a in arrays)
    return all(np.allclose(first, other, rtol=1e-6, atol=0, equal_nan=True) for other in others)
