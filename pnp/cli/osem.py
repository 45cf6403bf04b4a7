"""The command `pnp osem`: expectation maximisation for emission scans, also with a prior."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .convert_spect import spect_measurements
from .error_bars import ErrorBars, Regions, Wanted
from .network import Network, load_network, run_network
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
from .problem import background, build_operator, check_sizes, is_hdf5, is_volume, read_problem, with_response
from .quantity import UNIT, QuantityOptions
from .quantity import activity as activity_of
from .spect_options import SpectOptions

if TYPE_CHECKING:
    from ..io import Measurements

MORE_ITERATIONS = "more of them resolve finer detail, and more noise"
"""What ends EM: nothing but the number of iterations."""
_MM = {"mm": 1.0, "cm": 10.0}
_CAMERA = ("dicom_nm", "interfile")
"""Kinds of files that are converted first."""


@with_option_groups
def osem(
    measurements: Annotated[
        Path,
        typer.Argument(
            help="HDF5 file of counts (docs/hdf5_layout.md; see pnp convert), or the DICOM NM file or Interfile header "
            "of a camera."
        ),
    ],
    output: Annotated[
        list[Path],
        typer.Option(
            "--output",
            "-o",
            help="Volume: .nii.gz, .nii, .npy, .dcm (DICOM NM), or .h5 with everything; repeat it for several files.",
        ),
    ],
    *,
    files: SpectOptions,
    energy: Annotated[
        float | None, typer.Option(help="SPECT: photon energy in keV, needed with a CT in HU (140.5, 208, ...).")
    ] = None,
    subsets: Annotated[int, typer.Option(help="Number of subsets of the views; 1 is MLEM.")] = 4,
    iterations: Annotated[int, typer.Option(help="Number of iterations, each through all subsets.")] = 16,
    beta: Annotated[
        float | None,
        typer.Option(help="BSREM in place of OSEM: weight of the relative difference prior, such as 0.01."),
    ] = None,
    network: Network = None,
    post_filter: Annotated[
        str | None,
        typer.Option(help="Smooth the volume by a Gaussian of this FWHM, such as 8mm or 1cm.", show_default=False),
    ] = None,
    quantity: QuantityOptions,
    error_bars: ErrorBars = None,
    regions: Regions = None,
    checkpoint: CheckpointFile = None,
    checkpoint_minutes: CheckpointMinutes = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="DICOM file of the study (a CT slice), whose patient and frame a .dcm output takes; default: the "
            "views in DICOM."
        ),
    ] = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Reconstruct emission counts by OSEM, MLEM or BSREM.

    Ordered-subsets expectation maximisation uses no prior, and nothing but --iterations ends it: detail and noise grow
    with the number of updates, iterations x subsets. With few counts use few subsets, or 1. The number of views need
    not be a multiple of the number of subsets: some subsets then have one view more. The misfit is printed with its
    verdict, and what looks wrong, as "warning: ..." on stderr; warnings leave the exit code 0.

    With --beta it is BSREM, which maximises the likelihood with the relative difference prior: neighbours may differ in
    proportion to their values, and more iterations add no noise.

    With --network a few iterations with small networks follow (unrolled EM). Voxels of another size than those that
    they have learned from are refused, and views, counts or an isotope that differ are a warning.

    Files of a camera are taken as pnp convert takes them, with the options that begin with "SPECT:".

    With --calibration x is the activity in MBq/ml at the scan's start, or at --reference-time; the seconds of a view
    and the isotope are from the file, where pnp convert found them. DICOM files have Bq/ml.

    With --error-bars and --regions the errors are those of the counts' noise (parametric bootstrap).

    \b
    Examples:
      pnp osem scan.h5 -o volume.nii.gz --subsets 4 --iterations 16
      pnp osem scan.h5 -o mlem.h5 --subsets 1 --iterations 64 --device cuda
      pnp osem scan.h5 -o volume.dcm --like lu177.dcm
      pnp osem scan.h5 -o activity.nii.gz --calibration 9.2 --reference-time=-24h
      pnp osem lu177.dcm -o x.nii.gz -o x.dcm --mu ct/ --energy 208 --photopeak 2 --scatter 1,3 --calibration 9.2
      pnp osem scan.h5 -o smooth.nii.gz --post-filter 8mm
      pnp osem scan.h5 -o bsrem.nii.gz --beta 0.01 --iterations 40
      pnp osem scan.h5 -o unrolled.nii.gz --network lu177
      pnp osem scan.h5 -o act.h5 --calibration 9.2 --error-bars 24 --regions organs.nii.gz
      pnp osem scan.h5 -o volume.nii.gz --checkpoint volume.checkpoint
    """
    from ..io import check_output

    for path in output:
        check_output(path, overwrite=overwrite)
    if len({path.resolve() for path in output}) < len(output):
        raise ValueError("--output: each file must have a name of its own")
    kept, *_ = [as_checkpoint(checkpoint, checkpoint_minutes, path) for path in output]
    width = None if post_filter is None else _width_mm(post_filter)
    data, like = _read(measurements, energy, files, output, like)
    _check_outputs(output, data, like, overwrite)
    if width is not None and data.operator != "spect":
        raise ValueError(f"--post-filter is for volumes of SPECT, this is {data.operator}; leave it out")
    activity = activity_of(quantity, data)
    if error_bars is not None and (beta is not None or network is not None):
        raise ValueError(
            "--error-bars: those of OSEM are without a prior; leave out --beta and --network, or use pnp reconstruct"
        )
    if network is not None and (beta is not None or kept is not None):
        raise ValueError("--network has no --beta and no --checkpoint; leave them out")
    model = None
    if network is not None:
        isotope = quantity.isotope or ("" if data.acquisition is None else data.acquisition.isotope)
        model, doubts = load_network(network, data, isotope, {"subsets": subsets, "iterations": iterations})
    if error_bars is not None and _is_dicom(_main(output)):
        raise ValueError("--error-bars: DICOM has no place for them; name an .h5 or .nii.gz file as well, -o twice")
    wanted = Wanted.of(error_bars, regions, _main(output), data, overwrite)

    import torch

    from ..drivers.bsrem import bsrem
    from ..drivers.em import osem as plain
    from ..drivers.signals import uninterrupted
    from ..spect import post_filter as smooth

    where = choose_device(device)
    A = build_operator(data.operator, data.parameters).to(where)
    check_sizes(A, data, measurements)
    y = torch.from_numpy(data.y).to(where)
    y = y if y.dtype == torch.float64 else y.float()
    settings: dict[str, Any] = {"n_subsets": subsets, "background": background(data, y), "max_iter": iterations}
    if model is not None:
        result = run_network(model, A, y, settings["background"], doubts)
    elif beta is None:
        result = plain(A, y, **settings, checkpoint=kept, progress=True)
    else:
        result = bsrem(A, y, **settings, beta=beta, checkpoint=kept, progress=True)
    exit_if_interrupted(kept, result)
    bars = wanted.compute_osem(A, y, result, settings)
    attributes: dict[str, Any] = {"n_subsets": subsets} | ({} if beta is None else {"beta": beta})
    attributes |= {} if network is None else {"network": network}
    if activity is not None:
        result, bars, data = activity.of(result), activity.of_bars(bars), activity.of_data(data)
    note = ""
    if width is not None:
        size = data.parameters["voxel_size"]
        result = replace(result, x=smooth(result.x, width, size))
        if bars is not None:
            bars = replace(bars, x=result.x, samples=smooth(bars.samples, width, size))
        attributes, note = attributes | {"post_filter_fwhm_mm": width}, f"; FWHM {width:g} mm"
    with uninterrupted():  # what took the time is not lost to an impatient Ctrl-C
        found = wanted.saved(bars)
        for path in output:
            if _is_dicom(path):
                write_dicom(path, result, data, like, overwrite, activity, note)
            else:
                save(path, result, data, attributes, overwrite, found, activity, note)
        if kept is not None:
            kept.path.unlink(missing_ok=True)
        sizes = sorted({len(range(b, y.shape[2], subsets)) for b in range(subsets)})
        views = f"{result.n_iter} iterations of {subsets} subsets of {' or '.join(map(str, sizes))} views"
        name = f"BSREM, beta {beta:g}" if beta is not None else "MLEM" if subsets == 1 else "OSEM"
        floor = "0" if data.background is None else "from the file"
        more = MORE_ITERATIONS if beta is None else "more of them come closer to the maximum"
        how = str(result.stop) if result.stop.name == "INTERRUPTED" else more
        updates = f"{result.n_iter * subsets} updates" if subsets > 1 or beta is not None else "no prior"
        if network is not None:
            name, how = f"unrolled EM ({network})", "the weights are the prior"
            updates = f"{subsets * iterations} updates of OSEM before"
        print(f"{', '.join(map(str, output))}: {name}, {views}, {updates}, background {floor}; {how}")
        if activity is not None:
            print(activity.how)
        if width is not None:
            print(f"smoothed by a Gaussian of {width:g} mm FWHM; the misfit is that before it")
        print_verdict(result)
        wanted.write(bars, found, _main(output), _main(output), data, "" if activity is None else UNIT)
    if result.stop.name == "INTERRUPTED" or wanted.lacks(bars):
        raise typer.Exit(INTERRUPTED)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _main(output: list[Path]) -> Path:
    """Return the output that error bars are written to or beside: .h5, which has a place for them, else no DICOM."""
    return min(output, key=lambda path: (not is_hdf5(path), _is_dicom(path)))


def _read(
    path: Path, energy: float | None, files: SpectOptions, output: list[Path], like: Path | None
) -> tuple[Measurements, Path | None]:
    """Return the measurements of an HDF5 file or of a camera's, and the DICOM file whose study an output takes."""
    from ..io.file_kinds import file_kind

    kind = file_kind(path) if path.is_file() else ""
    if kind in _CAMERA:
        data, said = spect_measurements(path, energy, files)
        print(f"{path}: {said}")
        if like is None and kind == "dicom_nm" and any(map(_is_dicom, output)):
            like = path
        return with_response(path, data), like
    given = files.given() + (["--energy"] if energy is not None else [])
    if given:
        what = ", ".join("further files" if name == "--more" else name for name in given)
        raise ValueError(f"{what}: for the files of a camera, {path} is none; leave it out, or name the camera's file")
    return read_problem(path), like


def _check_outputs(output: list[Path], data: Measurements, like: Path | None, overwrite: bool) -> None:
    """Refuse outputs that have no place for the volume, before it is computed."""
    from ..io import check_image_output

    if like is not None and not any(map(_is_dicom, output)):
        raise ValueError(f"--like is for a .dcm output, got {output[0].name}; leave it out")
    for path in output:
        if _is_dicom(path) and data.operator != "spect":
            raise ValueError(f"output {path}: DICOM NM is for volumes of SPECT, this is {data.operator}; use .h5")
        if not is_hdf5(path):
            if not _is_dicom(path):
                check_image_output(path, 1, volume=is_volume(data), overwrite=overwrite)
            if len(data.y) != 1:
                raise ValueError(f"output {path} holds one volume, the result has {len(data.y)}; use an .h5 file")


def _width_mm(text: str) -> float:
    """Return a width such as 8mm in mm."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(mm|cm)", text.strip())
    width = float(found[1]) * _MM[found[2]] if found else math.nan
    if not width > 0:  # NaN fails too
        raise ValueError(f"--post-filter must be a width above 0 with its unit, such as 8mm or 1cm, got {text!r:.40}")
    return width
