"""SPECT projectors from a camera's data sheet: collimator, orbit and septal penetration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .arguments import check_sizes
from .projector import SPECT
from .response import collimator_fwhm, gaussian


def penetrated_psf(fwhm: Tensor, *, share: float, penetration_fwhm: float, voxel_size: Any, n: int) -> Tensor:
    """Return the response of each plane with septal penetration: a Gaussian plus a much wider one for the tails.

    Photons of several hundred keV, such as those of bremsstrahlung, pass the septa and make broad tails. A second
    Gaussian is their simplest model; `SPECT` applies the sum as two separable terms.

    Args:
        fwhm: (ny,), FWHM of the holes' response, in the unit of voxel_size.
        share: part of the counts that is in the tails, 0 to 1.
        penetration_fwhm: FWHM of the tails, in the unit of voxel_size.
        voxel_size: distance between samples, in any unit of length; a number or (transaxial, axial).
        n: number of samples in the longest row that the response is applied to.

    Returns:
        (ny, kx, kz), whose planes sum to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"penetrated_psf: share must be from 0 to 1, got {share}; it is a part of the counts")
    if not penetration_fwhm > 0:
        raise ValueError(f"penetrated_psf: penetration_fwhm must be positive, got {penetration_fwhm}")
    wide = torch.full_like(fwhm, penetration_fwhm)
    (x, tail_x), (z, tail_z) = (
        _of_one_length(gaussian(fwhm.double(), size, n), gaussian(wide.double(), size, n))
        for size in check_sizes(voxel_size)
    )
    psf = (1 - share) * x[:, :, None] * z[:, None] + share * tail_x[:, :, None] * tail_z[:, None]
    return psf / psf.sum((-2, -1), keepdim=True)


def _of_one_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return odd kernels (..., k) of one length, the shorter one padded with zeros on both sides."""
    k = max(a.shape[-1], b.shape[-1])
    a, b = (torch.nn.functional.pad(g, ((k - g.shape[-1]) // 2,) * 2) for g in (a, b))
    return a, b


def camera_response(
    shape: tuple[int, int, int],
    *,
    voxel_size: Any,
    radius: Any,
    collimator: Mapping[str, float],
    penetration: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Return the response as keyword arguments of `SPECT`: {"fwhm": ...}, or with penetration {"psf": ...}.

    Args:
        shape: (nx, ny, nz) of the volumes.
        voxel_size, radius, collimator, penetration: as in `spect_camera`.
    """
    nx, ny, nz = shape
    transaxial, _ = check_sizes(voxel_size)
    fwhm = collimator_fwhm(ny, radius, voxel_size=transaxial, **collimator)
    if penetration is None:
        return {"fwhm": fwhm}
    if fwhm.ndim > 1:
        raise ValueError(
            "camera_response: penetration needs one radius for all views, got one for each view; compute a psf "
            "(n_views, ny, kx, kz) and give it to SPECT"
        )
    share, width = penetration
    n = max(nx, nz)
    return {"psf": penetrated_psf(fwhm, share=share, penetration_fwhm=width, voxel_size=voxel_size, n=n)}


def spect_camera(
    attenuation: Tensor,
    angles: Any,
    *,
    voxel_size: Any,
    radius: Any,
    collimator: Mapping[str, float],
    penetration: tuple[float, float] | None = None,
    **options: Any,
) -> SPECT:
    """Return the projector of a camera with a parallel-hole collimator; all lengths are in one unit, e.g. mm.

    Args:
        attenuation: (nx, ny, nz), per unit of length; its shape is that of the volumes.
        angles: (n_views,), radians.
        voxel_size: side of a voxel, or (transaxial, axial).
        radius: distance from the axis to the collimator's face: a number, or (n_views,) without penetration.
        collimator: hole_diameter, hole_length and optionally septal_attenuation and intrinsic, as in `collimator_fwhm`.
        penetration: (share of the counts that pass the septa, FWHM of their tails); None: no penetration.
        options: further arguments of `SPECT`.

    >>> mu = torch.full((8, 8, 4), 0.0135)
    >>> sheet = {"hole_diameter": 2.94, "hole_length": 40.64}
    >>> spect_camera(mu, [0.0, torch.pi / 2], voxel_size=9.6, radius=230.0, collimator=sheet).shape
    (8, 8, 4)
    """
    if not isinstance(attenuation, Tensor) or attenuation.ndim != 3:
        got = tuple(attenuation.shape) if isinstance(attenuation, Tensor) else type(attenuation).__name__
        raise ValueError(
            f"spect_camera: attenuation must be a tensor (nx, ny, nz), got {got}; zeros where nothing is absorbed"
        )
    nx, ny, nz = attenuation.shape
    lengths = {"voxel_size": voxel_size, "radius": radius, "penetration": penetration}
    response: dict[str, Any] = camera_response((nx, ny, nz), collimator=collimator, **lengths)
    return SPECT((nx, ny, nz), angles, voxel_size=voxel_size, attenuation=attenuation, **response, **options)
