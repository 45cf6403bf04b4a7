"""Clean images to train on: random crops from a folder of photographs, held in memory as bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Crops", "Sampler", "load_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


class Sampler(Protocol):
    """Draws clean training images (B, C, H, W)."""

    def __call__(self, batch: int, generator: torch.Generator, /) -> Tensor:
        """Return `batch` images, float32, from the generator's randomness alone."""
        ...


def load_folder(folder: str | Path, channels: int = 1) -> list[Tensor]:
    """Read every image below a folder as uint8 tensors (channels, H, W), in the order of their names.

    Args:
        folder: searched with its subfolders for PNG, JPEG, TIFF, BMP and WebP.
        channels: 1 converts to grey by ITU-R 709 luminance (scikit-image's rgb2gray), 3 keeps colour.

    Raises:
        ValueError: there is no such folder, no image in it, or one that cannot be read (it is named).
    """
    from PIL import Image
    from skimage.color import gray2rgb, rgb2gray
    from skimage.util import img_as_ubyte

    if channels not in (1, 3):
        raise ValueError(f"load_folder: channels must be 1 or 3, got {channels}")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"load_folder: {str(folder)!r} is not a folder; give a folder of images")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"load_folder: no image in {str(folder)!r}; expected {', '.join(SUFFIXES)}")
    images = []
    for path in files:
        try:
            with path.open("rb") as file, Image.open(file) as opened:
                # Grey images of any depth as they are; palettes and transparency become plain colour.
                x: NDArray[Any] = np.array(opened if opened.mode in ("L", "I;16") else opened.convert("RGB"))
        except Exception as error:
            raise ValueError(f"load_folder: cannot read {path.name}: {error}; remove it or repair it") from error
        if channels == 1:
            x = (rgb2gray(x) if x.ndim == 3 else x)[..., None]
        elif x.ndim == 2:
            x = gray2rgb(x)
        images.append(torch.from_numpy(np.ascontiguousarray(img_as_ubyte(x).transpose(2, 0, 1))))
    return images


class Crops:
    """Random square crops in [0, 1] with the eight flips and rotations, optionally from shrunken copies.

    Args:
        images: uint8 tensors (C, H, W), e.g. from `load_folder`.
        size: side of the crops in pixels; images smaller than that are an error.
        shrink: further scales, e.g. (0.7,); every image is also offered at these, antialiased.
    """

    def __init__(self, images: list[Tensor], size: int, shrink: tuple[float, ...] = ()) -> None:
        from skimage.transform import rescale

        small = next((tuple(x.shape) for x in images if min(x.shape[1:]) < size), None)
        if small is not None:
            raise ValueError(f"Crops: images must be at least {size} x {size}, got one of {small[1:]}; lower the size")
        if not images:
            raise ValueError("Crops: images must not be empty")
        self.size, self.images = size, list(images)
        for factor in shrink:
            for x in images:
                if min(x.shape[1:]) * factor >= size:
                    y = rescale(x.numpy(), factor, anti_aliasing=True, channel_axis=0, preserve_range=True)
                    self.images.append(torch.from_numpy(np.rint(y).clip(0, 255).astype(np.uint8)))

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw crops (batch, C, size, size), float32 in [0, 1]."""
        u = torch.rand(batch, 3, generator=generator).tolist()
        crops = []
        for pick, down, right in u:
            x = self.images[int(pick * len(self.images))]
            r = int(down * (x.shape[1] - self.size + 1))
            c = int(right * (x.shape[2] - self.size + 1))
            crops.append(x[:, r : r + self.size, c : c + self.size])
        x = torch.stack(crops).float() / 255
        turn = int(torch.randint(8, (), generator=generator))
        x = x.transpose(2, 3) if turn & 4 else x
        dims = [d for d, bit in ((2, 1), (3, 2)) if turn & bit]
        return x.flip(dims).contiguous() if dims else x.contiguous()
