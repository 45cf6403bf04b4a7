"""Estimate the noise level of measurements, and summarise noise levels as one number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_WINDOWS = 1000
"""Fewer windows of 3 x 3 do not determine the noise level to a few per cent."""
MIN_TRIPLES = 50
"""Fewer triples of neighbours do not determine the noise level to some 20 per cent."""
GROWTH = 1.5
"""Factor by which the squared second differences of a picture grow at least from one pixel's distance to two."""
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps (rows, columns) along which three measured pixels may be neighbours."""


def estimate_noise_std(y: Tensor, gain: Tensor | None = None, variance: Tensor | None = None) -> float:
    """Estimate the standard deviation of white noise in y from second differences.

    The median absolute value of y[i-1] - 2 y[i] + y[i+1] along the last axis, which cancels what is locally linear
    and has 6 times the variance of the noise, over 0.6745 sqrt(6). Where the last two axes leave enough windows of
    3 x 3, also that of the second difference along both axes, with 36 times the variance (Immerkaer, Computer Vision
    and Image Understanding 64 (1996) 300), which cancels straight edges along either; the smaller of the two counts.
    Windows that hold an exact zero are left out: masked measurements are stored as zeros.

    With gains m the image is y/m, and the differences of y/m are divided by their own standard deviations. Where
    pixels are missing and fewer than MIN_WINDOWS triples along the last axis are whole, those along rows, columns and
    both diagonals count together.

    Texture finer than the sampling is taken for noise, so that the estimate is too high for richly textured images
    with little noise; pass noise_std where it is known.

    Args:
        y: measurements (..., n) or (..., m, n), n >= 3.
        gain: m, broadcasting to y, 0 where y is not measured, whatever it holds there. None: 1.
        variance: of each measurement, relative to the answer's square, broadcasting to y; finite. None: 1.

    Raises:
        ValueError: y has too few neighbours that are measured and not 0.

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
    has_gaps = gain is not None and bool((gain == 0).any())
    y, valid, variance = _image(y, gain, variance)
    differences = _differences(y, valid, variance, (0, 1))
    if has_gaps and y.ndim > 1 and len(differences) < MIN_WINDOWS:
        differences = _along_all_directions(y, valid, variance)
        if len(differences) < MIN_TRIPLES:
            raise ValueError(
                f"solve: noise_std cannot be estimated from the measured pixels: {len(differences)} rows of three "
                f"neighbours hold values other than 0, expected {MIN_TRIPLES} or more; pass noise_std"
            )
    if not len(differences):
        raise ValueError("solve: noise_std cannot be estimated: no three neighbours in y are non-zero; pass noise_std")
    estimate = float(differences.median()) / math.sqrt(6)
    if y.ndim > 1 and y.shape[-2] >= 3:
        differences = _differences(y, valid, variance, (0, 1), (1, 0))
        if len(differences) >= MIN_WINDOWS:
            estimate = min(estimate, float(differences.median()) / 6)
    return estimate / 0.6744898


def least_noise_std(y: Tensor, gain: Tensor | None = None, variance: Tensor | None = None) -> float:
    """Return a standard deviation that white noise in y has at least; 0 where y shows none, NaN where it is too small.

    With d_k^2 the variance of y[i-k] - 2 y[i] + y[i+k] over 6, estimated by its median as in `estimate_noise_std` along
    rows, columns and both diagonals, white noise adds s^2 to d_1 and to d_2. The d_k^2 of texture grows with k, in
    pictures by a factor c = 1.5 or more:

        d_2^2 - s^2 >= c (d_1^2 - s^2),    so    s^2 >= (c d_1^2 - d_2^2) / (c - 1).

    Texture that was sampled too coarsely is white, and is taken for noise, as is the grain of a picture.

    Args:
        y, gain, variance: as for `estimate_noise_std`.

    >>> y = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0)) + torch.arange(200.0)
    >>> round(least_noise_std(y), 1)
    1.0
    """
    if y.ndim < 2:
        return math.nan
    y, valid, variance = _image(y, gain, variance)
    near, far = (_along_all_directions(y, valid, variance, k) for k in (1, 2))
    if len(far) < MIN_WINDOWS:
        return math.nan
    square = (GROWTH * float(near.median()) ** 2 - float(far.median()) ** 2) / (GROWTH - 1)
    return math.sqrt(max(0.0, square) / 6) / 0.6744898


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


def _image(y: Tensor, gain: Tensor | None, variance: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the image y/gain, where it is measured, and the variance of its pixels."""
    valid = y != 0
    if variance is not None:
        variance = variance.expand(y.shape)
    if gain is not None:
        m = gain.to(torch.real(y).dtype).expand(y.shape)
        valid = valid & (m != 0)
        of_image = m**-2 if variance is None else variance / m.square()
        y, variance = torch.where(valid, y / m, 0), torch.where(valid, of_image, 0)
    return y, valid, variance


def _differences(y: Tensor, valid: Tensor, variance: Tensor | None, *steps: tuple[int, int]) -> Tensor:
    """Return |second differences| of y along the steps, one after another, of windows that are valid throughout.

    They are divided by their standard deviations relative to those of pixels of variance 1.
    """
    for step in steps:
        a, b, c = _triple(y, step)
        y = a - 2 * b + c
        first, middle, last = _triple(valid, step)
        valid = first & middle & last
        if variance is not None:
            a, b, c = _triple(variance, step)
            variance = (a + 4 * b + c) / 6
    return y.abs()[valid] if variance is None else y.abs()[valid] / variance[valid].sqrt()


def _along_all_directions(y: Tensor, valid: Tensor, variance: Tensor | None, distance: int = 1) -> Tensor:
    """Return |second differences| along rows, columns and both diagonals."""
    height, width = y.shape[-2:]
    steps = [(distance * i, distance * j) for i, j in DIRECTIONS]
    fitting = [step for step in steps if 2 * abs(step[0]) < height and 2 * abs(step[1]) < width]
    return torch.cat([_differences(y, valid, variance, step) for step in fitting]) if fitting else y.new_zeros(0)


def _triple(values: Tensor, step: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return three views of values, one step (rows, columns) apart."""
    views = [values, values, values]
    for axis, distance in ((-2, step[0]), (-1, step[1])):
        if distance:
            n = values.shape[axis] - 2 * abs(distance)
            first = 0 if distance > 0 else -2 * distance
            views = [view.narrow(axis, first + i * distance, n) for i, view in enumerate(views)]
    return views[0], views[1], views[2]
