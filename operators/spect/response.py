"""Collimator-detector response of a SPECT camera: what a point in each plane looks like on the detector.

The response of a plane is a sum of few separable kernels, one for a Gaussian,

    h_y(x, z) = sum_s across[s, y, x] axial[s, y, z],

which are applied as small dense matrices. For parallel holes of diameter d and effective length L_e = L - 2/mu_septa,
a distance r before the collimator (Anger, J. Nucl. Med. 5 (1964) 515; Cherry, Sorenson and Phelps, Physics in Nuclear
Medicine, 4th ed. 2012, chapter 14),

    fwhm^2 = (d (L_e + r)/L_e)^2 + intrinsic^2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..base import as_buffer, length

NEGLIGIBLE = 1e-8
"""Of a Gaussian's peak: beyond, 6 standard deviations away, it is 0, lest matrices fill with denormal numbers."""


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
    """Return the FWHM of the response of every plane, for a parallel-hole collimator, all lengths in one unit.

    Plane j lies radius + voxel_size (j - (n_planes-1)/2) before the collimator; planes behind it count as touching.

    Args:
        n_planes: ny of the volume.
        radius: distance from the axis of rotation to the collimator's face: a number for a circular orbit, or
            (n_views,).
        voxel_size: distance between planes.
        hole_diameter: d.
        hole_length: L.
        septal_attenuation: mu of the septa at the photons' energy, per unit length; infinity: no penetration.
        intrinsic: FWHM of the detector by itself.

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
    """Return Gaussian kernels (..., k), k odd and at most 2n-1, sampled at multiples of pitch, their sum 1 uncropped.

    Args:
        fwhm: (...), in the unit of pitch; 0 is a response without blur.
        pitch: distance between samples.
        n: samples of a row that the kernel will be applied to.
    """
    sigma = fwhm[..., None] / (pitch * math.sqrt(8 * math.log(2)))
    sigma = sigma.clamp(min=0.05)  # samples: 1 in the middle, and nothing beside it
    half = math.ceil(float(sigma.max()) * math.sqrt(-2 * math.log(NEGLIGIBLE)))
    t = torch.arange(-half, half + 1, dtype=fwhm.dtype, device=fwhm.device)
    kernel = torch.exp(-0.5 * (t / sigma).square())
    kernel = torch.where(kernel < NEGLIGIBLE, 0.0, kernel)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    beyond = max(0, half - (n - 1))
    return kernel[..., beyond : kernel.shape[-1] - beyond]


def separable(psf: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """Return kernels (n_sets, n_terms, ny, kx) and (n_sets, n_terms, ny, kz), the sum of whose products is psf.

    Args:
        psf: (n_sets, ny, kx, kz).
        rtol: terms below this share of a plane's first one are left out; rounding is, in any case.
    """
    U, S, V = torch.linalg.svd(psf, full_matrices=False)
    rounding = max(psf.shape[-2:]) * torch.finfo(psf.dtype).eps
    n_terms = int((S > max(rtol, rounding) * S[..., :1]).sum(-1).max())
    root = S[..., :n_terms].sqrt()
    across, axial = (U[..., :n_terms] * root[..., None, :]).mT, V[..., :n_terms, :] * root[..., None]
    total = (across.sum(-1) * axial.sum(-1)).sum(-1)[..., None, None]
    # Planes keep their sum, and the first terms of positive responses are positive.
    sign = torch.where(across.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    across, axial = across * sign / total, axial * sign
    return across.transpose(1, 2).contiguous(), axial.transpose(1, 2).contiguous()


def toeplitz(kernel: Tensor, n: int) -> Tensor:
    """Return the matrices (..., n, n) that convolve rows of n samples with odd kernels (..., k); beyond the row is 0.

    >>> toeplitz(torch.tensor([1.0, 2.0, 3.0]), 3)
    tensor([[2., 1., 0.],
            [3., 2., 1.],
            [0., 3., 2.]])
    """
    margin = n - 1 - kernel.shape[-1] // 2
    wide = torch.nn.functional.pad(kernel, (margin, margin))  # a negative margin crops
    return wide.unfold(-1, n, 1).flip(-1)
