"""MLPatch: every pixel from a small learned patch around it, at any resolution, with flat memory.

    x_hat = y - sigma g(y, sigma)      normalization="unit-free": D(a y + b, a sigma) = a D(y, sigma) + b
    x_hat = unit g(y, sigma)           normalization="absolute": for fields with a scale and a zero of their own

g is a cascade of local stages (`stage.py`), each an MLP on windows read at learned taps, put out as overlapping
patches. The value at a pixel depends on a neighbourhood of `receptive_field` pixels and on nothing else.

Sources: LoFi / MLPatch (Khorashadizadeh et al., arXiv 2411.04995): local MLP on a learned patch; Burger, Schuler
and Harmeling (CVPR 2012): output patches, overlap-averaged; DnCNN (Zhang et al., TIP 2017): noise as output.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..base import check_image, check_sigma
from . import grid
from .stage import Folded, Stage

__all__ = ["ARCHITECTURES", "MLPatch", "StageSpec"]

NORMALIZATIONS = ("unit-free", "absolute")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class StageSpec:
    """Sizes of one stage; see `Stage`."""

    taps: int
    width: int
    depth: int
    features: int = 0
    margin: int = 0
    patch: int = 5
    scales: tuple[int, ...] = (1,)


GRAY_STAGES = (
    StageSpec(taps=11, margin=1, width=384, depth=2, features=12),
    StageSpec(taps=9, width=512, depth=2, features=12),
    StageSpec(taps=9, width=512, depth=3),
)


class MLPatch(nn.Module):
    """Local patch denoiser D(x, sigma) on images (B, channels, H, W) of any size from 1 x 1 up.

    Args:
        channels: image channels, denoised jointly.
        stages: sizes of the local stages, first to last.
        normalization: "unit-free" (photographs, anatomy; any units) or "absolute" (convergence maps).
        unit: scale of the output in the absolute scheme, in units of x.
        level: reference noise level of the absolute scheme, in units of x.
        sigma_range: noise standard deviations accepted, in units of x; (0, inf) for unit-free weights.
        stride: default spacing of the patches, in pixels: 1 is exactly shift-equivariant, larger is faster.
        precision: "auto" computes in bfloat16 where the processor multiplies it natively and x is not float64.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        stages: tuple[StageSpec, ...] = GRAY_STAGES,
        normalization: str = "unit-free",
        unit: float = 1.0,
        level: float = 1.0,
        sigma_range: tuple[float, float] = (0.0, math.inf),
        stride: int = 4,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"MLPatch: normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"MLPatch: precision must be one of {PRECISIONS}, got {precision!r}")
        self.channels, self.specs = channels, tuple(stages)
        self.normalization, self.unit, self.level = normalization, unit, level
        self.sigma_range = (float(sigma_range[0]), float(sigma_range[1]))
        self.precision = precision
        features = [0] + [s.features for s in stages[:-1]] + [channels]
        self.stages = nn.ModuleList(
            Stage(
                channels,
                features[k],
                features[k + 1],
                taps=s.taps,
                margin=s.margin,
                width=s.width,
                depth=s.depth,
                patch=s.patch,
                scales=tuple(s.scales),
            )
            for k, s in enumerate(stages)
        )
        self.stride = self._check_stride(stride)

    @classmethod
    def from_pretrained(cls, name: str = "gray") -> MLPatch:
        """Load weights that come with the package, or a `.safetensors` file of your own by its path.

        Raises:
            ValueError: no such weights; the message lists those there are.
        """
        from .weights import load

        return load(name)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values."""
        return {
            "channels": self.channels,
            "stages": [asdict(s) for s in self.specs],
            "normalization": self.normalization,
            "unit": self.unit,
            "level": self.level,
            "sigma_range": list(self.sigma_range),
            "stride": self.stride,
        }

    def extra_repr(self) -> str:
        """Constructor arguments other than the stages."""
        return (
            f"{self.channels}, normalization={self.normalization!r}, sigma_range={self.sigma_range}, "
            f"stride={self.stride}, precision={self.precision!r}"
        )

    @property
    def receptive_field(self) -> int:
        """Side, in pixels, of the square of input pixels on which one output pixel depends."""
        return 1 + 2 * sum(s.radius + s.patch // 2 for s in self._stages())

    def _stages(self) -> list[Stage]:
        return list(self.stages)  # type: ignore[arg-type]

    def _check_stride(self, stride: int) -> int:
        largest = min(s.patch for s in self._stages())
        if not isinstance(stride, int) or not 1 <= stride <= largest:
            raise ValueError(f"MLPatch: stride must be an integer from 1 to {largest} (the patch), got {stride!r}")
        return stride

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype of the matrix products for input x."""
        if x.dtype == torch.float64:
            return torch.float64
        if self.precision == "auto":
            return torch.bfloat16 if grid.has_fast_bfloat16(x.device) else torch.float32
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    def fold(self, dtype: torch.dtype) -> list[Folded]:
        """All stages' matrices in dtype, taps folded in."""
        return [s.fold(dtype) for s in self._stages()]

    def margins(self, stride: int) -> tuple[int, int]:
        """Input samples needed before and after the output, in each direction."""
        lost = [s.margins(stride) for s in self._stages()]
        return sum(a for a, _ in lost), sum(b for _, b in lost)

    def features(
        self, y: Tensor, sigma: Tensor, stride: int, folded: list[Folded], *, complete: bool = True
    ) -> tuple[Tensor, Tensor | None, int]:
        """Run all stages but the last: image and features cropped to their common part, and its offset in y."""
        offset, f = 0, None
        for k, stage in enumerate(self._stages()[:-1]):
            g, o = stage(y, f, sigma, stride, folded[k], scheme=self.normalization, level=self.level, complete=complete)
            rows, cols = slice(o, o + g.shape[1]), slice(o, o + g.shape[2])
            # Features add up where the widths agree, so that a later stage refines an earlier one.
            f = g + f[:, rows, cols] if f is not None and f.shape[3] == g.shape[3] else g
            y, offset = y[:, rows, cols], offset + o
        return y, f, offset

    def estimate(
        self, y: Tensor, sigma: Tensor, stride: int, folded: list[Folded], *, complete: bool = True
    ) -> tuple[Tensor, int]:
        """Denoise the valid part of y (B, H, W, C); returns it and its offset in y.

        This is what training differentiates; `forward` adds borders, tiles and checks.
        """
        y, f, offset = self.features(y, sigma, stride, folded, complete=complete)
        last = self._stages()[-1]
        g, o = last(y, f, sigma, stride, folded[-1], scheme=self.normalization, level=self.level, complete=complete)
        centre = y[:, o : o + g.shape[1], o : o + g.shape[2]]
        return self.combine(centre, g, sigma), offset + o

    def combine(self, y: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
        """The estimate from the noisy value and the network's output."""
        if self.normalization == "absolute":
            return self.unit * g
        return y - sigma.reshape(-1, *[1] * (y.ndim - 1)) * g

    def forward(self, x: Tensor, sigma: float | Tensor, *, stride: int | None = None, progress: bool = False) -> Tensor:
        """Denoise x (B, C, H, W) with noise of standard deviation sigma, in units of x.

        Args:
            x: noisy images; float32 or float64.
            sigma: a scalar, or one value per image.
            stride: spacing of the patches in pixels, 1 to the patch's side; None: the model's default.
            progress: show a bar of tiles on stderr, for images of many megapixels.

        Raises:
            TypeError, ValueError: x, sigma or stride is not as described; sigma is outside `sigma_range`.
        """
        check_image("MLPatch", x, self.channels)
        s = check_sigma("MLPatch", sigma, x, self.sigma_range)
        stride = self.stride if stride is None else self._check_stride(stride)
        return grid.evaluate(self, x, s, stride, progress=progress)

    def valid(self, x: Tensor, sigma: Tensor, *, stride: int) -> tuple[Tensor, int]:
        """Denoise the part of x (B, C, H, W) that needs no border, and return it with its offset in x.

        This is what training sees: no mirrored samples, and patches at the edge that few others overlap.
        """
        y = x.movedim(1, -1).contiguous()
        z, offset = self.estimate(y, sigma, stride, self.fold(self.compute_dtype(x)), complete=False)
        return z.movedim(-1, 1), offset

    def at(self, x: Tensor, coords: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoised values at continuous coordinates.

        Args:
            x: noisy images (B, C, H, W).
            coords: (N, 2), (row, column) in pixels, (0, 0) at the centre of the first pixel, inside the image.
            sigma: as in `forward`.

        Returns:
            Values (B, C, N). At pixel centres they are those of `forward` with stride=1.
        """
        from .continuous import evaluate_at

        check_image("MLPatch.at", x, self.channels)
        return evaluate_at(self, x, coords, check_sigma("MLPatch.at", sigma, x, self.sigma_range))


ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Photographs and anatomy, any unit: three stages, a field of 41 pixels.
    "gray": {"stages": GRAY_STAGES},
    # Convergence maps, where the noise is ten times the signal: one stage that reads means of 1, 3, 5 and 9 pixels,
    # a field of 93 pixels. Units of convergence.
    "convergence": {
        "stages": (StageSpec(taps=11, width=512, depth=4, scales=(1, 2, 4, 8)),),
        "normalization": "absolute",
        "unit": 0.02,
        "level": 0.05,
        "sigma_range": (0.01, 0.35),
    },
}
"""Constructor arguments of the weight sets that come with the package, by name."""
