"""MLPatch: every pixel from a small learned patch around it, at any resolution, with flat memory.

    x_hat = y - sigma clip(g(y / sigma), +-6)      normalization="unit-free": D(a y + b, a sigma) = a D(y, sigma) + b
    x_hat = unit g(y / sigma, log(sigma / level))  normalization="absolute": for fields with a scale and a zero

g reads a patch around every query at learned taps, passes features between neighbouring queries through a few small
MLPs, and writes overlapping patches (`network.py`). The value at a pixel depends only on the `receptive_field` x
`receptive_field` pixels around it. a must be positive, since rectifiers do not commute with a change of sign. Gaussian
noise beyond six sigma does not occur; clipping keeps D(y, sigma) within six sigma of any y, so that D(y, 0) = y.

Sources: LoFi / MLPatch (Khorashadizadeh et al., arXiv 2411.04995): local MLP on a learned patch; Burger, Schuler
and Harmeling (CVPR 2012): overlapping output patches; DnCNN (Zhang et al., TIP 2017): noise as output; FFDNet
(Zhang et al., TIP 2018): depth on a coarser lattice is cheap; Mohan et al. (ICLR 2020): rectifiers and scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import check_image, check_sigma
from ..precision import check_precision, compute_dtype
from ..weight_files import read, save
from .continuous import evaluate_at
from .geometry import window
from .lattices import options_of, stages_of
from .network import Folded, Network
from .tiles import TILE, evaluate

_NORMALIZATIONS = ("unit-free", "absolute")
_NOISE_LIMIT = 6.0
"""Largest noise estimate, in standard deviations."""


class MLPatch(nn.Module):
    """Local patch denoiser D(x, sigma) on images (B, channels, H, W) of any size from 1 x 1 up, or on volumes.

    With dimensions=3 it takes volumes (B, channels, D, H, W) of any size from 1 x 1 x 1 up, and every query gathers its
    26 neighbours; all sizes below are then in voxels. The network counts in voxels and knows nothing of their sides:
    where these differ, structures are compressed along the longer side, and it denoises them as well as it was trained
    on such volumes (`anisotropy` in `pnp.training`). The order of the axes is free.

    Args:
        channels: image channels, denoised jointly.
        dimensions: 2 for images, 3 for volumes.
        taps: the learned taps start as a grid of taps x taps pixels.
        margin: pixels beyond that grid to which the taps may move.
        features: number of features of a query.
        hidden: width of the blocks' hidden layers.
        dilations: for each block, the distance of the neighbours it gathers, in units of `spacing`.
        spacing: distance of neighbouring queries, in pixels. Several lattices are a tuple such as (2, 4, 2), the
            spacing of each stage of blocks: it doubles up to the coarsest lattice and halves back to the first. On the
            way back features are added to those that were left on that lattice. `features`, `hidden` and `dilations`
            are then tuples too, with one entry for each stage: (80, 160, 80), (64, 128, 64), ((1,) * 4,) * 3.
        patch: side of the output patches in pixels, odd, at least the spacing.
        normalization: "unit-free" (photographs, anatomy; any units) or "absolute" (convergence maps).
        unit: scale of the output in the absolute scheme, in units of x.
        level: reference noise level of the absolute scheme, in units of x.
        sigma_range: noise standard deviations accepted, in units of x; (0, inf) for unit-free weights.
        stride: default distance of the queries, in pixels: a divisor of the spacing, or the spacing of a coarser
            lattice, whose finer ones keep their own. The denoiser commutes with shifts by multiples of it: 1 is exactly
            shift-equivariant; None, the coarsest lattice's spacing, is fastest.
        precision: "auto" computes in bfloat16 where the processor multiplies it natively and x is not float64.
    """

    takes_sigma_per_image = takes_any_dtype = True

    def __init__(
        self,
        channels: int = 1,
        *,
        dimensions: int = 2,
        taps: int = 7,
        margin: int = 1,
        features: int | tuple[int, ...] = 80,
        hidden: int | tuple[int, ...] = 64,
        dilations: tuple[int, ...] | tuple[tuple[int, ...], ...] = (1,) * 12,
        spacing: int | tuple[int, ...] = 2,
        patch: int = 5,
        normalization: str = "unit-free",
        unit: float = 1.0,
        level: float = 1.0,
        sigma_range: tuple[float, float] = (0.0, math.inf),
        stride: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if normalization not in _NORMALIZATIONS:
            raise ValueError(f"MLPatch: normalization must be one of {_NORMALIZATIONS}, got {normalization!r}")
        if dimensions not in TILE:
            raise ValueError(f"MLPatch: dimensions must be 2 for images or 3 for volumes, got {dimensions!r}")
        stages = stages_of(spacing, features, hidden, dilations)
        for name, value in {"channels": channels, "taps": taps}.items():
            if value < 1:
                raise ValueError(f"MLPatch: {name} must be at least 1, got {value}")
        if margin < 0:
            raise ValueError(f"MLPatch: margin must be at least 0, got {margin}")
        if patch % 2 == 0 or patch < stages[0].spacing:
            raise ValueError(f"MLPatch: patch must be odd and at least the spacing ({stages[0].spacing}), got {patch}")
        if taps % 2 == 0:
            raise ValueError(f"MLPatch: taps must be odd, got {taps}")
        low, high = sigma_range
        if not 0 <= low < high or (low == 0 and normalization == "absolute"):
            zero = "" if normalization == "unit-free" else ", without 0 in the absolute scheme"
            raise ValueError(f"MLPatch: sigma_range must be 0 <= low < high{zero}, got {sigma_range}")
        self.channels, self.dimensions, self.normalization = channels, dimensions, normalization
        self.unit, self.level = unit, level
        self.sigma_range = (float(sigma_range[0]), float(sigma_range[1]))
        self.precision = check_precision("MLPatch", precision)
        self._sizes: dict[str, Any] = {"taps": taps, "margin": margin, **options_of(stages), "patch": patch}
        zero_sum = normalization == "unit-free"
        self.network = Network(
            channels, dimensions=dimensions, taps=taps, margin=margin, stages=stages, patch=patch, zero_sum=zero_sum
        )
        self.stride = self.network.period if stride is None else self._check_stride(stride)

    @property
    def takes_volumes(self) -> bool:
        """Whether x is a volume (B, C, D, H, W)."""
        return self.dimensions == 3

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "gray") -> MLPatch:
        """Load weights of the package by name, or a `.safetensors` file by its path; frozen, on the CPU.

        Raises:
            ValueError: no such weights, and the message lists the names; or no weight file of MLPatch.
        """
        return read(name_or_path, cls)

    def save(self, path: str | Path, *, about: dict[str, str] | None = None) -> None:
        """Write a .safetensors file, in float16; `about` holds further facts for its header.

        Raises:
            ValueError: the file cannot be written; an earlier file remains.
        """
        save(self, path, about=about)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {
            "channels": self.channels,
            # Files of images are older than volumes, and have no such entry.
            **({"dimensions": self.dimensions} if self.dimensions != 2 else {}),
            **{name: _plain(value) for name, value in self._sizes.items()},
            "normalization": self.normalization,
            "unit": self.unit,
            "level": self.level,
            "sigma_range": list(self.sigma_range),
            "stride": self.stride,
        }

    def extra_repr(self) -> str:
        """Describe the constructor's arguments other than the sizes."""
        volumes = "dimensions=3, " if self.dimensions == 3 else ""
        return (
            f"{self.channels}, {volumes}normalization={self.normalization!r}, sigma_range={self.sigma_range}, "
            f"stride={self.stride}, precision={self.precision!r}"
        )

    @property
    def receptive_field(self) -> int:
        """Side, in pixels, of the square, or in voxels of the cube, of input values on which one value depends."""
        return 1 + 2 * (self.network.reach + self.network.patch // 2)

    def _check_stride(self, stride: int) -> int:
        strides = self.network.strides
        if isinstance(stride, bool) or stride not in strides:
            raise ValueError(f"MLPatch: stride must be one of {strides}, by which its lattices divide, got {stride!r}")
        return int(stride)

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype of the matrix products for input x."""
        return compute_dtype(x, self.precision)

    def fold(self, x: Tensor) -> Folded:
        """Return the network's kernels for input x, taps folded in."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network.fold(x.dtype, self.compute_dtype(x))

    def log_level(self, sigma: Tensor) -> Tensor | None:
        """Return the network's noise-level input log(sigma / level), (B,); None in the unit-free scheme."""
        return None if self.normalization == "unit-free" else torch.log(sigma / self.level)

    def estimate(self, y: Tensor, sigma: Tensor, stride: int, folded: Folded) -> Tensor:
        """Denoise the part of y (B, C, ...) that has all its input, which starts at `network.margins(stride)[0]`.

        Training differentiates this method; `forward` adds borders, tiles and checks.
        """
        # Under autocast the patch would be read in half precision, where its offset does not fit.
        with torch.autocast(y.device.type, enabled=False):
            g = self.network(y, sigma, self.log_level(sigma), stride, folded)
        o = self.network.margins(stride)[0]
        return self.combine(window(y, o, g.shape[2:]), g.to(y.dtype), sigma)

    def combine(self, y: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate from the noisy value and the network's output, whose memory it may take."""
        if self.normalization == "absolute":
            return self.unit * g
        s = sigma.reshape(-1, *[1] * (y.ndim - 1))
        if torch.is_grad_enabled() or g.dtype != y.dtype:
            return y - s * g.clamp(-_NOISE_LIMIT, _NOISE_LIMIT)
        return torch.sub(y, g.clamp_(-_NOISE_LIMIT, _NOISE_LIMIT).mul_(s), out=g)  # of a volume, each copy counts

    def forward(self, x: Tensor, sigma: float | Tensor, *, stride: int | None = None, progress: bool = False) -> Tensor:
        """Denoise x (B, C, H, W), or volumes (B, C, D, H, W), with noise of standard deviation sigma, in units of x.

        Tiles keep the memory independent of the size of x. Where a gradient is wanted, as in training, x is denoised in
        one piece (`requires_grad_(False)` ends that; loaded weights are frozen).

        Args:
            x: noisy images; float32 or float64.
            sigma: a scalar, or one value per image.
            stride: distance of the queries in pixels, as in the constructor; None: the model's default.
            progress: show a bar of tiles on stderr, for images of many megapixels.

        Raises:
            TypeError, ValueError: x, sigma or stride is not as described; sigma is outside `sigma_range`.
        """
        check_image("MLPatch", x, self.channels, self.dimensions)
        s = check_sigma("MLPatch", sigma, x, self.sigma_range)
        stride = self.stride if stride is None else self._check_stride(stride)
        return evaluate(self, x, s, stride, progress=progress)

    def part(self, x: Tensor, sigma: float | Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Denoise a part of x, which sees what lies around it: that part of `forward(x, sigma)`, at its own cost.

        Args:
            x: noisy images (B, C, H, W), or volumes (B, C, D, H, W).
            sigma: as in `forward`.
            starts: first pixel of the part along each axis, multiples of the stride.
            sizes: its sizes.

        Raises:
            TypeError, ValueError: as `forward`; the part is not within x, or not on the lattice.
        """
        check_image("MLPatch.part", x, self.channels, self.dimensions)
        s = check_sigma("MLPatch.part", sigma, x, self.sigma_range)
        spans = list(zip(starts, sizes, x.shape[2:], strict=True))
        if not all(0 <= at < at + size <= n and at % self.stride == 0 for at, size, n in spans):
            raise ValueError(
                f"MLPatch.part: starts must be multiples of the stride {self.stride}, and the part lie within "
                f"{tuple(x.shape[2:])}, got {tuple(starts)} and sizes {tuple(sizes)}"
            )
        return evaluate(self, x, s, self.stride, part=(starts, sizes))

    def valid(self, x: Tensor, sigma: Tensor, *, border: int | None = None) -> tuple[Tensor, int]:
        """Denoise the inside of x (B, C, H, W) or (B, C, D, H, W), sigma (B,); return it and its offset in x.

        Training uses this method, at the largest stride.

        Args:
            x: noisy images.
            sigma: (B,).
            border: pixels that are left out at the edges of x. None: the value of every other pixel has all its input
                in x, as in `forward`. Else features beyond x count as zero, which changes values that depend on them:
                a wide field leaves little of a crop otherwise.
        """
        stride = self.network.period
        if border is not None:
            sizes = [n - n % stride for n in x.shape[2:]]
            if not 0 <= border < min(sizes) / 2:
                raise ValueError(
                    f"MLPatch.valid: border must leave a part of {' x '.join(map(str, sizes))}, got {border}"
                )
            y = window(x, 0, sizes)
            with torch.autocast(x.device.type, enabled=False):
                g = self.network.padded(y, sigma, self.log_level(sigma), self.fold(x))
            return window(self.combine(y, g.to(y.dtype), sigma), border, [n - 2 * border for n in sizes]), border
        return self.estimate(x, sigma, stride, self.fold(x)), self.network.margins(stride)[0]

    def at(self, x: Tensor, coords: Tensor, sigma: float | Tensor) -> Tensor:
        """Return denoised values at continuous coordinates.

        Args:
            x: noisy images (B, C, H, W).
            coords: (N, 2), (row, column) in pixels, (0, 0) at the centre of the first pixel, inside the image.
            sigma: as in `forward`.

        Returns:
            Values (B, C, N). At pixel centres they are those of `forward` with stride=1.
        """
        if self.dimensions != 2:
            raise ValueError("MLPatch.at: dimensions must be 2, got a denoiser of volumes; use it on the voxel grid")
        check_image("MLPatch.at", x, self.channels)
        return evaluate_at(self, x, coords, check_sigma("MLPatch.at", sigma, x, self.sigma_range))


def _plain(value: Any) -> Any:
    """Return tuples as lists, nested ones too: what JSON returns."""
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


# Two lattices at the price of twelve blocks on the finer one: a field of 83 pixels.
_TWO_LATTICES: dict[str, Any] = {
    "taps": 9,
    "margin": 0,
    "features": (80, 160, 80),
    "hidden": (64, 128, 64),
    "dilations": ((1,) * 4,) * 3,
    "spacing": (2, 4, 2),
    "patch": 7,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Photographs and anatomy, any unit: twelve blocks, a field of 61 pixels.
    "gray": {},
    "two-lattices": _TWO_LATTICES,
    "gray-open": _TWO_LATTICES,
    # Two lattices with four times as many multiplications: a field of 127 pixels.
    "gray-hq": {
        "margin": 0,
        "features": (112, 224, 112),
        "hidden": (112, 192, 112),
        "dilations": ((1,) * 6, (1,) * 8, (1,) * 6),
        "spacing": (2, 4, 2),
    },
    "color": {"channels": 3, "features": 96, "hidden": 64},
    # Volumes, any unit: six blocks, a field of 35 voxels, 44 thousand multiply-adds a voxel.
    "volume": {"dimensions": 3, "taps": 5, "features": 48, "hidden": 40, "dilations": (1,) * 6},
    # Convergence maps, where the noise is ten times the signal: neighbours up to sixteen pixels away, a field of
    # 121 pixels. Units of convergence.
    "convergence": {
        "dilations": (1, 1, 2, 4, 8, 4, 4, 2, 1),
        "normalization": "absolute",
        "unit": 0.02,
        "level": 0.05,
        "sigma_range": (0.01, 0.5),
    },
}
"""Constructor arguments of the weight sets that come with the package, by name."""
