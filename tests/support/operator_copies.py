"""Copies and moves of an operator whose geometry is held in tensors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor

from operators import ConeBeam, FanBeam


def check_copies(op: Any, x: Tensor, want: Tensor) -> None:
    """Check that copies, moves and what the operator's text says give A x bit for bit, and the same text."""
    names = {"ConeBeam": ConeBeam, "FanBeam": FanBeam}
    for twin in (
        copy.deepcopy(op),
        pickle.loads(pickle.dumps(op)),
        copy.deepcopy(op).to(torch.float32),
        eval(repr(op), names),
    ):
        assert torch.equal(twin.A(x), want)
        assert repr(twin) == repr(op)
