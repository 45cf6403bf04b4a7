"""Downsampling by an integer factor f, the operator of super-resolution: one sample of k * x from each block of f x f.

    y[i, j] = (k * x)[f i + o, f j + o],    o = (f - 1) // 2,

with k * x the convolution of `blur` and its boundaries. Without a kernel y is the mean of each block: f x f taps
1/f^2. Kernels whose sizes have the parity of f are centred on the blocks.

A A* = 1/f^2 without a kernel. With the circular boundary A A* is a circular convolution of the small images: in their
Fourier basis, the mean of |K|^2 over the f^2 frequencies that alias to one. The data step follows by the matrix
inversion lemma, for weights w that are the same for all pixels of a channel, and without a kernel for any weights:

    h(z, alpha) = z + A* [w (y - A z)/(w A A* + alpha)]

(N. Zhao, Q. Wei, A. Basarab, N. Dobigeon, D. Kouame and J.-Y. Tourneret, IEEE Trans. Image Processing 25 (2016) 3683).
"""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .base import LinearOperator, check_images, check_shape, pixel_mean
from .blur import Blur
from .sizes import Sizes

_BOUNDARIES = ("circular", "reflect")
_Step = Callable[[Tensor, Tensor], Tensor]


class Downsample(LinearOperator):
    """Average blocks of f x f pixels, or filter with a kernel and keep one pixel of each block.

    Args:
        shape: (H, W) of the images in pixels, multiples of the factor.
        factor: f, an integer number of pixels along each axis.
        kernel: (kh, kw), real, at most as large as the image, used as given (not normalised), its centre at
            (kh // 2, kw // 2), as `Blur` takes it; gradients flow to it where it requires them. None: the mean of each
            block.
        boundary: of the convolution, "circular" (a closed form exists) or "reflect"; unused without a kernel.

    Raises:
        TypeError: factor is not an integer; kernel is neither an array or tensor, nor real.
        ValueError: factor is not positive or does not divide the shape; a kernel that `Blur` refuses; unknown boundary.

    >>> Downsample((2, 4), 2).A(torch.arange(8.0).reshape(1, 1, 2, 4))
    tensor([[[[2.5000, 4.5000]]]])
    """

    shape: tuple[int, int]
    y_is_sampled = True

    def __init__(
        self,
        shape: tuple[int, int],
        factor: int,
        kernel: Tensor | NDArray[Any] | None = None,
        boundary: str = "circular",
    ) -> None:
        super().__init__()
        self.shape = check_shape("Downsample", shape)
        self.factor = _check_factor(factor, self.shape)
        if boundary not in _BOUNDARIES:
            raise ValueError(f"Downsample: boundary must be one of {', '.join(_BOUNDARIES)}, got {boundary!r}")
        self.boundary = boundary
        self.blur = None if kernel is None else Blur(kernel, self.shape, boundary)

    @property
    def kernel(self) -> Tensor | None:
        """The kernel (kh, kw); None for the mean of each block."""
        return None if self.blur is None else self.blur.kernel

    @property
    def x_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image."""
        return ("C", *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (C, H/f, W/f) of an image's measurements."""
        return ("C", *(n // self.factor for n in self.shape))

    def A(self, x: Tensor, /) -> Tensor:
        """Downsample images x (B, C, H, W) to (B, C, H/f, W/f)."""
        self._check("A", "x", x, self.x_shape)
        return avg_pool2d(x, self.factor) if self.blur is None else self._samples(self.blur.A(x))

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to y (B, C, H/f, W/f); return images (B, C, H, W).

        Each pixel of y is spread evenly over its block, or, with a kernel, over its neighbourhood by the kernel.
        """
        self._check("A_adjoint", "y", y, self.y_shape)
        if self.blur is None:
            return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2
        x = y.new_zeros(*y.shape[:2], *self.shape)
        self._samples(x).copy_(y)
        return self.blur.A_adjoint(x)

    def data_step(self, y: Tensor, weights: Tensor) -> _Step | None:
        """Return h(z, alpha) = z + A* [w (y - A z)/(w A A* + alpha)], or None.

        The closed form holds without a kernel for any weights w, and with a kernel for the circular boundary and
        weights that are the same for all pixels of a channel.
        """
        self._check("data_step", "y", y, self.y_shape)
        w = weights.to(y.dtype)
        if self.blur is None:
            w_AA = w / self.factor**2
            return lambda z, alpha: z + self.A_adjoint(w * (y - self.A(z)) / (w_AA + alpha))
        if self.boundary != "circular" or any(n > 1 for n in weights.shape[-2:]):
            return None
        divide = self._divider(w)
        return lambda z, alpha: z + self.A_adjoint(divide(w * (y - self.A(z)), alpha))

    def preconditioner(self, weights: Tensor) -> _Step:
        """Return M(r, alpha) = (r - A* [w A r/(w A A* + alpha)])/alpha with each channel's mean weight w.

        That is (w A*A + alpha)^-1 r for the circular boundary, whatever the operator's boundary is.
        """
        w = pixel_mean(weights)
        A = self if self.boundary == "circular" else Downsample(self.shape, self.factor, self.kernel)
        divide = A._divider(w)

        def M(r: Tensor, alpha: Tensor) -> Tensor:
            return (r - A.A_adjoint(divide(w.to(r.dtype) * A.A(r), alpha))) / alpha

        return M

    def concerns(self, y: Tensor) -> list[str]:
        """Return sentences on what looks wrong about the kernel for measurements y, as `Blur.concerns` does."""
        return [] if self.blur is None else self.blur.concerns(y)

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        if self.kernel is None:
            return f"{self.shape}, {self.factor}"
        kernel = f"<{tuple(self.kernel.shape)} {self.kernel.dtype}>"
        return f"{self.shape}, {self.factor}, kernel={kernel}, boundary={self.boundary!r}"

    def __repr__(self) -> str:
        return f"Downsample({self.extra_repr()})"

    def _check(self, method: str, name: str, x: Tensor, sizes: Sizes) -> None:
        check_images(f"Downsample.{method}", name, x, sizes, like=self.kernel)

    def _samples(self, x: Tensor) -> Tensor:
        """Return the view of x that keeps one pixel of each block."""
        f, o = self.factor, (self.factor - 1) // 2
        return x[..., o::f, o::f]

    def _divider(self, w: Tensor) -> _Step:
        """Return v, alpha -> (w A A* + alpha)^-1 v for the circular boundary and weights constant over pixels."""
        if self.blur is None:
            w_AA = w / self.factor**2
            return lambda v, alpha: v / (w_AA.to(v.dtype) + alpha)
        size = self.y_shape[1:]
        unit = torch.zeros(1, 1, *size, dtype=w.dtype, device=w.device)
        unit[..., 0, 0] = 1
        # A A* is a convolution with its unit response, whose spectrum is real and non-negative up to rounding.
        spectrum = torch.fft.rfft2(self.A(self.A_adjoint(unit))).real.clamp(min=0)
        w_AA = w * spectrum

        def divide(v: Tensor, alpha: Tensor) -> Tensor:
            out: Tensor = torch.fft.irfft2(torch.fft.rfft2(v) / (w_AA.to(v.dtype) + alpha), s=size)
            return out

        return divide


def _check_factor(factor: Any, shape: tuple[int, int]) -> int:
    """Return the factor as an int that divides the shape."""
    try:
        if isinstance(factor, bool):
            raise TypeError
        f = op.index(factor)
    except TypeError:
        raise TypeError(f"Downsample: factor must be an integer, got {factor!r}") from None
    if f < 1 or any(n % f for n in shape):
        raise ValueError(f"Downsample: factor must be positive and divide the shape {shape}, got {f}; crop the image")
    return f
