"""SPECT: activity in a torso of 64 x 64 x 40 voxels from 60 views over a whole turn, 177Lu at 208 keV.

counts ~ Poisson(A x + r), A with attenuation and the depth-dependent response of a medium-energy collimator, r scatter;
x is the expected counts a view of each voxel's photons. Plug-and-play ADMM with the Poisson data term and MLPatch,
trained on photographs, on slices across all three axes, beside OSEM, as it is and smoothed. The measurements are
simulated on voxels half as large; no setting looks at the true activity.
"""

from __future__ import annotations

import math
import shlex
import sys

import numpy as np
import torch
from _common import Entry, parser, timed
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from denoisers import MLPatch, SliceWise
from operators import SPECT, collimator_fwhm
from pnp import Poisson, osem, solve
from pnp.io import write_result
from pnp.io.atomic import atomic
from pnp.metrics import nrmse
from pnp.phantoms import REGIONS, region_means, torso

FIELD = 409.6  # mm, of the grid
RADIUS = 230.0  # mm, of a circular orbit: from the axis to the collimator's face
COLLIMATOR = {"hole_diameter": 2.94, "hole_length": 40.64, "septal_attenuation": 1.04, "intrinsic": 3.8}  # mm, lead
SCATTER_FWHM = 80.0  # mm
FILTER_FWHM = 10.0  # mm, of the smoothing after OSEM
SIGMAS = math.sqrt(8 * math.log(2))  # standard deviations in a FWHM

p = parser(__doc__, image=None, accepts="not used: the torso is simulated")
p.add_argument("--views", type=int, default=60, help="number of angles over a whole turn")
p.add_argument("--counts", type=float, default=5e6, help="expected counts without scatter, in all views")
p.add_argument("--scatter", type=float, default=0.25, help="scattered counts over the others")
p.add_argument("--strength", type=float, default=1.0, help="of the prior, see solve")
args = p.parse_args()
shape, args.views = ((32, 32, 16), 16) if args.smoke else ((64, 64, 40), args.views)
iterations, max_iter = (4, 4) if args.smoke else (16, None)
voxel = FIELD / shape[0]


# Data: a patient on voxels half as large, averaged
def patient(refine: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return activity (1, 1, nx, ny, nz), attenuation in 1/mm and labels."""
    nx, ny, nz = (refine * n for n in shape)
    found = torso((nx, ny, nz), voxel_size_mm=voxel / refine, generator=torch.Generator().manual_seed(args.seed))
    return found.activity.to(args.device), found.attenuation.to(args.device), found.labels


fine_activity, fine_mu, _ = patient(2)
labels = patient(1)[2]


# Operator
def camera(mu: Tensor) -> SPECT:
    n, size = mu.shape[0], FIELD / mu.shape[0]
    angles = torch.arange(args.views, dtype=torch.float64) * (2 * math.pi / args.views)
    fwhm = collimator_fwhm(n, RADIUS, voxel_size=size, **COLLIMATOR)
    options = {"attenuation": mu.cpu(), "fwhm": fwhm, "cache_attenuation": n == shape[0]}
    return SPECT(tuple(mu.shape), angles, voxel_size=size, **options).to(args.device)


A = camera(avg_pool3d(fine_mu[None, None], 2)[0, 0])

# Measurements: bins of 2 x 2 smaller ones; scatter is known in the mean, as from windows beside the photopeak
views = 4 * avg_pool2d(camera(fine_mu).A(fine_activity)[0], 2)[None]
scale = args.counts / float(views.sum())
truth, primary = 8 * scale * avg_pool3d(fine_activity, 2), scale * views
wide = gaussian_filter(primary.cpu().numpy(), (0, 0, 0, *(2 * (SCATTER_FWHM / SIGMAS / voxel,))), mode="constant")
scatter = args.scatter * torch.from_numpy(wide).to(args.device)
y = torch.poisson((primary + scatter).cpu(), generator=torch.Generator().manual_seed(args.seed)).to(args.device)
print(
    f"torso {shape}, voxels of {voxel:g} mm, {args.views} views, {float(y.sum()):.4g} counts, {args.scatter:g} scatter"
)

# Solve
D = SliceWise(MLPatch.from_pretrained("gray"), axes=(0, 1, 2)).to(args.device)
options = {"bounds": (0.0, None), "strength": args.strength, "max_iter": max_iter, "progress": True}
em = timed(
    "OSEM", lambda: osem(A, y, n_subsets=min(4, args.views), background=scatter, max_iter=iterations, progress=True)
)
width = FILTER_FWHM / SIGMAS / voxel
smooth = torch.from_numpy(gaussian_filter(em.image.cpu().numpy(), (0, 0, width, width, width))).to(args.device)
pnp = timed("ADMM + MLPatch", lambda: solve(A, y, D, data_term=Poisson(background=scatter), **options))
entries = [em, Entry(f"OSEM, {FILTER_FWHM:g} mm filter", smooth, em.seconds), pnp]

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

# Figure: slices across z and y through a lesion, or what is hottest where none fills a voxel; the profile they share
names, volumes = ["truth", *means], [v[0, 0].cpu().numpy() for v in (truth, *(entry.image for entry in entries))]
lesion = labels.numpy() >= REGIONS.index("lesion 1")
_, j, k = np.unravel_index((volumes[0] * np.where(lesion, 1e3, 1)).argmax(), shape)
peak = float(np.percentile(volumes[0], 99.5))
figure = Figure(figsize=(13, 9), dpi=120, layout="constrained")
figure.suptitle(f"SPECT of a torso, {args.views} views, {args.counts:.2g} counts and scatter: expected counts a view")
grid = figure.add_gridspec(3, 4, height_ratios=(1, 0.65, 0.8))
for column, (name, volume) in enumerate(zip(names, volumes, strict=True)):
    error = "" if name == "truth" else f"\nNRMSE {nrmse(volume, volumes[0]):.3f}"
    for row, image in enumerate((volume[:, :, k].T, volume[:, j].T[::-1])):
        axis = figure.add_subplot(grid[row, column])
        shown = axis.imshow(image, cmap="inferno", norm=PowerNorm(0.5, 0, peak, clip=True))
        axis.set_axis_off()
        axis.set_title("" if row else name + error, fontsize=10)
figure.colorbar(shown, ax=figure.axes, shrink=0.8)
axis = figure.add_subplot(grid[2, :])
x_mm = voxel * (np.arange(shape[0]) - (shape[0] - 1) / 2)
for name, volume in zip(names, volumes, strict=True):
    axis.step(x_mm, volume[:, j, k], where="mid", label=name, color="black" if name == "truth" else None)
axis.set(xlabel="to the patient's left (mm)", ylabel="counts a view", xlim=(-FIELD / 2, FIELD / 2))
axis.legend()
with atomic(args.output / "spect.png", overwrite=True) as part:
    figure.savefig(part)
fwhm = collimator_fwhm(shape[1], RADIUS, voxel_size=voxel, **COLLIMATOR)
parameters = {"shape": shape, "angles": A.angles, "voxel_size": voxel, "attenuation": A.attenuation, "fwhm": fwhm}
write_result(
    args.output / "spect.h5",
    pnp.image.cpu().numpy(),
    operator="spect",
    parameters=parameters,
    history=pnp.result.history,
    reference=truth.cpu().numpy(),
    attributes={"denoiser": "mlpatch:gray, slices across x, y and z", "command": shlex.join(sys.argv)},
    overwrite=True,
)
print(f"wrote {args.output / 'spect.png'} and {args.output / 'spect.h5'}")
