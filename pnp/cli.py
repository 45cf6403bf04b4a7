"""The `pnp` command: reconstruct, reconstruct-stack, osem, convert, report, denoise, train, info.

Heavy packages are imported inside the commands, so that `pnp --help` answers at once. Bad input is one
sentence on stderr and exit code 2, a full disk as well; Ctrl-C during a reconstruction writes the last iterate, or
the checkpoint where there is one, and gives exit code 130.
"""

from __future__ import annotations

import importlib.metadata
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_em import convert, osem
from .cli_files import (
    INTERRUPTED,
    background,
    build_denoiser,
    build_operator,
    complain,
    free_name,
    is_hdf5,
    parse_bounds,
    read_problem,
    save,
)
from .cli_options import CheckpointFile, CheckpointMinutes, Device, Overwrite, as_checkpoint, goes_on
from .cli_report import report
from .cli_stack import reconstruct_stack
from .cli_train import train

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["app", "main"]

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch says so, on one device or another."""

app = typer.Typer(
    name="pnp",
    help="Plug-and-play image reconstruction with local neural networks.",
    epilog="Example: pnp reconstruct measurements.h5 -o result.h5",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(train, name="train")
app.command()(osem)
app.command()(convert)
app.command()(report)
app.command()(reconstruct_stack)


def main() -> None:
    """Run the command line; explain what is wrong with the input in one sentence, with exit code 2."""
    try:
        with warnings.catch_warnings():
            shown = warnings.showwarning
            warnings.showwarning = lambda w, *rest: complain(str(w)) if "checkpoint:" in str(w) else shown(w, *rest)
            app()
    except (ValueError, TypeError, OSError) as error:
        complain(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        complain(f"out of memory: take smaller images, fewer at a time, or another --device ({error})")
        sys.exit(2)


@app.command()
def reconstruct(
    measurements: Annotated[Path, typer.Argument(help="HDF5 file of measurements (docs/hdf5_layout.md).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Result: .h5 with everything, an image, or a volume in .nii.gz.")
    ],
    operator: Annotated[
        str | None,
        typer.Option(help="radon, fan_beam, mask, blur, kaiser_squires, spect; needed where the file names none."),
    ] = None,
    denoiser: Annotated[
        str, typer.Option(help="Name, weights after a colon: mlpatch:gray, mlpatch:color, mlpatch:convergence, tv.")
    ] = "mlpatch:gray",
    noise_std: Annotated[
        float | None, typer.Option(help="Noise of the measurements; default: the file's, else estimated.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength of the prior.")] = 1.0,
    algorithm: Annotated[str, typer.Option(help="admm or hqs.")] = "admm",
    bounds: Annotated[
        str | None, typer.Option(help="Lowest and highest value of the image, e.g. 0,1 or 0,inf.")
    ] = None,
    max_iter: Annotated[int | None, typer.Option(help="Most iterations.")] = None,
    checkpoint: CheckpointFile = None,
    checkpoint_minutes: CheckpointMinutes = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Reconstruct an image from measurements, or a volume from the views of SPECT.

    Measurements of SPECT, and those with a background, are counts: their Poisson likelihood is used, and 0,inf where
    there are no --bounds. Volumes are denoised slice by slice, across all three axes.

    \b
    Examples:
      pnp reconstruct --operator radon measurements.h5 -o result.h5
      pnp reconstruct sinogram.h5 -o slice.tif --bounds 0,inf --denoiser tv
      pnp reconstruct shear.h5 -o kappa.fits --denoiser mlpatch:convergence
      pnp reconstruct --operator spect scan.h5 -o volume.nii.gz --checkpoint volume.checkpoint
    """
    from .io import check_image_output, check_output

    check_output(output, overwrite=overwrite)
    kept = as_checkpoint(checkpoint, checkpoint_minutes, output)
    limits = parse_bounds(bounds)
    data = read_problem(measurements, operator)
    is_volume, is_counts = data.operator == "spect", data.operator == "spect" or data.background is not None
    channels = 1 if data.operator == "kaiser_squires" or data.y.ndim != 4 else data.y.shape[1]
    if not is_hdf5(output):
        check_image_output(output, channels, volume=is_volume, overwrite=overwrite)
        if data.y.ndim >= 4 and data.y.shape[0] != 1:
            raise ValueError(f"output {output} holds one image, the result has {data.y.shape[0]}; use an .h5 file")
    if operator is not None and operator != data.operator:
        raise ValueError(f"--operator {operator}: {measurements} was measured with {data.operator!r}; leave it out")

    import torch

    from denoisers.adapters import PerChannel, SliceWise

    from .algorithms.poisson import Poisson
    from .distributed import choose_device
    from .drivers.solve import solve

    where = choose_device(device)
    A = build_operator(data.operator, data.parameters).to(where)
    D = build_denoiser(denoiser, where)
    if is_volume:
        D, denoiser = SliceWise(D, axes=(0, 1, 2)), f"{denoiser}, slices across x, y and z"
    elif channels != 1 and getattr(D, "channels", None) == 1:
        D = PerChannel(D)
    y = torch.from_numpy(data.y).to(where)
    y = y if y.dtype == torch.float64 else y.float()
    std: float | Tensor | None = noise_std
    if std is None and data.noise_std is not None:
        std = torch.as_tensor(data.noise_std, dtype=y.dtype, device=where)
    term = Poisson(background=background(data, y)) if is_counts else None

    result = solve(
        A,
        y,
        D,
        noise_std=std,
        algorithm=algorithm,
        strength=strength,
        bounds=(0.0, None) if is_counts and limits is None else limits,
        data_term=term,
        max_iter=max_iter,
        checkpoint=kept,
        progress=True,
    )
    goes_on(kept, result)
    written = save(output, result, data, {"denoiser": denoiser}, overwrite)
    if kept is not None:
        kept.path.unlink(missing_ok=True)
    if is_counts:
        noise = f"Poisson noise, background {'0' if data.background is None else 'from the file'}, {denoiser}"
    else:
        source = "estimated" if result.noise_estimated else "--noise-std" if noise_std is not None else "from the file"
        noise = f"noise {_typical(result.noise_std):.3g} ({source})"
    print(f"{written}: {result.n_iter} iterations, {noise}; {result.stop}")
    if result.stop.name == "INTERRUPTED":
        raise typer.Exit(INTERRUPTED)
    if written != output:
        raise typer.Exit(2)


@app.command()
def denoise(
    image: Annotated[Path, typer.Argument(help="PNG, TIFF, NPY, FITS or HDF5 image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Denoised image: .png, .tif, .npy, .fits, .h5.")],
    sigma: Annotated[float, typer.Option(help="Noise standard deviation in units of the image; PNG, JPEG: 0 to 1.")],
    weights: Annotated[
        str | None, typer.Option(help="gray, color, ..., or a file. Default: color for colour PNG, JPEG, else gray.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels between patches: 2, or 1 (shift-equivariant).")] = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Remove white Gaussian noise from an image: channel by channel, or together with weights for colour.

    PNG and JPEG images are scaled to [0, 1]; TIFF, NPY, FITS and HDF5 keep their values, and 8 bits in a TIFF file
    are 0 to 255.

    \b
    Examples:
      pnp denoise image.png --sigma 0.1 -o out.png
      pnp denoise slice.tif --sigma 12.5 -o slice_denoised.tif
    """
    import numpy as np

    from .io import check_image_output, check_output, png_bits, read_image, write_image

    check_output(output, overwrite=overwrite)
    pixels = read_image(image)
    channels = 1 if pixels.ndim == 2 else pixels.shape[0]
    check_image_output(output, channels, overwrite=overwrite)
    bad = pixels.size - int(np.isfinite(pixels).sum())
    if bad:
        raise ValueError(f"{image} must be finite, got NaN or infinity in {bad} of {pixels.size} pixels; fill them")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"--sigma must be a finite number, at least 0, in units of the image, got {sigma}")

    import torch

    from denoisers import MLPatch

    from .distributed import choose_device

    where = choose_device(device)
    is_picture = image.suffix.lower() in (".png", ".jpg", ".jpeg")
    # Three channels of another format may be anything, three slices of a volume for one.
    weights = weights or ("color" if is_picture and channels == 3 else "gray")
    D = MLPatch.from_pretrained(weights).to(where)
    x = torch.from_numpy(pixels).to(where)
    if D.channels not in (1, channels):
        raise ValueError(f"--weights {weights} take {D.channels} channels, {image} has {channels}; use --weights gray")
    # Weights for one channel see the channels as a batch of grey images, those for colour see them together.
    images = x.reshape(-1, 1, *x.shape[-2:]) if D.channels == 1 else x.reshape(1, -1, *x.shape[-2:])
    start = time.perf_counter()
    with torch.no_grad():
        z = D(images, sigma, stride=stride, progress=True).reshape(x.shape)
    denoised = z.cpu().numpy()
    written = output if is_picture else free_name(output, denoised)
    write_image(written, denoised, bits=png_bits(image), overwrite=overwrite and written == output)
    print(f"{written}: {' x '.join(map(str, x.shape))} in {time.perf_counter() - start:.2f} s")
    if written != output:
        raise typer.Exit(2)


@app.command()
def info() -> None:
    """Show versions, devices, operators, denoisers and the weights that come with the package.

    \b
    Example:
      pnp info
    """
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    import denoisers
    import operators
    from denoisers import weight_files

    console = Console()
    table = Table(show_header=False, box=None)
    table.add_row("python", platform.python_version())
    for package in ("pnp-local", "torch", "numpy", "scipy", "finufft", "deepinv"):
        table.add_row(package, _version(package))
    cuda = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cuda]))
    table.add_row("operators", ", ".join(sorted(operators.OPERATORS)))
    table.add_row("denoisers", ", ".join(sorted(denoisers.DENOISERS)))
    console.print(table)
    for path in (weight_files.FOLDER / f"{name}.safetensors" for name in weight_files.available(denoisers.MLPatch)):
        console.print(f"\n[bold]mlpatch:{path.stem}[/bold]  {path.stat().st_size / 1e6:.1f} MB")
        card = path.with_suffix(".md")
        if card.is_file():
            console.print(card.read_text(encoding="utf-8").strip(), markup=False, highlight=False)


def _typical(noise_std: Any) -> float:
    """Return the median of the noise levels that are finite."""
    import numpy as np
    import torch

    values = noise_std.cpu().numpy() if isinstance(noise_std, torch.Tensor) else np.asarray(noise_std)
    return float(np.median(values[np.isfinite(values)]))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
