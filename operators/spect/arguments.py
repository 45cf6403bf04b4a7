"""Checks of the SPECT projector's arguments; messages state argument, expected, got and remedy."""

from __future__ import annotations

import math
import operator as op
import warnings
from typing import Any

import torch
from torch import Tensor

from ..base import as_buffer, length

_SUM_RTOL = 1e-3
"""Largest difference from 1 of the sum of a plane's psf."""
_MAX_OUTSIDE = 0.02
"""Part of the attenuation outside the cylinder that all views see, up to which nothing is said."""
_MAX_ATTENUATION = {"mm": 0.1, "cm": 1.0}
"""Upper bound of any tissue's attenuation, by unit of length: bone has 0.03/mm at 140 keV, less at higher energies."""


def check_volume(shape: object) -> tuple[int, int, int]:
    """Return (nx, ny, nz) as positive ints."""
    try:
        nx, ny, nz = (op.index(n) for n in shape)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(f"SPECT: shape must be three integers (nx, ny, nz), got {shape!r}") from None
    if min(nx, ny, nz) < 1:
        raise ValueError(f"SPECT: shape must be positive, got {(nx, ny, nz)}")
    return nx, ny, nz


def check_sizes(voxel_size: Any) -> tuple[float, float]:
    """Return the transaxial and the axial size of a voxel as floats."""
    both = voxel_size if isinstance(voxel_size, (tuple, list)) else (voxel_size, voxel_size)
    if len(both) != 2:
        raise ValueError(
            f"SPECT: voxel_size must be a number or (transaxial, axial), got {voxel_size!r}; voxels are square"
        )
    return length("SPECT", "voxel_size", both[0]), length("SPECT", "voxel_size", both[1])


def check_angles(angles: Any) -> Tensor:
    """Return the angles (n_views,) in float64; warn where they look like degrees."""
    value = _constant("angles", angles).double()
    if value.ndim != 1 or value.numel() == 0:
        raise ValueError(f"SPECT: angles must be a non-empty 1-D array of radians, got shape {tuple(value.shape)}")
    span, farthest = float(value.max() - value.min()), float(value.abs().max())
    if max(span, farthest) > 4 * math.pi:
        what = f"span {span:.4g}" if span > 4 * math.pi else f"reach {farthest:.4g}"
        warnings.warn(
            f"SPECT: angles {what} radians, more than two turns; if they are degrees, use np.deg2rad", stacklevel=3
        )
    elif farthest > 2 * math.pi and bool((value == value.round()).all()):  # few views, or one, within 12 degrees
        warnings.warn(
            f"SPECT: angles are whole numbers up to {farthest:g}, more than a turn in radians; if they are degrees, "
            "use np.deg2rad",
            stacklevel=3,
        )
    return value


def check_attenuation(
    attenuation: Any, shape: tuple[int, int, int], voxel_size: float, device: torch.device
) -> Tensor | None:
    """Return the attenuation map; warn where it exceeds any tissue's in the unit that the voxels suggest, mm or cm."""
    if attenuation is None:
        return None
    mu = _constant("attenuation", attenuation, device)
    mu = mu if mu.dtype.is_floating_point else mu.float()
    if mu.shape != shape:
        remedy = "; use attenuation[0, 0]" if mu.shape == (1, 1, *shape) else "; resample it to the volume's voxels"
        raise ValueError(f"SPECT: attenuation must be {shape}, as the volume is, got {tuple(mu.shape)}{remedy}")
    if bool((mu < 0).any()):
        raise ValueError(
            f"SPECT: attenuation must be >= 0, got {float(mu.min()):.4g}; is it in Hounsfield units? Convert it "
            "to mu, or clip what interpolation left below 0"
        )
    unit = "mm" if voxel_size >= 1 else "cm"
    highest = float(mu.max())
    if highest > _MAX_ATTENUATION[unit]:
        warnings.warn(
            f"SPECT: attenuation reaches {highest:.4g}, more than any tissue's {_MAX_ATTENUATION[unit]:g}/{unit}, with "
            f"voxels of {voxel_size:g}; give it in the inverse of voxel_size's unit, e.g. mu / 10 for 1/cm to 1/mm",
            stacklevel=3,
        )
    outside = share_outside(mu)
    if outside > _MAX_OUTSIDE:
        warnings.warn(
            f"SPECT: {100 * outside:.0f} % of the attenuation (table, arms?) lies outside the cylinder that all views "
            "see, and absorbs only in the views that see it; take a grid whose cylinder holds all of it",
            stacklevel=3,
        )
    return mu


def share_outside(mu: Tensor) -> float:
    """Return the part of a map (nx, ny, nz) in pixels whose centre lies outside the cylinder as wide as the grid."""
    x, y = ((torch.arange(n, device=mu.device) - (n - 1) / 2).double() for n in mu.shape[:2])
    across = mu.sum(2, dtype=torch.float64)
    total = float(across.sum())
    beyond = torch.hypot(x[:, None], y) > min(mu.shape[:2]) / 2
    return float(across[beyond].sum()) / total if total > 0 else 0.0


def _constant(name: str, value: Any, device: torch.device | None = None) -> Tensor:
    """Return the operator's own copy of an array of finite real numbers, on the device."""
    array = as_buffer("SPECT", name, value)
    if device is not None and array.device != device and isinstance(value, Tensor):
        raise ValueError(
            f"SPECT: {name} is on {array.device}, angles on {device}; build the operator on one device, then move it, "
            "e.g. operator.to('cuda')"
        )
    array = array if device is None else array.to(device)
    if array.requires_grad:
        raise ValueError(f"SPECT: {name} requires grad, but no gradient flows to it; use {name}.detach()")
    if array.is_complex() or array.dtype == torch.bool:
        raise TypeError(f"SPECT: {name} must be real numbers, got {array.dtype}")
    bad = int((~torch.isfinite(array)).sum())
    if bad:
        raise ValueError(f"SPECT: {name} must be finite, got {bad} NaN or infinite")
    return array


def check_fwhm(fwhm: Any, n_views: int, ny: int, device: torch.device) -> Tensor:
    """Return the FWHM (1, ny) or (n_views, ny) in float64, or raise with what is wrong."""
    value = _constant("fwhm", fwhm, device).double()
    if value.shape not in ((), (ny,), (n_views, ny)):
        raise ValueError(
            f"SPECT: fwhm must be a number, ({ny},) for each plane or ({n_views}, {ny}) for each view and plane, got "
            f"shape {tuple(value.shape)}; collimator_fwhm gives it"
        )
    if bool((value < 0).any()):
        raise ValueError(f"SPECT: fwhm must be >= 0, got {float(value.min()):.4g}")
    return value.expand(1, ny).clone() if value.ndim < 2 else value


def check_psf(psf: Any, n_views: int, ny: int, device: torch.device) -> Tensor:
    """Return the response (1, ny, kx, kz) or (n_views, ny, kx, kz), or raise with what is wrong."""
    value = _constant("psf", psf, device)
    got = tuple(value.shape)
    if value.shape[:-2] not in ((ny,), (n_views, ny)):
        raise ValueError(
            f"SPECT: psf must be ({ny}, kx, kz), one kernel for each plane, the detector's side first, or ({n_views}, "
            f"{ny}, kx, kz), got {got}"
        )
    if value.shape[-2] % 2 == 0 or value.shape[-1] % 2 == 0:
        raise ValueError(
            f"SPECT: psf must have odd kx and kz, so that it has a centre, got {got}; add a row or column of zeros"
        )
    if not value.dtype.is_floating_point:
        raise TypeError(f"SPECT: psf must be floating point, got {value.dtype}")
    if bool((value < 0).any()):
        raise ValueError(f"SPECT: psf must be >= 0, got {float(value.min()):.4g}")
    sums = value.double().sum((-2, -1))
    if bool(((sums - 1).abs() > _SUM_RTOL).any()):
        raise ValueError(
            f"SPECT: every plane of psf must sum to 1, got {float(sums.min()):.4g} to {float(sums.max()):.4g}; use "
            "psf / psf.sum((-2, -1), keepdims=True), and keep the camera's sensitivity as a factor of x"
        )
    return value if value.ndim == 4 else value[None]
