"""SPECT projections in Interfile 3.3, as simulations (SIMIND, GATE), cameras and STIR write them.

A header of lines `key := value` names a file of raw numbers: A. Todd-Pokropek, T. D. Cradduck and F. Deconinck, A file
format for the exchange of nuclear medicine image data: a specification of Interfile version 3.3, Nucl. Med. Commun. 13
(1992) 673. View by view, rows run from the head to the feet, and columns to the right, seen from the camera.

Angles. Interfile counts them from above the patient, who lies on his back, head first: our 0. It does not say from
where a rotation is clockwise; as in DICOM (PS3.3, C.8.4.12) that is taken to be from the patient's feet, so that

    theta_v = -(start angle +- v extent/n_views),    + counter-clockwise (CCW), - clockwise (CW)

STIR has DICOM's zero at the patient's back instead, half a turn away. A wrong sense mirrors the image, a wrong zero
turns it: look where the liver is.

SIMIND writes further facts behind semicolons, centimetres for collimators and .cor files of radii, and centimetres or
millimetres, by version, for the radius.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..io.guards import check_file, check_memory, file_within, reading
from .spect_scan import EnergyWindow, SpectScan

_ZERO_DEGREES = {"front": 0.0, "back": 180.0}
"""Degrees from above the patient to where a header's angles are 0."""
_TYPE_CODES = {
    "signed integer": "i", "unsigned integer": "u", "float": "f", "short float": "f", "long float": "f",
}  # fmt: skip
_BYTE_ORDERS = {"bigendian": ">", "littleendian": "<"}
_MIN_RADIUS_MM = 60.0
"""Smallest radius of a camera; a smaller one in a header of SIMIND is in cm."""
_MAX_PLAUSIBLE_COUNT = 1e25
"""Bound of the largest count; floats of the wrong byte order are beyond it, or near 1e-40."""
_BLOCK_BYTES = 2048
"""Bytes of a block of `data starting block`."""
_UNIQUE_KEYS: tuple[str, ...] = (
    "matrix size [1]",
    "matrix size [2]",
    "number of projections",
    "start angle",
    "extent of rotation",
)
_UNIQUE_KEYS += ("direction of rotation", "number format", "number of bytes per pixel", "name of data file")
"""Keys that may not occur twice with different values."""


def read_interfile(
    path: str | os.PathLike[str], *, zero: Literal["front", "back"] = "front", radius_unit: str | None = None
) -> SpectScan:
    """Read the views of an Interfile header (.h00, .hs, .h33, ...) and its file of raw numbers.

    Args:
        path: the header.
        zero: where the camera is at angle 0: "front", above the patient, or "back" for headers of STIR.
        radius_unit: "mm" or "cm"; None: mm, but cm for a radius below 60 in a header of SIMIND.

    Returns:
        See `SpectScan`. Facts hold "originating system", "duration_s" (of a view), and, of SIMIND, "collimator_mm", the
        arguments of `operators.collimator_fwhm`, and "photon_kev".

    Raises:
        ValueError: a file is missing or of another size than its header says, a key is missing or contradicts another,
            or the views are not those of a rotating camera.
    """
    if zero not in _ZERO_DEGREES:
        raise ValueError(f"read_interfile: zero must be 'front' or 'back', got {zero!r:.40}")
    header = _Header(check_file(path))
    for key, wanted in (("type of data", "tomographic"), ("process status", "acquired")):
        if (value := header.text(key, wanted)).lower() != wanted:
            raise ValueError(
                f"{path}: {key!r} must be {wanted!r}, got {value!r:.40}; name the header of the projections"
            )
    nx, nz, n_views = (header.whole(key) for key in ("matrix size [1]", "matrix size [2]", "number of projections"))
    n_windows = header.whole("number of energy windows", 1)
    extent = header.number("extent of rotation")
    if not 0 < extent <= 720:
        raise ValueError(f"{path}: 'extent of rotation' must be degrees above 0, got {extent:g}")
    direction = header.text("direction of rotation").upper()
    if direction not in ("CW", "CCW"):
        raise ValueError(f"{path}: 'direction of rotation' must be CW or CCW, got {direction!r:.40}")
    position = header.text("patient orientation", "head_in"), header.text("patient rotation", "supine")
    if [part.lower() for part in position] != ["head_in", "supine"]:
        warnings.warn(
            f"{path}: the patient is {' and '.join(position):.60}, views are read as if head_in and supine; check "
            "where the liver comes out, and turn or mirror the angles",
            stacklevel=2,
        )
    raw = _raw(header, (n_windows, n_views, nz, nx))  # as large as the header says: steps, too, are few enough
    steps = np.arange(n_views) * (extent / n_views) * (1 if direction == "CCW" else -1)
    degrees = -(header.number("start angle", 0.0) + _ZERO_DEGREES[zero] + steps)
    return SpectScan(
        np.moveaxis(raw[..., ::-1, :], -2, -1)[:, None],  # rows upwards, and behind the columns
        np.deg2rad(degrees % 360),
        (header.number("scaling factor (mm/pixel) [1]"), header.number("scaling factor (mm/pixel) [2]")),
        _radius(header, n_views, radius_unit),
        tuple(_window(header, k + 1) for k in range(n_windows)),
        header.text("isotope name", header.text("radionuclide", "")),
        _facts(header),
        str(path),
    )


class _Header:
    """Keys of a header, in lower case and without "!", and their values; SIMIND's behind semicolons too."""

    def __init__(self, path: Path) -> None:
        self.path, self.values, comments = path, dict[str, str](), dict[str, str]()
        with reading(path, "Interfile"), open(path, "rb") as file:
            content = file.read(2**16)
        if b"interfile" not in content[:256].lower():
            raise ValueError(f"{path} is not an Interfile header: its first line must be '!INTERFILE :='")
        for line in content.decode("latin-1").splitlines():
            key, found, value = line.partition(":=")
            if not found:
                continue
            key, value = key.strip(), value.strip()
            kept = comments if key.startswith(";") else self.values
            key = re.sub(r"\s*\[", " [", " ".join(key.lstrip(";#! ").lower().split()))
            if key == "end of interfile":
                break
            if kept is self.values and kept.get(key, value) != value and key in _UNIQUE_KEYS:
                raise ValueError(
                    f"{path}: {key!r} is given twice, {kept[key]!r:.24} and {value!r:.24}; write a header for each "
                    "detector head"
                )
            kept.setdefault(key, value)
        self.is_simind = "simind" in self.values.get("originating system", "").lower()
        if self.is_simind:
            self.values = comments | {key: value for key, value in self.values.items() if value}

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, "").split("<")[0].strip() or default  # <NULL>
        if value is None:
            raise ValueError(f"{self.path} must have a value for {key!r}; add the line '{key} := ...'")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        text = self.text(key, None if default is None else repr(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.path}: {key!r} must be a number, got {text!r:.40}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value < 1 or value != int(value):
            raise ValueError(f"{self.path}: {key!r} must be a positive whole number, got {value:g}")
        return int(value)


def _raw(header: _Header, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Read exactly as many raw numbers as the header states."""
    path, form = header.path, header.text("number format").lower()
    kind, order = _TYPE_CODES.get(form), _BYTE_ORDERS.get(header.text("imagedata byte order", "BIGENDIAN").lower())
    size = header.whole("number of bytes per pixel")
    if kind is None or size not in ((4, 8) if kind == "f" else (1, 2, 4)) or order is None:
        raise ValueError(
            f"{path}: 'number format' must be one of {', '.join(_TYPE_CODES)}, of 1, 2, 4 or 8 bytes, BIGENDIAN or "
            f"LITTLEENDIAN, got {form!r:.24} of {size:.6g} and {header.text('imagedata byte order', 'BIGENDIAN')!r:.24}"
        )
    check_memory(f"{path}: the projections", shape, "check the matrix size and the number of projections")
    offset = header.number("data offset in bytes", header.number("data starting block", 0.0) * _BLOCK_BYTES)
    file, needed = _named_file(header, "name of data file"), math.prod(shape) * size
    held = file.stat().st_size - int(offset)
    if held != needed:
        how = "truncated?" if held < needed else "is a size or the number format wrong?"
        raise ValueError(
            f"{file} must hold {needed:.12g} bytes for {' x '.join(f'{n:.6g}' for n in shape)} pixels of {size} after "
            f"an offset of {offset:.12g}, as {path.name} says, got {held:.12g}; {how}"
        )
    with reading(file, "raw"):
        values = np.fromfile(file, dtype=f"{order}{kind}{size}", offset=int(offset))
    largest = np.abs(values).max() if kind == "f" else 1.0
    if largest != 0 and not 1 / _MAX_PLAUSIBLE_COUNT < largest < _MAX_PLAUSIBLE_COUNT and np.isfinite(values).all():
        raise ValueError(
            f"{file}: the largest number is {largest:.3g}, no count; correct 'imagedata byte order' in {path.name}"
        )
    return values.reshape(shape)


def _named_file(header: _Header, key: str) -> Path:
    """Return the file that a header names, from the header's folder or below, whatever path it states."""
    folder, stated = header.path.parent, header.text(key)
    name = stated.replace("\\", "/").rsplit("/", 1)[-1]
    file = file_within(folder, stated) or file_within(folder, name)
    if file is None:
        raise ValueError(
            f"{header.path}: {key!r} is {stated!r:.60}, and the header's folder has no such file of its own: other "
            "places are not read, nor links to them; copy it there"
        )
    return file


def _window(header: _Header, k: int) -> EnergyWindow:
    """Return energy window k, counted from 1; the keys of a single one may lack its number."""

    def level(side: str) -> float:
        keys = (f"energy window {side} level{number}" for number in (f" [{k}]", ""))
        return next((header.number(key) for key in keys if header.text(key, "")), math.nan)

    return EnergyWindow(header.text(f"energy window [{k}]", ""), level("lower"), level("upper"))


def _radius(header: _Header, n_views: int, unit: str | None) -> npt.NDArray[np.float64] | None:
    """Return the radius of every view in mm, where the header or SIMIND's .cor file has it."""
    path, text = header.path, header.text("radii", header.text("radius", ""))
    if header.text("non-uniform orbit file", ""):
        orbit = _named_file(header, "non-uniform orbit file")
        with reading(orbit, "orbit"):
            values, unit = np.loadtxt(orbit, ndmin=2, max_rows=n_views + 1)[:, 0], "cm"
    elif text:
        try:
            values = np.array([float(part) for part in text.strip("{} ").split(",")])
        except ValueError:
            raise ValueError(
                f"{path}: 'radius' must be a number, or {{one for every view}}, got {text!r:.40}"
            ) from None
    else:
        return None
    if len(values) not in (1, n_views) or not ((values > 0) & np.isfinite(values)).all():
        raise ValueError(
            f"{path}: 'radius' must be positive, one number or one for each of {n_views} views, got {len(values)} from "
            f"{values.min(initial=math.inf):g} on"
        )
    if unit is None:
        unit = "cm" if header.is_simind and values.max() < _MIN_RADIUS_MM else "mm"
    if unit not in ("mm", "cm"):
        raise ValueError(f"read_interfile: radius_unit must be 'mm' or 'cm', got {unit!r:.24}")
    return np.broadcast_to(values * (10.0 if unit == "cm" else 1.0), (n_views,))


def _facts(header: _Header) -> dict[str, Any]:
    facts: dict[str, Any] = {"originating system": header.text("originating system", "")}
    if header.text("time per projection (sec)", ""):
        facts["duration_s"] = header.number("time per projection (sec)")
    if header.is_simind:
        keys = {"hole_diameter": "collimator hole diameter", "hole_length": "collimator thickness"}
        keys["intrinsic"] = "intrinsic fwhm for the camera"
        if all(header.text(key, "") for key in keys.values()):
            facts["collimator_mm"] = {name: 10 * header.number(key) for name, key in keys.items()}
        if header.text("simind: photon energy", ""):
            facts["photon_kev"] = header.number("simind: photon energy")
    return facts
