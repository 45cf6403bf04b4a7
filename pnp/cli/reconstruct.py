"""The command `pnp reconstruct`: from measurements to an image or a volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .error_bars import ErrorBars, Regions, Wanted, remove_checkpoints
from .option_groups import with_option_groups
from .options import (
    CheckpointFile,
    CheckpointMinutes,
    CommonErrorOptions,
    Device,
    Overwrite,
    SolveOptions,
    WorkerOptions,
    as_checkpoint,
    as_typed,
    choose_device,
    exit_if_interrupted,
    least_squares,
    parse_bounds,
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
    in_slices,
    is_counts,
    is_hdf5,
    is_stack_of_pictures,
    is_volume,
    read_problem,
)
from .quantity import UNIT, QuantityOptions
from .quantity import activity as activity_of
from .reconstruct_scan import is_scan, reconstruct_scan
from .scan_options import ScanOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..drivers.result import Result
    from ..io import Measurements

REASONS = {"operator": "states its own geometry"} | dict.fromkeys(
    ("error_bars", "regions"), "becomes a volume without error bars (those of a slice: pnp.uncertainty.bootstrap)"
)
REASONS |= dict.fromkeys(
    ("calibration", "view_seconds", "isotope", "half_life", "reference_time"), "has no activity, as SPECT has"
)
"""Why raw CT scans have no use for an option."""


@with_option_groups
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
    *,
    solving: SolveOptions,
    error_bars: ErrorBars = None,
    regions: Regions = None,
    quantity: QuantityOptions,
    checkpoint: CheckpointFile = None,
    checkpoint_minutes: CheckpointMinutes = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    scan: ScanOptions,
    errors: CommonErrorOptions,
    machines: WorkerOptions,
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
    resumes. With --volume the slices of a parallel beam are one volume, with a prior across slices.

    SPECT measurements, and measurements with a background, are counts: the data term is their Poisson likelihood, and
    the default of --bounds is 0,inf. Volumes, of SPECT, cone_beam and parallel_beam, are denoised slice by slice,
    across all three axes.

    The misfit, about 1 where the image explains the measurements up to their noise, is printed, and what looks wrong,
    as "warning: ..." on stderr. Warnings leave the exit code 0.

    \b
    Examples:
      pnp reconstruct scan.h5 -o first.tif --rows 100
      pnp reconstruct scan.h5 -o volume.zarr
      pnp reconstruct scan.h5 -o volume.nii.gz --volume --denoiser tv
      pnp reconstruct htc2022_ta_full.mat -o slice.nii.gz
      pnp reconstruct projections/ -o slices/ --angles 0:180:181 --flat flats/ --dark darks/ --pixel-size 0.01
      pnp reconstruct --operator radon measurements.h5 -o result.h5
      pnp reconstruct sinogram.h5 -o slice.tif --bounds 0,inf --denoiser tv
      pnp reconstruct sinogram.h5 -o slice.h5 --robust
      pnp reconstruct sinogram.h5 -o slice.h5 --error-bars 24 --regions labels.tif
      pnp reconstruct shear.h5 -o kappa.fits --denoiser mlpatch:convergence
      pnp reconstruct --operator spect scan.h5 -o volume.nii.gz --checkpoint volume.checkpoint
      pnp reconstruct scan.h5 -o activity.nii.gz --calibration 9.2
      pnp reconstruct --operator cone_beam scan.h5 -o volume.nii.gz --bounds 0,inf
    """
    if is_scan(measurements):
        _refuse_for_scans(
            measurements, operator=solving.operator, checkpoint=checkpoint, checkpoint_minutes=checkpoint_minutes
        )
        _refuse_for_scans(measurements, error_bars=error_bars, regions=regions, **vars(quantity))
        reconstruct_scan(
            measurements, output, scan, solving, errors, machines, report=report, device=device, overwrite=overwrite
        )
        return
    for option, value in (vars(scan) | vars(machines) | {"report": report}).items():
        if value is not None:
            remedy = (
                "; leave it out, or for a stack of slices use pnp reconstruct-stack"
                if option == "volume"
                else "; leave it out"
            )
            raise ValueError(f"{as_typed(option)} is for raw CT scans, which {measurements} is not{remedy}")
    from ..io import check_image_output, check_output

    check_output(output, overwrite=overwrite)
    kept = as_checkpoint(checkpoint, checkpoint_minutes, output)
    limits = parse_bounds(solving.bounds)
    data = read_problem(measurements, solving.operator)
    volume = is_volume(data)
    if not is_hdf5(output):
        slices = is_stack_of_pictures(data)
        check_image_output(output, image_channels(data), volume=volume, slices=slices, overwrite=overwrite)
        if data.y.ndim >= 4 and data.y.shape[0] != 1:
            raise ValueError(f"output {output} holds one image, the result has {data.y.shape[0]}; use an .h5 file")
    check_operator(solving.operator, data, measurements)
    check_common_errors(errors, data, measurements)
    activity = activity_of(quantity, data)
    wanted = Wanted.of(error_bars, regions, output, data, overwrite)

    import torch

    from ..algorithms.poisson import Poisson
    from ..drivers.signals import uninterrupted
    from ..drivers.solve import solve

    where = choose_device(device)
    A = build_operator(data.operator, data.parameters).to(where)
    check_sizes(A, data, measurements)
    D = build_denoiser(solving.denoiser, where, data)
    y = torch.from_numpy(data.y).to(where)
    y = y if y.dtype == torch.float64 else y.float()
    std: float | Tensor | None = solving.noise_std
    if std is None and data.noise_std is not None:
        std = torch.as_tensor(data.noise_std, dtype=y.dtype, device=where)

    settings: dict[str, Any] = {
        "noise_std": std,
        "bounds": (0.0, None) if is_counts(data) and limits is None else limits,
        "data_term": Poisson(background=background(data, y), robust=solving.robust)
        if is_counts(data)
        else least_squares(solving.robust, errors),
        **solving.solver(),
    }
    result = solve(A, y, D, checkpoint=kept, progress=True, **settings)
    exit_if_interrupted(kept, result)
    bars = wanted.compute(A, y, D, result, settings, kept)
    if activity is not None:
        result, bars, data = activity.of(result), activity.of_bars(bars), activity.of_data(data)
    label = f"{solving.denoiser}, slices across x, y and z" if in_slices(D) else solving.denoiser
    with uninterrupted():  # an impatient Ctrl-C must not lose the result
        found = wanted.saved(bars)
        written = save(output, result, data, {"denoiser": label}, overwrite, found, activity)
        noise = _noise_summary(result, data, solving.noise_std, label)
        print(f"{written}: {result.n_iter} iterations, {noise}; {result.stop}")
        if activity is not None:
            print(activity.how)
        if result.choice:
            print(result.choice)
        print_verdict(result)
        wanted.write(bars, found, output, written, data, "" if activity is None else UNIT)
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
            raise ValueError(f"{as_typed(name)}: {path} is a raw CT scan, which {reason}; leave it out")


def _noise_summary(result: Result, data: Measurements, noise_std: float | None, denoiser: str) -> str:
    """Return which noise was assumed and where its level is from."""
    from ..algorithms.noise_estimate import typical_noise_std

    if is_counts(data):
        return f"Poisson noise, background {'0' if data.background is None else 'from the file'}, {denoiser}"
    source = "estimated" if result.noise_estimated else "--noise-std" if noise_std is not None else "from the file"
    return f"noise {typical_noise_std(result.noise_std):.3g} ({source})"
