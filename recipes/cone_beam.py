"""Cone-beam CT: a core of spongy bone, 128 x 128 x 128 voxels, from 90 views of a flat detector over a whole turn.

Counts of an open beam of --photons a bin become line integrals with a noise level for every ray; x is attenuation in
1/mm. FDK, and plug-and-play ADMM with total variation in space, with MLPatch trained on volumes (--weights), and with
MLPatch, trained on photographs, slice by slice across all three axes. The views are simulated on voxels of half the
side; no setting uses the true volume.
"""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

import torch
from _common import data_range, parser, slices_prior, timed, volume_prior
from matplotlib.figure import Figure

from denoisers import TV
from operators import ConeBeam
from pnp import solve
from pnp.ct import line_integrals, simulate_counts
from pnp.io import write_result
from pnp.io.atomic import atomic
from pnp.metrics import psnr
from pnp.phantoms import TRABECULA, bone_core

p = parser(__doc__, image=None, accepts="not used: the core is simulated", strength=True, weights="volume")
p.add_argument("--views", type=int, default=90, help="number of angles over a whole turn")
p.add_argument("--size", type=int, default=128, help="voxels on a side of the volume, and bins of the detector")
p.add_argument("--voxel-size", type=float, default=0.05, help="side of a voxel in mm")
p.add_argument("--photons", type=float, default=2e4, help="counts of the open beam in a bin of a view")
args = p.parse_args()
n, args.views = (32, 24) if args.smoke else (args.size, args.views)
max_iter = 3 if args.smoke else None


# Operator: distances and bins of a small scanner that magnifies three times
def scanner(voxels: int) -> ConeBeam:
    side = n * args.voxel_size
    angles = torch.arange(args.views, dtype=torch.float64) * (2 * math.pi / args.views)
    distances = {"source_origin": 5 * side, "origin_detector": 10 * side}
    return ConeBeam(
        (voxels,) * 3, angles, detector_shape=(n, n), pitch=3.3 * side / n, voxel_size=side / voxels, **distances
    ).to(args.device)


# Measurements: counts of the core on finer voxels
generator = torch.Generator().manual_seed(args.seed)
fine = bone_core(2 * n)
truth = torch.nn.functional.avg_pool3d(fine, 2).to(args.device)
counts = simulate_counts(scanner(2 * n).A(fine.to(args.device)).cpu(), args.photons, generator=generator)
record = line_integrals(counts.transpose(2, 3), i0=args.photons)  # (1, 1, rows, n_angles, columns): row by row
y, noise_std = (v.transpose(2, 3).contiguous().to(args.device) for v in (record.y, record.noise_std))
A = scanner(n)
print(
    f"core {tuple(truth.shape[2:])}, voxels of {args.voxel_size:g} mm, {args.views} views of {n} x {n} bins, "
    f"noise {float(noise_std.median()):.2g} of line integrals up to {float(y.max()):.2g}"
)

# Solve
slices, D = slices_prior("gray", args.device), volume_prior(args)
options = {"noise_std": noise_std, "bounds": (0.0, None), "strength": args.strength, "max_iter": max_iter}
entries = [
    timed("FDK", lambda: A.fbp(y)),
    timed("FDK, Hann window", lambda: A.fbp(y, window="hann")),
    timed("ADMM + TV", lambda: solve(A, y, TV(), progress=True, **options)),
    timed(f"ADMM + MLPatch {Path(args.weights).stem}", lambda: solve(A, y, D, progress=True, **options)),
    timed("ADMM + MLPatch, slices", lambda: solve(A, y, slices, progress=True, **options)),
]

# Numbers: PSNR, and the fraction of bone within the core, which is what the scan is for
core = truth[..., n // 5 : -n // 5, n // 3 : -n // 3, n // 3 : -n // 3] > TRABECULA / 2
for entry in entries:
    bone = entry.image[..., n // 5 : -n // 5, n // 3 : -n // 3, n // 3 : -n // 3] > TRABECULA / 2
    print(
        f"{entry.name:24s} PSNR {psnr(entry.image, truth, data_range=data_range(truth)):6.2f} dB   bone volume "
        f"{float(bone.float().mean()):.3f} (true {float(core.float().mean()):.3f}), voxels on the wrong side "
        f"{float((bone != core).float().mean()):.4f}   {entry.seconds:6.2f} s"
    )

# Figure: the three planes through the middle of the volume
names = ["truth", *(entry.name for entry in entries)]
volumes = [v[0, 0].cpu().numpy() for v in (truth, *(entry.image for entry in entries))]
figure = Figure(figsize=(3.2 * len(names), 9.6), dpi=110, layout="constrained")
figure.suptitle(f"Cone beam: a core of spongy bone, {args.views} views, {args.photons:g} photons a bin")
axes = figure.subplots(3, len(names))
for column, (name, volume) in enumerate(zip(names, volumes, strict=True)):
    planes = {"slice": volume[n // 2], "row": volume[:, n // 2], "column": volume[:, :, n // 2]}
    for axis, (plane, image) in zip(axes[:, column], planes.items(), strict=True):
        shown = axis.imshow(image, cmap="gray", vmin=0, vmax=1.1 * TRABECULA)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel("" if column else f"{plane} {n // 2}")
    score = "" if name == "truth" else f"\n{psnr(volume, volumes[0], data_range=data_range(truth)):.2f} dB"
    axes[0, column].set_title(name + score)
figure.colorbar(shown, ax=axes, shrink=0.5, label="attenuation (1/mm)")
with atomic(args.output / "cone_beam.png", overwrite=True) as part:
    figure.savefig(part)
result = entries[-1].result
parameters = {"shape": A.shape, "angles": A.angles, "detector_shape": A.detector_shape}
parameters |= {"source_origin": float(A.source_origin), "origin_detector": float(A.origin_detector)}
write_result(
    args.output / "cone_beam.h5",
    result.x.cpu().numpy(),
    operator="cone_beam",
    parameters=parameters | {"pitch": A.pitch, "voxel_size": A.voxel_size},
    noise_std=noise_std.cpu().numpy(),
    history=result.history,
    reference=truth.cpu().numpy(),
    attributes={"denoiser": "mlpatch:gray, slices across three axes", "misfit": result.misfit}
    | {"strength": result.strength, "strength_source": result.strength_source, "command": shlex.join(sys.argv)},
    warnings=result.warnings,
    rejected=result.rejected,
    candidates=result.candidates,
    length_units="mm",
    overwrite=True,
)
print(f"wrote {args.output / 'cone_beam.png'} and {args.output / 'cone_beam.h5'}")
