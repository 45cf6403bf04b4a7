"""Read tables from FITS, CSV, ECSV, VOTable, Parquet, HDF5 and plain text files: columns by name, with their units.

Only the columns that are used are loaded, where the format allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import h5py
import numpy as np

from .fits import contents, open_fits, refuse_healpix
from .guards import reading
from .hdf5_safe import check_stored, listed, open_hdf5

_Path = str | os.PathLike[str]
_MAX_NAMES, _MAX_LENGTH = 8, 180
"""Largest number of names of columns in a message, and of their characters."""
_TEXT = {
    **dict.fromkeys((".csv",), ("CSV", "ascii.csv")),
    **dict.fromkeys((".ecsv",), ("ECSV", "ascii.ecsv")),
    **dict.fromkeys((".txt", ".dat", ".asc", ".tsv"), ("text", "ascii")),
}
"""Suffixes of text tables, their names, and astropy's formats; "ascii" finds header and delimiter."""
_VOTABLE, _PARQUET = (".vot", ".votable", ".xml"), (".parquet", ".parq", ".pq")
_PACKED_MAGIC = (b"\x1f", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, compress, bzip2, xz, zip and zstd."""


@dataclass(frozen=True)
class Column:
    """Column of a table: a function that loads its values, and its unit; None where the file states none."""

    load: Callable[[], Any]
    unit: Any = None

    @property
    def values(self) -> Any:
        """Values of the column, masked where the table has none."""
        return self.load()


Columns = Mapping[str, Column]


@contextmanager
def open_table(source: Any, where: str, table: str | int | None) -> Iterator[Columns]:
    """Yield the columns of a file's table, or of an astropy Table.

    Args:
        source: path or Table.
        where: beginning of messages.
        table: extension of a FITS file or path in an HDF5 file; None: the only one there is.
    """
    name = str(source).lower() if isinstance(source, str | os.PathLike) else ""
    if name.endswith((".fits", ".fit", ".fits.gz", ".fit.gz", ".cat")):
        with open_fits(source, memmap=not name.endswith(".gz")) as parts:
            yield _fits_columns(where, parts, table)
    elif name.endswith((".h5", ".hdf5")):
        with open_hdf5(source) as file:
            yield _hdf5_columns(where, file, table)
    elif (suffix := os.path.splitext(name)[1]) in _TEXT:
        kind, text = _TEXT[suffix]
        with reading(source, f"{kind} table"):
            yield _table_columns(where, _read_text(source, text))
    elif suffix in _VOTABLE:
        with reading(source, "VOTable"):
            yield _table_columns(where, _read_votable(source, where, table))
    elif suffix in _PARQUET:
        yield from _parquet_columns(source, where)
    elif not name and hasattr(source, "colnames"):
        yield _table_columns(where, source)
    elif name:
        raise ValueError(
            f"{where}: a table is read from .fits, .csv, .ecsv, .txt, .vot, .parquet or .h5; convert it to one of these"
        )
    else:
        raise TypeError(f"read_catalogue: source must be a path or an astropy Table, got {type(source).__name__}")


def first_names(names: Mapping[str, Any], like: str = "") -> str:
    """Return a few names, whole, for a message: those like a given one first."""
    held = list(names)
    near = get_close_matches(like, held, n=3, cutoff=0.5) if like else []
    shown: list[str] = []
    for name in [*near, *(n for n in held if n not in near)]:
        if shown and (len(shown) == _MAX_NAMES or len(", ".join([*shown, name])) > _MAX_LENGTH):
            break
        shown.append(name)
    more = len(held) - len(shown)
    return (", ".join(shown) or "no columns") + (f" and {more} more" if more > 0 else "")


def _read_text(path: _Path, kind: str) -> Any:
    from astropy.table import Table

    with open(path, "rb") as file:
        if file.read(8).startswith(_PACKED_MAGIC):  # astropy would unpack it without a limit
            raise ValueError(f"{path} is packed; unpack it (gunzip, bunzip2, unxz, unzip)")
    return Table.read(path, format=kind)


def _read_votable(path: _Path, where: str, table: str | int | None) -> Any:
    """Return a table of a VOTable file, by its ID, name or number."""
    from astropy.io.votable import parse

    with open(path, "rb") as file:
        if file.read(8).startswith(_PACKED_MAGIC):
            raise ValueError(f"{path} is packed; unpack it (gunzip, bunzip2, unxz, unzip)")
    found = list(parse(str(path), verify="ignore").iter_tables())
    if table is not None:
        found = [t for k, t in enumerate(found) if table in (k, str(k), t.ID, t.name)]
    if len(found) != 1:
        raise ValueError(f"{where} must hold one table, got {len(found)} with table={table!r:.40}; name it, table=0")
    return found[0].to_table(use_names_over_ids=True)


def _parquet_columns(path: _Path, where: str) -> Iterator[Columns]:
    """Yield the columns of a Parquet file, each loaded where it is used; lists of equal length are vectors."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{where}: Parquet needs pyarrow, which is not installed; install it, or convert the table to FITS"
        ) from None

    with reading(path, "Parquet"), parquet.ParquetFile(path) as file:
        if file.metadata.num_rows == 0:
            names = dict.fromkeys(file.schema_arrow.names)
            raise ValueError(f"{where} must hold a galaxy, got a table without rows, of {first_names(names)}")

        def load(name: str) -> Any:
            values = file.read(columns=[name]).column(name)
            array = values.to_numpy()
            if array.dtype == object and len(array) and hasattr(array[0], "__len__") and not isinstance(array[0], str):
                array = np.stack([np.asarray(row) for row in array])
            return array

        yield {name: Column(partial(load, name), _arrow_unit(file, name)) for name in file.schema_arrow.names}


def _arrow_unit(file: Any, name: str) -> str | None:
    """Return the unit that a column's metadata state, as astropy and others write it."""
    unit = (file.schema_arrow.field(name).metadata or {}).get(b"unit")
    return None if unit is None else str(unit.decode("utf-8", "replace"))


def _table_columns(where: str, table: Any) -> Columns:
    if len(table) == 0:
        raise ValueError(
            f"{where} must hold a galaxy, got a table without rows, of {first_names(dict.fromkeys(table.colnames))}"
        )
    # .value: a column's numbers without its unit, with their mask where it has one
    return {
        name: Column(partial(getattr, table[name], "value", None), getattr(table[name], "unit", None))
        for name in table.colnames
    }


def _fits_columns(where: str, parts: Any, table: str | int | None) -> Columns:
    refuse_healpix(where, parts)
    tables = {k: part for k, part in enumerate(parts) if hasattr(part, "columns")}
    wanted = [
        part
        for k, part in tables.items()
        if table is None or k == table or (isinstance(table, str) and part.name.lower() == table.lower())
    ]
    if len(wanted) != 1:
        if not tables:
            raise ValueError(f"{where} must hold a table, it holds {contents(parts):.200}; is it a map?")
        raise ValueError(
            f"{where} has {len(tables)} tables and table={table!r:.40}; name one by its number or extension: "
            f"{contents(parts):.200}"
        )
    (part,) = wanted
    if len(part.data) == 0:
        raise ValueError(
            f"{where} must hold a galaxy, got a table without rows, of {first_names(dict.fromkeys(part.columns.names))}"
        )

    def load(name: str, null: Any) -> Any:
        values = np.array(part.data[name])
        return values if null is None or values.dtype.kind not in "iu" else np.ma.masked_equal(values, int(null))

    return {c.name: Column(partial(load, c.name, c.null), c.unit) for c in part.columns}


def _hdf5_columns(where: str, file: h5py.File, table: str | int | None) -> Columns:
    """Return the columns of a compound dataset (as astropy writes tables) or of a group of 1-D datasets."""
    found: dict[str, h5py.Dataset | h5py.Group] = {}

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        is_column = isinstance(node, h5py.Dataset) and node.ndim == 1 and node.dtype.kind in "fiub"
        if is_column:
            found[node.parent.name.strip("/")] = node.parent
        elif isinstance(node, h5py.Dataset) and node.dtype.names:
            found[name] = node

    file.visititems(visit)
    if isinstance(table, str):
        found = {name: node for name, node in found.items() if name == table.strip("/")}
    if len(found) != 1:
        held = ", ".join(name or "/" for name in found) or listed(file)
        raise ValueError(
            f"{where} must hold one table, columns side by side in a group or a compound dataset, got {len(found)} "
            f"with table={table!r:.40}; name it, table='...'; it holds {held:.120}"
        )
    (node,) = found.values()
    if isinstance(node, h5py.Dataset):
        from astropy.table import Table

        for part in (node, file.get(f"{node.name}.__table_column_meta__")):  # astropy reads both whole
            if isinstance(part, h5py.Dataset):
                check_stored(where, part)
        return _table_columns(where, Table.read(file, format="hdf5", path=node.name))
    columns = {name: d for name, d in node.items() if isinstance(d, h5py.Dataset) and d.ndim >= 1}
    if not any(len(d) for d in columns.values()):
        raise ValueError(f"{where} must hold a galaxy, got columns without rows: {first_names(columns)}")

    def load(column: h5py.Dataset) -> Any:
        check_stored(where, column)
        return column[...]

    return {name: Column(partial(load, d), _unit(d)) for name, d in columns.items()}


def _unit(dataset: h5py.Dataset) -> str | None:
    for name in ("unit", "units"):
        if isinstance(value := dataset.attrs.get(name), str | bytes):
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None
