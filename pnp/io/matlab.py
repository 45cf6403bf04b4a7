"""MATLAB 5 to 7 files: numbers, text and structs ("MAT-File Format", level 5, The MathWorks).

Cells, objects, functions and sparse matrices become an object array without content, which every check for numbers
refuses. scipy.io.loadmat reads all of these, but a few wrong bytes in a file make it crash the interpreter.

    file     header of 128 bytes, its last two the byte order; elements
    element  tag (type, bytes), each of 32 bits; the bytes, padded to 64 bits. Up to four bytes stand in the tag itself
    matrix   an element made of elements: flags, dimensions, name, and the values in Fortran order
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .guards import check_file, reading, unpack_limit

_Array = npt.NDArray[Any]
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of elements that hold numbers."""
_TEXT_TYPES = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""Types of elements that hold text."""
_STRUCT_CLASS, _CHAR_CLASS = 2, 4
_NUMBER_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Classes of matrices of numbers; a file may store their numbers in a smaller type."""
_COMPLEX_FLAG, _LOGICAL_FLAG = 0x800, 0x200


def read_matlab(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file's variables: arrays of numbers with their MATLAB shape, text as str, structs as dict.

    Raises:
        ValueError: the file is missing, broken, or of version 7.3, which is HDF5.
    """
    file = check_file(path)
    with reading(path, "MATLAB"):
        content = memoryview(file.read_bytes())
    head = bytes(content[:_HEADER_BYTES])
    if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise ValueError(f"{path} is a MATLAB 7.3 (HDF5) file; save it in MATLAB as version 7: save(..., '-v7')")
    if not head.startswith(b"MATLAB 5.0 MAT-file") or head[-2:] not in (b"IM", b"MI"):
        raise ValueError(f"{path} is not a MATLAB file of version 5 to 7; check the name, or fetch it again")
    with reading(path, "MATLAB"):
        elements = _elements(content[_HEADER_BYTES:], "<" if head[-2:] == b"IM" else ">", *unpack_limit(len(content)))
        return dict(_matrix(body, order) for kind, body, order in elements if kind == _MATRIX)


def _elements(data: memoryview, order: str, room: int = 0, why: str = "") -> Iterator[tuple[int, memoryview, str]]:
    """Yield type, bytes and byte order of every element; `room` bytes may be unpacked, a limit that `why` describes."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a short element, within its tag
            kind, size, start, at = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start, at = at + 8, at + 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError(f"an element claims {size} bytes where {len(data) - start} follow")
        body = data[start : start + size]
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(body, room) if room > 0 else b""
            if not unpacker.eof:  # no room within another: only a bomb is packed twice
                raise ValueError(f"packed elements break off, or unpack to over {why or 0}; if right, save it -v6")
            room -= len(unpacked)
            yield from _elements(memoryview(unpacked), order)
        else:
            yield kind, body, order


def _matrix(data: memoryview, order: str) -> tuple[str, Any]:
    """Return a matrix's name and value."""
    if not len(data):
        return "", np.empty((0, 0))
    parts = list(_elements(data, order))
    flags, shape = int(_numbers(parts[0])[0]), tuple(int(n) for n in _numbers(parts[1]))
    name, values = bytes(parts[2][1]).decode("latin-1"), parts[3:]
    matlab_class = flags & 0xFF
    if matlab_class == _STRUCT_CLASS and shape == (1, 1):
        length = int(_numbers(values[0])[0])
        packed = bytes(values[1][1]).decode("latin-1")
        names = [packed[k : k + length].split("\0")[0] for k in range(0, len(packed), length)]
        return name, {key: _matrix(body, order)[1] for key, (_, body, _) in zip(names, values[2:], strict=True)}
    if matlab_class == _CHAR_CLASS and len(values) == 1 and values[0][0] in _TEXT_TYPES and min(shape) <= 1:
        kind, body, _ = values[0]
        encoding = _TEXT_TYPES[kind] + (
            {"<": "-le", ">": "-be"}[order] if _TEXT_TYPES[kind] in ("utf-16", "utf-32") else ""
        )
        return name, bytes(body).decode(encoding)
    if matlab_class in _NUMBER_CLASSES:
        array = _numbers(values[0]).astype(_NUMBER_CLASSES[matlab_class])
        if flags & _COMPLEX_FLAG:
            array = array + 1j * _numbers(values[1])
        if min(shape) < 0:
            raise ValueError(f"a matrix has the shape {shape}")
        return name, (array.astype(bool) if flags & _LOGICAL_FLAG else array).reshape(shape, order="F")
    return name, np.empty((), dtype=object)


def _numbers(element: tuple[int, memoryview, str]) -> _Array:
    """Return the numbers of an element, 1-D."""
    kind, body, order = element
    if kind not in _NUMBER_TYPES:
        raise ValueError(f"an element of type {kind} stands where numbers should")
    return np.frombuffer(body, np.dtype(order + _NUMBER_TYPES[kind]))
