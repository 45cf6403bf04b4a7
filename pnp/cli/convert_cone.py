"""The part of `pnp convert --cone`: from a raw scan to the line integrals of all rows together, for cone_beam."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .convert_ct import RECONSTRUCT_ONLY, CtOptions, check_flats
from .options import as_typed
from .scan_options import naming_options, parse_rows

if TYPE_CHECKING:
    from ..readers import CtScan


def convert_cone(path: Path, output: Path, options: CtOptions, *, overwrite: bool) -> None:
    """Write the line integrals of a cone-beam scan, all rows as one view, with their noise and geometry in mm.

    The axis of rotation is that of the row nearest to the source's plane, as `prepare_scan` finds it.
    """
    from ..ct import line_integrals, offset_from_centre
    from ..io import write_measurements
    from ..readers import read_scan

    for name in ("paganin", "rings", "beam_hardening"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{as_typed(name)} is for rows, not for --cone; filter the line integrals in Python (pnp.ct)"
            )
    with naming_options(RECONSTRUCT_ONLY):
        scan = read_scan(path, rows=parse_rows(options.rows), pixel_size_mm=options.pixel_size)
        check_flats(scan)
        scan.cone_geometry()  # what the scan lacks is said before the work
        record = None if scan.kind == "line integrals" else line_integrals(scan)
        centre, steps = _axis(scan, options.centre)
        n = scan.y.shape[-1]
        parameters = scan.cone_geometry(offset=offset_from_centre(centre, n, scan.pitch_mm or 1.0))
        y: Any = scan.cone_views(scan.y if record is None else record.y)
        noise_std = None if record is None else scan.cone_views(record.noise_std).numpy()
    write_measurements(
        output,
        y.numpy(),
        operator="cone_beam",
        parameters=parameters,
        noise_std=noise_std,
        length_units="mm",
        overwrite=overwrite,
    )
    for sentence in steps:
        print(sentence)
    _, _, n_angles, n_rows, n_bins = y.shape
    sizes = " x ".join(map(str, parameters["shape"]))
    print(f"{output}: {n_angles} views of {n_rows} rows and {n_bins} bins, for a volume of {sizes} voxels")


def _axis(scan: CtScan, centre: float | None) -> tuple[float, tuple[str, ...]]:
    """Return the axis in bins, of the row nearest to the source's plane, and sentences on how it was found."""
    from ..ct import prepare_scan

    numbers = scan.detector_rows()
    n_rows = 1 if scan.y.ndim == 2 else len(scan.y)
    middle = float(scan.facts.get("middle_row", (n_rows - 1) / 2))
    places = range(n_rows) if numbers is None else numbers
    nearest = min(range(n_rows), key=lambda k: abs(places[k] - middle))
    prepared = prepare_scan(scan.row(nearest), centre=centre)
    said = prepared.steps[1:-1]  # the first and the last are of a scan of this row alone, and of a slice
    return float(prepared.centre[0]), (f"Detector row {places[nearest]}, nearest to the plane of the source:", *said)
