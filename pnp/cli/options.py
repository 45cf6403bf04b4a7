"""Options that several commands share, and what `--checkpoint` does in each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from .output import INTERRUPTED, complain

if TYPE_CHECKING:
    from ..drivers.checkpoint import Checkpoint
    from ..drivers.result import Result

Device = Annotated[str, typer.Option(help="Where to compute: auto (cuda where there is one), cpu, cuda, cuda:1, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="File for the state: stopped or killed, the same command goes on from it."),
]
CheckpointMinutes = Annotated[
    float | None, typer.Option(help="Minutes between writings of the --checkpoint; default 3.", show_default=False)
]


def as_checkpoint(path: Path | None, minutes: float | None, output: Path) -> Checkpoint | None:
    """Return the checkpoint, which stays until the output is written: its disk may be full."""
    from ..drivers.checkpoint import Checkpoint

    if path is not None and path.resolve() == output.resolve():
        raise ValueError(f"--checkpoint {path} is the output as well; give it another name")
    if path is None:
        if minutes is not None:
            raise ValueError("--checkpoint-minutes belongs to --checkpoint; give it as well")
        return None
    return Checkpoint(path, remove=False) if minutes is None else Checkpoint(path, minutes=minutes, remove=False)


def goes_on(checkpoint: Checkpoint | None, result: Result) -> None:
    """Exit after Ctrl-C, without an output, where the checkpoint was written."""
    if checkpoint is not None and result.stop.name == "INTERRUPTED" and checkpoint.path.exists():
        complain(
            f"interrupted after {result.n_iter} iterations; the same command goes on from what {checkpoint.path} holds"
        )
        raise typer.Exit(INTERRUPTED)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto": the GPU where there is one, else the processor.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if where.type not in ("cpu", "cuda"):
            raise RuntimeError("it must be cpu or cuda")
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # unknown name; not built with CUDA; no such card
        reason = str(error).splitlines()[0][:150]
        raise ValueError(f"--device {name} is not available here ({reason}); use --device cpu") from error
    return where
