"""What the package's weight sets were trained on: clean images, noise levels, options and a validation set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .denoiser import denoising_psnr
from .images import Crops, Sampler, centre, load_folder
from .options import NoiseLevels, TrainingOptions

LARGEST_CROP = 128
"""Side in pixels: larger crops hold nothing that a local network could learn from."""


class TrainingSet(NamedTuple):
    """All that `train_denoiser` needs beside the model."""

    sampler: Sampler
    levels: NoiseLevels
    options: TrainingOptions
    """What suits the data; the budget is still to be given, by `dataclasses.replace(options, steps=...)`."""
    validate: Callable[[Any], float]
    measure: str
    """What `validate` returns."""
    about: str
    """The data, in words, for the header of the weight file."""


def photograph_set(folder: str | Path, *, channels: int = 1, crop: int = 96) -> TrainingSet:
    """Crops of photographs, also from copies shrunk to 0.7, with sigma in [0.2, 55]/255, mostly uniform ("mixed").

    Of colour photographs copies are shrunk to half their size, too, where JPEG leaves whole colours, and colours are
    varied (`Crops`: recolour).

    The last images by name, 1 in 50 and at most 16, are held out for validation (their middle 512 x 512 pixels).

    Args:
        folder: searched with its subfolders, see `load_folder`.
        channels: 1 converts to grey, 3 keeps colour.
        crop: side of the crops in pixels, at most 128 and at least the model's receptive field.

    Raises:
        ValueError: the folder has fewer than two images, or unreadable or too small ones; the crop is too large.
    """
    if not 1 <= crop <= LARGEST_CROP:
        raise ValueError(f"photograph_set: crop must be 1 to {LARGEST_CROP} pixels, got {crop}")
    images = load_folder(folder, channels)
    if len(images) < 2:
        raise ValueError(f"photograph_set: {str(folder)!r} has one image; training and validation need at least two")
    held_out = min(16, max(1, len(images) // 50))
    validation = [centre(x, 512).float() / 255 for x in images[-held_out:]]
    return TrainingSet(
        sampler=Crops(images[:-held_out], crop, shrink=(0.7,) if channels == 1 else (0.7, 0.5), recolour=channels == 3),
        levels=NoiseLevels(0.2 / 255, 55 / 255, "mixed"),
        # The channels' correlation, learned at high noise, must not cost what they hold by themselves at low noise.
        options=TrainingOptions(batch=12, loss_power=1.0 if channels == 1 else 1.5),
        validate=lambda model: denoising_psnr(model, validation, 25 / 255),
        measure="PSNR in dB at sigma 25/255",
        about=f"{len(images) - held_out} images of {Path(folder).resolve().name}, {held_out} held out; "
        f"{'grey' if channels == 1 else 'colour'} crops of {crop} x {crop}",
    )
