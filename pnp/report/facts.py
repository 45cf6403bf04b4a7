"""Text and tables of the page: the summary, how the result was made, and how its pictures were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..io import SavedResult
from .images import CLIPPED_PERCENT, Plan
from .panels import Panel, channels_of
from .peaks import MAX_PEAKS, PEAK_THRESHOLD
from .text import clean, escape, number

MAX_TABLE_ROWS = 200
"""Maximum number of rows of a table."""


def summary(result: SavedResult, shape: tuple[int, ...]) -> str:
    """Return the line below the heading: operator, size, denoiser, iterations."""
    size, kind = " × ".join(map(str, shape[1:])), "volume" if len(shape) == 4 else "image"
    channels = channels_of(result, shape)
    batch = shape[0] // channels
    parts = [f"{batch} {kind}s of {size}" if batch > 1 else f"{kind} of {size}"]
    parts += [f"{channels} channels"] if channels > 1 else []
    if result.operator:
        parts.insert(0, clean(result.operator, 60))
    if "denoiser" in result.attributes:
        parts.append(clean(result.attributes["denoiser"], 120))
    if "n_iter" in result.attributes:
        parts.append(f"{clean(result.attributes['n_iter'], 20)} iterations")
    return escape(" · ".join(parts))


def steps_list(steps: Sequence[str]) -> str:
    """Return what was done to the measurements as a section with a list; empty where nothing is said."""
    if not steps:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in steps[:MAX_TABLE_ROWS])
    return (
        '<section aria-labelledby="steps-title"><h2 id="steps-title">From the measurements to the image</h2>'
        f'<ul class="notes">{items}</ul></section>'
    )


def run_table(result: SavedResult) -> str:
    """Return the file's attributes, except the command, as a table: how the run ended first, versions last."""
    rank = {"stop": 0, "n_iter": 1, "misfit": 2, "noise_estimated": 3, "denoiser": 4}
    names = sorted(
        (name for name in result.attributes if name != "command"),
        key=lambda name: (rank.get(name, 5 + name.startswith(("format", "version"))), name),
    )
    return parameters_table({name: result.attributes[name] for name in names}) or "<p>The file does not say.</p>"


def parameters_table(values: Mapping[str, Any]) -> str:
    """Return names and values as an HTML table; arrays are given by shape and range."""
    kept = [(name, value) for name, value in values.items() if value is not None]
    rows = "".join(
        f'<tr><th scope="row">{escape(name, 80)}</th><td>{escape(_value(value))}</td></tr>'
        for name, value in kept[:MAX_TABLE_ROWS]
    )
    more = f"<p>… and {len(kept) - MAX_TABLE_ROWS} more.</p>" if len(kept) > MAX_TABLE_ROWS else ""
    return f'<table class="facts"><tbody>{rows}</tbody></table>{more}' if rows else ""


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim and value.size > 8:
        if value.dtype.kind not in "fiub":
            return f"array {value.shape}"
        finite = value[np.isfinite(value)]
        if not finite.size:
            return f"array {value.shape}, nowhere finite"
        part = "" if finite.size == value.size else f", {value.size - finite.size} not finite"
        return f"array {value.shape}, from {number(float(finite.min()))} to {number(float(finite.max()))}{part}"
    if isinstance(value, np.ndarray):
        return ", ".join(_value(part) for part in value.ravel().tolist())
    if isinstance(value, (tuple, list)):
        return ", ".join(_value(part) for part in value[:50]) + (", …" if len(value) > 50 else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 6) if isinstance(value, float) else str(value)


def notes(
    stored: Plan, shape: tuple[int, ...], clipped: bool, panels: Sequence[Panel], lensing: bool, limit: int
) -> Iterator[str]:
    """Yield notes on how the pictures were made."""
    if stored.factor > 1:
        f = stored.factor
        block = " × ".join([str(f)] * (len(shape) - 1))
        small, size = (" × ".join(map(str, s[1:])) for s in (stored.shape, shape))
        yield (
            f"Pictures are means over blocks of {block}, {small} of {size}, so that the page holds at most "
            f"{limit / 2**20:.3g} MiB of pixels; all figures are those of the full size."
        )
    if len(stored.items) < shape[0]:
        yield f"The page shows {len(stored.items)} of {shape[0]} images, evenly spaced."
    if not any(panel.role == "input" for panel in panels):
        yield "The first estimate is not shown: it needs the measurements (pnp report --measurements)."
    levels = 2**stored.bits - 1
    yield f"Pictures have {stored.bits} bits per pixel: {levels} levels from the lowest to the highest value of each."
    if clipped:
        yield f"The outermost {CLIPPED_PERCENT:g} % of the values at either end are clipped."
    if not all(np.isfinite(panel.values).all() for panel in panels):
        yield "Pixels without a finite value have the colour “no value” below the colour bar."
    if len(shape) == 4:
        yield (
            "Volumes are (x, y, z): axial slices show x to the right and y down, the others z up. In SPECT, x points "
            "to the patient's left, y to the back and z to the head. In CT, x is the column, y the row and z the slice."
        )
    else:
        yield "The first row of an image is on top."
    if lensing:
        yield (
            f"Peaks are pixels above their eight neighbours and {PEAK_THRESHOLD:g} robust standard deviations (1.4826 "
            "times the median absolute deviation) above the median of their map, where observed; the "
            f"{MAX_PEAKS} highest are marked."
        )
