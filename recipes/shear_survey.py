"""A survey's shear to a mass map: signs checked, E and B modes, calibrated errors, peaks; FITS, HDF5, figure.

gamma = A kappa + n, A of Kaiser and Squires, n of a known standard deviation per pixel, nothing seen behind the mask.
The shear is a survey's (maps, such as COSMOS's, or a catalogue of galaxies), or a simulated survey's, whose truth is
known. The settings of the map come from the noise map alone. Errors are calibrated on simulated skies seen through the
same mask and noise; how much convergence varies there is measured from the shear (--std: is known).
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import torch
from _common import Entry, parser, timed
from _survey import PIXEL_ARCMIN, TWIN, add_arguments, find_survey, iterate, smooth_inside, smoothed_noise, write_survey
from _survey_figures import draw_iterations, draw_survey

from denoisers import MLPatch
from operators import KaiserSquires, KaiserSquiresEB
from pnp.io import write_result
from pnp.lensing import (
    LognormalKappa,
    b_mode_null,
    best_smoothing,
    calibrate_error,
    find_peaks,
    map_mass,
    measured_spectrum,
    pixel_spectrum,
    score_conventions,
    simulated_errors,
    smoothed_kaiser_squires,
    whitened_chi2,
    wiener,
    wiener_std,
)
from pnp.metrics import nrmse, pearson_r, psnr

p = parser(__doc__, image=None, reads=str, accepts="all maps in one file, FITS or HDF5 (default: a simulated survey)")
add_arguments(p)
p.add_argument("--std", type=float, help="standard deviation of simulated convergence (default: measured; twin: 0.02)")
p.add_argument("--skies", type=int, default=32, help="simulated skies that calibrate and test the error map")
p.add_argument("--snr", type=float, default=3.0, help="least signal-to-noise ratio of a peak")
p.add_argument("--iterations", action="store_true", help="draw the iterations as well, shear_survey_iterations.png")
args = p.parse_args()
generator = torch.Generator().manual_seed(args.seed)

# Data: a survey's files, or a simulated one
try:
    survey = find_survey(args, generator)
except ValueError as error:
    p.exit(2, f"{p.prog}: {error}\n")
print(survey)

# The signs of the components: E and B modes, and the skewness of E, tell
scores = score_conventions(survey, KaiserSquires, truth=survey.kappa, n_random=8 if args.smoke else 64)
print(f"signs: {scores.verdict}")
if args.signs is not None:
    survey = survey.with_signs(*args.signs)
elif scores.best is not None:
    survey = scores.apply(survey)
print(f"signs used: {survey.signs}, convention {survey.convention}")

# Operator, prior, and what a sky like this one is
y, noise_std, mask = (t.to(args.device) for t in (survey.shear, survey.noise_std, survey.mask))
shape, truth = survey.shape, None if survey.kappa is None else survey.kappa.to(args.device)
A = KaiserSquires(shape, convention=survey.convention).to(args.device)
D = MLPatch.from_pretrained("convergence").to(args.device)
pixel = survey.pixel_arcmin or PIXEL_ARCMIN
measured = measured_spectrum(A, y, noise_std)
std = args.std or (0.02 if survey.path == TWIN else math.sqrt(float(measured.spectrum.mean())))
sky = LognormalKappa(shape, pixel_arcmin=pixel, std=std)
spectrum = pixel_spectrum(shape, pixel)
spectrum *= std**2 / spectrum.mean()
smoothing_px = best_smoothing(A, sky(2, generator=generator).to(args.device), noise_std, generator=generator)

# Solve: the mass map and what it is measured against. Opposite edges of a field that is seen up to them must not touch.
edge = mask[..., [0, -1], :].any() | mask[..., [0, -1]].any()
A_EB, pad = partial(KaiserSquiresEB, convention=survey.convention), min(shape) // 4 if edge else 0
solve = partial(map_mass, A_EB, denoiser=D, n_iter=4 if args.smoke else None, pad=pad)
start = time.perf_counter()
mass = solve(y, noise_std, progress=True)
entries = [
    Entry("ADMM + MLPatch, E and B", mass.kappa_e, time.perf_counter() - start),
    timed("Wiener filter", lambda: wiener(A, y, noise_std, spectrum)),
    timed(f"Kaiser-Squires, {smoothing_px:g} px", lambda: smoothed_kaiser_squires(A, y, noise_std, smoothing_px)),
][::-1]

# Errors: the Wiener filter's own, times what makes them cover 68.3 % of simulated skies as MLPatch maps them. delta is
# a half, for with so few skies to be sure would take errors a fifth too large; the skies held out tell.
n_skies, n_draws = (8, 8) if args.smoke else (args.skies, 64)
simulated = simulated_errors(
    lambda *seen: solve(*seen, b_mode=False).kappa_e, A, sky, noise_std, n_skies, generator=generator, progress=True
)
sigma = wiener_std(A, y, noise_std, spectrum, generator=generator, draws=n_draws)
calibrated = calibrate_error(simulated, coverage=0.683, form="field", delta=0.5, heuristic=smooth_inside(sigma, mask))
snr_ks = entries[0].image / smoothed_noise(A, noise_std, smoothing_px)
how = {"threshold": args.snr, "mask": mask, "noise_std": calibrated.error}
peaks, by_chance = find_peaks(mass.kappa_e, **how), find_peaks(mass.kappa_b, **how)

# Numbers; the mean of kappa is not measured
print(f"denoiser at sigma {mass.sigma:.3g}; convergence taken to vary by {std:.3g} in pixels of {pixel:g} arcmin")
if not 0.8 < pixel / PIXEL_ARCMIN < 1.25:
    print(f"the weights know pixels of {PIXEL_ARCMIN} arcmin; train your own: pnp train denoiser --kind convergence")
if mass.sigma <= D.sigma_range[0]:
    print("less noise than the weights were trained for, or none: B modes are what edges and gaps make of E")
for entry in entries:
    x, score = entry.image, ""
    if truth is not None:
        a, b = (v[mask] - v[mask].mean() for v in (x, truth))
        decibel = psnr(a, b, data_range=float(b.max() - b.min()))
        score = f"NRMSE {nrmse(a, b):.3f}   r {pearson_r(a, b):.3f}   PSNR {decibel:.2f} dB   "
    print(f"{entry.name:26s} {score}residual chi2 {whitened_chi2(A, x, y, noise_std):.4f}   {entry.seconds:.1f} s")
for factor in (1.0, measured.noise_factor):
    null = b_mode_null(A, y, noise_std * factor**0.5, generator=generator, spectrum=spectrum)
    print(f"B modes: chi2 {null.chi2:.1f} in {null.dof} bands, p = {null.p_value:.2f}, noise variance x {factor:.3f}")
print(f"error map: {calibrated}")
shown = "   ".join(f"({int(i)}, {int(j)}) {h:.1f}" for _, i, j, h in list(zip(*peaks, strict=True))[:6])
print(
    f"{len(peaks.row)} peaks above {args.snr:g} errors, {len(by_chance.row)} in B; (row, column) kappa/error: {shown}"
)

# Files, under DIR/<recipe>.*; tables and FITS maps of real surveys only
stem = args.output / Path(sys.argv[0]).stem
write_result(
    stem.with_suffix(".h5"),
    mass.kappa_e,
    operator="kaiser_squires",
    parameters={"shape": shape, "convention": survey.convention},
    noise_std=noise_std,
    history=mass.history,
    reference=truth,
    attributes={"denoiser": "mlpatch:convergence", "sigma": mass.sigma, "command": shlex.join(sys.argv)},
    overwrite=True,
)
if survey.path != TWIN:
    write_survey(stem, survey, mass, calibrated, snr_ks, peaks)

# Figures
others = ({} if truth is None else {"truth": truth}) | {entry.name: entry.image for entry in entries[:-1]}
draw_survey(stem.with_suffix(".png"), survey, others, mass, calibrated.error, snr_ks, peaks)
if args.iterations:
    pairs = iterate(survey, y, noise_std, D, mass, pad)
    draw_iterations(stem.with_name(f"{stem.name}_iterations.png"), pairs, mass.sigma, mask, truth)
print(f"wrote {', '.join(str(path) for path in sorted(args.output.glob(stem.name + '*')))}")
