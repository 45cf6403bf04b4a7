"""Estimate the noise level of measurements, and summarise noise levels as one number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

MIN_WINDOWS = 1000
"""Fewer windows of 3 x 3 do not determine the noise level to a few per cent."""


def estimate_noise_std(y: Tensor) -> float:
    """Estimate the standard deviation of white noise in y from second differences.

    The median absolute value of y[i-1] - 2 y[i] + y[i+1] along the last axis, which cancels what is locally linear
    and has 6 times the variance of the noise, over 0.6745 sqrt(6). Where the last two axes leave enough windows of
    3 x 3, also that of the second difference along both axes, with 36 times the variance (Immerkaer, Computer Vision
    and Image Understanding 64 (1996) 300), which cancels straight edges along either; the smaller of the two counts.
    Windows that hold an exact zero are left out: masked measurements are stored as zeros.

    Texture finer than the sampling is taken for noise, so that the estimate is too high for richly textured images
    with little noise; pass noise_std where it is known.

    Args:
        y: measurements (..., n) or (..., m, n), n >= 3.

    >>> import torch
    >>> y = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0)) + torch.arange(200.0)
    >>> round(estimate_noise_std(y), 1)
    1.0
    """
    if y.ndim == 0 or y.shape[-1] < 3:
        raise ValueError(
            f"solve: noise_std cannot be estimated from y of shape {tuple(y.shape)}: the last axis needs 3 samples "
            "or more; pass noise_std"
        )
    second, whole = _second_difference(y, y != 0, -1)
    if not bool(whole.any()):
        raise ValueError("solve: noise_std cannot be estimated: no three neighbours in y are non-zero; pass noise_std")
    estimate = float(second.abs()[whole].median()) / math.sqrt(6)
    if y.ndim > 1 and y.shape[-2] >= 3:
        mixed, whole = _second_difference(second, whole, -2)
        if int(whole.sum()) >= MIN_WINDOWS:
            estimate = min(estimate, float(mixed.abs()[whole].median()) / 6)
    return estimate / 0.6744898


def typical_noise_std(noise_std: Any) -> float:
    """Return the median of the finite noise levels; NaN for None or where none is finite.

    Args:
        noise_std: a number, an array or a tensor; infinity stands for "not measured".

    >>> typical_noise_std([0.1, 0.3, 0.2, math.inf])
    0.2
    """
    if noise_std is None:
        return math.nan
    values = noise_std.cpu().numpy() if isinstance(noise_std, Tensor) else np.asarray(noise_std)
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _second_difference(y: Tensor, valid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return y[i-1] - 2 y[i] + y[i+1] along an axis, and whether all three are valid."""
    n = y.shape[axis] - 2
    a, b, c = (y.narrow(axis, i, n) for i in range(3))
    return a - 2 * b + c, valid.narrow(axis, 0, n) & valid.narrow(axis, 1, n) & valid.narrow(axis, 2, n)
