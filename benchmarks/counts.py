"""Counts: the Poisson likelihood or least squares. The head at 128 x 128, 180 views, MLPatch, defaults.

Prints, for each largest expected count of a bin, PSNR in dB and misfit of both.
"""

from __future__ import annotations

import math

import torch

from denoisers import MLPatch
from operators import Radon
from pnp import Poisson, psnr, solve
from pnp.phantoms import head

COUNTS = (30, 300, 3_000, 10_000, 30_000, 100_000)

x = head(128)
A = Radon((128, 128), torch.arange(180) * math.pi / 180)
D = MLPatch.from_pretrained("gray")
print("| largest count | `Poisson()` | `LeastSquares()`, noise_std = sqrt(y) or 1 |\n|---|---|---|")
for largest in COUNTS:
    truth = x * (largest / float(A.A(x).max()))
    y = torch.poisson(A.A(truth).clamp(min=0), generator=torch.Generator().manual_seed(0))
    found = [
        solve(A, y, D, bounds=(0, None), **options)
        for options in ({"data_term": Poisson()}, {"noise_std": y.clamp(min=1).sqrt()})
    ]
    shown = " | ".join(f"{psnr(r.x, truth, data_range=float(truth.max())):.1f}, {r.misfit:.2g}" for r in found)
    print(f"| {largest:,} | {shown} |", flush=True)
