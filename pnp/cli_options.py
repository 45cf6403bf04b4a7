"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Device", "Overwrite"]

Device = Annotated[str, typer.Option(help="Where to compute: auto (cuda where there is one), cpu, cuda, cuda:1, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")]
