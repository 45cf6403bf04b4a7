"""Train a denoiser D(x, sigma): fresh noise of a random level on random crops, every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .images import Sampler
from .loop import train
from .muon import fast_bfloat16
from .options import NoiseLevels, TrainingOptions
from .state import Task, like


def denoising_psnr(denoiser: Callable[[Tensor, float], Tensor], images: list[Tensor], sigma: float) -> float:
    """Mean PSNR in dB (data range 1, output clipped) over images (C, H, W) in [0, 1]; noise seed i for image i.

    A network is given them on its own device.
    """
    device = like(denoiser).device if isinstance(denoiser, nn.Module) else None
    total = 0.0
    for i, x in enumerate(images):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        with torch.no_grad():
            z = denoiser((x + sigma * noise)[None].to(device), sigma)[0].to(x).clamp(0, 1)
        total += -10 * math.log10(max((z - x).square().mean().item(), 1e-12))
    return total / len(images)


def train_denoiser(
    model: nn.Module,
    sampler: Sampler,
    levels: NoiseLevels,
    options: TrainingOptions,
    *,
    checkpoint: str | Path,
    resume: bool = False,
    validate: Callable[[Any], float] | None = None,
    checkpoint_minutes: float = 3.0,
    validate_minutes: float | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train `model` in place and return it with the averaged weights, in eval mode and frozen.

    Frozen as `from_pretrained` returns it: no graph is built when it is used; `requires_grad_()` thaws it.

    Where a process group has been joined (`distributed.joined`), every process makes this call; the first one writes,
    validates and shows progress, and all must read the checkpoint of a run that is resumed.

    Args:
        model: a denoiser D(x, sigma), sigma (B,); where it has `valid(y, sigma)`, the part of a crop that needs no
            border and its offset, that is used instead.
        sampler: draws clean images.
        levels: draws noise levels, in units of the images.
        options: see `TrainingOptions`; saved in the checkpoint.
        checkpoint: file to keep the state in, every `checkpoint_minutes`, at the end and at a signal. A disk that
            refuses it is a warning, and the file of before stays; only at the end or at a signal it is an error, and
            the model has the averaged weights all the same.
        resume: continue from that file where it exists (its step, optimisers, average and random states). The budget
            may be another one; the model, the other options, the noise levels and the number of processes may not.
        validate: called with the averaged model; its value is shown and recorded.
        checkpoint_minutes: training minutes between checkpoints.
        validate_minutes: training minutes between validations; None: `checkpoint_minutes`. The end has one, too.
        progress: progress bar on stderr.

    Raises:
        ValueError: the checkpoint to resume is unreadable or belongs to another architecture, other options or another
            number of processes; there is one and `resume` is False; another run is writing it; the batch cannot be
            shared; the training diverged.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is as if the run had been stopped between two steps.
    """
    return train(
        Loss(model, sampler, levels, options),
        options,
        checkpoint=checkpoint,
        resume=resume,
        validate=validate,
        checkpoint_minutes=checkpoint_minutes,
        validate_minutes=validate_minutes,
        progress=progress,
    )


class Loss(Task):
    """Denoising: fresh noise of a random level on clean images."""

    def __init__(self, model: Any, sampler: Sampler, levels: NoiseLevels, options: TrainingOptions) -> None:
        super().__init__("train_denoiser", model, asdict(levels), "noise levels'")
        self.sampler, self.levels, self.options = sampler, levels, options
        self.autocast = options.mixed_precision and not hasattr(model, "compute_dtype") and fast_bfloat16(self.device)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return clean images x, y = x + sigma n, and sigma (batch,)."""
        x, sigma = self.sampler(batch, generator), self.levels(batch, generator)
        return x, x + sigma.reshape(-1, 1, 1, 1) * torch.randn(x.shape, generator=generator), sigma

    def forward(self, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """Mean weighted square error of D(y, sigma), y = x + noise of level sigma (B,)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if hasattr(self.model, "valid"):
                field = getattr(self.model, "receptive_field", 1)
                if min(x.shape[2:]) < field:
                    raise ValueError(
                        f"train_denoiser: crops must be at least the model's receptive field, {field} x {field}, "
                        f"got {tuple(x.shape[2:])}; take larger ones"
                    )
                z, o = self.model.valid(y, sigma)
                x = x[..., o : o + z.shape[2], o : o + z.shape[3]]
            else:
                z = self.model(y, sigma)
        o = self.options
        weight = 1 / (o.loss_scale**2 * sigma**o.loss_power)
        error: Tensor = z.to(x.dtype) - x
        return (error.square() * weight.reshape(-1, 1, 1, 1)).mean()
