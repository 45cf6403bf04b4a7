"""Mass mapping: convergence from noisy shear behind a mask, the noise per pixel about ten times the signal.

gamma = A kappa + n, A of Kaiser and Squires, on a simulated lognormal sky with the holes, border and noise of a
small survey. Plug-and-play ADMM with a prior trained on other simulated skies, beside the raw and the smoothed
Kaiser-Squires maps and the Wiener filter with the true spectrum. Smoothing is chosen on simulated maps: no
setting looks at the true map.
"""

from __future__ import annotations

import torch
from _common import Entry, parser, save, timed

from denoisers import MLPatch
from operators import KaiserSquires
from pnp import solve
from pnp.io import read_image
from pnp.lensing import (
    LognormalKappa,
    best_smoothing,
    pixel_spectrum,
    smoothed_kaiser_squires,
    survey_noise,
    wiener,
)
from pnp.metrics import nrmse, pearson_r

p = parser(__doc__, image=None)
p.add_argument("--noise", type=float, default=0.17, help="median noise of a shear component in a pixel")
p.add_argument("--std", type=float, default=0.02, help="standard deviation of simulated maps: source redshifts")
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
sky = LognormalKappa(shape, pixel_arcmin=args.pixel_arcmin, std=args.std)
if not args.input:
    kappa = sky(1, generator=generator)

# Operator
A = KaiserSquires(shape)

# Measurements
noise_std = survey_noise(shape, generator=generator, std=args.noise, holes=4 if args.smoke else 60)
observed = torch.isfinite(noise_std)
noise = torch.randn(noise_std.shape, generator=generator)
y = A.A(kappa) + torch.where(observed, noise_std, torch.zeros(())) * noise
mask = observed[:, :1]
print(f"map {shape}, {100 * float(mask.float().mean()):.0f} % observed, noise {args.noise:g} a pixel and component")

# Solve
D = MLPatch.from_pretrained("convergence").to(args.device)
spectrum = pixel_spectrum(shape, args.pixel_arcmin)
spectrum *= args.std**2 / spectrum.mean()
smoothing_px = best_smoothing(A, sky(2 if args.smoke else 4, generator=generator), noise_std, generator=generator)
A_device, y_device, noise_device = A.to(args.device), y.to(args.device), noise_std.to(args.device)
entries: list[Entry] = [
    timed("Kaiser-Squires", lambda: smoothed_kaiser_squires(A_device, y_device, noise_device, 0)),
    timed(
        f"Kaiser-Squires, {smoothing_px:g} px",
        lambda: smoothed_kaiser_squires(A_device, y_device, noise_device, smoothing_px),
    ),
    timed("Wiener filter", lambda: wiener(A_device, y_device, noise_device, spectrum)),
    timed(
        "ADMM + MLPatch",
        lambda: solve(
            A_device,
            y_device,
            D,
            noise_std=noise_device,
            max_iter=2 if args.smoke else None,
            progress=True,
        ),
    ),
]

# Numbers, where the sky was observed; the mean is not measured
panels = {"truth\n": kappa}
for entry in entries:
    x = entry.image.cpu()
    error, r = nrmse(x, kappa, mask=mask, centred=True), pearson_r(x, kappa, mask=mask)
    print(f"{entry.name:28s} NRMSE {error:6.3f}   Pearson r {r:6.3f}   {entry.seconds:6.2f} s")
    panels[f"{entry.name}\nNRMSE {error:.3f}, r {r:.3f}"] = torch.where(mask, x, torch.nan)

# Figure and files
spread = float(kappa.std())
save(
    args,
    panels,
    entries[-1].result,
    kappa,
    operator="kaiser_squires",
    parameters={"shape": shape, "convention": "lenspack"},
    denoiser="mlpatch:convergence",
    title="Convergence, simulated survey",
    limits=(-1.5 * spread, 3 * spread),
    cmap="inferno",
    label="convergence",
)
