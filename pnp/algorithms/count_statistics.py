"""Statistics of counts: deviance residuals, and signs that numbers are no counts in the unit they are taken for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_SAMPLES = 1 << 16
"""Measurements that are looked at, evenly spread over y."""
_FEWEST = 64
"""Fewer nonzero measurements than this say nothing about their unit."""
_HARMLESS = 1.25
"""A factor that the unit of a count may be off without a sentence, such as a correction of all counts for decay."""
_BLOCK = 256
"""Consecutive second differences in one estimate of the Fano factor."""


def deviance_residuals(y: Tensor, expected: Tensor) -> Tensor:
    """Return sign(m - y) sqrt(2 (y log(y/m) - y + m)) of counts y and their expectation m, nearly normal if m fits.

    P. McCullagh and J. A. Nelder, Generalized Linear Models, 2nd ed., 1989, section 2.4.3; y log(y/m) is 0 at y = 0.
    With u = (m - y)/m near 0 the bracket is m sum_{k >= 2} u^k / (k (k - 1)), without cancellation.

    >>> deviance_residuals(torch.tensor([0.0, 1.0]), torch.tensor([8.0, 1.0]))
    tensor([4., 0.])
    """
    m = expected.clamp(min=torch.finfo(expected.dtype).tiny ** 0.75)
    u = (m - y) / m
    near = u.abs() < 0.05
    small = torch.where(near, u, 0)
    series = small.square() * sum(small ** (k - 2) / (k * (k - 1)) for k in range(2, 8))
    half = torch.where(near, m * series, torch.special.xlogy(y, y / m) - y + m)
    return torch.sign(m - y) * (2 * half.clamp(min=0)).sqrt()


def concerns_of_counts(counts: Tensor, gain: Tensor) -> list[str]:
    """Return a sentence where y = gain * counts is probably in another unit, in an empty list where not.

    Counts that were corrected, by a scatter or an attenuation estimate for instance, are no whole numbers either, but
    vary no less than counts do. So there must be two signs: numbers that are not whole must vary much less than counts,
    or y must have steps of another size, which its variance fits better than a step of one count.

    Args:
        counts: y/gain, what is taken for numbers of counts.
        gain: y per count, for the sentences: a scalar, or an array.
    """
    values, fano = _nonzero_sample(counts), fano_factor(counts)
    if fano is None or len(values) < _FEWEST:
        return []
    step, varies_less = count_step(values), fano < 0.5 and not are_whole(values)
    is_scalar = gain.numel() == 1
    unit, name = (float(gain), "y") if is_scalar else (1.0, "y/gain")
    variance = f"the variance of neighbours is {unit * fano:.2g} of their mean"
    if step is not None and abs(math.log(step)) > math.log(_HARMLESS):
        size = math.log(max(fano, 1e-9))
        if varies_less or abs(size - math.log(step)) < abs(size):
            remedy = f"gain={unit * step:.4g}" if is_scalar else f"gain={step:.4g} * gain"
            return [
                f"{name} comes in steps of {unit * step:.4g}, where Poisson takes {unit:.4g} for one count, and "
                f"{variance}; if y is a gain times counts, use Poisson({remedy}); if it is a picture, LeastSquares()"
            ]
    if varies_less:
        return [
            f"{name} holds no whole numbers of counts and varies less than counts do ({variance}, {unit:.4g} "
            "expected); if y is a gain times counts, or a mean of counts, use Poisson(gain=...); if y was smoothed or "
            "holds no noise, LeastSquares()"
        ]
    return []


def are_whole(values: Tensor) -> bool:
    """Return whether all but 1 % of the values are whole numbers up to their rounding."""
    off = (values - values.round()).abs()
    return int((off > 1e-3 + 8 * torch.finfo(values.dtype).eps * values).sum()) < 0.01 * values.numel()


def fano_factor(counts: Tensor) -> float | None:
    """Return the variance of neighbours along the last axis over their mean, 1 for counts; None: y says nothing.

    Of second differences d_i = y_{i-1} - 2 y_i + y_{i+1}, with the variance F (m_{i-1} + 4 m_i + m_{i+1}) for counts
    of mean m, F = sum d_i^2 / sum (y_{i-1} + 4 y_i + y_{i+1}) over blocks. What is not noise adds to d: the answer is
    the lower quartile over the blocks.
    """
    n = counts.shape[-1]
    if n < 3:
        return None
    rows = counts.reshape(-1, n)
    rows = rows[:: max(1, rows.shape[0] * n // (16 * _SAMPLES))]
    left, middle, right = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    squares, sums = (left - 2 * middle + right).square().flatten(), (left + 4 * middle + right).flatten()
    whole_blocks = max(len(squares) // _BLOCK, 1) * _BLOCK
    squares, sums = (t[:whole_blocks].reshape(-1, min(_BLOCK, len(t))).sum(1) for t in (squares, sums))
    seen = sums > 0
    ratios = (squares[seen] / sums[seen]).cpu().numpy()
    return float(np.quantile(ratios, 0.25)) if ratios.size else None


def count_step(values: Tensor) -> float | None:
    """Return the largest number of which all values > 0 are whole multiples, up to rounding; None: there is none.

    >>> count_step(torch.tensor([0.3, 0.7, 0.5, 1.2]))
    0.1
    """
    distinct = values.unique()  # type: ignore[no-untyped-call]
    if not len(distinct):
        return None
    chosen = [float(v) for v in distinct[:: max(1, len(distinct) // 64)].tolist()]
    # Values k step are off by their rounding, which Euclid's algorithm multiplies.
    rounding = 1e3 * torch.finfo(values.dtype).eps * chosen[-1]
    step = chosen[0]
    for value in chosen[1:]:
        rest = value
        while rest > rounding:
            rest, step = abs(step - rest * round(step / rest)), rest
        if step <= rounding:
            return None
    for value in chosen:  # from the smallest on each says more precisely what the step is
        step = value / max(round(value / step), 1)
    multiples = distinct.cpu().numpy().astype(np.float64) / step  # not on the device, which may have no float64
    fits = bool((np.abs(multiples - multiples.round()) < 0.05).all() and (multiples > 0.5).all())
    return float(f"{step:.6g}") if fits else None


def _nonzero_sample(values: Tensor) -> Tensor:
    """Return values other than 0, at most _SAMPLES of them, evenly spread."""
    flat = values.reshape(-1)
    flat = flat[flat != 0]
    return flat[:: -(-len(flat) // _SAMPLES) or 1]
