"""What `shear_survey.py` needs: the survey's files or its simulated twin, noise of smoothed maps, peaks, iterations."""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from operators import KaiserSquires, KaiserSquiresEB
from pnp import LeastSquares
from pnp.io.atomic import atomic
from pnp.io.fits import write_fits_maps
from pnp.lensing import (
    CalibratedError,
    EModeOnly,
    LognormalKappa,
    MassMap,
    OddGrid,
    Peaks,
    map_catalogue,
    smoothed_kaiser_squires,
    survey_noise,
)
from pnp.protocols import Denoiser
from pnp.readers import ShearMap, read_shear_maps
from pnp.solvers import admm

PIXEL_ARCMIN = 0.29  # of the maps that the convergence weights were trained on
TWIN = "simulated survey"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add what says where the shear is, and what its signs mean."""
    p.add_argument("--e1", help="first component, where each map is a file: e1.fits, maps.fits[E1] or maps.h5[e1]")
    p.add_argument("--e2", help="second component")
    p.add_argument(
        "--noise-std", nargs="+", help="of both components or of each: map or number; --catalogue: a shape's"
    )
    p.add_argument("--mask", help="map, 1 where observed")
    p.add_argument("--catalogue", help="galaxies in place of maps: FITS, CSV or HDF5 with ra, dec, e1, e2, weight")
    p.add_argument(
        "--pixel-arcmin", type=float, help="side of a pixel, needed with --catalogue (default: file's, 0.29)"
    )
    p.add_argument("--convention", choices=("lenspack", "conjugate", "transposed"), help="which the components follow")
    p.add_argument("--signs", nargs=2, type=int, choices=(1, -1), help="of e1 and e2 (default: as the data tell)")
    p.add_argument("--size", type=int, default=360, help="side of the simulated survey in pixels")


def find_survey(args: argparse.Namespace, generator: torch.Generator) -> ShearMap:
    """Return the survey that the arguments name, or a simulated one like COSMOS, whose convergence is known."""
    noise: Any = [_number(part) for part in args.noise_std or ()]
    if args.catalogue:
        if args.pixel_arcmin is None or len(noise) > 1 or any(isinstance(part, str) for part in noise):
            raise ValueError("--catalogue needs --pixel-arcmin, and for --noise-std at most one number, of one shape")
        convention = args.convention or "lenspack"
        return map_catalogue(
            args.catalogue, args.pixel_arcmin, convention=convention, noise=noise[0] if noise else "scatter"
        )
    if args.input or args.e1:
        maps = {"e1": args.e1, "e2": args.e2, "mask": args.mask}
        maps["noise_std"] = None if not noise else noise[0] if len(noise) == 1 else tuple(noise)
        given = {name: part for name, part in maps.items() if part is not None}
        return read_shear_maps(args.input, **given, pixel_arcmin=args.pixel_arcmin, convention=args.convention)
    shape = (64, 64) if args.smoke else (args.size, args.size)
    pixel = args.pixel_arcmin or PIXEL_ARCMIN
    kappa = LognormalKappa(shape, pixel_arcmin=pixel, std=args.std or 0.02)(1, generator=generator)
    noise_std = survey_noise(shape, generator=generator, std=0.125, holes=4 if args.smoke else 60)
    seen = noise_std.isfinite()
    n = torch.where(seen, noise_std, 0) * torch.randn(noise_std.shape, generator=generator)
    shear = torch.where(seen, KaiserSquires(shape).A(kappa) + n, 0)
    return ShearMap(shear, noise_std, seen[:, :1], kappa=kappa, pixel_arcmin=pixel, path=TWIN)


def _number(part: str) -> float | str:
    try:
        return float(part)
    except ValueError:
        return part


def write_survey(
    stem: Path, survey: ShearMap, mass: MassMap, calibrated: CalibratedError, snr_ks: Tensor, peaks: Peaks
) -> None:
    """Write the maps (FITS) and a table of the peaks, the highest first (ECSV), both with their place on the sky."""
    from astropy.table import Table

    error = calibrated.error
    maps = {"KAPPA_E": mass.kappa_e, "KAPPA_B": mass.kappa_b, "ERROR": error, "SNR_KS": snr_ks, "MASK": survey.mask}
    header = {"DENOISER": "MLPatch convergence", "SHEARCON": survey.convention, "COVERAGE": calibrated.coverage}
    write_fits_maps(stem.with_suffix(".fits"), maps, wcs=survey.wcs, header=header, overwrite=True)

    row, column = peaks.row.cpu().numpy(), peaks.column.cpu().numpy()
    table = Table({"row": row, "column": column})
    if survey.wcs is not None:
        table["ra"], table["dec"] = survey.wcs.wcs_pix2world(column, row, 0)
        table["ra"].unit = table["dec"].unit = "deg"
    values = {"kappa": mass.kappa_e, "error": error, "snr": mass.kappa_e / error, "snr_ks": snr_ks}
    for name, value in values.items():
        table[name] = value[0, 0].cpu().numpy()[row, column]
    with atomic(stem.with_name(f"{stem.name}_peaks.ecsv"), overwrite=True) as part:
        table.write(part, format="ascii.ecsv")


def smooth_inside(values: Tensor, mask: Tensor, px: float = 2.0) -> Tensor:
    """Return the root of the local mean square within the mask: a standard deviation from few draws is grainy."""
    inside, width = mask.double().cpu().numpy(), (0, 0, px, px)
    square = gaussian_filter(values.double().cpu().numpy() ** 2 * inside, width)
    mean = square[inside > 0] / gaussian_filter(inside, width)[inside > 0]
    return torch.zeros_like(values).masked_scatter(mask, torch.from_numpy(mean**0.5).to(values))


def smoothed_noise(A: KaiserSquires, noise_std: Tensor, smoothing_px: float) -> Tensor:
    """Return the noise of the smoothed Kaiser-Squires map: each pixel's variance, spread by its square response."""
    variance = torch.zeros(1, 1, *A.shape, dtype=noise_std.dtype, device=noise_std.device)
    seen = torch.where(noise_std.isfinite(), noise_std, 0)
    for c in (0, 1):
        point = torch.zeros_like(noise_std)
        point[:, c, 0, 0] = 1
        response = smoothed_kaiser_squires(A, point, torch.ones_like(point), smoothing_px)
        spectrum = torch.fft.rfft2(response.square()) * torch.fft.rfft2(seen[:, c : c + 1].square())
        variance += torch.fft.irfft2(spectrum, s=A.shape)
    return variance.clamp(min=0).sqrt()


def iterate(
    survey: ShearMap, y: Tensor, noise_std: Tensor, D: Denoiser, mass: MassMap, pad: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what the denoiser gets and gives as `map_mass` found the map, (1, 1, H, W) each, Kaiser-Squires first."""
    grid, sigma = OddGrid(survey.shape, margin_px=pad), mass.sigma
    A = KaiserSquiresEB(grid.shape, convention=survey.convention).to(y.device)
    y = grid.embed(y, 0.0)
    std = grid.embed(noise_std.square().mean(1, keepdim=True).sqrt(), math.inf)  # shared: the closed form
    h, denoise = LeastSquares().bind(A, y, std**-2), EModeOnly(D)
    raw = A.A_adjoint(y)
    pairs = {"Kaiser-Squires": (raw, denoise(raw, sigma))}
    levels = itertools.repeat((sigma, sigma**-2), mass.n_iter)
    with torch.no_grad():
        for s in admm(h, denoise, torch.zeros_like(y), levels):
            pairs[f"iteration {s.k}"] = (s.z + s.u, s.z)  # u is by now x + u - z
    return {name: (grid.crop(gets)[:, :1], grid.crop(gives)[:, :1]) for name, (gets, gives) in pairs.items()}
