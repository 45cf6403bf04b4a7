"""Detector rows of a scan, read block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..readers import CtScan
from ..readers.ct_arguments import check_rows, picked_rows
from .row_warnings import RowWarnings

_SAMPLED_ROWS = 16
"""Largest number of rows from which the axis and the detector's gain are found, spread over the detector."""
_BLOCK_BYTES = 2**29
"""Size of the rows that are read at a time, as float32; they are then prepared one by one."""


class ScanRows:
    """Detector rows of a scan in memory, or of one that a function reads.

    Attributes:
        n_rows: number of rows of the scan.
        rows: those that are asked for, counted within the scan.
        numbers: their numbers on the detector: a scan in memory may hold a part of it.
        middle: the middle of the scan's rows, numbered likewise.
    """

    def __init__(self, scan: CtScan | Callable[..., CtScan], rows: slice | None) -> None:
        check_rows("prepare_scan", rows)
        if not isinstance(scan, CtScan) and not callable(scan):
            raise TypeError(
                f"prepare_scan: scan must be a CtScan, or a function that reads one, got {type(scan).__name__}; use "
                "read_scan(path), or partial(read_scan, path)"
            )
        if not isinstance(scan, CtScan):
            last = scan(rows=slice(-1, None))
            if "rows" in last.facts:
                self._read, self.n_rows = scan, int(last.facts["rows"][1])
            else:  # a format that is read as a whole
                scan = scan()
        held = None
        if isinstance(scan, CtScan):
            whole = with_rows_axis(scan)
            self._read, self.n_rows = lambda rows: rows_of(whole, rows), len(whole.y)
            held = scan.detector_rows()
        picked = picked_rows("prepare_scan", self.n_rows, rows)
        self.rows = range(picked.start, picked.stop, picked.step)
        on_detector = held or range(self.n_rows)
        self.numbers = on_detector[picked]
        self.middle = (on_detector[0] + on_detector[-1]) / 2

    def read(self, rows: range) -> CtScan:
        """Read some rows, y (n_rows, n_angles, n_detectors)."""
        return with_rows_axis(self._read(rows=slice(rows.start, rows.stop, rows.step)))

    @property
    def every_sampled(self) -> int:
        """Number of rows from one sampled row to the next."""
        return math.ceil(len(self.rows) / _SAMPLED_ROWS)

    @property
    def first_sampled(self) -> int:
        """Number of the first sampled row among the rows."""
        return self.every_sampled // 2

    def sampled(self) -> range:
        """Return some of the rows, spread over the detector."""
        return self.rows[self.first_sampled :: self.every_sampled]

    def each(self, progress: bool, said: RowWarnings) -> Iterator[CtScan]:
        """Yield the scans of single rows; a block of them is read at a time, whose warnings are collected."""
        from tqdm.auto import tqdm

        with said.collected():
            first = self.read(self.rows[:1])
        block = max(1, _BLOCK_BYTES // (4 * first.y.size))
        with tqdm(total=len(self.rows), desc="rows", unit="row", disable=not progress, delay=1) as bar:
            for start in range(0, len(self.rows), block):
                with said.collected():
                    some = self.read(self.rows[start : start + block])
                for k in range(len(some.y)):
                    with said.collected():
                        row = rows_of(some, slice(k, k + 1))
                    yield row
                    bar.update()


def with_rows_axis(scan: CtScan) -> CtScan:
    """Return a scan whose measurements are (n_rows, n_angles, n_detectors)."""
    if scan.y.ndim == 3:
        return scan
    flat, dark = (None if frames is None else frames[None] for frames in (scan.flat, scan.dark))
    return replace(scan, y=scan.y[None], flat=flat, dark=dark)


def rows_of(scan: CtScan, rows: slice) -> CtScan:
    """Return some rows of a scan (n_rows, n_angles, n_detectors)."""
    flat, dark = (None if frames is None else frames[rows] for frames in (scan.flat, scan.dark))
    return replace(scan, y=scan.y[rows], flat=flat, dark=dark)
