"""The part of `pnp convert` for CT: from a raw scan to line integrals in one HDF5 file, filtered if asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ..readers import CtScan

CT_KINDS = ("dxchange", "nexus", "matlab", "matlab73", "txrm", "xtekct")
"""Kinds of files, keys of `pnp.io.file_kinds.KINDS`, that hold CT scans with their angles."""
_TIFF_KINDS = ("tiff", "tiff_folder")
_OTHER_KINDS = (
    "measurements", "result", "image_h5", "hdf5", "fits", "nifti", "picture", "npy", "npz", "gzip", "edf",
    "vgi",
)  # fmt: skip
_FITTED_ROWS = 5
"""Rows, spread over the detector, from which the axis and the coefficients of beam hardening are found."""

Rows = Annotated[str | None, typer.Option(help="CT: detector rows first:end, end not included, e.g. 100:200.")]
Centre = Annotated[
    float | None, typer.Option(help="CT: axis of rotation in bins, counted from 0; default: found from the views.")
]
PixelSize = Annotated[
    float | None, typer.Option(help="CT: side of a pixel on the plane of the object in mm, if the file lacks it.")
]
Paganin = Annotated[
    float | None,
    typer.Option(
        help="CT: delta/beta of the material, for Paganin's phase filter; needs --distance and --energy.",
        metavar="DELTA_BETA",
    ),
]
Distance = Annotated[
    float | None, typer.Option(help="CT: distance from object to detector in mm, for --paganin.", metavar="MM")
]
Rings = Annotated[
    str | None,
    typer.Option(
        help="CT: filter against rings: sorting, filtering, fitting, large, dead, interpolation, all, wavelet-fft, fft "
        "or normalization (needs algotom).",
        metavar="FILTER",
    ),
]
BeamHardening = Annotated[
    str | None,
    typer.Option(
        help="CT: correct beam hardening of one material: fit, or coefficients of y, y^2, ..., e.g. 1,0.04.",
        metavar="fit|C1,C2,...",
    ),
]


class CtOptions(NamedTuple):
    """The options of `pnp convert` that are for CT; energy is for both."""

    rows: str | None
    centre: float | None
    pixel_size: float | None
    paganin: float | None
    distance: float | None
    energy: float | None
    rings: str | None
    beam_hardening: str | None

    def given(self) -> list[str]:
        """Return the names of the options that only CT has and that are given."""
        names = [name for name in self._fields if name != "energy" and getattr(self, name) is not None]
        return [f"--{name.replace('_', '-')}" for name in names]


def is_ct_scan(path: Path) -> bool:
    """Return whether a file holds a CT scan with its angles.

    Raises:
        ValueError: it holds TIFF, which has no angles, or what is a scan neither of CT nor of SPECT.
    """
    from ..io.file_kinds import describe, file_kind

    kind = file_kind(path) if path.exists() else "unknown"
    if kind in _TIFF_KINDS:
        raise ValueError(
            f"{path}: TIFF states no angles, which pnp convert needs; read it in Python: pnp.readers.read_scan(path, "
            "angles=...), and write line integrals by pnp.io.write_measurements"
        )
    if kind in _OTHER_KINDS:
        raise ValueError(describe(path, kind, "a raw scan of CT or SPECT"))
    return kind in CT_KINDS


def convert_ct(path: Path, output: Path, options: CtOptions, *, overwrite: bool) -> None:
    """Write the line integrals of a scan, with their noise and geometry, to an HDF5 file that pnp reconstruct reads.

    Order of the steps: flats, darks and logarithm; phase filter; rings; axis; beam hardening.
    """
    from ..ct import remove_stripes
    from ..io import write_measurements
    from ..readers import read_scan

    coefficients = _coefficients(options.beam_hardening)
    _check_paganin(options)
    rows = _rows(options.rows)
    try:
        scan = read_scan(path, rows=rows, pixel_size_mm=options.pixel_size)
    except ValueError as error:
        raise ValueError(str(error).replace("pixel_size_mm=", "--pixel-size in mm")) from error
    if scan.kind == "counts" and scan.flat is None:
        raise ValueError(f"{path} holds counts without flats, the open beam; use pnp.ct.line_integrals(scan, i0=...)")
    y, noise_std, steps = _line_integrals(scan)
    if options.paganin is not None:
        y, noise_std = _phase_filtered(y, scan, options), None
        steps.append("Paganin's filter, noise left to be estimated")
    if options.rings is not None:
        try:
            y = remove_stripes(y, options.rings)
        except ImportError as error:
            raise ValueError(f"--rings {options.rings}: {error}") from error
        steps.append(f"rings filtered by {options.rings}")
    centre, said = _centre(options.centre, y, scan)
    geometry = _geometry(scan, centre)
    if options.beam_hardening is not None:
        y, noise_std, coefficients = _hardening_corrected(y, noise_std, scan, geometry["offset"], coefficients)
        steps.append("beam hardening corrected by " + ",".join(f"{c:.5g}" for c in coefficients))
    write_measurements(
        output,
        y.numpy(),
        operator="radon" if scan.source_origin_mm is None else "fan_beam",
        parameters=geometry,
        noise_std=None if noise_std is None else noise_std.numpy(),
        overwrite=overwrite,
    )
    n_rows, _, n_angles, n_bins = y.shape
    what = "; ".join([f"axis at bin {centre:.2f}, {said}", *steps])
    print(f"{output}: {n_rows} rows of {n_angles} views of {n_bins} bins; {what}")


def _line_integrals(scan: CtScan) -> tuple[Tensor, Tensor | None, list[str]]:
    """Return y and noise_std as `solve` takes them, and what was done in words."""
    from ..ct import line_integrals

    if scan.kind == "line integrals":
        return *scan.tensors(), []
    record = line_integrals(scan)
    return *record.tensors(), [f"{record.n_bad} rays without information"]


def _rows(text: str | None) -> slice | None:
    if text is None:
        return None
    try:
        first, end = text.split(":")
        return slice(int(first) if first.strip() else None, int(end) if end.strip() else None)
    except ValueError:
        raise ValueError(f"--rows must be first:end, e.g. 100:200, got {text!r}") from None


def _coefficients(text: str | None) -> tuple[float, ...] | None:
    """Return the coefficients that are given; None: there are none, or they are to be fitted."""
    if text is None or text == "fit":
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--beam-hardening must be fit or coefficients, e.g. 1,0.04, got {text!r}") from None


def _check_paganin(options: CtOptions) -> None:
    needed = {"--distance": options.distance, "--energy": options.energy}
    missing = [name for name, value in needed.items() if value is None]
    if options.paganin is not None and missing:
        raise ValueError(f"--paganin needs --distance in mm and --energy in keV, got no {' and no '.join(missing)}")
    if options.paganin is None and len(missing) < 2:
        raise ValueError("--distance and --energy are for --paganin DELTA_BETA in CT; give it as well or neither")


def _phase_filtered(y: Tensor, scan: CtScan, options: CtOptions) -> Tensor:
    """Return line integrals after Paganin's filter, which takes the transmissions of whole views."""
    from ..ct import paganin_filter

    if scan.pitch_mm is None and scan.pixel_size_mm is None:
        raise ValueError(
            f"--paganin needs the size of a pixel, which {scan.path} does not state; give --pixel-size in mm"
        )
    if y.shape[0] == 1:
        raise ValueError(f"--paganin needs the detector's plane, {scan.path} has a single row; give more --rows")
    projections = (-y[:, 0]).exp().movedim(1, 0)  # (n_angles, n_rows, n_detectors)
    size = scan.geometry()["pixel_size"]
    settings: dict[str, Any] = {"distance_mm": options.distance, "energy_kev": options.energy}
    settings["delta_beta"] = options.paganin
    found: Tensor = paganin_filter(projections, pixel_size_mm=size, **settings)
    return found.movedim(0, 1)[:, None].contiguous()


def _some_rows(y: Tensor) -> Tensor:
    """Return a few rows, spread over the detector without its ends."""
    every = max(1, len(y) // _FITTED_ROWS)
    return y[every // 2 :: every][:_FITTED_ROWS]


def _centre(given: float | None, y: Tensor, scan: CtScan) -> tuple[float, str]:
    """Return the axis in bins, and where it is from."""
    from ..ct import find_centre

    n = y.shape[-1]
    if given is not None:
        if not -n < given < 2 * n:
            raise ValueError(f"--centre must be in bins of the detector, 0 to {n - 1}, got {given:g}")
        return given, "as given"
    if scan.source_origin_mm is not None:
        return (n - 1) / 2, "the middle of the fan beam's detector; give --centre if it is elsewhere"
    return find_centre(_some_rows(y), scan.angles), "found from the views"


def _geometry(scan: CtScan, centre: float) -> dict[str, Any]:
    from ..ct import offset_from_centre

    return scan.geometry(offset=offset_from_centre(centre, scan.y.shape[-1], scan.pitch_mm or 1.0))


def _hardening_corrected(
    y: Tensor, noise_std: Tensor | None, scan: CtScan, offset: float, coefficients: tuple[float, ...] | None
) -> tuple[Tensor, Tensor | None, tuple[float, ...]]:
    from ..ct import correct_beam_hardening, fit_beam_hardening

    if coefficients is None:
        coefficients = fit_beam_hardening(_some_rows(y), scan.operator(offset=offset))
    corrected, std = correct_beam_hardening(y, noise_std, coefficients=coefficients)
    return corrected, std, coefficients
