"""Bring a volume to the voxels of another grid by the affines of both, with the mean that a larger voxel sees.

With M the matrix from the volume's indices to mm and T that of the grid, the value at the grid's index g is that at

    M^-1 T g,

between voxels linearly. Where the grid's voxels are larger than the volume's, the volume is first smoothed by a
Gaussian whose FWHM is the grid's voxel, so that small structures count by their volume.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, gaussian_filter

_FWHM = math.sqrt(8 * math.log(2))
_EQUAL = 0.01
"""Part of a voxel by which two grids may differ that are taken for the same."""


def grid_matrix(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Return the matrix (4, 4) from indices to mm of a grid along the axes of the frame, around a centre."""
    matrix = np.diag([*voxel_mm, 1.0])
    matrix[:3, 3] = np.array(centre_mm) - np.array(voxel_mm) * (np.array(shape) - 1) / 2
    return matrix


def resample(
    volume: npt.NDArray[np.float32],
    matrix: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    target: npt.NDArray[np.float64],
    *,
    outside: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Return a volume on another grid; a grid that is the volume's own, axes exchanged or mirrored, keeps every value.

    Args:
        volume: (n1, n2, n3).
        matrix: (4, 4), from its indices to mm.
        shape: the grid's.
        target: (4, 4), from the grid's indices to mm.
        outside: value beyond the volume.
    """
    step = np.linalg.inv(matrix) @ target  # from the grid's indices to the volume's
    turned = _same_grid(volume, step, shape)
    if turned is not None:
        return turned
    # The extent of a voxel of the grid along each axis of the volume, in its voxels.
    extent = np.abs(step[:3, :3]).max(1)
    smooth = gaussian_filter(
        volume, np.where(extent > 1, np.sqrt(np.maximum(extent**2 - 1, 0)) / _FWHM, 0), mode="nearest"
    )
    return np.asarray(
        affine_transform(smooth, step[:3, :3], step[:3, 3], shape, order=1, mode="constant", cval=outside), np.float32
    )


def _same_grid(
    volume: npt.NDArray[np.float32], step: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> npt.NDArray[np.float32] | None:
    """Return the volume with its axes exchanged and mirrored if that is the grid, else None."""
    order = np.abs(step[:3, :3]).argmax(0)  # the volume's axis along each of the grid's
    signs = np.sign(step[order, range(3)])
    exact = np.zeros((3, 3))
    exact[order, range(3)] = signs
    last = np.array(shape) - 1
    if len(set(order.tolist())) < 3 or np.abs((step[:3, :3] - exact) @ np.diag(last)).max() > _EQUAL:
        return None
    turned = np.flip(volume.transpose(order), tuple(k for k in range(3) if signs[k] < 0))
    first = np.array([0 if signs[k] > 0 else last[k] for k in range(3)], dtype=np.float64)
    if turned.shape != shape or np.abs(step[order, 3] - first).max() > _EQUAL:
        return None
    return np.ascontiguousarray(turned)
