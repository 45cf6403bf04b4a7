"""What the commands share: a file's problem made into an operator, and a result made into a file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..io import Measurements


def is_hdf5(path: Path) -> bool:
    """Whether the name is one of an HDF5 file."""
    return path.suffix.lower() in (".h5", ".hdf5")


def read_problem(path: Path, operator: str | None = None) -> Measurements:
    """Read a file of measurements; the response of a SPECT camera is computed where the file has its collimator."""
    import h5py

    from ..io import read_measurements

    if path.is_file() and not is_hdf5(path) and not h5py.is_hdf5(path):
        raise ValueError(
            f"{path} is not HDF5; of DICOM NM or Interfile, make it by: pnp convert {path.name} -o scan.h5"
        )
    data = read_measurements(path, operator=operator)
    if not data.collimator:
        return data
    from operators import collimator_fwhm

    if "fwhm" in data.parameters or "psf" in data.parameters:
        raise ValueError(f"{path}: /operator must have one of fwhm, psf and collimator; delete the others")
    try:
        shape, size = data.parameters["shape"], data.parameters["voxel_size"]
        transaxial = size[0] if isinstance(size, tuple) else size
        fwhm = collimator_fwhm(shape[1], voxel_size=transaxial, **data.collimator)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: /operator/collimator does not hold its numbers: {error}") from error
    return replace(data, parameters=data.parameters | {"fwhm": fwhm.numpy()}, collimator={})


def background(data: Measurements, y: Tensor) -> float | Tensor:
    """Return the background of a file on the device and in the dtype of its measurements y, 0 where it has none."""
    import torch

    r = data.background
    return torch.from_numpy(r).to(y.device, y.dtype) if hasattr(r, "shape") else float(r or 0.0)


def build_operator(name: str, parameters: dict[str, Any]) -> Any:
    """Construct an operator from the parameters in a file."""
    import numpy as np
    import torch

    from operators import OPERATORS

    arguments = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in parameters.items()}
    try:
        return OPERATORS[name](**arguments)
    except TypeError as error:
        raise TypeError(f"/operator ({name}) does not hold its parameters: {error}") from error


def build_denoiser(spec: str, where: torch.device) -> Any:
    """Construct a denoiser from "name" or "name:weights"."""
    import torch

    from denoisers import DENOISERS

    name, _, weights = spec.partition(":")
    if name not in DENOISERS:
        raise ValueError(f"--denoiser {spec}: the name must be one of {', '.join(sorted(DENOISERS))}, got {name!r}")
    kind: Any = DENOISERS[name]
    if hasattr(kind, "from_pretrained"):
        D = kind.from_pretrained(weights) if weights else kind.from_pretrained()
    elif weights:
        raise ValueError(f"--denoiser {spec}: {name} has no weights to choose; use --denoiser {name}")
    else:
        D = kind()
    return D.to(where) if isinstance(D, torch.nn.Module) else D


def parse_bounds(text: str | None) -> tuple[float | None, float | None] | None:
    """Read "low,high", where an empty side, a low of -inf or a high of inf is open."""
    if text is None:
        return None
    try:
        left, right = text.split(",")
        low, high = float(left.strip() or -math.inf), float(right.strip() or math.inf)
        if not (low < math.inf and high > -math.inf):  # NaN fails too
            raise ValueError
    except ValueError:
        raise ValueError(f"--bounds must be low,high, e.g. 0,1 or 0,inf, got {text!r}") from None
    return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)
