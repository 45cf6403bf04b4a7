"""Centre of rotation from the sinogram alone, without an operator or a reconstruction.

View theta + pi is view theta mirrored at the axis: p(c + t, theta + pi) = p(c - t, theta), c the axis in bins. There
are three methods:

    "opposite"  Views half a turn apart are registered: the c that minimises sum (p - q)^2 / sum (p^2 + q^2) over the
                bins that both see, q the mirrored view, summed over all pairs. Needs views over a full turn, or one
                pair at 0 and 180 degrees. The detector may truncate the object.
    "wedge"     The 2D Fourier transform of a full turn vanishes where the angular frequency |nu| exceeds r |omega|, r
                the object's radius (Edholm, Lewitt and Lindholm, Proc. SPIE 671 (1986) 8). Half a turn is completed by
                its own mirror image at 2c, and the c that leaves the least energy there is wanted (Vo et al., Opt.
                Express 22 (2014) 19078). With P and Q the transforms of the half turn and of its mirror image at
                s = 2c - (n - 1) = 0, that energy is const + 2 Re sum conj(P) Q exp(-i omega s): one FFT tries every
                shift. Needs even steps over half a turn. Truncation biases it: a
                Shepp-Logan head 102 bins wide by up to 0.4 bins where a tenth is cut off, by 3 where a fifth is.
    "moments"   The centre of mass of a view is c + X cos(theta) + Y sin(theta) (Helgason, The Radon Transform, 1980;
                Ludwig, Comm. Pure Appl. Math. 19 (1966) 49): a linear fit. For any angles, if
                every view holds all of the object; sensitive to beam hardening and to air that does not read zero.

Axes: (..., n_angles, n_detectors); angles in radians; c counts bins from 0, at their centres.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from operators.base import warn_of_degrees

from ..checks import check_number, short
from .arrays import as_floats

_METHODS = ("auto", "opposite", "wedge", "moments")
_ANGLE_TOLERANCE = 0.05
"""Largest difference of angles that count as equal, in usual steps."""
_MAX_GAP_STEPS = 3.0
"""Largest gap between views across which they are interpolated, in usual steps."""
_MAX_GAP = math.radians(15)
"""Largest such gap in radians."""
_MIN_OVERLAP = 0.25
"""Smallest fraction of the bins that opposite views share: the axis lies in the detector's middle three quarters."""
_MIN_OPPOSITE_FRACTION = 0.25
"""Smallest fraction of views with an opposite one for which "auto" prefers "opposite"."""
_MAX_EDGE_SIGNAL = 0.05
"""Largest mean signal at the detector's ends, over the largest signal, of an object in full view."""
_MAX_VARIATION = 0.1
"""Largest relative variation of even steps, and of the views' sums, which are equal for an object in full view."""
_MIN_SINGULAR_RATIO = 1e-3
"""Smallest ratio of singular values with which the three unknowns can be separated."""
_STEPS_PER_BIN = 8
"""Steps per bin in the search for the least energy outside the wedge."""


def find_centre(y: Any, angles: Any, *, method: str = "auto") -> float:
    """Return the axis of rotation in bins, 0-based and fractional, from line integrals.

    For parallel beams; for fan beams over full turns use "opposite": rays near the middle one are measured twice.

    Errors measured on analytic phantoms (tests/pnp/ct/test_centre.py): below 0.05 bins without noise, below 0.3 bins
    with noise of 5 % of the largest line integral at 180 views of 161 bins.

    Args:
        y: line integrals (..., n_angles, n_detectors), of slices that share the axis; air reads 0.
        angles: (n_angles,), radians, any order.
        method: "opposite", "wedge", "moments" (see the module), or "auto": "opposite" where a quarter of the views
            have an opposite one, else "wedge" unless the object is truncated, else what the angles allow.

    Raises:
        ValueError, TypeError: shapes do not fit, the angles do not allow the method, or the object is not in full view
            with "moments".
    """
    p, _ = as_floats("find_centre", "y", y, ndim=2)
    theta = as_floats("find_centre", "angles", angles, ndim=1)[0].double().cpu()
    p = p.double().cpu().reshape(-1, *p.shape[-2:])
    if method not in _METHODS:
        raise ValueError(f"find_centre: method must be one of {list(_METHODS)}, got {short(repr(method), 60)}")
    n_angles, n_detectors = p.shape[-2:]
    if theta.shape != (n_angles,):
        turned = "; use y.swapaxes(-2, -1)" if theta.shape == (n_detectors,) else ""
        raise ValueError(
            f"find_centre: y must be (..., n_angles, n_detectors) with {theta.numel()} angles, got shape "
            f"{tuple(p.shape[-2:])} and angles of shape {tuple(theta.shape)}{turned}"
        )
    if n_angles < 2 or n_detectors < 3:
        raise ValueError(f"find_centre: needs 2 views of 3 bins or more, got {n_angles} of {n_detectors}")
    span = float(theta.max() - theta.min())
    warn_of_degrees("find_centre", span, stacklevel=2)
    if not bool((p != 0).any()):
        raise ValueError("find_centre: y is zero everywhere; there is nothing to find an axis in")
    profile = p.mean((0, 1))
    quarter = n_detectors // 4
    ends, middle = float(torch.minimum(profile[0], profile[-1])), float(profile[quarter : n_detectors - quarter].max())
    if ends > max(middle, _MAX_EDGE_SIGNAL * float(profile.abs().max())):
        warnings.warn(
            "find_centre: y is larger at both ends of the detector than in the middle; it must hold line "
            "integrals, -log of the transmission, neither counts nor transmissions",
            stacklevel=2,
        )
    opposite, half_turn = _opposite_views(theta), _half_turn(theta)
    if method == "auto":
        method = _choose(p, opposite, half_turn)
    if method == "opposite":
        if opposite is None:
            raise ValueError(
                f"find_centre: no view has an opposite one, half a turn away, in angles over {math.degrees(span):.4g} "
                'degrees; use method="wedge" for even steps over half a turn, else "moments"'
            )
        return _register(p, *opposite)
    if method == "wedge":
        if half_turn is None:
            raise ValueError(
                f"find_centre: method 'wedge' needs even steps over half a turn, got {n_angles} angles over "
                f'{math.degrees(span):.4g} degrees; use "opposite" for a full turn, else "moments"'
            )
        return _least_outside_wedge(p[:, half_turn])
    return _centre_of_masses(p, theta)


def offset_from_centre(centre: float, n_detectors: int, pitch: float = 1.0) -> float:
    """Return the `offset` of Radon or FanBeam whose axis lies at bin `centre`: pitch ((n_detectors - 1)/2 - centre).

    Args:
        centre: axis of rotation in bins, 0-based.
        n_detectors: number of bins.
        pitch: distance between bins on the detector; the offset is in its unit.

    >>> offset_from_centre(296, 640)
    23.5
    """
    check_number("centre", centre, above=-math.inf, caller="offset_from_centre")
    check_number("n_detectors", n_detectors, above=1, integer=True, or_equal=True, caller="offset_from_centre")
    check_number("pitch", pitch, above=0, caller="offset_from_centre")
    return pitch * ((n_detectors - 1) / 2 - centre)


def _choose(p: Tensor, opposite: _OppositeViews | None, half_turn: Tensor | None) -> str:
    """Return the method for these views: many pairs average noise better than "wedge", which beats one pair."""
    n_pairs = 0 if opposite is None else len(opposite.views)
    if n_pairs >= _MIN_OPPOSITE_FRACTION * p.shape[-2]:
        return "opposite"
    if half_turn is not None and (not _truncated(p) or not n_pairs):
        return "wedge"
    return "opposite" if n_pairs else "moments"


def _truncated(p: Tensor) -> bool:
    """Return whether the object reaches beyond an end of the detector."""
    profile = p.mean((0, 1))
    return max(float(profile[0]), float(profile[-1])) > _MAX_EDGE_SIGNAL * float(profile.max())


# -------------------------------------------------------------------- opposite views


class _OppositeViews(NamedTuple):
    """Views with an opposite one: for each, the two views around theta + pi and the weight of the second."""

    views: Tensor
    before: Tensor
    after: Tensor
    share: Tensor


def _opposite_views(theta: Tensor) -> _OppositeViews | None:
    """Return the views that have an opposite one; None: no pair."""
    ordered, order = theta.remainder(2 * math.pi).sort()
    n = len(ordered)
    gaps = torch.cat([ordered.diff(), ordered[:1] + 2 * math.pi - ordered[-1:]])
    step = min(float(gaps[gaps > 1e-9].median()), _MAX_GAP / _MAX_GAP_STEPS)  # without repeated views
    target = (theta + math.pi).remainder(2 * math.pi)
    after = torch.searchsorted(ordered, target) % n
    before = (after - 1) % n
    past, ahead = (target - ordered[before]).remainder(2 * math.pi), (ordered[after] - target).remainder(2 * math.pi)
    # On a view, or next to it by rounding: that view; between two neighbours: their mean.
    on_before, on_after = (
        torch.minimum(past, 2 * math.pi - past) <= _ANGLE_TOLERANCE * step,
        ahead <= _ANGLE_TOLERANCE * step,
    )
    usable = on_before | on_after | (past + ahead <= _MAX_GAP_STEPS * step)
    share = torch.where(on_before, 0, torch.where(on_after, 1, past / (past + ahead)))
    views = usable.nonzero().flatten()
    if not len(views):
        return None
    return _OppositeViews(views, order[before[views]], order[after[views]], share[views])


def _register(p: Tensor, views: Tensor, before: Tensor, after: Tensor, share: Tensor) -> float:
    """Return the c that maximises the correlation of views p(b) and opposite views at 2c - b, over common bins."""
    n = p.shape[-1]
    a = p[:, views]
    q = (1 - share)[:, None] * p[:, before] + share[:, None] * p[:, after]
    # sum_b a(b) q(k - b) for all k = 2c, and the energy of the bins that take part; integer k need no interpolation.
    size = 2 * n - 1
    product = torch.fft.irfft(torch.fft.rfft(a, n=size) * torch.fft.rfft(q, n=size), n=size).sum((0, 1))
    energy = torch.cat([torch.zeros(1, dtype=p.dtype), (a.square() + q.square()).sum((0, 1)).cumsum(0)])
    k = torch.arange(size)
    first, last = (k - n + 1).clamp(min=0), k.clamp(max=n - 1)
    energy = energy[last + 1] - energy[first]
    mismatch = 1 - 2 * product / torch.where(energy > 0, energy, math.inf)
    least = math.ceil(_MIN_OVERLAP * n)
    return _lowest(mismatch, k[last - first + 1 >= least]) / 2


def _lowest(values: Tensor, where: Tensor) -> float:
    """Return the index of the least value among `where`, refined by the parabola through its neighbours."""
    i = int(where[values[where].argmin()])
    if i in (int(where[0]), int(where[-1])):
        raise ValueError(
            "find_centre: no axis found in the middle three quarters of the detector; check that angles are radians "
            "in the order of the views, that y holds -log of the transmission, and that the beams are parallel"
        )
    left, middle, right = (float(v) for v in values[i - 1 : i + 2])
    bend = left - 2 * middle + right
    return i + (min(max((left - right) / (2 * bend), -0.5), 0.5) if bend > 0 else 0.0)


# -------------------------------------------------------------------- the double wedge


def _half_turn(theta: Tensor) -> Tensor | None:
    """Return the order of views that steps evenly over half a turn, its end left out; None: they do not."""
    ordered, order = theta.sort()
    steps = ordered.diff()
    step = float(ordered[-1] - ordered[0]) / (len(theta) - 1)
    if len(theta) < 4 or not step > 0 or float((steps - step).abs().max()) > _MAX_VARIATION * step:
        return None
    n = round(math.pi / step)  # views of half a turn: all, or all but a last one at 180 degrees
    if n not in (len(theta), len(theta) - 1) or abs(n * step - math.pi) > 0.5 * step:
        return None
    return order[:n]


def _least_outside_wedge(p: Tensor) -> float:
    """Return the c whose mirror image continues the half turn p (..., n_angles, n) with least energy outside."""
    n_angles, n = p.shape[-2:]
    size = 2 * n
    half, mirrored = p.new_zeros(len(p), 2 * n_angles, size), p.new_zeros(len(p), 2 * n_angles, size)
    half[:, :n_angles, :n], mirrored[:, n_angles:, :n] = p, p.flip(-1)
    P, Q = torch.fft.fft2(half), torch.fft.fft2(mirrored)
    nu = (torch.fft.fftfreq(2 * n_angles, dtype=p.dtype) * 2 * n_angles).abs()[:, None]
    omega = torch.fft.fftfreq(size, dtype=p.dtype) * 2 * math.pi
    # No object in view reaches further than half the detector from the axis if that is at its middle.
    outside = nu > omega.abs() * (n / 2) + 1
    cross = (P.conj() * Q * outside).sum((0, 1))
    padded = torch.zeros(_STEPS_PER_BIN * size, dtype=cross.dtype)
    padded[torch.arange(size).where(torch.arange(size) < n, torch.arange(size) - size)] = cross
    energy = torch.fft.fft(padded).real
    shift = torch.arange(_STEPS_PER_BIN * size)
    shift = shift.where(shift < _STEPS_PER_BIN * n, shift - _STEPS_PER_BIN * size)
    centred = energy.roll(_STEPS_PER_BIN * n)  # index FINE n is shift 0
    allowed = (shift.abs() <= _STEPS_PER_BIN * n * (1 - _MIN_OVERLAP)).roll(_STEPS_PER_BIN * n).nonzero().flatten()
    return (n - 1) / 2 + (_lowest(centred, allowed) / _STEPS_PER_BIN - n) / 2


# -------------------------------------------------------------------- moments


def _centre_of_masses(p: Tensor, theta: Tensor) -> float:
    """Return c from sum_b b p / sum_b p = c + X cos(theta) + Y sin(theta), slices with their own X and Y."""
    sums = p.sum(-1)
    if not bool((sums > 0).all()):
        raise ValueError("find_centre: the views' sums must be positive; y must hold -log of the transmission")
    uneven = float((sums.std(-1) / sums.mean(-1)).max())
    if uneven > _MAX_VARIATION or _truncated(p):
        raise ValueError(
            "find_centre: method 'moments' needs all of the object in every view and air at both ends, but the "
            f"views' sums vary by {100 * uneven:.2g} %, or the ends do not read 0: the object is truncated, the "
            'y transposed or the noise too high; use "opposite" on a full turn, or "wedge"'
        )
    basis = torch.stack([torch.ones_like(theta), theta.cos(), theta.sin()], 1)
    singular = torch.linalg.svdvals(basis)
    if len(theta) < 3 or not bool(singular[-1] > _MIN_SINGULAR_RATIO * singular[0]):
        raise ValueError(
            f"find_centre: {len(theta)} angles over {math.degrees(float(theta.max() - theta.min())):.4g} degrees do "
            "not separate the axis from the object's position; method 'moments' needs three different views or more"
        )
    # Each view by its own sum, about the middle: what is common to all its bins cancels.
    middle = (p.shape[-1] - 1) / 2
    masses = (p @ (torch.arange(p.shape[-1], dtype=p.dtype) - middle)) / sums
    fit = torch.linalg.lstsq(basis, masses.T).solution
    return middle + float(fit[0].mean())
