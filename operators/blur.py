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
Volumes have a third axis, and so has their kernel, in front; all else is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from .base import LinearOperator, as_buffer, check_images, check_sizes, pixel_mean
from .psf import PsfReport, kernel_concerns, kernel_from_psf
from .sizes import Sizes

_NUMBERS = (int, float, np.integer, np.floating)
_BOUNDARIES = ("circular", "reflect", "valid")


class Blur(LinearOperator):
    """Convolve every channel with one kernel.

    Args:
        kernel: (kh, kw) or (1, 1, kh, kw), for volumes (kd, kh, kw) or (1, 1, kd, kh, kw), real, at most as large as
            the image, its centre at (kh // 2, kw // 2). It is used as given (not normalised, see `from_psf`) and in the
            input's dtype; gradients flow to it where it requires them. Whole numbers are taken in torch's default
            dtype.
        shape: (H, W) of the images in pixels, or (D, H, W) of volumes.
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

    def __init__(self, kernel: Tensor | NDArray[Any], shape: tuple[int, ...], boundary: str = "circular") -> None:
        super().__init__()
        self.shape = check_sizes("Blur", shape)
        if boundary not in _BOUNDARIES:
            raise ValueError(f"Blur: boundary must be one of {', '.join(_BOUNDARIES)}, got {boundary!r}")
        self.boundary = boundary
        self.register_buffer("kernel", _check_kernel(kernel, self.shape))

        taps = tuple(self.kernel.shape)
        self._axes = tuple(range(-len(taps), 0))
        self._y_shape = self.shape
        if boundary == "valid":
            self._y_shape = tuple(n - k + 1 for n, k in zip(self.shape, taps, strict=True))
        self._padding = [(0, 0)] * len(taps)  # pixels before and after, along each axis
        if boundary == "reflect":  # x[i + ca - a] reaches from i - (kh - 1 - ca) to i + ca
            self._padding = [((k - 1) // 2, k // 2) for k in taps]
        self._padded = tuple(n + sum(margins) for n, margins in zip(self.shape, self._padding, strict=True))
        self._grid = tuple(next_fast_len(n, real=True) for n in self._padded)  # of the FFTs, unless circular

    @classmethod
    def from_psf(
        cls,
        psf: Tensor | NDArray[Any],
        shape: tuple[int, ...],
        boundary: str = "circular",
        *,
        pedestal: float | None = None,
    ) -> Blur:
        """Return the blur by a measured point spread function: the image of one bead or star.

        The pedestal is subtracted, the centroid moved to the kernel's centre to a fraction of a pixel, and the sum made
        1, as `operators.psf` describes; `psf_report` says by how much. The image may then be compared with y: same
        place, same brightness. No gradient flows to the PSF.

        Args:
            psf: (h, w) or (1, 1, h, w), of volumes (d, h, w) or (1, 1, d, h, w), any real dtype, such as a camera's
                counts; at least 5 pixels along each edge, and background all around the peak. The centroid of an
                asymmetric PSF, such as motion, is centred too.
            shape: (H, W) of the images in pixels, or (D, H, W) of volumes.
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
        size = check_sizes("Blur.from_psf", shape)
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
        """Sizes (C, H, W) or (C, D, H, W) of an image's measurements, (C, H - kh + 1, W - kw + 1) for "valid"."""
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
        if any(n > 1 for n in weights.shape[-len(self.shape) :]) or not self._is_diagonal():
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
        reflect, axes = self.boundary == "reflect", self._axes
        size = tuple(2 * n for n in self.shape) if reflect else self.shape
        power = _abs2(torch.fft.rfftn(self.kernel.to(weights.dtype), s=size, dim=axes))
        if reflect:  # |K|^2 in the cosine basis: its mean over the quadrants
            for axis in axes[:-1]:
                power = (power + power.flip(axis).roll(1, axis)) / 2
        A_W_A = pixel_mean(weights, len(axes)) * power

        def M(r: Tensor, alpha: Tensor) -> Tensor:
            r = _reflect(r, [(0, n) for n in self.shape]) if reflect else r
            spectrum = torch.fft.rfftn(r, dim=axes) / (A_W_A.to(r.dtype) + alpha)
            x: Tensor = torch.fft.irfftn(spectrum, s=size, dim=axes)
            return _cropped(x, [(0, n) for n in self.shape])

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

    def _check(self, method: str, name: str, x: Tensor, shape: tuple[int, ...]) -> None:
        if name == "y" and shape != self.shape and getattr(x, "shape", ())[-len(shape) :] == self.shape:
            starts = [(k - 1) // 2 for k in self.kernel.shape]  # of "valid" in an image that was blurred as a whole
            crop = ", ".join(f"{at}:{at + n}" for at, n in zip(starts, shape, strict=True))
            raise ValueError(
                f'Blur.{method}: y must be (B, C, {", ".join(map(str, shape))}) for boundary="valid", where all taps '
                f"fall on the image, got the image's size {tuple(x.shape)}; crop it, y[..., {crop}], or use "
                'boundary="reflect"'
            )
        check_images(f"Blur.{method}", name, x, ("C", *shape), like=self.kernel)

    def _is_diagonal(self) -> bool:
        """Return whether A*A is diagonal in the basis of the preconditioner."""
        k = self.kernel.detach()
        if self.boundary != "reflect" or self.kernel.requires_grad:
            # The closed form holds for symmetric kernels only, and a gradient includes directions that break the
            # symmetry: the value would be right, the gradient wrong.
            return self.boundary == "circular"
        odd = all(n % 2 == 1 for n in k.shape)
        asymmetry = max(float((k - k.flip(axis)).abs().max()) for axis in self._axes)
        return odd and asymmetry <= float(4 * torch.finfo(k.dtype).eps * k.abs().max())

    def _otf(self, dtype: torch.dtype) -> Tensor:
        """Return K (H, W//2 + 1), the transfer function of the circular boundary."""
        taps = self.kernel.shape
        missing = [(0, n - k) for n, k in zip(self.shape, taps, strict=True)]
        k = _with_zeros(self.kernel.to(dtype), missing)
        otf: Tensor = torch.fft.rfftn(k.roll([-(n // 2) for n in taps], self._axes), dim=self._axes)  # centre at 0
        return otf

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=self._axes) * response
        y: Tensor = torch.fft.irfftn(spectrum, s=self.shape, dim=self._axes)
        return y

    def _padded_otf(self, dtype: torch.dtype) -> Tensor:
        """Return the transfer function about tap (0, 0), on an FFT grid that holds the padded image."""
        otf: Tensor = torch.fft.rfftn(self.kernel.to(dtype), s=self._grid, dim=self._axes)
        return otf

    def _valid(self, x: Tensor, otf: Tensor) -> Tensor:
        """Pad x by the boundary, convolve, and keep the outputs that no wrap-around reaches."""
        spectrum = torch.fft.rfftn(_reflect(x, self._padding), s=self._grid, dim=self._axes)
        full: Tensor = torch.fft.irfftn(spectrum * otf, s=self._grid, dim=self._axes)
        return _cropped(full, [(k - 1, n) for k, n in zip(self.kernel.shape, self._padded, strict=True)])

    def _valid_adjoint(self, y: Tensor, otf: Tensor) -> Tensor:
        """Undo `_valid` step by step: zeros where it cropped, correlate, fold the padding back."""
        whole = _with_zeros(y, [(k - 1, 0) for k in self.kernel.shape])
        spectrum = torch.fft.rfftn(whole, s=self._grid, dim=self._axes)
        full = torch.fft.irfftn(spectrum * otf.conj(), s=self._grid, dim=self._axes)
        return _reflect_adjoint(_cropped(full, [(0, n) for n in self._padded]), self._padding)


def gaussian_kernel(std_px: float | Sequence[float], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a Gaussian kernel that sums to 1, sampled at pixel centres out to 4 standard deviations.

    Args:
        std_px: standard deviation in pixels, > 0; of volumes, and where it differs between axes, one for each axis.
        dtype: floating dtype of the kernel.

    Returns:
        (n, n) with odd n = 2 ceil(4 std_px) + 1, or one such n for each number of a sequence.

    Raises:
        ValueError: std_px is not a positive number, or two or three of them.

    >>> gaussian_kernel(1.0).shape
    torch.Size([9, 9])
    >>> gaussian_kernel((2.0, 0.8, 0.8)).shape
    torch.Size([17, 9, 9])
    """
    stds = tuple(std_px) if isinstance(std_px, Sequence) else (std_px, std_px)
    if len(stds) not in (2, 3) or not all(math.isfinite(s) and s > 0 for s in stds):
        raise ValueError(
            "gaussian_kernel: std_px must be a positive number of pixels, or one for each of 2 or 3 axes, got "
            f"{std_px!r}"
        )
    values, sizes = [1.0], list[int]()  # Python's numbers, as some devices have no float64
    for s in stds:
        radius = math.ceil(4 * s)
        g = [math.exp(-((k / s) ** 2) / 2) for k in range(-radius, radius + 1)]
        total = math.fsum(g)
        values = [v * (a / total) for v in values for a in g]
        sizes.append(len(g))
    return torch.tensor(values, dtype=dtype).reshape(sizes)


def _abs2(z: Tensor) -> Tensor:
    return z.real.square() + z.imag.square()


def _with_zeros(x: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """Pad the last axes of x by zeros, along each so many before and after."""
    return pad(x, [n for before_and_after in reversed(margins) for n in before_and_after])


def _cropped(x: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Return the last axes of x, each from its first number to before its second."""
    for axis, (start, stop) in zip(range(-len(ranges), 0), ranges, strict=True):
        x = x.narrow(axis, start, stop - start)
    return x


def _reflect(x: Tensor, padding: Sequence[tuple[int, int]]) -> Tensor:
    """Extend x (..., H, W) by half-sample symmetric copies of its edges, along each axis before and after."""
    for axis, (before, after) in zip(range(-len(padding), 0), padding, strict=True):
        n = x.shape[axis]
        x = torch.cat([x.narrow(axis, 0, before).flip(axis), x, x.narrow(axis, n - after, after).flip(axis)], axis)
    return x


def _reflect_adjoint(p: Tensor, padding: Sequence[tuple[int, int]]) -> Tensor:
    """Fold the margins of p back onto the pixels that `_reflect` copied them from."""
    for axis, (before, after) in zip(range(-1, -len(padding) - 1, -1), reversed(padding), strict=True):
        p = _fold(p.movedim(axis, -1), before, after).movedim(-1, axis)
    return p


def _fold(p: Tensor, before: int, after: int) -> Tensor:
    """Fold the margins of the last axis back, by sums of padded slices: index_add is not deterministic on CUDA."""
    n = p.shape[-1] - before - after
    head, core, tail = p[..., :before], p[..., before : before + n], p[..., before + n :]
    return core + pad(head.flip(-1), (0, n - before)) + pad(tail.flip(-1), (n - after, 0))


def _check_kernel(kernel: object, shape: tuple[int, ...]) -> Tensor:
    """Return the operator's own copy of the kernel, or raise with what is wrong."""
    k = as_buffer("Blur", "kernel", kernel)
    if k.is_complex() or k.dtype == torch.bool:
        remedy = "kernel.real" if k.is_complex() else "kernel.float()"
        raise TypeError(f"Blur: kernel must be real numbers, got {k.dtype}; use {remedy}")
    if not k.is_floating_point():
        k = _whole_numbers(k)
    sizes = tuple(k.shape)
    if k.ndim == len(shape) + 2 and sizes[:2] == (1, 1):
        k = k[0, 0]
    if k.ndim != len(shape) or 0 in k.shape:
        axes = "height, width" if len(shape) == 2 else "depth, height, width"
        remedy = "one kernel blurs all channels" if len(shape) == 2 else "for images give shape as (H, W)"
        raise ValueError(f"Blur: kernel must be ({axes}) or (1, 1, {axes}), got {sizes}; {remedy}")
    if any(m > n for m, n in zip(k.shape, shape, strict=True)):
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
