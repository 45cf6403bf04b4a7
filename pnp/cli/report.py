"""The command `pnp report`: one HTML page of a result, with a first estimate if it is given the measurements."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Overwrite
from .problem import NIFTI, build_operator, check_sizes, is_hdf5, read_picture, read_problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..io import Measurements

    Array = npt.NDArray[np.floating[Any]]

PAGE_SUFFIXES = (".html", ".htm")
B_MODE_DATASET = "b_mode"
"""Dataset in the file of a mass map that holds its B mode."""
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".npy", ".fits", ".nii", ".gz")
"""Files that hold an image alone, without its history and parameters."""
SMOOTHING_PX = 3.0
"""Standard deviation of the Gaussian, in pixels, that smooths Kaiser-Squires maps, whose noise is high."""
MIN_SENSITIVITY = 1e-3
"""Voxels below this fraction of the highest sensitivity are left blank in a back-projection."""


def report(
    result: Annotated[Path, typer.Argument(help="HDF5 file of a result (docs/hdf5_layout.md).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write: .html.")],
    baseline: Annotated[
        list[Path] | None, typer.Option(help="Another result, or an image, to compare with; can be repeated.")
    ] = None,
    measurements: Annotated[
        Path | None, typer.Option(help="Measurements of the result; the page then shows a first estimate too.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page; default: the file's name.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show a result on one HTML page.

    The page needs no network. It shows the verdict (misfit, warnings, rejected measurements), pictures, slices, errors,
    the history and the parameters.

    \b
    Examples:
      pnp report result.h5 -o report.html
      pnp report result.h5 --measurements measurements.h5 --baseline tv.h5 -o report.html
    """
    from ..io import check_output, read_result

    check_output(output, overwrite=overwrite)
    if output.suffix.lower() not in PAGE_SUFFIXES:
        raise ValueError(f"output {output} must be an .html file; name it e.g. {output.with_suffix('.html').name}")
    if result.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"result {result} is an image; a page needs the HDF5 result: pnp reconstruct ... -o result.h5")
    if result.is_dir():
        raise ValueError(_of_folder(result))
    saved = read_result(result)
    units, b_mode, has_data = _read_extras(result)
    units = units or ("1/mm" if saved.length_units == "mm" else "")  # of a cone beam
    source = measurements or (result if has_data else None)
    compared = {_baseline_name(path): _read_baseline(path, saved.operator) for path in baseline or []}
    if len(compared) < len(baseline or []):
        raise ValueError("--baseline: two files have the same name; rename one of them")

    from ..report import write_report

    size = write_report(
        output,
        saved,
        title=title or result.name,
        first=None if source is None else _first_estimate_of(source, saved.operator or None),
        baselines=compared,
        b_mode=b_mode,
        units=units,
        overwrite=overwrite,
        progress=True,
    )
    print(f"{output}: {size / 1e6:.1f} MB; open it in any browser")


def _of_folder(path: Path) -> str:
    """Return the sentence that refuses a folder: what it is, and what makes its page."""
    from ..io.file_kinds import describe, file_kind

    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        return describe(path, file_kind(path), "a result in HDF5")
    return (
        f"result {path} is a volume in Zarr; a page needs the HDF5 result: name {path.stem}.h5 as the output of the "
        "command that made it; of a raw scan, pnp reconstruct writes the page itself, beside the volume (--report)"
    )


def _first_estimate_of(path: Path, operator: str | None) -> dict[str, Array]:
    data = read_problem(path, operator)
    check_sizes(build_operator(data.operator, data.parameters), data, path)
    return first_estimate(data)


def first_estimate(data: Measurements) -> dict[str, Array]:
    """Return an estimate without a prior, by its name; it costs at most a few applications of the operator.

    Projections give their filtered back-projection; shear gives the smoothed E and B modes (B, 2, H, W); masked and
    blurred images give themselves; other measurements give A^T y / A^T A 1. NaN marks pixels without data.

    Args:
        data: measurements of a file; a value counts as missing if it is NaN or its noise_std is infinite.
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
        return {"back-projection": torch.where(whole > MIN_SENSITIVITY * whole.max(), back / whole, math.nan).numpy()}


def _read_extras(path: Path) -> tuple[str, Array | None, bool]:
    """Return the units of /image, the B mode if there is one, and whether the file holds measurements."""
    from ..io.hdf5_safe import numbers, open_hdf5

    with open_hdf5(path) as file:
        units = file["image"].attrs.get("units", "")
        units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
        b_mode = numbers(path, file[B_MODE_DATASET]) if hasattr(file.get(B_MODE_DATASET), "shape") else None
        return "" if units == "1" else units, b_mode, hasattr(file.get("measurements"), "shape")


def _read_baseline(path: Path, operator: str) -> Array:
    """Read the image of another result, or of a file of one image or volume, in the axes of this operator."""
    from ..io import read_result

    return read_result(path).x if is_hdf5(path) else read_picture(path, operator)


def _baseline_name(path: Path) -> str:
    """Return the label of a baseline: the name of its file, without suffix."""
    is_nifti = path.name.lower().endswith(NIFTI)
    stem = path.name.removesuffix("".join(path.suffixes[-2:])) if is_nifti else path.stem
    return "baseline" if stem in ("reconstruction", "truth", "") else stem
