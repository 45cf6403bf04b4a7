"""The solves of a bootstrap: what has been solved for, in this process or in several, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..drivers.checkpoint import RunState
from ..drivers.progress import progress_bar
from .copies import Outcome, Simulation, Task
from .held_out import N_FOLDS, factor_of

MIN_COPIES = 2
SOLVES = {"check": 2, "zoom": 1, "copy": 1}
"""Solves of each kind of task."""
CHECKS_PER_COPY, MIN_CHECKS = 0.25, 4
"""Pairs of solves without a tenth of the measurements, over n, and the fewest."""
ZOOMS_PER_COPY, MIN_ZOOMS = 1 / 3, 2
"""Zoomed copies, over n, and the fewest."""


@dataclass
class Runs:
    """What has been solved for, by number: each is the same whenever and wherever it is solved for.

    Attributes:
        found: values of `Outcome` by kind and number.
        n_diverged: solves that diverged.
        interrupted: Ctrl-C came.
    """

    found: dict[str, dict[int, Tensor]]
    n_diverged: int = 0
    interrupted: bool = False

    @classmethod
    def restored(cls, kept: RunState, counts: dict[str, int]) -> Runs:
        """Return what the checkpoint has of so many tasks of each kind."""
        held: dict[str, dict[int, Tensor]] = {kind: {} for kind in counts}
        for name in sorted(kept.tensors):
            kind, i = name.split()
            held.setdefault(kind, {})[int(i)] = kept.tensors[name]
        sums = kept.numbers.get("check", {})
        held["check"] = {int(i): torch.tensor(sums[i], dtype=torch.float64) for i in sums}
        found = {kind: {i: value for i, value in held[kind].items() if i < n} for kind, n in counts.items()}
        return cls(found, int(kept.numbers.get("n_diverged", 0)))

    def add(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        self.found[outcome.task.kind][outcome.task.i] = outcome.value
        self.n_diverged += outcome.n_diverged

    def keep(self, kept: RunState) -> None:
        """Hold all of it for the checkpoint."""
        errors = {f"{kind} {i:06d}": e for kind in ("copy", "zoom") for i, e in self.found[kind].items()}
        sums = {str(i): s.tolist() for i, s in self.found["check"].items()}
        kept.keep(errors, {"n_diverged": self.n_diverged, "check": sums})

    def errors(self, kind: str, like: Tensor) -> Tensor:
        """Return the errors of copies, or of zoomed ones, in the order of their numbers, (n, B, C, H, W)."""
        found = self.found[kind]
        return torch.stack([found[i] for i in sorted(found)]) if found else like.new_empty((0, *like.shape))

    def factor(self, n_images: int) -> tuple[Tensor, Tensor]:
        """Return the factor of each image and its standard error; 1 and NaN where nothing was held out."""
        sums = self.found["check"]
        if not sums:
            one = torch.ones(n_images, dtype=torch.float64)
            return one, torch.full_like(one, torch.nan)
        done = sorted(sums)
        held, predicted, noise = torch.stack([sums[i] for i in done]).unbind(1)
        used = torch.isin(torch.arange(held.shape[-1]) % N_FOLDS, torch.tensor(done))
        above = held.sum(0) - noise.mean(0)
        return factor_of(above[:, used], predicted.sum(0)[:, used])


def run(world: Simulation, n: int, kept: RunState, progress: bool, client: Any, n_workers: int | None) -> Runs:
    """Solve for everything that the checkpoint does not have, in the order of `in_order`."""
    counts = {
        "check": 0 if world.groups is None else min(N_FOLDS, max(MIN_CHECKS, round(CHECKS_PER_COPY * n))),
        "zoom": max(MIN_ZOOMS, round(ZOOMS_PER_COPY * n)) if "zoom" in world.kinds else 0,
        "copy": n,
    }
    runs = Runs.restored(kept, counts)
    todo = [task for task in in_order(counts) if task.i not in runs.found[task.kind]]
    bar: Any = progress_bar("bootstrap", sum(SOLVES[kind] * m for kind, m in counts.items())) if progress else None
    try:
        if bar is not None:
            bar.update(sum(SOLVES[kind] * len(found) for kind, found in runs.found.items()))
        with closing(_outcomes(world, todo, client, n_workers)) as outcomes:
            for outcome in outcomes:
                runs.add(outcome)
                runs.keep(kept)
                if bar is not None:
                    bar.update(SOLVES[outcome.task.kind])
        kept.end("done", dict(kept.tensors), dict(kept.numbers))
    except KeyboardInterrupt as stopped:
        if len(runs.found["copy"]) < MIN_COPIES:
            raise KeyboardInterrupt(_too_early(runs, kept)) from stopped
        runs.interrupted = True
    finally:
        if bar is not None:
            bar.close()
    return runs


def in_order(counts: dict[str, int]) -> list[Task]:
    """Return the tasks of each kind: the fewest copies first, then all kinds in proportion.

    After Ctrl-C there are error bars as early as possible, of as many checks and zooms as the copies ask for.

    >>> " ".join(f"{kind} {i}" for kind, i in in_order({"check": 1, "zoom": 2, "copy": 4}))
    'copy 0 copy 1 check 0 zoom 0 zoom 1 copy 2 copy 3'
    """

    def when(task: Task) -> tuple[bool, float]:
        return task.kind != "copy" or task.i >= MIN_COPIES, task.i / counts[task.kind]

    return sorted((Task(kind, i) for kind, m in counts.items() for i in range(m)), key=when)


def _too_early(runs: Runs, kept: RunState) -> str:
    """Return what Ctrl-C leaves where there are too few copies for error bars."""
    n, copies = sum(SOLVES[kind] * len(found) for kind, found in runs.found.items()), len(runs.found["copy"])
    stopped = f"bootstrap: Ctrl-C came after {copies} cop{'y' if copies == 1 else 'ies'}, error bars need {MIN_COPIES}"
    if kept.checkpoint is None:
        return f"{stopped}; with checkpoint=path the same call would resume"
    return f"{stopped}; the checkpoint holds {n} solve{'s' * (n > 1)}, and the same call resumes" if n else stopped


def _outcomes(world: Simulation, todo: list[Task], client: Any, n_workers: int | None) -> Generator[Outcome]:
    """Yield the outcomes as they come, from this process or from several."""
    if client is None and n_workers is None:
        yield from map(world.run, todo)
    elif todo:
        from .workers import outcomes_of_workers  # Dask takes a second to import

        yield from outcomes_of_workers(world, todo, client, n_workers)
