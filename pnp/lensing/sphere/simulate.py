"""Simulated skies: Gaussian and lognormal convergence with clusters, its shear, and the noise of a wide survey.

The lognormal field is that of `pnp.lensing.LognormalKappa`, with correlation functions on the sphere,

    xi(theta) = sum_l (2 l + 1)/(4 pi) C_l P_l(cos theta),   xi_g = log(1 + xi/shift^2),

and the haloes of clusters are those of the flat maps, put at random on the sphere. Fields are drawn at twice the
resolution, up to lmax = 4 nside, and averaged in pixels, convergence and shear alike, as galaxies do.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from operators import KaiserSquiresSphere
from operators.lensing.harmonics import Harmonics, check_nside

from ...checks import check_number
from ..clusters import haloes
from ..simulate import kappa_spectrum
from .pixels import disc, grid, pixel_side, to_nested, to_ring

_SHIFT = 1.28  # as of the flat maps, in standard deviations


def convergence_power(lmax: int) -> Tensor:
    """Return C_l (lmax + 1,) of `pnp.lensing.kappa_spectrum`, in steradian, 0 at l = 0 and 1."""
    power = np.zeros(lmax + 1)
    power[2:] = kappa_spectrum(np.arange(2, lmax + 1))
    return torch.from_numpy(power)


def gaussian_maps(
    nside: int, power: Tensor, batch: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw Gaussian skies (batch, 1, n_pix) of the power C_l (lmax + 1,)."""
    h = Harmonics(check_nside("gaussian_maps", nside), len(power) - 1)
    white = torch.randn(batch, 1, h.n_coefficients, generator=generator, dtype=dtype)
    return h.synthesis(white * h.per_multipole(power.sqrt()).to(dtype))


class LognormalSky:
    """A source of lognormal skies with clusters: `kappa, shear = LognormalSky(256)(generator=g)`.

    Args:
        nside: resolution of the maps.
        clusters: add the haloes of clusters of galaxies and subtract their power from the lognormal field's; from nside
            256 on, whose pixels know their profiles.
        convention: of the shear, see `operators.KaiserSquiresSphere`.
    """

    def __init__(self, nside: int, *, clusters: bool = True, convention: str = "lenspack") -> None:
        self.nside = check_nside("LognormalSky", nside)
        if clusters and self.nside < 256:
            raise ValueError(f"LognormalSky: nside must be 256 or more, got {nside}; or give clusters=False")
        self.fine = 2 * self.nside
        self.operator = KaiserSquiresSphere(self.fine, n_refine=1, convention=convention)
        power = convergence_power(self.operator.lmax).numpy()
        ell = np.arange(len(power))
        self.shift = _SHIFT * math.sqrt(float(((2 * ell + 1) * power).sum()) / (4 * math.pi))
        self.clusters = clusters
        if clusters:
            power = np.maximum(power - _cluster_power(60 * math.degrees(pixel_side(self.fine)), len(power) - 1), 0)
        self._gaussian, self._variance = _lognormal(power, self.shift)

    def __call__(self, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one sky: convergence (1, 1, n_pix) and its shear (1, 2, n_pix), float32."""
        g = gaussian_maps(self.fine, self._gaussian, 1, generator=generator)
        kappa = self.shift * torch.expm1(g - self._variance / 2)
        if self.clusters:
            kappa[0, 0] += _draw_clusters(self.fine, generator)
        kappa -= kappa.mean()
        return degraded(kappa), degraded(self.operator.A(kappa))


def degraded(x: Tensor) -> Tensor:
    """Return maps (B, n, n_pix) in ring order averaged to half the resolution."""
    nested = to_nested(x.numpy())
    return torch.from_numpy(to_ring(nested.reshape(*nested.shape[:-1], -1, 4).mean(-1)))


def survey_noise(
    nside: int,
    *,
    generator: torch.Generator,
    density: float = 5.6,
    sigma_e: float = 0.27,
    holes: int = 8000,
    ra: tuple[float, float] = (-45.0, 65.0),
    dec: tuple[float, float] = (-60.0, 0.0),
) -> Tensor:
    """Draw the noise std of a wide survey, (1, 2, n_pix) per shear component, infinity where not observed.

    The defaults are like DES Y3 (Gatti et al. 2021, MNRAS 504, 4312): 5,000 square degrees, 5.6 galaxies per square
    arcminute. Numbers of galaxies are Poisson; holes of 0.1 to 0.7 degrees lie around bright stars.

    Args:
        nside: resolution.
        generator: source of randomness.
        density: galaxies per square arcminute.
        sigma_e: dispersion of a component of their shapes.
        holes: number of holes on the whole sphere.
        ra: range of right ascension in degrees, from west to east, the first may be negative.
        dec: range of declination in degrees.
    """
    check_number("density", density, above=0, caller="survey_noise")
    check_number("sigma_e", sigma_e, above=0, caller="survey_noise")
    theta, phi = grid(nside).pix2ang(np.arange(12 * nside**2)).T
    longitude = (np.degrees(phi) - ra[0]) % 360
    seen = (longitude < ra[1] - ra[0]) & (90 - np.degrees(theta) > dec[0]) & (90 - np.degrees(theta) < dec[1])
    stars = _directions(holes, generator=generator)
    radii = np.radians(0.1 + 0.6 * torch.rand(len(stars), generator=generator).double().numpy() ** 3)
    for star, radius in zip(stars, radii, strict=True):
        seen[disc(nside, star, radius)] = False
    area = (60 * math.degrees(pixel_side(nside))) ** 2
    counts = torch.poisson(torch.full((12 * nside**2,), density * area), generator=generator)
    counts = torch.where(torch.from_numpy(seen), counts, 0)
    return torch.where(counts > 0, sigma_e / counts.clamp(min=1).sqrt(), math.inf).expand(1, 2, -1).contiguous()


def _lognormal(power: npt.NDArray[np.float64], shift: float) -> tuple[Tensor, float]:
    """Return C_l of the Gaussian field whose exponential has this power, and its variance."""
    lmax = len(power) - 1
    x, weight = np.polynomial.legendre.leggauss(2 * lmax)
    factor = (2 * np.arange(lmax + 1) + 1) / (4 * math.pi)
    total, back = np.zeros_like(x), np.zeros(lmax + 1)
    before, current = np.zeros_like(x), np.ones_like(x)
    for ell in range(lmax + 1):  # P_l by its recurrence, twice: memory would hold none of them
        total += factor[ell] * power[ell] * current
        before, current = current, ((2 * ell + 1) * x * current - ell * before) / (ell + 1)
    xi = weight * np.log1p(np.maximum(total / shift**2, -0.9))
    before, current = np.zeros_like(x), np.ones_like(x)
    for ell in range(lmax + 1):
        back[ell] = 2 * math.pi * float(xi @ current)
        before, current = current, ((2 * ell + 1) * x * current - ell * before) / (ell + 1)
    back = np.maximum(back, 0)
    back[0] = 0
    return torch.from_numpy(back), float((factor * back).sum())


def _cluster_power(pixel_arcmin: float, lmax: int) -> npt.NDArray[np.float64]:
    """Return C_l of the haloes: number per steradian times the squared transform of their profile."""
    from scipy.special import j0

    numbers, profiles = haloes(pixel_arcmin)
    side = math.radians(pixel_arcmin / 60)
    ell = np.unique(np.geomspace(2, lmax, 40).round())
    power = np.zeros(len(ell))
    for number, profile in zip(numbers.tolist(), profiles, strict=True):
        tile = profile[5].double().numpy()  # its centre lies an eighth of a pixel from the pixel's
        offset = np.arange(len(tile)) - len(tile) // 2
        r = side * np.hypot(offset[:, None], offset).ravel()
        power += number * (side**2 * (j0(ell[:, None] * r) @ tile.ravel())) ** 2
    found = np.exp(np.interp(np.log(np.maximum(np.arange(lmax + 1), 1)), np.log(ell), np.log(power)))
    found[:2] = 0
    return np.asarray(found)


def _draw_clusters(nside: int, generator: torch.Generator) -> Tensor:
    """Return the convergence (n_pix,) of clusters at random places, less its mean."""
    numbers, profiles = haloes(60 * math.degrees(pixel_side(nside)))
    side, total = pixel_side(nside), np.zeros(12 * nside**2, dtype=np.float32)
    counts = torch.poisson(4 * math.pi * numbers, generator=generator).long().tolist()
    for n, profile in zip(counts, profiles, strict=True):
        tile = profile[5].numpy()
        offset = (np.arange(len(tile)) - len(tile) // 2) * side
        u, v = (t.ravel() for t in np.meshgrid(offset, offset))
        values = tile.ravel()
        step = max(1, 2_000_000 // len(values))
        for start in range(0, n, step):
            places = _directions(min(step, n - start), generator=generator)
            east = np.stack([-places[:, 1], places[:, 0], np.zeros(len(places))], axis=-1)
            east /= np.linalg.norm(east, axis=1, keepdims=True)
            north = np.cross(places, east)
            p = places[:, None] + u[:, None] * east[:, None] + v[:, None] * north[:, None]
            p /= np.linalg.norm(p, axis=-1, keepdims=True)
            np.add.at(total, grid(nside).vec2pix(p.reshape(-1, 3)), np.tile(values, len(places)))
    return torch.from_numpy(total - total.mean())


def _directions(n: int, *, generator: torch.Generator) -> npt.NDArray[np.float64]:
    """Return unit vectors (n, 3), uniform on the sphere."""
    found = torch.randn(n, 3, generator=generator).double().numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))
