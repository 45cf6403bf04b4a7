"""Inpainting: a 512 x 512 photograph with 30 % of its pixels and a little noise.

y = m x + n, m a random mask. Plug-and-play ADMM with the local denoiser MLPatch beside interpolation between the
measured pixels and the same solver with total variation. No setting uses the true image.
"""

from __future__ import annotations

import numpy as np
import torch
from _common import data_range, grey_image, parser, print_table, save, timed
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import distance_transform_edt

from denoisers import TV, MLPatch
from operators import Mask
from pnp import solve

p = parser(__doc__, strength=True)
p.add_argument("--kept", type=float, default=0.3, help="fraction of the pixels that is kept")
p.add_argument("--noise", type=float, default=0.01, help="noise standard deviation, relative to the range")
args = p.parse_args()
max_iter = 5 if args.smoke else None

# Data
truth = grey_image(args)
shape = tuple(truth.shape[-2:])

# Operator
generator = torch.Generator().manual_seed(args.seed)
mask = torch.rand(shape, generator=generator) < args.kept
A = Mask(mask).to(args.device)

# Measurements
noise_std = args.noise * data_range(truth)
y = A.A(truth + noise_std * torch.randn(truth.shape, generator=generator).to(args.device))
print(f"image {shape}, {100 * float(mask.float().mean()):.1f} % of the pixels, noise {noise_std:.3g}")


def interpolated() -> torch.Tensor:
    """Interpolate linearly between measured pixels, and take the nearest outside their hull."""
    pixels, kept = y[0, 0].cpu().numpy(), mask.numpy()
    linear = LinearNDInterpolator(np.argwhere(kept), pixels[kept])(*np.indices(shape))
    nearest = pixels[tuple(distance_transform_edt(~kept, return_distances=False, return_indices=True))]
    filled = np.where(np.isnan(linear), nearest, linear).astype(np.float32)
    return torch.from_numpy(filled)[None, None].to(args.device)


# Solve
D = MLPatch.from_pretrained(args.weights).to(args.device)
options = {"noise_std": noise_std, "strength": args.strength, "max_iter": max_iter, "progress": True}
entries = [
    timed("linear interpolation", interpolated),
    timed("ADMM + TV", lambda: solve(A, y, TV(rtol=0.3), **options)),  # in the peer's favour: 27.4 dB if exact
    timed("ADMM + MLPatch", lambda: solve(A, y, D, **options)),
]

# Numbers
panels = print_table(entries, truth)
panels = {"truth": truth, f"measurements, {100 * args.kept:g} % of the pixels\n": y, **panels}

# Figure and files
save(
    args,
    panels,
    entries[-1].result,
    truth,
    operator="mask",
    parameters={"mask": mask},
    denoiser="mlpatch:gray",
    title=f"Inpainting, {100 * args.kept:g} % of the pixels",
    limits=(float(truth.min()), float(truth.max())),
)
