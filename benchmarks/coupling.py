"""Choose ADMM's default coupling and last noise level: PSNR in seven problems, development photographs.

    python benchmarks/coupling.py --data FOLDER     # the last images of a folder, their central 192 x 192
    python benchmarks/coupling.py                   # two images from scikit-image, to test the script

alpha_k = lambda/sigma_k^2, and the last sigma_k is m ||A*WA||^(-1/2). "default" is what `pnp.algorithms.schedules`
makes of the operator. lambda varies at the default's m, and m at the default's lambda. The development images are
those held out in training; no image of a recipe or test is among them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from functools import partial

import skimage.data
import torch
from torch import Tensor

from denoisers import MLPatch
from operators import Blur, Mask, Radon, gaussian_kernel
from pnp import Schedule, solve
from pnp.algorithms.schedules import COUPLING_ADMM, LAST_ADMM
from pnp.metrics import psnr
from pnp.training.images import load_folder

COUPLINGS = (0.23, 0.35, 0.45, 0.7, 1.0, 2.0)
LAST = (1.0, 1.5, 2.0)


def photographs(folder: str | None, count: int, size: int) -> list[Tensor]:
    if folder is not None:
        images = [x[None].float() / 255 for x in load_folder(folder)[-count:]]
    else:
        images = [torch.tensor(getattr(skimage.data, n)())[None, None].float() / 255 for n in ("moon", "coins")[:count]]
    middle = [((x.shape[2] - size) // 2, (x.shape[3] - size) // 2) for x in images]
    return [x[..., r : r + size, c : c + size] for x, (r, c) in zip(images, middle, strict=True)]


def problems(x: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Mask | Blur | Radon, float]]:
    """Yield name, operator and noise of every problem; in tomography the noise is relative to the sinogram's rms."""
    size = x.shape[-1]
    yield "inpainting 30 %, 0.01", Mask(torch.rand(size, size, generator=generator) < 0.3), 0.01
    yield "inpainting 50 %, 0.1", Mask(torch.rand(size, size, generator=generator) < 0.5), 0.1
    yield "Gaussian blur 1.6, 0.01", Blur(gaussian_kernel(1.6), (size, size), "reflect"), 0.01
    yield "motion blur 9, 0.01", Blur(torch.eye(9).flip(0) / 9, (size, size), "valid"), 0.01
    for views, snr in ((30, 40), (60, 30)):
        A = Radon((size, size), torch.arange(views) * (math.pi / views))
        yield f"{views} views, {snr} dB", A, float(A.A(x).square().mean().sqrt()) * 10 ** (-snr / 20)
    yield "denoising, 25/255", Mask(torch.ones(size, size)), 25 / 255


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", help="folder of photographs, of which the last by name are used")
    p.add_argument("--images", type=int, default=2)
    p.add_argument("--size", type=int, default=192)
    args = p.parse_args()
    D = MLPatch.from_pretrained("gray")
    found: dict[str, dict[str, list[float]]] = {}
    for i, x in enumerate(photographs(args.data, args.images, args.size)):
        g = torch.Generator().manual_seed(100 + i)
        for name, A, noise_std in problems(x, g):
            y = A.A(x)
            y = y + noise_std * torch.randn(y.shape, generator=g)
            y = A.A(y) if isinstance(A, Mask) else y
            scores = found.setdefault(name, {})
            run = partial(solve, A, y, D, noise_std=noise_std)
            default = run()
            sigma, alpha = default.history["sigma"], default.history["alpha"]
            weight = alpha[0] * sigma[0] ** 2
            m = LAST_ADMM ** (math.log(weight) / math.log(COUPLING_ADMM))
            levels = partial(Schedule, sigma[0], n_iter=len(sigma))
            rows = {"default": default, "lambda of default": weight, "m of default": m}
            rows |= {f"lambda {v:g}": run(schedule=levels(sigma[-1]), strength=v / weight) for v in COUPLINGS}
            rows |= {f"m {v:g}": run(schedule=levels(sigma[-1] * v / m)) for v in LAST}
            rows["hqs"] = run(algorithm="hqs")
            for column, value in rows.items():
                score = value if isinstance(value, float) else psnr(value.x.clamp(0, 1), x, data_range=1.0)
                scores.setdefault(column, []).append(score)
    columns = list(next(iter(found.values())))
    print("| problem | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, scores in found.items():
        print(f"| {name} | " + " | ".join(f"{sum(v) / len(v):.2f}" for v in scores.values()) + " |")


if __name__ == "__main__":
    main()
