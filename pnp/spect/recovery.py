"""Partial volume: how much of its activity a small region shows, from spheres of a phantom.

A camera's resolution spreads the activity of a small object beyond its borders. The mean inside the borders, over the
true concentration, is its recovery, which rises with the diameter d as

    R(d) = 1 / (1 + (d_0/d)^p),

the two-parameter curve of J. Gear et al., EANM practical guidance on uncertainty analysis for molecular radiotherapy
absorbed dose calculations, Eur. J. Nucl. Med. Mol. Imaging 45 (2018) 2456, there in the volume. It holds for one
camera, isotope, reconstruction and filter, for objects without activity around them, drawn at their true borders.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_number

_MM3_PER_ML = 1000.0
MIN_SPHERES = 3
"""Fewest spheres: two parameters, and one to judge them."""
_STEEPEST = 20.0
_FIRST_EXPONENT = 2.0


@dataclass(frozen=True)
class Recovery:
    """A recovery curve.

    Attributes:
        half_mm: d_0, the diameter of a sphere that shows half of its activity.
        exponent: p.
        covariance: (2, 2), of both.
        measured_mm: the smallest and the largest diameter that was measured.
        rms: root mean square of what the spheres differ by from the curve.
    """

    half_mm: float
    exponent: float
    covariance: Any = field(repr=False)
    measured_mm: tuple[float, float]
    rms: float

    def at(self, diameter_mm: float) -> tuple[float, float]:
        """Return the recovery of a sphere, and its standard error.

        Warns:
            UserWarning: the sphere is smaller than the smallest that was measured.
        """
        d = check_number("diameter_mm", diameter_mm, above=0, caller="Recovery")
        if d < 0.99 * self.measured_mm[0]:
            warnings.warn(
                f"Recovery: a sphere of {d:.3g} mm is smaller than those measured, from {self.measured_mm[0]:g} mm on: "
                "its recovery is extrapolated",
                stacklevel=2,
            )
        u = (self.half_mm / d) ** self.exponent
        value = 1 / (1 + u)
        slope = -(value**2) * u * np.array([self.exponent / self.half_mm, math.log(self.half_mm / d)])
        return value, math.sqrt(max(float(slope @ self.covariance @ slope), 0.0))


def fit_recovery(diameter_mm: npt.ArrayLike, recovery: npt.ArrayLike, std: npt.ArrayLike | None = None) -> Recovery:
    """Fit the recovery curve to spheres of a phantom by least squares.

    Args:
        diameter_mm: of at least three spheres, (n,).
        recovery: mean activity inside each sphere over the true one, (n,), above 0; above 1.2 something else is wrong.
        std: standard errors of recovery; None: all alike, as large as the spheres differ from the curve.

    Raises:
        ValueError: too few spheres, numbers out of range, or recovery that does not rise with the diameter.

    >>> curve = fit_recovery([10.0, 17.0, 28.0, 37.0], [0.2504, 0.4914, 0.7238, 0.8206])
    >>> round(curve.half_mm, 1), round(curve.exponent, 1)
    (17.3, 2.0)
    """
    from scipy.optimize import curve_fit

    caller, d, r = "fit_recovery", np.asarray(diameter_mm, np.float64), np.asarray(recovery, np.float64)
    if d.ndim != 1 or d.shape != r.shape or len(np.unique(d)) < MIN_SPHERES:
        raise ValueError(
            f"{caller}: diameter_mm and recovery must be {MIN_SPHERES} different spheres or more, got {d.shape} and "
            f"{r.shape}"
        )
    if not (np.isfinite(d).all() and d.min() > 0):
        raise ValueError(f"{caller}: diameter_mm must be positive, got {d.min():g} to {d.max():g}")
    if not (r.min() > 0 and r.max() < 1.2):  # NaN fails too
        raise ValueError(
            f"{caller}: recovery must be above 0 and about 1 at most, got {r.min():.3g} to {r.max():.3g}; divide the "
            "means by the true concentration"
        )
    sigma = None if std is None else np.broadcast_to(np.asarray(std, np.float64), d.shape)
    if sigma is not None and not ((sigma > 0) & np.isfinite(sigma)).all():
        raise ValueError(f"{caller}: std must be positive, got {sigma.min():g} to {sigma.max():g}")
    start = np.interp(0.5, np.sort(r), d[np.argsort(r)])
    try:
        best, covariance = curve_fit(
            lambda x, half, p: 1 / (1 + (half / x) ** p),
            d,
            r,
            p0=(start, _FIRST_EXPONENT),
            sigma=sigma,
            absolute_sigma=sigma is not None,
            bounds=([1e-3 * d.min(), 1e-3], [1e3 * d.max(), _STEEPEST]),
        )
    except RuntimeError as error:
        raise ValueError(
            f"{caller}: no curve fits these spheres; check that recovery rises with the diameter"
        ) from error
    curve = Recovery(float(best[0]), float(best[1]), covariance, (float(d.min()), float(d.max())), 0.0)
    rest = r - 1 / (1 + (curve.half_mm / d) ** curve.exponent)
    if np.corrcoef(d, r)[0, 1] <= 0:
        raise ValueError(f"{caller}: recovery must rise with diameter_mm; are the spheres in another order?")
    return Recovery(curve.half_mm, curve.exponent, covariance, curve.measured_mm, float(np.sqrt(np.mean(rest**2))))


def sphere_diameter(volume_ml: float) -> float:
    """Return the diameter in mm of a sphere of this volume.

    >>> round(sphere_diameter(26.52), 1)
    37.0
    """
    volume = check_number("volume_ml", volume_ml, above=0, caller="sphere_diameter")
    return float((6 * volume * _MM3_PER_ML / math.pi) ** (1 / 3))
