"""Files whose fields lie: headers changed through the formats' own libraries, for the tests of readers."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import tifffile
from pydicom import config as dicom_config
from pydicom import dcmread
from pydicom.dataelem import DataElement

HUGE = (2**20, 2**30)
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 65535, 2**31 - 1, 2**32 - 1, 2**63 - 1, 10**12, 10**30)
WORDS = (
    "",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-5",
    "a",
    "é",
    "../../etc/passwd",
    "/etc/passwd",
    "x\0y",
    "z" * 300,
    "1,2,3",
)

# ------------------------------------------------------------------------------------------- HDF5


def _never_written(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, HUGE, "f8", chunks=(1, 1024))


def _packed(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (2**13, 2**14), "f4", chunks=(2**9, 2**14), compression="gzip", fillvalue=1.0)


DATASETS: dict[str, Any] = {
    "complex": np.ones(3, complex),
    "bytes": np.array([b"a", b"b"]),
    "text": "lorem",
    "compound": np.zeros(3, [("a", "f4"), ("b", "S3")]),
    "no axis": 3.0,
    "empty": h5py.Empty("f4"),
    "no elements": np.ones((0, 3)),
    "six axes": np.ones((1, 1, 1, 2, 1, 1)),
    "NaN": np.full((4, 4), np.nan),
    "infinite": np.full((2,), -np.inf),
    "half": np.ones((3, 3), "f2"),
    "big-endian": np.ones((2, 2), ">f8"),
    "bool": np.array([True, False]),
    "integers": np.array([2**63], np.uint64),
    "huge values": np.full((1, 1, 3, 4), 1e308),
    "enum": np.array([0, 1], dtype=h5py.enum_dtype({"A": 0, "B": 1})),
}
MADE: dict[str, Any] = {
    "never written": _never_written,
    "packed": _packed,
    "group": lambda group, name: group.create_group(name),
    "reference": lambda group, name: group.create_dataset(name, (2,), h5py.ref_dtype),
    "vlen": lambda group, name: group.create_dataset(name, (2,), h5py.vlen_dtype(np.int32)),
    "strings": lambda group, name: group.create_dataset(name, (2,), h5py.string_dtype()),
    "opaque": lambda group, name: group.create_dataset(name, data=np.zeros(2, "V5")),
    "dangling link": lambda group, name: group.__setitem__(name, h5py.SoftLink("/nowhere")),
    "loop": lambda group, name: group.__setitem__(name, h5py.SoftLink(f"{group.name}/{name}")),
    "parent": lambda group, name: group.__setitem__(name, group),
    "nothing": lambda group, name: None,
}
ATTRIBUTES: tuple[Any, ...] = (
    *(0, -1, 10**12, 2**63 - 1, np.nan, "", "zz", b"\xff\xfe", "x" * 2000, np.arange(5), np.ones((2, 3)), 1j, True),
    *(h5py.Empty("f4"), np.array([b"a", b"b"]), np.zeros(2, [("a", "i4")]), np.array(["a", "b"], h5py.string_dtype())),
)


def lie_hdf5(path: Path, where: int, what: int) -> str:
    """Put something else where a dataset, a group or an attribute is, and say what."""
    with h5py.File(path, "a") as file:
        places: list[tuple[str, str | None]] = []

        def visit(name: str, node: Any) -> None:
            places.extend([(name, None), *((name, key) for key in node.attrs)])

        file.visititems(visit)
        places = [place for place in places if place[0] in file]
        places += [("/", key) for key in file.attrs]
        name, key = places[where % len(places)]
        if key is not None:
            value = ATTRIBUTES[what % len(ATTRIBUTES)]
            file[name].attrs[key] = value
            return f"{name}@{key}: {value!r:.40}"
        kinds = [*DATASETS, *MADE]
        kind, attributes = kinds[what % len(kinds)], dict(file[name].attrs)
        del file[name]
        group = file.require_group(name.rpartition("/")[0] or "/")
        leaf = name.rpartition("/")[2]
        if kind in MADE:
            MADE[kind](group, leaf)
        else:
            group[leaf] = DATASETS[kind]
        node = None if kind in ("loop", "dangling link") else group.get(leaf)
        if isinstance(node, h5py.Dataset):
            for attribute, value in attributes.items():  # units: the lie is reached
                if not attribute.startswith("_"):
                    node.attrs[attribute] = value
    return f"{name}: {kind}"


# ------------------------------------------------------------------------------------------- headers of cards and keys

CARDS = (*(str(n) for n in NUMBERS), "1.5", "1E300", "NaN", "T", "F", "'lorem   '", "'10000000000E'", "'PE(99999999)'")
CARDS += ("'(99999,99999)'", "'1QD(5)'", "'-TAN'", "(1.0, 2.0)", "", "'x" + "y" * 60 + "'")


def lie_fits(path: Path, where: int, what: int) -> str:
    """Give a card of any header another value, END among them."""
    data = bytearray(path.read_bytes())
    cards = [k for k in range(0, len(data), 80) if data[k + 8 : k + 10] == b"= " or data[k : k + 8] == b"END     "]
    at, value = cards[where % len(cards)], CARDS[what % len(CARDS)]
    data[at + 8 : at + 80] = f"= {value:>20}".encode().ljust(72)[:72]
    path.write_bytes(data)
    return f"{data[at : at + 40]!r}"


def lie_interfile(path: Path, where: int, what: int) -> str:
    """Give a key another value."""
    lines = path.read_text("latin-1").splitlines()
    keyed = [k for k, line in enumerate(lines) if ":=" in line]
    at, values = keyed[where % len(keyed)], (*map(str, NUMBERS), *WORDS)
    lines[at] = f"{lines[at].partition(':=')[0]}:= {values[what % len(values)]}"
    path.write_text("\n".join(lines), "latin-1", errors="replace")
    return lines[at][:80]


def lie_xtekct(path: Path, where: int, what: int) -> str:
    """Give a parameter another value."""
    lines = path.read_bytes().decode("latin-1").splitlines()
    keyed = [k for k, line in enumerate(lines) if "=" in line]
    at, values = keyed[where % len(keyed)], (*map(str, NUMBERS), *WORDS)
    lines[at] = f"{lines[at].partition('=')[0]}={values[what % len(values)]}"
    path.write_bytes("\n".join(lines).encode("latin-1", "replace"))
    return lines[at][:80]


def lie_txrm(path: Path, where: int, what: int) -> str:
    """Change a number of the header, of the table of sectors, of the directory, or of a stream."""
    data = bytearray(path.read_bytes())
    at = 4 * (where % (len(data) // 4))
    at = 4 * (where % 128) if where % 3 == 0 else at  # the header
    data[at : at + 4] = struct.pack("<I", NUMBERS[what % len(NUMBERS)] % 2**32)
    path.write_bytes(data)
    return f"{at}: {NUMBERS[what % len(NUMBERS)]}"


def lie_csv(path: Path, where: int, what: int) -> str:
    """Give a cell, or the header of ECSV, another value."""
    lines = path.read_text().splitlines()
    at, values = (
        where % len(lines),
        (*map(str, NUMBERS), *WORDS, "# - {name: ra, datatype: object}", "# !!python/name:os"),
    )
    cells = lines[at].split(",") if "," in lines[at] else lines[at].split(" ")
    cells[(where // len(lines)) % len(cells)] = values[what % len(values)]
    lines[at] = ",".join(cells)
    path.write_text("\n".join(lines))
    return lines[at][:80]


# ------------------------------------------------------------------------------------------- binary headers


def lie_dicom(path: Path, where: int, what: int) -> str:
    """Give an element another value, whichever its kind of value allows, or leave it out."""
    data = dcmread(path)
    elements = [element for element in data.iterall() if element.VR != "SQ"]
    element = elements[where % len(elements)]
    values: tuple[Any, ...] = (*(str(n) for n in NUMBERS), *WORDS, "1\\2\\3", None)
    value = values[what % len(values)]
    binary = {"US": "<H", "UL": "<I", "SS": "<h", "FD": "<d", "FL": "<f"}.get(element.VR)
    if element.VR in ("OW", "OB"):
        value = b"\0" * (what % 97)
    elif binary is not None:
        value = NUMBERS[what % len(NUMBERS)] % 65536
    before = dicom_config.settings.writing_validation_mode, dicom_config.settings.reading_validation_mode
    dicom_config.settings.writing_validation_mode = dicom_config.settings.reading_validation_mode = dicom_config.IGNORE
    dicom_config.replace_un_with_known_vr = False
    try:
        holder = next(item for item in _datasets(data) if element.tag in item and item[element.tag] is element)
        if value is None or (isinstance(value, str) and "\0" in value):
            del holder[element.tag]
        elif binary is None and not isinstance(value, bytes):
            # As text of another kind of value: its own would not let it be written.
            holder[element.tag] = DataElement(element.tag, "UN", str(value).replace("é", "e").encode())
        else:
            element.value = value
        data.save_as(path, enforce_file_format=False)
    finally:
        dicom_config.replace_un_with_known_vr = True
        dicom_config.settings.writing_validation_mode, dicom_config.settings.reading_validation_mode = before
    return f"{element.keyword}: {value!r:.40}"


def _datasets(data: Any) -> Any:
    yield data
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield from _datasets(item)


DESCRIPTIONS = ("<f4", ">f8", "|O", "<c8", "|S3", "<U2", "|b1", "<f2", "<M8[s]", "|V4", "<f16", "x", "[('a', '<f4')]")
SHAPES = (
    "(6, 7)",
    "(0, 7)",
    "()",
    "(2147483648, 2147483648)",
    "(-1, 7)",
    "(10000000000,)",
    "(6, 7, 0, 1)",
    "(1.5,)",
    "6",
)


def lie_npy(path: Path, where: int, what: int) -> str:
    """Write another header upon the same numbers."""
    numbers = path.read_bytes()[-168:]
    description = DESCRIPTIONS[where % len(DESCRIPTIONS)]
    quoted = description if description.startswith("[") else repr(description)
    order = ("True", "False", "2")[(where // len(DESCRIPTIONS)) % 3]
    header = f"{{'descr': {quoted}, 'fortran_order': {order}, 'shape': {SHAPES[what % len(SHAPES)]}, }}"
    header = header.ljust(117) + "\n"
    version = (1, 1, 1, 1, 2, 3, 9)[(what // len(SHAPES)) % 7]
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + numbers)
    return header.strip()


def lie_tiff(path: Path, where: int, what: int) -> str:
    """Change the type, the number of values or the value of a tag of any page."""
    with tifffile.TiffFile(path) as tiff:
        tags = [(tag.offset, tag.name) for page in tiff.pages for tag in page.tags]
    at, name = tags[where % len(tags)]
    data = bytearray(path.read_bytes())
    place, form = ((2, "<H"), (4, "<I"), (8, "<I"), (8, "<I"))[(where // len(tags)) % 4]
    number = NUMBERS[what % len(NUMBERS)] % 256 ** struct.calcsize(form)
    data[at + place : at + place + struct.calcsize(form)] = struct.pack(form, number)
    path.write_bytes(data)
    return f"{name} + {place}: {number}"


FIELDS = {
    "<h": (40, 42, 44, 46, 48, 50, 54, 68, 70, 72, 74, 252, 254),
    "<f": (76, 80, 84, 88, 108, 112, 116, 256, 280, 284),
}
"""Places of dim, intent, datatype, bitpix, codes, pixdim, vox_offset, scl and quaternions in a header of NIfTI-1."""


def lie_nifti(path: Path, where: int, what: int) -> str:
    """Change a number of the header."""
    places = [(form, at) for form, ats in FIELDS.items() for at in ats]
    form, at = places[where % len(places)]
    number = (0, 1, -1, 3, 7, 16, 32, 64, 128, 255, 512, 1024, 1536, 2048, 32767, -32768)[what % 16]
    value: Any = (number, float("nan"), 3e38, -1e30)[(what // 16) % 4] if form == "<f" else number
    data = bytearray(path.read_bytes())
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    path.write_bytes(data)
    return f"{at}: {value}"


def lie_png(path: Path, where: int, what: int) -> str:
    """Change width, height, depth or colour type, with the check sum that goes with it."""
    data = bytearray(path.read_bytes())
    width, height, *rest = struct.unpack(">IIBBBBB", data[16:29])
    fields = [width, height, *rest]
    number = NUMBERS[what % len(NUMBERS)]
    fields[where % 7] = number % (2**32 if where % 7 < 2 else 256)
    data[16:29] = struct.pack(">IIBBBBB", *fields)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return str(fields)


def lie_mat(path: Path, where: int, what: int) -> str:
    """Put something else in place of a field of the struct."""
    content = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True)
    name = next(key for key in content if not key.startswith("__"))
    values: tuple[Any, ...] = (
        *(float(n) for n in NUMBERS),
        *WORDS[:-2],
        np.ones((2, 0)),
        1j,
        np.array([1, "a"], object),
    )
    values += (
        np.nan,
        {"a": 1},
        np.zeros(3, bool),
        np.ones((2, 2, 2)),
        np.full((6, 9), np.nan),
        np.eye(3, dtype=np.int8),
    )
    value = values[what % len(values)]
    if not hasattr(content[name], "parameters"):
        scipy.io.savemat(path, {name: value})
        return f"{name}: {value!r:.40}"
    struct_, parameters = vars(content[name]).copy(), vars(content[name].parameters).copy()
    struct_.pop("_fieldnames"), parameters.pop("_fieldnames")
    keys = [*parameters, "sinogram", "parameters"]
    key = keys[where % len(keys)]
    (parameters if key in parameters else struct_)[key] = value
    scipy.io.savemat(
        path,
        {name: {"parameters": parameters} | struct_ if key == "parameters" else struct_ | {"parameters": parameters}},
    )
    return f"{key}: {value!r:.40}"


LIES: dict[str, Any] = {
    **dict.fromkeys(("measurements.h5", "spect.h5", "result.h5", "image.h5", "dxchange.h5"), lie_hdf5),
    **dict.fromkeys(("table.h5", "columns.h5", "shear.h5"), lie_hdf5),
    **dict.fromkeys(("tomoscan.h5", "nxtomo.h5", "master.h5", "any.h5"), lie_hdf5),
    **dict.fromkeys(("table.fits", "shear.fits", "maps.fits", "packed.fits", "image.fits"), lie_fits),
    **dict.fromkeys(("table.csv", "table.ecsv"), lie_csv),
    "rod.xtekct": lie_xtekct,
    "scan.txrm": lie_txrm,
    **dict.fromkeys(("ct.dcm", "enhanced.dcm", "nm.dcm"), lie_dicom),
    **dict.fromkeys(("stack.tif", "packed.tif", "scan.tif", "image.tif", "photograph.tif", "any.tif"), lie_tiff),
    **dict.fromkeys(("image.png", "photograph.png"), lie_png),
    **dict.fromkeys(("scan.mat", "flat.mat", "seg.mat", "any.mat"), lie_mat),
    "views.h00": lie_interfile,
    "image.npy": lie_npy,
    "volume.nii": lie_nifti,
}
"""A function of (file, where, what) for every target that has one: it changes the file and says how."""
