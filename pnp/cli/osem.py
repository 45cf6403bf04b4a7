"""The command `pnp osem`: expectation maximisation for emission scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .option_groups import with_option_groups
from .options import (
    CheckpointFile,
    CheckpointMinutes,
    Device,
    Overwrite,
    as_checkpoint,
    choose_device,
    exit_if_interrupted,
)
from .output import INTERRUPTED, print_verdict, save, write_dicom
from .problem import background, build_operator, check_sizes, is_hdf5, is_volume, read_problem
from .quantity import QuantityOptions
from .quantity import activity as activity_of

MORE_ITERATIONS = "more of them resolve finer detail, and more noise"
"""What ends EM: nothing but the number of iterations."""


@with_option_groups
def osem(
    measurements: Annotated[Path, typer.Argument(help="HDF5 file of counts (docs/hdf5_layout.md); see pnp convert.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Volume: .nii.gz, .nii, .npy, .dcm (DICOM NM), or .h5 with everything."),
    ],
    *,
    subsets: Annotated[int, typer.Option(help="Number of subsets of the views; 1 is MLEM.")] = 4,
    iterations: Annotated[int, typer.Option(help="Number of iterations, each through all subsets.")] = 16,
    checkpoint: CheckpointFile = None,
    checkpoint_minutes: CheckpointMinutes = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="DICOM file of the study (the views, a CT slice), whose patient and frame a .dcm output takes."
        ),
    ] = None,
    quantity: QuantityOptions,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Reconstruct emission counts by OSEM or MLEM.

    Ordered-subsets expectation maximisation uses no prior, and nothing but --iterations ends it: detail and noise grow
    with the number of updates, iterations x subsets. With few counts use few subsets, or 1. The number of views need
    not be a multiple of the number of subsets: some subsets then have one view more. The misfit is printed with its
    verdict, and what looks wrong, as "warning: ..." on stderr; warnings leave the exit code 0.

    With --calibration x is the activity in MBq/ml at the scan's start, or at --reference-time; the seconds of a view
    and the isotope are from the file, where pnp convert found them. DICOM files have Bq/ml.

    \b
    Examples:
      pnp osem scan.h5 -o volume.nii.gz --subsets 4 --iterations 16
      pnp osem scan.h5 -o mlem.h5 --subsets 1 --iterations 64 --device cuda
      pnp osem scan.h5 -o volume.dcm --like lu177.dcm
      pnp osem scan.h5 -o activity.nii.gz --calibration 9.2 --reference-time=-24h
      pnp osem scan.h5 -o volume.nii.gz --checkpoint volume.checkpoint
    """
    from ..io import check_image_output, check_output

    check_output(output, overwrite=overwrite)
    kept = as_checkpoint(checkpoint, checkpoint_minutes, output)
    data = read_problem(measurements)
    is_dicom = output.suffix.lower() == ".dcm"
    if like is not None and not is_dicom:
        raise ValueError(f"--like is for a .dcm output, got {output.name}; leave it out")
    if is_dicom and data.operator != "spect":
        raise ValueError(f"output {output}: DICOM NM is for volumes of SPECT, this is {data.operator}; use .h5")
    if not is_hdf5(output):
        if not is_dicom:
            check_image_output(output, 1, volume=is_volume(data), overwrite=overwrite)
        if len(data.y) != 1:
            raise ValueError(f"output {output} holds one volume, the result has {len(data.y)}; use an .h5 file")
    activity = activity_of(quantity, data)

    import torch

    from ..drivers.em import osem as reconstruct
    from ..drivers.signals import uninterrupted

    where = choose_device(device)
    A = build_operator(data.operator, data.parameters).to(where)
    check_sizes(A, data, measurements)
    y = torch.from_numpy(data.y).to(where)
    y = y if y.dtype == torch.float64 else y.float()
    result = reconstruct(
        A,
        y,
        n_subsets=subsets,
        background=background(data, y),
        max_iter=iterations,
        checkpoint=kept,
        progress=True,
    )
    exit_if_interrupted(kept, result)
    if activity is not None:
        result, data = activity.of(result), activity.of_data(data)
    with uninterrupted():  # what took the time is not lost to an impatient Ctrl-C
        if is_dicom:
            written = write_dicom(output, result, data, like, overwrite, activity)
        else:
            written = save(output, result, data, {"n_subsets": subsets}, overwrite, activity=activity)
        if kept is not None:
            kept.path.unlink(missing_ok=True)
        sizes = sorted({len(range(b, y.shape[2], subsets)) for b in range(subsets)})
        views = f"{result.n_iter} iterations of {subsets} subsets of {' or '.join(map(str, sizes))} views"
        name = "MLEM" if subsets == 1 else "OSEM"
        floor = "0" if data.background is None else "from the file"
        how = str(result.stop) if result.stop.name == "INTERRUPTED" else MORE_ITERATIONS
        updates = f"{result.n_iter * subsets} updates" if subsets > 1 else "no prior"
        print(f"{written}: {name}, {views}, {updates}, background {floor}; {how}")
        if activity is not None:
            print(activity.how)
        print_verdict(result)
    if result.stop.name == "INTERRUPTED":
        raise typer.Exit(INTERRUPTED)
