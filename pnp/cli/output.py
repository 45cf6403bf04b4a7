"""Output of the commands: results, names of files, messages and exit codes."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .problem import NIFTI, is_hdf5, is_stack_of_pictures

if TYPE_CHECKING:
    from ..drivers.result import Result
    from ..io import Measurements, SavedErrorBars
    from .quantity import Activity

INTERRUPTED = 130
"""Exit code after Ctrl-C, when the last iterate or the checkpoint has been written."""
OPTIONS = {
    "data_term=LeastSquares(robust=True)": "--robust",
    "data_term=LeastSquares(bin_std='estimate')": "--rings",
    "data_term=LeastSquares(view_std='estimate')": "--drift",
    "leave x0 and schedule open and raise max_iter, or give larger bin_std and view_std": "raise --max-iter, or try "
    "--no-rings or --no-drift",
    "raise max_iter": "raise --max-iter",
    "data_term=Poisson(robust=True)": "--robust",
    "(result.rejected)": "(/rejected in an .h5 result)",
    "; LeastSquares(robust=False) keeps them": "",
}
"""What a command offers for what a remedy in Python says."""
REMEDIES = {
    r"^solve_stack: ": "",
    r"allow it to be (?:overwritten|replaced) \(overwrite\)|overwrite it$": "replace it by --overwrite",
    r"overwrite=True\b": "--overwrite",
}
"""Options that all commands with an output have, for what errors say in Python."""
SETTINGS = {
    "make_operator": "the geometry",
    "measurements": "the measurements",
    "data_term": "--robust, --rings or --drift",
    "noise_std": "the noise",
    "max_iter": "--max-iter",
} | {name: f"--{name}" for name in ("denoiser", "bounds", "strength", "algorithm")}
"""Where the settings of a run are from, by the names that a folder of slices holds."""
ACTIVITY = "SPECT: expected counts in a view, without attenuation, per voxel"
"""What the numbers of a SPECT volume are, for the header of its file."""
BQ_PER_MBQ = 1e6
MAX_MESSAGE_LENGTH = 398
"""Maximum length of a message on stderr, in characters."""


def print_error(message: str) -> None:
    """Print a message on stderr as one line of limited length, with the command's options for remedies in Python."""
    for pattern, option in REMEDIES.items():
        message = re.sub(pattern, option, message)
    message = re.sub(r"(?<=other settings )\(.*?\)(?=; choose)", _settings, message)
    line = f"pnp: {' '.join(message.split())}"
    print(line if len(line) <= MAX_MESSAGE_LENGTH else line[: MAX_MESSAGE_LENGTH - 3] + "...", file=sys.stderr)


def _settings(found: re.Match[str]) -> str:
    """Return the settings of a run that differ, with the options that they are from."""
    return re.sub(r"\w+(?= (?:was|differs?|and)\b)|(?<=and )\w+", lambda word: SETTINGS.get(word[0], word[0]), found[0])


def print_warning(message: str) -> None:
    """Print what looks wrong in a result on stderr, as one line, with the command's options for remedies in Python."""
    for code, option in OPTIONS.items():
        message = message.replace(code, option)
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def print_verdict(result: Result) -> None:
    """Print the misfit and the verdict as one line on stdout, and every warning on stderr."""
    n = len(result.warnings)
    count = (f"{n} warning{'s' if n > 1 else ''}",) if n else ()
    print(replace(result, warnings=count).verdict)
    print_warnings(result)


def print_warnings(result: Result) -> None:
    """Print every warning of a result on stderr."""
    for warning in result.warnings:
        print_warning(warning)


def command_line() -> str:
    """Return the command as it was typed, for the header of a file."""
    return shlex.join(["pnp", *sys.argv[1:]])


def hdf5_fallback_path(output: Path, x: Any) -> Path:
    """Return `output`, or an unused .h5 path beside it if a PNG file, which holds [0, 1], would lose the values of x.

    The second case is reported on stderr.
    """
    low, high = float(x.min()), float(x.max())
    # NaN fails too.
    if output.suffix.lower() != ".png" or (low >= -0.05 and high <= 1.05 and high - low >= 0.1):
        return output
    path, k = output.with_suffix(".h5"), 1
    while path.exists():
        path, k = output.with_name(f"{output.stem}-{k}.h5"), k + 1
    print_error(
        f"output {output} must have values that fill [0, 1], got {low:.3g} to {high:.3g}; they are saved in {path}; "
        "name a .tif, .npy, .fits or .h5 file"
    )
    return path


def _strength(result: Result) -> dict[str, Any]:
    """Return what strength="auto" chose, and from what, as attributes; nothing where the strength was given."""
    if not result.choice:
        return {}
    return {"strength": result.strength, "strength_source": result.strength_source}


def _write_volume(output: Path, x: Any, data: Measurements, overwrite: bool) -> None:
    """Write a volume (D, H, W) as (x, y, z) = (column, row, slice), with its voxels in mm where that is known."""
    from ..io import write_nifti

    size = data.parameters.get("voxel_size", 1.0)
    sizes = tuple(size)[::-1] if isinstance(size, tuple) else (size,) * 3
    unit: Literal["mm", "unknown"] = "mm" if data.length_units == "mm" else "unknown"
    write_nifti(output, x.transpose(2, 1, 0), sizes, axes="RPS", unit=unit, overwrite=overwrite)


def write_picture(output: Path, x: Any, data: Measurements, overwrite: bool, description: str = ACTIVITY) -> None:
    """Write an image or volume (C, ...) to a file that is no HDF5, in the operator's frame.

    Args:
        output: the file.
        x: (C, ...).
        data: the problem.
        overwrite: replace the file.
        description: what the numbers of a volume of SPECT are, for its header.
    """
    from ..io import write_image
    from ..io.hdf5_units import IN_SLICES

    if data.operator in IN_SLICES and output.name.lower().endswith(NIFTI):
        _write_volume(output, x[0], data, overwrite)
        return
    is_spect = data.operator == "spect"
    write_image(
        output,
        x[0] if len(x) == 1 else x,
        slices=is_stack_of_pictures(data),
        voxel_size_mm=data.parameters["voxel_size"] if is_spect else None,
        centre_mm=data.centre_mm if is_spect else None,
        description=description if is_spect else "",
        overwrite=overwrite,
    )


def write_dicom(
    output: Path,
    result: Result,
    data: Measurements,
    like: Path | None,
    overwrite: bool,
    activity: Activity | None,
    note: str = "",
) -> Path:
    """Write a volume of SPECT as DICOM NM, in the study of a DICOM file if one is given; activity in Bq/ml."""
    from ..io.dicom_nm import write_dicom_nm

    size, x = data.parameters["voxel_size"], result.x.cpu().numpy()
    corrected = {"ATTN": "attenuation" in data.parameters, "SCAT": data.background is not None}
    corrected["DECY"] = activity is not None and activity.is_decayed
    write_dicom_nm(
        output,
        x[0, 0] if activity is None else x[0, 0] * BQ_PER_MBQ,
        size,
        centre_mm=data.centre_mm,
        like=like,
        description=f"SPECT: {'counts in a view' if activity is None else 'activity in Bq/ml'}{note}"[:64],
        unit="{counts}" if activity is None else "Bq/ml",
        corrected=[name for name, is_done in corrected.items() if is_done],
        decay_time="" if activity is None else activity.reference,
        overwrite=overwrite,
    )
    return output


def save(
    output: Path,
    result: Result,
    data: Measurements,
    attributes: dict[str, Any],
    overwrite: bool,
    error_bars: SavedErrorBars | None = None,
    activity: Activity | None = None,
    note: str = "",
) -> Path:
    """Write a result: everything to HDF5, only the image or volume to another format. Return the path written.

    With activity, x and the error bars are in MBq/ml already, and the file says so. A note ends the description of a
    volume.
    """
    from ..io import write_result

    x = result.x.cpu().numpy()
    written = hdf5_fallback_path(output, x)
    if not is_hdf5(written):
        write_picture(output, x[0], data, overwrite, (ACTIVITY if activity is None else activity.description) + note)
        return output
    write_result(
        written,
        x,
        operator=data.operator,
        parameters=data.parameters,
        noise_std=result.noise_std,
        history=result.history,
        reference=data.reference,
        attributes={
            "stop": str(result.stop),
            "n_iter": result.n_iter,
            "misfit": result.misfit,
            "noise_estimated": result.noise_estimated,
            **_strength(result),
            **attributes,
            **({} if activity is None else activity.facts),
            "command": command_line(),
        },
        warnings=result.warnings,
        rejected=result.rejected,
        candidates=result.candidates,
        length_units=data.length_units,
        error_bars=error_bars,
        centre_mm=data.centre_mm,
        units=None if activity is None else "MBq/ml",
        overwrite=overwrite and written == output,
    )
    return written
