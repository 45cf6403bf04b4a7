"""Options of `pnp mass-map`: columns of the catalogue, and the map."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

METHODS = ("mlpatch", "wiener", "kaiser-squires")
FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""

_ARGUMENT = re.compile(
    r"\b(survey|ra|dec|e1|e2|weight|z|unit|table|max_e|noise|m|c1|c2|response|rms_e|pixel_arcmin|signs)="
    r"(\(\(.*?\)\)|\([^()]*\)|'[^']*'|[^\s,;]+)"
)


def as_option(message: str) -> str:
    """Return a message with options in place of the arguments of Python that its remedy names."""

    def option(found: re.Match[str]) -> str:
        value = re.sub(r"[()' ]", "", found[2]).replace("...", "COLUMN")
        return f"--{found[1].replace('_', '-')} {value.lower() if value == 'None' else value}"

    return re.sub(r"\b(read|map)_catalogue: ", "", _ARGUMENT.sub(option, message))


def _word(text: str | None) -> str | float | None:
    """Return a number where the text is one, else the name of a column; "none" is None."""
    if text is None or text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class CatalogueOptions:
    """Options that say what the columns of a catalogue are; names are found where they are not given."""

    survey: Annotated[
        str | None,
        typer.Option(
            help="Release whose columns and calibration are known: cfhtlens, des-y1, des-y3, hsc-y3, kids-450 or "
            "kids-1000."
        ),
    ] = None
    ra: Annotated[str | None, typer.Option(help="Column of right ascension.")] = None
    dec: Annotated[str | None, typer.Option(help="Column of declination.")] = None
    unit: Annotated[
        str | None, typer.Option(help="Unit of both, or of each: deg, rad or hourangle,deg; default: the file's.")
    ] = None
    e1: Annotated[str | None, typer.Option(help="Column of the first component; g[0] is that of a vector.")] = None
    e2: Annotated[str | None, typer.Option(help="Column of the second component.")] = None
    weight: Annotated[str | None, typer.Option(help="Column of the weights; none: all galaxies count alike.")] = None
    z: Annotated[str | None, typer.Option(help="Column of redshifts, for --z-min and --z-max.")] = None
    z_min: Annotated[float | None, typer.Option(help="Least redshift.")] = None
    z_max: Annotated[float | None, typer.Option(help="Redshift below which galaxies are used.")] = None
    m: Annotated[str | None, typer.Option(help="Column or number: multiplicative bias, e = R ((1 + m) g + c).")] = None
    c1: Annotated[str | None, typer.Option(help="Column or number: additive bias of e1.")] = None
    c2: Annotated[str | None, typer.Option(help="Column or number: additive bias of e2.")] = None
    response: Annotated[
        str | None,
        typer.Option(help="Response R, columns or numbers: R, or R11,R22, or R11,R12,R21,R22."),
    ] = None
    rms_e: Annotated[
        str | None, typer.Option(help="In place of --response, of distortions (HSC): their rms per component.")
    ] = None
    max_e: Annotated[float | None, typer.Option(help="Leave out galaxies with a larger ellipticity.")] = None
    table: Annotated[str | None, typer.Option(help="Table in a file that holds several: extension or path.")] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `read_catalogue` that are given."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("survey", "ra", "dec", "e1", "e2", "max_e")}
        given |= {name: _word(getattr(self, name)) for name in ("m", "c1", "c2", "rms_e")}
        given = {name: value for name, value in given.items() if value is not None}
        for name in ("weight", "z"):
            if (text := getattr(self, name)) is not None:
                given[name] = None if text.lower() == "none" else text
        if self.unit is not None:
            parts = tuple(self.unit.split(","))
            given["unit"] = parts if len(parts) == 2 else self.unit
        if self.table is not None:
            given["table"] = int(self.table) if self.table.isdigit() else self.table
        if self.response is not None:
            given["response"] = self._response()
        return given

    def _response(self) -> Any:
        parts = [_word(part.strip()) for part in self.response.split(",")] if self.response else []
        if len(parts) not in (1, 2, 4) or None in parts:
            raise ValueError(
                f"--response must be R, R11,R22 or R11,R12,R21,R22, columns or numbers, got {self.response!r:.60}"
            )
        return (
            parts[0] if len(parts) == 1 else tuple(parts) if len(parts) == 2 else (tuple(parts[:2]), tuple(parts[2:]))
        )


@dataclass(frozen=True)
class MassMapOptions:
    """Options of the map."""

    pixel_arcmin: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel of a plane map in arcminutes: the prior of mlpatch is best between 0.1 and 0.6."
        ),
    ] = None
    method: Annotated[
        str,
        typer.Option(
            help="Method: mlpatch (ADMM with a learned prior), wiener (spectrum measured from the shear) or "
            "kaiser-squires (with a smoothing)."
        ),
    ] = "mlpatch"
    nside: Annotated[
        int | None,
        typer.Option(help="Map the sphere instead, in HEALPix pixels: 512 has pixels of 6.9 arcmin, 1024 of 3.4."),
    ] = None
    smoothing_fwhm: Annotated[
        float | None, typer.Option(help="Full width at half maximum of the Gaussian of kaiser-squires, in arcminutes.")
    ] = None
    smoothing_sigma: Annotated[
        float | None, typer.Option(help="Standard deviation of the Gaussian of kaiser-squires, in arcminutes.")
    ] = None
    signs: Annotated[
        str, typer.Option(help="Signs of e1 and e2: 1,1 or 1,-1 or -1,1 or -1,-1; auto finds them from E and B modes.")
    ] = "auto"
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Take shapes for the reduced shear g/(1 - kappa), and correct for it.")
    ] = False
    noise: Annotated[
        str,
        typer.Option(
            help="Dispersion of a galaxy's component: scatter (measured), weights (inverse variances) or 0.3."
        ),
    ] = "scatter"
    prior_scale: Annotated[
        float, typer.Option(help="Ratio of the convergence's amplitude to that in the training of mlpatch.")
    ] = 1.0
    rotations: Annotated[
        int,
        typer.Option(help="Number of maps of randomly turned shapes for the noise of the map; 0: no such map."),
    ] = 0
    figure: Annotated[Path | None, typer.Option(help="Picture of the maps: .png, .pdf or .svg.")] = None
    seed: Annotated[int, typer.Option(help="Seed of the error map.")] = 0

    def smoothing_px(self) -> float:
        """Return the standard deviation of the smoothing in pixels of a plane map; 0 for other methods.

        Raises:
            ValueError: the method is not known, or does not go with the smoothing, or the pixels have no size.
        """
        if self.pixel_arcmin is None:
            raise ValueError("give --pixel-arcmin for a plane map of a field, or --nside for a map of the sphere")
        return self.smoothing_arcmin() / self.pixel_arcmin

    def smoothing_arcmin(self) -> float:
        """Return the standard deviation of the smoothing in arcminutes, as `smoothing_px` does."""
        given = [s for s in (self.smoothing_fwhm, self.smoothing_sigma) if s is not None]
        if self.method not in METHODS:
            raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {self.method!r:.40}")
        if self.method != "kaiser-squires" and given:
            raise ValueError(f"--smoothing-fwhm and --smoothing-sigma are for kaiser-squires, not {self.method}")
        if self.method == "kaiser-squires" and (len(given) != 1 or not 0 <= given[0] < math.inf):
            raise ValueError(
                "--method kaiser-squires needs --smoothing-fwhm or --smoothing-sigma, one of them, 0 or more"
            )
        return 0.0 if not given else given[0] if self.smoothing_fwhm is None else given[0] / FWHM

    def signs_given(self) -> tuple[int, int] | None:
        """Return the signs, or None for auto."""
        if self.signs == "auto":
            return None
        parts = self.signs.replace("+", "").split(",")
        if len(parts) != 2 or any(part.strip() not in ("1", "-1") for part in parts):
            raise ValueError(f"--signs must be auto or two of 1 and -1, e.g. 1,-1, got {self.signs!r:.40}")
        return int(parts[0]), int(parts[1])

    def noise_given(self) -> Any:
        """Return the argument noise of `map_catalogue`."""
        return self.noise if self.noise in ("scatter", "weights") else _word(self.noise)
