"""Options of the commands of `pnp train`: output, budget, checkpoint and interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .output import print_error

DEFAULT_MINUTES = 60.0

WeightsFile = Annotated[Path, typer.Option("--output", "-o", help="File for the weights: .safetensors.")]
Steps = Annotated[
    int | None, typer.Option(help="Number of optimiser steps, instead of --minutes; deterministic on the CPU.")
]
Minutes = Annotated[float | None, typer.Option(help=f"Minutes of training; default: {DEFAULT_MINUTES:g}.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume from OUTPUT.checkpoint if it exists, and replace OUTPUT.")
]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes of training between checkpoints.")]
Seed = Annotated[int, typer.Option(help="Seed of the weights, the training data and the noise.")]


def checkpoint_and_minutes(
    output: Path, resume: bool, overwrite: bool, steps: int | None, minutes: float | None
) -> tuple[Path, float | None]:
    """Return the path of the checkpoint and the budget in minutes; check files and budget before training."""
    from ..io import check_output

    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output.name!r}")
    # If a checkpoint is resumed, the weights beside it are of the same run.
    check_output(output, overwrite=overwrite or (resume and checkpoint.exists()))
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: resume from it with --resume, or remove it to restart")
    if steps is not None and minutes is not None:
        raise ValueError(f"give --steps or --minutes, got both ({steps} and {minutes:g})")
    return checkpoint, DEFAULT_MINUTES if steps is None and minutes is None else minutes


def print_trained(output: Path, length: str, score: str, held_out: str, baseline: str) -> None:
    """Print the last line of a training.

    Args:
        output: file of the weights.
        length: steps and minutes.
        score: quality of the trained network.
        held_out: number of held-out examples and what they are, e.g. "16 slices".
        baseline: a simple method and its score on the same examples.
    """
    number, _, kind = held_out.partition(" ")
    print(f"{output}: {length}; {score} on {number} held-out {kind}; {baseline}")


@contextmanager
def exit_on_interrupt(checkpoint: Path) -> Iterator[None]:
    """If training is interrupted, name the checkpoint and exit with 128 + the number of the signal."""
    from .. import training
    from ..training import processes

    try:
        yield
    except training.Interrupted as stop:
        if processes.rank() == 0:
            print_error(f"{stop}; the checkpoint is {checkpoint}; resume from it with --resume")
        raise typer.Exit(128 + stop.number) from None
