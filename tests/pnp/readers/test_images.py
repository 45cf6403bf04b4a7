"""Readers of images: stacks of TIFF files and CT slices in DICOM."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless
from reader_files import VOLUME, refused, write_dicom

from pnp.readers import read_dicom, read_tiff_stack, write_tiff_stack

# ------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("volume", [VOLUME, torch.from_numpy(VOLUME).double()])
def test_tiff_stack_round_trip(tmp_path, volume):
    files = write_tiff_stack(tmp_path / "stack", volume)
    assert [file.name for file in files][:2] == ["slice_0000.tif", "slice_0001.tif"] and len(files) == 12
    for path in (tmp_path / "stack", tmp_path / "stack" / "slice_*.tif", str(tmp_path / "stack" / "slice_00[01]*")):
        np.testing.assert_array_equal(read_tiff_stack(path), VOLUME)


@pytest.mark.filterwarnings("ignore:.*in steps of:UserWarning")
def test_tiff_files_come_in_the_order_of_their_numbers(tmp_path):
    for k in (10, 9, 1):
        tifffile.imwrite(tmp_path / f"p{k}.tiff", np.full((2, 3), k, np.uint16))
    np.testing.assert_array_equal(read_tiff_stack(tmp_path)[:, 0, 0], [1, 9, 10])
    tifffile.imwrite(tmp_path / "p11.tiff", np.ones((3, 2), np.uint16))
    assert "p11.tiff is (3, 2)" in refused(read_tiff_stack, tmp_path)
    tifffile.imwrite(tmp_path / "p0.tiff", VOLUME)
    assert "p0.tiff has 12" in refused(read_tiff_stack, tmp_path)
    tifffile.imwrite(tmp_path / "flat1.tif", np.ones((2, 3), np.uint16))
    assert "flat#, p#" in refused(read_tiff_stack, tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"imagej": True}, {"compression": "zlib"}, {"bigtiff": True}, {"metadata": None, "rowsperstrip": 2}]
)
def test_tiff_of_many_pages(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, **options)
    np.testing.assert_array_equal(read_tiff_stack(tmp_path / "a.tif"), VOLUME)


@pytest.mark.parametrize(
    ("pages", "options", "part"),
    [
        ([np.ones((4, 5, 3), np.uint8)], {"photometric": "rgb"}, "grey images"),
        ([np.ones((4, 5)), np.ones((5, 4))], {"metadata": None}, "shapes"),
        ([np.full((4, 5), np.nan, np.float32)], {}, "got 20 NaN"),
        ([np.ones((4, 5), complex)], {}, "complex"),
    ],
)
def test_tiff_refuses(tmp_path, pages, options, part):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for page in pages:
            tiff.write(page, **options)
    assert part in refused(read_tiff_stack, tmp_path / "a.tif")


def test_tiff_stacks_do_not_mix(tmp_path):
    write_tiff_stack(tmp_path, VOLUME)
    assert "overwrite" in refused(write_tiff_stack, tmp_path, VOLUME)
    write_tiff_stack(tmp_path, -VOLUME[:3], overwrite=True)
    np.testing.assert_array_equal(read_tiff_stack(tmp_path), -VOLUME[:3])
    for bad in (np.full((1, 2, 2), np.nan), np.ones((2, 2)), np.ones((1, 2, 2), complex)):
        assert "volume" in refused(write_tiff_stack, tmp_path, bad, overwrite=True)
    np.testing.assert_array_equal(read_tiff_stack(tmp_path), -VOLUME[:3])
    (tmp_path / "scan.TIF").write_bytes(b"another's")
    assert "scan.TIF" in refused(write_tiff_stack, tmp_path, VOLUME, overwrite=True)
    assert "is a file" in refused(write_tiff_stack, tmp_path / "scan.TIF", VOLUME)
    assert "does not exist" in refused(write_tiff_stack, tmp_path / "a" / "b", VOLUME)
    assert "no file" in refused(read_tiff_stack, tmp_path / "q*.tif")


def test_tiff_stack_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write_tiff_stack(tmp_path, VOLUME[:2])
    write, calls = tifffile.imwrite, []

    def full(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write(path, *args, **kwargs)

    monkeypatch.setattr(tifffile, "imwrite", full)
    assert "No space left" in refused(write_tiff_stack, tmp_path, -VOLUME, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["slice_0000.tif", "slice_0001.tif"]
    np.testing.assert_array_equal(read_tiff_stack(tmp_path), VOLUME[:2])


# ------------------------------------------------------------------------------------------- DICOM

PIXELS = np.arange(30, dtype=np.int16).reshape(6, 5)


def write_series(folder, places=(0.0, 2.5, 5.0, 7.5), **changes):
    """Slices whose pixels are their place, in files whose names are in another order."""
    for k, z in enumerate(places):
        write_dicom(folder / f"{(k * 7) % 10}.dcm", z, pixels=np.full((6, 5), 10 * z, np.int16), **changes)
    return folder


def test_dicom_slice_in_hounsfield_units(tmp_path):
    got = read_dicom(write_dicom(tmp_path / "a.dcm", 4.0))
    np.testing.assert_array_equal(got.volume, 2.0 * PIXELS[None] - 1024)
    assert got.volume.dtype == np.float32 and got.unit == "HU"
    assert got.spacing_mm == (3.0, 0.7, 0.8)  # a single slice has its thickness
    np.testing.assert_array_equal(got.positions_mm, [[-1, -2, 4]])


@pytest.mark.parametrize("places", [(0.0, 2.5, 5.0, 7.5), (7.5, 0.0, 5.0, 2.5)])
def test_dicom_series_is_sorted_by_place(tmp_path, places):
    got = read_dicom(write_series(tmp_path, places))
    np.testing.assert_array_equal(got.volume[:, 0, 0], 20 * np.array([0, 2.5, 5, 7.5]) - 1024)
    np.testing.assert_array_equal(got.positions_mm[:, 2], [0, 2.5, 5, 7.5])
    assert got.spacing_mm == (2.5, 0.7, 0.8)


def test_dicom_series_is_sorted_along_its_own_normal(tmp_path):
    # Rows towards the feet, columns to the left: the normal, y x -z, is -x.
    for k, x in enumerate((3.0, 1.0, 2.0)):
        pixels = np.full((6, 5), x, np.int16)
        where = {"ImagePositionPatient": [str(x), "0", "0"], "ImageOrientationPatient": ["0", "1", "0", "0", "0", "-1"]}
        write_dicom(tmp_path / f"{k}.dcm", pixels=pixels, slope="1", intercept="0", **where)
    np.testing.assert_array_equal(read_dicom(tmp_path).volume[:, 0, 0], [3, 2, 1])


@pytest.mark.parametrize(
    ("changes", "unit"),
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"RescaleType": "US"}, ""),
        ({"Modality": "MR"}, ""),
        ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
    ],
)
def test_dicom_says_the_unit_that_the_file_says(tmp_path, changes, unit):
    got = read_dicom(write_dicom(tmp_path / "a.dcm", **changes))
    assert got.unit == unit
    stored = changes.get("RescaleSlope", "") is None
    np.testing.assert_array_equal(got.volume[0], PIXELS if stored else 2.0 * PIXELS - 1024)


def test_dicom_spacing_that_is_not_known_is_nan(tmp_path):
    missing = {"PixelSpacing": None, "SliceThickness": None, "ImagePositionPatient": None}
    got = read_dicom(write_dicom(tmp_path / "a.dcm", **missing))
    assert np.isnan(got.spacing_mm).all() and np.isnan(got.positions_mm).all()


def test_dicom_compressed_pixels(tmp_path):
    data = dcmread(write_dicom(tmp_path / "a.dcm"))
    data.compress(RLELossless)
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_dicom(tmp_path / "a.dcm").volume[0], 2.0 * PIXELS - 1024)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless  # which these pixels are not, decoder or none
    data.save_as(tmp_path / "b.dcm")
    message = refused(read_dicom, tmp_path / "b.dcm")
    assert "compressed (JPEG 2000" in message and "decoder" in message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"PixelData": None}, "pixel data"),
        ({"Rows": None}, "holds no image"),
        ({"NumberOfFrames": "3"}, "holds 3 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour picture ('RGB')"),
        ({"ModalityLUTSequence": []}, "ModalityLUTSequence"),
        ({"slope": "0"}, "RescaleSlope"),
        ({"PixelData": bytes(20)}, "truncated or damaged"),
    ],
)
def test_dicom_refuses(tmp_path, changes, part):
    assert part in refused(read_dicom, write_dicom(tmp_path / "a.dcm", **changes))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"SeriesInstanceUID": "1.2.9"}, "series=: 1.2.3, 1.2.9"),
        ({"pixels": np.zeros((5, 6), np.int16)}, "shape is"),
        ({"PixelSpacing": ["0.7", "0.9"]}, "spacing is"),
        ({"RescaleType": "US"}, "unit is"),
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]}, "another direction"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"z": 7.5}, "same place"),
        ({"z": 12.5}, "2.5 mm"),
    ],
)
def test_dicom_slices_that_make_no_volume(tmp_path, changes, part):
    write_dicom(write_series(tmp_path) / "z.dcm", **{"z": 10.0} | changes)
    assert part in refused(read_dicom, tmp_path)


def test_dicom_series_by_name_and_other_files(tmp_path):
    write_dicom(write_series(tmp_path) / "z.dcm", SeriesInstanceUID="1.2.9")
    assert read_dicom(tmp_path, series="1.2.3").volume.shape == (4, 6, 5)
    assert read_dicom(tmp_path, series="1.2.9").volume.shape == (1, 6, 5)
    assert "no series '1.2'" in refused(read_dicom, tmp_path, series="1.2")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "DICOMDIR").write_bytes(b"")
    assert read_dicom(tmp_path, series="1.2.3").volume.shape == (4, 6, 5)
    (tmp_path / "notes.txt").write_bytes(b"")
    assert "notes.txt" in refused(read_dicom, tmp_path, series="1.2.3")


def test_dicom_slices_of_a_tilted_gantry_are_refused(tmp_path):
    for k in range(4):
        write_dicom(tmp_path / f"{k}.dcm", 3 * k, ImagePositionPatient=["-1", str(-2 + k), str(3 * k)])
    assert "gantry" in refused(read_dicom, tmp_path)
