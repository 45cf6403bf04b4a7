"""GLIMPSE: a local network computes the value at a point from the filtered projections around its sinusoid.

For a point q = (X, Y), views v at angles theta_v, and p_v = h * y_v the filtered projections,

    t_v(q) = X cos(theta_v) + Y sin(theta_v)                      the point's sinusoid
    z(q)   = [p_v(t_v(q) + delta_k)] / s,  all views v, taps k    samples around the sinusoid
    f(q)   = W_r z(q) + b_r                                       features
    f(q)  += W_b relu(W_a f(N(q)) + b_a) + b_b   for each block   N(q): 3 x 3 points around q, or q alone
    x(q)   = sum_v w_v p_v(t_v(q)) + s <W_o, f(q)>                filtered back-projection and a correction

after Khorashadizadeh, Debarnot, Liu and Dokmanic (arXiv 2401.00816), whose network is pointwise: blocks of distance
0. Learned are the filter h, the taps delta, the weights w of the views, the networks W and, on request, the geometry:
the angles and the detector's offset. Before training W_o = 0, h is the ramp, w is as in `operators.Radon.fbp`, and x is
filtered back-projection. s is the root mean square of the filtered projections, so that x(a y) = a x(y) for a > 0.

q is any point of the plane; distances of neighbours are in pixels, for any choice of points. Time and memory grow with
the number of points; the measurements are only filtered.

Frame (that of the package's projectors): X = pixel_size (column - (W-1)/2), Y = pixel_size ((H-1)/2 - row), bin b is
centred on t = offset + pitch (b - (n_detectors-1)/2); x is per the unit of pixel_size, y without unit.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor, nn

from denoisers.precision import check_precision, compute_dtype
from denoisers.weight_files import RenamedLayers
from operators.base import check_shape, length
from operators.ct.fourier import ramp, sinc
from operators.ct.view_weights import view_weights

from ..checks import check_number
from . import checks
from .weight_files import read, save

_SAMPLES_PER_BIN = 8
"""Samples per detector bin of the filtered projections, which are linear in between."""
_TILE = 64
"""Side in points of the squares that are evaluated at once."""
_WEIGHT_KEY = "glimpse"


class FilteredViews(NamedTuple):
    """Filtered measurements, from which the values at points are computed."""

    fine: Tensor
    """(B, n_angles, samples): p_v, _SAMPLES_PER_BIN samples per bin, in units of x; zero beyond the detector."""
    scale: Tensor
    """(B,): s."""


class _Block(RenamedLayers):
    """f(q) += W_b relu(W_a f(N(q)) + b_a) + b_b on features (B, features, H, W), valid part.

    Args:
        features, hidden: width of f and of the hidden layer.
        distance: distance of the 3 x 3 neighbours in pixels; 0: a pointwise block.
    """

    former_names: ClassVar = {"gather": "hear", "update": "add"}

    def __init__(self, features: int, hidden: int, distance: int) -> None:
        super().__init__()
        self.distance = distance
        self.gather = nn.Conv2d(features, hidden, 3 if distance else 1, dilation=distance or 1)
        self.update = nn.Conv2d(hidden, features, 1)

    def forward(self, f: Tensor) -> Tensor:
        """Return f after the block, without the border of `distance` points."""
        r = self.distance
        change: Tensor = self.update(self.gather(f).relu())
        return change + f[:, :, r : f.shape[2] - r, r : f.shape[3] - r]


class Glimpse(nn.Module):
    """Network from parallel-beam sinograms (B, 1, n_angles, n_detectors) to images (B, 1, H, W) or values at points.

    Untrained, it is close to `operators.Radon.fbp` on the same geometry. The views' shares of the half turn agree to
    1e-6, the rounding of float32. Images of objects agree to about 1 % in relative norm, those of white noise to 4 %,
    and those from measurements of noise alone to 20 %: the highest frequencies of the detector, the last 5 % of its
    band, are treated differently. Without them such measurements agree to 4 %, too.

    Args:
        shape: (H, W) of the images, pixels.
        angles: (n_angles,), radians, in any order; with `learn_geometry` the initial guess.
        n_detectors: number of bins.
        pitch: distance between bins, in the unit of pixel_size.
        offset: position of the detector's centre on the t axis, in the unit of pixel_size. Projections, and
            the filter's tails, are zero beyond the detector's ends. Where the detector is off the axis and measures
            lines twice, their weights do not add up to one, as they do in `operators.Radon.fbp`.
        pixel_size: side of a pixel, in any unit of length; x is per this unit.
        taps: number of samples around a point's sinusoid in each view; before training one bin apart.
        features, hidden: widths of the features and of the blocks' hidden layers.
        blocks: for each block the distance of its 3 x 3 neighbours in pixels; 0: a pointwise block.
        learn_geometry: whether the angles and the offset are trained.
        precision: "auto" computes the network in bfloat16 where the processor multiplies it natively and y is not
            float64; "float32" and "bfloat16" set the precision.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        angles: Any,
        *,
        n_detectors: int,
        pitch: float = 1.0,
        offset: float = 0.0,
        pixel_size: float = 1.0,
        taps: int = 1,
        features: int = 64,
        hidden: int = 64,
        blocks: tuple[int, ...] = (1, 1, 2, 2, 1),
        learn_geometry: bool = False,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.shape = check_shape("Glimpse", shape)
        angles = checks.as_angles("Glimpse", angles)
        self.n_detectors = _count("n_detectors", n_detectors)
        self.pitch = length("Glimpse", "pitch", pitch)
        self.pixel_size = length("Glimpse", "pixel_size", pixel_size)
        taps, features, hidden = _count("taps", taps), _count("features", features), _count("hidden", hidden)
        if not isinstance(blocks, tuple | list) or any(int(b) != b or b < 0 for b in blocks):
            raise ValueError(f"Glimpse: blocks must be distances in whole pixels, 0 or more, got {blocks!r}")
        checks.check_detector("Glimpse", float(offset), self.n_detectors * self.pitch / 2, self._radius, "offset")
        self.learn_geometry, self.precision = bool(learn_geometry), check_precision("Glimpse", precision)
        self._given = {"angles": angles.tolist(), "offset": float(offset)}
        self.angles = nn.Parameter(angles.float(), requires_grad=self.learn_geometry)
        self.shift = nn.Parameter(torch.tensor(float(offset) / self._radius), requires_grad=self.learn_geometry)
        """The offset over half the image's diagonal: its changes shift rays as far as those of angles."""
        self._period = next_fast_len(2 * self.n_detectors, real=True)
        self.filter = nn.Parameter(ramp(self._period).float())
        self.taps = nn.Parameter(torch.arange(taps) - (taps - 1) / 2)
        shares = view_weights(angles, math.pi).shares
        self.view_weights = nn.Parameter((shares * (len(angles) / math.pi)).float())
        self._hidden = hidden
        self.read = nn.Linear(len(angles) * taps, features)
        self.blocks = nn.ModuleList(_Block(features, hidden, int(d)) for d in blocks)
        self.write = nn.Linear(features, 1, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        """Initialise as He et al. (ICCV 2015), with small blocks and a correction of zero."""
        nn.init.normal_(self.read.weight, std=self.read.in_features**-0.5)
        nn.init.normal_(self.read.bias, std=0.3)
        for b in self._blocks():
            nn.init.kaiming_normal_(b.gather.weight, nonlinearity="relu")
            nn.init.normal_(b.update.weight, std=(0.5 / (len(self.blocks) * b.update.in_channels)) ** 0.5)
            for layer in (b.gather, b.update):
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.write.weight)

    def _blocks(self) -> list[_Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def _radius(self) -> float:
        """Half the image's diagonal, in the unit of pixel_size."""
        return math.hypot(*self.shape) / 2 * self.pixel_size

    @property
    def offset(self) -> Tensor:
        """Position of the detector's centre on the t axis, in the unit of pixel_size."""
        return self.shift * self._radius

    @property
    def reach(self) -> int:
        """Distance in pixels, along rows and columns, of the farthest point whose sinusoid a value depends on."""
        return sum(b.distance for b in self._blocks())

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> Glimpse:
        """Load a .safetensors file of your own, on the CPU, in float32 and frozen (`requires_grad_()` undoes that).

        Raises:
            ValueError: there is no such file, or it is not a weight file of Glimpse.
        """
        return read(name_or_path, cls, _WEIGHT_KEY)

    def save(self, path: str | Path, *, about: dict[str, str] | None = None) -> None:
        """Write a .safetensors file, whole or not at all, in float32; `about` holds further facts for its header.

        Raises:
            ValueError: the file cannot be written; an earlier one remains.
        """
        save(self, path, _WEIGHT_KEY, about=about)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values; the geometry is the initial one, not the learned one."""
        blocks = self._blocks()
        return {
            "shape": list(self.shape),
            "angles": self._given["angles"],
            "n_detectors": self.n_detectors,
            "pitch": self.pitch,
            "offset": self._given["offset"],
            "pixel_size": self.pixel_size,
            "taps": len(self.taps),
            "features": self.read.out_features,
            "hidden": self._hidden,
            "blocks": [b.distance for b in blocks],
            "learn_geometry": self.learn_geometry,
            "precision": self.precision,
        }

    # ---------------------------------------------------------------- computation

    def prepare(self, y: Tensor) -> FilteredViews:
        """Filter the views of y (B, 1, n_angles, n_detectors), averaged over the footprint of a pixel."""
        n, margin = self._period, self._margin() * _SAMPLES_PER_BIN
        k = torch.arange(n // 2 + 1, device=y.device).to(self.filter) * (2 * math.pi / n)  # radians per bin
        along = k * (self.pixel_size / self.pitch)
        pixel = sinc(along * self.angles.cos()[:, None]) * sinc(along * self.angles.sin()[:, None])
        # Linear interpolation between the samples multiplies the spectrum by sinc^2.
        gain = self.filter * pixel / sinc(k / _SAMPLES_PER_BIN).square() * (_SAMPLES_PER_BIN * math.pi / self.pitch)
        spectrum = torch.fft.rfft(y[:, 0].to(self.filter), n=n) * gain
        fine = torch.fft.irfft(spectrum, n=n * _SAMPLES_PER_BIN)[..., : self.n_detectors * _SAMPLES_PER_BIN]
        scale = fine.square().mean((1, 2)).sqrt()
        return FilteredViews(F.pad(fine, (margin, margin)), scale.clamp(min=torch.finfo(scale.dtype).tiny))

    def _margin(self) -> int:
        """Bins of zeros on each side of the detector, so that every tap has a sample."""
        return 2 + math.ceil(float(self.taps.detach().abs().max()))

    def sample(self, views: FilteredViews, points: Tensor) -> tuple[Tensor, Tensor]:
        """Sample the projections around the sinusoids of points.

        Args:
            views: B filtered measurements.
            points: (B or 1, P, 2), X and Y in the unit of pixel_size.

        Returns:
            z (B, P, n_angles, taps), and the filtered back-projection (B, P).
        """
        batch, n_views, samples = views.fine.shape
        cos, sin = self.angles.cos()[:, None], self.angles.sin()[:, None]
        t = points[:, None, :, 0] * cos + points[:, None, :, 1] * sin  # (B or 1, n_angles, P)
        place = (t - self.offset) / self.pitch + ((self.n_detectors - 1) / 2 + self._margin())
        # First the sinusoid itself, for the back-projection, then the taps around it.
        place = (place[..., None] + torch.cat([self.taps.new_zeros(1), self.taps])) * _SAMPLES_PER_BIN
        place = place.clamp(0, samples - 2).flatten(2).expand(batch, -1, -1)
        left = place.detach().floor()
        index = left.long()
        p = torch.lerp(views.fine.gather(2, index), views.fine.gather(2, index + 1), place - left)
        p = p.reshape(batch, n_views, points.shape[1], 1 + len(self.taps))
        fbp = torch.einsum("bvp,v->bp", p[..., 0], self.view_weights) / n_views
        return p[..., 1:].transpose(1, 2) / views.scale[:, None, None, None], fbp

    def patches(self, views: FilteredViews, corners: Tensor, height: int, width: int) -> Tensor:
        """Return values (B, L, height, width) on lattices of pixels with first points (X, Y) corners (B or 1, L, 2)."""
        r = self.reach
        size = (height + 2 * r, width + 2 * r)
        rows, cols = (torch.arange(-r, n - r, device=corners.device).to(corners) * self.pixel_size for n in size)
        steps = torch.stack([cols.expand(size), -rows[:, None].expand(size)], -1)
        z, fbp = self.sample(views, (corners[:, :, None, None] + steps).flatten(1, 3))
        dtype = self.compute_dtype(z)
        f = F.linear(z.flatten(2).to(dtype), self.read.weight.to(dtype), self.read.bias.to(dtype))
        f = f.reshape(-1, *size, f.shape[-1]).permute(0, 3, 1, 2)  # channels_last, fast in convolutions
        with torch.autocast(f.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            for block in self.blocks:
                f = block(f)
        correction = F.linear(f.permute(0, 2, 3, 1).to(fbp.dtype), self.write.weight).reshape(
            len(fbp), -1, height, width
        )
        fbp = fbp.reshape(len(fbp), -1, *size)[:, :, r : r + height, r : r + width]
        return fbp + views.scale[:, None, None, None] * correction

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype of the network's products: "auto" is bfloat16 where that is native; float64 stays."""
        return compute_dtype(x, self.precision)

    # ---------------------------------------------------------------- use

    def forward(self, y: Tensor, shape: tuple[int, int] | None = None, *, coords: Tensor | None = None) -> Tensor:
        """Reconstruct from sinograms y (B, 1, n_angles, n_detectors), image by image and tile by tile.

        Args:
            y: line integrals, float32, or float64 where the model is.
            shape: (h, w), number of samples of the same field of view; None: the model's shape. Its multiples take no
                more time per sample. Other shapes are computed point by point, each with its (2 reach + 1)^2
                neighbours, hundreds of times slower: take the next multiple and interpolate.
            coords: (P, 2), X and Y of points in the unit of pixel_size, in place of shape.

        Returns:
            (B, 1, h, w), or (B, 1, P), per the unit of pixel_size.

        Raises:
            TypeError, ValueError: y does not fit the geometry, or shape or coords are not as above.
        """
        checks.check_sinograms("Glimpse", y, len(self.angles), self.n_detectors, self.angles)
        if shape is not None and coords is not None:
            raise ValueError("Glimpse: give shape or coords, got both")
        if coords is not None:
            points = checks.check_points("Glimpse", coords).to(self.angles)
            return torch.cat([self._at(self.prepare(one[None]), points) for one in y]).to(y.dtype)
        (h, w), (height, width) = check_shape("Glimpse", shape or self.shape), self.shape
        # The centres of h x w samples of the field of view, X and Y in pixels.
        across = (torch.arange(w, device=y.device).double() + 0.5) * (width / w) - width / 2
        up = height / 2 - (torch.arange(h, device=y.device).double() + 0.5) * (height / h)
        if h % height or w % width:
            points = torch.stack([across.repeat(h), up.repeat_interleave(w)], 1) * self.pixel_size
            return self.forward(y, coords=points).reshape(-1, 1, h, w)
        out = y.new_empty(len(y), 1, h, w)
        for k in range(len(y)):
            views = self.prepare(y[k : k + 1])
            # The samples are interleaved lattices of pixels.
            for i, j in product(range(h // height), range(w // width)):
                first = torch.stack([across[j], up[i]]) * self.pixel_size
                self._fill(out[k, :, i :: h // height, j :: w // width], views, first.to(self.angles))
        return out

    def _fill(self, lattice: Tensor, views: FilteredViews, first: Tensor) -> None:
        """Fill a lattice (1, H, W) of pixels, tile by tile, from one measurement; first: X and Y of its first pixel."""
        for r, c in product(range(0, lattice.shape[1], _TILE), range(0, lattice.shape[2], _TILE)):
            tile = lattice[:, r : r + _TILE, c : c + _TILE]
            corner = first + first.new_tensor([c, -r]) * self.pixel_size
            tile.copy_(self.patches(views, corner[None, None], tile.shape[1], tile.shape[2])[0])

    def _at(self, views: FilteredViews, points: Tensor) -> Tensor:
        """Return values (1, 1, P) of one measurement at points (P, 2), each with its neighbourhood."""
        at_once = max(1, _TILE**2 // (2 * self.reach + 1) ** 2)
        parts = [self.patches(views, part[None], 1, 1) for part in torch.split(points, at_once)]
        return torch.cat(parts, 1).reshape(1, 1, -1)

    def extra_repr(self) -> str:
        """Return the geometry in short."""
        return f"{self.shape}, {len(self.angles)} angles, n_detectors={self.n_detectors}, reach={self.reach}"


def _count(name: str, value: Any) -> int:
    """Return a whole number of at least 1."""
    return int(check_number(name, value, above=1, or_equal=True, integer=True, caller="Glimpse"))
