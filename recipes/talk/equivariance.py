"""Equivariance: compare denoising a shifted or rotated image with shifting or rotating the denoised image.

    gap(T) = rms(D(T y) - T D(y)) / sigma,   T a shift by one pixel or the largest stride, or a rotation by 90 degrees

At stride 1 every pixel is a query, and D is shift-equivariant away from the borders for any weights; at larger strides
it is for shifts by multiples of the stride; the largest is the spacing of D's coarsest lattice. Gaps are measured
where the borders have no influence. Rotations are learned from rotated crops, not built in; averaged over the eight
rotations and reflections (`Equivariant`) the equivariance is exact. Computed in float64, so that gaps are not
rounding.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import skimage.data
import torch
from _shared import markdown, parser, record, save
from matplotlib.figure import Figure
from torch import Tensor

from denoisers import Equivariant
from pnp.metrics import psnr

p = parser(__doc__, names=(), sizes=False, channels=None)
p.add_argument("--weights", default="gray", help="weights of MLPatch: a packaged name or a .safetensors file")
p.add_argument("--sigma", type=float, default=25 / 255, help="noise standard deviation, data range 1 (default 25/255)")
args = p.parse_args()
D = p.mlpatch(args.weights, channels=1).to(args.device)
largest = D.network.period
margin = D.receptive_field // 2 + largest  # influence of the borders, where `roll` wraps around
size = max(32 if args.smoke else 256, 2 * margin + 16)
camera = skimage.data.camera()
if size > len(camera):
    p.refuse(f"--weights {args.weights} see {D.receptive_field} pixels, too many for an image of {len(camera)}")
run = record(args)
print(run)

# Data: the cameraman with noise
top, left = (min(corner, len(camera) - size) for corner in (64, 128))
camera = camera[top : top + size, left : left + size] / 255
x = torch.from_numpy(np.ascontiguousarray(camera))[None, None].to(args.device)
y = x + args.sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)

# Denoisers
denoisers = {
    f"MLPatch, stride {largest}": lambda v: D(v, args.sigma, stride=largest),
    "MLPatch, stride 1": lambda v: D(v, args.sigma, stride=1),
    f"Equivariant(MLPatch), stride {largest}": lambda v: Equivariant(partial(D, stride=largest))(v, args.sigma),
}
moves = {
    "shift by 1 pixel": lambda v: v.roll(1, 3),
    f"shift by {largest} pixels": lambda v: v.roll(largest, 3),
    "turn by 90 degrees": lambda v: torch.rot90(v, 1, (2, 3)),
}


def inside(v: Tensor) -> Tensor:
    """Cut off the pixels that the borders influence."""
    return v[..., margin:-margin, margin:-margin]


# Numbers
rows, panels = [], {}
for name, denoise in denoisers.items():
    with torch.no_grad():
        z = denoise(y)
        cells = {"denoiser": name, "PSNR in dB": f"{psnr(z.clamp(0, 1), x, data_range=1.0):.2f}"}
        for move, T in moves.items():
            gap = (inside(denoise(T(y))) - inside(T(z))) / args.sigma
            cells[move] = f"{gap.square().mean().sqrt().item():.1e}"
            panels[f"{name}\n{move}: {cells[move]} sigma"] = gap.abs()[0, 0].cpu().numpy()
    rows.append(cells)
table = markdown(list(rows[0]), [list(r.values()) for r in rows])
print(table)

# Figure and files: one colour scale, in sigmas
figure = Figure(figsize=(11, 11), layout="constrained")
axes = figure.subplots(len(denoisers), len(moves))
for axis, (title, gap) in zip(axes.flat, panels.items(), strict=True):
    shown = axis.imshow(gap, cmap="magma", vmin=0, vmax=0.5)
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="|D(T y) - T D(y)| / sigma", shrink=0.5)
save(args, rows, f"{run}\n\n{table}\n", figure)
