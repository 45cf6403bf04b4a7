"""Error bars: a 128 x 128 slice from 90 views, with the error of every pixel, without truth and without training.

The equivariant bootstrap: measurements are simulated from the reconstruction, moved by a random shift, flip and turn,
and solved for again; held-out views say by which factor the errors are larger, and copies at half their size have the
errors of detail that was lost. Coverage is counted with the true image, which the error bars do not see: over the
image, at edges and where it is flat. A region's mean has an error of its own. Beside it stands the parametric
bootstrap, without moves.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from _common import data_range, grey_image, parser, print_table, save, timed

from denoisers import MLPatch
from operators import Radon
from pnp import solve
from pnp.uncertainty import bootstrap

p = parser(__doc__)
p.add_argument("--size", type=int, default=128, help="side of the built-in image, in pixels")
p.add_argument("--views", type=int, default=90, help="parallel-beam views over half a turn")
p.add_argument("--copies", type=int, default=24, help="simulated copies of the measurements")
p.add_argument("--noise", type=float, default=0.01, help="noise standard deviation, relative to the sinogram's rms")
args = p.parse_args()
max_iter = 3 if args.smoke else 12
if args.smoke:
    args.size, args.views, args.copies = 32, 24, 10

# Data
truth = grey_image(args, smoke_size=args.size)
if not args.input and truth.shape[-1] != args.size:
    truth = torch.nn.functional.interpolate(truth, (args.size, args.size), mode="area")
shape = tuple(truth.shape[-2:])

# Operator
A = Radon(shape, torch.arange(args.views) * math.pi / args.views).to(args.device)

# Measurements
clean = A.A(truth)
noise_std = args.noise * float(clean.square().mean().sqrt())
generator = torch.Generator().manual_seed(args.seed)
y = clean + noise_std * torch.randn(clean.shape, generator=generator).to(args.device)
print(f"image {shape}, {args.views} views, noise {noise_std:.3g}")

# Solve, then the error bars of what was found
D = MLPatch.from_pretrained(args.weights).to(args.device)
options = {"noise_std": noise_std, "max_iter": max_iter}
entries = [timed("FBP", lambda: A.fbp(y)), timed("ADMM + MLPatch", lambda: solve(A, y, D, **options))]
result = entries[-1].result
copies = {"n": args.copies, "result": result, "progress": True}
bars = bootstrap(A, y, D, seed=args.seed, **copies, **options)
still = bootstrap(A, y, D, moves="none", hold_out=None, **copies, **options)
print(bars)

# Numbers
panels = print_table(entries, truth)
error = (bars.x - truth).abs()
slope = torch.hypot(*torch.gradient(truth, dim=(-2, -1)))
edges = slope > slope.quantile(0.9)
flat = slope <= slope.quantile(0.5)
plain = replace(bars, zoomed=bars.zoomed[:0])
compared = {"parametric": still, "equivariant, bare": plain.bare, "equivariant, factor": plain, "with zooms": bars}
for name, found in compared.items():
    parts = [100 * found.covered(truth, 0.9, mask) for mask in (None, edges, flat)]
    print(
        f"90 % intervals, {name:20s} cover {parts[0]:5.1f} %, {parts[1]:5.1f} % at edges, {parts[2]:5.1f} % where flat"
    )
centre = torch.zeros(shape)
centre[shape[0] * 3 // 8 : shape[0] * 5 // 8, shape[1] * 3 // 8 : shape[1] * 5 // 8] = 1
region, true_mean = bars.region(centre), float(truth[..., centre > 0].mean())
print(f"mean of the central quarter: {region.value:.5g} +- {region.std:.2g}, true {true_mean:.5g}")

# Figure and files
scale = data_range(truth) / float(bars.std.max().clamp(min=error.quantile(0.999)))
panels |= {
    f"standard deviation x {scale:.0f}\nfactor {bars.factor:.2f}": scale * bars.std,
    f"true error x {scale:.0f}\n": (scale * error).clamp(max=data_range(truth)),
    "outside its 90 % interval\n": (error > bars.quantile(0.9)) * data_range(truth),
}
save(
    args,
    panels,
    result,
    truth,
    operator="radon",
    parameters={"shape": shape, "angles": A.angles.cpu()},
    denoiser="mlpatch:gray",
    title=f"Error bars, {args.views} views, {args.copies} copies",
    limits=(float(truth.min()), float(truth.max())),
)
