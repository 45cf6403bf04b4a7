"""Blur by one kernel: y = k * x, a true convolution (not a correlation), with three choices of boundary.

    y[i, j] = sum_{a, b} k[a, b] x[i + ca - a, j + cb - b],   (ca, cb) = (kh // 2, kw // 2),

for a kernel of kh x kw taps of either parity; x beyond its edges follows the boundary:

    "circular"  periodic, y is (H, W): diagonal in the Fourier basis, A = F^-1 diag(K) F
    "reflect"   half-sample symmetric, (d c b a | a b c d | d c b a), y is (H, W): diagonal in the cosine
                basis where the kernel equals its mirror images
    "valid"     no assumption: only outputs whose taps all fall on the image, y is (H - kh + 1, W - kw + 1)
                and starts where all taps fit, y[i, j] = sum_{a, b} k[a, b] x[i + kh-1 - a, j + kw-1 - b]

The first two are `scipy.ndimage.convolve` with mode "wrap" and "reflect", the third is
`scipy.signal.convolve2d` with mode "valid". Reflect is valid after padding; its adjoint folds the padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from .base import LinearOperator, as_buffer, check_images, check_shape, pixel_mean
from .psf import PsfReport, kernel_concerns, kernel_from_psf
from .sizes import Sizes

_NUMBERS = (int, float, np.integer, np.floating)
_BOUNDARIES = ("circular", "reflect", "valid")


class Blur(LinearOperator):
    """Convolve every channel with one kernel.

    Args:
        kernel: (kh, kw) or (1, 1, kh, kw), real, at most as large as the image, its centre at
            (kh // 2, kw // 2). It is used as given (not normalised, see `from_psf`) and in the input's dtype; gradients
            flow to it where it requires them. Whole numbers are taken in torch's default dtype.
        shape: (H, W) of the images in pixels.
        boundary: "circular", "reflect" or "valid", as the module describes.

    Attributes:
        psf_report: what `from_psf` did, None of other kernels; `print(A.psf_report)` is one sentence.

    Raises:
        TypeError: kernel is neither an array or tensor, nor real.
        ValueError: kernel has the wrong number of axes, is larger than the image, not finite or 0
            everywhere, or holds whole numbers that the default dtype does not; unknown boundary.

    >>> A = Blur(torch.full((1, 3), 1 / 3), (1, 5))
    >>> [round(v) for v in A.A(torch.tensor([[[[0.0, 0.0, 3.0, 0.0, 0.0]]]])).flatten().tolist()]
    [0, 1, 1, 1, 0]
    """

    kernel: Tensor
    psf_report: PsfReport | None = None
    y_is_sampled = True

    def __init__(self, kernel: Tensor | NDArray[Any], shape: tuple[int, int], boundary: str = "circular") -> None:
        super().__init__()
        self.shape = check_shape("Blur", shape)
        if boundary not in _BOUNDARIES:
            raise ValueError(f"Blur: boundary must be one of {', '.join(_BOUNDARIES)}, got {boundary!r}")
        self.boundary = boundary
        self.register_buffer("kernel", _check_kernel(kernel, self.shape))

        (height, width), (kh, kw) = self.shape, self.kernel.shape
        self._y_shape = (height - kh + 1, width - kw + 1) if boundary == "valid" else self.shape
        self._padding = (0, 0, 0, 0)  # pixels left, right, above, below
        if boundary == "reflect":  # x[i + ca - a] reaches from i - (kh - 1 - ca) to i + ca
            self._padding = ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2)
        left, right, above, below = self._padding
        self._padded = (height + above + below, width + left + right)
        self._grid = tuple(next_fast_len(n, real=True) for n in self._padded)  # of the FFTs, unless circular

    @classmethod
    def from_psf(
        cls,
        psf: Tensor | NDArray[Any],
        shape: tuple[int, int],
        boundary: str = "circular",
        *,
        pedestal: float | None = None,
    ) -> Blur:
        """Return the blur by a measured point spread function: the image of one bead or star.

        The pedestal is subtracted, the centroid moved to the kernel's centre to a fraction of a pixel, and the sum made
        1, as `operators.psf` describes; `psf_report` says by how much. The image may then be compared with y: same
        place, same brightness. No gradient flows to the PSF.

        Args:
            psf: (h, w) or (1, 1, h, w), any real dtype, such as a camera's counts; at least 5 pixels along each edge,
                and background all around the peak. The centroid of an asymmetric PSF, such as motion, is centred too.
            shape: (H, W) of the images in pixels.
            boundary: "circular", "reflect" or "valid".
            pedestal: the background in units of the PSF; None: the median of the border.

        Raises:
            TypeError: psf is no array or tensor, or complex, or masked; pedestal is not a number.
            ValueError: psf has the wrong number of axes, is larger than the image, not finite, not one positive peak,
                or saturated; unknown boundary.

        >>> counts = torch.zeros(9, 9, dtype=torch.int32) + 100
        >>> counts[4:6, 3:7] += torch.tensor([[10, 40, 40, 10], [5, 20, 20, 5]], dtype=torch.int32)
        >>> A = Blur.from_psf(counts, (32, 32))
        >>> print(A.psf_report)
        PSF: pedestal 100 (scatter 0) subtracted, moved by (-0.33, -0.50) px, divided by its sum 150
        """
        size = check_shape("Blur.from_psf", shape)
        if pedestal is not None and (isinstance(pedestal, bool) or not isinstance(pedestal, _NUMBERS)):
            raise TypeError(f"Blur.from_psf: pedestal must be a number in units of psf or None, got {pedestal!r}")
        if pedestal is not None and not math.isfinite(pedestal):
            raise ValueError(f"Blur.from_psf: pedestal must be finite, got {pedestal!r}; None estimates it")
        kernel, report = kernel_from_psf(psf, size, None if pedestal is None else float(pedestal))
        operator = cls(kernel, size, boundary)
        operator.psf_report = report
        return operator

    @property
    def y_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image's measurements, (C, H - kh + 1, W - kw + 1) for "valid"."""
        return ("C", *self._y_shape)

    def A(self, x: Tensor, /) -> Tensor:
        """Blur images x (B, C, H, W) to (B, C, H, W), or (B, C, H - kh + 1, W - kw + 1) for "valid"."""
        self._check("A", "x", x, self.shape)
        if self.boundary == "circular":
            return self._filter(x, self._otf(x.dtype))
        return self._valid(x, self._padded_otf(x.dtype))

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to y, shaped as A returns it; return images (B, C, H, W)."""
        self._check("A_adjoint", "y", y, self._y_shape)
        if self.boundary == "circular":
            return self._filter(y, self._otf(y.dtype).conj())
        return self._valid_adjoint(y, self._padded_otf(y.dtype))

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Apply A*A to images x (B, C, H, W): two FFTs for the circular boundary, four for the others."""
        self._check("A_adjoint_A", "x", x, self.shape)
        if self.boundary == "circular":
            return self._filter(x, _abs2(self._otf(x.dtype)))
        otf = self._padded_otf(x.dtype)
        return self._valid_adjoint(self._valid(x, otf), otf)

    def data_step(self, y: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return h(z, alpha) = (w A*A + alpha)^-1 (w A*y + alpha z), or None.

        Closed form for weights w that are the same for all pixels of a channel, where A*A is diagonal: in
        the Fourier basis for the circular boundary, in the cosine basis for the reflect boundary and a
        kernel equal to its mirror images.
        """
        self._check("data_step", "y", y, self._y_shape)
        if any(n > 1 for n in weights.shape[-2:]) or not self._is_diagonal():
            return None
        w = weights.to(y.dtype)
        A_W_y, M = self.A_adjoint(w * y), self.preconditioner(w)
        return lambda z, alpha: M(A_W_y + alpha * z, alpha)

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha) = F^-1[F r/(w |K|^2 + alpha)] with each channel's mean weight w.

        F is the FFT, and for the reflect boundary the cosine transform (FFT of the image and its mirror
        images): the inverse itself where A*A is diagonal and the weights do not vary. For "valid" the gain is
        modest (a fifth to a third of the iterations): the model ignores the border, which few outputs measure.
        """
        (height, width), reflect = self.shape, self.boundary == "reflect"
        size = (2 * height, 2 * width) if reflect else self.shape
        power = _abs2(torch.fft.rfft2(self.kernel.to(weights.dtype), s=size))
        if reflect:  # |K|^2 in the cosine basis: its mean over the quadrants
            power = (power + power.flip(0).roll(1, 0)) / 2
        A_W_A = pixel_mean(weights) * power

        def M(r: Tensor, alpha: Tensor) -> Tensor:
            r = _reflect(r, (0, width, 0, height)) if reflect else r
            x: Tensor = torch.fft.irfft2(torch.fft.rfft2(r) / (A_W_A.to(r.dtype) + alpha), s=size)
            return x[..., :height, :width]

        return M

    def concerns(self, y: Tensor) -> list[str]:
        """Return sentences, each with cause and remedy, on what looks wrong about this kernel for measurements y.

        A PSF in counts for y in [0, 1]; a PSF with a camera's pedestal; one that `from_psf` could not separate from the
        background. Kernels that do not look like a measured PSF are never doubted.
        """
        if self.psf_report is not None:
            return [] if self.psf_report.reaches_background else [f"Blur: {self.psf_report.concern()}"]
        return [] if self.kernel.requires_grad else kernel_concerns(self.kernel, y)

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        kernel = f"<{tuple(self.kernel.shape)} {self.kernel.dtype}>"
        return f"kernel={kernel}, shape={self.shape}, boundary={self.boundary!r}"

    def _check(self, method: str, name: str, x: Tensor, shape: tuple[int, int]) -> None:
        if name == "y" and shape != self.shape and getattr(x, "shape", ())[-2:] == self.shape:
            (height, width), (kh, kw) = shape, self.kernel.shape
            top, left = (kh - 1) // 2, (kw - 1) // 2  # where "valid" starts in an image that was blurred as a whole
            raise ValueError(
                f'Blur.{method}: y must be (B, C, {height}, {width}) for boundary="valid", where all taps fall on the '
                f"image, got the image's size {tuple(x.shape)}; crop it, y[..., {top}:{top + height}, "
                f'{left}:{left + width}], or use boundary="reflect"'
            )
        check_images(f"Blur.{method}", name, x, ("C", *shape), like=self.kernel)

    def _is_diagonal(self) -> bool:
        """Return whether A*A is diagonal in the basis of the preconditioner."""
        k = self.kernel.detach()
        if self.boundary != "reflect" or self.kernel.requires_grad:
            # The closed form holds for symmetric kernels only, and a gradient includes directions that break the
            # symmetry: the value would be right, the gradient wrong.
            return self.boundary == "circular"
        odd = k.shape[0] % 2 == 1 and k.shape[1] % 2 == 1
        asymmetry = torch.maximum((k - k.flip(0)).abs().max(), (k - k.flip(1)).abs().max())
        return odd and bool(asymmetry <= 4 * torch.finfo(k.dtype).eps * k.abs().max())

    def _otf(self, dtype: torch.dtype) -> Tensor:
        """Return K (H, W//2 + 1), the transfer function of the circular boundary."""
        (height, width), (kh, kw) = self.shape, self.kernel.shape
        k = pad(self.kernel.to(dtype), (0, width - kw, 0, height - kh))
        otf: Tensor = torch.fft.rfft2(k.roll((-(kh // 2), -(kw // 2)), (0, 1)))  # the centre at pixel (0, 0)
        return otf

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        y: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * response, s=self.shape)
        return y

    def _padded_otf(self, dtype: torch.dtype) -> Tensor:
        """Return the transfer function about tap (0, 0), on an FFT grid that holds the padded image."""
        otf: Tensor = torch.fft.rfft2(self.kernel.to(dtype), s=self._grid)
        return otf

    def _valid(self, x: Tensor, otf: Tensor) -> Tensor:
        """Pad x by the boundary, convolve, and keep the outputs that no wrap-around reaches."""
        (height, width), (kh, kw) = self._padded, self.kernel.shape
        spectrum = torch.fft.rfft2(_reflect(x, self._padding), s=self._grid)
        full: Tensor = torch.fft.irfft2(spectrum * otf, s=self._grid)
        return full[..., kh - 1 : height, kw - 1 : width]

    def _valid_adjoint(self, y: Tensor, otf: Tensor) -> Tensor:
        """Undo `_valid` step by step: zeros where it cropped, correlate, fold the padding back."""
        (height, width), (kh, kw) = self._padded, self.kernel.shape
        spectrum = torch.fft.rfft2(pad(y, (kw - 1, 0, kh - 1, 0)), s=self._grid)
        full = torch.fft.irfft2(spectrum * otf.conj(), s=self._grid)
        return _reflect_adjoint(full[..., :height, :width], self._padding)


def gaussian_kernel(std_px: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a Gaussian kernel that sums to 1, sampled at pixel centres out to 4 standard deviations.

    Args:
        std_px: standard deviation in pixels, > 0.
        dtype: floating dtype of the kernel.

    Returns:
        (n, n) with odd n = 2 ceil(4 std_px) + 1.

    Raises:
        ValueError: std_px is not a positive number.

    >>> gaussian_kernel(1.0).shape
    torch.Size([9, 9])
    """
    if not (math.isfinite(std_px) and std_px > 0):
        raise ValueError(f"gaussian_kernel: std_px must be a positive number of pixels, got {std_px!r}")
    radius = math.ceil(4 * std_px)
    g = [math.exp(-((k / std_px) ** 2) / 2) for k in range(-radius, radius + 1)]
    total = math.fsum(g)
    return torch.tensor([[a / total * (b / total) for b in g] for a in g], dtype=dtype)


def _abs2(z: Tensor) -> Tensor:
    return z.real.square() + z.imag.square()


def _reflect(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Extend x (..., H, W) by half-sample symmetric copies of its edges."""
    left, right, above, below = padding
    x = torch.cat([x[..., :above, :].flip(-2), x, x[..., x.shape[-2] - below :, :].flip(-2)], -2)
    return torch.cat([x[..., :left].flip(-1), x, x[..., x.shape[-1] - right :].flip(-1)], -1)


def _reflect_adjoint(p: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Fold the margins of p back onto the pixels that `_reflect` copied them from."""
    left, right, above, below = padding
    return _fold(_fold(p, left, right).mT, above, below).mT


def _fold(p: Tensor, before: int, after: int) -> Tensor:
    """Fold the margins of the last axis back, by sums of padded slices: index_add is not deterministic on CUDA."""
    n = p.shape[-1] - before - after
    head, core, tail = p[..., :before], p[..., before : before + n], p[..., before + n :]
    return core + pad(head.flip(-1), (0, n - before)) + pad(tail.flip(-1), (n - after, 0))


def _check_kernel(kernel: object, shape: tuple[int, int]) -> Tensor:
    """Return the operator's own copy of the kernel, or raise with what is wrong."""
    k = as_buffer("Blur", "kernel", kernel)
    if k.is_complex() or k.dtype == torch.bool:
        remedy = "kernel.real" if k.is_complex() else "kernel.float()"
        raise TypeError(f"Blur: kernel must be real numbers, got {k.dtype}; use {remedy}")
    if not k.is_floating_point():
        k = _whole_numbers(k)
    sizes = tuple(k.shape)
    if k.ndim == 4 and sizes[:2] == (1, 1):
        k = k[0, 0]
    if k.ndim != 2 or 0 in k.shape:
        raise ValueError(
            f"Blur: kernel must be (height, width) or (1, 1, height, width), got {sizes}; one kernel blurs all channels"
        )
    if k.shape[0] > shape[0] or k.shape[1] > shape[1]:
        raise ValueError(f"Blur: kernel must fit in the image {shape}, got {tuple(k.shape)}; crop the kernel")
    if not torch.isfinite(k).all():
        raise ValueError("Blur: kernel must be finite, got NaN or infinite entries")
    if not k.any():
        raise ValueError("Blur: kernel must not be 0 everywhere, got zeros only")
    return k


def _whole_numbers(k: Tensor) -> Tensor:
    """Return whole numbers in the default dtype, or raise where it does not hold them exactly."""
    floats = k.to(torch.get_default_dtype())
    if not torch.equal(floats.to(k.dtype), k):
        raise ValueError(
            f"Blur: kernel holds whole numbers that {floats.dtype} does not, got {k.dtype}; use kernel.double() or "
            "divide it by its sum"
        )
    return floats
