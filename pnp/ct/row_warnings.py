"""Python warnings of the rows of a scan, each distinct one once, with its rows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?", re.IGNORECASE)
_MAX_ROWS_NAMED = 10
"""Maximum number of rows that are named in one warning."""


class RowWarnings:
    """Warnings of the rows of a scan, kept until all rows are done.

    Args:
        caller: beginning of the warnings.
    """

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self._first: dict[str, warnings.WarningMessage] = {}
        self._rows: dict[str, list[int]] = {}

    @contextmanager
    def collected(self, row: int | None = None) -> Iterator[None]:
        """Keep the warnings of the block, which are of this row, or of all; those that differ in numbers are one."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
        for warning in caught:
            key = _NUMBER.sub("#", str(warning.message))
            self._first.setdefault(key, warning)
            self._rows.setdefault(key, []).extend([] if row is None else [row])

    def pass_on(self, n_rows: int) -> None:
        """Raise every distinct warning once; where few of n_rows have it, they are named."""
        for key, warning in self._first.items():
            rows = self._rows[key]
            more = f" and {len(rows) - _MAX_ROWS_NAMED} more" if len(rows) > _MAX_ROWS_NAMED else ""
            name = "row" if len(rows) == 1 else "rows"
            where = f"{name} {', '.join(map(str, rows[:_MAX_ROWS_NAMED]))}{more}: " if 0 < len(rows) < n_rows else ""
            warnings.warn(f"{self.caller}: {where}{warning.message}", warning.category, stacklevel=3)
