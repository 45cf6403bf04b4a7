"""How often `Result.warnings` is right: false alarms on sound problems, and wrong noise levels that are noticed.

Each operator measures photographs and a head, 128 x 128 pixels, with noise of 0.3, 2 and 10 % of the range of y, or
with counts of which the largest has that noise. With the right level no warning is expected, from MLPatch or from
TV: rows "right level" count the warnings, and each is a row of its own. With a level that is wrong by a factor, rows
"level x f" give the fraction that is noticed, the factor named, and how many misses cost more than 1 dB. The level of
counts is that of `Poisson(gain=f^2)`. "finer grid" measures a picture of twice the resolution, whose sinograms are
averaged over pairs of bins. Every denoiser and level starts from the same noise.

--quick takes two problems of each part, one image of 64 x 64 pixels, one noise level and two factors.
"""

from __future__ import annotations

import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from report import Row, main
from skimage import data
from timing import Spread
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from denoisers import TV, MLPatch, SliceWise
from operators import Blur, Downsample, FanBeam, Identity, KaiserSquires, Mask, Radon, gaussian_kernel, stack
from operators.spect import spect_camera
from pnp import Poisson, Result, solve
from pnp.metrics import psnr
from pnp.phantoms import ISOTOPES, emission_scan, head

SIDE = 128
NOISE = (0.003, 0.02, 0.1)
FACTORS = (0.2, 0.5, 2.0, 5.0)
WRONG_LEVEL_IMAGES = ("camera", "coins", "head")
COSTLY_DB = 1.0
Options = Callable[[float], dict[str, Any]]


class Case(NamedTuple):
    """A problem to solve: `options(f)` are those of `solve` where the noise level is taken to be f times the true."""

    operator: Any
    x: Tensor
    y: Any
    options: Options


class Run(NamedTuple):
    """One solve of a case, and its PSNR for the truth's range."""

    image: str
    noise: float
    denoiser: str
    factor: float
    result: Result
    quality: float


Make = Callable[[Tensor, float, torch.Generator], Case]


@cache
def image(name: str) -> Tensor:
    """Return a picture of 256 x 256 pixels with a largest value of 1; the problems' images are its means over 2 x 2."""
    if name == "head":
        x = head(2 * SIDE)
        return x / x.max()
    picture = torch.from_numpy(getattr(data, name)()[: 2 * SIDE, : 2 * SIDE].copy()).float()
    picture = picture.mean(-1) if picture.ndim == 3 else picture
    return picture[None, None] / 255


def gaussian(operator: Any, x: Tensor, noise: float, g: torch.Generator, clean: Tensor | None = None) -> Case:
    """Return measurements with white noise relative to their range."""
    clean = operator.A(x) if clean is None else clean
    noise_std = noise * float(clean.max() - clean.min())
    y = clean + noise_std * torch.randn(clean.shape, generator=g)
    y = operator.A(y) if isinstance(operator, Mask) else y
    return Case(operator, x, y, lambda factor: {"noise_std": factor * noise_std})


def counts(operator: Any, x: Tensor, noise: float, g: torch.Generator) -> Case:
    """Return counts of which the largest has that noise relative to itself, with a background of 1 % of it."""
    x = x.clamp(min=0)
    x = x / float(operator.A(x).max()) / noise**2
    background = 0.01 / noise**2
    y = torch.poisson(operator.A(x).clamp(min=0) + background, generator=g)
    bounds = (0.0, None)
    return Case(operator, x, y, lambda f: {"data_term": Poisson(gain=f**2, background=background), "bounds": bounds})


def of_pixels(operator: Callable[[int, torch.Generator], Any], with_noise: Callable[..., Case] = gaussian) -> Make:
    """Return a maker of cases whose measurements are simulated on the image's own grid."""

    def make(fine: Tensor, noise: float, g: torch.Generator) -> Case:
        x = avg_pool2d(fine, 2)
        return with_noise(operator(x.shape[-1], g), x, noise, g)

    return make


def pairs_of_bins(y: Tensor) -> Tensor:
    """Average neighbouring bins (1, 1, n_angles, 2 n)."""
    return avg_pool1d(y[0], 2)[None]


def radon(side: int, n: int, scale: int = 1) -> Radon:
    """Return n views over half a turn, of a grid that is `scale` times finer; lengths in pixels of the coarse grid."""
    angles = torch.arange(n) * (math.pi / n)
    n_detectors = scale * 2 * math.ceil(side / math.sqrt(2))
    return Radon((scale * side, scale * side), angles, n_detectors=n_detectors, pitch=1 / scale, pixel_size=1 / scale)


def finer(n: int) -> Make:
    """Return a maker of sinograms of the finer picture."""

    def make(fine: Tensor, noise: float, g: torch.Generator) -> Case:
        side = fine.shape[-1] // 2
        clean = pairs_of_bins(radon(side, n, 2).A(fine))
        return gaussian(radon(side, n), avg_pool2d(fine, 2), noise, g, clean)

    return make


def fan(side: int, _: torch.Generator) -> FanBeam:
    """Return a fan of 90 views over a whole turn."""
    angles = torch.arange(90) * (2 * math.pi / 90)
    return FanBeam((side, side), angles, source_origin=2.4 * side, origin_detector=1.2 * side)


class RandomMatrix:
    """Compressed sensing: m random combinations of an image's pixels, (B, 1, n, n) to (B, m)."""

    def __init__(self, m: int, n: int, g: torch.Generator) -> None:
        self.n, self.matrix = n, torch.randn(m, n * n, generator=g) / m**0.5

    def A(self, x: Tensor) -> Tensor:
        """Return (B, m)."""
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return (B, 1, n, n)."""
        return (y @ self.matrix).reshape(-1, 1, self.n, self.n)


def random_matrix(fine: Tensor, noise: float, g: torch.Generator) -> Case:
    """Return combinations of the pixels of an image of a quarter of the size, 29 for each 100 pixels."""
    x = avg_pool2d(fine, 4)
    return gaussian(RandomMatrix(round(0.293 * x.numel()), x.shape[-1], g), x, noise, g)


def stacked(fine: Tensor, noise: float, g: torch.Generator) -> Case:
    """Return half of the pixels and a blurred image, each with its own noise."""
    x = avg_pool2d(fine, 2)
    side = x.shape[-1]
    parts = [gaussian(mask(0.5)(side, g), x, noise, g), gaussian(blur(2.0, "reflect")(side, g), x, noise / 2, g)]
    operator = stack([part.operator for part in parts])
    levels = [part.options(1.0)["noise_std"] for part in parts]
    y = tuple(part.y for part in parts)
    return Case(operator, x, y, lambda factor: {"noise_std": tuple(factor * level for level in levels)})


def shear(fine: Tensor, noise: float, g: torch.Generator) -> Case:
    """Return the shear of a map whose mean is 0."""
    x = avg_pool2d(fine, 2)
    return gaussian(KaiserSquires((x.shape[-2], x.shape[-1])), x - x.mean(), noise, g)


def spect(fine: Tensor, noise: float, g: torch.Generator) -> Case:
    """Return counts of a torso of 32 x 32 x 16 voxels, simulated on voxels of half the side; the picture draws it."""
    del noise
    isotope = ISOTOPES["lu177"]
    angles = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)

    def camera(mu: Tensor, size: float) -> Any:
        return spect_camera(mu, angles, voxel_size=size, **isotope.camera_options)

    seed = int(1e3 * float(fine.mean()))
    A, y, scatter, x, _ = emission_scan(isotope, camera, (32, 32, 16), voxel_size_mm=12.8, seed=seed, virtual=True)
    options = {"bounds": (0.0, None)}
    return Case(A, x, y, lambda factor: options | {"data_term": Poisson(gain=factor**2, background=scatter)})


def mask(kept: float) -> Callable[[int, torch.Generator], Mask]:
    """Return a maker of masks that keep this fraction of the pixels."""
    return lambda side, g: Mask(torch.rand(side, side, generator=g) < kept)


def blur(std: float, padding: str) -> Callable[[int, torch.Generator], Blur]:
    """Return a maker of Gaussian blurs."""
    return lambda side, _: Blur(gaussian_kernel(std), (side, side), padding)


PROBLEMS: dict[str, dict[str, Make]] = {
    "pixels": {
        "Identity": of_pixels(lambda side, _: Identity((side, side))),
        "Mask, 70 %": of_pixels(mask(0.7)),
        "Mask, 30 %": of_pixels(mask(0.3)),
    },
    "blur": {
        "Blur, 1 pixel": of_pixels(blur(1.0, "reflect")),
        "Blur, 3 pixels": of_pixels(blur(3.0, "reflect")),
        "Blur, 2 pixels, valid": of_pixels(blur(2.0, "valid")),
        "Downsample, 2": of_pixels(lambda side, _: Downsample((side, side), 2)),
        "Downsample, 4": of_pixels(lambda side, _: Downsample((side, side), 4)),
    },
    "ct": {
        "Radon, 180 views": of_pixels(lambda side, _: radon(side, 180)),
        "Radon, 180 views, finer grid": finer(180),
        "Radon, 40 views": of_pixels(lambda side, _: radon(side, 40)),
        "FanBeam, 90 views": of_pixels(fan),
    },
    "others": {
        "random matrix, 29 %": random_matrix,
        "stack of Mask and Blur": stacked,
        "KaiserSquires": shear,
    },
    "counts": {
        "Blur, 1 pixel, counts": of_pixels(blur(1.0, "reflect"), counts),
        "Radon, 90 views, counts": of_pixels(lambda side, _: radon(side, 90), counts),
    },
    "spect": {"SPECT, 16 views": spect},
}
IMAGES = ("camera", "brick", "moon", "coins", "grass", "hubble_deep_field", "head")


@cache
def denoisers() -> dict[str, Any]:
    """Return the denoisers by name."""
    return {"MLPatch": MLPatch.from_pretrained("gray"), "TV": TV()}


def runs(section: str, name: str, quick: bool) -> Iterator[Run]:
    """Solve a problem for all images, noise levels, denoisers and factors."""
    make = PROBLEMS[section][name]
    images = ("camera",) if quick else WRONG_LEVEL_IMAGES if section == "spect" else IMAGES
    for picture in images:
        for noise in (NOISE[1],) if quick or section == "spect" else NOISE:
            fine = avg_pool2d(image(picture), 2) if quick else image(picture)
            case = make(fine, noise, torch.Generator().manual_seed(0))
            low, high = float(case.x.min()), float(case.x.max())
            for who, denoiser in denoisers().items():
                D = SliceWise(denoiser) if case.x.ndim == 5 else denoiser
                is_judged = who == "MLPatch" and picture in WRONG_LEVEL_IMAGES
                for factor in (1.0, *(((0.2, 5.0) if quick else FACTORS) if is_judged else ())):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        result = solve(case.operator, case.y, D, **case.options(factor))
                    quality = psnr(result.x, case.x, data_range=high - low)
                    yield Run(picture, noise, who, factor, result, float(quality))


def rows(section: str, quick: bool) -> Iterator[Row]:
    """Yield false alarms, and what is noticed of each factor."""
    for name in list(PROBLEMS[section])[: 2 if quick else None]:
        found = list(runs(section, name, quick))
        right = [run for run in found if run.factor == 1]
        false = [run for run in right if run.result.warnings]
        misfits = [run.result.misfit for run in right]
        note = f"of {len(right)}; misfit {min(misfits):.2g} to {max(misfits):.2g}"
        yield Row(name, "right level", Spread((len(false),)), "", target=("<=", 0), note=note)
        for run in false:
            who = f"{run.image}, {run.noise:g}, {run.denoiser}"
            note = "; ".join(run.result.warnings)
            yield Row(f"{name}: misfit", who, Spread((run.result.misfit,)), "", note=note)
        best = {(run.image, run.noise): run.quality for run in right if run.denoiser == "MLPatch"}
        for factor in sorted({run.factor for run in found} - {1.0}):
            wrong = [run for run in found if run.factor == factor]
            share = sum(bool(run.result.warnings) for run in wrong) / len(wrong)
            yield Row(name, f"level x {factor:g}", Spread((share,)), "", note=_remarks(wrong, best, factor))


def _remarks(wrong: list[Run], best: dict[tuple[str, float], float], factor: float) -> str:
    """Return the factor named, and how many of the misses cost more than COSTLY_DB."""
    said = [" ".join(run.result.warnings) for run in wrong if run.result.warnings]
    direction = "too low" if factor < 1 else "too high"
    named = [float(m[1]) for text in said if direction in text and (m := re.search(r"factor (\d[\d.e+-]*\d|\d)", text))]
    missed = [run for run in wrong if not run.result.warnings]
    costly = [run for run in missed if run.quality < best[run.image, run.noise] - COSTLY_DB]
    lost = max((best[run.image, run.noise] - run.quality for run in missed), default=0.0)
    remarks = [f"of {len(wrong)}"]
    if named:
        remarks.append(f"factor {statistics.median(named):.2g} named for {max(factor, 1 / factor):g}")
    if len(named) < len(said):
        remarks.append(f"{len(said) - len(named)} name another cause")
    if missed:
        remarks.append(f"{len(costly)} of {len(missed)} misses cost more than {COSTLY_DB:g} dB, at most {lost:.1f}")
    return "; ".join(remarks)


if __name__ == "__main__":
    main(
        "What Result.warnings notices, and its false alarms",
        {section: lambda quick, section=section: rows(section, quick) for section in PROBLEMS},
    )
