"""The command `pnp train glimpse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .option_groups import with_option_groups
from .options import choose_device
from .output import command_line
from .training_options import Budget, RunOptions, WeightsFile, checkpoint_of, exit_on_interrupt, print_trained


@with_option_groups
def train_glimpse(
    output: WeightsFile,
    *,
    views: Annotated[int, typer.Option(help="Number of views, uniform over half a turn from angle 0.")] = 30,
    size: Annotated[int, typer.Option(help="Side of the slices in pixels.")] = 128,
    detectors: Annotated[
        int | None, typer.Option(help="Number of detector bins; default: just enough to cover the slice.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of slices (images without negative values); default: simulated chests.")
    ] = None,
    slices: Annotated[int, typer.Option(help="Number of simulated slices.")] = 400,
    noise_db: Annotated[float, typer.Option(help="Signal-to-noise ratio of the measurements in dB.")] = 40.0,
    pointwise: Annotated[
        bool, typer.Option("--pointwise", help="Use the pointwise network of the original paper.")
    ] = False,
    budget: Budget,
    batch: Annotated[int, typer.Option(help="Slices per step, over all processes.")] = 8,
    run: RunOptions,
) -> None:
    """Train GLIMPSE for a parallel-beam scan.

    GLIMPSE reconstructs each pixel of a slice from the projections around its sinusoid. Detector bins are as wide as
    pixels, and the rotation axis is at the centre of the detector. Use the weights from Python:
    pnp.learned.Glimpse.from_pretrained("chest30.safetensors")(y), y (B, 1, views, bins), returns the attenuation per
    pixel. For other geometries see docs/bring_your_data_ct.md. The last slices in order of name are held out for
    validation.

    \b
    Examples:
      pnp train glimpse --views 30 --size 128 --minutes 30 -o chest30.safetensors
      pnp train glimpse --data slices/ --size 256 --views 60 --minutes 60 -o slices60.safetensors --resume
    """
    checkpoint = checkpoint_of(output, budget, run)
    if not noise_db > 0:
        raise ValueError(f"--noise-db must be above 0, e.g. 40, got {noise_db}")
    for option, number, least in (("--views", views, 1), ("--size", size, 32), ("--slices", slices, 2)):
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch

    from operators import Radon

    from .. import training
    from ..learned import Glimpse, PatchTask, add_noise, held_out_psnr, mean_psnr
    from ..learned.glimpse_data import ARCHITECTURES, chests, folder_slices
    from ..training import processes

    options = training.TrainingOptions(**budget.arguments(), batch=batch, seed=run.seed)
    where = choose_device(run.device)
    kind = "pointwise" if pointwise else "local"
    radon = Radon((size, size), torch.arange(views, dtype=torch.float64) * (torch.pi / views), n_detectors=detectors)
    torch.manual_seed(run.seed)
    architecture, patches = ARCHITECTURES[kind]
    model = Glimpse(radon.shape, radon.angles, n_detectors=radon.n_detectors, **architecture)
    images, about = folder_slices(data, size) if data is not None else chests(slices, size, run.seed, progress=True)
    held_out = min(16, max(1, len(images) // 20))
    sinograms = torch.cat([radon.A(x[None]) for x in images])
    noisy = add_noise(sinograms[-held_out:], noise_db, generator=torch.Generator().manual_seed(10**6))
    measure = held_out_psnr(noisy, images[-held_out:])
    with processes.joined(where) as here:
        task = PatchTask(model.to(here), images[:-held_out], sinograms[:-held_out], noise_db=noise_db, **patches)
        with exit_on_interrupt(checkpoint):
            training.train(
                task,
                options,
                validate=measure,
                **run.arguments(checkpoint),
            )
        if processes.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"PSNR {measure(model):.2f} dB"
        fbp = mean_psnr(lambda y: radon.fbp(y, window="hann"), noisy, images[-held_out:])
        facts = {"command": command_line(), "data": about, "length": length, "held out": value}
        model.save(output, about=facts)
        print_trained(output, length, value, f"{held_out} slices", f"filtered back-projection {fbp:.2f} dB")
