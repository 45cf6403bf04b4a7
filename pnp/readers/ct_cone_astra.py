"""Cone beams of the ASTRA toolbox: projection geometries `cone` and `cone_vec`, dictionaries of `create_proj_geom`.

ASTRA's axes x, y, z (3D geometries, https://astra-toolbox.com/docs/geom3d.html) are X, Y, Z of `ConeBeam`, and its
`cone` has the same angles. A view of `cone_vec` is (source, middle of the detector, u from column to column, v from row
to row). Volumes are (z, y, x), their rows along +y, unlike those of ASTRA's images, and so against ours; projections
are (rows, angles, columns). Voxels are cubes of side 1 without a window of `create_vol_geom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from operators.base import warn_of_degrees

from .ct_cone_geometry import (
    TOLERANCE,
    AxisOrder,
    ConeGeometry,
    Floats,
    Vectors,
    entry_counts,
    entry_lengths,
    entry_numbers,
    fit_cone,
)

_CALLER = "cone_from_astra"
_OTHERS = {
    "parallel3d": "parallel: use Radon, slice by slice",
    "parallel3d_vec": "parallel: use Radon, slice by slice",
    "fanflat": "a fan: use FanBeam",
    "fanflat_vec": "a fan: use FanBeam",
    "cyl_cone_vec": "curved: where it is a cylinder about the source use ConeBeam(..., curved=True), else resample",
}


def cone_from_astra(
    projection: Mapping[str, Any], volume: Mapping[str, Any] | None = None, *, tolerance: float = TOLERANCE
) -> ConeGeometry:
    """Return the geometry of ASTRA's dictionaries, in units of theirs.

    Args:
        projection: of `astra.create_proj_geom("cone", ...)` or `("cone_vec", ...)`, also after `geom_postalignment`.
        volume: of `astra.create_vol_geom(rows, columns, slices, ...)`; None: give shape and voxel_size to `operator`.
        tolerance: largest shift of a bin, in bins, by turns of the detector that are left out.

    Raises:
        ValueError: another type of geometry, an entry is missing or no number, or the detector is turned by more than
            45 degrees or no rectangle.

    >>> vectors = [[0, -200, 0, 0, 100, 0, 1.5, 0, 0, 0, 0, 1.5]]
    >>> astra = {"type": "cone_vec", "DetectorRowCount": 5, "DetectorColCount": 9, "Vectors": vectors}
    >>> cone_from_astra(astra).operator((4, 6, 6), voxel_size=1.0).y_shape
    (1, 1, 5, 9)
    """
    kind = projection.get("type")
    if kind not in ("cone", "cone_vec"):
        hint = _OTHERS.get(str(kind), "give the dictionary of create_proj_geom")
        raise ValueError(f"{_CALLER}: type must be 'cone' or 'cone_vec', got {kind!r:.40}; {hint}")
    rows, columns = (
        entry_counts(_CALLER, name, [_entry(projection, name)], 1)[0]
        for name in ("DetectorRowCount", "DetectorColCount")
    )
    middle, described = _volume(volume)
    given = None
    if kind == "cone":
        given = np.asarray(_entry(projection, "ProjectionAngles"))
        given = entry_numbers(_CALLER, "ProjectionAngles", given.ravel(), ((given.size,),))
    vectors = _of_vectors(projection) if given is None else _of_angles(projection, given)
    if given is not None and len(given):
        warn_of_degrees(_CALLER, float(np.ptp(given)), stacklevel=2)
    return fit_cone(
        _CALLER,
        Vectors(vectors.source - middle, vectors.centre - middle, vectors.u, vectors.v),
        (rows, columns),
        tolerance=tolerance,
        given=given,
        views=AxisOrder((1, 0, 2)),
        volume=AxisOrder(flipped=(1,)),
        **described,
    )


def _entry(geometry: Mapping[str, Any], name: str) -> Any:
    if name not in geometry:
        raise ValueError(f"{_CALLER}: the geometry must have the entry {name}, it has {', '.join(geometry)!s:.160}")
    return geometry[name]


def _of_angles(projection: Mapping[str, Any], angles: Floats) -> Vectors:
    if not angles.size:
        raise ValueError(f"{_CALLER}: ProjectionAngles must hold an angle for each view, got none")
    source, pitch, row_pitch = (
        float(entry_lengths(_CALLER, name, _entry(projection, name), ((),)))
        for name in ("DistanceOriginSource", "DetectorSpacingX", "DetectorSpacingY")
    )
    distance = float(
        entry_numbers(_CALLER, "DistanceOriginDetector", _entry(projection, "DistanceOriginDetector"), ((),))
    )
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros(angles.shape)
    beam = np.stack([-sin, cos, zero], 1)
    return Vectors(
        -source * beam, distance * beam, pitch * np.stack([cos, sin, zero], 1), np.array([[0, 0, row_pitch]]) + 0 * beam
    )


def _of_vectors(projection: Mapping[str, Any]) -> Vectors:
    values = np.asarray(_entry(projection, "Vectors"))
    values = entry_numbers(_CALLER, "Vectors", values, ((max(1, len(values) if values.ndim else 1), 12),))
    for name, columns in (("u", slice(6, 9)), ("v", slice(9, 12))):
        if not np.linalg.norm(values[:, columns], axis=1).all():
            raise ValueError(f"{_CALLER}: Vectors must have steps {name} that are not 0; see cone_vec")
    return Vectors(values[:, :3], values[:, 3:6], values[:, 6:9], values[:, 9:])


def _volume(volume: Mapping[str, Any] | None) -> tuple[Floats, dict[str, Any]]:
    """Return the middle of the volume (x, y, z), and its shape and voxels for `ConeGeometry`."""
    if volume is None:
        return np.zeros(3), {}
    names = ("GridSliceCount", "GridRowCount", "GridColCount")
    shape = tuple(entry_counts(_CALLER, name, [_entry(volume, name)], 1)[0] for name in names)
    window = volume.get("option", {})
    middle, sizes = [], []
    for axis, n in zip("ZYX", shape, strict=True):
        ends = (window.get(f"WindowMin{axis}", -n / 2), window.get(f"WindowMax{axis}", n / 2))
        low, high = entry_numbers(_CALLER, f"WindowMin{axis} and WindowMax{axis}", ends, ((2,),)).tolist()
        if not low < high:
            raise ValueError(f"{_CALLER}: WindowMin{axis} must be below WindowMax{axis}, got {low:g} and {high:g}")
        middle.append((low + high) / 2)
        sizes.append((high - low) / n)
    return np.array(middle[::-1]), {"shape": shape, "voxel_size": tuple(sizes)}
