"""What the page says of a result: misfit, warnings, and which measurements were taken for outliers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import SavedResult
from .candidates import choice
from .history import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from .text import escape, number

Array = npt.NDArray[Any]

MAX_WARNINGS = 20
"""Maximum number of warnings on the page."""
MAX_MASKS = 4
"""Maximum number of pictures of masks, one for each part of the measurements."""
MAX_CELLS = (160, 240)
"""Maximum rows and columns of the picture of a mask."""


def verdict(result: SavedResult) -> str:
    """Return the box at the top of the page: the misfit, every warning, and the number of rejected measurements."""
    misfit, warnings = result.attributes.get("misfit"), result.warnings
    lines = [_misfit(misfit)]
    masks = _masks(result)
    if masks:
        total = sum(mask.size for mask in masks.values())
        lines.append(
            f"{_share(result.n_rejected, total)} measurements were rejected as outliers."
            if result.n_rejected
            else "No measurement was rejected as an outlier."
        )
    if chosen := choice(result):
        lines.append(chosen)
    if warnings is None:
        lines.append("The file does not say whether anything looked wrong.")
    elif not warnings:
        lines.append("Nothing looked wrong.")
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in (warnings or ())[:MAX_WARNINGS])
    more = len(warnings or ()) - MAX_WARNINGS
    items += f"<li>… and {more} more.</li>" if more > 0 else ""
    return (
        f'<section class="verdict{" alarm" if warnings else ""}" aria-labelledby="verdict-title">'
        f'<h2 id="verdict-title">Verdict{f": {_count(len(warnings))}" if warnings else ""}</h2>'
        f"<p>{' '.join(map(escape, lines))}</p>{f'<ul>{items}</ul>' if items else ''}</section>"
    )


def mask_pictures(result: SavedResult) -> list[str]:
    """Return an SVG for each mask of rejected measurements (..., rows, columns), of at most four axes, with marks."""
    tomography = result.operator in ("radon", "fan_beam")
    axes = ("view", "bin") if tomography else ("row", "column")
    shown = {name: mask for name, mask in _masks(result).items() if 2 <= mask.ndim <= 4 and mask.any()}
    return [_picture(name, mask, axes) for name, mask in list(shown.items())[:MAX_MASKS]]


def _picture(name: str, mask: Array, axes: tuple[str, str]) -> str:
    """Return an SVG of a mask, whose leading axes are joined; a cell is marked if one of its measurements is."""
    rows, columns = mask.shape[-2:]
    cells: Array = np.logical_or.reduce(mask.reshape(-1, rows, columns), axis=0)
    blocks = tuple(math.ceil(n / most) for n, most in zip(cells.shape, MAX_CELLS, strict=True))
    for axis, block in enumerate(blocks):
        cells = np.logical_or.reduceat(cells, np.arange(0, cells.shape[axis], block), axis=axis)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    share = f"{_share(int(mask.sum()), mask.size)} measurements"
    legend = [share] + ([f"a mark stands for {blocks[0]} × {blocks[1]} of them"] if max(blocks) > 1 else [])
    legend += ["those of all images and channels together"] if mask.size > rows * columns else []
    across, down = (f"{name} 0 to {n - 1}" for name, n in zip(axes[::-1], (columns, rows), strict=True))
    return (
        f'<figure class="chart"><figcaption>{escape(name)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{name}: {share}")}">'
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/>'
        f'<path class="mask" transform="translate({LEFT} {TOP}) scale({width / cells.shape[1]:.6g} '
        f'{height / cells.shape[0]:.6g})" d="{_runs(cells)}"/>'
        f'<text class="tick" x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{across}; {down}, downwards</text></svg>"
        f'<p class="legend">{escape("; ".join(legend))}</p></figure>'
    )


def _runs(cells: Array) -> str:
    """Return a path of rectangles, one for each run of marked cells in a row.

    >>> _runs(np.array([[True, True, False, True]]))
    'M0 0h2v1h-2zM3 0h1v1h-1z'
    """
    edges = np.diff(np.pad(cells, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(f"M{a} {i}h{b - a}v1h-{b - a}z" for (i, a), (_, b) in zip(starts, ends, strict=True))


def _masks(result: SavedResult) -> dict[str, Array]:
    """Return the masks of rejected measurements by their titles."""
    if not isinstance(result.rejected, tuple):
        return {} if result.rejected is None else {"rejected measurements": np.asarray(result.rejected)}
    return {
        f"rejected measurements, part {k + 1}": np.asarray(mask)
        for k, mask in enumerate(result.rejected)
        if mask is not None
    }


def _misfit(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"Misfit {number(float(value), 3)}; about 1 where the image explains the measurements up to their noise."
    return "The file does not say how well the image explains the measurements."


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({number(100 * part / whole, 2)} %)" if whole else "0 of 0"


def _count(n: int) -> str:
    return f"{n} warning{'s' if n > 1 else ''}"
