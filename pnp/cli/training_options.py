"""Options of the commands of `pnp train`: output, budget, checkpoint and interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Device, Overwrite
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


@dataclass(frozen=True)
class Budget:
    """How long to train."""

    steps: Steps = None
    minutes: Minutes = None

    def arguments(self) -> dict[str, Any]:
        """Return the budget as arguments of `TrainingOptions`: the default is a time."""
        minutes = DEFAULT_MINUTES if self.steps is None and self.minutes is None else self.minutes
        return {"steps": self.steps, "minutes": minutes}


@dataclass(frozen=True)
class RunOptions:
    """Options of a training's run: seed, checkpoint, device and output."""

    seed: Seed = 0
    resume: Resume = False
    checkpoint_minutes: CheckpointMinutes = 3.0
    device: Device = "auto"
    overwrite: Overwrite = False

    def arguments(self, checkpoint: Path) -> dict[str, Any]:
        """Return the arguments of the training functions that these options give."""
        return {
            "checkpoint": checkpoint,
            "resume": self.resume,
            "checkpoint_minutes": self.checkpoint_minutes,
            "progress": True,
        }


def checkpoint_of(output: Path, budget: Budget, run: RunOptions) -> Path:
    """Return the path of the checkpoint; check files and budget before training."""
    from ..io import check_output

    resume, overwrite, steps, minutes = run.resume, run.overwrite, budget.steps, budget.minutes
    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output.name!r}")
    # If a checkpoint is resumed, the weights beside it are of the same run.
    check_output(output, overwrite=overwrite or (resume and checkpoint.exists()))
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: resume from it with --resume, or remove it to restart")
    if steps is not None and minutes is not None:
        raise ValueError(f"give --steps or --minutes, got both ({steps} and {minutes:g})")
    return checkpoint


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
