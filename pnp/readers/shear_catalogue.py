"""Catalogues of galaxies with their shapes: FITS, CSV, ECSV, VOTable, Parquet, HDF5 and text tables, as published.

Every survey names its columns in its own way. Those in `ALIASES` are found, whatever their case; several that fit
and differ are an error, never a guess. `SURVEYS` holds the columns of published catalogues. Angles are in the unit of
the file, degrees where it states none. Rows that cannot be used are left out and counted in `ShearCatalogue.dropped`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import short
from ..io.guards import check_file, check_real
from ..io.tables import Columns, first_names, open_table
from .shear_calibration import (
    as_response,
    is_response,
    mean_response,
    response_columns,
    unused_calibration,
    unused_sentence,
)
from .shear_columns import column_of, column_values, hold_alike, is_component
from .shear_surveys import survey_arguments

_Array = npt.NDArray[np.float64]

ALIASES: Mapping[str, tuple[str, ...]] = {
    name: tuple(names.split())
    for name, names in {
        "ra": "ra alpha_j2000 alphawin_j2000 ra_j2000 raj2000 ra_deg ra_gal right_ascension coord_ra ira",
        "dec": "dec delta_j2000 deltawin_j2000 dec_j2000 dej2000 decj2000 dec_deg dec_gal declination coord_dec idec",
        "e1": "e1 e_1 g1 g_1 gamma1 gamma_1 e1_gal g1_gal eps1 epsilon1 shear1 shear_1 mcal_g_1 mcal_g1",
        "weight": "weight weights w wgt shape_weight lensfit_weight weight_lensfit recal_weight",
        "z": "z redshift z_b z_phot zphot z_photo photo_z photoz z_spec z_best z_mean z_cgal z_gal",
        "kappa": "kappa kappa_true convergence",
    }.items()
}
"""Names by which columns are found; the name of e2 is that of e1 with 2 in place of its last 1."""

_OPTIONAL_COLUMNS = ("weight", "z", "kappa")


@dataclass(frozen=True, eq=False)
class ShearCatalogue:
    """Galaxies: positions and shapes, (n,) float64 each; `pnp.lensing.map_catalogue` makes a `ShearMap` of them.

    Rows with a value that is not finite (z apart: it matters to `select` only) or with weight 0 are left out.

    Attributes:
        ra: right ascension in degrees, any turn: 359 and -1 are one place.
        dec: declination in degrees, -90 to 90.
        e1: ellipticity or shear, first component, without unit; the signs are the survey's own.
        e2: second component.
        weight: at least 0; None: 1 each.
        z: redshift; None: not known.
        kappa: true convergence, in simulations; None: not known.
        sigma_e: dispersion of one component of each galaxy's shape and its measurement; a number: the same for all.
        m: multiplicative bias, e = R ((1 + m) shear + c); an array or a number. Only its mean counts: a galaxy's may be
            below -1.
        c1: additive bias of e1; an array or a number.
        c2: additive bias of e2; an array or a number.
        response: R, whose mean counts: (n,); (n, 2), of e1 and e2; or (n, 2, 2), de_i/dshear_j; a number, two, or 2 x 2
            of them; None: 1.
        max_e: galaxies with e1^2 + e2^2 > max_e^2 are left out; None: they are an error beyond 1; infinity: all stay.
        dropped: reason to number of rows left out so far.
        columns: which column of the file became what.
        unused: columns of the file that hold a calibration and were not used.
        path: the file, for messages.

    Raises:
        TypeError: values are not real numbers.
        ValueError: lengths differ; angles, weights or shapes are impossible; no galaxy is left.
    """

    ra: _Array = field(repr=False)
    dec: _Array = field(repr=False)
    e1: _Array = field(repr=False)
    e2: _Array = field(repr=False)
    weight: _Array = field(default=None, repr=False)  # type: ignore[arg-type]  # an array once built
    z: _Array | None = field(default=None, repr=False)
    kappa: _Array | None = field(default=None, repr=False)
    sigma_e: _Array | float | None = field(default=None, repr=False)
    m: _Array | float = field(default=0.0, repr=False)
    c1: _Array | float = field(default=0.0, repr=False)
    c2: _Array | float = field(default=0.0, repr=False)
    response: Any = field(default=None, repr=False)
    max_e: float | None = field(default=None, repr=False)
    dropped: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    path: str = ""

    def __post_init__(self) -> None:
        where = self.path or "ShearCatalogue"
        arrays = {name: _column(where, name, getattr(self, name)) for name in ("ra", "dec", "e1", "e2")}
        n = len(arrays["ra"])
        for name in ("weight", "z", "kappa", "sigma_e", "m", "c1", "c2"):
            if (value := getattr(self, name)) is not None:
                arrays[name] = _column(where, name, value, n)
        arrays.setdefault("weight", np.ones(n))
        if self.response is not None:
            arrays["response"] = as_response(where, self.response, n)
        lengths = {name: len(values) for name, values in arrays.items()}
        if set(lengths.values()) != {n}:
            raise ValueError(f"{where}: columns must be of one length, got {lengths}; give one value per galaxy")

        finite = np.logical_and.reduce(
            [
                np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
                for name, values in arrays.items()
                if name != "z"
            ]
        )
        keep, dropped = finite & (arrays["weight"] != 0), dict(self.dropped)
        _count(dropped, "not finite", ~finite)
        _count(dropped, "weight 0", finite & ~keep)
        _check(where, {name: values[keep] for name, values in arrays.items()})
        elongated = _elongated(where, np.hypot(arrays["e1"], arrays["e2"]), keep, self.max_e)
        _count(dropped, f"|e| > {self.max_e}", elongated)
        keep &= ~elongated
        if not keep.any():
            raise ValueError(f"{where} must hold a galaxy, got {_summary(n, dropped)}; see its columns and weights")
        for name, values in arrays.items():
            object.__setattr__(self, name, values[keep])
        mean_response(where, self.m, self.response, self.weight)
        object.__setattr__(self, "dropped", dropped)

    def __len__(self) -> int:
        return len(self.ra)

    def __repr__(self) -> str:
        given = [name for name in ("z", "kappa", "sigma_e") if getattr(self, name) is not None]
        unused = f"; calibration not used: {', '.join(self.unused)}" if self.unused else ""
        given = ["ra, dec, e1, e2, weight", *given]
        return f"ShearCatalogue({_summary(len(self), self.dropped)}; {', '.join(given)}{unused})"

    def select(self, *, z_min: float = -math.inf, z_max: float = math.inf) -> ShearCatalogue:
        """Return the galaxies of a redshift bin, z_min <= z < z_max; the others, and those without z, are counted."""
        if self.z is None:
            raise ValueError(
                f"{self.path or 'ShearCatalogue'}: select needs redshifts, there is no column z, or several fit; name "
                "it, z='...'"
            )
        if not z_min < z_max:
            raise ValueError(f"ShearCatalogue.select: z_min must be below z_max, got {z_min!r} and {z_max!r}")
        keep = (self.z >= z_min) & (self.z < z_max)
        dropped = dict(self.dropped)
        _count(dropped, f"z outside [{z_min:g}, {z_max:g})", ~keep)
        names = ("ra", "dec", "e1", "e2", "weight", "z", "kappa", "sigma_e", "m", "c1", "c2", "response")
        kept = {name: values[keep] for name in names if (values := getattr(self, name)) is not None}
        return replace(self, **kept, dropped=dropped)


def read_catalogue(
    source: str | os.PathLike[str] | Any,
    *,
    survey: str | None = None,
    ra: str = "auto",
    dec: str = "auto",
    e1: str = "auto",
    e2: str = "auto",
    weight: str | None = "auto",
    z: str | None = "auto",
    kappa: str | None = "auto",
    sigma_e: str | float | None = None,
    m: str | float | None = None,
    c1: str | float | None = None,
    c2: str | float | None = None,
    response: Any = None,
    rms_e: str | float | None = None,
    unit: str | tuple[str, str] | None = None,
    table: str | int | None = None,
    max_e: float | None = None,
) -> ShearCatalogue:
    """Read galaxies from a file, or from an astropy Table, for instance one that you have cut.

    Args:
        source: .fits (also .gz), .csv, .ecsv, .txt (.dat, .asc, .tsv), .vot (.xml), .parquet (with pyarrow), .h5 or
            .hdf5; or a Table.
        survey: one of `SURVEYS`, e.g. "kids-1000": columns and calibration that are not given are those of its release.
        ra: name of the column; "auto" finds it by `ALIASES`. "g[0]" is the first component of a column of vectors.
        dec: likewise.
        e1: likewise.
        e2: likewise; "auto" is the partner of e1.
        weight: likewise; None, or no such column: all galaxies count alike.
        z: redshift, likewise; None, or several that differ: not read.
        kappa: true convergence of simulations, likewise.
        sigma_e: column or number: dispersion of one component.
        m: column or number: multiplicative bias; None: 0.
        c1: column or number: additive bias of e1; None: 0.
        c2: column or number: additive bias of e2; None: 0.
        response: column or number, of both components; a pair, of each; or two pairs, the rows of a matrix:
            (("R11", "R12"), ("R21", "R22")); None: 1.
        rms_e: in place of response, of distortions: column or number, their root mean square per component; the
            response is then 2 (1 - rms_e^2).
        unit: of ra and dec, or a pair (of ra, of dec), as astropy spells them: "deg", "rad", "hourangle"; None: the
            file's, degrees where it has none.
        table: extension of a FITS file (name or number), or path in an HDF5 file, where there are several.
        max_e: see `ShearCatalogue`.

    Warns:
        UserWarning: columns hold a calibration that is not used, such as m, c1, c2, R11: `ShearCatalogue.unused`.

    Raises:
        TypeError: a column holds no real numbers.
        ValueError: the file is missing, damaged or no table; a column is missing or ambiguous; angles look like radians
            or hours and no unit says otherwise; or see `ShearCatalogue`.
    """
    is_file = isinstance(source, str | os.PathLike)
    where = str(source) if is_file else "Table"
    preset = {} if survey is None else survey_arguments(survey)
    named = {"ra": ra, "dec": dec, "e1": e1, "e2": e2, "weight": weight, "z": z, "kappa": kappa}
    named = {name: preset.get(name, given) if given == "auto" else given for name, given in named.items()}
    numbers: dict[str, Any] = {"sigma_e": sigma_e, "m": m, "c1": c1, "c2": c2, "response": response, "rms_e": rms_e}
    numbers = {name: preset.get(name) if given is None else given for name, given in numbers.items()}
    if response is not None and rms_e is not None:
        raise ValueError("read_catalogue: response and rms_e must not both be given, got two; rms_e is of distortions")
    if response is not None or rms_e is not None:  # one of them replaces the preset's
        numbers["response" if response is None else "rms_e"] = None
    for name, given in named.items():
        if not isinstance(given, str) and (given is not None or name not in _OPTIONAL_COLUMNS):
            raise TypeError(f"read_catalogue: {name} must be the name of a column, got {given!r:.40}")
    if isinstance(m, str) and is_response(m):
        raise ValueError(f"read_catalogue: m must be a bias, e = (1 + m) shear, got {m!r:.40}; give response={m!r:.40}")
    is_hdf5 = where.lower().endswith((".h5", ".hdf5"))
    table = preset.get("table") if table is None and is_hdf5 else table
    with open_table(check_file(source) if is_file else source, where, table) as held:
        columns = _named(where, held, named)
        simple = {name: v for name, v in numbers.items() if name != "response" and isinstance(v, str)}
        columns |= {name: _existing(where, held, name, v) for name, v in simple.items()}
        unused = unused_calibration((name for name in held if name not in columns.values()), numbers)
        values, of_response = response_columns(
            numbers.pop("response"), lambda name: column_values(held, _existing(where, held, "response", name))
        )
        fields = {name: v for name, v in numbers.items() if v is not None}
        fields |= {name: column_values(held, column) for name, column in columns.items()}
        units = {name: held[column_of(held, columns[name])].unit for name in ("ra", "dec")}
    if (rms := fields.pop("rms_e", None)) is not None:
        values = 2 * (1 - np.square(np.ma.asarray(rms, dtype=np.float64)))
    if of_response:
        columns["response"] = ", ".join(of_response)
    if unused:
        warnings.warn(unused_sentence(where, unused), stacklevel=2)
    if unit is not None:
        units = dict(zip(("ra", "dec"), unit if isinstance(unit, tuple) else (unit, unit), strict=True))
    for name, said in units.items():
        fields[name] = _degrees(f"{where}: {columns[name]}", fields[name], said)
    if not any(units.values()):
        _check_degrees(where, fields["ra"], fields["dec"])
    return ShearCatalogue(
        **fields, response=values, max_e=max_e, columns=columns, unused=tuple(unused), path=where if is_file else ""
    )


# ------------------------------------------------------------------------------------------- columns


def _named(where: str, held: Columns, wanted: dict[str, str | None]) -> dict[str, str]:
    """Return the columns of the file that are wanted, by name or by alias."""
    found: dict[str, str] = {}
    for name, given in wanted.items():
        if name == "e2" and given == "auto":
            given = _partner(where, held, found["e1"])
        if given == "auto":
            fitting = [column for column in held if column.lower() in ALIASES.get(name, ())]
            if len(fitting) > 1 and hold_alike(held, fitting):
                del fitting[1:]
            if len(fitting) > 1 and name == "z":  # only `select` needs it
                continue
            if len(fitting) > 1:
                leave = f" or leave it out, {name}=None" if name in _OPTIONAL_COLUMNS else ""
                raise ValueError(
                    f"{where}: {name} may be any of the columns {', '.join(fitting):.120}; name one, "
                    f"{name}={fitting[0]!r}{leave}; it holds {first_names(held)}"
                )
            if fitting:
                found[name] = fitting[0]
            elif name not in _OPTIONAL_COLUMNS:
                raise ValueError(
                    f"{where}: no column is known to be {name}; name it, {name}='...'; it holds {first_names(held)}"
                )
        elif given is not None:
            found[name] = _existing(where, held, name, given)
    return found


def _partner(where: str, held: Columns, e1: str) -> str:
    """Return the second component's column: the first's with 2 in place of its last 1."""
    if e1 not in held and e1.endswith("[0]"):
        return f"{e1[:-3]}[1]"
    head, one, tail = e1.rpartition("1")
    for column in held:
        if one and column.lower() == f"{head}2{tail}".lower():
            return column
    raise ValueError(
        f"{where}: no column is known to be the partner of e1={e1!r:.40}; name it, e2='...'; it holds "
        f"{first_names(held)}"
    )


def _existing(where: str, held: Columns, name: str, given: str) -> str:
    if given in held:
        return given
    alike = [column for column in held if column.lower() == given.lower()]
    if len(alike) == 1:
        return alike[0]
    if is_component(held, given):
        return given
    raise ValueError(
        f"{where}: there is no column {given!r:.60} for {name}; name it, {name}='...'; it holds "
        f"{first_names(held, like=given)}"
    )


def _column(where: str, name: str, values: Any, n: int | None = None) -> _Array:
    """Return one number per galaxy, float64, in this machine's byte order; masked values become NaN."""
    masked = hasattr(values, "filled")  # numpy's or astropy's masked arrays
    array: Any = values if masked else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{where}: {name} must hold real numbers, got {array.dtype}; convert text, e.g. by astropy's Angle"
        )
    if masked:
        array = array.astype(np.float64).filled(np.nan)
    if n is not None and array.ndim == 0:
        array = np.full(n, array, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{where}: {name} must be (n_galaxies,), got {array.shape}; store its components as columns")
    return np.array(array, dtype=np.float64)


# ------------------------------------------------------------------------------------------- values


def _degrees(where: str, values: Any, unit: Any) -> Any:
    """Return an angle in degrees, from the unit stated, or as it is where none is."""
    if unit is None or str(unit) == "":
        return values
    from astropy import units

    name = {"h": "hourangle", "hr": "hourangle", "hour": "hourangle", "degrees": "deg", "radians": "rad"}
    try:
        factor = units.Unit(name.get(str(unit).lower(), unit)).to(units.deg)
    except (ValueError, TypeError, units.UnitConversionError):
        raise ValueError(
            f"{where}: its unit {str(unit)!r:.40} is not an angle; give unit='deg', unit='rad' or "
            "unit=('hourangle', 'deg')"
        ) from None
    check_real(where, np.asarray(values).dtype)
    return values if factor == 1 else np.ma.asarray(values) * factor


def _check_degrees(where: str, ra: Any, dec: Any) -> None:
    """Refuse angles without a unit that are likely radians or hours."""
    ra, dec = _column(where, "ra", ra), _column(where, "dec", dec)
    if ra.shape != dec.shape:  # ShearCatalogue refuses them
        return
    usable = np.isfinite(ra) & np.isfinite(dec)
    if not usable.any():
        return
    ra, dec = ra[usable], dec[usable]
    span = f"ra {ra.min():.4g} to {ra.max():.4g}, dec {dec.min():.4g} to {dec.max():.4g}"
    if np.abs(ra).max() <= 2 * math.pi and np.abs(dec).max() <= math.pi / 2:
        raise ValueError(
            f"{where}: ra and dec have no unit and could be radians ({span}); give unit='rad', or unit='deg' if they "
            "are degrees"
        )
    (left, right), (low, high) = (np.percentile(values, (5, 95)) for values in (ra, dec))
    width, height = (right - left) * math.cos(math.radians((low + high) / 2)), high - low
    if 0 <= ra.min() and ra.max() <= 24 and height > 7 * width > 0:
        raise ValueError(
            f"{where}: ra has no unit and could be hours, the field is {height / width:.3g} times as high as wide "
            f"({span}); give unit=('hourangle', 'deg'), or unit='deg' if it is in degrees"
        )


def _check(where: str, arrays: dict[str, _Array]) -> None:
    """Refuse impossible angles, weights and dispersions."""
    limits = {"ra": (-360.0, 360.0), "dec": (-90.0, 90.0), "weight": (0.0, math.inf), "sigma_e": (0.0, math.inf)}
    remedies = {
        "weight": "set it to 0 where a galaxy is not to count",
        "sigma_e": "it is a standard deviation",
    }
    for name, values in arrays.items():
        low, high = limits.get(name, (-math.inf, math.inf))
        bad = (values < low) | (values > high)
        if name == "sigma_e":
            bad |= values == 0
        if bad.any():
            above = f"{low:g} to {high:g}" if high < math.inf else f"above {low:g}"
            raise ValueError(
                f"{where}: {name} must be {above}, got {values[bad][0]:.4g} and {int(bad.sum()) - 1} more; "
                f"{remedies.get(name, 'degrees are expected, or the unit stated')}"
            )


def _elongated(where: str, size: _Array, keep: npt.NDArray[np.bool_], max_e: float | None) -> npt.NDArray[np.bool_]:
    """Return which of the galaxies kept are too elongated, or refuse them where max_e is not given."""
    if max_e is not None and not max_e > 0:
        raise ValueError(f"ShearCatalogue: max_e must be positive, got {max_e!r}; 1 for ellipticities")
    beyond = np.asarray(keep & (size > (1.0 if max_e is None else max_e)))
    if max_e is None and beyond.any():
        raise ValueError(
            f"{where}: |e| must be at most 1, got {size[beyond].max():.4g}, {int(beyond.sum())} of {int(keep.sum())} "
            "beyond 1; are these the columns? max_e=1 leaves such galaxies out, max_e=math.inf keeps them"
        )
    return beyond


def _count(dropped: dict[str, int], reason: str, which: npt.NDArray[np.bool_]) -> None:
    if n := int(np.count_nonzero(which)):
        dropped[reason] = dropped.get(reason, 0) + n


def _summary(n: int, dropped: dict[str, int]) -> str:
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{n} galaxies" + (f", left out: {short(left_out, 120)}" if left_out else "")
