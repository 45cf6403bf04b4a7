"""How far the statistics of reconstructed mass maps are from the truth's: peaks, minima, starlets, power, moments.

    python benchmarks/map_statistics.py                        # 8 fields of 256 x 256 cut from skies twice as wide
    python benchmarks/map_statistics.py --maps 2 --noise 0.1

Each field is cut from a larger simulated lognormal sky with clusters, behind holes, with the noise of a survey. The
error of a statistic is sum |s - s_true| / sum |s_true| over its bins, observed pixels, the mean over the fields; of a
moment, |m - m_true|, relative for the variance. Starlet scales are of 2, 4, 8 and 16 pixels; their units are the
standard deviations of the coefficients of other skies. A survey that compares with maps reconstructed from simulations
needs these errors small no more than constant; who compares with theory needs them small.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from operators import KaiserSquires
from pnp.lensing import (
    LognormalKappa,
    band_powers,
    best_smoothing,
    gaussian_maps,
    map_mass,
    measured_spectrum,
    minima_counts,
    moments,
    peak_counts,
    smoothed_kaiser_squires,
    starlet_l1_norm,
    starlet_peak_counts,
    starlet_std,
    survey_noise,
    wiener,
)
from pnp.lensing.shear import noise_like

SCALES = 4
SMOOTHING_PX = (2.0, 4.0)


def statistics(x: Tensor, mask: Tensor, unit: Tensor, std: float) -> dict[str, Tensor]:
    """Return the statistics of a map (1, 1, H, W), each a vector."""
    heights = torch.arange(1, 13) * 0.5 * std
    high, both = torch.arange(1, 9) * 0.5, torch.linspace(-4, 8, 25)
    starlet = {"n_scales": SCALES, "unit": unit, "mask": mask}
    found = {"peaks": peak_counts(x, heights, mask=mask)[0]}
    found["minima"] = minima_counts(x, -heights.flip(0), mask=mask)[0]
    peaks, norm = starlet_peak_counts(x, high, **starlet)[0], starlet_l1_norm(x, both, **starlet)[0]
    found |= {f"starlet peaks, {2 << j} px": peaks[j] for j in range(SCALES)}
    found |= {f"l1-norm, {2 << j} px": norm[j] for j in range(SCALES)}
    found["power"] = band_powers(x, mask=mask.to(x.dtype), n_bands=8).power[0]
    m = moments(x, SMOOTHING_PX, mask=mask)
    for k, s in enumerate(SMOOTHING_PX):
        found |= {f"{name}, {s:g} px": getattr(m, name)[0, k : k + 1] for name in m._fields}
    return found


def error(name: str, value: Tensor, true: Tensor) -> float:
    if name.startswith(("skewness", "kurtosis")):
        return float((value - true).abs())
    return float((value - true).double().abs().sum() / true.double().abs().sum())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--maps", type=int, default=8, help="number of fields")
    p.add_argument("--size", type=int, default=256, help="side of a field in pixels")
    p.add_argument("--noise", type=float, default=0.17, help="median noise of the survey, per component and pixel")
    p.add_argument("--pixel-arcmin", type=float, default=0.29, help="side of a pixel in arcminutes")
    p.add_argument("--smoke", action="store_true", help="tiny sizes, to test this script")
    args = p.parse_args()
    n, n_maps = (48, 1) if args.smoke else (args.size, args.maps)
    max_iter = 2 if args.smoke else None
    g = torch.Generator().manual_seed(0)
    wide = LognormalKappa((2 * n, 2 * n), pixel_arcmin=args.pixel_arcmin, clusters=True)
    A, sky = KaiserSquires((n, n)), KaiserSquires((2 * n, 2 * n))
    unit = starlet_std(wide(2, generator=g), n_scales=SCALES)
    totals: dict[str, dict[str, float]] = {}
    for k in range(n_maps):
        kappa = wide(1, generator=g)
        truth = kappa[..., :n, :n]
        noise_std = survey_noise((n, n), generator=g, std=args.noise, holes=2 if args.smoke else 30)
        y = sky.A(kappa)[..., :n, :n]
        y = y + noise_like(y, noise_std, generator=g)
        mask = torch.isfinite(noise_std).all(1, keepdim=True)
        fitted = measured_spectrum(A, y, noise_std).spectrum
        smooth = best_smoothing(A, gaussian_maps(fitted, 2, generator=g), noise_std, generator=g)
        methods: dict[str, Callable[[], Tensor]] = {
            "Kaiser-Squires": lambda y=y, s=noise_std: smoothed_kaiser_squires(A, y, s, 0.0),
            "smoothed": lambda y=y, s=noise_std, w=smooth: smoothed_kaiser_squires(A, y, s, w),
            "Wiener": lambda y=y, s=noise_std, f=fitted: wiener(A, y, s, f),
            "MLPatch": lambda y=y, s=noise_std: map_mass(y, s, b_mode=False, max_iter=max_iter).kappa_e,
        }
        true = statistics(truth, mask, unit, wide.std)
        for method, run in methods.items():
            for name, value in statistics(run(), mask, unit, wide.std).items():
                row = totals.setdefault(name, {})
                row[method] = row.get(method, 0.0) + error(name, value, true[name]) / n_maps
        print(f"field {k + 1} of {n_maps}", flush=True)
    names = list(next(iter(totals.values())))
    print(f"\n| error of | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, row in totals.items():
        print(f"| {name} | {' | '.join(f'{row[m]:.2f}' for m in names)} |")


if __name__ == "__main__":
    main()
