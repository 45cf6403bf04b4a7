"""Fan-beam transform of an image of square pixels, with a point source and a flat detector that turn around it.

    y[v, b] = (1/pitch) int_bin p(theta_v - gamma, source_origin sin(gamma)) du,    tan(gamma) = u/L

with L = source_origin + origin_detector and p(phi, t) the parallel projections of `radon.py`, in the same frame: the
source is at source_origin (sin(theta), -cos(theta)), the detector's axis is (cos(theta), sin(theta)), and bin b is
centred on u = offset + pitch (b - (n_detectors-1)/2): ASTRA's "fanflat".

Each ray of a fan is a ray of some parallel projection. p is 2 pi periodic in phi and band-limited in t, hence
band-limited in phi too: its harmonics n vanish beyond |omega| R, with R the radius of the image (Rattey and Lindgren,
IEEE Trans. Acoust. Speech Signal Process. 29 (1981) 994). So

    image --NUFFT--> p^(phi_m, omega_j) --FFT--> p^(n, omega_j) --NUFFT--> p(phi, t) at the rays of the fan,

each exact to the band limit and each with its exact adjoint. A bin is the average of its rays at Gauss-Legendre points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..base import check_images, length
from .fourier import bin_samples, is_smooth, pixel_spectrum
from .nufft import NUFFT
from .projector import Projector
from .radon import Radon

_SAMPLES_PER_BIN = 4
"""Samples of the filtered views in each bin, between which `fbp` interpolates linearly."""
_CHUNK = 2**18
"""Number of pixels times views that are back-projected together: they stay in the cache."""
_PRECONDITIONER_EXPONENT = 0.7
"""Exponent of the circulant inverse used as preconditioner."""
_QUANTILES = (-0.6347, -0.1976, 0.1976, 0.6347)
"""Quantiles 1/8, 3/8, 5/8 and 7/8 of the distance t of a disc's points in a view, over the disc's radius."""
_MARGIN = 2.0
"""Distance from the image, in pixels, at which its band-limited projections have died out."""


class _Harmonics(NamedTuple):
    """Parallel projections on a grid of directions phi_m = 2 pi m/n_directions, as Fourier series in phi and t."""

    image: NUFFT  # image to p^(phi_m, omega_j), half a turn
    gain: Tensor  # (n_directions/2, n_omega): pixel's footprint, phases, and the series' normalisation
    step: float  # of omega, radians per pixel


class _Rays(NamedTuple):
    """Rays of the fan as points of the Fourier series, and phases there."""

    points: Tensor  # (n_angles * n_detectors * n_samples, 2): -(phi, t), in radians of the series
    phase: Tensor  # (n_angles * n_detectors * n_samples,), of the series' middle; 0 for rays that miss the image


class FanBeam(Projector):
    """Fan-beam transform: images (B, C, H, W) to sinograms (B, C, n_angles, n_detectors).

    Args:
        shape: (H, W), pixels.
        angles: (n_angles,), radians, any order, repeats allowed. A tensor that requires grad is kept as it is, and
            gradients flow to it.
        source_origin: distance from the source to the axis of rotation, in the unit of pixel_size; the source stays
            outside the image.
        origin_detector: distance from the axis to the detector; 0 for a detector scaled to the axis.
        n_detectors: number of bins; None: the smallest odd number that sees the whole image.
        pitch: distance between bins and width of a bin, on the detector.
        offset: position of the detector's centre on its axis; a scalar tensor that requires grad receives gradients.
        pixel_size: side of a pixel, in any unit of length; x is per this unit.

    >>> FanBeam((64, 64), [0.0, 0.5], source_origin=200.0, origin_detector=100.0, pitch=1.5)
    FanBeam((64, 64), [0.0, 0.5], source_origin=200.0, origin_detector=100.0, n_detectors=93, pitch=1.5, \
pixel_size=1.0, offset=0.0)
    """

    SIZES = ("source_origin", "origin_detector", "n_detectors", "pitch", "pixel_size")

    def __init__(
        self,
        shape: tuple[int, int],
        angles: Any,
        *,
        source_origin: float,
        origin_detector: float,
        n_detectors: int | None = None,
        pitch: float = 1.0,
        offset: float | Tensor = 0.0,
        pixel_size: float = 1.0,
    ) -> None:
        super().__init__(shape, angles, pitch=pitch, offset=offset, pixel_size=pixel_size)
        self.source_origin = length("FanBeam", "source_origin", source_origin)
        self.origin_detector = length("FanBeam", "origin_detector", origin_detector, zero=True)
        radius = self._radius * self.pixel_size
        if self.source_origin <= radius:
            raise ValueError(
                f"FanBeam: source_origin must exceed half the image's diagonal, {radius:.4g}, or the source would pass "
                f"through its corners, got {source_origin}; give both in one unit, or make the image smaller"
            )
        if n_detectors is None:
            reach = radius / math.sqrt(self.source_origin**2 - radius**2) * self._length
            n_detectors = 2 * math.ceil((reach + abs(float(self.offset.detach()))) / self.pitch - 0.5) + 1
        self.n_detectors = self._count(n_detectors)
        self._check_field()

    @property
    def _length(self) -> float:
        """Distance from the source to the detector."""
        return self.source_origin + self.origin_detector

    @property
    def _radius(self) -> float:
        """Half the image's diagonal, in pixels."""
        return math.hypot(*self.shape) / 2

    @property
    def _pitch_at_axis(self) -> float:
        return self.pitch * self.source_origin / self._length

    def _shadow(self) -> tuple[Tensor, Tensor]:
        height, width = (n * self.pixel_size / 2 for n in self.shape)
        x = self.angles.new_tensor([-width, width, -width, width], dtype=torch.float64)
        y = self.angles.new_tensor([-height, -height, height, height], dtype=torch.float64)
        angles = self.angles.detach().double()[:, None]
        # Depth from the source along the central ray, over source_origin.
        depth = 1 + (y * angles.cos() - x * angles.sin()) / self.source_origin
        corners = (x * angles.cos() + y * angles.sin()) * (self._length / self.source_origin) / depth
        return corners.amin(1), corners.amax(1)

    # ---------------------------------------------------------------- the operator

    def A(self, x: Tensor, /) -> Tensor:
        """Project images x (B, C, H, W), per unit length, to sinograms (B, C, n_angles, n_detectors).

        Raises:
            TypeError, ValueError: x has another shape, is not floating point or is on another device.
        """
        check_images("FanBeam.A", "x", x, ("C", *self.shape), like=self.angles)
        harmonics, nufft, rays = self._tables()
        real = torch.promote_types(x.dtype, torch.float32)
        half, n_omega = harmonics.gain.shape
        spectrum = harmonics.image.type2(x.to(real.to_complex()).reshape(-1, *self.shape))
        spectrum = spectrum.reshape(-1, half, n_omega) * harmonics.gain.to(spectrum.dtype)
        # Half a turn later the same rays run backwards: p(phi + pi, t) = p(phi, -t).
        series = torch.fft.fft(torch.cat([spectrum, spectrum.conj()], 1), dim=1)
        values = (nufft.type2(series, rays.points) * rays.phase.to(series.dtype)).real
        bins = values.reshape(*x.shape[:2], len(self.angles), self.n_detectors, -1) * self._quadrature[1].to(values)
        return bins.sum(-1).to(x.dtype)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W).

        Raises:
            TypeError, ValueError: y has another shape, is not floating point or is on another device.
        """
        check_images("FanBeam.A_adjoint", "y", y, ("C", len(self.angles), self.n_detectors), like=self.angles)
        harmonics, nufft, rays = self._tables()
        values = y.to(torch.promote_types(y.dtype, torch.float32))[..., None]
        values = (values * self._quadrature[1].to(values)).reshape(-1, rays.phase.numel())
        series = nufft.type1(values * rays.phase.conj().to(values.dtype.to_complex()), rays.points)
        both = torch.fft.ifft(series, dim=1, norm="forward")
        half = len(harmonics.gain)
        spectrum = (both[:, :half] + both[:, half:].conj()) * harmonics.gain.conj().to(both.dtype)
        return harmonics.image.type1(spectrum.flatten(1)).real.reshape(*y.shape[:2], *self.shape).to(y.dtype)

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha), approximately (A* W A + alpha)^-1 r: a circulant, so two FFTs of H x W.

        It is the circulant of parallel views, with bins as wide as the fan's at the axis, in the directions in which
        the fan sees the pixels, between theta - gamma and theta + gamma. For an incomplete arc these directions differ
        from pixel to pixel, so the inverse is only approximate and is raised to a power below one. Measured iterations:
        12 to 16 for full turns, as with the inverse itself; for 90 degrees 25, against 29 with the inverse and 35
        without a preconditioner; for 30 degrees 32, against 45 and 40.

        Args:
            weights: scalar, or broadcasting against y (B, C, n_angles, n_detectors); non-negative.
        """
        self._refresh()
        eigenvalues = self._cached("twin", self._parallel_twin).circulant(weights / len(_QUANTILES))

        def apply(r: Tensor, alpha: Tensor) -> Tensor:
            gain = eigenvalues.to(r.dtype) + alpha
            typical = gain.mean(dim=(-2, -1), keepdim=True)
            spectrum = torch.fft.rfft2(r) / (gain**_PRECONDITIONER_EXPONENT * typical ** (1 - _PRECONDITIONER_EXPONENT))
            out: Tensor = torch.fft.irfft2(spectrum, s=self.shape)
            return out

        return apply

    def _parallel_twin(self) -> Radon:
        """Return parallel views in the directions in which the fan sees the pixels of a disc of the image's area."""
        radius = math.sqrt(math.prod(self.shape) / math.pi) * self.pixel_size
        gamma = torch.asin((radius / self.source_origin) * self.angles.new_tensor(_QUANTILES, dtype=torch.float64))
        angles = (self.angles.detach().double()[:, None] - gamma).flatten()
        # Modulo a turn, or two turns and the fan's opening would look like degrees.
        angles = torch.remainder(angles, 2 * math.pi)
        return Radon(self.shape, angles, pitch=self._pitch_at_axis, pixel_size=self.pixel_size)

    def fbp(self, y: Tensor, window: str = "ramp", extend: bool = True) -> Tensor:
        """Filtered backprojection of sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W), per unit length.

        Flat detector (Kak and Slaney, section 3.4.2). Every view has its share of the circle. The weights of rays
        measured twice, from opposite sides, sum to one smoothly (Noo et al., Phys. Med. Biol. 47 (2002) 2525, eq. 43),
        so that full scans, short scans and detectors off the axis need no other setting; over full turns both count
        half, but for ten bins at the end of the detector's short side. Rays that a scan of less than
        half a turn plus the fan's opening does not measure stay missing. Gradients do not flow through the weights.

        Args:
            y: line integrals.
            window: "ramp" (none), "shepp-logan", "cosine", "hamming" or "hann", from least to most smoothing.
            extend: continue truncated views (see `is_truncated`) beyond the detector like those of a uniform ellipse
                that is fitted to them, within the image where this is larger than the field of view. False, and where
                y falls to 0 at the ends of the detector: beyond it, y counts as 0.
        """
        check_images("FanBeam.fbp", "y", y, ("C", len(self.angles), self.n_detectors), like=self.angles)
        ends = self._open_ends(y) if extend else []
        if len(y) > 1 and any(map(any, ends)):  # each image has its own ellipse
            return torch.cat([self.fbp(image[None], window) for image in y])
        self._refresh()
        weights, beyond = self._cached("fbp", lambda: (self._ray_weights(), self._beyond()))
        y_ = y.to(torch.promote_types(y.dtype, torch.float32))
        open_ = ends[0] if len(y) == len(ends) == 1 else (False, False)
        filtered = self._views(y_, weights.to(y_), window, open_, _SAMPLES_PER_BIN)
        views = filtered.flatten(0, 1).movedim(1, 0)[:, :, None]  # (n_angles, B C, 1, samples): images of one row
        # A pixel projects to (cos X + sin Y) / (1 + (cos Y - sin X)/source_origin) from the middle; here in samples.
        height, width = self.shape
        columns = torch.arange(width, device=y.device, dtype=torch.float64) - (width - 1) / 2
        rows = (height - 1) / 2 - torch.arange(height, device=y.device, dtype=torch.float64)[:, None]
        angles, to_source = self.angles.double()[:, None, None], self.pixel_size / self.source_origin
        last = views.shape[-1] - 1
        scale = 2 / last * _SAMPLES_PER_BIN / self.pitch * self._length * to_source
        middle = (
            2 / last * _SAMPLES_PER_BIN * (beyond[0] + (self.n_detectors - 1) / 2 - self.offset.double() / self.pitch)
            - 1
        )
        across = (scale * angles.cos() * columns).to(y_), (scale * angles.sin() * rows).to(y_)
        along = (-to_source * angles.sin() * columns).to(y_), (1 + to_source * angles.cos() * rows).to(y_)
        image = y_.new_zeros(views.shape[1], height, width)
        together = max(1, _CHUNK // (height * width))
        for start in range(0, len(views), together):
            some = slice(start, start + together)
            closer = 1 / (along[0][some] + along[1][some])
            place = (across[0][some] + across[1][some]) * closer + middle.to(y_)
            grid = torch.stack([place, torch.zeros_like(place)], -1)
            seen = nn.functional.grid_sample(views[some], grid, align_corners=True)
            image = image + torch.einsum("vnhw,vhw->nhw", seen, closer.square())
        return image.reshape(*y.shape[:2], height, width).to(y.dtype)

    def _lines(self, u: Tensor) -> tuple[Tensor, Tensor]:
        gamma = torch.atan(u / self._length)
        return self.angles.detach().double()[:, None] - gamma, self.source_origin * torch.sin(gamma)

    def _ray_weights(self) -> Tensor:
        """Return weights (n_angles, n_detectors) of the rays, applied before the views are filtered."""
        u = self._bins()
        gamma = torch.atan(u / self._length)
        return self._redundancy(u, gamma) * gamma.cos() * (self._length / (self.source_origin * self.pitch))

    # ---------------------------------------------------------------- Fourier space

    def _tables(self) -> tuple[_Harmonics, NUFFT, _Rays]:
        """Return the series, its NUFFT and the rays, which have a graph where gradients are wanted."""
        wanted = self._refresh()
        harmonics = self._cached("harmonics", self._make_harmonics)
        rays = self._cached("rays", lambda: self._rays(harmonics))
        size = (2 * len(harmonics.gain), harmonics.gain.shape[1])
        nufft = self._cached("nufft", lambda: NUFFT(rays.points, size))
        return harmonics, nufft, self._rays(harmonics) if wanted else rays

    @property
    def _samples(self) -> int:
        """Number of samples in a bin at the axis, as for a parallel beam."""
        return bin_samples(self._pitch_at_axis / self.pixel_size)

    @property
    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Nodes in a bin, from -1/2 to 1/2, and weights of sum 1."""
        nodes, weights = np.polynomial.legendre.leggauss(self._samples + 1)
        return torch.from_numpy(nodes / 2).to(self.angles.device), torch.from_numpy(weights / 2).to(self.angles.device)

    def _make_harmonics(self) -> _Harmonics:
        device = self.angles.device
        # The highest frequency that the bins resolve, at the axis, in radians per pixel.
        highest = math.pi * self._samples * self.pixel_size / self._pitch_at_axis
        # Copies of the image, one period away, stay clear of the rays. The period grows in steps, so that the series
        # stay the same while an optimizer moves the offset.
        farthest = max(abs(self.source_origin * math.sin(math.atan(u / self._length))) for u in self._edges())
        farthest /= self._radius * self.pixel_size
        period = self._radius * (1 + min(1.0, math.ceil(8 * farthest) / 8)) + 2 * _MARGIN
        n_omega = int(highest * period / (2 * math.pi)) + 1
        step = 2 * math.pi / period
        omega = step * torch.arange(n_omega, device=device, dtype=torch.float64)
        # Harmonics fall off like Bessel functions, over some (omega R)^(1/3) of them.
        n_max = highest * self._radius
        half = math.ceil(n_max + 3 * n_max ** (1 / 3)) + 4
        half = next(n for n in range(half + half % 2, 2 * half + 2, 2) if is_smooth(n))
        direction = torch.arange(half, device=device)
        phi = (math.pi / half) * direction[:, None].double()
        k_x, k_y = omega * phi.cos(), omega * phi.sin()
        # Alternating signs move harmonic 0 to the middle, the NUFFT's origin.
        scale = (
            (1 - 2.0 * (direction % 2)[:, None]) * (2 - (omega == 0).double()) * (self.pixel_size / (2 * half * period))
        )
        gain = pixel_spectrum(k_x, k_y, self.shape) * scale
        image = NUFFT(torch.stack([-k_y.flatten(), k_x.flatten()], 1), self.shape)  # rows point down, Y points up
        return _Harmonics(image, gain, step)

    def _rays(self, harmonics: _Harmonics) -> _Rays:
        """Compute the rays by differentiable operations in float64."""
        u = self._bins()[:, None] + self.pitch * self._quadrature[0]
        gamma = torch.atan(u / self._length)
        t = (self.source_origin / self.pixel_size * harmonics.step) * torch.sin(gamma)
        phi = self.angles.double()[:, None, None] - gamma
        points = -torch.stack([phi, t.expand_as(phi)], -1).reshape(-1, 2)
        middle = harmonics.gain.shape[1] // 2
        meets = points[:, 1].abs() < (self._radius + _MARGIN) * harmonics.step
        return _Rays(points, torch.exp(-1j * middle * points[:, 1]) * meets)
