"""The problem that a file and the options describe: measurements, operator, background, denoiser."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from ..io import Measurements
    from .options import CommonErrorOptions

    Array = npt.NDArray[np.floating[Any]]

NIFTI = (".nii", ".nii.gz")
"""Suffixes of volumes."""


def is_volume(data: Measurements) -> bool:
    """Return whether x is a volume."""
    from ..io.hdf5_units import IN_SLICES

    return data.operator in (*IN_SLICES, "spect") or is_stack_of_pictures(data)


def is_stack_of_pictures(data: Measurements) -> bool:
    """Return whether x is a volume (D, H, W) whose voxels have no known size, as a microscope's stack."""
    from ..io.hdf5_units import OF_PICTURES

    return data.operator in OF_PICTURES and data.y.ndim == 5


def read_picture(path: Path, operator: str) -> Array:
    """Read a file of one image or volume, in the axes of this operator."""
    from ..io import read_image, read_nifti
    from ..io.hdf5_units import IN_SLICES

    if not path.name.lower().endswith(NIFTI):
        return read_image(path)
    volume = read_nifti(path)[0]
    # Turned to LPS, as all volumes; those of CT are RPS, (column, row, slice).
    return volume[::-1].transpose(2, 1, 0) if operator in IN_SLICES else volume


def is_hdf5(path: Path) -> bool:
    """Return whether a path is named as an HDF5 file."""
    return path.suffix.lower() in (".h5", ".hdf5")


def read_problem(path: Path, operator: str | None = None) -> Measurements:
    """Read a file of measurements, and compute the response of a collimator.

    Raises:
        ValueError: the file is of another kind: the message says which, and what takes it.
    """
    from ..io import read_measurements
    from ..io.file_kinds import describe, file_kind

    kind = file_kind(path) if path.exists() else "measurements"
    # A damaged .h5 file may be of no kind: its reader says what is wrong with it.
    if kind not in ("measurements", "hdf5") and not (kind in ("unknown", "empty") and is_hdf5(path)):
        raise ValueError(describe(path, kind, "measurements in the HDF5 layout of pnp"))
    return with_response(path, read_measurements(path, operator=operator))


def with_response(path: Path, data: Measurements) -> Measurements:
    """Return measurements with the response of the SPECT camera whose collimator they have, if any.

    Args:
        path: the file, for messages.
        data: its content.
    """
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


def check_operator(option: str | None, data: Measurements, path: Path) -> None:
    """Refuse an --operator that differs from the one that the file names."""
    if option is not None and option != data.operator:
        raise ValueError(f"--operator {option}: {path} was measured with {data.operator!r}; leave it out")


def check_sizes(operator: Any, data: Measurements, path: Path) -> None:
    """Refuse projections that have other views or bins than the operator, and name the entry of /operator to set.

    Args:
        operator: what `build_operator` made of the file.
        data: its measurements, or the first of them.
        path: the file, for the message.
    """
    from ..io.hdf5_units import IN_SLICES

    if data.operator in IN_SLICES:
        _check_volume_sizes(operator, data, path)
        return
    if data.operator not in ("radon", "fan_beam") or data.y.ndim != 4:
        return
    views, bins = data.y.shape[-2:]
    if bins != operator.n_detectors:
        source = "says" if "n_detectors" in data.parameters else "has no n_detectors, whose default is"
        raise ValueError(
            f"{path}: /measurements has {bins} bins, /operator {source} {operator.n_detectors}; set the attribute "
            f"n_detectors of /operator to {bins}"
        )
    if views != len(operator.angles):
        raise ValueError(
            f"{path}: /measurements has {views} views, /operator/angles has {len(operator.angles)}; give one angle for "
            "each view, measurements being (B, C, n_angles, n_detectors)"
        )


def _check_volume_sizes(operator: Any, data: Measurements, path: Path) -> None:
    if data.y.ndim != 5 or data.y.shape[1] != 1:
        raise ValueError(
            f"{path}: /measurements of {data.operator} must be (B, 1, n_angles, rows, columns), got {data.y.shape}; "
            "add or move axes"
        )
    views, *bins = data.y.shape[2:]
    if views != len(operator.angles):
        raise ValueError(
            f"{path}: /measurements has {views} views, /operator/angles has {len(operator.angles)}; give one angle for "
            "each view, measurements being (B, 1, n_angles, rows, columns)"
        )
    if data.operator == "parallel_beam":
        rows, columns = operator.shape[0], operator.n_detectors
        if tuple(bins) != (rows, columns):
            raise ValueError(
                f"{path}: /measurements has {tuple(bins)} rows and columns, /operator sees {(rows, columns)}: rows are "
                f"slices, shape[0]; set the attributes shape[0] to {bins[0]} and n_detectors to {bins[1]}"
            )
        return
    if tuple(bins) != operator.detector_shape:
        source = "says" if "detector_shape" in data.parameters else "has no detector_shape, whose default is"
        raise ValueError(
            f"{path}: /measurements has {tuple(bins)} rows and columns, /operator {source} {operator.detector_shape}; "
            f"set the attribute detector_shape of /operator to {tuple(bins)}"
        )


def check_common_errors(errors: CommonErrorOptions, data: Measurements, path: Path) -> None:
    """Refuse --rings and --drift for measurements that have no bins and views, or whose noise is that of counts."""
    scans = ("radon", "fan_beam", "parallel_beam", "cone_beam")
    if (errors.rings or errors.drift) and (is_counts(data) or data.operator not in scans):
        what = "counts" if is_counts(data) else f"measurements of {data.operator}"
        option = "--rings" if errors.rings else "--drift"
        raise ValueError(f"{option} is for line integrals of CT, {path} holds {what}; leave it out")


def is_counts(data: Measurements) -> bool:
    """Return whether measurements are counts with Poisson noise: those of SPECT, and any with a background."""
    return data.operator == "spect" or data.background is not None


def image_channels(data: Measurements) -> int:
    """Return the number of channels of the image behind the measurements."""
    return 1 if data.operator == "kaiser_squires" or data.y.ndim != 4 else data.y.shape[1]


def background(data: Measurements, y: Tensor) -> float | Tensor:
    """Return the background of a file on the device and in the dtype of its measurements y; 0 if it has none."""
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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = OPERATORS[name](**arguments)
        for text in dict.fromkeys(str(said.message) for said in caught):
            print(f"warning: {text}", file=sys.stderr)
        return made
    except TypeError as error:
        text = re.sub(r"^\w+\.__init__\(\) missing \d+ required .*arguments?: ", "missing ", str(error))
        raise TypeError(f"/operator ({name}) does not hold its parameters: {text}; see docs/hdf5_layout.md") from error


def needs_volumes(denoiser: Any) -> bool:
    """Return whether a denoiser takes volumes alone."""
    return getattr(denoiser, "dimensions", 2) == 3


def in_slices(denoiser: Any) -> bool:
    """Return whether a denoiser from `build_denoiser` takes volumes slice by slice."""
    from denoisers.adapters import SliceWise

    return isinstance(denoiser, SliceWise)


def build_denoiser(
    spec: str, device: torch.device, data: Measurements | None = None, *, volume: bool | None = None
) -> Any:
    """Construct a denoiser for the images of a problem from "name" or "name:weights", or the name of MLPatch's weights.

    One of images is applied to a volume slice by slice across all three axes, and one of a single channel to an image
    of several channel by channel. Without data the problem has images of one channel, or volumes.

    Args:
        spec: name, and weights after a colon.
        device: where it computes.
        data: the problem.
        volume: whether x is a volume; None: as data says, and without data as the denoiser needs it.
    """
    import torch

    from denoisers import DENOISERS
    from denoisers.adapters import PerChannel, SliceWise
    from denoisers.weight_files import FOLDER

    name, _, weights = spec.partition(":")
    if name not in DENOISERS and not weights and (FOLDER / f"{name}.safetensors").is_file():
        name, weights = "mlpatch", name
    if name not in DENOISERS:
        raise ValueError(
            f"--denoiser {spec}: the name must be one of {', '.join(sorted(DENOISERS))}, got {name!r}; "
            "weights in a file are mlpatch:FILE"
        )
    kind: Any = DENOISERS[name]
    if hasattr(kind, "from_pretrained"):
        D = kind.from_pretrained(weights) if weights else kind.from_pretrained()
    elif weights:
        raise ValueError(f"--denoiser {spec}: {name} has no weights to choose; use --denoiser {name}")
    else:
        D = kind()
    D = D.to(device) if isinstance(D, torch.nn.Module) else D
    if volume is None:
        volume = needs_volumes(D) if data is None else is_volume(data)
    if volume:
        return D if getattr(D, "takes_volumes", False) else SliceWise(D, axes=(0, 1, 2))
    if data is None:
        return D
    if needs_volumes(D):
        raise ValueError(
            f"--denoiser {spec} is for volumes, {data.operator} measures images; slices of a stack become a volume by "
            "--volume of pnp reconstruct-stack, or take a denoiser of images, such as mlpatch:gray"
        )
    return PerChannel(D) if image_channels(data) != 1 and getattr(D, "channels", None) == 1 else D
