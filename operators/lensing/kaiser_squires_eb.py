"""Weak lensing with two unknowns, E + iB, for which a masked survey has a closed form.

Shear made by lensing is a pure E mode, gamma = D kappa with D = D1 + i D2 (`kaiser_squires`). With a convergence
of two parts, kappa = E + iB,

    gamma1 + i gamma2 = D (E + iB),  i.e.  gamma1 = D1 E - D2 B,  gamma2 = D2 E + D1 B,

and on odd grids D is unitary except for the mean, D*D = 1, D(0) = 0. The data step for any weights w >= 0 that both
components share is then exact with four FFTs. With s = D kappa, whose mean is 0, and ||kappa - z||^2 =
||s - D z||^2 + n |mean kappa - mean z|^2, it is least squares pixel by pixel under one constraint, sum s = 0, with
the multiplier mu:

    s = (w gamma + alpha D z - mu) / (w + alpha),   mu = sum[(w gamma + alpha D z)/(w + alpha)] / sum[1/(w + alpha)],
    h(z, alpha) = D* s + mean z.

A denoiser that keeps E and returns B = 0 makes this a solver for real kappa: its ADMM has the same fixed points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..base import LinearOperator, check_images, pixel_mean
from ..sizes import Sizes
from .kaiser_squires import KaiserSquires


class KaiserSquiresEB(LinearOperator):
    """Map E and B modes (B, 2, H, W) to shear (gamma1, gamma2) (B, 2, H, W), periodic, square pixels.

    Args:
        shape: (H, W) of the maps in pixels. On odd grids the data step is exact for masks and varying noise; on even
            grids only for uniform noise, since D is not unitary on the Nyquist lines: pad to an odd grid.
        convention: "lenspack", "conjugate" or "transposed", as in `KaiserSquires`.

    Raises:
        ValueError: shape is a single pixel, or the convention is unknown.

    >>> A = KaiserSquiresEB((3, 3))
    >>> delta = torch.zeros(1, 2, 3, 3)
    >>> delta[0, 1, 0, 0] = 1
    >>> bool((A.A(delta)[:, 1] == KaiserSquires((3, 3)).A(delta[:, 1:])[:, 0]).all())  # B's gamma2 is E's gamma1
    True
    """

    kernel: Tensor
    """(2, H, W//2 + 1), float64: D1 and D2 with the convention's signs, at the frequencies of rfft2."""
    y_is_sampled = True

    def __init__(self, shape: tuple[int, int], *, convention: str = "lenspack") -> None:
        super().__init__()
        real = KaiserSquires(shape, convention=convention)
        self.shape, self.convention = real.shape, real.convention
        self.register_buffer("kernel", real.kernel, persistent=False)

    @property
    def x_shape(self) -> Sizes:
        """Sizes (2, H, W) of an image."""
        return (2, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (2, H, W) of an image's shear."""
        return (2, *self.shape)

    def A(self, x: Tensor, /) -> Tensor:
        """Return the shear (B, 2, H, W) of E and B modes x (B, 2, H, W)."""
        self._check("A", "x", x)
        return self._to_pixels(self._shear(torch.fft.rfft2(x)))

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to shear y (B, 2, H, W); return E and B modes (B, 2, H, W), with mean 0.

        On odd grids this inverts A up to the mean.
        """
        self._check("A_adjoint", "y", y)
        return self._to_pixels(self._modes(torch.fft.rfft2(y)))

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Multiply the spectra of x (B, 2, H, W) by |D|^2."""
        self._check("A_adjoint_A", "x", x)
        return self._to_pixels(self.kernel.to(x.dtype).square().sum(-3) * torch.fft.rfft2(x))

    def data_step(self, y: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return h(z, alpha) in closed form where both components share their weights, else None.

        On odd grids for any weights >= 0, as derived in the module; on even grids for weights constant over pixels.
        """
        self._check("data_step", "y", y)
        w = self._shared(weights.to(y.dtype))
        if w is None:
            return None
        if all(n == 1 for n in w.shape[-2:]):
            A_W_y, M = self.A_adjoint(w * y), self.preconditioner(w)
            return lambda z, alpha: M(A_W_y + alpha * z, alpha)
        if any(n % 2 == 0 for n in self.shape):
            return None
        w_y = w * y

        def h(z: Tensor, alpha: Tensor) -> Tensor:
            axes = (-2, -1)
            inverse = (w + alpha).reciprocal()
            inverse = inverse.expand(*inverse.shape[:-2], *self.shape)  # weights may be a row or a column
            s = (w_y + alpha * self.A(z)) * inverse
            s = s - inverse * (s.sum(axes, keepdim=True) / inverse.sum(axes, keepdim=True))
            return self.A_adjoint(s) + z.mean(axes, keepdim=True)

        return h

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha) = F^-1[F r/(w |D|^2 + alpha)], w the mean weight over pixels and components."""
        w = pixel_mean(weights)
        w = w.mean(-3, keepdim=True) if w.ndim > 2 else w
        A_W_A = w * self.kernel.to(w.dtype).square().sum(-3)

        def M(r: Tensor, alpha: Tensor) -> Tensor:
            return self._to_pixels(torch.fft.rfft2(r) / (A_W_A.to(r.dtype) + alpha))

        return M

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        return f"{self.shape}, convention={self.convention!r}"

    def _shared(self, weights: Tensor) -> Tensor | None:
        """Return the weights (..., 1, H or 1, W or 1) of both components, or None where they differ."""
        if weights.ndim < 2:
            return weights.reshape(1, 1, -1)
        if weights.ndim == 2 or weights.shape[-3] == 1:
            return weights
        first, second = weights.unbind(-3)
        return first.unsqueeze(-3) if torch.equal(first, second) else None

    def _shear(self, modes: Tensor) -> Tensor:
        D1, D2 = self.kernel.to(modes.real.dtype)
        E, B = modes.unbind(-3)
        return torch.stack([D1 * E - D2 * B, D2 * E + D1 * B], dim=-3)

    def _modes(self, shear: Tensor) -> Tensor:
        D1, D2 = self.kernel.to(shear.real.dtype)
        gamma1, gamma2 = shear.unbind(-3)
        return torch.stack([D1 * gamma1 + D2 * gamma2, D1 * gamma2 - D2 * gamma1], dim=-3)

    def _to_pixels(self, spectrum: Tensor) -> Tensor:
        x: Tensor = torch.fft.irfft2(spectrum, s=self.shape)
        return x

    def _check(self, method: str, name: str, x: Tensor) -> None:
        check_images(f"KaiserSquiresEB.{method}", name, x, (2, *self.shape), like=self.kernel)
