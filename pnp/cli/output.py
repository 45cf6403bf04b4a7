"""How commands write: results, names, errors and exit codes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problem import is_hdf5

if TYPE_CHECKING:
    from ..drivers.result import Result
    from ..io import Measurements


INTERRUPTED = 130
"""Exit code after Ctrl-C, when the last iterate has been written."""
LONGEST = 398
"""Characters of a message on stderr."""


def complain(message: str) -> None:
    """Print one short line on stderr."""
    line = f"pnp: {' '.join(message.split())}"
    print(line if len(line) <= LONGEST else line[: LONGEST - 3] + "...", file=sys.stderr)


def free_name(output: Path, x: Any) -> Path:
    """Return `output`, or a free .h5 name beside it, and say so, where x would be lost in a PNG file's [0, 1]."""
    low, high = float(x.min()), float(x.max())
    # NaN fails too.
    if output.suffix.lower() != ".png" or (low >= -0.05 and high <= 1.05 and high - low >= 0.1):
        return output
    name, k = output.with_suffix(".h5"), 1
    while name.exists():
        name, k = output.with_name(f"{output.stem}-{k}.h5"), k + 1
    complain(
        f"output {output} must have values that fill [0, 1], got {low:.3g} to {high:.3g}; they are kept in {name}; "
        "name a .tif, .npy, .fits or .h5 file"
    )
    return name


def save(output: Path, result: Result, data: Measurements, attributes: dict[str, Any], overwrite: bool) -> Path:
    """Write a result: everything to HDF5, the image or volume alone to another format. Return where it is."""
    from ..io import write_image, write_result

    x = result.x.cpu().numpy()
    written = free_name(output, x)
    if not is_hdf5(written):
        voxel_mm = data.parameters["voxel_size"] if data.operator == "spect" else None
        write_image(output, x[0, 0] if x.shape[1] == 1 else x[0], voxel_mm=voxel_mm, overwrite=overwrite)
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
            **attributes,
            "command": shlex.join(["pnp", *sys.argv[1:]]),
        },
        overwrite=overwrite and written == output,
    )
    return written
