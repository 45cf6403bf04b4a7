"""Files from strangers: what leads out of a file or its folder, runs code or unpacks without end is refused."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from fuzz_targets import IMAGE, TARGETS
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian
from reader_files import VOLUME, refused, write_dicom, write_dx

from denoisers import MLPatch, SuperResolver
from pnp.cli_report import report
from pnp.data import load_folder
from pnp.io import (
    checks,
    read_fits_maps,
    read_image,
    read_measurements,
    read_nifti,
    read_result,
    write_image,
    write_nifti,
)
from pnp.io.checks import RATIO, ROOM, allowed, within
from pnp.learned import load_glimpse, load_unrolled_em
from pnp.readers import (
    read_catalogue,
    read_dicom,
    read_dxchange,
    read_htc2022,
    read_interfile,
    read_shear_maps,
    read_tiff_stack,
)
from pnp.stack.sources import FileSource
from pnp.training_run import load_checkpoint

HDF5 = {name: TARGETS[name].read for name in TARGETS if name.endswith(".h5")}
MAIN = {
    "measurements.h5": "measurements", "spect.h5": "background", "result.h5": "image", "image.h5": "image",
    "dxchange.h5": "exchange/data", "table.h5": "t", "columns.h5": "galaxies/e1", "shear.h5": "e1",
}  # fmt: skip
"""What each reader reads first of its file."""


# ------------------------------------------------------------------------------------------- out of the file


def external_link(file: h5py.File, name: str, elsewhere: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(elsewhere), "/secret")


def linked_group(file: h5py.File, name: str, elsewhere: Path) -> None:
    """An external link beside, and a soft link through it."""
    del file[name]
    file["beside"] = h5py.ExternalLink(str(elsewhere), "/")
    file[name] = h5py.SoftLink("/beside/secret")


def external_storage(file: h5py.File, name: str, elsewhere: Path) -> None:
    shape = (1, 1, 3, 4)
    del file[name]
    file.create_dataset(name, shape, "f4", external=[(str(elsewhere), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, name: str, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((1, 1, 3, 4), "f4")
    layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (1, 1, 3, 4))
    del file[name]
    file.create_virtual_dataset(name, layout)


WAYS_OUT = [external_link, linked_group, external_storage, virtual]


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "diary.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.full((1, 1, 3, 4), 42, np.float32)
    return path


def led_away(folder: Path, name: str, way: Any, secret: Path) -> Path:
    path = folder / name
    TARGETS[name].write(path)
    with h5py.File(path, "a") as file:
        way(file, MAIN[name], secret)
    return path


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("name", list(HDF5))
def test_hdf5_that_leads_to_other_files_is_refused(tmp_path, name, way, secret):
    message = refused(HDF5[name], led_away(tmp_path, name, way, secret))
    assert "other files are not read through this one" in message


@pytest.mark.parametrize("way", WAYS_OUT)
def test_so_do_stacks_and_reports(tmp_path, way, secret):
    path = led_away(tmp_path, "measurements.h5", way, secret)
    assert "other files are not read" in refused(FileSource, path, "solve_stack")
    path = led_away(tmp_path, "result.h5", way, secret)
    with pytest.raises(ValueError, match="other files are not read"):
        report(path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_link_anywhere_is_enough_and_one_within_is_fine(tmp_path, secret):
    path = tmp_path / "image.h5"
    with h5py.File(path, "w") as file:
        file["deep/down/image"] = IMAGE
        file["image"] = h5py.SoftLink("/deep/down/image")
        layout = h5py.VirtualLayout(IMAGE.shape, "f4")
        layout[:] = h5py.VirtualSource(".", "deep/down/image", IMAGE.shape)
        file.create_virtual_dataset("copy", layout)
        file["loop"] = file["deep"]
    np.testing.assert_array_equal(read_image(path), IMAGE)
    np.testing.assert_array_equal(read_image(path, dataset="copy"), IMAGE)
    with h5py.File(path, "a") as file:
        file["deep/elsewhere"] = h5py.ExternalLink(str(secret), "/secret")
    assert "'deep/elsewhere' is an external link" in refused(read_image, path)


# ------------------------------------------------------------------------------------------- out of the folder


def interfile(folder: Path, key: str, name: str) -> Path:
    """A scan in folder/scan whose header names another file."""
    path = folder / "scan" / "views.h00"
    path.parent.mkdir(exist_ok=True)
    TARGETS[path.name].write(path)
    lines = [line if key not in line else f"{key} := {name}" for line in path.read_text().splitlines()]
    if key.startswith("non"):
        lines.insert(3, f"{key} := {name}")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("key", ["!name of data file", "non-uniform orbit file"])
@pytest.mark.parametrize(
    "name", ["../outside.a00", "{}/outside.a00", "..\\outside.a00", "a/../../outside.a00", "linked.a00"]
)
def test_interfile_reads_its_own_folder_only(tmp_path, key, name):
    good = interfile(tmp_path, "!name of data file", "views.a00")
    content = (good.parent / "views.a00").read_bytes() if key.startswith("!") else b"23.0\n" * 4
    (tmp_path / "outside.a00").write_bytes(content)  # all that the header wants, but elsewhere
    os.symlink(tmp_path / "outside.a00", good.parent / "linked.a00")
    path = interfile(tmp_path, key, name.format(tmp_path))
    assert "other places are not read" in refused(read_interfile, path)
    (path.parent / "linked.a00").unlink()
    for inside in ("outside.a00", "linked.a00"):  # beside the header it may be, whatever folder the header says
        (path.parent / inside).write_bytes(content)
    assert read_interfile(path).projections.shape[2] == 4


def test_interfile_names_that_no_file_system_takes(tmp_path):
    for name in ("a" * 5000, "a\0b", ".", "..", "/", "", "~", "/etc/passwd", "/dev/zero", "../../../../../etc/passwd"):
        message = refused(read_interfile, interfile(tmp_path, "!name of data file", name))
        assert "copy it there" in message or "must have a value" in message
    assert within(tmp_path, "scan/views.a00") == (tmp_path / "scan" / "views.a00").resolve()
    assert within(tmp_path / "scan", "../scan/views.a00") is not None and within(tmp_path, "absent") is None


@pytest.mark.parametrize("read", [read_tiff_stack, read_image])
def test_tiff_that_names_its_other_files(tmp_path, read):
    """OME-TIFF: the library would open the files that the first one's description names."""
    (tmp_path / "scan").mkdir()
    tifffile.imwrite(tmp_path / "private.tif", np.full((6, 7), 42, np.uint16))
    path, pixels = (
        tmp_path / "scan" / "a.ome.tif",
        "".join(
            f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
            for z, name in enumerate(("a.ome.tif", "../private.tif"))
        ),
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image '
        'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="7" SizeY="6" SizeZ="2" '
        f'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{pixels}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, np.ones((6, 7), np.uint16), description=description, metadata=None)
    assert read(path).max() == 1


def test_dicomdir_and_its_references_are_left_alone(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    write_dicom(tmp_path / "private.dcm", 1.0)
    write_dicom(folder / "a.dcm", 0.0)
    (folder / "DICOMDIR").write_bytes((tmp_path / "private.dcm").read_bytes().replace(b"CT", b"..", 1))
    assert read_dicom(folder).volume.shape == (1, 6, 5)


# ------------------------------------------------------------------------------------------- code


class Malice:
    """Leaves a trace wherever it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


CODE: dict[str, Any] = {
    "x.npy": (read_image, lambda p, evil: np.save(p, np.array([evil], object), allow_pickle=True)),
    "raw.npy": (read_image, lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "npz.npy": (read_image, lambda p, evil: np.savez(p.open("wb"), x=np.array([evil], object))),
    "x.mat": (read_htc2022, lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "x.h5": (read_image, lambda p, evil: _in_hdf5(p, evil)),
    "scan.h5": (read_measurements, lambda p, evil: _in_hdf5(p, evil)),
    "result.h5": (read_result, lambda p, evil: _in_hdf5(p, evil)),
    "dx.h5": (read_dxchange, lambda p, evil: _in_hdf5(p, evil)),
    "maps.h5": (lambda p: read_shear_maps(p, noise_std=0.1), lambda p, evil: _in_hdf5(p, evil)),
    "checkpoint.pt": (load_checkpoint, lambda p, evil: torch.save({"step": evil}, p)),
    "old.pt": (load_checkpoint, lambda p, evil: torch.save(evil, p, _use_new_zipfile_serialization=False)),
    "bare.pt": (load_checkpoint, lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "a.safetensors": (MLPatch.from_pretrained, lambda p, evil: torch.save({"mlpatch": evil}, p)),
    "b.safetensors": (SuperResolver.from_pretrained, lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "c.safetensors": (load_glimpse, lambda p, evil: torch.save(evil, p)),
    "d.safetensors": (load_unrolled_em, lambda p, evil: torch.save(evil, p)),
}


def _in_hdf5(path: Path, evil: Malice) -> None:
    with h5py.File(path, "w") as file:
        for name in ("image", "measurements", "exchange/data", "exchange/theta", "e1", "e2", "operator/shape"):
            file[name] = np.void(pickle.dumps(evil))
        file["operator"].attrs["name"] = np.void(pickle.dumps(evil))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:unclosed")
@pytest.mark.parametrize("name", list(CODE))
def test_pickles_are_not_run(tmp_path, name):
    read, write = CODE[name]
    path, trace = tmp_path / name, tmp_path / "trace"
    write(path, Malice(trace))
    with pytest.raises(ValueError, match=name):
        read(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malice(trace)))
    assert trace.exists(), "the pickle would not have run anyway"


def test_tables_build_no_foreign_objects(tmp_path):
    """ECSV keeps YAML, which builds what it is told to in the hands of a careless reader."""
    TARGETS["table.ecsv"].write(tmp_path / "table.ecsv")
    text, trace = (tmp_path / "table.ecsv").read_text(), tmp_path / "trace"
    for tag in ("!!python/object/apply:os.system", "!!python/object/apply:subprocess.getoutput"):
        line = f"# meta: {tag} ['touch {trace}']\n"
        (tmp_path / "table.ecsv").write_text(text.replace("# schema", f"{line}# schema"))
        refused(read_catalogue, tmp_path / "table.ecsv")
        assert not trace.exists()


@pytest.mark.parametrize("read", [read_image, lambda p: load_folder(p.parent)])
def test_pictures_are_not_handed_to_programs(tmp_path, read, monkeypatch):
    """Pillow takes a file for what it begins with, and runs Ghostscript for PostScript."""
    from PIL import EpsImagePlugin

    ran: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: ran.append(a))
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 7\n%%EndComments\n/showpage\n%%EOF\n"
    (tmp_path / "x.png").write_text(text)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "EPS"
    assert "x.png" in refused(read, tmp_path / "x.png")
    assert not ran


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
    "x.png": (read_image, lambda p: _png(p, 20000), "pixels, too many for a picture; store it as .tif"),
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
    monkeypatch.setattr(checks, "ROOM", SMALL)
    tracemalloc.start()
    try:
        message = refused(read, tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8 * SMALL
    finally:
        tracemalloc.stop()
    assert remedy in message and name in message


def test_what_packs_well_is_read(tmp_path):
    """Empty maps pack a thousand times; up to 256 MiB nobody asks."""
    assert allowed(0) == ROOM == 2**28 and allowed(2**28) == RATIO * 2**28
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("image", (1024, 2048), "f4", data=np.zeros((1024, 2048), "f4"), compression="gzip")
    assert (tmp_path / "x.h5").stat().st_size * RATIO < 1024 * 2048 * 4
    assert read_image(tmp_path / "x.h5").shape == (1024, 2048)
    write_image(tmp_path / "x.png", np.zeros((1024, 2048), "f4"))
    assert read_image(tmp_path / "x.png").shape == (1024, 2048)
    write_dx(tmp_path / "dx.h5")
    assert read_dxchange(tmp_path / "dx.h5").y.ndim == 3
