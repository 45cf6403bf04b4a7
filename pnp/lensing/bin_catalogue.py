"""Bin a catalogue of galaxies into shear maps with noise and world coordinates.

Galaxies are projected gnomonically (TAN, Calabretta and Greisen 2002, A&A 395, 1077, section 5.1.3) about the centre of
the field, and averaged in square pixels with their weights w:

    gamma = R^-1 sum w (e - R c) / ((1 + m) sum w),   noise_std_c = sigma_c / (R_cc (1 + m) sqrt(n_eff)),
    n_eff = (sum w)^2 / sum w^2,

where m and R are the weighted means of the multiplicative bias and of the response, a number or a matrix, of all
galaxies: those of the few in a pixel are too noisy to divide by (Miller et al. 2013, MNRAS 429, 2858; Sheldon and Huff
2017, ApJ 841, 24). sigma_c is the scatter of component c over the field, without outliers,
weighted by w^2 as the variance of a mean is, so that weights may follow each galaxy's own dispersion (Heymans et al.
2012, MNRAS 427, 146); it includes the scatter of the shear, a tenth of that of real shapes:

    sigma_c^2 = sum w^2 (e_c - <e_c>)^2 / sum w^2.

Shear is measured against the axes of the sky, north and east, at each galaxy. In the plane these axes turn: north leans

    psi = atan2(sin(ra - ra0) sin(dec0), cos(ra - ra0))

towards the central meridian. That is negligible in small fields (0.25 degrees at the sides of a square degree at
declination 30) but not near a pole, and it is corrected: gamma1 + i gamma2 turns by 2 psi. The remaining error is of
the order of the radius squared, 0.03 % one degree from the centre.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from operators.lensing.kaiser_squires import SIGNS

from ..checks import check_number
from ..readers.shear_calibration import mean_response
from ..readers.shear_catalogue import ShearCatalogue, read_catalogue
from ..readers.shear_map import ShearMap, check_convention, check_signs

_Array = npt.NDArray[Any]

_MAX_RADIUS_DEG = 30.0  # from the centre; the plane stretches by a third there
_CLIPPING = 5.0  # robust standard deviations; a Gaussian has hardly any shape beyond


def map_catalogue(
    catalogue: ShearCatalogue | str | os.PathLike[str],
    pixel_arcmin: float,
    *,
    centre: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
    signs: tuple[int, int] = (1, 1),
    swap: bool = False,
    convention: str = "lenspack",
    axes: Literal["sky", "plane"] = "sky",
    east: Literal["left", "right"] = "left",
    noise: Literal["scatter", "weights"] | float = "scatter",
    max_side: int = 20_000,
    dtype: torch.dtype = torch.float32,
) -> ShearMap:
    """Return the mean shear of a catalogue's galaxies in square pixels, with its noise, mask, counts and WCS.

    Args:
        catalogue: galaxies, or a file for `read_catalogue`.
        pixel_arcmin: side of a pixel in arcminutes; a few galaxies per pixel are enough.
        centre: (ra, dec) of the grid's centre in degrees; None: the centre of the field.
        shape: (H, W) in pixels; None: the smallest map with all galaxies. Galaxies outside are left out and counted.
        signs: factors of e1 and e2, each 1 or -1, applied first. `score_conventions` finds them, and its `options` are
            arguments of this function.
        swap: exchange e1 and e2 before that.
        convention: the `operators.KaiserSquires` convention that the signed components follow on this map's pixels.
        axes: axes of e1 and e2: "sky", north and east at each galaxy; "plane", rows and columns of an image.
        east: "left", as the sky is seen, or "right": right ascension grows with the columns. The mass is the same,
            mirrored: signs and convention are those of east to the left, and on axes of the sky e2 changes its sign.
        noise: dispersion of a galaxy's components: "scatter": `catalogue.sigma_e`, estimated where that is None; a
            number: this dispersion; "weights": the weights are inverse variances.
        max_side: largest side of the map in pixels.
        dtype: dtype of the maps.

    Raises:
        TypeError: pixel_arcmin is not a number, or another argument has the wrong type.
        ValueError: an argument has no valid value, the map has one pixel or more than max_side a side, the field is
            too wide for a plane, no galaxy lies on the map, or the galaxies have no scatter.
    """
    galaxies = catalogue if isinstance(catalogue, ShearCatalogue) else read_catalogue(catalogue)
    check_number("pixel_arcmin", pixel_arcmin, above=0, caller="map_catalogue")
    check_convention("map_catalogue", convention)
    check_signs("map_catalogue", signs)
    for name, value, choices in (("axes", axes, ("sky", "plane")), ("east", east, ("left", "right"))):
        if value not in choices:
            raise ValueError(f"map_catalogue: {name} must be one of {', '.join(choices)}, got {value!r:.40}")
    grid = _grid(galaxies, pixel_arcmin, centre, shape, east, max_side)
    column, row = (np.floor(v + 0.5) for v in _pixels(grid.wcs, galaxies))
    inside = (column >= 0) & (column < grid.shape[1]) & (row >= 0) & (row < grid.shape[0])
    if not inside.any():
        raise ValueError(
            f"map_catalogue: no galaxy falls on the map, {grid.shape} pixels of {pixel_arcmin:g} arcmin about ra, dec "
            f"{grid.centre[0]:.5g}, {grid.centre[1]:.5g}; check centre and shape"
        )
    index = (row[inside] * grid.shape[1] + column[inside]).astype(np.int64)
    n_pixels = math.prod(grid.shape)
    if np.ptp(index) == 0:
        raise ValueError(
            f"map_catalogue: all {len(index)} galaxies fall into one pixel of {pixel_arcmin:g} arcmin, expected "
            "several; take smaller pixels"
        )

    def on_axes(e: _Array) -> _Array:
        if axes == "sky":
            e = _turned(e, _lean(galaxies, grid.centre, inside), handedness=math.prod(SIGNS[convention]))
            e[1] *= -1 if east == "right" else 1  # a mirror
        return e

    binned = bin_shapes(galaxies, inside, index, n_pixels, signs=signs, swap=swap, noise=noise, turn=on_axes)

    def tensor(values: _Array) -> Tensor:
        return torch.from_numpy(values.reshape(1, -1, *grid.shape)).to(dtype)

    return ShearMap(
        shear=tensor(binned.shear),
        noise_std=tensor(binned.noise_std),
        mask=torch.from_numpy((binned.counts > 0).reshape(1, 1, *grid.shape)),
        counts=torch.from_numpy(binned.counts.reshape(1, 1, *grid.shape)),
        kappa=None if binned.kappa is None else tensor(binned.kappa),
        pixel_arcmin=float(pixel_arcmin),
        wcs=grid.wcs,
        convention=convention,
        signs=(int(signs[0]), int(signs[1])),
        swap=bool(swap),
        sigma_e=binned.sigma_e,
        facts=binned.facts,
        path=galaxies.path,
    )


class BinnedShapes(NamedTuple):
    """Mean shear of galaxies in n_pixels pixels; result of `bin_shapes`."""

    shear: _Array
    """(2, n_pixels), 0 where there is no galaxy."""
    noise_std: _Array
    """(2, n_pixels), infinity where there is no galaxy."""
    counts: _Array
    kappa: _Array | None
    """(n_pixels,) true convergence; None where the catalogue has none."""
    sigma_e: tuple[float, float] | None
    facts: dict[str, Any]


def bin_shapes(
    galaxies: ShearCatalogue,
    inside: _Array,
    index: _Array,
    n_pixels: int,
    *,
    signs: tuple[int, int],
    swap: bool,
    noise: Any,
    turn: Callable[[_Array], _Array] = lambda e: e,
) -> BinnedShapes:
    """Return the weighted means of the module's docstring in the pixels of any grid.

    Args:
        galaxies: the catalogue.
        inside: (n,) bool, which galaxies lie on the map.
        index: the pixel of each of those.
        n_pixels: number of pixels.
        signs: as in `map_catalogue`.
        swap: as in `map_catalogue`.
        noise: as in `map_catalogue`.
        turn: components (2, n) on the map's axes, of those with their signs.
    """
    w = galaxies.weight[inside]
    R = None if galaxies.response is None else galaxies.response[inside]
    response, matrix = mean_response("map_catalogue", np.asarray(galaxies.m)[inside], R, w)
    e, gain = _calibrated(galaxies, inside, R, matrix)
    e, gain = (v[:: -1 if swap else 1] for v in (e, gain))
    e = turn(np.array(signs)[:, None] * e)

    def total(values: _Array) -> _Array:
        return np.bincount(index, weights=values, minlength=n_pixels)

    sum_w, counts = total(w), np.bincount(index, minlength=n_pixels)
    seen = counts > 0
    divisor = np.where(seen, sum_w, 1.0)
    shear = np.stack([total(w * component) for component in e]) / (divisor * response)
    sigma_e = _dispersion(e, w, noise, galaxies.sigma_e)
    variance = _mean_variance(
        w, sigma_e, noise, None if galaxies.sigma_e is None else np.asarray(galaxies.sigma_e)[inside], total
    )
    if noise != "scatter" or galaxies.sigma_e is not None:  # the dispersion of shapes before the matrix
        variance = variance * gain[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        noise_std = np.where(seen, np.sqrt(variance) / (divisor * response), np.inf)
    dropped = dict(galaxies.dropped) | ({"outside the map": n} if (n := int((~inside).sum())) else {})
    facts = (
        {"dropped": dropped, "columns": galaxies.columns, "response": response}
        | ({} if matrix is None else {"response_matrix": (response * matrix).tolist()})
        | ({"unused": galaxies.unused} if galaxies.unused else {})
    )
    kappa = None if galaxies.kappa is None else total(w * galaxies.kappa[inside]) / divisor
    return BinnedShapes(shear, noise_std, counts, kappa, sigma_e, facts)


# ------------------------------------------------------------------------------------------- the grid


class _Grid(NamedTuple):
    """Grid of pixels in the tangent plane, and its centre in degrees."""

    wcs: Any
    shape: tuple[int, int]
    centre: tuple[float, float]


def _grid(
    galaxies: ShearCatalogue,
    pixel_arcmin: float,
    centre: tuple[float, float] | None,
    shape: tuple[int, int] | None,
    east: str,
    max_side: int,
) -> _Grid:
    """Return the grid of pixels about a centre, or about the centre of the galaxies' extent."""
    if centre is None:
        # First about the mean direction, a vector without jump or pole; then about the centre of the extent.
        direction = _directions(galaxies.ra, galaxies.dec).mean(0)
        mean = _sky(direction)
        _check_width(galaxies, mean)
        plane = _wcs(mean, pixel_arcmin, (1, 1), east)
        x, y = _pixels(plane, galaxies)
        middle = plane.wcs_pix2world((x.min() + x.max()) / 2, (y.min() + y.max()) / 2, 0)
        centre = float(middle[0]), float(middle[1])
    if not (len(centre) == 2 and all(map(math.isfinite, centre)) and abs(centre[1]) <= 90):
        raise ValueError(f"map_catalogue: centre must be (ra, dec) in degrees, got {centre!r:.60}")
    if shape is None:
        _check_width(galaxies, centre)
        x, y = _pixels(_wcs(centre, pixel_arcmin, (1, 1), east), galaxies)
        # Slightly more than the extent, so that rounding leaves no galaxy at the edge outside.
        sides = [2 * float(np.abs(v).max()) * (1 + 1e-9) for v in (y, x)]
        if max(sides) < 1:
            raise ValueError(
                f"map_catalogue: all {len(galaxies)} galaxies fall into one pixel of {pixel_arcmin:g} arcmin, expected "
                f"several; the field is {max(sides) * pixel_arcmin:.3g} arcmin across, take smaller pixels"
            )
        sides = [max(1.0, math.ceil(side)) for side in sides]
    else:
        sides = [check_number("shape", n, above=1, integer=True, or_equal=True, caller="map_catalogue") for n in shape]
    if len(sides) != 2 or max(sides) > max_side:
        raise ValueError(
            f"map_catalogue: the map must be (H, W) of at most {max_side} pixels per side, got "
            f"{' x '.join(f'{n:.4g}' for n in sides)}; take pixels larger than {pixel_arcmin:g} arcmin, cut the "
            f"field, or give max_side={max(sides):.0f}"
        )
    size = int(sides[0]), int(sides[1])
    return _Grid(_wcs(centre, pixel_arcmin, size, east), size, (float(centre[0]), float(centre[1])))


def _wcs(centre: tuple[float, float], pixel_arcmin: float, shape: tuple[int, int], east: str) -> Any:
    """Return the astropy WCS of the plane that touches the sky at the centre of the grid."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [centre[0] % 360, centre[1]]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [(-1 if east == "left" else 1) * pixel_arcmin / 60, pixel_arcmin / 60]
    wcs.array_shape = shape
    return wcs


def _pixels(wcs: Any, galaxies: ShearCatalogue) -> tuple[_Array, _Array]:
    """Return columns and rows, 0 at the centre of the first pixel; NaN more than 90 degrees from the centre."""
    x, y = wcs.wcs_world2pix(galaxies.ra, galaxies.dec, 0)
    return x, y


def _directions(ra: _Array | float, dec: _Array | float) -> _Array:
    """Return unit vectors (n, 3) of angles in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _sky(direction: _Array) -> tuple[float, float]:
    """Return (ra, dec) in degrees of a direction (3,)."""
    x, y, z = direction
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))


def _check_width(galaxies: ShearCatalogue, centre: tuple[float, float]) -> None:
    """Raise ValueError where the field is too wide for a plane."""
    cosine = float((_directions(galaxies.ra, galaxies.dec) @ _directions(*centre)).min())
    if (radius := math.degrees(math.acos(min(1.0, max(-1.0, cosine))))) > _MAX_RADIUS_DEG:
        raise ValueError(
            f"map_catalogue: the field must lie within {_MAX_RADIUS_DEG:g} degrees of its centre, got {radius:.3g} "
            f"about {centre[0] % 360:.4g}, {centre[1]:.4g}; check the unit of ra, give centre and "
            "shape of a part, or map the sphere: pnp.lensing.sphere.map_catalogue(catalogue, nside), --nside 512"
        )


# ------------------------------------------------------------------------------------------- shapes and noise


def _calibrated(
    galaxies: ShearCatalogue, inside: _Array, R: _Array | None, matrix: _Array | None
) -> tuple[_Array, _Array]:
    """Return M^-1 (e - R c), (2, n), with M of `mean_response`, and the factors (2,) of a component's variance."""
    e, c = (
        np.stack([np.broadcast_to(v, galaxies.e1.shape)[inside] for v in pair])
        for pair in ((galaxies.e1, galaxies.e2), (galaxies.c1, galaxies.c2))
    )
    w = galaxies.weight[inside]
    if R is None:
        return e - c, np.ones(2)
    mean = np.average(R, axis=0, weights=w)
    if matrix is None:
        return e - mean * c, np.ones(2)
    inverse = np.linalg.inv(matrix)
    mean = np.diag(mean) if mean.ndim == 1 else mean
    return inverse @ (e - mean @ c), np.square(inverse).sum(1)


def _lean(galaxies: ShearCatalogue, centre: tuple[float, float], inside: _Array) -> _Array:
    """Return psi, radians: the angle of north in the plane, from up towards the west, at each galaxy."""
    a, dec0 = np.radians(galaxies.ra[inside] - centre[0]), math.radians(centre[1])
    return np.arctan2(np.sin(a) * math.sin(dec0), np.cos(a))


def _turned(e: _Array, lean: _Array, *, handedness: int) -> _Array:
    """Return components (2, n) on the axes of the plane, given those on the axes of the sky at angle `lean`.

    The local axes are turned by phi = -psi from columns, which run to the west, towards rows. e1 + i e2 turns by 2 phi,
    its conjugate (handedness -1) by -2 phi.
    """
    phi = -lean * handedness
    turned = (e[0] + 1j * e[1]) * np.exp(2j * phi)
    return np.stack([turned.real, turned.imag])


def _dispersion(e: _Array, w: _Array, noise: str | float, given: _Array | float | None) -> tuple[float, float] | None:
    """Return the dispersion of one galaxy's components, or None where each galaxy has its own."""
    if noise == "weights" or (noise == "scatter" and given is not None):
        return None
    if isinstance(noise, str):
        if noise != "scatter":
            raise ValueError(f'map_catalogue: noise must be "scatter", "weights" or a number, got {noise!r:.40}')
        sigma = _scatter(e[0], w), _scatter(e[1], w)
        if min(sigma) > 0:
            return sigma
        raise ValueError(
            f"map_catalogue: the scatter of e1, e2 must be positive, got {sigma[0]:g}, {sigma[1]:g}; "
            "give noise=0.3, a galaxy's dispersion"
        )
    number = float(check_number("noise", noise, above=0, caller="map_catalogue"))
    return number, number


def _scatter(values: _Array, w: _Array) -> float:
    """Return (sum w^2 (e - <e>)^2 / sum w^2)^(1/2) of the values within five robust standard deviations of the median.

    sum w^2 e^2 is what the variance of the mean, sum w e / sum w, is made of: galaxies of small weight scatter more.
    """
    away = np.abs(values - np.median(values))
    robust = 1.4826 * float(np.median(away))
    kept = away <= _CLIPPING * robust if robust > 0 else np.ones(len(values), dtype=bool)
    values, w = values[kept], w[kept]
    return math.sqrt(float(np.average((values - np.average(values, weights=w)) ** 2, weights=w**2)))


def _mean_variance(
    w: _Array,
    sigma_e: tuple[float, float] | None,
    noise: Any,
    each: _Array | None,
    total: Callable[[_Array], _Array],
) -> _Array:
    """Return the variance (2, n_pixels) of sum w e, whose root over sum w is the noise of the mean."""
    if sigma_e is not None:
        return np.asarray(np.square(sigma_e)[:, None] * total(w**2))
    if noise == "weights":  # w = 1/variance: sum w^2 variance = sum w
        return np.stack([total(w)] * 2)
    return np.stack([total(np.square(w * each))] * 2)
