"""Python warnings of the rows of a scan, each distinct one once, with its rows."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .arrays import UnusableRow

_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?", re.IGNORECASE)
_MAX_ROWS_NAMED = 10
"""Maximum number of rows that are named in one warning."""


class RowWarnings:
    """Warnings of the rows of a scan, kept until all rows are done."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._rows: dict[str, list[int]] = {}

    @contextmanager
    def collected(self, row: int | None = None) -> Iterator[None]:
        """Keep the warnings of the block, which are of this row, or of all; those that differ in numbers are one.

        Before an error of the block, all that were kept are raised: they may explain it.
        """
        caught: list[warnings.WarningMessage] = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                yield
        except ValueError:
            self._keep(caught, row)
            for sentence in self.sentences():
                warnings.warn(f"prepare_scan: {sentence}", stacklevel=5)
            raise
        self._keep(caught, row)

    def _keep(self, caught: list[warnings.WarningMessage], row: int | None) -> None:
        for warning in caught:
            if not issubclass(warning.category, UserWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
                continue
            key = _NUMBER.sub("#", str(warning.message))
            self._first.setdefault(key, str(warning.message))
            self._rows.setdefault(key, []).extend([] if row is None else [row])

    def sentences(self, n_rows: float = math.inf) -> tuple[str, ...]:
        """Return every distinct warning once; where not all of n_rows have it, they are named."""
        said = []
        for key, warning in self._first.items():
            rows = self._rows[key]
            more = f" and {len(rows) - _MAX_ROWS_NAMED} more" if len(rows) > _MAX_ROWS_NAMED else ""
            name = "row" if len(rows) == 1 else "rows"
            listed = f"{name} {', '.join(map(str, rows[:_MAX_ROWS_NAMED]))}{more}: "
            said.append(f"{listed if 0 < len(rows) < n_rows else ''}{warning}")
        return tuple(said)


@contextmanager
def naming_file(path: str) -> Iterator[None]:
    """Say in errors of the block which file they are of; an empty path is none."""
    try:
        yield
    except ValueError as error:
        if not path or path in str(error):
            raise
        raise _kind(error)(f"{path}: {error}") from error


@contextmanager
def naming_row(row: int, n_rows: int) -> Iterator[None]:
    """Say in errors of the block which of n_rows rows they are of."""
    try:
        yield
    except ValueError as error:
        if n_rows == 1:
            raise
        raise _kind(error)(f"row {row}: {error}") from error


def _kind(error: ValueError) -> type[ValueError]:
    """Return the kind of an error with a longer message."""
    return UnusableRow if isinstance(error, UnusableRow) else ValueError
