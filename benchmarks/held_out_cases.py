"""The problems of `held_out.py`: synthetic ones, those of the recipes, deepinv's physics, and measured data."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from skimage.transform import resize
from torch import Tensor

from denoisers import MLPatch, SliceWise
from operators import Blur, Downsample, FanBeam, KaiserSquires, Mask, Radon, gaussian_kernel, spect_camera
from pnp import LeastSquares, Poisson
from pnp.ct import Transmission, find_centre, line_integrals, offset_from_centre, simulate_counts
from pnp.interop import operator_from_functions
from pnp.io import read_image
from pnp.lensing import LognormalKappa, survey_noise
from pnp.lensing.shear import noise_like
from pnp.metrics import psnr
from pnp.phantoms import ISOTOPES, chest, emission_scan, head, perforated_disc
from pnp.readers import CtScan, read_dxchange, read_htc2022

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
DISC_MM = 512 * 0.14832
"""Width of the images of the discs of the Helsinki Tomography Challenge."""
DISCS = ("ta", "tb", "tc", "td", "solid_disc")
KAPPA = ("ktng_kappa360v2", "ktng_cosmos_kappa360")


@dataclass(frozen=True)
class Case:
    """A problem, and how good an image is.

    Attributes:
        operator, y, denoiser: as `solve` takes them.
        score: dB, higher is better.
        options: of `solve`.
        gain: what "auto" should gain over the default in dB, at least.
    """

    operator: Any
    y: Any
    denoiser: Any
    score: Callable[[Any], float]
    options: dict[str, Any] = field(default_factory=dict)
    gain: float = -0.1


Make = Callable[[bool], Case]
"""Makes a case; True: a tiny one."""


@cache
def network(weights: str = "gray") -> MLPatch:
    """Return MLPatch with weights that come with the package."""
    return MLPatch.from_pretrained(weights)


@cache
def photograph(name: str, side: int) -> Tensor:
    """Return a photograph of scikit-image in [0, 1], (1, 1, side, side)."""
    pixels = skimage.util.img_as_float32(getattr(skimage.data, name)())
    pixels = pixels.mean(axis=2) if pixels.ndim == 3 else pixels
    return torch.from_numpy(resize(pixels, (side, side), anti_aliasing=True)).float()[None, None]


def rng(seed: int = 0) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def views(n: int, turn: float = math.pi) -> Tensor:
    """Return n angles over half a turn, or a whole one."""
    return torch.arange(n) * (turn / n)


def snr(x: Tensor, truth: Tensor) -> float:
    """Return 20 log10 of ||truth|| / ||x - truth||, in dB."""
    return -20 * math.log10(float((x - truth).norm() / truth.norm()))


def simulated(A: Any, x: Tensor, std: float, **options: Any) -> Case:
    """Return a case with white noise, scored by PSNR for the truth's largest value."""
    y = A.A(x)
    y = y + std * torch.randn(y.shape, generator=rng(), dtype=y.dtype)
    given = {"gain": options.pop("gain")} if "gain" in options else {}
    score = partial(psnr, reference=x, data_range=float(x.max()))
    return Case(A, y, network(), score, {"noise_std": std, **options}, **given)


def of_decibels(A: Any, x: Tensor, decibels: float, **options: Any) -> Case:
    """Return a case with noise so many decibels below the measurements' root mean square."""
    return simulated(A, x, float(A.A(x).square().mean().sqrt()) * 10 ** (-decibels / 20), **options)


# ---------------------------------------------------------------- synthetic


def head_180(quick: bool) -> Case:
    side = 32 if quick else 128
    return simulated(Radon((side, side), views(180), pixel_size=256 / side), head(side), 0.02, gain=0.5)


def camera_40(decibels: float, quick: bool) -> Case:
    side = 32 if quick else 128
    return of_decibels(Radon((side, side), views(40)), photograph("camera", side), decibels)


def masked(name: str, kept: float, std: float, side: int, quick: bool) -> Case:
    """Some pixels; what a mask drops has no noise."""
    x = photograph(name, 48 if quick else side)
    case = simulated(Mask((torch.rand(x.shape, generator=rng(1)) < kept).float()), x, std)
    case.y.mul_(case.operator.A(torch.ones_like(x)))
    return case


def blurred(kernel: Callable[[], Tensor], side: int, quick: bool) -> Case:
    x = photograph("camera", 32 if quick else side)
    return simulated(Blur(kernel(), tuple(x.shape[-2:])), x, 0.01)


def motion() -> Tensor:
    """A diagonal of 15 pixels."""
    return torch.eye(15).flip(0) / 15


def codes(quick: bool) -> Case:
    """Three tenths of a Hartley transform of the image with random signs."""
    x = photograph("camera", 32 if quick else 128)
    g = rng(2)
    signs = (torch.randint(0, 2, x.shape, generator=g) * 2 - 1).float()
    kept = torch.randperm(x.numel(), generator=g)[: x.numel() * 3 // 10]

    def hartley(v: Tensor) -> Tensor:
        f = torch.fft.fft2(v, norm="ortho")
        return f.real - f.imag

    def back(y: Tensor) -> Tensor:
        full = torch.zeros(len(y), x.numel(), dtype=y.dtype)
        full[:, kept] = y
        return signs * hartley(full.reshape(-1, *x.shape[1:]))

    return simulated(operator_from_functions(lambda z: hartley(signs * z).flatten(1)[:, kept], back), x, 0.02)


def k_space(quick: bool) -> Case:
    """Rows of k-space: the middle tenth, and a fifth of the others."""
    x = photograph("camera", 32 if quick else 128)
    n = x.shape[-1]
    rows = torch.rand(n, generator=rng(3)) < 0.2
    kept = torch.where(rows | (torch.fft.fftfreq(n).abs() < 0.05))[0]

    def back(y: Tensor) -> Tensor:
        full = torch.zeros(len(y), 1, n, n, dtype=y.dtype)
        full[:, :, kept] = y
        return torch.fft.ifft2(full, norm="ortho").real

    A = operator_from_functions(lambda z: torch.fft.fft2(z + 0j, norm="ortho")[:, :, kept], back)
    return simulated(A, x, 0.02)


SYNTHETIC: dict[str, Make] = {
    "head, 180 views": head_180,
    "camera, 40 views, 40 dB": partial(camera_40, 40.0),
    "camera, 40 views, 25 dB": partial(camera_40, 25.0),
    "camera, 40 % of the pixels": partial(masked, "camera", 0.4, 0.02, 128),
    "coins, 10 % of the pixels, noise 0.2": partial(masked, "coins", 0.1, 0.2, 128),
    "blur": partial(blurred, partial(gaussian_kernel, 1.6), 128),
    "random codes, 30 %": codes,
    "k-space": k_space,
}

# ---------------------------------------------------------------- recipes, with half the pixels along each side


def super_resolution(quick: bool) -> Case:
    x = photograph("camera", 32 if quick else 256)
    return simulated(Downsample(tuple(x.shape[-2:]), 2), x, 0.01)


def tomography(quick: bool) -> Case:
    side = 32 if quick else 256
    A = Radon((side, side), views(60), pitch=256 / side, pixel_size=256 / side)
    return of_decibels(A, head(side), 40.0, bounds=(0.0, None))


def limited_angle(degrees: float, n_views: int, quick: bool) -> Case:
    """A disc with holes in the scanner of the challenge."""
    side, n_bins = (32, 70) if quick else (256, 280)
    angles = torch.arange(n_views) * math.radians(degrees) / n_views
    scanner = {"source_origin": 410.66, "origin_detector": 143.08, "pitch": 112 / n_bins}
    A = FanBeam((side, side), angles, n_detectors=n_bins, pixel_size=DISC_MM / side, **scanner)
    return simulated(A, perforated_disc(side, generator=rng()), 0.0065, bounds=(0.0, None))


def low_dose(poisson: bool, quick: bool) -> Case:
    """A chest, 10,000 photons a ray: the likelihood of the counts, or least squares on their logarithm.

    The likelihood's iterations take longer, so that its chest has half as many pixels a side, and half the views.
    """
    side, photons = 32 if quick else 128 if poisson else 256, 1e4
    x = chest(side, generator=rng())
    A = Radon((side, side), views(60 if quick else side * 360 // 256), pitch=400 / side, pixel_size=400 / side)
    counts = simulate_counts(A.A(x).clamp(min=0), photons, generator=rng())
    record = line_integrals(counts, i0=photons)
    y, noise = (
        (counts, {"data_term": Transmission(photons)}) if poisson else (record.y, {"noise_std": record.noise_std})
    )
    score = partial(psnr, reference=x, data_range=float(x.max()))
    return Case(A, y, network(), score, {"bounds": (0.0, None), **noise})


def of_kappa(kappa: Tensor, noise_std: Tensor) -> Case:
    """Return a case of shear, scored where it was observed and without the mean, which shear does not have."""
    A, seen = KaiserSquires(tuple(kappa.shape[-2:])), noise_std.isfinite()[:, :1]
    y = A.A(kappa)
    y = y + noise_like(y, noise_std, generator=rng(5))

    def score(x: Tensor) -> float:
        return snr(x[seen] - x[seen].mean(), kappa[seen] - kappa[seen].mean())

    return Case(A, y, network("convergence"), score, {"noise_std": noise_std})


def mass_mapping(quick: bool) -> Case:
    shape = (64, 64) if quick else (256, 256)
    sky = LognormalKappa(shape, pixel_arcmin=0.29, std=0.02, clusters=True)
    return of_kappa(sky(1, generator=rng()), survey_noise(shape, generator=rng(), std=0.17, holes=4 if quick else 20))


def spect(isotope: str, quick: bool) -> Case:
    """The recipe's torso on voxels of 12.8 mm, scored over all of them."""
    shape, n_views = ((16, 16, 8), 8) if quick else ((32, 32, 20), 30)
    kind = ISOTOPES[isotope]

    def camera(mu: Tensor, size: float) -> Any:
        return spect_camera(mu, views(n_views, 2 * math.pi), voxel_size=size, **kind.camera_options)

    scan = emission_scan(kind, camera, shape, voxel_size_mm=409.6 / shape[0])
    options = {"data_term": Poisson(background=scan.background), "bounds": (0.0, None)}
    D = SliceWise(network(), axes=(0, 1, 2))
    return Case(scan.operator, scan.y, D, partial(snr, truth=scan.truth), options)


RECIPES: dict[str, Make] = {
    "inpainting": partial(masked, "camera", 0.3, 0.01, 256),
    "deblurring": partial(blurred, partial(gaussian_kernel, 1.6), 256),
    "deblurring, motion": partial(blurred, motion, 256),
    "super-resolution, x2": super_resolution,
    "tomography": tomography,
    "few views": partial(limited_angle, 360.0, 60),
    "limited angle": partial(limited_angle, 90.0, 90),
    "low dose, least squares": partial(low_dose, False),
    "low dose, Poisson": partial(low_dose, True),
    "mass mapping": mass_mapping,
    "SPECT, 177Lu": partial(spect, "lu177"),
    "SPECT, 90Y": partial(spect, "y90"),
}

# ---------------------------------------------------------------- deepinv


def deepinv_cases() -> dict[str, Make]:
    """Return a case for every physics that works, of the table in docs/deepinv_physics.md; none without deepinv."""
    if importlib.util.find_spec("deepinv") is None or not SUPPORT.is_dir():
        return {}
    sys.path.insert(0, str(SUPPORT))
    from deepinv_rows import rows

    def make(row: Any, quick: bool) -> Case:
        torch.manual_seed(0)
        physics, x = row.make(), row.image()
        with torch.no_grad():
            y = physics(x)
        return Case(physics, y, row.denoiser(), partial(psnr, reference=x, data_range=1.0))

    return {row.name: partial(make, row) for row in rows() if not row.refused}


# ---------------------------------------------------------------- measured data


def tooth(path: Path, rings: bool, quick: bool) -> Case:
    """Even views of a row, on bins of four times the width; odd ones are the truth.

    With `rings`, a bin's error is taken out of the odd views before they are compared.
    """
    scan = read_dxchange(path, rows=slice(0, 1)).row(0).binned(4)
    scan = scan.subset(slice(0, None, 12)) if quick else scan
    record = line_integrals(scan)
    offset = offset_from_centre(find_centre(record.y, scan.angles), record.y.shape[-1])
    n = record.y.shape[-1]

    def radon(part: slice) -> Radon:
        side = 48 if quick else n
        return Radon((side, side), scan.angles[part], n_detectors=n, pixel_size=n / side, offset=offset)

    even, odd = slice(0, None, 2), slice(1, None, 2)
    y, std = record.tensors()
    A, truth, seen = radon(odd), y[..., odd, :], std[..., odd, :].isfinite()

    def score(x: Tensor) -> float:
        r = A.A(x) - truth
        bins = (r * seen).sum(-2, keepdim=True) / seen.sum(-2, keepdim=True).clamp(min=1) if rings else 0.0
        return -20 * math.log10(float((r - bins)[seen].norm() / truth[seen].norm()))

    term = LeastSquares(bin_std="estimate", view_std="estimate") if rings else None
    options = {"noise_std": std[..., even, :], "bounds": (0.0, None), "data_term": term}
    return Case(radon(even), y[..., even, :], network(), score, options)


def disc(path: Path, quick: bool) -> Case:
    """60 views of a measured disc, on bins of twice the width; all others are the truth."""
    scan: CtScan = read_htc2022(path).binned(2)
    every = np.flatnonzero(np.abs(np.rad2deg(scan.angles - scan.angles[0])) < 359.9)
    used = every[:: len(every) // 60]
    rest = np.setdiff1d(every, used)[:: 40 if quick else 4]
    side = 32 if quick else 256

    def part(index: Any) -> tuple[FanBeam, Tensor]:
        chosen = scan.subset(index)
        return chosen.operator((side, side), pixel_size=DISC_MM / side), chosen.tensors()[0]

    (A, y), (A_rest, truth) = part(used), part(rest)
    return Case(A, y, network(), lambda x: snr(A_rest.A(x), truth), {"bounds": (0.0, None)})


def kappa_tng(folder: Path, name: str, quick: bool) -> Case:
    """A quarter of a convergence map of kappaTNG with the noise and the mask of COSMOS."""

    def read(file: str) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(read_image(folder / file), dtype=np.float32))
        return pixels[:64, :64] if quick else pixels[:180, :180]

    mask, stds = read("cosmos_full_mask_0.29arcmin360.fits"), [read(f"std{i}.fits") for i in (1, 2)]
    noise_std = torch.stack([torch.where((mask > 0) & (std > 0), std, math.inf) for std in stds])[None]
    return of_kappa(read(f"{name}.fits")[None, None], noise_std)


def measured_cases(folder: Path) -> dict[str, Make]:
    """Return the cases of the data that a folder holds: ct/tooth.h5, ct/htc2022 and lensing."""
    paths = {f"disc {name}": folder / "ct" / "htc2022" / f"htc2022_{name}_full.mat" for name in DISCS}
    found: dict[str, Make] = {name: partial(disc, path) for name, path in paths.items() if path.exists()}
    if (scan := folder / "ct" / "tooth.h5").exists():
        found |= {"tooth": partial(tooth, scan, False), "tooth, rings modelled": partial(tooth, scan, True)}
    maps = [name for name in KAPPA if (folder / "lensing" / f"{name}.fits").exists()]
    return found | {name: partial(kappa_tng, folder / "lensing", name) for name in maps}
