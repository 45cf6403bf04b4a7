"""`pnp osem` and `pnp convert`: from the files of a SPECT camera to a volume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Overwrite
from .problem import is_hdf5

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..readers import SpectScan

PER_MM = {"1/mm": 1.0, "1/cm": 0.1}
DENSEST = 0.1
"""1/mm: more than any tissue and titanium have at the energies of SPECT."""
THINNEST = 0.005
"""1/mm: less than water has at any of these energies."""
AIR_HU = -500.0
"""Air is below."""
SAME = 0.01
"""Relative difference of two voxel sizes that are one."""
SMOOTHING_MM = 20.0
"""FWHM of the Gaussian that smooths scatter windows: scatter is far smoother than their noise."""


def convert(
    views: Annotated[Path, typer.Argument(help="Interfile header (.h00, .hs, .h33, ...) or DICOM NM file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file for pnp osem and pnp reconstruct.")],
    attenuation: Annotated[
        Path | None, typer.Option(help="NIfTI on the voxels of the volume: a map of mu, or a CT.")
    ] = None,
    attenuation_unit: Annotated[str, typer.Option(help="Of that map: 1/mm, 1/cm or HU.")] = "1/mm",
    energy: Annotated[float | None, typer.Option(help="keV of the photons, for HU: 140.5, 208, ...")] = None,
    collimator: Annotated[
        str | None,
        typer.Option(
            help="hole diameter, hole length, mu of the septa (1/mm), intrinsic FWHM, in mm: 2.94,40.6,1.04,3.8"
        ),
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="mm from the axis to the collimator, instead of the file's orbit.")
    ] = None,
    photopeak: Annotated[int | None, typer.Option(help="Number of the energy window, from 1.")] = None,
    scatter: Annotated[
        str | None, typer.Option(help="Windows below and above the photopeak, from 1: 1,3; or only the one below.")
    ] = None,
    rotation: Annotated[int | None, typer.Option(help="Of DICOM: number of the rotation, from 1.")] = None,
    zero: Annotated[
        str, typer.Option(help="Of Interfile: where the camera is at angle 0, front, or back for STIR.")
    ] = "front",
    overwrite: Overwrite = False,
) -> None:
    """Convert the views of a SPECT camera, with its attenuation map and collimator, to one HDF5 file.

    Scatter is estimated from two windows beside the photopeak (triple energy window) and smoothed by 20 mm.

    \b
    Examples:
      pnp convert lu177.dcm -o scan.h5 --photopeak 2 --scatter 1,3 --attenuation mu.nii.gz --collimator 2.9,41,1.04,3.8
      pnp convert simulation.h00 -o scan.h5 --attenuation ct.nii.gz --attenuation-unit HU --energy 140.5
    """
    from ..io import check_output, write_measurements
    from ..readers import read_dicom_nm, read_interfile

    check_output(output, overwrite=overwrite)
    if not is_hdf5(output):
        raise ValueError(f"output {output} must be an .h5 file, which pnp osem and pnp reconstruct read")
    if attenuation is None and (attenuation_unit != "1/mm" or energy is not None):
        raise ValueError("--attenuation-unit and --energy are of a map; give --attenuation as well, or neither")
    if energy is not None and attenuation_unit != "HU":
        raise ValueError(f"--energy is for --attenuation-unit HU, got {attenuation_unit}; leave it out")
    with open(_existing(views), "rb") as file:
        is_interfile = b"interfile" in file.read(256).lower()
    if zero not in ("front", "back"):
        raise ValueError(f"--zero must be front or back, got {zero!r}")
    if zero != "front" and not is_interfile:
        raise ValueError(f"--zero {zero} is of Interfile, {views} is DICOM, which says it; leave it out")
    if rotation is not None and is_interfile:
        raise ValueError(f"--rotation is of DICOM, {views} is Interfile; leave it out")
    scan = read_interfile(views, zero=zero) if is_interfile else read_dicom_nm(views, rotation=rotation)  # type: ignore[arg-type]
    if photopeak is None and len(scan.windows) > 1:
        listed = ", ".join(f"{k + 1}: {w.low_kev:g}-{w.high_kev:g} keV" for k, w in enumerate(scan.windows))
        raise ValueError(f"{views} has {len(scan.windows)} energy windows; choose one by --photopeak: {listed}")
    peak = (photopeak or 1) - 1
    only = scan.window(_window("--photopeak", peak, scan))
    parameters = only.geometry()
    if attenuation is not None:
        parameters["attenuation"] = _attenuation(attenuation, attenuation_unit, energy, parameters)
    write_measurements(
        output,
        only.projections,
        operator="spect",
        parameters=parameters,
        units="counts",
        background=None if scatter is None else _scatter(scan, peak, scatter),
        collimator=_collimator(collimator, radius, only),
        overwrite=overwrite,
    )
    n_views, nx, nz = only.projections.shape[-3:]
    names = [name for name, given in (("attenuation", attenuation), ("scatter", scatter)) if given is not None]
    names += ["the response of the collimator"] if collimator or "collimator_mm" in only.facts else []
    print(
        f"{output}: {n_views} views of {nx} x {nz} bins of {' x '.join(f'{size:g}' for size in only.pixel_mm)} mm, "
        f"{float(only.projections.sum(dtype='float64')):.4g} counts, with {' and '.join(names) or 'nothing else'}"
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; name the Interfile header or the DICOM file")
    return path


def _window(option: str, k: int, scan: SpectScan) -> int:
    if not 0 <= k < len(scan.windows):
        raise ValueError(f"{option} must be from 1 to {len(scan.windows)}, the file's energy windows, got {k + 1}")
    return k


def _attenuation(path: Path, unit: str, energy: float | None, parameters: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Read a map on the voxels of the volume, in 1/mm."""
    from ..io import read_nifti
    from ..spect import attenuation_from_hu

    values, found = read_nifti(path)
    size = parameters["voxel_size"]
    transaxial, axial = size if isinstance(size, tuple) else (size, size)
    wanted = transaxial, transaxial, axial
    if values.shape != parameters["shape"] or any(abs(a - b) > SAME * b for a, b in zip(found, wanted, strict=True)):
        got, want = (
            f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in sizes)} mm"
            for shape, sizes in ((values.shape, found), (parameters["shape"], wanted))
        )
        raise ValueError(f"--attenuation {path} must have {want}, got {got}; resample it to the volume")
    if unit == "HU":
        if energy is None:
            raise ValueError("--attenuation-unit HU needs --energy, the photons' in keV, e.g. 140.5 or 208")
        if values.min() > AIR_HU:
            raise ValueError(
                f"--attenuation {path} reaches from {values.min():.4g} to {values.max():.4g}; Hounsfield units would "
                "have air, -1000. Is it a map of mu? Say --attenuation-unit 1/mm or 1/cm"
            )
        return attenuation_from_hu(values, energy).astype("float32")
    if unit not in PER_MM:
        raise ValueError(f"--attenuation-unit must be 1/mm, 1/cm or HU, got {unit!r}")
    mu = values * PER_MM[unit]
    if mu.min() < 0 or mu.max() > DENSEST or mu.max() < THINNEST:
        raise ValueError(
            f"--attenuation {path} reaches from {mu.min():.4g} to {mu.max():.4g} per mm, tissue from 0 to 0.05; is it "
            "in another unit? Say --attenuation-unit 1/cm, or HU"
        )
    return mu


def _scatter(scan: SpectScan, peak: int, text: str) -> npt.NDArray[np.float32]:
    """Return the scatter expected in the photopeak's window, smoothed."""
    from scipy.ndimage import gaussian_filter

    try:
        numbers = [int(part) - 1 for part in text.split(",")]
        if len(numbers) not in (1, 2):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--scatter must be the numbers of one or two energy windows, e.g. 1,3, got {text!r}"
        ) from None
    estimate = scan.scatter(peak, *(_window("--scatter", k, scan) for k in numbers))
    transaxial, axial = (SMOOTHING_MM / math.sqrt(8 * math.log(2)) / size for size in scan.pixel_mm)
    smooth: npt.NDArray[np.float32] = gaussian_filter(estimate, (0, 0, 0, transaxial, axial), mode="nearest")
    return smooth


def _collimator(text: str | None, radius: float | None, scan: SpectScan) -> dict[str, Any] | None:
    """Return the arguments of collimator_fwhm from the options, or as far as the file has them."""
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
                f"--collimator must be hole diameter, hole length, mu of the septa (1/mm) and intrinsic FWHM in mm, "
                f"the last two optional, e.g. 2.94,40.6,1.04,3.8, got {text!r}"
            ) from None
        found = dict(zip(names, values, strict=False))
    if found is None:
        if radius is not None:
            raise ValueError("--radius is for the response of a collimator; give --collimator as well")
        return None
    orbit: Any = scan.radius_mm if radius is None else radius
    if orbit is None:
        raise ValueError(
            f"the collimator's response needs the orbit, which {scan.path} does not have; give --radius in mm"
        )
    return {"radius": orbit, **found}
