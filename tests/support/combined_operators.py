"""Operators made of operators, for the contract table: name, how it is made, channels of its images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from arrays import rand
from torch import Tensor

from operators import Blur, Downsample, Identity, KaiserSquires, LinearOperator, Mask, Radon, stack


class AsOne(LinearOperator):
    """A stack whose measurements are one tensor (B, C, m), as the checks want it."""

    def __init__(self, stacked: LinearOperator):
        super().__init__()
        self.stacked, self.shape = stacked, stacked.shape

    def A(self, x: Tensor, /) -> Tensor:
        return torch.cat([part.flatten(2) for part in self.stacked.A(x)], -1)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        sizes = [sizes[1:] for sizes in self.stacked.y_shape or ()]
        parts = y.split([math.prod(size) for size in sizes], -1)
        return self.stacked.A_adjoint(tuple(part.unflatten(-1, n) for part, n in zip(parts, sizes, strict=True)))

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        return self.stacked.A_adjoint_A(x)

    def __repr__(self) -> str:
        return repr(self.stacked)


def mask(*shape: int) -> Tensor:
    return rand(*shape) > 0


def radon(*shape: int) -> Radon:
    return Radon(shape, torch.linspace(0.1, 3.0, 5, dtype=torch.float64))


SCALED: dict[str, tuple[Callable[[], LinearOperator], int]] = {
    "scaled-mask": (lambda: -2.5 * Mask(mask(3, 4, 5)), 3),
    "scaled-blur": (lambda: Blur(rand(3, 5), (7, 6), boundary="valid") * 0.3, 1),
    "scaled-kaiser-squires": (lambda: -KaiserSquires((7, 5)), 1),
}
# There is neither a closed form nor a preconditioner.
PLAIN: dict[str, tuple[Callable[[], LinearOperator], int]] = {
    "composed": (lambda: Mask(mask(5, 6)) @ Blur(rand(3, 3), (5, 6)), 2),
    "composed-radon": (lambda: radon(6, 8) @ (2 * Blur(rand(2, 4), (6, 8))), 1),
    "composed-twice": (lambda: KaiserSquires((3, 4)) @ Downsample((6, 8), 2) @ Mask(rand(6, 8).abs()), 1),
    "sum": (lambda: Blur(rand(3, 5), (7, 6)) + Identity((7, 6)), 2),
    "difference": (lambda: Mask(mask(5, 6)) - Blur(rand(3, 3), (5, 6), "reflect"), 1),
    "adjoint": (lambda: Blur(rand(3, 5), (7, 6), boundary="valid").T, 2),
    "adjoint-radon": (lambda: (0.5 * radon(7, 7)).T, 1),
    "stack": (lambda: AsOne(stack([Blur(rand(3, 5), (7, 6), "valid"), Mask(mask(7, 6))])), 2),
    "stack-composed": (lambda: AsOne(2 * stack([radon(6, 8), Downsample((6, 8), 2)]) @ Mask(mask(6, 8))), 1),
}
