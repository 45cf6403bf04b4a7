"""Charts of a solver's history, one value per iteration, as inline SVG without scripts; the page sets the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .text import clean, escape, number

Array = npt.NDArray[Any]

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 12, 40
MAX_POINTS = 500
MAX_CHARTS = 12
MAX_MAGNITUDE = 1e300
"""Values beyond it are left out like those that are not finite: the ticks around them would overflow."""
CHART_GROUPS = (
    ("noise level of the denoiser", {"sigma": "sigma_k (units of x)"}),
    ("relative residuals", {"primal": "primal ‖x − z‖", "dual": "dual, change of z"}),
    ("coupling", {"alpha": "alpha_k (1/units of x squared)"}),
    ("inner iterations of the x-update", {"inner": "inner iterations"}),
    ("relative change of the map", {"change": "‖z − z_old‖ / ‖z‖"}),
    ("correction for reduced shear", {"reduced": "change of kappa"}),
)
"""Title of each chart, and the labels of the quantities in /history that it shows."""


def charts(history: Mapping[str, npt.ArrayLike]) -> list[str]:
    """Return an SVG for every group of quantities in a history; those without numbers are left out.

    Of a quantity with a value for each image of a batch, (n_iter, B), the lowest and the highest are drawn.
    """
    known = {name for _, names in CHART_GROUPS for name in names}
    lines = {name: found for name, values in history.items() if (found := _lines_of(values, 1 + (name in known)))}
    groups = [(title, {name: label for name, label in names.items() if name in lines}) for title, names in CHART_GROUPS]
    groups += [(clean(name, 40), {name: clean(name, 40)}) for name in sorted(set(lines) - known)]
    if "inner" in lines and not any(line.any() for line in lines["inner"].values()):  # a closed form
        groups = [(title, names) for title, names in groups if "inner" not in names]
    drawn = [
        (title, {label + which: line for name, label in names.items() for which, line in lines[name].items()})
        for title, names in groups
        if names
    ]
    return [_chart(title, curves) for title, curves in drawn[:MAX_CHARTS]]


def _chart(title: str, curves: Mapping[str, Array]) -> str:
    """Return an SVG of curves over the iterations 1, 2, ...; logarithmic if all are positive and span a decade.

    Args:
        title: title of the chart.
        curves: label -> one value per iteration; the line has gaps where it is not finite.
    """
    values = np.concatenate([v[np.isfinite(v)].astype(np.float64) for v in curves.values()])
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low >= 10
    n = max(len(v) for v in curves.values())
    ticks = _decades(low, high) if log else even_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def place(k: float, value: float) -> tuple[float, float]:
        across = 0.5 if n == 1 else (k - 1) / (n - 1)
        a, b, v = (math.log(part) if log else part / 2 for part in (low, high, value))  # halves, as b - a may overflow
        up = (v - a) / (b - a) if b > a else 0.5  # near 0 the halves may be equal
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(1, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick, 3)}</text>')
    for k in sorted({1, *(round(1 + (n - 1) * i / 4) for i in range(1, 5))}):
        x, _ = place(k, low)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{k}</text>')
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">iteration</text>'
    )
    legend = []
    for index, (label, v) in enumerate(curves.items()):
        parts.append(_path(v, place, index))
        last = v[np.isfinite(v)]
        legend.append(f'<span class="key-{index}">{escape(label)}</span> ends at {number(float(last[-1]))}')
    scale = "logarithmic" if log else "linear"
    ends = " to ".join(number(float(v)) for v in (values.min(), values.max()))
    aria_label = f"{title} over {n} iterations, {scale} scale, from {ends}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(aria_label)}">{"".join(parts)}</svg>'
        f'<p class="legend">{"<br>".join(legend)}</p></figure>'
    )


def _path(values: Array, place: Any, index: int) -> str:
    """Return a path through the finite values, thinned if there are many, with dots if there are few."""
    every = math.ceil(len(values) / MAX_POINTS)
    kept = sorted({*range(0, len(values), every), len(values) - 1})
    path, dots, pen = [], [], "M"
    for i in kept:
        if not math.isfinite(values[i]):
            pen = "M"
            continue
        x, y = place(i + 1, float(values[i]))
        path.append(f"{pen}{x:.1f} {y:.1f}")
        dots.append(f'<circle class="dot-{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        pen = "L"
    return f'<path class="line-{index}" d="{"".join(path)}"/>' + ("".join(dots) if len(kept) <= 60 else "")


def _decades(low: float, high: float) -> list[float]:
    """Return about six powers of ten at most, around a range."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = math.ceil((last - first) / 5)
    return [10.0**k for k in range(first, last + every, every) if -323 <= k <= 308]


def even_ticks(low: float, high: float) -> Sequence[float]:
    """Return round numbers around a range.

    >>> even_ticks(0.0, 7.0)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    span = high / 4 - low / 4
    if not span > abs(low) / 1e6:  # constant up to rounding
        return [low - abs(low) / 2, low, low + abs(low) / 2] if low else [-1.0, 0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _lines_of(values: npt.ArrayLike, max_ndim: int) -> dict[str, Array]:
    """Return the values of a quantity as floats, NaN where out of range, by what their label ends in.

    Empty if they are not a line of numbers; two lines if there is one for each image.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim > max_ndim or array.size == 0:
        return {}
    array = np.atleast_1d(array).astype(np.float64)
    within = np.abs(array) < MAX_MAGNITUDE
    if not within.any():
        return {}
    if array.ndim == 1:
        return {"": np.where(within, array, np.nan)}
    ends = {", lowest of the images": (np.inf, np.min), ", highest of the images": (-np.inf, np.max)}
    lines = {which: function(np.where(within, array, none), axis=1) for which, (none, function) in ends.items()}
    return {which: np.where(np.isfinite(line), line, np.nan) for which, line in lines.items()}
