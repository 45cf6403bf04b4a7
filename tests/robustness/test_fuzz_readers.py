"""Every reader on spoilt files: a result, or one sentence that names the file; no other error, warning or blow-up.

For as long as you like, crashes and hangs included: `python tests/robustness/fuzz_readers.py --minutes 5`.
"""

from __future__ import annotations

import gzip
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from fuzz_fields import DATASETS, LIES, MADE, lie_hdf5
from fuzz_targets import IMAGE, KINDS, TARGETS, Edit, Target, outcome, spoil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_files import refused, write_dicom, write_htc

from pnp.io import guards, read_fits_maps, read_image, read_nifti, write_image, write_nifti
from pnp.readers import read_catalogue, read_dicom, read_dicom_nm, read_htc2022, read_interfile, read_shear_maps

EDITS = st.lists(
    st.builds(Edit, st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(0, 2**16)),
    min_size=1,
    max_size=4,
)
NUMBERS = st.integers(0, 10**6)
FEW = settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=2000, derandomize=False)
MODEST = 2**27
"""Bytes that a small file may take to be read or refused, unless it claims what ROOM allows."""


@pytest.fixture(scope="module")
def spoilable(request: Any, tmp_path_factory: Any) -> tuple[Target, Path, bytes]:
    """A target, its file, and what is in it while it is good."""
    path = tmp_path_factory.mktemp("fuzz") / request.param
    target = TARGETS[request.param]
    target.write(path)
    assert outcome(target.read, path) == "read"
    return target, path, path.read_bytes()


EVERY = pytest.mark.parametrize("spoilable", list(TARGETS), indirect=True)
STRUCTURED = pytest.mark.parametrize("spoilable", list(LIES), indirect=True)


def check_bytes(spoilable: tuple[Target, Path, bytes], edits: list[Edit]) -> None:
    target, path, good = spoilable
    path.write_bytes(spoil(good, edits))
    outcome(target.read, path)


def check_fields(spoilable: tuple[Target, Path, bytes], where: int, what: int) -> None:
    target, path, good = spoilable
    path.write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LIES[path.name](path, where, what)
    outcome(target.read, path)


@EVERY
@FEW
@given(edits=EDITS)
def test_spoilt_bytes(spoilable, edits):
    check_bytes(spoilable, edits)


@STRUCTURED
@FEW
@given(where=NUMBERS, what=NUMBERS)
def test_lying_fields(spoilable, where, what):
    check_fields(spoilable, where, what)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@EVERY
@MANY
@given(edits=EDITS)
def test_spoilt_bytes_by_the_thousand(spoilable, edits):
    check_bytes(spoilable, edits)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@STRUCTURED
@MANY
@given(where=NUMBERS, what=NUMBERS)
def test_lying_fields_by_the_thousand(spoilable, where, what):
    check_fields(spoilable, where, what)


# ------------------------------------------------------------------------------------------- found, and mended


def peak(read: Any, path: Path) -> str:
    """Return the sentence of a refusal that took little memory."""
    tracemalloc.start()
    try:
        message = refused(read, path)
        assert tracemalloc.get_traced_memory()[1] < MODEST
    finally:
        tracemalloc.stop()
    assert path.name in message
    return message


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("NAXIS   ", "1" + "0" * 18), ("NAXIS   ", "1" + "0" * 60), ("NAXIS1  ", "1" + "0" * 12),
        ("BITPIX  ", "-64000000"), ("NAXIS1  ", "-1"), ("NAXIS2  ", "NaN"),
    ],
)  # fmt: skip
def test_fits_headers_that_count_without_end(tmp_path, card, value):
    """astropy goes through as many axes as a header says: it took minutes and gigabytes."""
    path = tmp_path / "x.fits"
    write_image(path, IMAGE)
    data = bytearray(path.read_bytes())
    at = data.index(card.encode())
    data[at + 8 : at + 80] = f"= {value:>20}".ljust(72).encode()
    path.write_bytes(data)
    for read in (read_image, read_fits_maps, lambda p: read_shear_maps(e1=str(p), e2=str(p), noise_std=0.1)):
        peak(read, path)


@pytest.mark.parametrize(
    "cards", [{"NAXIS": 0, "PCOUNT": 10**6}, {"NAXIS": 2, "NAXIS1": 0, "NAXIS2": 2880, "GROUPS": "T", "PCOUNT": 0},
              {"NAXIS": 0, "NAXIS  ": 1, "NAXIS1": 10**6}]
)  # fmt: skip
def test_fits_headers_that_hide_another(tmp_path, cards):
    """What is counted wrongly is passed over: the part behind it, whose header counts without end."""

    def header(*cards: tuple[str, object]) -> bytes:
        return b"".join(f"{name:8.8}= {value!s:>20}".ljust(80).encode() for name, value in cards) + b"END".ljust(80)

    first = header(("SIMPLE", "T"), ("BITPIX", 8), *cards.items()).ljust(2880)
    data = bytes(2880) if "GROUPS" in cards else b""
    second = header(("XTENSION", "'IMAGE   '"), ("BITPIX", 8), ("NAXIS", 10**12), ("PCOUNT", 0), ("GCOUNT", 1))
    path = tmp_path / "x.fits"
    path.write_bytes(first + data + second.ljust(2880) + bytes(2880))
    assert "NAXIS must be at most 999" in peak(read_fits_maps, path)


@pytest.mark.parametrize("extra", ["A_ORDER =           1000000000", "WCSAXES =           1000000000"])
def test_fits_coordinates_that_count_without_end(tmp_path, extra):
    path = tmp_path / "x.fits"
    write_image(path, IMAGE)
    data = path.read_bytes()
    end = data.index(b"END ".ljust(80))
    path.write_bytes(data[:end] + extra.ljust(80).encode() + data[end : end + 80] + data[end + 160 :])
    assert "must be at most 999" in peak(read_fits_maps, path)


def test_fits_table_of_a_billion_columns(tmp_path):
    path = tmp_path / "table.fits"
    TARGETS[path.name].write(path)
    path.write_bytes(path.read_bytes().replace(b"TFIELDS =                    5", b"TFIELDS =        1000000000000"))
    assert "TFIELDS must be at most 999" in peak(read_catalogue, path)


def test_fits_notes_of_unprintable_characters(tmp_path):
    path = tmp_path / "shear.fits"
    TARGETS[path.name].write(path)
    path.write_bytes(path.read_bytes().replace(b"'lenspack'", b"'len\x00pack'"))
    assert "not a readable FITS" in refused(read_shear_maps, path)


@pytest.mark.parametrize(
    "name",
    ["image.h5", "measurements.h5", "result.h5", "dxchange.h5", "tomoscan.h5", "nxtomo.h5", "table.h5", "shear.h5"],
)
@pytest.mark.parametrize("kind", ["never written", "compound", "reference", "vlen", "opaque", "loop"])
def test_hdf5_datasets_that_are_something_else(tmp_path, name, kind):
    """Among them 8 petabytes that were never written, in a file of 2 kB; also where astropy keeps a table's units."""
    path = tmp_path / name
    TARGETS[name].write(path)
    good, number = path.read_bytes(), [*DATASETS, *MADE].index(kind)
    for where in range(6):
        path.write_bytes(good)
        lie_hdf5(path, where, number)
        tracemalloc.start()
        try:
            outcome(TARGETS[name].read, path)
            assert tracemalloc.get_traced_memory()[1] < MODEST
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", ["nxtomo.h5", "measurements.h5", "any.h5", "master.h5"])
def test_hdf5_heaps_that_never_end(tmp_path, name):
    """HDF5 2.0 goes round and round at a free space of no bytes in the heap of its texts."""
    path = tmp_path / name
    TARGETS[name].write(path)
    with h5py.File(path, "a") as file:
        file.attrs["note"] = "a text of variable length"
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL\x01") + 16
    data[at : at + 16] = bytes(16)
    path.write_bytes(data)
    assert name in refused(TARGETS[name].read, path)


def test_hdf5_history_that_is_no_group(tmp_path):
    path = tmp_path / "result.h5"
    TARGETS[path.name].write(path)
    with h5py.File(path, "a") as file:
        del file["history"]
        file["history"] = 1.0
    assert outcome(TARGETS[path.name].read, path) == "read"


@pytest.mark.parametrize("name", ["ra", "dec", "e1"])
def test_columns_of_two_lengths(tmp_path, name):
    """Their ranges were compared before their lengths."""
    path = tmp_path / "columns.h5"
    TARGETS[path.name].write(path)
    with h5py.File(path, "a") as file:
        del file[f"galaxies/{name}"]
        file[f"galaxies/{name}"] = np.array([150.0, 151.0])
    assert "of one length" in refused(read_catalogue, path)


@pytest.mark.parametrize(
    "change",
    [
        {"distanceUnit": np.zeros(3, bool)}, {"numDetectorsPost": np.ones((2, 2))}, {"numDetectorsPost": "a"},
        {"angles": np.zeros(3, bool)}, {"pixelSizePost": np.ones((2, 2))},
    ],
    ids=str,
)  # fmt: skip
def test_matlab_parameters_of_many_numbers(tmp_path, change):
    assert "scan.mat" in refused(read_htc2022, write_htc(tmp_path / "scan.mat", **change))


@pytest.mark.parametrize("element", [b"EnergyWindowLowerLimit", b"ActualFrameDuration"])
def test_nuclear_medicine_facts_that_are_no_numbers(tmp_path, element):
    """What is not needed for the image was read outside of the check, as text of any length."""
    path = tmp_path / "nm.dcm"
    TARGETS[path.name].write(path)
    value = {b"EnergyWindowLowerLimit": b"187.2 ", b"ActualFrameDuration": b"20000 "}[element]
    assert value in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(value, b"1e308 "))
    assert "nm.dcm" in refused(read_dicom_nm, path)


def test_two_thousand_million_frames_in_a_small_file(tmp_path):
    """The vectors of windows and views were made before the pixels were counted."""
    path = tmp_path / "nm.dcm"
    TARGETS[path.name].write(path)
    path.write_bytes(path.read_bytes().replace(b"(\x00\x08\x00IS\x02\x004 ", b"(\x00\x08\x00IS\x0a\x002000000000"))
    assert "NumberOfFrames 2000000000" in peak(read_dicom_nm, path)


def test_dicom_of_more_pixels_than_the_file_has(tmp_path):
    assert "ct.dcm" in peak(read_dicom, write_dicom(tmp_path / "ct.dcm", Rows=65535, Columns=65535))


def test_dicom_positions_beyond_any_patient(tmp_path):
    for z in (0.0, 1e200):
        write_dicom(tmp_path / f"{z}.dcm", z)
    assert "1e+12" in refused(read_dicom, tmp_path)


@pytest.mark.parametrize("key", ["number of projections", "matrix size [1]", "number of energy windows"])
@pytest.mark.parametrize("value", ["1e300", "1" + "0" * 30, "2000000000"])
def test_interfile_of_more_views_than_any_file(tmp_path, key, value):
    """The angles were made before the file was measured."""
    path = tmp_path / "views.h00"
    TARGETS[path.name].write(path)
    lines = [line if key not in line else f"{key} := {value}" for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    assert "views.h00" in peak(read_interfile, path)


@pytest.mark.parametrize("shape", ["(2147483648, 2147483648)", "(1000000000,)", "(-1, 7)", "(0, 7)"])
def test_npy_of_more_numbers_than_the_file_has(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(64))
    peak(read_image, tmp_path / "x.npy")


def test_npz_under_the_name_of_npy(tmp_path):
    """numpy opens the archive, which is no array."""
    with open(tmp_path / "x.npy", "wb") as file:
        np.savez(file, image=IMAGE)
    assert "x.npy" in refused(read_image, tmp_path / "x.npy")


def test_nifti_that_turns_two_axes_into_one(tmp_path):
    path = tmp_path / "x.nii"
    write_nifti(path, IMAGE[None], 4.8, centre_mm=(0.0, 0.0, 0.0))  # with a place, so that srow is what counts
    data = bytearray(path.read_bytes())
    data[280:296] = np.array([-1e30, 0, 0, 0], "<f4").tobytes()  # srow_x
    data[296:312] = np.array([-1e30, -1e30, 0, 0], "<f4").tobytes()
    path.write_bytes(data)
    assert "resample" in refused(read_nifti, path)


def test_nifti_of_more_voxels_than_the_file_has(tmp_path):
    write_nifti(tmp_path / "small.nii", IMAGE[None], 4.8)
    data = bytearray((tmp_path / "small.nii").read_bytes())
    data[42:48] = np.array([32767] * 3, "<i2").tobytes()
    for name in ("x.nii", "x.nii.gz"):
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        assert "claims 1.41e+14 bytes" in peak(read_nifti, tmp_path / name)


def test_interfile_orbit_without_numbers(tmp_path):
    path = tmp_path / "views.h00"
    TARGETS[path.name].write(path)
    (tmp_path / "orbit.cor").write_text("")
    path.write_text(path.read_text().replace("orbit := circular", "non-uniform orbit file := orbit.cor"))
    with pytest.warns(UserWarning, match="4 views"):
        assert read_interfile(path).radius_mm is None


@pytest.mark.parametrize("tag", [256, 257])
def test_tiff_without_rows_or_columns(tmp_path, tag):
    path = tmp_path / "packed.tif"
    TARGETS[path.name].write(path)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[tag].offset
    data = bytearray(path.read_bytes())
    data[at + 8 : at + 12] = bytes(4)
    path.write_bytes(data)
    assert path.name in refused(TARGETS[path.name].read, path)


def test_interfile_of_more_bytes_a_pixel_than_a_message_holds(tmp_path):
    path = tmp_path / "views.h00"
    TARGETS[path.name].write(path)
    path.write_text(path.read_text().replace("bytes per pixel := 4", "bytes per pixel := 1e308"))
    assert "of 1e+308 and" in refused(read_interfile, path)


def test_photograph_of_more_rows_than_the_file_has(tmp_path, monkeypatch):
    """Pillow makes room for what a TIFF claims, and eight times as much for its grey."""
    monkeypatch.setattr(guards, "ALWAYS_ALLOWED_BYTES", 2**20)
    path = tmp_path / "photograph.tif"
    TARGETS[path.name].write(path)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags["ImageLength"].offset
    data = bytearray(path.read_bytes())
    data[at + 2 : at + 12] = (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (2**22).to_bytes(4, "little")
    data[at - 12 + 2 : at] = (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (20).to_bytes(4, "little")
    path.write_bytes(data)
    message = peak(TARGETS[path.name].read, path)
    assert "photograph.tif claims" in message and message.endswith("store it as uncompressed TIFF")


def test_nifti_voxels_beyond_any_length(tmp_path):
    path = tmp_path / "second.nii"
    TARGETS[path.name].write(path)
    data = bytearray(path.read_bytes())
    at = data.index(np.eye(4)[:3].tobytes())  # srow_x to srow_z
    data[at : at + 8] = np.array([1e300], "<f8").tobytes()
    path.write_bytes(data)
    assert outcome(read_nifti, path) == "refused"
