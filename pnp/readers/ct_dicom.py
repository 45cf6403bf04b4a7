"""CT slices in DICOM files (PS3.3, CT Image): a slice, or a folder of one series.

    value = RescaleSlope * stored + RescaleIntercept

PixelSpacing is (between rows, between columns). ImagePositionPatient is the centre of the first pixel, in mm; slices
are ordered along the normal of ImageOrientationPatient, row direction x column direction: for axial slices of a
patient who lies on his back, from the feet to the head.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..io.guards import check_claim, check_file, check_memory, one_line, reading, to_float32

_Array = npt.NDArray[Any]
UNCOMPRESSED_REMEDY = "if that is right, store it uncompressed"
_MAX_GAP_DEVIATION = 0.02
"""Largest deviation of a gap between slices, over the median: positions are rounded."""
MAX_VALUE = 1e12
"""Bound of lengths in mm and of scales of values, which only damaged files exceed."""
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, eq=False)
class Slices:
    """CT slices.

    Attributes:
        volume: (n, H, W), float32, in `unit`.
        spacing_mm: (z, y, x): between slices along their normal, rows and columns; NaN where the file does not say.
            For a single slice, z is its thickness.
        unit: "HU", or "" where the file does not say so.
        positions_mm: (n, 3), mm, in the patient's frame: the centre of every slice's first pixel; NaN where not known.
    """

    volume: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    unit: str
    positions_mm: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Header:
    """Header of one slice."""

    file: Path
    series: str
    shape: tuple[int, int]
    spacing: tuple[float, float]
    thickness: float
    position: _Array  # (3,), or NaN
    orientation: _Array  # (6,), or NaN
    unit: str


def read_dicom(path: str | os.PathLike[str], *, series: str | None = None) -> Slices:
    """Read a DICOM slice, or all slices of a series in a folder, in the units after RescaleSlope and RescaleIntercept.

    Args:
        path: a file, or a folder that holds DICOM files only (hidden files and DICOMDIR apart).
        series: SeriesInstanceUID, where a folder holds several.

    Raises:
        ValueError: a file is missing, broken, not DICOM, not grey, multi-frame, without pixels or compressed without a
            decoder; a folder holds several series; slices differ in shape or direction, coincide or are uneven.
    """
    headers = [_header(file) for file in _files(path)]
    found = sorted({header.series for header in headers})
    if series is not None:
        headers = [header for header in headers if header.series == series]
        if not headers:
            raise ValueError(f"{path} holds no series {series!r:.70}; it holds {', '.join(found)[:150]}")
    elif len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} series; choose one by series=: {', '.join(found)[:200]}")
    first = headers[0]
    for header in headers:
        for what in ("shape", "spacing", "unit"):
            mine, other = getattr(first, what), getattr(header, what)
            if not np.array_equal(mine, other, equal_nan=what == "spacing"):
                raise ValueError(
                    f"{header.file}: {what} is {other!r}, that of {first.file.name} is {mine!r}; slices of a volume "
                    "must agree: sort them into folders"
                )
    headers, z = _stack(headers)
    shape = (len(headers), *first.shape)
    check_memory(f"{path}: the volume", shape, "read fewer slices")
    held = sum(header.file.stat().st_size for header in headers)
    check_claim(f"{path}: the volume", math.prod(shape), held, UNCOMPRESSED_REMEDY)
    volume = np.empty(shape, np.float32)
    for k, header in enumerate(headers):
        volume[k] = _pixels(header)
    return Slices(volume, (z, *first.spacing), first.unit, np.stack([header.position for header in headers]))


def check_deflated(path: str | os.PathLike[str], file: BinaryIO) -> None:
    """Refuse a file compressed as a whole, which may unpack to any size before it can be checked; rewind the file."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, False)
    # The first group, which is never compressed: explicit, little-endian (PS3.10, 7.1).
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError(f"{path} is deflated as a whole, which is not read; store it uncompressed (dcmconv +te)")
    file.seek(0)


def _files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the DICOM files of a folder, or the file itself."""
    path = Path(path)
    if not path.is_dir():
        return [check_file(path)]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith(".") and f.name != "DICOMDIR")
    if not files:
        raise ValueError(f"{path} holds no files; name the folder in which the slices are")
    return files


def _header(file: Path) -> _Header:
    """Read the header by which slices are chosen and sorted; refuse what is not a grey slice."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    with reading(file, "DICOM"), file.open("rb") as opened:
        try:
            check_deflated(file, opened)
            header = dcmread(opened, stop_before_pixels=True)
        except InvalidDicomError:
            raise ValueError(f"{file} is not a DICOM file; move it away, or name one") from None
        rows, columns = header.get("Rows"), header.get("Columns")
        if not rows or not columns:
            raise ValueError(f"{file} holds no image (no Rows and Columns); move it away")
        if int(header.get("NumberOfFrames") or 1) != 1:
            raise ValueError(f"{file} holds {int(header.NumberOfFrames)} frames; convert it to files of one slice each")
        photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        if int(header.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
            raise ValueError(f"{file} is a colour picture ({photometric!r:.24}), no CT slice; move it away")
        if "ModalityLUTSequence" in header:
            raise ValueError(f"{file} gives its units by a table (ModalityLUTSequence); store RescaleSlope instead")
        y, x = _numbers(header, "PixelSpacing", 2)
        scaled = header.get("RescaleSlope") is not None and header.get("RescaleIntercept") is not None
        # Without a RescaleType, the values of a CT image are Hounsfield units (PS3.3 C.8.2.1).
        kind = str(header.get("RescaleType") or ("HU" if header.get("Modality") == "CT" else ""))
        return _Header(
            file,
            str(header.get("SeriesInstanceUID", "")),
            (int(rows), int(columns)),
            (float(y), float(x)),
            float(_numbers(header, "SliceThickness", 1)[0]),
            _numbers(header, "ImagePositionPatient", 3),
            _numbers(header, "ImageOrientationPatient", 6),
            "HU" if scaled and kind == "HU" else "",
        )


def _numbers(header: Any, name: str, n: int) -> _Array:
    """Return n numbers of a header, or n times NaN where it has none."""
    value = header.get(name)
    if value is None or value == "":
        return np.full(n, math.nan)
    numbers = np.asarray(value, dtype=np.float64).ravel()
    if numbers.shape != (n,) or not (np.abs(numbers) < MAX_VALUE).all():  # NaN fails too
        raise ValueError(f"{name} must be {n} numbers below {MAX_VALUE:g}, got {value!s:.60}")
    return numbers


def _stack(headers: list[_Header]) -> tuple[list[_Header], float]:
    """Sort slices along their normal; return them and the distance between them in mm."""
    first = headers[0]
    if len(headers) == 1:
        return headers, first.thickness
    for header in headers:
        if np.isnan(header.position).any() or np.isnan(header.orientation).any():
            raise ValueError(
                f"{header.file} lacks ImagePositionPatient or ImageOrientationPatient, by which slices are sorted; "
                "read it on its own"
            )
        if np.abs(header.orientation - first.orientation).max() > 1e-3:
            raise ValueError(
                f"{header.file} lies in another direction than {first.file.name}; a volume has parallel slices: move "
                "it away (a localizer?)"
            )
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    headers = sorted(headers, key=lambda header: float(header.position @ normal))
    gaps = np.diff([float(header.position @ normal) for header in headers])
    typical, k = float(np.median(gaps)), int(np.argmin(gaps))
    if gaps[k] < 1e-3:
        raise ValueError(
            f"{headers[k].file} and {headers[k + 1].file.name} are at the same place; a volume has one slice "
            "per place: sort phases or copies into folders"
        )
    k = int(np.argmax(np.abs(gaps - typical)))
    if abs(gaps[k] - typical) > _MAX_GAP_DEVIATION * typical:
        raise ValueError(
            f"{headers[k].file} and {headers[k + 1].file.name} are {gaps[k]:.4g} mm apart, slices mostly "
            f"{typical:.4g} mm; slices must be evenly spaced: is one missing?"
        )
    in_plane = np.stack([header.position for header in headers]) @ first.orientation.reshape(2, 3).T
    spread = float(np.ptp(in_plane, axis=0).max())
    if spread > (min(first.spacing) if np.isfinite(first.spacing).all() else 1.0):  # a pixel, or a millimetre
        raise ValueError(
            f"{headers[0].file.parent}: slices are displaced within their plane by {spread:.4g} mm (a tilted gantry?); "
            "a volume is a straight stack: resample it, or read its slices one by one"
        )
    return headers, typical


def _pixels(header: _Header) -> npt.NDArray[np.float32]:
    """Read a slice (H, W) in its units."""
    from pydicom import dcmread

    file = header.file
    with reading(file, "DICOM"):
        data = dcmread(file)
        if not any(name in data for name in _PIXEL_ELEMENTS):
            raise ValueError(f"{file} has no pixel data; it is a header only, or truncated: fetch it again")
        try:
            stored = data.pixel_array
        except Exception as error:
            syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
            if syntax is None or not syntax.is_compressed:
                raise
            raise ValueError(
                f"{file}: its pixels are compressed ({syntax.name:.60}) and cannot be decoded: {one_line(error)}; "
                "install a decoder (pylibjpeg with its plugins), or store them uncompressed"
            ) from error
        slope, intercept = (_numbers(data, name, 1)[0] for name in ("RescaleSlope", "RescaleIntercept"))
        if slope == 0:
            raise ValueError(f"{file}: RescaleSlope must not be 0; fetch it again")
    if stored.shape != header.shape:
        raise ValueError(f"{file}: the pixels must be {header.shape}, got {stored.shape}")
    slope, intercept = (default if math.isnan(v) else v for v, default in ((slope, 1.0), (intercept, 0.0)))
    return to_float32(f"{file}: the image", slope * stored.astype(np.float64) + intercept)
