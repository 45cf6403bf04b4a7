"""Let other denoisers in: another value range, another calling convention."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import check_image, check_sigma

__all__ = ["FromDeepinv", "Rescaled"]


class Rescaled:
    """A denoiser made for images in [0, 1], used on images in [low, high].

    D(x, sigma) = low + s D01((x - low)/s, sigma/s) with s = high - low. Unit-free denoisers (MLPatch "gray", TV)
    do not need it.

    Args:
        denoiser: called as denoiser(x, sigma), x in [0, 1].
        low, high: the range of the user's images, in their units.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> None:
        if not callable(denoiser):
            raise TypeError(f"Rescaled: denoiser must be callable D(x, sigma), got {type(denoiser).__name__}")
        if not high > low:
            raise ValueError(f"Rescaled: high must be above low, got low={low}, high={high}")
        self.denoiser, self.low, self.high = denoiser, low, high
        bounds = getattr(denoiser, "sigma_range", None)
        if bounds is not None:
            self.sigma_range = (bounds[0] * (high - low), bounds[1] * (high - low))

    def __repr__(self) -> str:
        return f"Rescaled({self.denoiser!r}, {self.low}, {self.high})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) in [low, high]; sigma in the same units."""
        check_image("Rescaled", x)
        scale = self.high - self.low
        z = self.denoiser((x - self.low) / scale, check_sigma("Rescaled", sigma, x) / scale)
        return self.low + scale * z


class FromDeepinv:
    """A deepinv denoiser on images with another number of channels than it was built for.

    deepinv's denoisers are called as D(x, sigma) and go into `solve` as they are where the channels agree.

    Args:
        denoiser: a `deepinv.models` denoiser.
        channels: channels the network was built for; images with more are denoised channel by channel when
            it is 1, and grey images are repeated when it is 3.
    """

    def __init__(self, denoiser: Callable[..., Tensor], *, channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"FromDeepinv: channels must be 1 or 3, got {channels}")
        self.denoiser, self.channels = denoiser, channels

    def __repr__(self) -> str:
        return f"FromDeepinv({type(self.denoiser).__name__}(...), channels={self.channels})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x."""
        check_image("FromDeepinv", x)
        s = check_sigma("FromDeepinv", sigma, x)
        b, c, h, w = x.shape
        if self.channels == c:
            return self.denoiser(x, s)
        planes = x.reshape(b * c, 1, h, w)
        s = s.repeat_interleave(c)
        if self.channels == 1:
            return self.denoiser(planes, s).reshape(b, c, h, w)
        return self.denoiser(planes.expand(-1, 3, -1, -1), s).mean(1).reshape(b, c, h, w)
