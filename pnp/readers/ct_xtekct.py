"""Nikon (X-Tek, Metris) cone-beam scans: the parameters in an .xtekct file, and TIFF projections beside it.

The file is INI text; its section [XTekCT] has lengths in mm and angles in degrees:

    SrcToObject, SrcToDetector             from the source to the axis of rotation, and to the detector
    DetectorPixelsX, DetectorPixelsY       columns and rows, DetectorPixelSizeX and Y their size; rows from the top
    Projections, InitialAngle, AngularStep
    Name, InputSeparator, InputFolderName  projections are InputFolderName/Name_0001.tif, ...
    WhiteLevel                             value of the open beam; the projections are corrected for flats and darks
    ObjectOffsetX, or CentreOfRotationTop and CentreOfRotationBottom

Direction of rotation, after the reader of the Core Imaging Library (CIL, NikonDataReader): the object turns clockwise
seen from above, and columns of a projection run from right to left seen from the source. So columns are reversed, and
with theta = InitialAngle + k AngularStep - 180 degrees, view k is that of `FanBeam`; its image is the object seen from
above at InitialAngle = 180 degrees, the beam of the first view from the bottom to the top. CIL found the angles of
_ctdata.txt and .ang files wrong and takes none of them, and so does this reader: it compares.
"""

from __future__ import annotations

import configparser
import os
import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..io.guards import check_file, check_finite, check_real, one_line, reading
from .ct_arguments import check_rows, picked_rows
from .ct_scan import CtScan
from .tiff_stack import page_shape, read_rows

_SECTION = "XTekCT"
_MAX_BYTES = 2**24
"""Largest parameter file: 16 MiB."""
_MAX_LENGTH = 1e6
"""Bound of lengths in mm and of counts of pixels and views, which only damaged files exceed."""
_LISTED_ANGLE = re.compile(
    r"(?m)^[ \t]*\d{1,9}[ \t]+(-?[\d.]{1,30}(?:[eE][-+]?\d{1,3})?)[ \t]+-?[\d.]{1,30}\S{0,9}\s*$"
)
"""Line of _ctdata.txt: the number of a projection, its angle in degrees, and a time."""
_OTHERS = {
    ".vgi": "the header of a volume by VGStudio",
    ".vgl": "a scene of VGStudio",
    ".vol": "a reconstructed volume",
    ".xtekvolume": "the header of a volume by Nikon's CT Pro",
    ".xml": "a profile of Nikon's CT Pro",
    ".pca": "the header of a scan by Phoenix datos|x",
    ".rcp": "a recipe of Zeiss Scout-and-Scan",
}
"""Files of which users take for an .xtekct, by suffix."""


def read_xtekct(
    path: str | os.PathLike[str], *, rows: slice | None = None, angles: npt.ArrayLike | None = None
) -> CtScan:
    """Read a Nikon scan as transmissions (n_rows, n_angles, n_detectors), over WhiteLevel, with a fan's geometry.

    The beam is a cone. `scan.cone_operator()` is right for all rows; `scan.operator()`, a FanBeam for each row, for the
    middle one, facts["middle_row"], alone, and less so the farther a row is from it.
    The scanner has corrected and scaled the projections, so that they do not tell how many photons they were:
    `line_integrals` fits their noise, or takes photons_per_count, the photons of the open beam. facts["offset_mm"] is
    the detector's offset that the file states, to first order and with CIL's sign; `pnp.ct.find_centre` finds it from
    the data.

    Args:
        path: the .xtekct file.
        rows: the detector rows to read, from the top, e.g. slice(1000, 1001); the others are not kept. None: all.
        angles: (n_angles,), radians, in `FanBeam`'s frame, in place of the file's.

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, no .xtekct or lacks a number; projections are missing, broken or of another
            shape; values are not finite.
    """
    check_rows("read_xtekct", rows)
    file = check_file(path)
    facts = _parameters(file)
    n_views, height, width = (
        _whole(file, facts, f"{n}") for n in ("Projections", "DetectorPixelsY", "DetectorPixelsX")
    )
    source_origin, source_detector = (_length(file, facts, name) for name in ("SrcToObject", "SrcToDetector"))
    pitch, white = _length(file, facts, "DetectorPixelSizeX"), _number(file, facts, "WhiteLevel")
    row_pitch = _length(file, facts, "DetectorPixelSizeY") if facts.get("DetectorPixelSizeY") else None
    if source_origin > source_detector:
        raise ValueError(
            f"{file}: SrcToObject must be below SrcToDetector, got {source_origin:g} and {source_detector:g}; fix it"
        )
    if not 0 < white < 2**32:
        raise ValueError(f"{file}: WhiteLevel must be the value of the open beam, 1 to 2^32, got {white:g}; correct it")
    theta = _angles(file, facts, n_views) if angles is None else np.asarray(angles)
    check_real(f"{file}: angles", theta.dtype)
    check_finite(f"{file}: angles", theta)
    if theta.shape != (n_views,):
        raise ValueError(f"{file}: angles must be {n_views} radians, one per projection, got shape {theta.shape}")
    files = _projections(file, facts, n_views)
    shape = page_shape(files[0], one_of_many=True)
    if shape != (1, height, width):
        raise ValueError(
            f"{files[0]} must be one page ({height}, {width}), as {file.name} says, got {shape}; are they of one scan?"
        )
    picked = picked_rows(file, height, rows)
    y = read_rows(file, files, picked, rows_first=True)
    for row in y:  # in place, with the copy of one row
        row[:] = row[:, ::-1] / np.float32(white)
    return CtScan(
        y=y,
        angles=theta,
        kind="transmissions",
        source_origin_mm=source_origin,
        origin_detector_mm=source_detector - source_origin,
        pitch_mm=pitch,
        pixel_size_mm=pitch * source_origin / source_detector,
        facts=facts
        | {
            "rows": (picked.start, picked.stop, picked.step),
            "middle_row": (height - 1) / 2,
            "rows_downwards": True,
            "white_level": white,
            "offset_mm": _offset(file, facts, source_detector / source_origin),
        },
        path=str(file),
        row_pitch_mm=row_pitch,
    )


def _parameters(file: Path) -> dict[str, str]:
    """Return the entries of the section [XTekCT], as text."""
    if file.suffix.lower() in _OTHERS:
        raise ValueError(
            f"{file} is {_OTHERS[file.suffix.lower()]}, no scan; give the .xtekct file beside the projections, or read "
            "projections with read_tiff_scan"
        )
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file} is no .xtekct file: it has over {_MAX_BYTES >> 20} MiB; give the text file of a scan")
    text = file.read_bytes().decode("latin-1").lstrip("\ufeffï»¿")
    if f"[{_SECTION}]".lower() not in text[:4096].lower():
        raise ValueError(f"{file} has no section [{_SECTION}], with which Nikon's parameters begin; check the name")
    parser = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=(";", "#"), allow_no_value=True
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    with reading(file, "Nikon .xtekct"):
        parser.read_string(text)
        (section,) = [name for name in parser.sections() if name.lower() == _SECTION.lower()]
        return {key: (value or "").strip() for key, value in parser.items(section)}


def _number(file: Path, facts: dict[str, str], name: str, default: float | None = None) -> float:
    """Return a finite number."""
    text = facts.get(name, "")
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) < np.inf:
        raise ValueError(f"{file}: {name} must be a number, got {text!r:.40}; correct it")
    return value


def _length(file: Path, facts: dict[str, str], name: str) -> float:
    value = _number(file, facts, name)
    if not 0 < value < _MAX_LENGTH:
        raise ValueError(f"{file}: {name} must be a length in mm above 0 and below {_MAX_LENGTH:g}, got {value:g}")
    return value


def _whole(file: Path, facts: dict[str, str], name: str) -> int:
    value = _number(file, facts, name)
    if not 0 < value < _MAX_LENGTH or value % 1:
        raise ValueError(f"{file}: {name} must be a whole number above 0 and below {_MAX_LENGTH:g}, got {value:g}")
    return int(value)


def _offset(file: Path, facts: dict[str, str], magnification: float) -> float:
    """Return the position of the detector's centre, mm, to first order: the axis casts its shadow on -offset."""
    if facts.get("ObjectOffsetX"):
        return _number(file, facts, "ObjectOffsetX") * magnification
    ends = [_number(file, facts, f"CentreOfRotation{end}", 0.0) for end in ("Top", "Bottom")]
    return sum(ends) / 2


def _angles(file: Path, facts: dict[str, str], n: int) -> npt.NDArray[np.float64]:
    """Return the angles of the frame of `FanBeam`, radians, (n,)."""
    step, start = (_number(file, facts, name) for name in ("AngularStep", "InitialAngle"))
    if max(abs(step), abs(start)) > 1e4 or (step == 0 and n > 1):
        raise ValueError(
            f"{file}: AngularStep and InitialAngle must be degrees, got {step:g} and {start:g}; correct them"
        )
    _compare(file, step, n)
    theta: npt.NDArray[np.float64] = np.deg2rad(start + step * np.arange(n) - 180.0)
    return theta


def _compare(file: Path, step: float, n: int) -> None:
    """Warn if _ctdata.txt lists angles at other distances than AngularStep."""
    beside = file.with_name("_ctdata.txt")
    if not beside.is_file() or beside.stat().st_size > _MAX_BYTES:
        return
    found = _LISTED_ANGLE.findall(beside.read_text("latin-1"))
    try:
        listed = np.array([float(angle) for angle in found[-n:]])
    except ValueError:
        return
    if len(listed) != n:
        return
    worst = float(np.abs(listed - listed[0] - step * np.arange(n)).max())
    if worst > abs(step) / 2:
        warnings.warn(
            f"{file}: _ctdata.txt lists angles up to {worst:.3g} degrees from those of AngularStep, which are used; if "
            "the listed ones are right, give angles=np.deg2rad(listed - 180)",
            stacklevel=4,
        )


def _projections(file: Path, facts: dict[str, str], n: int) -> list[Path]:
    """Return the n projections in order."""
    name, separator = facts.get("Name", ""), facts.get("InputSeparator") or "_"
    pattern = re.compile(re.escape(f"{name}{separator}") + r"(\d{1,9})\.tiff?", re.IGNORECASE)
    found: dict[int, Path] = {}
    for folder in _folders(file, facts.get("InputFolderName", "")):
        matches = ((pattern.fullmatch(one.name), one) for one in folder.iterdir())
        found = {int(match[1]): one for match, one in sorted(matches, key=lambda m: m[1].name) if match}
        if found:
            break
    first = min(found, default=1)
    missing = [k for k in range(first, first + n) if k not in found]
    if missing or len(found) != n:
        some = f", without {', '.join(map(str, missing[:5]))}{' ...' * (len(missing) > 5)}" if found and missing else ""
        raise ValueError(
            f"{file} must have {n} projections {one_line(name + separator, 60)}0001.tif ... beside it, found "
            f"{len(found)}{some}; "
            "copy all of them there, and no others of this name"
        )
    return [found[k] for k in sorted(found)]


def _folders(file: Path, name: str) -> list[Path]:
    """Return the folders in which projections may be: the one that the file names, if it lies below, and its own."""
    folder = file.parent
    try:
        named = (folder / name.replace("\\", "/")).resolve()
        inside = named.is_dir() and named.is_relative_to(folder.resolve())
    except (OSError, ValueError):  # too long a name, or one with a null byte
        inside = False
    return [named, folder] if inside else [folder]
