"""`solve` and `map_mass` with their defaults, against those of an earlier commit on the same measurements.

    git worktree add ../before 7cab849
    BEFORE=../before python benchmarks/faster_solves.py

Each commit has a process of its own (`solve_worker.py`), both solve each problem in turns, and the ratio of the times
is taken problem by problem. Without BEFORE its rows are left out. "ct": 512 x 512, 60 views, 40 dB, six photographs and
three phantoms, with each step from the earlier default to today's: 24 iterations without relaxation with today's code;
12 over-relaxed iterations; conjugate gradients that stop at a twentieth of their starting residual, which is today's
default. "other": inpainting, deblurring, and mass maps. "fewer": what still cheaper settings lose in tomography.
Qualities are in dB: PSNR, and -20 log10 of the NRMSE for mass maps.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from report import Row, main
from skimage.color import rgb2gray
from skimage.util import img_as_float32
from timing import Spread
from torch import Tensor

from operators import Blur, KaiserSquires, Mask, Radon, gaussian_kernel
from pnp import phantoms
from pnp.lensing import LognormalKappa, survey_noise
from pnp.metrics import nrmse, psnr

PHOTOGRAPHS = ("camera", "astronaut", "moon", "brick", "grass", "gravel")
PHANTOMS = ("head", "chest", "perforated_disc")
EARLIER, TODAY = "before", "today"
AS_BEFORE = {"relaxation": 1.0, "coupling": 0.35, "last": 1.0, "annealing": 20, "max_iter": 24, "cg_rtol": 1e-5}
STEPS: dict[str, dict[str, Any]] = {
    "24 iterations, rho = 1": AS_BEFORE,
    "12 over-relaxed": {"cg_rtol": 1e-5},
    TODAY: {},
}
"""Settings of today's code, each with one step more than the last."""
FEWER: dict[str, dict[str, Any]] = {
    TODAY: {},
    "10 iterations": {"max_iter": 10},
    "8 iterations": {"max_iter": 8},
    "12 iterations, rho = 1": {"relaxation": 1.0},
    "at most 16 of conjugate gradients": {"cg_max_iter": 16},
}
"""Cheaper settings than today's."""
WORKER = Path(__file__).with_name("solve_worker.py")


@dataclass(frozen=True)
class Problem:
    """Measurements, as `solve_worker.py` reads them, and how good an answer is in dB."""

    name: str
    arrays: dict[str, Any]
    score: Callable[[Tensor], float]


@dataclass(frozen=True)
class Solved:
    """A solve: its seconds and its quality in dB."""

    wall: float
    cpu: float
    quality: float
    n_iter: int


# ---------------------------------------------------------------- problems


def image(name: str, quick: bool) -> Tensor:
    """Return a photograph of scikit-image in [0, 1], or a phantom in 1/mm, (1, 1, 512, 512)."""
    if name in PHANTOMS:
        return getattr(phantoms, name)(32 if quick else 512).float()  # type: ignore[no-any-return]
    pixels = img_as_float32(getattr(skimage.data, name)())
    pixels = rgb2gray(pixels) if pixels.ndim == 3 else pixels
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float()[None, None]
    return x[..., ::16, ::16].contiguous() if quick else x


def of_image(name: str, operator: Any, x: Tensor, noise_std: float | None, **arrays: Any) -> Problem:
    """Return measurements of x with noise of that standard deviation; None: 40 dB below their root mean square."""
    y = operator.A(x)
    std = 0.01 * float(y.square().mean().sqrt()) if noise_std is None else noise_std
    y = y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    high = max(1.0, float(x.max())) if name.split()[-1] in PHOTOGRAPHS else float(x.max())

    def score(found: Tensor) -> float:
        return psnr(found.clamp(0, high), x, data_range=high)

    return Problem(name, {"y": y.numpy(), "noise_std": std, "shape": x.shape[-2:], **arrays}, score)


def tomography(name: str, quick: bool) -> Problem:
    """60 views of an image, with the detector as wide as its diagonal."""
    x = image(name, quick)
    angles = np.pi * np.arange(10 if quick else 60) / (10 if quick else 60)
    radon = Radon((x.shape[-2], x.shape[-1]), angles, n_detectors=math.ceil(math.hypot(*x.shape[-2:])))
    return of_image(name, radon, x, None, kind="radon", angles=angles)


def inpainting(name: str, quick: bool) -> Problem:
    """40 % of the pixels, noise 0.01."""
    x = image(name, quick)
    mask = torch.rand(x.shape[-2:], generator=torch.Generator().manual_seed(1)) < 0.4
    return of_image(f"inpainting, {name}", Mask(mask), x, 0.01, kind="mask", mask=mask.numpy())


def deblurring(name: str, quick: bool) -> Problem:
    """A Gaussian of 1.6 pixels, noise 0.01."""
    x, kernel = image(name, quick), gaussian_kernel(1.6)
    operator = Blur(kernel, (x.shape[-2], x.shape[-1]))
    return of_image(f"deblurring, {name}", operator, x, 0.01, kind="blur", kernel=kernel.numpy())


def mass_map(seed: int, quick: bool) -> Problem:
    """A simulated sky under the noise and the mask of a survey; -20 log10 of the NRMSE where observed."""
    shape = (48, 48) if quick else (360, 360)
    g = torch.Generator().manual_seed(seed)
    kappa = LognormalKappa(shape, std=0.0274)(1, generator=g)
    std = survey_noise(shape, generator=torch.Generator().manual_seed(1000), std=0.125)
    y = KaiserSquires(shape).A(kappa) + torch.where(std.isfinite(), std, 0) * torch.randn(std.shape, generator=g)
    seen = std.isfinite()[:, :1]

    def score(found: Tensor) -> float:
        return -20 * math.log10(nrmse(found, kappa, mask=seen, centred=True))

    arrays = {"kind": "mass_map", "y": y.numpy(), "noise_std": std.expand(y.shape).numpy()}
    return Problem(f"mass map, sky {seed}", arrays, score)


# ---------------------------------------------------------------- solves


class Worker:
    """A process that solves problems with the package in a folder."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.files = files
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, problem: Problem, settings: dict[str, Any] | None) -> Solved:
        """Solve the problem, whose file is there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        task = {"problem": str(self.files / "problem.npz"), "x": str(self.files / "x.npy"), "settings": settings}
        print(json.dumps(task), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{problem.name}: the process of solve_worker.py ended, with {self.process.wait()}")
        taken = json.loads(line)
        x = torch.from_numpy(np.load(self.files / "x.npy"))
        return Solved(taken["wall"], taken["cpu"], problem.score(x), taken["n_iter"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


@contextmanager
def workers() -> Iterator[tuple[Worker, Worker | None]]:
    """Start the processes of today's package and, where BEFORE names a worktree, of the earlier one."""
    before = os.environ.get("BEFORE", "")
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = []
        for folder in [Path(__file__).parents[1], *([Path(before).resolve()] if before else [])]:
            started.append(Worker(folder, files))
            stack.callback(started[-1].close)
        yield started[0], started[1] if before else None


def solved(problems: list[Problem], settings: dict[str, dict[str, Any]], with_before: bool) -> dict[str, list[Solved]]:
    """Solve all problems in all ways, in turns, after a first solve that does not count; by the name of the way."""
    found: dict[str, list[Solved]] = {}
    with workers() as (today, earlier):
        ways: list[tuple[str, Any, Any]] = [(EARLIER, earlier, None)] if earlier is not None and with_before else []
        ways += [(name, today, options) for name, options in settings.items()]
        for n, problem in enumerate([problems[0], *problems]):
            np.savez(today.files / "problem.npz", **problem.arrays)
            for name, worker, options in ways:
                if n > 0 or name in (EARLIER, TODAY):
                    answer = worker(problem, options)
                if n > 0:
                    found.setdefault(name, []).append(answer)
                    print(f"{problem.name}, {name}: {answer}", file=sys.stderr)
    return found


def rows(
    what: str, problems: list[Problem], found: dict[str, list[Solved]], base: str, target: float | None = None
) -> Iterator[Row]:
    """Yield times, their ratios to those of the base, and the gain in dB over the base, for each way of solving."""
    for name, answers in found.items():
        n_iter = Spread(tuple(float(a.n_iter) for a in answers))
        for unit in ("wall", "CPU"):
            times, of_base = (Spread(tuple(getattr(a, unit.lower()) for a in found[n])) for n in (name, base))
            aim = (">=", target) if target is not None and name == TODAY and base == EARLIER else None
            ratio = None if name == base else of_base / times
            note = f"{n_iter.low:g} to {n_iter.high:g} iterations"
            yield Row(f"{what}, {unit} time", name, times, ratio=ratio, target=aim, note=note)
    for name, answers in found.items():
        if name != base:
            gains = Spread(tuple(a.quality - b.quality for a, b in zip(answers, found[base], strict=True)))
            yield Row(f"{what}, quality - {base}", name, gains, "dB")
    for n, problem in enumerate(problems):
        for name in (base, TODAY):
            yield Row(
                problem.name, name, Spread((found[name][n].quality,)), "dB", note=f"{found[name][n].cpu:.2f} s CPU"
            )
        gain = found[TODAY][n].quality - found[base][n].quality
        yield Row(problem.name, f"{TODAY} - {base}", Spread((gain,)), "dB", target=(">=", -0.05))


# ---------------------------------------------------------------- sections


def ct(quick: bool) -> Iterator[Row]:
    """Yield what each step gives in tomography."""
    problems = [tomography(name, quick) for name in (*PHOTOGRAPHS, *PHANTOMS)[:: 8 if quick else 1]]
    found = solved(problems, STEPS, True)
    yield from rows("CT", problems, found, next(iter(found)), 3.0)


def fewer(quick: bool) -> Iterator[Row]:
    """Yield what fewer iterations, or none of the relaxation, would lose in tomography."""
    problems = [tomography(name, quick) for name in (*PHOTOGRAPHS, *PHANTOMS)[:: 8 if quick else 1]]
    found = solved(problems, FEWER, False)
    for name, answers in found.items():
        gains = Spread(tuple(a.quality - b.quality for a, b in zip(answers, found[TODAY], strict=True)))
        ratio = Spread(tuple(b.cpu / a.cpu for a, b in zip(answers, found[TODAY], strict=True)))
        note = ", ".join(f"{p.name} {gain:+.2f}" for p, gain in zip(problems, gains.values, strict=True))
        yield Row(f"CT, quality - {TODAY}", name, gains, "dB", ratio=ratio, note=note)


def other(quick: bool) -> Iterator[Row]:
    """Yield inpainting, deblurring and mass maps; nothing without BEFORE."""
    if not os.environ.get("BEFORE"):
        return
    names = ("camera",) if quick else ("camera", "astronaut", "brick")
    kinds = {
        "inpainting": [inpainting(name, quick) for name in names],
        "deblurring": [deblurring(n, quick) for n in names],
    }
    kinds["mass maps"] = [mass_map(seed, quick) for seed in range(1 if quick else 3)]
    for what, problems in kinds.items():
        found = solved(problems, {TODAY: {}}, True)
        yield from rows(what, problems, found, next(iter(found)), 1.5)


if __name__ == "__main__":
    main("solve against its default at an earlier commit", {"ct": ct, "other": other, "fewer": fewer}, in_quick=("ct",))
