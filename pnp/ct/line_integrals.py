"""Line integrals and their noise from counts, or from transmissions.

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

Counts, transmissions, line integrals. Counts are what the detector read. Transmissions T = s/f, between 0 and 1, were
divided by the beam already: pass them with i0=1, or as a `CtScan` of kind "transmissions". They do not tell how many
photons they were. With photons_per_count, the photons of the open beam, f = 1 and g = 1/photons_per_count; without it
the noise is fitted to the transmissions themselves, var(T) = a T + b, from second differences along views and bins, and
noise_std follows with g = a, sigma_e^2 = b; how many frames the flat is the mean of is not known, and its noise, which
the views share, is left out. The same is done for counts that cannot be photons: not whole numbers, with
an open beam of 2 or less, as fractions of full scale with one averaged flat. Line integrals, y, need no conversion.

Axes: counts and y (..., n_angles, n_detectors); flats and darks (n_detectors,), or (..., n_frames, n_detectors),
averaged over frames. The images of several rows of a detector are (n_rows, n_angles, n_detectors). Of several frames
those that differ by more than drift are dropped with a warning, and zingers in single frames left out. With times
(n_angles,) of the views and flat_times (n_flats,), in one unit from any origin, such as frame numbers, flats without a
view between them are averaged, and the beam between two such groups is interpolated linearly; darks likewise.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import broadcasts, check_number, short
from ..readers import CtScan
from .arrays import UnusableRow, as_floats
from .bad_pixels import as_mask, interpolate, outlying_pixels, unresponsive_pixels
from .flat_field import Field, Photons, Times, check_fields, measured_noise, read_field
from .transmission_noise import transmission_noise
from .zingers import find_zingers

_CHOICES = {"bad": ("mark", "raise"), "zingers": ("mark", "keep")}
_MIN_BEAM_FRACTION = 1e-3
"""Smallest plausible brightest ray over the open beam: seven attenuation lengths."""
_MANY_CLAMPED = 0.01
"""Share of clamped rays from which there is a warning: low doses have a few, counts in another unit mostly such."""
_MAX_FRACTION = 2.0
"""Open beam up to which values that are not whole numbers are fractions, not photons."""


@dataclass(frozen=True)
class LineIntegrals:
    """Line integrals and their noise; `y, noise_std = record.tensors()` gives them as `solve` takes them.

    Attributes:
        y: line integrals (..., n_angles, n_detectors), without unit, finite everywhere; numpy where counts were.
        noise_std: standard deviation of y, of the same shape; infinite where nothing was measured. Weights of
            penalised weighted least squares are noise_std^-2.
        bad_pixels: boolean (..., n_detectors). y there is interpolated from the neighbours.
        n_bad: rays without information: starved ones, zingers, and those of bad pixels.
        n_starved: rays of good pixels with no count above the dark. y there, and of fewer counts, is that of half a
            photon, or of half the read-out noise where this is more.
        photons_per_count: 1/g, given or estimated; of transmissions, the photons of the open beam.
        electronic_std: sigma_e in counts, from the darks, 0 where fewer than two were given; of transmissions, fitted.
        n_zingers: rays of good pixels that are too high or too low for their neighbours, see `pnp.ct.zingers`. y there
            is interpolated.
        n_clamped: rays with counts above the dark but below half a photon or half the read-out noise, which took
            the place of what was measured.
        n_unresponsive: pixels among bad_pixels that their own counts gave away, not flats or darks.
        dropped_flats, dropped_darks: indices of frames that were left out.
        noise_fitted: whether photons_per_count and electronic_std were fitted to transmissions.
    """

    y: Any = field(repr=False)
    noise_std: Any = field(repr=False)
    bad_pixels: Any = field(repr=False)
    n_bad: int
    n_starved: int
    photons_per_count: float
    electronic_std: float
    n_zingers: int = 0
    n_clamped: int = 0
    n_unresponsive: int = 0
    dropped_flats: tuple[int, ...] = ()
    dropped_darks: tuple[int, ...] = ()
    noise_fitted: bool = False

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Return what `solve` takes: copies of y and noise_std, (n_rows, 1, n_angles, n_detectors) each."""
        y, noise_std = (
            t.to(device, copy=True) if isinstance(t, Tensor) else torch.tensor(t, device=device)
            for t in (self.y, self.noise_std)
        )
        if y.ndim < 4:
            y, noise_std = (t.reshape(-1, 1, *t.shape[-2:]) for t in (y, noise_std))
        return y, noise_std


class _Scan(NamedTuple):
    """What the arguments of `line_integrals` and the fields of a scan say together."""

    counts: Any
    flat: Any
    dark: Any
    i0: float | None
    angles: Any
    times: Any
    flat_times: Any
    dark_times: Any
    are_transmissions: bool


def line_integrals(
    counts: CtScan | Any,
    flat: Any = None,
    dark: Any = None,
    *,
    i0: float | None = None,
    bad: str = "mark",
    bad_pixels: Any = None,
    photons_per_count: float | None = None,
    zingers: str = "mark",
    times: Any = None,
    flat_times: Any = None,
    dark_times: Any = None,
) -> LineIntegrals:
    """Return line integrals and their noise from raw counts or transmissions; see the module for the model.

    Args:
        counts: (..., n_angles, n_detectors), raw: not yet dark-subtracted. numpy or torch, integers or floats;
            float64 stays so, everything else becomes float32. Or a `CtScan` of counts, with its flat, dark and times,
            or of transmissions. NaN is allowed in pixels that bad_pixels names.
        flat: counts of the beam without object, (n_detectors,) or (..., n_flats, n_detectors). Not with i0.
        dark: counts without beam, likewise. None: 0.
        i0: expected counts of the open beam, dark included, in place of a measured flat; 1 for transmissions. Exactly
            one of flat and i0; a scan of transmissions needs neither.
        bad: "mark": bad pixels, zingers and rays without counts get an infinite noise_std; "raise": they are an error.
        bad_pixels: boolean (n_detectors,) or (..., n_detectors). None: `find_bad_pixels(flat, dark)`, none for i0, and
            pixels whose counts do not follow the scan, see `pnp.ct.bad_pixels`.
        photons_per_count: 1/g. None: estimated from two flats or more, fitted to transmissions, else 1.
        zingers: "mark": samples too high or too low for their neighbours in views and bins get an infinite noise_std;
            "keep": they stay as they are, for `LeastSquares(robust=True)` alone to find.
        times: (n_angles,), when the views were taken. None: not known.
        flat_times, dark_times: (n_frames,), likewise; they need times.

    Raises:
        ValueError, TypeError: shapes or values do not fit, nothing was measured, or `bad="raise"` found something.

    Warns:
        UserWarning: frames were dropped, over 1 % of the rays clamped, or counts are nowhere near the open beam's.

    >>> record = line_integrals(torch.tensor([[80.0, 50.0, 0.0]]), i0=100.0)
    >>> record.n_bad, [round(v, 3) for v in record.y[0].tolist()], [round(v, 3) for v in record.noise_std[0].tolist()]
    (1, [0.223, 0.693, 5.298], [0.112, 0.141, inf])
    """
    for name, value in (("bad", bad), ("zingers", zingers)):
        if value not in _CHOICES[name]:
            raise ValueError(
                f"line_integrals: {name} must be one of {list(_CHOICES[name])}, got {short(repr(value), 60)}"
            )
    scan = _unpacked(counts, flat, dark, i0, times, flat_times, dark_times)
    ignore = None if bad_pixels is None else torch.as_tensor(bad_pixels)
    c, is_numpy = as_floats("line_integrals", "counts", scan.counts, ndim=2, ignore=ignore)
    flats, darks = _fields(scan, c, ignore)
    s, f = c - darks.in_views(), flats.in_views() - darks.in_views()
    if bad_pixels is not None:
        dead = as_mask(bad_pixels, tuple(c.shape), c.device)
    elif scan.i0 is None:
        dead = outlying_pixels(flats.mean, darks.mean)
    else:
        dead = torch.zeros(c.shape[-1], dtype=torch.bool, device=c.device)
    dead = dead | (f <= 0).any(-2)
    blind = dead.unsqueeze(-2).expand(c.shape)
    if not bool(((s > 0) & ~blind).any()):
        raise UnusableRow(
            "line_integrals: no ray has counts above the dark on a good pixel; check that counts, flat and dark "
            "are raw, in the same unit and not exchanged"
        )
    noise, is_fitted = _noise(s, f, blind, flats, darks, dead, photons_per_count, scan.are_transmissions)
    n_unresponsive = 0
    if bad_pixels is None:
        silent = unresponsive_pixels(s, f, noise, dead)
        n_unresponsive = int(silent.sum())
        if n_unresponsive:
            dead = dead | silent
            blind = dead.unsqueeze(-2).expand(c.shape)
    found = torch.zeros_like(blind)
    if zingers == "mark":
        found = find_zingers(s, f, noise, blind, scan.angles)
    starved = (s <= 0) & ~blind
    hit = found & ~starved
    lost = blind | starved | hit
    if bad == "raise" and bool(lost.any()):
        raise ValueError(
            f"line_integrals: expected counts above the dark on every ray, got {int(dead.sum())} bad pixels, "
            f'{int(starved.sum())} other rays without counts and {int(hit.sum())} zingers; use bad="mark" to give '
            "them no weight"
        )
    check_open_beam("line_integrals", s, f, ~lost)
    # The logarithm of less than half a photon, or of what the read-out noise hides, would be noise without bound.
    least = 0.5 * max(noise.gain, math.sqrt(noise.variance_e))
    n_clamped = _count_clamped(s, least, ~lost)
    y, std = _log_and_noise(s.clamp(min=least), torch.where(f > 0, f, 1), noise, *(() if is_fitted else (flats, darks)))
    y = interpolate(interpolate(y, dead.unsqueeze(-2)), found)
    std = torch.where(lost, math.inf, std)
    arrays: list[Any] = [t.cpu().numpy() if is_numpy else t for t in (y, std, dead)]
    return LineIntegrals(
        y=arrays[0],
        noise_std=arrays[1],
        bad_pixels=arrays[2],
        n_bad=int(lost.sum()),
        n_starved=int(starved.sum()),
        photons_per_count=1 / noise.gain,
        electronic_std=math.sqrt(noise.variance_e),
        n_zingers=int(hit.sum()),
        n_clamped=n_clamped,
        n_unresponsive=n_unresponsive,
        dropped_flats=flats.dropped,
        dropped_darks=darks.dropped,
        noise_fitted=is_fitted,
    )


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


def _unpacked(
    counts: Any, flat: Any, dark: Any, i0: float | None, times: Any, flat_times: Any, dark_times: Any
) -> _Scan:
    """Take what is not given from the scan, and check what must be given together."""
    angles, are_transmissions = None, False
    if isinstance(counts, CtScan):
        scan = counts
        if scan.kind == "line integrals":
            raise ValueError(f"line_integrals: counts must be raw, got a scan of {scan.kind}; use its y as it is")
        are_transmissions = scan.kind == "transmissions"
        if are_transmissions and (flat is not None or dark is not None):
            raise ValueError(
                "line_integrals: flat and dark must be left out for a scan of transmissions, which were divided by the "
                'beam already; give the scan kind="counts" if they are not'
            )
        if are_transmissions and i0 is None:
            i0 = 1.0
        if flat is None and i0 is None:
            flat, flat_times = scan.flat, scan.flat_times if flat_times is None else flat_times
        if dark is None:
            dark, dark_times = scan.dark, scan.dark_times if dark_times is None else dark_times
        times = scan.times if times is None else times
        counts, angles = scan.y, torch.from_numpy(scan.angles)
        if flat is None and i0 is None:
            raise ValueError(f"line_integrals: the scan has no flats; {_without_flats(scan.y)}")
    if (flat is None) == (i0 is None):
        raise ValueError("line_integrals: give exactly one of flat, as measured, and i0, the counts of the open beam")
    for name, value, frames in (("flat_times", flat_times, flat), ("dark_times", dark_times, dark)):
        if value is not None and (times is None or frames is None):
            raise ValueError(
                f"line_integrals: {name} needs times, those of the views, and {name[:4]}, got "
                f"{'no times' if times is None else f'no {name[:4]}'}; leave it out where they are not known"
            )
    return _Scan(counts, flat, dark, i0, angles, times, flat_times, dark_times, are_transmissions)


def _without_flats(values: Any) -> str:
    """Return what to give with values without an open beam; values in 0..1 may be fractions of it already."""
    low, high = float(values.min()), float(values.max())
    if high > _MAX_FRACTION or bool((values == values.round()).all()):
        return (
            "give i0=, the counts of the open beam, or flat= if there are some; or kind='line integrals' if it is that"
        )
    return (
        f"its values, {low:.3g} to {high:.3g}, may be transmissions, fractions of the open beam: read them with "
        "kind='transmissions', or kind='line integrals' if they are that; or give i0=, the counts of the open beam"
    )


def _fields(scan: _Scan, c: Tensor, ignore: Tensor | None) -> tuple[Field, Field]:
    """Return the open beam and the dark."""
    if scan.i0 is not None:
        check_number("i0", scan.i0, above=0, caller="line_integrals")
        beam = torch.full((c.shape[-1],), float(scan.i0), dtype=c.dtype, device=c.device)
    else:
        beam, _ = as_floats("line_integrals", "flat", scan.flat, ndim=1, ignore=ignore)
    # A number is known exactly, as from infinitely many frames.
    darks = Field(torch.zeros((c.shape[-1],), dtype=c.dtype, device=c.device), 0, None)
    if scan.dark is not None:
        taken = None if scan.dark_times is None else Times(scan.dark_times, scan.times)
        darks = read_field("line_integrals", "dark", scan.dark, c, beam=beam, times=taken, ignore=ignore)
    if scan.i0 is not None:
        flats = Field(beam, 0, None)
    else:
        taken = None if scan.flat_times is None else Times(scan.flat_times, scan.times)
        flats = read_field("line_integrals", "flat", beam, c, dark=darks, times=taken, ignore=ignore)
    check_fields(flats, darks, "line_integrals")
    return flats, darks


def _noise(
    s: Tensor,
    f: Tensor,
    blind: Tensor,
    flats: Field,
    darks: Field,
    dead: Tensor,
    photons_per_count: float | None,
    are_transmissions: bool,
) -> tuple[Photons, bool]:
    """Return the noise of s, and whether it was fitted to s."""
    typical = float(f.expand(s.shape)[~blind].median())
    is_fraction = typical <= _MAX_FRACTION and not bool((s == s.round()).all())
    averaged = flats.variance is None or not bool(flats.variance.any())  # several may be copies of one
    if photons_per_count is None and averaged and (are_transmissions or is_fraction):
        a, b = transmission_noise(s / torch.where(f > 0, f, 1), blind)
        return Photons(a * typical, b * typical**2), True
    return measured_noise(flats, darks, dead, photons_per_count), False


def _count_clamped(s: Tensor, least: float, seen: Tensor) -> int:
    """Return how many measured values are below the least, and warn of many."""
    n = int(((s < least) & seen).sum())
    if n > _MANY_CLAMPED * int(seen.sum()):
        warnings.warn(
            f"line_integrals: {n} of {s.numel()} rays have counts above the dark but less than half a photon or half "
            f"the read-out noise, {least:.3g}, which is taken in their place; if the counts are not photons, pass "
            "photons_per_count; for rays of a few photons use Transmission",
            stacklevel=3,
        )
    return n


def _log_and_noise(s: Tensor, f: Tensor, noise: Photons, *fields: Field) -> tuple[Tensor, Tensor]:
    """Return y = log(f/s) and its standard deviation, with the noise of flats and darks where they are given."""
    # Relative variances, so that squares of large counts stay in range.
    gain, variance_e = noise
    relative = gain / s + variance_e / s / s
    if fields and fields[0].n_frames:
        relative = relative + (gain / f + variance_e / f / f) / fields[0].averaged_over()
    if fields and fields[1].n_frames:
        relative = relative + variance_e / fields[1].averaged_over() * (1 / s - 1 / f) ** 2
    return (f / s).log(), relative.sqrt()


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
