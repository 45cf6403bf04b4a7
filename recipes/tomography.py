"""Tomography: a 512 x 512 slice from 60 parallel-beam views with 40 dB of noise.

y = A x + n, A the Radon transform; x is attenuation in 1/mm, y line integrals without unit. Plug-and-play ADMM
with the local denoiser MLPatch, trained on photographs in [0, 1], beside filtered back-projection and the same
solver with total variation. No setting uses the true image.
"""

from __future__ import annotations

import math

import torch
from _common import grey_image, parser, print_table, save, timed

from denoisers import TV, MLPatch
from operators import Radon
from pnp import solve

p = parser(__doc__, image="head", strength=True)
p.add_argument("--views", type=int, default=60, help="number of angles over half a turn")
p.add_argument("--pixel-size", type=float, default=0.5, help="side of a pixel in mm; images are in 1/mm")
p.add_argument("--snr", type=float, default=40.0, help="signal-to-noise ratio of the sinogram in dB")
args = p.parse_args()
max_iter = 5 if args.smoke else None

# Data
truth = grey_image(args)
shape = tuple(truth.shape[-2:])
bounds = (0.0, None)  # attenuation is not negative

# Operator
angles = torch.arange(args.views, dtype=torch.float64) * (math.pi / args.views)
A = Radon(shape, angles, pitch=args.pixel_size, pixel_size=args.pixel_size).to(args.device)

# Measurements
generator = torch.Generator().manual_seed(args.seed)
clean = A.A(truth)
noise_std = float(clean.square().mean().sqrt()) * 10 ** (-args.snr / 20)
y = clean + noise_std * torch.randn(clean.shape, generator=generator).to(args.device)
print(f"image {shape}, sinogram {tuple(y.shape[-2:])}, noise {noise_std:.3g} ({args.snr:g} dB)")

# Solve
D = MLPatch.from_pretrained(args.weights).to(args.device)
options = {"noise_std": noise_std, "bounds": bounds, "strength": args.strength, "max_iter": max_iter, "progress": True}
entries = [
    timed("FBP", lambda: A.fbp(y)),
    timed("FBP, Hann window", lambda: A.fbp(y, window="hann")),
    timed("ADMM + TV", lambda: solve(A, y, TV(), **options)),
    timed("ADMM + MLPatch", lambda: solve(A, y, D, **options)),
]

# Numbers
panels = print_table(entries, truth)

# Figure and files; a head is shown in a soft-tissue window
soft_tissue = not args.input and args.image == "head"
window = (0.015, 0.03) if soft_tissue else (float(truth.min()), float(truth.max()))
save(
    args,
    panels,
    entries[-1].result,
    truth,
    operator="radon",
    parameters={"shape": shape, "angles": angles, "pitch": args.pixel_size, "pixel_size": args.pixel_size},
    denoiser="mlpatch:gray",
    title=f"Tomography, {args.views} views, {args.snr:g} dB",
    limits=window,
    label="attenuation (1/mm)",
)
