"""The 2D Fourier transform of half a turn and its mirror image: the energy outside the double wedge, for every axis.

See `centre.py`, "wedge".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

STEPS_PER_BIN = 8
"""Steps per bin in the search for the least energy outside the wedge."""
MIN_OVERLAP = 0.25
"""Smallest fraction of the bins that opposite views share: the axis lies in the detector's middle three quarters."""
MAX_VARIATION = 0.1
"""Largest relative variation of even steps, and of the views' sums, which are equal for an object in full view."""


class Window(NamedTuple):
    """Bins in which the axis is looked for; None: the middle three quarters, or wherever a full turn shows it."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"bins {self.low:.4g} to {self.high:.4g}"


def half_turn_order(theta: Tensor) -> Tensor | None:
    """Return the order of views that steps evenly over half a turn, its end left out; None: they do not."""
    ordered, order = theta.sort()
    steps = ordered.diff()
    step = float(ordered[-1] - ordered[0]) / (len(theta) - 1)
    if len(theta) < 4 or not step > 0 or float((steps - step).abs().max()) > MAX_VARIATION * step:
        return None
    n = round(math.pi / step)  # views of half a turn: all, or all but a last one at 180 degrees
    if n not in (len(theta), len(theta) - 1) or abs(n * step - math.pi) > 0.5 * step:
        return None
    return order[:n]


class WedgeCurve(NamedTuple):
    """Energy outside the double wedge for every axis first + i/per_bin, in bins."""

    energy: Tensor
    allowed: Tensor
    first: float
    per_bin: int
    constant: Tensor
    """What to add to `energy` to make it the energy."""


def outside_wedge(p: Tensor, window: Window | None) -> WedgeCurve:
    """Return the energy that half a turn p (slices, n_angles, n) and its mirror image leave outside, by axis."""
    n_angles, n = p.shape[-2:]
    size = 2 * n
    half, mirrored = p.new_zeros(len(p), 2 * n_angles, size), p.new_zeros(len(p), 2 * n_angles, size)
    half[:, :n_angles, :n], mirrored[:, n_angles:, :n] = p, p.flip(-1)
    P, Q = torch.fft.fft2(half), torch.fft.fft2(mirrored)
    nu = (torch.fft.fftfreq(2 * n_angles, dtype=p.dtype) * 2 * n_angles).abs()[:, None]
    omega = torch.fft.fftfreq(size, dtype=p.dtype) * 2 * math.pi
    # No object in view reaches further than half the detector from the axis if that is at its middle.
    outside = nu > omega.abs() * (n / 2) + 1
    cross = (P.conj() * Q * outside).sum((0, 1))
    constant = ((P.abs().square() + Q.abs().square()) * outside).sum() / 2
    padded = torch.zeros(STEPS_PER_BIN * size, dtype=cross.dtype)
    padded[torch.arange(size).where(torch.arange(size) < n, torch.arange(size) - size)] = cross
    energy = torch.fft.fft(padded).real
    shift = torch.arange(STEPS_PER_BIN * size)
    shift = shift.where(shift < STEPS_PER_BIN * n, shift - STEPS_PER_BIN * size)
    if window is None:
        inside = shift.abs() <= STEPS_PER_BIN * n * (1 - MIN_OVERLAP)
    else:
        centre = (n - 1) / 2 + shift / (2 * STEPS_PER_BIN)
        inside = (centre >= window.low) & (centre <= window.high)
    zero = STEPS_PER_BIN * n  # the index of shift 0
    return WedgeCurve(energy.roll(zero), inside.roll(zero), (n - 1) / 2 - n / 2, 2 * STEPS_PER_BIN, constant)
