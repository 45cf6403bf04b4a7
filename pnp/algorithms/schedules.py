"""Noise levels of the denoiser, and the coupling that goes with each.

sigma_k is log-spaced from sigma_max to sigma_min and then held (Zhang et al. 2021, "Plug-and-Play Image
Restoration with Deep Denoiser Prior", section 4.2). With measurements whitened by W = 1/noise_std^2 their
alpha_k = lambda sigma_noise^2 / sigma_k^2 reads alpha_k = lambda strength / sigma_k^2: W already holds the noise.

    HQS     lambda = 0.23, theirs
    ADMM    lambda = 0.43^(1 - e^2), e the spectral flatness of A*WA, in (0, 1]:

e = tr(M^2) / (||M|| tr M), M = A*WA, is the mean eigenvalue of M, weighted with the eigenvalues themselves, over the
largest: 1 where all non-zero eigenvalues are equal (masks, denoising, shear with uniform noise), near 0 in
tomography. At e = 1 ADMM solves for f + R with the denoiser as the proximal step of R, and denoising by `solve` is
the denoiser itself. Where M falls off, that minimiser is too smooth, since a denoiser returns means and not modes;
0.43, the exponent and the last noise level were chosen once on development photographs (docs/results.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import is_finite

COUPLING_HQS = 0.23
"""lambda of Zhang et al. 2021, table 2 and section 4.2."""
COUPLING_ADMM = 0.43
"""lambda of ADMM for a spectral flatness near 0."""
RELAXATION = 1.7
"""rho where little is measured: half the iterations of rho = 1 then give the same image."""
LAST_ADMM = 1.5
"""Last noise level of ADMM over ||A*WA||^(-1/2), for a spectral flatness near 0."""


@dataclass(frozen=True)
class Schedule:
    """Noise levels sigma_k, log-spaced over n_iter iterations and held at sigma_min afterwards.

    Args:
        sigma_max: first noise level, in units of x.
        sigma_min: last noise level, in units of x; at most sigma_max.
        n_iter: iterations from the first to the last; with 1, sigma_min is used from the start.

    >>> [round(Schedule(0.8, 0.1, n_iter=4)(k), 6) for k in range(6)]
    [0.8, 0.4, 0.2, 0.1, 0.1, 0.1]
    """

    sigma_max: float
    sigma_min: float
    n_iter: int = 20

    def __post_init__(self) -> None:
        levels = (self.sigma_max, self.sigma_min)
        numbers = all(isinstance(s, (int, float, np.integer, np.floating)) and not isinstance(s, bool) for s in levels)
        if not numbers or not 0 < self.sigma_min <= self.sigma_max or not is_finite(self.sigma_max):
            got = [" ".join(repr(s).split())[:60] for s in levels]
            raise (ValueError if numbers else TypeError)(
                f"Schedule: expected 0 < sigma_min <= sigma_max, got sigma_max={got[0]}, sigma_min={got[1]}; both are "
                "standard deviations in units of x"
            )
        if isinstance(self.n_iter, bool) or not isinstance(self.n_iter, int) or self.n_iter < 1:
            shown = " ".join(repr(self.n_iter).split())[:60]
            raise ValueError(f"Schedule: n_iter must be an integer of at least 1, got {shown}")

    def __call__(self, k: int) -> float:
        """Return the noise level of iteration k = 0, 1, ..., in units of x."""
        if k >= self.n_iter - 1:
            return self.sigma_min
        fraction = k / (self.n_iter - 1)
        return math.exp((1 - fraction) * math.log(self.sigma_max) + fraction * math.log(self.sigma_min))


def coupling(algorithm: str, spectral_flatness: float) -> float:
    """Return lambda, without unit; alpha_k = lambda strength / sigma_k^2.

    >>> coupling("hqs", 0.5), coupling("admm", 0.0), coupling("admm", 1.0)
    (0.23, 0.43, 1.0)
    """
    return COUPLING_HQS if algorithm == "hqs" else COUPLING_ADMM ** (1 - min(spectral_flatness, 1.0) ** 2)


def last_level(algorithm: str, spectral_flatness: float) -> float:
    """Return the last noise level over ||A*WA||^(-1/2).

    >>> last_level("hqs", 0.5), last_level("admm", 0.0), last_level("admm", 1.0)
    (1.0, 1.5, 1.0)
    """
    return 1.0 if algorithm == "hqs" else float(LAST_ADMM ** (1 - min(spectral_flatness, 1.0) ** 2))


def relaxation(coverage: float) -> float:
    """Return rho of ADMM, from 1.7 where the measurements determine little of the image to 1 where all of it.

    There x = y, and an over-relaxed z would swing about it.

    >>> relaxation(0.0), relaxation(1.0)
    (1.7, 1.0)
    """
    return 1 + (RELAXATION - 1) * (1 - min(coverage, 1.0) ** 2)


def robust_range(x: Tensor) -> float:
    """Return the range of x without its lowest and its highest hundredth; first noise levels are a share of it."""
    values = torch.real(x).flatten()
    values = values[:: 1 + values.numel() // 1_000_000].sort().values  # torch.quantile refuses large inputs
    last = values.numel() - 1
    return float(values[round(0.99 * last)] - values[round(0.01 * last)])
