"""Zeiss (Xradia) scans, .txrm: streams of numbers in a compound file (OLE), one per field and one per view.

    ImageInfo/NoOfImages, ImagesTaken, ImageWidth, ImageHeight, DataType (3: uint8, 5: uint16, 10: float32)
    ImageInfo/Angles                         degrees, one per view
    ImageInfo/StoRADistance, DtoRADistance   mm, from the source and the detector to the axis of rotation, either sign
    ImageInfo/PixelSize                      micrometres, a pixel on the plane of the axis
    ImageInfo/XrayGeometry                   1: cone beam, otherwise parallel
    ImageData1/Image1, ..., ImageData1/Image100, ImageData2/Image101, ...
    ReferenceData/Image                      the open beam, with ReferenceData/DataType
    Alignment/X-Shifts, Y-Shifts             pixels, one per view

The files do not state units. These are those of the readers that are in use for such files: dxchange (angles, pixel
size), the Core Imaging Library (CIL, ZEISSDataReader: distances in mm, geometry, direction of rotation) and txrm2tiff
(types, shifts). After CIL, columns run from left to right seen from the source, rows from the bottom to the top, and
the object turns counter-clockwise seen from above where Angles increase: theta of `FanBeam` is minus the angle.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.guards import check_claim, check_file, check_memory, reading, to_float32
from .ct_arguments import check_rows, picked_rows
from .ct_scan import CtScan

_TYPES = {3: "<u1", 5: "<u2", 10: "<f4"}
_CONE = 1
_TOMOGRAPHY = 0
"""AcquisitionMode of projections."""
_MAX_COUNT = 2**24
"""Bound of counts of views and pixels per side, which only damaged files exceed."""
_MAX_LENGTH = 1e9
_MIN_SHIFT = 0.5
"""Smallest shift of a view, in pixels, of which a warning is given."""
_SAME_EXPOSURE = 0.01
"""Largest relative difference of exposure times that are called the same."""
_FACTS = {"Voltage": "<f4", "Current": "<f4", "ExpTimes": "<f4", "CameraBinning": "<i4", "OpticalMagnification": "<f4"}
"""Further numbers that are kept, by their name in ImageInfo: the first of each."""


def read_txrm(
    path: str | os.PathLike[str], *, rows: slice | None = None, angles: npt.ArrayLike | None = None
) -> CtScan:
    """Read a Zeiss scan: counts (n_rows, n_angles, n_detectors), the open beam and the geometry.

    Needs olefile: pip install 'pnp-local[ct]'. Of a cone beam, `scan.cone_operator()` is right for all rows,
    FanBeam for the middle one, facts["middle_row"], alone. Rows are in the file's order, the lowest first. A reference
    of another exposure time is scaled to that of the views, with a warning. Shifts are not applied, since the open beam
    does not move with them: where facts["x_shifts"] are not small, shift the line integrals of view k by
    facts["x_shifts"][k] pixels towards higher columns; a warning says so.

    Args:
        path: the .txrm file.
        rows: the detector rows to read, e.g. slice(500, 501); the others are not kept in memory. None: all.
        angles: (n_angles,), radians, in `FanBeam`'s frame, in place of the file's.

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, damaged, no scan (a volume, .txm, or a mosaic) or lacks a field; values are
            not finite; olefile is not installed.
    """
    check_rows("read_txrm", rows)
    file = check_file(path)
    with _opened(file) as ole, reading(file, "Zeiss .txrm"):
        streams = _Streams(file, ole)
        n_views, height, width = _sizes(streams)
        picked = picked_rows(file, height, rows)
        theta = -np.deg2rad(streams.numbers("ImageInfo/Angles", "<f4")[:n_views].astype(np.float64))
        y = _views(streams, n_views, height, width, picked)
        scan: dict[str, Any] = _geometry(streams)
        scan["flat"] = _reference(streams, height, width, picked)
        facts: dict[str, Any] = {"rows": (picked.start, picked.stop, picked.step), "middle_row": (height - 1) / 2}
        facts |= {name: float(found[0]) for name, form in _FACTS.items() if (found := streams.info(name, form)).size}
        for axis in "xy":
            shifts = streams.numbers(f"Alignment/{axis.upper()}-Shifts", "<f4", optional=True)
            if len(shifts) >= n_views:
                facts[f"{axis}_shifts"] = shifts[:n_views]
    worst = float(np.abs(facts["x_shifts"]).max()) if "x_shifts" in facts else 0.0
    if worst >= _MIN_SHIFT:
        streams.doubts.append(
            f"its views are shifted by up to {worst:.3g} pixels (Alignment/X-Shifts), which is not applied; shift the "
            "line integrals of view k by facts['x_shifts'][k]"
        )
    for doubt in streams.doubts:
        warnings.warn(f"{file}: {doubt}", stacklevel=2)
    given = theta if angles is None else np.asarray(angles)
    return CtScan(y=y, angles=given, kind="counts", facts=facts, path=str(file), **scan)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a compound file; whatever is wrong with it becomes one ValueError."""
    try:
        import olefile
    except ImportError:
        raise ValueError(f"{file} needs the package olefile to be read: pip install 'pnp-local[ct]'") from None
    with reading(file, "Zeiss .txrm"):
        if not olefile.isOleFile(str(file)):
            raise ValueError(f"{file} is no compound file (OLE), as .txrm files are; check the name")
        ole = olefile.OleFileIO(str(file))
    try:
        yield ole
    finally:
        ole.close()


class _Streams:
    """The streams of a file, as numbers."""

    def __init__(self, file: Path, ole: Any) -> None:
        self.file, self.ole = file, ole
        self.doubts: list[str] = []
        """Sentences for warnings, which `reading` would silence."""

    def numbers(self, name: str, form: str, *, optional: bool = False) -> npt.NDArray[Any]:
        """Return all whole numbers of a stream; of an optional one that is not there, none."""
        if self.ole.get_type(name) != 2:  # a stream
            if optional:
                return np.empty(0, form)
            raise ValueError(f"{self.file} has no stream {name}, which a Zeiss scan has; is it one (.txrm)?")
        size = np.dtype(form).itemsize
        content = self.ole.openstream(name).read()
        return np.frombuffer(content[: len(content) // size * size], form)

    def info(self, name: str, form: str) -> npt.NDArray[Any]:
        """Return the numbers of an optional stream of ImageInfo."""
        return self.numbers(f"ImageInfo/{name}", form, optional=True)

    def count(self, name: str) -> int:
        """Return a positive whole number."""
        found = self.numbers(name, "<i4")
        if not found.size or not 0 < found[0] < _MAX_COUNT:
            raise ValueError(f"{self.file}: {name} must be a number above 0, got {found[:3].tolist()}; fetch it again")
        return int(found[0])

    def image(self, name: str, type_name: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Return an image (H, W)."""
        kind = self.count(type_name)
        if kind not in _TYPES:
            raise ValueError(f"{self.file}: {type_name} must be one of {sorted(_TYPES)}, got {kind}; export it as TIFF")
        needed = shape[0] * shape[1] * np.dtype(_TYPES[kind]).itemsize
        if self.ole.get_type(name) != 2 or self.ole.get_size(name) != needed:
            held = self.ole.get_size(name) if self.ole.get_type(name) == 2 else 0
            raise ValueError(f"{self.file}: {name} must have {needed} bytes, {shape}, it has {held}; fetch it again")
        return np.frombuffer(self.ole.openstream(name).read(), _TYPES[kind]).reshape(shape)


def _sizes(streams: _Streams) -> tuple[int, int, int]:
    """Return the numbers of views, rows and columns of a tomography."""
    mode, angles = streams.info("AcquisitionMode", "<i4"), streams.info("Angles", "<f4")
    if streams.file.suffix.lower() == ".txm" or (mode.size and mode[0] != _TOMOGRAPHY):
        raise ValueError(
            f"{streams.file} is a reconstructed volume of Zeiss (.txm), no scan; export its slices as TIFF or DICOM"
        )
    mosaic = [int(found[0]) for name in ("MosiacRows", "MosiacColumns") if (found := streams.info(name, "<i4")).size]
    if len(mosaic) == 2 and min(mosaic) > 0 and max(mosaic) > 1:
        raise ValueError(f"{streams.file} is a mosaic of {mosaic[0]} x {mosaic[1]} images, no tomography")
    planned, height, width = (streams.count(f"ImageInfo/{n}") for n in ("NoOfImages", "ImageHeight", "ImageWidth"))
    taken = streams.info("ImagesTaken", "<u4")
    n = int(taken[0]) if taken.size and 0 < taken[0] < planned else planned
    if len(angles) < n:
        raise ValueError(f"{streams.file}: ImageInfo/Angles must be {n}, one per view, got {len(angles)}")
    if n < planned:
        streams.doubts.append(f"{n} of {planned} views were taken, which are read")
    return n, height, width


def _views(streams: _Streams, n: int, height: int, width: int, rows: slice) -> npt.NDArray[np.float32]:
    """Return some rows of all views, (n_rows, n, W)."""
    shape = (len(range(height)[rows]), n, width)
    check_claim(f"{streams.file}: the views", n * height * width, streams.file.stat().st_size, "fetch it again")
    check_memory(f"{streams.file}: the views", shape, "read some rows, rows=slice(0, 16)")
    y = np.empty(shape, np.float32)
    for k in range(n):
        image = streams.image(f"ImageData{k // 100 + 1}/Image{k + 1}", "ImageInfo/DataType", (height, width))
        y[:, k] = to_float32(f"{streams.file}: view {k}", image[rows])
    return y


def _reference(streams: _Streams, height: int, width: int, rows: slice) -> npt.NDArray[np.float32] | None:
    """Return some rows of the open beam (n_rows, W) at the views' exposure; None where there is none."""
    if streams.ole.get_type("ReferenceData/Image") != 2:
        return None
    names = ("ReferenceData/DataType", "ReferenceData/ImageInfo/DataType", "ImageInfo/DataType")
    type_name = next((name for name in names if streams.ole.get_type(name) == 2), names[0])
    image = streams.image("ReferenceData/Image", type_name, (height, width))[rows]
    flat = to_float32(f"{streams.file}: ReferenceData/Image", image)
    exposure = streams.info("ExpTimes", "<f4")
    own = [streams.numbers(f"ReferenceData/{name}", "<f4", optional=True) for name in ("ImageInfo/ExpTimes", "ExpTime")]
    times = [float(found[0]) for found in (exposure, *own) if found.size and 0 < found[0] < _MAX_LENGTH]
    if exposure.size and len(times) > 1 and abs(times[0] / times[1] - 1) > _SAME_EXPOSURE:
        streams.doubts.append(
            f"its reference was exposed for {times[1]:.4g} s, the views for {times[0]:.4g} s; the reference is scaled "
            "by their ratio"
        )
        flat = flat * np.float32(times[0] / times[1])
    return flat


def _geometry(streams: _Streams) -> dict[str, float]:
    """Return the lengths of `CtScan`, in mm, as far as the file has them."""

    def length(name: str, unit_mm: float) -> float | None:
        found = streams.info(name, "<f4")
        size = abs(float(found[0])) * unit_mm if found.size else 0.0
        return size if 0 < size < _MAX_LENGTH else None

    pixel = length("PixelSize", 1e-3)
    source, detector = length("StoRADistance", 1.0), length("DtoRADistance", 1.0)
    geometry = streams.info("XrayGeometry", "<i4")
    is_cone = bool(geometry.size) and geometry[0] == _CONE
    if not geometry.size and source and detector:
        streams.doubts.append(
            "it does not say whether its beam is a cone (ImageInfo/XrayGeometry) and is read as parallel; of a cone, "
            "set source_origin_mm and origin_detector_mm by dataclasses.replace"
        )
    if is_cone and not (pixel and source and detector):
        raise ValueError(
            f"{streams.file} must have PixelSize, StoRADistance and DtoRADistance, being of a cone beam, got "
            f"{pixel}, {source} and {detector} mm; fetch it again"
        )
    if pixel is None:
        return {}
    if not is_cone or source is None or detector is None:
        return {"pitch_mm": pixel, "pixel_size_mm": pixel}
    pitch = pixel * (source + detector) / source
    fan = {"source_origin_mm": source, "origin_detector_mm": detector, "pitch_mm": pitch, "pixel_size_mm": pixel}
    return fan | {"row_pitch_mm": pitch}  # its pixels are squares
