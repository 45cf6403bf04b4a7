"""Low dose: a 512 x 512 slice of a chest or head from few photons per ray, 360 views.

counts ~ Poisson(I0 exp(-A x)), A the Radon or fan-beam transform; x is attenuation in 1/mm. The data
term is either penalised weighted least squares on the logarithm of the counts, without rays that have no counts, or the
Poisson likelihood of the counts. Plug-and-play ADMM with MLPatch, trained on crops of 128 x 128 of photographs, beside
filtered back-projection and the same solver with total variation. No setting uses the true image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from _common import parser, save, timed

from denoisers import TV, MLPatch
from operators import FanBeam, Radon
from pnp import solve
from pnp.ct import Transmission, line_integrals, simulate_counts
from pnp.io import read_image
from pnp.metrics import psnr, ssim
from pnp.phantoms import chest, head

WATER = 0.02  # 1/mm, at 65 keV

ACCEPTS = "your image in 1/mm: TIFF, NPY, HDF5 or FITS (default: built in)"
p = parser(__doc__, image=None, accepts=ACCEPTS, strength=True)
p.add_argument("--image", choices=("chest", "head"), default="chest", help="built-in image")
p.add_argument("--photons", type=float, nargs="+", default=[1e3, 1e4, 1e5], help="I0, photons per ray of the open beam")
p.add_argument("--views", type=int, default=360, help="number of angles over half a turn, or a full one with --fan")
p.add_argument("--pixel-size", type=float, help="side of a pixel in mm (default: the image is 400 mm wide, a head 256)")
p.add_argument("--fan", action="store_true", help="fan beam of a clinical scanner, about eight times slower")
args = p.parse_args()
args.photons, args.views = ([1e4], 60) if args.smoke else (args.photons, args.views)
size, max_iter = (64, 3) if args.smoke else (512, None)

# Data
if args.input:
    pixels = read_image(args.input)
    pixels = pixels.mean(axis=0) if pixels.ndim == 3 else pixels
    truth = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]
    truth = truth[..., :size, :size] if args.smoke else truth
else:
    truth = (chest if args.image == "chest" else head)(size, generator=torch.Generator().manual_seed(args.seed))
truth = truth.to(args.device)
shape = tuple(truth.shape[-2:])
head_shown = not args.input and args.image == "head"
pixel_size = args.pixel_size or (256 if head_shown else 400) / max(shape)

# Operator
turn = 2 * math.pi if args.fan else math.pi
angles = torch.arange(args.views, dtype=torch.float64) * (turn / args.views)
if args.fan:
    scanner = {"source_origin": 570.0, "origin_detector": 470.0, "pitch": 1.7 * pixel_size}
    A = FanBeam(shape, angles, pixel_size=pixel_size, **scanner).to(args.device)
else:
    scanner = {"pitch": pixel_size}
    A = Radon(shape, angles, pixel_size=pixel_size, **scanner).to(args.device)
clean = A.A(truth).clamp(min=0)
print(
    f"image {shape}, sinogram {tuple(clean.shape[-2:])}, line integrals up to {float(clean.max()):.2f}: "
    f"{math.exp(-float(clean.max())):.2g} of the photons pass"
)

# Solve for each dose; the PSNR's data range is the largest attenuation, the error of soft tissue a root mean square
D = MLPatch.from_pretrained(args.weights).to(args.device)
peak = float(truth.max())
soft = (truth > 0.88 * WATER) & (truth < 1.25 * WATER)
panels: dict[str, torch.Tensor] = {}
for photons in args.photons:
    generator = torch.Generator(args.device).manual_seed(args.seed)
    counts = simulate_counts(clean, photons, generator=generator)
    record = line_integrals(counts, i0=photons)
    options = {"bounds": (0.0, None), "strength": args.strength, "max_iter": max_iter, "progress": True}
    weighted = {"noise_std": record.noise_std, **options}
    poisson = {"data_term": Transmission(photons), **options}
    entries = [
        timed("FBP", lambda r=record: A.fbp(r.y)),
        timed("FBP, Hann window", lambda r=record: A.fbp(r.y, window="hann")),
        timed("PWLS + TV", lambda r=record, o=weighted: solve(A, r.y, TV(), **o)),
        timed("PWLS + MLPatch", lambda r=record, o=weighted: solve(A, r.y, D, **o)),
        timed("Poisson + MLPatch", lambda c=counts, o=poisson: solve(A, c, D, **o)),
    ]
    print(f"I0 = {photons:g}: {float(counts.mean()):.3g} counts per ray, {record.n_starved} rays without any")
    for entry in entries:
        x = entry.image
        q, s = (metric(x, truth, data_range=peak) for metric in (psnr, ssim))
        hu = 1000 / WATER * float((x - truth)[soft].square().mean().sqrt())
        misfit = "" if isinstance(entry.result, torch.Tensor) else f"misfit {entry.result.misfit:.3f}"
        print(
            f"{photons:8g} {entry.name:18s} PSNR {q:6.2f} dB   SSIM {s:6.4f}   soft tissue {hu:7.1f} HU   "
            f"{entry.seconds:6.2f} s   {misfit}"
        )
        if entry.name != "FBP":
            panels[f"{photons:g} photons: {entry.name}\n{q:.2f} dB, {hu:.0f} HU"] = x

# Figure and files: soft tissue, one row per dose
save(
    args,
    panels | {"truth": truth},
    entries[-1].result,
    truth,
    operator="fan_beam" if args.fan else "radon",
    parameters={"shape": shape, "angles": angles, "pixel_size": pixel_size, **scanner},
    denoiser="mlpatch:gray",
    title=f"Low dose, {args.views} views: soft tissue",
    limits=(0.015, 0.03 if head_shown else 0.025),
    label="attenuation (1/mm)",
)
