"""SPECT for `pnp convert` and `pnp osem`: from the files of a camera or a simulation to counts."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import print_warning
from .spect_options import SpectOptions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..io import Measurements
    from ..readers import SpectScan

PER_MM = {"1/mm": 1.0, "1/cm": 0.1}
"""Factor from a unit of attenuation to 1/mm."""
MAX_MU = 0.1
"""Attenuation in 1/mm above that of any tissue, and of titanium, at the energies of SPECT."""
MIN_MU = 0.005
"""Attenuation in 1/mm below that of water at any of these energies."""
AIR_HU = -500.0
"""Hounsfield units below this are air."""
SMOOTHING_MM = 20.0
"""FWHM of the Gaussian that smooths scatter windows: scatter is far smoother than their noise."""
_REMEDIES = {
    r"give the radius\b": "give --radius",
    r"(?:use )?angles_from='(\w+)'": r"use --angles-from \1",
    r"start_sense='([a-z -]+)'": r"--start-sense '\1'",
    r"give the (?:volume's )?centre\b(?: if it is elsewhere)?": "give --volume-centre x,y,z",
    r"^SpectScan\.scatter: ": "",
    r"\bGive the collimator in mm\b": "Give --collimator in mm",
    r"give ct_kev\b": "give --ct-kev",
    r"radius_mm must be": "--radius must be",
}
"""Options for what warnings and errors say in Python."""


def convert_spect(views: Path, output: Path, energy: float | None, options: SpectOptions, *, overwrite: bool) -> None:
    """Write the views of a camera with their scatter, the attenuation map and the collimator's response."""
    from ..io import write_measurements

    data, said = spect_measurements(views, energy, options)
    write_measurements(
        output,
        data.y,
        operator=data.operator,
        parameters=data.parameters,
        units=data.units,
        background=data.background,
        collimator=data.collimator,
        centre_mm=data.centre_mm,
        acquisition=data.acquisition,
        overwrite=overwrite,
    )
    print(f"{output}: {said}")


def spect_measurements(views: Path, energy: float | None, options: SpectOptions) -> tuple[Measurements, str]:
    """Return what `pnp convert` writes, and a sentence on it; what looks wrong in the files is printed."""
    with _options_in_messages():
        return _measurements(views, energy, options)


@contextmanager
def _options_in_messages() -> Iterator[None]:
    """Print warnings, and name options of the command in them and in errors."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except ValueError as error:
        raise ValueError(_as_options(str(error))) from error
    finally:
        for text in dict.fromkeys(str(found.message) for found in caught):
            print_warning(_as_options(text))


def _as_options(text: str) -> str:
    for pattern, option in _REMEDIES.items():
        text = re.sub(pattern, option, text)
    return text


def _measurements(views: Path, energy: float | None, options: SpectOptions) -> tuple[Measurements, str]:
    from dataclasses import replace

    from ..io import Measurements

    if options.attenuation is None and (options.attenuation_unit or energy is not None):
        raise ValueError("--attenuation-unit and --energy describe a map; give --attenuation as well or neither")
    if energy is not None and options.attenuation_unit not in (None, "HU"):
        raise ValueError(f"--energy is for --attenuation-unit HU, got {options.attenuation_unit}; leave it out")
    scan, n_windows, scatter = _scan(views, options)
    if options.photopeak is None and n_windows > 1:
        listed = ", ".join(f"{k + 1}: {w.energies}" for k, w in enumerate(scan.windows[:n_windows]))
        raise ValueError(f"{views} has {n_windows} energy windows; choose one by --photopeak: {listed}")
    peak = (options.photopeak or 1) - 1
    only = scan.window(_window_index("--photopeak", peak, scan))
    if options.volume_centre is not None:
        only = replace(only, centre_mm=_three("--volume-centre", options.volume_centre))
    parameters, said = only.geometry(), list[str]()
    if options.attenuation is not None:
        parameters["attenuation"] = _attenuation(options, energy, only)
        said.append("attenuation")
    background = None
    if scatter is not None:
        background = _scatter(scan, peak, scatter)
        sides = " and ".join(scan.windows[k].energies for k in scatter)
        said.append(f"scatter of {sides} (peak {only.windows[0].energies})")
    collimator = _collimator(options, only)
    if collimator is not None:
        said.append("the response of the collimator")
    data = Measurements(
        only.y,
        "spect",
        parameters,
        units="counts",
        background=background,
        collimator=collimator or {},
        centre_mm=only.centre_mm,
        acquisition=only.acquisition,
    )
    n_views, nx, nz = only.y.shape[-3:]
    bins = " x ".join(f"{size:g}" for size in only.pixel_size_mm)
    return data, (
        f"{n_views} views of {nx} x {nz} bins of {bins} mm, "
        f"{float(only.y.sum(dtype='float64')):.4g} counts, with {' and '.join(said) or 'nothing else'}"
    )


def _scan(views: Path, options: SpectOptions) -> tuple[SpectScan, int, list[int] | None]:
    """Return the scan with the windows of all files, how many may be the photopeak's, and the scatter's, from 0."""
    from ..readers import join_windows

    scans = [_read(path, options) for path in (views, *(options.more or []))]
    n_before = sum(len(scan.windows) for scan in scans)
    names = [part.strip() for part in (options.scatter or "").split(",") if part.strip()]
    are_files = bool(names) and not all(re.fullmatch(r"[+-]?\d+", name) for name in names)
    if options.scatter is not None and len(names) not in (1, 2):
        raise ValueError(f"--scatter must be one or two energy windows, e.g. 1,3, got {options.scatter!r}")
    if not are_files:
        scan = join_windows(*scans) if len(scans) > 1 else scans[0]
        numbers = [int(name) - 1 for name in names]
        for k in numbers:
            if not 0 <= k < len(scan.windows) and len(scan.windows) == 1:
                raise ValueError(
                    f"--scatter {options.scatter}: {views} has one energy window; if the others have files of their "
                    "own, name them: --scatter lower.h00,upper.h00"
                )
            _window_index("--scatter", k, scan)
        return scan, n_before, numbers or None
    found = [Path(name) if Path(name).is_file() else views.parent / name for name in names]
    for name, path in zip(names, found, strict=True):
        if not path.is_file():
            raise ValueError(f"--scatter {name}: there is no such file; give numbers of energy windows, or files")
    sides = [_read(path, options) for path in found]
    for path, side in zip(found, sides, strict=True):
        if len(side.windows) != 1:
            raise ValueError(f"--scatter {path} must have one energy window, got {len(side.windows)}; give its number")
    return join_windows(*scans, *sides), n_before, [n_before + k for k in range(len(sides))]


def _read(path: Path, options: SpectOptions) -> SpectScan:
    from ..readers import read_dicom_nm, read_interfile

    with open(_existing_file(path), "rb") as file:
        is_interfile = b"interfile" in file.read(256).lower()
    if options.zero not in ("front", "back"):
        raise ValueError(f"--zero must be front or back, got {options.zero!r}")
    if options.angles_from not in (None, "patient", "gantry"):
        raise ValueError(f"--angles-from must be patient or gantry, got {options.angles_from!r:.40}")
    only_interfile = {"--zero": options.zero != "front", "--start-sense": options.start_sense is not None}
    for option, is_given in only_interfile.items():
        if is_given and not is_interfile:
            raise ValueError(f"{option} is for Interfile, {path} is DICOM, which states it; leave it out")
    if options.rotation is not None and is_interfile:
        raise ValueError(f"--rotation is for DICOM, {path} is Interfile; leave it out")
    common: dict[str, Any] = {"radius_mm": _radii(options), "angles_from": options.angles_from}
    if not is_interfile:
        return read_dicom_nm(path, rotation=options.rotation, **common)
    unit = options.radius_unit if options.radius is None else None
    interfile: Any = {"zero": options.zero, "start_sense": options.start_sense, "radius_unit": unit}
    return read_interfile(path, **interfile, **common)


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the Interfile header or the DICOM file")
    return path


def _radii(options: SpectOptions) -> npt.NDArray[np.float64] | None:
    """Return the radii of --radius in mm, a number, a list or the lines of a file; None where it is not given."""
    if options.radius is None:
        return None
    from ..readers.spect_orbit import MIN_RADIUS_MM, in_mm, parse_radii, read_orbit_file

    if options.radius_unit not in (None, "mm", "cm"):
        raise ValueError(f"--radius-unit must be mm or cm, got {options.radius_unit!r:.24}")
    radii = parse_radii(options.radius)
    if radii is None:
        if not Path(options.radius).is_file():
            raise ValueError(
                f"--radius must be a number, one for each view, or a file of them, got {options.radius!r:.60}"
            )
        radii = read_orbit_file(options.radius).radii
    if options.radius_unit is None and radii.size and radii.max() < MIN_RADIUS_MM:
        raise ValueError(
            f"--radius {options.radius:.40}: {radii.max():g} mm would be no camera's; add --radius-unit cm, or mm if "
            "it is right"
        )
    return in_mm(radii, options.radius_unit, small_is_cm=False)


def _window_index(option: str, k: int, scan: SpectScan) -> int:
    if not 0 <= k < len(scan.windows):
        raise ValueError(f"{option} must be from 1 to {len(scan.windows)}, the file's energy windows, got {k + 1}")
    return k


def _three(option: str, text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not math.isfinite(x + y + z):
        raise ValueError(f"{option} must be three numbers in mm, x,y,z, got {text!r:.40}")
    return x, y, z


def _attenuation(options: SpectOptions, energy: float | None, scan: SpectScan) -> npt.NDArray[np.float32]:
    """Read a map or a CT and bring it to the voxels of the volume, in 1/mm."""
    from ..readers.spect_attenuation import on_volume, read_attenuation
    from ..spect import attenuation_from_hu

    path = options.attenuation
    assert path is not None
    found, unit = read_attenuation(path), options.attenuation_unit
    if unit not in (None, "HU", *PER_MM):
        raise ValueError(f"--attenuation-unit must be 1/mm, 1/cm or HU, got {unit!r}")
    if options.ct_kev is not None:
        found = found._replace(notes=tuple(note for note in found.notes if "ct_kev" not in note))
    values, unit = found.values, unit or found.unit or "1/mm"
    for option, value in (("--energy", energy), ("--ct-kev", options.ct_kev)):
        if unit != "HU" and value is not None:
            raise ValueError(f"{option} is for a CT in HU, {path} is in {unit}; leave it out")
    if unit == "HU":
        energy = energy or scan.facts.get("photon_kev")
        if energy is None:
            raise ValueError("--attenuation-unit HU needs --energy, the photon energy in keV, e.g. 140.5 or 208")
        if values.min() > AIR_HU:
            raise ValueError(
                f"--attenuation {path} reaches from {values.min():.4g} to {values.max():.4g}; in Hounsfield "
                "units air is -1000. Is it an attenuation map? Use --attenuation-unit 1/mm or 1/cm"
            )
        mu = attenuation_from_hu(values, energy, ct_kev=options.ct_kev or 70.0).astype("float32")
    else:
        mu = values * PER_MM[unit]
        if mu.min() < 0 or mu.max() > MAX_MU or mu.max() < MIN_MU:
            raise ValueError(
                f"--attenuation {path} reaches from {mu.min():.4g} to {mu.max():.4g} per mm, tissue from 0 to 0.05; is "
                "it in another unit? Use --attenuation-unit 1/cm or HU"
            )
    transaxial, axial = scan.pixel_size_mm
    return on_volume(
        f"--attenuation {path}",
        found,
        mu,
        scan.geometry()["shape"],
        (transaxial, transaxial, axial),
        centre_mm=scan.centre_mm,
        shift_mm=_three("--attenuation-shift", options.attenuation_shift or "0,0,0"),
    )


def _scatter(scan: SpectScan, peak: int, sides: list[int]) -> npt.NDArray[np.float32]:
    """Return the smoothed estimate of the scatter in the photopeak's window."""
    from scipy.ndimage import gaussian_filter

    estimate = scan.scatter(peak, *sides)
    transaxial, axial = (SMOOTHING_MM / math.sqrt(8 * math.log(2)) / size for size in scan.pixel_size_mm)
    smooth: npt.NDArray[np.float32] = gaussian_filter(estimate, (0, 0, 0, transaxial, axial), mode="nearest")
    return smooth


def _collimator(options: SpectOptions, scan: SpectScan) -> dict[str, Any] | None:
    """Return the arguments of collimator_fwhm, from the options or else from the file; None without a collimator."""
    import numpy as np

    from ..spect.collimator import warn_of_collimator

    names, text = ("hole_diameter", "hole_length", "septal_attenuation", "intrinsic"), options.collimator
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
        warn_of_collimator("--collimator", found)
    if found is None:
        if options.radius is not None:
            raise ValueError("--radius needs a collimator; give --collimator as well")
        return None
    if scan.radius_mm is None:
        raise ValueError(
            f"the collimator's response needs the orbit, which {scan.path} does not have; give --radius in mm"
        )
    return {"radius": scan.radius_mm, **found}
