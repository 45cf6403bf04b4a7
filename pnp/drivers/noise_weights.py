"""The weights W = 1/noise_std^2 of measurements, and measurements without NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithms.noise_estimate import estimate_noise_std
from ..algorithms.protocols import DataTerm, Operator
from ..checks import short
from .arguments import as_weights

EXACT_RTOL = 1e-4
"""Measurements better than this fraction of their root mean square are treated as just as good."""


def clean_and_weigh(operator: Operator, y: Tensor, noise_std: Any, term: DataTerm) -> tuple[Tensor, Tensor, bool]:
    """Return y without NaN, the weights W = 1/noise_std^2, and whether noise_std was estimated."""
    if not term.needs_noise_std and noise_std is not None:
        raise ValueError(
            f"solve: noise_std must be None with {type(term).__name__}, which takes the noise from the counts, "
            f"got {short(repr(noise_std), 60)}"
        )
    estimated = noise_std is None and term.needs_noise_std
    weights = None if noise_std is None else as_weights(noise_std, y)
    dead = torch.zeros_like(y, dtype=torch.bool) if weights is None else (weights == 0).expand(y.shape)
    if not bool((y.isfinite() | dead).all()):
        bad = int((~y.isfinite() & ~dead).sum())
        raise ValueError(
            f"solve: y must be finite, got NaN or infinity in {bad} of {y.numel()} measurements; set noise_std to "
            "infinity there to leave them out, or use torch.nan_to_num(y) where the operator drops them"
        )
    y = torch.where(dead, 0, y)
    if not term.needs_noise_std:
        return y, torch.ones((), dtype=torch.real(y).dtype, device=y.device), False
    rms = norm(y) / max(int((~dead).sum()), 1) ** 0.5
    if estimated:
        own = getattr(operator, "estimate_noise", estimate_noise_std)
        weights = as_weights(max(float(own(y)), EXACT_RTOL * rms), y)
    assert weights is not None
    if rms > 0:
        weights = weights.clamp(max=min((EXACT_RTOL * rms) ** -2, torch.finfo(weights.dtype).max))
    return y, weights, estimated


def norm(x: Tensor) -> float:
    """Return ||x||: in float64 by NumPy on the CPU, elsewhere in the device's own precision."""
    a = x.detach().abs()
    return float(np.linalg.norm(a.numpy().astype(np.float64))) if a.device.type == "cpu" else scaled_norm(a)


def scaled_norm(a: Tensor) -> float:
    """Return ||a||, a >= 0, in units of its largest entry: for Apple's GPUs, which have no float64.

    float32 has no room for the squares of faint images. `Tensor.sum` adds pairwise, which `vector_norm` does not.
    """
    largest = float(a.max())
    return largest * float((a / largest).square().sum()) ** 0.5 if 0 < largest < math.inf else largest
