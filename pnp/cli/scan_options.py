"""Options of commands that read a raw CT scan: how they are read, and how messages of Python name them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Volume
from .output import INTERRUPTED, print_error, print_warning

OPTIONS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"\b(prepare_scan|find_centre|line_integrals): ": "",
    r"\brows=slice\((\d+), (\d+)\)": r"--rows \1:\2",
    r"\brows must": "--rows must",
    r"\bgot slice\((\S+), (\S+), (\S+)\)": lambda found: f"got {_typed_rows(*found.groups())}",
    r"\bfor (\d+) bins, to hold it; crop_to_view .*": r"for \1 bins, to hold it; its middle \1 x \1 pixels "
    "are the field of view",
    r"\bangles=np\.deg2rad\((.*?)\)": r"--angles with a text file of \1",
    r"angles span \S+ radians, more than two turns; .*": "angles span more than two turns; check --angles",
    r"\bangles must( be)?( the angles| \d+| a non-empty 1-D array of)?( in)? radians": r"--angles must\1\2 in degrees",
    r"\bangles= in radians": "--angles in degrees",
    r"angles are radians in": "angles are right and in",
    r"\bin radians": "in degrees",
    r"(?<!-)\bangles must": "--angles must",
    r"\bangles=('|\")(\w+)('|\")": r"--angles \2",
    r"(?<!-)\bcentre must": "--centre must",
    r"\bgive centre\b": "give --centre",
    r"\bsearch=\(low, high\)": "--search low,high",
    r"(?<!-)\bsize must": "--size must",
    r"\bpixel_size(_mm)?=": "--pixel-size",
    r"\bpixel_size(_mm)? must": "--pixel-size must",
    r"\bkind=": "--kind ",
    r"\bi0=": "--i0",
    r"\bflat=": "--flat (TIFF)",
}
"""Options of the command for the arguments that a message names."""
ANGLE_WORDS = ("deg", "rad", "names")
"""Values of --angles that `read_scan` takes: the unit of the file's own angles, or the names of TIFF files."""
MAX_TURN_OF_RADIANS = 6.3
"""A turn in radians; angles that span no more degrees may be radians."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of `pnp reconstruct` that are for scans only."""

    rows: Annotated[
        str | None, typer.Option(help="Detector rows of a scan: one, or first:end; try one before all.")
    ] = None
    centre: Annotated[float | None, typer.Option(help="Axis of rotation in bins, from 0; default: found.")] = None
    search: Annotated[str | None, typer.Option(help="Bins between which the axis is looked for: low,high.")] = None
    angles: Annotated[
        str | None,
        typer.Option(
            help="Angles of a scan in degrees, where its file has none: first:last:number, or a text file; or the unit "
            "of the file's own, deg or rad; or names, of TIFF files named after them."
        ),
    ] = None
    pixel_size: Annotated[
        float | None,
        typer.Option(help="Side of a pixel in mm: of a parallel beam that of the detector, in place of the file's."),
    ] = None
    size: Annotated[int | None, typer.Option(help="Pixels per side of a slice; default: the bins of the detector.")] = (
        None
    )
    flat: Annotated[str | None, typer.Option(help="TIFF files with the beam open: a folder, pattern or file.")] = None
    dark: Annotated[str | None, typer.Option(help="TIFF files with the beam closed, likewise.")] = None
    kind: Annotated[
        str | None,
        typer.Option(
            help="What the values are: counts, transmissions or 'line integrals'; default: counts, of TIFF with --flat "
            "only."
        ),
    ] = None
    entry: Annotated[str | None, typer.Option(help="Entry of an NXtomo file that holds several scans.")] = None
    volume: Volume = None
    i0: Annotated[
        float | None, typer.Option(help="Counts of the open beam, as read, with the dark, of a scan without flats.")
    ] = None


def parse_rows(text: str | None) -> slice | None:
    """Read "row", "first:end" or "first:end:step" as a slice; None: all rows."""
    if text is None:
        return None
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None:
            return slice(parts[0], parts[0] + 1)
        if len(parts) not in (2, 3):
            raise ValueError
    except ValueError:
        raise ValueError(f"--rows must be a row, or first:end, e.g. 0:16 for rows 0 to 15, got {text!r:.40}") from None
    return slice(*parts)


def _typed_rows(start: str, stop: str, step: str) -> str:
    """Return a slice, as Python prints it, as `parse_rows` reads it."""
    if start.isdecimal() and stop.isdecimal() and int(stop) == int(start) + 1:
        return start
    return ":".join("" if part == "None" else part for part in (start, stop, step)).removesuffix(":")


def parse_search(text: str | None) -> tuple[float, float] | None:
    """Read "low,high" in bins."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--search must be low,high in bins, e.g. 280,310, got {text!r:.40}") from None
    return low, high


def read_angles(text: str) -> Any:
    """Return --angles in radians, from "first:last:number" or a file, all in degrees; words stay as they are."""
    import numpy as np

    if text in ANGLE_WORDS:
        return text
    if re.fullmatch(r"[-+.\deE]+:[-+.\deE]+:\d+", text):
        first, last, number = text.split(":")
        degrees = np.linspace(float(first), float(last), int(number))
        remedy = f"--angles {np.rad2deg(float(first)):.6g}:{np.rad2deg(float(last)):.6g}:{number}"
    else:
        degrees = _listed_angles(text)
        remedy = "them times 57.29578"
    span = float(np.ptp(degrees)) if degrees.size > 1 else 0.0
    if 0 < span < MAX_TURN_OF_RADIANS:
        print_warning(
            f"--angles {text} spans {span:.4g} degrees: are these radians? --angles takes degrees: give {remedy}"
        )
    return np.deg2rad(degrees)


def _listed_angles(text: str) -> Any:
    """Read the angles of a file, (n,)."""
    import numpy as np

    if not Path(text).is_file():
        raise ValueError(
            "--angles must be a file, or first:last:number in degrees, e.g. 0:180:181, or "
            f"{' or '.join(ANGLE_WORDS)}, got {text!r:.60}"
        )
    try:
        values = np.load(text, allow_pickle=False) if text.endswith(".npy") else np.loadtxt(text, delimiter=None)
    except (ValueError, OSError) as error:
        raise ValueError(f"--angles {text} must hold one number a line, in degrees: {error!s:.120}") from None
    return np.asarray(values, dtype=np.float64).ravel()


@contextmanager
def naming_options(lacking: tuple[str, ...] = ()) -> Iterator[None]:
    """Name the options of the command in errors and warnings of the block, and print the warnings.

    Args:
        lacking: options of `pnp reconstruct` that the command does not have, and says so.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except KeyboardInterrupt:
            print_error("interrupted while the scan was read; nothing is kept of it: start the command again")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, TypeError) as error:
            message = with_options(str(error))
            absent = next((option for option in lacking if re.search(rf"{option}\b", message)), None)
            more = "" if absent is None else f" ({absent} is an option of pnp reconstruct, which takes the scan itself)"
            raise ValueError(message + more) from error
        finally:  # of an error, too: they may explain it
            for warning in caught:
                print_warning(with_options(str(warning.message)))


def with_options(message: str) -> str:
    """Return a message of Python with the options of the command in place of arguments."""
    for pattern, option in OPTIONS.items():
        message = re.sub(pattern, option, message)
    return message
