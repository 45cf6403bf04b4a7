"""The command `pnp convert`: from the files of a SPECT camera, or a CT scan, to one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .convert_cone import convert_cone
from .convert_ct import (
    BeamHardening,
    Centre,
    CtOptions,
    Distance,
    Paganin,
    PixelSize,
    Rings,
    Rows,
    convert_ct,
    is_ct_scan,
)
from .convert_spect import convert_spect
from .option_groups import with_option_groups
from .options import Overwrite
from .problem import is_hdf5
from .spect_options import SpectOptions


@with_option_groups
def convert(
    views: Annotated[
        Path,
        typer.Argument(
            help="SPECT: Interfile header (.h00, .hs, .h33, ...) or DICOM NM file. CT: a raw scan (.h5, ...)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file for pnp osem and pnp reconstruct.")],
    *,
    for_spect: SpectOptions,
    energy: Annotated[
        float | None, typer.Option(help="Photon energy in keV, needed with HU (140.5, 208, ...) and with --paganin.")
    ] = None,
    rows: Rows = None,
    centre: Centre = None,
    pixel_size: PixelSize = None,
    paganin: Paganin = None,
    distance: Distance = None,
    rings: Rings = None,
    beam_hardening: BeamHardening = None,
    cone: Annotated[
        bool, typer.Option("--cone", help="CT: keep the rows of a cone beam together, for the operator cone_beam.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a SPECT scan or a raw CT scan to one HDF5 file.

    Of CT, the file holds line integrals with their noise, the angles and the axis of rotation, for pnp reconstruct.
    Options that begin with "CT:" are for it, and --energy; the others are for SPECT.

    With --cone it holds them for the operator cone_beam, whose volume is right in all slices; without, every row
    is one of a fan beam, which is right in the plane of the source alone.

    Of SPECT, it holds the views of the camera, the attenuation map, the scatter and the response of the collimator.
    Scatter is estimated from the two windows beside the photopeak (triple energy window) and smoothed by a Gaussian
    of 20 mm.

    \b
    Examples:
      pnp convert lu177.dcm -o scan.h5 --photopeak 2 --scatter 1,3 --attenuation mu.nii.gz --collimator 2.9,41,1.04,3.8
      pnp convert tot_w2.h00 -o scan.h5 --scatter tot_w1.h00,tot_w3.h00 --radius orbit.cor --radius-unit cm
      pnp convert lu177.dcm -o scan.h5 --photopeak 2 --attenuation ct/ --energy 208
      pnp convert simulation.h00 -o scan.h5 --attenuation ct.nii.gz --attenuation-unit HU --energy 140.5
      pnp convert tooth.h5 -o sinogram.h5 --rings all --beam-hardening fit
      pnp convert beamline.h5 -o sinogram.h5 --paganin 1400 --distance 50 --energy 20
      pnp convert rod.xtekct -o scan.h5 --cone
    """
    from ..io import check_output

    check_output(output, overwrite=overwrite)
    if not is_hdf5(output):
        raise ValueError(f"output {output} must be an .h5 file, which pnp osem and pnp reconstruct read")
    for_ct = CtOptions(rows, centre, pixel_size, paganin, distance, energy, rings, beam_hardening)
    if is_ct_scan(views):
        if for_spect.given():
            given = ", ".join("further files" if name == "--more" else name for name in for_spect.given())
            raise ValueError(f"{given}: for SPECT, but {views} is a CT scan; leave them out, or name a SPECT file")
        if cone:
            convert_cone(views, output, for_ct, overwrite=overwrite)
        else:
            convert_ct(views, output, for_ct, overwrite=overwrite)
        return
    if cone:
        raise ValueError(
            f"--cone: {views} is no CT scan with its views; for a geometry file alone see pnp.readers, "
            "read_rtk_geometry, cone_from_tigre and cone_from_astra, which make the operator"
        )
    if for_ct.given():
        raise ValueError(f"{', '.join(for_ct.given())}: options of CT, but {views} is no CT scan; leave them out")
    convert_spect(views, output, energy, for_spect, overwrite=overwrite)
