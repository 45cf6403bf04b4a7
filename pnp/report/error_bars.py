"""The section on error bars: pictures of the standard deviation, the share of a truth in its intervals, and regions."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import SavedErrorBars, SavedResult
from .images import block_mean, colour_tables, robust_range
from .scores import table
from .text import clean, escape, number

Array = npt.NDArray[Any]

MAX_PICTURES = 4
"""Images or channels whose standard deviation is shown."""
MAX_SIDE = 512
"""Pixels along the longer side of a picture; larger ones are averaged over blocks."""
MIN_SHOWN = 320
"""Pixels of the screen along the longer side, at least."""
MAX_REGIONS = 200
"""Rows of the table of regions."""
COLOURS = "viridis"


def error_bars(result: SavedResult) -> str:
    """Return the section; empty where the file has no error bars."""
    bars = result.error_bars
    if bars is None:
        return ""
    lines = [_found(bars), _covered(result, bars)]
    pictures = "".join(_picture(*named) for named in _slices(bars.std))
    return (
        '<section aria-labelledby="bars-title"><h2 id="bars-title">Error bars</h2>'
        f"<p>{' '.join(escape(line) for line in lines if line)}</p>"
        f'<div class="charts">{pictures}</div>{_regions(bars)}</section>\n'
    )


def _found(bars: SavedErrorBars) -> str:
    """Return a sentence on what the error bars are, and how they were found."""
    level, about = number(100 * bars.level, 3), bars.attributes
    said = f"The truth of a pixel lies within its interval with a probability of about {level} %."
    if isinstance(about.get("n"), int):
        said += f" From {about['n']} copies, moves: {clean(about.get('moves') or 'none', 80)};"
        said += f" factor {_several(about.get('factor'))} ± {_several(about.get('factor_std'))}"
        said += f", held out: {clean(about.get('hold_out', 'not said'), 60)}."
    return said


def _covered(result: SavedResult, bars: SavedErrorBars) -> str:
    """Return a sentence on how much of the truth is covered, where the file has the truth."""
    truth = None if result.reference is None else np.asarray(result.reference)
    if truth is None or truth.shape != bars.low.shape:
        return ""
    inside = (truth >= bars.low) & (truth <= bars.high)
    return f"Of the truth in this file, {number(100 * float(inside.mean()), 3)} % of the pixels are within."


def _several(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(number(float(v), 3) for v in values[:MAX_PICTURES] if isinstance(v, (int, float))) or "not said"


def _slices(std: Array) -> list[tuple[str, Array]]:
    """Return titles and pictures of the standard deviation: of volumes the middle slice, x across, y downwards."""
    n_axes = 3 if std.ndim == 5 else 2
    items = std.reshape(-1, *std.shape[std.ndim - n_axes :])[:MAX_PICTURES]
    names = [f", {k + 1} of {math.prod(std.shape[:-n_axes])}" if len(items) > 1 else "" for k in range(len(items))]
    if n_axes == 2:
        return [(f"standard deviation{name}", item) for name, item in zip(names, items, strict=True)]
    middle = std.shape[-1] // 2
    return [
        (f"standard deviation, axial slice {middle}{name}", item[..., middle].T)
        for name, item in zip(names, items, strict=True)
    ]


def _picture(title: str, values: Array) -> str:
    """Return a figure of one map in colours from 0 to its 99.9 % percentile."""
    small = block_mean(values[None].astype(np.float64), math.ceil(max(values.shape) / MAX_SIDE))[0]
    high = robust_range(small)[1]
    scaled = small / high if 0 < high < math.inf else np.zeros_like(small)
    codes = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    colours = np.frombuffer(base64.b64decode(colour_tables()[COLOURS]), np.uint8).reshape(256, 3)
    scale = max(1, math.ceil(MIN_SHOWN / max(small.shape)))
    said = f"0 (dark) to {number(high)} (bright); median {number(float(np.nanmedian(values)))}"
    height, width = (scale * n for n in small.shape)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<img class="map" width="{width}" height="{height}" alt="{escape(f"{title}: {said}")}" '
        f'src="data:image/png;base64,{_png(colours[codes])}"><p class="legend">{escape(said)}</p></figure>'
    )


def _png(pixels: Array) -> str:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode("ascii")


def _regions(bars: SavedErrorBars) -> str:
    """Return the table of regions; empty without regions."""
    if not bars.regions:
        return ""
    columns = [bars.regions[name].tolist() for name in ("image", "channel", "label", "mean", "std")]
    rows: list[Sequence[str]] = [
        (f"{int(label)}", f"{int(b) + 1}", f"{int(c) + 1}", number(mean, 5), number(std, 2))
        for b, c, label, mean, std in zip(*columns, strict=True)
    ]
    head = ("region", "image", "channel", "mean", "± standard deviation")
    more = f"<p>… and {len(rows) - MAX_REGIONS} more.</p>" if len(rows) > MAX_REGIONS else ""
    return table("Means of regions", head, rows[:MAX_REGIONS]) + more
