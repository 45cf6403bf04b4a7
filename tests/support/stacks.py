"""Operators and measurements for tests of stacks, which worker processes import as well, and the command."""

from __future__ import annotations

import os
import shutil
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
import typer
from torch import nn

from operators import Mask
from pnp import solve
from pnp.cli.reconstruct_stack import reconstruct_stack
from pnp.drivers.result_warning import ResultWarning
from pnp.stack import worker as worker_module

SHAPE = (12, 10)
OPTIONS = {"noise_std": 0.1, "max_iter": 4}


class Average(nn.Module):
    """A local average of a weight that a checkpoint or a fingerprint sees."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)

    def forward(self, x, sigma):
        around = sum(x.roll(s, d) for s, d in ((1, -1), (-1, -1), (1, -2), (-1, -2)))
        return (1 - self.weight) * x + self.weight / 4 * around


def masks(k: int, folder: str = "") -> Mask:
    """Return the mask of slice k; in a folder, note that slice k was begun, and do to the process what is asked."""
    if folder:
        with open(Path(folder) / "begun", "a") as log:
            log.write(f"{k}\n")
        deed = Path(folder) / f"deed{k}"
        if deed.exists():
            text = deed.read_text()
            if "once" in text:
                deed.unlink()
            if "kill" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "slow" in text:
                time.sleep(0.4)
            if "fail" in text:
                raise ValueError(f"no such slice {k}")
    return Mask(torch.rand(SHAPE, generator=torch.Generator().manual_seed(k)) < 0.7)


def suspicious(operator, y, denoiser, **options):
    """Solve; where the mean of y is above 1, say that the noise is wrong, and above 2 also that a pixel is rejected."""
    result, mean = solve(operator, y, denoiser, **options), float(y.mean())
    rejected = torch.zeros_like(y, dtype=torch.bool)
    rejected[..., 0, 0] = mean > 2
    said = [f"noise_std is too low by {mean:.2f}.", "One pixel\nis saturated."][: int(mean > 1) + int(mean > 2)]
    if said:
        warnings.warn(f"solve: {said}", ResultWarning, stacklevel=2)  # as `solve` does
    return replace(result, misfit=1.0 + len(said), warnings=tuple(said), rejected=rejected)


class Suspicious:
    """A worker plugin by which slices are solved by `suspicious`."""

    name = "suspicious"

    def setup(self, worker):
        warnings.simplefilter("error", UserWarning)
        worker_module.solve = suspicious

    def teardown(self, worker):
        worker_module.solve = solve


def data(n: int = 6) -> np.ndarray:
    return torch.rand(n, 1, *SHAPE, generator=torch.Generator().manual_seed(9)).numpy()


def fails(block: np.ndarray) -> np.ndarray:
    if (block == 2).all():
        raise ArithmeticError("no such block")
    return block


def without_ledger(k: int, folder: str) -> Mask:
    shutil.rmtree(Path(folder) / "x.zarr" / "ledger", ignore_errors=True)
    return masks(k)


def command(*arguments) -> int:
    """Run the command in this process; return its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reconstruct_stack)
    try:
        return app(list(map(str, arguments)), standalone_mode=False) or 0
    except (typer.Exit, click.exceptions.Exit) as left:
        return left.exit_code
