"""Precision of a network's computation: float32, or bfloat16 where the processor multiplies it natively."""

from __future__ import annotations

import torch
from torch import Tensor

_PRECISIONS = ("auto", "float32", "bfloat16")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether matrix products in bfloat16 run natively on the device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def check_precision(caller: str, precision: str) -> str:
    """Return precision, "auto", "float32" or "bfloat16"; any other is a ValueError."""
    if precision not in _PRECISIONS:
        raise ValueError(f"{caller}: precision must be one of {_PRECISIONS}, got {precision!r}")
    return precision


def compute_dtype(x: Tensor, precision: str) -> torch.dtype:
    """Return the dtype of the matrix products for input x: "auto" is bfloat16 where that is native; float64 stays."""
    if x.dtype == torch.float64:
        return torch.float64
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(x.device) else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16
