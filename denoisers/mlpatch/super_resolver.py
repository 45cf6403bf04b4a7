"""Super-resolution at any factor: a value between the pixels from a small learned patch around it, as in MLPatch.

    S(x)(c) = b(c) + s(c) g(z(c), phi(c)),    z_k(c) = (x(c + o_k) - b(c)) / s(c)

with b(c) the bicubic interpolation of the low-resolution image x at the continuous coordinate c, o_k the offsets of
the learned taps, shared by all pixels and read by bicubic interpolation as well, s(c) the standard deviation of the
pixels around c under a smooth window, and phi(c) the place of c within its pixel, on which the blur of every
interpolation depends. g is one small MLP. Hence S(a x + b) = a S(x) + b for a > 0, in any unit. (In float32 contrasts
must lie between 1e-15 and 1e15, or their variance leaves its range.) S commutes with shifts by whole pixels and is
continuous, and a value depends only on the 11 x 11 pixels around it (with 7 x 7 taps).

g learns one size of output pixels, that of its training. Trained from 64 to 128 pixels, it returns pixels half as wide
as the input's at any factor. For larger factors S(S(x, factor=2), factor=2) treats the first output as a photograph.

Sources: MLPatch (Khorashadizadeh et al., arXiv 2411.04995): local MLP on a learned patch; LIIF (Chen, Liu and Wang,
CVPR 2021): images as functions of the coordinate; Keys, IEEE TASSP 29, 1981 (a = -1/2): bicubic interpolation.
"""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..base import check_image
from ..precision import check_precision, compute_dtype
from ..weight_files import read, save
from .geometry import bicubic_weights, grid_taps, reflect_indices

POINTS_PER_CHUNK = 8192
"""Number of values computed at a time, all images of a batch together: bounds the memory."""
POINTS_PER_PHASE = 32
"""Number of values per phase from which one matrix reads the taps of all of them."""
_PHASES_PER_WINDOW = 8
"""Largest number of phases along an axis that share a window, which then serves 8 x 8 values."""


def output_coords(n: int, size: int) -> Tensor:
    """Return the centres (size,) of the pixels that divide the extent of n pixels evenly, in pixels, float64.

    The first input pixel's centre is 0 and its edge -1/2, so that both grids cover the same area.

    >>> output_coords(2, 4).tolist()
    [-0.25, 0.25, 0.75, 1.25]
    """
    return (torch.arange(size, dtype=torch.float64) + 0.5) * (n / size) - 0.5


def downsampling_matrix(n: int, size: int, shift: float = 0.0) -> Tensor:
    """Return the matrix (size, n) of antialiased bicubic downsampling along an axis, which training inverts.

    Args:
        n: samples, at least `size`.
        size: pixels of the result, which cover the same extent.
        shift: shift of the result's grid, in its own pixels. Shifts of up to half a pixel give every phase.

    Keys' kernel (a = -1/2), as wide as the larger pixels, its weights normalised at the borders too.
    """
    ratio = n / size
    w = bicubic_weights((output_coords(n, size)[:, None] + shift * ratio - torch.arange(n)) / ratio)
    return (w / w.sum(1, keepdim=True)).to(torch.get_default_dtype())


class SuperResolver(nn.Module):
    """Super-resolution S(x, factor=f) of images (B, channels, H, W) of any size from 1 x 1 up, at any real factor.

    Args:
        channels: image channels, estimated jointly.
        taps: the learned taps start as a taps x taps grid of pixels; they may move half a pixel beyond it.
        hidden: width of the MLP.
        layers: hidden layers after the first.
        precision: "auto" computes in bfloat16 where the processor multiplies it natively and x is not float64.

    Untrained, it is bicubic interpolation. S(a x + b) = a S(x) + b for a > 0.
    """

    def __init__(
        self, channels: int = 3, *, taps: int = 7, hidden: int = 224, layers: int = 2, precision: str = "auto"
    ) -> None:
        super().__init__()
        if taps < 1 or taps % 2 == 0:
            raise ValueError(f"SuperResolver: taps must be odd and positive, got {taps}")
        self.channels, self.precision = channels, check_precision("SuperResolver", precision)
        self._sizes = {"taps": taps, "hidden": hidden, "layers": layers}
        self.reach = taps // 2 + 2  # half the taps, half a pixel, half a pixel of phase, and what bicubic reads
        self.taps = nn.Parameter(grid_taps(taps))
        self.read = nn.Linear(channels * taps**2, hidden)
        self.phase = nn.Linear(8, 2 * hidden, bias=False)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.write = nn.Linear(hidden, channels)
        for layer in (self.read, *self._inner()):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        for weight in (self.phase.weight, self.write.weight, self.write.bias):
            nn.init.zeros_(weight)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "super_resolution") -> SuperResolver:
        """Load weights of the package by name, or a `.safetensors` file by its path; frozen, on the CPU.

        Raises:
            ValueError: no such file, or not one of SuperResolver.
        """
        return read(name_or_path, cls)

    def save(self, path: str | Path, *, about: dict[str, str] | None = None) -> None:
        """Write a .safetensors file, in float16; `about` holds further facts for its header.

        Raises:
            ValueError: the file cannot be written; an earlier file remains.
        """
        save(self, path, about=about)

    def _inner(self) -> list[nn.Linear]:
        return list(self.inner)  # type: ignore[arg-type]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {"channels": self.channels, **self._sizes}

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        sizes = ", ".join(f"{k}={v}" for k, v in self._sizes.items())
        return f"{self.channels}, {sizes}, precision={self.precision!r}"

    @property
    def receptive_field(self) -> int:
        """Side, in low-resolution pixels, of the square on which one value depends."""
        return 2 * self.reach + 1

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype of the MLP's matrix products for input x; the taps are read in x's own."""
        return compute_dtype(x, self.precision)

    def forward(
        self, x: Tensor, *, size: tuple[int, int] | None = None, factor: float | None = None, progress: bool = False
    ) -> Tensor:
        """Super-resolve x (B, C, H, W) on a grid of pixels that covers the same area.

        Args:
            x: low-resolution images; float32 or float64.
            size: (rows, columns) of the result, at least those of x.
            factor: output pixels per input pixel along an axis, at least 1; the size is rounded to whole pixels.
            progress: show a bar on stderr, for images of many megapixels.

        Raises:
            TypeError, ValueError: x, size or factor is not as described, or not exactly one of the two is given.
        """
        self._check(x, "SuperResolver")
        height, width = x.shape[2:]
        if (size is None) == (factor is None):
            raise ValueError(f"SuperResolver: give either size or factor, got size={size!r} and factor={factor!r}")
        if factor is not None:
            if not (isinstance(factor, int | float) and 1 <= factor < math.inf):
                raise ValueError(f"SuperResolver: factor must be a finite number, at least 1, got {factor!r}")
            size = (round(height * factor), round(width * factor))
        if not (
            isinstance(size, tuple | list)
            and len(size) == 2
            and all(isinstance(n, int) for n in size)
            and size[0] >= height
            and size[1] >= width
        ):
            raise ValueError(
                f"SuperResolver: size must be two whole numbers, at least those of x, {(height, width)}, got {size!r}"
            )
        return self.grid(x, output_coords(height, size[0]), output_coords(width, size[1]), progress=progress)

    def grid(self, x: Tensor, rows: Tensor, cols: Tensor, *, progress: bool = False) -> Tensor:
        """Return values (B, C, n_rows, n_cols) at every pair of the coordinates rows (n_rows,) and cols (n_cols,).

        Coordinates are those of `at`. Values that share their phase are one batch of matrix products.
        """
        self._check(x, "SuperResolver.grid")
        extent = zip(("rows", "cols"), (rows, cols), x.shape[2:], strict=True)
        along_i, along_j = (_phases(_inside(c, n, f"SuperResolver.grid: {name}")) for name, c, n in extent)
        n_phases = math.prod(sum(len(phases) for _, phases, _ in along) for along in (along_i, along_j))
        out = x.new_empty(*x.shape[:2], len(rows), len(cols))
        bar = tqdm(total=out[0, 0].numel(), desc="SuperResolver", unit="px", unit_scale=True, disable=not progress)
        if n_phases * POINTS_PER_PHASE > len(rows) * len(cols):
            # Hardly two values share a phase, as at an irrational factor.
            for some in _slices(len(rows), max(1, 2**20 // len(cols))):
                coords = torch.cartesian_prod(rows[some].double(), cols.double())
                out[:, :, some] = self.at(x, coords).reshape(*x.shape[:2], -1, len(cols))
                bar.update(len(coords))
            bar.close()
            return out
        for (i, phases_i, to_i), (j, phases_j, to_j) in product(along_i, along_j):
            phase = torch.cartesian_prod(phases_i, phases_j).to(x.device)
            w_r, w_c = self._weights(phase, x.dtype)
            matrix = (w_r[..., :, None] * w_c[..., None, :]).flatten(2)
            wide = max(1, POINTS_PER_CHUNK // (len(x) * len(phase)))
            for some_j in _slices(len(j), wide):
                for some_i in _slices(len(i), max(1, wide // len(j[some_j]))):
                    ri, cj = self._around(i[some_i], x, 2), self._around(j[some_j], x, 3)
                    windows = x[:, :, ri][..., cj].permute(0, 2, 4, 1, 3, 5).flatten(4)
                    centre = windows[..., windows.shape[-1] // 2]
                    windows = windows - centre[..., None]
                    squares = windows.square() @ matrix[:, -1].T
                    samples = (windows @ matrix.flatten(0, 1).T).reshape(*windows.shape[:-1], *matrix.shape[:2])
                    values = self._combine(centre[..., None, :], samples.movedim(-2, -3), squares.mT, phase)
                    values = values.reshape(*values.shape[:3], len(phases_i), len(phases_j), -1).permute(
                        0, 5, 1, 3, 2, 4
                    )
                    at_i, at_j = to_i[some_i].flatten(), to_j[some_j].flatten()
                    out[:, :, at_i[:, None], at_j] = values.flatten(4).flatten(2, 3)
                    bar.update(len(at_i) * len(at_j))
        bar.close()
        return out

    def at(self, x: Tensor, coords: Tensor) -> Tensor:
        """Return values at continuous coordinates.

        Args:
            x: low-resolution images (B, C, H, W).
            coords: (N, 2), (row, column) in pixels of x, (0, 0) at the centre of the first pixel, inside the image.

        Returns:
            Values (B, C, N).
        """
        self._check(x, "SuperResolver.at")
        if not isinstance(coords, Tensor) or coords.ndim != 2 or coords.shape[1] != 2:
            got = tuple(coords.shape) if isinstance(coords, Tensor) else type(coords).__name__
            raise ValueError(f"SuperResolver.at: coords must be a tensor (N, 2) of (row, column), got {got}")
        for k, name in enumerate(("rows", "columns")):
            _inside(coords[:, k], x.shape[2 + k], f"SuperResolver.at: {name} of coords")
        out = x.new_empty(*x.shape[:2], len(coords))
        chunk = max(1, POINTS_PER_CHUNK // (8 * len(x)))  # as the windows' weights differ
        for some in _slices(len(coords), chunk):
            c = coords[some].to(x.device, torch.float64)
            pixel = (c + 0.5).floor()
            w_r, w_c = self._weights(c - pixel, x.dtype)
            ri, cj = (self._around(pixel[:, k].long(), x, 2 + k) for k in (0, 1))
            windows = x[:, :, ri[:, :, None], cj[:, None, :]].movedim(1, 2)
            middle = windows.shape[-1] // 2
            centre = windows[..., middle, middle]
            windows = windows - centre[..., None, None]
            squares = torch.einsum("bncij,ni,nj->bnc", windows.square(), w_r[:, -1], w_c[:, -1])
            samples = torch.einsum("bncij,nki->bnckj", windows, w_r).mul(w_c[:, None]).sum(-1)
            out[:, :, some] = self._combine(centre, samples, squares, c - pixel).movedim(2, 1)
        return out

    def _check(self, x: Tensor, caller: str) -> None:
        check_image(caller, x)
        if x.shape[1] != self.channels:
            raise ValueError(
                f"{caller}: x must be (B, {self.channels}, H, W), got {tuple(x.shape)}; "
                + ("take the channels one by one as a batch" if self.channels == 1 else "repeat a grey image's channel")
            )

    def _around(self, pixel: Tensor, x: Tensor, axis: int) -> Tensor:
        """Return indices (..., receptive_field) of the pixels around `pixel` along an axis of x, mirrored."""
        mirror = reflect_indices(-self.reach - 1, x.shape[axis] + self.reach + 1, x.shape[axis]).to(x.device)
        return mirror[pixel.to(x.device)[..., None] + torch.arange(1, 2 * self.reach + 2, device=x.device)]

    def _weights(self, phase: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weights of the window's rows and columns, each (n, n_taps + 2, receptive_field), for phases (n, 2).

        Along n_taps + 2: the taps, the value at the coordinate, and the window of the standard deviation.
        """
        half, phase = self._sizes["taps"] / 2, phase.to(dtype)
        offsets = torch.cat([self.taps.to(dtype).clamp(-half, half), phase.new_zeros(1, 2)])
        i = torch.arange(-self.reach, self.reach + 1, device=phase.device)
        read = bicubic_weights((phase[:, None] + offsets)[..., None] - i)
        # Zero only where no tap reads, and continuous where the window changes.
        hat = ((phase[..., None] - i) / (self.reach + 0.5) * (math.pi / 2)).clamp(-math.pi / 2, math.pi / 2).cos() ** 2
        hat = hat / hat.sum(-1, keepdim=True)
        rows, cols = torch.cat([read, hat[:, None]], 1).unbind(2)
        return rows, cols

    def _combine(self, centre: Tensor, samples: Tensor, squares: Tensor, phase: Tensor) -> Tensor:
        """Return values (..., C) from the samples of their windows.

        Args:
            centre: (..., C), the nearest pixel; samples and squares are relative to it.
            samples: (..., C, n_taps + 2), weighted by `_weights`.
            squares: (..., C), mean squares under the window.
            phase: (n, 2) for (B, n, ...), or (1, 2) for all.
        """
        taps, base, mean = samples[..., :-2], samples[..., -2], samples[..., -1]
        variance = (squares - mean.square()).mean(-1, keepdim=True)
        varies = variance > 0
        # The network adds nothing to a constant window.
        scale = torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)
        per_scale = torch.where(varies, 1 / torch.where(varies, scale, 1), 0)
        dtype = self.compute_dtype(centre)
        z = ((taps - base[..., None]) * per_scale[..., None]).to(dtype).flatten(-2)
        gain, bias = F.linear(_harmonics(phase), self.phase.weight.to(phase.dtype)).to(dtype).chunk(2, -1)
        h = F.linear(z, self.read.weight.to(dtype), self.read.bias.to(dtype))
        h = torch.addcmul(bias, h, 1 + gain).relu()
        for layer in self._inner():
            h = F.linear(h, layer.weight.to(dtype), layer.bias.to(dtype)).relu()
        # The answer has the resolution of its input, not of the products.
        g = F.linear(h.to(centre.dtype), self.write.weight.to(centre.dtype), self.write.bias.to(centre.dtype))
        return centre + base + scale * g


def _harmonics(phase: Tensor) -> Tensor:
    """Return first harmonics (n, 8) of phases (n, 2) along both axes, and their products: periodic in the pixel."""
    a, b = (2 * math.pi * phase).unbind(-1)
    r, c = torch.stack([a.cos(), a.sin()], -1), torch.stack([b.cos(), b.sin()], -1)
    return torch.cat([r, c, (r[:, :, None] * c[:, None, :]).flatten(1)], -1)


def _inside(c: Tensor, n: int, what: str) -> Tensor:
    """Return coordinates (N,) in float64 that lie on an axis of n pixels; half a pixel beyond the centres is inside."""
    if not isinstance(c, Tensor) or c.ndim != 1:
        raise ValueError(f"{what} must be a tensor (N,), got {tuple(c.shape) if isinstance(c, Tensor) else type(c)}")
    if not bool(((c >= -0.5) & (c <= n - 0.5)).all()):
        raise ValueError(
            f"{what} must lie in the image, -0.5 to {n - 0.5}; 0 is the first pixel's centre, "
            f"got {c.min().item():g} to {c.max().item():g}"
        )
    return c.to(torch.float64)


def _phases(c: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Sort coordinates (N,) by pixel and phase, in [-1/2, 1/2), and group phases that occur at the same pixels.

    Returns:
        For each group: pixels (n,), phases (p,), and their places (n, p) in c.
    """
    c = c.cpu()
    pixel = (c + 0.5).floor()
    phase = c - pixel
    # Phases are equal to within 2^-30 of a pixel.
    key = (phase * 2**30).round()
    groups: dict[tuple[float, ...], list[Tensor]] = {}
    order = key.argsort(stable=True)
    starts = [0, *(key[order].diff().nonzero()[:, 0] + 1).tolist(), len(c)]
    for start, stop in pairwise(starts) if len(c) else ():
        places = order[start:stop]
        groups.setdefault(tuple(pixel[places].tolist()), []).append(places)
    parts = [p[some] for p in groups.values() for some in _slices(len(p), _PHASES_PER_WINDOW)]
    return [(pixel[p[0]].long(), phase[torch.stack(p)[:, 0]], torch.stack(p, 1)) for p in parts]


def _slices(n: int, step: int) -> list[slice]:
    return [slice(k, k + step) for k in range(0, n, step)]
