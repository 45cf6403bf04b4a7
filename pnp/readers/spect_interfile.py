"""SPECT projections in Interfile 3.3, as simulations (SIMIND, GATE), cameras and STIR write them.

A header of lines `key := value` names a file of raw numbers: A. Todd-Pokropek, T. D. Cradduck and F. Deconinck, A file
format for the exchange of nuclear medicine image data: a specification of Interfile version 3.3, Nucl. Med. Commun. 13
(1992) 673. View by view, rows run from the head to the feet, and columns to the right, seen from the camera. Where a
header has the keys of several detector heads, the file holds the views of one head after another, window by window.

Angles. Interfile counts them from above the patient, who lies on his back, head first: our 0. It does not say from
where a rotation is clockwise; as in DICOM (PS3.3, C.8.4.12) that is taken to be from the patient's feet, so that

    theta_v = -(start angle +- v extent/n_views),    + counter-clockwise (CCW), - clockwise (CW)

STIR has DICOM's zero at the patient's back instead, half a turn away. A wrong sense mirrors the image, a wrong zero
turns it: look where the liver is. These are the gantry's angles: for a patient who lies feet first or prone they are
turned to his axes. Tools disagree on SIMIND's start angle in a counter-clockwise scan: as above it is counted
counter-clockwise, and by others against the rotation, theta_v = start angle - v extent/n_views.

SIMIND writes further facts behind semicolons: lengths of the collimator in cm, from version 8 on in mm, .cor files of
radii in cm, and the radius in either. The intrinsic resolution is that at 140 keV.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..io import Acquisition
from ..io.guards import check_file, check_memory, reading
from ..spect.collimator import collimator_doubt, intrinsic_fwhm, lead_attenuation
from .spect_header import Header
from .spect_orbit import fitted, given_radii, in_mm, parse_radii, read_orbit_file
from .spect_position import AnglesFrom, Position, from_gantry, interfile_position, sentence
from .spect_scan import EnergyWindow, SpectScan

_Array = npt.NDArray[Any]
_ZERO_DEGREES = {"front": 0.0, "back": 180.0}
"""Degrees from above the patient to where a header's angles are 0."""
_START_SENSES = ("counter-clockwise", "against rotation")
_TYPE_CODES = {
    "signed integer": "i", "unsigned integer": "u", "float": "f", "short float": "f", "long float": "f",
}  # fmt: skip
_BYTE_ORDERS = {"bigendian": ">", "littleendian": "<"}
_MAX_PLAUSIBLE_COUNT = 1e25
"""Bound of the largest count; floats of the wrong byte order are beyond it, or near 1e-40."""
_BLOCK_BYTES = 2048
"""Bytes of a block of `data starting block`."""
_FIRST_SIMIND_IN_MM = 8.0
"""Version of SIMIND from which on the collimator's lengths are in mm."""
_ANGLE_TOLERANCE = 0.5
"""Degrees by which an orbit file's angles may differ from the header's."""


def read_interfile(
    path: str | os.PathLike[str],
    *,
    zero: Literal["front", "back"] = "front",
    radius_unit: str | None = None,
    radius_mm: npt.ArrayLike | None = None,
    angles_from: AnglesFrom | None = None,
    start_sense: Literal["counter-clockwise", "against rotation"] | None = None,
) -> SpectScan:
    """Read the views of an Interfile header (.h00, .hs, .h33, ...) and its file of raw numbers.

    Args:
        path: the header.
        zero: where the camera is at angle 0: "front", above the patient, or "back" for headers of STIR.
        radius_unit: "mm" or "cm"; None: mm, but cm for a radius below 60 in a header of SIMIND or an orbit file.
        radius_mm: distance from the axis to the collimator, a number or one for each view, instead of the file's.
        angles_from: whose angles and rows a file has where the patient does not lie on his back, head first: the
            "gantry"'s, which None stands for, or the "patient"'s.
        start_sense: how SIMIND's start angle counts: "counter-clockwise", which None stands for, or "against rotation".

    Returns:
        See `SpectScan`. Facts hold "originating system", "duration_s" (of a view), "detectors" (of several), and, of
        SIMIND, "collimator_mm", the arguments of `operators.collimator_fwhm` at the photon's energy: lead's attenuation
        there, and the intrinsic resolution of 140 keV times sqrt(140/E); and "photon_kev".

    Warns:
        UserWarning: what a file says in a way that can be read otherwise, and how it was read; an orbit that is not
            known; a collimator that no camera has.

    Raises:
        ValueError: a file is missing or of another size than its header says, a key is missing or contradicts another,
            or the views are not those of a rotating camera.
    """
    if zero not in _ZERO_DEGREES:
        raise ValueError(f"read_interfile: zero must be 'front' or 'back', got {zero!r:.40}")
    if angles_from not in (None, "gantry", "patient"):
        raise ValueError(f"read_interfile: angles_from must be 'gantry' or 'patient', got {angles_from!r:.40}")
    if start_sense not in (None, *_START_SENSES):
        raise ValueError(f"read_interfile: start_sense must be one of {_START_SENSES}, got {start_sense!r:.40}")
    header, doubts = Header(check_file(path)), list[str]()
    for key, wanted in (("type of data", "tomographic"), ("process status", "acquired")):
        if (value := header.text(key, wanted)).lower() != wanted:
            raise ValueError(
                f"{path}: {key!r} must be {wanted!r}, got {value!r:.40}; name the header of the projections"
            )
    nx, nz = (header.whole(key) for key in ("matrix size [1]", "matrix size [2]"))
    n_windows = header.whole("number of energy windows", 1)
    views = [head.whole("number of projections") for head in header.heads]
    _check_heads(header, views)
    raw = _raw(header, (n_windows, sum(views), nz, nx))  # as large as the header says: steps, too, are few enough
    degrees = np.concatenate(
        [_angles(head, n, zero, start_sense or _START_SENSES[0]) for head, n in zip(header.heads, views, strict=True)]
    )
    _say_start_sense(header, start_sense, doubts)
    _check_apart(header, degrees, views)
    if radius_mm is None:
        radius = _radius(header, views, radius_unit, doubts, degrees)
    else:
        radius = given_radii("read_interfile", radius_mm, sum(views))
    y = np.moveaxis(raw[..., ::-1, :], -2, -1)[:, None]  # rows upwards, and behind the columns
    theta, y = _in_patient(header, -degrees, y, angles_from, doubts)
    facts = _facts(header, doubts)
    isotope = header.text("isotope name", header.text("radionuclide", ""))
    for doubt in doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return SpectScan(
        y,
        np.deg2rad(theta % 360),
        (header.number("scaling factor (mm/pixel) [1]"), header.number("scaling factor (mm/pixel) [2]")),
        radius,
        tuple(_window(header, k + 1) for k in range(n_windows)),
        isotope,
        facts,
        str(path),
        acquisition=_acquisition(facts.get("duration_s"), views, isotope),
    )


def _acquisition(seconds: float | None, views: list[int], isotope: str) -> Acquisition | None:
    """Return when the views were counted; heads count at the same time."""
    if seconds is None or seconds <= 0:
        return Acquisition(isotope=isotope) if isotope else None
    return Acquisition(seconds, np.concatenate([np.arange(n) for n in views]) * seconds, isotope)


def _check_heads(header: Header, views: list[int]) -> None:
    """Refuse heads without keys of their own, and of different matrices."""
    stated, path = header.whole("number of detector heads", 1), header.path
    if len(views) not in (1, stated):
        raise ValueError(
            f"{path} must have the keys of {stated} detector heads, as it says, got {len(views)}; correct the number"
        )
    sizes = {(head.whole("matrix size [1]"), head.whole("matrix size [2]")) for head in header.heads}
    if len(sizes) > 1:
        raise ValueError(f"{path}: all heads must have one matrix size, got {sorted(sizes)}; export them separately")


def _check_apart(header: Header, degrees: _Array, views: list[int]) -> None:
    """Refuse two heads at one place at one time."""
    starts = degrees[np.cumsum([0, *views[:-1]])] % 360
    if len(np.unique(starts.round(3))) < len(starts):
        raise ValueError(
            f"{header.path}: {len(starts)} detector heads must start at different angles, got "
            f"{', '.join(f'{start:g}' for start in starts)}; correct 'start angle' of each head"
        )


def _angles(head: Header, n_views: int, zero: str, start_sense: str) -> _Array:
    """Return the angle of every view of a head in degrees, 0 above the patient, counter-clockwise from the feet."""
    extent = head.number("extent of rotation")
    if not 0 < extent <= 720:
        raise ValueError(f"{head.path}: 'extent of rotation' must be degrees above 0, got {extent:g}")
    direction = head.text("direction of rotation").upper()
    if direction not in ("CW", "CCW"):
        raise ValueError(f"{head.path}: 'direction of rotation' must be CW or CCW, got {direction!r:.40}")
    sense = 1.0 if direction == "CCW" else -1.0
    start = head.number("start angle", 0.0)
    if start_sense == "against rotation":
        start *= -sense
    steps: _Array = np.arange(n_views) * (extent / n_views) * sense
    return start + _ZERO_DEGREES[zero] + steps


def _say_start_sense(header: Header, given: str | None, doubts: list[str]) -> None:
    """Note a start angle on which tools disagree."""
    start, is_ccw = header.number("start angle", 0.0), header.text("direction of rotation", "").upper() == "CCW"
    if given is None and header.is_simind and is_ccw and start % 180:
        doubts.append(
            f"SIMIND's start angle of {start:g} degrees in a counter-clockwise scan is counted counter-clockwise; "
            "other tools count it against the rotation, start_sense='against rotation': check where the liver comes out"
        )


def _in_patient(
    header: Header, theta: _Array, y: _Array, angles_from: AnglesFrom | None, doubts: list[str]
) -> tuple[_Array, _Array]:
    """Return our angles in degrees and the views, in the axes of the patient."""
    stated = header.text("patient orientation", "head_in"), header.text("patient rotation", "supine")
    position = interfile_position(*stated)
    if position is None:
        doubts.append(
            f"the patient is {' and '.join(stated):.60}, views are read as if head_in and supine; check where the "
            "liver comes out, and turn or mirror the angles"
        )
        return theta, y
    if position == Position():
        return theta, y
    if angles_from is None:
        doubts.append(sentence(position, "gantry", "gantry"))
    if angles_from == "patient":
        return theta, y
    phi, y = from_gantry(180.0 - theta, y, position)
    return 180.0 - phi, y


def _raw(header: Header, shape: tuple[int, ...]) -> _Array:
    """Read exactly as many raw numbers as the header states, in one file or in one for each head."""
    path, form = header.path, header.text("number format").lower()
    kind, order = _TYPE_CODES.get(form), _BYTE_ORDERS.get(header.text("imagedata byte order", "BIGENDIAN").lower())
    size = header.whole("number of bytes per pixel")
    if kind is None or size not in ((4, 8) if kind == "f" else (1, 2, 4)) or order is None:
        raise ValueError(
            f"{path}: 'number format' must be one of {', '.join(_TYPE_CODES)}, of 1, 2, 4 or 8 bytes, BIGENDIAN or "
            f"LITTLEENDIAN, got {form!r:.24} of {size:.6g} and {header.text('imagedata byte order', 'BIGENDIAN')!r:.24}"
        )
    check_memory(f"{path}: the projections", shape, "check the matrix size and the number of projections")
    dtype = f"{order}{kind}{size}"
    places = [(head.text("name of data file"), _offset(head)) for head in header.heads]
    if len(set(places)) == 1:
        return _numbers(header, dtype, shape)
    parts = [
        _numbers(head, dtype, (shape[0], head.whole("number of projections"), *shape[2:]), len(set(places)) > 1)
        for head in header.heads
    ]
    return np.concatenate(parts, axis=1)


def _offset(header: Header) -> int:
    return int(header.number("data offset in bytes", header.number("data starting block", 0.0) * _BLOCK_BYTES))


def _numbers(header: Header, dtype: str, shape: tuple[int, ...], is_part: bool = False) -> _Array:
    """Read the numbers of one file; of a part more may follow."""
    path, offset, size = header.path, _offset(header), np.dtype(dtype).itemsize
    file, needed = header.file("name of data file"), math.prod(shape) * size
    if file is None:
        raise ValueError(
            f"{path}: 'name of data file' is {header.text('name of data file')!r:.60}, and the header's folder has no "
            "such file of its own: other places are not read, nor links to them; copy it there"
        )
    held = file.stat().st_size - offset
    if held < needed or (held > needed and not is_part):
        heads = header.whole("number of detector heads", 1)
        how = "truncated?" if held < needed else "is a size or the number format wrong?"
        if heads > 1 and len(header.heads) == 1 and held == heads * needed:
            how = f"the keys of {heads} heads are needed: repeat 'number of projections', 'start angle', ... for each"
        raise ValueError(
            f"{file} must hold {needed:.12g} bytes for {' x '.join(f'{n:.6g}' for n in shape)} pixels of {size} after "
            f"an offset of {offset:.12g}, as {path.name} says, got {held:.12g}; {how}"
        )
    with reading(file, "raw"):
        values = np.fromfile(file, dtype=dtype, count=math.prod(shape), offset=offset)
    largest = np.abs(values).max() if values.dtype.kind == "f" else 1.0
    if largest != 0 and not 1 / _MAX_PLAUSIBLE_COUNT < largest < _MAX_PLAUSIBLE_COUNT and np.isfinite(values).all():
        raise ValueError(
            f"{file}: the largest number is {largest:.3g}, no count; correct 'imagedata byte order' in {path.name}"
        )
    return values.reshape(shape)


def _window(header: Header, k: int) -> EnergyWindow:
    """Return energy window k, counted from 1; the keys of a single one may lack its number."""

    def level(side: str) -> float:
        keys = (f"energy window {side} level{number}" for number in (f" [{k}]", ""))
        return next((header.number(key) for key in keys if header.text(key, "")), math.nan)

    return EnergyWindow(header.text(f"energy window [{k}]", ""), level("lower"), level("upper"))


def _radius(
    header: Header, views: list[int], unit: str | None, doubts: list[str], degrees: _Array
) -> npt.NDArray[np.float64] | None:
    """Return the radius of every view in mm: the heads' own, else one list for all, else SIMIND's orbit file."""
    if unit not in (None, "mm", "cm"):
        raise ValueError(f"read_interfile: radius_unit must be 'mm' or 'cm', got {unit!r:.24}")
    listed = [_listed(head) for head in header.heads]
    is_list = any(radii is not None and radii.size > 1 for radii in listed)
    named = header.text("non-uniform orbit file", "")
    orbit = header.file("non-uniform orbit file") if named else None
    if orbit is not None and not is_list:
        return _of_file(header, orbit, sum(views), unit, doubts, degrees)
    if orbit is not None:
        doubts.append(f"the header lists radii and names {orbit.name}, too; those of the header are taken")
    if named and not is_list and (listed[0] is None or "non" in header.text("orbit", "").lower()):
        doubts.append(
            f"the orbit file {named!r:.60} is not in the header's folder, so that the orbit is not known; give the "
            "radius"
        )
        return None
    if any(radii is None for radii in listed):
        return None
    first = listed[0]
    if len(views) > 1 and first is not None and first.size == sum(views):
        listed, views = [first], [sum(views)]
    parts = [fitted("'radius'", radii, n, doubts) for radii, n in zip(listed, views, strict=True) if radii is not None]
    if any(part is None for part in parts):
        return None
    radii = np.concatenate([part for part in parts if part is not None])
    return in_mm(radii, unit, small_is_cm=header.is_simind)


def _listed(head: Header) -> npt.NDArray[np.float64] | None:
    """Return the numbers of `Radii`, `Radius`, or `Radius Per View [k]`, k the view or the head; None without any."""
    per_view = [key for key in head.values if key.startswith("radius per view")]
    text = head.text("radii", head.text("radius", ""))
    if per_view:
        order = sorted(per_view, key=lambda key: int("".join(c for c in key if c.isdigit()) or 0))
        text = " ".join(head.values[key].strip("{} ") for key in order)
    if not text:
        return None
    radii = parse_radii(text)
    if radii is None or not radii.size:
        raise ValueError(
            f"{head.path}: 'radius' must be a number, or {{one for every view}}, got {text!r:.40}; correct it, or give "
            "radius_mm"
        )
    return radii


def _of_file(
    header: Header, file: Path, n_views: int, unit: str | None, doubts: list[str], degrees: _Array
) -> npt.NDArray[np.float64] | None:
    """Return the radii of an orbit file, in cm but where that would be no camera."""
    radii, angles = read_orbit_file(file)
    if angles is not None and angles.shape == degrees.shape:
        apart = (np.abs(angles - angles[0]) - np.abs(degrees - degrees[0]) + 180) % 360 - 180
        if np.abs(apart).max() > _ANGLE_TOLERANCE:
            doubts.append(
                f"{file.name} has the angles {angles[0]:g} to {angles[-1]:g}, the header {degrees[0]:g} to "
                f"{degrees[-1]:g} degrees; the header's are taken: correct its extent if they are wrong"
            )
    found = fitted(file.name, radii, n_views, doubts)
    return None if found is None else in_mm(found, unit, small_is_cm=True)


def _facts(header: Header, doubts: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"originating system": header.text("originating system", "")}
    if header.text("time per projection (sec)", ""):
        facts["duration_s"] = header.number("time per projection (sec)")
    if len(header.heads) > 1:
        facts["detectors"] = len(header.heads)
    if header.is_simind:
        if (photon := parse_radii(header.text("simind: photon energy", ""))) is not None and photon.size == 1:
            facts["photon_kev"] = float(photon[0])
        collimator = _collimator(header, facts.get("photon_kev"), doubts)
        if collimator:
            facts["collimator_mm"] = collimator
    return facts


def _collimator(header: Header, photon_kev: float | None, doubts: list[str]) -> dict[str, float]:
    """Return the collimator that SIMIND states, in mm and 1/mm, at the photon's energy; {} without one."""
    keys = {"hole_diameter": "collimator hole diameter", "hole_length": "collimator thickness"}
    keys["intrinsic"] = "intrinsic fwhm for the camera"
    if not all(header.text(key, "") for key in keys.values()):
        return {}
    version = header.simind_version()
    factor = 1.0 if version is not None and version >= _FIRST_SIMIND_IN_MM else 10.0
    found = {name: factor * header.number(key) for name, key in keys.items()}
    if version is None:
        doubts.append(
            "'program version' is missing, the collimator's lengths are taken for cm, as before version 8 of SIMIND: "
            f"hole {found['hole_diameter']:g} mm, length {found['hole_length']:g} mm"
        )
    if doubt := collimator_doubt(found):
        doubts.append(doubt)
    if photon_kev is None or not 30 <= photon_kev <= 800:
        doubts.append(
            "the photon's energy is not known: septa are taken to be opaque, and the intrinsic resolution as at 140 keV"
        )
        return found
    found["intrinsic"] = intrinsic_fwhm(found["intrinsic"], photon_kev)
    return found | {"septal_attenuation": lead_attenuation(photon_kev)}
