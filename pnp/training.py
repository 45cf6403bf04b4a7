"""Train a denoiser D(x, sigma): fresh noise of a random level on random crops, every step.

    minimise  E || D(x + sigma n, sigma) - x ||^2 / (scale^2 sigma^p),   n ~ N(0, I), sigma ~ the noise levels

AdamW with warm-up, a constant rate and a cosine decay over the last part of the steps, so that a run may be
prolonged from any checkpoint before its decay; an exponential moving average of the weights is what is kept.
Everything random comes from one generator, whose state is in the checkpoint: a resumed run continues exactly.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .data import Sampler
from .io import atomic

__all__ = ["NoiseLevels", "TrainingOptions", "denoising_psnr", "load_checkpoint", "train_denoiser"]


@dataclass(frozen=True)
class NoiseLevels:
    """Noise standard deviations drawn in [low, high], uniformly or with a uniform logarithm."""

    low: float
    high: float
    law: str = "uniform"

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw (batch,) levels."""
        u = torch.rand(batch, generator=generator)
        if self.law == "log":
            return self.low * (self.high / self.low) ** u
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast: steps, images a step, learning rate, its warm-up and the share of decaying steps."""

    steps: int
    batch: int = 24
    rate: float = 1.2e-3
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 1e-3
    loss_power: float = 1.0
    loss_scale: float = 0.3
    strides: tuple[int, ...] = (2, 3, 3, 4, 4)
    seed: int = 0

    def learning_rate(self, step: int) -> float:
        """Learning rate at a step."""
        start = self.steps * (1 - self.decay)
        fall = 1.0 if step < start else 0.5 * (1 + math.cos(math.pi * (step - start) / (self.steps - start)))
        return self.rate * min(1.0, (step + 1) / self.warmup) * max(fall, 2e-3)


def denoising_psnr(denoiser: Callable[[Tensor, float], Tensor], images: list[Tensor], sigma: float) -> float:
    """Mean PSNR in dB (data range 1, output clipped) over images (C, H, W) in [0, 1]; noise seed i for image i."""
    total = 0.0
    for i, x in enumerate(images):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        with torch.no_grad():
            z = denoiser((x + sigma * noise)[None], sigma)[0].clamp(0, 1)
        total += -10 * math.log10((z - x).square().mean().item())
    return total / len(images)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint (tensors and plain values only).

    Raises:
        ValueError: the file cannot be read as one.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["step"], checkpoint["average"]
    except Exception as error:
        raise ValueError(f"load_checkpoint: {Path(path).name} is not a training checkpoint: {error}"[:390]) from error
    return checkpoint


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write to a temporary name, then rename: a kill leaves the last whole checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, overwrite=True) as part:
        torch.save(checkpoint, part)


def _step_loss(model: Any, x: Tensor, sigma: Tensor, stride: int, o: TrainingOptions, g: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=g)
    y = x + sigma.reshape(-1, 1, 1, 1) * noise
    device = next(model.parameters()).device
    x, y, sigma = x.to(device), y.to(device), sigma.to(device)
    if hasattr(model, "valid"):
        z, offset = model.valid(y, sigma, stride=stride)
        x = x[..., offset : offset + z.shape[2], offset : offset + z.shape[3]]
    else:
        z = model(y, sigma)
    weight = 1 / (o.loss_scale**2 * sigma**o.loss_power)
    loss: Tensor = ((z - x).square() * weight.reshape(-1, 1, 1, 1)).mean()
    return loss


def train_denoiser(
    model: nn.Module,
    sampler: Sampler,
    levels: NoiseLevels,
    options: TrainingOptions,
    *,
    checkpoint: str | Path,
    resume: bool = False,
    validate: Callable[[nn.Module], float] | None = None,
    checkpoint_minutes: float = 3.0,
    progress: bool = True,
) -> nn.Module:
    """Train `model` in place and return it with the averaged weights.

    Args:
        model: a denoiser D(x, sigma); where it has `valid(y, sigma, stride=)` (the part of a crop that needs no
            border), that is used instead, with a stride drawn from `options.strides` at every step.
        sampler: draws clean images.
        levels: draws noise levels, in units of the images.
        options: see `TrainingOptions`; saved in the checkpoint.
        checkpoint: file to keep the state in, every `checkpoint_minutes` and at the end.
        resume: continue from that file where it exists (its step, optimiser, average and random state).
        validate: called with the averaged model at every checkpoint; its value is shown and recorded.
        progress: progress bar on stderr.

    Raises:
        ValueError: the checkpoint to resume is unreadable or belongs to another architecture, or there is one and
            `resume` is False.
    """
    path = Path(checkpoint)
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=options.weight_decay, fused=True
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    history: list[list[float]] = []
    step, seconds = 0, 0.0
    if path.exists() and not resume:
        raise ValueError(
            f"train_denoiser: there is a checkpoint {path.name} already; resume it, or remove it to start anew"
        )
    if path.exists():
        state = load_checkpoint(path)
        try:
            model.load_state_dict(state["weights"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"train_denoiser: {path.name} belongs to another model: {error}"[:390]) from error
        generator.set_state(state["generator"])
        average, history = state["average"], state["history"]
        step, seconds = state["step"], state["seconds"]
    device = next(model.parameters()).device
    average = {k: v.to(device) for k, v in average.items()}

    def keep() -> None:
        value = math.nan
        if validate is not None:
            weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            model.load_state_dict(average)
            model.eval()
            value = validate(model)
            model.load_state_dict(weights)
            model.train()
            history.append([step, seconds, value])
        save_checkpoint(
            path,
            {
                "step": step,
                "seconds": seconds,
                "weights": model.state_dict(),
                "average": average,
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "history": history,
                "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
                "levels": asdict(levels),
            },
        )
        bar.set_postfix_str(f"validation {value:.3f}" if value == value else "")

    bar = tqdm(total=options.steps, initial=step, disable=not progress, file=sys.stderr, unit="step", mininterval=5)
    model.train()
    last = time.monotonic()
    try:
        while step < options.steps:
            start = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate(step)
            x = sampler(options.batch, generator)
            sigma = levels(options.batch, generator)
            stride = options.strides[int(torch.randint(len(options.strides), (), generator=generator))]
            loss = _step_loss(model, x, sigma, stride, options, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            decay = min(0.999, (step + 1) / (step + 20))
            with torch.no_grad():
                for k, v in model.state_dict().items():
                    average[k].lerp_(v, 1 - decay) if v.dtype.is_floating_point else average[k].copy_(v)
            seconds += time.monotonic() - start
            bar.update()
            if time.monotonic() - last > 60 * checkpoint_minutes:
                keep()
                last = time.monotonic()
    finally:
        keep()
        bar.close()
    model.load_state_dict(average)
    return model.eval()
