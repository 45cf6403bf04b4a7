"""Clusters of galaxies for simulated convergence maps: a lognormal field has too few of their peaks.

A halo of mass M at redshift z is a Navarro-Frenk-White profile cut off at the radius r_200m within which its mean
density is 200 times the universe's. With x = r/r_s, c = r_200m/r_s and m(c) = log(1 + c) - c/(1 + c) its surface
density is (Takada and Jain, MNRAS 340, 580, 2003)

    Sigma(x) = M f(x) / (2 pi r_s^2 m(c)),
    f(x) = -sqrt(c^2 - x^2) / ((1 - x^2)(1 + c)) + arccosh((x^2 + c)/(x (1 + c))) / (1 - x^2)^(3/2)     for x < 1

(arccos for 1 < x < c), and its convergence Sigma/Sigma_cr for sources at redshift 1. Concentrations: Duffy et al.
(MNRAS 390, L64, 2008), c = 10.14 (M/2e12 Msun/h)^-0.081 (1 + z)^-1.01, with a scatter of 0.15 in log10 c. Abundance:
Tinker et al. (ApJ 688, 709, 2008) at 200 times the mean density, on the linear spectrum of Bardeen et al. (ApJ 304,
15, 1986) with Sugiyama's shape parameter (ApJS 100, 281, 1995), growth after Carroll, Press and Turner (ARA&A 30,
499, 1992). Cosmology: flat, Omega_m = 0.31, Omega_b = 0.049, h = 0.68, sigma_8 = 0.81, n_s = 0.97. Nothing is fitted
to maps. Lengths here are comoving, in Mpc/h, masses in Msun/h.

Clusters are placed at random, independently of the lognormal field, so that the powers add.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import trapezoid
from torch import Tensor

_OMEGA_MATTER, _OMEGA_BARYONS, _H, _SIGMA8, _SPECTRAL_INDEX = 0.31, 0.049, 0.68, 0.81, 0.97
_MEAN_DENSITY = 2.775e11 * _OMEGA_MATTER  # comoving, Msun/h per (Mpc/h)^3
_FOUR_PI_G = 6.0135e-19  # 4 pi G / c^2 in Mpc per solar mass
_SOURCE_REDSHIFT = 1.0
_MIN_MASS, _MAX_MASS = 1e14, 3e15
_ARCMIN = math.pi / (180 * 60)

_N_MASS_BINS, _N_REDSHIFT_BINS = 6, 5
"""Classes of clusters: numbers of bins in log M and in redshift, which ends at 0.9 of the sources'."""
_CONCENTRATION_SCATTER = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
"""Classes of concentration: deviates with the first five moments of the normal distribution, and their frequencies."""
_OFFSETS_PER_PIXEL = 4
"""Centres lie on a lattice of 4 x 4 points in each pixel."""
_CORE_HALF_WIDTH = 5
"""Half width in pixels of the cusp of the profile, where each pixel is averaged over 16 x 16 points."""

_Array = npt.NDArray[np.float64]


def _nfw_surface(x: npt.ArrayLike, concentration: float) -> _Array:
    """Return f(x) of the module's docstring for x > 0 in scale radii; 0 beyond the concentration.

    >>> x = (np.arange(40000) + 0.5) * 5 / 40000  # its integral over the plane is m(c)
    >>> float(round((_nfw_surface(x, 5.0) * x).sum() * 5 / 40000, 4)), round(math.log(6) - 5 / 6, 4)
    (0.9584, 0.9584)
    """
    x, c = np.asarray(x, dtype=np.float64), concentration
    x = np.where(np.abs(x - 1) < 1e-4, 1 + 1e-4, x)  # both terms diverge there, their sum does not
    t = 1 - x**2
    ratio = (x**2 + c) / (x * (1 + c))
    angle = np.where(t > 0, np.arccosh(np.maximum(ratio, 1)), -np.arccos(np.minimum(ratio, 1)))
    return np.where(x < c, angle / np.abs(t) ** 1.5 - np.sqrt(np.maximum(c**2 - x**2, 0)) / (t * (1 + c)), 0.0)


@lru_cache
def _distance(z: float) -> float:
    """Return the comoving distance to redshift z in Mpc/h."""
    from astropy.cosmology import FlatLambdaCDM  # takes a second

    return float(FlatLambdaCDM(H0=100, Om0=_OMEGA_MATTER).comoving_distance(z).value)  # h = 1: Mpc are Mpc/h


def _growth(z: float) -> float:
    """Return the linear growth factor relative to today."""

    def unnormalised(z: float) -> float:
        matter = _OMEGA_MATTER * (1 + z) ** 3 / (_OMEGA_MATTER * (1 + z) ** 3 + 1 - _OMEGA_MATTER)
        vacuum = 1 - matter
        g = 2.5 * matter / (matter ** (4 / 7) - vacuum + (1 + matter / 2) * (1 + vacuum / 70))
        return float(g / (1 + z))

    return unnormalised(z) / unnormalised(0)


def _fluctuation(radius: _Array) -> _Array:
    """Return the standard deviation of the linear density today in spheres of these radii, Mpc/h."""
    k = np.geomspace(1e-4, 1e2, 3000)
    shape = _OMEGA_MATTER * _H * math.exp(-_OMEGA_BARYONS * (1 + math.sqrt(2 * _H) / _OMEGA_MATTER))
    q = k / shape
    transfer = np.log1p(2.34 * q) / (2.34 * q)
    transfer *= (1 + 3.89 * q + (16.1 * q) ** 2 + (5.46 * q) ** 3 + (6.71 * q) ** 4) ** -0.25

    def variance(r: float) -> float:
        x = k * r
        window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        return float((k ** (3 + _SPECTRAL_INDEX) * transfer**2 * window**2).sum())  # d log k is constant

    return _SIGMA8 * np.sqrt(np.array([variance(r) for r in radius]) / variance(8.0))


def _cluster_density(mass: npt.ArrayLike, z: float) -> _Array:
    """Return the number of haloes per comoving (Mpc/h)^3 and log M at masses in Msun/h (Tinker et al. 2008).

    >>> float(f"{_cluster_density([2e14], 0.0)[0]:.2g}")
    1.8e-05
    """
    mass = np.atleast_1d(np.asarray(mass, dtype=np.float64))
    step = 0.02
    radius = np.cbrt(3 * mass / (4 * math.pi * _MEAN_DENSITY))
    s = _fluctuation(radius) * _growth(z)
    # log sigma falls by slope per log M, and radius goes as M^(1/3)
    slope = np.log(_fluctuation(radius * math.exp(-step / 3)) / _fluctuation(radius * math.exp(step / 3))) / (2 * step)
    alpha = 10 ** -((0.75 / math.log10(200 / 75)) ** 1.2)
    A, a, b, c = 0.186 * (1 + z) ** -0.14, 1.47 * (1 + z) ** -0.06, 2.57 * (1 + z) ** -alpha, 1.19
    return np.asarray(A * ((s / b) ** -a + 1) * np.exp(-c / s**2) * _MEAN_DENSITY / mass * slope)


class Clusters:
    """A source of maps of clusters alone, periodic and of mean zero: `Clusters((256, 256))(8, generator=g)`.

    Args:
        shape: (height, width) of a map in pixels.
        pixel_arcmin: side of a pixel in arcminutes.

    Attributes:
        expected: mean number of clusters in a map.
        power: their power at each frequency of a map's FFT, (H, W), float64, in the unit of `pixel_spectrum`.
    """

    def __init__(self, shape: tuple[int, int], pixel_arcmin: float = 0.29) -> None:
        self.shape, self.pixel_arcmin = shape, float(pixel_arcmin)
        solid_angle = math.prod(shape) * (self.pixel_arcmin * _ARCMIN) ** 2
        per_steradian, self._profiles = haloes(self.pixel_arcmin)
        self._numbers = solid_angle * per_steradian
        self.expected = float(self._numbers.sum())
        self.power = torch.zeros(shape, dtype=torch.float64)
        for number, profile in zip(self._numbers / math.prod(shape), self._profiles, strict=True):
            one = torch.zeros(shape, dtype=torch.float64)
            _add(one, profile[0], 0, 0)
            self.power += number * torch.fft.fft2(one).abs() ** 2
        self.power[0, 0] = 0

    def __repr__(self) -> str:
        return f"Clusters({self.shape}, pixel_arcmin={self.pixel_arcmin:g})"

    def __call__(self, batch: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `batch` independent maps, (B, 1, H, W), on the generator's device, with Poisson numbers of clusters."""
        device = generator.device
        maps = torch.zeros(batch, 1, *self.shape, dtype=dtype, device=device)
        counts = torch.poisson(self._numbers.to(device).expand(batch, -1).contiguous(), generator=generator)
        size = torch.tensor(self.shape, dtype=torch.float64, device=device)
        for b, k in counts.nonzero().tolist():
            places = torch.rand(int(counts[b, k]), 2, generator=generator, dtype=torch.float64, device=device) * size
            for row, column in places.tolist():
                offset = int(row % 1 * _OFFSETS_PER_PIXEL) * _OFFSETS_PER_PIXEL + int(column % 1 * _OFFSETS_PER_PIXEL)
                _add(maps[b, 0], self._profiles[k][offset], int(row), int(column))
        return maps - maps.mean((-2, -1), keepdim=True)


def _add(image: Tensor, profile: Tensor, row: int, column: int) -> None:
    """Add a profile to a periodic image, its centre at a pixel."""
    from_centre = torch.arange(len(profile), device=image.device) - len(profile) // 2
    rows, columns = (row + from_centre) % image.shape[0], (column + from_centre) % image.shape[1]
    image.index_put_((rows[:, None], columns), profile.to(image), accumulate=True)


def _classes() -> Iterator[tuple[float, float, float, float]]:
    """Yield mean mass, redshift, concentration, and number per steradian of the clusters of each class."""
    shells = np.linspace(0, 0.9 * _SOURCE_REDSHIFT, _N_REDSHIFT_BINS + 1)
    masses = np.geomspace(_MIN_MASS, _MAX_MASS, _N_MASS_BINS + 1)
    for near, far in pairwise(shells):
        z = float(((near**3 + far**3) / 2) ** (1 / 3))  # half of the volume lies beyond
        volume = (_distance(far) ** 3 - _distance(near) ** 3) / 3
        for light, heavy in pairwise(masses):
            mass = np.geomspace(light, heavy, 9)
            density = _cluster_density(mass, z)
            number = float(trapezoid(density, np.log(mass)))
            middle = float(trapezoid(density * mass, np.log(mass))) / number
            for deviate, share in _CONCENTRATION_SCATTER:
                c = 10.14 * (middle / 2e12) ** -0.081 * (1 + z) ** -1.01 * 10 ** (0.15 * deviate)
                yield middle, z, c, share * number * volume


@lru_cache(maxsize=2)
def haloes(pixel_arcmin: float) -> tuple[Tensor, list[Tensor]]:
    """Return number per steradian and profiles of the clusters of each class; cached, since it takes seconds."""
    classes = list(_classes())
    numbers = torch.tensor([density for *_, density in classes], dtype=torch.float64)
    return numbers, [_profile(mass, z, c, pixel_arcmin) for mass, z, c, _ in classes]


def _profile(mass: float, z: float, c: float, pixel_arcmin: float) -> Tensor:
    """Return the convergence of a halo averaged over pixels, (16, side, side): for each place of its centre."""
    scale = np.cbrt(3 * mass / (4 * math.pi * 200 * _MEAN_DENSITY)) / c  # r_s, comoving like all lengths below
    lens, source = _distance(z), _distance(_SOURCE_REDSHIFT)
    # 1/Sigma_cr; comoving lengths bring the factor 1 + z (Bartelmann and Schneider, Phys. Rep. 340, 291, 2001).
    lensing = _FOUR_PI_G * (1 + z) * lens * (source - lens) / source
    amplitude = lensing * mass / (2 * math.pi * scale**2 * (math.log1p(c) - c / (1 + c)))
    pixel = pixel_arcmin * _ARCMIN * lens / scale  # in scale radii
    radii = np.geomspace(1e-3, 1.5, 4000) * c
    surface = amplitude * _nfw_surface(radii, c)

    def mean(half: int, row: float, column: float, points: int) -> _Array:
        """Return the mean over points x points in each pixel within `half` pixels of the central one."""
        at = (np.arange((2 * half + 1) * points) + 0.5) / points - half - 0.5
        kappa = np.interp(np.hypot((at - row)[:, None], at - column) * pixel, radii, surface)
        return np.asarray(kappa.reshape(2 * half + 1, points, 2 * half + 1, points).mean((1, 3)))

    half = math.ceil(c / pixel) + 1
    core = min(half, _CORE_HALF_WIDTH)
    inner = slice(half - core, half + core + 1)

    @lru_cache
    def tile(row: float, column: float) -> _Array:
        whole = mean(half, row, column, 1)
        whole[inner, inner] = mean(core, row, column, 16)
        return whole

    centres = (np.arange(_OFFSETS_PER_PIXEL) + 0.5) / _OFFSETS_PER_PIXEL - 0.5
    tiles = []
    for row, column in product(centres, centres):  # three of the sixteen are not mirror images of others
        near, far = sorted((abs(row), abs(column)))
        quadrant = tile(near, far) if abs(row) <= abs(column) else tile(near, far).T
        tiles.append(quadrant[:: 1 if row > 0 else -1, :: 1 if column > 0 else -1])
    return torch.from_numpy(np.stack(tiles)).float()
