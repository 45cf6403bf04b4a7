"""Helsinki Tomography Challenge 2022: measured fan-beam sinograms in MATLAB files (Zenodo 8041800).

A file holds the struct CtDataFull or CtDataLimited: sinogram (n_angles, n_detectors), line integrals of the central row
of a cone beam, and parameters. Angles are in degrees. FanBeam's frame is theirs, without a flip or an offset.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import short
from ..io.guards import check_finite, check_real
from ..io.matlab import read_matlab
from .ct_scan import CtScan

_STRUCT_NAMES = ("CtDataFull", "CtDataLimited")
_SEGMENTATION_SHAPE = (512, 512)
_MIN_STEP_DEGREES = 0.02
"""Smallest step between views in degrees; smaller ones are radians (the challenge has steps of 0.5 degrees)."""


def read_htc2022(path: str | os.PathLike[str]) -> CtScan:
    """Read a sinogram of the challenge: line integrals (n_angles, n_detectors), geometry in mm, angles in radians.

    Args:
        path: a file such as htc2022_ta_full.mat.

    Raises:
        ValueError: the file is missing, broken, MATLAB 7.3 or without the struct; shapes or units contradict each
            other.
    """
    content = read_matlab(path)
    name = next((name for name in _STRUCT_NAMES if name in content), None)
    if name is None:
        raise ValueError(
            f"{path} must hold {' or '.join(_STRUCT_NAMES)}, it holds {_names(content)}; take a sinogram's"
        )
    parameters = _member(path, name, content[name], "parameters")
    sinogram = _array(path, "sinogram", _member(path, name, content[name], "sinogram"))
    angles = _array(path, "angles", _member(path, "parameters", parameters, "angles")).astype(np.float64)
    step = float(np.median(np.abs(np.diff(angles.ravel())))) if angles.size > 1 else 360.0
    if step < _MIN_STEP_DEGREES and np.ptp(angles) <= 2 * np.pi:
        raise ValueError(
            f"{path}: angles must be degrees, got steps of {step:.3g} over {np.ptp(angles):.4g}; these look like "
            "radians: use np.rad2deg"
        )
    known = {key: _plain(value) for key, value in parameters.items() if _is_plain(value)}
    if not isinstance(unit := known.get("distanceUnit", "mm"), str) or unit != "mm":
        raise ValueError(f"{path}: distanceUnit must be 'mm', got {_shown(unit)}; bring all lengths to mm")
    source_origin = _length(path, known, "distanceSourceOrigin")
    source_detector = _length(path, known, "distanceSourceDetector")
    pitch, pixel = _length(path, known, "pixelSizePost"), _length(path, known, "effectivePixelSizePost")
    if source_detector < source_origin:
        raise ValueError(
            f"{path}: distanceSourceDetector must be at least distanceSourceOrigin, {source_origin} mm, got "
            f"{source_detector} mm; are they exchanged?"
        )
    if abs(pitch * source_origin / source_detector - pixel) > 0.01 * pixel:
        raise ValueError(
            f"{path}: effectivePixelSizePost must be pixelSizePost over the magnification, "
            f"{pitch * source_origin / source_detector:.4g}, got {pixel:.4g}; bring the lengths to one unit"
        )
    scan = CtScan(
        y=sinogram,
        angles=np.deg2rad(angles.ravel()),
        kind="line integrals",
        source_origin_mm=source_origin,
        origin_detector_mm=source_detector - source_origin,
        pitch_mm=pitch,
        pixel_size_mm=pixel,
        facts={key: value for key, value in known.items() if key != "angles"},
        path=str(path),
    )
    stated = known.get("numDetectorsPost", scan.y.shape[1])
    if not isinstance(stated, int | float) or stated != scan.y.shape[1]:
        raise ValueError(
            f"{path}: sinogram must have numDetectorsPost = {_shown(stated)} bins, got {scan.y.shape[1]}; it is "
            "cropped, or not of this detector, and the geometry would be wrong"
        )
    return scan


def read_htc2022_segmentation(path: str | os.PathLike[str]) -> npt.NDArray[np.bool_]:
    """Read a segmentation of the challenge: (512, 512), True inside the material.

    Args:
        path: a file such as htc2022_ta_full_recon_fbp_seg.mat, whose variable's name ends in Seg.

    Raises:
        ValueError: the file is missing, broken or MATLAB 7.3, or holds no image (512, 512) of 0 and 1.
    """
    content = read_matlab(path)
    found = [name for name in content if name.endswith("Seg")]
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold one variable ...Seg, it holds {_names(content)}; take a segmentation's file"
        )
    values = _array(path, found[0], content[found[0]])
    if values.shape != _SEGMENTATION_SHAPE:
        raise ValueError(f"{path}: {found[0]} must be {_SEGMENTATION_SHAPE}, got {values.shape}; is it cropped?")
    if not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"{path}: {found[0]} must hold 0 and 1 only, got {values.min()} to {values.max()}; segment it first"
        )
    return values.astype(bool)


def _array(path: str | os.PathLike[str], name: str, value: Any) -> npt.NDArray[Any]:
    """Return a variable that is an array of finite real numbers."""
    array = np.asarray(value)
    check_real(f"{path}: {name}", array.dtype)
    check_finite(f"{path}: {name}", array)
    return array


def _member(path: str | os.PathLike[str], name: str, value: Any, member: str) -> Any:
    """Return a field of a struct."""
    if not isinstance(value, dict) or member not in value:
        held = _names(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{path}: {name} must be a struct with the field {member}, got {held}")
    return value[member]


def _length(path: str | os.PathLike[str], known: dict[str, Any], name: str) -> float:
    """Return a positive length of the parameters."""
    value = known.get(name)
    if not isinstance(value, int | float) or not 0 < value < np.inf:
        raise ValueError(f"{path}: parameters.{name} must be a positive length, got {_shown(value)}")
    return float(value)


def _plain(value: Any) -> Any:
    """Return a single number as Python's, text and other arrays as they are."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _is_plain(value: Any) -> bool:
    """Whether a value is text or numbers: cells, structs and functions are left in the file."""
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype != object)


def _shown(value: Any) -> str:
    """Return a value, or the beginning of it, in one line."""
    return short(repr(value), 40)


def _names(content: dict[str, Any]) -> str:
    return ", ".join(f"{name:.24}" for name in sorted(content)[:6]) or "nothing"
