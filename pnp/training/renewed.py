"""A window of a sequence that is kept in memory and moves on, for samplers that make their own data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import processes


class Renewed:
    """Images or volumes of a sequence, of which some are kept and renewed one by one.

    Call t takes from min(kept, n_first + t) items, from number t // every on. Each is made when it is first needed. The
    items depend on the seed and on t alone. Each process of torchrun has a sequence of its own.

    Args:
        caller: the sampler, for messages.
        draw: makes an item from its entropy (seed, number, process).
        seed: of the sequence.
        n_first: items of the first call.
        kept: number of items kept in memory.
        every: number of calls after which the oldest item is replaced by a new one.

    Raises:
        ValueError: kept or every is below 1.
    """

    def __init__(
        self, caller: str, draw: Callable[[tuple[int, ...]], Tensor], *, seed: int, n_first: int, kept: int, every: int
    ) -> None:
        if kept < 1 or every < 1:
            raise ValueError(f"{caller}: kept and every must be at least 1, got {kept} and {every}")
        self.draw, self.seed, self.n_first, self.kept, self.every = draw, seed, n_first, kept, every
        self.calls = 0
        self.items: dict[int, Tensor] = {}

    def seek(self, calls: int) -> None:
        """Continue as after this number of calls."""
        self.calls, first = calls, calls // self.every
        for number in [k for k in self.items if not first <= k < first + self.kept]:
            del self.items[number]

    def pick(self, batch: int, generator: torch.Generator) -> list[int]:
        """Return random numbers of items for the crops of this call."""
        count = min(self.kept, self.n_first + self.calls)
        picked: list[int] = (self.calls // self.every + torch.randint(count, (batch,), generator=generator)).tolist()
        return picked

    def __getitem__(self, number: int) -> Tensor:
        """Return an item, made at its first use."""
        if number not in self.items:
            # The third number tells training data from those that the package hands out.
            self.items[number] = self.draw((self.seed, number, 1 + processes.rank()))
        return self.items[number]
