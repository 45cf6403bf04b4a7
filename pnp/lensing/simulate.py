"""Simulated convergence maps and survey noise, to train priors and to test mass maps.

The convergence is a shifted lognormal field (Xavier, Abdalla and Joachimi 2016, equations 16 to 20):

    kappa = shift (exp(g - var(g)/2) - 1),   xi_g(r) = log(1 + xi_kappa(r) / shift^2),

g a Gaussian field, xi the correlation functions, so that kappa > -shift and its mean is zero. Its spectrum is

    l^2 C(l) / 2 pi = 6.6e-4 x^1.2 / (1 + x)^1.8,   x = l / 2570.

The three constants were fitted here to the spectra of two kappaTNG maps (Osato, Liu and Haiman
2021; 360 x 360 pixels of 0.29 arcmin, sources near redshift 1 and beyond) over 450 < l < 45,000; they hold to
17 % rms, where the two maps scatter by 25 %. The amplitude gives a map of that size the two maps' mean
standard deviation, 0.0274. The default shift, 1.28 standard deviations, gives about the skewness of the maps
(2.5 and 3.2); two maps of other simulations and source redshifts (standard deviations 0.016 and 0.006,
skewness 2.6 and 3.1) follow the same rule. Maps for other sources are therefore these maps times a constant. Beyond 12
standard deviations the field has too few pixels; there clusters of galaxies are added (`clusters`).

Maps are periodic, axes (B, 1, H, W), convergence has no unit, angles are in arcminutes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .clusters import Clusters

_ARCMIN = math.pi / (180 * 60)  # radians
_SHIFT = 1.28  # shift of the lognormal field in units of its standard deviation


def kappa_spectrum(ell: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the power spectrum C(l) of the module's docstring, in steradian, at multipoles l > 0.

    >>> float(round(2570**2 * kappa_spectrum(2570) / (2 * np.pi), 6))
    0.00019
    """
    ell = np.asarray(ell, dtype=np.float64)
    x = ell / 2570
    return np.asarray(2 * np.pi / ell**2 * 6.6e-4 * x**1.2 / (1 + x) ** 1.8)


def pixel_spectrum(shape: tuple[int, int], pixel_arcmin: float = 0.29) -> Tensor:
    """Return the power of a convergence map at each frequency of its FFT, (H, W), float64.

    White noise of standard deviation s per pixel has the power s^2 at each frequency in this unit, and the
    mean of the result is the variance of the map. Frequency zero, which shear does not measure, has power 0.

    Args:
        shape: (height, width) of the map in pixels.
        pixel_arcmin: side of a pixel in arcminutes.
    """
    height, width = _check_map(shape, pixel_arcmin)
    side = pixel_arcmin * _ARCMIN
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))  # cycles per pixel
    frequency[0, 0] = 1.0
    power = kappa_spectrum(2 * np.pi * frequency / side) / side**2
    power[0, 0] = 0.0
    return torch.from_numpy(power)


class LognormalKappa:
    """A source of lognormal convergence maps: `maps = LognormalKappa((256, 256))(8, generator=g)`.

    Args:
        shape: (height, width) of a map in pixels.
        pixel_arcmin: side of a pixel in arcminutes.
        std: standard deviation of the maps; None: that of the spectrum (0.0274 at 360 x 360). It depends on the
            redshifts of the sources: take that of the survey.
        shift: the lowest convergence is -shift; None: 1.28 std.
        clusters: add the haloes of clusters of galaxies (`Clusters`, scaled like std) and subtract their power from the
            lognormal field's: the spectrum is the same, the highest peaks are as frequent as in simulations.

    Raises:
        ValueError: a size, std or shift that is not positive.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        pixel_arcmin: float = 0.29,
        std: float | None = None,
        shift: float | None = None,
        clusters: bool = False,
    ) -> None:
        power = pixel_spectrum(shape, pixel_arcmin).numpy()
        spectrum_std = math.sqrt(power.mean())
        for name, value in (("std", std), ("shift", shift)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"LognormalKappa: {name} must be positive, got {value!r}; use None for the default")
        self.shape = (int(shape[0]), int(shape[1]))
        self.pixel_arcmin = float(pixel_arcmin)
        self.std = spectrum_std if std is None else float(std)
        self.shift = _SHIFT * self.std if shift is None else float(shift)
        self._scale = self.std / spectrum_std
        self._clusters = Clusters(self.shape, self.pixel_arcmin) if clusters else None
        if self._clusters is not None:
            power = np.maximum(power - self._clusters.power.numpy(), 0)
        field_std = self._scale * math.sqrt(power.mean())
        # The covariance of g; the clip keeps the logarithm defined where the covariance is far below 0.
        correlation = np.fft.ifft2(power).real * self._scale**2
        gaussian = np.fft.fft2(np.log1p(np.maximum(correlation / self.shift**2, -0.9))).real
        gaussian = np.maximum(gaussian[:, : self.shape[1] // 2 + 1], 0.0)
        # Not every lognormal covariance has a Gaussian one; the clip at 0 added variance, which is removed here.
        self._variance = math.log1p((field_std / self.shift) ** 2)
        gaussian *= self._variance / np.fft.irfft2(gaussian, s=self.shape)[0, 0]
        self._amplitude = torch.from_numpy(np.sqrt(gaussian))

    def __repr__(self) -> str:
        values = f"pixel_arcmin={self.pixel_arcmin:g}, std={self.std:.3g}, shift={self.shift:.3g}"
        values += ", clusters=True" if self._clusters is not None else ""
        return f"LognormalKappa({self.shape}, {values})"

    def __call__(self, batch: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `batch` independent periodic maps, (B, 1, H, W), on the generator's device."""
        if batch < 1:
            raise ValueError(f"LognormalKappa: batch must be at least 1, got {batch}")
        white = torch.randn(batch, 1, *self.shape, generator=generator, dtype=dtype, device=generator.device)
        amplitude = self._amplitude.to(generator.device, dtype)
        gaussian = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=self.shape)
        kappa = self.shift * torch.expm1(gaussian - self._variance / 2)
        if self._clusters is None:
            return kappa
        return kappa + self._scale * self._clusters(batch, generator=generator, dtype=dtype)


def survey_noise(
    shape: tuple[int, int],
    *,
    generator: torch.Generator,
    std: float = 0.17,
    variation: float = 0.2,
    holes: int = 30,
) -> Tensor:
    """Draw the noise std of a small survey: (1, 2, H, W) per shear component, infinity where not observed.

    The field has an unobserved border of a twelfth of each side and round holes around bright stars, as in
    COSMOS. Inside, the number of galaxies per pixel, and with it the noise, varies smoothly.

    Args:
        shape: (height, width) in pixels.
        generator: source of randomness; the result is on its device.
        std: median noise standard deviation of one shear component in a pixel, 0.17 for COSMOS.
        variation: relative standard deviation of the noise across the field.
        holes: number of masked stars; their radii are random between 1/100 and 1/25 of the shorter side.
    """
    height, width = _check_map(shape, 1.0)
    if not std > 0:
        raise ValueError(f"survey_noise: std must be positive, got {std!r}")
    device = generator.device
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    observed = (rows >= height // 12) & (rows < height - height // 12)
    observed = observed & (columns >= width // 12) & (columns < width - width // 12)
    stars = torch.rand(holes, 3, generator=generator, device=device)
    for row, column, size in stars.tolist():
        radius = min(height, width) * (0.01 + 0.03 * size**2)
        observed = observed & ((rows - row * height) ** 2 + (columns - column * width) ** 2 > radius**2)

    white = torch.randn(2, height, width, generator=generator, device=device)
    frequency = torch.hypot(
        torch.fft.fftfreq(height, device=device)[:, None] * height,
        torch.fft.rfftfreq(width, device=device) * width,
    )
    smooth = torch.fft.irfft2(torch.fft.rfft2(white[:1]) * torch.exp(-((frequency / 10) ** 2)), s=(height, width))
    smooth = (smooth - smooth.mean()) / smooth.std()
    noise = std * torch.exp(variation * smooth)
    infinity = torch.full_like(noise, math.inf)
    return torch.where(observed, noise, infinity).expand(2, -1, -1)[None].contiguous()


def _check_map(shape: tuple[int, int], pixel_arcmin: float) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 2:
        raise ValueError(f"shape must be (height, width), each at least 2 pixels, got {tuple(shape)}")
    if not (math.isfinite(pixel_arcmin) and pixel_arcmin > 0):
        raise ValueError(f"pixel_arcmin must be a positive number of arcminutes, got {pixel_arcmin!r}; COSMOS: 0.29")
    return int(shape[0]), int(shape[1])
