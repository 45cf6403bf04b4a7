"""NXtomo: raw tomography in NeXus files (HDF5), as written at ESRF, Diamond, ISIS, DESY and others.

    entry (NXentry, or NXsubentry below it; definition NXtomo)
      instrument (NXinstrument) / detector (NXdetector)
        data                     (frames, y, x) counts of projections, flats and darks in the order of the scan
        image_key                (frames,): 0 projection, 1 flat, 2 dark, 3 invalid
        image_key_control        likewise, and -1 for alignment, which is not used; where it is, it counts
        x_pixel_size, distance   lengths; distance is that from the sample
      instrument / source / distance      from the sample, of either sign
      sample / rotation_angle    (frames,), attribute units
      sample / x_pixel_size      on the plane of the sample

Without image_key, data are projections, and flats and darks are the data of the detectors bright_field and dark_field
(NXtomo 1.0b). Source: https://manual.nexusformat.org/classes/applications/NXtomo.html.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ..io.guards import check_finite, check_real, one_line
from ..io.hdf5_links import LinkedFile, open_linked
from ..io.hdf5_safe import listed, numbers
from ..io.physical_units import text_of, to_unit
from .ct_arguments import check_bins, check_rows, checked_kind, checked_size, in_radians, picked_rows
from .ct_scan import CtScan

_Array = npt.NDArray[Any]
_PROJECTION, _FLAT, _DARK = 0, 1, 2
_TIMES = {"times": _PROJECTION, "flat_times": _FLAT, "dark_times": _DARK}
_MAX_PARALLEL_SHIFT = 0.5
"""Bins by which a ray of a parallel beam may be displaced, across an object as wide as the detector."""


class _Frames(NamedTuple):
    """Frames of one kind: their dataset, which of it they are, and their places in the scan, None if not known."""

    data: h5py.Dataset
    which: _Array
    times: _Array | None


def read_nxtomo(
    path: str | os.PathLike[str],
    *,
    rows: slice | None = None,
    angles: npt.ArrayLike | None = None,
    pixel_size_mm: float | None = None,
    entry: str | None = None,
    kind: Literal["line integrals", "counts", "transmissions"] | None = None,
) -> CtScan:
    """Read raw counts (n_rows, n_angles, n_detectors) with the flats and the darks.

    The beam is a fan (of a cone) where the distances of source and detector are known and its rays diverge by more
    than half a bin across the object, otherwise parallel. Units are read in any spelling; one that is missing is asked
    for. Links to files outside of this one's folder are not followed, and matter only where they are needed.

    Args:
        path: the file.
        rows: the detector rows to read, e.g. slice(0, 1); the others are not loaded. None: all.
        angles: radians, in place of the file's own, one for each projection or for each frame; or "deg" or "rad", the
            unit of the file's own, in place of the one that it states, or where it states none.
        pixel_size_mm: width of a bin on the plane of the sample, mm, in place of the file's own.
        entry: name of the entry, where the file holds several scans.
        kind: what the values are, as in `CtScan`; None: counts. Of others the flats and darks are left out:
            transmissions and line integrals were divided by the beam already.

    Returns:
        See `CtScan`; times are the numbers of the frames in the scan. Facts hold "rows", "entry", "middle_row" of a
        cone beam, "source_distance_mm", "detector_distance_mm" and "files", other files that the data are in, as far
        as the file has them.

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, broken or lacks data, angles or their unit; it holds several scans; the
            numbers of frames, keys and angles differ; values are not finite.
    """
    check_rows("read_nxtomo", rows)
    stated, doubts = checked_kind(path, kind), list[str]()
    with open_linked(path) as file:
        name, group = _entry(file, entry)
        kinds = _frames(file, group)
        if stated != "counts":
            kinds = {_PROJECTION: kinds[_PROJECTION]}
        views = kinds[_PROJECTION]
        picked = picked_rows(path, views.data.shape[1] if views.data.ndim == 3 else 1, rows)
        theta = _angles(file, group, views, angles, doubts)
        y, flat, dark = (_counts(file, kinds.get(key), views.data.shape, picked) for key in (_PROJECTION, _FLAT, _DARK))
        lengths, facts = _geometry(file, group, views.data.shape[-1], pixel_size_mm, doubts)
        if "source_origin_mm" in lengths and views.data.ndim == 3:
            facts["middle_row"] = (views.data.shape[1] - 1) / 2  # the file does not say where the source's plane is
        facts |= {"rows": (picked.start, picked.stop, picked.step), "entry": name}
        known: dict[str, Any] = lengths | {name: _times(kinds, key) for name, key in _TIMES.items()}
        facts |= {"files": sorted(file.others)} if file.others else {}
        assert y is not None
    for doubt in doubts:  # warnings are silenced while a file is read
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return CtScan(y=y, angles=theta, kind=stated, flat=flat, dark=dark, **known, facts=facts, path=str(path))


def _entry(file: LinkedFile, wanted: str | None) -> tuple[str, h5py.Group]:
    """Return the entry of a scan, and its name."""
    path = file.path
    if wanted is not None:
        group = file.get(wanted)
        if not isinstance(group, h5py.Group):
            raise ValueError(
                f"{path}: entry must be one of the file's, got {wanted!r:.40}; it holds {listed(file.root)}"
            )
        return wanted, group
    entries = dict(_entries(file))
    scans = {name: group for name, group in entries.items() if _definition(file, group) == "NXtomo"}
    scans = scans or {name: group for name, group in entries.items() if _detector(file, group) is not None}
    if not scans:
        raise ValueError(
            f"{path} must have an NXentry with definition NXtomo or instrument/detector/data, it holds "
            f"{listed(file.root)}{_broken(file)}; is it a tomographic scan?"
        )
    if len(scans) > 1:
        names = ", ".join(one_line(name, 24) for name in list(scans)[:6])
        raise ValueError(f"{path} holds {len(scans)} scans; choose one by entry=: {names}")
    return next(iter(scans.items()))


def _entries(file: LinkedFile) -> list[tuple[str, h5py.Group]]:
    """Return the entries, and the subentries in them, of which Diamond's tomo_entry is one."""
    found: list[tuple[str, h5py.Group]] = []
    for name, group in file.groups(file.root):
        if _nx_class(group) == "NXentry":
            found.append((name, group))
            found += [(f"{name}/{n}", g) for n, g in file.groups(group) if _nx_class(g) in ("NXentry", "NXsubentry")]
    return found


def _nx_class(group: h5py.Group) -> str:
    return text_of(group.attrs.get("NX_class", ""))


def _definition(file: LinkedFile, group: h5py.Group) -> str:
    dataset = file.dataset("definition", group)
    return "" if dataset is None or dataset.size != 1 else text_of(np.asarray(dataset[()]))


def _broken(file: LinkedFile) -> str:
    """Return which link on the way to what is missing points nowhere, for a message."""
    return next((f" ({name} links to {target!r}, which is not there)" for name, target in file.broken.items()), "")


def _detector(file: LinkedFile, group: h5py.Group) -> h5py.Group | None:
    """Return the detector of an entry, or the NXdata group that stands for it; None where there is none."""
    places = [file.get(place, group) for place in ("instrument/detector", "instrument/sample")]
    instruments = [found for _, found in file.groups(group) if _nx_class(found) == "NXinstrument"]
    places += [found for one in instruments for _, found in file.groups(one) if _nx_class(found) == "NXdetector"]
    places.append(file.get("data", group))
    return next((g for g in places if isinstance(g, h5py.Group) and g.id.links.exists(b"data")), None)


def _frames(file: LinkedFile, group: h5py.Group) -> dict[int, _Frames]:
    """Return the projections, and the flats and darks where there are any, by their key."""
    path, detector = file.path, _detector(file, group)
    data = None if detector is None else file.dataset("data", detector)
    if detector is None or data is None:
        raise ValueError(f"{path} must have a dataset instrument/detector/data in {group.name!r:.40}{_broken(file)}")
    keys = file.dataset("image_key_control", detector) or file.dataset("image_key", detector)
    keys = keys or file.dataset("data/image_key", group)
    check_real(f"{path}: {data.name}", data.dtype)
    if data.ndim not in (2, 3) or 0 in data.shape:
        raise ValueError(f"{path}: {data.name} must be (frames, y, x), got {data.shape}; is it a detector's data?")
    axes = "frames:x" if data.ndim == 2 else "frames:y:x"
    check_bins(path, data.name, data.shape, axes, f"Store it as ({axes})")
    if keys is None:
        return _separate_frames(file, group, data)
    key = numbers(path, keys).ravel()
    if key.size != data.shape[0]:
        raise ValueError(
            f"{path}: {keys.name} must have a key for each of {data.shape[0]} frames, got {key.size}; was the scan "
            "stopped early?"
        )
    places = {kind: np.flatnonzero(key == kind) for kind in (_PROJECTION, _FLAT, _DARK)}
    found = {kind: _Frames(data, which, which) for kind, which in places.items()}
    if not found[_PROJECTION].which.size:
        raise ValueError(
            f"{path}: {keys.name} must mark projections by 0, got {np.unique(key)[:8]}; is it a scan of flats?"
        )
    return {kind: frames for kind, frames in found.items() if frames.which.size}


def _separate_frames(file: LinkedFile, group: h5py.Group, data: h5py.Dataset) -> dict[int, _Frames]:
    """Return frames where flats and darks have detectors of their own."""
    found: dict[int, _Frames] = {}
    for key, name in ((_PROJECTION, "sample"), (_FLAT, "bright_field"), (_DARK, "dark_field")):
        dataset = data if key == _PROJECTION else file.dataset(f"instrument/{name}/data", group)
        if dataset is None or not dataset.shape or not dataset.shape[0]:
            continue
        check_real(f"{file.path}: {dataset.name}", dataset.dtype)
        order = file.dataset(f"instrument/{name}/sequence_number", group)
        times = None if order is None else numbers(file.path, order).astype(np.float64).ravel()
        n = dataset.shape[0]
        found[key] = _Frames(dataset, np.arange(n), times if times is not None and times.size == n else None)
    return found


def _times(kinds: dict[int, _Frames], key: int) -> _Array | None:
    """Return the places in the scan of the frames of a kind, where those of the projections are known too."""
    times = kinds[key].times if key in kinds and kinds[_PROJECTION].times is not None else None
    return None if times is None else times.astype(np.float64)


def _counts(file: LinkedFile, frames: _Frames | None, shape: tuple[int, ...], rows: slice) -> _Array | None:
    """Read frames, (n_rows, n_frames, n_detectors), or (n_frames, n_detectors) of a line detector."""
    if frames is None:
        return None
    data, which, _ = frames
    if data.shape[1:] != shape[1:]:
        raise ValueError(
            f"{file.path}: {data.name} must have frames {shape[1:]}, got {data.shape[1:]}; crop both alike"
        )
    n_rows = (len(range(rows.start, rows.stop, rows.step)),) if data.ndim == 3 else ()
    part = (which.size, *n_rows, shape[-1])
    file.check_stored(data, part, "read some rows, rows=slice(0, 16)")
    values = np.empty(part, data.dtype.newbyteorder("="))
    # Frames of a kind mostly follow each other, and a slice is read far faster than a list.
    runs = np.split(np.arange(which.size), np.flatnonzero(np.diff(which) != 1) + 1)
    for run in runs:
        frames_of_run = slice(int(which[run[0]]), int(which[run[-1]]) + 1)
        values[run[0] : run[-1] + 1] = data[(frames_of_run, rows) if data.ndim == 3 else frames_of_run]
    return np.moveaxis(values, 1, 0) if data.ndim == 3 else values


def _angles(
    file: LinkedFile, group: h5py.Group, views: _Frames, given: npt.ArrayLike | None, doubts: list[str]
) -> npt.NDArray[np.float64]:
    """Return an angle for every projection, in radians."""
    path, n_frames, n_views = file.path, views.data.shape[0], views.which.size
    if given is not None and not isinstance(given, str):
        return _of_views(path, "angles", np.asarray(given), n_frames, views.which)
    dataset = file.dataset("sample/rotation_angle", group) or file.dataset("data/rotation_angle", group)
    if dataset is None:
        raise ValueError(
            f"{path} has no sample/rotation_angle in {group.name!r:.40}{_broken(file)}; give angles= in radians, one "
            f"for each of {n_views} projections"
        )
    theta = numbers(path, dataset).astype(np.float64).ravel()
    theta = _of_views(path, dataset.name, theta, n_frames, views.which)
    check_finite(f"{path}: {dataset.name}", theta)
    return in_radians(path, dataset.name, theta, text_of(dataset.attrs.get("units", "")), given, doubts)


def _of_views(path: str | os.PathLike[str], where: str, theta: _Array, n_frames: int, which: _Array) -> _Array:
    if theta.ndim != 1 or theta.size not in (n_frames, which.size):
        raise ValueError(
            f"{path}: {where} must be an angle for each of {which.size} projections or {n_frames} frames, got "
            f"{theta.shape}; give angles= in radians"
        )
    return theta[which] if theta.size == n_frames else theta


def _geometry(
    file: LinkedFile, group: h5py.Group, n_bins: int, given: float | None, doubts: list[str]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the lengths of `CtScan`, as far as they are known, and facts."""
    source, to_detector = (_distance(file, group, name, doubts) for name in ("source", "detector"))
    known = {"source_distance_mm": source, "detector_distance_mm": to_detector}
    facts: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
    # Rays of a source at a finite distance are treated as parallel where that displaces them by less than half a bin.
    magnification = (source + to_detector) / source if source and to_detector else 1.0
    at_sample = None if given is None else checked_size(file.path, given)
    pitch = None if at_sample is None else at_sample * magnification
    if at_sample is None:
        pitch = _pixel(file, group, "instrument/detector/x_pixel_size")
        names = ("sample/x_pixel_size", "instrument/detector/x_magnified_pixel_size")
        at_sample = next((size for name in names if (size := _pixel(file, group, name))), None)
    if source and to_detector and pitch:
        shift = n_bins**2 / 2 * pitch / (source + to_detector)
        if shift > _MAX_PARALLEL_SHIFT:
            fan = {"source_origin_mm": source, "origin_detector_mm": to_detector, "pitch_mm": pitch}
            return fan | {"pixel_size_mm": pitch / magnification}, facts
    size = at_sample or pitch
    return ({} if size is None else {"pitch_mm": size, "pixel_size_mm": size}), facts


def _pixel(file: LinkedFile, group: h5py.Group, name: str) -> float | None:
    """Return the size of a pixel in mm, or None where there is none."""
    value, unit = _quantity(file, group, name)
    factor = to_unit(unit, "mm")
    if value is not None and factor is None:
        where = f"{file.path}: {group.name}/{name}"
        raise ValueError(f"{where} must have the attribute units, a length, got {unit!r:.24}; give pixel_size_mm=")
    return None if value is None or factor is None else value * factor


def _distance(file: LinkedFile, group: h5py.Group, what: str, doubts: list[str]) -> float | None:
    """Return the distance of the source or of the detector in mm, or None; without its unit it is not used."""
    value, unit = _quantity(file, group, f"instrument/{what}/distance")
    factor = to_unit(unit, "mm")
    if value is not None and factor is None:
        doubts.append(
            f"the distance of the {what}, {value:.4g}, has no unit of length, got {unit!r:.24}; it is not used, and "
            "the beam is taken to be parallel: set its attribute units"
        )
    return None if value is None or factor is None else value * factor


def _quantity(file: LinkedFile, group: h5py.Group, name: str) -> tuple[float | None, str]:
    """Return the size of a number and its unit; None where it is absent, zero, not finite, or changes."""
    dataset = file.dataset(name, group)
    if dataset is None or not dataset.size or dataset.dtype.kind not in "fiu":
        return None, ""
    values = np.unique(numbers(file.path, dataset))
    value = abs(float(values[0]))
    return value if len(values) == 1 and 0 < value < np.inf else None, text_of(dataset.attrs.get("units", ""))
