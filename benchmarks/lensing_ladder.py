"""Compare mass maps, baselines and MLPatch, and calibrate error maps.

    python benchmarks/lensing_ladder.py
    python benchmarks/lensing_ladder.py --calibrate wiener pnpmass
    python benchmarks/lensing_ladder.py --kappa MAP.fits [...] --std1 STD1.fits --std2 STD2.fits --mask MASK.fits

Simulated skies behind simulated holes by default. Figures are means over maps and seeds of the noise; the settings
follow from noise and spectrum; the threshold of the starlets was chosen on ktng_kappa360v2, in their favour. Figures
(NRMSE) on other maps: ten kappaTNG maps with the COSMOS mask at 256 x 256, Wiener .912 (r .423), Kaiser-Squires
smoothed by 8 pixels .940; published at 384 x 384, Wiener .886, MCALens .874, PnPMass .864, DeepMass .853. Those maps
have lower source redshifts (standard deviation .018).
"""

from __future__ import annotations

import argparse
import math
from statistics import mean

import torch
from torch import Tensor

from denoisers import MLPatch
from operators import KaiserSquires
from pnp import solve
from pnp.io import read_image
from pnp.lensing import LognormalKappa, pixel_spectrum, survey_noise, wiener
from pnp.lensing.comparison import BASELINES, Comparison, Method, compare_mass_maps
from pnp.lensing.error_maps import calibrate_error, simulated_errors
from pnp.lensing.mass_map import map_mass
from pnp.lensing.shear import noise_like
from pnp.lensing.spectrum import measured_spectrum

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument("--kappa", nargs="+", metavar="FITS", help="convergence maps of one shape (default: simulated)")
p.add_argument("--std1", metavar="FITS", help="noise of the first shear component; may be 0 where the mask is")
p.add_argument("--std2", metavar="FITS", help="noise of the second shear component (default: the first's)")
p.add_argument("--mask", metavar="FITS", help="1 where observed, 0 where not")
p.add_argument("--seeds", type=int, default=1, help="noises a map")
p.add_argument("--maps", type=int, default=2, help="simulated maps")
p.add_argument("--size", type=int, default=256, help="side of the simulated maps in pixels")
p.add_argument("--noise", type=float, default=0.17, help="median noise of a simulated survey, per component and pixel")
p.add_argument("--std", type=float, help="standard deviation of convergence (default: the spectrum's own)")
p.add_argument("--pixel-arcmin", type=float, default=0.29, help="side of a pixel in arcminutes")
p.add_argument("--no-b-modes", action="store_true", help="do not run the methods a second time for their B maps")
p.add_argument(
    "--calibrate", nargs="*", default=[], metavar="METHOD", help="error maps: wiener, pnpmass, admm or solve"
)
p.add_argument("--skies", type=int, default=128, help="simulated: 1/4 for sigma, 1/2 to calibrate, 1/4 held out")
p.add_argument("--coverage", type=float, default=0.9, help="target of the error maps")
p.add_argument("--smoke", action="store_true", help="tiny: a test of this script")


def main() -> None:
    args = p.parse_args()
    g = torch.Generator().manual_seed(0)
    skies, noise_std, sky, spectrum = survey(args, g)
    A, D = KaiserSquires(sky.shape), MLPatch.from_pretrained("convergence")
    iterations = 2 if args.smoke else None

    def mapped(method: str) -> Method:
        def run(y: Tensor, s: Tensor) -> Tensor:
            kappa: Tensor = map_mass(y, s, denoiser=D, method=method, b_mode=False, max_iter=iterations).kappa_e
            return kappa

        return run

    methods: dict[str, Method] = {
        "Wiener, measured": lambda y, s: wiener(A, y, s, measured_spectrum(A, y, s).spectrum),
        "MLPatch, PnPMass": mapped("pnpmass"),
        "MLPatch, ADMM": mapped("admm"),
        "MLPatch, solve": lambda y, s: solve(A, y, D, noise_std=s, max_iter=iterations).x,
    }
    comparisons = []
    for kappa in skies:
        for seed in range(args.seeds):
            g.manual_seed(seed)
            y = A.A(kappa)
            y = y + noise_like(y, noise_std, generator=g)
            comparisons.append(
                compare_mass_maps(
                    y,
                    noise_std,
                    operator=A,
                    generator=g,
                    methods=methods,
                    baselines=BASELINES,
                    spectrum=spectrum,
                    truth=kappa,
                    b_modes=not args.no_b_modes,
                    progress=True,
                )
            )
    print(table(comparisons))

    choices = {"wiener": lambda y, s: wiener(A, y, s, spectrum, rtol=1e-3)} | {
        "pnpmass": methods["MLPatch, PnPMass"],
        "admm": methods["MLPatch, ADMM"],
        "solve": methods["MLPatch, solve"],
    }
    wide_shape = (2 * sky.shape[0], 2 * sky.shape[1])
    wide_sky = LognormalKappa(wide_shape, pixel_arcmin=args.pixel_arcmin, std=sky.std, clusters=True)
    wide = KaiserSquires(wide_sky.shape)
    for name in args.calibrate:
        g.manual_seed(1000)
        # The simulated skies are cut from larger ones, as a survey is; the maps of the table are periodic.
        errors = simulated_errors(choices[name], wide, wide_sky, noise_std, args.skies, generator=g, progress=True)
        given = [error_on(choices[name], A, kappa, noise_std, g) for kappa in skies]
        for form, delta in (("pixel", 0.1), ("field", 0.1), ("value", 0.5)):
            options = {"coverage": args.coverage, "form": form, "delta": delta}
            found = [calibrate_error(errors, kappa=x, **options) for x, _ in given]
            print(f"{name}: {found[0]}; median error {float(found[0].error.nanmedian()):.4f}")
            inside, high = [], []
            for (x, error), each in zip(given, found, strict=True):
                covered, top = (error <= each.error)[errors.mask], x[errors.mask]
                inside.append(float(covered.float().mean()))
                high.append(float(covered[top >= top.quantile(0.99)].float().mean()))
            print(
                f"  on the maps of the table: {mean(inside):.3f}, where they are highest (1 %): {mean(high):.3f}",
                flush=True,
            )


def survey(args: argparse.Namespace, g: torch.Generator) -> tuple[list[Tensor], Tensor, LognormalKappa, Tensor]:
    """Return maps, noise, a simulator of such maps and their spectrum."""
    if args.kappa:
        skies = [read(f)[None, None] for f in args.kappa]
        shape = (int(skies[0].shape[-2]), int(skies[0].shape[-1]))
    else:
        shape = (48, 48) if args.smoke else (args.size, args.size)
    sky = LognormalKappa(shape, pixel_arcmin=args.pixel_arcmin, std=args.std)
    if not args.kappa:
        skies = [sky(1, generator=g) for _ in range(args.maps)]
    if args.std1:
        noise_std = torch.stack([read(args.std1), read(args.std2 or args.std1)])[None]
        observed = read(args.mask) > 0 if args.mask else (noise_std > 0).all(1)
        noise_std = torch.where(observed, noise_std, torch.inf)
    else:
        noise_std = survey_noise(shape, generator=g, std=args.noise, holes=4 if args.smoke else 30)
    spectrum = pixel_spectrum(shape, args.pixel_arcmin)
    spectrum *= sky.std**2 / spectrum.mean()
    return skies, noise_std, sky, spectrum


def read(path: str) -> Tensor:
    return torch.from_numpy(read_image(path))


def table(comparisons: list[Comparison]) -> str:
    """Return the mean of each score over the comparisons, in Markdown."""
    first = comparisons[0]
    lines = [
        "| method | NRMSE | RMSE in mask | whole field | r | peaks (matched) | power | B/E | chi2 | s |",
        "|---" * 10 + "|",
    ]
    # The smoothing, which is in a name, is chosen for each map: scores are matched by their place.
    for scores in zip(*(comparison.scores for comparison in comparisons), strict=True):
        name = scores[0].name if len({s.name for s in scores}) == 1 else "Kaiser-Squires, best smoothing"
        nrmse, mask, field, r, b = (
            average([getattr(s, key) for s in scores])
            for key in ("nrmse", "rmse_mask", "rmse_field", "pearson_r", "b_over_e")
        )
        peaks = f"{mean(s.peaks for s in scores):.0f} ({mean(s.peaks_matched or 0 for s in scores):.0f})"
        power = " ".join(f"{mean(column):.2g}" for column in zip(*(s.power_ratio for s in scores), strict=True))
        chi2, seconds = mean(s.chi2 for s in scores), mean(s.seconds for s in scores)
        lines.append(
            f"| {name} | {nrmse:.3f} | {mask:.4f} | {field:.4f} | {r:.3f} | {peaks} | {power} | {b:.3f} | {chi2:.4f} "
            f"| {seconds:.1f} |"
        )
    true = mean(comparison.true_peaks or 0 for comparison in comparisons)
    cut = first.peak_threshold
    nulls = ", ".join(f"{comparison.b_null.p_value:.2f}" for comparison in comparisons)
    lines.append(
        f"\n{len(comparisons)} maps; errors with each mean taken off; {true:.0f} true peaks above {cut:.3g}; "
        f"chi2 of the truth 1 +- {first.chi2_spread:.4f}; p of the shear's B modes: {nulls}"
    )
    return "\n".join(lines)


def average(values: list[float | None]) -> float:
    return mean(math.nan if v is None else v for v in values)


def error_on(
    method: Method, A: KaiserSquires, kappa: Tensor, noise_std: Tensor, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return R(y) and |R(y) - kappa|, the mean over the observed pixels, which is not measured, taken off."""
    y = A.A(kappa)
    x = method(y + noise_like(y, noise_std, generator=g), noise_std)
    off = x - kappa
    return x, (off - off[torch.isfinite(noise_std).all(1, keepdim=True)].mean()).abs()


if __name__ == "__main__":
    main()
