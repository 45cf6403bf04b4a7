"""Muon: orthogonalised momentum for the weights of a network's hidden layers; AdamW is for all other parameters.

    M <- mu M + (1 - mu) G                                mean gradient; G, M, W: (rows, columns)
    U = _orthogonalize((1 - mu) G + mu M)                  Nesterov's look-ahead, all singular values near one
    W <- (1 - rate decay) W - rate 0.2 sqrt(max(rows, columns)) U

Sources: K. Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; the factor, which gives
U the root mean square of a typical AdamW update, is that of Liu et al. (arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration by Jordan et al.: steepest at zero of those that stay near one."""


# As denoisers.precision.has_fast_bfloat16: pnp.training may not import denoisers.
def fast_bfloat16(device: torch.device) -> bool:
    """Return whether matrix products in bfloat16 run natively on the device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def _orthogonalize(m: Tensor, steps: int = 5) -> Tensor:
    """Return matrices (..., rows, columns) with the same singular vectors and singular values near one (0.7 to 1.2).

    Newton-Schulz with X X^T of the smaller side, in bfloat16 where that is fast. A matrix of zeros stays zero.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = m.shape[-2] > m.shape[-1]
    x: Tensor = m.mT if tall else m
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    x = x.bfloat16() if x.dtype == torch.float32 and fast_bfloat16(x.device) else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(m.dtype)


class Muon(torch.optim.Optimizer):
    """Optimizer Muon for weights of two or more axes, taken as (rows, rest): linear layers and convolutions.

    `torch.optim.Muon` takes matrices only. Weights of one shape are orthogonalised together.

    Args:
        params: weights with two or more axes; the first is that of the outputs.
        lr: learning rate, comparable to that of AdamW.
        momentum: mu above.
        weight_decay: decay above, decoupled.

    Raises:
        ValueError: a parameter has fewer than two axes.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 2e-3, *, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        weights = list(params)
        flat = next((tuple(p.shape) for p in weights if p.ndim < 2), None)
        if flat is not None:
            raise ValueError(f"Muon: parameters must have two axes or more, got {flat}; give that one to AdamW")
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure`, where given, recomputes loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[object, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for weights in alike.values():
                u = _orthogonalize(torch.stack([self._look_ahead(p, group["momentum"]) for p in weights]))
                scale = 0.2 * math.sqrt(max(u.shape[1:]))
                for p, direction in zip(weights, u, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(direction.view_as(p), alpha=-group["lr"] * scale)
        return loss

    def _look_ahead(self, p: Tensor, mu: float) -> Tensor:
        """Update the mean gradient; return (1 - mu) G + mu M as a matrix (rows, rest)."""
        if "mean" not in self.state[p]:
            self.state[p]["mean"] = torch.zeros_like(p)
        mean: Tensor = self.state[p]["mean"]
        g = p.grad
        assert g is not None
        mean.lerp_(g, 1 - mu)
        return g.lerp(mean, mu).flatten(1)


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters for Muon: those named `weight` with two axes or more, without the first and the last.

    Biases, gains of normalisations, learned taps, the input layer and the output layer are left out. First and last
    are in order of registration; of a model that lists its `networks`, those of each network.
    """
    networks = getattr(model, "networks", None)
    if networks is not None:
        return [p for network in networks for p in hidden_weights(network)]
    weights = [p for name, p in model.named_parameters() if name.split(".")[-1] == "weight" and p.ndim >= 2]
    return [p for p in weights[1:-1] if p.requires_grad]
