"""Shear survey: a mass map from a survey's shear, with signs checked, E and B modes, calibrated errors and peaks.

gamma = A kappa + n, A of Kaiser and Squires, n of known standard deviation per pixel, nothing observed behind the mask.
The shear comes from a survey (maps, such as COSMOS's, or a catalogue of galaxies) or is simulated; the truth is then
used for the scores only. The settings of the map depend on the noise map alone. Errors are calibrated on simulated
skies with the same mask and noise, whose standard deviation is measured from the shear or given by --std; or they come
from the bootstrap (--errors bootstrap), which simulates shear of the map itself.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from _common import Entry, parser, print_verdict, timed
from _survey import SIMULATED, add_arguments, find_survey, print_table, wide_sky, write_survey
from _survey_errors import add_error_arguments, from_bootstrap, from_simulations, wiener_error
from _survey_figures import draw_iterations, draw_survey

from denoisers import MLPatch
from operators import KaiserSquires, KaiserSquiresEB
from pnp.lensing import (
    LognormalKappa,
    OddGrid,
    ScaledPrior,
    b_mode_null,
    best_smoothing,
    check_prior,
    find_peaks,
    map_mass,
    measured_spectrum,
    pixel_spectrum,
    score_conventions,
    smoothed_kaiser_squires,
    smoothed_noise,
    whitened_chi2,
    wiener,
)

ACCEPTS = "all maps in one file, FITS or HDF5 (default: a simulated survey)"
p = parser(__doc__, image=None, reads=str, accepts=ACCEPTS, weights=None)
add_arguments(p)
p.add_argument(
    "--std", type=float, help="standard deviation of simulated convergence (default: measured; simulated survey: 0.02)"
)
add_error_arguments(p)
p.add_argument("--snr", type=float, default=3.0, help="least signal-to-noise ratio of a peak")
p.add_argument("--iterations", action="store_true", help="also draw the iterations, shear_survey_iterations.png")
args = p.parse_args()
generator = torch.Generator().manual_seed(args.seed)

# Data: a survey's files, or a simulated one
try:
    survey = find_survey(args, generator)
except ValueError as error:
    p.exit(2, f"{p.prog}: {error}\n")
print(survey)

# Signs of the components, found from E and B modes and the skewness of E, never from the truth
scores = score_conventions(survey, n_random=8 if args.smoke else 64)
print(f"signs: {scores.verdict}")
if args.signs is not None:
    survey = survey.with_signs(*args.signs)
elif scores.best is not None:
    survey = scores.apply(survey)
print(f"signs used: {survey.signs}{', exchanged' * survey.swap}, convention {survey.convention}")

# One odd grid for all methods; with a margin if pixels at the edges are observed, to keep opposite edges apart
edge = survey.mask[..., [0, -1], :].any() | survey.mask[..., [0, -1]].any()
grid = OddGrid(survey.shape, margin_px=min(survey.shape) // 4 if edge else 0)
y, noise_std = grid.embed(survey.shear, 0.0).to(args.device), grid.embed(survey.noise_std, math.inf).to(args.device)
mask = noise_std.isfinite().all(1, keepdim=True)
truth = None if survey.kappa is None else grid.embed(survey.kappa, 0.0).to(args.device)

# Operator, prior and simulator of similar skies
A, wide = (KaiserSquires(s, convention=survey.convention).to(args.device) for s in (grid.shape, wide_sky(grid.shape)))
pixel = survey.pixel_arcmin
measured = measured_spectrum(A, y, noise_std)
std = args.std or (0.02 if survey.path == SIMULATED else math.sqrt(float(measured.spectrum.mean())))
spectrum = pixel_spectrum(grid.shape, pixel)
spectrum *= std**2 / spectrum.mean()
sky, wide_kappa = (LognormalKappa(operator.shape, pixel_arcmin=pixel, std=std, clusters=True) for operator in (A, wide))
smoothing_px = best_smoothing(A, sky(2, generator=generator).to(args.device), noise_std, generator=generator)
D = ScaledPrior(MLPatch.from_pretrained("convergence").to(args.device), args.prior_scale)
print(f"prior: {check_prior(std / args.prior_scale, pixel).advice}")

# Solve: the mass map and its baselines
A_EB, pairs = partial(KaiserSquiresEB, convention=survey.convention), {}
solve = partial(map_mass, denoiser=D, make_operator=A_EB, max_iter=4 if args.smoke else None, margin_px=None)
start = time.perf_counter()
keep = (lambda s: pairs.update({f"iteration {s.k}": (s.z + s.u, s.z)})) if args.iterations else None
mass = solve(y, noise_std, callback=keep, progress=True)
entries = [
    Entry("ADMM + MLPatch, E and B", mass.kappa_e, time.perf_counter() - start),
    timed("Wiener filter", lambda: wiener(A, y, noise_std, spectrum)),
    timed(f"Kaiser-Squires, {smoothing_px:g} px", lambda: smoothed_kaiser_squires(A, y, noise_std, smoothing_px)),
][::-1]

# Errors: calibrated on simulated skies, or from copies of the shear of the map itself
n_skies, draws, copies = (8, 8, 2) if args.smoke else (args.skies, 64, args.copies)
how = {"draws": draws, "generator": generator}
if args.errors == "bootstrap":
    sigma, EB = wiener_error(A, y, noise_std, spectrum, **how), A_EB(grid.shape).to(args.device)
    found = from_bootstrap(EB, D, mass, y, noise_std, sigma, n=copies, seed=args.seed)
else:
    found = from_simulations(solve, mass, A, (wide, wide_kappa), y, noise_std, spectrum, n_skies=n_skies, **how)

# Numbers
print(f"denoiser at sigma {mass.sigma:.3g}")
if mass.sigma <= D.sigma_range[0]:
    print("the noise is below the training range of the weights; B modes are leakage from E at edges and gaps")
print_table(entries, A, y, noise_std, truth)
print_verdict(entries[-1].name, whitened_chi2(A, mass.kappa_e, y, noise_std))
for factor in (1.0, measured.noise_factor):
    null = b_mode_null(A, y, noise_std * factor**0.5, generator=generator, spectrum=spectrum)
    print(f"B modes: chi2 {null.chi2:.1f} in {null.dof} bands, p = {null.p_value:.2f}, noise variance x {factor:.3f}")
print(found.said)

# Peaks, on the pixels of the survey
crop, mask = grid.crop, survey.mask.to(args.device)
error, snr_ks = crop(found.error), crop(entries[0].image / smoothed_noise(A, noise_std, smoothing_px))
mass = replace(mass, kappa_e=crop(mass.kappa_e), kappa_b=crop(mass.kappa_b))
unit = {"threshold": args.snr, "mask": mask, "noise_std": crop(found.unit)}
peaks, by_chance = find_peaks(mass.kappa_e, **unit), find_peaks(mass.kappa_b, **unit)
shown = "   ".join(f"({int(i)}, {int(j)}) {h:.1f}" for _, i, j, h in list(zip(*peaks, strict=True))[:6])
print(f"{len(peaks.row)} peaks above {args.snr:g} errors, {len(by_chance.row)} in B; (row, column) height: {shown}")

# Files and figures, DIR/<recipe>.*; tables and FITS maps for real surveys only
stem = args.output / Path(sys.argv[0]).stem
write_survey(stem, survey, mass, error, found.header, snr_ks, peaks)
others = {} if survey.kappa is None else {"truth": survey.kappa}
others |= {entry.name: crop(entry.image) for entry in entries[:-1]}
draw_survey(stem.with_suffix(".png"), survey, others, mass, error, snr_ks, peaks, error_title=found.title)
if args.iterations:
    raw = A.A_adjoint(y)
    pairs = {"Kaiser-Squires": (raw, D(raw, mass.sigma)), **pairs}
    cut = {name: (crop(given), crop(found)) for name, (given, found) in pairs.items()}
    known = None if truth is None else crop(truth)
    draw_iterations(stem.with_name(f"{stem.name}_iterations.png"), cut, mass.sigma, mask, known)
print(f"wrote {', '.join(str(path) for path in sorted(args.output.glob(stem.name + '*')))}")
