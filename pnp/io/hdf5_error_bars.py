"""Error bars of a result: the group /error_bars of its file (docs/hdf5_layout.md).

std             standard deviation of the error of each pixel, of the shape of /image
low, high       ends of the interval that holds the truth with the probability `level`, an attribute of the group
regions/*       columns with a row for each region of each image and channel: image, channel, label, mean, std, and of
                SPECT volume_ml, total (mean times volume) and total_std

Attributes of the group say how they were found. All numbers are in the units of /image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .hdf5_safe import listed, numbers

_Array = npt.NDArray[Any]

MAPS = ("std", "low", "high")
COLUMNS = ("image", "channel", "label", "mean", "std")
FURTHER_COLUMNS = ("volume_ml", "total", "total_std")
"""Columns of SPECT."""
UNITS = "units of /image"
"""Attribute `units` of the datasets: an image need not say its own."""


@dataclass(frozen=True)
class SavedErrorBars:
    """Error bars as a file of a result holds them.

    Attributes:
        std: standard deviation of the error of each pixel, (B, C, H, W) as x.
        low, high: ends of the interval of each pixel.
        level: probability that the truth lies in it.
        attributes: n (copies), moves, factor, factor_std, hold_out: as those of `pnp.uncertainty.Bootstrap`.
        regions: columns image, channel (both from 0), label, mean and std, and of SPECT volume_ml, total and
            total_std; empty without regions.
    """

    std: _Array
    low: _Array
    high: _Array
    level: float
    attributes: dict[str, Any] = field(default_factory=dict)
    regions: dict[str, _Array] = field(default_factory=dict)


def write_error_bars(file: h5py.File, bars: SavedErrorBars) -> None:
    """Write the group /error_bars."""
    group = file.create_group("error_bars")
    for name in MAPS:
        group[name] = np.asarray(getattr(bars, name))
        group[name].attrs["units"] = UNITS
    group.attrs["level"] = bars.level
    for name, value in bars.attributes.items():
        group.attrs[name] = value
    for name, values in bars.regions.items():
        group[f"regions/{name}"] = np.asarray(values)
        if name in ("mean", "std"):
            group[f"regions/{name}"].attrs["units"] = UNITS


def read_error_bars(path: str | os.PathLike[str], file: h5py.File, shape: tuple[int, ...]) -> SavedErrorBars | None:
    """Return the group /error_bars of an image of this shape; None where there is none.

    Raises:
        ValueError: a map is missing or of another shape than the image, or columns of regions differ in length.
    """
    group = file.get("error_bars")
    if not isinstance(group, h5py.Group):
        return None
    maps = {name: numbers(path, group[name]) for name in MAPS if isinstance(group.get(name), h5py.Dataset)}
    if set(maps) != set(MAPS) or any(values.shape != shape for values in maps.values()):
        raise ValueError(
            f"{path}: /error_bars must have std, low and high of the shape of /image, {shape}, it holds {listed(group)}"
        )
    attributes = {name: _plain(value) for name, value in group.attrs.items()}
    level = attributes.pop("level", None)
    if not isinstance(level, float) or not 0 < level < 1:
        raise ValueError(f"{path}: the attribute level of /error_bars must be a number in (0, 1), got {level!r:.60}")
    return SavedErrorBars(**maps, level=level, attributes=attributes, regions=_regions(path, group.get("regions")))


def _regions(path: str | os.PathLike[str], group: Any) -> dict[str, _Array]:
    if not isinstance(group, h5py.Group):
        return {}
    names = COLUMNS + tuple(name for name in FURTHER_COLUMNS if name in group)
    columns = {name: numbers(path, group[name]) for name in names if isinstance(group.get(name), h5py.Dataset)}
    lengths = {name: columns[name].shape if name in columns else None for name in names}
    if len(set(lengths.values())) != 1 or any(values.ndim != 1 for values in columns.values()):
        raise ValueError(f"{path}: /error_bars/regions must have columns {COLUMNS} of one length, got {lengths}")
    return columns


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(_plain(part) for part in value.ravel())
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value
