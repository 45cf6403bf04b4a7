"""What the commands of `pnp train` share: their budget, their checkpoint, and how they are interrupted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MINUTES = 60.0

Weights = Annotated[Path, typer.Option("--output", "-o", help="Weights to write: a .safetensors file.")]
Steps = Annotated[int | None, typer.Option(help="Budget in optimiser steps: deterministic on the CPU.")]
Minutes = Annotated[float | None, typer.Option(help=f"Budget in minutes of training; default {DEFAULT_MINUTES:g}.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from OUTPUT.checkpoint, where there is one, and replace its OUTPUT.")
]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes of training between checkpoints.")]


def budget(
    output: Path, resume: bool, overwrite: bool, steps: int | None, minutes: float | None
) -> tuple[Path, float | None]:
    """Return the name of the checkpoint, and the minutes; refuse what is cheap to check, before the work."""
    from ..io import check_output

    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output.name!r}")
    # Weights beside a checkpoint that is resumed are those of the same run.
    check_output(output, overwrite=overwrite or (resume and checkpoint.exists()))
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} is there already: go on from it with --resume, or remove it to start anew")
    if steps is not None and minutes is not None:
        raise ValueError(f"give --steps or --minutes, got both ({steps} and {minutes:g})")
    return checkpoint, DEFAULT_MINUTES if steps is None and minutes is None else minutes


@contextmanager
def stoppable(checkpoint: Path) -> Iterator[None]:
    """Where a training is interrupted, say where to go on, and exit as the shell expects it of a signal."""
    from .. import training
    from ..training import processes

    try:
        yield
    except training.Interrupted as stop:
        if processes.rank() == 0:
            print(f"pnp: {stop}; the checkpoint is {checkpoint}, go on with --resume", file=sys.stderr)
        raise typer.Exit(128 + stop.number) from None
