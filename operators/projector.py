"""What the X-ray projectors share: a detector that turns around the image, its units, and the ramp filter of FBP.

The image's frame is X = pixel_size (column - (W-1)/2), Y = pixel_size ((H-1)/2 - row), in any unit of length; x is
attenuation per this unit, y its line integrals averaged over a bin, without unit.
"""

from __future__ import annotations

import math
import operator as op
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from .base import LinearOperator, as_buffer, check_shape

__all__ = ["WINDOWS", "Projector", "bin_samples", "is_smooth", "length", "pixel_spectrum", "view_weights"]

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    # f = |omega| / (the detector's highest frequency), from 0 to 1.
    "ramp": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "cosine": lambda f: torch.cos(math.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * torch.cos(math.pi * f),
    "hann": lambda f: 0.5 + 0.5 * torch.cos(math.pi * f),
}

T = TypeVar("T")


class Projector(LinearOperator):
    """Images (B, C, H, W) to sinograms (B, C, n_angles, n_detectors): geometry, its tables, and how both move.

    Subclasses set `n_detectors` and implement `A`, `A_adjoint` and `fbp`.
    """

    angles: Tensor
    offset: Tensor
    n_detectors: int

    def __init__(
        self, shape: tuple[int, int], angles: Any, *, pitch: float, offset: float | Tensor, pixel_size: float
    ) -> None:
        super().__init__()
        name = type(self).__name__
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
        if span > 4 * math.pi:
            warnings.warn(
                f"{name}: angles span {span:.4g} radians, more than two turns; if they are degrees, use np.deg2rad",
                stacklevel=3,
            )
        self._cache: dict[object, Any] = {}

    def _keep(self, name: str, value: Any) -> None:
        """Register angles or offset: float64, or the caller's own tensor where it wants gradients."""
        caller = type(self).__name__
        value = as_buffer(caller, name, value)
        if not value.requires_grad:
            if value.is_complex() or value.dtype == torch.bool:
                raise TypeError(f"{caller}: {name} must be real numbers, got {value.dtype}")
            device = self.angles.device if name == "offset" else value.device
            value = value.to(device, torch.float64)
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{caller}: {name} must be finite, got {bad} NaN or infinite")
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    def _count(self, n_detectors: Any) -> int:
        """Return the number of bins, checked."""
        try:
            n = op.index(n_detectors)
        except TypeError:
            raise TypeError(f"{type(self).__name__}: n_detectors must be an integer, got {n_detectors!r}") from None
        if n < 1:
            raise ValueError(f"{type(self).__name__}: n_detectors must be at least 1, got {n_detectors}")
        return n

    def _field(self) -> tuple[float, float]:
        """The detector's two ends as distances t of their rays from the axis of rotation, in pixels."""
        raise NotImplementedError

    @property
    def _radius(self) -> float:
        """Half the image's diagonal, in pixels."""
        return math.hypot(*self.shape) / 2

    def _check_field(self) -> None:
        """Refuse a detector none of whose rays meets the image."""
        low, high = self._field()
        if low >= self._radius or high <= -self._radius:
            low, high, radius = (v * self.pixel_size for v in (low, high, self._radius))
            raise ValueError(
                f"{type(self).__name__}: no ray meets the image: the detector's pass the axis at {low:.4g} to "
                f"{high:.4g}, the image reaches to {radius:.4g}; check offset, pitch and pixel_size, in one unit"
            )

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered backprojection of sinograms y (B, C, n_angles, n_detectors): images (B, C, H, W), per unit length.

        Args:
            y: line integrals.
            window: "ramp" (none), "shepp-logan", "cosine", "hamming" or "hann", from least to most smoothing.
        """
        raise NotImplementedError

    def _filtered(self, y: Tensor, window: str, finer: int = 1) -> Tensor:
        """The views of y, ramp-filtered per bin: spatial ramp, linear convolution (Kak and Slaney, eq. 3.61-3.66).

        Args:
            y: (..., bins).
            window: one of WINDOWS.
            finer: samples a bin that are returned, from the first bin's centre on; between the bins by Fourier series.
        """
        if window not in WINDOWS:
            raise ValueError(f"{type(self).__name__}.fbp: window must be one of {sorted(WINDOWS)}, got {window!r}")
        real = torch.promote_types(y.dtype, torch.float32)
        n = next_fast_len(2 * y.shape[-1], real=True)
        t = torch.arange(n, device=y.device, dtype=torch.float64)
        t = torch.minimum(t, n - t)
        ramp = torch.where(t % 2 == 1, -1 / (math.pi * t) ** 2, 0.0)
        ramp[0] = 0.25
        response = torch.fft.rfft(ramp).real * WINDOWS[window](torch.fft.rfftfreq(n, 0.5, device=y.device).double())
        spectrum = torch.fft.rfft(y.to(real), n=n) * (response * finer).to(real)
        fine: Tensor = torch.fft.irfft(spectrum, n=n * finer)
        return fine[..., : finer * y.shape[-1]]

    # ---------------------------------------------------------------- tables

    def _refresh(self) -> bool:
        """Forget every table if an optimizer has moved the geometry; return whether gradients to it are wanted."""
        versions = tuple((id(t), 0 if t.is_inference() else t._version) for t in (self.angles, self.offset))
        if self._cache.get("versions") != versions:
            self._cache = {"versions": versions}
        return torch.is_grad_enabled() and (self.angles.requires_grad or self.offset.requires_grad)

    def _cached(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._cache:
            # Tables outlive this call, whatever its autograd mode.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = make()
        found: T = self._cache[key]
        return found

    # ---------------------------------------------------------------- moving and printing

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projector:
        """Move the geometry, but keep its precision: `.to(torch.float32)` is about data, not about angles."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            after = self._buffers[name]
            if after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        self._cache = {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Plans belong to this process, and copies get leaves, as torch can copy nothing else.
        buffers = {k: b if b is None or b.is_leaf else b.detach() for k, b in self._buffers.items()}
        return {**self.__dict__, "_buffers": buffers, "_cache": {}}

    def _describe(self, *names: str) -> str:
        """Return the constructor call, with these of the attributes."""
        angles = [str(a) for a in self.angles.tolist()]
        if len(angles) > 6:
            angles = [*angles[:2], "...", angles[-1]]
        values = {name: getattr(self, name) for name in names}
        values["offset"] = float(self.offset.detach())
        options = ", ".join(f"{name}={value}" for name, value in values.items())
        return f"{type(self).__name__}({self.shape}, [{', '.join(angles)}], {options})"


def length(caller: str, name: str, value: Any, *, zero: bool = False) -> float:
    """Return a length as a float: positive (or zero, where that is allowed) and finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{caller}: {name} must be a number, got {value!r}") from None
    if not (0 < number < math.inf or (zero and number == 0)):
        raise ValueError(f"{caller}: {name} must be {'non-negative' if zero else 'positive'} and finite, got {value!r}")
    return number


def bin_samples(pitch: float) -> int:
    """Return how many samples a bin of `pitch` pixels needs: at one a pixel and a quarter, y is within 0.5 %."""
    return max(1, math.ceil(pitch - 0.25))


def is_smooth(n: int) -> bool:
    """Whether n has no odd prime factors but 3, 5 and 7."""
    for p in (2, 3, 5, 7):
        while n % p == 0:
            n //= p
    return n == 1


def pixel_spectrum(k_x: Tensor, k_y: Tensor, shape: tuple[int, int]) -> Tensor:
    """Fourier transform of a square pixel at (k_x, k_y), radians per pixel, and the phase from the NUFFT's origin.

    The NUFFT's origin is pixel (H//2, W//2); ours is the centre of the image, half a pixel off for even sizes.
    """
    height, width = shape
    shift_x, shift_y = width // 2 - (width - 1) / 2, height // 2 - (height - 1) / 2
    return sinc(k_x) * sinc(k_y) * torch.exp(1j * (shift_y * k_y - shift_x * k_x))


def sinc(k: Tensor) -> Tensor:
    """Return sin(k/2)/(k/2), with its first and second derivative at 0 too (torch.sinc has a NaN there)."""
    h = k / 2
    small = h.abs() < 1e-2
    series = 1 - h**2 / 6 + h**4 / 120 - h**6 / 5040
    h = torch.where(small, 1.0, h)
    return torch.where(small, series, h.sin() / h)


def view_weights(angles: Tensor, period: float, missing: float = 10.0) -> Tensor:
    """Return each view's share of a circle of angles of this period: trapezoidal, repeated directions sharing theirs.

    A gap of more than `missing` times the median counts as missing views, not as a weight.

    >>> view_weights(torch.tensor([0.0, 0.0, torch.pi / 2]), torch.pi) / torch.pi
    tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    turn = 2**30  # directions are told apart to 3 or 6 nanoradians
    ticks = torch.round(angles.detach().double() / period * turn).long() % turn
    ticks, view, repeats = torch.unique(ticks, return_inverse=True, return_counts=True)
    gaps = torch.diff(ticks, append=ticks[:1] + turn)
    # A wedge without views must not blow up the weights of the two beside it.
    gaps = torch.where(gaps > missing * gaps.median(), gaps.median(), gaps)
    share = (gaps + gaps.roll(1)).double() / (2 * repeats)
    weights: Tensor = (share * (period / turn))[view]
    return weights
