"""SPECT projections in DICOM files of nuclear medicine (PS3.3, A.5, NM Image): ImageType TOMO, all views in one file.

    counts = RescaleSlope * stored + RescaleIntercept

Every frame has numbers of its energy window, detector, rotation and angular view, from 1 (C.8.4.8, NM Multi-frame).

Angles (C.8.4.11, NM Detector, and C.8.4.12, NM Tomo Acquisition): StartAngle is where the detector is, in degrees, 0 at
the patient's back, increasing towards his left; RotationDirection CC increases it from view to view by AngularStep, CW
decreases it. At DICOM's angle phi the camera is at (sin(phi), cos(phi)) in the patient's axes x, left, and y, back:

    theta = pi - phi.

A detector's own StartAngle goes before the rotation's. Rows run from the head to the feet and columns to the right,
seen from the camera; ImageOrientationPatient, where a detector has it, is compared with that, not used. Both are the
patient's, however he lies; a camera that writes the gantry's angles needs angles_from="gantry".

Where a detector states ImagePositionPatient as well, the middle of the volume in the study's own frame follows from the
first pixel's centre, half the rows and columns, and the radius of the first view (`spect_position.frame_centre`).
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.guards import check_claim, check_file, check_memory, reading
from .ct_dicom import MAX_VALUE, UNCOMPRESSED_REMEDY, check_deflated
from .spect_orbit import fitted, given_radii
from .spect_position import AnglesFrom, Position, dicom_position, frame_centre, from_gantry, sentence
from .spect_scan import EnergyWindow, SpectScan
from .spect_times import dicom_acquisition

_Array = npt.NDArray[Any]
_FRAME_VECTORS = ("EnergyWindowVector", "DetectorVector", "RotationVector", "AngularViewVector")
_GATE_VECTORS = ("RRIntervalVector", "TimeSlotVector", "PhaseVector", "TimeSliceVector")
_MAX_CENTRE_OFFSET_MM = 0.1
"""Largest offset of a detector from the axis that is ignored."""
_MAX_TABLE_TILT = 0.5
"""Largest tilt or slew of the gantry in degrees that is ignored."""
_MAX_TILT = math.radians(20)
"""Largest angle between the orientation that a file states and that of its angles; more is a contradiction."""


def read_dicom_nm(
    path: str | os.PathLike[str],
    *,
    rotation: int | None = None,
    radius_mm: npt.ArrayLike | None = None,
    angles_from: AnglesFrom | None = None,
) -> SpectScan:
    """Read the views of a DICOM NM file, of all its detectors and energy windows.

    Args:
        path: the file; a folder is not searched.
        rotation: number of the rotation to read, from 1, where a file holds several (beds, or back and forth).
        radius_mm: distance from the axis to the collimator, a number or one for each view in the order of detectors
            and views, instead of the file's RadialPosition.
        angles_from: whose angles and rows the file has where the patient does not lie on his back, head first: the
            "patient"'s, which None stands for, or the "gantry"'s.

    Returns:
        See `SpectScan`. Facts hold "detectors", "collimator", "duration_s" (of a view), "corrected" (CorrectedImage),
        "study" and "series" (descriptions), as far as the file has them.

    Warns:
        UserWarning: an orbit that is not known, a patient in another position, entries that contradict each other.

    Raises:
        ValueError: a file is missing, broken, not DICOM NM, gated, reconstructed, not of parallel holes, or incomplete.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    if angles_from not in (None, "gantry", "patient"):
        raise ValueError(f"read_dicom_nm: angles_from must be 'patient' or 'gantry', got {angles_from!r:.40}")
    doubts: list[str] = []
    with reading(check_file(path), "DICOM"), open(path, "rb") as file:
        try:
            check_deflated(path, file)
            data = dcmread(file)
        except InvalidDicomError:
            raise ValueError(f"{path} is not a DICOM file; for an Interfile header use read_interfile") from None
        kinds = list(data.get("ImageType") or [])
        if data.get("Modality") != "NM" or kinds[2:3] != ["TOMO"]:
            raise ValueError(
                f"{path} must be raw views of SPECT (Modality NM, ImageType TOMO), got {data.get('Modality')!s:.16}, "
                f"{chr(92).join(map(str, kinds)):.60}; export the projections, not the reconstruction"
            )
        _check_size(path, data)
        numbers = {name: _vector(path, data, name) for name in _FRAME_VECTORS}
        for name in _GATE_VECTORS:
            if (_vector(path, data, name) > 1).any():
                raise ValueError(
                    f"{path}: views are gated ({name}), several of each angle; sum the gates and export that"
                )
        if rotation is None and _is_by_head(numbers["RotationVector"], numbers["DetectorVector"]):
            kept = np.arange(len(numbers["RotationVector"]))
        else:
            kept = _one_rotation(path, numbers["RotationVector"], rotation)
        window, detector, turn, view = (numbers[name][kept] for name in _FRAME_VECTORS)
        if "AngularViewVector" not in data:
            view = _view_numbers(window, detector)
        order = np.lexsort((view, detector, window))
        window_numbers, sizes = np.unique(window, return_counts=True)
        places = np.stack([detector, view], 1)[order]
        first = places[: sizes[0]]
        if (
            len(set(sizes.tolist())) > 1
            or (places.reshape(len(sizes), -1, 2) != first).any()
            or len(np.unique(first, axis=0)) < len(first)
        ):
            raise ValueError(
                f"{path}: every energy window must have each view of each detector once; the file is incomplete, or "
                "its vectors of frames are wrong: export it again"
            )
        detectors, views = first.T
        turns = turn[order][: sizes[0]]
        degrees = _degrees(path, data, turns, detectors, views)
        if radius_mm is None:
            radius = _radii(data, turns, detectors, views, doubts)
        else:
            radius = given_radii("read_dicom_nm", radius_mm, len(views))
        _check_detectors(path, data, detectors, views, degrees, doubts)
        counts = _pixels(path, data)[kept[order]].reshape(len(window_numbers), -1, int(data.Rows), int(data.Columns))
        spacing = [float(v) for v in data.get("PixelSpacing") or ()]
        if len(spacing) != 2:
            raise ValueError(f"{path} must have PixelSpacing, two sizes in mm, got {len(spacing)}; export it again")
        windows = tuple(_window(data, int(k)) for k in window_numbers)
        isotope, facts = _isotope(data), _facts(data)
        acquisition = dicom_acquisition(data, turns, detectors, views, isotope)
        y = np.moveaxis(counts[..., ::-1, :], -2, -1)[:, None]  # rows upwards, and behind the columns
        confirmed = _oriented(data, detectors, views, degrees)
        centre = _centre(data, confirmed, detectors, views, radius, doubts)
        degrees, y = _in_patient(data, degrees, y, angles_from, bool(confirmed), doubts)
    for doubt in doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return SpectScan(
        y,
        np.deg2rad((180.0 - degrees) % 360),
        (spacing[1], spacing[0]),  # between columns, between rows
        radius,
        windows,
        isotope,
        facts,
        str(path),
        centre if angles_from != "gantry" else None,
        acquisition,
    )


def _check_size(path: str | os.PathLike[str], data: Any) -> None:
    """Refuse frames that the file cannot hold, in number or size, before an array of their number is made."""
    frames, rows, columns = (int(data.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns"))
    held, depth = Path(path).stat().st_size, int(data.get("BitsAllocated") or 16)
    if not 0 < frames <= held or min(rows, columns) < 1:
        raise ValueError(
            f"{path} must hold frames of pixels, got NumberOfFrames {frames}, {rows} x {columns}, in {held} bytes; "
            "export it again"
        )
    check_claim(f"{path}: the views", frames * rows * columns * depth // 8, held, UNCOMPRESSED_REMEDY)


def _vector(path: str | os.PathLike[str], data: Any, name: str) -> _Array:
    """Return the numbers of the frames in a vector, from 1; all 1 where the file has none."""
    n, values = int(data.get("NumberOfFrames") or 1), data.get(name)
    numbers = np.ones(n, int) if values is None or values == "" else np.atleast_1d(np.asarray(values, dtype=int))
    if numbers.shape != (n,) or numbers.min() < 1:
        raise ValueError(f"{path}: {name} must have a number from 1 for each of {n} frames, got {len(numbers)}")
    return numbers


def _one_rotation(path: str | os.PathLike[str], turns: _Array, rotation: int | None) -> _Array:
    """Return the frames of the requested rotation, or of the only one."""
    found = np.unique(turns).tolist()
    if rotation is None and len(found) > 1:
        raise ValueError(f"{path} holds the rotations {found}; choose one, rotation={found[0]}")
    if rotation is not None and rotation not in found:
        raise ValueError(f"{path}: rotation must be one of {found}, got {rotation!r}")
    return np.flatnonzero(turns == (found[0] if rotation is None else rotation))


def _view_numbers(window: _Array, detector: _Array) -> _Array:
    """Return the frames' numbers within their window and detector, for files that do not number views."""
    order = np.lexsort((detector, window))  # stable: frames stay in turn
    pairs = np.stack([window, detector])[:, order]
    _, starts, sizes = np.unique(pairs, axis=1, return_index=True, return_counts=True)
    view = np.empty_like(window)
    view[order] = 1 + np.arange(len(window)) - np.repeat(starts, sizes)
    return view


def _is_by_head(turns: _Array, detectors: _Array) -> bool:
    """Return whether each detector has a rotation of its own number: the file then keeps each head's orbit apart."""
    return len(np.unique(turns)) > 1 and bool((turns == detectors).all())


def _degrees(path: str | os.PathLike[str], data: Any, turns: _Array, detectors: _Array, views: _Array) -> _Array:
    """Return DICOM's angle of every view in degrees."""
    rotations, heads = data.get("RotationInformationSequence") or [], data.get("DetectorInformationSequence") or []
    if len(rotations) < turns.max():
        raise ValueError(f"{path} must have RotationInformationSequence, with angles; give it, or write HDF5 by hand")
    first, degrees = rotations[0], np.empty(len(views))
    for d in np.unique(detectors):
        head, here = heads[d - 1] if d <= len(heads) else {}, detectors == d
        item = rotations[int(turns[here][0]) - 1]
        step, direction = _number(item, "AngularStep"), str(item.get("RotationDirection", ""))
        start = _number(item, "StartAngle")
        if direction not in ("CW", "CC") or step is None or start is None or (step <= 0 and len(np.unique(views)) > 1):
            raise ValueError(
                f"{path}: a rotation must have StartAngle, AngularStep > 0 and RotationDirection CW or CC, got "
                f"{start}, {step} and {direction!r:.16}"
            )
        own, by_head = _number(head, "StartAngle"), _is_by_head(turns, detectors)
        if own is None and len(np.unique(detectors)) > 1 and not by_head:
            raise ValueError(f"{path}: detector {d} of several must have its StartAngle; give it in the file")
        # A detector's angle is that of the acquisition's start; later rotations start where the first detector does.
        later = 0.0 if by_head else start - (_number(first, "StartAngle") or 0.0)
        begin = start if own is None else own + later
        degrees[here] = begin + (views[here] - 1) * (step if direction == "CC" else -step)
    return degrees


def _radii(
    data: Any, turns: _Array, detectors: _Array, views: _Array, doubts: list[str]
) -> npt.NDArray[np.float64] | None:
    """Return RadialPosition of every view in mm: the detectors' own, or that of the rotations; None: not known."""
    rotations, heads = data.get("RotationInformationSequence") or [], data.get("DetectorInformationSequence") or []
    found, said = np.full(len(views), np.nan), list[str]()
    numbers = np.unique(detectors)
    for k, d in enumerate(numbers):
        here, head = detectors == d, heads[d - 1] if d <= len(heads) else {}
        turn, n = int(turns[here][0]), int(here.sum())
        values = _numbers(head, "RadialPosition")
        # Rotations without frames of their own are the detectors', one each.
        mine = d if len(rotations) == len(numbers) > 1 and len(np.unique(turns)) == 1 else turn
        item = rotations[mine - 1] if mine <= len(rotations) else {}
        values = values if values.size else _numbers(item, "RadialPosition")
        if not values.size:
            continue
        if values.size == len(rotations) * n and len(rotations) > 1:
            values = values[(turn - 1) * n : turn * n]
        elif values.size == len(views) and len(numbers) > 1:
            values = values[k * n : (k + 1) * n]  # one detector after the other
        last = int(views[here].max())
        if values.size >= last > n:  # of the views of a longer rotation
            values = values[views[here] - 1]
        radii = fitted("RadialPosition", values, n, said)
        found[here] = math.nan if radii is None else radii
    if np.isnan(found).any() and not np.isnan(found).all() and not said:
        said.append("RadialPosition is missing for some detectors, so that the orbit is not known; give the radius")
    doubts += said[:1]
    return None if np.isnan(found).any() else found


def _oriented(data: Any, detectors: _Array, views: _Array, degrees: _Array) -> dict[int, _Array]:
    """Return ImageOrientationPatient of the detectors, by their numbers, where it agrees with their start angle."""
    found = {}
    for d, head in enumerate(data.get("DetectorInformationSequence") or [], start=1):
        axes, first = _numbers(head, "ImageOrientationPatient"), (detectors == d) & (views == 1)
        if axes.size == 6 and first.any():
            theta = math.radians(180 - degrees[first][0])
            expected = np.array([math.cos(theta), math.sin(theta), 0, 0, 0, -1])
            if min(axes[:3] @ expected[:3], axes[3:] @ expected[3:]) > math.cos(_MAX_TILT):
                found[d] = axes
    return found


def _centre(
    data: Any, oriented: dict[int, _Array], detectors: _Array, views: _Array, radius: Any, doubts: list[str]
) -> tuple[float, float, float] | None:
    """Return where the middle of the volume lies in the study's frame, if all detectors agree."""
    spacing, centres = _numbers(data, "PixelSpacing"), []
    for d, axes in oriented.items():
        position = _numbers(data.DetectorInformationSequence[d - 1], "ImagePositionPatient")
        first = np.flatnonzero((detectors == d) & (views == 1))
        if position.size == 3 and radius is not None and spacing.size == 2:
            size = (float(spacing[1]), float(spacing[0]))
            centres.append(
                frame_centre(position, axes, float(radius[first[0]]), int(data.Columns), int(data.Rows), size)
            )
    if not centres:
        return None
    apart = float(np.ptp(np.array(centres), axis=0).max())
    if apart > spacing.max():
        doubts.append(
            f"ImagePositionPatient of the detectors puts the axis at places {apart:.3g} mm apart, so that the volume's "
            "place in the study is not known; give the centre"
        )
        return None
    x, y, z = np.mean(centres, axis=0).tolist()
    return x, y, z


def _in_patient(
    data: Any, degrees: _Array, y: _Array, angles_from: AnglesFrom | None, is_confirmed: bool, doubts: list[str]
) -> tuple[_Array, _Array]:
    """Return the angles and views in the patient's axes, and note in which position he lies."""
    for item in [
        data,
        *(data.get("DetectorInformationSequence") or []),
        *(data.get("RotationInformationSequence") or []),
    ]:
        for name in ("GantryDetectorTilt", "GantryDetectorSlew"):
            if abs(angle := _number(item, name) or 0.0) > _MAX_TABLE_TILT:
                doubts.append(
                    f"{name} is {angle:g} degrees: the axis of rotation is not the patient's; x is in the camera's"
                )
    position = dicom_position(data)
    if isinstance(position, str):
        doubts.append(
            f"the patient's position is {position!r:.60}, read as head first and supine; check the liver's side"
        )
    if not isinstance(position, Position) or position == Position():
        return degrees, y
    if angles_from is None and not is_confirmed:
        doubts.append(sentence(position, "patient", "patient"))
    return from_gantry(degrees, y, position) if angles_from == "gantry" else (degrees, y)


def _check_detectors(
    path: str | os.PathLike[str], data: Any, detectors: _Array, views: _Array, degrees: _Array, doubts: list[str]
) -> None:
    """Refuse collimators that are not of parallel holes; note what contradicts the angles, for warnings."""
    for d, head in enumerate(data.get("DetectorInformationSequence") or [], start=1):
        kind = str(head.get("CollimatorType") or "PARA")
        if kind not in ("PARA", "UNKN"):
            raise ValueError(
                f"{path}: CollimatorType must be PARA, parallel holes, got {kind!r:.16}; SPECT has no other"
            )
        offset = np.abs(_numbers(head, "CenterOfRotationOffset")).max(initial=0.0)
        if offset > _MAX_CENTRE_OFFSET_MM and "COR" not in (data.get("CorrectedImage") or []):
            doubts.append(f"CenterOfRotationOffset is {offset:g} mm and the views are not corrected for it; shift them")
        axes, first = _numbers(head, "ImageOrientationPatient"), (detectors == d) & (views == 1)
        if axes.size == 6 and first.any() and abs(axes[5]) > math.cos(_MAX_TILT):  # rows along the axis, or junk
            theta = math.radians(180 - degrees[first][0])
            expected = np.array([math.cos(theta), math.sin(theta), 0, 0, 0, -1])
            if min(axes[:3] @ expected[:3], axes[3:] @ expected[3:]) < math.cos(_MAX_TILT):
                doubts.append(
                    f"ImageOrientationPatient of detector {d} does not agree with its start angle of "
                    f"{degrees[first][0]:g} degrees, which is used; check where the liver comes out"
                )


def _pixels(path: str | os.PathLike[str], data: Any) -> _Array:
    """Return the frames (n, rows, columns) in counts."""
    n, shape = int(data.get("NumberOfFrames") or 1), (int(data.Rows), int(data.Columns))
    check_memory(f"{path}: the views", (n, *shape), "check NumberOfFrames")
    stored = data.pixel_array.reshape(-1, *shape)
    if len(stored) != n:
        raise ValueError(f"{path} must hold {n} frames of {shape}, as it says, got {len(stored)}; export it again")
    slope, intercept = _number(data, "RescaleSlope"), _number(data, "RescaleIntercept")
    if slope == 0:
        raise ValueError(f"{path}: RescaleSlope must not be 0; export it again")
    counts: _Array = stored if slope is None and intercept is None else stored * (slope or 1.0) + (intercept or 0.0)
    return counts


def _window(data: Any, k: int) -> EnergyWindow:
    """Return energy window k, from 1, with its ranges where it has several."""
    items = data.get("EnergyWindowInformationSequence") or []
    if k > len(items):
        return EnergyWindow("", math.nan, math.nan)
    limits = [
        (_number(r, "EnergyWindowLowerLimit"), _number(r, "EnergyWindowUpperLimit"))
        for r in items[k - 1].get("EnergyWindowRangeSequence") or []
    ]
    ranges = [(math.nan if low is None else low, math.nan if high is None else high) for low, high in limits]
    low = min((low for low, _ in ranges), default=math.nan)
    high = max((high for _, high in ranges), default=math.nan)
    several = tuple(sorted(ranges)) if len(ranges) > 1 else ()
    return EnergyWindow(str(items[k - 1].get("EnergyWindowName") or ""), low, high, several)


def _isotope(data: Any) -> str:
    for item in data.get("RadiopharmaceuticalInformationSequence") or []:
        for code in item.get("RadionuclideCodeSequence") or []:
            if code.get("CodeMeaning"):
                return str(code.CodeMeaning)
    return ""


def _facts(data: Any) -> dict[str, Any]:
    """Return further facts, none of which identifies the patient."""
    heads, turns = data.get("DetectorInformationSequence") or [], data.get("RotationInformationSequence") or []
    duration = _number(turns[0], "ActualFrameDuration") if len(turns) else None
    facts = {
        "detectors": len(heads) or None,
        "collimator": str(heads[0].get("CollimatorGridName") or "") if len(heads) else None,
        "duration_s": None if duration is None else duration / 1000,
        "corrected": [str(v) for v in np.atleast_1d(data.get("CorrectedImage") or [])],
        "study": str(data.get("StudyDescription") or ""),
        "series": str(data.get("SeriesDescription") or ""),
    }
    return {name: value for name, value in facts.items() if value}


def _numbers(item: Any, name: str) -> npt.NDArray[np.float64]:
    """Return the numbers of an element, none where it is absent or empty."""
    value = item.get(name)
    return np.empty(0) if value is None or value == "" else np.atleast_1d(np.asarray(value, dtype=np.float64))


def _number(item: Any, name: str) -> float | None:
    """Return the number of an element, None where it is absent or empty."""
    values = _numbers(item, name)
    if values.size and not (np.abs(values) < MAX_VALUE).all():  # NaN fails too
        raise ValueError(f"{name} must be a number below {MAX_VALUE:g}, got {values[0]:g}")
    return float(values[0]) if values.size else None
