"""The solves of a bootstrap: what has been solved for, in this process or in several, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..drivers.checkpoint import RunState
from ..drivers.progress import progress_bar
from .copies import Outcome, Simulation, Task
from .held_out import N_FOLDS, factor_of

MIN_COPIES = 2
CHECKS_PER_COPY, MIN_CHECKS = 0.25, 4
"""Pairs of solves without a tenth of the measurements, over n, and the fewest."""


@dataclass
class Runs:
    """What has been solved for, by number: each is the same whenever and wherever it is solved for.

    Attributes:
        errors: E_i of the copies.
        sums: of the checks, see `Simulation.check`, (3, B, n_groups).
        n_diverged: solves that diverged.
        interrupted: Ctrl-C came.
    """

    errors: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    n_diverged: int = 0
    interrupted: bool = False

    @classmethod
    def restored(cls, kept: RunState, n_checks: int, n: int) -> Runs:
        """Return what the checkpoint has of these checks and copies."""
        errors = {int(name.split()[-1]): error for name, error in kept.tensors.items()}
        sums = {int(i): torch.tensor(s, dtype=torch.float64) for i, s in kept.numbers.get("sums", {}).items()}
        return cls(
            {i: errors[i] for i in sorted(errors) if i < n},
            {i: sums[i] for i in sorted(sums) if i < n_checks},
            int(kept.numbers.get("n_diverged", 0)),
        )

    def add(self, outcome: Outcome) -> None:
        """Take in a check or a copy."""
        (self.sums if outcome.is_check else self.errors)[outcome.i] = outcome.value
        self.n_diverged += outcome.n_diverged

    def keep(self, kept: RunState) -> None:
        """Hold all of it for the checkpoint."""
        tensors = {f"error {i:06d}": error for i, error in self.errors.items()}
        kept.keep(tensors, {"n_diverged": self.n_diverged, "sums": {i: s.tolist() for i, s in self.sums.items()}})

    @property
    def samples(self) -> Tensor:
        """The errors in the order of their numbers, (n, B, C, H, W)."""
        return torch.stack([self.errors[i] for i in sorted(self.errors)])

    def factor(self, n_images: int) -> tuple[Tensor, Tensor]:
        """Return the factor of each image and its standard error; 1 and NaN where nothing was held out."""
        if not self.sums:
            one = torch.ones(n_images, dtype=torch.float64)
            return one, torch.full_like(one, torch.nan)
        done = sorted(self.sums)
        held, predicted, noise = torch.stack([self.sums[i] for i in done]).unbind(1)
        used = torch.isin(torch.arange(held.shape[-1]) % N_FOLDS, torch.tensor(done))
        above = held.sum(0) - noise.mean(0)
        return factor_of(above[:, used], predicted.sum(0)[:, used])


def run(world: Simulation, n: int, kept: RunState, progress: bool, client: Any, n_workers: int | None) -> Runs:
    """Solve for all checks and copies that the checkpoint does not have, checks first."""
    n_checks = 0 if world.groups is None else min(N_FOLDS, max(MIN_CHECKS, round(CHECKS_PER_COPY * n)))
    runs = Runs.restored(kept, n_checks, n)
    todo = [Task(i, True) for i in range(n_checks) if i not in runs.sums]
    todo += [Task(i, False) for i in range(n) if i not in runs.errors]
    bar: Any = progress_bar("bootstrap", n + 2 * n_checks) if progress else None
    try:
        if bar is not None:
            bar.update(len(runs.errors) + 2 * len(runs.sums))
        with closing(_outcomes(world, todo, client, n_workers)) as outcomes:
            for outcome in outcomes:
                runs.add(outcome)
                runs.keep(kept)
                if bar is not None:
                    bar.update(2 if outcome.is_check else 1)
        kept.end("done", dict(kept.tensors), dict(kept.numbers))
    except KeyboardInterrupt:
        if len(runs.errors) < MIN_COPIES:
            raise
        runs.interrupted = True
    finally:
        if bar is not None:
            bar.close()
    return runs


def _outcomes(world: Simulation, todo: list[Task], client: Any, n_workers: int | None) -> Generator[Outcome]:
    """Yield the outcomes as they come, from this process or from several."""
    if client is None and n_workers is None:
        yield from map(world.run, todo)
    elif todo:
        from .workers import outcomes_of_workers  # Dask takes a second to import

        yield from outcomes_of_workers(world, todo, client, n_workers)
