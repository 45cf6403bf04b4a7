"""Slices of a run as NIfTI and TIFF, opened by nibabel and tifffile: values, axes, sizes, and what is not replaced."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import tifffile

zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.io import read_nifti, write_nifti  # noqa: E402
from pnp.readers import read_tiff_stack  # noqa: E402
from pnp.stack import write_volume  # noqa: E402
from pnp.stack.results_store import Parts  # noqa: E402

IMAGES = np.random.default_rng(0).standard_normal((3, 1, 5, 7)).astype(np.float32)
SIZES = (0.3, 0.2, 0.1)
"""Distance of slices, height and width of a pixel in mm."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run.zarr"
    Parts.create(folder, 3, IMAGES.shape[1:], "float32", {}).array("image", "r+")[:] = IMAGES
    return folder


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti(run, tmp_path, name):
    write_volume(run, tmp_path / name, voxel_size_mm=SIZES)
    image = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(image.dataobj), IMAGES[:, 0].transpose(2, 1, 0))
    assert image.header.get_zooms() == pytest.approx(SIZES[::-1]) and image.header.get_xyzt_units()[0] == "mm"
    # x to the left, y back: the first row and column are to the right and in front; the origin is the middle.
    np.testing.assert_allclose(image.affine @ [3, 2, 1, 1], [0, 0, 0, 1], atol=1e-6)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    values, sizes = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(values, IMAGES[:, 0].transpose(2, 1, 0))
    assert sizes == pytest.approx(SIZES[::-1])
    write_nifti(tmp_path / "at_once.nii", values, SIZES[::-1])
    content = (tmp_path / name).read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == (tmp_path / "at_once.nii").read_bytes()


def test_one_tiff_file(run, tmp_path):
    write_volume(run, tmp_path / "v.tif", voxel_size_mm=SIZES)
    with tifffile.TiffFile(tmp_path / "v.tif") as tiff:
        np.testing.assert_array_equal(tiff.asarray(), IMAGES[:, 0])
        held, tags = tiff.imagej_metadata, tiff.pages[0].tags
        assert (held["slices"], held["unit"], held["spacing"]) == (3, "mm", 0.3)
        assert [tags[f"{axis}Resolution"].value[0] / tags[f"{axis}Resolution"].value[1] for axis in "XY"] == [10, 5]


def test_a_tiff_file_too_large_for_imagej_is_bigtiff(run, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["pnp.stack.write_volume"], "_MAX_IMAGEJ_BYTES", 100)
    write_volume(run, tmp_path / "v.tif", voxel_size_mm=SIZES)
    with tifffile.TiffFile(tmp_path / "v.tif") as tiff:
        assert tiff.is_bigtiff and tiff.pages[0].tags["ResolutionUnit"].value == 3  # centimetres
        assert tiff.pages[0].tags["XResolution"].value[0] / tiff.pages[0].tags["XResolution"].value[1] == 100
        np.testing.assert_array_equal(tiff.asarray(), IMAGES[:, 0])


def test_a_folder_of_tiff_files(run, tmp_path):
    write_volume(run, tmp_path / "slices", voxel_size_mm=SIZES)
    assert sorted(file.name for file in (tmp_path / "slices").iterdir()) == [f"slice_000{k}.tif" for k in range(3)]
    np.testing.assert_array_equal(read_tiff_stack(tmp_path / "slices"), IMAGES[:, 0])
    with pytest.raises(ValueError, match="output"):
        write_volume(run, tmp_path / "slices")
    write_volume(run, tmp_path / "slices", overwrite=True)
    (tmp_path / "slices" / "mine.txt").touch()
    with pytest.raises(ValueError, match="other files"):
        write_volume(run, tmp_path / "slices", overwrite=True)
    assert len(list((tmp_path / "slices").iterdir())) == 4 and len(list(tmp_path.iterdir())) == 1


def test_sizes_that_are_not_known_are_not_stated(run, tmp_path):
    for name in ("v.nii", "v.tif"):
        write_volume(run, tmp_path / name)
    assert nibabel.load(tmp_path / "v.nii").header.get_xyzt_units()[0] == "unknown"
    with tifffile.TiffFile(tmp_path / "v.tif") as tiff:
        assert "unit" not in tiff.imagej_metadata and tiff.pages[0].tags["XResolution"].value == (1, 1)


def test_a_slice_that_failed_is_nan(tmp_path):
    parts = Parts.create(tmp_path / "run.zarr", 2, (1, 2, 2), "float64", {})
    parts.array("image", "r+")[1] = 2.0
    write_volume(tmp_path / "run.zarr", tmp_path / "v.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "v.tif"), [np.full((2, 2), np.nan), np.full((2, 2), 2)])


@pytest.mark.parametrize("name", ["v.png", "v.fits", "there.nii", "missing/v.nii", "missing/slices"])
def test_outputs_that_cannot_be_are_refused(run, tmp_path, name):
    (tmp_path / "there.nii").write_text("mine")
    with pytest.raises(ValueError, match="output"):
        write_volume(run, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["there.nii"]


def test_several_channels_are_refused(tmp_path):
    Parts.create(tmp_path / "run.zarr", 2, (3, 2, 2), "float32", {})
    with pytest.raises(ValueError, match="channel"):
        write_volume(tmp_path / "run.zarr", tmp_path / "v.nii")
