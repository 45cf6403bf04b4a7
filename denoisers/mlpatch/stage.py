"""One local stage: windows of the image (and of the features before it) -> MLP -> overlapping output patches.

    p_q   = (window around pixel q) read at learned taps, normalised            (normalize)
    z     = GELU(W_in p_q + b_in);  z <- z + GELU(W_l z + b_l), l = 1..depth    (mlp)
    f(t)  = sum_q w(t-q) patch_q(t-q) / sum_q w(t-q)                            (overlap average)

The query points q lie on a lattice of any stride up to the patch's side. Everything per pixel is a row of a
matrix product; the learned taps are folded into W_in, so the hot path holds no interpolation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import (
    box_blur,
    extract_patches,
    grid_taps,
    lattice_size,
    overlap_add,
    overlap_window,
    scale_radius,
    tap_matrix,
)

__all__ = ["Folded", "Stage", "normalize"]

# Rows of one matrix product in inference: large enough for full speed, small enough for the last-level cache.
ROWS_PER_CHUNK = 8192


class Folded(NamedTuple):
    """A stage's matrices in the dtype of the computation, taps folded in: (weight, bias) of every layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]


def normalize(p: list[Tensor], sigma: Tensor, scheme: str, level: float) -> tuple[list[Tensor], Tensor]:
    """Normalise windows and return them with the network's noise-level input.

    Args:
        p: one tensor (B, a, b, S, S, C) per scale, in units of the image.
        sigma: (B,), noise standard deviation in the same units.
        scheme: "unit-free": subtract the window's mean, divide by s = sqrt(variance + sigma^2), level input
            log(sigma/s + 1e-3); hence D(a x + b, a sigma) = a D(x, sigma) + b.
            "absolute": divide by sigma, level input log(sigma/level).
        level: reference noise level of the absolute scheme, in units of the image.
    """
    s = sigma.reshape(-1, 1, 1, 1, 1, 1)
    if scheme == "absolute":
        shape = (*p[0].shape[:3], 1)
        return [q / s for q in p], torch.log(s / level).reshape(-1, 1, 1, 1).expand(shape)
    mean = p[0].mean((3, 4), keepdim=True)
    centred = [q - mean for q in p]
    scale = (centred[0].square().mean((3, 4, 5), keepdim=True) + s**2).sqrt()
    # A constant window without noise has no scale: it is zero after centring, whatever divides it.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return [q / scale for q in centred], torch.log(s / scale + 1e-3)[..., 0, 0]


class Stage(nn.Module):
    """A local stage; see the module's equations. Sizes in pixels.

    Args:
        image_channels: channels of the image.
        features_in: channels of the features of the stage before, 0 for none.
        features_out: channels this stage puts out.
        taps: the learned taps start as a taps x taps grid.
        margin: how far beyond that grid the taps may move.
        width, depth: width of the MLP and number of its residual layers.
        patch: side of the output patch, odd.
        scales: dilations of the tap grid; each reads the image after a mean over as many pixels.
    """

    def __init__(
        self,
        image_channels: int,
        features_in: int,
        features_out: int,
        *,
        taps: int,
        margin: int,
        width: int,
        depth: int,
        patch: int,
        scales: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        self.image_channels, self.features_in, self.features_out = image_channels, features_in, features_out
        self.patch, self.scales, self.support = patch, scales, taps + 2 * margin
        self.taps = nn.Parameter(grid_taps(taps).repeat(len(scales), 1, 1))
        columns = (image_channels * len(scales) + features_in) * taps**2 + 1
        self.read = nn.Linear(columns, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.write = nn.Linear(width, features_out * patch**2)

    @property
    def radius(self) -> int:
        """How far, in pixels, a patch's input reaches from its centre."""
        return max(d * (self.support // 2) + scale_radius(d) for d in self.scales)

    def incomplete(self, stride: int) -> int:
        """Samples at the start of the output that not all their patches cover, up to a multiple of the stride.

        A multiple, so that cropping them leaves the next stage's lattice where it was in training relative to this
        one's: a sample's quality depends on its place in its patches, and the next stage has learned to expect that.
        """
        return -(-max(0, self.patch - stride) // stride) * stride

    def margins(self, stride: int) -> tuple[int, int]:
        """Samples lost before the first and, at most, after the last complete output sample."""
        half = self.patch // 2
        return self.radius - half + self.incomplete(stride), self.radius + half

    def fold(self, dtype: torch.dtype) -> Folded:
        """Fold the taps into the first layer and cast all layers to dtype.

        Columns of the folded matrix: (scale, row, column, channel) of the image's windows, the level input, then
        (row, column, channel) of the features' windows.
        """
        n, c, m = self.taps.shape[1], self.image_channels, len(self.scales)
        # Folding happens in the parameters' precision, or in double precision where that is asked for.
        wide = dtype if dtype == torch.float64 else self.taps.dtype
        w, taps = self.read.weight.to(wide), self.taps.to(wide)
        image, level, features = torch.split(w, [c * m * n, 1, self.features_in * n], dim=1)  # type: ignore[no-untyped-call]
        parts = []
        for k, w_k in enumerate(image.reshape(-1, m, c, n).unbind(1)):
            parts.append((w_k @ tap_matrix(taps[k], self.support)).transpose(1, 2).flatten(1))
        parts.append(level)
        if self.features_in:
            w_f = features.reshape(-1, self.features_in, n) @ tap_matrix(taps[0], self.support)
            parts.append(w_f.transpose(1, 2).flatten(1))
        layers: list[tuple[Tensor, Tensor]] = [(torch.cat(parts, 1), self.read.bias)]
        layers += [(b.weight, b.bias) for b in self.blocks]  # type: ignore[misc]
        # The output window scales the last layer's rows (output pixel, channel).
        g = overlap_window(self.patch).to(taps)
        v = (g[:, None] * g).reshape(-1, 1).expand(-1, self.features_out).reshape(-1)
        layers.append((self.write.weight * v[:, None], self.write.bias * v))
        return Folded(tuple((a.to(dtype), b.to(dtype)) for a, b in layers))

    def inputs(
        self,
        y: Tensor,
        f: Tensor | None,
        sigma: Tensor,
        stride: int,
        scheme: str,
        level: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Rows (B, a, b, K) of the first matrix product for all lattice points of y (B, H, W, C)."""
        windows = []
        for d in self.scales:
            crop = self.radius - d * (self.support // 2) - scale_radius(d)
            z = y[:, crop : y.shape[1] - crop, crop : y.shape[2] - crop]
            windows.append(extract_patches(box_blur(z, 2 * scale_radius(d) + 1), self.support, stride, d))
        windows, noise = normalize(windows, sigma, scheme, level)
        parts = [p.to(dtype).flatten(3) for p in windows] + [noise.to(dtype)]
        if f is not None:
            crop = self.radius - self.support // 2
            g = f[:, crop : f.shape[1] - crop, crop : f.shape[2] - crop].to(dtype)
            parts.append(extract_patches(g, self.support, stride).flatten(3))
        return torch.cat(parts, 3)

    def mlp(self, rows: Tensor, folded: Folded, dtype: torch.dtype) -> Tensor:
        """Output patches (B, a, b, patch, patch, features_out) in dtype, already weighted by the overlap window."""
        (first, *blocks, last) = folded.layers
        z = F.gelu(F.linear(rows.flatten(0, -2), *first))
        for block in blocks:
            z = z + F.gelu(F.linear(z, *block))
        out = F.linear(z, *last).to(dtype)
        return out.reshape(*rows.shape[:3], self.patch, self.patch, self.features_out)

    def overlap_sum(self, n: int, stride: int, like: Tensor) -> Tensor:
        """Sum (n_out,) of the one-dimensional windows of n patches at the given stride."""
        g = overlap_window(self.patch).to(like)
        out = g.new_zeros((n - 1) * stride + self.patch)
        for i in range(self.patch):
            out[i : i + (n - 1) * stride + 1 : stride] += g[i]
        return out

    def forward(
        self,
        y: Tensor,
        f: Tensor | None,
        sigma: Tensor,
        stride: int,
        folded: Folded,
        *,
        scheme: str,
        level: float,
        complete: bool = True,
    ) -> tuple[Tensor, int]:
        """Evaluate the stage on y (B, H, W, C) and features f (B, H, W, features_in).

        Returns:
            Features (B, H', W', features_out) and the offset of their first sample in y. Only samples that all
            their patches cover are kept, unless `complete` is False.
        """
        dtype = folded.layers[0][0].dtype
        span = 2 * self.radius + 1
        a, b = lattice_size(y.shape[1], span, stride), lattice_size(y.shape[2], span, stride)
        height, width = (a - 1) * stride + self.patch, (b - 1) * stride + self.patch
        step = a if torch.is_grad_enabled() else max(1, ROWS_PER_CHUNK // (b * y.shape[0]))
        out = None
        for i in range(0, a, step):
            n = min(step, a - i)
            part = slice(i * stride, (i + n - 1) * stride + span)
            rows = self.inputs(y[:, part], f if f is None else f[:, part], sigma, stride, scheme, level, dtype)
            patches = self.mlp(rows, folded, y.dtype)
            piece = overlap_add(patches, (n - 1) * stride + self.patch, width, stride)
            if n == a:
                out = piece
            else:
                out = piece.new_zeros(len(y), height, width, self.features_out) if out is None else out
                out[:, i * stride : i * stride + piece.shape[1]] += piece
        assert out is not None
        out = out / (self.overlap_sum(a, stride, out)[:, None] * self.overlap_sum(b, stride, out))[..., None]
        offset = self.radius - self.patch // 2
        if complete:
            lost = self.incomplete(stride)
            out = out[:, lost : a * stride, lost : b * stride]
            offset += lost
        return out, offset
