"""What samplers that make and renew their own data have in common: the same crops after a stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from arrays import seeded
from torch import Tensor


def check_resumes(make: Callable[[], Any]) -> tuple[Any, Tensor]:
    """Check that a sampler goes on after `seek` as if it had not stopped; return it after nine calls, and its first."""
    whole, g = make(), seeded()
    drawn = []
    for call in range(9):
        if call == 5:
            state = g.get_state()
        drawn.append(whole(3, generator=g))
    late = make()
    late.seek(5)
    g.set_state(state)
    assert all(torch.equal(late(3, generator=g), x) for x in drawn[5:])
    late.seek(0)
    assert torch.equal(late(3, generator=seeded()), drawn[0])
    return whole, drawn[0]
