"""Mass mapping: convergence from noisy shear behind a mask, the noise per pixel about ten times the signal.

gamma = A kappa + n, A of Kaiser and Squires, on a simulated lognormal sky with the holes, border and noise of a
small survey. Plug-and-play ADMM and PnPMass with a prior trained on other simulated skies, beside the baselines: the
map of zeros, Kaiser-Squires raw and smoothed, starlets, and the Wiener filter with the true spectrum. The
smoothing is chosen on simulated maps; no setting uses the true map.
"""

from __future__ import annotations

from functools import partial

import torch
from _common import parser, print_verdict, save

from denoisers import MLPatch
from operators import KaiserSquires
from pnp.io import read_image
from pnp.lensing import LognormalKappa, compare_mass_maps, map_mass, pixel_spectrum, survey_noise, whitened_chi2

p = parser(__doc__, image=None, weights="convergence")
p.add_argument("--noise", type=float, default=0.17, help="median noise of a shear component in a pixel")
p.add_argument(
    "--std", type=float, default=0.02, help="standard deviation of simulated maps; depends on source redshifts"
)
p.add_argument("--pixel-arcmin", type=float, default=0.29, help="side of a pixel in arcminutes")
p.add_argument("--size", type=int, default=512, help="side of the simulated map in pixels")
args = p.parse_args()
generator = torch.Generator().manual_seed(args.seed)

# Data: a simulated sky, or the user's convergence map
if args.input:
    kappa = torch.from_numpy(read_image(args.input))[None, None]
    kappa = kappa[..., :64, :64] if args.smoke else kappa
    shape = tuple(kappa.shape[-2:])
else:
    shape = (64, 64) if args.smoke else (args.size, args.size)
sky = LognormalKappa(shape, pixel_arcmin=args.pixel_arcmin, std=args.std, clusters=True)
if not args.input:
    kappa = sky(1, generator=generator)
kappa = kappa.to(args.device)

# Operator
A = KaiserSquires(shape).to(args.device)

# Measurements
noise_std = survey_noise(shape, generator=generator, std=args.noise, holes=4 if args.smoke else 60).to(args.device)
observed = noise_std.isfinite()
noise = torch.randn(noise_std.shape, generator=generator).to(args.device)
y = A.A(kappa) + torch.where(observed, noise_std, 0) * noise
mask = observed[:, :1]
print(f"map {shape}, {100 * float(mask.float().mean()):.0f} % observed, noise {args.noise:g} per pixel and component")

# Solve
D = MLPatch.from_pretrained(args.weights).to(args.device)
solve = partial(map_mass, denoiser=D, max_iter=2 if args.smoke else None)
spectrum = pixel_spectrum(shape, args.pixel_arcmin)
spectrum *= args.std**2 / spectrum.mean()
comparison = compare_mass_maps(
    y,
    noise_std,
    operator=A,
    generator=generator,
    methods={
        "PnPMass + MLPatch": lambda y, s: solve(y, s, method="pnpmass", b_mode=False).kappa_e,
        "ADMM + MLPatch": lambda y, s: solve(y, s, b_mode=False).kappa_e,
    },
    spectrum=spectrum,
    simulated=sky(2 if args.smoke else 4, generator=generator).to(args.device),
    truth=kappa,
    progress=True,
)

# Numbers, where the sky was observed; the mean is not measured
print(comparison)
print_verdict("ADMM + MLPatch", whitened_chi2(A, comparison.maps["ADMM + MLPatch"], y, noise_std))
shown = {"truth\n": kappa}
for score in comparison.scores[1:]:
    x = torch.where(mask, comparison.maps[score.name], torch.nan)
    shown[f"{score.name}\nNRMSE {score.nrmse:.3f}, r {score.pearson_r:.3f}"] = x

# Figure and files
spread = float(kappa.std())
save(
    args,
    {name: x.cpu() for name, x in shown.items()},
    comparison.maps["ADMM + MLPatch"].cpu(),
    kappa.cpu(),
    operator="kaiser_squires",
    parameters={"shape": shape, "convention": "lenspack"},
    denoiser="mlpatch:convergence",
    noise_std=noise_std.cpu(),
    title="Convergence, simulated survey",
    limits=(-1.5 * spread, 3 * spread),
    cmap="inferno",
    label="convergence",
)
