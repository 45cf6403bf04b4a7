"""What `shear_survey.py` needs: the survey's files or its simulated twin, its table of figures, what it writes."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from _common import Entry
from torch import Tensor

from operators import KaiserSquires
from pnp import Stop
from pnp.io import write_result
from pnp.io.atomic import atomic
from pnp.io.fits import write_fits_maps
from pnp.lensing import (
    LognormalKappa,
    MassMap,
    Peaks,
    map_catalogue,
    survey_noise,
    whitened_chi2,
)
from pnp.metrics import nrmse, pearson_r, psnr
from pnp.readers import ShearMap, read_shear_maps

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
    p.add_argument("--prior-scale", type=float, default=1.0, help="amplitude of convergence over that of the weights")
    p.add_argument("--size", type=int, default=360, help="side of the simulated survey in pixels")


def find_survey(args: argparse.Namespace, generator: torch.Generator) -> ShearMap:
    """Return the survey that the arguments name, or a simulated one like COSMOS, cut from a larger sky."""
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
    wide, field = wide_sky(shape), (..., slice(shape[0]), slice(shape[1]))
    kappa = LognormalKappa(wide, pixel_arcmin=pixel, std=args.std or 0.02, clusters=True)(1, generator=generator)
    noise_std = survey_noise(shape, generator=generator, std=0.125, holes=4 if args.smoke else 60)
    seen = noise_std.isfinite()
    n = torch.where(seen, noise_std, 0) * torch.randn(noise_std.shape, generator=generator)
    shear = torch.where(seen, KaiserSquires(wide).A(kappa)[field] + n, 0)
    return ShearMap(shear, noise_std, seen[:, :1], kappa=kappa[field].clone(), pixel_arcmin=pixel, path=TWIN)


def wide_sky(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a periodic sky whose part of this shape (H, W) does not look periodic."""
    return 2 * shape[0], 2 * shape[1]


def _number(part: str) -> float | str:
    try:
        return float(part)
    except ValueError:
        return part


def print_table(entries: list[Entry], A: KaiserSquires, y: Tensor, noise_std: Tensor, truth: Tensor | None) -> None:
    """Print each method's residual and time and, where the truth is known, its scores; means are not measured."""
    mask = noise_std.isfinite().all(1, keepdim=True)
    for entry in entries:
        x, score = entry.image, ""
        if truth is not None:
            a, b = (v[mask] - v[mask].mean() for v in (x, truth))
            decibel = psnr(a, b, data_range=float(b.max() - b.min()))
            score = f"NRMSE {nrmse(a, b):.3f}   r {pearson_r(a, b):.3f}   PSNR {decibel:.2f} dB   "
        chi2 = whitened_chi2(A, x, y, noise_std)
        print(f"{entry.name:26s} {score}residual chi2 {chi2:.4f}   {entry.seconds:.1f} s")


def write_survey(
    stem: Path, survey: ShearMap, mass: MassMap, error: Tensor, coverage: float, snr_ks: Tensor, peaks: Peaks
) -> None:
    """Write the map (HDF5); of a real survey all maps (FITS) and its peaks, the highest first (ECSV), on the sky."""
    from astropy.table import Table

    write_result(
        stem.with_suffix(".h5"),
        mass.kappa_e,
        operator="kaiser_squires",
        parameters={"shape": survey.shape, "convention": survey.convention},
        noise_std=survey.noise_std,
        history=mass.history,
        reference=survey.kappa,
        b_mode=mass.kappa_b,
        attributes={"denoiser": "mlpatch:convergence", "sigma": mass.sigma, "command": shlex.join(sys.argv)},
        overwrite=True,
    )
    if survey.path == TWIN:
        return
    maps = {"KAPPA_E": mass.kappa_e, "KAPPA_B": mass.kappa_b, "ERROR": error, "SNR_KS": snr_ks, "MASK": survey.mask}
    header = {"DENOISER": "MLPatch convergence", "SHEARCON": survey.convention, "COVERAGE": coverage}
    write_fits_maps(stem.with_suffix(".fits"), maps, wcs=survey.wcs, header=header, overwrite=True)

    row, column = peaks.row.cpu().numpy(), peaks.column.cpu().numpy()
    table = Table({"row": row, "column": column})
    if survey.wcs is not None:
        table["ra"], table["dec"] = survey.wcs.wcs_pix2world(column, row, 0)
        table["ra"].unit = table["dec"].unit = "deg"
    for name, value in {"kappa": mass.kappa_e, "error": error, "snr_ks": snr_ks}.items():
        table[name] = value[0, 0].cpu().numpy()[row, column]
    table["snr"] = peaks.height.cpu().numpy()  # over the even error map
    with atomic(stem.with_name(f"{stem.name}_peaks.ecsv"), overwrite=True) as part:
        table.write(part, format="ascii.ecsv")


def finished(mass: MassMap) -> Tensor:
    """Return E of a mass map that ran to its end: Ctrl-C ends a loop of many, not one map of it."""
    if mass.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt
    kappa: Tensor = mass.kappa_e
    return kappa
