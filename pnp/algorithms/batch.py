"""The images of a batch one by one, and numbers of which each image may have its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .linalg import LinearMap, _dot, _largest, operator_norm, power_iteration

SAME_RTOL = 1e-5
"""Numbers of images that differ by less than this fraction, as rounding makes them, are one number."""


def together(values: Sequence[float]) -> float | Tensor:
    """Return one number where those of all images agree up to rounding, else a tensor (B,), float64 on the CPU.

    >>> together([0.5, 0.5]), together([1.0, 2.0])
    (0.5, tensor([1., 2.], dtype=torch.float64))
    """
    if all(abs(value - values[0]) <= SAME_RTOL * abs(values[0]) for value in values):
        return values[0]
    return torch.tensor(values, dtype=torch.float64)


def each(value: float | Tensor, n: int) -> list[float]:
    """Return the n numbers of n images: those of a tensor (n,), or one number n times.

    >>> each(0.5, 2), each(torch.tensor([1.0, 2.0]), 2)
    ([0.5, 0.5], [1.0, 2.0])
    """
    if isinstance(value, Tensor) and value.ndim:
        return [float(v) for v in value]
    return [float(value)] * n


def images(x: Tensor) -> list[Tensor]:
    """Return the images of a batch, each a batch of one; a tensor of one axis has no batch and is one image.

    >>> [one.shape[0] for one in images(torch.zeros(2, 1, 4, 4))]
    [1, 1]
    """
    return [x[b : b + 1] for b in range(len(x))] if x.ndim > 1 else [x]


def per_image(value: float | Tensor, like: Tensor) -> Tensor:
    """Return one number, 0-dim, or those of all images, (B, 1, 1, ...), in the real dtype and on the device of `like`.

    >>> per_image(torch.tensor([1.0, 2.0]), torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 1, 1, 1])
    """
    v = torch.as_tensor(value, dtype=torch.real(like).dtype, device=like.device)
    return v.reshape(-1, *[1] * (like.ndim - 1)) if v.ndim else v


@torch.no_grad()
def operator_norms(normal: LinearMap, like: Tensor, *, rtol: float = 1e-3, max_iter: int = 100) -> list[float]:
    """Return ||A|| of each image of a batch, as `operator_norm` finds it for that image alone.

    Every image starts where it would alone, and its estimate stays once it has converged. Arguments as there.
    """
    if len(like) == 1:
        return [operator_norm(normal, like, rtol=rtol, max_iter=max_iter)]
    generator = torch.Generator(device=like.device).manual_seed(0)
    x = torch.randn((1, *like.shape[1:]), dtype=like.dtype, device=like.device, generator=generator).expand(like.shape)

    def unit(x: Tensor) -> Tensor:
        x = x / _largest(x)
        return x / _dot(x, x).sqrt().clamp(min=torch.finfo(torch.real(x).dtype).tiny)

    def quotient(x: Tensor, Nx: Tensor) -> list[float]:
        return _dot(x, Nx).clamp(min=0).sqrt().flatten().tolist()  # type: ignore[no-any-return]

    return power_iteration(normal, x, unit, quotient, rtol=rtol, max_iter=max_iter)
