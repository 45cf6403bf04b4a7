"""Line integrals and their noise from counts.

    y = -log(s/f),   s = counts - dark,   f = flat - dark,

with `flat` the beam without object and `dark` the detector without beam. A detector that gives g counts a photon,
with read-out noise sigma_e, has var(counts) = g s + sigma_e^2; the delta method, derivatives -1/s, 1/f and
1/s - 1/f with respect to counts, flat and dark, gives

    var(y) = (g s + sigma_e^2)/s^2 + (g f + sigma_e^2)/(n_flats f^2) + sigma_e^2/n_darks (1/s - 1/f)^2,

whose first term is that of Thibault, Bouman, Sauer and Hsieh (Proc. SPIE 6065 (2006) 60650X) and, for photons alone,
the 1/counts of penalised weighted least squares (Sauer and Bouman, IEEE Trans. Signal Process. 41 (1993) 534). The
mean s is not known: its measured value takes its place. For rays of a few photons use `Transmission`, which takes no
logarithm. The noise of the flat is the same in all views of a bin; it is counted in
the variance, not as a covariance.

g and sigma_e come from the photon-transfer relation var(flat) - var(dark) = g f (Janesick, Photon Transfer, SPIE 2007),
the variances from differences of successive frames, which a drifting beam does not enter.

Axes: counts and y (..., n_angles, n_detectors); flats and darks (n_detectors,), or (..., n_frames, n_detectors),
averaged over frames. The images of several rows of a detector are (n_rows, n_angles, n_detectors).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import broadcasts, check_number, short
from ..readers import CtScan

_BAD_CHOICES = ("mark", "raise")
_STD_PER_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_OUTLIER_STDS = 6.0
"""Largest deviation of a good pixel from its neighbours, in robust standard deviations."""
_MIN_DEFECT = 0.05
"""Smallest deviation of a bad pixel, over its neighbours' beam: its own flat corrects smaller ones."""
_MIN_BEAM_FRACTION = 1e-3
"""Smallest plausible brightest ray over the open beam: seven attenuation lengths."""
_MEDIAN_BINS = 11
"""Bins of the running median with which a pixel is compared."""


@dataclass(frozen=True)
class LineIntegrals:
    """Line integrals and their noise; `y, noise_std = record.tensors()` gives them as `solve` takes them.

    Attributes:
        y: line integrals (..., n_angles, n_detectors), without unit, finite everywhere; numpy where counts were.
        noise_std: standard deviation of y, of the same shape; infinite where nothing was measured. Weights of
            penalised weighted least squares are noise_std^-2.
        bad_pixels: boolean (..., n_detectors). y there is interpolated from the neighbours.
        n_bad: rays without information: starved ones, and those of bad pixels.
        n_starved: rays of good pixels with no count above the dark. y there, and of fewer counts, is that of half a
            photon, or of half the read-out noise where this is more.
        photons_per_count: 1/g, given or estimated.
        electronic_std: sigma_e in counts, from the darks; 0 where fewer than two were given.
    """

    y: Any = field(repr=False)
    noise_std: Any = field(repr=False)
    bad_pixels: Any = field(repr=False)
    n_bad: int
    n_starved: int
    photons_per_count: float
    electronic_std: float

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Return what `solve` takes: copies of y and noise_std, (n_rows, 1, n_angles, n_detectors) each."""
        y, noise_std = (
            t.to(device, copy=True) if isinstance(t, Tensor) else torch.tensor(t, device=device)
            for t in (self.y, self.noise_std)
        )
        if y.ndim < 4:
            y, noise_std = (t.reshape(-1, 1, *t.shape[-2:]) for t in (y, noise_std))
        return y, noise_std


class _Field(NamedTuple):
    """Averaged frames of the beam or of the dark."""

    mean: Tensor  # (..., n_detectors)
    n_frames: int
    variance: Tensor | None  # of one frame, (..., n_detectors); None for a single frame


def line_integrals(
    counts: CtScan | Any,
    flat: Any = None,
    dark: Any = None,
    *,
    i0: float | None = None,
    bad: str = "mark",
    bad_pixels: Any = None,
    photons_per_count: float | None = None,
) -> LineIntegrals:
    """Return line integrals and their noise from raw counts; see the module for the model.

    Args:
        counts: (..., n_angles, n_detectors), raw: not yet dark-subtracted. numpy or torch, integers or floats;
            float64 stays so, everything else becomes float32. Or a `CtScan` of counts, with its flat and dark.
        flat: counts of the beam without object, (n_detectors,) or (..., n_flats, n_detectors). Not with i0.
        dark: counts without beam, likewise. None: 0.
        i0: expected counts of the open beam, in place of a measured flat. Exactly one of flat and i0.
        bad: "mark": bad pixels and rays without counts get an infinite noise_std; "raise": they are an error.
        bad_pixels: boolean (n_detectors,) or (..., n_detectors). None: `find_bad_pixels(flat, dark)`, none for i0.
        photons_per_count: 1/g. None: estimated from two flats or more, else 1.

    Raises:
        ValueError, TypeError: shapes or values do not fit, nothing was measured, or `bad="raise"` found something.

    >>> record = line_integrals(torch.tensor([[80.0, 50.0, 0.0]]), i0=100.0)
    >>> record.n_bad, [round(v, 3) for v in record.y[0].tolist()], [round(v, 3) for v in record.noise_std[0].tolist()]
    (1, [0.223, 0.693, 5.298], [0.112, 0.141, inf])
    """
    if isinstance(counts, CtScan):
        if counts.kind != "counts":
            raise ValueError(f"line_integrals: counts must be raw, got a scan of {counts.kind}; use its y as it is")
        flat = counts.flat if flat is None and i0 is None else flat
        dark = counts.dark if dark is None else dark
        counts = counts.y
    c, is_numpy = as_floats("line_integrals", "counts", counts, ndim=2)
    if bad not in _BAD_CHOICES:
        raise ValueError(f"line_integrals: bad must be one of {list(_BAD_CHOICES)}, got {short(repr(bad), 60)}")
    if (flat is None) == (i0 is None):
        raise ValueError("line_integrals: give exactly one of flat, as measured, and i0, the counts of the open beam")
    if i0 is not None:
        check_number("i0", i0, above=0, caller="line_integrals")
        # A number is known exactly, as from infinitely many frames.
        flat_frames = _Field(torch.full((c.shape[-1],), float(i0), dtype=c.dtype, device=c.device), 0, None)
    else:
        flat_frames = _frames("line_integrals", "flat", flat, c)
    dark_frames = _Field(torch.zeros_like(flat_frames.mean), 0, None)
    if dark is not None:
        dark_frames = _frames("line_integrals", "dark", dark, c)
    _check_frames(flat_frames, dark_frames, "line_integrals")
    s, f = c - dark_frames.mean.unsqueeze(-2), (flat_frames.mean - dark_frames.mean).unsqueeze(-2)

    if bad_pixels is not None:
        dead = _as_mask(bad_pixels, c)
    elif i0 is None:
        dead = _outliers(flat_frames.mean, dark_frames.mean)
    else:
        dead = torch.zeros(c.shape[-1], dtype=torch.bool, device=c.device)
    dead = dead | (f.squeeze(-2) <= 0)
    blind = dead.unsqueeze(-2).expand(c.shape)
    starved = (s <= 0) & ~blind
    n_bad, n_starved = int((blind | starved).sum()), int(starved.sum())
    if bad == "raise" and n_bad:
        raise ValueError(
            f"line_integrals: expected counts above the dark on every ray, got {int(dead.sum())} bad pixels and "
            f'{n_starved} other rays without counts; use bad="mark" to give them no weight'
        )
    seen = ~(blind | starved)
    if not bool(seen.any()):
        raise ValueError(
            "line_integrals: no ray has counts above the dark on a good pixel; check that counts, flat and dark "
            "are raw, in the same unit and not exchanged"
        )

    gain, variance_e = _gain(flat_frames, dark_frames, dead, photons_per_count)
    check_open_beam("line_integrals", s, f, seen)
    # The logarithm of less than half a photon, or of what the read-out noise hides, would be noise without bound.
    s, f = s.clamp(min=0.5 * max(gain, math.sqrt(variance_e))), torch.where(f > 0, f, 1)
    y = _interpolate_dead((f / s).log(), dead)
    # Relative variances, so that squares of large counts stay in range.
    relative = gain / s + variance_e / s / s
    if flat_frames.n_frames:
        relative = relative + (gain / f + variance_e / f / f) / flat_frames.n_frames
    if dark_frames.n_frames:
        relative = relative + variance_e / dark_frames.n_frames * (1 / s - 1 / f) ** 2
    std = torch.where(seen, relative.sqrt(), math.inf)
    arrays: list[Any] = [t.cpu().numpy() if is_numpy else t for t in (y, std, dead)]
    return LineIntegrals(arrays[0], arrays[1], arrays[2], n_bad, n_starved, 1 / gain, math.sqrt(variance_e))


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
    flat_frames = _frames("find_bad_pixels", "flat", f, f if f.ndim > 1 else f[None])
    dark_frames = _Field(torch.zeros_like(flat_frames.mean), 0, None)
    if dark is not None:
        dark_frames = _frames("find_bad_pixels", "dark", dark, f if f.ndim > 1 else f[None])
    _check_frames(flat_frames, dark_frames, "find_bad_pixels")
    found = _outliers(flat_frames.mean, dark_frames.mean)
    return found.cpu().numpy() if is_numpy else found


def simulate_counts(line_integrals: Any, i0: Any, *, background: Any = 0.0, generator: torch.Generator) -> Any:
    """Draw photon counts ~ Poisson(i0 exp(-line_integrals) + background), in the shape of line_integrals.

    Args:
        line_integrals: (..., n_angles, n_detectors), without unit.
        i0: expected photons of the open beam per bin, a number or broadcasting.
        background: expected scattered photons and dark counts, a number or broadcasting.
        generator: on the device of line_integrals.

    Raises:
        ValueError, TypeError: i0 or background is negative or not finite, or does not broadcast.

    >>> simulate_counts(torch.zeros(2, 3), 1e4, generator=torch.Generator().manual_seed(0)).mean().round(decimals=-3)
    tensor(10000.)
    """
    y, is_numpy = as_floats("simulate_counts", "line_integrals", line_integrals, ndim=1)
    levels = []
    for name, value in (("i0", i0), ("background", background)):
        level = torch.as_tensor(value).to(dtype=y.dtype, device=y.device)
        if not bool((level.isfinite() & (level >= 0)).all()) or not broadcasts(tuple(level.shape), tuple(y.shape)):
            raise ValueError(
                f"simulate_counts: {name} must be finite, >= 0 and broadcast to line_integrals {tuple(y.shape)}, "
                f"got shape {tuple(level.shape)} with a minimum of {float(level.min()):.4g}"
            )
        levels.append(level)
    drawn = torch.poisson(levels[0] * torch.exp(-y) + levels[1], generator=generator)
    return drawn.cpu().numpy() if is_numpy else drawn


# -------------------------------------------------------------------- the parts


def as_floats(caller: str, name: str, value: Any, *, ndim: int) -> tuple[Tensor, bool]:
    """Return finite values as float32 or float64 with at least ndim axes, and whether they came as a numpy array."""
    is_numpy = not isinstance(value, Tensor)
    if is_numpy:
        array = np.asarray(value)
        if array.dtype.kind not in "uif":
            raise TypeError(f"{caller}: {name} must hold numbers, got {array.dtype}; use np.asarray({name}, float)")
        double = array.dtype.kind == "f" and array.dtype.itemsize == 8
        value = torch.from_numpy(array.astype(np.float64 if double else np.float32, order="C"))
    elif value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{caller}: {name} must hold real numbers, got {value.dtype}; use {name}.float()")
    t: Tensor = value.detach().to(torch.float64 if value.dtype == torch.float64 else torch.float32)
    if t.ndim < ndim or t.numel() == 0:
        want = "(..., n_angles, n_detectors)" if ndim == 2 else "(..., n_detectors)"
        raise ValueError(f"{caller}: {name} must be {want} and not empty, got shape {tuple(t.shape)}")
    if not bool(t.isfinite().all()):
        n = int((~t.isfinite()).sum())
        raise ValueError(
            f"{caller}: {name} must be finite, got NaN or infinity in {n} of {t.numel()} values; set them to 0 in "
            "counts, which gives them no weight, and drop such frames of flat or dark"
        )
    return t, is_numpy


def _frames(caller: str, name: str, value: Any, counts: Tensor) -> _Field:
    """Average frames (..., n_frames, n_detectors), or take one (n_detectors,), to fit counts."""
    t, _ = as_floats(caller, name, value, ndim=1)
    frames = t.to(counts) if t.ndim > 1 else t.to(counts)[None]
    shape = (*frames.shape[:-2], frames.shape[-1])
    want = (*counts.shape[:-2], counts.shape[-1])
    if frames.shape[-1] != counts.shape[-1] or not broadcasts(shape, want):
        raise ValueError(
            f"{caller}: {name} must be ({counts.shape[-1]},) or (..., n_frames, {counts.shape[-1]}) and fit counts "
            f"{tuple(counts.shape)}, got {tuple(t.shape)}; the last axis is the detector's, the one before it the "
            "views' or frames': move axes if rows come last"
        )
    if len(want) == 2 and t.ndim == 2 and len(t) == want[0] > 1:
        raise ValueError(
            f"{caller}: {name} {tuple(t.shape)} may hold {len(t)} rows or {len(t)} frames; give it all its axes, "
            f"(n_rows, n_frames, n_detectors): {name}[:, None] for rows, {name}[None] for frames"
        )
    n = frames.shape[-2]
    variance = frames.double().diff(dim=-2).square().mean(-2).to(counts) / 2 if n > 1 else None
    return _Field(frames.mean(-2), n, variance)


def check_open_beam(caller: str, counts: Tensor, open_beam: Tensor, seen: Tensor) -> None:
    """Refuse counts above the open beam's, and warn of counts that are nowhere near it.

    Args:
        caller: beginning of messages.
        counts: without background.
        open_beam: expected counts without an object; broadcasts to counts.
        seen: boolean, which of them count.
    """
    open_beam = open_beam.expand(counts.shape)
    counted, expected = float(counts[seen].double().sum()), float(open_beam[seen].double().sum())
    if counted > 1.05 * expected + 10 * expected**0.5:
        raise ValueError(
            f"{caller}: counts must be what is left of the open beam, got {counted:.4g} in all of {expected:.4g}; "
            "counts and flat, or i0, must be in one unit, with one exposure time"
        )
    brightest = float((counts[seen] / open_beam[seen]).max())
    if brightest < _MIN_BEAM_FRACTION:
        warnings.warn(
            f"{caller}: the brightest ray has {brightest:.2g} of the open beam; are these counts, and in the unit of "
            "the flat or i0? Line integrals are not counts",
            stacklevel=4,
        )


def _check_frames(flat_frames: _Field, dark_frames: _Field, caller: str) -> None:
    if not bool((flat_frames.mean != 0).any()):
        raise ValueError(f"{caller}: flat is zero everywhere; take the flat field with the beam on, or pass i0")
    if not bool((flat_frames.mean > dark_frames.mean).any()):
        raise ValueError(
            f"{caller}: flat must be brighter than dark, got means {float(flat_frames.mean.mean()):.4g} and "
            f"{float(dark_frames.mean.mean()):.4g}; are they exchanged, or is the flat already dark-subtracted?"
        )


def _as_mask(bad_pixels: Any, counts: Tensor) -> Tensor:
    mask = torch.as_tensor(bad_pixels).to(counts.device)
    shape = (*counts.shape[:-2], counts.shape[-1])
    if mask.dtype != torch.bool or mask.ndim == 0 or not broadcasts(tuple(mask.shape), shape):
        raise ValueError(
            f"line_integrals: bad_pixels must be boolean and fit {shape}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}; True marks a pixel to leave out"
        )
    return mask.expand(*mask.shape[:-1], counts.shape[-1])


def _gain(
    flat_frames: _Field, dark_frames: _Field, dead: Tensor, photons_per_count: float | None
) -> tuple[float, float]:
    """Return the counts per photon and the variance of the dark in counts."""

    def mean(field: Tensor) -> float:
        return float(field.double()[..., ~dead.reshape(-1, dead.shape[-1]).any(0)].mean())

    alive = not bool(dead.reshape(-1, dead.shape[-1]).any(0).all())
    variance_e = mean(dark_frames.variance) if dark_frames.variance is not None and alive else 0.0
    if photons_per_count is not None:
        return 1 / check_number("photons_per_count", photons_per_count, above=0, caller="line_integrals"), variance_e
    if flat_frames.variance is None or not alive:
        return 1.0, variance_e
    excess = mean(flat_frames.variance) - variance_e
    if not excess > 0:
        raise ValueError(
            "line_integrals: the flats vary no more than the darks, so that the gain cannot be estimated; pass "
            "photons_per_count, or one averaged flat"
        )
    return excess / mean(flat_frames.mean - dark_frames.mean), variance_e


def _running_median(t: Tensor, width: int) -> Tensor:
    """Return the median over `width` neighbours of the last axis, edges mirrored."""
    half = width // 2
    mirrored = torch.cat([t[..., 1 : half + 1].flip(-1), t, t[..., -half - 1 : -1].flip(-1)], -1)
    return mirrored.unfold(-1, width, 1).median(-1).values


def _outliers(flat: Tensor, dark: Tensor) -> Tensor:
    """Find pixels that differ from their neighbours in the beam or in the dark: boolean like flat."""
    beam = flat - dark
    dark = dark.expand(beam.shape)
    width = min(_MEDIAN_BINS, beam.shape[-1] - 1 + beam.shape[-1] % 2)  # odd
    around = _running_median(beam, width).clamp(min=0)
    found = beam <= 0
    for frame in (beam, dark):
        deviation = (frame - _running_median(frame, width)).abs()
        spread = _STD_PER_MAD * deviation.median(-1, keepdim=True).values
        found = found | ((deviation > _OUTLIER_STDS * spread) & (deviation > _MIN_DEFECT * around))
    return found


def _interpolate_dead(y: Tensor, dead: Tensor) -> Tensor:
    """Interpolate y over dead bins linearly from the nearest live ones; beyond the last live bin, repeat it."""
    if not bool(dead.any()):
        return y
    n = y.shape[-1]
    b = torch.arange(n, device=y.device)
    left = torch.where(dead, -1, b).cummax(-1).values
    right = torch.where(dead, n, b).flip(-1).cummin(-1).values.flip(-1)
    lo, hi = torch.where(left < 0, right, left).clamp(max=n - 1), torch.where(right > n - 1, left, right).clamp(min=0)
    share = ((b - lo) / (hi - lo).clamp(min=1)).to(y)
    shape = y.shape
    lo, hi, share, dead = (t.unsqueeze(-2).expand(shape) for t in (lo, hi, share, dead))
    return torch.where(dead, (1 - share) * y.gather(-1, lo) + share * y.gather(-1, hi), y)
