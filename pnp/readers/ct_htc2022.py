"""Fan-beam sinograms of the University of Helsinki in MATLAB files: the Tomography Challenge 2022, FIPS data sets.

A file holds a struct, CtDataFull or CtDataLimited in the challenge (Zenodo 8041800), as HelTomo writes it:

    type          2D: the central row of a cone beam; 3D: all of its rows
    sinogram      line integrals, (n_angles, n_detectors), or (n_detectors, n_angles, n_rows) in 3D
    parameters    distances and sizes in mm, angles in degrees

FanBeam's frame is theirs, without a flip or an offset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..checks import short
from ..io.file_kinds import file_kind
from ..io.guards import check_finite, check_real
from ..io.hdf5_links import LinkedFile, open_linked
from ..io.hdf5_safe import check_stored, numbers
from ..io.matlab import read_matlab
from ..io.physical_units import text_of
from .ct_arguments import MIN_STEP_DEGREES, picked_rows
from .ct_scan import CtScan

_SEGMENTATION_SHAPE = (512, 512)


def read_htc2022(path: str | os.PathLike[str], *, rows: slice | None = None) -> CtScan:
    """Read a sinogram: line integrals (n_rows?, n_angles, n_detectors), geometry in mm, angles in radians.

    Args:
        path: a file such as htc2022_ta_full.mat, of MATLAB's version 5 to 7.3.
        rows: the detector rows to read of a 3D sinogram. None: all.

    Raises:
        ValueError: the file is missing, broken or without the struct; shapes or units contradict each other.
    """
    with _struct(path) as (name, content):
        parameters = _member(path, name, content, "parameters")
        stored = _member(path, name, content, "sinogram")
        part, picked, n_rows = _rows_of(path, stored, rows)
        sinogram = _array(path, "sinogram", part)
        angles = _array(path, "angles", _member(path, "parameters", parameters, "angles")).astype(np.float64)
    step = float(np.median(np.abs(np.diff(angles.ravel())))) if angles.size > 1 else 360.0
    if step < MIN_STEP_DEGREES and np.ptp(angles) <= 2 * np.pi:
        raise ValueError(
            f"{path}: angles must be degrees, got steps of {step:.3g} over {np.ptp(angles):.4g}; these look like "
            "radians: use np.rad2deg"
        )
    known = {key: _plain(value) for key, value in parameters.items() if _is_plain(value)}
    if not isinstance(unit := known.get("distanceUnit", "mm"), str) or unit != "mm":
        raise ValueError(f"{path}: distanceUnit must be 'mm', got {_shown(unit)}; bring all lengths to mm")
    source_origin = _length(path, known, "distanceSourceOrigin")
    source_detector = _length(path, known, "distanceSourceDetector")
    if "pixelSizePost" not in known and "binningPost" in known:
        known["pixelSizePost"] = _length(path, known, "pixelSize") * _length(path, known, "binningPost")
    pitch = _length(path, known, "pixelSizePost")
    known.setdefault("effectivePixelSizePost", pitch * source_origin / source_detector)
    pixel = _length(path, known, "effectivePixelSizePost")
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
        facts={key: value for key, value in known.items() if key != "angles"}
        | {"rows": (picked.start, picked.stop, picked.step), "middle_row": (n_rows - 1) / 2},
        path=str(path),
    )
    bins = "numDetectorsPost" if "numDetectorsPost" in known else "projectionCols"
    stated = known.get(bins, scan.y.shape[-1])
    if not isinstance(stated, int | float) or stated != scan.y.shape[-1]:
        raise ValueError(
            f"{path}: sinogram must have {bins} = {_shown(stated)} bins, got {scan.y.shape[-1]}; it is cropped, or "
            "not of this detector, and the geometry would be wrong"
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


@contextmanager
def _struct(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the fields of the struct that has a sinogram and parameters."""
    with ExitStack() as stack:
        try:
            content: dict[str, Any] = read_matlab(path)
        except ValueError:
            if file_kind(path) != "matlab73":
                raise
            content = _variables(stack.enter_context(open_linked(path)))
        found = [k for k, v in content.items() if isinstance(v, dict) and {"sinogram", "parameters"} <= set(v)]
        if len(found) != 1:
            several = f"holds {len(found)} of them, {_names(dict.fromkeys(found))}: save one alone"
            raise ValueError(
                f"{path} must hold a struct with sinogram and parameters, such as CtDataFull; it "
                + (several if found else f"holds {_names(content)}: give others to CtScan(y=..., angles=...)")
            )
        yield found[0], content[found[0]]


def _variables(file: LinkedFile) -> dict[str, Any]:
    """Return the variables of a MATLAB 7.3 file: structs as dicts, whose sinogram is left in the file.

    HDF5 has the axes of MATLAB in reverse; text is an array of character codes.
    """

    def value(name: str, group: h5py.Group) -> Any:
        dataset = file.dataset(name, group)
        if dataset is None or dataset.dtype.kind not in "fiub" or dataset.shape is None:
            return np.empty((), dtype=object)
        if name == "sinogram":
            return dataset
        values = numbers(file.path, dataset)
        if text_of(dataset.attrs.get("MATLAB_class", "")) == "char":
            return "".join(chr(int(code)) for code in values.ravel()[:200])
        return values.T

    variables: dict[str, Any] = {name: None for name in file.root if not name.startswith("#")}
    for name, group in file.groups(file.root):
        if group.id.links.exists(b"sinogram") and isinstance(parameters := file.get("parameters", group), h5py.Group):
            inner = {key: value(key, parameters) for key in parameters}
            variables[name] = {"sinogram": value("sinogram", group), "parameters": inner}
    return variables


def _rows_of(path: str | os.PathLike[str], stored: Any, rows: slice | None) -> tuple[Any, slice, int]:
    """Return a sinogram, (n_angles, n_detectors), or some rows of one in 3D, (n_rows, n_angles, n_detectors).

    The rows follow, and the number of all.
    """
    in_file = isinstance(stored, h5py.Dataset)  # of version 7.3, with its axes in reverse
    shape = stored.shape if in_file else np.shape(stored)
    n_rows = 1 if len(shape) != 3 else shape[0] if in_file else shape[2]
    picked = picked_rows(path, n_rows, rows)
    if in_file:
        n_picked = len(range(picked.start, picked.stop, picked.step))
        part = (n_picked, *shape[1:]) if len(shape) == 3 else shape
        check_stored(path, stored, part, "read some rows, rows=slice(0, 16)")
        return (stored[picked] if len(shape) == 3 else stored[()].T), picked, n_rows
    return (stored.transpose(2, 1, 0)[picked] if len(shape) == 3 else stored), picked, n_rows


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
