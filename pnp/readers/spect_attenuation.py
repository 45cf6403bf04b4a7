"""Attenuation maps and CTs for SPECT: NIfTI, a DICOM series, Interfile images; brought to the voxels of a volume.

Each kind states where its voxels lie by a matrix from indices to mm in DICOM's frame, x to the left, y back, z to the
head: NIfTI by its affine, DICOM by ImagePositionPatient and ImageOrientationPatient. An Interfile image has columns to
the left, rows to the back and slices from the head to the feet, around a middle that it does not state.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..io.guards import check_file, check_memory, reading
from ..io.nifti import NIFTI, read_placed_nifti
from ..spect.resample import grid_matrix, resample
from .ct_dicom import read_dicom
from .spect_header import Header

_Array = npt.NDArray[Any]
_TYPES = {"short float": "f", "float": "f", "long float": "f", "signed integer": "i", "unsigned integer": "u"}
TUBE_KV = 120.0
"""Voltage of a tube whose effective energy is the 70 keV of `pnp.spect.attenuation_from_hu`."""
_MIN_OVERLAP = 0.5
"""Part of a map's attenuation that must lie inside the volume, or of the volume inside the map."""


class PlacedMap(NamedTuple):
    """An attenuation map or a CT, and where it lies.

    Attributes:
        values: (n1, n2, n3), float32, as the file has them.
        matrix: (4, 4), from indices to mm in DICOM's frame.
        is_placed: whether the file states that place; else it is a grid in the middle of the frame.
        unit: "HU" where the file says so, else "".
        notes: what was taken for granted.
    """

    values: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float64]
    is_placed: bool
    unit: str = ""
    notes: tuple[str, ...] = ()


def read_attenuation(path: str | os.PathLike[str]) -> PlacedMap:
    """Read a map or CT: a .nii or .nii.gz file, a folder of a DICOM series or its file, or an Interfile image.

    Raises:
        ValueError: the file is missing, broken, or of another kind.
    """
    path = Path(path)
    if path.is_file() and path.name.lower().endswith(NIFTI):
        values, matrix, is_placed = read_placed_nifti(path)
        return PlacedMap(values, matrix, is_placed)
    if path.is_dir():
        return _dicom(path)
    with open(check_file(path), "rb") as file:
        head = file.read(256)
    return _interfile(path) if b"interfile" in head.lower() else _dicom(path)


def on_volume(
    where: str,
    found: PlacedMap,
    mu: npt.NDArray[np.float32],
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    *,
    centre_mm: tuple[float, float, float] | None,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> npt.NDArray[np.float32]:
    """Return attenuation on the voxels of a SPECT volume.

    Args:
        where: the file, for messages.
        found: where the map lies.
        mu: attenuation on the map's voxels.
        shape: (nx, ny, nz) of the volume.
        voxel_mm: (x, y, z) of its voxels.
        centre_mm: where the volume's middle lies in the study; None: not known, and taken for the frame's origin.
        shift_mm: moves the map to the left, back and head.

    Warns:
        UserWarning: the map's place or the volume's is not known, or part of the map is in no view.

    Raises:
        ValueError: the map and the volume are not at one place.
    """
    for note in found.notes:
        warnings.warn(f"{where}: {note}", stacklevel=2)
    matrix, centre = found.matrix.copy(), np.zeros(3) if centre_mm is None else np.array(centre_mm, dtype=np.float64)
    middle = (matrix @ [*((n - 1) / 2 for n in mu.shape), 1.0])[:3]
    if not found.is_placed:
        matrix[:3, 3] += centre - middle  # middle on middle
        if centre_mm is not None:
            warnings.warn(f"{where} does not say where it lies: its middle is put on the volume's", stacklevel=2)
    elif centre_mm is None and np.abs(middle).max() > max(voxel_mm) / 2:
        warnings.warn(
            f"{where}: its middle lies at ({_listed(middle)}) mm, and the scan does not say where it lies: the middle "
            "of the volume is taken to be at (0, 0, 0); give the centre if it is elsewhere",
            stacklevel=2,
        )
    matrix[:3, 3] += np.array(shift_mm)
    target = grid_matrix(shape, voxel_mm, (float(centre[0]), float(centre[1]), float(centre[2])))
    result = resample(mu, matrix, shape, target)
    _check_overlap(where, mu, matrix, result, target, voxel_mm, centre)
    return result


def _check_overlap(
    where: str, mu: _Array, matrix: _Array, result: _Array, target: _Array, voxel_mm: Any, centre: _Array
) -> None:
    """Refuse a map that covers little of the volume while little of it is inside; say what only some views see."""
    held = float(mu.sum(dtype=np.float64)) * abs(np.linalg.det(matrix[:3, :3]))
    kept = float(result.sum(dtype=np.float64)) * math.prod(voxel_mm)
    covered = resample(np.ones(mu.shape, np.float32), matrix, result.shape, target).mean()  # type: ignore[arg-type]
    middle = (matrix @ [*((n - 1) / 2 for n in mu.shape), 1.0])[:3]
    if held > 0 and kept < _MIN_OVERLAP * held and covered < _MIN_OVERLAP:
        raise ValueError(
            f"{where} and the volume are not at one place: middles at ({_listed(middle)}) and ({_listed(centre)}) mm, "
            f"{100 * kept / held:.0f} % of the attenuation inside; give the volume's centre in the map's frame"
        )
    radius = min(result.shape[:2]) / 2
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in result.shape[:2]), indexing="ij")
    lost = float(result[np.hypot(x, y) > radius].sum(dtype=np.float64)) * math.prod(voxel_mm)
    if kept > 0 and lost > 0.02 * kept:
        warnings.warn(
            f"{where}: {100 * lost / kept:.0f} % of the attenuation (table, arms?) lies outside the cylinder that all "
            "views see, and counts only in the views that see it",
            stacklevel=3,
        )


def _listed(numbers: _Array) -> str:
    return ", ".join(f"{value:.4g}" for value in np.round(numbers, 3) + 0.0)


def _dicom(path: Path) -> PlacedMap:
    slices = read_dicom(path)
    dz, dy, dx = slices.spacing_mm
    axes, first = slices.orientation, slices.positions_mm[0]
    if not (np.isfinite([dz, dy, dx]).all() and np.isfinite(axes).all() and np.isfinite(first).all()):
        raise ValueError(
            f"{path} must have PixelSpacing, ImagePositionPatient and ImageOrientationPatient; name the CT's series"
        )
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = axes[:3] * dx, axes[3:] * dy
    matrix[:3, 2], matrix[:3, 3] = np.cross(axes[:3], axes[3:]) * dz, first
    return PlacedMap(slices.volume.transpose(2, 1, 0), matrix, True, slices.unit, _of_tube(path))


def _of_tube(path: Path) -> tuple[str, ...]:
    """Return a sentence where the tube's voltage is not the one for which the conversion's default energy is."""
    from pydicom import dcmread

    file = path if path.is_file() else min(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    with reading(file, "DICOM"):
        voltage = dcmread(file, stop_before_pixels=True, specific_tags=["KVP"], force=True).get("KVP")
    if voltage is None or voltage == "" or float(voltage) == TUBE_KV:
        return ()
    return (
        f"the CT's tube was at {float(voltage):g} kV; the effective energy taken, 70 keV, is that of {TUBE_KV:g} kV: "
        "give ct_kev",
    )


def _interfile(path: Path) -> PlacedMap:
    """Read an Interfile image of x, y and z: STIR's .hv, SIMIND's .hct with its .ict."""
    header = Header(path)
    shape = tuple(header.whole(f"matrix size [{k}]") for k in (3, 2, 1))
    sizes = [header.number(f"scaling factor (mm/pixel) [{k}]", math.nan) for k in (1, 2, 3)]
    if math.isnan(sizes[2]):  # nuclear medicine's word for it
        sizes[2] = header.number("slice thickness (pixels)", 1.0) * sizes[0]
    if not all(size > 0 for size in sizes):  # NaN fails too
        raise ValueError(f"{path} must have 'scaling factor (mm/pixel) [1]' to [3], got {sizes}; add them")
    kind = _TYPES.get(header.text("number format").lower())
    order = {"bigendian": ">", "littleendian": "<"}.get(header.text("imagedata byte order", "BIGENDIAN").lower())
    n_bytes = header.whole("number of bytes per pixel")
    if kind is None or order is None or n_bytes not in ((4, 8) if kind == "f" else (1, 2, 4)):
        raise ValueError(
            f"{path}: 'number format' must be of floats or integers, got {header.text('number format')!r:.40}"
        )
    file = header.file("name of data file")
    if file is None:
        raise ValueError(f"{path}: 'name of data file' is no file beside the header; copy it there")
    check_memory(f"{path}: the image", shape, "check the matrix size")
    offset, needed = int(header.number("data offset in bytes", 0.0)), math.prod(shape) * n_bytes
    if file.stat().st_size - offset != needed:
        raise ValueError(
            f"{file} must hold {needed} bytes for {' x '.join(map(str, shape))} pixels of {n_bytes}, as {path.name} "
            f"says, got {file.stat().st_size - offset}; is a size or the number format wrong?"
        )
    with reading(file, "raw"):
        values = np.fromfile(file, dtype=f"{order}{kind}{n_bytes}", offset=offset).reshape(shape)
    scale = header.number("image scaling factor [1]", header.number("quantification units", 1.0))
    volume = np.asarray(values[::-1].transpose(2, 1, 0) * scale, dtype=np.float32)  # slices from the feet on
    if not np.isfinite(volume).all():
        raise ValueError(f"{file} must be finite, got NaN or infinity; is the byte order wrong?")
    x, y, z = sizes
    matrix = grid_matrix(volume.shape, (x, y, z), (0.0, 0.0, 0.0))  # type: ignore[arg-type]
    note = "an Interfile image is taken to have columns to the left, rows to the back, slices from head to feet"
    return PlacedMap(volume, matrix, False, "", (note,))
