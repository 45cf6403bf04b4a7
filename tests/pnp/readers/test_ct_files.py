"""`read_scan`: the content of a file chooses its reader, and every other file is told what it is."""

from __future__ import annotations

import struct

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from PIL import Image
from reader_files import COUNTS, N_ANGLES, N_BINS, N_ROWS, SINOGRAM, refused, write_dicom, write_dx, write_htc
from spect_files import seen_from, write_interfile, write_nm

from pnp.io import write_image, write_measurements, write_result
from pnp.readers import read_dxchange, read_htc2022, read_scan

ANGLES = np.linspace(0, 3, N_ANGLES)


def test_the_content_chooses_the_reader(tmp_path):
    """The names say nothing."""
    dx = read_scan(write_dx(tmp_path / "scan.mat"), rows=slice(1, 2))
    np.testing.assert_array_equal(dx.y, read_dxchange(tmp_path / "scan.mat").y[1:2])
    htc = read_scan(write_htc(tmp_path / "scan.h5"))
    np.testing.assert_array_equal(htc.y, read_htc2022(tmp_path / "scan.h5").y)
    assert htc.source_origin_mm == 400.0
    tifffile.imwrite(tmp_path / "scan.dat", COUNTS, photometric="minisblack")
    tiff = read_scan(tmp_path / "scan.dat", angles=ANGLES, kind="counts")
    np.testing.assert_array_equal(tiff.y, np.moveaxis(COUNTS, 1, 0))


def test_angles_rows_and_lengths_of_the_caller(tmp_path):
    path = write_dx(tmp_path / "a.h5", theta=False)
    scan = read_scan(path, angles=ANGLES, pixel_size_mm=0.01)
    assert scan.pitch_mm == scan.pixel_size_mm == 0.01
    np.testing.assert_array_equal(scan.angles, ANGLES)
    assert "pixel_size_mm" in refused(read_scan, path, angles=ANGLES, pixel_size_mm=-1.0)
    assert "flat" in refused(read_scan, path, angles=ANGLES, flat=COUNTS)
    with pytest.raises(TypeError, match="rows"):
        read_scan(path, rows=1)
    assert ": rows " in refused(read_scan, write_htc(tmp_path / "a.mat"), rows=slice(0, 2))


def test_tiff_projections_with_flats_and_darks(tmp_path):
    for name, frames in (("proj", COUNTS), ("flat", COUNTS[:2]), ("dark", COUNTS[:1] // 10)):
        (tmp_path / name).mkdir()
        for k, frame in enumerate(frames):
            tifffile.imwrite(tmp_path / name / f"{name}_{k}.tif", frame)
    for path in (tmp_path / "proj", tmp_path / "proj" / "proj_*.tif"):
        scan = read_scan(path, angles=ANGLES, flat=tmp_path / "flat", dark=COUNTS[0] // 10, rows=slice(1, 3))
        np.testing.assert_array_equal(scan.y, np.moveaxis(COUNTS, 1, 0)[1:3])
        np.testing.assert_array_equal(scan.flat, np.moveaxis(COUNTS[:2], 1, 0)[1:3])
        np.testing.assert_array_equal(scan.dark[:, 0], (COUNTS[0] // 10)[1:3])
        assert scan.kind == "counts"
    assert "angles" in refused(read_scan, tmp_path / "proj")
    assert "kind" in refused(read_scan, tmp_path / "proj", angles=ANGLES)


def test_a_tiff_page_is_a_sinogram(tmp_path):
    tifffile.imwrite(tmp_path / "sino.tif", SINOGRAM.astype(np.float32))
    scan = read_scan(tmp_path / "sino.tif", angles=ANGLES, kind="line integrals")
    assert scan.y.shape == (N_ANGLES, N_BINS) and scan.kind == "line integrals"
    counts = read_scan(tmp_path / "sino.tif", angles=ANGLES, flat=SINOGRAM[:2])
    assert counts.flat.shape == (2, N_BINS) and counts.kind == "counts"


def write_others(folder):
    """Files that are no CT scans, and what must be said of each."""
    image = SINOGRAM.astype(np.float32)
    views = np.stack([seen_from(phi) for phi in (0, 90, 180, 270)])
    write_nm(folder / "nm", views)
    write_dicom(folder / "ct")
    content = (folder / "ct").read_bytes()
    (folder / "ct_bare").write_bytes(content[132:])
    write_dicom(folder / "mr", Modality="MR")
    write_interfile(folder / "spect.h00", views)
    fits.PrimaryHDU(image).writeto(folder / "fits")
    nibabel.save(nibabel.Nifti1Image(image[None], np.eye(4)), folder / "nifti.nii")
    Image.fromarray((255 * image).astype(np.uint8)).save(folder / "picture.tif", format="PNG")
    write_measurements(folder / "own.h5", image[None, None], operator="radon", parameters={"angles": ANGLES})
    write_result(folder / "result.h5", image[None, None])
    write_image(folder / "image.h5", image)
    with h5py.File(folder / "other.h5", "w") as file:
        file["stuff"] = image
    with h5py.File(folder / "matlab.h5", "w", userblock_size=512) as file:
        file["CtDataFull"] = image
    with open(folder / "matlab.h5", "r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64")
    with open(folder / "array", "wb") as opened:
        np.save(opened, image)
    with open(folder / "arrays", "wb") as opened:
        np.savez(opened, image)
    (folder / "gzip").write_bytes(b"\x1f\x8b\x08\x00" + bytes(30))
    (folder / "frame.edf").write_bytes(b"{\nHeaderID = EH:000001;\nByteOrder = LowByteFirst ;\n}\n" + bytes(64))
    (folder / "volume.vgi").write_text("{volume1}\n[representation]\nsize = 1 2 3\n")
    (folder / "empty.h5").write_bytes(b"")
    (folder / "notes.txt").write_text("Monday: nothing. " * 30)
    (folder / "noise").write_bytes(struct.pack("<60d", *np.linspace(0.1, 9, 60)))
    (folder / "nothing").mkdir()
    (folder / "slices").mkdir()
    write_dicom(folder / "slices" / "one")


OTHERS = {
    "nm": "pnp convert nm ", "ct": "read_dicom", "ct_bare": "read_dicom", "mr": "neither", "spect.h00": "pnp convert",
    "fits": "read_shear_maps", "nifti.nii": "read_nifti", "picture.tif": "picture", "own.h5": "pnp reconstruct own.h5",
    "result.h5": "pnp report", "image.h5": "read_image", "other.h5": "layout", "matlab.h5": "CtDataFull",
    "array": "NumPy", "arrays": "zip", "gzip": "gunzip", "frame.edf": "TIFF", "volume.vgi": "projections",
    "empty.h5": "empty", "notes.txt": "no format", "noise": "no format", "nothing": "folder", "slices": "read_dicom",
    "absent": "no such file",
}  # fmt: skip


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    write_others(folder)
    return folder


@pytest.mark.parametrize("name", list(OTHERS))
def test_every_other_file_is_told_what_it_is(others, name):
    said = refused(read_scan, others / name)
    assert OTHERS[name] in said
    assert ("SPECT" in said) == (name in ("nm", "spect.h00"))


def test_rows_are_those_of_the_detector(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", COUNTS, photometric="minisblack")
    for rows in (slice(0, N_ROWS + 1), slice(None, None, -1), slice(2, 1)):
        assert ": rows " in refused(read_scan, tmp_path / "scan.tif", rows=rows, angles=ANGLES, kind="counts")
