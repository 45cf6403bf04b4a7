"""Files from strangers: what leads out of a file or its folder, or runs code, is refused."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from fuzz_targets import IMAGE, TARGETS
from paths import ROOT
from PIL import Image
from reader_files import refused, write_dicom

from denoisers import MLPatch, SuperResolver
from pnp.cli.reconstruct_stack import _first_slice
from pnp.cli.report import report
from pnp.io import guards, read_image, read_measurements, read_result
from pnp.io.guards import file_within
from pnp.learned import Glimpse, UnrolledEM
from pnp.readers import (
    read_catalogue,
    read_dicom,
    read_dxchange,
    read_htc2022,
    read_interfile,
    read_shear_maps,
    read_tiff_stack,
)
from pnp.stack.sources import FileSource, constant_or_source, content_hash
from pnp.training.images import load_folder
from pnp.training.state import load_checkpoint

HDF5 = {name: TARGETS[name].read for name in TARGETS if name.endswith(".h5")}
MAIN = {
    "measurements.h5": "measurements", "spect.h5": "background", "result.h5": "image", "image.h5": "image",
    "dxchange.h5": "exchange/data", "tomoscan.h5": "exchange/data", "any.h5": "exchange/data",
    "nxtomo.h5": "entry/instrument/detector/data", "master.h5": "entry/instrument/detector/data",
    "table.h5": "t", "columns.h5": "galaxies/e1", "shear.h5": "e1",
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
    assert "other files" in message


@pytest.mark.parametrize("way", WAYS_OUT)
def test_the_remedy_makes_one_file_of_them(tmp_path, way, secret):
    """Masters of synchrotrons are made like this: what the message says is code that works."""
    path, mine = led_away(tmp_path, "image.h5", way, secret), tmp_path / "mine.h5"
    if way is external_storage:
        secret.write_bytes(np.full(12, 42, "f4").tobytes())
    code = refused(read_image, path).partition("by h5py's ")[2]
    with h5py.File(path) as source, h5py.File(mine, "w") as target:
        exec(code, {"source": source, "target": target})
    assert (read_image(mine, dataset="beside/secret" if way is linked_group else "image") == 42).all()


def recipe(title: str) -> str:
    """Return the code of a section of the page on tomography."""
    page = ROOT / "docs" / "bring_your_data_ct.md"
    return page.read_text(encoding="utf-8").split(f"## {title}")[1].split("```python\n")[1].split("```")[0]


def test_masters_become_one_file_by_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = np.arange(4 * 3 * 5, dtype="u2").reshape(4, 3, 5)
    layout = h5py.VirtualLayout((4, 3, 5), "u2")
    for k in range(2):
        with h5py.File(f"data_{k}.h5", "w") as file:
            file["entry/data/data"] = frames[2 * k : 2 * k + 2]
        layout[2 * k : 2 * k + 2] = h5py.VirtualSource(f"data_{k}.h5", "entry/data/data", (2, 3, 5))
    (tmp_path / "raw").write_bytes(frames.tobytes())
    with h5py.File("master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("data_0.h5", "/entry/data/data")
        file.create_virtual_dataset("entry/data/data", layout)
        file["entry/data/data"].attrs["units"] = "counts"
        file.create_dataset("entry/raw", (4, 3, 5), "u2", external=[("raw", 0, h5py.h5f.UNLIMITED)])
        file["entry/instrument/distance"] = 0.2
    assert "not read" in refused(FileSource, "master.h5::entry/data/data", "solve_stack")
    exec(recipe("NeXus and Eiger masters"), {})
    for file in ("master.h5", "data_0.h5", "data_1.h5", "raw"):
        (tmp_path / file).unlink()
    for name in ("data/data", "raw"):
        np.testing.assert_array_equal(FileSource(f"scan.h5::entry/{name}", "solve_stack")[()], frames)
    np.testing.assert_array_equal(FileSource("scan.h5::entry/data/data_000001", "solve_stack")[()], frames[:2])
    with h5py.File("scan.h5") as file:
        assert file["entry/data/data"].attrs["units"] == "counts" and file["entry/instrument/distance"][()] == 0.2


def test_a_stack_whose_file_changes_is_looked_at_again(tmp_path, secret):
    path = tmp_path / "measurements.h5"
    TARGETS[path.name].write(path)
    source = FileSource(path, "solve_stack")
    assert source[0:1].shape == (1, *source.shape[1:])
    with h5py.File(path, "a") as file:
        external_link(file, "measurements", secret)
    with pytest.raises(ValueError, match="other files"):
        source[0:1]


def test_stacks_that_claim_what_the_file_has_not(tmp_path):
    path = tmp_path / "lies.h5"
    TARGETS["measurements.h5"].write(path)
    with h5py.File(path, "a") as file:
        del file["measurements"]
        file.create_dataset("measurements", (2, 1, 9000, 9000), "f4")  # never written
    source = FileSource(path, "solve_stack")
    for read in (lambda: source[0:1], lambda: content_hash(source), lambda: constant_or_source(source, 3, 5, "s", "y"),
                 lambda: _first_slice(path, None)):  # fmt: skip
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"lies\.h5: /measurements .*h5repack"):
                read()
            assert tracemalloc.get_traced_memory()[1] < 2**23
        finally:
            tracemalloc.stop()
    assert source[0:1, :, :6, :7].shape == (1, 1, 6, 7)


def test_an_honest_virtual_dataset_of_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "ALWAYS_ALLOWED_BYTES", 0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stored"] = np.ones((100, 100), "f4")
        layout = h5py.VirtualLayout((100, 100), "f4")
        layout[:] = h5py.VirtualSource(".", "stored", (100, 100))
        file.create_virtual_dataset("image", layout)
    assert (read_image(tmp_path / "x.h5") == 1).all()


@pytest.mark.parametrize("way", WAYS_OUT)
def test_so_do_stacks_and_reports(tmp_path, way, secret):
    path = led_away(tmp_path, "measurements.h5", way, secret)
    assert "other files" in refused(FileSource, path, "solve_stack")
    path = led_away(tmp_path, "result.h5", way, secret)
    with pytest.raises(ValueError, match="other files"):
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
    assert "'deep/elsewhere'" in refused(read_image, path)


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


OUTSIDE = pytest.mark.parametrize(
    "name", ["../outside.a00", "{}/outside.a00", "..\\outside.a00", "a/../../outside.a00", "linked.a00"]
)


def elsewhere(tmp_path: Path, key: str, name: str, content: bytes) -> Path:
    """A scan whose header names a file, which has all that is wanted, outside its folder, or by a link."""
    path = interfile(tmp_path, key, name.format(tmp_path))
    (tmp_path / "outside.a00").write_bytes(content)
    os.symlink(tmp_path / "outside.a00", path.parent / "linked.a00")
    return path


@OUTSIDE
def test_interfile_reads_its_own_folder_only(tmp_path, name):
    content = (interfile(tmp_path, "!name of data file", "views.a00").parent / "views.a00").read_bytes()
    path = elsewhere(tmp_path, "!name of data file", name, content)
    assert "other places" in refused(read_interfile, path)
    (path.parent / "linked.a00").unlink()
    for inside in ("outside.a00", "linked.a00"):  # beside the header it may be, whatever folder the header says
        (path.parent / inside).write_bytes(content)
    assert read_interfile(path).y.shape[2] == 4


@OUTSIDE
def test_interfile_reads_no_orbit_file_elsewhere(tmp_path, name):
    path = elsewhere(tmp_path, "non-uniform orbit file", name, b"17.0\n" * 4)
    np.testing.assert_allclose(read_interfile(path).radius_mm, 230)  # the header's own radius
    (path.parent / "linked.a00").unlink()
    for inside in ("outside.a00", "linked.a00"):
        (path.parent / inside).write_bytes(b"17.0\n" * 4)
    np.testing.assert_allclose(read_interfile(path).radius_mm, 170)


def test_interfile_names_that_no_file_system_takes(tmp_path):
    for name in ("a" * 5000, "a\0b", ".", "..", "/", "", "~", "/etc/passwd", "/dev/zero", "../../../../../etc/passwd"):
        message = refused(read_interfile, interfile(tmp_path, "!name of data file", name))
        assert "copy it there" in message or "must have a value" in message
    assert file_within(tmp_path, "scan/views.a00") == (tmp_path / "scan" / "views.a00").resolve()
    assert file_within(tmp_path / "scan", "../scan/views.a00") is not None and file_within(tmp_path, "absent") is None


def ome(sizes: str, pixels: str) -> str:
    """A description in OME's XML."""
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image '
        f'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="7" SizeY="6" {sizes}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{pixels}</Pixels></Image></OME>'
    )


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
    description = ome('SizeZ="2" SizeC="1" SizeT="1"', pixels)
    for name in ("a.ome.tif", "b.ome.tif"):
        tifffile.imwrite(path.with_name(name), np.ones((6, 7), np.uint16), description=description, metadata=None)
    assert "a.ome.tif" in refused(read, path)
    stack = read_tiff_stack(path.parent / "*.ome.tif")  # as the message says
    assert stack.shape == (2, 6, 7) and stack.max() == 1
    master = ome('SizeZ="1" SizeC="1" SizeT="1"', "").replace("<Image", '<BinaryOnly MetadataFile="a.ome.tif"/><Image')
    tifffile.imwrite(path, np.ones((6, 7), np.uint16), description=master, metadata=None)
    assert "'a.ome.tif'" in refused(read, path)


@pytest.mark.parametrize("read", [read_tiff_stack, read_image])
def test_tiff_of_channels_planes_and_times(tmp_path, read):
    path, pages = tmp_path / "x.ome.tif", np.ones((3, 6, 7), np.uint16)
    grey: Any = {"photometric": "minisblack", "metadata": None}
    own = '<TiffData><UUID FileName="before_it_was_renamed.ome.tif">urn:uuid:0</UUID></TiffData>'
    for sizes, n in (('SizeZ="3" SizeC="2" SizeT="1"', 6), ('SizeT="3" SizeZ="1" SizeC="3"', 9)):
        description = ome(sizes, own)
        tifffile.imwrite(path, np.ones((n, 6, 7), np.uint16), **grey, description=description)
        assert "OME-TIFF" in refused(read, path)
    tifffile.imwrite(path, pages, **grey, description=ome('SizeZ="3" SizeC="1" SizeT="1"', own))
    assert read(path).shape == (3, 6, 7)
    tifffile.imwrite(
        path, np.ones((2, 3, 6, 7), np.uint16), photometric="minisblack", metadata={"axes": "CZYX"}
    )  # as the library writes it
    assert "2 C x 3 Z" in refused(read, path)


@pytest.mark.parametrize("read", [read_tiff_stack, read_image])
def test_tiff_with_tiles_that_were_never_written(tmp_path, read):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.ones((32, 32), "f4"), tile=(16, 16))
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages[0].tags[name].valueoffset for name in ("TileOffsets", "TileByteCounts")]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place : place + 2] = bytes(2)
        data[place + 2 : place + 4] = bytes(2)
    path.write_bytes(data)
    assert "SPARSE_OK=FALSE" in refused(read, path)


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
    "c.safetensors": (Glimpse.from_pretrained, lambda p, evil: torch.save(evil, p)),
    "d.safetensors": (UnrolledEM.from_pretrained, lambda p, evil: torch.save(evil, p)),
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
