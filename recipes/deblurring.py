"""Deblurring: a 512 x 512 photograph behind a Gaussian blur of 1.6 pixels, or a motion blur, with 1 % noise.

y = k * x + n. Plug-and-play ADMM with the local denoiser MLPatch beside a Wiener filter for a 1/f^2 spectrum and
the same solver with total variation. No setting uses the true image.
"""

from __future__ import annotations

import torch
from _common import data_range, grey_image, parser, print_table, save, timed

from denoisers import TV, MLPatch
from operators import Blur, gaussian_kernel
from pnp import solve

p = parser(__doc__, strength=True)
p.add_argument("--kernel", choices=("gaussian", "motion"), default="gaussian", help="kind of blur")
p.add_argument("--noise", type=float, default=0.01, help="noise standard deviation, relative to the range")
args = p.parse_args()
max_iter = 5 if args.smoke else None

# Data
truth = grey_image(args)
shape = tuple(truth.shape[-2:])

# Operator
kernel = gaussian_kernel(1.6)
if args.kernel == "motion":  # along a diagonal of 15 pixels
    kernel = torch.eye(15).flip(0) / 15
A = Blur(kernel, shape).to(args.device)

# Measurements
generator = torch.Generator().manual_seed(args.seed)
noise_std = args.noise * data_range(truth)
y = A.A(truth) + noise_std * torch.randn(truth.shape, generator=generator).to(args.device)
print(f"image {shape}, {args.kernel} blur {tuple(kernel.shape)}, noise {noise_std:.3g}")


def wiener() -> torch.Tensor:
    """Return F^-1[conj(K) F y / (|K|^2 + noise_std^2 / S)], S = (contrast / frequency)^2 of y's variance."""
    height, width = shape
    k2 = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2
    spectrum = 1 / k2.clamp(min=1 / (height * width))
    full = 1 / (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width) ** 2).clamp(min=1 / (height * width))
    spectrum = (spectrum * (y.var().cpu() / full.mean())).to(args.device)
    delta = torch.zeros_like(truth)
    delta[..., 0, 0] = 1
    K = torch.fft.rfft2(A.A(delta))
    response = K.conj() / (K.abs() ** 2 + noise_std**2 / spectrum)
    return torch.fft.irfft2(response * torch.fft.rfft2(y), s=shape)


# Solve
D = MLPatch.from_pretrained(args.weights).to(args.device)
options = {"noise_std": noise_std, "strength": args.strength, "max_iter": max_iter, "progress": True}
entries = [
    timed("Wiener filter", wiener),
    timed("ADMM + TV", lambda: solve(A, y, TV(), **options)),
    timed("ADMM + MLPatch", lambda: solve(A, y, D, **options)),
]

# Numbers
panels = print_table([timed("blurred", lambda: y), *entries], truth)

# Figure and files
save(
    args,
    panels,
    entries[-1].result,
    truth,
    operator="blur",
    parameters={"kernel": kernel, "shape": shape},
    denoiser="mlpatch:gray",
    title=f"Deblurring, {args.kernel} kernel, noise {args.noise:g}",
    limits=(float(truth.min()), float(truth.max())),
)
