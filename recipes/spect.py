"""SPECT: activity in a torso of 64 x 64 x 40 voxels from 60 views over a whole turn, 177Lu or 90Y.

counts ~ Poisson(A x + r), A with attenuation and the depth-dependent response of the collimator, r scatter; x is in
expected counts per view and voxel. Plug-and-play ADMM with the Poisson data term and MLPatch, trained on
photographs, on slices across all three axes, and unrolled EM, whose small networks were trained on other torsos,
beside OSEM, unsmoothed and smoothed, and BSREM with the relative difference prior. The measurements are simulated on
voxels of half the side; no setting uses the true activity.
"""

from __future__ import annotations

import math
import shlex
import sys

import numpy as np
import torch
from _common import Entry, parser, timed, volume_prior
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from operators import SPECT, camera_response, spect_camera
from pnp import Poisson, bsrem, osem, solve
from pnp.io import write_result
from pnp.io.atomic import atomic
from pnp.learned import UnrolledEM
from pnp.metrics import nrmse
from pnp.phantoms import ISOTOPES, REGIONS, emission_scan, region_means

FIELD_MM = 409.6  # side of the grid
FILTER_FWHM_MM = 10.0  # of the smoothing after OSEM
BETA = 0.01  # weight of BSREM's prior, chosen on another torso without its truth: the misfit stays below 1

p = parser(__doc__, image=None, accepts="not used: the torso is simulated", strength=True)
p.add_argument("--views", type=int, default=60, help="number of angles over a whole turn")
p.add_argument("--isotope", choices=list(ISOTOPES), default="lu177", help="177Lu at 208 keV, or 90Y's bremsstrahlung")
p.add_argument("--virtual", action="store_true", help="virtual patient, whose organs are not ellipsoids")
args = p.parse_args()
shape, args.views = ((32, 32, 16), 16) if args.smoke else ((64, 64, 40), args.views)
em_max_iter, max_iter = (4, 4) if args.smoke else (16, None)
voxel_mm = FIELD_MM / shape[0]


# Operator and measurements: a camera, and its counts of a patient simulated on voxels of half the side
isotope = ISOTOPES[args.isotope]
angles = torch.arange(args.views, dtype=torch.float64) * (2 * math.pi / args.views)


def camera(mu: Tensor, size: float) -> SPECT:
    cached = {"cache_attenuation": mu.shape[0] == shape[0]}
    return spect_camera(mu, angles, voxel_size=size, **isotope.camera_options, **cached).to(args.device)


options = {"voxel_size_mm": voxel_mm, "seed": args.seed, "virtual": args.virtual, "device": args.device}
A, y, scatter, truth, labels = emission_scan(isotope, camera, shape, **options)
print(
    f"torso {shape}, voxels of {voxel_mm:g} mm, {args.isotope}, {args.views} views, {float(y.sum()):.4g} counts, "
    f"{float(scatter.sum()):.3g} of them scatter"
)

# Solve
network = UnrolledEM.from_pretrained(args.isotope).to(args.device)
D = volume_prior(args)
options = {"bounds": (0.0, None), "strength": args.strength, "max_iter": max_iter, "progress": True}
em = timed(
    "OSEM", lambda: osem(A, y, n_subsets=min(4, args.views), background=scatter, max_iter=em_max_iter, progress=True)
)
width = FILTER_FWHM_MM / math.sqrt(8 * math.log(2)) / voxel_mm
smooth = torch.from_numpy(gaussian_filter(em.image.cpu().numpy(), (0, 0, width, width, width))).to(args.device)
options_rdp = {"n_subsets": min(4, args.views), "beta": BETA, "background": scatter, "max_iter": 2 * em_max_iter}
rdp = timed("BSREM", lambda: bsrem(A, y, x0=em.image, progress=True, **options_rdp))
rdp = rdp._replace(seconds=rdp.seconds + em.seconds)  # it starts from OSEM
pnp = timed("ADMM + MLPatch", lambda: solve(A, y, D, data_term=Poisson(background=scatter), **options))
unrolled = timed("unrolled EM", lambda: network(A, y, scatter, em.image))
unrolled = unrolled._replace(seconds=unrolled.seconds + em.seconds)  # it starts from OSEM
entries = [em, Entry(f"OSEM, {FILTER_FWHM_MM:g} mm filter", smooth, em.seconds), rdp, pnp, unrolled]

# Numbers: errors over all voxels, relative to the activity, and recovery, the mean of a region over its true mean
for entry in entries:
    mae = float((entry.image - truth).abs().sum() / truth.sum())
    print(f"{entry.name:20s} NRMSE {nrmse(entry.image, truth):.4f}   MAE {mae:.4f}   {entry.seconds:6.2f} s")
print(
    f"{pnp.result.n_iter} iterations, misfit {pnp.result.misfit:.3f} (OSEM {em.result.misfit:.3f}): {pnp.result.stop}"
)
means = {entry.name: region_means(entry.image.cpu(), labels) for entry in entries}
for region, true in region_means(truth.cpu(), labels).items():
    print(f"{region:14s} recovery " + "   ".join(f"{name} {mean[region] / true:5.2f}" for name, mean in means.items()))

# Figure: slices across z and y through a lesion, or the hottest voxel if no lesion fills one, and their common profile
names, volumes = ["truth", *means], [v[0, 0].cpu().numpy() for v in (truth, *(entry.image for entry in entries))]
lesion = labels.numpy() >= REGIONS.index("lesion 1")
_, j, k = np.unravel_index((volumes[0] * np.where(lesion, 1e3, 1)).argmax(), shape)
peak = float(np.percentile(volumes[0], 99.5))
figure = Figure(figsize=(18, 9), dpi=120, layout="constrained")
figure.suptitle(
    f"SPECT of a torso, {args.isotope}, {args.views} views, {float(y.sum()):.2g} counts: expected counts per view"
)
grid = figure.add_gridspec(3, 6, height_ratios=(1, 0.65, 0.8))
for column, (name, volume) in enumerate(zip(names, volumes, strict=True)):
    error = "" if name == "truth" else f"\nNRMSE {nrmse(volume, volumes[0]):.3f}"
    for row, image in enumerate((volume[:, :, k].T, volume[:, j].T[::-1])):
        axis = figure.add_subplot(grid[row, column])
        shown = axis.imshow(image, cmap="inferno", norm=PowerNorm(0.5, 0, peak, clip=True))
        axis.set_axis_off()
        axis.set_title("" if row else name + error, fontsize=10)
figure.colorbar(shown, ax=figure.axes, shrink=0.8)
axis = figure.add_subplot(grid[2, :])
x_mm = voxel_mm * (np.arange(shape[0]) - (shape[0] - 1) / 2)
for name, volume in zip(names, volumes, strict=True):
    axis.step(x_mm, volume[:, j, k], where="mid", label=name, color="black" if name == "truth" else None)
axis.set(xlabel="to the patient's left (mm)", ylabel="counts per view", xlim=(-FIELD_MM / 2, FIELD_MM / 2))
axis.legend()
with atomic(args.output / "spect.png", overwrite=True) as part:
    figure.savefig(part)
response = camera_response(shape, voxel_size=voxel_mm, **isotope.camera_options)
parameters = {"shape": shape, "angles": A.angles, "voxel_size": voxel_mm, "attenuation": A.attenuation, **response}
write_result(
    args.output / "spect.h5",
    pnp.image.cpu().numpy(),
    operator="spect",
    parameters=parameters,
    history=pnp.result.history,
    reference=truth.cpu().numpy(),
    attributes={"denoiser": "mlpatch:gray, slices across x, y and z", "misfit": pnp.result.misfit}
    | {"strength": pnp.result.strength, "strength_source": pnp.result.strength_source}
    | {"command": shlex.join(sys.argv)},
    warnings=pnp.result.warnings,
    rejected=pnp.result.rejected,
    candidates=pnp.result.candidates,
    overwrite=True,
)
print(f"wrote {args.output / 'spect.png'} and {args.output / 'spect.h5'}")
