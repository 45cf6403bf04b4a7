"""Figures of merit of every picture against the truth, with their conventions, and statistics of the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import nrmse, pearson_r, psnr, ssim
from .images import robust_range
from .panels import Panel
from .text import escape, number

Array = npt.NDArray[Any]

MAX_SSIM_PIXELS = 2**25
"""Total number of pixels up to which SSIM, the slowest figure, is computed."""

MAX_RATIO = 1e100
"""Ratio of picture to truth above which there are no figures, since squares overflow."""


@dataclass(frozen=True)
class Scores:
    """Figures of merit of the pictures, with notes on their conventions.

    Attributes:
        rows: name and (NRMSE, PSNR in dB, SSIM, r) of every picture; None if a figure does not exist.
        notes: the conventions.
    """

    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    notes: tuple[str, ...]


def score(panels: Sequence[Panel], mask: Array | None, *, centred: bool, step: Any = lambda items: items) -> Scores:
    """Compare all pictures except B modes with the truth; without a truth there are no scores.

    Beside a picture with holes, such as masked measurements, the reconstruction is compared on the same pixels, too.

    Args:
        panels: the pictures, with the truth among them.
        mask: true where pixels count, shaped as the pictures; None: all.
        centred: subtract the mean first, since it is not measured (mass maps).
        step: wraps the pictures in the loop, for instance with a progress bar.
    """
    truth = next((panel.values for panel in panels if panel.role == "truth" and panel.mode != "B"), None)
    others = [panel for panel in panels if panel.role != "truth" and panel.mode != "B"]
    if truth is None:
        return Scores((), ())
    seen = np.isfinite(truth) if mask is None else np.isfinite(truth) & mask
    if not seen.any():
        return Scores((), ("The truth is nowhere finite where pixels count, so there are no errors.",))
    low, high = float(truth[seen].min()), float(truth[seen].max())
    unit = low >= 0 and 0.5 < high <= 1
    ends = (0.0, 1.0) if unit else (low, high)
    similar = mask is None and len(others) * truth.size <= MAX_SSIM_PIXELS
    found = next((panel for panel in others if panel.role == "reconstruction"), None)
    rows, partial = [], []
    for panel in step(others):
        counts = seen & np.isfinite(panel.values)
        rows.append((panel.name, _figures(panel.values, truth, counts, ends, centred, similar)))
        if not counts.all() and (mask is None or (counts != seen).any()):
            partial.append(
                f"“{panel.name}” is compared where both are finite, {int(counts.sum())} of {truth.size} pixels"
            )
        if found is not None and panel is not found and (counts != seen).any():  # others' figures do not compare
            same = counts & np.isfinite(found.values)
            name = f"{found.name}, pixels of “{panel.name}”"
            rows.append((name, _figures(found.values, truth, same, ends, centred, similar)))
    where = "over the observed pixels" if mask is not None else "over all pixels"
    mean = ", after subtracting the mean of each (it is not measured)" if centred else ""
    source = "the truth lies in [0, 1]" if unit else "the range of the truth"
    notes = [
        f"NRMSE = ‖x − r‖ / ‖r‖, r the truth, {where}{mean}.",
        f"PSNR = 10 log₁₀(data_range² / mean (x − r)²){mean}, data_range = {number(ends[1] - ends[0])} ({source}).",
        "SSIM after Wang et al. (2004), Gaussian window of 1.5 pixels, same data_range, mean over "
        + ("slices along the first axis." if truth.ndim == 4 else "images.")
        if similar
        else "SSIM is left out: " + ("the map has holes." if mask is not None else "there are too many pixels."),
        f"r: Pearson's correlation {where}.",
    ]
    return Scores(tuple(rows), tuple(notes) + tuple(f"{text}." for text in partial))


def _figures(
    x: Array, truth: Array, counts: Array, ends: tuple[float, float], centred: bool, similar: bool
) -> tuple[float | None, ...]:
    if not counts.any():
        return (None,) * 4
    a, b = (v[counts].astype(np.float64) for v in (x, truth))
    scale = float(np.abs(b).max())  # squares of very small or large values leave the range of floats
    if not scale > 0:
        scale = 1.0
    with np.errstate(over="ignore"):
        a, b, peak = a / scale, b / scale, ends[1] / scale - ends[0] / scale
    if float(np.abs(a).max()) > MAX_RATIO:
        return (None,) * 4
    if centred:
        a, b = a - a.mean(), b - b.mean()
    varies = min(float(np.ptp(a)), float(np.ptp(b))) > 0
    window = similar and peak > 0 and bool(counts.all()) and min(x.shape[-2:]) >= 11
    return (
        nrmse(a, b) if b.any() else None,
        psnr(a, b, data_range=peak) if peak > 0 else None,
        ssim(a.reshape(x.shape), b.reshape(x.shape), data_range=peak) if window else None,
        pearson_r(a, b) if varies else None,
    )


def scores_table(scores: Scores) -> str:
    """Return the figures of merit as an HTML table with their conventions; empty if there are none."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in scores.notes)
    if not scores.rows:
        return f'<ul class="notes">{notes}</ul>' if notes else ""
    head = ("picture", "NRMSE", "PSNR (dB)", "SSIM", "r")
    body = [(name, *("–" if value is None else number(value) for value in row)) for name, row in scores.rows]
    return f'{table("Errors against the truth", head, body)}<ul class="notes">{notes}</ul>'


def statistics_table(panels: Sequence[Panel]) -> str:
    """Return the range, mean and spread of every picture as an HTML table."""
    body = []
    for panel in panels:
        inside = panel.values[np.isfinite(panel.values)].astype(np.float64)
        bad = panel.values.size - inside.size
        low, high = robust_range(inside, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = (inside.mean(), inside.std()) if inside.size else (0.0, 0.0)
        figures = (inside.min(), low, mean, high, inside.max(), std) if inside.size else ()
        body.append((panel.name, *(number(float(f)) for f in figures), *["–"] * (6 - len(figures)), str(bad)))
    head = ("picture", "lowest", "1 %", "mean", "99 %", "highest", "std", "not finite")
    return table("Values of the pictures", head, body)


def table(caption: str, head: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    """Return an HTML table that scrolls if it is too wide; its cells are escaped here."""
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in body
    )
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
