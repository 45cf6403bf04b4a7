"""CT scans in TIFF files: one image per view, or a file of many pages.

TIFF holds neither angles nor lengths, so that both are given by the caller.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.guards import check_finite, check_real
from .ct_scan import CtScan
from .tiff_names import angles_in_names
from .tiff_stack import page_rows, page_shape, read_rows, tiff_series

_Path = str | os.PathLike[str]


def read_tiff_scan(
    path: _Path,
    *,
    angles: npt.ArrayLike | str,
    flat: _Path | None = None,
    dark: _Path | None = None,
    rows: slice | None = None,
    source_origin_mm: float | None = None,
    origin_detector_mm: float | None = None,
    pitch_mm: float | None = None,
    pixel_size_mm: float | None = None,
) -> CtScan:
    """Read raw counts (n_rows, n_angles, n_detectors) from the projections of a folder, of a pattern or of one file.

    Args:
        path: a folder of one series of TIFF files, a pattern such as "scan/proj_*.tif", or a file of many pages; the
            order is that of `read_tiff_stack`, and pages are (rows of the detector, bins).
        angles: (n_angles,), radians, one for each view in this order. "names": the one number in which the names
            differ is the angle in degrees, as in tilt_-6.tif. They are never taken from the number of files.
        flat: the open beam, a folder, a pattern or a file likewise; None: not measured.
        dark: the closed beam, likewise.
        rows: the detector rows to read, e.g. slice(0, 16); the others are not kept in memory. None: all.
        source_origin_mm, origin_detector_mm, pitch_mm, pixel_size_mm: the geometry, as in `CtScan`; None: a parallel
            beam, or a length that is not known.

    Raises:
        TypeError: rows is not a slice.
        ValueError: nothing is found; a file is broken, not grey or of another shape; angles and files differ in number;
            several series of names are mixed; values are not finite.
    """
    if rows is not None and not isinstance(rows, slice):
        raise TypeError(f"read_tiff_scan: rows must be a slice, got {rows!r:.40}; use slice(k, k + 1) for row k")
    series = tiff_series(path)
    n_pages, height, width = page_shape(series.files[0], one_of_many=len(series.files) > 1)
    n_views = n_pages if len(series.files) == 1 else len(series.files)
    if isinstance(angles, str):
        if angles != "names":
            raise ValueError(f"read_tiff_scan: angles must be radians, one per view, or 'names', got {angles!r:.40}")
        theta = angles_in_names(path, series)
    else:
        theta = np.asarray(angles)
    check_real(f"{path}: angles", theta.dtype)
    check_finite(f"{path}: angles", theta)
    if theta.shape != (n_views,):
        raise ValueError(
            f"{path}: angles must have one for each of {n_views} views ({series.files[0].name:.60} to "
            f"{series.files[-1].name:.60}), got shape {theta.shape}; give them in radians, in this order"
        )
    picked = page_rows(path, height, rows)
    fields: dict[str, Any] = {
        name: _frames(name, given, (height, width), picked) for name, given in (("flat", flat), ("dark", dark))
    }
    return CtScan(
        y=read_rows(path, series.files, picked, rows_first=True),
        angles=theta,
        kind="counts",
        source_origin_mm=source_origin_mm,
        origin_detector_mm=origin_detector_mm,
        pitch_mm=pitch_mm,
        pixel_size_mm=pixel_size_mm,
        facts={"rows": (picked.start, picked.stop, picked.step)},
        path=str(path),
        **fields,
    )


def _frames(name: str, path: _Path | None, shape: tuple[int, int], rows: slice) -> npt.NDArray[np.float32] | None:
    """Read the same rows of flats or darks, (n_rows, n_frames, n_detectors)."""
    if path is None:
        return None
    files = tiff_series(path, gaps=False).files
    found = page_shape(files[0], one_of_many=len(files) > 1)[1:]
    if found != shape:
        raise ValueError(
            f"{path}: {name} must have the projections' rows and bins, {shape}, got {found}; crop both alike"
        )
    return read_rows(path, files, rows, rows_first=True)
