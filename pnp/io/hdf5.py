"""Measurements and results in HDF5: one layout, described in docs/hdf5_layout.md.

    /                attributes: format ("pnp measurements" | "pnp result"), format_version, version_*
    /measurements    (B, C, ...), attribute units                         (measurements)
    /image           (B, C, H, W)                                         (result)
    /history/*       one value per iteration, or one for each image       (result)
    /rejected        (B, C, ...) bool, optional: measurements taken for outliers    (result)
    /candidates/*    (n,), optional: the strengths that were tried (`hdf5_candidates.py`)    (result)
    /error_bars/*    as /image, optional: standard deviations and intervals (`hdf5_error_bars.py`)    (result)
    /operator        attribute name; parameters: scalars and tuples as attributes, arrays as datasets
    /noise_std       scalar or an array that broadcasts against the measurements; infinity: no information
    /reference       (B, C, H, W), optional
    /background      expected counts added to A x, a scalar or an array that broadcasts, optional    (measurements)
    /centre_mm       (3,), optional: the middle of a volume of SPECT in the study's frame (`hdf5_place.py`)
    /acquisition     optional: seconds and starts of the views of SPECT, isotope (`hdf5_acquisition.py`) (measurements)

Angles are stored with their unit, "rad" or "deg", and are read in radians; the lengths and attenuations of SPECT with
theirs, and are read in mm and 1/mm; the lengths of a cone beam are in one unit, which the attribute length_units of
/operator may state: then they are read in mm (`hdf5_units.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..installation import version
from .atomic import atomic_hdf5
from .hdf5_acquisition import Acquisition, read_acquisition, write_acquisition
from .hdf5_candidates import Tried, columns_of, rows_of
from .hdf5_error_bars import SavedErrorBars, read_error_bars, write_error_bars
from .hdf5_place import read_centre, write_centre
from .hdf5_rejected import parts_of, read_rejected, write_rejected
from .hdf5_safe import dataset, listed, open_hdf5, plain, scalar_or_array, whole
from .hdf5_units import IN_SLICES, LENGTH_UNITS, check_one_unit, in_mm, per_mm, unit_factor, units_of

_Array = npt.NDArray[Any]
_FORMAT_VERSION = 1
_INTEGER_PARAMETERS = ("shape", "n_detectors", "factor", "detector_shape", "dimensions")
"""Names of operator parameters that are whole numbers, whichever type a file stores them in."""


@dataclass(frozen=True)
class Measurements:
    """Content of a file of measurements.

    Attributes:
        y: measurements (B, C, ...).
        operator: the operator's name, a key of `operators.OPERATORS`, e.g. "radon".
        parameters: the arguments of its constructor; angles in radians; for SPECT, in mm and 1/mm.
        noise_std: noise standard deviation, a number or an array that broadcasts against y; None: not known.
        reference: the true image (B, C, H, W) where it is known, for a figure of merit only.
        units: unit of y, "1" where it has none.
        background: expected counts added to A x, for a Poisson data term, a number or as y; None: there are none.
        collimator: SPECT's collimator, where the file has it instead of fwhm: radius, a number or (n_views,),
            hole_diameter, hole_length and further arguments of `operators.collimator_fwhm`, in mm and 1/mm.
        length_units: of a cone beam, "mm" where the file states the unit of its lengths, else "".
        centre_mm: of SPECT, where the volume's middle lies in the study's frame (DICOM's); None: not known.
        acquisition: of SPECT, when the views were counted and of which isotope; None: not known.
    """

    y: _Array
    operator: str
    parameters: dict[str, Any] = field(default_factory=dict)
    noise_std: float | _Array | None = None
    reference: _Array | None = None
    units: str = "1"
    background: float | _Array | None = None
    collimator: dict[str, Any] = field(default_factory=dict)
    length_units: str = ""
    centre_mm: tuple[float, float, float] | None = None
    acquisition: Acquisition | None = None


@dataclass(frozen=True)
class SavedResult:
    """Content of a file of a result.

    Attributes:
        x: the reconstruction (B, C, H, W).
        operator: the operator's name, empty where none was stored.
        parameters: the arguments of its constructor; angles in radians.
        noise_std: noise standard deviation that was used, given or estimated.
        history: one array per recorded quantity, a value per iteration, or one for each image, (n_iter, B).
        reference: the true image where it is known.
        attributes: stop (a sentence), n_iter, misfit, denoiser, command, versions, ...
        warnings: sentences on what looked wrong, empty where nothing did; None: the file does not say.
        rejected: mask of the measurements that were taken for outliers, as y (a tuple where y has parts); None: none
            was looked for, or none found unasked.
        n_rejected: their number.
        candidates: for each image what strength="auto" tried, the chosen one first, each (strength, n_iter, error,
            standard_error) as in `Result.candidates`; empty where nothing was tried.
        length_units: of a cone beam, "mm" where the file states the unit of its lengths, else "".
        error_bars: standard deviations and intervals of the pixels, means of regions; None: the file has none.
        centre_mm: as that of `Measurements`.
        units: unit of x, "MBq/ml" of an activity; "1" where the file states none.
    """

    x: _Array
    operator: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    noise_std: float | _Array | None = None
    history: dict[str, _Array] = field(default_factory=dict)
    reference: _Array | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] | None = None
    rejected: _Array | tuple[_Array | None, ...] | None = None
    n_rejected: int = 0
    candidates: tuple[tuple[Tried, ...], ...] = ()
    length_units: str = ""
    error_bars: SavedErrorBars | None = None
    centre_mm: tuple[float, float, float] | None = None
    units: str = "1"


def write_measurements(
    path: str | os.PathLike[str],
    y: npt.ArrayLike,
    *,
    operator: str,
    parameters: Mapping[str, Any],
    noise_std: npt.ArrayLike | None = None,
    reference: npt.ArrayLike | None = None,
    units: str = "1",
    background: npt.ArrayLike | None = None,
    collimator: Mapping[str, Any] | None = None,
    length_units: str = "",
    centre_mm: tuple[float, float, float] | None = None,
    acquisition: Acquisition | None = None,
    overwrite: bool = False,
) -> None:
    """Write measurements and what is needed to invert them; the file appears whole or not at all.

    Args:
        path: the file to write.
        y: measurements (B, C, ...), floating point.
        operator: name of the operator, e.g. "radon".
        parameters: the operator's constructor arguments, angles in radians; for SPECT, in mm and 1/mm.
        noise_std: noise standard deviation, in the units of y: a scalar or an array that broadcasts.
        reference: the true image (B, C, H, W), if known.
        units: unit of y.
        background: expected counts added to A x, a scalar or an array that broadcasts against y.
        collimator: arguments of `operators.collimator_fwhm`, instead of the parameter fwhm, in mm and 1/mm.
        length_units: of a cone beam, the unit of its lengths, "mm", "cm" or "m", and of x, per it; "": not known.
        centre_mm: of SPECT, where the volume's middle lies in the study's frame (DICOM's); None: not known.
        acquisition: of SPECT, when the views were counted and of which isotope, which an activity needs; None: unknown.
        overwrite: replace a file of that name.

    Raises:
        TypeError: a parameter that HDF5 cannot hold.
        ValueError: a path that exists or cannot be written.
    """
    with _create(path, "pnp measurements", overwrite) as file:
        _store(file, "measurements", y, units=units)
        _write_problem(file, operator, parameters, noise_std, reference, length_units)
        if background is not None:
            _store(file, "background", background, units=units)
        write_centre(file, centre_mm)
        write_acquisition(file, acquisition)
        if collimator:
            _write_parameters(file.create_group("operator/collimator"), operator, collimator)


def write_result(
    path: str | os.PathLike[str],
    x: npt.ArrayLike,
    *,
    operator: str = "",
    parameters: Mapping[str, Any] | None = None,
    noise_std: npt.ArrayLike | None = None,
    history: Mapping[str, npt.ArrayLike] | None = None,
    reference: npt.ArrayLike | None = None,
    b_mode: npt.ArrayLike | None = None,
    attributes: Mapping[str, Any] | None = None,
    warnings: Sequence[str] | None = None,
    rejected: Any = None,
    candidates: Sequence[Any] = (),
    length_units: str = "",
    error_bars: SavedErrorBars | None = None,
    centre_mm: tuple[float, float, float] | None = None,
    units: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a reconstruction x (B, C, H, W) and how it was made; the file appears whole or not at all.

    Args:
        path: the file to write.
        x: the reconstruction.
        operator: name of the operator.
        parameters: the operator's constructor arguments, angles in radians; for SPECT, in mm and 1/mm.
        noise_std: noise standard deviation that was used.
        history: a sequence of numbers per recorded quantity, or of lists with one for each image.
        reference: the true image, if known.
        b_mode: B modes of a mass map (B, 1, H, W), for `pnp report`.
        attributes: further attributes of the root: stop, n_iter, denoiser, command, ...
        warnings: sentences on what looks wrong, as `Result.warnings`; None: nobody looked.
        rejected: mask of the measurements that were taken for outliers, as `Result.rejected`.
        candidates: what strength="auto" tried, as `Result.candidates`.
        length_units: of a cone beam, "mm" where its lengths are in mm and x is per mm; "": the unit is not known.
        error_bars: standard deviations and intervals of the pixels, if there are any.
        centre_mm: as in `write_measurements`.
        units: unit of x and reference, such as "MBq/ml"; None: not stated.
        overwrite: replace a file of that name.

    Raises:
        TypeError: a parameter or attribute that HDF5 cannot hold.
        ValueError: a path that exists or cannot be written; another unit of length than mm.
    """
    if length_units not in ("", "mm"):
        raise ValueError(f"write_result: length_units must be 'mm' or '', got {length_units!r:.40}; give x per mm")
    with create_result(path, overwrite=overwrite) as file:
        _store(file, "image", x, units=units)
        if b_mode is not None:
            _store(file, "b_mode", b_mode)
        for name, values in (history or {}).items():
            _store(file, f"history/{name}", values)
        _write_problem(file, operator, parameters or {}, noise_std, reference, length_units)
        for name, value in (attributes or {}).items():
            _set_attribute(file, name, value)
        if warnings is not None:
            write_warnings(file, warnings)
        if rejected is not None:
            write_rejected(file, rejected)
        for name, values in columns_of(candidates).items():
            _store(file, f"candidates/{name}", values)
        write_centre(file, centre_mm)
        if error_bars is not None:
            write_error_bars(file, error_bars)


def read_measurements(path: str | os.PathLike[str], *, operator: str | None = None) -> Measurements:
    """Read a file of measurements.

    Args:
        path: the file.
        operator: name of the operator where the file gives none.

    Raises:
        ValueError: the file is missing, unreadable or truncated, a dataset is missing, or a unit is wrong.
    """
    with open_hdf5(path) as file:
        name, parameters, noise_std, reference, lengths = _read_problem(path, file, operator or "")
        if not name:
            raise ValueError(f"{path}: /operator must have the attribute 'name', e.g. 'radon'; see docs/hdf5_layout.md")
        y = dataset(path, file, "measurements")
        units = str(plain(file["measurements"].attrs.get("units", "1")))
        background = scalar_or_array(path, file, "background")
        group = file["operator"].get("collimator")
        collimator = _read_parameters(path, group, name) if isinstance(group, h5py.Group) else {}
        known = y, name, parameters, noise_std, reference, units, background, collimator, lengths
        return Measurements(*known, read_centre(path, file), read_acquisition(path, file))


def read_result(path: str | os.PathLike[str]) -> SavedResult:
    """Read a file of a result.

    Raises:
        ValueError: the file is missing, unreadable or truncated, a dataset is missing, or a unit is wrong.
    """
    with open_hdf5(path) as file:
        x = dataset(path, file, "image")
        operator, parameters, noise_std, reference, lengths = _read_problem(path, file)
        history, tried = _columns(path, file, "history"), _columns(path, file, "candidates")
        attributes = {name: plain(value) for name, value in file.attrs.items()}
        warnings, rejected = attributes.pop("warnings", None), read_rejected(path, file)
        attributes.pop("n_rejected", None)  # the mask has it
        return SavedResult(
            x,
            operator,
            parameters,
            noise_std,
            history,
            reference,
            attributes,
            warnings=None if warnings is None else _sentences(warnings),
            rejected=rejected,
            n_rejected=sum(int(mask.sum()) for mask in parts_of(rejected) if mask is not None),
            candidates=rows_of(path, tried),
            length_units=lengths,
            error_bars=read_error_bars(path, file, x.shape),
            centre_mm=read_centre(path, file),
            units=str(plain(file["image"].attrs.get("units", "1"))),
        )


def create_result(path: str | os.PathLike[str], *, overwrite: bool = False) -> AbstractContextManager[h5py.File]:
    """Return a context that yields a new result file with its header; the file appears when the block succeeds.

    Raises:
        ValueError: the file exists (without overwrite) or cannot be written.
    """
    return _create(path, "pnp result", overwrite)


@contextmanager
def create_measurements(
    path: str | os.PathLike[str], *, operator: str, parameters: Mapping[str, Any], overwrite: bool = False
) -> Iterator[h5py.File]:
    """Yield a new file of measurements with its operator, to which the datasets are written part by part.

    Arguments and errors: see `write_measurements`.
    """
    with _create(path, "pnp measurements", overwrite) as file:
        _write_problem(file, operator, parameters, None, None)
        yield file


def write_warnings(file: h5py.File, warnings: Sequence[str]) -> None:
    """Set the attribute `warnings` of a result, an array of strings that may be empty."""
    file.attrs.create("warnings", list(warnings), shape=(len(warnings),), dtype=h5py.string_dtype())


@contextmanager
def _create(path: str | os.PathLike[str], kind: str, overwrite: bool) -> Iterator[h5py.File]:
    with atomic_hdf5(path, overwrite=overwrite) as file:
        file.attrs["format"] = kind
        file.attrs["format_version"] = _FORMAT_VERSION
        for package in ("pnp-local", "torch", "numpy"):
            file.attrs[f"version_{package}"] = version(package)
        yield file


def _write_problem(
    file: h5py.File,
    operator: str,
    parameters: Mapping[str, Any],
    noise_std: npt.ArrayLike | None,
    reference: npt.ArrayLike | None,
    length_units: str = "",
) -> None:
    group = file.create_group("operator")
    group.attrs["name"] = operator
    if length_units:
        in_mm("write", operator, {LENGTH_UNITS: length_units})  # refuses what cannot be read
        group.attrs[LENGTH_UNITS] = length_units
    _write_parameters(group, operator, parameters)
    for name, values in (("noise_std", noise_std), ("reference", reference)):
        if values is not None:
            _store(file, name, values)


def _sentences(warnings: Any) -> tuple[str, ...]:
    """Return the attribute `warnings` as strings, whatever form its writer chose."""
    return tuple(str(part) for part in warnings) if isinstance(warnings, tuple) else (str(warnings),)


def _write_parameters(group: h5py.Group, operator: str, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if value is None:  # the constructor's own default
            continue
        known = units_of(operator, name)
        if known is not None or hasattr(value, "__array__"):
            _store(group, name, value, units=None if known is None else next(iter(known)))
        else:
            _set_attribute(group, name, value)


def _read_problem(
    path: str | os.PathLike[str], file: h5py.File, operator: str = ""
) -> tuple[str, dict[str, Any], float | _Array | None, _Array | None, str]:
    """Return the operator's name, or the one given, its parameters, noise, reference and unit of lengths."""
    if not isinstance(file.get("operator"), h5py.Group):
        raise ValueError(f"{path} must have a group /operator, it holds {listed(file)}; see docs/hdf5_layout.md")
    group = file["operator"]
    operator = str(plain(group.attrs.get("name", ""))) or operator
    reference = dataset(path, file, "reference") if "reference" in file else None
    parameters, factor = in_mm(f"{path}: /operator", operator, _read_parameters(path, group, operator))
    noise_std, lengths = scalar_or_array(path, file, "noise_std"), "" if factor is None else "mm"
    return operator, parameters, noise_std, per_mm(reference, factor), lengths


def _read_parameters(path: str | os.PathLike[str], group: h5py.Group, operator: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {name: plain(value) for name, value in group.attrs.items() if name != "name"}
    for name in parameters:
        if (known := units_of(operator, name)) is not None:  # an attribute cannot state its unit
            unit_factor(f"{path}: {group.name}/{name} must be a dataset, not an attribute, and", None, known)
    for name in group:
        if name == "collimator" and operator == "spect":
            continue
        values: Any = dataset(path, group, name)
        known, stated = units_of(operator, name), plain(group[name].attrs.get("units"))
        if known is not None:
            values = values * unit_factor(f"{path}: {group.name}/{name}", stated, known)
        elif operator in IN_SLICES:
            check_one_unit(f"{path}: {group.name}", name, stated, plain(group.attrs.get(LENGTH_UNITS)))
        few = values.ndim == 0 or name in (*_INTEGER_PARAMETERS, "voxel_size", "pitch")
        parameters[name] = plain(np.asarray(values)) if few else values
    return parameters | {name: whole(parameters[name]) for name in _INTEGER_PARAMETERS if name in parameters}


def _columns(path: str | os.PathLike[str], file: h5py.File, name: str) -> dict[str, _Array]:
    """Return the datasets of a group by their names; none where there is no group."""
    group = file.get(name)
    return {key: dataset(path, file, f"{name}/{key}") for key in group} if isinstance(group, h5py.Group) else {}


def _store(group: h5py.Group, name: str, values: npt.ArrayLike, *, units: str | None = None) -> None:
    if hasattr(values, "detach"):  # a torch tensor, on any device
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"HDF5: '{name}' must hold real numbers, got {array.dtype}")
    group[name] = array
    if units is not None:
        group[name].attrs["units"] = units


def _set_attribute(group: h5py.Group, name: str, value: Any) -> None:
    try:
        group.attrs[name] = value
    except TypeError:
        raise TypeError(f"HDF5: '{name}' must be a number, a string or a tuple of them, got {value!r:.100}") from None
