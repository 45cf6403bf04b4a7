"""Cone beams of TIGRE: its geometry object and the angles of the views.

TIGRE's axes x, y, z are X, Y, Z of `ConeBeam` (`computeDeltas_Siddon` in TIGRE's Siddon_projection.cu). At angle 0
the source is at (DSO, 0, 0), the columns of the detector lie along y, its rows along z: theta = angle + pi/2. In this
order, rotDetector turns the detector about its middle, about x, y and z; offDetector moves it along rows and columns;
the angles (n,), or (n, 3) for Euler's rotations z, y, z, turn source and detector; offOrigin is the place of the
volume's middle; COR moves source and detector along the columns. In Python, sizes are in the order (z, y, x), those
of the detector (rows, columns). Volumes are (z, y, x), their rows along +y, against ours; projections are (angles,
rows, columns).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
    rotation,
    turned,
)

_CALLER = "cone_from_tigre"
_SIZE_RTOL = 1e-4
"""Largest relative deviation of a total size from number times size."""


def cone_from_tigre(geometry: Any, angles: npt.ArrayLike, *, tolerance: float = TOLERANCE) -> ConeGeometry:
    """Return the geometry of a TIGRE scan, in units of TIGRE's: mm, unless its author chose others.

    Args:
        geometry: `tigre.geometry(...)`, or any object with its attributes: DSO, DSD, nDetector, dDetector, nVoxel and
            dVoxel; optional are offDetector, offOrigin, rotDetector, COR and mode.
        angles: (n,), radians, or (n, 3), of `tigre.Ax(volume, geometry, angles)`.
        tolerance: largest shift of a bin, in bins, by turns of the detector that are left out.

    Raises:
        ValueError: an attribute is missing, no number or of a wrong shape, the beam is parallel, or rotDetector, COR,
            offOrigin and tilted axes turn the detector by more than 45 degrees.
    """
    mode = getattr(geometry, "mode", None)
    if mode not in (None, "cone"):
        raise ValueError(f"{_CALLER}: mode must be 'cone', got {mode!r:.40}; of a parallel beam, use Radon")
    turns = np.asarray(angles)
    n = max(1, len(turns) if turns.ndim else 1)
    turns = entry_numbers(_CALLER, "angles", turns, ((n,), (n, 3)))
    turns = np.stack([turns, *np.zeros((2, n))], 1) if turns.ndim == 1 else turns
    warn_of_degrees(_CALLER, float(np.ptp(turns[:, 0])), stacklevel=2)
    rows, columns = _counts(geometry, "nDetector", 2)
    shape = _counts(geometry, "nVoxel", 3)
    pitch, voxel = (_sizes(geometry, kind, len(counts), counts) for kind, counts in _both(shape, (rows, columns)))
    parts = {name: _per_view(geometry, name, n) for name in ("offOrigin", "rotDetector", "offDetector")}
    near, far = (_distance(geometry, name, n) for name in ("DSO", "DSD"))
    if not (far >= near).all():
        raise ValueError(f"{_CALLER}: DSD, from source to detector, must be DSO or more, got {far.min():g}; check both")
    shift = _scalars(geometry, "COR", n, 0.0)
    turn = rotation(turns[:, 0], 2) @ rotation(turns[:, 1], 1) @ rotation(turns[:, 2], 2)
    x, y, z = np.eye(3)
    tilt = _rotations(parts["rotDetector"])
    moved = parts["offDetector"]
    centre = -(far - near)[:, None] * x + moved[:, 1:] * y + moved[:, :1] * z
    # The shift by COR is along the columns of the first angle, in the volume's axes.
    offset = -parts["offOrigin"][:, ::-1] + shift[:, None] * np.stack(
        [-np.sin(turns[:, 0]), np.cos(turns[:, 0]), np.zeros(n)], 1
    )
    vectors = Vectors(
        turned(turn, near[:, None] * x) + offset,
        turned(turn, centre) + offset,
        turned(turn, turned(tilt, np.tile(pitch[1] * y, (n, 1)))),
        turned(turn, turned(tilt, np.tile(pitch[0] * z, (n, 1)))),
    )

    def causes(k: int) -> str:
        named = {"COR": shift[k], "rotDetector": parts["rotDetector"][k], "offOrigin": parts["offOrigin"][k, 1:]}
        named |= {"the second angle": turns[k, 1]}
        return ", ".join(f"{name} = {np.round(value, 6)!s}" for name, value in named.items() if np.any(value))

    return fit_cone(
        _CALLER,
        vectors,
        (rows, columns),
        tolerance=tolerance,
        given=turns[:, 0] + turns[:, 2] + np.pi / 2,
        describe=causes,
        views=AxisOrder(),
        volume=AxisOrder(flipped=(1,)),
        shape=shape,
        voxel_size=tuple(voxel.tolist()),
    )


def _both(voxels: tuple[int, ...], bins: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return ("Detector", bins), ("Voxel", voxels)


def _attribute(geometry: Any, name: str) -> Any:
    value = getattr(geometry, name, None)
    if value is None:
        raise ValueError(f"{_CALLER}: the geometry must have the attribute {name}; set it as TIGRE's demos do")
    return value


def _counts(geometry: Any, name: str, n: int) -> Any:
    return entry_counts(_CALLER, name, _attribute(geometry, name), n)


def _sizes(geometry: Any, kind: str, n: int, counts: tuple[int, ...]) -> Floats:
    """Return dDetector or dVoxel; refuse a total, sDetector or sVoxel, that is another."""
    each = entry_lengths(_CALLER, f"d{kind}", _attribute(geometry, f"d{kind}"), ((n,),))
    total = getattr(geometry, f"s{kind}", None)
    if total is not None:
        whole = entry_numbers(_CALLER, f"s{kind}", total, ((n,),))
        if not np.allclose(whole, each * counts, rtol=_SIZE_RTOL, atol=0):
            raise ValueError(
                f"{_CALLER}: s{kind} must be n{kind} * d{kind}, {(each * counts).tolist()}, got {whole.tolist()}; "
                f"correct one (order (z, y, x), detector (rows, columns))"
            )
    return each


def _scalars(geometry: Any, name: str, n: int, default: float | None = None) -> Floats:
    """Return a number for each view, (n,)."""
    value = getattr(geometry, name, None)
    value = default if value is None and default is not None else _attribute(geometry, name)
    values = entry_numbers(_CALLER, name, value, ((), (1,), (n,), (n, 1), (1, n)))
    return np.broadcast_to(values.ravel(), (n,))


def _distance(geometry: Any, name: str, n: int) -> Floats:
    values = _scalars(geometry, name, n)
    if not (values > 0).all():
        raise ValueError(f"{_CALLER}: {name} must be positive, got {values.min():g}; it is a distance from the source")
    return values


def _per_view(geometry: Any, name: str, n: int) -> Floats:
    """Return vectors for each view, (n, 2) or (n, 3); zeros where there are none."""
    size = 2 if name == "offDetector" else 3
    value = getattr(geometry, name, None)
    values = entry_numbers(_CALLER, name, np.zeros(size) if value is None else value, ((size,), (1, size), (n, size)))
    return np.broadcast_to(values, (n, size))


def _rotations(angles: Floats) -> Floats:
    """Return the rotations of rotDetector (n, 3): about x first, then about y and z."""
    tilt: Floats = rotation(angles[:, 2], 2) @ rotation(angles[:, 1], 1) @ rotation(angles[:, 0], 0)
    return tilt
