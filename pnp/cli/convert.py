"""The command `pnp convert`: from the files of a SPECT camera, or a CT scan, to one HDF5 file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from .options import Overwrite
from .problem import is_hdf5

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..readers import SpectScan

PER_MM = {"1/mm": 1.0, "1/cm": 0.1}
"""Factor from a unit of attenuation to 1/mm."""
MAX_MU = 0.1
"""Attenuation in 1/mm above that of any tissue, and of titanium, at the energies of SPECT."""
MIN_MU = 0.005
"""Attenuation in 1/mm below that of water at any of these energies."""
AIR_HU = -500.0
"""Hounsfield units below this are air."""
VOXEL_SIZE_RTOL = 0.01
"""Relative tolerance when two voxel sizes are compared."""
SMOOTHING_MM = 20.0
"""FWHM of the Gaussian that smooths scatter windows: scatter is far smoother than their noise."""


def convert(
    views: Annotated[
        Path,
        typer.Argument(
            help="SPECT: Interfile header (.h00, .hs, .h33, ...) or DICOM NM file. CT: a raw scan (.h5, ...)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file for pnp osem and pnp reconstruct.")],
    attenuation: Annotated[
        Path | None, typer.Option(help="NIfTI file on the voxels of the volume: an attenuation map, or a CT in HU.")
    ] = None,
    attenuation_unit: Annotated[str, typer.Option(help="Unit of --attenuation: 1/mm, 1/cm or HU.")] = "1/mm",
    energy: Annotated[
        float | None, typer.Option(help="Photon energy in keV, needed with HU (140.5, 208, ...) and with --paganin.")
    ] = None,
    collimator: Annotated[
        str | None,
        typer.Option(
            help="Hole diameter and length (mm), attenuation of the septa (1/mm), intrinsic FWHM (mm), "
            "e.g. 2.94,40.6,1.04,3.8."
        ),
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="Distance from the axis to the collimator in mm, instead of the file's orbit.")
    ] = None,
    photopeak: Annotated[
        int | None, typer.Option(help="Number of the photopeak's energy window, counted from 1.")
    ] = None,
    scatter: Annotated[
        str | None,
        typer.Option(help="Numbers of the scatter windows below and above the photopeak, e.g. 1,3; or only below."),
    ] = None,
    rotation: Annotated[
        int | None, typer.Option(help="Number of the rotation in a DICOM file, counted from 1.")
    ] = None,
    zero: Annotated[
        str, typer.Option(help="Position of the camera at angle 0 in an Interfile: front, or back for STIR.")
    ] = "front",
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
      pnp convert simulation.h00 -o scan.h5 --attenuation ct.nii.gz --attenuation-unit HU --energy 140.5
      pnp convert tooth.h5 -o sinogram.h5 --rings all --beam-hardening fit
      pnp convert beamline.h5 -o sinogram.h5 --paganin 1400 --distance 50 --energy 20
      pnp convert rod.xtekct -o scan.h5 --cone
    """
    from ..io import check_output, write_measurements
    from ..readers import read_dicom_nm, read_interfile

    check_output(output, overwrite=overwrite)
    if not is_hdf5(output):
        raise ValueError(f"output {output} must be an .h5 file, which pnp osem and pnp reconstruct read")
    for_ct = CtOptions(rows, centre, pixel_size, paganin, distance, energy, rings, beam_hardening)
    if is_ct_scan(views):
        if any(v is not None for v in (attenuation, collimator, radius, photopeak, scatter, rotation)):
            raise ValueError(f"{views} is a CT scan; leave out the options of SPECT, or name a SPECT file")
        if cone:
            convert_cone(views, output, for_ct, overwrite=overwrite)
        else:
            convert_ct(views, output, for_ct, overwrite=overwrite)
        return
    if cone:
        raise ValueError(f"--cone: an option of CT, but {views} is no CT scan; leave it out")
    if for_ct.given():
        raise ValueError(f"{', '.join(for_ct.given())}: options of CT, but {views} is no CT scan; leave them out")
    if attenuation is None and (attenuation_unit != "1/mm" or energy is not None):
        raise ValueError("--attenuation-unit and --energy describe a map; give --attenuation as well or neither")
    if energy is not None and attenuation_unit != "HU":
        raise ValueError(f"--energy is for --attenuation-unit HU, got {attenuation_unit}; leave it out")
    with open(_existing_file(views), "rb") as file:
        is_interfile = b"interfile" in file.read(256).lower()
    if zero not in ("front", "back"):
        raise ValueError(f"--zero must be front or back, got {zero!r}")
    if zero != "front" and not is_interfile:
        raise ValueError(f"--zero {zero} is for Interfile, {views} is DICOM, which states it; leave it out")
    if rotation is not None and is_interfile:
        raise ValueError(f"--rotation is for DICOM, {views} is Interfile; leave it out")
    scan = read_interfile(views, zero=zero) if is_interfile else read_dicom_nm(views, rotation=rotation)  # type: ignore[arg-type]
    if photopeak is None and len(scan.windows) > 1:
        listed = ", ".join(f"{k + 1}: {w.low_kev:g}-{w.high_kev:g} keV" for k, w in enumerate(scan.windows))
        raise ValueError(f"{views} has {len(scan.windows)} energy windows; choose one by --photopeak: {listed}")
    peak = (photopeak or 1) - 1
    only = scan.window(_window_index("--photopeak", peak, scan))
    parameters = only.geometry()
    if attenuation is not None:
        parameters["attenuation"] = _attenuation(attenuation, attenuation_unit, energy, parameters)
    write_measurements(
        output,
        only.y,
        operator="spect",
        parameters=parameters,
        units="counts",
        background=None if scatter is None else _scatter(scan, peak, scatter),
        collimator=_collimator(collimator, radius, only),
        overwrite=overwrite,
    )
    n_views, nx, nz = only.y.shape[-3:]
    names = [name for name, given in (("attenuation", attenuation), ("scatter", scatter)) if given is not None]
    names += ["the response of the collimator"] if collimator or "collimator_mm" in only.facts else []
    bins = " x ".join(f"{size:g}" for size in only.pixel_size_mm)
    print(
        f"{output}: {n_views} views of {nx} x {nz} bins of {bins} mm, "
        f"{float(only.y.sum(dtype='float64')):.4g} counts, with {' and '.join(names) or 'nothing else'}"
    )


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the Interfile header or the DICOM file")
    return path


def _window_index(option: str, k: int, scan: SpectScan) -> int:
    if not 0 <= k < len(scan.windows):
        raise ValueError(f"{option} must be from 1 to {len(scan.windows)}, the file's energy windows, got {k + 1}")
    return k


def _attenuation(path: Path, unit: str, energy: float | None, parameters: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Read a map on the voxels of the volume, in 1/mm."""
    import numpy as np

    from ..io import read_nifti
    from ..spect import attenuation_from_hu

    values, found = read_nifti(path)
    size = parameters["voxel_size"]
    transaxial, axial = size if isinstance(size, tuple) else (size, size)
    wanted = transaxial, transaxial, axial
    if values.shape != parameters["shape"] or not np.allclose(found, wanted, rtol=VOXEL_SIZE_RTOL, atol=0):
        got, want = (
            f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in sizes)} mm"
            for shape, sizes in ((values.shape, found), (parameters["shape"], wanted))
        )
        raise ValueError(f"--attenuation {path} must have {want}, got {got}; resample it to the volume")
    if unit == "HU":
        if energy is None:
            raise ValueError("--attenuation-unit HU needs --energy, the photon energy in keV, e.g. 140.5 or 208")
        if values.min() > AIR_HU:
            raise ValueError(
                f"--attenuation {path} reaches from {values.min():.4g} to {values.max():.4g}; in Hounsfield "
                "units air is -1000. Is it an attenuation map? Use --attenuation-unit 1/mm or 1/cm"
            )
        return attenuation_from_hu(values, energy).astype("float32")
    if unit not in PER_MM:
        raise ValueError(f"--attenuation-unit must be 1/mm, 1/cm or HU, got {unit!r}")
    mu = values * PER_MM[unit]
    if mu.min() < 0 or mu.max() > MAX_MU or mu.max() < MIN_MU:
        raise ValueError(
            f"--attenuation {path} reaches from {mu.min():.4g} to {mu.max():.4g} per mm, tissue from 0 to 0.05; is it "
            "in another unit? Use --attenuation-unit 1/cm or HU"
        )
    return mu


def _scatter(scan: SpectScan, peak: int, text: str) -> npt.NDArray[np.float32]:
    """Return the smoothed estimate of the scatter in the photopeak's window."""
    from scipy.ndimage import gaussian_filter

    try:
        numbers = [int(part) - 1 for part in text.split(",")]
        if len(numbers) not in (1, 2):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--scatter must be the numbers of one or two energy windows, e.g. 1,3, got {text!r}"
        ) from None
    estimate = scan.scatter(peak, *(_window_index("--scatter", k, scan) for k in numbers))
    transaxial, axial = (SMOOTHING_MM / math.sqrt(8 * math.log(2)) / size for size in scan.pixel_size_mm)
    smooth: npt.NDArray[np.float32] = gaussian_filter(estimate, (0, 0, 0, transaxial, axial), mode="nearest")
    return smooth


def _collimator(text: str | None, radius: float | None, scan: SpectScan) -> dict[str, Any] | None:
    """Return the arguments of collimator_fwhm, from the options or else from the file; None without a collimator."""
    import numpy as np

    names = ("hole_diameter", "hole_length", "septal_attenuation", "intrinsic")
    if text is None:
        found = scan.facts.get("collimator_mm")
    else:
        try:
            values = [float(part) for part in text.split(",")]
            if len(values) not in (2, 3, 4) or not np.isfinite(values).all():
                raise ValueError
        except ValueError:
            raise ValueError(
                f"--collimator must be hole diameter and length (mm), attenuation of the septa (1/mm), intrinsic FWHM "
                f"(mm), the last two optional, e.g. 2.94,40.6,1.04,3.8, got {text!r}"
            ) from None
        found = dict(zip(names, values, strict=False))
    if found is None:
        if radius is not None:
            raise ValueError("--radius needs a collimator; give --collimator as well")
        return None
    orbit: Any = scan.radius_mm if radius is None else radius
    if orbit is None:
        raise ValueError(
            f"the collimator's response needs the orbit, which {scan.path} does not have; give --radius in mm"
        )
    return {"radius": orbit, **found}
