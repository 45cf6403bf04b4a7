"""Training data of the package's weights: clean images, noise levels, options and a validation set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .denoiser import denoising_psnr
from .images import Crops, Sampler, centre, load_folder
from .options import NoiseLevels, TrainingOptions

_MAX_CROP = 128
"""Largest side of crops in pixels: a local network learns nothing more from larger ones."""


class TrainingSet(NamedTuple):
    """Arguments of `train_denoiser` other than the model."""

    sampler: Sampler
    levels: NoiseLevels
    options: TrainingOptions
    """Options for these data without a budget; set it by `dataclasses.replace(options, steps=...)`."""
    validate: Callable[[Any], float]
    measure: str
    """Name of the value that `validate` returns."""
    about: str
    """Description of the data for the header of the weight file."""
    n_held_out: int
    """Number of images that `validate` uses."""


def check_crop(caller: str, crop: int) -> None:
    """Refuse crops that are too large."""
    if not 1 <= crop <= _MAX_CROP:
        raise ValueError(f"{caller}: crop must be 1 to {_MAX_CROP} pixels, got {crop}")


def photograph_set(folder: str | Path, *, channels: int = 1, crop: int = 96) -> TrainingSet:
    """Return crops of photographs, also of copies at 0.7 of their size, with sigma in [0.2, 55]/255, mostly uniform.

    Colour photographs are also used at half their size, where JPEG has kept all colours, and colours are varied
    (`recolour` of `Crops`).

    The last images by name, 1 in 50 and at most 16, are held out for validation (their central 512 x 512 pixels).

    Args:
        folder: it and its subfolders are searched, see `load_folder`.
        channels: 1 converts to grey, 3 keeps colour.
        crop: side of the crops in pixels, at most 128, and at least the model's receptive field unless the options have
            a `border`.

    Raises:
        ValueError: the folder has fewer than two images, or some are unreadable or too small; the crop is too large.
    """
    check_crop("photograph_set", crop)
    images = load_folder(folder, channels)
    if len(images) < 2:
        raise ValueError(f"photograph_set: {str(folder)!r} has one image; training and validation need at least two")
    held_out = min(16, max(1, len(images) // 50))
    validation = [centre(x, 512).float() / 255 for x in images[-held_out:]]
    sampler = Crops(images[:-held_out], crop, shrink=(0.7,) if channels == 1 else (0.7, 0.5), recolour=channels == 3)
    about = f"{len(images) - held_out} images of {Path(folder).resolve().name}, {held_out} held out"
    return image_set(sampler, validation, about, channels=channels, crop=crop)


def image_set(sampler: Sampler, validation: list[Tensor], about: str, *, channels: int, crop: int) -> TrainingSet:
    """Return crops of images in [0, 1] with sigma in [0.2, 55]/255, and images (C, H, W) that validate at 25/255."""
    return TrainingSet(
        sampler=sampler,
        levels=NoiseLevels(0.2 / 255, 55 / 255, "mixed"),
        # The weight keeps details of single channels at low noise, despite the correlation learned at high noise.
        options=TrainingOptions(batch=12, loss_power=1.0 if channels == 1 else 1.5),
        validate=lambda model: denoising_psnr(model, validation, 25 / 255),
        measure="PSNR in dB at sigma 25/255",
        about=f"{about}; {'grey' if channels == 1 else 'colour'} crops of {crop} x {crop}",
        n_held_out=len(validation),
    )
