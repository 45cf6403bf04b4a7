"""Result of `solve_stack`, with what looks wrong in its slices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ..drivers.result import Stop, rejections

MAX_SLICES_NAMED = 10
"""Maximum number of slices that are named in one sentence."""
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class StackResult:
    """Result of `solve_stack`; the images are in `output`.

    Attributes:
        output: the Zarr group or HDF5 file; after Ctrl-C, the folder from which the next run resumes.
        n: number of slices.
        done: finished slices, those of earlier runs included.
        computed: slices finished by this run.
        failed: why slices failed, by slice number.
        seconds: duration of this run, including the start of its workers.
        stop: `Stop.INTERRUPTED` after Ctrl-C; None: every slice was solved or failed.
        misfits: `Result.misfit` of the finished slices, by slice number.
        warnings: `Result.warnings` of the slices that have some, by slice number.
        n_rejected: measurements of all slices that were taken for outliers.
        choices: what strength="auto" chose, by slice number: strength, iterations of its trial, prediction error and
            its standard error.
    """

    output: Path
    n: int
    done: int
    computed: int
    failed: dict[int, str] = field(repr=False)
    seconds: float
    stop: Stop | None = None
    misfits: dict[int, float] = field(default_factory=dict, repr=False)
    warnings: dict[int, tuple[str, ...]] = field(default_factory=dict, repr=False)
    n_rejected: int = 0
    choices: dict[int, tuple[float, ...]] = field(default_factory=dict, repr=False)

    @property
    def choice(self) -> str:
        """One line on the strengths that strength="auto" chose; empty where it chose none."""
        if not self.choices:
            return ""
        strengths, _, errors, _ = zip(*self.choices.values(), strict=True)
        spread = f"{min(strengths):.3g} to {max(strengths):.3g}" if len(set(strengths)) > 1 else f"{strengths[0]:.3g}"
        slices = f"{len(strengths)} slice{'s' if len(strengths) > 1 else ''}"
        return f"strength {spread}, chosen for {slices}, prediction error {median(errors):.3f} in the median"

    @property
    def distinct_warnings(self) -> dict[str, list[int]]:
        """The sentences of `warnings` with the slices that have them; those that differ in numbers only are one."""
        return distinct(self.warnings)

    @property
    def verdict(self) -> str:
        """One line: the median of the misfits, and how many slices have warnings, and which."""
        if not self.misfits:
            return "no slice is finished"
        rejected = f", {rejections(self.n_rejected)}" if self.n_rejected else ""
        of = f", the median of {self.done} slices" if self.done > 1 else ""
        count = f"misfit {median(self.misfits.values()):.3g}{of}{rejected}"
        if not self.warnings:
            return f"{count}: no warnings"
        if self.n == 1:
            (own,) = self.warnings.values()
            return f"{count}: {len(own)} warning{'s' if len(own) > 1 else ''}"
        return f"{count}: {len(self.warnings)} of {self.n} slices have warnings: {named(sorted(self.warnings))}"


def distinct(warnings: Mapping[int, Sequence[str]]) -> dict[str, list[int]]:
    """Return the distinct sentences, each with its slices; of those that differ in numbers only, the first one.

    >>> distinct({4: ["noise_std is too low by 3.1"], 7: ["noise_std is too low by 2.9", "a pixel is saturated"]})
    {'noise_std is too low by 3.1': [4, 7], 'a pixel is saturated': [7]}
    """
    first: dict[str, str] = {}
    slices: dict[str, list[int]] = {}
    for k in sorted(warnings):
        for sentence in dict.fromkeys(warnings[k]):
            kept = first.setdefault(NUMBER.sub("#", sentence), sentence)
            held = slices.setdefault(kept, [])
            if k not in held[-1:]:
                held.append(k)
    return slices


def named(slices: Sequence[int]) -> str:
    """Return the first slice numbers as text.

    >>> named([4, 17]), named(range(12))
    ('4, 17', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more')
    """
    more = len(slices) - MAX_SLICES_NAMED
    return ", ".join(map(str, slices[:MAX_SLICES_NAMED])) + (f" and {more} more" if more > 0 else "")


def sentences(warnings: Mapping[int, Sequence[str]], n: int) -> list[str]:
    """Return each distinct sentence with the slices of a stack of n that have it.

    >>> sentences({4: ["A pixel is saturated."]}, 200)
    ['1 of 200 slices (4): A pixel is saturated.']
    >>> sentences({0: ["A pixel is saturated."]}, 1)
    ['A pixel is saturated.']
    """
    if n == 1:
        return list(distinct(warnings))
    return [f"{len(ks)} of {n} slices ({named(ks)}): {sentence}" for sentence, ks in distinct(warnings).items()]
