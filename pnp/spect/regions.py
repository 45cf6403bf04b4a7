"""Volume, mean and total activity of regions, with standard errors from a bootstrap, and recovery of small ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .recovery import Recovery, sphere_diameter

_MM3_PER_ML = 1000.0


class RegionActivity(NamedTuple):
    """Activity in a region.

    Attributes:
        label: its number in the label image.
        volume_ml: its volume.
        mean: of x, in its unit, MBq/ml of an activity.
        mean_std: standard error of the mean; NaN where there are no error bars.
        total: mean times volume, MBq of an activity.
        total_std: standard error of the total.
        recovery: part of the activity that a region of this volume shows, by which mean and total are divided already;
            1 without a recovery curve.
    """

    label: int
    volume_ml: float
    mean: float
    mean_std: float
    total: float
    total_std: float
    recovery: float


def region_activity(
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    voxel_size_mm: float | tuple[float, ...],
    *,
    std_of: Callable[[Any], float] | None = None,
    recovery: Recovery | None = None,
) -> list[RegionActivity]:
    """Return the activity of each region above 0 of a label image.

    Args:
        x: (nx, ny, nz), in MBq/ml.
        labels: whole numbers of the same shape; 0 is no region.
        voxel_size_mm: side of a voxel, (transaxial, axial) or (x, y, z).
        std_of: from a mask to the standard error of its mean, such as `lambda mask: bars.region(mask).std` of
            `pnp.uncertainty.bootstrap`; errors of neighbouring voxels are correlated, so that no map of standard
            deviations has it.
        recovery: curve of spheres (`fit_recovery`): a region is taken for a sphere of its volume, and its mean is
            divided by the sphere's recovery, whose own error enters the standard error.

    Raises:
        ValueError: shapes differ, labels are not whole, or none is above 0.
    """
    values, found = np.asarray(x, dtype=np.float64), np.asarray(labels)
    if values.ndim != 3 or found.shape != values.shape:
        raise ValueError(
            f"region_activity: labels must have the shape of x, (nx, ny, nz), got {found.shape} and {values.shape}"
        )
    if not np.array_equal(found, np.round(found)) or not (found > 0).any():
        raise ValueError("region_activity: labels must be whole numbers, some above 0; 0 is no region")
    sizes = np.atleast_1d(np.asarray(voxel_size_mm, dtype=np.float64))
    if sizes.shape not in ((1,), (2,), (3,)) or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"region_activity: voxel_size_mm must be positive, got {voxel_size_mm!r:.60}")
    full = {1: sizes.repeat(3), 2: sizes[[0, 0, -1]], 3: sizes}[sizes.size]
    voxel_ml, rows = float(full.prod()) / _MM3_PER_ML, []
    for label in np.unique(found[found > 0]).tolist():
        mask = found == label
        volume, mean = voxel_ml * int(mask.sum()), float(values[mask].mean())
        std = math.nan if std_of is None else float(std_of(mask))
        part, part_std = (1.0, 0.0) if recovery is None else recovery.at(sphere_diameter(volume))
        mean, std = mean / part, math.hypot(std / part, mean / part * part_std / part)
        rows.append(RegionActivity(int(label), volume, mean, std, mean * volume, std * volume, part))
    return rows
