"""Base class of the X-ray projectors: a detector that turns around the image, its units, and the ramp filter of FBP.

The image's frame is X = pixel_size (column - (W-1)/2), Y = pixel_size ((H-1)/2 - row), in any unit of length; x is
attenuation per this unit, y its line integrals averaged over a bin, without unit.
"""

from __future__ import annotations

import math
import operator as op
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from ..base import check_shape, length, warn_of_degrees
from ..sizes import Sizes
from .fourier import ramp
from .geometry import MovableGeometry
from .truncation import Ellipse, chords, continued, fit_ellipse, open_ends
from .view_weights import arc_weight, view_weights

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "cosine": lambda f: torch.cos(math.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * torch.cos(math.pi * f),
    "hann": lambda f: 0.5 + 0.5 * torch.cos(math.pi * f),
}
"""Factors on the ramp filter, by name, as functions of f = |omega| / (the detector's highest frequency), 0 to 1."""

MIN_WIDTH, MAX_WIDTH = 1 / 6, 8
"""Plausible widths of a detector over the image's shadow; beyond them lengths are probably in different units."""

_SEAM = 10.0
"""Bins over which the weights of a detector off the axis change from 1/2, where it sees a ray twice, to 1 or 0."""
_MARGIN = 0.05
"""Share of the object's size that an image holds around it."""


def ramp_filtered(
    caller: str, y: Tensor, window: str, finer: int = 1, also: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the ramp-filtered views of y (..., bins), with `finer` samples a bin; see `Projector._filtered`.

    `also` is a further factor, a function of frequencies in cycles per bin.
    """
    if window not in WINDOWS:
        raise ValueError(f"{caller}.fbp: window must be one of {sorted(WINDOWS)}, got {window!r}")
    real = torch.promote_types(y.dtype, torch.float32)
    n = next_fast_len(2 * y.shape[-1], real=True)
    response = ramp(n, y.device) * WINDOWS[window](torch.fft.rfftfreq(n, 0.5, device=y.device).double())
    if also is not None:
        response = response * also(torch.fft.rfftfreq(n, device=y.device).double())
    spectrum = torch.fft.rfft(y.to(real), n=n) * (response * finer).to(real)
    fine: Tensor = torch.fft.irfft(spectrum, n=n * finer)
    return fine[..., : finer * y.shape[-1]]


class Projector(MovableGeometry):
    """Images (B, C, H, W) to sinograms (B, C, n_angles, n_detectors): the geometry and the tables made from it.

    Subclasses set `n_detectors` and implement `A`, `A_adjoint`, `fbp` and `_shadow`.
    """

    shape: tuple[int, int]
    offset: Tensor
    n_detectors: int
    y_is_sampled = True

    def __init__(
        self, shape: tuple[int, int], angles: Any, *, pitch: float, offset: float | Tensor, pixel_size: float
    ) -> None:
        super().__init__()
        name = self._name
        self.shape = check_shape(name, shape)
        self.pitch = length(name, "pitch", pitch)
        self.pixel_size = length(name, "pixel_size", pixel_size)
        self._keep("angles", angles)
        self._keep("offset", offset)
        if self.angles.ndim != 1 or self.angles.numel() == 0:
            got = tuple(self.angles.shape)
            raise ValueError(f"{name}: angles must be a non-empty 1-D array of radians, got shape {got}")
        if self.offset.ndim != 0:
            raise ValueError(f"{name}: offset must be a scalar, got shape {tuple(self.offset.shape)}")
        if self.offset.device != self.angles.device:
            raise ValueError(f"{name}: offset is on {self.offset.device}, angles on {self.angles.device}; move one")
        span = float(self.angles.detach().max() - self.angles.detach().min())
        warn_of_degrees(name, span, stacklevel=3)
        self._cache = {}

    @property
    def y_shape(self) -> Sizes:
        """Sizes (C, n_angles, n_detectors) of an image's sinogram."""
        return ("C", len(self.angles), self.n_detectors)

    def _count(self, n_detectors: Any) -> int:
        """Return the number of bins, checked."""
        try:
            n = op.index(n_detectors)
        except TypeError:
            raise TypeError(f"{self._name}: n_detectors must be an integer, got {n_detectors!r}") from None
        if n < 1:
            raise ValueError(f"{self._name}: n_detectors must be at least 1, got {n_detectors}")
        return n

    def _edges(self) -> tuple[float, float]:
        """Return the detector's two ends on its axis."""
        middle, half = float(self.offset.detach()), self.n_detectors * self.pitch / 2
        return middle - half, middle + half

    def _bins(self) -> Tensor:
        """Return the bins' centres on the detector's axis, (n_detectors,) float64; differentiable in the offset."""
        bins = torch.arange(self.n_detectors, device=self.angles.device, dtype=torch.float64)
        return self.offset.double() + self.pitch * (bins - (self.n_detectors - 1) / 2)

    def _shadow(self) -> tuple[Tensor, Tensor]:
        """Return the two ends of the image's shadow on the detector's axis in each view, (n_angles,) each."""
        raise NotImplementedError

    def _check_field(self) -> None:
        """Raise where no ray meets the image; warn where the detector's width hardly fits it."""
        (low, high), (left, right) = self._edges(), self._shadow()
        name = self._name
        if not bool(((left < high) & (right > low)).any()):
            raise ValueError(
                f"{name}: no ray meets the image: the detector reaches from {low:.4g} to {high:.4g}, the image's "
                f"shadow from {float(left.min()):.4g} to {float(right.max()):.4g}; check offset, pitch and pixel_size, "
                "in one unit"
            )
        share = (high - low) / float((right - left).max())
        if not MIN_WIDTH <= share <= MAX_WIDTH:
            warnings.warn(
                f"{name}: the detector is {share:.3g} times as wide as the image's shadow; are pitch, pixel_size and "
                "distances in one unit?",
                stacklevel=3,
            )

    @property
    def sees_whole_image(self) -> bool:
        """Whether the detector truncates no view of the image, by the geometry alone; see `is_truncated` for y."""
        (low, high), (left, right) = self._edges(), self._shadow()
        return bool(left.min() >= low * (1 + 1e-9)) and bool(right.max() <= high * (1 + 1e-9))

    def _beyond(self) -> tuple[int, int]:
        """Return the numbers of bins to add at both ends of the detector, so that it sees the whole image."""
        (low, high), (left, right) = self._edges(), self._shadow()
        lacking = (low - float(left.min())) / self.pitch, (float(right.max()) - high) / self.pitch
        before, behind = (max(0, math.ceil(n - 1e-9)) for n in lacking)
        return before, behind

    def fbp(self, y: Tensor, window: str = "ramp", extend: bool = True) -> Tensor:
        """Filtered backprojection of sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W), per unit length.

        Every view has its share of the circle; wedges that were not measured stay missing. Gradients do not flow
        through the weights of views and rays.

        Args:
            y: line integrals.
            window: "ramp" (none), "shepp-logan", "cosine", "hamming" or "hann", from least to most smoothing.
            extend: continue truncated views (see `is_truncated`) beyond the detector like those of a uniform ellipse
                that is fitted to them, within the image where this is larger than the field of view. False, and where
                y falls to 0 at the ends of the detector: beyond it, y counts as 0.
        """
        raise NotImplementedError

    # ---------------------------------------------------------------- truncated views

    def is_truncated(self, y: Tensor) -> list[bool]:
        """Whether the object of each image of y (B, C, n_angles, n_detectors) reaches beyond the detector.

        y then does not fall to 0 at an end: its mean over the views and the last 2 % of the bins is above a tenth of
        its largest, in the last bin half as much, and above noise. The short side of a detector off the axis does not
        count in a full turn, which sees it from the other side.
        """
        return [any(ends) for ends in self._open_ends(y)]

    def image_size(self, y: Tensor) -> int:
        """Return how many pixels the side of a square image needs to hold the object; a guess where it is truncated.

        It holds the uniform ellipse that fits the views of y (B, C, n_angles, n_detectors) best, their mean over
        images and channels, with a margin of 5 %. A half-axis is at most 2.5 times the reach of the rays.
        """
        reach = self._ellipse(y.flatten(0, 1).mean(0), None).reach
        return math.ceil(2 * (1 + _MARGIN) * reach / self.pixel_size)

    def _open_ends(self, y: Tensor) -> list[tuple[bool, bool]]:
        seen_twice = self._off_axis and not view_weights(self.angles.detach(), 2 * math.pi).arcs
        low, high = self._edges()
        counts = not (seen_twice and -low < high), not (seen_twice and high < -low)
        found = [open_ends(image.mean(0)) for image in y]
        return [(a and counts[0], b and counts[1]) for a, b in found]

    def _ellipse(self, y: Tensor, largest: float | None) -> Ellipse:
        """Return the ellipse that fits views (n_angles, n_detectors) best."""
        phi, t = (values.detach().cpu().numpy() for values in self._lines(self._bins()))
        return fit_ellipse(y.detach().cpu().double().numpy(), phi, t, largest)

    def _views(self, y: Tensor, rays: Tensor, window: str, ends: tuple[bool, bool], finer: int = 1) -> Tensor:
        """Return the weighted and filtered views of y with the bins of `_beyond`, continued at the ends that are open.

        Args:
            y: (B, C, n_angles, n_detectors).
            rays: weights (n_angles, n_detectors) or (n_angles, 1); beyond the detector, those of its ends.
            window, finer: see `_filtered`.
            ends: whether y does not fall to 0 at the first and the last bin.
        """
        beyond = self._beyond()
        if not any(ends):
            return self._filtered(nn.functional.pad(y * rays, beyond), window, finer)
        # The filter sees what lies farther off, too.
        more = max(*beyond, 2 * self.n_detectors)
        longer = torch.cat([rays[:, :1].expand(-1, more), rays.expand(y.shape[-2:]), rays[:, -1:].expand(-1, more)], 1)
        filtered = self._filtered(self._continued(y, more, ends) * longer, window, finer)
        first, last = more - beyond[0], more + self.n_detectors + beyond[1]
        return filtered[..., finer * first : finer * last]

    def _continued(self, y: Tensor, more: int, ends: tuple[bool, bool]) -> Tensor:
        """Return y with so many bins added at either end, continued at the ends that are open."""
        return continued(y, self._fitted_chords(y, more), ends)

    def _fitted_chords(self, y: Tensor, more: int) -> Tensor:
        """Return the line integrals (n_angles, bins) of the ellipse that fits y, with so many bins at either end."""
        n = self.n_detectors
        bins = torch.arange(-more, n + more, device=self.angles.device, dtype=torch.float64)
        phi, t = self._lines(self.offset.detach().double() + self.pitch * (bins - (n - 1) / 2))
        reach, half = float(t[..., more : more + n].abs().max()), max(self.shape) * self.pixel_size / 2
        ellipse = self._ellipse(y.flatten(0, 1).mean(0), half if half > 1.1 * reach else None)
        return torch.from_numpy(chords(ellipse, phi.cpu().numpy(), t.cpu().numpy())).to(y)

    def _lines(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return direction phi and distance t from the axis of the rays that meet the detector's axis at u (n,).

        They broadcast to (n_angles, n), float64, without gradients: {r: r . (cos phi, sin phi) = t}.
        """
        raise NotImplementedError

    def _redundancy(self, u: Tensor, gamma: Tensor) -> Tensor:
        """Return weights (n_angles, n_detectors) of the rays: the share of the view, split between opposite rays.

        The weights of rays measured twice, from opposite sides, sum to one smoothly (Noo et al., Phys. Med. Biol. 47
        (2002) 2525, eq. 43), so that full and short scans, and detectors off the axis, need no setting.

        Args:
            u: (n_detectors,), where the rays meet the detector's axis.
            gamma: (n_detectors,), their angles to the central ray; the view at angle + pi - 2 gamma has the same line.
        """
        angles = self.angles.detach().double()
        shares, arcs = view_weights(angles, 2 * math.pi)
        mine = arc_weight(angles, arcs, 2 * math.pi)[:, None] * self._side(u)
        opposite = arc_weight(angles[:, None] + math.pi - 2 * gamma, arcs, 2 * math.pi) * self._side(-u)
        return shares[:, None] * mine / (mine + opposite)

    @property
    def _off_axis(self) -> bool:
        """Whether the detector sees a bin or more of the image from one side only."""
        low, high = self._edges()
        return low < 0 < high and abs(high + low) >= self.pitch and not self.sees_whole_image

    def _seam(self, u: Tensor) -> Tensor:
        """Return 0 where the detector sees both u and -u, rising smoothly to 1 at the end of its short side.

        The seam is narrow, since opposite rays average noise only inside it; and no wider than the part of the
        detector that sees rays from one side only, so that the noise grows continuously with the offset. It begins
        with slope 0, except where it fills all that is seen twice: weights across the axis are smoothest then.
        """
        low, high = self._edges()
        short = min(-low, high)
        width = min(_SEAM * self.pitch, short, abs(high + low))
        rise = torch.sin((math.pi / 2) * ((u.abs() - (short - width)) / width).clamp(0, 1))
        return rise if width == short else rise.square()

    def _side(self, u: Tensor) -> Tensor:
        """Return the weight of rays at u: 1, or, for a detector off the axis, falling to 0 at its short end."""
        if not self._off_axis:
            return torch.ones_like(u)
        low, high = self._edges()
        towards_long = u.sign() if -low < high else -u.sign()
        return (1 + towards_long * self._seam(u)) / 2

    def _filtered(self, y: Tensor, window: str, finer: int = 1) -> Tensor:
        """Return the ramp-filtered views of y: spatial ramp, linear convolution (Kak and Slaney, eq. 3.61-3.66).

        Args:
            y: (..., bins).
            window: one of WINDOWS.
            finer: samples returned for each bin, from the first bin's centre on, interpolated by Fourier series.
        """
        return ramp_filtered(self._name, y, window, finer)

    # ---------------------------------------------------------------- printing

    def __repr__(self) -> str:
        """Return the constructor call."""
        angles = [str(a) for a in self.angles.tolist()]
        if len(angles) > 6:
            angles = [*angles[:2], "...", angles[-1]]
        values = {name: getattr(self, name) for name in self.SIZES} | {"offset": float(self.offset.detach())}
        options = ", ".join(f"{name}={value}" for name, value in values.items())
        return f"{self._name}({self.shape}, [{', '.join(angles)}], {options})"
