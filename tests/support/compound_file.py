"""Write compound files, as Zeiss's .txrm are, from their specification ([MS-CFB], version 3, sectors of 512 bytes)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

SECTOR, MINI, CUTOFF = 512, 64, 4096
FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
STORAGE, STREAM, ROOT = 1, 2, 5


def write_compound_file(path: Path, streams: dict[str, bytes]) -> Path:
    """Write streams, named by their path in the file, e.g. "ImageInfo/Angles"."""
    entries: list[dict[str, Any]] = [_entry("Root Entry", ROOT)]
    folders = {"": 0}
    for name, content in streams.items():
        *parents, leaf = name.split("/")
        for k in range(len(parents)):
            folder = "/".join(parents[: k + 1])
            if folder not in folders:
                folders[folder] = len(entries)
                entries[folders["/".join(parents[:k])]]["children"].append(len(entries))
                entries.append(_entry(parents[k], STORAGE))
        entries[folders["/".join(parents)]]["children"].append(len(entries))
        entries.append(_entry(leaf, STREAM, content))
    for entry in entries:
        entry["child"] = _tree(entries, entry["children"])

    body, table = bytearray(), []  # sectors behind the header, and the chain of each

    def store(content: bytes) -> int:
        """Append a content as a chain of sectors and return the first."""
        n, first = -(-len(content) // SECTOR), len(table)
        body.extend(content.ljust(n * SECTOR, b"\0"))
        table.extend([*range(first + 1, first + n), END] if n else [])
        return first if n else END

    small, mini_table = bytearray(), []
    for entry in entries:
        content, n = entry["content"], -(-len(entry["content"]) // MINI)
        if entry["kind"] != STREAM or not content:
            continue
        if len(content) >= CUTOFF:
            entry["start"] = store(content)
            continue
        entry["start"] = len(mini_table)
        mini_table.extend([*range(len(mini_table) + 1, len(mini_table) + n), END])
        small.extend(content.ljust(n * MINI, b"\0"))
    entries[0]["start"], entries[0]["content"] = store(bytes(small)), bytes(small)
    mini = _numbers(mini_table)
    first_mini = store(mini)
    directory = b"".join(_packed(entry) for entry in entries)
    directory += _packed(_entry("", 0)) * (-len(entries) % 4)
    first_directory = store(directory)
    n_fat = 1
    while -(-(len(table) + n_fat) * 4 // SECTOR) > n_fat:
        n_fat += 1
    places = list(range(len(table), len(table) + n_fat))
    assert n_fat <= 109  # more would need sectors of their own
    body.extend(_numbers(table + [FAT] * n_fat))
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<IIIII", 0, n_fat, first_directory, 0, CUTOFF)
    head += struct.pack("<IIII", first_mini, len(mini) // SECTOR, END, 0)
    head += struct.pack("<109I", *places, *[FREE] * (109 - n_fat))
    path.write_bytes(head + bytes(body))
    return path


def _entry(name: str, kind: int, content: bytes = b"") -> dict[str, Any]:
    start = END if kind == STREAM else 0
    free = {"left": FREE, "right": FREE, "child": FREE}
    return {"name": name, "kind": kind, "content": content, "start": start, "children": []} | free


def _tree(entries: list[dict[str, Any]], children: list[int]) -> int:
    """Link siblings as a balanced tree, ordered by the length of their names, then by the names; return its root."""
    order = sorted(children, key=lambda k: (len(entries[k]["name"]), entries[k]["name"].upper()))
    if not order:
        return FREE
    middle = len(order) // 2
    root = entries[order[middle]]
    root["left"], root["right"] = _tree(entries, order[:middle]), _tree(entries, order[middle + 1 :])
    return order[middle]


def _packed(entry: dict[str, Any]) -> bytes:
    """Return the 128 bytes of an entry of the directory, a black node of the tree."""
    name = (entry["name"] + "\0").encode("utf-16-le") if entry["name"] else b""
    packed = name.ljust(64, b"\0") + struct.pack("<HBB", len(name), entry["kind"], 1)
    packed += struct.pack("<III", entry["left"], entry["right"], entry["child"]) + bytes(16 + 4 + 16)
    return packed + struct.pack("<IQ", entry["start"], len(entry["content"]))


def _numbers(table: list[int]) -> bytes:
    """Return a table of sectors, filled up to whole sectors."""
    padded = table + [FREE] * (-len(table) % (SECTOR // 4))
    return struct.pack(f"<{len(padded)}I", *padded)
