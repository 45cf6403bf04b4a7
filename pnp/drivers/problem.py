"""What `solve` chooses for the caller: weights of the measurements, the first estimate, the noise levels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..algorithms.noise_estimate import estimate_noise_std
from ..algorithms.protocols import BoundDataTerm, DataTerm, Denoiser, Operator
from ..algorithms.schedules import Schedule, robust_range
from ..checks import short
from .arguments import as_weights

FIRST_SIGMA = 0.4
"""First noise level over the robust range of the first estimate."""
ANNEALING = 20
"""Iterations from the first noise level to the last, unless max_iter is less."""
MAX_ITER = 24
RTOL = 1e-3
EXACT = 1e-4
"""Measurements better than this fraction of their root mean square are treated as just as good."""
DIVERGED = 1e6
"""An iterate so many times larger than the first estimate, or than its noise, has diverged."""


def _clean_and_weigh(operator: Operator, y: Tensor, noise_std: Any, term: DataTerm) -> tuple[Tensor, Tensor, bool]:
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
    rms = _norm(y) / max(int((~dead).sum()), 1) ** 0.5
    if estimated:
        own = getattr(operator, "estimate_noise", estimate_noise_std)
        weights = as_weights(max(float(own(y)), EXACT * rms), y)
    assert weights is not None
    if rms > 0:
        weights = weights.clamp(max=min((EXACT * rms) ** -2, torch.finfo(weights.dtype).max))
    return y, weights, estimated


def _bind(term: DataTerm, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
    """Bind the data term and check that the operator and y belong together, shape and scale."""
    shape = f"of shape {tuple(y.shape)} " if isinstance(y, Tensor) else ""
    try:
        h = term.bind(operator, y, weights)
        again = operator.A(h.back_projection)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a foreign operator raises for measurements that are not its own
        if isinstance(error, (ValueError, TypeError)) and len(str(error)) < 400 and "\n" not in str(error):
            raise
        raise ValueError(
            f"solve: y {shape}does not fit the operator, whose A_adjoint(y) failed: {short(error)}; "
            "y must look like operator.A(x), batch first"
        ) from error
    if isinstance(y, Tensor) and not isinstance(again, Tensor):
        raise TypeError(f"solve: operator.A must return a torch.Tensor as y is, got {type(again).__name__}")
    if isinstance(y, Tensor) and again.shape != y.shape:
        raise ValueError(
            f"solve: y must have the shape of operator.A(x), {tuple(again.shape)} for images "
            f"{tuple(h.back_projection.shape)}, got {tuple(y.shape)}; images are (B, C, H, W), e.g. y[None, None]"
        )
    if not h.curvature() > 0:
        raise ValueError("solve: the operator measures nothing, A*A x vanishes; check its mask or kernel")
    return h


def default_schedule(h: BoundDataTerm, x: Tensor, denoiser: Denoiser, max_iter: int) -> Schedule:
    """Noise levels from 0.4 times x's robust range down to ||A*WA||^(-1/2), within the denoiser's range."""
    sigma_min = h.curvature() ** -0.5
    sigma_max = max(robust_range(x) * FIRST_SIGMA, sigma_min)
    sigma_min = max(sigma_min, 1e-3 * sigma_max)
    lowest, highest = getattr(denoiser, "sigma_range", (0.0, math.inf))
    sigma_max, sigma_min = (min(max(s, float(lowest)), float(highest)) for s in (sigma_max, sigma_min))
    return Schedule(sigma_max, sigma_min, min(ANNEALING, max_iter))


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.abs().double()))  # float32 has no room for squares of faint images
