"""What the package's weight sets were trained on: clean images, noise levels, options and a validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .data import Crops, Sampler, centre, load_folder
from .lensing import LognormalKappa
from .metrics import nrmse
from .training import denoising_psnr
from .training_options import NoiseLevels, TrainingOptions
from .training_run import like

__all__ = ["TrainingSet", "convergence_set", "photograph_set"]


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


def convergence_set(stds: Sequence[float], pixel_arcmin: float = 0.29) -> TrainingSet:
    """Simulated lognormal convergence with clusters, 256 x 256, sigma log-uniform in [0.01, 0.5].

    Args:
        stds: standard deviations of the maps; one is drawn for each batch. Match them to the sources' redshifts.
        pixel_arcmin: side of a pixel in arcminutes.
    """
    if not stds:
        raise ValueError("convergence_set: stds must hold at least one standard deviation, e.g. [0.02]")
    skies = [LognormalKappa((256, 256), pixel_arcmin=pixel_arcmin, std=s, clusters=True) for s in stds]

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        return skies[int(torch.randint(len(skies), (), generator=generator))](n, generator=generator)

    # Seeds that no training draws from.
    clean = torch.cat([sky(2, generator=torch.Generator().manual_seed(10**6)) for sky in skies])
    noisy = clean + 0.18 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(10**6 + 1))

    def validate(model: Any) -> float:
        with torch.no_grad():
            return nrmse(model(noisy.to(like(model).device), 0.18).cpu(), clean)

    return TrainingSet(
        sampler=sampler,
        levels=NoiseLevels(0.01, 0.5, "log"),
        options=TrainingOptions(batch=4, loss_power=0.0, loss_scale=0.02),
        validate=validate,
        measure="NRMSE at sigma 0.18",
        about=f"simulated lognormal convergence with clusters, std {list(stds)}, pixels of {pixel_arcmin:g} arcmin",
    )
