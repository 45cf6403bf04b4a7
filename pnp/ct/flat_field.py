"""The open beam and the dark from frames: spoiled frames dropped, zingers left out, drift followed in time.

A frame of the beam is dropped where it differs from the others by more than drift does: closed shutter, object left in
the beam, saturation. A sample of one frame that its frame's neighbours in time do not share, by 8 standard deviations,
is a zinger, and replaced by the other frames' mean at that pixel: averaged, it would be a ring. Where the times of
frames and views are known, frames without a view between them form a group, which is averaged; between two groups the
beam is interpolated linearly in time, before the first and after the last it is constant.

Axes: frames (..., n_frames, n_detectors), or (n_detectors,); counts (..., n_angles, n_detectors).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import broadcasts, check_number
from .arrays import STD_PER_MAD, UnusableRow, as_floats

_ZINGER_STDS = 8.0
"""Smallest deviation of a zinger from the other frames, in standard deviations, and in units of integer counts."""
_MIN_ZINGER = 0.02
"""Smallest deviation of a zinger, over the other frames."""
_CLOSED, _DRIFT, _SAME = 0.05, 0.3, 0.1
"""Relative levels of frames: below which the shutter was closed; beyond which one frame alone has not drifted; within
which two frames agree."""
_SHAPE, _MAX_SHARE = 0.1, 0.02
"""Relative deviation of a pixel that drift does not explain, and the share of pixels in a good frame that have one."""
_SATURATED, _MIN_PIXELS = 0.05, 100
"""Share of pixels at a frame's largest value that is no chance, and the pixels from which there is one."""
_JUMP, _JUMP_STDS = 3.0, 6.0
"""Mean squared difference of two successive frames that is a jump of the beam, over the median of the others, and its
smallest excess in standard deviations of what noise makes it."""


class Field(NamedTuple):
    """Averaged frames of the beam or of the dark."""

    mean: Tensor  # (..., n_detectors)
    n_frames: int
    variance: Tensor | None  # of one frame, (..., n_detectors); None for a single frame
    dropped: tuple[int, ...] = ()
    at_views: Tensor | None = None  # (..., n_angles, n_detectors); None: the mean, in all views
    share: Tensor | None = None  # variance at each view over that of one frame, (n_angles, 1); None: 1/n_frames

    def in_views(self) -> Tensor:
        """Return the frames' mean at each view, (..., n_angles or 1, n_detectors)."""
        return self.mean.unsqueeze(-2) if self.at_views is None else self.at_views

    def averaged_over(self) -> Tensor | int:
        """Return how many frames, of weight one each, have the variance of `in_views`."""
        return self.n_frames if self.share is None else 1 / self.share


class Photons(NamedTuple):
    """The noise of counts: var(counts) = gain s + variance_e, with s above the dark."""

    gain: float  # counts a photon
    variance_e: float  # of the read-out, in counts^2


class Times(NamedTuple):
    """When frames and views were taken, in one unit, from any origin."""

    frames: Any  # (n_frames,)
    views: Any  # (n_angles,)


def read_field(
    caller: str,
    name: str,
    value: Any,
    counts: Tensor,
    *,
    dark: Field | None = None,
    beam: Tensor | None = None,
    times: Times | None = None,
    ignore: Tensor | None = None,
) -> Field:
    """Average frames (..., n_frames, n_detectors), or take one (n_detectors,), to fit counts.

    Args:
        caller, name: for messages.
        value: the frames.
        counts: (..., n_angles, n_detectors), for their shape and dtype.
        dark: of a beam, to see how bright it is.
        beam: of a dark, the typical counts of the beam: a dark taken with an open shutter is dropped.
        times: None: not known.
        ignore: boolean (..., n_detectors), pixels whose values do not matter.
    """
    t, _ = as_floats(caller, name, value, ndim=1, ignore=ignore)
    frames = t.to(counts) if t.ndim > 1 else t.to(counts)[None]
    shape = (*frames.shape[:-2], frames.shape[-1])
    want = (*counts.shape[:-2], counts.shape[-1])
    if frames.shape[-1] != counts.shape[-1] or not broadcasts(shape, want):
        raise ValueError(
            f"{caller}: {name} must be ({counts.shape[-1]},) or (..., n_frames, {counts.shape[-1]}) and fit counts "
            f"{tuple(counts.shape)}, got {tuple(t.shape)}; the last axis is the detector's, the one before it the "
            "views' or frames': move axes if rows come last"
        )
    if len(want) == 2 and t.ndim == 2 and len(t) == want[0] > 1 and times is None:
        raise ValueError(
            f"{caller}: {name} {tuple(t.shape)} may hold {len(t)} rows or {len(t)} frames; give it all its axes, "
            f"(n_rows, n_frames, n_detectors): {name}[:, None] for rows, {name}[None] for frames"
        )
    taken = None if times is None else _taken(caller, name, times, frames.shape[-2], counts.shape[-2])
    groups = [torch.arange(frames.shape[-2])] if taken is None else _groups(*taken)
    below = None if dark is None else dark.mean
    dropped = sorted(int(g[k]) for g in groups for k in _spoiled(frames[..., g.to(frames.device), :], below, beam))
    if dropped:
        kept = [k for k in range(frames.shape[-2]) if k not in dropped]
        frames = frames[..., kept, :]
        taken = None if taken is None else (taken[0][kept], taken[1])
        listed = ", ".join(map(str, dropped[:8])) + (", ..." if len(dropped) > 8 else "")
        warnings.warn(
            f"{caller}: {len(dropped)} of {len(dropped) + len(kept)} frames of {name} ({listed}) differ from the "
            "others by more than drift, as with a closed shutter, an object in the beam or saturation, and were left "
            f"out; pass {name} without them",
            stacklevel=4,
        )
    if frames.shape[-2] > 1:
        frames = _without_zingers(frames, is_beam=beam is None)
    field = Field(frames.mean(-2), frames.shape[-2], _variance(frames), tuple(dropped))
    return field if taken is None else _in_time(field, frames, *taken)


def check_fields(flats: Field, darks: Field, caller: str) -> None:
    """Refuse a beam that is not above the dark."""
    if not bool((flats.mean != 0).any()):
        raise UnusableRow(f"{caller}: flat is zero everywhere; take the flat field with the beam on, or pass i0")
    if not bool((flats.mean > darks.mean).any()):
        raise UnusableRow(
            f"{caller}: flat must be brighter than dark, got means {float(flats.mean.mean()):.4g} and "
            f"{float(darks.mean.mean()):.4g}; are they exchanged, or is the flat already dark-subtracted?"
        )


def measured_noise(flats: Field, darks: Field, dead: Tensor, photons_per_count: float | None) -> Photons:
    """Return the counts per photon and the variance of the dark in counts."""

    def mean(field: Tensor) -> float:
        shape = np.broadcast_shapes(field.shape, dead.shape)
        return float(field.double().expand(shape)[~dead.expand(shape)].mean())

    alive = not bool(dead.all())
    variance_e = mean(darks.variance) if darks.variance is not None and alive else 0.0
    if photons_per_count is not None:
        gain = 1 / check_number("photons_per_count", photons_per_count, above=0, caller="line_integrals")
        return Photons(gain, variance_e)
    if flats.variance is None or not alive:
        return Photons(1.0, variance_e)
    excess = mean(flats.variance) - variance_e
    if not excess > 0:
        raise UnusableRow(
            "line_integrals: the flats vary no more than the darks, so that the gain cannot be estimated; pass "
            "photons_per_count, or one averaged flat"
        )
    return Photons(excess / mean(flats.mean - darks.mean), variance_e)


# -------------------------------------------------------------------- the parts


def _spoiled(frames: Tensor, dark: Tensor | None, beam: Tensor | None) -> list[int]:
    """Return the indices of frames that differ from the others by more than drift."""
    n = frames.shape[-2]
    if n < 2:
        return []
    above = (frames if dark is None else frames - dark.unsqueeze(-2)).movedim(-2, 0).reshape(n, -1)
    middle = above.median(0).values
    if beam is not None:  # darks
        off = (above - middle).median(1).values.abs() > _SAME * float(beam.median())
        return off.nonzero().flatten().tolist() if n > 2 else []
    # Of two frames, the brighter pixel is the one that nothing covered.
    usual = above.amax(0) if n == 2 else middle
    lit = usual > 0
    if not bool(lit.any()):
        return []
    above, usual = above[:, lit], usual[lit]
    levels = (above / usual).median(1).values
    deviations = (above - levels[:, None] * usual) / usual.sqrt()
    tolerance = _ZINGER_STDS * STD_PER_MAD * deviations.abs().median()
    limit = torch.maximum(tolerance.expand(usual.shape), _SHAPE * levels.median() * usual.sqrt())
    changed = (deviations.abs() > limit).double().mean(1) > _MAX_SHARE
    full = (above == above.amax(1, keepdim=True)).double().mean(1)
    saturated = (full > max(_SATURATED, 3 * float(full.median()))) & (above.shape[1] >= _MIN_PIXELS)
    alone = ((levels[:, None] - levels).abs() < _SAME * levels.abs()[:, None]).sum(1) < 2
    drifted = ((levels - levels.median()).abs() > _DRIFT * levels.median()) & alone
    closed = levels < _CLOSED * levels.max()
    other = (changed | saturated | (drifted & (n > 2))) & ~closed
    # More are no accident: a group of flats at another time, say.
    bad = closed | other if int(other.sum()) <= max(1, n // 4) else closed
    return bad.nonzero().flatten().tolist() if int(bad.sum()) <= n // 2 else []


def _without_zingers(frames: Tensor, *, is_beam: bool) -> Tensor:
    """Replace what a single frame alone has by the mean of the others at that pixel; without such, return frames."""
    n = frames.shape[-2]
    usual = (frames.amin(-2) if n == 2 else frames.median(-2).values).unsqueeze(-2)
    levels = torch.ones_like(frames[..., :1])
    if is_beam:
        ratios = torch.where(usual > 0, frames / torch.where(usual > 0, usual, 1), math.nan)
        levels = ratios.nanmedian(-1, keepdim=True).values.nan_to_num(1.0)
    scale = usual.clamp(min=torch.finfo(frames.dtype).tiny).sqrt() if is_beam else torch.ones_like(usual)
    deviation = frames - levels * usual
    spread = STD_PER_MAD * (deviation / scale).abs().median() * scale
    if n > 3:
        spread = torch.maximum(spread, STD_PER_MAD * deviation.abs().median(-2, keepdim=True).values)
    limit = torch.maximum(_ZINGER_STDS * spread, _MIN_ZINGER * usual.abs())
    if bool((frames == frames.round()).all()):
        limit = limit.clamp(min=_ZINGER_STDS)
    hit = deviation.abs() > limit
    if not bool(hit.any()):
        return frames
    # A beam whose profile changes between two groups of frames differs from the median too, but not from its neighbour.
    level = frames / levels
    step = level.diff(dim=-2).abs() > limit
    before, after = torch.ones_like(hit), torch.ones_like(hit)
    before[..., 1:, :], after[..., :-1, :] = step, step
    hit &= before & after
    rest = torch.where(hit, 0, level).sum(-2, keepdim=True) / (~hit).sum(-2, keepdim=True).clamp(min=1)
    return torch.where(hit, levels * rest, frames)


def _variance(frames: Tensor) -> Tensor | None:
    """Return the variance of one frame from differences of successive ones, without the jumps of the beam."""
    if frames.shape[-2] < 2:
        return None
    squares = frames.double().diff(dim=-2).square()
    if squares.shape[-2] > 2:
        each = squares.movedim(-2, 0).reshape(squares.shape[-2], -1)
        limit = max(_JUMP, 1 + _JUMP_STDS * math.sqrt(2 / each.shape[1])) * each.mean(1).median()
        squares = squares[..., each.mean(1) <= limit, :] if bool((each.mean(1) > limit).any()) else squares
    return squares.mean(-2).to(frames) / 2


def _taken(caller: str, name: str, times: Times, n_frames: int, n_views: int) -> tuple[Tensor, Tensor]:
    """Return the times of frames and views as float64, after a check."""
    taken = []
    for what, value, n in ((f"{name}_times", times.frames, n_frames), ("times", times.views, n_views)):
        array = np.asarray(value.cpu() if isinstance(value, Tensor) else value)
        if array.dtype.kind not in "uif" or array.shape != (n,) or not np.isfinite(array).all():
            raise ValueError(
                f"{caller}: {what} must be {n} finite numbers, one for each of them, got {array.dtype} of shape "
                f"{array.shape}; any unit and origin will do, one for all times"
            )
        taken.append(torch.from_numpy(array.astype(np.float64)))
    return taken[0], taken[1]


def _groups(frame_times: Tensor, view_times: Tensor) -> list[Tensor]:
    """Return the indices of frames that have no view between them, group by group in time."""
    before = torch.searchsorted(view_times.sort().values, frame_times)
    return [(before == k).nonzero().flatten() for k in sorted(set(before.tolist()))]


def _in_time(field: Field, frames: Tensor, frame_times: Tensor, view_times: Tensor) -> Field:
    """Interpolate groups of frames, those without a view between them, to the views' times."""
    groups = _groups(frame_times, view_times)
    if len(groups) == 1:
        return field
    means = torch.stack([frames[..., g.to(frames.device), :].mean(-2) for g in groups], -2)
    at = torch.stack([frame_times[g].mean() for g in groups])
    sizes = torch.tensor([float(len(g)) for g in groups])
    right = torch.searchsorted(at, view_times).clamp(1, len(groups) - 1)
    left = right - 1
    weight = ((view_times - at[left]) / (at[right] - at[left])).clamp(0, 1)
    share = (1 - weight).square() / sizes[left] + weight.square() / sizes[right]
    w = weight[:, None].to(frames)
    beam = (1 - w) * means[..., left.to(frames.device), :] + w * means[..., right.to(frames.device), :]
    return field._replace(at_views=beam, share=share[:, None].to(frames))
