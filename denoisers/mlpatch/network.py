"""Network of MLPatch: learned-tap input layer, message-passing blocks, overlapping output patches.

With queries q on a lattice of pixels, N(q) the 3 x 3 queries around q at a distance of `dilation * spacing`
pixels (in a volume the 3 x 3 x 3 queries, and voxels), and z = y / sigma:

    f(q)  = W_r z(q + taps) + b_r                                      read: one matrix, the taps folded in
    f(q) += W_b relu(W_a f(N(q)) + b_a) + b_b       for each block     gather (W_a, b_a) and update (W_b, b_b)
    g(p)  = sum_q <W_w[p - q], f(q)>                                   write: overlapping patches, summed

Blocks come in stages. Between two stages on lattices of spacings s and 2 s one matrix changes the lattice
(`lattices.py`).

Each layer is one matrix product per query. W_a gathers the neighbours within its product (a convolution, dilated where
the lattice is finer than the spacing). g depends only on the distances from q to its taps and its neighbours, so the
distance of the *queries*, the stride, is free: any divisor of `spacing`, or the spacing of a coarser lattice. Finer
queries than a lattice's own are all its shifts by multiples of the stride at once; g is the mean over them. At stride 1
every pixel is a query.

In the unit-free scheme the rows of W_r sum to zero, hence g((a y + b) / (a sigma)) = g(y / sigma) for a > 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weight_files import RenamedLayers
from .geometry import CHANNELS_LAST, convolve, convolve_transpose, grid_taps, tap_matrix, window
from .lattices import Change, Stage, changes_between

PLANES = 4
"""Least planes of queries of a volume that a layer computes at once, at most twice as many; with gradients, all."""
_SLOW = 20480
"""Size of all axes but the last up to which torch convolves one float32 volume by another, slower algorithm."""


class Folded(NamedTuple):
    """The network's matrices in the dtype of the computation, as convolution kernels; the shapes are those of images.

    On volumes kernels have three axes more than their features and channels.
    """

    read: tuple[Tensor, Tensor]
    """Kernel (features, channels, support, support), taps folded in, and bias."""
    blocks: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]
    """W_a (hidden, features, 3, 3), b_a, W_b (features, hidden, 1, 1), b_b of each block."""
    changes: tuple[tuple[Tensor, Tensor], ...]
    """Kernel and bias of each change of lattice."""
    write: Tensor
    """Kernel (features, channels, patch, patch)."""
    dtype: torch.dtype
    """Dtype of the blocks. The patch is read in the image's own dtype, as its offset may be large, and output patches
    are summed in it: the answer has its resolution."""


def _add_level(z: Tensor, level: Tensor | None, v: Tensor | None) -> Tensor:
    """Return z (B, K, ...) + level (B,) times v (K,); z itself in the unit-free scheme, which has no v."""
    if level is None or v is None:
        return z
    return z + (level[:, None] * v).reshape(len(level), -1, *[1] * (z.ndim - 2)).to(z.dtype)


def _in_sigmas(y: Tensor, offset: Tensor | None, sigma: Tensor) -> Tensor:
    """Return (y - offset) / sigma; 0 where sigma is 0."""
    noisy = sigma > torch.finfo(y.dtype).tiny
    return torch.where(noisy, y if offset is None else y - offset, 0) / torch.where(noisy, sigma, 1)


def _covered(f: Tensor, kernel: Tensor, step: int) -> Tensor:
    """Return overlapping patches, summed, where all of them cover the image: step^d pixels as one product a query.

    It is the inner part of the transposed convolution with stride `step`, without side - step samples at each edge.
    """
    channels, side, d = kernel.shape[1], kernel.shape[2], f.ndim - 2
    n = -(-side // step)
    extra = n * step - side
    kernel = F.pad(kernel, (0, extra) * d).reshape(-1, channels, *[n, step] * d)
    within, among = (range(first, 2 + 2 * d, 2) for first in (3, 2))
    kernel = kernel.permute(1, *within, 0, *among).flatten(0, d).flip(*range(2, 2 + d))
    g = convolve(f, kernel.contiguous(memory_format=CHANNELS_LAST[d]), padding=min(extra, 1))
    g = _shuffled(g, step)
    first = step - extra if extra else 0
    return window(g, first, [size * step - side + step for size in f.shape[2:]])


def _covered_in_slabs(f: Tensor, kernel: Tensor, step: int) -> Tensor:
    """Return `_covered` of volumes of features in the kernel's dtype, some planes at a time."""
    before = -(-kernel.shape[2] // step) - 1  # planes of queries that a plane of queries needs before it
    sizes = [n * step - kernel.shape[2] + step for n in f.shape[2:]]
    g = kernel.new_empty(len(f), kernel.shape[1], *sizes)
    for first, n in _slabs(f.shape[2] - before, f):
        part = _covered(f.narrow(2, first, n + before).to(kernel.dtype), kernel, step)
        g.narrow(2, first * step, part.shape[2]).copy_(part)
    return g


def _slabs(n: int, f: Tensor) -> list[tuple[int, int]]:
    """Return firsts and numbers of the planes that are computed at once, of n that follow from volumes of features."""
    planes = max(PLANES, _SLOW // (f.shape[1] * f.shape[3]) + 1)
    count = max(1, n // planes)
    edges = [n * k // count for k in range(count + 1)]
    return [(first, end - first) for first, end in pairwise(edges)]


def _may_shrink(f: Tensor) -> bool:
    """Whether volumes of features may be overwritten by those of a block."""
    return f.ndim == 5 and not torch.is_grad_enabled() and f.is_contiguous(memory_format=torch.channels_last_3d)


def _shrunk(f: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return smaller volumes of features in the memory of f, in order of their features, each within its own of f."""
    features, (depth, height, width) = f.shape[1], sizes
    strides = (f.stride(0), 1, height * width * features, width * features, features)
    return f.as_strided((len(f), features, depth, height, width), strides, f.storage_offset())


def _shuffled(g: Tensor, step: int) -> Tensor:
    """Return g (B, C step^d, ...) as (B, C, ...) on a grid `step` times as fine: `pixel_shuffle` in d dimensions."""
    if g.ndim == 4:
        return F.pixel_shuffle(g, step)
    d, sizes = g.ndim - 2, g.shape[2:]
    parts = g.reshape(len(g), -1, *[step] * d, *sizes)
    pairs = parts.permute(0, 1, *(axis for n in range(d) for axis in (2 + d + n, 2 + n)))
    return pairs.reshape(*parts.shape[:2], *(n * step for n in sizes))


class Block(RenamedLayers):
    """f(q) += W_b relu(W_a f(N(q)) + b_a + l v) + b_b, where l is the noise level's logarithm (absolute scheme only).

    Args:
        features, hidden: width of f and of the hidden layer.
        dilation: distance of the neighbours, in spacings.
        has_level: whether there is a v.
        dimensions: d; there are 3^d neighbours, the query itself among them.
    """

    former_names: ClassVar = {"gather": "hear", "update": "add"}

    def __init__(self, features: int, hidden: int, dilation: int, *, has_level: bool, dimensions: int = 2) -> None:
        super().__init__()
        self.dilation, self.shape = dilation, (hidden, *[3] * dimensions, features)
        self.gather = nn.Linear(3**dimensions * features, hidden)
        self.update = nn.Linear(hidden, features)
        self.level = nn.Parameter(torch.zeros(hidden)) if has_level else None

    def fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return W_a (hidden, features, 3, 3), b_a, W_b (features, hidden, 1, 1) and b_b in dtype."""
        w, v = self.gather.weight.to(dtype).reshape(self.shape).movedim(-1, 1), self.update.weight.to(dtype)
        v = v.reshape(*v.shape, *[1] * (w.ndim - 2))
        return w, self.gather.bias.to(dtype), v, self.update.bias.to(dtype)

    def forward(
        self,
        f: Tensor,
        kernels: tuple[Tensor, Tensor, Tensor, Tensor],
        level: Tensor | None,
        step: int,
        *,
        padded: bool,
    ) -> Tensor:
        """Return the block's features where they have all their input, or, padded, at all queries."""
        z = self.hidden(f, *kernels[:2], level, step, padded=padded).relu_()
        crop = 0 if padded else step * self.dilation
        return convolve(z, *kernels[2:]).add_(window(f, crop, z.shape[2:]))

    def in_place(
        self, f: Tensor, kernels: tuple[Tensor, Tensor, Tensor, Tensor], level: Tensor | None, step: int
    ) -> Tensor:
        """Return `forward` of volumes, unpadded, in the memory of f, which is lost: a volume of features is large.

        f is in order of its features. A plane of the result is smaller than one of f, and comes later or is the same,
        so that it takes the place of planes that have been read.
        """
        crop = step * self.dilation
        sizes = [n - 2 * crop for n in f.shape[2:]]
        out = _shrunk(f, sizes)
        for b in range(len(f)):
            its_level = None if level is None else level[b : b + 1]
            for first, n in _slabs(sizes[0], f):
                part = f[b : b + 1].narrow(2, first, n + 2 * crop)
                out[b : b + 1].narrow(2, first, n).copy_(self(part, kernels, its_level, step, padded=False))
        return out

    def hidden(
        self, f: Tensor, w: Tensor, b: Tensor, level: Tensor | None, step: int, *, padded: bool = False
    ) -> Tensor:
        """Return the hidden layer before its rectifier; `step` is the spacing over the stride.

        It is the part that has all its input, or all of it where zeros pad the features.
        """
        far = step * self.dilation
        return _add_level(convolve(f, w, b, dilation=far, padding=far if padded else 0), level, self.level)


class Network(nn.Module):
    """Estimate the noise, or the signal, from y / sigma by the module's equations. Sizes in pixels.

    Args:
        channels: channels of the image.
        dimensions: d, 2 for images and 3 for volumes.
        taps: the learned taps start as a grid of taps^d.
        margin: how far beyond that grid the taps may move.
        stages: blocks and their lattices (`stages_of`).
        patch: side of the output patch, odd, at least the spacing.
        zero_sum: whether the rows of W_r sum to zero (the unit-free scheme).
    """

    def __init__(
        self,
        channels: int,
        *,
        dimensions: int = 2,
        taps: int,
        margin: int,
        stages: tuple[Stage, ...],
        patch: int,
        zero_sum: bool,
    ) -> None:
        super().__init__()
        self.channels, self.dimensions, self.stages, self.patch = channels, dimensions, stages, patch
        self.zero_sum = zero_sum
        self.spacing = stages[0].spacing
        self.period = max(stage.spacing for stage in stages)
        """Spacing of the coarsest lattice: shifts by multiples of it change nothing."""
        self.support = taps + 2 * margin
        self.taps = nn.Parameter(grid_taps(taps, dimensions))
        features = stages[0].features
        self.read = nn.Linear(channels * taps**dimensions, features)
        self.level = None if zero_sum else nn.Parameter(torch.zeros(features))
        self.blocks = nn.ModuleList(
            Block(stage.features, stage.hidden, dilation, has_level=not zero_sum, dimensions=dimensions)
            for stage in stages
            for dilation in stage.dilations
        )
        if len(stages) > 1:
            self.changes = nn.ModuleList(changes_between(stages, dimensions))
        self.write = nn.Linear(features, channels * patch**dimensions, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        """Draw weights as He et al. (ICCV 2015); the blocks' outputs start small, so that depth does not amplify."""
        nn.init.normal_(self.read.weight, std=0.3 * (2 / self.read.in_features) ** 0.5)
        nn.init.normal_(self.read.bias, std=0.3)
        for b in self._blocks():
            nn.init.kaiming_normal_(b.gather.weight, nonlinearity="relu")
            nn.init.normal_(b.update.weight, std=(0.5 / (len(self.blocks) * b.update.in_features)) ** 0.5)
            nn.init.zeros_(b.gather.bias)
            nn.init.zeros_(b.update.bias)
        for change in self._changes():
            change.initialize()
        nn.init.normal_(self.write.weight, std=0.05 / self.read.out_features**0.5)

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _changes(self) -> list[Change]:
        return list(self.changes) if len(self.stages) > 1 else []  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Largest distance of a query's input from the query, along an axis."""
        # A query of a finer lattice is on one side of that of the coarser one, by up to the finer spacing.
        between = sum(change.fine.spacing for change in self._changes() if change.coarsens)
        return self.support // 2 + between + sum(stage.spacing * sum(stage.dilations) for stage in self.stages)

    @property
    def strides(self) -> list[int]:
        """Distances that the queries may have: divisors of the spacing, and the spacings of coarser lattices."""
        divisors = [k for k in range(1, self.spacing + 1) if self.spacing % k == 0]
        return divisors + sorted({stage.spacing for stage in self.stages[1:]} - {self.spacing})

    def fold(self, wide: torch.dtype, dtype: torch.dtype) -> Folded:
        """Return the kernels: the first, with the taps folded in, and the last in `wide`, the others in `dtype`."""
        c, support, patch = self.channels, [self.support] * self.dimensions, [self.patch] * self.dimensions
        w = self.read.weight.to(wide)
        if self.zero_sum:
            w = w - w.mean(1, keepdim=True)
        w = w.reshape(len(w), c, -1) @ tap_matrix(self.taps.to(wide), self.support)
        return Folded(
            (w.reshape(-1, c, *support), self.read.bias.to(wide)),
            tuple(b.fold(dtype) for b in self._blocks()),
            tuple(change.fold(dtype) for change in self._changes()),
            self.write.weight.to(wide).T.reshape(-1, c, *patch),
            dtype,
        )

    def features(
        self,
        y: Tensor,
        sigma: Tensor,
        level: Tensor | None,
        stride: int,
        folded: Folded,
        *,
        without_last: bool = False,
        padded: bool = False,
    ) -> Tensor:
        """Return the features at all queries of the finest lattice that y (B, C, H, W) has the input for.

        Args:
            y: noisy images, or volumes (B, C, D, H, W).
            sigma: (B,); where it is 0, y counts as 0 (the noise then has no weight).
            level: (B,), the noise level's logarithm, or None.
            stride: distance of the queries, one of `strides`; the first is at the middle of its window.
            folded: from `fold`.
            without_last: whether to leave out the last block.
            padded: whether features beyond y count as zero, so that there are queries up to its edges. The sides of y
                are then multiples of the period, which is the stride, and the first query is at its first pixel.

        Returns:
            Features (N, features, H', W'), N = B `cases(stride)`: first those of the first case for all images.
        """
        f = self._read(y, sigma.reshape(-1, *[1] * (self.dimensions + 1)), level, stride, folded, padded=padded)
        blocks = iter(zip(self._blocks(), folded.blocks, strict=True))
        at, left = 0, list[tuple[Tensor, int]]()
        for k, stage in enumerate(self.stages):
            if k > 0:
                change, kernel = self._changes()[k - 1], folded.changes[k - 1]
                start = change.start(at, stride)
                if change.coarsens:
                    left.append((f, at))
                    f = change.coarsen(f, kernel, at, stride)
                else:
                    skip, began = left.pop()
                    lead = (start - began) // min(stride, stage.spacing)
                    f = change.refine(f, kernel, skip, lead, at, stride)
                    level = None if level is None else level.repeat(len(f) // len(level))
                at = start
            step = max(stage.spacing // stride, 1)
            last = without_last and k == len(self.stages) - 1
            for _ in stage.dilations[: -1 if last else None]:
                block, kernels = next(blocks)
                # Features that were left on a lattice have memory of their own.
                if not padded and _may_shrink(f):
                    f = block.in_place(f, kernels, level, step)
                else:
                    f = block(f, kernels, level, step, padded=padded)
                at += 0 if padded else stage.spacing * block.dilation
        return f

    def _read(
        self, y: Tensor, sigma: Tensor, level: Tensor | None, stride: int, folded: Folded, *, padded: bool
    ) -> Tensor:
        """Return W_r z(q + taps) + b_r at the queries of the finest lattice, in the dtype of the blocks."""
        d, step = self.dimensions, min(stride, self.spacing)
        kernel, bias = folded.read
        # Faster on the CPU, as the features come in this order; images on one lattice keep their bits.
        if len(self.stages) > 1 or d > 2:
            kernel = kernel.to(memory_format=CHANNELS_LAST[d])
        offset = self._offset(y)

        def read(part: Tensor) -> Tensor:
            z = _in_sigmas(part, offset, sigma)
            f = convolve(z, kernel, bias, stride=step, padding=self.support // 2 if padded else 0)
            return _add_level(f, level, self.level).to(folded.dtype, memory_format=CHANNELS_LAST[d])

        if d == 2 or padded or torch.is_grad_enabled():
            return read(y)
        # In slabs: z, and all features in the dtype of y, would take more memory than what comes after them.
        sizes = [(n - self.support) // step + 1 for n in y.shape[2:]]
        shape = (len(y), len(kernel), *sizes)
        f: Tensor = torch.empty(shape, dtype=folded.dtype, device=y.device, memory_format=CHANNELS_LAST[d])
        for first in range(0, sizes[0], PLANES):
            n = min(PLANES, sizes[0] - first)
            f.narrow(2, first, n).copy_(read(y.narrow(2, first * step, (n - 1) * step + self.support)))
        return f

    def cases(self, stride: int) -> int:
        """Return how many cases of features a query of the finest lattice has: shifts of the coarser lattices."""
        return int(max(self.period // max(stride, self.spacing), 1) ** self.dimensions)

    def _offset(self, y: Tensor) -> Tensor | None:
        """Return y's mean over all but the batch, 0 where it is not finite; None in the absolute scheme.

        The rows of W_r sum to zero, so the mean changes nothing but the rounding: in the ten bits of a GPU's TF32
        products an offset of a thousand sigmas would be noise.
        """
        if not self.zero_sum:
            return None
        mean = y.detach().mean(tuple(range(1, y.ndim)), keepdim=True)
        # Values that are not finite stay where they are.
        return torch.where(mean.isfinite(), mean, 0)

    def margins(self, stride: int) -> tuple[int, int]:
        """Return the input samples needed before and, at most, after the samples of g that `forward` returns."""
        half = self.patch // 2
        return self._before(stride) + self._lead(stride), self.reach + half + stride - 1

    def _before(self, stride: int) -> int:
        """Return the input samples before the first sample of g that all its patches cover."""
        at = 0
        for k, stage in enumerate(self.stages):
            at = self._changes()[k - 1].start(at, stride) if k > 0 else at
            at += stage.spacing * sum(stage.dilations)
        return at + self.support // 2 - self.patch // 2 + self.patch - min(stride, self.spacing)

    def _lead(self, stride: int) -> int:
        """Return how many samples of g to leave out, so that it starts at a multiple of the stride for any crop."""
        return -self._before(stride) % stride

    def forward(self, y: Tensor, sigma: Tensor, level: Tensor | None, stride: int, folded: Folded) -> Tensor:
        """Return g where all patches cover y, from sample `margins(stride)[0]` of y, a multiple of the stride."""
        f = self.features(y, sigma, level, stride, folded)
        if len(f) > len(y):
            f = f.reshape(-1, len(y), *f.shape[1:]).mean(0)
        step = min(stride, self.spacing)
        crop, lead = self.patch - step, self._lead(stride)
        # The patches overlap (spacing / step)^2 times as often as they do at the largest stride.
        write = folded.write * (step / self.spacing) ** self.dimensions
        if len(self.stages) > 1 or self.dimensions > 2:
            whole = f.ndim == 4 or torch.is_grad_enabled()
            g = _covered(f.to(write.dtype), write, step) if whole else _covered_in_slabs(f, write, step)
            return window(g, lead, [n - lead for n in g.shape[2:]])
        # Slower, and its sums round differently: weights of one lattice keep their bits.
        g = convolve_transpose(f.to(write.dtype), write, stride=step)
        return window(g, crop + lead, [n - 2 * crop - lead for n in g.shape[2:]])

    def padded(self, y: Tensor, sigma: Tensor, level: Tensor | None, folded: Folded) -> Tensor:
        """Return g on all of y, whose sides are multiples of the period; features and patches end at its edges."""
        f, step = self.features(y, sigma, level, self.period, folded, padded=True), self.spacing
        f = f.to(folded.write.dtype)
        return convolve_transpose(f, folded.write, stride=step, padding=self.patch // 2, output_padding=step - 1)


class LocalModel(Protocol):
    """Interface of a model around `Network` that `evaluate` and `evaluate_at` use."""

    network: Network

    def fold(self, x: Tensor) -> Folded:
        """Return the network's kernels for input x."""

    def log_level(self, sigma: Tensor) -> Tensor | None:
        """Return the network's noise-level input (B,), or None."""

    def estimate(self, y: Tensor, sigma: Tensor, stride: int, folded: Folded) -> Tensor:
        """Return the denoised part of y (B, C, H, W) that has all its input."""

    def combine(self, y: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate from noisy values and the network's output."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""
