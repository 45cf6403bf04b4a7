"""The part of `pnp convert` for CT: from a raw scan to line integrals in one HDF5 file, filtered if asked."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .output import print_warning
from .reconstruct_scan import operator_parameters
from .scan_options import naming_options, parse_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ..ct import PreparedScan
    from ..readers import CtScan

CT_KINDS = ("dxchange", "nexus", "matlab", "matlab73", "txrm", "xtekct")
"""Kinds of files, keys of `pnp.io.file_kinds.KINDS`, that hold CT scans with their angles."""
RECONSTRUCT_ONLY = ("--angles", "--kind", "--i0", "--flat", "--search", "--size")
"""Options of `pnp reconstruct` that messages may name and `pnp convert` lacks."""
_TIFF_KINDS = ("tiff", "tiff_folder")
_OTHER_KINDS = (
    "measurements", "result", "image_h5", "hdf5", "fits", "nifti", "picture", "npy", "npz", "gzip", "edf",
    "vgi",
)  # fmt: skip
_FITTED_ROWS = 5
"""Rows, spread over the detector, from which the coefficients of beam hardening are found."""

Rows = Annotated[str | None, typer.Option(help="CT: detector rows: one, or first:end, end not included, e.g. 100:200.")]
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

    Order of the steps: `prepare_scan`, as pnp reconstruct does it; phase filter; rings; beam hardening.
    """
    import torch

    from ..ct import prepare_scan
    from ..io import write_measurements
    from ..readers import read_scan

    coefficients = _coefficients(options.beam_hardening)
    _check_paganin(options)
    rows = parse_rows(options.rows)
    read = partial(read_scan, path, pixel_size_mm=options.pixel_size)
    with naming_options(RECONSTRUCT_ONLY):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # prepare_scan raises them again
            check_flats(read(rows=slice(0, 1)))
        prepared = prepare_scan(read, rows=rows, centre=options.centre, progress=True)
    operator: Any = prepared.operator
    if not hasattr(operator, "A"):  # one a row, in the Python interface and in pnp reconstruct
        operator = operator(len(prepared.rows) // 2)
        print_warning(
            f"the axis of rotation is tilted, and {output} holds one axis, that of the middle row; pnp reconstruct "
            "SCAN takes that of every row, or convert a few --rows at a time"
        )
    y, steps = torch.from_numpy(prepared.y), [*prepared.steps]
    noise_std = None if prepared.noise_std is None else torch.from_numpy(prepared.noise_std)
    if options.paganin is not None:
        y, noise_std = _phase_filtered(y, prepared, path, options), None
        steps.append("Paganin's filter was applied; the noise is left to be estimated.")
    if options.rings is not None:
        y = _without_rings(y, operator.angles, options.rings)
        steps.append(f"Rings were filtered by {options.rings}.")
    if options.beam_hardening is not None:
        y, noise_std, coefficients = _hardening_corrected(y, noise_std, operator, coefficients)
        steps.append("Beam hardening was corrected by " + ",".join(f"{c:.5g}" for c in coefficients) + ".")
    parameters = operator_parameters(operator)
    write_measurements(
        output,
        y.numpy(),
        operator=parameters.pop("operator"),
        parameters=parameters,
        noise_std=None if noise_std is None else noise_std.numpy(),
        overwrite=overwrite,
    )
    for sentence in steps:
        print(sentence)
    n_rows, _, n_angles, n_bins = y.shape
    print(f"{output}: {n_rows} rows of {n_angles} views of {n_bins} bins")


def check_flats(scan: CtScan) -> None:
    """Refuse counts whose open beam is not known."""
    if scan.kind == "counts" and scan.flat is None:
        raise ValueError(
            f"{scan.path} holds counts without flats, the open beam; use pnp.ct.prepare_scan(scan, i0=...), or pnp "
            "reconstruct with --i0"
        )


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


def _phase_filtered(y: Tensor, prepared: PreparedScan, path: Path, options: CtOptions) -> Tensor:
    """Return line integrals after Paganin's filter, which takes the transmissions of whole views."""
    from ..ct import paganin_filter

    if prepared.voxel_size_mm is None:
        raise ValueError(f"--paganin needs the size of a pixel, which {path} does not state; give --pixel-size in mm")
    if y.shape[0] == 1 or prepared.rows.step != 1:
        raise ValueError(
            f"--paganin needs the detector's plane, got {len(y)} rows in steps of {prepared.rows.step}; give adjacent "
            "--rows"
        )
    projections = (-y[:, 0]).exp().movedim(1, 0)  # (n_angles, n_rows, n_detectors)
    settings: dict[str, Any] = {"distance_mm": options.distance, "energy_kev": options.energy}
    settings["delta_beta"] = options.paganin
    found: Tensor = paganin_filter(projections, pixel_size_mm=prepared.pixel_size, **settings)
    return found.movedim(0, 1)[:, None].contiguous()


def _without_rings(y: Tensor, angles: Tensor, method: str) -> Tensor:
    """Return line integrals filtered against rings, which takes the views in the order of their angles."""
    from ..ct import remove_stripes

    order = angles.argsort(stable=True)
    steps = angles.diff()
    if bool((steps >= 0).all() or (steps <= 0).all()):
        order = order.sort().values
    try:
        filtered: Tensor = remove_stripes(y[..., order, :], method)
    except ImportError as error:
        raise ValueError(f"--rings {method}: {error}") from error
    return filtered[..., order.argsort(), :]


def _hardening_corrected(
    y: Tensor, noise_std: Tensor | None, operator: Any, coefficients: tuple[float, ...] | None
) -> tuple[Tensor, Tensor | None, tuple[float, ...]]:
    """Return corrected line integrals, their noise, and the coefficients, fitted to some rows if they are not given."""
    from ..ct import correct_beam_hardening, fit_beam_hardening

    if coefficients is None:
        every = max(1, len(y) // _FITTED_ROWS)
        some = y[every // 2 :: every][:_FITTED_ROWS]  # without the detector's ends
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                coefficients = fit_beam_hardening(some, operator)
            except UserWarning as doubt:
                raise ValueError(
                    f"--beam-hardening fit: {str(doubt).removeprefix('fit_beam_hardening: ')}. Give coefficients, "
                    "those of a scan of one material in full view, or leave it out"
                ) from None
    corrected, std = correct_beam_hardening(y, noise_std, coefficients=coefficients)
    return corrected, std, coefficients
