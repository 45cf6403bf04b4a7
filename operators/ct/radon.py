"""Parallel-beam Radon transform of an image of square pixels, by the Fourier slice theorem.

    y[v, b] = (1/pitch) int_bin p_v(t) dt,    p_v(t) = int x(r) delta(t - r . (cos theta_v, sin theta_v)) dr

Frame: X = pixel_size (column - (W-1)/2), Y = pixel_size ((H-1)/2 - row), t = X cos(theta) + Y sin(theta), and bin
b is centred on t = offset + pitch (b - (n_detectors-1)/2): ASTRA's frame at unit pitch. x is attenuation per unit
length, y its line integrals averaged over a bin, without unit. In Fourier space, with k = omega (cos theta,
sin theta) and D = pixel_size,

    p_v^(omega) = D^2 sinc(k_x D/2pi) sinc(k_y D/2pi) sinc(omega pitch/2pi) sum_n x_n exp(-i k . r_n),

whose sum is a type-2 NUFFT and whose inverse transform over omega is one FFT per view (Kak and Slaney, Principles of
Computerized Tomographic Imaging, 1988, eq. 3.11). The FFT's period is long enough that nothing wraps onto the
detector. x is real, so that omega >= 0 suffices. Frequencies above pi/pitch, which the bins do not resolve, are left
out rather than aliased: edges of objects are exact to 0.5 %, and a single pixel becomes its band-limited version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from ..base import check_images
from .fourier import bin_samples, is_smooth, pixel_spectrum, sinc
from .nufft import NUFFT
from .projector import Projector
from .view_weights import view_weights


class _Slices(NamedTuple):
    """Samples of Fourier space for the current angles and offset."""

    nufft: NUFFT
    points: Tensor  # (n_angles * n_omega, 2), radians per pixel, (row, column)
    omega: Tensor  # (n_omega,), radians per pixel, from 0
    pixel: Tensor  # (n_angles * n_omega,), the pixel's footprint, and the phase of the two origins
    gain: Tensor  # (n_angles * n_omega,), pixel times the bin's footprint, in units of y/x
    n_fft: int  # fine bins per period
    stride: int  # fine bins per detector bin
    whole: bool  # whether the detector sees the whole image; the period is then the detector


class Radon(Projector):
    """Parallel-beam Radon transform: images (B, C, H, W) to sinograms (B, C, n_angles, n_detectors).

    Args:
        shape: (H, W), pixels.
        angles: (n_angles,), radians, any order, repeats allowed. A tensor that requires grad is kept as it is, and
            gradients flow to it.
        n_detectors: number of bins; None: the smallest odd number that sees the whole image.
        pitch: distance between bins and width of a bin, in the unit of pixel_size.
        offset: position of the detector's centre on the t axis (centre of rotation), in the unit of pixel_size; a
            scalar tensor that requires grad receives gradients.
        pixel_size: side of a pixel, in any unit of length; x is per this unit.

    Bins up to 1.25 pixels wide are sampled at their own pitch; wider ones on a finer grid, so that each bin is an
    average over its width.

    >>> Radon((64, 64), [0.0, 0.5], pitch=2.0)
    Radon((64, 64), [0.0, 0.5], n_detectors=47, pitch=2.0, pixel_size=1.0, offset=0.0)
    """

    SIZES = ("n_detectors", "pitch", "pixel_size")

    def __init__(
        self,
        shape: tuple[int, int],
        angles: Any,
        *,
        n_detectors: int | None = None,
        pitch: float = 1.0,
        offset: float | Tensor = 0.0,
        pixel_size: float = 1.0,
    ) -> None:
        super().__init__(shape, angles, pitch=pitch, offset=offset, pixel_size=pixel_size)
        if n_detectors is None:
            n_detectors = bins_for(self.shape, self.pitch, self.pixel_size, float(self.offset.detach()))
        self.n_detectors = self._count(n_detectors)
        self._check_field()

    @property
    def _spread(self) -> float:
        """How far the offsets of channels are from `offset`, of subclasses whose channels have their own."""
        return 0.0

    def _shadow(self) -> tuple[Tensor, Tensor]:
        height, width = self.shape
        angles = self.angles.detach().double()
        half = (width * angles.cos().abs() + height * angles.sin().abs()) * (self.pixel_size / 2)
        return -half, half

    # ---------------------------------------------------------------- the operator

    def A(self, x: Tensor, /) -> Tensor:
        """Project images x (B, C, H, W), per unit length, to sinograms (B, C, n_angles, n_detectors).

        Raises:
            TypeError, ValueError: x has another shape, is not floating point or is on another device.
        """
        check_images("Radon.A", "x", x, ("C", *self.shape), like=self.angles)
        return self._project(x, self._slices())

    def _project(self, x: Tensor, g: _Slices, phases: Tensor | None = None) -> Tensor:
        """Return A x; phases (C, 1, n_omega) shift the detector of each channel."""
        real = torch.promote_types(x.dtype, torch.float32)
        spectrum = g.nufft.type2(x.to(real.to_complex()).reshape(-1, *self.shape), g.points)
        spectrum = spectrum * g.gain.to(spectrum.dtype)
        spectrum = spectrum.reshape(*x.shape[:2], len(self.angles), -1)
        if phases is not None:
            spectrum = spectrum * phases.to(spectrum.dtype)
        fine: Tensor = torch.fft.irfft(spectrum, n=g.n_fft)
        return fine[..., : g.stride * self.n_detectors : g.stride].to(x.dtype)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W).

        Raises:
            TypeError, ValueError: y has another shape, is not floating point or is on another device.
        """
        check_images("Radon.A_adjoint", "y", y, ("C", len(self.angles), self.n_detectors), like=self.angles)
        g = self._slices()
        return self._backproject(y, g, g.gain)

    def _backproject(self, y: Tensor, g: _Slices, gain: Tensor, phases: Tensor | None = None) -> Tensor:
        """Sum over the views of y, Fourier-interpolated and weighted with the conjugate gain: (B, C, H, W).

        phases are those of `_project`.
        """
        fine = y.to(torch.promote_types(y.dtype, torch.float32))
        if g.stride > 1:
            fine = nn.functional.pad(fine[..., None], (0, g.stride - 1)).flatten(-2)
        # The adjoint of irfft: every omega > 0 counts for -omega too.
        spectrum = torch.fft.rfft(fine, n=g.n_fft)[..., : len(g.omega)] * (self._multiplicity(g) / g.n_fft).to(fine)
        if phases is not None:
            spectrum = spectrum * phases.conj().to(spectrum.dtype)
        spectrum = spectrum.reshape(-1, gain.numel()) * gain.conj().to(spectrum.dtype)
        return g.nufft.type1(spectrum, g.points).real.reshape(*y.shape[:2], *self.shape).to(y.dtype)

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Apply A* A to images x (B, C, H, W): a convolution, whose cost does not grow with the number of angles.

        Where the detector truncates the image, its bins are wider than 1.25 pixels, or gradients to the angles or
        the offset are wanted, this is A_adjoint(A(x)).
        """
        if not self._is_convolution():
            return self.A_adjoint(self.A(x))
        g = self._slices()
        check_images("Radon.A_adjoint_A", "x", x, ("C", *self.shape), like=self.angles)
        kernel, size = self._kernel(g)
        real = torch.promote_types(x.dtype, torch.float32)
        transfer: Tensor = self._cached(("transfer", real), lambda: torch.fft.rfft2(kernel).real.to(real))
        height, width = self.shape
        # Axis by axis, since half of the rows are padding.
        spectrum = torch.fft.fft(torch.fft.rfft(x.to(real), n=size[1]), n=size[0], dim=-2) * transfer
        rows = torch.fft.ifft(spectrum, dim=-2)[..., :height, :]
        out: Tensor = torch.fft.irfft(rows, n=size[1])[..., :width]
        return out.to(x.dtype)

    def _is_convolution(self) -> bool:
        """Whether A* A is one, and no gradients to the geometry are wanted."""
        g = self._slices()
        return g.whole and g.stride == 1 and not (g.points.requires_grad or g.gain.requires_grad)

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha), approximately (A* W A + alpha)^-1 r: one circulant, so two FFTs of H x W.

        The circulant is the closest to the Toeplitz A* A in the Frobenius norm (T. Chan, SIAM J. Sci. Stat. Comput.
        9 (1988) 766), its eigenvalues clamped at 0; weights that vary over a sinogram enter by their mean.

        Args:
            weights: scalar, or broadcasting against y (B, C, n_angles, n_detectors); non-negative.
        """
        eigenvalues = self.circulant(weights)

        def apply(r: Tensor, alpha: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(r) / (eigenvalues.to(r.dtype) + alpha)
            out: Tensor = torch.fft.irfft2(spectrum, s=self.shape)
            return out

        return apply

    def circulant(self, weights: Tensor) -> Tensor:
        """Return the eigenvalues (..., H, W//2+1) of the circulant closest to A* W A, clamped at 0.

        Args:
            weights: scalar, or broadcasting against y (B, C, n_angles, n_detectors); non-negative.
        """
        mean = weights.mean(dim=(-2, -1), keepdim=True) if weights.ndim >= 2 else weights.mean()
        g = self._slices()
        circulant: Tensor = self._cached("circulant", lambda: self._circulant(*self._kernel(g)))
        return circulant.to(mean.dtype) * mean

    def fbp(self, y: Tensor, window: str = "ramp", extend: bool = True) -> Tensor:
        """Filtered backprojection of sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W), per unit length.

        Spatial ramp filter and linear convolution (Kak and Slaney, eq. 3.61-3.66), Fourier interpolation in t, and
        every view weighted by half the gaps to its neighbours on the circle of angles modulo pi; a wedge that was not
        measured stays missing. For a detector off the axis, lines measured twice in a full turn are averaged, and those
        measured once count alone; between both, the weights change smoothly over ten bins. Gradients do not flow
        through the weights.

        Args:
            y: line integrals.
            window: "ramp" (none), "shepp-logan", "cosine", "hamming" or "hann", from least to most smoothing.
            extend: continue truncated views (see `is_truncated`) beyond the detector like those of a uniform ellipse
                that is fitted to them, within the image where this is larger than the field of view. False, and where
                y falls to 0 at the ends of the detector: beyond it, y counts as 0.
        """
        check_images("Radon.fbp", "y", y, ("C", len(self.angles), self.n_detectors), like=self.angles)
        ends = self._open_ends(y) if extend else []
        if len(y) > 1 and any(map(any, ends)):  # each image has its own ellipse
            return torch.cat([self.fbp(image[None], window) for image in y])
        wanted = self._refresh()
        wide = self._widened() if wanted else self._cached("wide", self._widened)
        g = wide._slices()
        rays = self._cached("rays", self._ray_weights).to(torch.promote_types(y.dtype, torch.float32))
        filtered = self._views(y, rays, window, ends[0] if len(y) == len(ends) == 1 else (False, False))
        # Within the detector's band, averaged over the pixel as x is, but not over the bin: y is averaged already.
        band = g.omega <= math.pi * (self.pixel_size / self.pitch) * (1 + 1e-9)
        gain = (g.pixel.reshape(len(self.angles), -1) * band).flatten() * g.stride
        return wide._backproject(filtered, g, gain).to(y.dtype)

    def _widened(self) -> Radon:
        """Return the operator with bins added until the detector sees the whole image."""
        before, behind = self._beyond()
        if before == behind == 0:
            return self
        n, offset = self.n_detectors + before + behind, self.offset + self.pitch * (behind - before) / 2
        return Radon(
            self.shape, self.angles, n_detectors=n, pitch=self.pitch, offset=offset, pixel_size=self.pixel_size
        )

    def _lines(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.angles.detach().double()[:, None], u

    def _ray_weights(self) -> Tensor:
        """Return weights of rays (n_angles, n_detectors), or of views modulo half a turn (n_angles, 1)."""
        twice = view_weights(self.angles, math.pi).shares[:, None] / self.pitch
        if not self._off_axis:
            return twice
        u = self._bins()
        once = self._redundancy(u, torch.zeros_like(u)) / self.pitch
        return twice + self._seam(u) * (once - twice)

    # ---------------------------------------------------------------- Fourier space

    def _slices(self) -> _Slices:
        """Return the slices of the current angles and offset; recomputed with a graph where gradients are wanted."""
        wanted = self._refresh()
        slices = self._cached("slices", self._make_slices)
        return slices._replace(**self._samples(slices.omega)) if wanted else slices

    def _make_slices(self) -> _Slices:
        pitch, offset = self.pitch / self.pixel_size, float(self.offset) / self.pixel_size
        stride = bin_samples(pitch)
        # Half the width of the image's projection, and of the detector, in pixels.
        reach, half = float(self._shadow()[1].max()) / self.pixel_size, self.n_detectors * pitch / 2
        whole = self.sees_whole_image
        if whole:
            # The period is the detector: its bins are then a complete set, which makes A* A a convolution.
            n_bins = self.n_detectors
        else:
            # Copies of the image, one period away, stay clear of the detector's far end.
            n_bins = math.ceil((reach + half + abs(offset) + self._spread / self.pixel_size) / pitch) + 4
            n_bins = next(n for n in range(n_bins | 1, 3 * n_bins + 3, 2) if is_smooth(n))
        n_fft = n_bins * stride
        # The highest frequency of an even period is left out: a real FFT keeps only half of it.
        n_omega = (n_fft - 1) // 2 + 1
        step = 2 * math.pi * stride / (n_fft * pitch)
        omega = step * torch.arange(n_omega, device=self.angles.device, dtype=torch.float64)
        samples = self._samples(omega)
        nufft = NUFFT(samples["points"], self.shape)
        return _Slices(nufft, omega=omega, n_fft=n_fft, stride=stride, whole=whole, **samples)

    def _samples(self, omega: Tensor) -> dict[str, Any]:
        """Compute points, pixel and gain by differentiable operations in float64."""
        angles, pitch = self.angles.double()[:, None], self.pitch / self.pixel_size
        k_x, k_y = (omega * angles.cos()).flatten(), (omega * angles.sin()).flatten()
        first_bin = self.offset.double() / self.pixel_size - pitch * (self.n_detectors - 1) / 2
        angle = (omega * first_bin).repeat(len(self.angles))
        pixel = pixel_spectrum(k_x, k_y, self.shape) * torch.exp(1j * angle)
        bins = sinc(omega * pitch).repeat(len(self.angles))
        stride = bin_samples(pitch)
        return {
            "points": torch.stack([-k_y, k_x], 1),  # rows point down, Y points up
            "pixel": pixel,
            "gain": pixel * (bins * (self.pixel_size * stride / pitch)),
        }

    def _multiplicity(self, g: _Slices) -> Tensor:
        """Return how often each omega >= 0 counts in a sum over all omega: 1, 2, 2, ..."""
        return 2.0 - (g.omega == 0).double()

    def _kernel(self, g: _Slices) -> tuple[Tensor, tuple[int, int]]:
        """Return the kernel of A* A by lag (zero lag first), float64, and the size of the circulant that holds it.

        The kernel is sum_k |gain_k|^2 exp(i k . lag)/n_fft: one type-1 NUFFT. Wide bins mix frequencies that differ
        by a multiple of 2 pi/pitch, which it leaves out.
        """
        size = (next_fast_len(2 * self.shape[0] - 1, real=True), next_fast_len(2 * self.shape[1] - 1, real=True))

        def make() -> Tensor:
            power = g.gain.abs().square().reshape(-1, len(g.omega)) * self._multiplicity(g) / (g.n_fft * g.stride)
            lags = NUFFT(g.points, size).type1(power.reshape(1, -1).to(torch.complex128))[0].real
            centred: Tensor = torch.fft.ifftshift(lags)
            return centred

        return self._cached("kernel", make), size

    def _circulant(self, kernel: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the optimal circulant's eigenvalues (H, W//2+1): c[m] = ((n-m) h[m] + m h[m-n])/n along each axis."""
        for axis, n in enumerate(self.shape):
            m = torch.arange(n, device=kernel.device)
            share = (m.to(kernel.dtype) / n).reshape((n, 1) if axis == 0 else (1, n))
            behind = kernel.index_select(axis, (m - n) % size[axis])
            kernel = (1 - share) * kernel.index_select(axis, m) + share * behind
        eigenvalues: Tensor = torch.fft.rfft2(kernel).real
        return eigenvalues.clamp(min=0)


def bins_for(shape: tuple[int, int], pitch: float, pixel_size: float, offset: float) -> int:
    """Return the smallest odd number of bins that see the whole image from all directions."""
    reach = math.hypot(*shape) * pixel_size + 2 * abs(offset)
    return 2 * math.ceil((reach / pitch - 1) / 2) + 1
