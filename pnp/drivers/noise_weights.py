"""The weights W = 1/noise_std^2 of measurements, and measurements without NaN."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithms.batch import images
from ..algorithms.noise_estimate import estimate_noise_std
from ..algorithms.protocols import DataTerm, Operator
from ..checks import short
from .arguments import as_weights
from .physics_noise import check_sampled, declared_noise_std, gain_of

EXACT_RTOL = 1e-4
"""Measurements better than this fraction of their root mean square are treated as just as good."""


def clean_and_weigh(
    operator: Operator | None, y: Tensor, noise_std: Any, term: DataTerm
) -> tuple[Tensor, Tensor, bool]:
    """Return y without NaN, the weights W = 1/noise_std^2, and whether noise_std was estimated.

    Args:
        operator: what measures y; None: a part of a stack that does not say.
        y: measurements, batch first.
        noise_std: as of `solve`. None: deepinv's `operator.noise_model.sigma` where there is one, else estimated, one
            level for each image.
        term: what takes the weights.
    """
    if not term.needs_noise_std and noise_std is not None:
        raise ValueError(
            f"solve: noise_std must be None with {type(term).__name__}, which takes the noise from the counts, "
            f"got {short(repr(noise_std), 60)}"
        )
    if noise_std is None and term.needs_noise_std:
        noise_std = declared_noise_std(operator, y)
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
    _check_mask(operator, y, dead)
    if not term.needs_noise_std:
        return y, torch.ones((), dtype=torch.real(y).dtype, device=y.device), False
    exact = [EXACT_RTOL * rms for rms in _rms(y, dead)]
    if estimated:
        levels = [max(level, least) for level, least in zip(_estimate(operator, y), exact, strict=True)]
        weights = as_weights(_one_each(levels, y), y)
    assert weights is not None
    return y, _limited(weights, exact, y), estimated


def norm(x: Tensor) -> float:
    """Return ||x||: in float64 by NumPy on the CPU, elsewhere in the device's own precision."""
    a = x.detach().abs()
    if a.device.type != "cpu":
        return scaled_norm(a)
    # Not `np.linalg.norm`: the threads of its BLAS go on spinning, and everything after it takes half as long again.
    return math.sqrt(np.square(a.numpy(), dtype=np.float64).sum())


def scaled_norm(a: Tensor) -> float:
    """Return ||a||, a >= 0, in units of its largest entry: for Apple's GPUs, which have no float64.

    float32 has no room for the squares of faint images. `Tensor.sum` adds pairwise, which `vector_norm` does not.
    """
    largest = float(a.max())
    return largest * float((a / largest).square().sum()) ** 0.5 if 0 < largest < math.inf else largest


def _check_mask(operator: Operator | None, y: Tensor, dead: Tensor) -> None:
    """Refuse measurements that are 0 wherever a mask measures, and not 0 where it does not."""
    gain = gain_of(operator, y)
    if gain is None:
        return
    measured, seen = gain != 0, (y != 0) & ~dead
    if bool(seen.any()) and not bool((seen & measured).any()) and bool((measured & ~dead).any()):
        raise ValueError(
            "solve: y must not be 0 wherever the operator's mask measures, got values other than 0 only where it does "
            "not: the mask is inverted; it is 1 where y is measured, so use ~mask"
        )


def _rms(y: Tensor, dead: Tensor) -> list[float]:
    """Return the root mean square of each image's measurements that count."""
    return [norm(a) / max(int((~d).sum()), 1) ** 0.5 for a, d in zip(images(y), images(dead), strict=True)]


def _estimate(operator: Operator | None, y: Tensor) -> list[float]:
    """Return the estimated noise level of each image; one that is 0 throughout takes the median of the others."""
    parts = images(y)
    own = getattr(operator, "estimate_noise", None)
    if own is not None:
        return [float(own(image)) for image in parts]
    check_sampled(operator, "this part" if operator is None else type(operator).__name__)
    gain = gain_of(operator, y)
    gains = [None] * len(parts) if gain is None else images(gain)
    blank = [not bool((image != 0).any()) for image in parts]
    if all(blank):
        blank = [False] * len(parts)  # the estimate says what is wrong
    found = [
        math.nan if is_blank else estimate_noise_std(image, m)
        for image, m, is_blank in zip(parts, gains, blank, strict=True)
    ]
    typical = statistics.median(level for level, is_blank in zip(found, blank, strict=True) if not is_blank)
    return [typical if is_blank else level for level, is_blank in zip(found, blank, strict=True)]


def _one_each(values: list[float], y: Tensor) -> Any:
    """Return a number for a batch of one, else (B, 1, ..., 1)."""
    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=torch.real(y).dtype, device=y.device).reshape(-1, *[1] * (y.ndim - 1))


def _limited(weights: Tensor, exact: list[float], y: Tensor) -> Tensor:
    """Return weights of at most 1/exact^2 for each image, unchanged in shape where none is larger."""
    largest = torch.finfo(weights.dtype).max
    limits = [min(least**-2, largest) if least > 1e-154 else largest for least in exact]
    if len(limits) == 1 or not bool((weights > min(limits)).any()):
        return weights.clamp(max=min(limits))
    return torch.minimum(weights, _one_each(limits, y))
