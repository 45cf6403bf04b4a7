"""Data Exchange: raw tomography of synchrotrons in HDF5 (De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224).

    exchange/data         (theta, y, x) counts; another order where the attribute axes says so, e.g. "y:theta:x"
    exchange/data_white   open beam, (views, y, x); exchange/data_dark: closed beam
    exchange/theta        (n_angles,), attribute units: degrees or radians

and, optionally, measurement/instrument/detector/actual_pixel_size_x on the plane of the sample, in metres unless its
attribute units says otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..io.guards import check_file, check_finite, check_real
from ..io.hdf5_safe import check_stored, listed, numbers, open_hdf5
from .ct_scan import CtScan

_RADIANS_PER_UNIT = dict.fromkeys(("deg", "degree", "degrees"), math.pi / 180) | dict.fromkeys(
    ("rad", "radian", "radians"), 1.0
)
_MM_PER_UNIT = {"m": 1e3, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
_PIXEL_SIZE_DATASET = "measurement/instrument/detector/actual_pixel_size_x"


def read_dxchange(
    path: str | os.PathLike[str], *, rows: slice | None = None, angles: npt.ArrayLike | None = None
) -> CtScan:
    """Read raw counts (n_rows, n_angles, n_detectors), parallel beam, with the flats and the darks.

    Args:
        path: the file.
        rows: the detector rows to read, e.g. slice(0, 1); the others are not loaded. None: all.
        angles: (n_angles,), radians, in place of the file's own, e.g. where it has none or does not state their unit.

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, broken or lacks data or angles; axes do not match; values are not finite.
    """
    if rows is not None and not isinstance(rows, slice):
        raise TypeError(f"read_dxchange: rows must be a slice, got {rows!r:.40}; use slice(k, k + 1) for row k")
    given = None if angles is None else np.asarray(angles)
    with open_hdf5(check_file(path)) as file:
        data = _dataset(path, file, "data")
        axes = _axes(path, data, ["theta", "x"] if data.ndim == 2 else ["theta", "y", "x"])
        sizes = dict(zip(axes, data.shape, strict=True))
        picked = _rows(path, sizes.get("y", 1), rows)
        theta = _angles(path, file, sizes["theta"]) if given is None else given
        _check_views(path, sizes, theta.size)
        y = _counts(path, data, axes, picked)
        fields = {name: _frames(path, file, f"data_{name}", sizes, picked) for name in ("white", "dark")}
        pixel = _pixel_size(path, file)
        title = file["exchange"].get("title")
        facts: dict[str, Any] = {"rows": (picked.start, picked.stop, picked.step)}
        if isinstance(title, h5py.Dataset) and title.shape == ():
            facts["title"] = _text(title[()])
    return CtScan(
        y=y,
        angles=theta,
        kind="counts",
        flat=fields["white"],
        dark=fields["dark"],
        pitch_mm=pixel,
        pixel_size_mm=pixel,
        facts=facts,
        path=str(path),
    )


def _dataset(path: str | os.PathLike[str], file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of real numbers of the group exchange; without it, list what the file holds."""
    group = file.get("exchange")
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{path} must have a group 'exchange', it holds {listed(file)}; is it a Data Exchange file?")
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path} must have a dataset 'exchange/{name}', the group holds {listed(group)}")
    check_real(f"{path}: exchange/{name}", dataset.dtype)
    return dataset


def _axes(path: str | os.PathLike[str], dataset: h5py.Dataset, expected: Sequence[str]) -> list[str]:
    """Return the names of a dataset's axes, in its order: "x", "y" and, for the views, "theta"."""
    stated = _text(dataset.attrs.get("axes", ":".join(expected)))
    axes = [name if name in ("x", "y") else "theta" for name in (part.strip() for part in stated.split(":"))]
    if len(axes) != dataset.ndim or sorted(axes) != sorted(expected):
        raise ValueError(
            f"{path}: {dataset.name} must have the axes {':'.join(expected)} in some order, got shape {dataset.shape} "
            f"and the attribute axes {stated!r:.40}; correct it"
        )
    return axes


def _check_views(path: str | os.PathLike[str], sizes: dict[str, int], n: int) -> None:
    """Refuse data that have another number of views than angles, before they are read."""
    if n == sizes["theta"]:
        return
    same = [axis for axis, size in sizes.items() if size == n]
    remedy = (
        f"its axis {same[0]} has {n}: is it transposed? Set data's attribute axes to the true order"
        if same
        else "views or angles are missing; give angles= in radians, one per view"
    )
    got = f"{tuple(sizes.values())} ({':'.join(sizes)})"
    raise ValueError(f"{path}: data must have a view for each of {n} angles, got {got}; {remedy}")


def _rows(path: str | os.PathLike[str], n_rows: int, rows: slice | None) -> slice:
    """Return rows as a slice within the detector; no requested row is left out silently."""
    start, stop, step = (rows or slice(None)).indices(n_rows)
    asked = (rows.start, rows.stop) if rows is not None else ()
    if step < 1 or start >= stop or any(end is not None and not -n_rows <= end <= n_rows for end in asked):
        raise ValueError(f"{path}: rows must lie within the {n_rows} of the detector, upwards, got {rows}")
    return slice(start, stop, step)


def _counts(path: str | os.PathLike[str], dataset: h5py.Dataset, axes: list[str], rows: slice) -> npt.NDArray[Any]:
    """Read some rows, with the axes in the order y, theta, x."""
    n_rows = len(range(rows.start, rows.stop, rows.step))
    shape = [n_rows if axis == "y" else n for axis, n in zip(axes, dataset.shape, strict=True)]
    check_stored(path, dataset, shape, "read some rows, rows=slice(0, 16)")
    values: npt.NDArray[Any] = dataset[tuple(rows if axis == "y" else slice(None) for axis in axes)]
    return values.transpose([axes.index(axis) for axis in ("y", "theta", "x") if axis in axes])


def _frames(
    path: str | os.PathLike[str], file: h5py.File, name: str, data: dict[str, int], rows: slice
) -> npt.NDArray[Any] | None:
    """Return a dataset of flats or darks, (n_rows?, n_frames, n_detectors)."""
    if name not in file["exchange"]:
        return None
    dataset = _dataset(path, file, name)
    expected = [axis for axis in ("theta", "y", "x") if axis in data]
    axes = _axes(path, dataset, expected[1:] if dataset.ndim == len(expected) - 1 else expected)
    sizes = dict(zip(axes, dataset.shape, strict=True))
    n = sizes.pop("theta", 1)
    if any(size != data[axis] for axis, size in sizes.items()):
        raise ValueError(f"{path}: {dataset.name} must have data's pixels, {data}, got {sizes}; crop both alike")
    if n == 0:
        return None
    frames = _counts(path, dataset, axes, rows)
    return frames if "theta" in axes else frames[..., None, :]


def _angles(path: str | os.PathLike[str], file: h5py.File, n_views: int) -> npt.NDArray[np.float64]:
    """Return theta in radians, (n_angles,)."""
    if "theta" not in file["exchange"]:
        raise ValueError(f"{path} has no exchange/theta; give angles= in radians, one for each of {n_views} views")
    dataset = _dataset(path, file, "theta")
    theta = numbers(path, dataset).astype(np.float64)
    check_finite(f"{path}: exchange/theta", theta)
    unit = _text(dataset.attrs.get("units", ""))
    if unit.lower() not in _RADIANS_PER_UNIT:
        raise ValueError(
            f"{path}: exchange/theta must have the attribute units 'degrees' or 'radians', got {unit!r:.40}; set it, "
            f"or give angles= in radians"
        )
    span = float(np.ptp(theta)) if theta.size else 0.0
    if _RADIANS_PER_UNIT[unit.lower()] == 1.0 and span > 4 * math.pi:
        raise ValueError(
            f"{path}: exchange/theta spans {span:.4g} radians, more than two turns: degrees, left as such? Set its "
            f"attribute units to 'degrees', or give angles= in radians"
        )
    return theta * _RADIANS_PER_UNIT[unit.lower()]


def _pixel_size(path: str | os.PathLike[str], file: h5py.File) -> float | None:
    """Return the width of a bin on the plane of the sample in mm, where the file has it."""
    dataset = file.get(_PIXEL_SIZE_DATASET)
    if not isinstance(dataset, h5py.Dataset):
        return None
    unit, size = _text(dataset.attrs.get("units", "m")), numbers(path, dataset).ravel()
    if unit not in _MM_PER_UNIT or size.size != 1 or not 0 < size[0] < np.inf:
        raise ValueError(
            f"{path}: {_PIXEL_SIZE_DATASET} must be one length in one of {', '.join(_MM_PER_UNIT)}, got {size[:3]} "
            f"{unit!r:.20}"
        )
    return float(size[0]) * _MM_PER_UNIT[unit]


def _text(value: Any) -> str:
    """Return HDF5 text, bytes or str, as str."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
