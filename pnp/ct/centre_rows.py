"""The axis of rotation of every detector row: a line over the rows, which noise, air and bad rows do not move.

Each row r has a curve of what speaks against the axis c in it: D_r(c), the mismatch of opposite views, or, over half a
turn, the energy outside the double wedge (see `centre.py`). First the straight line c(r) with the least sum over all
rows is looked for, so that no row needs to find its axis alone. Then every row's own minimum next to the line is fitted
by a line again, weighted by its curvature over its residual (the inverse variance) and by Tukey's biweight (Huber,
Robust Statistics, 1981).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arrays import as_floats
from .centre import bin_angles, check_fan, check_scan, check_window, choose, no_axis
from .double_wedge import Window, half_turn_order, outside_wedge
from .opposite import bounded_excess, noise_levels, opposite_views, parallel_directions, register

_MAX_ROWS = 64
"""Largest number of rows that are looked at, evenly spaced."""
_MIN_ROWS = 3
"""Smallest number of rows that show an axis."""
_MAX_SLOPE = 0.1
"""Steepest axis, in bins per row: 5.7 degrees."""
_REACH = 2.0
"""Distance from the line within which a row's own axis is looked for, in bins."""
_MIN_OVERLAP, _MIN_BINS = 0.03, 5
"""Smallest overlap of opposite views, as a fraction of the bins and in bins."""
_TUKEY = 4.685
"""Tukey's constant, in standard deviations."""
_MIN_SCATTER = 0.02
"""Scatter of the rows about the line, in bins, that is always granted: the error of a parabola through three points."""
_MAX_SCATTER = 0.5
"""Scatter of the rows about the line, in bins, above which a warning is given."""


class Centres(NamedTuple):
    """Axes of rotation of all rows, on a line."""

    centres: Tensor
    """(n_rows,) float64: each row's axis in bins, 0-based."""
    slope: float
    """Bins per row."""
    tilt: float
    """Angle between the axis and the detector's columns in radians, for square pixels: atan(slope)."""
    rows: Tensor
    """(n,) the rows that were looked at."""
    found: Tensor
    """(n,) each one's own axis in bins; NaN where it shows none near the line."""
    scatter: float
    """Standard deviation of the rows' own axes about the line, in bins, robust."""


class _RowCurves(NamedTuple):
    """What speaks against each axis, for every row and index, (rows, n)."""

    against: Tensor
    variation: Tensor
    noise: Tensor
    residual: Tensor
    """`against` with its noise, positive."""
    allowed: Tensor
    """(n,), whether an axis may be there."""
    first: float
    """Axis of index 0, in bins."""
    per_bin: int
    """Indices per bin."""


def find_centres(
    y: Any,
    angles: Any,
    *,
    method: str = "auto",
    search: tuple[float, float] | None = None,
    source_origin: float | None = None,
    origin_detector: float | None = None,
    pitch: float | None = None,
) -> Centres:
    """Return the axis of rotation of every row, c(row) = c(0) + slope row, from line integrals.

    At most 64 rows, evenly spaced, are looked at. Rows of air or noise do not spoil the line.

    Args:
        y: line integrals (n_rows, n_angles, n_detectors).
        angles: (n_angles,), radians, any order.
        method: "opposite", "wedge" or "auto", as in `find_centre`.
        search: (low, high), bins, in which the axes of all rows lie; None: wherever opposite views share 3 % of the
            bins, or, for "wedge", the middle three quarters.
        source_origin: of a fan, the distance from the source to the axis, as in FanBeam; cone beams only near the
            row of the source.
        origin_detector: of a fan, the distance from the axis to the detector.
        pitch: of a fan, the distance between bins, in the unit of both distances.

    Raises:
        ValueError, TypeError: shapes do not fit, the angles do not allow the method, or fewer than three rows show an
            axis.
    """
    name = "find_centres"
    volume, _ = as_floats(name, "y", y, ndim=3)
    if volume.ndim != 3 or len(volume) < _MIN_ROWS:
        raise ValueError(
            f"{name}: y must be (n_rows, n_angles, n_detectors), 3 rows or more, got {tuple(volume.shape)}"
        )
    if method not in ("auto", "opposite", "wedge"):
        raise ValueError(f'{name}: method must be "auto", "opposite" or "wedge", got {method!r}')
    rows = torch.linspace(0, len(volume) - 1, min(len(volume), _MAX_ROWS)).round().long()
    p, theta = check_scan(name, volume[rows.to(volume.device)], angles)
    window, per_radian = check_window(name, search, p.shape[-1]), check_fan(name, source_origin, origin_detector, pitch)
    pairs, half_turn = opposite_views(theta), half_turn_order(theta)
    if method == "auto":
        method = "opposite" if per_radian is not None else choose(p, pairs, half_turn)
    if (method == "opposite" and pairs is None) or (method == "wedge" and half_turn is None) or method == "moments":
        raise ValueError(
            f"{name}: angles over {math.degrees(float(theta.max() - theta.min())):.4g} degrees do not show the axis of "
            "every row: a full turn, or even steps over half a turn, do; use find_centre on groups of rows"
        )
    if method == "wedge":
        if per_radian is not None:
            raise ValueError(f'{name}: method "wedge" is for parallel beams; of fans, use "opposite"')
        curves = _wedge_curves(p[:, half_turn], window)
    else:
        curves = _opposite_curves(p, theta, window, per_radian)
    line = _best_line(curves, rows)
    found, weight = _own_axes(curves, line)
    return _fit(found, weight, rows, len(volume))


def _opposite_curves(p: Tensor, theta: Tensor, window: Window | None, per_radian: float | None) -> _RowCurves:
    """Return the rows' mismatch of opposite views, in units of each row's own variation."""
    pairs, n = opposite_views(theta), p.shape[-1]
    assert pairs is not None  # checked by the caller
    measured = None
    if per_radian is not None:
        p, known = parallel_directions(p, theta, bin_angles(n, (n - 1) / 2, per_radian))
        measured = None if bool(known.all()) else known
    rows = [register(row[None], pairs, noise_levels(row[None], theta), measured) for row in p]
    bins, k = rows[0].bins, torch.arange(2 * n - 1)
    least = _MIN_BINS if window is not None else max(_MIN_BINS, math.ceil(_MIN_OVERLAP * n))
    allowed = (bins >= least) & (k > 0) & (k < 2 * n - 2)
    if window is not None:
        allowed &= (k >= 2 * window.low) & (k <= 2 * window.high)
    against, variation, noise, expected = (
        torch.stack([getattr(row, field) for row in rows]) for field in ("difference", "variation", "noise", "expected")
    )
    scale = (variation + expected)[:, allowed].amax(1, keepdim=True).clamp(min=1e-300)
    return _RowCurves(
        against / scale, variation / scale, noise / scale, (against + expected + noise) / scale, allowed, 0.0, 2
    )


def _wedge_curves(p: Tensor, window: Window | None) -> _RowCurves:
    """Return the rows' energy outside the double wedge, in units of each row's own median."""
    curves = [outside_wedge(row[None], window) for row in p]
    energy = torch.stack([curve.energy + curve.constant for curve in curves])
    scale = energy.median(1, keepdim=True).values.clamp(min=1e-300)
    energy, nothing = energy / scale, torch.zeros_like(energy)
    return _RowCurves(energy, nothing + 1, nothing, energy, curves[0].allowed, curves[0].first, curves[0].per_bin)


def _best_line(curves: _RowCurves, rows: Tensor) -> Tensor:
    """Return the index of the axis in every row, (rows,), on the line with the least sum over rows."""
    n, reach = curves.against.shape[1], _MAX_SLOPE * float(rows[-1] - rows[0])
    step = max(1, curves.per_bin // 4)
    widest = math.ceil(reach * curves.per_bin)
    place = (rows - rows[0]).double() / float(rows[-1] - rows[0]) - 0.5
    middle, row = torch.arange(n), torch.arange(len(rows))[:, None]
    best, line = math.inf, None
    for rise in range(-widest - widest % step, widest + 1, step):
        index = middle + (rise * place).round().long()[:, None]
        inside = ((index >= 0) & (index < n)).all(0)
        index = index.clamp(0, n - 1)
        inside &= curves.allowed[index].all(0)
        sums = (field[row, index].sum(0) for field in (curves.against, curves.variation, curves.noise))
        excess = torch.where(inside, bounded_excess(*sums), math.inf)
        if float(excess.min()) < best:
            best, line = float(excess.min()), index[:, excess.argmin()]
    if line is None:
        raise no_axis("find_centres", None)
    return line


def _own_axes(curves: _RowCurves, line: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's own axis near the line in bins, NaN: none, and its weight, the inverse variance to a factor."""
    reach, found, weight = math.ceil(_REACH * curves.per_bin), [], []
    shape = curves.against / curves.variation.clamp(min=1e-300)
    for against, valid, residual, at in zip(
        shape, curves.variation > curves.noise, curves.residual, line.tolist(), strict=True
    ):
        low, high = max(at - reach, 1), min(at + reach, len(against) - 2)
        i = low + int(torch.where(valid, against, math.inf)[low : high + 1].argmin())
        left, middle, right = (float(v) for v in against[i - 1 : i + 2])
        bend = left - 2 * middle + right
        if not bool(valid[i]) or i in (low, high) or not bend > 0:
            found.append(math.nan)
            weight.append(0.0)
            continue
        found.append(curves.first + (i + min(max((left - right) / (2 * bend), -0.5), 0.5)) / curves.per_bin)
        weight.append(bend / max(float(residual[i]), 1e-12))
    return torch.tensor(found, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64)


def _fit(found: Tensor, weight: Tensor, rows: Tensor, n_rows: int) -> Centres:
    """Return the weighted biweight line through the rows' own axes."""
    use = found.isfinite()
    if int(use.sum()) < _MIN_ROWS:
        raise ValueError(
            f"find_centres: only {int(use.sum())} of {len(rows)} rows show an axis; give search=(low, high), in bins, "
            "or use find_centre, which takes all rows together"
        )
    r, c, w = rows[use].double(), found[use], weight[use] / weight[use].max()
    basis = torch.stack([torch.ones_like(r), r], 1)
    # Rows of noise have little weight; the scatter is that of the others.
    robust, scale = torch.ones_like(w), 0.0
    for _ in range(20):
        root = (w * robust).sqrt()[:, None]
        line = torch.linalg.lstsq(root * basis, root * c[:, None]).solution[:, 0]
        apart = (c - basis @ line).abs()
        scale = 1.4826 * _weighted_median(apart, w)
        robust = (1 - (apart / (_TUKEY * max(scale, _MIN_SCATTER))).square()).clamp(min=0).square()
        if not bool((robust * w > 0).sum() >= _MIN_ROWS):
            break
    if scale > _MAX_SCATTER:
        warnings.warn(
            f"find_centres: the rows' own axes scatter by {scale:.2g} bins about the line; give search=(low, high), in "
            "bins, or use find_centre, which takes all rows together",
            stacklevel=3,
        )
    every = torch.arange(n_rows, dtype=torch.float64)
    slope = float(line[1])
    return Centres(line[0] + slope * every, slope, math.atan(slope), rows, found, scale)


def _weighted_median(values: Tensor, weight: Tensor) -> float:
    """Return the value in the middle of the weights."""
    order = values.argsort()
    total = weight[order].cumsum(0)
    return float(values[order][int(torch.searchsorted(total, total[-1] / 2))])
