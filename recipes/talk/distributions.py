"""Images of several distributions, without downloads: photographs for training, and others for tests.

In distribution are held-out photographs of the given folder. Out of distribution are

    heads        simulated CT slices of heads (`pnp.phantoms`), window 0.016 to 0.028 per mm
    textures     brick, grass and gravel, grey
    astronomy    the Hubble deep field, colour
    medical      a retina and stained tissue under the microscope, colour
    documents    printed and photographed text, grey
    convergence  lognormal maps of dark matter (`pnp.lensing`), from -1.28 to 6 standard deviations

Textures, astronomy, medical and documents come with scikit-image. All are float32 in [0, 1], (C, size, size), the same
on every call; grey images repeat their values in all channels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
import skimage.util
import torch
from torch import Tensor

from pnp.lensing import LognormalKappa
from pnp.phantoms import head
from pnp.training.images import centre, load_folder

__all__ = ["OUT_OF_DISTRIBUTION", "Photographs", "as_float", "centre", "out_of_distribution", "photographs"]


class Photographs(NamedTuple):
    """Disjoint images, uint8 (C, H, W) of any size."""

    train: list[Tensor]
    test: list[Tensor]
    about: str


MAX_HELD_OUT = 24
"""Maximum number of held-out photographs; the split depends on the folder alone, not on the number of tests."""


def photographs(folder: Path | None, channels: int = 3) -> Photographs:
    """Return the images of a folder, the last ones (at most MAX_HELD_OUT and a fifth) held out.

    Args:
        folder: any folder of images; None: quadrants of four photographs from scikit-image, too few for real results.
        channels: 1 or 3.

    Raises:
        ValueError: the folder is missing, unreadable or has fewer than two images.
    """
    images = _bundled_photographs(channels) if folder is None else load_folder(folder, channels)
    if len(images) < 2:
        raise ValueError(f"photographs: {str(folder)!r} has one image; training and testing need at least two")
    n = max(1, min(MAX_HELD_OUT, len(images) // 5))
    name = "quadrants of scikit-image's photographs" if folder is None else f"images of {folder.name}"
    return Photographs(images[:-n], images[-n:], f"{len(images) - n} {name}, {n} held out")


def as_float(images: list[Tensor]) -> list[Tensor]:
    """Return uint8 images as float32 in [0, 1]."""
    return [x.float() / 255 for x in images]


def out_of_distribution(name: str, n: int, size: int = 128, channels: int = 3) -> list[Tensor]:
    """Return n images (channels, size, size) of a set of OUT_OF_DISTRIBUTION; size up to 160."""
    if name not in OUT_OF_DISTRIBUTION:
        raise ValueError(f"out_of_distribution: name must be one of {tuple(OUT_OF_DISTRIBUTION)}, got {name!r}")
    if not 1 <= size <= 160:
        raise ValueError(f"out_of_distribution: size must be from 1 to 160 (the smallest image's side), got {size}")
    images = OUT_OF_DISTRIBUTION[name](n, size, torch.Generator().manual_seed(0))
    return [_with_channels(x, channels) for x in images]


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """Return (channels, H, W): grey repeated, or colour as luminance (ITU-R 709)."""
    if x.shape[0] == channels:
        return x
    if channels == 3:
        return x.expand(3, -1, -1).contiguous()
    weights = torch.tensor([0.2125, 0.7154, 0.0721])
    return torch.einsum("c,chw->hw", weights, x)[None]


def _bundled(name: str) -> Tensor:
    """Return an image that comes with scikit-image, float32 (C, H, W) in [0, 1]."""
    pixels = skimage.util.img_as_float32(getattr(skimage.data, name)())
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _bundled_photographs(channels: int) -> list[Tensor]:
    """Return quadrants of photographs without the cameraman, which `pnp_512.py` and `equivariance.py` use for tests."""
    images = []
    for name in ("astronaut", "coffee", "rocket", "chelsea"):
        x = (255 * _with_channels(_bundled(name), channels)).round().to(torch.uint8)
        height, width = x.shape[1] // 2, x.shape[2] // 2
        images += [x[:, i : i + height, j : j + width] for i in (0, height) for j in (0, width)]
    return images


def _crops(images: list[Tensor], n: int, size: int, g: torch.Generator) -> list[Tensor]:
    """Return n crops at random places, from each image in turn."""
    out = []
    for k in range(n):
        x = images[k % len(images)]
        u, v = torch.rand(2, generator=g).tolist()
        i, j = int(u * (x.shape[1] - size + 1)), int(v * (x.shape[2] - size + 1))
        out.append(x[:, i : i + size, j : j + size])
    return out


def _heads(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    slices = [((head(2 * max(size, 64), generator=g)[0] - 0.016) / 0.012).clamp(0, 1) for _ in range(n)]
    # The central half of the field of view: brain and some skull.
    return [x for s in slices for x in _crops([centre(s, 3 * size // 2)], 1, size, g)]


def _textures(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    return _crops([_bundled(name) for name in ("brick", "grass", "gravel")], n, size, g)


def _astronomy(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    return _crops([_bundled("hubble_deep_field")], n, size, g)


def _medical(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    # Means of 3 x 3 pixels, so that a crop shows vessels.
    retina = torch.nn.functional.avg_pool2d(_bundled("retina"), 3)
    return _crops([centre(retina, 320), _bundled("immunohistochemistry")], n, size, g)


def _documents(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    return _crops([_bundled("page"), _bundled("text")], n, size, g)


def _convergence(n: int, size: int, g: torch.Generator) -> list[Tensor]:
    sky = LognormalKappa((size, size), std=0.02)
    return list(((sky(n, generator=g) / 0.02 + 1.28) / 7.28).clamp(0, 1))


OUT_OF_DISTRIBUTION: dict[str, Callable[[int, int, torch.Generator], list[Tensor]]] = {
    "heads": _heads,
    "textures": _textures,
    "astronomy": _astronomy,
    "medical": _medical,
    "documents": _documents,
    "convergence": _convergence,
}
"""Name -> function (n, size, generator) that returns n images, grey or colour."""
