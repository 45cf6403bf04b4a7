"""Headers of Interfile: lines `key := value`, SIMIND's facts behind semicolons, and a block of keys for each head."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..io.guards import file_within, reading

_UNIQUE_KEYS: tuple[str, ...] = (
    "matrix size [1]",
    "matrix size [2]",
    "number of projections",
    "start angle",
    "extent of rotation",
)
_UNIQUE_KEYS += ("direction of rotation", "number format", "number of bytes per pixel", "name of data file")
"""Keys that may not occur twice with different values, but in the blocks of several heads."""
_HEADS = "number of detector heads"
_MAX_HEADS = 64


class Header:
    """Keys of a header, in lower case and without "!", and their values; SIMIND's behind semicolons too.

    Attributes:
        path: the file.
        values: the keys of the whole header.
        heads: a header for each detector head: where `number of detector heads` exceeds 1, the keys after it are
            repeated, and a key that recurs begins the next head; what a head does not state is as in the first.
        is_simind: whether SIMIND wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path, comments = path, dict[str, str]()
        common, blocks = dict[str, str](), list[dict[str, str]]()
        with reading(path, "Interfile"), open(path, "rb") as file:
            content = file.read(2**16)
        if b"interfile" not in content[:256].lower():
            raise ValueError(f"{path} is not an Interfile header: its first line must be '!INTERFILE :='")
        for line in content.decode("latin-1").splitlines():
            key, found, value = line.partition(":=")
            if not found:
                continue
            key, value = key.strip(), value.strip()
            is_comment = key.startswith(";")
            key = re.sub(r"\s*\[", " [", " ".join(key.lstrip(";#! ").lower().split()))
            if key == "end of interfile":
                break
            if is_comment:
                comments.setdefault(key, value)
                continue
            if blocks and key in blocks[-1] and len(blocks) < _MAX_HEADS:
                blocks.append({})
            kept = blocks[-1] if blocks else common
            if kept.get(key, value) != value and key in _UNIQUE_KEYS:
                raise ValueError(
                    f"{path}: {key!r} is given twice, {kept[key]!r:.24} and {value!r:.24}; state 'number of detector "
                    "heads' before the keys of each head, or correct it"
                )
            kept.setdefault(key, value)
            if key == _HEADS and value.isdigit() and int(value) > 1 and not blocks:
                blocks.append({})
        first = common | blocks[0] if blocks else common
        self.is_simind = "simind" in first.get("originating system", "").lower()
        self.comments = comments
        self.values = self._with_comments(first)
        self.heads = [self._of(self._with_comments(first | block)) for block in blocks] or [self]

    def _with_comments(self, values: dict[str, str]) -> dict[str, str]:
        return self.comments | {key: value for key, value in values.items() if value} if self.is_simind else values

    def _of(self, values: dict[str, str]) -> Header:
        head = object.__new__(Header)
        head.path, head.values, head.is_simind, head.comments = self.path, values, self.is_simind, self.comments
        head.heads = [head]
        return head

    def text(self, key: str, default: str | None = None) -> str:
        """Return the value of a key, or the default where it is absent or empty."""
        value = self.values.get(key, "").split("<")[0].strip() or default  # <NULL>
        if value is None:
            raise ValueError(f"{self.path} must have a value for {key!r}; add the line '{key} := ...'")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return the value of a key, a finite number."""
        text = self.text(key, None if default is None else repr(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.path}: {key!r} must be a number, got {text!r:.40}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """Return the value of a key, a positive whole number."""
        value = self.number(key, default)
        if value < 1 or value != int(value):
            raise ValueError(f"{self.path}: {key!r} must be a positive whole number, got {value:g}")
        return int(value)

    def file(self, key: str) -> Path | None:
        """Return the file that a key names, in the header's folder or below, whatever path it states; None: absent."""
        stated = self.text(key)
        name = stated.replace("\\", "/").rsplit("/", 1)[-1]
        return file_within(self.path.parent, stated) or file_within(self.path.parent, name)

    def simind_version(self) -> float | None:
        """Return the number in `program version`, 8.0 of "V8.0", None where there is none."""
        found = re.search(r"\d+(?:\.\d+)?", self.values.get("program version", ""))
        return float(found[0]) if found else None
