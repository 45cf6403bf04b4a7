"""Options of commands that read the files of a SPECT camera or simulation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from .options import as_typed

More = Annotated[
    list[Path] | None,
    typer.Argument(help="SPECT: files of further energy windows of the same scan.", show_default=False),
]
Attenuation = Annotated[
    Path | None,
    typer.Option(
        "--attenuation",
        "--mu",
        help="SPECT: attenuation map or CT: NIfTI, Interfile image (.hv, .hct), or a folder of a DICOM CT.",
    ),
]
AttenuationUnit = Annotated[
    str | None, typer.Option(help="SPECT: unit of --attenuation: 1/mm (default), 1/cm or HU (default of a DICOM CT).")
]
AttenuationShift = Annotated[
    str | None, typer.Option(help="SPECT: move --attenuation to the left, back and head by mm, e.g. 0,0,-4.8.")
]
VolumeCentre = Annotated[
    str | None, typer.Option(help="SPECT: middle of the volume in the frame of the CT, in mm (x left, y back, z head).")
]
CtEnergy = Annotated[
    float | None, typer.Option("--ct-kev", help="SPECT: effective energy of the CT in keV; a tube at 120 kV has 70.")
]
Collimator = Annotated[
    str | None,
    typer.Option(
        help="SPECT: hole diameter and length (mm), attenuation of the septa (1/mm), intrinsic FWHM (mm), "
        "e.g. 2.94,40.6,1.04,3.8."
    ),
]
Radius = Annotated[
    str | None,
    typer.Option(
        help="SPECT: distance from the axis to the collimator, instead of the file's: a number, one for each view "
        "(230,231,...), or a file with one a line."
    ),
]
RadiusUnit = Annotated[
    str | None, typer.Option(help="SPECT: unit of --radius, or of the radius in an Interfile: mm or cm.")
]
Photopeak = Annotated[int | None, typer.Option(help="SPECT: number of the photopeak's energy window, counted from 1.")]
Scatter = Annotated[
    str | None,
    typer.Option(
        help="SPECT: scatter windows below and above the photopeak, or only below: numbers, e.g. 1,3, or files, e.g. "
        "lower.h00,upper.h00."
    ),
]
Rotation = Annotated[int | None, typer.Option(help="SPECT: number of the rotation in a DICOM file, counted from 1.")]
Zero = Annotated[
    str, typer.Option(help="SPECT: position of the camera at angle 0 in an Interfile: front, or back for STIR.")
]
AnglesFrom = Annotated[
    str | None,
    typer.Option(help="SPECT: whose angles a file has of a patient who lies feet first or prone: patient or gantry."),
]
StartSense = Annotated[
    str | None,
    typer.Option(help="SPECT: how SIMIND's start angle counts: 'counter-clockwise' or 'against rotation'."),
]


@dataclass(frozen=True)
class SpectOptions:
    """Options for files of SPECT; a command takes the dataclass, and has an option for each field."""

    more: More = None
    attenuation: Attenuation = None
    attenuation_unit: AttenuationUnit = None
    attenuation_shift: AttenuationShift = None
    volume_centre: VolumeCentre = None
    ct_kev: CtEnergy = None
    collimator: Collimator = None
    radius: Radius = None
    radius_unit: RadiusUnit = None
    photopeak: Photopeak = None
    scatter: Scatter = None
    rotation: Rotation = None
    zero: Zero = "front"
    angles_from: AnglesFrom = None
    start_sense: StartSense = None

    def given(self) -> list[str]:
        """Return the names of the options that are given."""
        return [
            as_typed(field.name)
            for field in fields(self)
            if getattr(self, field.name) not in (None, []) and field.name != "zero"
        ]
