"""Training images that the package makes itself, so that weights trained on them have no terms but its own.

Dead leaves with textures, shading and edges of any sharpness; fractal noise, waves and tiles; strokes and text-like
lines; the heads and chests of `pnp.phantoms`. Each image has its own blur, light, gamma and contrast, and is saturated
here and there.

Sources: A. B. Lee, D. Mumford and J. Huang, Occlusion models for natural images, IJCV 41, 2001: leaves with radii of
density r^-3 have the statistics of photographs. R. Achddou, Y. Gousseau and S. Ladjal, Synthetic images as a regularity
prior for image restoration neural networks, SSVM 2021: networks trained on dead leaves alone restore photographs, and
the better for textures and depth of field (R. Achddou et al., arXiv 2504.10201). Their code is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..phantoms import chest, head
from .dead_leaves import dead_leaves
from .images import Crops
from .photographs import TrainingSet, check_crop, image_set
from .renewed import Renewed
from .textures import fractal, halve, log_uniform, rough, strokes, text, tiles, unit, waves

Floats = NDArray[np.float32]

_MIN_SIZE = 32
_N_FIRST = 16
"""Images from which the first batch is taken."""
_N_HELD_OUT = 16
_N_TEXTURES = 4
"""Textures of the leaves of one image."""


def synthetic_image(number: int, *, size: int = 256, channels: int = 1, seed: int = 0) -> Tensor:
    """Return image `number` of an endless sequence, uint8 (channels, size, size).

    It depends on the arguments alone: bit for bit on one machine with the same versions of NumPy, SciPy and PyTorch.

    Args:
        number: from 0 up.
        size: pixels on a side, at least 32. Objects keep their size in pixels, except the largest ones.
        channels: 1 is grey; 3 is colour, whose channels are alike as in photographs.
        seed: another seed gives another sequence.

    Raises:
        ValueError: the number or the seed is negative, the size is too small, channels are neither 1 nor 3.
    """
    _check("synthetic_image", size, channels, seed)
    if number < 0:
        raise ValueError(f"synthetic_image: number must be 0 or more, got {number}")
    return _draw((seed, number), size, channels)


def _check(caller: str, size: int, channels: int, seed: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"{caller}: channels must be 1 or 3, got {channels}")
    if size < _MIN_SIZE:
        raise ValueError(f"{caller}: size must be at least {_MIN_SIZE} pixels, got {size}")
    if seed < 0:
        raise ValueError(f"{caller}: seed must be 0 or more, got {seed}")


def _draw(entropy: tuple[int, ...], size: int, channels: int) -> Tensor:
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    n = size + size % 2
    x = _expose(_scene(n, channels, rng), rng)[:, :size, :size]
    return torch.from_numpy(np.rint(255 * x).astype(np.uint8))


class SyntheticImages:
    """Random crops of synthetic images in [0, 1]: a `Sampler` that keeps some images and renews them one by one.

    Call t takes its crops from min(kept, 16 + t) images of a sequence, from number t // every on. Each is made when it
    is first needed, in about 50 ms for 256 x 256 on one core: one image a call until `kept` are there, and then one in
    `every` calls. The images depend on the seed and on t alone, the crops on the generator, so that a run that calls
    `seek` resumes with the same ones. Each process of torchrun has a sequence of its own.

    Args:
        crop: side of the crops in pixels.
        channels: 1 or 3.
        seed: of the sequence.
        size: side of the images in pixels, see `synthetic_image`.
        kept: number of images kept in memory, size^2 bytes for each channel.
        every: number of calls after which the oldest image is replaced by a new one.

    Raises:
        ValueError: the crop is larger than the images, or a number is too small.
    """

    def __init__(
        self, crop: int, channels: int = 1, *, seed: int = 0, size: int = 256, kept: int = 1000, every: int = 4
    ) -> None:
        _check("SyntheticImages", size, channels, seed)
        if not 1 <= crop <= size:
            raise ValueError(f"SyntheticImages: crop must be 1 to size, {size} pixels, got {crop}")
        self.crop, self.channels, self.size = crop, channels, size
        self._renewed = Renewed(
            "SyntheticImages",
            self._make,
            seed=seed,
            n_first=_N_FIRST,
            kept=kept,
            every=every,
        )

    @property
    def images(self) -> dict[int, Tensor]:
        """Images in memory, by their numbers."""
        return self._renewed.items

    def seek(self, calls: int) -> None:
        """Continue as after this number of calls."""
        self._renewed.seek(calls)

    def _make(self, entropy: tuple[int, ...]) -> Tensor:
        return _draw(entropy, self.size, self.channels)

    def __call__(self, batch: int, /, *, generator: torch.Generator) -> Tensor:
        """Draw crops (batch, channels, crop, crop), float32 in [0, 1], in all eight positions."""
        picked = self._renewed.pick(batch, generator)
        crops = [Crops([self._renewed[k]], self.crop)(1, generator=generator) for k in picked]
        self._renewed.seek(self._renewed.calls + 1)
        return torch.cat(crops)


def synthetic_set(*, channels: int = 1, crop: int = 96, seed: int = 0) -> TrainingSet:
    """Return crops of synthetic images, with sigma in [0.2, 55]/255, mostly uniform, as for photographs.

    Sixteen images of 256 x 256, which no training uses, are for validation.

    Args:
        channels: 1 is grey, 3 is colour.
        crop: side of the crops in pixels, at most 128 and at least the model's receptive field.
        seed: of the training images; the images for validation are always the same.

    Raises:
        ValueError: the crop is too large.
    """
    check_crop("synthetic_set", crop)
    validation = [synthetic_image(k, channels=channels).float() / 255 for k in range(_N_HELD_OUT)]
    sampler, about = SyntheticImages(crop, channels, seed=seed), f"synthetic images of this package, seed {seed}"
    return image_set(sampler, validation, about, channels=channels, crop=crop)


def _scene(n: int, channels: int, rng: np.random.Generator, *, depth: int = 0) -> Floats:
    """Return a scene (channels, n, n), about 0 to 1: one kind of picture, or two of them behind each other."""
    if depth == 0 and rng.random() < 0.2:
        return _behind(n, channels, rng)
    kinds: tuple[tuple[float, Callable[[int, int, np.random.Generator], Floats]], ...] = (
        (0.67, _leaves),
        (0.12, _surface),
        (0.12, _drawing),
        (0.09, _phantom),
    )
    shares = [share for share, _ in kinds]
    x = kinds[int(rng.choice(len(kinds), p=shares))][1](n, channels, rng)
    return _over(x, strokes(n, rng), rng) if rng.random() < 0.2 else x


def _behind(n: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return one scene through the holes of another, one of them mostly out of focus."""
    back, front = (_scene(n, channels, rng, depth=1) for _ in range(2))
    if rng.random() < 0.5:
        m = dead_leaves(2 * n, 0.1 * n, n, rng, cover=rng.uniform(0.3, 1.2)).labels > 0
        mask = halve(_bent(m, rng).astype(np.float32))
    else:
        steep = log_uniform(2, 60, rng)
        mask = 0.5 + 0.5 * np.tanh(steep * (fractal(n, rng.uniform(1.5, 2.5), rng) - rng.normal(0, 0.5)))
    sigma, kind = log_uniform(0.7, 8, rng), rng.random()
    if kind < 0.6:
        back = gaussian_filter(back, (0, sigma, sigma))
    elif kind < 0.8:
        front, mask = gaussian_filter(front, (0, sigma, sigma)), gaussian_filter(mask, sigma)
    x: Floats = back + mask.astype(np.float32) * (front - back)
    return x


def _colours(count: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return colours (channels, count) of one image: a random histogram of greys, and hues near one another."""
    kind = rng.random()
    if kind < 0.35:
        grey = rng.random(count)
    elif kind < 0.7:
        grey = rng.beta(log_uniform(0.5, 4, rng), log_uniform(0.5, 4, rng), count)
    elif kind < 0.85:  # a few paints
        paints = rng.random(int(rng.integers(2, 6)))
        grey = rng.choice(paints, count) + 0.05 * rng.standard_normal(count)
    else:
        grey = rng.uniform(0.2, 0.8) + rng.uniform(0.03, 0.15) * rng.standard_normal(count)
    if channels == 1:
        return grey[None].astype(np.float32)
    hue = rng.normal(0, 1, (3, 1)) * rng.uniform(0, 1) + rng.standard_normal((3, count))
    hue -= hue.mean(0)
    chroma = log_uniform(0.02, 0.6, rng) * rng.random(count)
    coloured: Floats = (grey + chroma * (0.2 + grey) * hue).astype(np.float32)
    return coloured


def _bent(labels: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Move samples (m, m) by a random field, smooth or ragged."""
    m = len(labels)
    amount, slope = log_uniform(1, 30, rng), rng.uniform(1.4, 3)
    down, right = (np.rint(amount * fractal(m // 2, slope, rng)).astype(np.int32) for _ in range(2))
    down, right = (f.repeat(2, 0).repeat(2, 1) for f in (down, right))
    t = np.arange(m, dtype=np.int32)
    moved: NDArray[Any] = labels[(t[:, None] + down).clip(0, m - 1), (t + right).clip(0, m - 1)]
    return moved


def _texture(n: int, rng: np.random.Generator) -> Floats:
    kind = rng.random()
    if kind < 0.5:
        return rough(n, rng)
    if kind < 0.7:
        return waves(n, rng)
    if kind < 0.82:
        return unit(tiles(n, rng) + rng.uniform(0, 0.6) * rough(n, rng, steepest=1.0))
    found = dead_leaves(n, 1.0, log_uniform(2, 12, rng), rng)
    micro = rng.standard_normal(len(found.x)).astype(np.float32)[found.labels]
    return unit(gaussian_filter(micro, rng.uniform(0.3, 0.8)))


def _leaves(n: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return dead leaves of colours of their own, shaded linearly and textured, averaged over 2 x 2 samples."""
    m = 2 * n
    smallest = log_uniform(2, 6, rng) if rng.random() < 0.4 else log_uniform(6, 80, rng)
    found = dead_leaves(
        m,
        smallest,
        smallest + m * rng.uniform(0.05, 0.8),
        rng,
        exponent=rng.normal(2.9, 0.2),
        shapes=tuple(rng.dirichlet((1.0, 0.5, 0.8))),
    )
    labels = _bent(found.labels, rng) if rng.random() < 0.6 else found.labels
    count = len(found.x)
    colour = _colours(count, channels, rng)
    # Neighbours are alike: part of each colour is taken from a smooth map of the image.
    towards = rng.uniform(0, 0.8)
    cell = [np.minimum(np.maximum(p / 2, 0), n - 1).astype(int) for p in (found.y, found.x)]
    slow = np.stack([fractal(n, 2.0, rng)] * channels) * colour.std() + colour.mean(1)[:, None, None]
    colour = colour + towards * (slow[:, cell[0], cell[1]] - colour)

    textures = np.stack([np.zeros((n, n), np.float32)] + [_texture(n, rng) for _ in range(_N_TEXTURES)])
    strength = log_uniform(0.015, 0.2, rng) * np.exp(rng.normal(0, 0.6, count))
    which = rng.integers(1, _N_TEXTURES + 1, count) * (rng.random(count) < rng.uniform(0.2, 0.9))
    shade = np.exp(rng.normal(math.log(0.1), 0.7, (2, count))) * rng.choice([-1, 1], (2, count))
    gx, gy = (shade / np.maximum(found.radius, 8.0)).astype(np.float32)
    flat = -(gx * found.x + gy * found.y)

    t = np.arange(m, dtype=np.int32)
    row = (t[:, None] // 2 + rng.integers(0, n, count, dtype=np.int32)[labels]) % n
    column = (t // 2 + rng.integers(0, n, count, dtype=np.int32)[labels]) % n
    start = (which * n * n).astype(np.int32)[labels]
    value = textures.reshape(-1)[start + row * n + column] * strength.astype(np.float32)[labels]
    value += gx[labels] * t + gy[labels] * t[:, None] + flat[labels]
    return np.stack([halve((c + value * (0.3 + 0.7 * c)).astype(np.float32)) for c in colour[:, labels]])


def _painted(field: Floats, channels: int, rng: np.random.Generator) -> Floats:
    """Return a field of unit variance in shades between colours, (channels, n, n)."""
    low, high = _colours(2, channels, rng).T
    share = 0.5 + log_uniform(0.1, 0.5, rng) * field
    x: Floats = (low[:, None, None] + (high - low)[:, None, None] * share).astype(np.float32)
    return x


def _surface(n: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return fractal noise or a texture everywhere, on which a second one may lie."""
    x = fractal(n, rng.uniform(0.8, 2.2), rng) if rng.random() < 0.5 else _texture(n, rng)
    if rng.random() < 0.6:
        other = _texture(n, rng)
        x = x * (1 + 0.5 * other) if rng.random() < 0.5 else x + rng.uniform(0.1, 1) * other
    return _painted(unit(x), channels, rng)


def _drawing(n: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return strokes or lines of text on a gradient or on fractal noise."""
    t = np.linspace(-1, 1, n, dtype=np.float32)
    ground = rng.normal() * t + rng.normal() * t[:, None]
    x = _painted(unit(ground) if rng.random() < 0.5 else fractal(n, rng.uniform(1, 2.5), rng), channels, rng)
    if rng.random() < 0.4:
        return _over(x, text(n, rng), rng)
    for _ in range(rng.integers(1, 6)):
        x = _over(x, strokes(n, rng), rng)
    return x


def _over(x: Floats, covered: Floats, rng: np.random.Generator) -> Floats:
    """Paint what is covered in one colour."""
    y: Floats = x + covered * rng.uniform(0.3, 1) * (_colours(1, x.shape[0], rng)[:, :, None] - x)
    return y


def _phantom(n: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return a head or a chest in a random window of attenuation."""
    make = head if rng.random() < 0.5 else chest
    g = torch.Generator().manual_seed(int(rng.integers(2**62)))
    x = make(n, generator=g)[0, 0].numpy() / 0.0215  # soft tissue is about 1
    low = rng.choice([0.0, rng.uniform(0, 0.9)])
    x = (x - low) / (rng.uniform(1.05, 2.0) - low)
    x = np.rot90(x, int(rng.integers(4)))
    y: Floats = np.broadcast_to(x.clip(0, 1).astype(np.float32), (channels, n, n))
    return y


def _expose(x: Floats, rng: np.random.Generator) -> Floats:
    """Return the scene as a camera shows it, in [0, 1]: light, focus, sharpening, contrast, gamma, saturation."""
    n = x.shape[1]
    if rng.random() < 0.4:
        x = x * np.exp(rng.uniform(0.1, 0.4) * fractal(n, 2.5, rng))
    kind = rng.random()
    if kind < 0.5:
        sigma = rng.uniform(0.3, 0.8) if kind < 0.4 else log_uniform(0.8, 2.5, rng)
        x = gaussian_filter(x, (0, sigma, sigma))
    if rng.random() < 0.15:  # out of focus in parts
        sigma = log_uniform(1, 6, rng)
        where = 0.5 + 0.5 * np.tanh(2 * fractal(n, 2.5, rng))
        x = x + where * (gaussian_filter(x, (0, sigma, sigma)) - x)
    if rng.random() < 0.25:
        x = x + rng.uniform(0.2, 1.0) * (x - gaussian_filter(x, (0, 1.0, 1.0)))
    low, high = np.percentile(x[:, ::4, ::4], (rng.uniform(0, 3), 100 - rng.uniform(0, 3)))
    stretched = np.maximum((x - low) / max(float(high - low), 0.05), 0) ** math.exp(rng.normal(-0.1, 0.35))
    dark, bright = rng.uniform(-0.05, 0.2), rng.uniform(0.65, 1.15)
    y: Floats = (dark + (bright - dark) * stretched).clip(0, 1).astype(np.float32)
    return y
