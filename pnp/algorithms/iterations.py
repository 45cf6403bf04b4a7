"""Plug-and-play iterations, as generators that yield a `State` an iteration and hold no stopping rule.

The problem is min_x f(x) + R(x) with f the data term and R known only by its denoiser. Splitting x = z,

    ADMM    x = h(z - u; alpha_k)       h(v; alpha) = argmin_x f(x) + alpha/2 ||x - v||^2
            z = D(x + u; sigma_k)
            u = u + x - z               Boyd et al. 2011, section 3.1.1; Venkatakrishnan et al. 2013

    HQS     x = h(z; alpha_k)
            z = D(x; sigma_k)           Zhang et al. 2021, equations 6 and 7

u is the dual variable divided by alpha: when alpha changes, u is multiplied by alpha_old / alpha_new. Both run
with or without grad mode; unrolled under grad mode they are differentiable in the operator, the denoiser and the
levels. Started after a `State`, they continue as if they had not been stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .protocols import Step


@dataclass(frozen=True)
class State:
    """Iteration k, counted from 1, after its updates.

    The image to show or keep is z: it is denoised and lies within the bounds.
    """

    k: int
    x: Tensor
    z: Tensor
    u: Tensor
    z_old: Tensor
    sigma: float
    alpha: float

    @property
    def primal(self) -> float:
        """Relative primal residual ||x - z|| / max(||x||, ||z||)."""
        return _relative(self.x - self.z, self.x, self.z)

    @property
    def dual(self) -> float:
        """Relative dual residual ||z - z_old|| / max(||z||, ||z_old||); alpha cancels."""
        return _relative(self.z - self.z_old, self.z, self.z_old)


def admm(
    h: Step,
    denoise: Callable[[Tensor, float], Tensor],
    z: Tensor,
    levels: Iterable[tuple[float, float]],
    *,
    after: State | None = None,
) -> Iterator[State]:
    """Run plug-and-play ADMM from z and u = 0.

    Args:
        h: the x-update h(v, alpha).
        denoise: the z-update D(v, sigma).
        z: first estimate, (B, C, H, W).
        levels: the pairs (sigma_k, alpha_k); the iteration ends when they do.
        after: an earlier iteration to continue from, instead of z; the levels are then the remaining ones.
    """
    done, u, alpha_old = 0, torch.zeros_like(z), None
    if after is not None:
        done, z, u, alpha_old = after.k, after.z, after.u, after.alpha
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        if alpha_old is not None and alpha != alpha_old:
            u = u * (alpha_old / alpha)
        x = h(z - u, _scalar(alpha, z))
        z_old, z = z, denoise(x + u, sigma)
        u = u + x - z
        alpha_old = alpha
        yield State(k, x, z, u, z_old, sigma, alpha)


def hqs(
    h: Step,
    denoise: Callable[[Tensor, float], Tensor],
    z: Tensor,
    levels: Iterable[tuple[float, float]],
    *,
    after: State | None = None,
) -> Iterator[State]:
    """Run half-quadratic splitting from z: ADMM without its dual. Arguments as `admm`."""
    u = torch.zeros_like(z)
    done, z = (0, z) if after is None else (after.k, after.z)
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        x = h(z, _scalar(alpha, z))
        z_old, z = z, denoise(x, sigma)
        yield State(k, x, z, u, z_old, sigma, alpha)


ALGORITHMS = {"admm": admm, "hqs": hqs}
"""What `solve(algorithm=...)` may name."""


def _scalar(alpha: float, like: Tensor) -> Tensor:
    return torch.as_tensor(alpha, dtype=torch.real(like).dtype, device=like.device)


def _relative(difference: Tensor, *of: Tensor) -> float:
    norm = max(float(torch.linalg.vector_norm(v.detach())) for v in of)
    return float(torch.linalg.vector_norm(difference.detach())) / norm if norm > 0 else 0.0
