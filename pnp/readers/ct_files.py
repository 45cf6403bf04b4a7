"""Read the scan of a CT instrument, whichever format it has: the content of the file chooses the reader."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..io.file_kinds import KINDS, describe, file_kind
from .ct_arguments import check_rows, checked_size
from .ct_dxchange import read_dxchange
from .ct_htc2022 import read_htc2022
from .ct_nexus import read_nxtomo
from .ct_scan import CtScan
from .ct_tiff import read_tiff_scan
from .ct_txrm import read_txrm
from .ct_xtekct import read_xtekct

_UNITS = ("deg", "rad")


class _Format(NamedTuple):
    """How files of a kind are read.

    Attributes:
        read: the reader, called with the path and those of the arguments in `takes`.
        takes: arguments of `read_scan` that the reader has itself, rows among them; angles and pixel_size_mm are
            otherwise applied to what it returns.
        words: texts that the reader takes for angles: where they are, or the unit of the file's own.
    """

    read: Callable[..., CtScan]
    takes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def read_scan(
    path: str | os.PathLike[str],
    *,
    rows: slice | None = None,
    angles: npt.ArrayLike | None = None,
    pixel_size_mm: float | None = None,
    flat: str | os.PathLike[str] | npt.ArrayLike | None = None,
    dark: str | os.PathLike[str] | npt.ArrayLike | None = None,
    kind: Literal["line integrals", "counts", "transmissions"] | None = None,
    entry: str | None = None,
) -> CtScan:
    """Read a scan: counts with flats and darks, or line integrals, with angles and geometry as far as the file says.

    The content chooses the reader, not the name: Data Exchange (HDF5) is read by `read_dxchange`, NXtomo (NeXus) by
    `read_nxtomo`, MATLAB files by `read_htc2022`, Zeiss .txrm by `read_txrm`, Nikon .xtekct by `read_xtekct`, TIFF (a
    folder, a pattern, a file of pages) by `read_tiff_scan`. Every other file is refused with what it is and what takes
    it.

    Args:
        path: the file; or a folder of TIFF projections, or a pattern of their names.
        rows: the detector rows to read, e.g. slice(0, 1); where the format allows, the others are not loaded. None:
            all.
        angles: (n_angles,), radians, in place of the file's; needed where the file has none, as TIFF. Or "deg" or
            "rad", the unit of the angles in an HDF5 file, in place of the one that it states, or where it states none;
            of TIFF "names", see `read_tiff_scan`.
        pixel_size_mm: side of a pixel on the plane of the object, mm, in place of the file's, of a parallel beam.
        flat: of TIFF projections: frames with the beam open (n_frames, n_rows, n_detectors), or their folder, pattern
            or file.
        dark: of TIFF projections: frames with the beam closed, likewise.
        kind: of TIFF, Data Exchange and NXtomo: what the values are; None: counts, of TIFF where flats are given.
        entry: of NXtomo: the entry, where a file holds several scans.

    Returns:
        y (n_rows, n_angles, n_detectors); a TIFF file of a single page is one sinogram, (n_angles, n_detectors).

    Raises:
        TypeError: rows is not a slice.
        ValueError: the file is missing, damaged or no scan; or it lacks what only an argument can give: the message
            names the argument.
    """
    check_rows("read_scan", rows)
    is_pattern = not Path(path).exists() and glob.has_magic(str(path))
    found = "tiff_folder" if is_pattern else file_kind(path)
    if found not in _FORMATS:
        raise ValueError(describe(path, found, "a CT scan"))
    form = _FORMATS[found]
    options: dict[str, Any] = {"rows": rows, "angles": angles, "pixel_size_mm": pixel_size_mm}
    options |= {"flat": flat, "dark": dark, "kind": kind, "entry": entry}
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("flat", "dark", "kind", "entry"):
        if name in given and name not in form.takes:
            wanted = {"entry": "NXtomo", "kind": "TIFF, Data Exchange and NXtomo"}.get(name, "TIFF projections")
            raise ValueError(f"{path}: {name} is for {wanted}, this is {KINDS[found].what}; leave {name} out")
    if isinstance(angles, str) and angles not in form.words:
        words = "".join(f" or {word!r}" for word in form.words)
        raise ValueError(f"{path}: angles must be the angles in radians{words}, got {angles!r:.24}; give them")
    scan = form.read(path, **{name: given.pop(name) for name in form.takes if name in given})
    if "angles" in given:
        scan = replace(scan, angles=np.asarray(given["angles"]))
    return _with_pixel_size(scan, given["pixel_size_mm"]) if "pixel_size_mm" in given else scan


def _with_pixel_size(scan: CtScan, size: float) -> CtScan:
    """Return a scan by a parallel beam with this size of a bin."""
    size = checked_size(scan.path, size)
    if scan.source_origin_mm is not None:
        return replace(scan, pixel_size_mm=size)
    return replace(scan, pitch_mm=size, pixel_size_mm=size)


_FORMATS = {
    "dxchange": _Format(read_dxchange, ("rows", "angles", "pixel_size_mm", "kind"), _UNITS),
    "nexus": _Format(read_nxtomo, ("rows", "angles", "pixel_size_mm", "entry", "kind"), _UNITS),
    "matlab": _Format(read_htc2022, ("rows",)),
    "matlab73": _Format(read_htc2022, ("rows",)),
    "txrm": _Format(read_txrm, ("rows", "angles")),
    "xtekct": _Format(read_xtekct, ("rows", "angles")),
    "tiff": _Format(read_tiff_scan, ("rows", "angles", "flat", "dark", "kind"), ("names",)),
    "tiff_folder": _Format(read_tiff_scan, ("rows", "angles", "flat", "dark", "kind"), ("names",)),
}
"""Readers by the kind of file, a key of `pnp.io.file_kinds.KINDS`; a new format is a row here."""
