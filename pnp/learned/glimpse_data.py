"""Training slices and architectures of `pnp train glimpse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..io import read_image
from ..phantoms import chest
from ..training.images import centre

ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # One sample of each view, and blocks that exchange features with neighbouring points.
    "local": ({}, {"patch": 32, "patches": 1}),
    # As in the original paper: nine samples of each view, a pointwise network, 512 points in a step.
    "pointwise": (
        {"taps": 9, "features": 256, "hidden": 256, "blocks": (0, 0, 0)},
        {"patch": 1, "patches": 512},
    ),
}
"""For each kind the constructor arguments of Glimpse, and the arguments of PatchTask."""


def chests(count: int, size: int, seed: int = 0, *, progress: bool = False) -> tuple[Tensor, str]:
    """Simulate slices of chests (count, 1, size, size) in 1/mm; return them and a description."""
    g = torch.Generator().manual_seed(seed)
    bar = tqdm(range(count), desc="slices", disable=not progress, file=sys.stderr)
    return torch.cat([chest(size, generator=g) for _ in bar]), f"{count} simulated slices of chests, {size} x {size}"


def folder_slices(folder: str | Path, size: int) -> tuple[Tensor, str]:
    """Read the images in a folder: their central squares, resized to (n, 1, size, size), and a description.

    Args:
        folder: it and its subfolders are searched for files that `read_image` reads, in the order of their names.
            Values keep their units, such as 1/mm; they must not be negative (attenuation, not HU). Channels are
            averaged.
        size: side of the slices in pixels.

    Raises:
        ValueError: there is no such folder; a file, which is named, is unreadable, too small or has negative values;
            there are fewer than two images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder_slices: {str(folder)!r} is not a folder; give a folder of slices")
    slices = []
    for file in sorted(f for f in root.rglob("*") if f.is_file() and not f.name.startswith(".")):
        pixels = torch.from_numpy(read_image(file))
        x = pixels if pixels.ndim == 2 else pixels.mean(0)
        if min(x.shape) < size or float(x.min()) < 0:
            raise ValueError(
                f"folder_slices: {file.name} must be at least {size} x {size} pixels without negative values, got "
                f"{tuple(x.shape)} from {float(x.min()):.4g} up; convert HU to attenuation, or remove it"
            )
        # An image of zeros has no range, which PSNR needs.
        if float(x.max()) > 0:
            square = centre(x[None], min(x.shape))[None]
            slices.append(F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(min=0))
    if len(slices) < 2:
        raise ValueError(
            f"folder_slices: {str(folder)!r} has {len(slices)} images; training and validation need at least two"
        )
    return torch.cat(slices), f"{len(slices)} images of {root.resolve().name}, shrunk to {size} x {size}"
