"""Use operators and denoisers of other libraries in `solve`, and ours in deepinv.

`as_operator` makes an operator from a dense or sparse matrix or a SciPy LinearOperator (such as PyLops operators),
`operator_from_functions` from a pair of functions. Any deepinv LinearPhysics or denoiser works as it is; `to_deepinv`
converts ours for deepinv's ADMM, HQS or DPIR. deepinv's own `prox_l2` is never called: its operators are solved by our
conjugate gradients. deepinv is imported only where it is needed, because that takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .algorithms.batch import per_image
from .algorithms.least_squares import LeastSquares
from .algorithms.protocols import Operator
from .drivers import arguments
from .drivers.denoising import as_denoiser
from .drivers.matrices import FunctionOperator, MatrixOperator


def as_operator(
    operator: Any,
    *,
    image_shape: tuple[int, ...] | None = None,
    measurement_shape: tuple[int, ...] | None = None,
) -> Operator:
    """Return an operator with `A` and `A_adjoint`; a matrix M becomes one, y = M vec(x).

    Args:
        operator: an operator, returned as it is; or M (m, n), a dense matrix (tensor or numpy array), a SciPy sparse
            matrix, or a `scipy.sparse.linalg.LinearOperator` with an adjoint, such as PyLops operators.
        image_shape: shape (H, W) or (C, H, W) of the images, n pixels in all, flattened in this order (last axis
            fastest). Images are (B, 1, H, W) or (B, C, H, W).
        measurement_shape: shape of the measurements after the batch axis, m values in all. None: (m,).

    Raises:
        TypeError: not an operator or a matrix of numbers; image_shape is missing, or given with an operator.
        ValueError: sizes do not fit, or M is not finite, or a LinearOperator has no adjoint.

    The adjoint is exact: M^T, or the conjugate transpose of a complex matrix, whose images are then complex. Dense
    matrices move with `.to(device)`; SciPy computes on the CPU. The operator M combines with those of `operators` on
    either side of `@` and in `stack`; it has no `c * M` of its own: write `c * (M @ Identity((H, W)))`.

    >>> A = as_operator(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), image_shape=(2, 2))
    >>> A.A(torch.ones(1, 1, 2, 2)), A.A_adjoint(torch.ones(1, 1))
    (tensor([[3.]]), tensor([[[[1., 2.],
              [0., 0.]]]]))
    """
    if image_shape is None and measurement_shape is None:
        return arguments.as_operator(operator, "as_operator")
    if not arguments.is_matrix(operator):
        raise TypeError(
            f"as_operator: image_shape and measurement_shape are for matrices, got {type(operator).__name__}; omit them"
        )
    if image_shape is None:
        raise TypeError("as_operator: image_shape must be (H, W) or (C, H, W) for a matrix, got None")
    return MatrixOperator(operator, image_shape, measurement_shape)


def operator_from_functions(A: Callable[[Tensor], Tensor], A_adjoint: Callable[[Tensor], Tensor]) -> Operator:
    """Return an operator from two functions: A maps images (B, C, H, W) to measurements, A_adjoint maps them back.

    A_adjoint must be the exact adjoint of A: `pnp.algorithms.linalg.adjoint_gap(A, A_adjoint, x, y)` is then about 0.
    It combines with `operators` as what `as_operator` returns does.

    >>> A = operator_from_functions(lambda x: x.flip(-1), lambda y: y.flip(-1))
    >>> A.A(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[2., 1.]]]])
    """
    for name, function in (("A", A), ("A_adjoint", A_adjoint)):
        if not callable(function):
            raise TypeError(f"operator_from_functions: {name} must be a function, got {type(function).__name__}")
    return FunctionOperator(A, A_adjoint)


def to_deepinv(obj: Any, *, noise_model: Any = None) -> Any:
    """Return one of our operators as a deepinv LinearPhysics, or one of our denoisers as a deepinv Denoiser.

    The physics' `prox_l2` is our data step, in closed form or by implicitly differentiated conjugate gradients;
    the rest of deepinv (A_dagger, noise models, algorithms) works on it unchanged.

    Args:
        obj: an operator with `A` and `A_adjoint`, or a denoiser D(x, sigma).
        noise_model: for an operator, the `deepinv.physics.NoiseModel` of the physics; None: no noise.
    """
    if hasattr(obj, "A") and hasattr(obj, "A_adjoint"):
        return _classes()[0](as_operator(obj), noise_model)
    if noise_model is not None:
        raise TypeError("to_deepinv: noise_model is for operators, got it with a denoiser; leave it out")
    return _classes()[1](as_denoiser(obj))


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

        @property
        def y_is_sampled(self) -> bool | None:
            return getattr(self.operator, "y_is_sampled", False)

        @property
        def y_gain(self) -> Tensor:
            return self.operator.y_gain  # type: ignore[no-any-return]

        @property
        def estimate_noise(self) -> Callable[[Tensor], float]:
            return self.operator.estimate_noise  # type: ignore[no-any-return]

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
            return h(v, alpha.reshape(()) if alpha.numel() == 1 else per_image(alpha.reshape(-1), v))

    class DenoiserModel(DeepinvDenoiser):  # type: ignore[misc]
        """A denoiser of this project as a deepinv model."""

        takes_sigma_per_image = True  # as what `as_denoiser` returns

        def __init__(self, denoiser: Any):
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            return self.denoiser(x, sigma)  # type: ignore[no-any-return]

    return OperatorPhysics, DenoiserModel
