"""`pnp mass-map --nside`: from a catalogue of galaxies, or a HEALPix file of shear, to a HEALPix map of convergence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .mass_map_options import CatalogueOptions, MassMapOptions
from .output import INTERRUPTED, print_warning

if TYPE_CHECKING:
    from torch import Tensor

    from ..lensing.sphere import SphereShear


def is_healpix(path: Path) -> bool:
    """Return whether a file holds a HEALPix map."""
    from ..lensing.sphere import is_healpix

    return is_healpix(path)


def map_sphere(
    catalogue: Path,
    output: Path,
    columns: CatalogueOptions,
    mapping: MassMapOptions,
    device: Any,
    *,
    overwrite: bool,
) -> None:
    """Map the sphere and write the observed pixels; options are those of `pnp mass-map`."""
    from ..lensing.sphere import write_healpix

    refused = {"--pixel-arcmin": mapping.pixel_arcmin, "--figure": mapping.figure, "--rotations": mapping.rotations}
    if given := [name for name, value in refused.items() if value]:
        raise ValueError(f"{', '.join(given)}: only for a plane map of a field, not with --nside or a HEALPix file")
    smoothing_arcmin = mapping.smoothing_arcmin()
    try:
        survey = _survey(catalogue, columns, mapping)
        maps, interrupted = _maps(survey, mapping, smoothing_arcmin, device)
    except ImportError as error:  # ducc0
        raise ValueError(str(error)) from error
    cards: dict[str, Any] = {
        "METHOD": mapping.method,
        "SHEARCON": survey.convention,
        "SIGN1": survey.signs[0],
        "SIGN2": survey.signs[1],
        "REDUCED": mapping.reduced,
    }
    if mapping.method == "kaiser-squires":
        cards["SMOOTHSD"] = smoothing_arcmin
    write_healpix(output, maps, mask=survey.mask, header=cards, overwrite=overwrite)
    print(f"{output}: {', '.join(maps)}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _survey(catalogue: Path, columns: CatalogueOptions, mapping: MassMapOptions) -> SphereShear:
    """Return the shear of the sphere, with the signs given."""
    from ..lensing.sphere import map_catalogue, read_shear
    from .mass_map import in_options, read_galaxies

    signs = mapping.signs_given()
    with in_options():
        if is_healpix(catalogue):
            named = {name: value for name in ("e1", "e2") if (value := getattr(columns, name)) is not None}
            survey = read_shear(catalogue, **named)
            if mapping.nside not in (None, survey.nside):
                raise ValueError(f"{catalogue} has nside {survey.nside}, got --nside {mapping.nside}; leave it out")
            survey = survey if signs is None else survey.with_signs(*signs)
        else:
            assert mapping.nside is not None
            galaxies = read_galaxies(catalogue, columns)
            survey = map_catalogue(galaxies, mapping.nside, signs=signs or (1, 1), noise=mapping.noise_given())
            print("columns: " + ", ".join(f"{n} = {column}" for n, column in survey.facts["columns"].items()))
            if signs is None:
                print_warning(
                    "the signs of e1 and e2 are taken as they are; give --signs: a plane map of a part of the field, "
                    "--pixel-arcmin, finds them"
                )
    print(survey)
    return survey


def _maps(
    survey: SphereShear, mapping: MassMapOptions, smoothing_arcmin: float, device: Any
) -> tuple[dict[str, Tensor], bool]:
    """Return the maps on the survey's pixels, and whether Ctrl-C stopped them."""
    from ..lensing import undo_reduction
    from ..lensing.sphere import map_mass, measured_power, smoothed_kaiser_squires, wiener
    from ..lensing.sphere.shear import rotated

    A = survey.operator().to(device)
    y, std = survey.tensors(device)
    interrupted = False
    power = None if mapping.method == "kaiser-squires" else measured_power(A, y, std).power
    prior = _prior(survey, A, power, mapping, device) if mapping.method == "mlpatch" else None

    def reconstruct(y: Tensor, std: Tensor) -> Tensor:
        nonlocal interrupted
        if power is None:
            return smoothed_kaiser_squires(A, y, std, smoothing_arcmin)
        if prior is None:
            return wiener(A, y, std, power)
        found = map_mass(A, y, std, denoiser=prior, b_mode=False, progress=True)
        interrupted = interrupted or found.stop.name == "INTERRUPTED"
        for warning in found.warnings:
            print_warning(warning)
        E: Tensor = found.kappa_e
        return E

    def mapped(y: Tensor, std: Tensor) -> Tensor:
        if not mapping.reduced:
            return reconstruct(y, std)
        return undo_reduction(reconstruct, y, std, more=lambda: not interrupted)[0]

    maps = {"KAPPA_E": mapped(y, std)}
    if not interrupted:
        maps["KAPPA_B"] = mapped(rotated(y), std.flip(1))
    if survey.counts is not None:
        maps["COUNTS"] = survey.counts
    return maps, interrupted


def _prior(survey: SphereShear, A: Any, power: Any, mapping: MassMapOptions, device: Any) -> Any:
    """Return the learned prior on tangent patches; print whether it fits the amplitude and the pixels there."""
    import torch

    from denoisers import MLPatch

    from ..lensing import ScaledPrior
    from ..lensing.sphere import TangentPatches
    from .mass_map import judge_prior

    D = ScaledPrior(MLPatch.from_pretrained("convergence").to(device), mapping.prior_scale)
    prior = TangentPatches(D, survey.nside, lmax=A.lmax, mask=survey.mask)
    variance = float(((2 * torch.arange(A.lmax + 1) + 1) * power.cpu()).sum()) / (4 * math.pi)
    judge_prior(math.sqrt(variance) / mapping.prior_scale, 60 * math.degrees(prior.spacing))
    return prior
