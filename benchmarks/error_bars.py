"""Error bars: how often the truth lies in intervals of `pnp.uncertainty.bootstrap`, which does not see it.

Images of 128 x 128 pixels with 1 % noise: a head from 180 views, the moon from 90, a photograph from 40, 40 % of a
photograph's pixels, and a blurred photograph; a chest of 64 x 64 at low dose (counts, 60 views, 10,000 photons a ray);
fields of 96 x 96 pixels cut from a sky of 360 x 360, lognormal or of the files in PNP_DATA; 24 copies, 12 of the
chest. For each, the fraction of pixels in the intervals of 50 and 90 %: by a parametric bootstrap, by shifts,
flips and turns, by these with the factor from held-out measurements, and with zoomed copies as well, which is the
default. Notes give the same at edges (the tenth of the pixels with the largest gradient), where the image is flat (the
half with the smallest) and at peaks (the highest 1 %); for the intervals of 90 % also of the means of 8 x 8 pixels,
within 1.645 standard deviations, and for the factor what it would have to be: the true error over the predicted one,
root mean squares. Peaks are also taken of the reconstruction ("bright"): those that can be pointed at. A second group
has images on which nothing was tuned, three for each problem, those of PNP_DATA only where they are: 60 and 180 views,
40 % of the pixels, a blur, low dose, and mass maps cut elsewhere. Regions of torsos by SPECT: how many regions' means
lie within 0.674 and 1.645 standard deviations, over two patients.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import skimage.color
import skimage.data
import skimage.transform
import skimage.util
import torch
from report import Row, main
from timing import Spread
from torch import Tensor

from denoisers import MLPatch, SliceWise
from operators import Blur, KaiserSquires, KaiserSquiresEB, Mask, Radon, gaussian_kernel, spect_camera
from pnp import Poisson
from pnp.ct import Transmission, simulate_counts
from pnp.io import read_image
from pnp.lensing import EModeOnly, LognormalKappa, OddGrid
from pnp.phantoms import ISOTOPES, chest, emission_scan, head, region_means
from pnp.phantoms.torso import REGIONS
from pnp.uncertainty import Bootstrap, bootstrap

DATA = Path(os.environ.get("PNP_DATA", "."))
FRESH = {
    "60 views": ("02", "10", "coins"),
    "180 views": ("03", "astronaut", "07"),
    "40 % of the pixels": ("04", "coffee", "08"),
    "blurred": ("05", "cat", "12"),
}
"""Photographs on which nothing was tuned: of scikit-image, and numbers in Set12."""
LEVELS = {0.5: 0.6745, 0.9: 1.645}
"""Coverage, and standard deviations of a normal distribution."""


@dataclass
class Problem:
    """A problem with its truth.

    Attributes:
        title: for the table.
        A, y, x: operator, measurements and truth.
        options: of `bootstrap`.
        network: name of the denoiser's weights.
        wrap: what makes the denoiser of the problem of it.
        seen: the pixels that count.
        centred: the mean is not measured, and is no error.
    """

    title: str
    A: Any
    y: Tensor
    x: Tensor
    options: dict[str, Any]
    network: str = "gray"
    wrap: Callable[[Any], Any] = field(default=lambda network: network)
    seen: Tensor | None = None
    centred: bool = False


def photograph(name: str, side: int) -> Tensor:
    """Return the middle of a grey photograph in [0, 1], (1, 1, side, side): of scikit-image, or of Set12, by number."""
    pixels = read_image(DATA / f"natural/set12/{name}.png") if name.isdigit() else getattr(skimage.data, name)()
    pixels = skimage.util.img_as_float32(pixels)
    pixels = skimage.color.rgb2gray(pixels[..., :3]) if pixels.ndim == 3 else pixels
    n = min(pixels.shape)
    first = [(size - n) // 2 for size in pixels.shape]
    pixels = pixels[first[0] : first[0] + n, first[1] : first[1] + n]
    return torch.from_numpy(skimage.transform.resize(pixels, (side, side), anti_aliasing=True)).float()[None, None]


def views(side: int, n: int, pixel_size: float = 1.0) -> Radon:
    """Return a parallel beam of n views."""
    return Radon((side, side), torch.arange(n) * math.pi / n, pixel_size=pixel_size)


def gaussian(title: str, A: Any, x: Tensor, noise_std: float | None = None) -> Problem:
    """Return a problem with Gaussian noise, of 1 % of the measurements' root mean square by default."""
    clean = A.A(x)
    std = 0.01 * float(clean.square().mean().sqrt()) if noise_std is None else noise_std
    y = clean + std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return Problem(title, A, torch.where(clean == 0, 0, y) if isinstance(A, Mask) else y, x, {"noise_std": std})


def images(side: int) -> Iterator[Problem]:
    """Yield problems of images."""
    camera, moon = (photograph(name, side) for name in ("camera", "moon"))
    yield gaussian("head, 180 views", views(side, 180, 256 / side), head(side), 0.02)
    yield gaussian("moon, 90 views", views(side, 90), moon)
    yield gaussian("camera, 40 views", views(side, 40), camera)
    for what in ("40 % of the pixels", "blurred"):
        yield of_photograph("camera", what, camera)
    yield low_dose("chest", chest(side // 2, generator=torch.Generator().manual_seed(0)))


def of_photograph(name: str, what: str, x: Tensor) -> Problem:
    """Return a problem of `FRESH` with a photograph."""
    side = x.shape[-1]
    if what.endswith("views"):
        return gaussian(f"{name}, {what}", views(side, int(what.split()[0])), x)
    if what == "blurred":
        return gaussian(f"{name}, {what}", Blur(gaussian_kernel(1.6), (side, side)), x, 0.01)
    mask = Mask(torch.rand(side, side, generator=torch.Generator().manual_seed(0)) < 0.4)
    return gaussian(f"{name}, {what}", mask, x, 0.01)


def fresh(side: int) -> Iterator[Problem]:
    """Yield problems of images on which nothing was tuned."""
    for what, names in FRESH.items():
        for name in names:
            if not name.isdigit() or "PNP_DATA" in os.environ:
                yield of_photograph(name, what, photograph(name, side))
    for seed in (1, 2):
        yield low_dose(f"chest {seed}", chest(side // 2, generator=torch.Generator().manual_seed(seed)))
    c = (torch.arange(side // 2) - (side // 2 - 1) / 2) / (side / 4)
    disc = (c[:, None] ** 2 + c**2 < 0.9).float()
    yield low_dose("rocket in a disc", 0.03 * disc * photograph("rocket", side // 2))
    if "PNP_DATA" in os.environ:
        for name in ("columbia_kappa", "mice_kappa", "ktng_kappa360v2"):
            kappa = torch.from_numpy(read_image(DATA / f"lensing/{name}.fits").astype("float32"))[None, None]
            yield mass_map(name, kappa, (kappa.shape[-1] - 116, 20), 96)


def low_dose(name: str, x: Tensor) -> Problem:
    """Return attenuation in 60 views of 10,000 photons a ray."""
    A = views(x.shape[-1], 60, 400 / x.shape[-1])
    counts = simulate_counts(A.A(x).clamp(min=0), 1e4, generator=torch.Generator().manual_seed(1))
    options = {"data_term": Transmission(1e4), "bounds": (0.0, None), "n": 12}
    return Problem(f"{name}, 10,000 photons", A, counts, x, options)


def skies() -> Iterator[tuple[str, Tensor]]:
    """Yield convergence maps (1, 1, 360, 360): those of kappaTNG where they are, else a lognormal one."""
    folder = Path(os.environ.get("PNP_DATA", "")) / "lensing"
    found = sorted(folder.glob("ktng_*.fits")) if "PNP_DATA" in os.environ else []
    for path in found:
        yield path.stem, torch.from_numpy(read_image(path).astype("float32")).reshape(1, 1, 360, 360)
    if not found:
        yield "lognormal", LognormalKappa((360, 360))(1, generator=torch.Generator().manual_seed(0)).float()


def mass_map(name: str, kappa: Tensor, corner: tuple[int, int], side: int, noise_std: float = 0.17) -> Problem:
    """Return a field cut from a larger sky together with its shear, within an odd grid of half as many pixels more."""
    cut = (..., *(slice(first, first + side) for first in corner))
    grid = OddGrid((side, side), margin_px=side // 2)
    shear = KaiserSquires(tuple(kappa.shape[-2:])).A(kappa)[cut]
    shear = shear + noise_std * torch.randn(shear.shape, generator=torch.Generator().manual_seed(1))
    return Problem(
        f"mass map, {name}",
        KaiserSquiresEB(grid.shape),
        grid.embed(shear, 0.0),
        grid.embed(torch.cat([kappa[cut], torch.zeros_like(kappa[cut])], 1), 0.0),
        {"noise_std": grid.embed(torch.full_like(shear, noise_std), math.inf)},
        network="convergence",
        wrap=EModeOnly,
        seen=grid.embed(torch.ones(1, 1, side, side), 0.0) > 0,
        centred=True,
    )


def structure(x: Tensor, seen: Tensor, found: Tensor) -> dict[str, Tensor]:
    """Return masks of edges, flat areas and peaks of the truth, and of what is bright in the reconstruction."""
    size = torch.hypot(*torch.gradient(x, dim=(-2, -1)))
    edge, flat = size[seen].quantile(torch.tensor([0.9, 0.5]))
    high, bright = (v[seen].quantile(0.99) for v in (x, found))
    flat, edges = (size <= flat) & seen, (size > edge) & seen
    return {"edges": edges, "flat": flat, "peaks": (x > high) & seen, "bright": (found > bright) & seen}


def of_means(found: Bootstrap, error: Tensor, seen: Tensor, width: float = 1.645, tile: int = 8) -> float:
    """Return how many means of tiles lie within so many standard deviations."""
    inside = []
    for i in range(0, error.shape[-2], tile):
        for j in range(0, error.shape[-1], tile):
            mask = torch.zeros(found.x.shape[-2:])
            mask[i : i + tile, j : j + tile] = 1
            if bool(seen[0, 0][mask > 0].all()):
                std = torch.as_tensor(found.region(mask).std).flatten()[0]
                inside.append(abs(float(error[0, 0][mask > 0].mean())) <= width * float(std))
    return sum(inside) / len(inside)


def covered(found: Bootstrap, p: Problem, who: str) -> Iterator[Row]:
    """Yield the coverage by some error bars, over the first channel."""
    x, truth = (torch.as_tensor(v)[:, :1] for v in (found.x, p.x))
    seen = torch.ones_like(x, dtype=torch.bool) if p.seen is None else p.seen
    error = x - truth - ((x - truth)[seen].mean() if p.centred else 0)
    samples = found.samples[:, :, :1][:, seen]
    true = float(error[seen].square().mean().sqrt() / samples.square().mean().sqrt())
    for level in LEVELS:
        inside = error.abs() <= found.quantile(level)[:, :1]
        parts = {"all": inside[seen]} | {name: inside[mask] for name, mask in structure(truth, seen, x).items()}
        percent = {name: 100 * float(part.double().mean()) for name, part in parts.items()}
        said = ", ".join(f"{name} {percent[name]:.0f}" for name in list(percent)[1:])
        said += f", means {100 * of_means(found, error, seen):.0f}" if level == 0.9 else ""
        aim = (">=", 85.0) if who == "default" and level == 0.9 else None
        if who == "equivariant, factor" and level == 0.9:
            said += f"; factor {found.factor:.2f} +- {found.factor_std:.2f}, true {true:.2f} ({found.hold_out})"
        yield Row(f"{p.title}, {100 * level:.0f} %", who, Spread((percent["all"],)), "%", target=aim, note=said)


def pixels(quick: bool) -> Iterator[Row]:
    """Yield the coverage of each problem of images."""
    skies_of = (mass_map(name, kappa, (100, 100), 96) for name, kappa in skies())
    yield from measured([next(images(32))] if quick else [*images(128), *skies_of], quick)


def others(quick: bool) -> Iterator[Row]:
    """Yield the coverage of images on which nothing was tuned."""
    yield from measured([of_photograph("coins", "60 views", photograph("coins", 32))] if quick else fresh(128), quick)


def measured(problems: Iterable[Problem], quick: bool) -> Iterator[Row]:
    """Yield the coverage of some problems."""
    for p in problems:
        network = p.wrap(MLPatch.from_pretrained(p.network))
        options = {"n": 24} | p.options | ({"n": 10, "max_iter": 2} if quick else {})
        found = bootstrap(p.A, p.y, network, **options)
        plain = replace(found, zoomed=found.zoomed[:0])
        still = bootstrap(p.A, p.y, network, moves="none", hold_out=None, result=found.result, **options)
        entries = {"parametric": still, "equivariant, bare": plain.bare, "equivariant, factor": plain, "default": found}
        for who, bars in entries.items():
            yield from covered(bars, p, who)


def regions(quick: bool) -> Iterator[Row]:
    """Yield how many regions of torsos have their means within the error bars."""
    n, patients = (16, 1) if quick else (32, 2)
    size, isotope, ratios = 409.6 / n, ISOTOPES["lu177"], {}
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)

    def camera(mu: Tensor, voxel: float) -> Any:
        cached = {"cache_attenuation": mu.shape[0] == n}
        return spect_camera(mu, angles, voxel_size=voxel, **isotope.camera_options, **cached)

    D = SliceWise(MLPatch.from_pretrained("gray"), axes=(0, 1, 2))
    options = {"n": 2, "max_iter": 2} if quick else {"n": 12}
    options |= {"bounds": (0.0, None), "moves": ("shift",), "max_shift": 0.05}
    for seed in range(2, 2 + patients):  # the first two were looked at before
        A, y, scatter, truth, labels = emission_scan(isotope, camera, (n, n, n // 2), voxel_size_mm=size, seed=seed)
        found = bootstrap(A, y, D, data_term=Poisson(background=scatter), **options)
        for name, true in region_means(truth, labels).items():
            mean, std = found.region(labels == REGIONS.index(name))
            ratios[f"{name} of patient {seed + 1}"] = ((mean - true) / std, mean / true, std / true, found.factor)
    note = "; ".join(
        f"{name} {100 * value:.0f} +- {100 * std:.0f} % of the truth" for name, (_, value, std, _) in ratios.items()
    )
    for level, width in LEVELS.items():
        inside = [abs(z) <= width for z, *_ in ratios.values()]
        percent = Spread((100 * sum(inside) / len(inside),))
        yield Row(f"means of regions by SPECT, {100 * level:.0f} %", "default", percent, "%", note=note)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parts = {"pixels": pixels, "fresh": others, "regions": regions}
    main("Error bars: truths that lie in the interval", parts, in_quick=("fresh", "regions"))
