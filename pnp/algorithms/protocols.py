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
    `sees_whole_image` is False; `estimate_noise(y) -> float`, where second differences of y would mislead.
    """

    def A(self, x: Tensor, /) -> Any:
        """Map images (B, C, H, W) to measurements."""

    def A_adjoint(self, y: Any, /) -> Tensor:
        """Map measurements to images by the exact adjoint."""


class Denoiser(Protocol):
    """Remove white Gaussian noise. `sigma_range`, if present, is the (low, high) range it was made for."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        """Denoise images x (B, C, H, W) whose noise has standard deviation sigma, in units of x."""


class BoundDataTerm(Protocol):
    """A data term f bound to its operator and measurements."""

    back_projection: Tensor
    """The adjoint applied to the (weighted) measurements: an image of the shape of x."""
    inner_iterations: int
    """Inner iterations of the last x-update; 0 for a closed form."""

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

    def misfit(self, x: Tensor, /) -> float:
        """Return the misfit of x per measurement, about 1 where x explains the data up to their noise."""


class DataTerm(Protocol):
    """Options of a data term, not yet bound to an operator and measurements: `solve(data_term=...)`."""

    needs_noise_std: bool
    """Whether the noise level enters; False where counts determine their own noise."""

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> BoundDataTerm:
        """Bind the term to an operator, measurements and weights 1/noise_std^2 (0-dim, or broadcasting to y)."""
