"""State of a training run: the task, one optimiser step, and the checkpoint between two steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import short
from ..installation import version
from ..io import atomic
from ..io.atomic import NotWritten
from . import processes
from .muon import Muon, hidden_weights
from .options import TrainingOptions

CHECKPOINT_KEYS = (
    "step",
    "seconds",
    "weights",
    "average",
    "optimizers",
    "generators",
    "history",
    "options",
    "settings",
)
"""Entries that every checkpoint has; recent ones also have config and version."""
_BUDGET_OPTIONS = ("steps", "minutes")
"""Options that may change when a run is resumed."""


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint; it holds tensors and plain values only, and no code is executed.

    Returns:
        step; seconds of training; weights; average, the weights to use; optimizers; generators, a random state for each
        process; history, [step, seconds, value] of every validation; options, with the seed; settings of the task; and,
        except in old files, config of the model and version of this package.

    Raises:
        ValueError: the file cannot be read as one.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _rename_old_keys(checkpoint)
        missing = [key for key in CHECKPOINT_KEYS if key not in checkpoint]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except Exception as error:
        # torch's own message for a pickle with code says how to run it.
        why = (
            "it is damaged, or holds code"
            if isinstance(error, UnpicklingError)
            else short(" ".join(str(error).split()))
        )
        raise ValueError(f"load_checkpoint: {Path(path).name} is not a training checkpoint: {why}") from error
    return checkpoint


def _rename_old_keys(checkpoint: dict[str, Any]) -> None:
    """Rename entries of older files: "levels" held the settings of any task, "law" the distribution of noise levels."""
    if "levels" in checkpoint:
        checkpoint.setdefault("settings", checkpoint.pop("levels"))
    settings = checkpoint.get("settings")
    if isinstance(settings, dict) and "law" in settings:
        settings.setdefault("distribution", settings.pop("law"))


def like(model: nn.Module) -> Tensor:
    """Return a parameter or a buffer of the model, which has its device and dtype."""
    return next(chain(model.parameters(), model.buffers()), torch.empty(0))


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the class and configuration of a model as plain values: its `config()`, or else its modules' repr."""
    config = getattr(model, "config", None)
    if callable(config):
        what = json.loads(json.dumps(config(), default=repr))  # weights_only reads plain values alone
    else:
        what = {name: f"{type(m).__name__}({m.extra_repr()})" for name, m in model.named_modules() if name}
    return {"class": type(model).__name__, **what}


class Task(nn.Module):
    """A training task: how to draw a batch, and its loss as one forward pass, as DistributedDataParallel needs it.

    Args:
        caller: function name at the start of messages.
        model: the model to train.
        settings: settings of the batches as plain values. They are saved in the checkpoint, and a resumed run must have
            the same.
        settings_label: what messages call one of the settings, e.g. "noise level setting".
    """

    model: Any

    def __init__(self, caller: str, model: nn.Module, settings: dict[str, Any], settings_label: str) -> None:
        super().__init__()
        self.caller, self.model, self.settings, self.settings_label = caller, model, settings, settings_label
        self.device = like(model).device

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the arguments of `forward` for a batch, on the CPU; all randomness comes from the generator."""
        raise NotImplementedError

    def seek(self, step: int) -> None:
        """Continue with the batches of this step; called before the first one, for tasks whose data change by step."""


class Run:
    """All that changes during a training run, and its checkpoint."""

    def __init__(self, task: Task, options: TrainingOptions) -> None:
        self.task, self.model, self.options = task, task.model, options
        model = self.model
        hidden = hidden_weights(model)
        ids = {id(p) for p in hidden}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
        if not rest:
            raise ValueError(f"{task.caller}: model has no parameter that requires a gradient; use requires_grad_()")
        decay = options.weight_decay
        groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": 0.0}]
        if hidden and options.optimizer == "adamw":
            groups.append({"params": hidden, "weight_decay": decay})
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.99), fused=True)
        ]
        if hidden and options.optimizer == "muon":
            self.optimizers.append(Muon(hidden, lr=options.muon_rate, weight_decay=decay))
        self.rates = [options.rate, options.muon_rate]
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        seeds = np.random.SeedSequence(options.seed).generate_state(processes.size(), np.uint64)
        self.generator = torch.Generator().manual_seed(int(seeds[processes.rank()]) >> 1)
        self.random = self.generator.get_state()
        self.step, self.seconds, self.history = 0, 0.0, list[list[float]]()
        self.loss: Tensor | None = None
        self.norm = torch.zeros(())

    def load(self, path: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: it belongs to another number of processes, another model, other options or settings.
        """
        state, name = load_checkpoint(path), f"{self.task.caller}: {path.name}"
        if len(state["generators"]) != processes.size():
            n = len(state["generators"])
            raise ValueError(
                f"{name} was written by {n} process{'es' * (n > 1)}, this run has {processes.size()}; "
                f"resume it with " + (f"torchrun --nproc-per-node={n}" if n > 1 else "one process, without torchrun")
            )
        config = describe(self.model)
        earlier = state.get("config", config)
        for key in {**earlier, **config}:
            old, new = earlier.get(key), config.get(key)
            if old != new:
                raise ValueError(
                    f"{name} (version {state.get('version')}) belongs to another model: {key} was {old!r:.90}, "
                    f"got {new!r:.90}; keep that, or start a new run under another name"
                )
        for label, old_values, new_values in (
            ("option", state["options"], asdict(self.options)),
            (self.task.settings_label, state["settings"], self.task.settings),
        ):
            for key, new in new_values.items():
                # Files of earlier versions may lack a key; then there is nothing to compare.
                old = old_values.get(key, new)
                if key not in _BUDGET_OPTIONS and old != new:
                    raise ValueError(
                        f"{name} was started with {label} {key} = {old!r}, got {new!r}; keep it, or start a new run "
                        "under another name"
                    )
        try:
            # Through the model, which may rename layers of older files.
            self.model.load_state_dict(state["average"])
            self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            self.model.load_state_dict(state["weights"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{name} belongs to another model: {error}"[:390]) from error
        self.generator.set_state(state["generators"][processes.rank()])
        self.history, self.step, self.seconds = state["history"], state["step"], state["seconds"]

    def save(self, path: Path) -> None:
        """Write the state between two steps under a temporary name, then rename it; every process must call this."""
        if not bool(self.norm.isfinite()):
            raise ValueError(
                f"{self.task.caller}: the gradient is not finite at step {self.step}; lower rate or muon_rate, and "
                f"resume from {path.name} where there is one"
            )
        generators = processes.gather(self.random)
        if processes.rank() > 0:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotWritten(f"output {path} cannot be written: {os.strerror(error.errno or 0)}") from error
        with atomic(path, overwrite=True) as part:
            torch.save(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "weights": self.model.state_dict(),
                    "average": self.average,
                    "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                    "generators": generators,
                    "history": self.history,
                    "options": asdict(self.options),
                    "settings": self.task.settings,
                    "config": describe(self.model),
                    "version": version(),
                },
                part,
            )

    def advance(self, loss_of: nn.Module, progress: float) -> None:
        """Take one step of the optimisers, and update the average."""
        o, g = self.options, self.generator
        share = o.batch // processes.size()
        p = like(self.model)
        batch = self.task.draw(share, generator=g)
        loss = loss_of(*(t.to(p.device, p.dtype if t.is_floating_point() else t.dtype) for t in batch))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=False):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * o.rate_factor(self.step, progress)
        loss.backward()
        self.norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).detach()
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # Not torch's AveragedModel: it copies the weights at its first update and prefixes their names, so that old
        # checkpoints would not resume bit for bit.
        decay = min(0.999, self.step / (self.step + 10))
        with torch.no_grad():
            for k, v in self.model.state_dict().items():
                self.average[k].lerp_(v, 1 - decay) if v.dtype.is_floating_point else self.average[k].copy_(v)
            self.loss = loss.detach() if self.loss is None else self.loss.lerp(loss.detach(), 0.02)

    def validate(self, measure: Callable[[Any], float]) -> None:
        """Measure the averaged model and record the value."""
        weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(self.average)
            self.history.append([self.step, self.seconds, float(measure(self.model.eval()))])
        finally:
            self.model.load_state_dict(weights)
            self.model.train()
