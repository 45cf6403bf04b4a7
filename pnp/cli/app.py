"""The `pnp` command: reconstruct, reconstruct-stack, osem, mass-map, convert, denoise, regions, report, train, info.

Heavy packages are imported inside the commands: `pnp --help` loads neither PyTorch nor SciPy. Bad input and a full disk
are one sentence on stderr and exit code 2. What looks wrong in a result is a line "warning: ..." on stderr, with exit
code 0. Ctrl-C during a reconstruction writes the last iterate, or the checkpoint if there is one, and gives exit code
130.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from .. import installation
from ..drivers.result_warning import ignore_result_warnings
from .convert import convert
from .denoise import denoise
from .info import info
from .mass_map import mass_map
from .osem import osem
from .output import print_error
from .reconstruct import reconstruct
from .reconstruct_stack import reconstruct_stack
from .regions import regions
from .report import report
from .train import train

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""Phrases by which PyTorch reports that a device's memory is exhausted."""

app = typer.Typer(
    name="pnp",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pnp {installation.version()}")
        raise typer.Exit


@app.callback()
def _pnp(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Plug-and-play image reconstruction with local neural networks.

    \b
    Examples:
      pnp reconstruct measurements.h5 -o result.h5
      pnp denoise image.png --sigma 0.1 -o out.png
      pnp reconstruct --help
    """


app.command()(reconstruct)
app.command()(reconstruct_stack)
app.command()(osem)
app.command(name="mass-map")(mass_map)
app.command()(convert)
app.command()(denoise)
app.command()(regions)
app.command()(report)
app.add_typer(train, name="train")
app.command()(info)


def main() -> None:
    """Run the command line; report bad input in one sentence, with exit code 2."""
    try:
        with warnings.catch_warnings():
            ignore_result_warnings()  # the commands print them
            shown = warnings.showwarning
            warnings.showwarning = lambda w, *rest: print_error(str(w)) if "checkpoint:" in str(w) else shown(w, *rest)
            app()
    except (ValueError, TypeError, OSError) as error:
        print_error(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(phrase in str(error) for phrase in OUT_OF_MEMORY):
            raise
        print_error(f"out of memory: use smaller images, fewer at a time, or another --device ({error})")
        sys.exit(2)
    except (ImportError, AttributeError):
        hidden = installation.hidden_package("operators", "denoisers")
        if not hidden:
            raise
        print_error(hidden)
        sys.exit(2)
