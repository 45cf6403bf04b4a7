"""Detector pixels that do not measure: by their flats and darks, or by their counts in the scan.

A pixel that does not respond gives a constant, or noise from view to view far from what its counts predict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import broadcasts
from .arrays import STD_PER_MAD, as_floats
from .flat_field import Field, Photons, check_fields, read_field

_OUTLIER_STDS = 6.0
"""Largest deviation of a good pixel from its neighbours, in robust standard deviations."""
_MIN_DEFECT = 0.05
"""Smallest deviation of a bad pixel, over its neighbours' beam: its own flat corrects smaller ones."""
_MEDIAN_BINS = 11
"""Bins of the running median with which a pixel is compared."""
_MIN_VIEWS, _MIN_VIEWS_CONSTANT = 40, 8
"""Views from which a bin's noise is known, and from which a constant is no chance."""
_MIN_PHOTONS = 10.0
"""Mean photons of a bin from which a constant is no chance."""
_TOO_QUIET, _QUIET, _TOO_NOISY = 0.1, 0.5, 16.0
"""Variance from view to view: of a dead pixel over the predicted one, of a live one likewise, and of a noisy pixel over
its neighbours' and over the predicted one."""
_LOW_QUANTILE, _STDS_AT_QUANTILE = 0.2, 0.2533
"""Quantile of absolute differences that tells a noisy pixel, and its value in standard deviations of normal noise."""
_MAX_RUN = 3
"""Adjacent pixels that may fail together: more are an object that is the same from all sides, or air."""


def find_bad_pixels(flat: Any, dark: Any = None) -> Any:
    """Return which pixels measure another beam than their neighbours: boolean (n_detectors,) or (..., n_detectors).

    A pixel is bad where its beam, flat - dark, is not positive, or where its beam or its dark differs from the running
    median of 11 neighbours by more than 6 robust standard deviations of such differences and by more than 5 % of the
    beam.

    Args:
        flat: counts of the beam without object, (n_detectors,) or (..., n_flats, n_detectors).
        dark: counts without beam, likewise; None: 0.

    Raises:
        ValueError, TypeError: see `line_integrals`.

    >>> find_bad_pixels(torch.tensor([99.0, 100, 101, 0, 99, 100, 100, 130, 101, 99, 100])).nonzero().flatten().tolist()
    [3, 7]
    """
    f, is_numpy = as_floats("find_bad_pixels", "flat", flat, ndim=1)
    counts = f if f.ndim > 1 else f[None]
    darks = Field(torch.zeros_like(counts[..., 0, :]), 0, None)
    if dark is not None:
        darks = read_field("find_bad_pixels", "dark", dark, counts, beam=f)
    flats = read_field("find_bad_pixels", "flat", f, counts, dark=darks)
    check_fields(flats, darks, "find_bad_pixels")
    found = outlying_pixels(flats.mean, darks.mean)
    return found.cpu().numpy() if is_numpy else found


def as_mask(bad_pixels: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return bad_pixels as a mask (..., n_detectors) for counts (..., n_angles, n_detectors) of this shape."""
    mask = torch.as_tensor(bad_pixels).to(device)
    pixels = (*shape[:-2], shape[-1])
    if mask.dtype != torch.bool or mask.ndim == 0 or not broadcasts(tuple(mask.shape), pixels):
        raise ValueError(
            f"line_integrals: bad_pixels must be boolean and fit {pixels}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}; True marks a pixel to leave out"
        )
    return mask.expand(*mask.shape[:-1], shape[-1])


def outlying_pixels(flat: Tensor, dark: Tensor) -> Tensor:
    """Find pixels that differ from their neighbours in the beam or in the dark: boolean like flat."""
    beam = flat - dark
    dark = dark.expand(beam.shape)
    width = min(_MEDIAN_BINS, beam.shape[-1] - 1 + beam.shape[-1] % 2)  # odd
    around = _running_median(beam, width).clamp(min=0)
    found = beam <= 0
    for frame in (beam, dark):
        deviation = (frame - _running_median(frame, width)).abs()
        spread = STD_PER_MAD * deviation.median(-1, keepdim=True).values
        found = found | ((deviation > _OUTLIER_STDS * spread) & (deviation > _MIN_DEFECT * around))
    return found


def unresponsive_pixels(s: Tensor, f: Tensor, noise: Photons, dead: Tensor) -> Tensor:
    """Return which pixels do not follow the scan: boolean (..., n_detectors).

    The variance from view to view, of second differences over 6, which cancel what is locally linear, is compared with
    the g s + sigma_e^2 that the counts predict. A pixel is dead where it is less than a tenth of that, or where its
    counts are constant, while the nearest others on both sides have half of that or more. At the detector's edge there
    is one side, and the open beam's counts are no sign of a fault. A pixel is too noisy where the variance is 16 times
    the prediction and 16 times that of each of the four pixels around it, in nearly all views: it is taken from the
    fifth of its differences that are smallest, which edges of the object do not enter.

    Args:
        s: counts without dark, (..., n_angles, n_detectors).
        f: the open beam's, broadcasting to s.
        noise: of s.
        dead: boolean (..., n_detectors): pixels that are known to be bad.
    """
    n_views = s.shape[-2]
    none = torch.zeros((*s.shape[:-2], s.shape[-1]), dtype=torch.bool, device=s.device)
    dead = dead.expand(none.shape)
    if n_views < _MIN_VIEWS_CONSTANT:
        return none
    second = s.diff(n=2, dim=-2)
    level = s.mean(-2)
    expected = (noise.gain * level.clamp(min=0) + noise.variance_e).clamp(min=torch.finfo(s.dtype).tiny)
    ratio = second.square().mean(-2) / 6 / expected
    quiet = (s.amax(-2) == s.amin(-2)) & (level > _MIN_PHOTONS * noise.gain)
    if n_views >= _MIN_VIEWS:
        quiet |= (ratio < _TOO_QUIET) & (level > _MIN_PHOTONS * noise.gain)
    open_beam = (level / f.mean(-2).clamp(min=torch.finfo(s.dtype).tiny) - 1).abs() < _MIN_DEFECT
    found = none.clone()
    rows = zip(*(t.reshape(-1, s.shape[-1]) for t in (quiet, ratio > _QUIET, open_beam, dead, found)), strict=True)
    for row in rows:
        _mark_quiet_runs(*row)
    if n_views >= _MIN_VIEWS:
        typical = (second.abs().quantile(_LOW_QUANTILE, dim=-2) / _STDS_AT_QUANTILE).square() / 6
        beside = torch.nn.functional.pad(torch.where(dead | found, 0, typical), (2, 2))
        around = beside.unfold(-1, 5, 1)[..., [0, 1, 3, 4]].amax(-1)
        found |= (typical > _TOO_NOISY * around) & (typical > _TOO_NOISY * expected) & (around > 0)
    return found & ~dead


def _mark_quiet_runs(quiet: Tensor, alive: Tensor, open_beam: Tensor, dead: Tensor, found: Tensor) -> None:
    """Set found where a short run of quiet pixels of one row, (n_detectors,), lies between live ones."""
    n = len(quiet)
    bins = [b for b in quiet.nonzero().flatten().tolist() if not bool(dead[b])]
    for first in bins:
        if first and bool(quiet[first - 1]):
            continue
        last = first
        while last + 1 < n and bool(quiet[last + 1]):
            last += 1
        left, right = (b for b in (first - 1, last + 1))
        inside = left >= 0 and right < n
        sides = all(bool(alive[b]) for b in (left, right) if 0 <= b < n)
        if last - first < _MAX_RUN and sides and (inside or not bool(open_beam[first : last + 1].any())):
            found[first : last + 1] = True


def interpolate(y: Tensor, missing: Tensor) -> Tensor:
    """Interpolate y linearly over missing bins from the nearest others; beyond the last of those, repeat it.

    Args:
        y: (..., n_angles, n_detectors).
        missing: boolean, broadcasting to y.
    """
    if not bool(missing.any()):
        return y
    n = y.shape[-1]
    b = torch.arange(n, device=y.device)
    left = torch.where(missing, -1, b).cummax(-1).values
    right = torch.where(missing, n, b).flip(-1).cummin(-1).values.flip(-1)
    lo, hi = torch.where(left < 0, right, left).clamp(max=n - 1), torch.where(right > n - 1, left, right).clamp(min=0)
    share = ((b - lo) / (hi - lo).clamp(min=1)).to(y)
    lo, hi, share, missing = (t.expand(y.shape) for t in (lo, hi, share, missing))
    return torch.where(missing, (1 - share) * y.gather(-1, lo) + share * y.gather(-1, hi), y)


def _running_median(t: Tensor, width: int) -> Tensor:
    """Return the median over `width` neighbours of the last axis, edges mirrored."""
    half = width // 2
    mirrored = torch.cat([t[..., 1 : half + 1].flip(-1), t, t[..., -half - 1 : -1].flip(-1)], -1)
    return mirrored.unfold(-1, width, 1).median(-1).values
