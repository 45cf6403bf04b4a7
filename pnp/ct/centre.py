"""Centre of rotation from the sinogram alone, without an operator or a reconstruction.

View theta + pi is view theta mirrored at the axis: p(c + t, theta + pi) = p(c - t, theta), c the axis in bins. There
are three methods:

    "opposite"  Views half a turn apart are registered: the c that minimises sum (p - q)^2 / sum (p^2 + q^2) over the
                bins that both see, q the mirrored view, summed over all pairs. Needs views over a full turn, or one
                pair at 0 and 180 degrees. The detector may truncate the object. Of axes near an edge few bins are
                seen twice; they are judged by their own variation (see `opposite.py`). Fans are sorted into parallel
                directions first, if their geometry is given.
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
from .double_wedge import MAX_VARIATION, MIN_OVERLAP, STEPS_PER_BIN, Window, half_turn_order, outside_wedge
from .opposite import Curves, OppositeViews, axis_std, noise_levels, opposite_views, parallel_directions, register

_METHODS = ("auto", "opposite", "wedge", "moments")
_MIN_EDGE_OVERLAP = 0.03
"""Smallest fraction of the bins that opposite views share for an axis near an edge, found without `search`."""
_MIN_BINS = 5
"""Smallest number of bins that opposite views share."""
_POOR, _GOOD, _BETTER = 0.1, 0.25, 0.25
"""Part of the views' variation that noise does not explain: above the first, an axis near an edge is tried; it must
leave less than the second, and less than the third times what the middle leaves."""
_MAX_STD = 0.3
"""Standard deviation of the axis in bins above which a warning is given."""
_FAN_ROUNDS = 3
"""Rounds in which the rays of a fan are sorted about the axis found before."""
_MIN_OPPOSITE_FRACTION = 0.25
"""Smallest fraction of views with an opposite one for which "auto" prefers "opposite"."""
_MAX_EDGE_SIGNAL = 0.05
"""Largest mean signal at the detector's ends, over the largest signal, of an object in full view."""
_MIN_SINGULAR_RATIO = 1e-3
"""Smallest ratio of singular values with which the three unknowns can be separated."""


def find_centre(
    y: Any,
    angles: Any,
    *,
    method: str = "auto",
    search: tuple[float, float] | None = None,
    source_origin: float | None = None,
    origin_detector: float | None = None,
    pitch: float | None = None,
) -> float:
    """Return the axis of rotation in bins, 0-based and fractional, from line integrals.

    The axis is looked for in the middle three quarters of the detector. Where views cover a full turn, and the middle
    leaves a tenth of their variation unexplained by noise, an axis nearer to an edge that explains it is taken (half
    acquisition; opposite views must share 3 % of the bins, 5 at least). What explains too little is warned of.

    Errors measured on analytic phantoms (tests/pnp/ct/test_centre.py, test_centre_edge.py): below 0.05 bins without
    noise, below 0.3 bins with noise of 5 % of the largest line integral at 180 views of 161 bins.

    Args:
        y: line integrals (..., n_angles, n_detectors), of slices that share the axis; air reads 0. For an axis that
            differs from slice to slice, see `find_centres`.
        angles: (n_angles,), radians, any order.
        method: "opposite", "wedge", "moments" (see the module), or "auto": "opposite" where a quarter of the views
            have an opposite one, else "wedge" unless the object is truncated, else what the angles allow.
        search: (low, high), bins; the axis is looked for nowhere else, down to an overlap of 5 bins.
        source_origin: of a fan, the distance from the source to the axis, as in FanBeam. With it, opposite rays are
            registered, from (theta, gamma) to (theta + pi - 2 gamma, -gamma), and a short scan suffices. Without it,
            a fan over a full turn is treated as parallel views, which holds for small angles gamma.
        origin_detector: of a fan, the distance from the axis to the detector.
        pitch: of a fan, the distance between bins, in the unit of both distances.

    Raises:
        ValueError, TypeError: shapes do not fit, the angles do not allow the method, no axis is found in the window,
            or the object is not in full view with "moments".

    Warns:
        UserWarning: opposite views differ by more than noise, noise leaves the axis uncertain, the object is truncated
            with "wedge", or y is no line integral.
    """
    p, theta = check_scan("find_centre", y, angles)
    n_detectors = p.shape[-1]
    if method not in _METHODS:
        raise ValueError(f"find_centre: method must be one of {list(_METHODS)}, got {short(repr(method), 60)}")
    window = check_window("find_centre", search, n_detectors)
    per_radian = check_fan("find_centre", source_origin, origin_detector, pitch)
    _warn_of_transmissions(p)
    pairs, half_turn = opposite_views(theta), half_turn_order(theta)
    if method == "auto":
        method = "opposite" if per_radian is not None else choose(p, pairs, half_turn)
    if per_radian is not None and method != "opposite":
        raise ValueError(f'find_centre: method {method!r} is for parallel beams; of fans, use "opposite"')
    span = math.degrees(float(theta.max() - theta.min()))
    if method == "opposite":
        if pairs is None:
            raise ValueError(
                f"find_centre: no view has an opposite one, half a turn away, in angles over {span:.4g} degrees; use "
                'method="wedge" for even steps over half a turn, else "moments"'
            )
        found = register_axis(p, theta, pairs, window, per_radian)
        _warn_if_poor(found)
        return found.centre
    if method == "wedge":
        if half_turn is None:
            raise ValueError(
                f"find_centre: method 'wedge' needs even steps over half a turn, got {len(theta)} angles over "
                f'{span:.4g} degrees; use "opposite" for a full turn, else "moments"'
            )
        if _truncated(p):
            warnings.warn(
                "find_centre: y is not 0 at an end of the detector, and method 'wedge' errs by bins where the object "
                'is truncated; use views over a full turn, or one at 180 degrees and "opposite"',
                stacklevel=2,
            )
        return _least_outside_wedge(p[:, half_turn], window)
    centre = _centre_of_masses(p, theta)
    if window is not None and not window.low <= centre <= window.high:
        raise ValueError(f"find_centre: method 'moments' finds bin {centre:.4g}, outside search, {window}; widen it")
    return centre


def check_scan(caller: str, y: Any, angles: Any) -> tuple[Tensor, Tensor]:
    """Return y as (slices, n_angles, n_detectors) and angles, float64 on the CPU, checked."""
    p, _ = as_floats(caller, "y", y, ndim=2)
    theta = as_floats(caller, "angles", angles, ndim=1)[0].double().cpu()
    p = p.double().cpu().reshape(-1, *p.shape[-2:])
    n_angles, n_detectors = p.shape[-2:]
    if theta.shape != (n_angles,):
        turned = "; use y.swapaxes(-2, -1)" if theta.shape == (n_detectors,) else ""
        raise ValueError(
            f"{caller}: y must be (..., n_angles, n_detectors) with {theta.numel()} angles, got shape "
            f"{tuple(p.shape[-2:])} and angles of shape {tuple(theta.shape)}{turned}"
        )
    if n_angles < 2 or n_detectors < 3:
        raise ValueError(f"{caller}: needs 2 views of 3 bins or more, got {n_angles} of {n_detectors}")
    warn_of_degrees(caller, float(theta.max() - theta.min()), stacklevel=3)
    if not bool((p != 0).any()):
        raise ValueError(f"{caller}: y is zero everywhere; there is nothing to find an axis in")
    return p, theta


def _warn_of_transmissions(p: Tensor) -> None:
    """Warn where the ends of the detector read more than its middle."""
    profile = p.mean((0, 1))
    quarter = p.shape[-1] // 4
    ends = float(torch.minimum(profile[0], profile[-1]))
    middle = float(profile[quarter : p.shape[-1] - quarter].max())
    if ends > max(middle, _MAX_EDGE_SIGNAL * float(profile.abs().max())):
        warnings.warn(
            "find_centre: y is larger at both ends of the detector than in the middle; it must hold line "
            "integrals, -log of the transmission, neither counts nor transmissions",
            stacklevel=3,
        )


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


def choose(p: Tensor, opposite: OppositeViews | None, half_turn: Tensor | None) -> str:
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


def check_window(caller: str, search: Any, n_detectors: int) -> Window | None:
    """Return `search` as a window on the detector, checked."""
    if search is None:
        return None
    try:
        low, high = (float(v) for v in search)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high <= n_detectors - 1:
        raise ValueError(
            f"{caller}: search must be (low, high), in bins from 0 to {n_detectors - 1}, low first, got "
            f"{short(repr(search), 60)}"
        )
    return Window(low, high)


def check_fan(caller: str, source_origin: Any, origin_detector: Any, pitch: Any) -> float | None:
    """Return a fan's bins per radian at its middle, (source_origin + origin_detector)/pitch; None: parallel beams."""
    given = {"source_origin": source_origin, "origin_detector": origin_detector, "pitch": pitch}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise ValueError(f"{caller}: a fan needs source_origin, origin_detector and pitch; {missing[0]} is missing")
    check_number("source_origin", source_origin, above=0, caller=caller)
    check_number("origin_detector", origin_detector, above=0, or_equal=True, caller=caller)
    check_number("pitch", pitch, above=0, caller=caller)
    return float((source_origin + origin_detector) / pitch)


class Axis(NamedTuple):
    """An axis found by registration, and how well it is known."""

    centre: float
    excess: float
    """Part of the opposite views' variation that noise does not explain, at most."""
    std: float
    """Standard deviation of the centre from noise and stripes, in bins."""


def register_axis(
    p: Tensor, theta: Tensor, pairs: OppositeViews, window: Window | None, per_radian: float | None
) -> Axis:
    """Return the axis where opposite views agree best; of fans, opposite rays."""
    if per_radian is None:
        return _best(p, theta, pairs, window)
    # An error of the assumed axis turns all directions alike, to first order, so few rounds suffice.
    centre = (p.shape[-1] - 1) / 2
    for _ in range(_FAN_ROUNDS):
        parallel, measured = parallel_directions(p, theta, bin_angles(p.shape[-1], centre, per_radian))
        found = _best(parallel, theta, pairs, window, None if bool(measured.all()) else measured)
        centre = found.centre
    return found


def bin_angles(n_detectors: int, centre: float, per_radian: float) -> Tensor:
    """Return the angles gamma of a flat detector's bins to the central ray, (n_detectors,)."""
    return torch.atan((torch.arange(n_detectors, dtype=torch.float64) - centre) / per_radian)


def _best(
    p: Tensor, theta: Tensor, pairs: OppositeViews, window: Window | None, measured: Tensor | None = None
) -> Axis:
    """Return the axis of parallel views, judged by what noise leaves unexplained (see `opposite.py`).

    In the middle of the detector "mismatch" decides, whatever the noise; near the edges, where few bins overlap, or
    where the middle leaves a tenth unexplained, "excess".
    """
    noise = noise_levels(p, theta)
    curves = register(p, pairs, noise, measured)
    if window is None:
        enough_pairs = len(pairs.views) >= _MIN_OPPOSITE_FRACTION * p.shape[-2]
        k = _anywhere(curves, p.shape[-1], enough_pairs)
    else:
        k = _inside(curves, window)
    wide = bool(curves.bins[k] >= math.ceil(MIN_OVERLAP * p.shape[-1]))
    centre = _vertex(curves.mismatch if wide else curves.difference / curves.variation, k) / 2
    return Axis(centre, float(curves.excess[k]), axis_std(p, pairs, noise, k))


def _anywhere(curves: Curves, n: int, enough_pairs: bool) -> int:
    """Return k = 2c of the axis in the middle, or of one that explains the views where none in the middle does."""
    k, excess = torch.arange(2 * n - 1), curves.excess
    middle = k[curves.bins >= math.ceil(MIN_OVERLAP * n)]
    found = int(middle[curves.mismatch[middle].argmin()])
    at_end = found in (int(middle[0]), int(middle[-1]))
    left = math.inf if at_end else float(excess[found])
    if enough_pairs and left > _POOR:
        wide = k[(curves.bins >= max(_MIN_BINS, math.ceil(_MIN_EDGE_OVERLAP * n))) & (k > 0) & (k < 2 * n - 2)]
        better = int(wide[excess[wide].argmin()]) if len(wide) else found
        if float(excess[better]) < min(_GOOD, _BETTER * left):
            return better
    if at_end:
        raise no_axis("find_centre", None)
    return found


def _inside(curves: Curves, window: Window) -> int:
    """Return k = 2c of the axis in the window that explains the views best."""
    k, excess = torch.arange(len(curves.bins)), curves.excess
    inside = k[(k >= 2 * window.low) & (k <= 2 * window.high) & (curves.bins >= _MIN_BINS)]
    if not len(inside) or not bool(excess[inside].isfinite().any()):
        raise no_axis("find_centre", window)
    found = int(inside[excess[inside].argmin()])
    if found in (int(inside[0]), int(inside[-1])):
        raise no_axis("find_centre", window)
    return found


def _warn_if_poor(found: Axis) -> None:
    """Warn where opposite views disagree by more than noise, or do not tell the axis well."""
    if found.excess > _GOOD:
        share = f"up to {100 * found.excess:.2g} % of" if math.isfinite(found.excess) else "or do not show"
        warnings.warn(
            f"find_centre: at the best axis, bin {found.centre:.4g}, opposite views differ by more than their noise "
            f"({share} their variation); the axis may lie near an edge of the detector (half acquisition): give "
            "search=(low, high), in bins; of fans, give source_origin, origin_detector and pitch",
            stacklevel=3,
        )
    elif found.std > _MAX_STD:
        warnings.warn(
            f"find_centre: noise leaves the axis, bin {found.centre:.4g}, uncertain by {found.std:.1g} bins or more; "
            "give more slices, or compare other methods",
            stacklevel=3,
        )


def no_axis(caller: str, window: Window | None) -> ValueError:
    """Return the error of a search that ends at the end of its window."""
    if window is not None:
        return ValueError(f"{caller}: no axis found in search, {window}; give a wider one, or check angles and y")
    return ValueError(
        f"{caller}: no axis found in the middle three quarters of the detector; check that angles are radians in the "
        "order of the views, that y holds -log of the transmission, and that the beams are parallel; if the axis is "
        "near an edge (half acquisition over a full turn), give search=(low, high), in bins"
    )


def _lowest(values: Tensor, where: Tensor, window: Window | None = None) -> float:
    """Return the index of the least value among `where`, refined by the parabola through its neighbours."""
    i = int(where[values[where].argmin()])
    if i in (int(where[0]), int(where[-1])):
        raise no_axis("find_centre", window)
    return _vertex(values, i)


def _vertex(values: Tensor, i: int) -> float:
    """Return the place of the least value of the parabola through values i-1 to i+1."""
    left, middle, right = (float(v) for v in values[i - 1 : i + 2])
    bend = left - 2 * middle + right
    return i + (min(max((left - right) / (2 * bend), -0.5), 0.5) if bend > 0 else 0.0)


# -------------------------------------------------------------------- the double wedge


def _least_outside_wedge(p: Tensor, window: Window | None) -> float:
    """Return the c whose mirror image continues the half turn p (..., n_angles, n) with least energy outside."""
    curve, n = outside_wedge(p, window), p.shape[-1]
    found = _lowest(curve.energy, curve.allowed.nonzero().flatten(), window)
    return (n - 1) / 2 + (found / STEPS_PER_BIN - n) / 2


# -------------------------------------------------------------------- moments


def _centre_of_masses(p: Tensor, theta: Tensor) -> float:
    """Return c from sum_b b p / sum_b p = c + X cos(theta) + Y sin(theta), slices with their own X and Y."""
    sums = p.sum(-1)
    if not bool((sums > 0).all()):
        raise ValueError("find_centre: the views' sums must be positive; y must hold -log of the transmission")
    uneven = float((sums.std(-1) / sums.mean(-1)).max())
    if uneven > MAX_VARIATION or _truncated(p):
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
