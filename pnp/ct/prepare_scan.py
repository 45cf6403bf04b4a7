"""From the scan of a detector with one row or many to what `solve` and `solve_stack` take.

    scan = read_scan("scan.h5")
    prepared = prepare_scan(scan)
    solve_stack(prepared.operator, prepared.y, D, noise_std=prepared.noise_std, output="volume.zarr", bounds=(0, None))

Every detector row is a slice. A scan larger than memory is read block by block, and its line integrals are kept in a
file:

    prepared = prepare_scan(partial(read_scan, "scan.h5"), working_file="prepared.h5")

A cone beam is treated as a fan beam in every row. At distance r from the axis, the ray of a row at height h over the
plane of the source is up to h r/source_origin too high or too low; rows where this exceeds a bin are refused.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from operators import FanBeam, Radon

from ..checks import check_number
from ..readers import CtScan
from ..readers.ct_scan import bin_at_axis
from .arrays import UnusableRow
from .centre import offset_from_centre
from .line_integrals import LineIntegrals, line_integrals
from .prepared_file import PreparedRows, kept_rows, new_rows
from .row_warnings import RowWarnings, naming_file, naming_row
from .scan_axis import find_axes
from .scan_rows import ScanRows, rows_of

_HALF_ACQUISITION = 1 / 8
"""Distance of the axis from the middle, over the number of bins, beyond which the image is enlarged."""
_MAX_ROWS_NAMED = 10
"""Maximum number of rows that are named in one sentence."""
_ROUNDING = 1e-3
"""Part of a pixel by which an image may fall short of the detector."""


@dataclass(frozen=True)
class PreparedScan:
    """Line integrals of a scan, slice by slice, with their noise and their operator.

    Attributes:
        y: line integrals (n_rows, 1, n_angles, n_detectors), without unit; or the path of the file that holds them.
        noise_std: standard deviation of y, as y; infinite where nothing was measured. None: not known, to be estimated.
        operator: operator of all slices, or a function of the number of the slice where the axes of rows differ.
        rows: numbers of the detector rows, in the order of the slices.
        centre: axis of rotation of every row, in bins, (n_rows,).
        pixel_size: side of a pixel of the image: in mm where the scan states a length, else in bins.
        unit: unit of the image: "1/mm", or "1/pixel" where the scan states no length.
        voxel_size_mm: distance of slices and sides of a pixel (n_rows, H, W), in mm; None where no length is known.
        steps: sentences on what was found and what was done to the data, in order.
        warnings: sentences on what looks wrong, which were Python warnings, too.
        unmeasured: slices whose rows measured nothing: y is 0 there and noise_std infinite.
    """

    y: Any = field(repr=False)
    noise_std: Any = field(repr=False)
    operator: Radon | FanBeam | RowOperators
    rows: range
    centre: npt.NDArray[np.float64] = field(repr=False)
    pixel_size: float
    unit: str
    voxel_size_mm: tuple[float, float, float] | None
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unmeasured: tuple[int, ...] = ()


class RowOperators:
    """Operator of slice k where the axis of rotation differs from row to row.

    Args:
        kind: Radon or FanBeam.
        geometry: arguments of its constructor.
        offsets: the argument offset of every slice, (n_rows,).
    """

    def __init__(self, kind: type[Radon | FanBeam], geometry: dict[str, Any], offsets: list[float]) -> None:
        self.kind, self.geometry, self.offsets = kind, geometry, offsets

    def __call__(self, k: int) -> Radon | FanBeam:
        """Return the operator of slice k."""
        return self.kind(**self.geometry | {"offset": self.offsets[k]})


def prepare_scan(
    scan: CtScan | Callable[..., CtScan],
    *,
    rows: slice | None = None,
    centre: float | npt.ArrayLike | None = None,
    search: tuple[float, float] | None = None,
    size: int | None = None,
    pixel_size: float | None = None,
    i0: float | None = None,
    working_file: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> PreparedScan:
    """Return line integrals, noise, axis of rotation and operator of a scan, in steps that are told in sentences.

    Counts become line integrals by `line_integrals`, row by row, with one gain for all rows. The axis is found in up to
    16 rows that are spread over the detector: by `find_centres`, where it differs from row to row, else by
    `find_centre`. Of a fan beam without opposite views it is taken for the detector's middle.

    A row that measured nothing, as a dead row of the detector, gets no weight, and a warning says so.

    Args:
        scan: a scan, or a function that reads some of its rows, `scan(rows=slice(a, b))`: `partial(read_scan, path)`.
        rows: the detector rows to prepare, e.g. slice(0, 1). None: all.
        centre: axis of rotation in bins, a number or one a row, (n_rows,). None: found from the views.
        search: (low, high), bins between which the axis is looked for.
        size: pixels per side of the image. None: the bins of the detector, or more where it truncates the object (see
            `CtScan.geometry`); where the axis lies off the middle by more than an eighth of the bins, as many as the
            farther end of the detector sees on both sides of the axis.
        pixel_size: side of a pixel, in mm where the scan states a length, else in bins. None: a bin at the axis.
        i0: counts of the open beam, dark included as in a flat, of a scan without flats; 1 for transmissions.
        working_file: HDF5 file for line integrals and noise, in the layout of measurements. If it holds those of the
            same scan and settings, they are used. None: they are in memory.
        progress: show a bar on stderr.

    Raises:
        TypeError: scan is neither a scan nor a function.
        ValueError: a row, an axis or a size does not fit; the axis is not found; rows of a cone beam are too far from
            its plane; no row measured anything; see also `line_integrals`.
    """
    said = RowWarnings()
    with said.collected():
        source = ScanRows(scan, rows)
        some = source.read(source.sampled())
    _check_cone(some, source)
    if pixel_size is not None:
        check_number("pixel_size", pixel_size, above=0, caller="prepare_scan")
    measured = {name: value for name, value in vars(some).items() if name not in ("facts", "path")}
    settings = {
        "rows": source.rows,
        "centre": centre,
        "search": search,
        "size": size,
        "side": pixel_size,
        "i0": i0,
        **measured,
    }
    kept = None if working_file is None else kept_rows(working_file, settings)
    if kept is None:
        n_rows = len(source.rows)
        with said.collected(), naming_file(some.path):
            y, gain = _sampled_integrals(some, source, i0)
            centres, axis = find_axes(y, some, source, centre, search)
            side = _side(some, y, _middle(centres), size, pixel_size)
        name, geometry = _geometry(some, _middle(centres), side, pixel_size)
        shape, noise = (n_rows, 1, *some.y.shape[-2:]), some.kind != "line integrals"
        with new_rows(working_file, shape, (name, geometry), settings, noise=noise) as store:
            counted, unmeasured = _Counted(), []
            for k, row in enumerate(source.each(progress, said)):
                with said.collected(source.numbers[k]), naming_file(some.path), naming_row(source.numbers[k], n_rows):
                    y, noise_std, record = _converted(row, i0, gain) if n_rows == 1 else _weighed(row, i0, gain)
                store.put(k, y, noise_std)
                counted.add(record)
                unmeasured += [k] if record is None and noise else []
            counts = counted.sentences(some.kind) + _unmeasured_sentence(unmeasured, source)
            steps = (_described(some, source), *counts, axis, _image_sentence(some, geometry))
            kept = store.finish(centres, side, steps, said.sentences(n_rows), tuple(unmeasured))
    for sentence in kept.warnings:
        warnings.warn(f"prepare_scan: {sentence}", stacklevel=2)
    return _prepared(kept, some, source, pixel_size)


def _check_cone(scan: CtScan, source: ScanRows) -> None:
    """Refuse rows of a cone beam whose rays are off by more than a bin within the object."""
    if scan.source_origin_mm is None or (source.n_rows == 1 and "middle_row" not in scan.facts):
        return
    lowest, highest = source.numbers[0], source.numbers[-1]
    radius = scan.y.shape[-1] / 2 * bin_at_axis(scan)
    middle, most = float(scan.facts.get("middle_row", source.middle)), scan.source_origin_mm / radius
    if max(middle - lowest, highest - middle) <= most:
        return
    first, last = math.ceil(max(0, middle - most)), math.floor(middle + most)
    raise ValueError(
        f"prepare_scan: rows must be within {first}..{last} of the detector of a cone beam, got {lowest}..{highest}: a "
        "row is reconstructed as a fan beam, which is off by more than a bin farther from the source's plane; use "
        f"rows=slice({first}, {last + 1})"
    )


# -------------------------------------------------------------------- line integrals


def _converted(scan: CtScan, i0: float | None, gain: float | None) -> tuple[Any, Any, LineIntegrals | None]:
    """Return line integrals (n_rows, n_angles, n_detectors), their noise, and the record they are from."""
    if scan.kind == "line integrals":
        return scan.y, None, None
    record = line_integrals(scan, i0=i0, photons_per_count=gain)
    return record.y, record.noise_std, record


def _weighed(scan: CtScan, i0: float | None, gain: float | None) -> tuple[Any, Any, LineIntegrals | None]:
    """Return what `_converted` does; of a row that measured nothing, zeros without weight and no record."""
    try:
        return _converted(scan, i0, gain)
    except UnusableRow as error:
        warnings.warn(f"the row measured nothing that can be used, and gets no weight: {error}", stacklevel=2)
        return np.zeros_like(scan.y), np.full_like(scan.y, math.inf), None


def _sampled_integrals(some: CtScan, source: ScanRows, i0: float | None) -> tuple[npt.NDArray[Any], float | None]:
    """Return line integrals of some rows, and the gain in photons per count of all rows; None: each its own.

    Rows that measured nothing are 0, as those of air, which show no axis.
    """
    found, errors = [], []
    y = np.zeros_like(some.y)
    for k in range(len(some.y)):
        try:
            with naming_row(source.numbers[source.first_sampled + k * source.every_sampled], len(source.rows)):
                found.append(_converted(rows_of(some, slice(k, k + 1)), i0, None))
                y[k] = found[-1][0]
        except UnusableRow as error:
            errors.append(error)
    if not found:
        raise errors[0]
    records = [record for _, _, record in found if record is not None and not record.noise_fitted]
    gain = float(np.median([record.photons_per_count for record in records])) if len(records) == len(found) else None
    return y, gain


class _Counted:
    """What `line_integrals` found in all rows."""

    def __init__(self) -> None:
        self.n_rays = self.n_pixels = self.n_bad_pixels = self.n_starved = self.n_zingers = self.n_clamped = 0
        self.photons: list[float] = []
        self.fitted: list[float] = []  # standard deviation of transmissions of 1
        self.dropped: dict[str, set[int]] = {"flats": set(), "darks": set()}

    def add(self, record: LineIntegrals | None) -> None:
        """Count a row; None: it had line integrals already."""
        if record is None:
            return
        self.n_rays += record.y.size
        self.n_pixels += record.bad_pixels.size
        self.n_bad_pixels += int(record.bad_pixels.sum())
        self.n_starved += record.n_starved
        self.n_zingers += record.n_zingers
        self.n_clamped += record.n_clamped
        self.photons.append(record.photons_per_count)
        if record.noise_fitted:
            self.fitted.append(math.sqrt(1 / record.photons_per_count + record.electronic_std**2))
        self.dropped["flats"] |= set(record.dropped_flats)
        self.dropped["darks"] |= set(record.dropped_darks)

    def sentences(self, kind: str) -> list[str]:
        """Return what was found and done, in sentences."""
        if not self.photons:
            return ["The measurements are line integrals already; their noise is estimated slice by slice."]
        if self.fitted:
            std = f"{np.median(self.fitted):.2g}"
            origin = f"fitted to them, a standard deviation of {std} where they are 1"
            return [f"Transmissions became line integrals, every ray with its noise, {origin}.", *self._lost()]
        photons = f"{np.median(self.photons):.3g} photons {'per count' if kind == 'counts' else 'in the open beam'}"
        return [f"{kind.capitalize()} became line integrals, every ray with its noise, from {photons}.", *self._lost()]

    def _lost(self) -> list[str]:
        """Return which frames, pixels and rays were left out or changed."""
        said = []
        for name, frames in self.dropped.items():
            if frames:
                said.append(f"Frames {', '.join(map(str, sorted(frames)))} of the {name} are off and were left out.")
        for n, whole, what in (
            (self.n_bad_pixels, self.n_pixels, "detector pixels are bad: they were interpolated and given no weight"),
            (self.n_zingers, self.n_rays, "rays are zingers: they were interpolated and given no weight"),
            (self.n_starved, self.n_rays, "rays have no counts and were given no weight"),
            (self.n_clamped, self.n_rays, "rays are below half a photon or the read-out noise and were raised to it"),
        ):
            said += [f"{n} of {whole} ({100 * n / whole:.2g} %) {what}."] if n else []
        return said


# -------------------------------------------------------------------- geometry


def _middle(centres: npt.NDArray[np.float64]) -> float:
    """Return the axis of the middle row."""
    return float(centres[len(centres) // 2])


def _offset(centre: float, scan: CtScan) -> float:
    return offset_from_centre(centre, scan.y.shape[-1], scan.pitch_mm or 1.0)


def _side(scan: CtScan, y: npt.NDArray[Any], centre: float, size: int | None, pixel_size: float | None) -> int:
    """Return the pixels per side of the image, given line integrals y of some rows of the scan."""
    if size is not None:
        return int(check_number("size", size, above=1, integer=True, or_equal=True, caller="prepare_scan"))
    n = y.shape[-1]
    # In bins at the axis; more than those of the detector where it truncates the object.
    integrals = CtScan(y, scan.angles, "line integrals", **_lengths(scan), path=scan.path)
    bins: int = integrals.geometry(offset=_offset(centre, scan))["shape"][0]
    if abs(centre - (n - 1) / 2) > _HALF_ACQUISITION * n:
        bins = max(bins, 2 * math.ceil(max(centre, n - 1 - centre) + 0.5))  # the farther end, on both sides
    width: float = scan.geometry((n, n), pixel_size=pixel_size)["pixel_size"]
    return math.ceil(bins * bin_at_axis(scan) / width - _ROUNDING)


def _lengths(scan: CtScan) -> dict[str, Any]:
    """Return the lengths of a scan, without that of a pixel."""
    return {name: getattr(scan, name) for name in ("source_origin_mm", "origin_detector_mm", "pitch_mm")}


def _geometry(scan: CtScan, centre: float, side: int, pixel_size: float | None) -> tuple[str, dict[str, Any]]:
    """Return the name of the operator and the arguments of its constructor."""
    geometry = scan.geometry((side, side), offset=_offset(centre, scan), pixel_size=pixel_size)
    return "radon" if scan.source_origin_mm is None else "fan_beam", geometry


def _prepared(kept: PreparedRows, scan: CtScan, source: ScanRows, pixel_size: float | None) -> PreparedScan:
    """Return the record of rows in memory or in a file."""
    name, geometry = _geometry(scan, _middle(kept.centre), kept.side, pixel_size)
    kind: Any = Radon if name == "radon" else FanBeam
    offsets = [_offset(c, scan) for c in kept.centre.tolist()]
    side, known = geometry["pixel_size"], scan.pitch_mm is not None
    return PreparedScan(
        y=kept.y,
        noise_std=kept.noise_std,
        operator=kind(**geometry) if len(set(offsets)) == 1 else RowOperators(kind, geometry, offsets),
        rows=source.numbers,
        centre=kept.centre,
        pixel_size=side,
        unit="1/mm" if known else "1/pixel",
        voxel_size_mm=(source.numbers.step * bin_at_axis(scan), side, side) if known else None,
        steps=kept.steps,
        warnings=kept.warnings,
        unmeasured=kept.unmeasured,
    )


# -------------------------------------------------------------------- sentences


def _described(scan: CtScan, source: ScanRows) -> str:
    n, (n_angles, n_detectors) = len(source.rows), scan.y.shape[-2:]
    beam = "parallel" if scan.source_origin_mm is None else "fan"
    frames = [
        f"{field_.shape[-2]} {name}{'s' if field_.shape[-2] > 1 else ''}"
        for name, field_ in (("flat", scan.flat), ("dark", scan.dark))
        if field_ is not None
    ]
    return (
        f"{n} of {source.n_rows} detector row{'s' if source.n_rows > 1 else ''}, {n_angles} views over "
        f"{math.degrees(float(np.ptp(scan.angles))):.4g} degrees of {n_detectors} bins, {beam} beam"
        + (f", with {' and '.join(frames)}" if frames else "")
        + "."
    )


def _unmeasured_sentence(unmeasured: list[int], source: ScanRows) -> list[str]:
    """Return which rows measured nothing."""
    if not unmeasured:
        return []
    rows = ", ".join(str(source.numbers[k]) for k in unmeasured[:_MAX_ROWS_NAMED])
    more = f" and {len(unmeasured) - _MAX_ROWS_NAMED} more" if len(unmeasured) > _MAX_ROWS_NAMED else ""
    return [f"{len(unmeasured)} of {len(source.rows)} rows measured nothing and were given no weight: {rows}{more}."]


def _image_sentence(scan: CtScan, geometry: dict[str, Any]) -> str:
    height, width = geometry["shape"]
    unit = "mm, values in 1/mm" if scan.pitch_mm is not None else "bins, values in 1/pixel: the file states no length"
    return f"A slice has {height} x {width} pixels of {geometry['pixel_size']:.5g} {unit}."
