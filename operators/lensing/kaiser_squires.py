"""Weak lensing: from convergence to shear and back (Kaiser & Squires 1993, ApJ 404, 441).

In Fourier space, with k1 along columns and k2 along rows (cycles per pixel) and k^2 = k1^2 + k2^2,

    gamma1 = D1 kappa,  gamma2 = D2 kappa,  D1 = (k1^2 - k2^2)/k^2,  D2 = 2 k1 k2/k^2,  |D| = 1 but D(0) = 0:

a constant sheet of convergence causes no shear, so the mean of kappa is not measured. Codes differ in signs:

    convention    gamma1      gamma2       meaning
    "lenspack"     D1 kappa    D2 kappa    columns to the right, rows up (or both reversed), as written above
    "conjugate"    D1 kappa   -D2 kappa    one axis reversed, e.g. RA increasing to the left
    "transposed"  -D1 kappa    D2 kappa    the axes exchanged: k1 along rows, k2 along columns

On even grids D2 is odd along the Nyquist lines k1 = -1/2 and k2 = -1/2, hence has no real counterpart there:
it is 0 on them except at their corner, where it is 1. There |D|^2 = D1^2; elsewhere it is 1, but at the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..base import LinearOperator, check_images, check_shape, pixel_mean
from ..sizes import Sizes

SIGNS = {"lenspack": (1, 1), "conjugate": (1, -1), "transposed": (-1, 1)}
"""Signs of (gamma1, gamma2) in each convention, relative to columns to the right and rows up."""


class KaiserSquires(LinearOperator):
    """Map convergence kappa (B, 1, H, W) to shear (gamma1, gamma2) (B, 2, H, W), periodic, square pixels.

    Args:
        shape: (H, W) of the maps in pixels, odd or even, rectangular too.
        convention: "lenspack", "conjugate" or "transposed": the signs of the shear components, as in the
            module's table.

    Raises:
        ValueError: shape is a single pixel, whose mean is not measured, or the convention is unknown.

    >>> KaiserSquires((9, 9)).A(torch.eye(81).reshape(81, 1, 9, 9))[0, 0, 0, 1].item()  # doctest: +ELLIPSIS
    -0.30486...
    """

    kernel: Tensor
    """(2, H, W//2 + 1), float64: D1 and D2 with the convention's signs, at the frequencies of rfft2."""
    y_is_sampled = True

    def __init__(self, shape: tuple[int, int], *, convention: str = "lenspack") -> None:
        super().__init__()
        self.shape = check_shape("KaiserSquires", shape)
        if self.shape == (1, 1):
            raise ValueError("KaiserSquires: shape must have more than one pixel, got (1, 1)")
        if convention not in SIGNS:
            choices = ", ".join(SIGNS)
            raise ValueError(f"KaiserSquires: convention must be one of {choices}, got {convention!r}")
        self.convention = convention
        signs = torch.tensor(SIGNS[convention], dtype=torch.float64)[:, None, None]
        self.register_buffer("kernel", signs * _kernel(*self.shape), persistent=False)

    @property
    def x_shape(self) -> Sizes:
        """Sizes (1, H, W) of an image."""
        return (1, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (2, H, W) of an image's shear."""
        return (2, *self.shape)

    def A(self, x: Tensor, /) -> Tensor:
        """Return the shear (B, 2, H, W) of convergence maps x (B, 1, H, W)."""
        self._check("A", "x", x, 1)
        return self._to_pixels(self.kernel.to(x.dtype) * torch.fft.rfft2(x))

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to shear y (B, 2, H, W); return maps (B, 1, H, W)."""
        self._check("A_adjoint", "y", y, 2)
        return self._to_pixels((self.kernel.to(y.dtype) * torch.fft.rfft2(y)).sum(-3, keepdim=True))

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Multiply the spectrum of maps x (B, 1, H, W) by |D|^2."""
        self._check("A_adjoint_A", "x", x, 1)
        return self._to_pixels(self._normal(x.new_ones(())) * torch.fft.rfft2(x))

    def inverse(self, y: Tensor, /) -> Tensor:
        """Return the Kaiser-Squires map (B, 1, H, W) of shear y (B, 2, H, W): its E mode, with mean 0.

        This is D* gamma, the adjoint. On odd grids inverse(A(x)) = x - mean(x); on even grids it damps
        the Nyquist lines, as lenspack's `ks93` does.
        """
        self._check("inverse", "y", y, 2)
        return self.A_adjoint(y)

    def inverse_eb(self, y: Tensor, /) -> Tensor:
        """Return the E and B maps (B, 2, H, W) of shear y (B, 2, H, W): E + iB = D* (gamma1 + i gamma2).

        Lensing makes E modes only; B modes are signs of noise, masks and systematic errors.
        """
        self._check("inverse_eb", "y", y, 2)
        D1, D2 = self.kernel.to(y.dtype)
        gamma1, gamma2 = torch.fft.rfft2(y).unbind(-3)
        return self._to_pixels(torch.stack([D1 * gamma1 + D2 * gamma2, D1 * gamma2 - D2 * gamma1], dim=-3))

    def data_step(self, y: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return h(z, alpha) = F^-1[(F A*Wy + alpha F z)/(sum_c w_c D_c^2 + alpha)], or None.

        Closed form for weights w_c that are the same for all pixels of a shear component c.
        """
        self._check("data_step", "y", y, 2)
        if any(n > 1 for n in weights.shape[-2:]):
            return None
        w = weights.to(y.dtype)
        A_W_y, M = self.A_adjoint(w * y), self.preconditioner(w)
        return lambda z, alpha: M(A_W_y + alpha * z, alpha)

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha) = F^-1[F r/(sum_c w_c D_c^2 + alpha)], w_c the mean weight over all pixels."""
        A_W_A = self._normal(pixel_mean(weights))

        def M(r: Tensor, alpha: Tensor) -> Tensor:
            return self._to_pixels(torch.fft.rfft2(r) / (A_W_A.to(r.dtype) + alpha))

        return M

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        return f"{self.shape}, convention={self.convention!r}"

    def _normal(self, w: Tensor) -> Tensor:
        """Return the spectrum of A*WA (..., 1, H, W//2 + 1) for weights w that are constant over pixels."""
        return (w * self.kernel.to(w.dtype).square()).sum(-3, keepdim=True)

    def _to_pixels(self, spectrum: Tensor) -> Tensor:
        x: Tensor = torch.fft.irfft2(spectrum, s=self.shape)
        return x

    def _check(self, method: str, name: str, x: Tensor, channels: int) -> None:
        check_images(f"KaiserSquires.{method}", name, x, (channels, *self.shape), like=self.kernel)


def _kernel(height: int, width: int) -> Tensor:
    """Return D1 and D2 as (2, H, W//2 + 1) float64, in the lenspack convention."""
    # The first columns of fftfreq, not rfftfreq: its Nyquist is -1/2, which gives D2 = +1 at the corner.
    k1 = torch.fft.fftfreq(width, dtype=torch.float64)[None, : width // 2 + 1]
    k2 = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    k_squared = k1.square() + k2.square()
    k_squared[0, 0] = 1  # both numerators are 0 there
    D1, D2 = (k1.square() - k2.square()) / k_squared, 2 * k1 * k2 / k_squared
    nyquist = (k1 == -0.5) ^ (k2 == -0.5)  # one of the two lines, not their corner
    return torch.stack([D1, D2.masked_fill(nyquist, 0)])
