"""The command `pnp reconstruct`: measurements to an image, with the operator that the file or the options name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import CheckpointFile, CheckpointMinutes, Device, Overwrite, as_checkpoint, choose_device, goes_on
from .output import INTERRUPTED, save
from .problem import background, build_denoiser, build_operator, is_hdf5, parse_bounds, read_problem

if TYPE_CHECKING:
    from torch import Tensor


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
    from ..io import check_image_output, check_output

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

    from ..algorithms.poisson import Poisson
    from ..drivers.signals import uninterrupted
    from ..drivers.solve import solve

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
    with uninterrupted():  # what took the time is not lost to an impatient Ctrl-C
        written = save(output, result, data, {"denoiser": denoiser}, overwrite)
        if kept is not None:
            kept.path.unlink(missing_ok=True)
        if is_counts:
            noise = f"Poisson noise, background {'0' if data.background is None else 'from the file'}, {denoiser}"
        else:
            source = (
                "estimated" if result.noise_estimated else "--noise-std" if noise_std is not None else "from the file"
            )
            noise = f"noise {_typical(result.noise_std):.3g} ({source})"
        print(f"{written}: {result.n_iter} iterations, {noise}; {result.stop}")
    if result.stop.name == "INTERRUPTED":
        raise typer.Exit(INTERRUPTED)
    if written != output:
        raise typer.Exit(2)


def _typical(noise_std: Any) -> float:
    """Return the median of the noise levels that are finite."""
    import numpy as np
    import torch

    values = noise_std.cpu().numpy() if isinstance(noise_std, torch.Tensor) else np.asarray(noise_std)
    return float(np.median(values[np.isfinite(values)]))
