"""Checks of the geometry, the measurements and the points that are given to learned reconstructors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.base import warn_of_degrees


def as_angles(caller: str, value: Any) -> Tensor:
    """Return angles in radians as a float64 tensor (n_angles,); warn where they look like degrees."""
    try:
        angles = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
        angles = angles.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{caller}: angles must be real numbers, got {type(value).__name__}; use an array") from None
    if angles.ndim != 1 or angles.numel() == 0:
        got = tuple(angles.shape)
        raise ValueError(f"{caller}: angles must be a non-empty 1-D array of radians, got shape {got}")
    bad = int((~angles.isfinite()).sum())
    if bad:
        raise ValueError(f"{caller}: angles must be finite, got {bad} NaN or infinite")
    warn_of_degrees(caller, float(angles.max() - angles.min()), stacklevel=3)
    return angles


def check_detector(caller: str, offset: float, half: float, radius: float, name: str) -> None:
    """Raise ValueError where no ray of a detector, offset - half to offset + half, meets the image."""
    if not math.isfinite(offset):
        raise ValueError(f"{caller}: {name} must be finite, got {offset}")
    if abs(offset) - half >= radius:
        raise ValueError(
            f"{caller}: no ray meets the image: the detector covers {offset - half:.4g} to {offset + half:.4g}, "
            f"the image {-radius:.4g} to {radius:.4g}; check the unit of {name}, pitch and pixel_size"
        )


def check_sinograms(caller: str, y: Any, n_angles: int, n_detectors: int, like: Tensor) -> None:
    """Check that y is (B, 1, n_angles, n_detectors), floating, on the device of `like`, and finite."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{caller}: y must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor(y)")
    if not y.dtype.is_floating_point:
        raise TypeError(f"{caller}: y must be floating point, got {y.dtype}; use y.float()")
    want, got = f"(B, 1, {n_angles}, {n_detectors}) of views and bins", tuple(y.shape)
    if got[-2:] == (n_detectors, n_angles) != (n_angles, n_detectors):
        raise ValueError(f"{caller}: y must be {want}, got {got}: views and bins are transposed; use y.mT")
    if y.ndim < 4 and got[-2:] == (n_angles, n_detectors):
        raise ValueError(f"{caller}: y must be {want}, got {got}; use y[{'None, ' * (4 - y.ndim)}...]")
    if y.ndim != 4 or got[1] != 1 or got[2:] != (n_angles, n_detectors):
        raise ValueError(
            f"{caller}: y must be {want}, got {got}; this model is for one geometry, the one it was trained for"
        )
    if y.device != like.device:
        raise ValueError(f"{caller}: y is on {y.device}, the model on {like.device}; move one")
    bad = int((~y.isfinite()).sum())
    if bad:
        raise ValueError(f"{caller}: y must be finite, got {bad} NaN or infinite of {y.numel()}; interpolate them")
    if y.dtype == torch.float64 and like.dtype != torch.float64:
        raise TypeError(f"{caller}: y is float64, the model {like.dtype}; use model.double(), or y.float()")


def check_points(caller: str, coords: Any) -> Tensor:
    """Check coords (P, 2), X and Y of points, and return them."""
    if not isinstance(coords, Tensor) or coords.is_complex():
        raise TypeError(f"{caller}: coords must be a real torch.Tensor, got {type(coords).__name__}")
    if coords.ndim != 2 or coords.shape[1] != 2 or len(coords) == 0:
        raise ValueError(f"{caller}: coords must be (P, 2), X and Y of points, got {tuple(coords.shape)}")
    bad = int((~coords.isfinite()).sum())
    if bad:
        raise ValueError(f"{caller}: coords must be finite, got {bad} NaN or infinite")
    return coords
