"""Fourier transforms of pixels and detector bins, the ramp filter, and fast FFT lengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bin_samples(pitch: float) -> int:
    """Return how many samples a bin of `pitch` pixels needs: at one in 1.25 pixels, y is within 0.5 %."""
    return max(1, math.ceil(pitch - 0.25))


def is_smooth(n: int) -> bool:
    """Return whether n has no prime factors but 2, 3, 5 and 7."""
    for p in (2, 3, 5, 7):
        while n % p == 0:
            n //= p
    return n == 1


def pixel_spectrum(k_x: Tensor, k_y: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a square pixel's Fourier transform at (k_x, k_y), radians per pixel, with the phase of the NUFFT's origin.

    The NUFFT's origin is pixel (H//2, W//2); the operators' is the image's centre, half a pixel away for even sizes.
    """
    height, width = shape
    shift_x, shift_y = width // 2 - (width - 1) / 2, height // 2 - (height - 1) / 2
    return sinc(k_x) * sinc(k_y) * torch.exp(1j * (shift_y * k_y - shift_x * k_x))


def ramp(n: int, device: torch.device | None = None) -> Tensor:
    """Return the response (n//2 + 1,) of the spatial ramp of period n, per bin (Kak and Slaney, eq. 3.61), float64."""
    t = torch.arange(n, device=device, dtype=torch.float64)
    t = torch.minimum(t, n - t)
    h = torch.where(t % 2 == 1, -1 / (math.pi * t) ** 2, 0.0)
    h[0] = 0.25
    response: Tensor = torch.fft.rfft(h).real
    return response


def sinc(k: Tensor) -> Tensor:
    """Return sin(k/2)/(k/2), with finite first and second derivatives at 0 (those of torch.sinc are NaN there)."""
    h = k / 2
    small = h.abs() < 1e-2
    series = 1 - h**2 / 6 + h**4 / 120 - h**6 / 5040
    h = torch.where(small, 1.0, h)
    return torch.where(small, series, h.sin() / h)
