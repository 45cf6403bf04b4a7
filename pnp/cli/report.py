"""`pnp report`: one HTML page of a result, with the first estimate where the measurements are at hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Overwrite
from .problem import build_operator, is_hdf5, read_problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..io import Measurements

    Array = npt.NDArray[np.floating[Any]]

PAGES = (".html", ".htm")
NIFTI = (".nii", ".nii.gz")
B_MODE = "b_mode"
"""Dataset of a result's file that holds the B mode of a mass map."""
SMOOTHING_PX = 3.0
"""Of the Kaiser-Squires maps, whose noise drowns everything where they are not smoothed."""
SEEN = 1e-3
"""Least share of the highest sensitivity of a voxel that a back-projection shows."""


def report(
    result: Annotated[Path, typer.Argument(help="HDF5 file of a result (docs/hdf5_layout.md).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, .html.")],
    baseline: Annotated[
        list[Path] | None, typer.Option(help="Another result, or an image, to compare with; may be given again.")
    ] = None,
    measurements: Annotated[
        Path | None, typer.Option(help="What it was made from: shows the first estimate as well.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page; default: the name of the file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show a result on one HTML page that needs no network: pictures, slices, errors, history, parameters.

    \b
    Examples:
      pnp report result.h5 -o report.html
      pnp report result.h5 --measurements measurements.h5 --baseline tv.h5 -o report.html
    """
    from ..io import check_output, read_result

    check_output(output, overwrite=overwrite)
    if output.suffix.lower() not in PAGES:
        raise ValueError(f"output {output} must be an .html file; name it e.g. {output.with_suffix('.html').name}")
    saved = read_result(result)
    units, b_mode, has_data = _extras(result)
    source = measurements or (result if has_data else None)
    compared = {_name(path): _values(path) for path in baseline or []}
    if len(compared) < len(baseline or []):
        raise ValueError("--baseline: two files have one name; rename one of them")

    from ..report import write_report

    size = write_report(
        output,
        saved,
        title=title or result.name,
        first=None if source is None else first_estimate(read_problem(source, saved.operator or None)),
        baselines=compared,
        b_mode=b_mode,
        units=units,
        overwrite=overwrite,
        progress=True,
    )
    print(f"{output}: {size / 1e6:.1f} MB; open it in any browser")


def first_estimate(data: Measurements) -> dict[str, Array]:
    """Return what the measurements show without a prior, by name: at most a few applications of the operator.

    Filtered back-projection of projections, the smoothed E and B modes of shear (B, 2, H, W), what was measured of
    masked and blurred images, and of anything else A^T y / A^T A 1. NaN where there is nothing.

    Args:
        data: from a file of measurements; NaN, and where noise_std is infinite, counts as not measured.
    """
    import numpy as np
    import torch

    from ..drivers.arguments import as_weights

    A = build_operator(data.operator, data.parameters)
    y = torch.from_numpy(np.array(data.y, dtype=np.float64 if data.y.dtype == np.float64 else np.float32))
    seen = y.isfinite()
    if data.noise_std is not None:
        seen &= as_weights(data.noise_std, y, caller="pnp report") > 0
    y = torch.where(seen, y, 0)
    with torch.no_grad():
        if hasattr(A, "fbp"):
            return {"filtered back-projection": A.fbp(y).numpy()}
        if hasattr(A, "inverse_eb"):
            from ..lensing.gaussian_filter import Gaussian

            maps = A.inverse_eb(y)
            smooth = Gaussian(tuple(maps.shape[-2:]), SMOOTHING_PX, like=maps)(maps)
            return {f"Kaiser-Squires, {SMOOTHING_PX:g} px": smooth.numpy()}
        if data.operator == "mask":
            return {"measured": torch.where(seen & (A.A(torch.ones_like(y)) > 0), y, math.nan).numpy()}
        back = A.A_adjoint(y)
        if data.operator == "blur" and back.shape == y.shape:
            return {"measured": torch.where(seen, y, math.nan).numpy()}
        ones = torch.ones_like(back)
        whole = A.A_adjoint(torch.where(seen, A.A(ones), 0))
        return {"back-projection": torch.where(whole > SEEN * whole.max(), back / whole, math.nan).numpy()}


def _extras(path: Path) -> tuple[str, Array | None, bool]:
    """Return what else the file of a result may hold: units of /image, a B mode, and whether measurements."""
    from ..io.hdf5_safe import numbers, open_hdf5

    with open_hdf5(path) as file:
        units = file["image"].attrs.get("units", "")
        units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
        b_mode = numbers(path, file[B_MODE]) if hasattr(file.get(B_MODE), "shape") else None
        return "" if units == "1" else units, b_mode, hasattr(file.get("measurements"), "shape")


def _values(path: Path) -> Array:
    """Return the image of another result, or of a file that holds an image or a volume alone."""
    from ..io import read_image, read_nifti, read_result

    if is_hdf5(path):
        return read_result(path).x
    return read_nifti(path)[0] if path.name.lower().endswith(NIFTI) else read_image(path)


def _name(path: Path) -> str:
    """Return what a baseline is called: by the name of its file, which its user chose."""
    stem = path.name.removesuffix("".join(path.suffixes[-2:])) if path.name.lower().endswith(NIFTI) else path.stem
    return "baseline" if stem in ("reconstruction", "truth", "") else stem
