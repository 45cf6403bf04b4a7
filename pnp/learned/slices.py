"""What GLIMPSE is trained on by the command line, and in which of its two kinds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..data import centre, load_folder
from ..phantoms import chest

__all__ = ["ARCHITECTURES", "chests", "folder_slices"]

ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # One number a view, and neighbours that tell theirs.
    "local": ({}, {"patch": 32, "patches": 1}),
    # As the original: nine numbers a view, points by themselves, as many of them in a step as it took.
    "pointwise": (
        {"taps": 9, "features": 256, "hidden": 256, "blocks": (0, 0, 0)},
        {"patch": 1, "patches": 512},
    ),
}
"""Constructor arguments of Glimpse, and the patches of a training step."""


def chests(count: int, size: int, seed: int = 0, *, progress: bool = True) -> tuple[Tensor, str]:
    """Simulate `count` slices of chests (count, 1, size, size) in 1/mm; also return what they are, in words."""
    g = torch.Generator().manual_seed(seed)
    bar = tqdm(range(count), desc="slices", disable=not progress, file=sys.stderr)
    return torch.cat([chest(size, generator=g) for _ in bar]), f"{count} simulated slices of chests, {size} x {size}"


def folder_slices(folder: str | Path, size: int) -> tuple[Tensor, str]:
    """Read the images below a folder: their middle squares, shrunk to size x size; (n, 1, size, size) in [0, 1].

    Raises:
        ValueError: see `load_folder`; there are fewer than two images, or one is smaller than that.
    """
    images = load_folder(folder, 1)
    small = next((tuple(x.shape[1:]) for x in images if min(x.shape[1:]) < size), None)
    if small is not None:
        raise ValueError(f"folder_slices: images must be at least {size} x {size} pixels, got one of {small}")
    if len(images) < 2:
        raise ValueError(f"folder_slices: {str(folder)!r} has one image; training and validation need at least two")
    squares = [centre(x, min(x.shape[1:]))[None].float() / 255 for x in images]
    # An image of zeros has no range to measure a result by.
    squares = [x for x in squares if float(x.max()) > 0]
    x = torch.cat([F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 1) for x in squares])
    return x, f"{len(x)} images of {Path(folder).resolve().name}, shrunk to {size} x {size}"
