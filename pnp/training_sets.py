"""What the package's weight sets were trained on: clean images, noise levels, options and a validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .data import Crops, Sampler, load_folder
from .lensing import LognormalKappa
from .metrics import nrmse
from .training import NoiseLevels, TrainingOptions, denoising_psnr

__all__ = ["TrainingSet", "convergence_set", "photograph_set"]


class TrainingSet(NamedTuple):
    """All that `train_denoiser` needs beside the model."""

    sampler: Sampler
    levels: NoiseLevels
    options: TrainingOptions
    validate: Callable[[Any], float]
    measure: str
    """What `validate` returns."""
    about: str
    """The data, in words, for the header of the weight file."""


def photograph_set(folder: str | Path, *, steps: int, batch: int | None = None, seed: int = 0) -> TrainingSet:
    """Grey crops of 56 x 56 with sigma in [0.5, 55]/255; the folder's last images (1 in 50) are held out.

    Raises:
        ValueError: the folder has fewer than two images, or unreadable or too small ones.
    """
    images = load_folder(folder)
    if len(images) < 2:
        raise ValueError(f"photograph_set: {str(folder)!r} has one image; training and validation need at least two")
    held_out = max(1, len(images) // 50)
    validation = [x.float() / 255 for x in images[-held_out:]]
    return TrainingSet(
        sampler=Crops(images[:-held_out], 56, shrink=(0.7,)),
        levels=NoiseLevels(0.5 / 255, 55 / 255),
        options=TrainingOptions(steps=steps, batch=batch or 24, seed=seed),
        validate=lambda model: denoising_psnr(model, validation, 25 / 255),
        measure="PSNR in dB at sigma 25/255",
        about=f"{len(images) - held_out} images of {Path(folder).name}, {held_out} held out",
    )


def convergence_set(
    stds: Sequence[float], pixel_arcmin: float = 0.29, *, steps: int, batch: int | None = None, seed: int = 0
) -> TrainingSet:
    """Simulated lognormal convergence, 192 x 192, sigma log-uniform in [0.01, 0.35].

    Args:
        stds: standard deviations of the maps; one is drawn for each batch. Match them to the sources' redshifts.
        pixel_arcmin: side of a pixel in arcminutes.
        steps, batch, seed: as in `TrainingOptions`.
    """
    if not stds:
        raise ValueError("convergence_set: stds must hold at least one standard deviation, e.g. [0.02]")
    skies = [LognormalKappa((192, 192), pixel_arcmin=pixel_arcmin, std=s) for s in stds]

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        return skies[int(torch.randint(len(skies), (), generator=generator))](n, generator=generator)

    validation = torch.cat([sky(2, generator=torch.Generator().manual_seed(10**6 + seed)) for sky in skies])
    noise = torch.randn(validation.shape, generator=torch.Generator().manual_seed(10**6 + seed + 1))

    def validate(model: Any) -> float:
        with torch.no_grad():
            return nrmse(model(validation + 0.18 * noise, 0.18), validation)

    return TrainingSet(
        sampler=sampler,
        levels=NoiseLevels(0.01, 0.35, "log"),
        options=TrainingOptions(
            steps=steps, batch=batch or 8, rate=1e-3, loss_power=0.0, loss_scale=0.02, strides=(4,), seed=seed
        ),
        validate=validate,
        measure="NRMSE at sigma 0.18",
        about=f"simulated lognormal convergence, std {list(stds)}, pixels of {pixel_arcmin:g} arcmin",
    )
