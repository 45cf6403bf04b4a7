"""The cone beam of a `CtScan`: the arguments of `ConeBeam`, and its views in that operator's axes.

Z of `ConeBeam` points upwards, so that X, Y and Z are right-handed where the image of a row is the object seen from
above: rows that a scan has from the top are turned round, and the lowest slice of the volume is its first.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .ct_scan import CtScan


def cone_geometry(
    scan: CtScan,
    shape: tuple[int, int, int] | None,
    offset: float,
    row_offset: float,
    voxel_size: float | tuple[float, float, float],
) -> dict[str, Any]:
    """Return the arguments of `ConeBeam`, in mm; see `CtScan.cone_geometry`."""
    where = scan.path or "CtScan"
    lengths: dict[str, Any] = {}
    for name in ("source_origin_mm", "origin_detector_mm", "pitch_mm", "row_pitch_mm"):
        lengths[name] = getattr(scan, name)
        if lengths[name] is None:
            remedy = f"dataclasses.replace(scan, {name}=...)"
            raise ValueError(f"{where}: a cone beam needs {name}, which the scan does not have; give it with {remedy}")
    n_rows, columns = (1 if scan.y.ndim == 2 else len(scan.y)), scan.y.shape[-1]
    source, pitch = lengths["source_origin_mm"], (lengths["row_pitch_mm"], lengths["pitch_mm"])
    if shape is None:
        depth = voxel_size if isinstance(voxel_size, (int, float)) else voxel_size[0]
        at_axis = pitch[0] * source / (source + lengths["origin_detector_mm"])
        shape = max(1, math.ceil(n_rows * at_axis / depth - 1e-9)), columns, columns
    return {
        "shape": shape,
        "angles": scan.angles,
        "source_origin": source,
        "origin_detector": lengths["origin_detector_mm"],
        "detector_shape": (n_rows, columns),
        "pitch": pitch,
        "voxel_size": voxel_size,
        "offset": offset,
        "row_offset": row_offset + _height(scan, where, n_rows) * pitch[0],
    }


def cone_views(scan: CtScan, y: Any, device: torch.device | str | None) -> Tensor:
    """Return values (n_rows, n_angles, n_detectors) as (1, 1, n_angles, rows, columns), the lowest row first."""
    values = y if isinstance(y, Tensor) else torch.as_tensor(y)
    if tuple(values.shape) != scan.y.shape:
        raise ValueError(f"CtScan.cone_views: y must be {scan.y.shape}, as the scan is, got {tuple(values.shape)}")
    rows = values.reshape(-1, *values.shape[-2:]).to(device)
    rows = rows.flip(0) if scan.facts.get("rows_downwards") else rows
    return rows.transpose(0, 1)[None, None].clone(memory_format=torch.contiguous_format)


def _height(scan: CtScan, where: str, n_rows: int) -> float:
    """Return the height of the rows' middle over that of the detector, in rows."""
    numbers, middle = scan.detector_rows(), scan.facts.get("middle_row")
    stated = str(scan.facts.get("DetectorOffsetY") or "0")
    if set(stated) - set("0.-+ "):
        warnings.warn(
            f"{where}: DetectorOffsetY = {stated:.24} is not applied, since its sign is not documented; give "
            "row_offset, in mm, the height of the detector's middle over the source's plane",
            stacklevel=4,
        )
    if numbers is None or middle is None:
        return 0.0
    if numbers.step != 1 and n_rows > 1:
        raise ValueError(
            f"{where}: rows must be neighbours for a cone beam, got every {numbers.step}th; read rows=slice(first, end)"
        )
    above = (numbers[0] + numbers[-1]) / 2 - float(middle)
    return -above if scan.facts.get("rows_downwards") else above
