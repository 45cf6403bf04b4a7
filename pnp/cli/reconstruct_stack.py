"""`pnp reconstruct-stack`: every slice of a stack by itself, on the cores of this machine or on a Dask cluster."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Device, choose_device
from .output import INTERRUPTED, complain
from .problem import build_denoiser, build_operator, parse_bounds, read_problem

if TYPE_CHECKING:
    from ..algorithms.poisson import Poisson
    from ..io import Measurements
    from ..stack import StackResult

SHOWN = 3
"""Failed slices that are named on stderr; all are in the result."""


def reconstruct_stack(
    measurements: Annotated[
        Path, typer.Argument(help="HDF5 file of measurements (n, C, ...), a slice each (docs/hdf5_layout.md).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Result: .zarr, or .h5, which is written at the end.")],
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; default: one a core. They share the cores' threads.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask cluster instead: tcp://host:8786. It must see both files.")
    ] = None,
    operator: Annotated[str | None, typer.Option(help="Needed where the file names none, as in reconstruct.")] = None,
    denoiser: Annotated[
        str, typer.Option(help="Name, weights after a colon: mlpatch:gray, mlpatch:convergence, tv.")
    ] = "mlpatch:gray",
    noise_std: Annotated[
        float | None, typer.Option(help="Noise of the measurements; default: the file's, else estimated by slice.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength of the prior.")] = 1.0,
    algorithm: Annotated[str, typer.Option(help="admm or hqs.")] = "admm",
    bounds: Annotated[
        str | None, typer.Option(help="Lowest and highest value of the images, e.g. 0,1 or 0,inf.")
    ] = None,
    max_iter: Annotated[int | None, typer.Option(help="Most iterations of a slice.")] = None,
    device: Device = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where other settings were used; replace an .h5 file.")
    ] = False,
) -> None:
    """Reconstruct the slices of a stack, or the fields of a survey, each by itself.

    Called again, it goes on where it stopped, however it stopped: what is finished is not computed twice, slices that
    failed are tried again. Exit code 0: all slices are there; 1: some failed; 130: interrupted.

    \b
    Examples:
      pnp reconstruct-stack scan.h5 -o volume.zarr --workers 2 --bounds 0,inf
      pnp reconstruct-stack survey.h5 -o maps.h5 --denoiser mlpatch:convergence
      pnp reconstruct-stack scan.h5 -o volume.zarr --scheduler tcp://head:8786
    """
    if workers is not None and scheduler is not None:
        raise ValueError("--workers is for this machine, --scheduler has workers of its own; give one of them")
    if output.suffix.lower() not in (".zarr", ".h5", ".hdf5"):
        raise ValueError(f"output {output} must be a .zarr folder or an .h5 file")
    from ..stack.cluster import require

    try:
        require("pnp reconstruct-stack")
    except ImportError as error:
        raise ValueError(str(error)) from None
    from denoisers.adapters import PerChannel, SliceWise

    from ..stack import solve_stack

    limits = parse_bounds(bounds)
    choose_device(device)  # a device that is not here is not on our workers either
    data = _first_slice(measurements, operator)
    if operator is not None and operator != data.operator:
        raise ValueError(f"--operator {operator}: {measurements} was measured with {data.operator!r}; leave it out")
    is_counts = data.operator == "spect" or data.background is not None
    channels = 1 if data.operator == "kaiser_squires" or data.y.ndim != 4 else data.y.shape[1]
    D = build_denoiser(denoiser, choose_device("cpu"))
    if data.operator == "spect":
        D = SliceWise(D, axes=(0, 1, 2))
    elif channels != 1 and getattr(D, "channels", None) == 1:
        D = PerChannel(D)
    options: dict[str, Any] = {"algorithm": algorithm, "strength": strength}
    if is_counts:
        options |= {"data_term": PoissonOfFile(measurements.resolve()), "bounds": (0.0, None)}
    options |= {} if limits is None else {"bounds": limits}
    options |= {} if max_iter is None else {"max_iter": max_iter}
    with ExitStack() as opened:
        result = solve_stack(
            build_operator(data.operator, data.parameters),
            measurements,
            D,
            output=output,
            client=None if scheduler is None else opened.enter_context(_connected(scheduler)),
            n_workers=workers,
            noise_std=noise_std,
            device=device,
            overwrite=overwrite,
            progress=True,
            **options,
        )
    _report(result)


class PoissonOfFile:
    """The Poisson data term of slice k, with the background that the file has for it.

    Args:
        path: the file of measurements, which the workers read.
    """

    needs_noise_std = False

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __call__(self, k: int) -> Poisson:
        """Return the data term of slice k."""
        import torch

        from ..algorithms.poisson import Poisson
        from ..stack.sources import FileSource

        source = FileSource(self.path, "pnp reconstruct-stack")
        background = source.beside("background")
        if background is None or isinstance(background, float):
            return Poisson(background=background or 0.0)
        if background.ndim == source.ndim:
            values = background[k : k + 1] if background.shape[0] == source.shape[0] else background[0:1]
        else:
            values = background[()]
        return Poisson(background=torch.from_numpy(values))


def _first_slice(path: Path, operator: str | None) -> Measurements:
    """Read what the file says of the operator, and the first slice: all of them may not fit into memory."""
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


def _connected(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, set_as_default=False, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"--scheduler {address} does not answer ({error!s:.120}); is it running?") from error


def _report(result: StackResult) -> None:
    rate = f", {3600 * result.computed / result.seconds:.0f} an hour" if result.computed else ""
    print(f"{result.output}: {result.done} of {result.n} slices, {result.computed} in this run{rate}")
    for k, reason in list(result.failed.items())[:SHOWN]:
        complain(f"slice {k} failed: {reason}")
    if len(result.failed) > SHOWN:
        complain(f"{len(result.failed)} slices failed in all; the others' reasons are in the result")
    if result.interrupted:
        complain("interrupted; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    if result.failed:
        raise typer.Exit(1)
