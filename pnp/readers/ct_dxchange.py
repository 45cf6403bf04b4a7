"""Data Exchange: raw tomography of synchrotrons in HDF5 (De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224).

    exchange/data         (theta, y, x) counts; another order where the attribute axes says so, e.g. "y:theta:x"
    exchange/data_white   open beam, (views, y, x); exchange/data_dark: closed beam
    exchange/theta        (n_angles,), attribute units: degrees or radians

as TomoScan, dxfile and tomopy write it. In place of missing frames and angles, in process/acquisition:

    flat_fields/flat_field_value, dark_fields/dark_field_value       one value for all pixels
    rotation/rotation_start, rotation_step (or start, step)          angles rotation_start + k rotation_step

and which dataset every frame of the scan went to, with its number, where some were lost or the scan was stopped:

    defaults/HDF5FrameLocation, NDArrayUniqueId                      (frames,): "/exchange/data_white", ...; integers

and the size of a bin on the plane of the sample, in measurement/instrument: detection_system/objective/resolution, or
detector/actual_pixel_size_x, or detector/pixel_size over the objective's magnification.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from ..io.guards import check_finite, check_real
from ..io.hdf5_links import LinkedFile, open_linked
from ..io.hdf5_safe import listed, numbers
from ..io.physical_units import text_of, to_unit
from .ct_arguments import check_bins, check_rows, checked_kind, checked_size, in_radians, picked_rows
from .ct_scan import CtScan

_Array = npt.NDArray[Any]
_INSTRUMENT, _ACQUISITION = "measurement/instrument", "process/acquisition"
_BINS_AT_SAMPLE = (
    f"{_INSTRUMENT}/detection_system/objective/resolution",
    f"{_INSTRUMENT}/detector/actual_pixel_size_x",
)
_CAMERA_PIXEL = f"{_INSTRUMENT}/detector/pixel_size"
_MAGNIFICATION = f"{_INSTRUMENT}/detection_system/objective/magnification"
_MAX_DIFFERENCE = 0.01
"""Largest relative difference between two sizes of a bin in one file."""
_MAX_FRAMES = 10**6
_VALUES = {
    "white": f"{_ACQUISITION}/flat_fields/flat_field_value",
    "dark": f"{_ACQUISITION}/dark_fields/dark_field_value",
}


def read_dxchange(
    path: str | os.PathLike[str],
    *,
    rows: slice | None = None,
    angles: npt.ArrayLike | None = None,
    pixel_size_mm: float | None = None,
    kind: Literal["line integrals", "counts", "transmissions"] | None = None,
) -> CtScan:
    """Read raw counts (n_rows, n_angles, n_detectors), parallel beam, with the flats and the darks.

    Units are read in any spelling; one that is missing is asked for.

    Args:
        path: the file.
        rows: the detector rows to read, e.g. slice(0, 1); the others are not loaded. None: all.
        angles: (n_angles,), radians, in place of the file's own, e.g. where it has none; or "deg" or "rad", the unit
            of the file's own, in place of the one that it states, or where it states none.
        pixel_size_mm: width of a bin on the plane of the sample, mm, in place of the file's own.
        kind: what the values are, as in `CtScan`; None: counts. Of others the flats and darks are left out:
            transmissions and line integrals were divided by the beam already.

    Returns:
        See `CtScan`; times are the places of the frames in the scan, where the file has them. Facts hold "rows", and
        "title", "camera_pixel_size_mm", "flat_field_value", "dark_field_value" and "files", other files that the data
        are in, as far as the file has them.

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, broken or lacks data or angles, or their unit; axes do not match; values are
            not finite.
    """
    check_rows("read_dxchange", rows)
    stated = checked_kind(path, kind)
    given = None if angles is None or isinstance(angles, str) else np.asarray(angles)
    doubts: list[str] = []
    with open_linked(path) as file:
        data = _required(file, "data")
        axes = _axes(path, data, ["theta", "x"] if data.ndim == 2 else ["theta", "y", "x"])
        sizes = dict(zip(axes, data.shape, strict=True))
        remedy = "Set data's attribute axes to the true order"
        check_bins(path, "exchange/data", data.shape, ":".join(axes), remedy)
        picked = picked_rows(path, sizes.get("y", 1), rows)
        order, numbers_of_views = _order(file, sizes["theta"])
        if given is None:
            theta = _angles(file, sizes, numbers_of_views, angles if isinstance(angles, str) else None, doubts)
        else:
            theta = given
        _check_views(path, sizes, theta.size)
        y = _counts(file, data, axes, picked)
        facts: dict[str, Any] = {"rows": (picked.start, picked.stop, picked.step)}
        fields: dict[str, _Array | None] = {"white": None, "dark": None}
        if stated == "counts":
            fields = {name: _frames(file, name, sizes, picked, facts) for name in fields}
        pixel = checked_size(path, pixel_size_mm) if pixel_size_mm is not None else _pixel_size(file)
        camera = _length(file, _CAMERA_PIXEL) if pixel_size_mm is None else None
        title = file.dataset("exchange/title")
        facts |= {} if camera is None else {"camera_pixel_size_mm": camera}
        facts |= {"title": text_of(title[()])} if title is not None and title.shape == () else {}
        facts |= {"files": sorted(file.others)} if file.others else {}
        times = _times(order, fields)
    for doubt in doubts:  # warnings are silenced while a file is read
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return CtScan(
        y=y,
        angles=theta,
        kind=stated,
        flat=fields["white"],
        dark=fields["dark"],
        pitch_mm=pixel,
        pixel_size_mm=pixel,
        facts=facts,
        path=str(path),
        **times,
    )


def _required(file: LinkedFile, name: str) -> h5py.Dataset:
    """Return a dataset of real numbers of the group exchange; without it, list what the file holds."""
    path, group = file.path, file.get("exchange")
    broken = next((f"; its link to {target!r} points nowhere" for target in file.broken.values()), "")
    if not isinstance(group, h5py.Group):
        held = listed(file.root)
        raise ValueError(f"{path} must have a group 'exchange', it holds {held}{broken}; is it a Data Exchange file?")
    dataset = file.dataset(name, group)
    if dataset is None:
        broken = next((f"; its link to {target!r} points nowhere" for target in file.broken.values()), "")
        raise ValueError(f"{path} must have a dataset 'exchange/{name}', the group holds {listed(group)}{broken}")
    check_real(f"{path}: exchange/{name}", dataset.dtype)
    return dataset


def _axes(path: str | os.PathLike[str], dataset: h5py.Dataset, expected: Sequence[str]) -> list[str]:
    """Return the names of a dataset's axes, in its order: "x", "y" and, for the views, "theta"."""
    stated = text_of(dataset.attrs.get("axes", ":".join(expected)))
    if stated.lower() == expected[0]:  # TomoScan's templates name the first axis only
        stated = ":".join(expected)
    parts = (part.strip().lower() for part in stated.replace(",", ":").split(":"))
    axes = [name if name in ("x", "y") else "theta" for name in parts]
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


def _counts(file: LinkedFile, dataset: h5py.Dataset, axes: list[str], rows: slice) -> npt.NDArray[Any]:
    """Read some rows, with the axes in the order y, theta, x."""
    n_rows = len(range(rows.start, rows.stop, rows.step))
    shape = [n_rows if axis == "y" else n for axis, n in zip(axes, dataset.shape, strict=True)]
    file.check_stored(dataset, shape, "read some rows, rows=slice(0, 16)")
    values: npt.NDArray[Any] = dataset[tuple(rows if axis == "y" else slice(None) for axis in axes)]
    return values.transpose([axes.index(axis) for axis in ("y", "theta", "x") if axis in axes])


def _frames(
    file: LinkedFile, name: str, data: dict[str, int], rows: slice, facts: dict[str, Any]
) -> npt.NDArray[Any] | None:
    """Return flats or darks, (n_rows?, n_frames, n_detectors); without any, the value that the file states."""
    frames = _measured_frames(file, f"data_{name}", data, rows)
    if frames is not None and (frames.shape[-2] > 1 or frames.any()):
        return frames
    value = _number(file, _VALUES[name])
    if value is None or not 0 < value < math.inf:
        return frames
    facts[_VALUES[name].rpartition("/")[2]] = value
    n_rows = (len(range(rows.start, rows.stop, rows.step)),) if "y" in data else ()
    return np.full((*n_rows, 1, data["x"]), value)


def _measured_frames(file: LinkedFile, name: str, data: dict[str, int], rows: slice) -> npt.NDArray[Any] | None:
    path = file.path
    if file.get(f"exchange/{name}") is None:
        return None
    dataset = _required(file, name)
    expected = [axis for axis in ("theta", "y", "x") if axis in data]
    axes = _axes(path, dataset, expected[1:] if dataset.ndim == len(expected) - 1 else expected)
    sizes = dict(zip(axes, dataset.shape, strict=True))
    n = sizes.pop("theta", 1)
    if any(size != data[axis] for axis, size in sizes.items()):
        raise ValueError(f"{path}: {dataset.name} must have data's pixels, {data}, got {sizes}; crop both alike")
    if n == 0:
        return None
    frames = _counts(file, dataset, axes, rows)
    return frames if "theta" in axes else frames[..., None, :]


def _order(file: LinkedFile, n_views: int) -> tuple[dict[str, _Array], _Array]:
    """Return the places in the scan of the frames of every dataset, and the numbers of the views, from 0.

    Where the file does not say so for every view, there are no places, and no view is missing.
    """
    where, ids = (file.dataset(f"defaults/{name}") for name in ("HDF5FrameLocation", "NDArrayUniqueId"))
    if where is None or where.ndim != 1 or where.size > _MAX_FRAMES or h5py.check_string_dtype(where.dtype) is None:
        return {}, np.arange(n_views)
    file.check_stored(where, where.shape, "read some rows")
    names = np.array([text_of(name) for name in where[()]])
    order = {name: np.flatnonzero(names == f"/exchange/{name}") for name in ("data", "data_white", "data_dark")}
    if order["data"].size != n_views:
        return {}, np.arange(n_views)
    if ids is None or ids.shape != where.shape or ids.dtype.kind not in "iu":
        return order, np.arange(n_views)
    of_views = numbers(file.path, ids)[order["data"]].astype(np.float64)
    increasing = bool((np.diff(of_views) >= 1).all()) and np.ptp(of_views) <= _MAX_FRAMES
    return order, (of_views - of_views[0]).astype(np.int64) if increasing else np.arange(n_views)


def _times(order: dict[str, _Array], fields: dict[str, _Array | None]) -> dict[str, Any]:
    """Return the times of `CtScan`: the places of the frames in the scan."""
    times: dict[str, Any] = {"times": order["data"].astype(np.float64)} if order else {}
    for name, where in (("white", "flat_times"), ("dark", "dark_times")):
        frames, places = fields[name], order.get(f"data_{name}")
        if frames is not None and places is not None and places.size == frames.shape[-2]:
            times[where] = places.astype(np.float64)
    return times


def _angles(
    file: LinkedFile, sizes: dict[str, int], places: _Array, given: str | None, doubts: list[str]
) -> npt.NDArray[np.float64]:
    """Return an angle for every view, in radians; those of views that an aborted scan lacks are left out."""
    path, n_views = file.path, sizes["theta"]
    if file.get("exchange/theta") is None:
        return _stepped_angles(file, places, given, doubts)
    dataset = _required(file, "theta")
    theta = numbers(path, dataset).astype(np.float64).ravel()
    check_finite(f"{path}: exchange/theta", theta)
    theta = in_radians(path, "exchange/theta", theta, text_of(dataset.attrs.get("units", "")), given, doubts)
    if theta.size <= n_views or theta.size in sizes.values():
        return theta
    if places[-1] >= n_views and places[-1] < theta.size:
        doubts.append(
            f"{theta.size - n_views} of {theta.size} views are missing, by the numbers of the frames "
            "(defaults/NDArrayUniqueId); the angles are those of the others"
        )
        return np.asarray(theta[places])
    doubts.append(
        f"exchange/theta has {theta.size} angles, data {n_views} views: the first {n_views} angles are taken, as of a "
        "scan that was stopped early; give angles= if views in between are missing"
    )
    return theta[:n_views]


def _stepped_angles(file: LinkedFile, places: _Array, given: str | None, doubts: list[str]) -> npt.NDArray[np.float64]:
    """Return the angles of a first one and a step."""
    path, group = file.path, f"{_ACQUISITION}/rotation"
    for prefix in ("rotation_", ""):
        start, step = (_number(file, f"{group}/{prefix}{name}") for name in ("start", "step"))
        if start is None or step is None or step == 0:
            continue
        unit = next((u for name in ("step", "start") if (u := _unit(file, f"{group}/{prefix}{name}"))), "")
        return in_radians(path, f"{group}/{prefix}step", start + step * places.astype(np.float64), unit, given, doubts)
    raise ValueError(
        f"{path} has no exchange/theta, and no {group}/rotation_start and rotation_step; give angles= in radians, one "
        f"for each of {places.size} views"
    )


def _pixel_size(file: LinkedFile) -> float | None:
    """Return the width of a bin on the plane of the sample in mm, where the file has it."""
    found = {name: size for name in _BINS_AT_SAMPLE if (size := _length(file, name)) is not None}
    sizes = list(found.values())
    if sizes and max(sizes) > (1 + _MAX_DIFFERENCE) * min(sizes):
        both = " and ".join(f"{name.rpartition('/')[2]} {size:.4g} mm" for name, size in found.items())
        raise ValueError(f"{file.path}: two sizes of a bin contradict each other, {both}; give pixel_size_mm=")
    if sizes:
        return sizes[0]
    magnification = _number(file, _MAGNIFICATION)
    if magnification is None or not 0 < magnification < math.inf:
        return None
    camera = _length(file, _CAMERA_PIXEL)
    return None if camera is None else camera / magnification


def _length(file: LinkedFile, name: str) -> float | None:
    """Return a length in mm; None where there is none, or 0, which stands for a value that was never set."""
    value = _number(file, name)
    if value is None or value == 0:
        return None
    factor = to_unit(unit := _unit(file, name), "mm")
    if factor is None or not 0 < value < math.inf:
        raise ValueError(
            f"{file.path}: {name} must be a length with its unit, got {value:.4g} {unit!r:.24}; give pixel_size_mm="
        )
    return value * factor


def _number(file: LinkedFile, name: str) -> float | None:
    """Return a single number, or None where there is none; text that begins with a number counts ("10x")."""
    dataset = file.dataset(name)
    if dataset is None or dataset.shape is None or dataset.size != 1:
        return None
    if dataset.dtype.kind in "fiu":
        return float(numbers(file.path, dataset).ravel()[0])
    if dataset.dtype.kind not in "SO":
        return None
    try:
        return float(text_of(np.asarray(dataset[()])).rstrip("xX "))
    except ValueError:
        return None


def _unit(file: LinkedFile, name: str) -> str:
    """Return the unit that a dataset states, empty without one."""
    dataset = file.dataset(name)
    attributes = {} if dataset is None else dataset.attrs
    return text_of(attributes.get("units", attributes.get("unit", "")))
