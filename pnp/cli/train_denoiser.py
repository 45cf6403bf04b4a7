"""The command `pnp train denoiser`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Device, Overwrite, choose_device
from .training_options import CheckpointMinutes, Minutes, Resume, Steps, Weights, budget, stoppable


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

    from .. import training
    from ..lensing.training_set import convergence_set
    from ..training import processes
    from ..training.photographs import photograph_set

    if kind not in ARCHITECTURES:
        raise ValueError(f"--kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    if kind == "convergence" and data is not None:
        raise ValueError(f"--data {data}: convergence is simulated; leave it out, or choose another --kind")
    if kind != "convergence" and data is None:
        raise ValueError("--data is missing: give a folder of images to train on")
    given: dict[str, Any] = {"steps": steps, "minutes": minutes, "optimizer": optimizer, "seed": seed}
    given |= {} if batch is None else {"batch": batch}
    training.TrainingOptions(**given)
    where = choose_device(device)
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
    with processes.joined(where) as here:
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
        if processes.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"{job.measure} {job.validate(model):.3f}"
        about = {"command": shlex.join(["pnp", *sys.argv[1:]]), "data": job.about, "length": length, "held out": value}
        model.save(output, about={**about, "processes": str(processes.size())})
        print(f"{output}: {length}; {value} on held-out images")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, e.g. 0.02,0.03, got {text!r}") from None
