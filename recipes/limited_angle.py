"""Limited angle: fan-beam scans of a disc with holes, over a full turn, with few views, and over arcs of 30 degrees up.

y = A x + n, A the fan-beam transform; x is attenuation in 1/mm, y line integrals without unit. The measurements are
those of the Helsinki Tomography Challenge 2022 (htc2022_ta_full.mat, ...; Zenodo 8041800), or simulated for the same
scanner. Plug-and-play ADMM with MLPatch beside filtered back-projection and the same solver with total variation; the
noise is estimated from the measurements. Arcs are solved on coarse grids first, in many iterations, and then refined:
the missing wedge is recovered from distant pixels. Images are segmented by Otsu's threshold and scored as in the
challenge, by Matthews' correlation with the segmentation that comes with the measurements; no setting uses it.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _common import parser, print_verdict, save
from skimage.filters import threshold_otsu

from denoisers import TV, MLPatch
from operators import FanBeam
from pnp import Result, Schedule, solve
from pnp.algorithms.protocols import Denoiser
from pnp.algorithms.schedules import robust_range
from pnp.metrics import matthews
from pnp.phantoms import ACRYLIC, perforated_disc
from pnp.readers import CtScan, read_htc2022, read_htc2022_segmentation

LEVELS = ((4, 100, 1.0), (2, 50, 0.3), (1, 20, 0.15))
"""Grids for an arc: binning, iterations, first noise level over the robust range. Chosen on the disc "ta"."""
SCANS = ("360", "60 views", "90", "70", "50", "30")
WIDTH_MM = 512 * 0.14832  # width of the image, that of the challenge's segmentations

p = parser(__doc__, image=None, reads=read_htc2022, accepts="a .mat scan (default: simulated)", strength=True)
p.add_argument(
    "--scans", nargs="+", choices=SCANS, default=["360", "60 views", "90"], help="arcs in degrees, or 60 views"
)
p.add_argument("--segmentation", type=Path, help="segmentation (default: <input>_recon_fbp_seg.mat)")
p.add_argument("--size", type=int, default=512, help="side of the image in pixels")
args = p.parse_args()
size, max_iter = (48, 2) if args.smoke else (args.size, None)
args.scans = ["60 views", "90"] if args.smoke else args.scans


def make_operator(scan: CtScan, coarser: int = 1) -> FanBeam:
    n = math.ceil(size / coarser)
    return scan.operator((n, n), pixel_size=WIDTH_MM / n).to(args.device)


# Data: all views of the scan, and which pixels are acrylic
if args.input:
    scan = read_htc2022(args.input)
    name = Path(args.input)
    truth = read_htc2022_segmentation(args.segmentation or name.with_name(f"{name.stem}_recon_fbp_seg.mat"))
else:
    n_detectors = 70 if args.smoke else 560
    geometry = {"source_origin_mm": 410.66, "origin_detector_mm": 143.08, "pitch_mm": 112 / n_detectors}
    x = perforated_disc(size, generator=torch.Generator().manual_seed(args.seed))
    empty = np.zeros((721, n_detectors), dtype=np.float32)
    scan = CtScan(y=empty, angles=np.deg2rad(0.5 * np.arange(721)), kind="line integrals", **geometry)
    clean = make_operator(scan).A(x.to(args.device))[0, 0].cpu()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(args.seed))
    scan = CtScan(y=(clean + 0.0065 * noise).numpy(), angles=scan.angles, kind=scan.kind, **geometry)
    truth = (x[0, 0] > 0.5 * x.max()).numpy()
print(f"{Path(args.input).name if args.input else 'simulated scan'}: {len(scan.angles)} views, image {size} x {size}")


def part_of(label: str) -> CtScan:
    """Return 60 views of a full turn, or an arc of this many degrees from the first view on."""
    turn_deg = np.abs(np.rad2deg(scan.angles - scan.angles[0]))
    degrees = 360 if label == "60 views" else float(label)
    step = np.median(np.diff(turn_deg))
    if turn_deg.max() < degrees - 1.5 * step:
        p.error(f"--scans {label}: the scan covers {turn_deg.max():.4g} degrees")
    inside = turn_deg < 360 - step / 2 if degrees == 360 else turn_deg < degrees + step / 2
    if label != "60 views":
        return scan.subset(inside)
    return scan.subset(np.flatnonzero(inside)[:: round(inside.sum() / 60)])


def reconstruct(part: CtScan, denoiser: Denoiser) -> Result:
    """Solve on the grid of the image; for an arc from coarse to fine, with bins and views to match."""
    options = {"bounds": (0.0, None), "strength": args.strength, "progress": True}
    if np.ptp(part.angles) > np.pi:
        y, _ = part.tensors(args.device)
        return solve(make_operator(part), y, denoiser, max_iter=max_iter, **options)
    x = None
    for coarser, n_iter, first in LEVELS:
        n_iter = max_iter or n_iter
        coarse = part.binned(math.gcd(coarser, part.y.shape[-1])).subset(slice(None, None, max(1, coarser // 2)))
        A, (y, _) = make_operator(coarse, coarser), coarse.tensors(args.device)
        scale = robust_range(A.fbp(y, window="hann").clamp(min=0))
        if x is not None:
            x = F.interpolate(x, A.shape, mode="bicubic", antialias=True).clamp(min=0)
        schedule = Schedule(first * scale, 0.02 * scale, n_iter)
        result = solve(A, y, denoiser, x0=x, schedule=schedule, max_iter=n_iter, **options)
        x = result.x
    return result


def score(x: torch.Tensor) -> float:
    """Return Matthews' correlation of the image above Otsu's threshold with the segmentation."""
    pixels = x[0, 0].clamp(min=0).cpu().numpy()
    zoom = truth.shape[0] / size  # nearest pixel, as the segmentation may have another size
    index = (np.arange(truth.shape[0]) / zoom).astype(int)
    return matthews((pixels > threshold_otsu(pixels))[np.ix_(index, index)], truth)


# Solve, scan by scan
D = MLPatch.from_pretrained(args.weights).to(args.device)
panels = {"segmentation": ACRYLIC * torch.from_numpy(truth).float()[None, None]}
for label in args.scans:
    part = part_of(label)
    A, (y, _) = make_operator(part), part.tensors(args.device)
    methods = {
        "FBP": lambda A=A, y=y: A.fbp(y),
        "FBP, Hann window": lambda A=A, y=y: A.fbp(y, window="hann"),
        "ADMM + TV": lambda part=part: reconstruct(part, TV()),
        "ADMM + MLPatch": lambda part=part: reconstruct(part, D),
    }
    for method, compute in methods.items():
        start = time.perf_counter()
        result = compute()
        x = result if isinstance(result, torch.Tensor) else result.x
        mcc = score(x)
        print(
            f"{label:9s} {len(part.angles):4d} views  {method:18s} MCC {mcc:.4f}   {time.perf_counter() - start:6.2f} s"
        )
        print_verdict(f"{label:9s} {method}", result)
        if method != "FBP":
            panels[f"{label if 'views' in label else label + ' degrees'}: {method}\nMCC {mcc:.4f}"] = x

# Figure and files
save(
    args,
    panels,
    result,
    panels["segmentation"],
    operator="fan_beam",
    parameters=part.geometry((size, size), pixel_size=WIDTH_MM / size),
    denoiser="mlpatch:gray",
    title=f"Limited angle: {Path(args.input).stem if args.input else 'simulated'}",
    limits=(0.0, 0.045),
    label="attenuation (1/mm)",
)
