"""Where a camera was, in the axes of a patient who does not lie on his back with his head first.

The gantry's axes are those of a patient who does: X to his left, Y to his back, Z to his head. An angle phi, 0 at Y and
rising towards X, is that of the camera at (sin(phi), cos(phi)). A patient in another position has his left, back and
head along other axes of the gantry, and the camera is at the angle phi' in his own:

    phi' = s phi + c,    s = 1 head first, -1 feet first,    c = 0 supine, 180 prone, -+90 on his right or left side.

Feet first, both the rows and the columns of a view in the gantry's axes run the other way.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
AnglesFrom = Literal["patient", "gantry"]
_LYING = {"supine": 0.0, "prone": 180.0, "right": -90.0, "left": 90.0}
_DICOM = {"S": "supine", "P": "prone", "DR": "right", "DL": "left"}
_CODES = {
    "F-10310": "prone", "1240000": "prone", "F-10340": "supine", "40199007": "supine",
    "F-10317": "right", "102535000": "right", "F-10319": "left", "102536004": "left",
    "F-10470": "head", "102540008": "head", "F-10480": "feet", "102541007": "feet",
}  # fmt: skip
"""Codes of PS3.16, CID 20 and 21, in SRT (or SNM3) and SNOMED CT."""


class Position(NamedTuple):
    """How a patient lies: "head" or "feet" first; "supine", "prone", or on his "right" or "left" side."""

    first: str = "head"
    lying: str = "supine"

    def __str__(self) -> str:
        return f"{self.first} first, {self.lying if self.lying in ('supine', 'prone') else f'on the {self.lying} side'}"


def from_gantry(degrees: _Array, y: _Array, position: Position) -> tuple[_Array, _Array]:
    """Return the angles, 0 at the back, and views (..., n_views, nx, nz) in the patient's axes from the gantry's."""
    sense = 1.0 if position.first == "head" else -1.0
    turned = sense * degrees + _LYING[position.lying]
    return turned, y if sense > 0 else y[..., ::-1, ::-1]


def dicom_position(data: Any) -> Position | str | None:
    """Return the position that a DICOM file states; a text that is none of ours as it is; None where it has none."""
    code = str(data.get("PatientPosition") or "").strip().upper()
    if code:
        lying = _DICOM.get(code[2:])
        first = {"HF": "head", "FF": "feet"}.get(code[:2])
        return Position(first, lying) if first and lying else code
    meanings = [
        (str(item.get("CodeValue") or ""), str(item.get("CodeMeaning") or "").lower())
        for item in _coded(data)
    ]  # fmt: skip
    words = [_CODES.get(value) or _word(meaning) for value, meaning in meanings]
    unknown = [meaning for word, (_, meaning) in zip(words, meanings, strict=True) if not word]
    if unknown:
        return ", ".join(unknown)
    first = next((word for word in words if word in ("head", "feet")), None)
    lying = next((word for word in words if word in _LYING), None)
    return None if first is None and lying is None else Position(first or "head", lying or "supine")


def _coded(data: Any) -> list[Any]:
    """Return the items that state a position, but for "recumbent", which says nothing of the side."""
    items = list(data.get("PatientGantryRelationshipCodeSequence") or [])
    for item in data.get("PatientOrientationCodeSequence") or []:
        items += list(item.get("PatientOrientationModifierCodeSequence") or [])
        if str(item.get("CodeMeaning") or "recumbent").lower() != "recumbent":
            items.append(item)
    return items


def _word(meaning: str) -> str:
    found = [word for word in ("feet", "head", "prone", "supine", "right", "left") if word in meaning]
    return found[0] if len(found) == 1 else ""


def interfile_position(first: str, lying: str) -> Position | None:
    """Return the position of `patient orientation` and `patient rotation`, also STIR's left, right; None: others."""
    end, side = {"head_in": "head", "feet_in": "feet"}.get(first.lower()), lying.lower()
    return Position(end, side) if end and side in _LYING else None


def sentence(position: Position, taken: AnglesFrom, standard: AnglesFrom) -> str:
    """Return what is said of a patient who lies in another position, and how to read the views the other way."""
    how = {
        "patient": "angles and rows are taken to be the patient's own (0 at his back, rows from the head on)",
        "gantry": "angles and rows are taken to be the gantry's, and are turned to the patient's axes",
    }
    other: AnglesFrom = "gantry" if taken == "patient" else "patient"
    why = ", as the standard has them" if taken == standard else ""
    return f"the patient lies {position}; {how[taken]}{why}; for the other reading use angles_from='{other}'"


def frame_centre(
    position: _Array, axes: _Array, radius: float, columns: int, rows: int, spacing: tuple[float, float]
) -> tuple[float, float, float]:
    """Return where the middle of the volume lies, on the axis of rotation, in the study's own frame in mm.

    Args:
        position: ImagePositionPatient, the centre of the first pixel, on the detector's face.
        axes: ImageOrientationPatient, the directions of a row and of a column; their cross product points to the axis.
        radius: distance from the detector's face to the axis.
        columns: number of pixels in a row.
        rows: number of pixels in a column.
        spacing: distance between columns, and between rows.
    """
    along, down = axes[:3] / np.linalg.norm(axes[:3]), axes[3:] / np.linalg.norm(axes[3:])
    middle = position + along * spacing[0] * (columns - 1) / 2 + down * spacing[1] * (rows - 1) / 2
    x, y, z = middle + radius * np.cross(along, down)
    return float(x), float(y), float(z)
