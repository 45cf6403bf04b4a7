"""Beam hardening of one material, corrected by a polynomial of the line integrals, its coefficients fitted or given.

A polychromatic beam loses its soft part first, so that the line integrals of L mm of a material bend,

    y(L) = -log int S(E) exp(-mu(E) L) dE / int S(E) dE,

and the middle of a homogeneous object looks thinner than its rim (cupping). The inverse of y(L) is a polynomial,

    y_c = sum_k c_k y^k,    k = 1..K,    c_1 = 1,

with which y_c = mu L, mu the mean of mu(E) in the unfiltered spectrum: thin objects keep their attenuation.

`fit_beam_hardening` takes the c_k from the scan itself. FBP is linear: with x_k the FBP of y^k, the corrected image is
sum c_k x_k, and it should be 1 inside the object and 0 in air, up to a factor (M. Kachelriess, K. Sourbelle and
W. A. Kalender, Empirical cupping correction, Med. Phys. 33 (2006) 1269). The object is segmented by Otsu's threshold,
its edge left out, and the c_k solve the least squares problem

    G c = t,    G_kl = sum_i (a_ki b_li + b_ki a_li) / 2,    t_k = sum_(i inside) (a_ki + b_ki) / 2,

over smoothed pixels i. Here a_k is the FBP of the odd views and b_k that of the even ones: their noise is independent,
so that it adds nothing to the products, as that of x_k x_l would.

What a polynomial cannot do: two materials (metal in tissue, bone in soft tissue) harden the beam differently. The dark
bands between dense parts stay, and a fit to such an object is not meaningful; it is warned of. Scatter and a detector
that is not linear bend y(L) as well, and are corrected with it as far as they depend on y alone.

Axes: y (..., n_angles, n_detectors), as of `line_integrals`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from skimage.filters import threshold_otsu
from torch import Tensor

from operators import FanBeam, Radon

from ..checks import broadcasts, check_number, short
from .arrays import as_floats

_Array = npt.NDArray[Any]

_MAX_DEGREE = 6
_ROUNDS = 2
"""Segmentations: that of the cupped image, then that of the corrected one."""
_EDGE = 3
"""Pixels on either side of the object's edge that are left out: FBP blurs it."""
_SMOOTHING = 2.0
"""Standard deviation in pixels of the Gaussian that averages noise within the object and within air."""
_MIN_INSIDE = 50
"""Smallest number of pixels inside the object."""
_MIN_VIEWS = 16
_MAX_UNEVEN = 0.02
"""Largest relative deviation of a corrected object from one value, without noise, that passes for one material."""
_MAX_FALLING = 1e-3
"""Largest fraction of rays on which a correction may fall with y: noise beyond the thickest part."""


def correct_beam_hardening(y: Any, noise_std: Any = None, *, coefficients: Sequence[float]) -> tuple[Any, Any]:
    """Return the corrected line integrals y_c = sum_k c_k y^k, and their noise |dy_c/dy| noise_std.

    Args:
        y: line integrals (..., n_angles, n_detectors), without unit, numpy or torch.
        noise_std: standard deviation of y, a number or an array that broadcasts to y; infinity: no information. None:
            not known; None is returned.
        coefficients: c_1, c_2, ..., without unit, of powers 1, 2, ...; (1.0,) changes nothing. See
            `fit_beam_hardening`.

    Raises:
        ValueError, TypeError: coefficients are not 1 to 6 finite numbers that begin above 0, the correction falls
            where y grows, or shapes do not fit.

    >>> y, noise_std = correct_beam_hardening(torch.tensor([[0.0, 1.0, 2.0]]), 0.1, coefficients=(1, 0.05))
    >>> [round(v, 2) for v in y[0].tolist()], [round(v, 2) for v in noise_std[0].tolist()]
    ([0.0, 1.05, 2.2], [0.1, 0.11, 0.12])
    """
    caller = "correct_beam_hardening"
    t, is_numpy = as_floats(caller, "y", y, ndim=2)
    c = _coefficients(coefficients)
    std: Tensor | None = None
    if noise_std is not None:
        std = torch.as_tensor(noise_std).to(t)
        if not broadcasts(tuple(std.shape), tuple(t.shape)) or bool((std.isnan() | (std < 0)).any()):
            raise ValueError(
                f"{caller}: noise_std must be >= 0 and broadcast to y {tuple(t.shape)}, got shape {tuple(std.shape)}; "
                "infinity marks a ray without information"
            )
    slope = sum(k * ck * t ** (k - 1) for k, ck in enumerate(c, 1)) + torch.zeros_like(t)
    seen = torch.ones_like(t, dtype=torch.bool) if std is None else std.isfinite().expand(t.shape)
    if bool(seen.any()) and float((slope[seen] <= 0).double().mean()) > _MAX_FALLING:
        raise ValueError(
            f"{caller}: coefficients must give a y that grows up to the largest one, {float(t[seen].max()):.3g}; got "
            f"{short(str(tuple(round(ck, 5) for ck in c)), 90)}, which falls there; use a lower degree"
        )
    corrected = sum(ck * t**k for k, ck in enumerate(c, 1)) + torch.zeros_like(t)
    if std is not None:
        std = torch.where(std.isfinite(), slope.abs() * std, math.inf)
    out = [None if v is None else v.cpu().numpy() if is_numpy else v for v in (corrected, std)]
    return out[0], out[1]


def fit_beam_hardening(y: Any, operator: Radon | FanBeam, *, degree: int = 3) -> tuple[float, ...]:
    """Return the coefficients (1, c_2, ..., c_degree) with which a homogeneous object is reconstructed flat.

    The method is that of the module: FBP of the powers of y, and least squares against the segmented object. It needs
    an object of one material, in full view, with air around it; holes and any outline are welcome, and help. Rings are
    common to odd and even views: remove them first (`remove_stripes`).

    On simulated cylinders, ellipses and an object with holes, of water and of aluminium, cupping of 2 to 19 % falls
    below 0.5 % with degree 3 (tests/pnp/ct/test_beam_hardening.py); on a measured one, the solid disc of HTC2022, 24 %
    falls to 0.6 %. Monochromatic data give the identity within 2 % of the largest y.

    The object's flatness is determined, its level less so: c_1 = 1 means the attenuation of vanishing thickness, to
    which the fit extrapolates. Degrees differ in it by some percent; on two measured discs of HTC2022, degrees 2, 3 and
    4 differ by factors of 1.4 and 2. Where the level matters, scale all coefficients by a known material's mu over
    the one found.

    Args:
        y: line integrals (..., n_angles, n_detectors), without unit, numpy or torch. Rows share the coefficients.
        operator: the scan's geometry, with its offset; its image must hold the object, three pixels inside the edge.
        degree: K, 2 to 6. 2 suits little hardening, and 3 nearly all.

    Raises:
        ValueError, TypeError: shapes do not fit, there are fewer than 16 views, there is no object, or the fitted
            correction falls where y grows.

    Warns:
        UserWarning: the corrected object is not flat, as of two materials, or the detector truncates it.
    """
    caller = "fit_beam_hardening"
    if not isinstance(operator, (Radon, FanBeam)):
        raise TypeError(f"{caller}: operator must be Radon or FanBeam, got {type(operator).__name__}")
    check_number("degree", degree, above=2, integer=True, or_equal=True, caller=caller)
    if degree > _MAX_DEGREE:
        raise ValueError(f"{caller}: degree must be 2 to {_MAX_DEGREE}, got {degree}; 3 suits nearly all spectra")
    t = as_floats(caller, "y", y, ndim=2)[0]
    want = (len(operator.angles), operator.n_detectors)
    if tuple(t.shape[-2:]) != want or want[0] < _MIN_VIEWS:
        raise ValueError(
            f"{caller}: y must be (..., {want[0]}, {want[1]}), as the operator's views and bins, with {_MIN_VIEWS} "
            f"views or more, got {tuple(t.shape)}"
        )
    t = t.reshape(-1, 1, *want).to(operator.angles.device)
    largest = float(t.max())
    if not largest > 0:
        raise ValueError(f"{caller}: y must be positive behind the object, got a maximum of {largest:.3g}")
    _warn_of_truncation(t, operator)
    powers = _powers(t / largest, operator, degree)
    c = np.eye(degree)[0]
    for _ in range(_ROUNDS):
        c, uneven = _fit(powers, c)
    if uneven > _MAX_UNEVEN:
        warnings.warn(
            f"{caller}: the corrected object varies by {100 * uneven:.2g} %; is it of one material, in full view? "
            "A polynomial corrects no other",
            stacklevel=2,
        )
    coefficients = tuple(float(ck) * largest ** (1 - k) for k, ck in enumerate(c, 1))
    correct_beam_hardening(t, coefficients=coefficients)  # refuses what falls
    return coefficients


class _Powers(NamedTuple):
    """FBP of y^k from the odd views and from the even ones, (n_rows, K, H, W) each, and the circle seen by all."""

    odd: _Array
    even: _Array
    circle: _Array


def _powers(y: Tensor, operator: Radon | FanBeam, degree: int) -> _Powers:
    odd = (torch.arange(y.shape[-2], device=y.device) % 2).to(y)[:, None]
    halves = []
    for weight in (2 * odd, 2 * (1 - odd)):
        images = [operator.fbp(weight * y**k, window="hann", extend=False)[:, 0] for k in range(1, degree + 1)]
        halves.append(torch.stack(images, 1).double().cpu().numpy())
    height, width = halves[0].shape[-2:]
    r = np.hypot(*np.ogrid[(1 - height) / 2 : height / 2, (1 - width) / 2 : width / 2])
    return _Powers(halves[0], halves[1], r < min(height, width) / 2 - 1)


def _fit(powers: _Powers, c: _Array) -> tuple[_Array, float]:
    """Return coefficients with c_1 = 1, and the relative deviation of the corrected image from object and air."""
    image = np.einsum("k,rkij->rij", c, powers.odd + powers.even) / 2
    inside = (image > threshold_otsu(image)) & powers.circle
    eroded = np.stack([binary_erosion(m, iterations=_EDGE) for m in inside])
    air = np.stack([~binary_dilation(m, iterations=_EDGE) for m in inside]) & powers.circle
    if eroded.sum() < _MIN_INSIDE:
        raise ValueError(
            f"fit_beam_hardening: y must show an object of {_MIN_INSIDE} pixels or more inside its edge of {_EDGE}, "
            f"got {int(eroded.sum())}; use smaller pixels, or give coefficients"
        )
    a, b = (_pixels(half, eroded, air) for half in (powers.odd, powers.even))
    template = np.concatenate([np.ones(eroded.sum()), np.zeros(air.sum())])
    # Powers are nearly parallel: columns of one size keep the system as well conditioned as it can be.
    scale = np.abs(a).mean(0)
    a, b = a / scale, b / scale
    solution = np.linalg.lstsq((a.T @ b + b.T @ a) / 2, (a + b).T @ template / 2, rcond=None)[0]
    uneven = float(np.mean((a @ solution - template) * (b @ solution - template)) * len(template) / eroded.sum())
    solution = solution / scale
    if not solution[0] > 0:
        raise ValueError(
            "fit_beam_hardening: y does not determine the coefficients: the object is too thin, too noisy or not of "
            "one material; use a lower degree, or give coefficients"
        )
    return solution / solution[0], math.sqrt(max(uneven, 0.0))


def _pixels(images: _Array, inside: _Array, air: _Array) -> _Array:
    """Return the smoothed pixels of both regions, (n_pixels, K), each smoothed within itself alone."""
    parts = []
    for region in (inside, air):
        weight = np.stack([gaussian_filter(m.astype(float), _SMOOTHING) for m in region])
        columns = []
        for k in range(images.shape[1]):
            smooth = np.stack([gaussian_filter(x * m, _SMOOTHING) for x, m in zip(images[:, k], region, strict=True)])
            columns.append(smooth[region] / weight[region])
        parts.append(np.stack(columns, 1))
    return np.concatenate(parts)


def _coefficients(coefficients: Sequence[float]) -> tuple[float, ...]:
    try:
        c = tuple(float(ck) for ck in coefficients)
    except TypeError as error:
        raise TypeError(
            f"correct_beam_hardening: coefficients must be numbers c_1, c_2, ..., e.g. (1, 0.04), got "
            f"{short(repr(coefficients), 60)}"
        ) from error
    if not 1 <= len(c) <= _MAX_DEGREE or not all(map(math.isfinite, c)) or c[0] <= 0:
        raise ValueError(
            f"correct_beam_hardening: coefficients must be 1 to {_MAX_DEGREE} finite numbers c_1 > 0, c_2, ..., e.g. "
            f"(1, 0.04), got {short(repr(c), 90)}"
        )
    return c


def _warn_of_truncation(y: Tensor, operator: Radon | FanBeam) -> None:
    if any(operator.is_truncated(y)):
        warnings.warn(
            "fit_beam_hardening: y is not 0 at an end of the detector; where the object is truncated, its image is not "
            "flat for that reason, and the coefficients are wrong: take those of a scan in full view",
            stacklevel=3,
        )
