"""Options of training: noise levels, budget, optimiser, schedule and loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_DISTRIBUTIONS = ("uniform", "log", "mixed")
_OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class NoiseLevels:
    """Random noise standard deviations in [low, high].

    Args:
        low, high: limits in units of the images, 0 < low <= high.
        distribution: "uniform"; "log", a uniform logarithm; or "mixed", one in five "log" and the others "uniform": a
            uniform distribution hardly ever draws the low levels at which plug-and-play ends.
    """

    low: float
    high: float
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        if self.distribution not in _DISTRIBUTIONS:
            raise ValueError(f"NoiseLevels: distribution must be one of {_DISTRIBUTIONS}, got {self.distribution!r}")
        if not (0 < self.low <= self.high < math.inf):
            raise ValueError(f"NoiseLevels: levels must be 0 < low <= high, got low={self.low}, high={self.high}")

    def __call__(self, batch: int, *, generator: torch.Generator) -> Tensor:
        """Draw (batch,) levels."""
        u = torch.rand(batch, generator=generator)
        flat, log = self.low + (self.high - self.low) * u, self.low * (self.high / self.low) ** u
        if self.distribution != "mixed":
            return flat if self.distribution == "uniform" else log
        return torch.where(torch.rand(batch, generator=generator) < 0.2, log, flat)


@dataclass(frozen=True)
class TrainingOptions:
    """Budget, optimiser and loss.

    Args:
        steps: length of the run in optimiser steps; deterministic on the CPU.
        minutes: its length in minutes of training instead, without validation, added up over resumed runs; not
            deterministic.
        batch: images in a step, of all processes together.
        optimizer: "muon" (for hidden layers, AdamW for the rest) or "adamw".
        rate: learning rate of AdamW.
        muon_rate: learning rate of Muon.
        weight_decay: decoupled decay of the hidden layers' weights, times their learning rate; others do not decay.
        warmup: number of steps over which the learning rates rise.
        decay: part of the budget, at its end, over which they fall.
        loss_power: p in the loss, see `pnp.training.loop`; 1 weighs all noise levels about alike.
        loss_scale: scale in the loss, in units of the images; it matters a little, since gradients are clipped to
            norm 1.
        border: pixels that a denoiser's loss leaves out at the edges of the crops. None: of a model that has `valid`,
            those whose receptive field leaves the crop; of others, none. With a number, features beyond the crop count
            as zero, so that a model with a wide field learns from more of a crop.
        coloured: part of a denoiser's examples, 0 to 1, whose noise is not white: `pnp.training.coloured_noise`.
        mixed_precision: train networks without a `compute_dtype` of their own under autocast to bfloat16, where the
            processor multiplies it natively.
        seed: seed of crops and noise; the initial weights do not depend on it.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 12
    optimizer: str = "muon"
    rate: float = 1e-3
    muon_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 150
    decay: float = 0.5
    loss_power: float = 1.0
    loss_scale: float = 0.1
    border: int | None = None
    coloured: float = 0.0
    mixed_precision: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise ValueError(f"TrainingOptions: give steps or minutes, got both ({self.steps}, {self.minutes})")
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"TrainingOptions: optimizer must be one of {_OPTIMIZERS}, got {self.optimizer!r}")
        for name in ("steps", "minutes", "batch", "rate", "muon_rate", "warmup", "decay", "loss_scale"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"TrainingOptions: {name} must be finite and above 0, got {value}")
        if not 0 <= self.coloured <= 1:
            raise ValueError(f"TrainingOptions: coloured must be a part of the examples, 0 to 1, got {self.coloured}")
        if self.border is not None and not (isinstance(self.border, int) and self.border >= 0):
            raise ValueError(f"TrainingOptions: border must be a whole number of pixels from 0 up, got {self.border!r}")

    def progress(self, step: int, seconds: float) -> float:
        """Return the part of the budget used after this many steps and seconds of training."""
        if self.minutes is not None:
            return seconds / (60 * self.minutes)
        if self.steps is not None:
            return step / self.steps
        raise ValueError("TrainingOptions: the budget is missing; give steps or minutes")

    def rate_factor(self, step: int, progress: float) -> float:
        """Return the factor of the learning rates."""
        # Not torch's LambdaLR: it computes the rate when the previous step ends, and a budget in minutes sets it by the
        # clock.
        return min(1.0, (step + 1) / self.warmup) * min(1.0, max(0.02, (1 - progress) / self.decay))
