"""Compute intermediates again in the backward pass instead of storing them.

`torch.utils.checkpoint` does the same, but its import takes 150 MB, or it gives parameters no gradient where the input
needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def recompute_in_backward(
    function: Callable[..., Tensor], *inputs: Tensor, parameters: tuple[Tensor, ...] = ()
) -> Tensor:
    """Return function(*inputs) and store only the inputs for the backward pass.

    Args:
        function: a deterministic function.
        inputs: its arguments, all tensors; they get first-order gradients only.
        parameters: further tensors that it depends on and that need a gradient.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    out: Tensor = _Recompute.apply(function, len(inputs), *inputs, *parameters)
    return out


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], n: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.n = function, n
        ctx.save_for_backward(*tensors)
        return function(*tensors[:n])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed, saved = ctx.needs_input_grad[2:], ctx.saved_tensors
        inputs = [t.detach().requires_grad_(need) for t, need in zip(saved[: ctx.n], needed, strict=False)]
        with torch.enable_grad():
            out = ctx.function(*inputs)
        sources = [t for t, need in zip([*inputs, *saved[ctx.n :]], needed, strict=True) if need]
        found = iter(torch.autograd.grad(out, sources, gradient, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)
