"""Plug-and-play at 512 x 512 with denoisers trained on crops of 128 x 128, in and out of distribution.

    inpainting   y = m x + n, 30 % of the pixels kept, noise 0.01
    CT           y = A x + n, 60 views, 40 dB

Images: a photograph not used in training (in distribution; the cameraman, which must not be in --data) and a simulated
slice of a head (out of distribution). The same ADMM is run with MLPatch, DRU-Net and total variation; both networks are
trained here under one budget, on photographs alone, or, with --weights, MLPatch is loaded. The head reaches from 0 to
2.5; convolutional networks, made for [0, 1], are given it divided by 2.5, and every network is used at noise levels of
its training only. Baselines without a prior are the masked image, filtered back-projection, and the back-projection
times the best factor. That factor is found with the true image, which nothing else uses.
"""

from __future__ import annotations

import math
import time
from typing import Any

import networks
import numpy as np
import skimage.data
import torch
from _shared import checkpoints, markdown, parser, print_verdict, record, save, synchronize, train, training_arguments
from distributions import as_float, centre
from matplotlib.figure import Figure
from torch import Tensor

from denoisers import TV, Rescaled
from operators import Mask, Radon
from pnp import solve
from pnp.metrics import psnr
from pnp.phantoms import head
from pnp.training import denoising_psnr

p = parser(__doc__, names=("MLPatch", "DRU-Net"), channels=None)
p.set_defaults(channels=1)
training_arguments(p, minutes=12)
p.add_argument("--weights", help="load MLPatch instead of training it: a packaged name or a file")
args = p.parse_args()
HEAD_MAX = 2.5
size, max_iter = (64, 3) if args.smoke else (512, None)
if args.smoke:
    args.minutes, args.batch, args.crop = 0.01, 1, 72
denoisers, abouts, to_train = {}, [], list(args.networks)
if args.weights and "MLPatch" in to_train:
    denoisers["MLPatch"] = p.mlpatch(args.weights, args.channels).to(args.device)
    abouts.append(f"MLPatch came with its weights, {args.weights}, and was not trained here.")
    to_train.remove("MLPatch")
run = record(args)
print(run)

# Denoisers
if to_train:
    photos, sampler = p.photographs(args)
    held_out = [centre(x, 64 if args.smoke else 256) for x in as_float(photos.test)]
    folder = checkpoints(args, photos)
    for name in to_train:
        path = folder / f"{name}.pt"
        done = train(name, path, sampler, args, lambda m: denoising_psnr(m, held_out, 25 / 255))
        denoisers[name] = done.model.requires_grad_(False)
    abouts.append(f"{', '.join(to_train)}: trained for {args.minutes:g} minutes each on {photos.about}.")
denoisers = {name: denoisers[name] for name in args.networks}
convolutional = [name for name, D in denoisers.items() if isinstance(D, networks.Conditioned)]
if convolutional:
    abouts.append(f"{', '.join(convolutional)}: the head is given divided by {HEAD_MAX:g}, in [0, 1].")
denoisers["TV"] = TV(rtol=0.3)

# Data: (1, 1, size, size); photographs in [0, 1], the head in units of its window
camera = torch.from_numpy(skimage.data.camera()).float()[None, None] / 255
camera = torch.nn.functional.interpolate(camera, (size, size), mode="bicubic", antialias=True) if args.smoke else camera
brain = (head(size) - 0.016) / (0.028 - 0.016)  # 1/mm: soft tissue from 0 to 1
images = {"photograph (ID)": camera.to(args.device), "head (OOD)": brain.clamp(0, HEAD_MAX).to(args.device)}

rows: list[dict[str, str]] = []
panels: dict[str, Any] = {}


def report(problem: str, image: str, method: str, x: Tensor, truth: Tensor, seconds: float) -> None:
    """Record the scores and the panel of one result; data range 1."""
    value = psnr(x, truth, data_range=1.0)
    rows.append({"problem": problem, "image": image, "method": method, "PSNR in dB": f"{value:.2f}"})
    rows[-1]["seconds"] = f"{seconds:.1f}"
    panels[f"{problem}, {image}\n{method}: {value:.2f} dB"] = x[0, 0].clamp(0, 1).cpu().numpy()
    print(f"{problem:12s} {image:16s} {method:22s} {value:6.2f} dB {seconds:7.1f} s", flush=True)


# Measure and solve
for image, truth in images.items():
    g = torch.Generator().manual_seed(args.seed)
    mask = torch.rand((size, size), generator=g) < 0.3
    angles = torch.arange(60, dtype=torch.float64) * (math.pi / 60)
    problems = {"inpainting": Mask(mask).to(args.device), "CT": Radon((size, size), angles).to(args.device)}
    for problem, A in problems.items():
        clean = A.A(truth)
        rms = float(clean.square().mean().sqrt())
        noise_std = 0.01 if problem == "inpainting" else 0.01 * rms
        y = clean + noise_std * torch.randn(clean.shape, generator=g).to(args.device)
        if problem == "inpainting":
            y = A.A(y)
            report(problem, image, "masked image", y, truth, 0.0)
        else:
            b = A.A_adjoint(y)
            report(problem, image, "back-projection", b * float((b * truth).sum() / b.square().sum()), truth, 0.0)
            report(problem, image, "FBP, Hann window", A.fbp(y, window="hann"), truth, 0.0)
        for name, D in denoisers.items():
            if name in convolutional and image.startswith("head"):
                D = Rescaled(D, 0.0, HEAD_MAX)
            synchronize(args.device)
            start = time.perf_counter()
            result = solve(A, y, D, noise_std=noise_std, max_iter=max_iter, progress=not args.smoke)
            synchronize(args.device)
            report(problem, image, f"{name}-ADMM", result.x, truth, time.perf_counter() - start)
            print_verdict(f"{problem}, {image}, {name}-ADMM", result)
    panels[f"{image}\ntruth"] = truth[0, 0].clamp(0, 1).cpu().numpy()

# Numbers
table = markdown(list(rows[0]), [list(r.values()) for r in rows])
print(table)

# Figure and files
figure = Figure(figsize=(3.3 * 5, 3.6 * math.ceil(len(panels) / 5)), layout="constrained")
axes = np.asarray(figure.subplots(math.ceil(len(panels) / 5), 5))
for axis in axes.flat:
    axis.axis("off")
for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
    axis.imshow(panel, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
save(args, rows, "\n\n".join([run, *abouts, table]) + "\n", figure)
