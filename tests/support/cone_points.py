"""Where `ConeBeam` sees a voxel, and where other software sees a point, in bins."""

from __future__ import annotations

import numpy as np
import torch

from operators import ConeBeam

VOXELS = ((0, 0, 0), (7, 2, 11), (3, 9, 1), (6, 6, 6), (1, 8, 10))
"""Voxels (slice, row, column) of a volume of at least 8 x 10 x 12."""
CLOSE = 0.05
"""Bins: the centroid of a box, taken from its shares of whole bins, is off by this where it ends within bins."""


def shadows(A: ConeBeam, voxels=VOXELS, *, around: int = 0) -> np.ndarray:
    """Return the centroids (row, column), in bins, of the shadows of single voxels, (n_voxels, n_angles, 2).

    With so many voxels around each, too: the shadow of a voxel that is smaller than a bin is in the middle of its bin.
    """
    found = []
    for voxel in voxels:
        x = torch.zeros(1, 1, *A.shape, dtype=torch.float64)
        x[(0, 0, *(slice(at - around, at + around + 1) for at in voxel))] = 1
        y = A.A(x)[0, 0]
        assert (y[:, 0] == 0).all() and (y[:, -1] == 0).all() and (y[..., 0] == 0).all() and (y[..., -1] == 0).all()
        places = [torch.arange(n, dtype=torch.float64) for n in y.shape[1:]]
        total = y.sum((1, 2))
        found.append(torch.stack([(y.sum(2) @ places[0]) / total, (y.sum(1) @ places[1]) / total], -1).numpy())
    return np.stack(found)


def seen(source, corner, u, v, point) -> np.ndarray:
    """Return where the ray from source through a point meets the detector: (row, column), in bins from its corner."""
    row, column, _ = np.linalg.solve(np.stack([v, u, source - point], 1), source - corner)
    return np.array([row, column])
