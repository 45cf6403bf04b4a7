"""From a raw CT scan to a volume: what `pnp reconstruct` does with the file of a scanner.

Beside the output OUTPUT stand, until it is finished, OUTPUT.prepared.h5, the line integrals of all rows, and
OUTPUT.parts, the finished slices of a volume that is not Zarr. From these the same command resumes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    CommonErrorOptions,
    SolveOptions,
    WorkerOptions,
    choose_device,
    least_squares,
    parse_bounds,
)
from .output import command_line, print_warning
from .problem import build_denoiser, is_hdf5, needs_volumes
from .reconstruct_stack import connect, print_summary
from .reconstruct_volume import check_scan_as_volume, dead_rows_sentence, solve_volume
from .scan_options import ScanOptions, naming_options, parse_rows, parse_search, read_angles

if TYPE_CHECKING:
    from ..ct import PreparedScan
    from ..stack import StackResult

SCANS = ("dxchange", "nexus", "matlab", "matlab73", "tiff", "tiff_folder", "txrm", "xtekct")
"""Kinds of files, as `pnp.io.file_kinds` names them, that hold a scan."""
MAX_SHOWN = 12
"""Maximum number of slices on the report page."""


def is_scan(path: Path) -> bool:
    """Return whether a file or a folder holds a raw scan, not measurements in the project's own layout."""
    import glob

    from ..io.file_kinds import file_kind

    if not path.exists():
        return glob.has_magic(str(path))
    return file_kind(path) in SCANS


def reconstruct_scan(
    path: Path,
    output: Path,
    options: ScanOptions,
    solving: SolveOptions,
    errors: CommonErrorOptions,
    machines: WorkerOptions,
    *,
    report: Path | None,
    device: str,
    overwrite: bool,
) -> None:
    """Reconstruct the rows of a scan to a volume with a report page.

    Args:
        path: the scan.
        output: the volume; its suffix chooses the format.
        options, solving, errors, machines, report, device, overwrite: as for `pnp reconstruct`.
    """
    errors = CommonErrorOptions(errors.rings is not False, errors.drift is not False)  # both unless they are refused
    rows, limits = parse_rows(options.rows), parse_bounds(solving.bounds) or (0.0, None)
    _require_stack()
    folder, page = _places(output, report, overwrite)
    resumes = folder.exists()
    from ..drivers.fingerprint import fingerprint
    from ..stack import solve_stack
    from ..stack.cluster import cores
    from ..stack.write_volume import set_attributes

    choose_device(device)  # a device that this machine lacks, its workers lack too
    D = build_denoiser(solving.denoiser, choose_device("cpu"), volume=options.volume)
    volume = bool(options.volume) or needs_volumes(D)
    solver = solving.solver() | {"bounds": limits, "data_term": least_squares(solving.robust, errors)}
    files = [str(path), options.flat, options.dark, options.angles, solving.denoiser.partition(":")[2]]
    stamps = [_stamp(name) for name in files if name]
    settings = fingerprint([stamps, options, solving.denoiser, solving.noise_std, solver])
    if folder == output and (done := _finished(folder, settings)):
        print(f"{output}: finished already, {done} slices; nothing is left to do")
        return
    working = output.with_name(f"{output.name}.prepared.h5")
    prepared = _prepared(path, working, rows, options)
    if modelled := _common_errors(errors):
        prepared = replace(prepared, steps=(*prepared.steps, modelled))
    if volume:
        check_scan_as_volume(prepared, path)
        steps = ("The slices are one volume, with a prior across slices.", dead_rows_sentence(prepared))
        prepared = replace(prepared, steps=(*prepared.steps, *filter(None, steps)), unmeasured=())
    for sentence in prepared.steps:
        print(sentence)
    with ExitStack() as opened:
        result = (solve_volume if volume else solve_stack)(
            prepared.operator,
            prepared.y,
            D,
            output=folder,
            client=None if machines.scheduler is None else opened.enter_context(connect(machines.scheduler)),
            n_workers=machines.workers if volume else _workers(machines, len(prepared.rows), cores()),
            noise_std=prepared.noise_std if solving.noise_std is None else solving.noise_std,
            device=device,
            overwrite=overwrite,
            progress=True,
            **({"depth": _depth(prepared)} if volume else {}),
            **solver,
        )
    result = replace(result, output=output)
    # Slices without measurements fail, and always will.
    failed = {k: why for k, why in result.failed.items() if k not in prepared.unmeasured}
    if result.stop is not None or not result.done:
        print_summary(replace(result, output=folder, failed=failed or result.failed))
    attributes = _attributes(prepared, solving.denoiser)
    missing = _missing(prepared, failed)
    set_attributes(folder, attributes | {"missing": missing})
    write_page(page, folder, prepared, result, attributes, title=path.name, missing=missing)
    print(f"{page}: the report; open it in any browser")
    _write(folder, output, prepared, attributes | {"missing": missing}, overwrite=overwrite or resumes)
    for sentence in missing:
        print_warning(sentence)
    if not failed:
        if folder == output:
            set_attributes(folder, {"scan": settings})  # the last of all: the run is finished
        else:
            shutil.rmtree(folder)
        working.unlink()
    print_summary(replace(result, failed=failed))


def _depth(prepared: PreparedScan) -> float | None:
    """Return the distance of the slices, in the operator's unit; None: not known."""
    return None if prepared.voxel_size_mm is None else prepared.voxel_size_mm[0]


def _common_errors(errors: CommonErrorOptions) -> str:
    """Return which errors that bins or views have in common the data term counts as noise; empty: none."""
    parts = [
        text
        for option, text in (
            (errors.rings, "what all views of a bin have in common (rings; --no-rings)"),
            (errors.drift, "what all bins of a view have in common (a beam that drifts; --no-drift)"),
        )
        if option
    ]
    return f"Errors of the measurements are part of the noise: {' and '.join(parts)}." if parts else ""


def _missing(prepared: PreparedScan, failed: dict[int, str]) -> list[str]:
    """Return which slices of the volume are NaN, and why, in sentences."""
    from ..stack.stack_result import named

    said = []
    for slices, what in (
        (prepared.unmeasured, "nothing was measured there"),
        (sorted(failed), "they failed, and the same command tries them again"),
    ):
        if slices:
            rows = [prepared.rows[k] for k in slices]
            said.append(f"Slices {named(slices)} (detector rows {named(rows)}) are NaN in the volume: {what}.")
    return said


def _prepared(path: Path, working: Path, rows: slice | None, options: ScanOptions) -> PreparedScan:
    """Read the scan and find its line integrals and its axis; errors and warnings name the options."""
    from ..ct import prepare_scan
    from ..readers import read_scan

    reading = {
        name: getattr(options, name) for name in ("flat", "dark", "kind", "entry") if getattr(options, name) is not None
    }
    if options.angles is not None:
        reading["angles"] = read_angles(options.angles)
    if options.pixel_size is not None:
        reading["pixel_size_mm"] = options.pixel_size
    search = parse_search(options.search)
    with naming_options():
        return prepare_scan(
            partial(read_scan, path, **reading),
            rows=rows,
            centre=options.centre,
            search=search,
            size=options.size,
            i0=options.i0,
            working_file=working,
            progress=True,
        )


def _require_stack() -> None:
    from ..stack.cluster import require

    try:
        require("pnp reconstruct of a scan")
    except ImportError as error:
        raise ValueError(str(error)) from None


def _places(output: Path, report: Path | None, overwrite: bool) -> tuple[Path, Path]:
    """Return the Zarr folder of the slices and the report page, or explain why they cannot be written."""
    from ..io import check_output
    from ..stack.write_volume import check_volume_output

    is_zarr = output.suffix.lower() == ".zarr"
    folder = output if is_zarr else output.with_name(output.name + ".parts")
    replaces = overwrite or folder.exists()  # a run that was stopped while it wrote its output
    if is_zarr and not output.exists():
        check_output(output)
    elif is_hdf5(output):
        check_output(output, overwrite=replaces)
    elif not is_zarr:
        check_volume_output(output, overwrite=replaces)
    page = (
        output.with_name(f"{output.name}.html") if report is None else report
    )  # as scan.h5 may become several volumes
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report {page} must be an .html file")
    if page.is_file() and not replaces:
        raise ValueError(f"the report page {page} exists; name another one by --report, or replace it by --overwrite")
    check_output(page, overwrite=replaces)
    return folder, page


def _stamp(name: str) -> list[Any]:
    """Return what tells a file, or those of a folder or a pattern, from an earlier state; text of no file as it is."""
    import glob

    path = Path(name)
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else sorted(map(Path, glob.glob(name)))
    states = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
    return [name, *((where, now.st_size, now.st_mtime_ns) for where, now in states)]


def _finished(folder: Path, settings: str) -> int:
    """Return the number of slices of a finished run with these settings, else 0."""
    import zarr

    from ..stack.results_store import DONE, Parts

    if not folder.exists():
        return 0
    try:
        held = dict(zarr.open_group(str(folder), mode="r").attrs)
    except (OSError, ValueError, KeyError):
        return 0
    if held.get("scan") != settings:
        return 0
    ledger = Parts(folder).ledger()
    return int((ledger == DONE).sum())


def _workers(machines: WorkerOptions, n_slices: int, n_cores: int) -> int | None:
    """Return the number of processes: no more than slices, so that one slice may use all cores."""
    if machines.scheduler is not None:
        return None
    return min(n_slices, n_cores) if machines.workers is None else machines.workers


def _attributes(prepared: PreparedScan, denoiser: str) -> dict[str, Any]:
    """Return what the volume's Zarr group and HDF5 file say of it."""
    known = prepared.voxel_size_mm
    return {
        "units": prepared.unit,
        **({} if known is None else {"voxel_size_mm": list(known), "pixel_size_mm": prepared.pixel_size}),
        "rows": list(prepared.rows),
        "centre": [round(float(c), 4) for c in prepared.centre],
        "steps": list(prepared.steps),
        "denoiser": denoiser,
        "command": command_line(),
    }


def _write(folder: Path, output: Path, prepared: PreparedScan, attributes: dict[str, Any], *, overwrite: bool) -> None:
    """Write the slices of a finished run in the output's format, if that is not Zarr."""
    from ..stack import write_volume
    from ..stack.results_store import Parts
    from ..stack.sources import as_source
    from ..stack.to_hdf5 import to_hdf5

    if is_hdf5(output):
        y = as_source(prepared.y, "pnp reconstruct")
        to_hdf5(Parts(folder), output, y, remove=False, overwrite=overwrite, attributes=attributes)
    elif folder != output:
        write_volume(folder, output, voxel_size_mm=prepared.voxel_size_mm, overwrite=overwrite)


def write_page(
    page: Path,
    folder: Path,
    prepared: PreparedScan,
    result: StackResult,
    attributes: dict[str, Any],
    *,
    title: str,
    missing: Sequence[str] = (),
) -> None:
    """Write the report page of a few finished slices, with their filtered back-projections.

    Args:
        page: the file.
        folder: the run.
        prepared: the measurements.
        result: of the stack.
        attributes: of the volume.
        title: of the page.
        missing: which slices are missing, in sentences.
    """
    import numpy as np
    import torch

    from ..io import SavedResult
    from ..report import write_report
    from ..report.images import PIXEL_BYTES
    from ..stack.results_store import DONE, FACTS, Parts
    from ..stack.sources import as_source
    from ..stack.stack_result import sentences

    parts = Parts(folder)
    images, facts = parts.array("image"), parts.array("facts")
    done = np.flatnonzero(parts.ledger() == DONE)
    n = len(done)
    fitting = PIXEL_BYTES // (2 * 2 * int(np.prod(images.shape[-2:])))  # two pictures of 16 bits
    shown = done[np.unique(np.linspace(0, n - 1, max(1, min(n, MAX_SHOWN, fitting))).round().astype(int))].tolist()
    source, first = as_source(prepared.y, "pnp reconstruct"), []
    for k in shown:
        operator: Any = prepared.operator
        operator = operator if hasattr(operator, "A") else operator(k)
        with torch.no_grad():
            first.append(operator.fbp(torch.from_numpy(source[k : k + 1]), window="hann").numpy())
    medians = np.nanmedian(np.asarray(facts[:]), axis=0)
    geometry = operator_parameters(operator)
    named = ", ".join(str(prepared.rows[k]) for k in shown)
    rows = f"row{'s' if len(shown) > 1 else ''} {named}"
    chosen = (f"The prior: {result.choice}.",) if result.choice else ()
    steps = (*prepared.steps, *chosen, f"The page shows {len(shown)} of {result.n} slices, those of detector {rows}.")
    write_report(
        page,
        SavedResult(
            x=np.concatenate([np.asarray(images[k : k + 1]) for k in shown]),
            operator=geometry.pop("operator"),
            parameters=geometry,
            noise_std=float(medians[FACTS.index("noise_std")]),
            attributes={
                "misfit": float(medians[FACTS.index("misfit")]),
                "n_iter": int(medians[FACTS.index("n_iter")]),
                "slices": f"{result.done} of {result.n}",
                "denoiser": attributes["denoiser"],
                "command": attributes["command"],
            },
            warnings=(*missing, *prepared.warnings, *sentences(result.warnings, result.n)),
        ),
        title=title,
        first={"filtered back-projection, Hann window": np.concatenate(first)},
        units=prepared.unit,
        steps=steps,
        overwrite=True,
        progress=True,
    )


def operator_parameters(operator: Any) -> dict[str, Any]:
    """Return the name and the geometry of a projector, for the page."""
    names = ("shape", "angles", "n_detectors", "pitch", "pixel_size", "source_origin", "origin_detector")
    found = {name: getattr(operator, name) for name in names if hasattr(operator, name)}
    found |= {"angles": operator.angles.numpy(), "offset": float(operator.offset)}
    return {"operator": "fan_beam" if "source_origin" in found else "radon", **found}
