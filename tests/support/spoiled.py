"""Problems with spoiled measurements, and the solve in which those have infinite noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from arrays import F64, rand, seeded
from torch import Tensor

from operators import Radon, gaussian_kernel
from pnp import LeastSquares, Result, solve
from pnp.phantoms import head

N = 48
ROBUST, KEPT = LeastSquares(robust=True), LeastSquares(robust=False)
HEAD = head(N) / head(N).max()
ANGLES = torch.arange(60, dtype=F64) * (math.pi / 60)
RADON = Radon((N, N), ANGLES, n_detectors=N)
STD = 0.2
SINOGRAM = RADON.A(HEAD) + STD * rand(1, 1, 60, N, seed=1, dtype=torch.float32)
KERNEL = gaussian_kernel(1.0)


def scene(n: int = N) -> Tensor:
    """Discs and a ramp in [0.2, 0.8], (1, 1, n, n): no two pixels of the ramp are alike."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, n), torch.linspace(0, 1, n), indexing="ij")
    x = 0.3 + 0.2 * rows + 0.1 * torch.sin(5 * columns)
    x = x + 0.2 * ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.06)
    return x[None, None]


def some(y: Tensor, n: int, seed: int = 0) -> Tensor:
    """A mask like y of n measurements."""
    found = torch.zeros(y.numel(), dtype=torch.bool)
    found[torch.randperm(y.numel(), generator=seeded(seed))[:n]] = True
    return found.reshape(y.shape)


def noisy(operator: Any, x: Tensor, std: float, seed: int = 1) -> Tensor:
    y: Tensor = operator.A(x)
    return y + std * rand(*y.shape, seed=seed, dtype=y.dtype)


def distance(a: Any, b: Any) -> float:
    """Root mean square of a - b."""
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().square().mean().sqrt())


def loss(result: Result, reference: Result, x: Tensor) -> float:
    """By how many dB the result is worse than the reference."""
    return 20 * math.log10(distance(result.x, x) / distance(reference.x, x))


def marked(y: Tensor, bad: Tensor, std: Any, denoiser: Any, operator: Any, **options: Any) -> Result:
    """The solve in which the bad measurements have infinite noise."""
    noise = torch.where(bad, math.inf, torch.as_tensor(std, dtype=torch.real(y).dtype))
    return solve(operator, y, denoiser, noise_std=noise, **{"data_term": KEPT} | options)


def exact(operator: Any, y: Tensor, bad: Tensor, std: Any, x: Tensor, denoiser: Any, **options: Any) -> Result:
    """Solve robustly, and check that exactly the bad measurements were rejected and that nothing was lost by it."""
    result = solve(operator, y, denoiser, noise_std=std, data_term=ROBUST, **options)
    assert torch.equal(result.rejected, bad), (result.n_rejected, int(bad.sum()), int((result.rejected & bad).sum()))
    assert result.n_rejected == int(bad.sum())
    assert loss(result, marked(y, bad, std, denoiser, operator, **options), x) < 0.3
    assert not result.warnings
    return result
