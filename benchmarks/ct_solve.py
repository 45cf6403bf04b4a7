"""A whole CT reconstruction at 512x512, 60 views, 40 dB: `solve` against deepinv's DPIR, both with MLPatch.

Claim: at least 20 times faster at equal or better PSNR. Both measure the cameraman with their own operator and the same
noise relative to the root mean square of the data, and start from their own filtered back-projection. deepinv runs DPIR
with its defaults (HQS, 8 iterations, its schedule, prox_l2 by at most 50 CG iterations to 1e-4) on its normalised
Tomography. Ours runs with its defaults (ADMM, 12 iterations); with as few iterations as reach DPIR's PSNR; and like
DPIR (HQS, 8 iterations). The PSNR is that of z clipped to [0, 1]. Times are those of the clock, and CPU seconds, whose
ratios hold on a busy machine. The time of the eight calls that DPIR makes of DRUNet (random weights) is given as well.
`faster_solves.py` compares the defaults with those of an earlier commit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from denoising import denoiser, mlpatch
from radon import problem
from report import Row, main
from timing import Spread, interleaved, seconds
from torch import Tensor

from operators import Radon
from pnp import solve, to_deepinv
from pnp.metrics import psnr

SNR_DB = 40.0
DPIR_ITERATIONS = 8
AT_EQUAL_PSNR = "solve, 5 iterations"
OURS: dict[str, dict[str, Any]] = {
    "solve, ADMM": {},
    AT_EQUAL_PSNR: {"max_iter": 5},
    "solve, HQS as DPIR": {"algorithm": "hqs", "max_iter": DPIR_ITERATIONS},
}


def measure(forward: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor) -> tuple[Tensor, float]:
    """Return y with noise SNR_DB below its root mean square, and the standard deviation of the noise."""
    with torch.no_grad():
        y = forward(x)
    noise_std = float(y.square().mean().sqrt()) * 10 ** (-SNR_DB / 20)
    return y + noise_std * noise, noise_std


def dpir(x: Tensor, n_angles: int, noise: Tensor, model: Any) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return deepinv's reconstruction and its first estimate as functions."""
    from deepinv.optim import DPIR
    from deepinv.physics import Tomography

    degrees = torch.arange(n_angles) * (180 / n_angles)
    # deepinv's default, an operator of norm 1, for which the parameters of DPIR are chosen.
    physics = Tomography(angles=degrees, img_width=x.shape[-1], circle=False, normalize=True)
    y, noise_std = measure(physics.A, x, noise.mT.contiguous())
    solver = DPIR(sigma=noise_std, denoiser=to_deepinv(model))
    first = torch.no_grad()(partial(physics.fbp, y))
    return torch.no_grad()(lambda: solver(y, physics, init=first())), first


def ct(quick: bool) -> Iterator[Row]:
    """Yield time and PSNR of both."""
    size, n_angles = (32, 10) if quick else (512, 60)
    radon, x = problem(size, n_angles, math.ceil(math.sqrt(2) * size))  # deepinv's number of bins
    model, trained = mlpatch()
    noise = torch.randn(1, 1, n_angles, radon.n_detectors, generator=torch.Generator().manual_seed(0))
    y, noise_std = measure(radon.A, x, noise)
    found: dict[str, Tensor] = {}
    cpu: dict[str, list[float]] = {}

    def run(name: str, reconstruct: Callable[[], Tensor]) -> None:
        start = time.process_time()
        found[name] = reconstruct()
        cpu.setdefault(name, []).append(time.process_time() - start)

    def ours(**options: Any) -> Tensor:
        # A new operator, because plans and kernel are part of the solve.
        operator = Radon(radon.shape, radon.angles, n_detectors=radon.n_detectors)
        return solve(operator, y, model, noise_std=noise_std, **options).x  # type: ignore[no-any-return]

    calls = {name: partial(run, name, partial(ours, **options)) for name, options in OURS.items()}
    times = interleaved(calls, rounds=1 if quick else 5)
    peer, first = dpir(x, n_angles, noise, model)
    # Takes minutes: timed once, after one projection and back-projection.
    first()
    times["deepinv DPIR"] = Spread((seconds(partial(run, "deepinv DPIR", peer)),))
    found["our FBP"], found["deepinv's FBP"] = radon.fbp(y), first()

    quality = {name: psnr(image.clamp(0, 1), x, data_range=1.0) for name, image in found.items()}
    what = f"CT {size}x{size}, {n_angles} views, {SNR_DB:g} dB"
    note = "" if trained else "random weights: the PSNR means nothing"
    of_cpu = {name: Spread(tuple(values[-len(times[name].values) :])) for name, values in cpu.items()}
    for name, taken in times.items():
        yield Row(what, name, taken, note=note)
        yield Row(f"{what}, CPU", name, of_cpu[name], note=note)
    for name, value in quality.items():
        yield Row(f"PSNR, {what}", name, Spread((value,)), "dB", note=note)
    for name in calls:
        gain = quality[name] - quality["deepinv DPIR"]
        target = (">=", 20.0) if name == AT_EQUAL_PSNR else None
        yield Row("time ratio", f"deepinv / {name}", None, ratio=times["deepinv DPIR"] / times[name], target=target)
        yield Row("CPU time ratio", f"deepinv / {name}", None, ratio=of_cpu["deepinv DPIR"] / of_cpu[name])
        yield Row("PSNR gain", f"{name} - deepinv", Spread((gain,)), "dB", target=(">=", 0.0), note=note)
    drunet, v = denoiser("DRUNet"), radon.fbp(y)
    alone = interleaved(
        {"DRUNet": lambda: drunet(v), "MLPatch": lambda: model_call(model, v)}, rounds=2 if quick else 3
    )
    for name, taken in alone.items():
        yield Row(f"{DPIR_ITERATIONS} denoiser calls, {size}x{size}", name, taken.map(lambda t: t * DPIR_ITERATIONS))


def model_call(model: Any, v: Tensor) -> Tensor:
    """Denoise v at a middle noise level of the schedule."""
    with torch.no_grad():
        return model(v, 0.05)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main("CT reconstruction against deepinv's DPIR (CPU)", {"ct": ct})
