"""Mass maps of a survey like DES Y3 on the sphere: Kaiser-Squires, Wiener, and ADMM with MLPatch on tangent patches.

The sky is simulated (`pnp.lensing.sphere.LognormalSky`, clusters included) at twice the resolution, behind 5,000 square
degrees with holes, 5.6 galaxies per square arcminute. No method sees the truth: Wiener knows the power C_l that the sky
was drawn from, and beside it what it measures from the shear; the smoothing of Kaiser-Squires, and the amplitude that
the prior is scaled to, are those of C_l too.

    python benchmarks/sphere_mass_map.py --nside 512
    python benchmarks/sphere_mass_map.py --nside 256 --flat
    python benchmarks/sphere_mass_map.py --nside 512 --weights convergence sky.safetensors:0.333
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from denoisers import MLPatch
from pnp.lensing import ScaledPrior, pixel_spectrum
from pnp.lensing import gaussian_maps as gaussian_maps_of_the_plane
from pnp.lensing.sphere import (
    LognormalSky,
    SphereShear,
    TangentPatches,
    convergence_power,
    find_peaks,
    gaussian_maps,
    map_mass,
    match_peaks,
    measured_power,
    smoothed_kaiser_squires,
    survey_noise,
    wiener,
)
from pnp.lensing.sphere.pixels import directions, disc, grid, pixel_side
from pnp.lensing.sphere.shear import rotated
from pnp.metrics import nrmse, pearson_r


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nside", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", nargs="+", default=["convergence"], help="MLPatch: names or files, with a scale FILE:0.333"
    )
    parser.add_argument("--flat", action="store_true", help="denoise skies in patches, and flat maps of such pixels")
    args = parser.parse_args()
    if args.flat:
        compare_with_flat_maps(args.nside)
        return
    generator = torch.Generator().manual_seed(args.seed)
    start = time.perf_counter()
    kappa, shear = LognormalSky(args.nside)(generator=generator)
    std = survey_noise(args.nside, generator=generator)
    seen = std[:, :1].isfinite()
    y = torch.where(seen, shear + torch.where(seen, std, 0) * torch.randn(shear.shape, generator=generator), 0)
    survey = SphereShear(y, std, seen)
    A = survey.operator()
    C = convergence_power(A.lmax)
    print(f"{survey}\nkappa std {float(kappa.std()):.4f}; sky drawn in {time.perf_counter() - start:.0f} s")

    # The amplitude in a patch's pixels, by C_l, over that of the weights' training.
    in_patch = math.sqrt(float(((2 * torch.arange(A.lmax + 1) + 1) * C).sum()) / (4 * math.pi))
    priors = {}
    for item in args.weights:
        name, _, scale = item.partition(":")
        prior = ScaledPrior(MLPatch.from_pretrained(name), float(scale or in_patch / math.sqrt(0.015 * 0.03)))
        priors[f"{Path(name).stem}, scaled by {prior.scale:.2f}"] = TangentPatches(prior, args.nside, mask=seen)
    D = next(iter(priors.values()))
    side, pixel = 2 * D.half_side + 1, 60 * math.degrees(D.spacing)
    print(
        f"in patches kappa varies by {in_patch:.4f}; {len(D.centres)} of {side} x {side} pixels of {pixel:.2f} arcmin"
    )

    area = 4 * math.pi / A.n_pix
    noise = float(std[seen.expand(-1, 2, -1)].square().mean()) * area
    fwhm = best_beam(C, noise)
    measured = measured_power(A, y, std)
    methods = {
        f"Kaiser-Squires, sigma {fwhm:.0f} arcmin": lambda y: smoothed_kaiser_squires(A, y, std, fwhm),
        "Wiener, true C_l": lambda y: wiener(A, y, std, C),
        "Wiener, measured C_l": lambda y: wiener(A, y, std, measured.power),
    }
    for name, prior in priors.items():
        methods[f"ADMM + MLPatch {name}"] = lambda y, D=prior: map_mass(A, y, std, denoiser=D, b_mode=False).kappa_e
    inside = well_inside(args.nside, seen)
    truth = find_peaks(smoothed(A, kappa), mask=inside)
    n_true = int(1e-3 * float(inside.sum()))
    truth = type(truth)(*(v[:n_true] for v in truth))
    border = distance_to_borders(D)
    print(f"noise factor {measured.noise_factor:.3f}; {n_true} highest peaks of the truth, smoothed by 10 arcmin")
    print("| method | NRMSE | r | true peaks among as many | B/E rms | residual, borders/inside | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, method in methods.items():
        start = time.perf_counter()
        x = method(y)
        seconds = time.perf_counter() - start
        B = method(rotated(y))
        found = find_peaks(smoothed(A, x), mask=inside)
        found = type(found)(*(v[:n_true] for v in found))
        matched = match_peaks(
            found, truth, nside=args.nside, radius_arcmin=2.5 * 60 * math.degrees(pixel_side(args.nside))
        )
        residual = (x - kappa)[inside]
        edge, middle = (residual[b].std() for b in seams(border[inside[0, 0].numpy()]))
        b_over_e = float(B[inside].std() / x[inside].std())
        print(
            f"| {name} | {nrmse(x, kappa, mask=seen, centred=True):.4f} | {pearson_r(x, kappa, mask=seen):.4f} | "
            f"{matched} of {n_true} | {b_over_e:.3f} | {float(edge / middle):.4f} | {seconds:.0f} |",
            flush=True,
        )


def compare_with_flat_maps(nside: int, scale: float = 0.25) -> None:
    """Print NRMSE of white noise removed from a Gaussian sky, in patches, and from a flat map of the same spectrum."""
    generator, C = torch.Generator().manual_seed(5), convergence_power(2 * nside)
    D = ScaledPrior(MLPatch.from_pretrained("convergence"), scale)
    patches = TangentPatches(D, nside)
    sky = gaussian_maps(nside, C, 1, generator=generator)
    P = pixel_spectrum((384, 384), 60 * math.degrees(patches.spacing))
    f = torch.hypot(torch.fft.fftfreq(384)[:, None], torch.fft.fftfreq(384))
    flat = gaussian_maps_of_the_plane(P * (f <= 0.5), 4, generator=generator)
    print("| noise/kappa | patches of the sphere | flat, noise below lmax | flat, white noise |\n|---|---|---|---|")
    for ratio in (1, 3):
        sigma = ratio * float(sky.std())
        noisy, s = sky + sigma * torch.randn(sky.shape, generator=generator), sigma * patches.noise_factor
        scores = [nrmse(patches(noisy, sigma), sky)]
        for band in ((f <= 0.5).double(), torch.ones_like(P)):
            x = flat + gaussian_maps_of_the_plane(s**2 * band, 4, generator=generator)
            scores.append(nrmse(D(x, s), flat))
        print(f"| {ratio} | " + " | ".join(f"{score:.3f}" for score in scores) + " |")


def best_beam(C: torch.Tensor, noise: float) -> float:
    """Return the standard deviation in arcmin of the Gaussian of least error for this power and white noise."""
    ell = torch.arange(len(C), dtype=torch.float64)

    def error(sigma: float) -> float:
        beam = torch.exp(-ell * (ell + 1) * math.radians(sigma / 60) ** 2 / 2)
        return float(((2 * ell + 1) * ((1 - beam) ** 2 * C + beam**2 * noise)).sum())

    return float(min(range(2, 60), key=error))


def smoothed(A, x: torch.Tensor) -> torch.Tensor:
    """Return a map smoothed by a Gaussian of 10 arcmin, as peaks are counted."""
    ell = torch.arange(A.lmax + 1, dtype=torch.float64)
    beam = torch.exp(-ell * (ell + 1) * math.radians(10 / 60) ** 2 / 2).float()
    c = 4 * math.pi / A.n_pix * A.harmonics.adjoint(x)
    return A.harmonics.synthesis(c * A.harmonics.per_multipole(beam))


def well_inside(nside: int, seen: torch.Tensor) -> torch.Tensor:
    """Return the observed pixels whose neighbours are all observed."""
    kept, values = torch.zeros_like(seen), seen[0, 0].numpy()
    pixels = np.flatnonzero(values)
    share = values[grid(nside).neighbors(pixels).clip(min=0)].mean(1)
    kept[0, 0, torch.from_numpy(pixels[share == 1])] = True
    return kept


def distance_to_borders(D: TangentPatches) -> np.ndarray:
    """Return the angle of every pixel from the nearest centre of a patch."""
    at, found = directions(D.nside), np.full(12 * D.nside**2, np.inf)
    for centre in D.centres:
        pixels = disc(D.nside, centre, D.radius)
        found[pixels] = np.minimum(found[pixels], np.arccos(np.clip(at[pixels] @ centre, -1, 1)))
    return found


def seams(rho: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which pixels lie where patches meet, and which at their centres: a fifth of all each."""
    return torch.from_numpy(rho > np.quantile(rho, 0.8)), torch.from_numpy(rho < np.quantile(rho, 0.2))


if __name__ == "__main__":
    main()
