"""Guests from deepinv, and ours inside deepinv.

`as_operator` and `as_denoiser` take any deepinv LinearPhysics or denoiser as it is; `to_deepinv` hands ours to
deepinv's ADMM, HQS or DPIR. deepinv's own `prox_l2` is never called: foreign operators get our conjugate gradients.
deepinv is imported where it is needed, because that costs seconds.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .algorithms.least_squares import LeastSquares
from .drivers.arguments import as_denoiser, as_operator

__all__ = ["to_deepinv", "to_deepinv_prior"]


def to_deepinv(guest: Any, *, noise_model: Any = None) -> Any:
    """Return one of our operators as a deepinv LinearPhysics, or one of our denoisers as a deepinv Denoiser.

    The physics' `prox_l2` is our data step, in closed form or by implicitly differentiated conjugate gradients;
    the rest of deepinv (A_dagger, noise models, algorithms) works on it unchanged.

    Args:
        guest: an operator with `A` and `A_adjoint`, or a denoiser D(x, sigma).
        noise_model: for an operator, a `deepinv.physics.NoiseModel` that calling the physics adds; None: no noise.
    """
    if hasattr(guest, "A") and hasattr(guest, "A_adjoint"):
        return _classes()[0](as_operator(guest), noise_model)
    if noise_model is not None:
        raise TypeError("to_deepinv: noise_model belongs to an operator, got it with a denoiser; leave it out")
    return _classes()[1](as_denoiser(guest))


def to_deepinv_prior(denoiser: Any) -> Any:
    """Return a denoiser as deepinv's plug-and-play prior, `deepinv.optim.prior.PnP`."""
    from deepinv.optim.prior import PnP

    return PnP(denoiser=to_deepinv(denoiser))


@functools.cache
def _classes() -> tuple[Any, Any]:
    from deepinv.models.base import Denoiser as DeepinvDenoiser
    from deepinv.physics import LinearPhysics, ZeroNoise

    class OperatorPhysics(LinearPhysics):  # type: ignore[misc]
        """An operator of this project as a deepinv physics."""

        def __init__(self, operator: Any, noise_model: Any = None):
            super().__init__(noise_model=ZeroNoise() if noise_model is None else noise_model)
            self.operator = operator

        def A(self, x: Tensor, **_: Any) -> Any:
            return self.operator.A(x)

        def A_adjoint(self, y: Any, **_: Any) -> Tensor:
            return self.operator.A_adjoint(y)  # type: ignore[no-any-return]

        def A_adjoint_A(self, x: Tensor, **_: Any) -> Tensor:
            shortcut = getattr(self.operator, "A_adjoint_A", None)
            return shortcut(x) if shortcut is not None else self.A_adjoint(self.A(x))

        def prox_l2(self, z: Any, y: Any, gamma: Any, **_: Any) -> Tensor:
            """Return argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2."""
            h = LeastSquares(rtol=1e-6, max_iter=100).bind(
                self.operator, y, torch.ones((), dtype=y.dtype, device=y.device)
            )
            v = torch.as_tensor(z, dtype=y.dtype, device=y.device).expand(h.back_projection.shape)
            alpha = 1 / torch.as_tensor(gamma, dtype=y.dtype, device=y.device)
            if alpha.numel() == 1:
                return h(v, alpha.reshape(()))
            # A closed form takes one alpha, deepinv one for each image.
            alphas = alpha.reshape(-1).expand(len(y))
            return torch.cat([self.prox_l2(v[i : i + 1], y[i : i + 1], 1 / alphas[i]) for i in range(len(y))])

    class DenoiserModel(DeepinvDenoiser):  # type: ignore[misc]
        """A denoiser of this project as a deepinv model."""

        def __init__(self, denoiser: Any):
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            return self.denoiser(x, sigma)  # type: ignore[no-any-return]

    return OperatorPhysics, DenoiserModel
