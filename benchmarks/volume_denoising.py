"""PSNR and CPU time of denoisers on volumes of kinds that the weights `volume` were not trained on.

    python benchmarks/volume_denoising.py                            # 96^3, the package's weights
    python benchmarks/volume_denoising.py --weights mine.safetensors --size 64 --sigmas 25
    python benchmarks/volume_denoising.py --only torso mni           # some volumes
    python benchmarks/volume_denoising.py --anisotropy 3             # voxels three times as long from slice to slice
    python benchmarks/volume_denoising.py --memory 128 256 512       # time and peak memory by size, on one thread
    python benchmarks/volume_denoising.py --memory 64 --weights random  # weights change neither

Volumes: cells (Voronoi), their walls, a gyroid, bubbles with shells, braided tubes, Shepp and Logan's head in space,
this package's torsos (activity and attenuation) and its perforated disc; nilearn's MNI template, a real head, where
nilearn is installed. Range 1, output clipped to [0, 1]; noise of volume i from seed i.

Peers: `gray` slice by slice along one axis, and the mean of that over the three axes; total variation in space, with
the best of four weights for each noise level by the mean PSNR, hence with the truth; BM4D where `bm4d` is installed
(its licence is non-commercial). Time is processor time of all threads for one volume, the mean over the volumes. Memory
is the peak of a fresh process beyond the model, input and output.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from denoisers import MLPatch, SliceWise
from denoisers.mlpatch import ARCHITECTURES
from pnp.phantoms import perforated_disc, torso

_TV_WEIGHTS = (0.3, 0.45, 0.6, 0.8)
"""Weights in units of sigma."""
Volume = NDArray[np.float32]


def _points(n: int) -> NDArray[np.float64]:
    """Return centres of the voxels (n^3, 3) in [-1, 1]."""
    t = (np.arange(n) + 0.5) * 2 / n - 1
    return np.stack(np.meshgrid(t, t, t, indexing="ij"), -1).reshape(-1, 3)


def _soft(distance: NDArray[np.float64], n: int) -> Volume:
    """Return the part of each voxel that is inside, from signed distances (n^3,), above 0 inside, in half sides."""
    return np.clip(0.5 + distance * n / 2, 0, 1).reshape(n, n, n).astype(np.float32)


def cells(n: int) -> Volume:
    """Voronoi cells about 14 voxels wide, each of its own grey: grains of a metal."""
    rng = np.random.default_rng(0)
    seeds = rng.uniform(-1.1, 1.1, (max(8, round((2.2 * n / 2 / 14) ** 3 * 2)), 3))
    (near, far), which = (v.T for v in cKDTree(seeds).query(_points(n), 2))
    grey = rng.uniform(0.1, 0.9, len(seeds))
    share = np.clip(0.5 + (far - near) * n / 4, 0, 1)
    mixed = share * grey[which[0]] + (1 - share) * grey[which[1]]
    return mixed.reshape(n, n, n).astype(np.float32)


def walls(n: int) -> Volume:
    """The walls between such cells, 2 voxels thick, and gas between them: a closed foam."""
    rng = np.random.default_rng(1)
    seeds = rng.uniform(-1.1, 1.1, (max(8, round((2.2 * n / 2 / 16) ** 3 * 2)), 3))
    near, far = cKDTree(seeds).query(_points(n), 2)[0].T
    return 0.1 + 0.7 * _soft(2 / n - (far - near) / 2, n)


def gyroid(n: int) -> Volume:
    """A gyroid, as printed implants have, whose walls thicken from one end to the other."""
    z, y, x = (_points(n) * math.pi * n / 24).T
    f = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    thick = 0.25 + 0.6 * (_points(n)[:, 0] + 1) / 2
    return 0.05 + 0.8 * _soft((thick - np.abs(f)) / (1.2 * math.pi * n / 24), n)


def bubbles(n: int) -> Volume:
    """Hollow spheres of several sizes in a matrix whose density changes slowly."""
    rng, p = np.random.default_rng(2), _points(n)
    x = (0.45 + 0.15 * np.sin(2 * p @ (1.0, 0.6, -0.8))).astype(np.float32).reshape(n, n, n)
    for _ in range(60):
        centre, radius = rng.uniform(-1, 1, 3), math.exp(rng.uniform(math.log(0.06), math.log(0.35)))
        r = np.linalg.norm(p - centre, axis=1)
        x += _soft(radius - r, n) * (0.85 - x)
        x += _soft(radius * rng.uniform(0.6, 0.9) - r, n) * (0.1 - x)
    return x


def braid(n: int) -> Volume:
    """Helical tubes of several thicknesses around two axes: yarns, coils, vessels."""
    t, p = np.linspace(-1.2, 1.2, 1500), _points(n)
    x = np.full((n, n, n), 0.2, np.float32)
    for k in range(8):
        phase, wide = k * math.pi / 4 * (1 if k % 2 else -1), 0.25 + 0.06 * k
        curve = np.stack([t, wide * np.cos(4 * t + phase), wide * np.sin(4 * t + phase)], 1)
        curve = curve if k < 5 else curve[:, [1, 0, 2]]
        distance = cKDTree(curve).query(p)[0]
        x += _soft(0.03 + 0.012 * k - distance, n) * (0.35 + 0.07 * k - x)
    return x


def shepp_logan(n: int) -> Volume:
    """Shepp and Logan's head in space, with the contrasts of Toft's version: ten ellipsoids, Kak and Slaney 1988."""
    table = (
        (1.0, 0.69, 0.92, 0.81, 0, 0, 0, 0), (-0.8, 0.6624, 0.874, 0.78, 0, -0.0184, 0, 0),
        (-0.2, 0.11, 0.31, 0.22, 0.22, 0, 0, -18), (-0.2, 0.16, 0.41, 0.28, -0.22, 0, 0, 18),
        (0.1, 0.21, 0.25, 0.41, 0, 0.35, -0.15, 0), (0.1, 0.046, 0.046, 0.05, 0, 0.1, 0.25, 0),
        (0.1, 0.046, 0.046, 0.05, 0, -0.1, 0.25, 0), (0.1, 0.046, 0.023, 0.05, -0.08, -0.605, 0, 0),
        (0.1, 0.023, 0.023, 0.02, 0, -0.606, 0, 0), (0.1, 0.023, 0.046, 0.02, 0.06, -0.605, 0, 0),
    )  # fmt: skip
    z, y, x = _points(2 * n).astype(np.float32).T
    total = np.zeros(len(x), np.float32)
    for value, a, b, c, x0, y0, z0, turn in table:
        u, v, phi = x - x0, y - y0, math.radians(turn)
        s, w = u * math.cos(phi) + v * math.sin(phi), v * math.cos(phi) - u * math.sin(phi)
        total += value * ((s / a) ** 2 + (w / b) ** 2 + ((z - z0) / c) ** 2 < 1)
    return total.reshape(n, 2, n, 2, n, 2).mean((1, 3, 5))


def attenuation(n: int) -> Volume:
    """The attenuation of a torso."""
    patient = torso((n, n, n), voxel_size_mm=400 / n, generator=torch.Generator().manual_seed(3))
    return (patient.attenuation / 0.02).clamp(0, 1).numpy()


def activity(n: int) -> Volume:
    """The activity of a virtual torso, whose organs are bent and uneven; the square root, which shows the liver."""
    patient = torso((n, n, n), voxel_size_mm=400 / n, generator=torch.Generator().manual_seed(4), virtual=True)
    return (patient.activity[0, 0] / patient.activity.max()).sqrt().numpy()


def disc(n: int) -> Volume:
    """Perforated discs on one another, each a quarter of the height."""
    x = np.zeros((n, n, n), np.float32)
    for k in range(4):
        layer = perforated_disc(n, generator=torch.Generator().manual_seed(k))[0, 0] / 0.034
        x[k * n // 4 : (k + 1) * n // 4 - 2] = 0.75 * layer.numpy()
    return x


def mni(n: int) -> Volume | None:
    """The middle of the MNI template of nilearn, the mean of many real heads; None where nilearn is not installed."""
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        return None
    x = np.asarray(load_mni152_template(resolution=1).get_fdata(), np.float32)
    low, high = np.percentile(x, (0.5, 99.8))
    starts = [max(0, (size - n) // 2) for size in x.shape]
    part: Volume = np.clip((x - low) / (high - low), 0, 1)[tuple(slice(s, s + n) for s in starts)]
    return part


VOLUMES: dict[str, Callable[[int], Volume | None]] = {
    "cells": cells,
    "walls": walls,
    "gyroid": gyroid,
    "bubbles": bubbles,
    "braid": braid,
    "shepp_logan": shepp_logan,
    "attenuation": attenuation,
    "activity": activity,
    "disc": disc,
    "mni": mni,
}


def thicker(x: Volume, ratio: float) -> Volume:
    """Average voxels along the first axis, so that each is `ratio` times as long."""
    size = (max(1, round(len(x) / ratio)), *x.shape[1:])
    return torch.nn.functional.interpolate(torch.from_numpy(x)[None, None], size=size, mode="area")[0, 0].numpy()


def peers(weights: str) -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Return the denoisers by name, each on volumes (1, 1, D, H, W)."""
    gray = MLPatch.from_pretrained("gray")
    found: dict[str, Callable[[Tensor, float], Tensor]] = {
        "volume": MLPatch.from_pretrained(weights),
        "gray, slices": SliceWise(gray, (0,)),
        "gray, three axes": SliceWise(gray, (0, 1, 2)),
    }
    for weight in _TV_WEIGHTS:
        found[f"TV {weight}"] = lambda y, sigma, w=weight: torch.from_numpy(
            denoise_tv_chambolle(y[0, 0].numpy(), w * sigma, eps=1e-6, max_num_iter=100)
        )[None, None]
    try:
        from bm4d import bm4d
    except ImportError:
        return found
    found["BM4D"] = lambda y, sigma: torch.from_numpy(np.asarray(bm4d(y[0, 0].numpy(), sigma), np.float32))[None, None]
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--weights", default="volume", help="a packaged name or a .safetensors file of volumes")
    p.add_argument("--size", type=int, default=96, help="voxels on a side")
    p.add_argument("--sigmas", type=float, nargs="+", default=[15, 25, 50], help="noise levels times 255")
    p.add_argument("--only", nargs="+", choices=VOLUMES, default=list(VOLUMES), help="these volumes")
    p.add_argument("--anisotropy", type=float, default=1.0, help="ratio of the voxels' sides along the first axis")
    p.add_argument("--memory", type=int, nargs="+", metavar="SIZE", help="time and peak memory at these sizes instead")
    p.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child is not None:
        child(args.weights, args.child)
        return
    if args.memory is not None:
        memory(args.weights, args.memory)
        return
    made = {name: VOLUMES[name](args.size) for name in args.only}
    for name in [name for name, x in made.items() if x is None]:
        print(f"{name} is left out: its package is not installed")
    truth = {name: thicker(x, args.anisotropy) for name, x in made.items() if x is not None}
    for sigma in args.sigmas:
        table(truth, peers(args.weights), sigma)


def memory(weights: str, sizes: list[int]) -> None:
    """Print CPU time and peak memory beyond input and output for volumes of several sizes."""
    from timing import fresh_process

    print("| side | CPU time | memory |\n|---|---|---|")
    for n in sizes:
        got = fresh_process(__file__, "--child", str(n), "--weights", weights, limit_s=3600)
        row = got if isinstance(got, str) else f"{got['seconds']:.2f} s | {got['bytes'] / 2**20:.0f} MiB"
        print(f"| {n} | {row} |", flush=True)


def child(weights: str, n: int) -> None:
    """Print time and memory of one call as JSON; the input is loaded before, and only the output is subtracted."""
    from timing import peak_growth

    torch.set_num_threads(1)
    random = weights == "random"
    D = MLPatch(**ARCHITECTURES["volume"]).requires_grad_(False) if random else MLPatch.from_pretrained(weights)
    x = torch.rand(1, 1, n, n, n)
    D(x[..., :8, :8, :8], 0.1)
    start = time.process_time()
    growth = peak_growth(lambda: D(x, 0.1))
    print(json.dumps({"seconds": time.process_time() - start, "bytes": growth - 4 * n**3}))


def table(truth: dict[str, Volume], denoisers: dict[str, Callable[[Tensor, float], Tensor]], sigma: float) -> None:
    """Print a table of PSNR in dB for one noise level, a row for each denoiser."""
    rows: dict[str, tuple[list[float], float]] = {}
    for name, D in denoisers.items():
        values, seconds = list[float](), 0.0
        for i, x in enumerate(map(torch.from_numpy, truth.values())):
            y = x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
            start = time.process_time()
            with torch.no_grad():
                z = D(y[None, None], sigma / 255)[0, 0].clamp(0, 1)
            seconds += time.process_time() - start
            values.append(-10 * math.log10(float((z - x).square().mean())))
        rows[name] = (values, seconds / len(truth))
    best = max((name for name in rows if name.startswith("TV")), key=lambda name: sum(rows[name][0]))
    print(f"\nsigma {sigma:g}/255, PSNR in dB\n\n| | {' | '.join(truth)} | mean | seconds |")
    print("|---|" + "---|" * (len(truth) + 2))
    for name, (values, seconds) in rows.items():
        if not name.startswith("TV") or name == best:
            cells_ = " | ".join(f"{v:.2f}" for v in values)
            print(f"| {name} | {cells_} | {sum(values) / len(values):.2f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
