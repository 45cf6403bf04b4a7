"""Training volumes that the package makes itself, so that weights trained on them have no terms but its own.

Dead leaves in space with textures and shading; fractal noise and layers; trabeculae, foams and grains; drilled discs,
rods and fibres; heads and chests that change from slice to slice; one of these within another. Each volume has its own
focus, contrast and gamma, and is saturated here and there. Crops are turned and mirrored in all 48 ways, so that no
axis is that from head to toe.

Voxels are cubes, or, with `anisotropy`, in half of the volumes longer along one axis: averages over so many cubes.

Sources: as in `synthetic.py`; its leaves are those of `volume_shapes.py` here.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..phantoms import chest, head
from .denoiser import denoising_psnr
from .options import NoiseLevels, TrainingOptions
from .photographs import TrainingSet
from .renewed import Renewed
from .textures import log_uniform
from .volume_shapes import coverage, dead_leaves, drilled, noise, sponge, texture

Floats = NDArray[np.float32]

_MIN_SIZE = 32
_SIZE = 128
"""Side of training volumes in voxels, where crops do not need larger ones."""
_N_FIRST = 4
"""Volumes from which the first batch is taken."""
_N_HELD_OUT = 8
_N_TEXTURES = 3
"""Textures of the leaves of one volume."""
_MAX_CROP = 96
_ORDERS = list(permutations(range(3)))


def synthetic_volume(number: int, *, size: int = 128, seed: int = 0, anisotropy: float = 1.0) -> Tensor:
    """Return volume `number` of an endless sequence, float16 in [0, 1], (1, size, size, size).

    It depends on the arguments alone: bit for bit on one machine with the same versions of NumPy, SciPy and PyTorch.

    Args:
        number: from 0 up.
        size: voxels on a side, at least 32. Objects keep their size in voxels, except the largest ones.
        seed: another seed gives another sequence.
        anisotropy: largest ratio of the sides of a voxel. Half of the volumes have a ratio between 1 and this one, and
            fewer voxels along that axis.

    Raises:
        ValueError: the number or the seed is negative, the size is too small, the anisotropy is below 1.
    """
    _check("synthetic_volume", size, seed, anisotropy)
    if number < 0:
        raise ValueError(f"synthetic_volume: number must be 0 or more, got {number}")
    return _draw((seed, number), size, anisotropy)


def _check(caller: str, size: int, seed: int, anisotropy: float) -> None:
    if size < _MIN_SIZE:
        raise ValueError(f"{caller}: size must be at least {_MIN_SIZE} voxels, got {size}")
    if seed < 0:
        raise ValueError(f"{caller}: seed must be 0 or more, got {seed}")
    if not 1 <= anisotropy <= size / 8:
        raise ValueError(
            f"{caller}: anisotropy must be the largest ratio of a voxel's sides, 1 to size / 8 = {size / 8:g}, got "
            f"{anisotropy}"
        )


def _draw(entropy: tuple[int, ...], size: int, anisotropy: float) -> Tensor:
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    n = size + size % 2
    x = torch.from_numpy(_show(_scene(n, rng), rng))[None, :size, :size, :size]
    if anisotropy > 1 and rng.random() < 0.5:
        thick = max(1, round(size / log_uniform(1, anisotropy, rng)))
        x = F.interpolate(x[None], size=(thick, size, size), mode="area")[0]
    return x.half()


class SyntheticVolumes:
    """Random crops of synthetic volumes in [0, 1]: a `Sampler` that keeps some volumes and renews them one by one.

    Call t takes its crops from min(kept, 4 + t) volumes of a sequence, from number t // every on. Each is made when it
    is first needed, in about a second for 128^3 on one core: one volume a call until `kept` are there, and then one in
    `every` calls. The volumes depend on the seed and on t alone, the crops on the generator, so that a run that calls
    `seek` resumes with the same ones. Each process of torchrun has a sequence of its own.

    Args:
        crop: side of the crops in voxels.
        seed: of the sequence.
        size: side of the volumes in voxels, see `synthetic_volume`.
        anisotropy: largest ratio of the sides of a voxel.
        kept: number of volumes kept in memory, 2 size^3 bytes each.
        every: number of calls after which the oldest volume is replaced by a new one.

    Raises:
        ValueError: the crop is larger than the volumes, or a number is too small.
    """

    def __init__(
        self, crop: int, *, seed: int = 0, size: int = 128, anisotropy: float = 1.0, kept: int = 64, every: int = 12
    ) -> None:
        _check("SyntheticVolumes", size, seed, anisotropy)
        if not 1 <= crop <= size / anisotropy:
            raise ValueError(
                f"SyntheticVolumes: crop must be 1 to size / anisotropy, {size / anisotropy:g} voxels, got {crop}"
            )
        self.crop, self.size, self.anisotropy = crop, size, anisotropy
        self._renewed = Renewed(
            "SyntheticVolumes",
            self._make,
            seed=seed,
            n_first=_N_FIRST,
            kept=kept,
            every=every,
        )

    @property
    def volumes(self) -> dict[int, Tensor]:
        """Volumes in memory, by their numbers."""
        return self._renewed.items

    def seek(self, calls: int) -> None:
        """Continue as after this number of calls."""
        self._renewed.seek(calls)

    def _make(self, entropy: tuple[int, ...]) -> Tensor:
        return _draw(entropy, self.size, self.anisotropy)

    def __call__(self, batch: int, /, *, generator: torch.Generator) -> Tensor:
        """Draw crops (batch, 1, crop, crop, crop), float32 in [0, 1], in all 48 positions."""
        picked, crops = self._renewed.pick(batch, generator), []
        for number, (*at, order, flips) in zip(picked, torch.rand(batch, 5, generator=generator).tolist(), strict=True):
            x = self._renewed[number]
            for axis, u in enumerate(at, 1):
                x = x.narrow(axis, int(u * (x.shape[axis] - self.crop + 1)), self.crop)
            x = x.permute(0, *(1 + axis for axis in _ORDERS[int(6 * order)]))
            crops.append(x.flip([axis for axis in (1, 2, 3) if int(8 * flips) >> (axis - 1) & 1]))
        self._renewed.seek(self._renewed.calls + 1)
        return torch.stack(crops).float()


def volume_set(*, crop: int = 48, seed: int = 0, anisotropy: float = 1.0) -> TrainingSet:
    """Return crops of synthetic volumes, with sigma in [0.2, 55]/255, mostly uniform, as for photographs.

    Eight volumes of 64^3, which no training uses, are for validation.

    Args:
        crop: side of the crops in voxels, at most 96.
        seed: of the training volumes; those for validation are always the same.
        anisotropy: largest ratio of the sides of a voxel, see `synthetic_volume`.

    Raises:
        ValueError: the crop is too large.
    """
    if not 1 <= crop <= _MAX_CROP:
        raise ValueError(f"volume_set: crop must be 1 to {_MAX_CROP} voxels, got {crop}")
    # Volumes that hold crops along the shortened axis too.
    size = max(_SIZE, 2 * math.ceil(crop * anisotropy / 2))
    validation = [synthetic_volume(k, size=64).float() for k in range(_N_HELD_OUT)]
    stretched = f", voxels up to {anisotropy:g} times as long along an axis" if anisotropy > 1 else ""
    return TrainingSet(
        sampler=SyntheticVolumes(crop, seed=seed, size=size, anisotropy=anisotropy),
        levels=NoiseLevels(0.2 / 255, 55 / 255, "mixed"),
        options=TrainingOptions(batch=4, border=min(6, (crop - 1) // 4)),
        validate=lambda model: denoising_psnr(model, validation, 25 / 255),
        measure="PSNR in dB at sigma 25/255",
        about=f"synthetic volumes of this package, seed {seed}; crops of {crop}^3{stretched}",
        n_held_out=len(validation),
    )


def _greys(count: int, rng: np.random.Generator) -> Floats:
    """Return grey values (count,) of one volume: any, a few materials, or near one another."""
    kind = rng.random()
    if kind < 0.3:
        grey = rng.random(count)
    elif kind < 0.5:
        grey = rng.beta(log_uniform(0.5, 4, rng), log_uniform(0.5, 4, rng), count)
    elif kind < 0.8:  # materials
        grey = rng.choice(rng.random(int(rng.integers(2, 6))), count)
        grey = grey + rng.choice([0.0, 0.02]) * rng.standard_normal(count)
    else:
        grey = rng.uniform(0.2, 0.8) + rng.uniform(0.03, 0.15) * rng.standard_normal(count)
    return grey.astype(np.float32)


def _scene(n: int, rng: np.random.Generator, *, depth: int = 0) -> Floats:
    """Return a scene (n, n, n), about 0 to 1: one kind of volume, or one within the other."""
    if depth == 0 and rng.random() < 0.2:
        inner, outer = (_scene(n, rng, depth=1) for _ in range(2))
        x: Floats = outer + _mask(n, rng) * (inner - outer)
        return x
    kinds = ((0.45, _leaves), (0.12, _surface), (0.17, _material), (0.11, _fibres), (0.15, _anatomy))
    return kinds[int(rng.choice(len(kinds), p=[share for share, _ in kinds]))][1](n, rng)


def _mask(n: int, rng: np.random.Generator) -> Floats:
    """Return where one scene lies within another, 0 to 1."""
    kind = rng.random()
    if kind < 0.35:
        return sponge(n, rng)
    if kind < 0.55:
        return drilled(n, rng)
    if kind < 0.75:
        return _halved((dead_leaves(2 * n, 0.2 * n, n, rng, cover=rng.uniform(0.3, 1.5)).labels > 0).astype(np.float32))
    x = noise(n, rng, slope=rng.uniform(2, 3.5)) - np.float32(rng.normal(0, 0.5))
    return coverage(x) if kind < 0.9 else (0.5 + 0.5 * np.tanh(log_uniform(1, 10, rng) * x)).astype(np.float32)


def _halved(x: Floats) -> Floats:
    """Average blocks of 2 x 2 x 2."""
    for axis in range(3):
        x = x.take(range(0, x.shape[axis], 2), axis) + x.take(range(1, x.shape[axis], 2), axis)
    return x * np.float32(0.125)


class _Paint(NamedTuple):
    """How leaves are painted."""

    strength: Floats
    """Of each leaf's texture."""
    which: NDArray[np.intp]
    """Number of each leaf's texture; 0 is none."""
    slope: Floats
    """Shading of each leaf, change of value per sample along the three axes (count, 3)."""


def _leaves(n: int, rng: np.random.Generator) -> Floats:
    """Return dead leaves of greys of their own, shaded linearly and textured; some drawn at twice the resolution."""
    fine = 2 if rng.random() < 0.4 else 1
    m = fine * n
    smallest = fine * (log_uniform(1.0, 2.5, rng) if rng.random() < 0.4 else log_uniform(2.5, 20, rng))
    found = dead_leaves(
        m,
        smallest,
        smallest + m * rng.uniform(0.05, 0.6),
        rng,
        exponent=rng.normal(3.9, 0.3),
        shapes=tuple(rng.dirichlet((1.5, 0.8, 0.5))),
        thinnest=rng.uniform(0.15, 0.6),
        aligned=rng.random() < 0.2,
    )
    count = len(found.radius)
    grey = _greys(count, rng)
    # Neighbours are alike: part of each grey is taken from a smooth map of the volume.
    cell = np.clip(found.centre / fine, 0, n - 1).astype(np.intp)
    slow = noise(n, rng, slope=2.5)[tuple(cell.T)] * grey.std() + grey.mean()
    grey = (grey + rng.uniform(0, 0.8) * (slow - grey)).astype(np.float32)
    textures = np.stack([np.zeros((n, n, n), np.float32)] + [texture(n, rng) for _ in range(_N_TEXTURES)])
    paint = _Paint(
        (log_uniform(0.015, 0.2, rng) * np.exp(rng.normal(0, 0.6, count))).astype(np.float32),
        rng.integers(1, _N_TEXTURES + 1, count) * (rng.random(count) < rng.uniform(0.2, 0.9)),
        (
            rng.normal(0, rng.choice([0.0, 0.1]), (count, 3)) / np.maximum(found.radius, 4.0 * fine)[:, None]
        ).astype(np.float32),
    )  # fmt: skip
    x, labels = grey[found.labels], found.labels
    if fine == 2:
        x, labels = _halved(x), labels[::2, ::2, ::2]
    t = np.arange(0, m, fine, dtype=np.float32)
    flat = -(paint.slope * found.centre).sum(1).astype(np.float32)
    value = flat[labels]
    for axis in range(3):
        value += paint.slope[:, axis][labels] * t.reshape([-1 if k == axis else 1 for k in range(3)])
    at = np.arange(n**3, dtype=np.int64).reshape(n, n, n)
    value += paint.strength[labels] * textures.reshape(-1)[paint.which[labels] * n**3 + at]
    painted: Floats = (x + value).astype(np.float32)
    return painted


def _painted(part: Floats, rng: np.random.Generator) -> Floats:
    """Return what is filled and what is not in two greys, each more or less textured."""
    low, high = _greys(2, rng)
    x: Floats = low + (high - low) * part
    if rng.random() < 0.5:
        x = x + part * (np.float32(log_uniform(0.01, 0.15, rng)) * texture(len(part), rng))
    if rng.random() < 0.3:
        x = x + (1 - part) * (np.float32(log_uniform(0.01, 0.15, rng)) * texture(len(part), rng))
    return x


def _surface(n: int, rng: np.random.Generator) -> Floats:
    """Return fractal noise or a texture everywhere, more or less of another one on it."""
    x = noise(n, rng, slope=rng.uniform(1.2, 3.0)) if rng.random() < 0.5 else texture(n, rng)
    if rng.random() < 0.5:
        x = x + np.float32(rng.uniform(0.1, 1)) * texture(n, rng)
    return (0.5 + np.float32(log_uniform(0.1, 0.4, rng)) * x).astype(np.float32)


def _material(n: int, rng: np.random.Generator) -> Floats:
    """Return trabeculae, foam, grains, a perforated disc or rods; the cells of a sponge may end at a surface."""
    part = sponge(n, rng) if rng.random() < 0.6 else drilled(n, rng)
    if rng.random() < 0.4:
        part = part * _mask(n, rng)
    return _painted(part, rng)


def _fibres(n: int, rng: np.random.Generator) -> Floats:
    """Return sparse long fibres, grains or pores in a body: leaves that cover little."""
    kind, m = rng.random(), 2 * n
    fibres = kind < 0.6
    radius = log_uniform(16, 80, rng) if fibres else log_uniform(3, 16, rng)
    found = dead_leaves(
        m,
        radius,
        2 * radius,
        rng,
        cover=rng.uniform(0.5, 4) if fibres else rng.uniform(0.1, 1.0),
        shapes=(0.0, 0.0, 1.0) if fibres else (0.8, 0.1, 0.1),
        thinnest=rng.uniform(0.04, 0.12) if fibres else 0.5,
        aligned=fibres and rng.random() < 0.3,
    )
    greys = _greys(len(found.radius), rng) if rng.random() < 0.5 else np.full(len(found.radius), rng.random(), "f4")
    x = _halved(greys[found.labels])
    body = _surface(n, rng) if rng.random() < 0.5 else np.full((n, n, n), rng.random(), np.float32)
    part = _halved((found.labels > 0).astype(np.float32))
    # The ground's grey is left out of x before the body takes its place.
    y: Floats = (x - (1 - part) * greys[0] + (1 - part) * body).astype(np.float32)
    return y


def _anatomy(n: int, rng: np.random.Generator) -> Floats:
    """Return a head or a chest whose slices shift, grow and bend along the axis, in a random window of attenuation."""
    g = torch.Generator().manual_seed(int(rng.integers(2**62)))
    make, wide = (head, chest)[int(rng.integers(2))], int(n * rng.uniform(1, 2.5))
    x = make(max(32, wide), generator=g) / 0.0215  # soft tissue is about 1
    t = torch.linspace(-1, 1, n)
    bend = torch.from_numpy(np.stack([noise(n, rng, slope=3.0) for _ in range(2)], -1))
    middle, drift = torch.from_numpy(rng.uniform(-0.4, 0.4, (2, 2)).astype(np.float32))
    half = n / x.shape[-1]
    growth = 1 + rng.uniform(-0.5, 0.5) * t
    plane = torch.stack(torch.meshgrid(t, t, indexing="xy"), -1) * half
    at = plane * growth[:, None, None, None] + middle * (1 - half) + drift * t[:, None, None, None]
    at = at + rng.uniform(0, 0.1) * bend
    volume = F.grid_sample(x.expand(n, -1, -1, -1), at, mode="bilinear", padding_mode="border", align_corners=False)
    low = rng.choice([0.0, rng.uniform(0, 0.9)])
    y: Floats = ((volume[:, 0] - low) / (rng.uniform(1.05, 2.0) - low)).clamp(0, 1).numpy()
    return y


def _show(x: Floats, rng: np.random.Generator) -> Floats:
    """Return the scene as a scanner shows it, in [0, 1]: shading, focus, sharpening, field of view, contrast, gamma."""
    n = len(x)
    if rng.random() < 0.25:
        x = x * np.exp(np.float32(rng.uniform(0.1, 0.4)) * noise(n, rng, slope=3.5))
    kind = rng.random()
    if kind < 0.6:
        sigma = rng.uniform(0.3, 0.8) if kind < 0.45 else log_uniform(0.8, 2.0, rng)
        x = gaussian_filter(x, sigma, truncate=3)
    if rng.random() < 0.2:
        x = x + np.float32(rng.uniform(0.2, 0.8)) * (x - gaussian_filter(x, 1.0, truncate=3))
    low, high = np.percentile(x[::4, ::4, ::4], (rng.uniform(0, 3), 100 - rng.uniform(0, 3)))
    stretched = np.maximum((x - low) / np.float32(max(float(high - low), 0.05)), 0)
    if rng.random() < 0.5:
        stretched = stretched ** np.float32(math.exp(rng.normal(-0.1, 0.35)))
    dark, bright = rng.uniform(-0.05, 0.2), rng.uniform(0.65, 1.15)
    y: Floats = (np.float32(dark) + np.float32(bright - dark) * stretched).clip(0, 1).astype(np.float32)
    if rng.random() < 0.1:  # nothing outside the field of view
        t = (np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1
        inside = np.hypot(t[:, None], t) < rng.uniform(0.7, 1.2)
        y = np.where(inside, y, np.float32(rng.choice([0.0, dark])).clip(0, 1))
    return y
