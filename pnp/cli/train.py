"""The `pnp train` command: the networks of this package, on data of your own.

Exit codes: 2 for bad input; 130 for Ctrl-C and 143 for SIGTERM, both after a checkpoint has been written.
"""

from __future__ import annotations

import typer

from .train_denoiser import train_denoiser
from .train_glimpse import train_glimpse
from .train_spect import spect

train = typer.Typer(help="Train the networks of this package.", no_args_is_help=True, rich_markup_mode=None)


@train.callback()
def _train() -> None:
    """Train the networks of this package."""


train.command("denoiser")(train_denoiser)
train.command("glimpse")(train_glimpse)
train.command("spect")(spect)
