"""Masked mass maps: NRMSE and r of plug-and-play methods and the Wiener filter, settings, and cost.

    python benchmarks/mass_mapping_step.py                    # simulated maps, simulated noise
    python benchmarks/mass_mapping_step.py --settings         # how coupling, schedule and iterations were chosen
    python benchmarks/mass_mapping_step.py --prior            # skies unlike those in training
    python benchmarks/mass_mapping_step.py --cost 512 1024 2048 4096   # time and memory of whole masked maps
    python benchmarks/mass_mapping_step.py --kappa MAP.fits ... --std1 STD1.fits --std2 STD2.fits --mask MASK.fits

Scores are centred and count observed pixels only. The shear is made on the periodic grid of the map; with --cut, of a
simulated sky twice as wide, from which map and shear are cut, as from a real one. The Wiener filter has the
spectrum of the simulated maps at their standard deviation (--std). "ADMM, PCG, falling" is `solve` with its defaults,
as in recipes/mass_mapping.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from timing import fresh_process, peak_growth
from torch import Tensor

from denoisers import MLPatch
from operators import KaiserSquires, KaiserSquiresEB
from pnp import LeastSquares, solve
from pnp.algorithms.iterations import State, admm, hqs
from pnp.algorithms.schedules import RELAXATION
from pnp.io import read_image
from pnp.lensing import LognormalKappa, ScaledPrior, check_prior, pixel_spectrum, survey_noise, wiener
from pnp.lensing.mass_map import ITERATIONS, EModeOnly, map_mass
from pnp.lensing.padding import OddGrid
from pnp.metrics import nrmse, pearson_r

Scores = dict[str, list[tuple[float, ...]]]


def noise_map(args: argparse.Namespace, shape: tuple[int, int]) -> Tensor:
    """Return the noise (1, 2, H, W), infinite where masked, from files or of a simulated survey."""
    if args.std1 is None:
        return survey_noise(shape, generator=torch.Generator().manual_seed(1000), std=args.noise)
    std = torch.stack([torch.from_numpy(read_image(name)) for name in (args.std1, args.std2)])[None]
    mask = torch.from_numpy(read_image(args.mask)) > 0
    return torch.where(mask, std, math.inf)


def problems(args: argparse.Namespace, first_seed: int) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield name, convergence, shear and noise of every map and seed."""
    std = noise_map(args, (args.size, args.size))
    shape = (std.shape[-2], std.shape[-1])
    wide = (2 * shape[0], 2 * shape[1]) if args.cut else shape
    sky = LognormalKappa(wide, std=args.std)
    for name in args.kappa or ["simulated"]:
        for seed in range(first_seed, first_seed + args.seeds):
            g = torch.Generator().manual_seed(seed)
            kappa = torch.from_numpy(read_image(name))[None, None] if args.kappa else sky(1, generator=g)
            clean = KaiserSquires((kappa.shape[-2], kappa.shape[-1])).A(kappa)
            field = (..., slice(shape[0]), slice(shape[1]))
            noise = torch.where(std.isfinite(), std, 0) * torch.randn(std.shape, generator=g)
            yield Path(name).stem, kappa[field], clean[field] + noise, std


def score(x: Tensor, kappa: Tensor, std: Tensor) -> tuple[float, float]:
    mask = std.isfinite()[:, :1]
    return nrmse(x, kappa, mask=mask, centred=True), pearson_r(x, kappa, mask=mask)


def compare(args: argparse.Namespace, D: MLPatch) -> None:
    """Print every method's scores, averaged over the seeds."""
    power = pixel_spectrum((args.size, args.size) if args.std1 is None else noise_map(args, (0, 0)).shape[-2:])
    power *= args.std**2 / power.mean()
    found: dict[str, Scores] = {}
    for name, kappa, y, std in problems(args, 0):
        A = KaiserSquires((kappa.shape[-2], kappa.shape[-1]))
        run = partial(map_mass, y, std, denoiser=D, b_mode=False)
        methods: dict[str, Callable[[], Tensor]] = {
            "Wiener filter": lambda A=A, y=y, std=std: wiener(A, y, std, power),
            "ADMM, closed form, odd grid": lambda run=run: run().kappa_e,
            "ADMM, closed form, margin 40": lambda run=run: run(margin_px=40).kappa_e,
            "ADMM, PCG, periodic": lambda run=run: run(make_operator=KaiserSquires, margin_px=None).kappa_e,
            "ADMM, PCG, falling (`solve`)": lambda A=A, y=y, std=std: solve(A, y, D, noise_std=std).x,
            "PnPMass, periodic": lambda run=run: (
                run(make_operator=KaiserSquires, margin_px=None, method="pnpmass").kappa_e
            ),
        }
        for label, method in methods.items():
            if args.only and not any(part in label for part in args.only):
                continue
            start = time.process_time()
            x = method()
            seconds = time.process_time() - start
            found.setdefault(name, {}).setdefault(label, []).append((*score(x, kappa, std), seconds))
            print(f"{name} {label}: {found[name][label][-1]}", file=sys.stderr)
    print("| map | method | NRMSE | r | CPU seconds |\n|---|---|---|---|---|")
    for name, scores in found.items():
        for label, values in scores.items():
            error, r, seconds = (sum(v) / len(v) for v in zip(*values, strict=True))
            spread = max(v[0] for v in values) - min(v[0] for v in values)
            print(f"| {name} | {label} | {error:.4f} (range {spread:.4f}) | {r:.4f} | {seconds:.1f} |")


def settings(args: argparse.Namespace, D: MLPatch) -> None:
    """Print scores after 4 to 16 iterations of ADMM for several relaxations, couplings and schedules."""
    found: Scores = {}
    after = (4, 6, 7, 8, 12, 16)
    for _, kappa, y, std in problems(args, 100):
        grid = OddGrid((kappa.shape[-2], kappa.shape[-1]))
        std_e, seen = std[:, :1], std[:, :1].isfinite()
        sigma = float((std_e[seen] ** -2).mean()) ** -0.5
        shear = grid.embed(torch.where(seen, y, 0), 0.0)
        h = LeastSquares().bind(KaiserSquiresEB(grid.shape), shear, grid.embed(std_e, math.inf) ** -2)
        falling = [sigma * 2 ** max(0.0, 1 - k / 7) for k in range(16)]
        choices: dict[str, tuple[Callable[..., Iterator[State]], list[tuple[float, float]]]] = {
            **{f"ADMM, alpha {f:g} mean W": (admm, [((f**-0.5) * sigma, f / sigma**2)] * 16) for f in (0.5, 1, 2)},
            **{
                f"ADMM, rho = {rho:g}": (partial(admm, relaxation=rho), [(sigma, sigma**-2)] * 16)
                for rho in (1.5, RELAXATION, 1.9)
            },
            **{f"ADMM, strength {f:g}": (admm, [(sigma, f / sigma**2)] * 16) for f in (0.7, 1.4)},
            "ADMM, sigma falling from 2 sigma in 8": (admm, [(s, s**-2) for s in falling]),
            **{f"HQS, lambda {f:g}": (hqs, [(sigma, f / sigma**2)] * 16) for f in (0.23, 1)},
        }
        for label, (algorithm, levels) in choices.items():
            states = algorithm(h, EModeOnly(D), torch.zeros_like(shear), levels)
            kept = [score(grid.crop(s.z[:, :1]), kappa, std) for s in states]
            found.setdefault(label, []).append(tuple(v for k in after for v in kept[k - 1]))
            print(f"{label}: {found[label][-1]}", file=sys.stderr)
    print("| NRMSE/r after | " + " | ".join(map(str, after)) + " iterations |\n|---" + "|---" * len(after) + "|")
    for label, values in found.items():
        mean = [sum(v) / len(v) for v in zip(*values, strict=True)]
        cells = (f"{e:.4f}/{r:.4f}" for e, r in zip(mean[::2], mean[1::2], strict=True))
        print(f"| {label} | " + " | ".join(cells) + " |")


def prior(args: argparse.Namespace, D: MLPatch) -> None:
    """Print NRMSE of denoised periodic maps of other amplitudes and pixels, beside the best Wiener filter."""
    print("| std | arcmin | sigma | Wiener filter | MLPatch | MLPatch, scaled | `check_prior` |\n" + "|---" * 7 + "|")
    around = [(std, 0.29) for std in (0.004, 0.01, 0.02, 0.04, 0.08)] + [(0.02, a) for a in (0.1, 0.23, 0.36, 0.6, 1.2)]
    for std, arcmin in around:
        g = torch.Generator().manual_seed(0)
        sky, sigma = LognormalKappa((256, 256), pixel_arcmin=arcmin, std=std), 8 * std
        kappa = sky(args.seeds, generator=g)
        noisy = kappa + sigma * torch.randn(kappa.shape, generator=g)
        power = pixel_spectrum(sky.shape, arcmin)
        power *= std**2 / power.mean()
        filtered = torch.fft.ifft2(torch.fft.fft2(noisy) * (power / (power + sigma**2)).float()).real
        fit = check_prior(std, arcmin)
        level = min(max(sigma, D.sigma_range[0]), D.sigma_range[1])
        maps = (filtered, D(noisy, level), ScaledPrior(D, std / 0.02)(noisy, sigma))
        errors = " | ".join(f"{nrmse(x, kappa, centred=True):.3f}" for x in maps)
        verdict = "fits" if fit.fits else "scale" if fit.scale != 1 else "train"
        print(f"| {std:g} | {arcmin:g} | {sigma:.3g} | {errors} | {verdict} |", flush=True)


def probe(what: str, size: int, n_iter: int | None) -> None:
    """Print time and peak memory, beyond shear, noise and weights, of one part or map; runs in a fresh process."""
    g = torch.Generator().manual_seed(0)
    D, std = MLPatch.from_pretrained("convergence"), survey_noise((size, size), generator=g)[:, :1].clone()
    y = 0.17 * torch.randn(1, 2, size, size, generator=g)
    times: list[tuple[float, float]] = []

    def clock(_: object = None) -> None:
        times.append((time.perf_counter(), time.process_time()))

    def call() -> None:
        clock()
        if what == "step":
            grid = OddGrid((size, size))
            shear = grid.embed(y, 0.0)
            h = KaiserSquiresEB(grid.shape).data_step(shear, grid.embed(std, math.inf) ** -2)
            assert h is not None
            z = torch.zeros_like(shear)
            clock()
            h(z, torch.tensor(36.0))
        elif what == "denoiser":
            D(y[:, :1], 0.17)
        else:
            make, pad = (KaiserSquiresEB, 0) if what == "admm" else (KaiserSquires, None)
            options = {"method": what, "margin_px": pad, "b_mode": False, "max_iter": n_iter, "callback": clock}
            map_mass(y, std, denoiser=D, make_operator=make, **options)
        clock()

    memory = peak_growth(call)
    first, last = times[0], times[-1]
    step = times[-2] if what == "step" else first  # without kernel and grid, which are made once
    found = {"s": last[0] - step[0], "cpu_s": last[1] - step[1], "iterations": len(times) - 2}
    print(json.dumps(found | {"bytes": memory, "input": 4 * (y.numel() + std.numel())}))


def cost(sizes: list[int], n_iter: int, limit_s: float) -> None:
    """Print time and memory by side, each from a fresh process, and their growth with the number n of pixels."""
    parts = {
        "step": "data step",
        "denoiser": "denoiser",
        "admm": "ADMM, a whole map",
        "pnpmass": "PnPMass, a whole map",
    }
    print(
        "| side | | seconds | CPU seconds | CPU us per pixel and iteration | GB beyond input | GB of input |\n"
        + "|---" * 7
        + "|"
    )
    found: dict[str, list[tuple[int, float]]] = {what: [] for what in parts}
    for size in sizes:
        for what, label in parts.items():
            of = fresh_process(__file__, "--probe", what, str(size), str(n_iter), limit_s=limit_s)
            if isinstance(of, str):
                print(f"| {size} | {label} | {of} |", flush=True)
                continue
            n = max(of["iterations"], 1)
            label += f", {n} iterations" if what in ITERATIONS else ""
            found[what].append((size, of["cpu_s"] / n))
            print(
                f"| {size} | {label} | {of['s']:.1f} | {of['cpu_s']:.1f} | {1e6 * of['cpu_s'] / n / size**2:.2f} "
                f"| {of['bytes'] / 1e9:.2f} | {of['input'] / 1e9:.2f} |",
                flush=True,
            )
    for what, values in found.items():
        if len(values) > 1:
            (a, first), (b, last) = values[0], values[-1]
            power = math.log(last / first) / math.log(b**2 / a**2)
            print(f"{parts[what]}: CPU seconds grow as n^{power:.2f} from {a} to {b}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--size", type=int, default=360, help="side of a simulated map in pixels")
    p.add_argument("--seeds", type=int, default=2, help="noise seeds (and skies, where simulated)")
    p.add_argument("--std", type=float, default=0.0274, help="standard deviation of the maps")
    p.add_argument("--noise", type=float, default=0.125, help="median noise of a simulated survey")
    p.add_argument("--cut", action="store_true", help="cut the maps from skies twice as wide")
    p.add_argument("--kappa", nargs="+", help="convergence maps, FITS and others")
    p.add_argument("--std1", help="noise of gamma1; needs --std2 and --mask")
    p.add_argument("--std2", help="noise of gamma2")
    p.add_argument("--mask", help="1 where observed")
    p.add_argument("--only", nargs="+", help="methods whose name contains one of these")
    p.add_argument("--settings", action="store_true", help="compare couplings, schedules and iterations instead")
    p.add_argument("--prior", action="store_true", help="test skies unlike those in training instead")
    p.add_argument(
        "--cost", nargs="+", type=int, metavar="SIDE", help="measure time and memory of maps of these sides instead"
    )
    p.add_argument("--limit", type=float, default=3600, help="time limit for a map of --cost in seconds")
    p.add_argument("--iterations", type=int, default=0, help="iterations of --cost; 0: default of each method")
    p.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if (args.std1 is None) != (args.std2 is None) or (args.std1 is None) != (args.mask is None):
        p.error("--std1, --std2 and --mask go together")
    if args.cut and args.kappa:
        p.error("--cut is for simulated skies; leave --kappa out")
    torch.set_grad_enabled(False)
    if args.probe:
        probe(args.probe[0], int(args.probe[1]), int(args.probe[2]) or None)
    elif args.cost:
        cost(args.cost, args.iterations, args.limit)
    elif args.prior:
        prior(args, MLPatch.from_pretrained("convergence"))
    elif args.settings:
        settings(args, MLPatch.from_pretrained("convergence"))
    else:
        compare(args, MLPatch.from_pretrained("convergence"))


if __name__ == "__main__":
    main()
