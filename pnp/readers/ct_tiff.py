"""CT scans in TIFF files: one image per view, or a file of many pages.

TIFF holds neither angles nor lengths, so that both are given by the caller.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from .ct_arguments import check_rows, picked_rows
from .ct_scan import CtScan
from .tiff_names import Series, angles_in_names
from .tiff_stack import page_shape, read_rows, tiff_series

_Path = str | os.PathLike[str]


def read_tiff_scan(
    path: _Path,
    *,
    angles: npt.ArrayLike | str | None = None,
    flat: _Path | npt.ArrayLike | None = None,
    dark: _Path | npt.ArrayLike | None = None,
    rows: slice | None = None,
    kind: str | None = None,
    source_origin_mm: float | None = None,
    origin_detector_mm: float | None = None,
    pitch_mm: float | None = None,
    pixel_size_mm: float | None = None,
) -> CtScan:
    """Read projections, (n_rows, n_angles, n_detectors), from a folder, a pattern or a file of many pages.

    A file of a single page is a sinogram, (n_angles, n_detectors).

    Args:
        path: a folder of one series of TIFF files, a pattern such as "scan/proj_*.tif", or a file; the order is that
            of `read_tiff_stack`, and pages are (rows of the detector, bins).
        angles: (n_angles,), radians, one for each view in this order. "names": the one number in which the names
            differ is the angle in degrees, as in tilt_-6.tif. They are never taken from the number of files.
        flat: the open beam, a folder, a pattern or a file likewise, or an array (n_frames, n_rows, n_detectors); of a
            sinogram (n_frames, n_detectors). None: not measured.
        dark: the closed beam, likewise.
        rows: the detector rows to read, e.g. slice(0, 16); the others are not kept in memory. None: all.
        kind: what the values are, as in `CtScan`; None: counts where flats are given.
        source_origin_mm, origin_detector_mm, pitch_mm, pixel_size_mm: the geometry, as in `CtScan`; None: a parallel
            beam, or a length that is not known.

    Raises:
        TypeError: rows is not a slice.
        ValueError: angles or kind are missing; nothing is found; a file is broken, not grey or of another shape; angles
            and views differ in number; several series of names are mixed; values are not finite.
    """
    check_rows("read_tiff_scan", rows)
    if angles is None:
        raise ValueError(f"{path}: TIFF states no angles; give angles= in radians, one for each view")
    if kind is None and flat is None:
        raise ValueError(
            f"{path}: TIFF does not say what it holds; give kind='counts', 'transmissions' or 'line integrals'"
        )
    series = tiff_series(path)
    n_pages, height, width = page_shape(series.files[0], one_of_many=len(series.files) > 1)
    is_sinogram = len(series.files) == n_pages == 1
    n_views = height if is_sinogram else n_pages if len(series.files) == 1 else len(series.files)
    theta = _angles(path, angles, series, n_views)
    picked = picked_rows(path, 1 if is_sinogram else height, rows)
    fields: dict[str, Any] = {"flat": flat, "dark": dark}
    if is_sinogram:
        y = read_rows(path, series.files)[0]
        fields = {name: None if given is None else _lines(given) for name, given in fields.items()}
    else:
        fields = {
            name: None if given is None else _frames(name, given, (height, width), picked)
            for name, given in fields.items()
        }
        y = read_rows(path, series.files, picked, rows_first=True)
    stated: Any = kind or "counts"
    return CtScan(
        y=y,
        angles=theta,
        kind=stated,
        source_origin_mm=source_origin_mm,
        origin_detector_mm=origin_detector_mm,
        pitch_mm=pitch_mm,
        pixel_size_mm=pixel_size_mm,
        facts={"rows": (picked.start, picked.stop, picked.step)},
        path=str(path),
        **fields,
    )


def _angles(path: _Path, angles: Any, series: Series, n_views: int) -> npt.NDArray[Any]:
    """Return one angle in radians for each view, as given or from the names."""
    if isinstance(angles, str):
        if angles != "names":
            raise ValueError(f"{path}: angles must be radians, one per view, or 'names', got {angles!r:.40}")
        return angles_in_names(path, series)
    theta = np.asarray(angles)
    if theta.shape != (n_views,):
        raise ValueError(
            f"{path}: angles must have one for each of {n_views} views ({series.files[0].name:.60} to "
            f"{series.files[-1].name:.60}), got shape {theta.shape}; give them in radians, in this order"
        )
    return theta


def _frames(name: str, given: Any, shape: tuple[int, int], rows: slice) -> npt.NDArray[Any]:
    """Return the same rows of flats or darks, (n_rows, n_frames, n_detectors)."""
    if not isinstance(given, str | os.PathLike):
        frames = np.asarray(given)
        if frames.ndim not in (2, 3) or frames.shape[-2:] != shape:
            raise ValueError(
                f"read_tiff_scan: {name} must be frames (n, {shape[0]}, {shape[1]}), as the projections are, got "
                f"{frames.shape}; crop them alike"
            )
        return np.moveaxis(frames.reshape(-1, *shape)[:, rows], 1, 0)
    files = tiff_series(given, gaps=False).files
    found = page_shape(files[0], one_of_many=len(files) > 1)[1:]
    if found != shape:
        raise ValueError(f"{given}: {name} must have the projections' pixels, {shape}, got {found}; crop both alike")
    return read_rows(given, files, rows, rows_first=True)


def _lines(given: Any) -> npt.NDArray[Any]:
    """Return flats or darks of a sinogram, (n_frames, n_detectors): an array, or the rows of a page."""
    if not isinstance(given, str | os.PathLike):
        return np.asarray(given)
    frames = read_rows(given, tiff_series(given, gaps=False).files)
    return frames[0] if len(frames) == 1 else frames
