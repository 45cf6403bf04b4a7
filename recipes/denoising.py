"""Denoising: a 512 x 512 photograph with white noise of standard deviation 25/255.

y = x + n. The local denoiser MLPatch alone, at two strides, beside a median filter and total variation.
"""

from __future__ import annotations

import torch
from _common import data_range, grey_image, parser, print_table, save, timed
from scipy.ndimage import median_filter

from denoisers import TV, MLPatch

p = parser(__doc__)
p.add_argument("--sigma", type=float, default=25 / 255, help="noise standard deviation, relative to the range")
args = p.parse_args()

# Data
truth = grey_image(args)
shape = tuple(truth.shape[-2:])

# Measurements: the operator is the identity
generator = torch.Generator().manual_seed(args.seed)
sigma = args.sigma * data_range(truth)
y = truth + sigma * torch.randn(truth.shape, generator=generator).to(args.device)
print(f"image {shape}, noise {sigma:.3g}")

# Denoise
D = MLPatch.from_pretrained(args.weights).to(args.device)
with torch.no_grad():
    entries = [
        timed("noisy", lambda: y),
        timed("median 5 x 5", lambda: torch.from_numpy(median_filter(y.cpu().numpy(), (1, 1, 5, 5))).to(y.device)),
        timed("TV", lambda: TV()(y, sigma)),
        timed(f"MLPatch, stride {D.stride}", lambda: D(y, sigma)),
        timed("MLPatch, stride 1", lambda: D(y, sigma, stride=1)),
    ]

# Numbers
panels = print_table(entries, truth)

# Figure and files
save(
    args,
    panels,
    entries[-2].result,
    truth,
    noise_std=sigma,
    denoiser="mlpatch:gray",
    title=f"Denoising, sigma {args.sigma:.3g}",
    limits=(float(truth.min()), float(truth.max())),
)
