"""The `pnp` command: reconstruct, reconstruct-stack, osem, convert, report, denoise, train, info.

Heavy packages are imported inside the commands, so that `pnp --help` answers at once. Bad input is one
sentence on stderr and exit code 2, a full disk as well; Ctrl-C during a reconstruction writes the last iterate, or
the checkpoint where there is one, and gives exit code 130.
"""

from __future__ import annotations

import sys
import warnings

import typer

from .convert import convert
from .denoise import denoise
from .info import info
from .osem import osem
from .output import complain
from .reconstruct import reconstruct
from .reconstruct_stack import reconstruct_stack
from .report import report
from .train import train

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch says so, on one device or another."""

app = typer.Typer(
    name="pnp",
    help="Plug-and-play image reconstruction with local neural networks.",
    epilog="Example: pnp reconstruct measurements.h5 -o result.h5",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(train, name="train")
app.command()(reconstruct)
app.command()(denoise)
app.command()(info)
app.command()(osem)
app.command()(convert)
app.command()(report)
app.command()(reconstruct_stack)


def main() -> None:
    """Run the command line; explain what is wrong with the input in one sentence, with exit code 2."""
    try:
        with warnings.catch_warnings():
            shown = warnings.showwarning
            warnings.showwarning = lambda w, *rest: complain(str(w)) if "checkpoint:" in str(w) else shown(w, *rest)
            app()
    except (ValueError, TypeError, OSError) as error:
        complain(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        complain(f"out of memory: take smaller images, fewer at a time, or another --device ({error})")
        sys.exit(2)
