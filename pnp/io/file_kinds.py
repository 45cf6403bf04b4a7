"""Tell what a file is by its first bytes and, in HDF5, by its names: for readers that choose by content, and messages.

Nothing but headers is read: no pixels, and no other file through a link.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import h5py

from .guards import quiet
from .hdf5_safe import check_heaps

_HEAD_BYTES = 4096


class FileKind(NamedTuple):
    """What a file is, and what takes it; "{}" stands for its name."""

    what: str
    remedy: str


_READ_SCAN = "type: pnp reconstruct {0} -o volume.zarr; or read it by pnp.readers.read_scan({0!r})"
KINDS = {
    "dxchange": FileKind("a raw scan in Data Exchange (HDF5)", _READ_SCAN),
    "nexus": FileKind("a raw scan in NXtomo (NeXus, HDF5)", _READ_SCAN),
    "matlab": FileKind("a MATLAB file", _READ_SCAN),
    "tiff": FileKind(
        "a TIFF file, which states no angles",
        "read projections or a sinogram by pnp.readers.read_scan({!r}, angles=...), slices by read_tiff_stack",
    ),
    "tiff_folder": FileKind(
        "a folder of TIFF files, which state no angles",
        "read projections by pnp.readers.read_scan({!r}, angles=...), slices by read_tiff_stack",
    ),
    "txrm": FileKind("a Zeiss scan (.txrm, .xrm)", _READ_SCAN),
    "xtekct": FileKind("a Nikon scan (.xtekct)", _READ_SCAN),
    "measurements": FileKind("a file of measurements in pnp's own layout", "pnp reconstruct {} -o result.h5"),
    "result": FileKind("a result of pnp, an image already", "look at it by: pnp report {}"),
    "image_h5": FileKind("an image in HDF5", "read it by pnp.io.read_image({!r})"),
    "matlab73": FileKind("a MATLAB 7.3 (HDF5) file", _READ_SCAN),
    "hdf5": FileKind("an HDF5 file of another layout", "see docs/hdf5_layout.md and docs/bring_your_data_ct.md"),
    "dicom_nm": FileKind(
        "a DICOM file of nuclear medicine (NM)", "of SPECT views: pnp convert {} -o scan.h5, then pnp osem scan.h5"
    ),
    "dicom_ct": FileKind("a DICOM CT image, reconstructed already", "read slices by pnp.readers.read_dicom({!r})"),
    "dicom": FileKind(
        "a DICOM file, neither of CT nor of nuclear medicine", "pnp.readers.read_dicom reads slices of CT"
    ),
    "dicom_folder": FileKind("a folder of DICOM files", "read CT slices by pnp.readers.read_dicom({!r})"),
    "interfile": FileKind("an Interfile header of SPECT views", "pnp convert {} -o scan.h5, then pnp osem scan.h5"),
    "fits": FileKind(
        "a FITS file, an image or a table of astronomy",
        "pnp.readers.read_shear_maps reads maps of shear, read_catalogue galaxies, pnp.io.read_image images",
    ),
    "nifti": FileKind("a NIfTI volume", "read it by pnp.io.read_nifti({!r})"),
    "picture": FileKind("a picture (PNG, JPEG, GIF or BMP)", "read it by pnp.io.read_image; pnp denoise takes it"),
    "npy": FileKind(
        "a NumPy array, without angles", "put it into a pnp.readers.CtScan(y=numpy.load({!r}), angles=...)"
    ),
    "npz": FileKind("a zip archive, or NumPy's .npz", "unpack it; arrays go into a pnp.readers.CtScan"),
    "gzip": FileKind("compressed by gzip", "unpack it: gunzip {}"),
    "edf": FileKind("an ESRF data file (.edf)", "convert it to TIFF or NXtomo (nxtomomill edf2nx)"),
    "vgi": FileKind("a header of a raw volume (.vgi)", "a volume is reconstructed already; take the projections"),
    "empty": FileKind("empty", "fetch it again"),
    "folder": FileKind("a folder without TIFF or DICOM files", "name the file in it"),
    "unknown": FileKind("of no format known here", "check the name, or fetch it again"),
}

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def file_kind(path: str | os.PathLike[str]) -> str:
    """Return what a file or folder is, a key of `KINDS`; nothing is said of whether it is whole.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_kind(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; check the name")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if head.startswith(b"MATLAB 7.3"):
        return "matlab73"
    if h5py.is_hdf5(path):
        return _hdf5_kind(path)
    if _is_dicom(head):
        return _dicom_kind(path)
    return _kind_of(head)


def describe(path: str | os.PathLike[str], kind: str, wanted: str) -> str:
    """Return the sentence that refuses a file: what it is, what was wanted, and what takes it."""
    found = KINDS[kind]
    return f"{path} is {found.what}, not {wanted}; {found.remedy.format(Path(path).name[:60])}"


def _folder_kind(path: Path) -> str:
    names = sorted(f.name for f in path.iterdir() if not f.name.startswith(".") and f.is_file())
    if any(name.lower().endswith((".tif", ".tiff")) for name in names):
        return "tiff_folder"
    if "DICOMDIR" in names or any(_begins_dicom(path / name) for name in names[:3]):
        return "dicom_folder"
    return "folder"


def _begins_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _is_dicom(opened.read(_HEAD_BYTES))
    except OSError:
        return False


def _is_dicom(head: bytes) -> bool:
    return has_dicom_preamble(head) or begins_as_dicom(head)


def has_dicom_preamble(head: bytes) -> bool:
    """Whether a file begins with the 128 bytes and the mark that DICOM files should."""
    return head[128:132] == b"DICM"


def begins_as_dicom(head: bytes) -> bool:
    """Whether the first 133 bytes or more of a file begin with an element of DICOM's group 2 or 8, little-endian."""
    group, element, vr = head[:2], int.from_bytes(head[2:4], "little"), head[4:6]
    explicit = vr in (b"UL", b"UI", b"CS", b"DA", b"TM", b"OB", b"SH", b"LO")
    implicit = group == b"\x08\x00" and int.from_bytes(head[4:8], "little") <= 128
    return group in (b"\x02\x00", b"\x08\x00") and element <= 0x0100 and len(head) > 132 and (explicit or implicit)


def is_deflated_dicom(file: BinaryIO, *, force: bool = False) -> bool:
    """Whether an open DICOM file is compressed as a whole: it may unpack to any size. The file is rewound.

    Args:
        file: the open file.
        force: accept a file without preamble.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, force)
    # The first group, which is never compressed: explicit, little-endian (PS3.10, 7.1).
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    file.seek(0)
    return bool(meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)


def _dicom_kind(path: Path) -> str:
    from pydicom import dcmread

    try:
        with quiet(), path.open("rb") as file:
            if is_deflated_dicom(file, force=True):
                return "dicom"
            header = dcmread(file, force=True, stop_before_pixels=True, specific_tags=["Modality"])
            return {"NM": "dicom_nm", "CT": "dicom_ct"}.get(str(header.get("Modality")), "dicom")
    except Exception:  # whatever pydicom raises on a damaged file; its reader says what is wrong
        return "dicom"


def _hdf5_kind(path: Path) -> str:
    """Return what an HDF5 file is by the names and attributes of its root; no link is followed."""
    try:
        check_heaps(path)
        with h5py.File(path, "r") as file:
            form = file.attrs.get("format")
            names = set(file)
            if form == "pnp result" and "measurements" not in names:
                return "result"
            if "exchange" in names:
                return "dxchange"
            if "operator" in names or "measurements" in names:
                return "measurements"
            if "image" in names:
                return "image_h5"
            if any(_is_entry(file, name) for name in sorted(names)[:100]):
                return "nexus"
    except Exception:  # whatever h5py raises on a damaged file; its reader says what is wrong
        return "hdf5"
    return "hdf5"


def _is_entry(file: h5py.File, name: str) -> bool:
    """Whether a name of the root is a group of class NXentry."""
    # Asking h5py whether a name is in a group would open the file of an external link.
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        return False
    found = file[name].attrs.get("NX_class", b"")
    found = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    return isinstance(file[name], h5py.Group) and found in ("NXentry", "NXsubentry")


def _kind_of(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = {
        "empty": not head,
        "matlab": head.startswith(b"MATLAB 5.0 MAT-file"),
        "tiff": head.startswith(_TIFF),
        "txrm": head.startswith(_OLE),
        "picture": head.startswith(_PICTURES) or (head.startswith(b"BM") and head[6:10] == bytes(4)),
        "npy": head.startswith(b"\x93NUMPY"),
        "npz": head.startswith(b"PK\x03\x04"),
        "gzip": head.startswith(b"\x1f\x8b"),
        "fits": head.startswith(b"SIMPLE  ="),
        "nifti": head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:8] in (b"n+2\x00", b"ni2\x00"),
        "xtekct": b"[xtekct]" in text,
        "interfile": b"interfile" in text[:256],
        "edf": text.startswith(b"{") and b"byteorder" in text,
        "vgi": text.startswith(b"{volume"),
    }
    return next((kind for kind, fits in kinds.items() if fits), "unknown")
