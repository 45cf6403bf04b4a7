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

from .cli_options import Device, Overwrite

__all__ = ["train"]

DEFAULT_MINUTES = 60.0

train = typer.Typer(help="Train the networks of this package.", no_args_is_help=True, rich_markup_mode=None)


# With one command alone typer would take `pnp train` for it.
@train.callback()
def _train() -> None:
    """Train the networks of this package."""


@train.command("denoiser")
def train_denoiser(
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights to write: a .safetensors file.")],
    kind: Annotated[
        str, typer.Option(help="Architecture and data: gray or color (photographs), convergence (simulated).")
    ] = "gray",
    data: Annotated[Path | None, typer.Option(help="Folder of photographs, searched with its subfolders.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Weights to begin with, of the package or a file: fine-tunes them on your data.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in optimiser steps: deterministic on the CPU.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help=f"Budget in minutes of training; default {DEFAULT_MINUTES:g}.")
    ] = None,
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
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from OUTPUT.checkpoint, where there is one, and replace its OUTPUT."),
    ] = False,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes of training between checkpoints.")] = 3.0,
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
    from .io import check_output

    # What is cheap to check comes first, then the data, then the work.
    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output.name!r}")
    # Weights beside a checkpoint that is resumed are those of the same run.
    check_output(output, overwrite=overwrite or (resume and checkpoint.exists()))
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} is there already: go on from it with --resume, or remove it to start anew")
    if steps is not None and minutes is not None:
        raise ValueError(f"give --steps or --minutes, got both ({steps} and {minutes:g})")
    if steps is None and minutes is None:
        minutes = DEFAULT_MINUTES

    import torch

    from denoisers.mlpatch import ARCHITECTURES, MLPatch
    from denoisers.mlpatch.weights import save

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
        try:
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
        except training.Interrupted as stop:
            if distributed.rank() == 0:
                print(f"pnp: {stop}; the checkpoint is {checkpoint}, go on with --resume", file=sys.stderr)
            raise typer.Exit(128 + stop.number) from None
        if distributed.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"{job.measure} {job.validate(model):.3f}"
        about = {"command": shlex.join(["pnp", *sys.argv[1:]]), "data": job.about, "length": length, "held out": value}
        save(model, output, about={**about, "processes": str(distributed.size())})
        print(f"{output}: {length}; {value} on held-out images")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, e.g. 0.02,0.03, got {text!r}") from None
