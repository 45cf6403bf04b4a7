"""Counts y ~ Poisson(A x + r): what they and their background may be, and what regularised EM does with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .validation import as_tensor, broadcasts, check_number

__all__ = ["as_background", "check_counts", "em_update", "ratio"]


def ratio(y: Tensor, expected: Tensor) -> Tensor:
    """Return y / (A x + r), and 0 where nothing is expected, or so little that the ratio leaves the range of floats."""
    within = expected > y * torch.finfo(y.dtype).tiny ** 0.75
    return torch.where(within, y / torch.where(within, expected, 1), 0)


def em_update(xe: Tensor, s: Tensor, u: Tensor, beta: Tensor | float) -> Tensor:
    """Return argmin over v >= 0 of sum(s v - x e log v) + beta/2 ||v - u||^2, in the form without cancellation.

    EM's surrogate of the likelihood and a quadratic prior: De Pierro, IEEE Trans. Med. Imaging 14 (1995) 132.

    Args:
        xe: x A^T(y / (A x + r)), >= 0.
        s: A^T 1; 0 where nothing is measured: there the answer is max(u, 0).
        u: where the prior pulls to, of any sign.
        beta: its strength > 0, broadcasting to x.

    >>> one = torch.ones(1)
    >>> em_update(6 * one, one, 6 * one, 1e-6)  # EM's own step, x e / s
    tensor([6.])
    """
    q = s - beta * u
    square = q.square() + 4 * beta * xe
    # The root's derivative is infinite at 0, the value there is 0: no gradient passes.
    root = torch.where(square > 0, square, 1).sqrt() * (square > 0)
    positive = q > 0
    return torch.where(positive, 2 * xe / torch.where(positive, q + root, 1), (root - q) / (2 * beta))


def check_counts(caller: str, name: str, value: Any, remedy: str) -> None:
    """Refuse what is no tensor of finite real numbers >= 0; the remedy ends the message for negative ones."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{caller}: {name} must be one array of real numbers, got {got}")
    if not bool(value.isfinite().all()):
        bad = int((~value.isfinite()).sum())
        raise ValueError(f"{caller}: {name} must be finite, got NaN or infinity in {bad} of {value.numel()} entries")
    if bool((value < 0).any()):
        raise ValueError(f"{caller}: {name} must be >= 0, got a minimum of {float(value.min()):.4g}; {remedy}")


def as_background(caller: str, background: Any, y: Tensor) -> Tensor:
    """Return the background r >= 0, a scalar or an array that broadcasts, in the shape of the counts y."""
    if hasattr(background, "shape") and background.shape != ():
        r = as_tensor("background", background, device=y.device, caller=caller).to(y.dtype)
    else:
        value = background.item() if hasattr(background, "item") else background
        r = torch.as_tensor(check_number("background", value, above=0, or_equal=True, caller=caller), dtype=y.dtype)
        r = r.to(y.device)
    check_counts(caller, "background", r, "it is expected counts added to A x")
    if not broadcasts(tuple(r.shape), tuple(y.shape)):
        raise ValueError(
            f"{caller}: background must be a scalar or broadcast to y {tuple(y.shape)}, got {tuple(r.shape)}"
        )
    return r.expand(y.shape)
