"""Views that the detector truncates, continued beyond its ends like those of a uniform ellipse.

Where the object reaches beyond the detector, the views end at values that are not 0. The ramp filter is not local, so
that views continued by 0 are wrong inside as well: too high by tens of percent. Views repeated at their last value are
too low by as much. In between, the object outside is taken for a uniform ellipse of half-axes a, b at the angle psi,
whose line integrals at the direction phi and the distance t from the axis are

    s(phi, t) = 2 rho a b sqrt(w^2 - (t - c)^2)_+ / w^2,    w^2 = a^2 cos^2(phi - psi) + b^2 sin^2(phi - psi),

with c = X cos(phi) + Y sin(phi) of its centre (X, Y). One ellipse is fitted to all views by least squares, which makes
their continuations those of one object; each view goes on as the ellipse's, scaled to meet its own last values. This
is the water cylinder that Hsieh et al., Med. Phys. 31 (2004) 2385, fit to each end of each view, for all ends at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

_EDGE, _LEVEL, _SIGNIFICANT = 0.02, 0.1, 5.0
"""Fraction of the detector that is an end; the mean there, over the largest mean of a bin, and over its own standard
deviation, from which on the object reaches beyond it."""
_JOINT = 16
"""Bins of the detector over those whose mean a continuation meets, and over those in which it falls to 0 at least."""
_LARGEST = 2.5
"""Longest half-axis over the reach of the rays, where the image does not say how large the object may be."""
_SMALLEST = 0.1
"""Shortest half-axis over the reach of the rays."""
_STARTS = (1.1, 1.8)
"""Half-axes where the fit starts, over the reach of the rays; the better end counts."""
_HIGHEST = 1.5
"""Largest value of a continuation over the last values of its view."""
_VIEWS, _BINS = 60, 48
"""Views and bins that the fit takes, about: an ellipse is smooth."""

_Array = npt.NDArray[np.float64]


class Ellipse(NamedTuple):
    """Half-axes a and b, angle psi of the first to the X axis in radians, and centre (x, y); lengths in any unit."""

    a: float
    b: float
    psi: float
    x: float
    y: float

    @property
    def reach(self) -> float:
        """Half the side of the square about the origin that holds the ellipse."""
        c, s = math.cos(self.psi), math.sin(self.psi)
        half = math.hypot(self.a * c, self.b * s), math.hypot(self.a * s, self.b * c)
        return max(abs(self.x) + half[0], abs(self.y) + half[1])


def open_ends(y: Tensor) -> tuple[bool, bool]:
    """Whether the views (n_angles, n_detectors) of an image do not fall to 0 at the first and the last bin.

    So it is where their mean over the views and the last 2 % of the bins is a tenth of the largest mean of a bin, and
    no noise: second differences along the views give its standard deviation. The last bin reads half as much at least:
    an object that ends just within the detector has steep ends there.
    """
    n_angles, n = y.shape
    edge = max(1, round(_EDGE * n))
    level = y.detach().mean(0)
    if n < 3 or not bool(level.isfinite().all()):
        return False, False
    rough = y.detach().diff(n=2, dim=1).abs().mean() * (math.sqrt(math.pi / 2) / math.sqrt(6))
    least = max(_LEVEL * float(level.max()), _SIGNIFICANT * float(rough) / math.sqrt(n_angles * edge))
    first, last = (
        float(end.mean()) > least and float(bin_) > least / 2
        for end, bin_ in ((level[:edge], level[0]), (level[-edge:], level[-1]))
    )
    return first, last


def chords(ellipse: Ellipse, phi: _Array, t: _Array) -> _Array:
    """Return s/rho, the ellipse's line integrals at unit density along the rays at phi and t, which broadcast."""
    a, b, psi, x, y = ellipse
    w2 = (a * np.cos(phi - psi)) ** 2 + (b * np.sin(phi - psi)) ** 2
    c = x * np.cos(phi) + y * np.sin(phi)
    return np.asarray(2 * a * b * np.sqrt(np.clip(w2 - (t - c) ** 2, 0, None)) / w2)


def fit_ellipse(y: _Array, phi: _Array, t: _Array, largest: float | None) -> Ellipse:
    """Return the uniform ellipse whose line integrals fit views best, by least squares; its density is a free factor.

    Args:
        y: views (n_angles, n_detectors).
        phi: directions of the rays, radians, broadcasting against y.
        t: their distances from the origin, likewise.
        largest: longest half-axis, in the unit of t; None: 2.5 times the largest |t|.
    """
    phi, t = (np.broadcast_to(values, y.shape) for values in (phi, t))
    every, bins = max(1, len(y) // _VIEWS), max(1, y.shape[1] // _BINS)
    n = y.shape[1] // bins * bins
    y, phi, t = (values[::every, :n].reshape(-1, n // bins, bins).mean(-1) for values in (y, phi, t))
    unit, size = float(np.abs(t).max()), float(np.abs(y).max()) or 1.0
    y, t = y / size, t / unit
    top = _LARGEST if largest is None else max(largest / unit, 2 * _SMALLEST)

    def ellipse(q: _Array) -> Ellipse:
        return Ellipse(math.exp(q[0]), math.exp(q[1]), float(q[2]), float(q[3]), float(q[4]))

    def residuals(q: _Array) -> _Array:
        s = chords(ellipse(q), phi, t)
        return np.asarray((y - s * (float(np.vdot(s, y)) / max(float(np.vdot(s, s)), 1e-30))).ravel())

    low, high = math.log(_SMALLEST), math.log(top)
    bounds = [low, low, -np.inf, -top, -top], [high, high, np.inf, top, top]
    found = []
    for start in _STARTS:
        first = min(math.log(start), high - 0.05)
        found.append(least_squares(residuals, [first, first - 0.02, 0.3, 0.0, 0.0], bounds=bounds, max_nfev=60))
    a, b, psi, x, y_ = ellipse(min(found, key=lambda f: f.cost).x)
    return Ellipse(a * unit, b * unit, psi, x * unit, y_ * unit)


def continued(y: Tensor, s: Tensor, ends: tuple[bool, bool]) -> Tensor:
    """Return views (..., n_angles, n) with n_more bins added at both ends: an ellipse's, scaled to meet y.

    A view's factor is the ratio of the means of y and of the ellipse over its last bins, one in sixteen. Where the
    ellipse ends within the detector but y does not, y falls to 0 over as many bins.

    Args:
        y: views; gradients flow through the factors.
        s: the ellipse's line integrals, (n_angles, n_more + n + n_more).
        ends: whether the first and the last end are to be continued; the other is padded by 0.
    """
    more = (s.shape[-1] - y.shape[-1]) // 2
    before, behind = y.flip(-1), y
    sides = [
        _side(views, values, more) if is_open else y.new_zeros(*y.shape[:-1], more)
        for views, values, is_open in ((before, s.flip(-1), ends[0]), (behind, s, ends[1]))
    ]
    return torch.cat([sides[0].flip(-1), y, sides[1]], -1)


def _side(y: Tensor, s: Tensor, more: int) -> Tensor:
    """Return what goes on behind the last bin of y, (..., n_angles, more)."""
    joint = max(1, y.shape[-1] // _JOINT)
    ours, theirs = s[:, more:-more], s[:, -more:]
    at_edge = ours[:, -joint:].mean(-1, keepdim=True).clamp(min=1e-3 * float(s.max()))
    falling = torch.linspace(0, 1, joint + 1).mul(math.pi / 2).cos().square()[1:]
    falling = nn.functional.pad(falling, (0, more - joint)).to(y)
    mean = y[..., -joint:].mean(-1, keepdim=True).clamp(min=0)
    return mean * torch.maximum((theirs / at_edge).clamp(max=_HIGHEST), falling)
