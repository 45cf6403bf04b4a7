"""Plug-and-play iterations, as generators that yield a `State` an iteration and hold no stopping rule.

The problem is min_x f(x) + R(x) with f the data term and R known only by its denoiser. Splitting x = z,

    ADMM    x = h(z - u; alpha_k)       h(v; alpha) = argmin_x f(x) + alpha/2 ||x - v||^2
            z = D(x + u; sigma_k)
            u = u + x - z               Boyd et al. 2011, section 3.1.1; Venkatakrishnan et al. 2013

    HQS     x = h(z; alpha_k)
            z = D(x; sigma_k)           Zhang et al. 2021, equations 6 and 7

u is the dual variable divided by alpha: when alpha changes, u is multiplied by alpha_old / alpha_new. Both run
with or without grad mode; unrolled under grad mode they are differentiable in the operator, the denoiser and the
levels. Started after a `State`, they continue as if they had not been stopped. sigma_k and alpha_k are numbers, or
tensors (B,) with one for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch import per_image
from .protocols import Step

Level = float | Tensor
"""A noise level or a coupling: a number, or a tensor (B,) with one for each image."""


@dataclass(frozen=True)
class State:
    """Iteration k, counted from 1, after its updates.

    The image to show or keep is z: it is denoised and lies within the bounds. sigma and alpha are numbers, or tensors
    (B,) where the images of a batch have their own.
    """

    k: int
    x: Tensor
    z: Tensor
    u: Tensor
    z_old: Tensor
    sigma: Level
    alpha: Level

    @property
    def primal(self) -> float:
        """Relative primal residual ||x - z|| / max(||x||, ||z||), the largest of the images."""
        return max(_relative(self.x - self.z, self.x, self.z))

    @property
    def dual(self) -> float:
        """Relative dual residual ||z - z_old|| / max(||z||, ||z_old||), the largest of the images; alpha cancels."""
        return max(_relative(self.z - self.z_old, self.z, self.z_old))

    @property
    def residuals(self) -> list[tuple[float, float]]:
        """Relative primal and dual residual of each image."""
        primal, dual = _relative(self.x - self.z, self.x, self.z), _relative(self.z - self.z_old, self.z, self.z_old)
        return list(zip(primal, dual, strict=True))


def admm(
    h: Step,
    denoise: Callable[[Tensor, Any], Tensor],
    z: Tensor,
    levels: Iterable[tuple[Level, Level]],
    *,
    after: State | None = None,
) -> Iterator[State]:
    """Run plug-and-play ADMM from z and u = 0.

    Args:
        h: the x-update h(v, alpha).
        denoise: the z-update D(v, sigma).
        z: first estimate, (B, C, H, W).
        levels: the pairs (sigma_k, alpha_k), numbers or tensors (B,); the iteration ends when they do.
        after: an earlier iteration to continue from, instead of z; the levels are then the remaining ones.
    """
    done, u, alpha_old = 0, torch.zeros_like(z), None
    if after is not None:
        done, z, u, alpha_old = after.k, after.z, after.u, after.alpha
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        if alpha_old is not None:
            u = _rescaled(u, alpha_old, alpha)
        x = h(z - u, per_image(alpha, z))
        z_old, z = z, denoise(x + u, sigma)
        u = u + x - z
        alpha_old = alpha
        yield State(k, x, z, u, z_old, sigma, alpha)


def hqs(
    h: Step,
    denoise: Callable[[Tensor, Any], Tensor],
    z: Tensor,
    levels: Iterable[tuple[Level, Level]],
    *,
    after: State | None = None,
) -> Iterator[State]:
    """Run half-quadratic splitting from z: ADMM without its dual. Arguments as `admm`."""
    u = torch.zeros_like(z)
    done, z = (0, z) if after is None else (after.k, after.z)
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        x = h(z, per_image(alpha, z))
        z_old, z = z, denoise(x, sigma)
        yield State(k, x, z, u, z_old, sigma, alpha)


ALGORITHMS = {"admm": admm, "hqs": hqs}
"""What `solve(algorithm=...)` may name."""


def _rescaled(u: Tensor, alpha_old: Level, alpha: Level) -> Tensor:
    """Return u alpha_old / alpha."""
    if any(isinstance(a, Tensor) and a.ndim for a in (alpha_old, alpha)):
        return u * per_image(alpha_old / alpha, u)
    return u if alpha == alpha_old else u * (alpha_old / alpha)


def _relative(difference: Tensor, *of: Tensor) -> list[float]:
    """Return ||difference|| of each image over the larger norm of the others, 0 where that is 0."""
    largest = [max(norms) for norms in zip(*map(_norms, of), strict=True)]
    return [d / norm if norm > 0 else 0.0 for d, norm in zip(_norms(difference), largest, strict=True)]


def _norms(v: Tensor) -> list[float]:
    if len(v) == 1:
        return [float(torch.linalg.vector_norm(v.detach()))]
    return torch.linalg.vector_norm(v.detach().flatten(1), dim=1).tolist()  # type: ignore[no-any-return]
