"""Collimator-detector response of a SPECT camera: the detector's image of a point in each plane.

The response of a plane is a sum of a few separable kernels (one for a Gaussian),

    h_y(x, z) = sum_s across[s, y, x] axial[s, y, z],

which are applied as small dense matrices. For parallel holes of diameter d and effective length L_e = L - 2/mu_septa,
at a distance r from the collimator (Anger, J. Nucl. Med. 5 (1964) 515; Cherry, Sorenson and Phelps, Physics in Nuclear
Medicine, 4th ed. 2012, chapter 14),

    fwhm^2 = (d (L_e + r)/L_e)^2 + intrinsic^2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..base import as_buffer, length

_CUTOFF = 1e-8
"""Part of a Gaussian's peak below which it is set to 0, 6 standard deviations away, to avoid denormal numbers."""


def collimator_fwhm(
    n_planes: int,
    radius: Any,
    *,
    voxel_size: float,
    hole_diameter: float,
    hole_length: float,
    septal_attenuation: float = math.inf,
    intrinsic: float = 0.0,
) -> Tensor:
    """Return the FWHM of each plane's response for a parallel-hole collimator; all lengths are in one unit.

    Plane j is at a distance radius + voxel_size (j - (n_planes-1)/2) from the collimator, or 0 where this is negative.

    Args:
        n_planes: number of planes, ny of the volume.
        radius: distance from the axis of rotation to the collimator's face: a number for a circular orbit, or
            (n_views,).
        voxel_size: distance between planes.
        hole_diameter: diameter d of the holes.
        hole_length: length L of the holes.
        septal_attenuation: mu of the septa at the photons' energy, per unit length; infinity: no penetration.
        intrinsic: FWHM of the detector alone.

    Returns:
        (n_planes,), or (n_views, n_planes), float64.

    >>> collimator_fwhm(3, 100.0, voxel_size=50.0, hole_diameter=2.0, hole_length=25.0)
    tensor([ 6., 10., 14.], dtype=torch.float64)
    """
    caller = "collimator_fwhm"
    voxel_size = length(caller, "voxel_size", voxel_size)
    hole_diameter, hole_length = (
        length(caller, "hole_diameter", hole_diameter),
        length(caller, "hole_length", hole_length),
    )
    intrinsic = length(caller, "intrinsic", intrinsic, zero=True)
    effective = hole_length - 2 / float(septal_attenuation)
    if not (float(septal_attenuation) > 0 and effective > 0):
        raise ValueError(
            f"{caller}: septal_attenuation must exceed 2/hole_length = {2 / hole_length:.4g}, or the septa stop "
            f"nothing, got {septal_attenuation}; give it per the unit of hole_length"
        )
    distance = as_buffer(caller, "radius", radius).double()
    if distance.ndim > 1 or not bool((distance > 0).all() and distance.isfinite().all()):
        raise ValueError(f"{caller}: radius must be a positive number, or one for every view, got {radius}")
    planes = torch.arange(n_planes, dtype=torch.float64, device=distance.device)
    depth = (distance[..., None] + voxel_size * (planes - (n_planes - 1) / 2)).clamp(min=0)
    geometric = hole_diameter * (effective + depth) / effective
    return torch.sqrt(geometric.square() + intrinsic**2)


def gaussian(fwhm: Tensor, pitch: float, n: int) -> Tensor:
    """Return Gaussian kernels (..., k), k odd and at most 2n-1, sampled at multiples of pitch; uncropped they sum to 1.

    Args:
        fwhm: (...), in the unit of pitch; 0 is a response without blur.
        pitch: distance between samples.
        n: number of samples in a row that the kernel is applied to.
    """
    sigma = fwhm[..., None] / (pitch * math.sqrt(8 * math.log(2)))
    sigma = sigma.clamp(min=0.05)  # in samples; the kernel is then 1, and 0 beside its centre
    half = math.ceil(float(sigma.max()) * math.sqrt(-2 * math.log(_CUTOFF)))
    t = torch.arange(-half, half + 1, dtype=fwhm.dtype, device=fwhm.device)
    kernel = torch.exp(-0.5 * (t / sigma).square())
    kernel = torch.where(kernel < _CUTOFF, 0.0, kernel)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    beyond = max(0, half - (n - 1))
    return kernel[..., beyond : kernel.shape[-1] - beyond]


def separable(psf: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """Return kernels (n_sets, n_terms, ny, kx) and (n_sets, n_terms, ny, kz) whose products sum to psf.

    Args:
        psf: (n_sets, ny, kx, kz).
        rtol: terms below this part of a plane's first one are left out, and always those below rounding.
    """
    U, S, V = torch.linalg.svd(psf, full_matrices=False)
    rounding = max(psf.shape[-2:]) * torch.finfo(psf.dtype).eps
    n_terms = int((S > max(rtol, rounding) * S[..., :1]).sum(-1).max())
    root = S[..., :n_terms].sqrt()
    across, axial = (U[..., :n_terms] * root[..., None, :]).mT, V[..., :n_terms, :] * root[..., None]
    total = (across.sum(-1) * axial.sum(-1)).sum(-1)[..., None, None]
    # Planes keep their sum; the signs make the first terms of positive responses positive.
    sign = torch.where(across.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    across, axial = across * sign / total, axial * sign
    return across.transpose(1, 2).contiguous(), axial.transpose(1, 2).contiguous()


def toeplitz(kernel: Tensor, n: int) -> Tensor:
    """Return the matrices (..., n, n) that convolve rows of n samples, zero outside, with odd kernels (..., k).

    >>> toeplitz(torch.tensor([1.0, 2.0, 3.0]), 3)
    tensor([[2., 1., 0.],
            [3., 2., 1.],
            [0., 3., 2.]])
    """
    margin = n - 1 - kernel.shape[-1] // 2
    wide = torch.nn.functional.pad(kernel, (margin, margin))  # a negative margin crops
    return wide.unfold(-1, n, 1).flip(-1)
