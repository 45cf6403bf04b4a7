"""Volumes in NIfTI-1 files (.nii, .nii.gz), in the axes of SPECT: x to the patient's left, y back, z head.

NIfTI's world is RAS+, x to the right and y to the front, in mm: a voxel (i, j, k) of (nx, ny, nz) is at

    -dx (i - (nx-1)/2),  -dy (j - (ny-1)/2),  dz (k - (nz-1)/2),

the middle of the grid, where the axis of rotation runs, at the origin, or where the study's own frame has it: only
then do the codes say that these are the scanner's coordinates (1); else sform_code is 0 and qform_code 2, the
directions of the patient's axes with an origin of our own. A cone-beam volume (D, H, W) has the same order
of axes, (x, y, z) = (column, row, slice), and dx in place of -dx: the world is X, Y, Z of `ConeBeam`. R. W. Cox et al.,
A (sort of) new image data format standard: NIfTI-1, NeuroImage 22 (2004) e1440.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .atomic import atomic
from .guards import check_claim, check_file, check_memory, reading

NIFTI = (".nii", ".nii.gz")
_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 1e-3}
_DESCRIPTION_BYTES = 79
"""Bytes of NIfTI's `descrip`, less the one that ends it."""
_MAX_OBLIQUENESS = 1e-3
"""Largest deviation of an axis from one of the patient's, over its length, that is taken for rounding."""


def write_nifti(
    path: str | os.PathLike[str],
    volume: npt.ArrayLike,
    voxel_size_mm: float | tuple[float, ...],
    *,
    axes: Literal["LPS", "RPS"] = "LPS",
    unit: Literal["mm", "unknown"] = "mm",
    centre_mm: tuple[float, float, float] | None = None,
    description: str = "",
    overwrite: bool = False,
) -> None:
    """Write a volume (nx, ny, nz) as float32, in the axes of SPECT; the file appears whole or not at all.

    Args:
        path: a .nii or .nii.gz file.
        volume: (nx, ny, nz).
        voxel_size_mm: side of a voxel in mm; or (transaxial, axial), or (x, y, z).
        axes: where x, y and z point: "LPS", left, back and head, of SPECT; "RPS" of a cone-beam volume, transposed.
        unit: "unknown" where voxel_size_mm are in another unit, which the file then says.
        centre_mm: where the middle of the volume lies in the scanner's frame of the study, x to the left, y back and z
            to the head (DICOM's); None: not known.
        description: what the numbers are, with their unit, at most 80 characters: `descrip`.
        overwrite: replace a file of that name.

    Raises:
        ValueError: another suffix, another number of axes, or a path that cannot be written.
    """
    values = np.asarray(volume, dtype=np.float32)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"write_nifti: volume must be (nx, ny, nz), got {values.shape}; use volume[0, 0]")
    if axes not in ("LPS", "RPS"):
        raise ValueError(f"write_nifti: axes must be 'LPS' or 'RPS', got {axes!r:.40}")
    if unit not in ("mm", "unknown"):
        raise ValueError(f"write_nifti: unit must be 'mm' or 'unknown', got {unit!r:.40}; give voxel_size_mm in mm")
    if centre_mm is not None and not (axes == "LPS" and len(centre_mm) == 3 and np.isfinite(centre_mm).all()):
        raise ValueError(f"write_nifti: centre_mm must be (x, y, z) in mm, with axes 'LPS', got {centre_mm!r:.60}")
    image, name = _image(values, _sizes(voxel_size_mm), unit, axes, centre_mm), Path(path).name.lower()
    image.header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    if not name.endswith(NIFTI):
        raise ValueError(f"write_nifti: path must end with .nii or .nii.gz, got {Path(path).name}")
    content = image.to_bytes()
    with atomic(path, overwrite=overwrite) as part:
        part.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def write_nifti_slices(
    path: str | os.PathLike[str],
    slices: Iterable[npt.ArrayLike],
    shape: tuple[int, int, int],
    voxel_size_mm: tuple[float, float, float] | None,
    *,
    overwrite: bool = False,
) -> None:
    """Write slices (ny, nx) one by one as a volume (nx, ny, nz), in the axes of `write_nifti`, whole or not at all.

    Args:
        path: a .nii or .nii.gz file.
        slices: nz images, y downwards, x to the right.
        shape: (nx, ny, nz).
        voxel_size_mm: (x, y, z) in mm; None: not known, which the file says, with sides of 1.
        overwrite: replace a file of that name.

    Raises:
        ValueError: a path that cannot be written.
    """
    unit = "unknown" if voxel_size_mm is None else "mm"
    image = _image(np.broadcast_to(np.float32(0), shape), voxel_size_mm or (1.0, 1.0, 1.0), unit)
    image.header.set_data_offset(352)  # 348 bytes and an empty extension
    image.header.set_slope_inter(1, 0)  # NaN, the library's default, is no scale to other readers
    with atomic(path, overwrite=overwrite) as part, open(part, "wb") as raw:
        is_packed = str(path).lower().endswith(".gz")
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) if is_packed else nullcontext(raw) as file:
            file.write(image.header.binaryblock + bytes(4))
            for values in slices:
                file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def _image(
    values: npt.NDArray[np.float32],
    sizes: tuple[float, float, float],
    unit: str,
    axes: str = "LPS",
    centre_mm: tuple[float, float, float] | None = None,
) -> Any:
    """Return an image in these axes, with its header."""
    import nibabel

    nifti1: Any = nibabel.nifti1  # its functions have no types
    affine = np.diag([sizes[0] if axes == "RPS" else -sizes[0], -sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine.diagonal()[:3] * (np.array(values.shape) - 1) / 2
    if centre_mm is not None:
        affine[:3, 3] += np.array(centre_mm) * (-1, -1, 1)
    image = nifti1.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    is_placed = axes == "RPS" or centre_mm is not None
    image.set_sform(affine, code="scanner" if is_placed else "unknown")
    image.set_qform(affine, code="scanner" if is_placed else "aligned")
    return image


def read_nifti(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], tuple[float, float, float]]:
    """Read a volume, turned to the axes of SPECT, and the size of its voxels in mm.

    Axes are exchanged and mirrored as the file's affine says; nothing is resampled or moved.

    Args:
        path: a .nii or .nii.gz file of one volume.

    Returns:
        (nx, ny, nz) float32, and (x, y, z) in mm.

    Raises:
        ValueError: the file is missing, broken, holds several volumes or numbers that are not finite, or its axes are
            oblique to the patient's.
    """
    import nibabel

    orientations: Any = nibabel.orientations  # its functions have no types
    values, affine, unit, _ = _load(path)
    directions = affine[:3, :3]
    with np.errstate(over="ignore"):  # infinite, which is refused
        sizes = np.linalg.norm(directions, axis=0)
    along, distinct = np.abs(directions).max(0), len(set(np.abs(directions).argmax(0).tolist())) == 3
    if (
        not (distinct and np.isfinite(sizes).all() and sizes.min() > 0)
        or (along < sizes * (1 - _MAX_OBLIQUENESS**2)).any()
    ):
        raise ValueError(f"{path}: the axes of the volume must be the patient's, its affine turns them; resample it")
    to_ours = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(("L", "P", "S"))
    )
    turned = orientations.apply_orientation(values, to_ours)
    ours = np.empty(3)
    ours[to_ours[:, 0].astype(int)] = sizes * unit
    return np.ascontiguousarray(turned), (float(ours[0]), float(ours[1]), float(ours[2]))


def read_placed_nifti(
    path: str | os.PathLike[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], bool]:
    """Read a volume as it is stored, with its place in DICOM's frame (x to the left, y back, z to the head).

    Args:
        path: a .nii or .nii.gz file of one volume.

    Returns:
        (nx, ny, nz) float32; the matrix (4, 4) from its indices to mm; and whether the file states that place, as its
        codes say: without, the matrix is that of a grid in the middle of the frame.

    Raises:
        ValueError: as `read_nifti`, but oblique axes are taken; the matrix is singular.
    """
    values, affine, unit, is_placed = _load(path)
    placed = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    placed[:3] *= unit
    if not (np.isfinite(placed).all() and abs(np.linalg.det(placed[:3, :3])) > 0):
        raise ValueError(f"{path}: the affine must be finite and invertible, got {affine[:3].tolist()!s:.90}")
    return values, placed, is_placed


def _load(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], float, bool]:
    """Return the volume as it is stored, its affine (RAS+), mm per unit, and whether the file states the affine."""
    import nibabel

    path = Path(path)
    check_file(path)
    if not path.name.lower().endswith(NIFTI):
        raise ValueError(f"{path}: a volume is read from .nii or .nii.gz; convert it to one of these")
    with reading(path, "NIfTI"):
        kinds: Any = (nibabel.Nifti1Image, nibabel.Nifti2Image)  # no other format of this suffix: some name other files
        kind = next((kind for kind in kinds if kind.path_maybe_image(path)[0]), kinds[0])
        image = kind.from_filename(path)
        affine, header = np.asarray(image.affine, dtype=np.float64), image.header
        dtype, shape = header.get_data_dtype(), image.shape
        if dtype.kind not in "fiub" or min(shape, default=0) < 1:
            raise ValueError(f"{path} must hold a volume of real numbers, got {shape!s:.60} of {dtype!s:.40}")
        needed = math.prod(map(int, shape)) * dtype.itemsize
        check_claim(f"{path}: the volume", needed, path.stat().st_size, "if that is right, unpack it (gunzip)")
        check_memory(f"{path}: the volume", shape, "cut it")
        values = np.asarray(image.dataobj, dtype=np.float32)
        unit = _MM_PER_UNIT.get(str(header.get_xyzt_units()[0]), math.nan)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"{path} must hold one volume (nx, ny, nz), got {values.shape}; extract one")
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{path} must be finite, got NaN or infinity in {bad} of {values.size} voxels; replace them")
    codes = {int(header["sform_code"]), int(header["qform_code"])}
    middle = affine @ np.array([*((n - 1) / 2 for n in values.shape), 1.0])
    # Codes of another space (aligned, a template) place the grid where it is not in the middle.
    is_away = max(codes) > 0 and bool(np.abs(middle[:3]).max() > np.abs(affine[:3, :3]).max() / 2)
    return values, affine, unit, 1 in codes or is_away


def _sizes(voxel_size_mm: float | tuple[float, ...]) -> tuple[float, float, float]:
    given = np.atleast_1d(np.asarray(voxel_size_mm, dtype=np.float64)).tolist()
    full = {1: given * 3, 2: [*given[:1], *given], 3: given}.get(len(given), [])
    if len(full) != 3 or not all(0 < size < math.inf for size in full):
        raise ValueError(
            "write_nifti: voxel_size_mm must be a positive size, (transaxial, axial) or (x, y, z), got "
            f"{voxel_size_mm!r:.60}"
        )
    return full[0], full[1], full[2]
