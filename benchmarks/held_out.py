"""`solve(strength="auto")` against the default and against the best strength by truth.

    python benchmarks/held_out.py                                            # all that is simulated
    python benchmarks/held_out.py --only synthetic "recipes: tomography"     # a group, or one problem
    python benchmarks/held_out.py --data FOLDER --only data summary          # measured data

Groups: synthetic (128 x 128 pixels), recipes (their problems on half the pixels a side, SPECT and the likelihood of
low dose on a quarter), deepinv (every physics of docs/deepinv_physics.md, where deepinv is installed), data (a tooth on
160 bins and discs, where views that are not used are the truth, and 180 x 180 pixels of kappaTNG maps with the noise of
COSMOS), summary (of all that ran before). Scores are dB: PSNR for the
truth's largest value, or the signal-to-noise ratio of mass maps, SPECT volumes and predicted views. The grid has
strengths of 0.32, 0.56, 1, 1.8 and 3.2. The denoiser's calls are counted: what "auto" costs.

Aims: nowhere more than 0.1 dB below the default, within 0.15 dB of the best in the median, and 0.5 dB above the default
for the head in 180 views.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from held_out_cases import RECIPES, SYNTHETIC, Case, Make, deepinv_cases, measured_cases
from report import Row, Section, main
from timing import Spread

from pnp import solve

STRENGTHS = (10**-0.5, 10**-0.25, 10**0.25, 10**0.5)
found: list[tuple[float, float]] = []
"""Of each problem that ran, what "auto" gained over the default, and what the best of the grid gained over "auto"."""


def run(case: Case, **options: Any) -> tuple[Any, float, int]:
    """Solve; return the result, its score and the number of images that were denoised."""
    calls = []
    counting = case.denoiser.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        result = solve(case.operator, case.y, case.denoiser, **case.options, **options)
    finally:
        counting.remove()
    return result, float(case.score(result.x)), sum(calls)


def compared(name: str, make: Make, quick: bool) -> Iterator[Row]:
    """Yield the score and the denoiser's calls of the default, of "auto" and of the best of the grid."""
    case = make(quick)
    _, usual, calls = run(case)
    yield Row(name, "default", Spread((usual,)), unit="dB", note=f"{calls} calls of the denoiser")
    result, auto, calls = run(case, strength="auto")
    note = f"{calls} calls; strength {result.strength:.2g}, {result.n_iter} iterations; {result.strength_source}"
    yield Row(name, "auto", Spread((auto,)), unit="dB", target=(">=", usual + case.gain), note=note)
    best, s = max((usual, 1.0), *((run(case, strength=s)[1], s) for s in STRENGTHS[: 1 if quick else None]))
    yield Row(name, "best of the grid", Spread((best,)), unit="dB", note=f"strength {s:.2g}")
    found.append((auto - usual, best - auto))


def summary(quick: bool) -> Iterator[Row]:
    """Yield what "auto" gained and lost over all problems that ran."""
    if not found:
        return
    gains, left = zip(*found, strict=True)
    what = f"{len(found)} problems"
    least = Spread((min(gains),))
    yield Row(what, "auto - default, least", least, unit="dB", target=(">=", -0.1), note=f"median {median(gains):.2f}")
    yield Row(what, "best - auto, median", Spread((median(left),)), unit="dB", target=("<=", 0.15))


def sections(group: str, cases: dict[str, Make]) -> dict[str, Section]:
    """Return a section for each case."""
    return {f"{group}: {name}": partial(compared, name, make) for name, make in cases.items()}


def measured(folder: Path) -> dict[str, Section]:
    """Return the sections of measured data, and again the summary, which then comes after them."""
    return {**sections("data", measured_cases(folder)), "summary of all": summary}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(
        'strength="auto": held-out measurements against the truth',
        {
            **sections("synthetic", SYNTHETIC),
            **sections("recipes", RECIPES),
            **sections("deepinv", deepinv_cases()),
            "summary": summary,
        },
        measured=measured,
        in_quick=("synthetic: head, 180 views", "recipes: inpainting", "summary"),
    )
