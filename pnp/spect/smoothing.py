"""The filter after OSEM: a Gaussian of a width in mm, which trades resolution for noise."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..checks import check_number

_T = TypeVar("_T")
_FWHM_OF_SIGMA = math.sqrt(8 * math.log(2))


def post_filter(x: _T, fwhm_mm: float, voxel_size_mm: float | tuple[float, float]) -> _T:
    """Return volumes smoothed by a Gaussian; their sum stays, as edges reflect.

    Args:
        x: (..., nx, ny, nz), a tensor or an array.
        fwhm_mm: full width at half maximum of the Gaussian.
        voxel_size_mm: side of a voxel, or (transaxial, axial).

    Raises:
        ValueError, TypeError: a length is not positive, or x has too few axes.

    >>> float(post_filter(np.ones((4, 4, 4)), 8.0, 4.0).sum())
    64.0
    """
    width = check_number("fwhm_mm", fwhm_mm, above=0, caller="post_filter") / _FWHM_OF_SIGMA
    sizes = np.atleast_1d(np.asarray(voxel_size_mm, dtype=np.float64))
    if sizes.shape not in ((1,), (2,)) or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"post_filter: voxel_size_mm must be positive, or (transaxial, axial), got {voxel_size_mm}")
    given: Any = x
    if given.ndim < 3:
        raise ValueError(f"post_filter: x must be (..., nx, ny, nz), got {tuple(given.shape)}")
    widths = (0.0,) * (given.ndim - 3) + (width / sizes[0], width / sizes[0], width / sizes[-1])
    filtered: Any = gaussian_filter(given.cpu().numpy() if isinstance(given, Tensor) else given, widths)
    if isinstance(given, Tensor):
        filtered = torch.from_numpy(filtered).to(given)
    smooth: _T = filtered
    return smooth
