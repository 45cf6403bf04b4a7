"""A stack of parallel-beam slices: priors that see one slice at a time, all three axes, or the volume.

    python benchmarks/prior_across_slices.py                     # 96^3, 60 views, 20,000 photons a bin
    python benchmarks/prior_across_slices.py --weights mine.safetensors --size 64 --photons 2e3

A core of spongy bone is drawn and measured on voxels of half the side; counts become line integrals with a noise level
for every ray. FBP; `solve` on each slice by itself, with `gray`; and on the stack as one volume, `ParallelBeam`, with
`gray` on slices of the volume along one axis and along all three, TV in space, and MLPatch on volumes. x is at least 0.
PSNR in dB over the largest value, the fraction of bone in the middle of the core, and processor time of all threads.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from denoisers import TV, MLPatch, SliceWise
from operators import ParallelBeam, Radon
from pnp import solve
from pnp.ct import line_integrals, simulate_counts
from pnp.metrics import psnr
from pnp.phantoms import TRABECULA, bone_core

VOXEL_MM = 0.05


def scan(n: int, n_angles: int, photons: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the core (1, 1, n, n, n) in 1/mm, y and its noise (1, 1, n_angles, n, n_bins), and the angles."""
    angles = torch.arange(n_angles, dtype=torch.float64) * (math.pi / n_angles)
    fine = bone_core(2 * n)
    truth = torch.nn.functional.avg_pool3d(fine, 2)
    views = Radon((2 * n, 2 * n), angles, n_detectors=n, pitch=VOXEL_MM, pixel_size=VOXEL_MM / 2)
    exact = views.A(fine[0].transpose(0, 1))  # slices as a batch
    exact = exact.reshape(n, 2, *exact.shape[1:]).mean(1)
    counts = simulate_counts(exact, photons, generator=torch.Generator().manual_seed(0))
    record = line_integrals(counts, i0=photons)
    y, noise_std = (v[:, 0].transpose(0, 1)[None, None] for v in (record.y, record.noise_std))
    return truth, y, noise_std, angles


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--weights", default="volume", help="a packaged name or a .safetensors file of volumes")
    p.add_argument("--size", type=int, default=96, help="voxels on a side")
    p.add_argument("--views", type=int, default=60, help="number of angles over half a turn")
    p.add_argument("--photons", type=float, default=2e4, help="counts of the open beam in a bin of a view")
    args = p.parse_args()
    n = args.size
    truth, y, noise_std, angles = scan(n, args.views, args.photons)
    A = ParallelBeam((n, n, n), angles, n_detectors=n, pitch=VOXEL_MM, voxel_size=VOXEL_MM)
    one = Radon((n, n), angles, n_detectors=n, pitch=VOXEL_MM, pixel_size=VOXEL_MM)
    gray = MLPatch.from_pretrained("gray")

    def together(D: Callable[[Tensor, float], Tensor]) -> Tensor:
        return solve(A, y, D, noise_std=noise_std, bounds=(0.0, None)).x

    def alone() -> Tensor:
        stack, std = (v[0, 0].transpose(0, 1)[:, None] for v in (y, noise_std))
        return solve(one, stack, gray, noise_std=std, bounds=(0.0, None)).x.transpose(0, 1)[None]

    rows: dict[str, Callable[[], Tensor]] = {
        "FBP": lambda: A.fbp(y),
        "TV in space": lambda: together(TV()),
        "gray, each slice by itself": alone,
        "gray, slices of the volume": lambda: together(SliceWise(gray, (0,))),
        "gray, slices across three axes": lambda: together(SliceWise(gray, (0, 1, 2))),
        "volume": lambda: together(MLPatch.from_pretrained(args.weights)),
    }
    inside = (slice(n // 5, -n // 5), slice(n // 3, -n // 3), slice(n // 3, -n // 3))
    core = truth[0, 0][inside] > TRABECULA / 2
    print(f"true bone volume {float(core.float().mean()):.3f}\n")
    print("| | PSNR | bone volume | voxels on the wrong side | CPU time |\n|---|---|---|---|---|")
    for name, run in rows.items():
        start = time.process_time()
        x = run()
        seconds = time.process_time() - start
        bone = x[0, 0][inside] > TRABECULA / 2
        wrong = float((bone != core).float().mean())
        score = psnr(x, truth, data_range=float(truth.max()))
        print(
            f"| {name} | {score:.2f} dB | {float(bone.float().mean()):.3f} | {100 * wrong:.1f} % | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
