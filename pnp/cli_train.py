"""The `pnp train` command: the networks of this package, on data of your own.

Exit codes: 2 for bad input; 130 for Ctrl-C and 143 for SIGTERM, both after a checkpoint has been written.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_budget import CheckpointMinutes, Minutes, Resume, Steps, Weights, budget, stoppable
from .cli_options import Device, Overwrite
from .cli_train_spect import spect

__all__ = ["train"]

train = typer.Typer(help="Train the networks of this package.", no_args_is_help=True, rich_markup_mode=None)


@train.callback()
def _train() -> None:
    """Train the networks of this package."""


@train.command("denoiser")
def train_denoiser(
    output: Weights,
    kind: Annotated[
        str, typer.Option(help="Architecture and data: gray or color (photographs), convergence (simulated).")
    ] = "gray",
    data: Annotated[Path | None, typer.Option(help="Folder of photographs, searched with its subfolders.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Weights to begin with, of the package or a file: fine-tunes them on your data.")
    ] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a step, of all processes; default 12, convergence 4.")
    ] = None,
    crop: Annotated[int, typer.Option(help="Side of the crops of photographs in pixels, at most 128.")] = 96,
    optimizer: Annotated[str, typer.Option(help="muon (with AdamW for what is no hidden layer) or adamw.")] = "muon",
    precision: Annotated[
        str, typer.Option(help="auto (bfloat16 where the processor multiplies it), float32 or bfloat16.")
    ] = "auto",
    std: Annotated[
        str, typer.Option(help="Standard deviations of simulated convergence, drawn at random, comma-separated.")
    ] = "0.015,0.02,0.025,0.03",
    pixel_arcmin: Annotated[float, typer.Option(help="Side of a pixel of simulated convergence.")] = 0.29,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the crops and the noise.")] = 0,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 3.0,
    validate_minutes: Annotated[
        float | None, typer.Option(help="Minutes of training between validations; default: as checkpoints.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train a denoiser. A run that was stopped goes on with --resume; with a larger budget, so does a finished one.

    With torchrun the processes, a GPU each, share every batch; a run is resumed with as many as began it.

    \b
    Examples:
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors --resume
      pnp train denoiser --data slices/ --start gray --minutes 20 -o slices.safetensors
      pnp train denoiser --data photographs/ --kind color --steps 20000 -o color.safetensors
      pnp train denoiser --kind convergence --std 0.018 -o kappa.safetensors
      torchrun --nproc-per-node=2 $(which pnp) train denoiser --data photographs/ -o gray.safetensors
    """
    checkpoint, minutes = budget(output, resume, overwrite, steps, minutes)

    import torch

    from denoisers.mlpatch import ARCHITECTURES, MLPatch

    from . import distributed, training
    from .training_sets import convergence_set, photograph_set

    if kind not in ARCHITECTURES:
        raise ValueError(f"--kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    if kind == "convergence" and data is not None:
        raise ValueError(f"--data {data}: convergence is simulated; leave it out, or choose another --kind")
    if kind != "convergence" and data is None:
        raise ValueError("--data is missing: give a folder of images to train on")
    given: dict[str, Any] = {"steps": steps, "minutes": minutes, "optimizer": optimizer, "seed": seed}
    given |= {} if batch is None else {"batch": batch}
    training.TrainingOptions(**given)
    where = distributed.choose_device(device)
    torch.manual_seed(seed)
    model = MLPatch(**ARCHITECTURES[kind], precision=precision)
    if start is not None:
        begin = MLPatch.from_pretrained(start)
        if begin.config() != model.config():
            raise ValueError(f"--start {start} is another architecture than --kind {kind}; choose the --kind it is of")
        model.load_state_dict(begin.state_dict())
    if data is not None:
        job = photograph_set(data, channels=model.channels, crop=crop)
    else:
        job = convergence_set(_numbers("--std", std), pixel_arcmin)
    with distributed.joined(where) as here:
        with stoppable(checkpoint):
            training.train_denoiser(
                model.to(here),
                job.sampler,
                job.levels,
                replace(job.options, **given),
                checkpoint=checkpoint,
                resume=resume,
                validate=job.validate,
                checkpoint_minutes=checkpoint_minutes,
                validate_minutes=validate_minutes,
            )
        if distributed.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"{job.measure} {job.validate(model):.3f}"
        about = {"command": shlex.join(["pnp", *sys.argv[1:]]), "data": job.about, "length": length, "held out": value}
        model.save(output, about={**about, "processes": str(distributed.size())})
        print(f"{output}: {length}; {value} on held-out images")


@train.command("glimpse")
def train_glimpse(
    output: Weights,
    views: Annotated[int, typer.Option(help="Views, uniform over half a turn from 0.")] = 30,
    size: Annotated[int, typer.Option(help="Side of the slices in pixels.")] = 128,
    detectors: Annotated[int | None, typer.Option(help="Bins; default: the least that see the whole slice.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of slices, images without negative values; default: simulated chests.")
    ] = None,
    slices: Annotated[int, typer.Option(help="How many slices are simulated.")] = 400,
    noise_db: Annotated[float, typer.Option(help="Decibels by which the noise is below the measurements.")] = 40.0,
    pointwise: Annotated[
        bool, typer.Option("--pointwise", help="The original's kind: no point hears its neighbours.")
    ] = False,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int, typer.Option(help="Slices a step, of all processes.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the slices and the noise.")] = 0,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 3.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train GLIMPSE for a parallel-beam scan: pixels of a slice from the projections around their sinusoids.

    Bins are as wide as pixels, the axis is at the detector's middle. The weights are used from Python:
    pnp.learned.load_glimpse("chest30.safetensors")(y), y (B, 1, views, bins), gives attenuation per pixel. For a scan
    with another geometry see docs/bring_your_data_ct.md. The last slices by name are held out.

    \b
    Examples:
      pnp train glimpse --views 30 --size 128 --minutes 30 -o chest30.safetensors
      pnp train glimpse --data slices/ --size 256 --views 60 --minutes 60 -o slices60.safetensors --resume
    """
    checkpoint, minutes = budget(output, resume, overwrite, steps, minutes)
    if not noise_db > 0:
        raise ValueError(f"--noise-db must be above 0, e.g. 40, got {noise_db}")
    for option, number, least in (("--views", views, 1), ("--size", size, 32), ("--slices", slices, 2)):
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch

    from operators import Radon

    from . import distributed, training
    from .learned import Glimpse, Pairs, add_noise, held_out_psnr, mean_psnr, save_glimpse
    from .learned.glimpse_data import ARCHITECTURES, chests, folder_slices

    options = training.TrainingOptions(steps=steps, minutes=minutes, batch=batch, seed=seed)
    where = distributed.choose_device(device)
    kind = "pointwise" if pointwise else "local"
    radon = Radon((size, size), torch.arange(views, dtype=torch.float64) * (torch.pi / views), n_detectors=detectors)
    torch.manual_seed(seed)
    architecture, patches = ARCHITECTURES[kind]
    model = Glimpse(radon.shape, radon.angles, n_detectors=radon.n_detectors, **architecture)
    images, about = folder_slices(data, size) if data is not None else chests(slices, size, seed)
    held_out = min(16, max(1, len(images) // 20))
    sinograms = torch.cat([radon.A(x[None]) for x in images])
    noisy = add_noise(sinograms[-held_out:], noise_db, torch.Generator().manual_seed(10**6))
    measure = held_out_psnr(images[-held_out:], noisy)
    with distributed.joined(where) as here:
        task = Pairs(model.to(here), images[:-held_out], sinograms[:-held_out], noise_db=noise_db, **patches)
        with stoppable(checkpoint):
            training.train(
                task,
                options,
                checkpoint=checkpoint,
                resume=resume,
                validate=measure,
                checkpoint_minutes=checkpoint_minutes,
            )
        if distributed.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"PSNR {measure(model):.2f} dB"
        fbp = mean_psnr(lambda y: radon.fbp(y, window="hann"), noisy, images[-held_out:])
        command = shlex.join(["pnp", *sys.argv[1:]])
        save_glimpse(model, output, about={"command": command, "data": about, "length": length, "held out": value})
        print(f"{output}: {length}; {value} on {held_out} held-out slices, filtered back-projection {fbp:.2f} dB")


train.command("spect")(spect)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, e.g. 0.02,0.03, got {text!r}") from None
