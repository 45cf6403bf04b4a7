"""Interfaces that operators, denoisers and data terms must satisfy. They are structural: nothing has to inherit.

Every deepinv `LinearPhysics` is an `Operator`, and every deepinv denoiser is a `Denoiser`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""The x-update h(v, alpha) = argmin_x f(x) + alpha/2 ||x - v||^2; alpha 0-dim, or (B, 1, 1, 1) for each image."""

Preconditioner = Callable[[Tensor, Tensor], Tensor]
"""M(r, alpha), symmetric positive definite and close to (A*WA + alpha)^-1 r; alpha as in `Step`."""


class Operator(Protocol):
    """A linear map with its exact adjoint.

    Optional methods, used if they exist: `A_adjoint_A(x)`; `data_step(y, weights) -> Step | None`;
    `preconditioner(weights) -> Preconditioner | None`; `fbp(y)`, a direct inverse for the first iterate, unless
    `sees_whole_image` is False; `is_truncated(y) -> list[bool]`, of operators whose `fbp` continues truncated
    measurements, so that it is the first iterate after all (see `operators.base`); `estimate_noise(y) -> float`, where
    second differences of y would mislead;
    `y_is_sampled`, whether neighbours in y are neighbours in an image or a sinogram (None: as the operator's input, of
    operators that act pixel by pixel), without which no noise is estimated; `y_gain`, the gain of each measurement,
    broadcasting to y, 0 where y is not measured; `concerns(y) -> list[str]`, sentences on measurements that look wrong
    to this operator, each with its likely cause and a remedy, which end up in `Result.warnings`.
    """

    def A(self, x: Tensor, /) -> Any:
        """Map images (B, C, H, W) to measurements."""

    def A_adjoint(self, y: Any, /) -> Tensor:
        """Map measurements to images by the exact adjoint."""


class Denoiser(Protocol):
    """Remove white Gaussian noise.

    Optional attributes, used if they exist: `sigma_range`, the (lowest, highest) noise level it was made for;
    `takes_sigma_per_image`, True where sigma may be a tensor (B,) with a level for each image;
    `takes_any_dtype`, True for a module that computes in the dtype of x instead of that of its weights. The noise of
    complex images has E|n|^2 = sigma^2, half of it in the real part.
    """

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        """Denoise images x (B, C, H, W) whose noise has standard deviation sigma, in units of x."""


class BoundDataTerm(Protocol):
    """A data term f bound to its operator and measurements.

    Optional methods; terms with an option `robust` have the first two:

    - `residuals(x) -> (residuals, counted)`: the signed residuals of A x - y in noise levels, nearly normal where x
      explains y, and a bool mask of the measurements that count; both have y's shape. A residual that does not count
      is 0.
    - `reject(rejected) -> BoundDataTerm`: the same term without the measurements marked in a bool mask of y's shape,
      nor those that it had lost before. It continues from the same `last_x`. To take measurements back, call `reject`
      of the term that still has them, and hand `last_x` on.
    - `simulate(x, generator) -> Tensor`: measurements of an image x with noise of this model, drawn by a generator of
      the CPU; `pnp.uncertainty` needs it.
    - `concerns() -> list[str]`: a sentence for each thing that looks wrong with y and the term's options.
    """

    back_projection: Tensor
    """The adjoint applied to the (weighted) measurements: an image of the shape of x."""
    inner_iterations: int
    """Inner iterations of the last x-update; 0 for a closed form."""
    y: Any
    """The measurements: one tensor, or the parts of a stack."""

    def __call__(self, v: Tensor, alpha: Tensor, /) -> Tensor:
        """Return argmin_x f(x) + alpha/2 ||x - v||^2; alpha is 0-dim, or (B, 1, 1, 1), one for each image."""

    def initial(self) -> Tensor:
        """Return a first estimate of the image from the measurements alone."""

    def curvature(self) -> float | Tensor:
        """Return the largest curvature of f, which sets the last noise level: sigma_K = curvature^(-1/2).

        One number for all images, or a tensor (B,) where they differ.
        """

    def spectral_flatness(self) -> float | Tensor:
        """Return tr(M^2) / (||M|| tr M) of f's Hessian M: 1 where all non-zero eigenvalues are equal.

        One number for all images, or a tensor (B,) where they differ.
        """

    def coverage(self) -> float | Tensor:
        """Return tr M / (n ||M||) of f's Hessian M, n the number of pixels: 1 where all are measured alike.

        One number for all images, or a tensor (B,) where they differ.
        """

    def misfit(self, x: Tensor, /) -> float:
        """Return the misfit of x per measurement, about 1 where x explains the data up to their noise."""

    def residuals(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return A x - y in noise levels, in the shape of y, and a mask of the measurements that count."""

    def reject(self, rejected: Tensor) -> BoundDataTerm:
        """Return the same data term without some measurements, a mask like y."""


class DataTerm(Protocol):
    """Options of a data term, not yet bound to an operator and measurements: `solve(data_term=...)`."""

    needs_noise_std: bool
    """Whether the noise level enters; False where counts determine their own noise."""

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
        """Bind the term to an operator, measurements and weights 1/noise_std^2 (0-dim, or broadcasting to y)."""
