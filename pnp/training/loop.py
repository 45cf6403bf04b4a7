"""The training loop: optimise the loss of a task, average the weights, validate, and write checkpoints.

For a denoiser D(x, sigma), with fresh noise of random level on random crops in every step,

    minimise  E || D(x + sigma n, sigma) - x ||^2 / (scale^2 sigma^p),   n ~ N(0, I), sigma ~ the noise levels

Muon optimises the hidden layers and AdamW the rest (`muon.py`), or AdamW all. The learning rate rises, stays constant,
and falls linearly over the last part of the budget; if a run is resumed with a larger budget, it rises again. The
result is an exponential moving average of the weights. All randomness comes from one generator per process, whose
state is in the checkpoint: on the CPU and with a budget of steps a run is deterministic, and a resumed one continues
exactly (the model itself must be deterministic). On a GPU the draws are the same, but the sums of cuDNN and cuBLAS may
differ from run to run.

Several processes (`processes.py`) share each batch; torch's DistributedDataParallel averages their gradients.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..drivers.checkpoint import write_or_warn
from ..drivers.signals import collected
from ..io.atomic import NotWritten
from ..io.lock import exclusive
from . import processes
from .options import TrainingOptions
from .state import Run, Task, like


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal, between two steps, after the checkpoint was written."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.number, self.step = number, step


def _show(bar: Any, run: Run, done: float) -> None:
    """Update the progress bar, at most once a second: reading the loss waits for the device."""
    if bar.disable or (done < 1 and time.time() - bar.last_print_t < bar.mininterval):
        return
    facts = [f"step {run.step}"]
    if run.loss is not None:
        facts.append(f"loss {run.loss.item():.4g}")
    if run.history:
        facts.append(f"validation {run.history[-1][2]:.3f}")
    bar.set_postfix_str(", ".join(facts), refresh=False)
    bar.update(done - bar.n)


def train(
    task: Task,
    options: TrainingOptions,
    *,
    checkpoint: str | Path,
    resume: bool = False,
    validate: Callable[[Any], float] | None = None,
    checkpoint_minutes: float = 3.0,
    validate_minutes: float | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train `task.model` on the batches of any task; the arguments are those of `train_denoiser`."""
    path = Path(checkpoint)
    with ExitStack() as held:
        if processes.rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(path, task.caller))
        return _train(task, options, path, resume, validate, checkpoint_minutes, validate_minutes, progress)


def _train(
    task: Task,
    options: TrainingOptions,
    path: Path,
    resume: bool,
    validate: Callable[[Any], float] | None,
    checkpoint_minutes: float,
    validate_minutes: float | None,
    progress: bool,
) -> nn.Module:
    model: nn.Module = task.model
    if options.batch % processes.size():
        raise ValueError(
            f"{task.caller}: batch must be a multiple of the processes ({processes.size()}), got {options.batch}"
        )
    if path.exists() and not resume:
        raise ValueError(
            f"{task.caller}: checkpoint {path.name} exists already; resume it, or remove it to start a new run"
        )
    options.progress(0, 0.0)
    first = processes.rank() == 0
    loss_of: nn.Module = task
    if processes.size() > 1:
        loss_of = DistributedDataParallel(task)  # copies the first process's weights to all
    run = Run(task, options)
    if path.exists():
        run.load(path)
    task.seek(run.step)
    device, first_step = like(model).device, run.step
    saved = run.seconds
    validated = run.history[-1][1] if run.history else 0.0
    check_every = checkpoint_minutes if validate_minutes is None else validate_minutes
    bar = tqdm(
        total=1.0,
        initial=min(1.0, options.progress(run.step, run.seconds)),
        disable=not (progress and first),
        file=sys.stderr,
        miniters=0,
        mininterval=1,
        bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}",
    )
    model.train()
    with collected() as caught, bar:
        since = time.monotonic() - run.seconds
        try:
            while True:
                run.random = run.generator.get_state()
                # All processes use the clock of the first.
                number = float(caught[0]) if caught else 0.0
                run.seconds, number = processes.largest([first * (time.monotonic() - since), number])
                done = options.progress(run.step, run.seconds)
                finished, stopped = done >= 1, number > 0
                check = not stopped and (finished or run.seconds - validated >= 60 * check_every)
                keep = finished or run.seconds - saved >= 60 * checkpoint_minutes
                if stopped or (run.step > first_step and (check or keep)):
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    pause = time.monotonic()
                    if check:
                        validated = run.seconds
                        if validate is not None and first:
                            run.validate(validate)
                    if keep or stopped:
                        saved = run.seconds
                        if finished or stopped:
                            run.save(path)
                        else:
                            write_or_warn(lambda: run.save(path), task.caller)
                    since += time.monotonic() - pause
                _show(bar, run, min(1.0, done))
                if finished or stopped:
                    break
                run.advance(loss_of, done)
        except NotWritten:
            model.load_state_dict(run.average)
            raise
        except Exception:
            # A single process can save the state before this step; of several the others may be in another step.
            if processes.size() == 1 and run.step > first_step:
                write_or_warn(lambda: run.save(path), task.caller)
            raise
    if stopped:
        raise Interrupted(int(number), run.step)
    model.load_state_dict(run.average)
    return model.eval().requires_grad_(False)
