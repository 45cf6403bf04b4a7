"""The command `pnp reconstruct-stack`: every slice of a stack by itself, on this machine or on a Dask cluster."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .option_groups import with_option_groups
from .options import (
    CommonErrorOptions,
    Device,
    SolveOptions,
    Volume,
    WorkerOptions,
    choose_device,
    least_squares,
    parse_bounds,
)
from .output import INTERRUPTED, print_error, print_warning
from .problem import (
    build_denoiser,
    build_operator,
    check_common_errors,
    check_operator,
    check_sizes,
    is_counts,
    needs_volumes,
    read_problem,
)
from .reconstruct_volume import check_stack_as_volume, solve_volume

if TYPE_CHECKING:
    from ..algorithms.poisson import Poisson
    from ..io import Measurements
    from ..stack import StackResult

MAX_FAILURES_SHOWN = 3
"""Maximum number of failed slices that are named on stderr; the result has all of them."""


@with_option_groups
def reconstruct_stack(
    measurements: Annotated[
        Path, typer.Argument(help="HDF5 file of measurements (n, C, ...), one slice per entry (docs/hdf5_layout.md).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Result: .zarr, or .h5, which is written at the end.")],
    *,
    machines: WorkerOptions,
    solving: SolveOptions,
    errors: CommonErrorOptions,
    device: Device = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Restart a run that had other settings; replace an .h5 file.")
    ] = False,
    volume: Volume = None,
) -> None:
    """Reconstruct every slice of a stack by itself.

    With --volume the slices of radon are one volume, with a prior across slices, as they are with a denoiser of
    volumes. The entries of a file may also be the fields of a survey. After a stop of any kind the same command
    resumes: finished slices are not computed again, failed slices are retried. The median of the misfits is printed,
    and each distinct warning once, as "warning: ..." on stderr, with its slices. The exit code is 0 if all slices are
    finished, with or without warnings, 1 if some failed, 130 after Ctrl-C.

    \b
    Examples:
      pnp reconstruct-stack scan.h5 -o volume.zarr --workers 2 --bounds 0,inf
      pnp reconstruct-stack scan.h5 -o volume.zarr --robust
      pnp reconstruct-stack scan.h5 -o volume.zarr --volume --denoiser tv
      pnp reconstruct-stack survey.h5 -o maps.h5 --denoiser mlpatch:convergence
      pnp reconstruct-stack scan.h5 -o volume.zarr --scheduler tcp://head:8786
    """
    if output.suffix.lower() not in (".zarr", ".h5", ".hdf5"):
        raise ValueError(f"output {output} must be a .zarr folder or an .h5 file")
    from ..stack.cluster import require

    try:
        require("pnp reconstruct-stack")
    except ImportError as error:
        raise ValueError(str(error)) from None
    from ..stack import solve_stack

    limits = parse_bounds(solving.bounds)
    choose_device(device)  # a device that this machine lacks, its workers lack too
    data = _first_slice(measurements, solving.operator)
    check_operator(solving.operator, data, measurements)
    check_common_errors(errors, data, measurements)
    A = build_operator(data.operator, data.parameters)
    check_sizes(A, data, measurements)
    D = build_denoiser(solving.denoiser, choose_device("cpu"))
    volume = bool(volume) or needs_volumes(D)
    if volume:
        check_stack_as_volume(data, measurements)
    D = build_denoiser(solving.denoiser, choose_device("cpu"), data, volume=volume)
    options = {name: value for name, value in solving.solver().items() if value is not None}
    if is_counts(data):
        options |= {"data_term": PoissonFromFile(measurements.resolve(), robust=solving.robust), "bounds": (0.0, None)}
    elif solving.robust or errors.rings or errors.drift:
        options |= {"data_term": least_squares(solving.robust, errors)}
    options |= {} if limits is None else {"bounds": limits}
    with ExitStack() as opened:
        result = (solve_volume if volume else solve_stack)(
            A,
            measurements,
            D,
            output=output,
            client=None if machines.scheduler is None else opened.enter_context(connect(machines.scheduler)),
            n_workers=machines.workers,
            noise_std=solving.noise_std,
            device=device,
            overwrite=overwrite,
            progress=True,
            **options,
        )
    print_summary(result)


class PoissonFromFile:
    """The Poisson data term of slice k, with that slice's background from the file.

    Args:
        path: file of measurements, which the workers read.
        robust: as of `Poisson`.
    """

    needs_noise_std = False

    def __init__(self, path: Path, *, robust: bool = False) -> None:
        self.path, self.robust = str(path), robust

    def __call__(self, k: int) -> Poisson:
        """Return the data term of slice k."""
        import torch

        from ..algorithms.poisson import Poisson
        from ..stack.sources import FileSource

        source = FileSource(self.path, "pnp reconstruct-stack")
        background = source.sibling("background")
        if background is None or isinstance(background, float):
            return Poisson(background=background or 0.0, robust=self.robust)
        if background.ndim == source.ndim:
            values = background[k : k + 1] if background.shape[0] == source.shape[0] else background[0:1]
        else:
            values = background[()]
        return Poisson(background=torch.from_numpy(values), robust=self.robust)


def _first_slice(path: Path, operator: str | None) -> Measurements:
    """Read the operator of a file and its first slice; all slices may not fit into memory."""
    import h5py

    from ..io.hdf5_safe import numbers, open_hdf5

    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / path.name
        with open_hdf5(path) as file, h5py.File(head, "w") as small:
            for name in ("operator", "measurements"):
                if name not in file:
                    raise ValueError(f"{path} must have /{name}; see docs/hdf5_layout.md")
            file.copy("operator", small)
            small["measurements"] = numbers(path, file["measurements"], slice(0, 1))
            if "background" in file:
                small["background"] = 0.0
        try:
            return read_problem(head, operator)
        except ValueError as error:
            raise ValueError(str(error).replace(str(head), str(path))) from error


def connect(address: str) -> Any:
    """Return a client of the Dask cluster at an address."""
    from distributed import Client

    try:
        return Client(address, set_as_default=False, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"--scheduler {address} does not answer ({error!s:.120}); is it running?") from error


def print_summary(result: StackResult) -> None:
    """Print what is finished, what looks wrong and what failed; exit with 1 or 130 unless all slices are finished."""
    from ..stack.stack_result import sentences

    rate = f", {3600 * result.computed / result.seconds:.0f} per hour" if result.computed else ""
    print(f"{result.output}: {result.done} of {result.n} slices, {result.computed} in this run{rate}")
    if result.misfits:
        print(result.verdict)
    if result.choice:
        print(result.choice)
    for sentence in sentences(result.warnings, result.n):
        print_warning(sentence)
    for k, reason in list(result.failed.items())[:MAX_FAILURES_SHOWN]:
        print_error(f"slice {k} failed: {reason}")
    if len(result.failed) > MAX_FAILURES_SHOWN:
        print_error(f"{len(result.failed)} slices failed in total; the result has the other reasons")
    if result.stop is not None:
        print_error("interrupted; the same command resumes")
        raise typer.Exit(INTERRUPTED)
    if result.failed:
        raise typer.Exit(1)
