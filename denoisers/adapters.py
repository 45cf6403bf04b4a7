"""Adapters for denoisers made for another value range, for one channel, for images only, or for one orientation.

`solve` takes deepinv's denoisers, which are called as D(x, sigma), without an adapter where range and channels agree.
Adapters are modules, so that `.to(device)` moves the wrapped network too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .base import check_image, check_sigma


class _Adapter(nn.Module):
    """Base class of adapters: wraps a denoiser and inherits its sigma_range."""

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(denoiser):
            raise TypeError(f"{type(self).__name__}: denoiser must be callable D(x, sigma), got {denoiser!r}"[:390])
        self.denoiser = denoiser
        bounds: tuple[float, float] | None = getattr(denoiser, "sigma_range", None)
        if bounds is not None:
            self.sigma_range = bounds

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.denoiser!r})"


class Rescaled(_Adapter):
    """A denoiser made for images in [0, 1], used on images in [low, high].

    D(x, sigma) = low + s D01((x - low)/s, sigma/s) with s = high - low. Unit-free denoisers (MLPatch "gray", TV) need
    no such adapter.

    Args:
        denoiser: called as denoiser(x, sigma), x in [0, 1].
        low, high: the range of the user's images, in their units.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> None:
        super().__init__(denoiser)
        if not high > low:
            raise ValueError(f"Rescaled: high must be above low, got low={low}, high={high}")
        self.low, self.high = low, high
        if hasattr(self, "sigma_range"):
            least, largest = self.sigma_range
            self.sigma_range = (least * (high - low), largest * (high - low))

    def __repr__(self) -> str:
        return f"Rescaled({self.denoiser!r}, {self.low}, {self.high})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) in [low, high]; sigma in the same units."""
        check_image("Rescaled", x)
        scale = self.high - self.low
        z = self.denoiser((x - self.low) / scale, check_sigma("Rescaled", sigma, x) / scale)
        return self.low + scale * z


class PerChannel(_Adapter):
    """A denoiser for one channel, used on images of any number of channels, one by one.

    Args:
        denoiser: called as denoiser(x, sigma), x (B, 1, H, W).
    """

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        check_image("PerChannel", x)
        s = check_sigma("PerChannel", sigma, x)
        channels = x.shape[1]
        planes = self.denoiser(x.reshape(-1, 1, *x.shape[2:]), s.repeat_interleave(channels))
        return planes.reshape(x.shape)


class Equivariant(_Adapter):
    """A denoiser averaged over the eight rotations by 90 degrees and reflections: exactly equivariant to them.

    D(x) = 1/8 sum_g g^-1 D0(g x) over the dihedral group, at eight times the cost. Known as self-ensemble (Timofte,
    Rothe and Van Gool, CVPR 2016); it also lowers the error a little.

    Args:
        denoiser: called as denoiser(x, sigma) on images of either orientation; `functools.partial` sets a stride.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(denoiser)
        if hasattr(denoiser, "channels"):
            self.channels = denoiser.channels

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        check_image("Equivariant", x)
        s = check_sigma("Equivariant", sigma, x)
        total = torch.zeros_like(x)
        for turns in range(4):
            for flip in (False, True):
                y = torch.rot90(x, turns, (2, 3))
                z = self.denoiser(y.flip(3) if flip else y, s)
                total = total + torch.rot90(z.flip(3) if flip else z, -turns, (2, 3))
        return total / 8


class SliceWise(_Adapter):
    """A denoiser of images, used on volumes (B, C, nx, ny, nz), slice by slice.

    D(x) is the mean, over the given axes, of D0 applied to all slices across that axis, each at the volume's sigma.
    With one axis slices are independent; all three, at three times the cost, make neighbouring slices agree.

    Args:
        denoiser: called as denoiser(x, sigma) on batches of slices (B n, C, H, W), with a sigma for each.
        axes: the axes of the volume that slices lie across, 0 for x, 1 for y, 2 for z.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], axes: Sequence[int] = (2,)) -> None:
        super().__init__(denoiser)
        self.axes = tuple(axes)
        if not self.axes or len(set(self.axes)) < len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise ValueError(f"SliceWise: axes must be one or more of 0, 1 and 2, each once, got {self.axes}")

    def __repr__(self) -> str:
        return f"SliceWise({self.denoiser!r}, axes={self.axes})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, nx, ny, nz); sigma in units of x, a scalar or one value per volume."""
        if isinstance(x, Tensor) and x.ndim != 5:
            raise ValueError(f"SliceWise: x must be volumes (B, C, nx, ny, nz), got {tuple(x.shape)}")
        check_image("SliceWise", x.flatten(3) if isinstance(x, Tensor) else x)
        s, total = check_sigma("SliceWise", sigma, x), torch.zeros_like(x)
        for axis in self.axes:
            slices = x.movedim(2 + axis, 1)  # (B, n, C, H, W)
            z = self.denoiser(slices.flatten(0, 1), s.repeat_interleave(slices.shape[1]))
            total = total + z.reshape(slices.shape).movedim(1, 2 + axis)
        return total / len(self.axes)
