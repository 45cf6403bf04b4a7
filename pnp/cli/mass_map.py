"""The command `pnp mass-map`: from a catalogue of galaxies to a map of convergence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .mass_map_options import CatalogueOptions, MassMapOptions, as_option
from .option_groups import with_option_groups
from .options import Device, Overwrite, choose_device
from .output import INTERRUPTED, print_warning

if TYPE_CHECKING:
    from torch import Tensor

    from ..readers import ShearCatalogue, ShearMap

FITS = (".fits", ".fit", ".fits.gz")
SPARSE = 0.05
"""Part of the pixels with galaxies, below which the unit of positions and the size of pixels are questioned."""
FIGURES = (".png", ".pdf", ".svg")


@with_option_groups
def mass_map(
    catalogue: Annotated[
        Path,
        typer.Argument(
            help="Galaxies with their shapes: FITS, CSV, ECSV, VOTable, Parquet, HDF5 or a plain text table; or shear "
            "in a HEALPix file."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Maps: .fits or .fits.gz.")],
    *,
    columns: CatalogueOptions,
    mapping: MassMapOptions,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Map mass from the shapes of galaxies.

    Galaxies are averaged in square pixels with their weights, calibration and noise, and the shear becomes convergence.
    Columns, units and signs are found where they are not given, and printed. The FITS file has world coordinates and
    the extensions KAPPA_E; KAPPA_B, which is noise where nothing is wrong; ERROR, the standard deviation of KAPPA_E;
    MASK, 1 where galaxies are; and COUNTS. ERROR is the noise of kaiser-squires, and the error of the Wiener filter for
    the other methods. With --rotations there are NOISE, of maps of randomly turned shapes, and SNR = KAPPA_E/NOISE.
    What looks wrong is a line "warning: ..." on stderr, with exit code 0.

    With --nside, or from a HEALPix file, the map is one of the sphere, however wide the survey: a HEALPix table of the
    observed pixels, ring order, with columns of these names but for ERROR. Signs are taken as they are without --signs.

    \b
    Examples:
      pnp mass-map galaxies.fits -o mass.fits --pixel-arcmin 0.3
      pnp mass-map kids.fits -o mass.fits --survey kids-1000 --m -0.01 --pixel-arcmin 1 --method wiener
      pnp mass-map shapes.parquet -o mass.fits --pixel-arcmin 1 --response R11,R22 --signs 1,-1 --method wiener
      pnp mass-map des.h5 -o sky.fits --survey des-y3 --nside 512 --method wiener --signs 1,-1
      pnp mass-map galaxies.csv -o ks.fits --pixel-arcmin 1 --method kaiser-squires --smoothing-fwhm 5 --figure ks.png
    """
    from ..io import check_output
    from ..io.fits import write_fits_maps
    from .mass_map_sphere import is_healpix, map_sphere

    if not output.name.lower().endswith(FITS):
        raise ValueError(f"output {output} must end in {', '.join(FITS)}; rename it")
    check_output(output, overwrite=overwrite)
    if mapping.figure is not None:
        if mapping.figure.suffix.lower() not in FIGURES:
            raise ValueError(f"--figure {mapping.figure} must end in {', '.join(FIGURES)}; rename it")
        check_output(mapping.figure, overwrite=overwrite)
    mapping.signs_given()
    where = choose_device(device)
    if mapping.nside is not None or is_healpix(catalogue):
        map_sphere(catalogue, output, columns, mapping, where, overwrite=overwrite)
        return
    smoothing_px = mapping.smoothing_px()

    survey = _survey(catalogue, columns, mapping)
    maps, header, interrupted = _maps(survey, mapping, smoothing_px, where)
    write_fits_maps(output, maps, wcs=survey.wcs, header=header, overwrite=overwrite)
    if mapping.figure is not None:
        _draw(mapping.figure, survey, maps, overwrite=overwrite)
    print(f"{output}: {', '.join(maps)}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _survey(catalogue: Path, columns: CatalogueOptions, mapping: MassMapOptions) -> ShearMap:
    """Return the shear map of the galaxies, with the signs given, or those that fit."""
    from ..lensing import map_catalogue, score_conventions

    assert mapping.pixel_arcmin is not None
    with in_options():
        binned = partial(
            map_catalogue, read_galaxies(catalogue, columns), mapping.pixel_arcmin, noise=mapping.noise_given()
        )
        signs = mapping.signs_given()
        survey: ShearMap = binned(signs=signs or (1, 1))
    print("columns: " + ", ".join(f"{name} = {column}" for name, column in survey.facts["columns"].items()))
    if signs is None and min(survey.shape) >= 16:
        scores = score_conventions(survey)
        print(f"signs: {scores.verdict}")
        if scores.best is not None:
            survey = binned(**scores.options)
        else:
            print_warning(
                "the signs of e1 and e2 are taken as they are, since the data do not decide them; give --signs"
            )
    print(survey)
    if (observed := float(survey.mask.float().mean())) < SPARSE:
        print_warning(
            f"only {100 * observed:.2g} % of the {survey.shape[0]} x {survey.shape[1]} pixels hold galaxies; give "
            "--unit if ra and dec are in another unit, or larger pixels, --pixel-arcmin"
        )
    return survey


def read_galaxies(catalogue: Path, columns: CatalogueOptions) -> ShearCatalogue:
    """Return the galaxies of the catalogue, within the limits of redshift."""
    from ..readers import read_catalogue

    galaxies: ShearCatalogue = read_catalogue(catalogue, **columns.arguments())
    limits = {name: v for name in ("z_min", "z_max") if (v := getattr(columns, name)) is not None}
    return galaxies.select(**limits) if limits else galaxies


def _maps(
    survey: ShearMap, mapping: MassMapOptions, smoothing_px: float, device: Any
) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Return the maps on the pixels of the survey, the cards of their header, and whether Ctrl-C stopped them."""
    import torch

    from ..lensing import OddGrid, measured_spectrum, rotated_std, smoothed_noise, wiener_std
    from ..lensing.spectrum import rotated

    grid = OddGrid(survey.shape, margin_px=max(min(survey.shape) // 4, round(6 * smoothing_px)))
    y = grid.embed(survey.shear, 0.0).to(device)
    std = grid.embed(survey.noise_std, torch.inf).to(device)
    A = survey.operator(grid.shape).to(device)
    generator = torch.Generator().manual_seed(mapping.seed)
    interrupted = False
    reconstruct: Callable[[Tensor, Tensor], Tensor]
    spectrum = None if mapping.method == "kaiser-squires" else measured_spectrum(A, y, std).spectrum
    if spectrum is not None and mapping.method == "mlpatch":
        solve = _mlpatch(survey, mapping, float(spectrum.mean()) ** 0.5, device)
        found = solve(y, std, reduced=mapping.reduced, progress=True)
        E, B, interrupted = found.kappa_e, found.kappa_b, found.stop.name == "INTERRUPTED"
        for warning in found.warnings:
            print_warning(warning)
        reconstruct = lambda y, std: solve(y, std, b_mode=False).kappa_e  # noqa: E731
    else:
        reconstruct = _linear(A, mapping.method, smoothing_px, spectrum)
        E, B = (_shear_of(mapping, reconstruct, *shear) for shear in ((y, std), (rotated(y), std.flip(1))))
    if spectrum is None:
        error = smoothed_noise(A, std, smoothing_px)
    else:
        error = wiener_std(A, y, std, spectrum, generator=generator, draws=32, progress=True)
    maps = {"KAPPA_E": grid.crop(E), "KAPPA_B": grid.crop(B), "ERROR": grid.crop(error)}
    if mapping.rotations and not interrupted:
        noise = rotated_std(reconstruct, y, std, generator=generator, draws=mapping.rotations, progress=True)
        maps |= {"NOISE": grid.crop(noise), "SNR": grid.crop(E / noise.clamp(min=torch.finfo(E.dtype).tiny))}
    maps |= {"MASK": survey.mask}
    if survey.counts is not None:
        maps["COUNTS"] = survey.counts
    return maps, _header(survey, mapping, smoothing_px), interrupted


def _header(survey: ShearMap, mapping: MassMapOptions, smoothing_px: float) -> dict[str, Any]:
    """Return the cards that say how the maps were made."""
    cards: dict[str, Any] = {
        "METHOD": mapping.method,
        "SHEARCON": survey.convention,
        "SIGN1": survey.signs[0],
        "SIGN2": survey.signs[1],
        "SWAP": survey.swap,
        "PIXARCMN": mapping.pixel_arcmin,
        "REDUCED": mapping.reduced,
        "RESPONSE": survey.facts["response"],
    }
    if mapping.method == "kaiser-squires":
        cards["SMOOTHSD"] = mapping.smoothing_arcmin()
    return cards


def _mlpatch(survey: ShearMap, mapping: MassMapOptions, std: float, device: Any) -> Callable[..., Any]:
    """Return `map_mass` with the learned prior; print whether it fits the amplitude and the pixels."""
    from denoisers import MLPatch

    from ..lensing import ScaledPrior, map_mass

    assert mapping.pixel_arcmin is not None
    judge_prior(std / mapping.prior_scale, mapping.pixel_arcmin)
    D = ScaledPrior(MLPatch.from_pretrained("convergence").to(device), mapping.prior_scale)
    return partial(map_mass, denoiser=D, make_operator=partial(survey.operator, b_mode=True), margin_px=None)


def judge_prior(std: float, pixel_arcmin: float) -> None:
    """Print whether the learned prior fits the amplitude and the pixels, or a warning."""
    from ..lensing import check_prior

    fit = check_prior(std, pixel_arcmin)
    if fit.fits:
        print(f"prior: {fit.advice}")
    else:
        print_warning(
            f"{fit.advice.replace(f'scale it, ScaledPrior(D, {fit.scale:g})', f'give --prior-scale {fit.scale:g}')}; "
            "--method wiener needs no training"
        )


def _linear(A: Any, method: str, smoothing_px: float, spectrum: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the Wiener filter, or Kaiser-Squires with its smoothing."""
    from ..lensing import smoothed_kaiser_squires, wiener

    if method == "kaiser-squires":
        return lambda y, std: smoothed_kaiser_squires(A, y, std, smoothing_px)
    assert spectrum is not None
    return lambda y, std: wiener(A, y, std, spectrum)


def _shear_of(
    mapping: MassMapOptions, reconstruct: Callable[[Tensor, Tensor], Tensor], y: Tensor, std: Tensor
) -> Tensor:
    from ..lensing import undo_reduction

    return undo_reduction(reconstruct, y, std)[0] if mapping.reduced else reconstruct(y, std)


@contextmanager
def in_options() -> Iterator[None]:
    """Print the warnings of readers, and let their errors name options in place of Python's arguments."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except ValueError as error:
            raise ValueError(as_option(str(error))) from error
        finally:
            for warning in caught:
                print_warning(as_option(str(warning.message)))


def _draw(path: Path, survey: ShearMap, maps: dict[str, Tensor], *, overwrite: bool) -> None:
    """Draw E, B and the error on the sky, the field outlined."""
    from matplotlib.figure import Figure

    from ..io.atomic import atomic

    mask = survey.mask[0, 0].numpy()
    low, high = (float(maps["KAPPA_E"].cpu()[survey.mask].double().quantile(q)) for q in (0.005, 0.998))
    figure = Figure(figsize=(13, 1.2 + 4.2 * survey.shape[0] / survey.shape[1]), dpi=110, layout="constrained")
    names = ["KAPPA_E", "KAPPA_B", "SNR" if "SNR" in maps else "ERROR"]
    for k, name in enumerate(names, start=1):
        axis = figure.add_subplot(1, len(names), k, projection=survey.wcs)
        limits = {"vmin": low, "vmax": high} if name.startswith("KAPPA") else {}
        shown = axis.imshow(maps[name][0, 0].cpu().numpy(), origin="lower", cmap="inferno", **limits)
        if not mask.all():
            axis.contour(mask, [0.5], colors="0.7", linewidths=0.5, origin="lower")
        axis.set_title(name, fontsize=10)
        figure.colorbar(shown, ax=axis, shrink=0.8)
    with atomic(path, overwrite=overwrite) as part:
        figure.savefig(part)
