"""Train unrolled EM on scans of known activity, in one of three ways.

    end-to-end   minimise |x_K - x| / |x| with gradients through all steps, projections and back-projections included
    truncated    the same with A^T(y / (A x_k + r)) as a constant: no gradient passes a projector
    sequential   one network after the other: minimise |u_k - x| / |x|, x_k from the networks already trained

Li, Dewaraja and Fessler (arXiv 2301.09710) compare them. Sequential training needs no projector in its steps, but no
network is trained for what the later ones do with its output.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..algorithms.poisson import as_background, check_counts
from ..algorithms.protocols import Operator
from ..metrics import nrmse
from ..training.loop import train
from ..training.options import TrainingOptions
from ..training.state import Task, load_checkpoint
from .unrolled_em import UnrolledEM

MODES = ("end-to-end", "truncated", "sequential")
"""Ways of training, see the module's docstring."""


@dataclass(frozen=True)
class Scan:
    """Counts of a known activity, and the start of their reconstruction."""

    operator: Operator
    y: Tensor
    """(1, 1, n_views, nx, nz): counts."""
    background: Tensor
    """Expected scatter, in the shape of y."""
    truth: Tensor
    """(1, 1, nx, ny, nz): activity in the unit of x."""
    start: Tensor
    """x_0 by OSEM, in the shape of truth."""
    sensitivity: Tensor
    """A^T 1."""


def make_scan(model: UnrolledEM, operator: Operator, y: Tensor, background: Any, truth: Tensor) -> Scan:
    """Return the scan with its start x_0 and its sensitivity A^T 1, so that they are computed once."""
    check_counts("make_scan", "truth", truth, "it is activity")
    if y.shape[0] != 1 or not float(truth.norm()) > 0:
        raise ValueError(
            f"make_scan: y and truth must be of one scan with activity in it, got y {tuple(y.shape)} and a norm of "
            f"{float(truth.norm()):.3g}; give one scan at a time"
        )
    r = as_background("make_scan", background, y)
    sensitivity = operator.A_adjoint(torch.ones_like(y))
    if truth.shape != sensitivity.shape or truth.device != y.device:
        raise ValueError(
            f"make_scan: truth must be a volume as A_adjoint(y), {tuple(sensitivity.shape)} on {y.device}, got "
            f"{tuple(truth.shape)} on {truth.device}; resample it to the operator's voxels"
        )
    return Scan(operator, y, r, truth, model.start(operator, y, r), sensitivity)


def held_out_nrmse(scans: Sequence[Scan]) -> Callable[[UnrolledEM], float]:
    """Return a function of a model: its mean NRMSE on scans."""

    def measure(model: UnrolledEM) -> float:
        with torch.no_grad():
            found = [_last(model, scan) for scan in scans]
        return sum(nrmse(x, scan.truth) for x, scan in zip(found, scans, strict=True)) / len(scans)

    return measure


def train_unrolled_em(
    model: UnrolledEM,
    scans: Sequence[Scan],
    options: TrainingOptions,
    *,
    mode: str = "end-to-end",
    checkpoint: str | Path,
    resume: bool = False,
    validate: Callable[[UnrolledEM], float] | None = None,
    checkpoint_minutes: float = 3.0,
    progress: bool = False,
) -> UnrolledEM:
    """Train `model` in place and return it with the averaged weights, in eval mode and frozen.

    Args:
        model: the model to train.
        scans: training data by `make_scan`, all in memory, on the model's device.
        options: see `TrainingOptions`; `batch` is the number of scans in a step. Sequential training divides its
            budget equally among the networks.
        mode: one of MODES.
        checkpoint: file for the state of the run. Sequential training writes a file for each network: NAME, NAME2,
            NAME3. If it is resumed and an earlier network has changed since, the later ones start again: their inputs
            are no longer the same.
        resume, checkpoint_minutes, progress: as in `train_denoiser`.
        validate: function of the model, whose value is shown and recorded; sequential training calls it for the last
            network only.

    Raises:
        ValueError: mode is unknown, there is no scan, or as in `train_denoiser`.
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    if mode not in MODES:
        raise ValueError(f"train_unrolled_em: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not scans:
        raise ValueError("train_unrolled_em: scans must not be empty; make_scan makes them")
    kept: dict[str, Any] = {"resume": resume, "checkpoint_minutes": checkpoint_minutes, "progress": progress}
    if mode != "sequential":
        task = _Whole(model, scans, truncated=mode == "truncated")
        train(task, options, checkpoint=checkpoint, validate=validate, **kept)
        return model
    n = len(model.priors)
    share = replace(
        options,
        steps=None if options.steps is None else max(1, options.steps // n),
        minutes=None if options.minutes is None else options.minutes / n,
    )
    images = [scan.start for scan in scans]
    paths = _stages(checkpoint, n)
    there = [path.name for path in paths if path.exists()]
    if there and not resume:
        raise ValueError(f"train_unrolled_em: checkpoint exists: {', '.join(there)}; resume it, or remove it")
    for k, path in enumerate(paths):
        one = None if validate is None or k < n - 1 else (lambda _, measure=validate: measure(model))
        stage = _Stage(model, k, images, scans)
        if path.exists() and load_checkpoint(path)["settings"].get("before", stage.before) != stage.before:
            path.unlink()
        train(stage, share, checkpoint=path, validate=one, **kept)
        if k < n - 1:
            bar = tqdm(scans, desc=f"iteration {k + 1}", disable=not progress, file=sys.stderr)
            with torch.no_grad():
                images = [_step(model, k, x, scan) for x, scan in zip(images, bar, strict=True)]
    return model.eval().requires_grad_(False)


def spent(checkpoint: str | Path, stages: int = 1) -> tuple[int, float]:
    """Return the optimiser steps and seconds of a training run, summed over the checkpoints of its stages."""
    found = [load_checkpoint(path) for path in _stages(checkpoint, stages)]
    return sum(state["step"] for state in found), sum(state["seconds"] for state in found)


def _stages(checkpoint: str | Path, n: int) -> list[Path]:
    path = Path(checkpoint)
    return [path, *(path.with_name(f"{path.name}{k}") for k in range(2, n + 1))]


def _last(model: UnrolledEM, scan: Scan, **options: bool) -> Tensor:
    """Return the reconstruction of a scan."""
    x = scan.start
    for step in model.iterate(scan.operator, scan.y, scan.background, x, scan.sensitivity, **options):
        x = step.x
    return x


def _step(model: UnrolledEM, k: int, x: Tensor, scan: Scan) -> Tensor:
    """Return x_k+1 from x_k."""
    return model.advance(k, scan.operator, scan.y, scan.background, x, scan.start, scan.sensitivity).x


def _relative(x: Tensor, truth: Tensor) -> Tensor:
    loss: Tensor = (x - truth).norm() / truth.norm()
    return loss


def _settings(model: UnrolledEM, mode: str, scans: Sequence[Scan]) -> dict[str, Any]:
    """Return the run's settings for its checkpoint; norms to four digits, since threads add in any order."""
    names = ("y", "background", "truth", "start", "sensitivity")
    sums = {name: f"{sum(float(getattr(s, name).double().norm()) for s in scans):.4g}" for name in names}
    return {"mode": mode, "scans": len(scans), **sums, **{f"model {k}": v for k, v in model.config().items()}}


class _Scans(Task):
    """Training task whose batches are indices of scans."""

    count: int

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the indices of random scans."""
        return (torch.randint(self.count, (batch,), generator=generator),)


class _Whole(_Scans):
    """Task that trains all iterations together."""

    def __init__(self, model: UnrolledEM, scans: Sequence[Scan], *, truncated: bool) -> None:
        settings = _settings(model, MODES[truncated], scans)
        super().__init__("train_unrolled_em", model, settings, "training setting")
        self.scans, self.count, self.truncated = list(scans), len(scans), truncated

    def forward(self, which: Tensor) -> Tensor:
        """Return the mean relative error of the reconstructions."""
        chosen = [self.scans[i] for i in which.tolist()]
        losses = [_relative(_last(self.model, scan, truncated=self.truncated), scan.truth) for scan in chosen]
        return torch.stack(losses).mean()


class _Stage(_Scans):
    """Task that trains one network alone: pairs of x_k and the truth, in units of z."""

    def __init__(self, model: UnrolledEM, k: int, images: Sequence[Tensor], scans: Sequence[Scan]) -> None:
        prior: nn.Module = model.priors[k]
        total = 0
        for p in [p for earlier in model.networks[:k] for p in earlier.parameters()]:
            total = zlib.crc32(p.detach().cpu().contiguous().numpy().tobytes(), total)
        self.before = f"{k} networks of checksum {total:08x}"
        settings = {**_settings(model, MODES[2], scans), "network": k + 1, "before": self.before}
        super().__init__("train_unrolled_em", prior, settings, "training setting")
        scales = [model.scales(scan.start, scan.sensitivity)[0] for scan in scans]
        self.pairs = [(x / z, scan.truth / z) for x, z, scan in zip(images, scales, scans, strict=True)]
        self.count = len(self.pairs)

    def forward(self, which: Tensor) -> Tensor:
        """Return the mean relative error of the proposals."""
        chosen = [self.pairs[i] for i in which.tolist()]
        return torch.stack([_relative(self.model(x), truth) for x, truth in chosen]).mean()
