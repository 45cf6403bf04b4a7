"""Clean training images: random crops from a folder of photographs, held in memory as bytes."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..io.guards import check_claim, quiet

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Formats that Pillow may open: some of its others run programs."""
_CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))


class Sampler(Protocol):
    """A source of clean training images."""

    def __call__(self, batch: int, /, *, generator: torch.Generator) -> Tensor:
        """Draw images (batch, C, H, W), float32; all randomness comes from the generator."""
        ...


def load_folder(folder: str | Path, channels: int = 1) -> list[Tensor]:
    """Read every image in a folder as uint8 tensors (channels, H, W), in the order of their names.

    Args:
        folder: it and its subfolders are searched for PNG, JPEG, TIFF, BMP and WebP.
        channels: 1 converts to grey by ITU-R 709 luminance (scikit-image's rgb2gray), 3 keeps colour.

    Grey files may have 8 or 16 bits, 16 bits stored in 32, or floating point in [0, 1].

    Raises:
        ValueError: there is no such folder or no image in it; a folder or file, which is named, cannot be read, or its
            range is not known.
    """
    from PIL import Image
    from skimage.color import gray2rgb, rgb2gray
    from skimage.util import img_as_ubyte

    if channels not in (1, 3):
        raise ValueError(f"load_folder: channels must be 1 or 3, got {channels}")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"load_folder: {str(folder)!r} is not a folder; give a folder of images")
    below = (Path(place) / name for place, _, names in os.walk(root, onerror=_refuse) for name in names)
    files = sorted(p for p in below if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"load_folder: no image in {str(folder)!r}; expected {', '.join(_SUFFIXES)}")
    images = []
    for path in files:
        name = path.relative_to(root)
        try:
            with quiet(), path.open("rb") as file, Image.open(file, formats=_PILLOW_FORMATS) as opened:
                needed = opened.width * opened.height * len(opened.getbands())
                check_claim(
                    f"load_folder: {name}",
                    needed,
                    path.stat().st_size,
                    "if that is right, store it as uncompressed TIFF",
                )
                # Grey images keep their depth; palettes and transparency become plain colour.
                grey = opened.mode in ("L", "I", "F") or opened.mode.startswith("I;16")
                x: NDArray[Any] = np.array(opened if grey else opened.convert("RGB"))
            x = x if x.dtype == np.uint8 else _eight_bits(x)
        except Exception as error:
            if str(error).startswith(f"load_folder: {name} claims"):
                raise
            raise ValueError(f"load_folder: cannot read {name}: {error}; remove it or save it as PNG"[:390]) from error
        if channels == 1:
            x = (rgb2gray(x) if x.ndim == 3 else x)[..., None]
        elif x.ndim == 2:
            x = gray2rgb(x)
        images.append(torch.from_numpy(np.ascontiguousarray(img_as_ubyte(x).transpose(2, 0, 1))))
    return images


def _eight_bits(x: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale a grey image of 16 bits, or of floating point in [0, 1], to eight."""
    low, high = x.min(), x.max()
    if x.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(f"floating point must lie in [0, 1], got {low:g} to {high:g}")
    # White is unknown for 32 bits; values up to 255 may hold 8 or 16 bits.
    elif x.dtype.itemsize > 2 and not (low >= 0 and 255 < high <= 65535):
        raise ValueError(f"32-bit integers must be values of 16 bits, got {low} to {high}")
    y: NDArray[np.uint8] = np.rint(255 * x if x.dtype.kind == "f" else x / 257).astype(np.uint8)
    return y


def _refuse(error: OSError) -> None:
    reason = f"{str(error.filename)!r} cannot be listed: {error.strerror}; check its permissions"
    raise ValueError(f"load_folder: the folder {reason}") from error


def centre(x: Tensor, size: int) -> Tensor:
    """Return the central size x size pixels of x (C, H, W); shorter sides are kept whole."""
    top, left = (max(0, (n - size) // 2) for n in x.shape[1:])
    return x[:, top : top + size, left : left + size]


class Crops:
    """Random square crops in [0, 1] with the eight flips and rotations, on request from reduced copies too.

    Args:
        images: uint8 tensors (C, H, W), e.g. from `load_folder`.
        size: side of the crops in pixels; smaller images are an error.
        shrink: further scales, e.g. (0.7,), at which every image is used too, antialiased.
        recolour: in half of the crops, of colour images, permute the channels, and stretch them away from grey or blend
            them with other crops.
    """

    def __init__(
        self, images: list[Tensor], size: int, shrink: tuple[float, ...] = (), *, recolour: bool = False
    ) -> None:
        small = next((tuple(x.shape) for x in images if min(x.shape[1:]) < size), None)
        if small is not None:
            raise ValueError(f"Crops: images must be at least {size} x {size}, got one of {small[1:]}; lower the size")
        if not images:
            raise ValueError("Crops: images must not be empty")
        if recolour and any(len(x) != 3 for x in images):
            raise ValueError("Crops: recolour needs images of three channels; leave it out")
        self.size, self.images, self.recolour = size, list(images), recolour
        for factor in shrink:
            for x in images:
                if min(x.shape[1:]) * factor >= size:
                    shape = [int(n * factor) for n in x.shape[1:]]
                    y = F.interpolate(x[None].float(), shape, mode="bicubic", antialias=True)[0]
                    self.images.append(y.round().clamp(0, 255).byte())

    def __call__(self, batch: int, *, generator: torch.Generator) -> Tensor:
        """Draw crops (batch, C, size, size), float32 in [0, 1]."""
        crops = []
        for pick, down, right, turn in torch.rand(batch, 4, generator=generator).tolist():
            x = self.images[int(pick * len(self.images))]
            r = int(down * (x.shape[1] - self.size + 1))
            c = int(right * (x.shape[2] - self.size + 1))
            x = x[:, r : r + self.size, c : c + self.size]
            x = x.mT if turn >= 0.5 else x
            crops.append(x.rot90(int(8 * turn) % 4, (1, 2)))
        x = torch.stack(crops).float() / 255
        return _recoloured(x, generator) if self.recolour else x


def _recoloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change the colours of half of the images (B, 3, H, W): permute the channels, then stretch them or blend them.

    Channels are stretched 1/2 to 4 times away from grey and clipped, or blended with 1/64 to 1 of the next images of
    the batch, another one for each channel. In photographs of nature the channels are much alike, and JPEG halves the
    resolution of their differences: a network trained on these alone takes vivid colours and grain for noise.
    """
    which, much, order = torch.rand(3, len(x), generator=generator)
    permuted = torch.stack(
        [image[list(_CHANNEL_ORDERS[int(6 * o)])] for image, o in zip(x, order.tolist(), strict=True)]
    )
    grey = permuted.mean(1, keepdim=True)
    which, much = which.reshape(-1, 1, 1, 1), much.reshape(-1, 1, 1, 1)
    stretched = (grey + 2 ** (3 * much - 1) * (permuted - grey)).clamp(0, 1)
    others = torch.stack([x.roll(k + 1, 0)[:, k] for k in range(3)], 1)
    blended = permuted.lerp(others, 2 ** (6 * much - 6))
    return torch.where(which < 0.25, stretched, torch.where(which < 0.5, blended, x))
