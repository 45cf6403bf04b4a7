"""Select the pictures of a page: first estimate, baselines, reconstruction, B mode and truth, all of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import SavedResult
from ..io.hdf5_units import IN_SLICES, OF_PICTURES

Array = npt.NDArray[Any]
LENSING_OPERATORS = ("kaiser_squires", "kaiser_squires_eb")
VOLUME_OPERATORS = ("spect", *IN_SLICES)


@dataclass(frozen=True)
class Panel:
    """A picture of the page.

    Attributes:
        role: "input" (a first estimate), "baseline", "reconstruction" or "truth".
        name: label on the page.
        values: images (N, H, W) or volumes (N, nx, ny, nz), real; N runs through the batch and its channels. Of a
            volume (D, H, W), as of CT, x is the column, y the row and z the slice.
        mode: "E" or "B" for mass maps, else "".
    """

    role: str
    name: str
    values: Array
    mode: str = ""


def is_lensing(result: SavedResult) -> bool:
    """Return whether the result is a mass map."""
    return result.operator in LENSING_OPERATORS


def find_panels(
    result: SavedResult,
    *,
    first: Mapping[str, npt.ArrayLike] | None = None,
    baselines: Mapping[str, npt.ArrayLike] | None = None,
    b_mode: npt.ArrayLike | None = None,
) -> list[Panel]:
    """Return the pictures of a result in the order of the page.

    Images are (B, C, H, W), volumes (B, C, nx, ny, nz), of CT (B, C, D, H, W); missing leading axes are
    added. Mass maps with two channels are E and B modes.

    Args:
        result: the reconstruction and, if known, the truth.
        first: first estimates by name.
        baselines: other reconstructions by name.
        b_mode: B mode of the reconstruction of a mass map.

    Raises:
        ValueError: a picture is empty, or its shape differs from that of the reconstruction.
        TypeError: a picture is complex or holds no numbers.
    """
    named = [("input", name, values) for name, values in (first or {}).items()]
    named += [("baseline", name, values) for name, values in (baselines or {}).items()]
    named.append(("reconstruction", "reconstruction", result.x))
    named += [] if result.reference is None else [("truth", "truth", result.reference)]
    found, lensing = [], is_lensing(result)
    for role, name, values in named:
        array = _real(name, values)
        if not lensing:
            items = _items(name, array, result.operator in VOLUME_OPERATORS)
            in_slices = result.operator in IN_SLICES or (result.operator in OF_PICTURES and items.ndim == 4)
            found.append(Panel(role, name, items.transpose(0, 3, 2, 1) if in_slices else items))
            continue
        both = array.ndim == 4 and array.shape[1] == 2
        found.append(Panel(role, f"{name}, E mode", _items(name, array[:, :1] if both else array, False), "E"))
        if both:
            found.append(Panel(role, f"{name}, B mode", _items(name, array[:, 1:], False), "B"))
        if role == "reconstruction" and b_mode is not None:
            found.append(Panel(role, f"{name}, B mode", _items("b_mode", _real("b_mode", b_mode), False), "B"))
    shape = next(panel.values.shape for panel in found if panel.role == "reconstruction")
    for panel in found:
        if panel.values.shape != shape:
            raise ValueError(
                f"report: {panel.name!r:.120} must have the shape of the reconstruction, {shape}, got "
                f"{panel.values.shape}; resample it to the same grid"
            )
    return found


def channels_of(result: SavedResult, shape: tuple[int, ...]) -> int:
    """Return how many of the pictures (N, ...) are channels of one image, 1 if E and B were separated."""
    size = np.shape(result.x)
    return int(size[1]) if len(size) == len(shape) + 1 and size[0] * size[1] == shape[0] else 1


def survey_mask(result: SavedResult, shape: tuple[int, ...]) -> Array | None:
    """Return the mask (N, H, W), bool, of observed pixels of a mass map; None if all are observed."""
    noise = None if result.noise_std is None else np.asarray(result.noise_std)
    if not is_lensing(result) or noise is None or noise.ndim != 4 or noise.shape[-2:] != shape[-2:]:
        return None
    seen = np.isfinite(noise).all(axis=1)
    whole = len(seen) in (1, shape[0]) and seen.any() and not seen.all()
    return np.broadcast_to(seen, shape) if whole else None


def _real(name: str, values: npt.ArrayLike) -> Array:
    """Return an array of floats."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        what = "complex ones; take their real part or absolute value" if array.dtype.kind == "c" else str(array.dtype)
        raise TypeError(f"report: {name!r:.120} must hold real numbers, got {what}")
    return array if array.dtype.kind == "f" and array.dtype.itemsize > 2 else array.astype(np.float64)


def _items(name: str, array: Array, volume: bool) -> Array:
    """Return images as (N, H, W) or volumes as (N, nx, ny, nz)."""
    n_axes = 3 if volume or array.ndim == 5 else 2
    if not n_axes <= array.ndim <= n_axes + 2 or array.size == 0:
        axes = "(B, C, nx, ny, nz), of CT (B, C, D, H, W)," if n_axes == 3 else "(B, C, H, W)"
        raise ValueError(f"report: {name!r:.120} must be {axes} and not empty, got {array.shape}")
    return array.reshape(-1, *array.shape[array.ndim - n_axes :])
