"""Helpers of `shear_survey.py`: read or simulate the survey, print the table of scores, write the files."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from collections.abc import Mapping
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
from pnp.readers import ShearMap, read_catalogue, read_shear_maps

PIXEL_ARCMIN = 0.29  # pixel of the maps that the convergence weights were trained on
SIMULATED = "simulated survey"  # in place of a path


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments that name the shear, its noise and its sign convention."""
    p.add_argument("--e1", help="first component: e1.fits, maps.fits[E1] or maps.h5[e1]")
    p.add_argument("--e2", help="second component, likewise")
    p.add_argument(
        "--noise-std", nargs="+", help="noise of both components or of each: map or number; --catalogue: of one galaxy"
    )
    p.add_argument("--mask", help="mask, a map that is 1 where observed")
    p.add_argument("--catalogue", help="galaxies instead of maps: FITS, CSV or HDF5 with ra, dec, e1, e2, weight")
    p.add_argument("--survey", help="release whose columns are known, e.g. kids-1000")
    p.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="columns of the catalogue, numbers and units: ra=RAJ2000 m=-0.01 response=R11,R22 unit=arcmin",
    )
    p.add_argument(
        "--pixel-arcmin",
        type=float,
        help="side of a pixel; required with --catalogue (default: the file's; simulated survey: 0.29)",
    )
    p.add_argument("--convention", choices=("lenspack", "conjugate", "transposed"), help="convention of the components")
    p.add_argument("--signs", nargs=2, type=int, choices=(1, -1), help="signs of e1 and e2 (default: from the data)")
    p.add_argument("--prior-scale", type=float, default=1.0, help="ratio of convergence to that in training")
    p.add_argument("--size", type=int, default=360, help="side of the simulated survey in pixels")


def find_survey(args: argparse.Namespace, generator: torch.Generator) -> ShearMap:
    """Return the survey given by the arguments, or a simulated one like COSMOS, cut from a larger sky."""
    noise: Any = [_number(part) for part in args.noise_std or ()]
    if args.catalogue:
        if args.pixel_arcmin is None or len(noise) > 1 or any(isinstance(part, str) for part in noise):
            raise ValueError("--catalogue needs --pixel-arcmin, and --noise-std at most one number, that of a galaxy")
        convention = args.convention or "lenspack"
        galaxies = read_catalogue(args.catalogue, survey=args.survey, **_columns(args.columns))
        return map_catalogue(galaxies, args.pixel_arcmin, convention=convention, noise=noise[0] if noise else "scatter")
    if args.input or args.e1:
        maps = {"e1": args.e1, "e2": args.e2, "mask": args.mask}
        maps["noise_std"] = None if not noise else noise[0] if len(noise) == 1 else tuple(noise)
        given = {name: part for name, part in maps.items() if part is not None}
        found = read_shear_maps(args.input, **given, pixel_arcmin=args.pixel_arcmin, convention=args.convention)
        if found.pixel_arcmin is None:
            raise ValueError(f"{found.path}: the side of a pixel is not known; give --pixel-arcmin")
        return found
    shape = (64, 64) if args.smoke else (args.size, args.size)
    pixel = args.pixel_arcmin or PIXEL_ARCMIN
    wide, field = wide_sky(shape), (..., slice(shape[0]), slice(shape[1]))
    kappa = LognormalKappa(wide, pixel_arcmin=pixel, std=args.std or 0.02, clusters=True)(1, generator=generator)
    noise_std = survey_noise(shape, generator=generator, std=0.125, holes=4 if args.smoke else 60)
    seen = noise_std.isfinite()
    n = torch.where(seen, noise_std, 0) * torch.randn(noise_std.shape, generator=generator)
    shear = torch.where(seen, KaiserSquires(wide).A(kappa)[field] + n, 0)
    return ShearMap(shear, noise_std, seen[:, :1], kappa=kappa[field].clone(), pixel_arcmin=pixel, path=SIMULATED)


def wide_sky(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of a periodic sky so large that a part of this shape (H, W) is not periodic."""
    return 2 * shape[0], 2 * shape[1]


def _columns(given: list[str]) -> dict[str, Any]:
    """Return arguments of `read_catalogue` written as name=column, name=number or name=column,column."""
    if bad := [part for part in given if "=" not in part]:
        raise ValueError(f"--columns must be NAME=COLUMN, e.g. ra=RAJ2000, got {bad[0]!r:.40}")
    pairs = dict(part.split("=", 1) for part in given)
    if unknown := set(pairs) - set(inspect.signature(read_catalogue).parameters):
        raise ValueError(f"--columns: {min(unknown)!r:.40} is no argument of read_catalogue, such as ra, e1, m, unit")
    found = {name: tuple(_number(p) for p in value.split(",")) for name, value in pairs.items()}
    return {name: value if len(value) > 1 else value[0] for name, value in found.items()}


def _number(part: str) -> float | str:
    try:
        return float(part)
    except ValueError:
        return part


def print_table(entries: list[Entry], A: KaiserSquires, y: Tensor, noise_std: Tensor, truth: Tensor | None) -> None:
    """Print residual and time of each method and, if the truth is known, scores without the means (not measured)."""
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
    stem: Path, survey: ShearMap, mass: MassMap, error: Tensor, cards: Mapping[str, Any], snr_ks: Tensor, peaks: Peaks
) -> None:
    """Write the map (HDF5); for a real survey also all maps (FITS) and the peaks, highest first (ECSV).

    The cards say in the header of the FITS maps where the error map is from.
    """
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
    if survey.path == SIMULATED:
        return
    maps = {"KAPPA_E": mass.kappa_e, "KAPPA_B": mass.kappa_b, "ERROR": error, "SNR_KS": snr_ks, "MASK": survey.mask}
    header = {"DENOISER": "MLPatch convergence", "SHEARCON": survey.convention, **cards}
    write_fits_maps(stem.with_suffix(".fits"), maps, wcs=survey.wcs, header=header, overwrite=True)

    row, column = peaks.row.cpu().numpy(), peaks.column.cpu().numpy()
    table = Table({"row": row, "column": column})
    if survey.wcs is not None:
        table["ra"], table["dec"] = survey.wcs.wcs_pix2world(column, row, 0)
        table["ra"].unit = table["dec"].unit = "deg"
    for name, value in {"kappa": mass.kappa_e, "error": error, "snr_ks": snr_ks}.items():
        table[name] = value[0, 0].cpu().numpy()[row, column]
    table["height_over_error"] = peaks.height.cpu().numpy()  # no Gaussian significance: of the uniform error map
    with atomic(stem.with_name(f"{stem.name}_peaks.ecsv"), overwrite=True) as part:
        table.write(part, format="ascii.ecsv")


def finished(mass: MassMap) -> Tensor:
    """Return the E mode of a mass map; if it was interrupted, raise KeyboardInterrupt to end the loop over maps."""
    if mass.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt
    kappa: Tensor = mass.kappa_e
    return kappa
