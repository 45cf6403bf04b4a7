"""Random arrays that are the same in every run and precision, and how far apart two arrays are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Standard normal numbers, drawn in double precision."""
    drawn = torch.complex128 if dtype.is_complex else F64
    return torch.randn(*shape, generator=seeded(seed), dtype=drawn).to(dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Numbers evenly in [0, 1), drawn in double precision."""
    return torch.rand(*shape, generator=seeded(seed), dtype=F64).to(dtype)


def rel(a: Any, b: Any) -> float:
    """||a - b|| / ||b||."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return ((a - b).norm() / b.norm()).item()
