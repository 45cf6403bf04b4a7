"""The command `pnp reconstruct`: from measurements to an image or a volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .error_bars import ErrorBars, Regions, Wanted, remove_checkpoints
from .options import (
    Algorithm,
    Bounds,
    CheckpointFile,
    CheckpointMinutes,
    Denoiser,
    Device,
    Drift,
    MaxIter,
    NoiseStd,
    Operator,
    Overwrite,
    Rings,
    Robust,
    Scheduler,
    Strength,
    Workers,
    as_checkpoint,
    choose_device,
    exit_if_interrupted,
    least_squares,
    parse_bounds,
    parse_strength,
)
from .output import INTERRUPTED, print_verdict, save
from .problem import (
    background,
    build_denoiser,
    build_operator,
    check_common_errors,
    check_operator,
    check_sizes,
    image_channels,
    is_counts,
    is_hdf5,
    read_problem,
)
from .reconstruct_scan import ScanOptions, is_scan, reconstruct_scan

if TYPE_CHECKING:
    from torch import Tensor

    from ..drivers.result import Result
    from ..io import Measurements

REASONS = {"operator": "states its own geometry"} | dict.fromkeys(
    ("error_bars", "regions"), "becomes a volume without error bars (those of a slice: pnp.uncertainty.bootstrap)"
)
"""Why raw CT scans have no use for an option."""


def reconstruct(
    measurements: Annotated[
        Path,
        typer.Argument(
            help="A raw CT scan (Data Exchange, NXtomo, HTC .mat, a folder of TIFF projections, ...), or an HDF5 file "
            "of measurements (docs/hdf5_layout.md)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Result. From a scan: a volume in .zarr, .nii.gz, .h5 or .tif, or a folder for TIFF files (a name "
            "without suffix). From measurements: .h5 with everything, an image, or a volume in .nii.gz.",
        ),
    ],
    operator: Operator = None,
    denoiser: Denoiser = "mlpatch:gray",
    noise_std: NoiseStd = None,
    strength: Strength = "1",
    algorithm: Algorithm = "admm",
    bounds: Bounds = None,
    robust: Robust = False,
    max_iter: MaxIter = None,
    error_bars: ErrorBars = None,
    regions: Regions = None,
    checkpoint: CheckpointFile = None,
    checkpoint_minutes: CheckpointMinutes = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    rows: Annotated[
        str | None, typer.Option(help="Detector rows of a scan: one, or first:end; try one before all.")
    ] = None,
    centre: Annotated[float | None, typer.Option(help="Axis of rotation in bins, from 0; default: found.")] = None,
    search: Annotated[str | None, typer.Option(help="Bins between which the axis is looked for: low,high.")] = None,
    angles: Annotated[
        str | None,
        typer.Option(
            help="Angles of a scan in degrees, where its file has none: first:last:number, or a text file; or the unit "
            "of the file's own, deg or rad; or names, of TIFF files named after them."
        ),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(help="Side of a pixel in mm: of a parallel beam that of the detector, in place of the file's."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels per side of a slice; default: the bins of the detector.")
    ] = None,
    flat: Annotated[str | None, typer.Option(help="TIFF files with the beam open: a folder, pattern or file.")] = None,
    dark: Annotated[str | None, typer.Option(help="TIFF files with the beam closed, likewise.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="What the values are: counts, transmissions or 'line integrals'; default: counts, of TIFF with --flat "
            "only."
        ),
    ] = None,
    entry: Annotated[str | None, typer.Option(help="Entry of an NXtomo file that holds several scans.")] = None,
    i0: Annotated[
        float | None, typer.Option(help="Counts of the open beam, as read, with the dark, of a scan without flats.")
    ] = None,
    rings: Rings = None,
    drift: Drift = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    report: Annotated[
        Path | None, typer.Option(help="Report page of a scan, .html; default: the output's name and .html.")
    ] = None,
) -> None:
    """Reconstruct an image or a volume from measurements.

    A raw CT scan becomes a volume, a slice a detector row: counts, flats and darks become line integrals with their
    noise, bad pixels and zingers get no weight, the axis of rotation is found, and every slice is solved by itself,
    with errors of the bins, which make rings, and of the views, as of a beam that drifts, as part of the noise. What
    was done is printed and written to a report page beside the output. Values are attenuation in 1/mm, or in 1/pixel
    where the file states no length; the default of --bounds is 0,inf. After a stop of any kind the same command
    resumes.

    SPECT measurements, and measurements with a background, are counts: the data term is their Poisson likelihood, and
    the default of --bounds is 0,inf. Volumes are denoised slice by slice, across all three axes.

    The misfit, about 1 where the image explains the measurements up to their noise, is printed, and what looks wrong,
    as "warning: ..." on stderr. Warnings leave the exit code 0.

    \b
    Examples:
      pnp reconstruct scan.h5 -o first.tif --rows 100
      pnp reconstruct scan.h5 -o volume.zarr
      pnp reconstruct htc2022_ta_full.mat -o slice.nii.gz
      pnp reconstruct projections/ -o slices/ --angles 0:180:181 --flat flats/ --dark darks/ --pixel-size 0.01
      pnp reconstruct --operator radon measurements.h5 -o result.h5
      pnp reconstruct sinogram.h5 -o slice.tif --bounds 0,inf --denoiser tv
      pnp reconstruct sinogram.h5 -o slice.h5 --robust
      pnp reconstruct sinogram.h5 -o slice.h5 --error-bars 24 --regions labels.tif
      pnp reconstruct shear.h5 -o kappa.fits --denoiser mlpatch:convergence
      pnp reconstruct --operator spect scan.h5 -o volume.nii.gz --checkpoint volume.checkpoint
    """
    for_scans = ScanOptions(
        rows, centre, search, angles, pixel_size, size, flat, dark, kind, entry, i0, workers, scheduler, report
    )
    if is_scan(measurements):
        _refuse_for_scans(measurements, operator=operator, checkpoint=checkpoint, checkpoint_minutes=checkpoint_minutes)
        _refuse_for_scans(measurements, error_bars=error_bars, regions=regions)
        reconstruct_scan(
            measurements,
            output,
            for_scans,
            denoiser=denoiser,
            noise_std=noise_std,
            robust=robust,
            rings=rings,
            drift=drift,
            bounds=bounds,
            device=device,
            overwrite=overwrite,
            solver={"algorithm": algorithm, "strength": parse_strength(strength), "max_iter": max_iter},
        )
        return
    if for_scans.given():
        raise ValueError(f"{for_scans.given()[0]} is for raw CT scans, which {measurements} is not; leave it out")
    from ..io import check_image_output, check_output

    check_output(output, overwrite=overwrite)
    kept = as_checkpoint(checkpoint, checkpoint_minutes, output)
    limits = parse_bounds(bounds)
    data = read_problem(measurements, operator)
    is_volume = data.operator == "spect"
    if not is_hdf5(output):
        check_image_output(output, image_channels(data), volume=is_volume, overwrite=overwrite)
        if data.y.ndim >= 4 and data.y.shape[0] != 1:
            raise ValueError(f"output {output} holds one image, the result has {data.y.shape[0]}; use an .h5 file")
    check_operator(operator, data, measurements)
    check_common_errors(rings, drift, data, measurements)
    wanted = Wanted.of(error_bars, regions, output, data, overwrite)

    import torch

    from ..algorithms.poisson import Poisson
    from ..drivers.signals import uninterrupted
    from ..drivers.solve import solve

    where = choose_device(device)
    A = build_operator(data.operator, data.parameters).to(where)
    check_sizes(A, data, measurements)
    D = build_denoiser(denoiser, where, data)
    y = torch.from_numpy(data.y).to(where)
    y = y if y.dtype == torch.float64 else y.float()
    std: float | Tensor | None = noise_std
    if std is None and data.noise_std is not None:
        std = torch.as_tensor(data.noise_std, dtype=y.dtype, device=where)

    settings: dict[str, Any] = {
        "noise_std": std,
        "algorithm": algorithm,
        "strength": parse_strength(strength),
        "bounds": (0.0, None) if is_counts(data) and limits is None else limits,
        "data_term": Poisson(background=background(data, y), robust=robust)
        if is_counts(data)
        else least_squares(robust, rings, drift),
        "max_iter": max_iter,
    }
    result = solve(A, y, D, checkpoint=kept, progress=True, **settings)
    exit_if_interrupted(kept, result)
    bars = wanted.compute(A, y, D, result, settings, kept)
    label = f"{denoiser}, slices across x, y and z" if is_volume else denoiser
    with uninterrupted():  # an impatient Ctrl-C must not lose the result
        found = wanted.saved(bars)
        written = save(output, result, data, {"denoiser": label}, overwrite, found)
        noise = _noise_summary(result, data, noise_std, label)
        print(f"{written}: {result.n_iter} iterations, {noise}; {result.stop}")
        if result.choice:
            print(result.choice)
        print_verdict(result)
        wanted.write(bars, found, output, written, data)
        remove_checkpoints(kept)
    if result.stop.name == "INTERRUPTED" or wanted.lacks(bars):
        raise typer.Exit(INTERRUPTED)
    if written != output:
        raise typer.Exit(2)


def _refuse_for_scans(path: Path, **options: Any) -> None:
    """Refuse options that a raw CT scan has no use for."""
    for name, value in options.items():
        if value is not None:
            reason = REASONS.get(name, "resumes without")
            raise ValueError(f"--{name.replace('_', '-')}: {path} is a raw CT scan, which {reason}; leave it out")


def _noise_summary(result: Result, data: Measurements, noise_std: float | None, denoiser: str) -> str:
    """Return which noise was assumed and where its level is from."""
    from ..algorithms.noise_estimate import typical_noise_std

    if is_counts(data):
        return f"Poisson noise, background {'0' if data.background is None else 'from the file'}, {denoiser}"
    source = "estimated" if result.noise_estimated else "--noise-std" if noise_std is not None else "from the file"
    return f"noise {typical_noise_std(result.noise_std):.3g} ({source})"
