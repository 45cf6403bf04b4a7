"""Plug-and-play iterations, as generators that yield a `State` an iteration and hold no stopping rule.

The problem is min_x f(x) + R(x) with f the data term and R known only by its denoiser. Splitting x = z,

    ADMM    x = h(z - u; alpha_k)       h(v; alpha) = argmin_x f(x) + alpha/2 ||x - v||^2
            v = rho x + (1 - rho) z + u    k > 1; v = x at k = 1, whose z is no iterate
            z = D(v; sigma_k)
            u = v - z                   Boyd et al. 2011, sections 3.1.1 and 3.4.3; Venkatakrishnan et al. 2013

    HQS     x = h(z; alpha_k)
            z = D(x; sigma_k)           Zhang et al. 2021, equations 6 and 7

rho = 1 is ADMM without relaxation; rho up to 2 converges to the same x (Eckstein and Bertsekas, Mathematical
Programming 55, 1992, theorem 8), in fewer iterations. u is the dual variable divided by alpha: when alpha changes, u
is multiplied by alpha_old / alpha_new. Both run with or without grad mode; unrolled under grad mode they are
differentiable in the operator, the denoiser and the levels. An h may hold its last x-update as `last_x`, where its
inner iteration starts. Started after a `State` with the same h, they continue as if they had not been stopped; started
from z they forget the `last_x` of an earlier run, so that each run has the same numbers. sigma_k and alpha_k are
numbers, or tensors (B,) with one for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batch import per_image
from .linalg import _largest
from .protocols import Step

Level = float | Tensor
"""A noise level or a coupling: a number, or a tensor (B,) with one for each image."""


class Norms(NamedTuple):
    """Norms of one image in an iteration, and its relative residuals.

    >>> Norms(x=3.0, z=4.0, z_old=2.0, gap=1.0, change=2.0).primal
    0.25
    """

    x: float
    z: float
    z_old: float
    gap: float
    """||x - z||."""
    change: float
    """||z - z_old||."""

    @property
    def primal(self) -> float:
        """Relative primal residual ||x - z|| / max(||x||, ||z||), 0 for images that are 0."""
        return self.gap / largest if (largest := max(self.x, self.z)) > 0 else 0.0

    @property
    def dual(self) -> float:
        """Relative dual residual ||z - z_old|| / max(||z||, ||z_old||), 0 for images that are 0."""
        return self.change / largest if (largest := max(self.z, self.z_old)) > 0 else 0.0


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

    @cached_property
    def norms(self) -> list[Norms]:
        """Norms of each image, computed once, in the images' precision."""
        return _norms(*(v.detach() for v in (self.x, self.z, self.z_old)))

    @property
    def primal(self) -> float:
        """Relative primal residual ||x - z|| / max(||x||, ||z||), the largest of the images."""
        return max(image.primal for image in self.norms)

    @property
    def dual(self) -> float:
        """Relative dual residual ||z - z_old|| / max(||z||, ||z_old||), the largest of the images; alpha cancels."""
        return max(image.dual for image in self.norms)

    @property
    def residuals(self) -> list[tuple[float, float]]:
        """Relative primal and dual residual of each image."""
        return [(image.primal, image.dual) for image in self.norms]


def admm(
    h: Step,
    denoise: Callable[[Tensor, Any], Tensor],
    z: Tensor,
    levels: Iterable[tuple[Level, Level]],
    *,
    after: State | None = None,
    relaxation: Level = 1.0,
) -> Iterator[State]:
    """Run plug-and-play ADMM from z and u = 0.

    Args:
        h: the x-update h(v, alpha).
        denoise: the z-update D(v, sigma).
        z: first estimate, (B, C, H, W).
        levels: the pairs (sigma_k, alpha_k), numbers or tensors (B,); the iteration ends when they do.
        after: an earlier iteration to continue from, instead of z; the levels are then the remaining ones.
        relaxation: rho, above 0 and below 2, a number or a tensor (B,).
    """
    _forget(h, after)
    rho = per_image(relaxation, z)
    done, u, alpha_old = 0, torch.zeros_like(z), None
    if after is not None:
        done, z, u, alpha_old = after.k, after.z, after.u, after.alpha
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        if alpha_old is not None:
            u = _rescaled(u, alpha_old, alpha)
        x = h(z - u, per_image(alpha, z))
        v = x + u if k == 1 else rho * x + (1 - rho) * z + u
        z_old, z = z, denoise(v, sigma)
        u = v - z
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
    _forget(h, after)
    u = torch.zeros_like(z)
    done, z = (0, z) if after is None else (after.k, after.z)
    for k, (sigma, alpha) in enumerate(levels, start=done + 1):
        x = h(z, per_image(alpha, z))
        z_old, z = z, denoise(x, sigma)
        yield State(k, x, z, u, z_old, sigma, alpha)


ALGORITHMS = {"admm": admm, "hqs": hqs}
"""What `solve(algorithm=...)` may name."""


def _forget(h: Any, after: State | None) -> None:
    """Let the x-update begin as in a first run, unless a run continues."""
    if after is None and getattr(h, "last_x", None) is not None:
        h.last_x = None


def _rescaled(u: Tensor, alpha_old: Level, alpha: Level) -> Tensor:
    """Return u alpha_old / alpha."""
    if any(isinstance(a, Tensor) and a.ndim for a in (alpha_old, alpha)):
        return u * per_image(alpha_old / alpha, u)
    return u if alpha == alpha_old else u * (alpha_old / alpha)


def _norms(x: Tensor, z: Tensor, z_old: Tensor) -> list[Norms]:
    """Return the norms of each image, read from the device at once.

    Images whose squares leave the range of their dtype are measured in units of their largest entry.
    """
    of = (x, z, z_old, x - z, z - z_old)
    if len(z) == 1:
        found = torch.stack([torch.linalg.vector_norm(v) for v in of])[None]
    else:
        found = torch.stack([torch.linalg.vector_norm(v.flatten(1), dim=1) for v in of], dim=1)
    norms = [Norms(*row) for row in found.tolist()]
    limits = torch.finfo(found.dtype)
    least = limits.tiny**0.5 / limits.eps  # the square of a change of eps is still a normal number
    for b, image in enumerate(norms):
        if not (math.isfinite(sum(image)) and max(image.x, image.z, image.z_old) >= least):
            norms[b] = Norms(*(_scaled_norm(v[b : b + 1]) for v in of))
    return norms


def _scaled_norm(v: Tensor) -> float:
    scale = _largest(v)
    return float(scale) * float(torch.linalg.vector_norm(v / scale))
