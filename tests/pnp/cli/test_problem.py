"""What `pnp reconstruct` and its like say to a file that is no measurements: what it is, and what takes it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from nexus_files import write_nxtomo
from PIL import Image
from reader_files import SINOGRAM, refused, write_dicom, write_dx, write_htc
from spect_files import seen_from, write_interfile, write_nm

from pnp.cli.problem import read_problem
from pnp.io import write_fits_maps, write_measurements, write_result

VIEWS = np.stack([seen_from(phi) for phi in (0, 90, 180, 270)])
IMAGE = SINOGRAM.astype(np.float32)

FILES = {
    "sino.tif": (lambda p: tifffile.imwrite(p, IMAGE), "angles="),
    "scan.h5": (write_dx, "read_scan('scan.h5')"),
    "scan.nxs": (write_nxtomo, "read_scan('scan.nxs')"),
    "scan.mat": (write_htc, "read_scan('scan.mat')"),
    "photo.png": (lambda p: Image.fromarray((255 * IMAGE).astype(np.uint8)).save(p), "picture"),
    "shear.fits": (lambda p: write_fits_maps(p, {"E1": IMAGE}), "read_shear_maps"),
    "slice.dcm": (write_dicom, "read_dicom"),
    "sino.npy": (lambda p: np.save(p, IMAGE), "CtScan"),
    "result.h5": (lambda p: write_result(p, IMAGE[None, None]), "pnp report"),
    "spect.dcm": (lambda p: write_nm(p, VIEWS), "pnp convert spect.dcm"),
    "spect.h00": (lambda p: write_interfile(p, VIEWS), "pnp convert spect.h00"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_files_are_told_what_they_are(tmp_path, name):
    write, part = FILES[name]
    write(tmp_path / name)
    said = refused(read_problem, tmp_path / name)
    assert part in said
    assert ("SPECT" in said or "convert" in said) == name.startswith("spect")


def test_a_folder_of_projections(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    assert "angles=" in refused(read_problem, tmp_path)
    assert "absent.h5" in refused(read_problem, tmp_path / "absent.h5")


def test_measurements_are_read_whatever_their_name(tmp_path):
    write_measurements(tmp_path / "y.data", IMAGE[None, None], operator="radon", parameters={"angles": np.arange(6.0)})
    assert read_problem(tmp_path / "y.data").y.shape == (1, 1, *SINOGRAM.shape)
    (tmp_path / "empty.h5").write_bytes(b"")
    assert "empty.h5" in refused(read_problem, tmp_path / "empty.h5")
