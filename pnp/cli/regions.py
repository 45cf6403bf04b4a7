"""The command `pnp regions`: volume, mean and total activity of regions of a SPECT volume, with standard errors."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .options import Overwrite
from .output import print_warning
from .problem import NIFTI, is_hdf5

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..spect import Recovery, RegionActivity

    Array = npt.NDArray[np.floating[Any]]

COLUMNS = ("label", "volume_ml", "mean", "mean_std", "total", "total_std", "recovery")
ROW = ("label", "mean", "std")
_SAME_MEAN = 1e-3
"""Relative difference of the means of a region, as saved and as computed from the volume, of the same voxels."""
_PLACE_VOXELS = 0.5
"""Part of a voxel by which labels may lie beside the volume."""


class _Volume(NamedTuple):
    x: Array
    voxel_mm: tuple[float, ...]
    unit: str
    bars: dict[int, tuple[float, float]]
    """Mean of a region and its standard error, by its label."""


def regions(
    volume: Annotated[
        Path, typer.Argument(help="Result (.h5) or volume (.nii.gz) of pnp osem or pnp reconstruct, in MBq/ml.")
    ],
    labels: Annotated[
        Path, typer.Argument(help="Label image (.nii.gz) on the same voxels: whole numbers, 0 is no region.")
    ],
    recovery: Annotated[
        Path | None,
        typer.Option(
            help="Spheres of a phantom, a .csv with the columns diameter_mm, recovery and, if known, std: regions are "
            "corrected for their size."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write, .csv.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print volume and activity of regions.

    Of a volume in MBq/ml the mean is in MBq/ml and the total in MBq. Standard errors are there where the .h5 result was
    made with --error-bars and --regions and the same labels: errors of neighbouring voxels are correlated, so that a
    map of standard deviations does not have them. With --recovery a region is taken for a sphere of its volume, without
    activity around it, and divided by the sphere's recovery.

    \b
    Examples:
      pnp osem scan.h5 -o act.h5 --calibration 9.2 --error-bars 24 --regions organs.nii.gz
      pnp regions act.h5 organs.nii.gz --recovery spheres.csv -o organs.csv
      pnp regions act.nii.gz organs.nii.gz
    """
    from ..io import atomic, check_output
    from ..spect import region_activity

    if output is not None:
        if output.suffix.lower() != ".csv":
            raise ValueError(f"output {output} must be a .csv file")
        check_output(output, overwrite=overwrite)
    found = _read_volume(volume)
    numbers = _read_labels(labels, volume, found)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curve = None if recovery is None else _read_recovery(recovery)
        rows = region_activity(found.x, numbers, found.voxel_mm, std_of=_errors(found, numbers), recovery=curve)
    for text in dict.fromkeys(str(said.message) for said in caught):
        print_warning(text)
    _print(rows, found.unit, curve)
    if output is not None:
        lines = [",".join(COLUMNS), *(",".join(map(repr, row)) for row in rows)]
        with atomic(output, overwrite=overwrite) as part:
            part.write_text("\n".join(lines) + "\n")
        print(f"{output}: {len(rows)} regions, volumes in ml, means in {found.unit or 'units of the volume'}")


def _read_volume(path: Path) -> _Volume:
    """Return a volume, the sides of its voxels, its unit, and the standard errors of its regions."""
    from ..io import read_nifti, read_result

    if path.name.lower().endswith(NIFTI):
        import nibabel

        x, sizes = read_nifti(path)
        description = nibabel.load(path).header["descrip"].item().decode("ascii", "replace")  # type: ignore[attr-defined]
        return _Volume(x, sizes, _unit(description), {})
    if not is_hdf5(path):
        raise ValueError(f"{path} must be a volume in .nii.gz or a result in .h5; convert it")
    saved = read_result(path)
    if saved.operator != "spect" or saved.x.ndim != 5 or saved.x.shape[:2] != (1, 1):
        raise ValueError(f"{path} must be one volume of SPECT, got {saved.operator or 'no operator'} {saved.x.shape}")
    size = saved.parameters["voxel_size"]
    columns = {} if saved.error_bars is None else saved.error_bars.regions
    bars = (
        {int(row[0]): row[1:] for row in zip(*(columns[name].tolist() for name in ROW), strict=True)} if columns else {}
    )
    return _Volume(saved.x[0, 0], size if isinstance(size, tuple) else (size,), _unit(saved.units), bars)


def _unit(text: str) -> str:
    return "MBq/ml" if re.search(r"\bMBq/ml\b", text) else ""


def _read_labels(path: Path, volume: Path, found: _Volume) -> Array:
    """Return the labels, on the voxels of the volume."""
    import numpy as np

    from ..io import read_nifti
    from ..io.nifti import read_placed_nifti

    if not path.name.lower().endswith(NIFTI):
        raise ValueError(f"labels {path} must be .nii.gz, in the patient's axes; convert them")
    labels, sizes = read_nifti(path)
    full = {1: found.voxel_mm * 3, 2: (found.voxel_mm[0], *found.voxel_mm)}.get(len(found.voxel_mm), found.voxel_mm)
    if labels.shape != found.x.shape or not np.allclose(sizes, full, rtol=0.01):
        raise ValueError(
            f"labels {path} must be on the voxels of {volume}, {found.x.shape} of {full} mm, got {labels.shape} of "
            f"{tuple(round(size, 3) for size in sizes)}; resample them"
        )
    if volume.name.lower().endswith(NIFTI):
        (_, mine, is_placed), (_, its, are_placed) = read_placed_nifti(volume), read_placed_nifti(path)
        middles = [m[:3, :3] @ ((np.array(found.x.shape) - 1) / 2) + m[:3, 3] for m in (mine, its)]
        if is_placed and are_placed and np.abs(middles[0] - middles[1]).max() > _PLACE_VOXELS * min(sizes):
            raise ValueError(
                f"labels {path} lie {np.linalg.norm(middles[0] - middles[1]):.3g} mm beside {volume}, as their affines "
                "say; resample them"
            )
    return labels


def _errors(found: _Volume, labels: Array) -> Callable[[Any], float] | None:
    """Return the function from a region's mask to the standard error of its mean."""
    if not found.bars:
        return None

    def std_of(mask: Any) -> float:
        label = int(labels[mask][0])
        mean, std = found.bars.get(label, (math.nan, math.nan))
        if math.isclose(mean, float(found.x[mask].mean(dtype="float64")), rel_tol=_SAME_MEAN):
            return std
        warnings.warn(f"region {label} is not that of the result's error bars, and has no standard error", stacklevel=2)
        return math.nan

    return std_of


def _read_recovery(path: Path) -> Recovery:
    """Fit the curve to the spheres of a table."""
    from ..spect import fit_recovery

    if not path.is_file():
        raise ValueError(f"--recovery {path}: there is no such file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        diameter_mm, part = ([float(row[name]) for row in rows] for name in ("diameter_mm", "recovery"))
        std = [float(row["std"]) for row in rows] if rows and rows[0].get("std") else None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"--recovery {path} must be a table with the columns diameter_mm and recovery, and std if known, separated "
            "by commas"
        ) from error
    try:
        return fit_recovery(diameter_mm, part, std)
    except ValueError as error:
        raise ValueError(f"--recovery {path}: {error}") from error


def _print(rows: list[RegionActivity], unit: str, curve: Recovery | None) -> None:
    """Print a line for each region."""
    if curve is not None:
        print(
            f"recovery 1/(1 + ({curve.half_mm:.4g} mm/d)^{curve.exponent:.3g}), from {curve.measured_mm[0]:g} to "
            f"{curve.measured_mm[1]:g} mm; spheres differ from it by {curve.rms:.2g}"
        )
    mbq = " MBq" if unit else ""
    for row in rows:
        mean, total = (
            f"{value:.5g}{f' +- {std:.2g}' if math.isfinite(std) else ''}"
            for value, std in ((row.mean, row.mean_std), (row.total, row.total_std))
        )
        part = "" if curve is None else f", divided by a recovery of {row.recovery:.3f}"
        print(
            f"region {row.label}: {row.volume_ml:.4g} ml, mean {mean} {unit}".rstrip() + f", total {total}{mbq}{part}"
        )
