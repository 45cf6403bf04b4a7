"""What `--volume` does: the slices of a parallel beam, solved as one volume or in slabs that overlap."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problem import is_counts, is_hdf5

if TYPE_CHECKING:
    from ..ct import PreparedScan
    from ..io import Measurements
    from ..stack import StackResult


def check_stack_as_volume(data: Measurements, path: Path) -> None:
    """Refuse --volume, or a denoiser of volumes, for a stack whose slices are no volume."""
    if is_counts(data) or data.operator != "radon" or data.y.ndim != 4 or data.y.shape[1] != 1:
        got = "counts" if is_counts(data) else f"{data.y.shape[1:]} a slice of {data.operator!r}"
        raise ValueError(
            f"--volume, and denoisers of volumes, are for line integrals of radon, (1, n_angles, n_detectors) a slice, "
            f"{path} holds {got}; solve slice by slice with a denoiser of images, such as mlpatch:gray"
        )


def check_scan_as_volume(prepared: PreparedScan, path: Path) -> None:
    """Refuse --volume, or a denoiser of volumes, for the rows of a cone beam."""
    from operators import FanBeam

    operator: Any = prepared.operator
    if getattr(operator, "kind", type(operator)) is FanBeam:
        raise ValueError(
            f"--volume, and denoisers of volumes, are for parallel beams, {path} is a cone beam, whose rows make no "
            "volume; pnp convert --cone, then pnp reconstruct --operator cone_beam"
        )


def dead_rows_sentence(prepared: PreparedScan) -> str:
    """Return which slices of a volume were not measured; empty: none."""
    if not prepared.unmeasured:
        return ""
    rows = ", ".join(str(prepared.rows[k]) for k in prepared.unmeasured)
    return f"Detector rows {rows} measured nothing: their slices are what the prior makes of their neighbours."


def solve_volume(
    operator: Any,
    y: Any,
    denoiser: Any,
    *,
    output: Path,
    client: Any = None,
    n_workers: int | None = None,
    depth: float | None = None,
    overwrite: bool = False,
    **options: Any,
) -> StackResult:
    """Solve the slices of a file as one volume, or in slabs where memory does not hold it; print which.

    Args:
        operator, y, denoiser, output, client, overwrite, options: as of `solve_stack`; y is a path.
        n_workers: slabs at a time; None: one, and as many as workers on a cluster, which may be on one machine.
        depth: distance of the slices, in the operator's unit; None: a pixel's side.
    """
    from operators import ParallelBeam

    from ..io import check_output
    from ..stack.results_store import Parts
    from ..stack.slabs import number_at_a_time, plan, resumed_plan, solve_slabs
    from ..stack.sources import FileSource
    from ..stack.to_hdf5 import to_hdf5

    source = FileSource(y, "pnp reconstruct")
    n, _, *views = source.shape
    one: Any = operator if hasattr(operator, "A") else operator(0)
    at_a_time = (n_workers or 1) if client is None else max(1, len(client.scheduler_info()["workers"]))
    folder = output.with_name(output.name + ".parts") if is_hdf5(output) else output
    slabs = resumed_plan(folder, n)
    if slabs is None:
        slabs = plan(n, one.shape, tuple(views), at_a_time)
    elif client is None:
        at_a_time = min(at_a_time, number_at_a_time(slabs, one.shape, tuple(views)))
    if len(slabs) > 1:
        print(
            f"The volume is solved in {len(slabs)} slabs of {slabs.size} slices, which memory holds; slabs overlap by "
            f"{2 * slabs.halo} slices"
        )
    if folder != output:
        check_output(output, overwrite=overwrite)
    result = solve_slabs(
        operator,
        y,
        denoiser,
        output=folder,
        slabs=slabs,
        client=client,
        n_workers=min(at_a_time, len(slabs)) if client is None else None,
        volume_of=partial(ParallelBeam.from_slices, depth=depth),
        overwrite=overwrite,
        **options,
    )
    if folder == output or result.stop is not None or not result.done:
        return result
    to_hdf5(Parts(folder), output, source, remove=not result.failed, overwrite=overwrite)
    return replace(result, output=output)
