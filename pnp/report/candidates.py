"""What strength="auto" tried, as inline SVG: the prediction error of each strength and number of iterations.

They stand from weak to strong, as a weaker prior and more iterations change x in the same direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..io import SavedResult
from .history import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, even_ticks
from .text import escape, number

MAX_IMAGES = 6
"""Images of a batch that have a chart."""
MAX_TRIED = 12
"""Candidates of an image that its chart shows, the chosen one first."""
MAX_ERROR = 1e12
"""Candidates with a larger prediction error have no mark."""
SAID = "where the noise alone gives 1"

Tried = tuple[float, int, float, float]


def candidate_charts(result: SavedResult) -> list[str]:
    """Return an SVG for each image, of the first few, whose candidates the file holds."""
    n = len(result.candidates)
    names = [f", image {b + 1} of {n}" if n > 1 else "" for b in range(n)]
    named = zip(names, result.candidates, strict=True)
    return [_chart(name, tried[:MAX_TRIED]) for name, tried in named if tried][:MAX_IMAGES]


def choice(result: SavedResult) -> str:
    """Return a sentence on the strength that was chosen, and from what; empty where it was given."""
    source = result.attributes.get("strength_source")
    if not isinstance(source, str) or source == "given":
        return ""
    if not result.candidates:
        return f"Prior strength {_strengths(result.attributes.get('strength'))}, {source}."
    first = [tried[0] for tried in result.candidates if tried]
    if len(result.candidates) > 1 or isinstance(result.attributes.get("strength"), tuple):
        return f"Strengths were chosen for each image {source}; the charts below show them."
    ((strength, _, error, standard_error),) = first[:1] or [(math.nan, 0, math.nan, math.nan)]
    found = f"{number(error, 4)} ± {number(standard_error, 2)}"
    return f"Prior strength {number(strength, 3)}, {source}: prediction error {found} {SAID}."


def _strengths(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(number(float(v), 3) for v in values[:MAX_TRIED] if isinstance(v, (int, float)))


def _chart(name: str, tried: Sequence[Tried]) -> str:
    """Return an SVG of errors with bars of a standard error; the chosen one, the first, has another colour."""
    chosen = tried[0]
    ordered = sorted((one for one in tried if abs(one[2]) < MAX_ERROR), key=lambda one: (one[0], -one[1]))
    bars = [one[3] if abs(one[3]) < MAX_ERROR else 0.0 for one in ordered]
    ends = [one[2] + sign * bar for one, bar in zip(ordered, bars, strict=True) for sign in (-1, 1)] or [0.0, 1.0]
    ticks = even_ticks(min(ends), max(ends))
    low, high = min(*ends, ticks[0]), max(*ends, ticks[-1])
    step = (WIDTH - LEFT - RIGHT) / max(1, len(ordered))

    def height(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        y = height(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick, 4)}</text>')
    for k, ((strength, n_iter, error, _), bar) in enumerate(zip(ordered, bars, strict=True)):
        x, colour = LEFT + (k + 0.5) * step, int(ordered[k] is chosen)
        parts.append(f'<path class="line-{colour}" d="M{x:.1f} {height(error - bar):.1f}V{height(error + bar):.1f}"/>')
        parts.append(f'<circle class="dot-{colour}" cx="{x:.1f}" cy="{height(error):.1f}" r="4"/>')
        for row, text in enumerate((number(strength, 2), str(n_iter))):
            place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 14 + 13 * row}"'
            parts.append(f'<text class="tick" {place} text-anchor="middle">{text}</text>')
    for row, text in enumerate(("strength", "iterations")):
        parts.append(f'<text class="tick" x="2" y="{HEIGHT - BOTTOM + 14 + 13 * row}">{text}</text>')
    title = f"prediction error of what was tried{name}"
    found = f"{number(chosen[2])} ± {number(chosen[3], 2)}"
    said = f"strength {number(chosen[0], 3)}, {chosen[1]} iterations: {found} {SAID}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}; chosen: {said}")}">'
        f'{"".join(parts)}</svg><p class="legend"><span class="key-1">chosen</span> {escape(said)}; '
        f"bars are standard errors</p></figure>"
    )
