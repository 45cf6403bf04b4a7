"""Train a denoiser D(x, sigma) on images or volumes with fresh noise of random level in every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .coloured_noise import colour
from .images import Sampler
from .loop import train
from .muon import fast_bfloat16
from .options import NoiseLevels, TrainingOptions
from .state import Task, like


def denoising_psnr(denoiser: Callable[[Tensor, float], Tensor], images: list[Tensor], sigma: float) -> float:
    """Return the mean PSNR in dB (data range 1, output clipped) over images (C, H, W) in [0, 1]; seed i for image i.

    Volumes (C, D, H, W) will do, too. A network gets the images on its own device.
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
    progress: bool = False,
) -> nn.Module:
    """Train `model` in place and return it with the averaged weights, in eval mode and frozen.

    It is frozen as by `from_pretrained`: its use builds no graph; `requires_grad_()` undoes that.

    Under `torchrun` (`processes.joined`) every process makes this call. The first one writes, validates and shows
    progress; all must be able to read the checkpoint of a resumed run.

    Args:
        model: a denoiser D(x, sigma), sigma (B,). Where it has `valid(y, sigma)`, which returns the part of a crop that
            needs no border, and its offset, that is used instead; `options.border` goes to it as `border=`.
        sampler: draws clean images. Where its images also change from call to call, as those of
            `synthetic.SyntheticImages` do, it has `seek(step)`, which is called before the first step of a run.
        levels: draws noise levels in units of the images.
        options: see `TrainingOptions`; saved in the checkpoint.
        checkpoint: file for the state of the run, written every `checkpoint_minutes`, at the end and at a signal. A
            failed write is a warning, and the earlier file remains; at the end or at a signal it is an error, and the
            model has the averaged weights nevertheless.
        resume: continue from that file if it exists: step, optimisers, average and random states. The budget may
            change; the model, the other options, the noise levels and the number of processes may not.
        validate: function of the averaged model, whose value is shown and recorded.
        checkpoint_minutes: training minutes between checkpoints.
        validate_minutes: training minutes between validations; None: `checkpoint_minutes`. One follows at the end.
        progress: progress bar on stderr.

    Raises:
        ValueError: the checkpoint is unreadable or belongs to another architecture, other options or another number of
            processes; it exists and `resume` is False; another run is writing it; the batch is not a multiple of the
            processes; the loss diverged.
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint was written between two steps.
    """
    return train(
        DenoisingTask(model, sampler, levels, options),
        options,
        checkpoint=checkpoint,
        resume=resume,
        validate=validate,
        checkpoint_minutes=checkpoint_minutes,
        validate_minutes=validate_minutes,
        progress=progress,
    )


class DenoisingTask(Task):
    """Training task: denoise clean images with fresh noise of random level."""

    def __init__(self, model: Any, sampler: Sampler, levels: NoiseLevels, options: TrainingOptions) -> None:
        super().__init__("train_denoiser", model, asdict(levels), "noise level setting")
        self.sampler, self.levels, self.options = sampler, levels, options
        self.autocast = options.mixed_precision and not hasattr(model, "compute_dtype") and fast_bfloat16(self.device)

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw clean images x, y = x + sigma n, and sigma (batch,)."""
        x, sigma = self.sampler(batch, generator=generator), self.levels(batch, generator=generator)
        n = torch.randn(x.shape, generator=generator)
        if self.options.coloured > 0:
            n = colour(n, self.options.coloured, generator=generator)
        return x, x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * n, sigma

    def seek(self, step: int) -> None:
        """Let a sampler whose images change by step, such as `SyntheticImages`, continue there: one call a step."""
        if hasattr(self.sampler, "seek"):
            self.sampler.seek(step)

    def forward(self, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """Return the weighted mean square error of D(y, sigma), y = x + noise of level sigma (B,)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            z, at = self._inside(y, sigma)
        for axis, n in enumerate(z.shape[2:], 2):
            x = x.narrow(axis, at, n)
        o = self.options
        weight = 1 / (o.loss_scale**2 * sigma**o.loss_power)
        error: Tensor = z.to(x.dtype) - x
        return (error.square() * weight.reshape(-1, *[1] * (x.ndim - 1))).mean()

    def _inside(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, int]:
        """Return the part of D(y, sigma) that the loss takes, and its offset in y."""
        size, border = tuple(y.shape[2:]), self.options.border
        if border is not None and min(size) <= 2 * border:
            raise ValueError(f"train_denoiser: border must leave a part of the crops, {size}, got {border}; lower it")
        if not hasattr(self.model, "valid"):
            at = border or 0
            return self.model(y, sigma)[(..., *(slice(at, n - at) for n in size))], at
        if border is not None:
            return self.model.valid(y, sigma, border=border)  # type: ignore[no-any-return]
        field = getattr(self.model, "receptive_field", 1)
        if min(size) < field:
            least = " x ".join([str(field)] * len(size))
            raise ValueError(
                f"train_denoiser: crops must be at least the model's receptive field, {least}, got {size}; "
                "take larger ones, or set border"
            )
        return self.model.valid(y, sigma)  # type: ignore[no-any-return]
