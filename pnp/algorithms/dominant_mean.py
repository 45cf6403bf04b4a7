"""Operators that measure the mean of an image far more strongly than all else, as random patterns of mean m do.

Of n pixels and patterns with entries of mean m and standard deviation s, A*A has one singular value of about (m/s)^2 n
times the others, on the constant image. Noise levels and tolerances that follow from ||A*A|| would then be those of one
number, the mean, and not of the image: they follow from the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import images, operator_norms
from .linalg import LinearMap

DOMINANT = 0.1
"""The mean dominates where ||A*A|| on images of mean zero is below this fraction of ||A*A||; tomography has 0.4."""
NOTHING = 1e-12
"""An operator whose rest is below this fraction measures the mean alone."""


def centred(x: Tensor) -> Tensor:
    """Return x less the mean of each channel."""
    return x - x.mean(dim=tuple(range(2, x.ndim)) or (-1,), keepdim=True)


def norms_of_rest(normal: LinearMap, like: Tensor, norms: list[float]) -> list[float]:
    """Return ||A|| of each image, on images of mean zero where the mean dominates.

    Args:
        normal: x -> A*A x.
        like: A*y, whose detail tells at the cost of one A*A that the mean does not dominate.
        norms: ||A|| of each image.
    """
    detail = centred(like)
    pairs = zip(images(detail), images(normal(detail)), norms, strict=True)
    if all(_energy(d, Nd) >= DOMINANT * norm**2 * _energy(d, d) > 0 for d, Nd, norm in pairs):
        return norms
    rest = operator_norms(lambda x: centred(normal(centred(x))), like, rtol=1e-2)
    return [r if NOTHING * norm**2 < r**2 < DOMINANT * norm**2 else norm for r, norm in zip(rest, norms, strict=True)]


def _energy(x: Tensor, y: Tensor) -> float:
    """Return <x, y>, in units of the largest entry of x, squared."""
    scale = x.abs().max()
    return float(torch.real(torch.vdot((x / scale).flatten(), (y / scale).flatten()))) if scale > 0 else 0.0
