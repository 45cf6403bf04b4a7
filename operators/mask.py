"""Masking, inpainting, flat fields: y = m x, pixel by pixel.

The operator is diagonal, so the data step has a closed form whatever the weights w = 1/noise_std^2:

    h(z, alpha) = (m w y + alpha z) / (m^2 w + alpha).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import LinearOperator, as_buffer, check_images
from .sizes import Sizes

MIN_PIXELS = 32
"""Fewer pixels, measured or not, do not show whether a mask is inverted."""
MAX_PIXELS = 100_000
"""So many pixels are looked at, evenly spread."""


class Mask(LinearOperator):
    """Keep, drop or weight pixels: y = m x; unmeasured pixels of y are 0.

    Args:
        mask: (H, W), (1, H, W), (C, H, W) or (1, C, H, W), bool or finite real >= 0: True or 1 where a pixel is
            measured, 0 where it is not; any other value is the pixel's gain. (H, W) and (1, H, W) accept images with
            any number of channels.
        dimensions: 3 for volumes (B, C, D, H, W): mask then has D as well, (D, H, W) and so on.

    Raises:
        TypeError: mask is neither an array or tensor, nor bool or real floating point.
        ValueError: mask has the wrong number of axes, is negative or not finite, or is 0 everywhere.

    >>> A = Mask(torch.tensor([[True, False], [False, True]]))
    >>> A.A(torch.ones(1, 1, 2, 2))
    tensor([[[[1., 0.],
              [0., 1.]]]])
    """

    mask: Tensor
    y_is_sampled = None

    def __init__(self, mask: Tensor | NDArray[Any], *, dimensions: int = 2) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"Mask: dimensions must be 2 for images or 3 for volumes, got {dimensions!r}")
        self.register_buffer("mask", _check_mask(mask, dimensions))
        self.shape = tuple(self.mask.shape[-dimensions:])

    @property
    def x_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image, (C, D, H, W) of a volume, C the mask's where it has channels."""
        has_channels = self.mask.ndim > len(self.shape) and self.mask.shape[0] > 1
        channels = self.mask.shape[0] if has_channels else "C"
        return (channels, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image's measurements, (C, D, H, W) of a volume's."""
        return self.x_shape

    def A(self, x: Tensor, /) -> Tensor:
        """Mask images x (B, C, H, W) to measurements of the same shape."""
        self._check("A", "x", x)
        return self.mask.to(x.dtype) * x

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the adjoint, which is the operator itself, to y (B, C, H, W)."""
        self._check("A_adjoint", "y", y)
        return self.mask.to(y.dtype) * y

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Multiply images x (B, C, H, W) by m^2."""
        self._check("A_adjoint_A", "x", x)
        return self.mask.to(x.dtype).square() * x

    def data_step(self, y: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return h(z, alpha) = (m w y + alpha z)/(m^2 w + alpha) for any weights w."""
        self._check("data_step", "y", y)
        m, w = self.mask.to(y.dtype), weights.to(y.dtype)
        A_W_y, A_W_A = m * w * y, m.square() * w

        def h(z: Tensor, alpha: Tensor) -> Tensor:
            return (A_W_y + alpha * z) / (A_W_A + alpha)

        return h

    @property
    def y_gain(self) -> Tensor:
        """Gain of each measurement, 0 where it is not measured: the mask."""
        return self.mask

    def concerns(self, y: Tensor) -> list[str]:
        """Return a sentence where y (B, C, H, W) looks as if the mask were inverted.

        That is where most of the measured pixels hold one or two values, as holes that are painted over do, which are
        rare among the pixels that are not measured, and those vary.
        """
        self._check("concerns", "y", y)
        measured = (self.mask != 0).expand(y.shape)
        inside, outside = _some(y[measured]), _some(y[~measured])
        if min(len(inside), len(outside)) < MIN_PIXELS:
            return []
        values, counts = torch.unique(inside, return_counts=True)
        most = values[counts.topk(min(2, len(counts))).indices]
        is_painted = bool(torch.isin(inside, most).float().mean() > 0.5)
        is_new = bool(torch.isin(outside, most).float().mean() < 0.05)
        varies = bool(torch.unique(outside, return_counts=True)[1].max() < 0.5 * len(outside))
        if not (is_painted and is_new and varies):
            return []
        shown = " or ".join(f"{float(v):.4g}" for v in most)
        return [
            f"the mask looks inverted: most pixels of y where it measures are {shown}, and y varies where it does not; "
            "Mask expects 1 where a pixel is measured, cv2.inpaint and scikit-image 1 where it is missing: use ~mask"
        ]

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        volumes = ", dimensions=3" if len(self.shape) == 3 else ""
        return f"mask=<{tuple(self.mask.shape)} {self.mask.dtype}>{volumes}"

    def _check(self, method: str, name: str, x: Tensor) -> None:
        check_images(f"Mask.{method}", name, x, self.x_shape, like=self.mask)


def _some(values: Tensor) -> Tensor:
    """Return the finite ones of at most MAX_PIXELS values."""
    values = values[:: 1 + len(values) // MAX_PIXELS]
    return values[values.isfinite()]


def _check_mask(mask: object, dimensions: int) -> Tensor:
    """Return the operator's own copy of the mask, or raise with what is wrong."""
    m = as_buffer("Mask", "mask", mask)
    if not (m.dtype == torch.bool or m.dtype.is_floating_point):
        raise TypeError(f"Mask: mask must be bool or real floating point, got {m.dtype}; use mask > 0")
    sizes = "H, W" if dimensions == 2 else "D, H, W"
    want = f"({sizes}), (1, {sizes}) or (C, {sizes})"
    if m.ndim == dimensions + 2 and m.shape[0] == 1:
        m = m[0]
    if m.ndim == dimensions + 2 and 0 not in m.shape:
        raise ValueError(
            f"Mask: mask must be the same for all images of a batch, {want}, got "
            f"{tuple(m.shape)}; solve image by image, with Mask(mask[i]) and y[i : i + 1]"
        )
    if m.ndim not in (dimensions, dimensions + 1) or 0 in m.shape:
        remedy = "; give dimensions=3 for a volume" if m.ndim == 5 and dimensions == 2 else ""
        raise ValueError(f"Mask: mask must be {want}, got {tuple(m.shape)}{remedy}")
    if not (torch.isfinite(m) & (m >= 0)).all():
        raise ValueError("Mask: mask must be finite and >= 0, got NaN, infinite or negative values; zero them")
    if not m.any():
        raise ValueError("Mask: mask must keep at least one pixel, got zeros only; is it inverted or empty?")
    return m
