"""CT slices in DICOM files (PS3.3, CT and Enhanced CT Image): a slice, a file of frames, or a folder of one series.

    value = RescaleSlope * stored + RescaleIntercept

In enhanced files, each frame is a slice. What all frames share is in SharedFunctionalGroupsSequence, what differs in
PerFrameFunctionalGroupsSequence: PixelValueTransformationSequence (slope, intercept, type), PixelMeasuresSequence
(spacing, thickness), PlanePositionSequence and PlaneOrientationSequence.

PixelSpacing is (between rows, between columns). ImagePositionPatient is the centre of the first pixel, in mm; slices
are ordered along the normal of ImageOrientationPatient, row direction x column direction: for axial slices of a
patient who lies on his back, from the feet to the head.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..io.file_kinds import begins_as_dicom, has_dicom_preamble, is_deflated_dicom
from ..io.guards import check_claim, check_file, check_memory, one_line, reading, to_float32

_Array = npt.NDArray[Any]
UNCOMPRESSED_REMEDY = "if that is right, store it uncompressed"
_MAX_GAP_DEVIATION = 0.02
"""Largest deviation of a gap between slices, over the median: positions are rounded."""
MAX_VALUE = 1e12
"""Bound of lengths in mm and of scales of values, which only damaged files exceed."""
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_OTHER_READERS = {
    "NM": "is nuclear medicine: read it with read_dicom_nm",
    "SEG": "is a segmentation, no CT slice; move it away",
    "RTDOSE": "is a dose of radiotherapy, no CT slice; move it away",
}
"""Modalities whose pixels are no slices in a unit, with what to do."""


@dataclass(frozen=True, eq=False)
class Slices:
    """CT slices.

    Attributes:
        volume: (n, H, W), float32, in `unit`.
        spacing_mm: (z, y, x): between slices along their normal, rows and columns; NaN where the file does not say.
            For a single slice, z is its thickness.
        unit: "HU", or "" where the file does not say so.
        positions_mm: (n, 3), mm, in the patient's frame: the centre of every slice's first pixel; NaN where not known.
        orientation: (6,), the directions of a row and of a column in that frame; NaN where not known.
    """

    volume: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    unit: str
    positions_mm: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64] = field(default_factory=lambda: np.full(6, math.nan))


class _Groups(NamedTuple):
    """The places of a header in which an element of a frame may be, in their order."""

    per_frame: Any
    shared: Any
    whole: Any

    def get(self, sequence: str, name: str) -> Any:
        """Return an element's value, of the first place that has it; None where none has."""
        for groups in (self.per_frame, self.shared):
            items = None if groups is None else groups.get(sequence)
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        return self.whole.get(name)


@dataclass(frozen=True)
class _Header:
    """Header of one slice: a file, or one of its frames."""

    file: Path
    frame: int
    n_frames: int
    series: str
    shape: tuple[int, int]
    spacing: tuple[float, float]
    thickness: float
    position: _Array  # (3,), or NaN
    orientation: _Array  # (6,), or NaN
    unit: str
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        return self.file.name + self._frame()

    def __str__(self) -> str:
        return f"{self.file}{self._frame()}"

    def _frame(self) -> str:
        return "" if self.n_frames == 1 else f" (frame {self.frame + 1})"


def read_dicom(path: str | os.PathLike[str], *, series: str | None = None) -> Slices:
    """Read a DICOM slice, or all slices of a series in a folder, in the units after RescaleSlope and RescaleIntercept.

    Files of several frames (Enhanced CT) are volumes: their frames are sorted as files are. Files without preamble are
    read. How a viewer shows the values, such as MONOCHROME1 (white is low), does not change them.

    Args:
        path: a file, or a folder that holds DICOM files only (hidden files and DICOMDIR apart).
        series: SeriesInstanceUID, where a folder holds several.

    Raises:
        ValueError: a file is missing, broken, not DICOM, not grey, without pixels or compressed without a decoder; its
            frames have no positions; a folder holds several series; slices differ in shape or direction, coincide or
            are uneven.
    """
    headers = [header for file in _files(path) for header in _headers(file)]
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
                    f"{header}: {what} is {other!r}, that of {first.name} is {mine!r}; slices of a volume "
                    "must agree: sort them into folders"
                )
    headers, z = _stack(headers)
    shape = (len(headers), *first.shape)
    check_memory(f"{path}: the volume", shape, "read fewer slices")
    files: dict[Path, dict[int, tuple[int, _Header]]] = {header.file: {} for header in headers}
    for k, header in enumerate(headers):
        files[header.file][header.frame] = (k, header)
    held = sum(file.stat().st_size for file in files)
    check_claim(f"{path}: the volume", math.prod(shape), held, UNCOMPRESSED_REMEDY)
    volume = np.empty(shape, np.float32)
    for file, wanted in files.items():
        _read_frames(file, wanted, volume)
    positions = np.stack([header.position for header in headers])
    return Slices(volume, (z, *first.spacing), first.unit, positions, first.orientation)


def check_deflated(path: str | os.PathLike[str], file: BinaryIO, *, force: bool = False) -> None:
    """Refuse a file compressed as a whole, which may unpack to any size before it can be checked; rewind the file.

    Args:
        path: the file, for messages.
        file: the open file.
        force: accept a file without preamble.
    """
    if is_deflated_dicom(file, force=force):
        raise ValueError(f"{path} is deflated as a whole, which is not read; store it uncompressed (dcmconv +te)")


def _files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the DICOM files of a folder, or the file itself."""
    path = Path(path)
    if not path.is_dir():
        return [check_file(path)]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith(".") and f.name != "DICOMDIR")
    if not files:
        raise ValueError(f"{path} holds no files; name the folder in which the slices are")
    return files


def _headers(file: Path) -> list[_Header]:
    """Read the headers by which slices are chosen and sorted, one per frame; refuse what holds no grey slices."""
    from pydicom.errors import InvalidDicomError

    with reading(file, "DICOM"):
        try:
            data = _dataset(file, pixels=False)
        except InvalidDicomError:
            raise ValueError(f"{file} is not a DICOM file; move it away, or name one") from None
        modality = str(data.get("Modality") or "")
        if modality in _OTHER_READERS:
            raise ValueError(f"{file} {_OTHER_READERS[modality]}")
        rows, columns = data.get("Rows"), data.get("Columns")
        if not rows or not columns:
            raise ValueError(f"{file} holds no image (no Rows and Columns); move it away")
        photometric = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
        if int(data.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
            raise ValueError(f"{file} is a colour picture ({photometric!r:.24}), no CT slice; move it away")
        shape = (int(rows), int(columns))
        return [_header(file, data, groups, k, n, shape) for k, n, groups in _frames(file, data)]


def _frames(file: Path, data: Any) -> list[tuple[int, int, _Groups]]:
    """Return the places of the elements of every frame: (frame, number of frames, places)."""
    n = int(data.get("NumberOfFrames") or 1)
    shared, per_frame = (data.get(f"{kind}FunctionalGroupsSequence") for kind in ("Shared", "PerFrame"))
    if n < 1 or (per_frame and len(per_frame) != n):
        raise ValueError(
            f"{file} must describe each of its {n} frames, got {len(per_frame or ())} groups; fetch it again"
        )
    if n > 1 and not per_frame:
        raise ValueError(
            f"{file} holds {n} frames without positions (no PerFrameFunctionalGroupsSequence); convert it to Enhanced "
            "CT, or to files of one slice each"
        )
    frames = per_frame or [None]
    return [(k, n, _Groups(frame, shared[0] if shared else None, data)) for k, frame in enumerate(frames)]


def _header(file: Path, data: Any, groups: _Groups, frame: int, n_frames: int, shape: tuple[int, int]) -> _Header:
    """Return the header of one frame."""
    if "ModalityLUTSequence" in data:
        raise ValueError(f"{file} gives its units by a table (ModalityLUTSequence); store RescaleSlope instead")
    values, measures = "PixelValueTransformationSequence", "PixelMeasuresSequence"
    y, x = _numbers(groups, measures, "PixelSpacing", 2)
    slope, intercept = (float(_numbers(groups, values, name, 1)[0]) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        raise ValueError(f"{file}: RescaleSlope must not be 0; fetch it again")
    # Without a RescaleType, the values of a CT image are Hounsfield units (PS3.3 C.8.2.1).
    kind = str(groups.get(values, "RescaleType") or ("HU" if data.get("Modality") == "CT" else ""))
    return _Header(
        file,
        frame,
        n_frames,
        str(data.get("SeriesInstanceUID", "")),
        shape,
        (float(y), float(x)),
        float(_numbers(groups, measures, "SliceThickness", 1)[0]),
        _numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
        _numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
        "HU" if not math.isnan(slope + intercept) and kind == "HU" else "",
        1.0 if math.isnan(slope) else slope,
        0.0 if math.isnan(intercept) else intercept,
    )


def _dataset(file: Path, *, pixels: bool) -> Any:
    """Return the data set of a file, with or without its pixels; a file without preamble must begin as DICOM does."""
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with file.open("rb") as opened:
        head = opened.read(133)
        bare = not has_dicom_preamble(head) and begins_as_dicom(head)
        opened.seek(0)
        check_deflated(file, opened, force=bare)
        data = dcmread(opened, stop_before_pixels=not pixels, force=bare)
    if "TransferSyntaxUID" not in getattr(data, "file_meta", {}):  # as the data were found to be encoded
        implicit, little = data.original_encoding
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return data


def _numbers(groups: _Groups, sequence: str, name: str, n: int) -> _Array:
    """Return n numbers of a frame's header, or n times NaN where it has none."""
    value = groups.get(sequence, name)
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
                f"{header} lacks ImagePositionPatient or ImageOrientationPatient, by which slices are sorted; "
                "read it on its own"
            )
        if np.abs(header.orientation - first.orientation).max() > 1e-3:
            raise ValueError(
                f"{header} lies in another direction than {first.name}; a volume has parallel slices: move "
                "it away (a localizer?)"
            )
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    headers = sorted(headers, key=lambda header: float(header.position @ normal))
    gaps = np.diff([float(header.position @ normal) for header in headers])
    typical, k = float(np.median(gaps)), int(np.argmin(gaps))
    if gaps[k] < 1e-3:
        raise ValueError(
            f"{headers[k]} and {headers[k + 1].name} are at the same place; a volume has one slice "
            "per place: sort phases or copies into folders or files"
        )
    k = int(np.argmax(np.abs(gaps - typical)))
    if abs(gaps[k] - typical) > _MAX_GAP_DEVIATION * typical:
        raise ValueError(
            f"{headers[k]} and {headers[k + 1].name} are {gaps[k]:.4g} mm apart, slices mostly "
            f"{typical:.4g} mm; slices must be evenly spaced: is one missing?"
        )
    in_plane = np.stack([header.position for header in headers]) @ first.orientation.reshape(2, 3).T
    spread = float(np.ptp(in_plane, axis=0).max())
    if spread > (min(first.spacing) if np.isfinite(first.spacing).all() else 1.0):  # a pixel, or a millimetre
        raise ValueError(
            f"{headers[0]}: slices are displaced within their plane by {spread:.4g} mm (a tilted gantry?); "
            "a volume is a straight stack: resample it, or read its slices one by one"
        )
    return headers, typical


def _read_frames(file: Path, wanted: dict[int, tuple[int, _Header]], volume: npt.NDArray[np.float32]) -> None:
    """Read the wanted frames of a file, in their units, each into its place in a volume.

    Args:
        file: the file.
        wanted: place in the volume and header of each frame.
        volume: (n, H, W), written to.
    """
    from pydicom.pixels.utils import iter_pixels

    with reading(file, "DICOM"):
        data = _dataset(file, pixels=True)
        if not any(name in data for name in _PIXEL_ELEMENTS):
            raise ValueError(f"{file} has no pixel data; it is a header only, or truncated: fetch it again")
        n_done = 0
        frames = iter_pixels(data)
        while True:
            try:
                stored = next(frames, None)
            except Exception as error:
                syntax = data.file_meta.TransferSyntaxUID
                if not syntax.is_compressed:
                    raise
                raise ValueError(
                    f"{file}: its pixels are compressed ({syntax.name:.60}) and cannot be decoded: {one_line(error)}; "
                    "install a decoder (pylibjpeg with its plugins), or store them uncompressed"
                ) from error
            if stored is None:
                break
            place, header = wanted[n_done]
            if stored.shape != header.shape:
                raise ValueError(f"{file}: the pixels must be {header.shape}, got {stored.shape}")
            values = header.slope * stored.astype(np.float64) + header.intercept
            volume[place] = to_float32(f"{header}: the image", values)
            n_done += 1
        if n_done != len(wanted):
            raise ValueError(f"{file} must have {len(wanted)} frames, its pixels are {n_done}; fetch it again")
