"""Gaussian smoothing of periodic maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Gaussian:
    """Convolution of maps (..., H, W) with a periodic Gaussian: `Gaussian((256, 256), 2.0)(x)`.

    Args:
        shape: (H, W) of the maps.
        smoothing_px: standard deviation in pixels; 0: no smoothing.
        like: gives dtype and device of the response; None: float64 on the CPU.

    >>> point = torch.zeros(5, 7, dtype=torch.float64)
    >>> point[2, 3] = 1
    >>> round(float(Gaussian((5, 7), 0.5)(point).sum()), 12)
    1.0
    """

    def __init__(self, shape: tuple[int, int], smoothing_px: float, *, like: Tensor | None = None) -> None:
        self.shape = shape
        like = torch.empty(0, dtype=torch.float64) if like is None else like
        k2 = torch.fft.fftfreq(shape[0], dtype=like.dtype, device=like.device)[:, None]
        k1 = torch.fft.rfftfreq(shape[1], dtype=like.dtype, device=like.device)
        self.response = torch.exp(-2 * (math.pi * smoothing_px) ** 2 * (k1.square() + k2.square()))

    def __call__(self, x: Tensor) -> Tensor:
        """Smooth maps x (..., H, W), of the response's dtype and device."""
        smooth: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * self.response, s=self.shape)
        return smooth
