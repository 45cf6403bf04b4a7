"""Files from strangers that unpack without end are refused before memory is taken."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fuzz_targets import TARGETS
from pydicom.uid import DeflatedExplicitVRLittleEndian
from reader_files import VOLUME, refused, write_dicom, write_dx

from pnp.io import guards, read_fits_maps, read_image, read_nifti, write_image, write_nifti
from pnp.io.guards import ALWAYS_ALLOWED_BYTES, MAX_UNPACK_RATIO, unpack_limit
from pnp.readers import (
    read_catalogue,
    read_dicom,
    read_dxchange,
    read_htc2022,
    read_tiff_stack,
)

HDF5 = {name: TARGETS[name].read for name in TARGETS if name.endswith(".h5")}
# ------------------------------------------------------------------------------------------- bombs

SMALL = 2**20
"""What files may unpack to in these tests, for bombs that are made in no time."""


def _png(path: Path, side: int) -> None:
    """A picture of side x side zeros, in as many bytes as it takes: one part in a thousand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(min(side, 2000)))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")
    )


def _tiff(path: Path) -> None:
    """One strip of zeros, claimed by every row."""
    strip = zlib.compress(bytes(2**20), 9)
    tags = [(256, 4, 1, 2**20), (257, 4, 1, 2**20), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(278, 4, 1, 2**20), (273, 4, 1, 8), (279, 4, 1, len(strip))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    place = 8 + len(strip) + len(strip) % 2
    data = b"II*\0" + struct.pack("<I", place) + strip.ljust(place - 8, b"\0")
    path.write_bytes(data + struct.pack("<H", len(tags)) + entries + bytes(4))


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=np.zeros((2**10, 2**10), "f4"), chunks=(2**10, 2**10), compression="gzip")


def _mat(path: Path) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    body = zlib.compress(bytes(4 * SMALL), 9)
    path.write_bytes(head + struct.pack("<II", 15, len(body)) + body)


def _gzip(path: Path) -> None:
    head = b"".join(c.ljust(80) for c in (b"SIMPLE  =                    T", b"BITPIX  =                    8"))
    with gzip.open(path, "wb") as file:
        file.write(head + bytes(4 * SMALL))


def _nifti(path: Path) -> None:
    write_nifti(path.with_name("small.nii"), VOLUME, 1.0)
    data = bytearray(path.with_name("small.nii").read_bytes())
    data[42:48] = np.array([2**10] * 3, "<i2").tobytes()
    with gzip.open(path, "wb") as file:
        file.write(data)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../table.csv", "ra,dec,e1,e2\n1,2,0.1,0.1\n")


BOMBS: dict[str, Any] = {
    "x.png": (read_image, lambda p: _png(p, 2000), "claims 4e+06 bytes and has"),
    "huge.png": (read_image, lambda p: _png(p, 20000), "pixels, too many for a picture; store it as .tif"),
    "x.tif": (read_image, _tiff, "if that is right, store it unpacked"),
    "stack.tif": (read_tiff_stack, _tiff, "if that is right, store it unpacked"),
    "x.h5": (read_image, _hdf5, "h5repack -f NONE"),
    "x.mat": (read_htc2022, _mat, "save it -v6"),
    "x.fits.gz": (read_fits_maps, _gzip, "gunzip"),
    "table.fits": (read_catalogue, _gzip, "gunzip"),
    "x.nii.gz": (read_nifti, _nifti, "gunzip"),
    "table.csv": (read_catalogue, _gzip, "is packed; unpack it"),
    "zip.csv": (read_catalogue, _zip, "is packed; unpack it"),
    "zip.fits": (read_fits_maps, _zip, "is not a FITS file"),
    "x.dcm": (read_dicom, lambda p: write_dicom(p, syntax=DeflatedExplicitVRLittleEndian), "store it uncompressed"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_are_refused_before_they_go_off(tmp_path, name, monkeypatch):
    read, write, remedy = BOMBS[name]
    write(tmp_path / name)
    monkeypatch.setattr(guards, "ALWAYS_ALLOWED_BYTES", SMALL)
    tracemalloc.start()
    try:
        message = refused(read, tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8 * SMALL
    finally:
        tracemalloc.stop()
    assert remedy in message and name in message


@pytest.mark.parametrize("name", ["x.fits.gz", "x.mat"])
def test_what_unpacks_to_more_than_the_memory(tmp_path, name, monkeypatch):
    read, write, remedy = BOMBS[name]
    write(tmp_path / name)
    monkeypatch.setattr(guards, "_memory", lambda: float(2 * SMALL))
    message = refused(read, tmp_path / name)
    assert "0.000977 GiB" in message and remedy in message
    monkeypatch.setattr(guards, "_memory", lambda: math.inf)
    assert "half of the memory" not in refused(read, tmp_path / name)  # only that they hold nothing


def test_what_packs_well_is_read(tmp_path, monkeypatch):
    """Empty maps pack a thousand times; up to 256 MiB nobody asks."""
    monkeypatch.setattr(guards, "_memory", lambda: math.inf)
    assert unpack_limit(0) == (ALWAYS_ALLOWED_BYTES, "256 MiB") and unpack_limit(2**28) == (
        MAX_UNPACK_RATIO * 2**28,
        "5.12e+04 MiB, 200 times its size",
    )
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("image", (1024, 2048), "f4", data=np.zeros((1024, 2048), "f4"), compression="gzip")
    assert (tmp_path / "x.h5").stat().st_size * MAX_UNPACK_RATIO < 1024 * 2048 * 4
    assert read_image(tmp_path / "x.h5").shape == (1024, 2048)
    write_image(tmp_path / "x.png", np.zeros((1024, 2048), "f4"))
    assert read_image(tmp_path / "x.png").shape == (1024, 2048)
    write_dx(tmp_path / "dx.h5")
    assert read_dxchange(tmp_path / "dx.h5").y.ndim == 3
