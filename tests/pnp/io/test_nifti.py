"""Volumes in NIfTI: where a voxel is in the patient, read back by nibabel; and from any orientation to ours."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_files import refused

from pnp.io import check_image_output, read_image, read_nifti, write_image, write_nifti
from pnp.io.nifti import read_placed_nifti

RNG = np.random.default_rng(0)
VOLUME = RNG.random((4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("voxel", [4.8, (4.8, 5.0), (4.8, 4.8, 5.0)])
def test_every_voxel_is_where_it_was(tmp_path, suffix, voxel):
    """Ours: x to the left, y to the back, z to the head, 0 in the middle. NIfTI's: right, front, head."""
    path = tmp_path / f"x{suffix}"
    write_nifti(path, VOLUME, voxel)
    image = nibabel.load(path)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm" and image.get_data_dtype() == np.float32
    # The patient's axes, but no place in a scanner: a code of 1 would say so.
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 2)
    dz = voxel if isinstance(voxel, float) else voxel[-1]
    for i, j, k in [(0, 0, 0), (3, 0, 1), (1, 4, 2)]:
        left, back, head = 4.8 * (i - 1.5), 4.8 * (j - 2), dz * (k - 1)
        np.testing.assert_allclose(image.affine @ [i, j, k, 1], [-left, -back, head, 1], atol=1e-6)
        assert image.get_fdata()[i, j, k] == VOLUME[i, j, k]
    again, size = read_nifti(path)
    np.testing.assert_array_equal(again, VOLUME)
    assert size == pytest.approx((4.8, 4.8, dz), rel=1e-6)


def test_a_volume_in_the_study_is_where_the_scanner_had_it(tmp_path):
    """DICOM's frame has x to the left and y to the back, NIfTI's x to the right and y to the front."""
    path = tmp_path / "x.nii"
    write_nifti(path, VOLUME, (4.8, 5.0), centre_mm=(12.0, -7.0, 900.0), description="MBq/ml of 177Lu")
    image = nibabel.load(path)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    middle = (np.array(VOLUME.shape) - 1) / 2
    np.testing.assert_allclose(image.affine @ [*middle, 1], [-12, 7, 900, 1], atol=1e-4)
    assert image.header["descrip"].item() == b"MBq/ml of 177Lu" and nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    values, placed, is_placed = read_placed_nifti(path)
    np.testing.assert_array_equal(values, VOLUME)
    np.testing.assert_allclose(placed @ [*middle, 1], [12, -7, 900, 1], atol=1e-4)
    assert is_placed
    write_nifti(tmp_path / "y.nii", VOLUME, 4.8)
    assert not read_placed_nifti(tmp_path / "y.nii")[2]
    assert "centre_mm" in refused(write_nifti, tmp_path / "z.nii", VOLUME, 4.8, centre_mm=(1.0, 2.0))


@settings(deadline=None, max_examples=40)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    sizes=st.tuples(*[st.floats(0.5, 9)] * 3),
    shift=st.floats(-500, 500),
)
def test_any_orientation_becomes_ours(tmp_path_factory, axes, signs, sizes, shift):
    """The same patient stored with his axes in any order and direction."""
    # World axes (right, front, head) of ours: -x, -y, z. Stored axis a runs along our axis axes[a], signs[a].
    world = np.diag([-1.0, -1.0, 1.0])
    stored = VOLUME.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    affine = np.eye(4)
    for a, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, a] = world[:, axis] * sign * sizes[axis]
    affine[:3, 3] = shift
    path = tmp_path_factory.mktemp("nifti") / "x.nii"
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    again, size = read_nifti(path)
    np.testing.assert_array_equal(again, VOLUME)
    assert size == pytest.approx(sizes, rel=1e-5)


def test_ras_is_mirrored_and_other_units_and_axes_are_understood(tmp_path):
    image = nibabel.Nifti1Image(VOLUME[..., None].astype(np.int16), np.diag([0.002, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "x.nii")
    again, size = read_nifti(tmp_path / "x.nii")
    np.testing.assert_array_equal(again, VOLUME.astype(np.int16)[::-1, ::-1])
    assert size == pytest.approx((2, 2, 3)) and again.dtype == np.float32


def test_slope_is_applied_and_slight_tilts_are_rounding(tmp_path):
    affine = np.diag([-4.0, -4.0, 4.0, 1])
    affine[0, 1] = 1e-6
    image = nibabel.Nifti1Image((100 * VOLUME).astype(np.int16), affine)
    image.header.set_slope_inter(0.01, 0)
    nibabel.save(image, tmp_path / "x.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "x.nii")[0], VOLUME, atol=1.1)


@pytest.mark.parametrize(
    ("values", "affine", "part"),
    [
        (VOLUME[..., 0], np.eye(4), "volume"),
        (np.stack([VOLUME] * 2, -1), np.eye(4), "volume"),
        (VOLUME * math.nan, np.eye(4), "60 of 60"),
        (VOLUME, np.array([[1, 0.1, 0, 0], [-0.1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "affine"),
    ],
)
def test_it_refuses_to_read(tmp_path, values, affine, part):
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "x.nii.gz")
    assert part in refused(read_nifti, tmp_path / "x.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 3, 200, 400])
def test_broken_files_are_one_sentence(tmp_path, suffix, kept):
    path = tmp_path / f"x{suffix}"
    write_nifti(path, RNG.random((8, 8, 8)), 4.8)
    path.write_bytes(path.read_bytes()[:kept])
    assert "NIfTI" in refused(read_nifti, path)
    assert "no such file" in refused(read_nifti, tmp_path / "y.nii")


def test_it_refuses_to_write(tmp_path):
    for volume, voxel, name, part in [
        (VOLUME[0], 4.8, "x.nii", "volume"),
        (VOLUME[None, None], 4.8, "x.nii", "use volume[0, 0]"),
        (VOLUME, 0.0, "x.nii", "voxel_size_mm"),
        (VOLUME, (1, 2, 3, 4), "x.nii", "voxel_size_mm"),
        (VOLUME, math.nan, "x.nii", "voxel_size_mm"),
        (VOLUME, 4.8, "x.gz", ".nii.gz"),
        (VOLUME, 4.8, "absent/x.nii", "does not exist"),
    ]:
        assert part in refused(write_nifti, tmp_path / name, volume, voxel)
    write_nifti(tmp_path / "x.nii.gz", VOLUME, 4.8)
    first = (tmp_path / "x.nii.gz").read_bytes()
    assert "exists" in refused(write_nifti, tmp_path / "x.nii.gz", VOLUME, 4.8)
    write_nifti(tmp_path / "x.nii.gz", VOLUME, 4.8, overwrite=True)
    assert (tmp_path / "x.nii.gz").read_bytes() == first  # no time of writing in it
    assert [p.name for p in tmp_path.iterdir()] == ["x.nii.gz"]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.npy", "x.h5"])
def test_write_image_takes_volumes(tmp_path, name):
    write_image(tmp_path / name, VOLUME, voxel_size_mm=(4.8, 5.0))
    if "nii" in name:
        values, size = read_nifti(tmp_path / name)
        assert size == pytest.approx((4.8, 4.8, 5.0))
        assert "use read_nifti" in refused(read_image, tmp_path / name)
    else:
        values = np.load(tmp_path / name) if name.endswith("npy") else read_image(tmp_path / name)
    np.testing.assert_array_equal(values, VOLUME)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.fits", "x"])
def test_other_formats_have_no_place_for_volumes(tmp_path, name):
    assert "NIfTI" in refused(check_image_output, tmp_path / name, 1, volume=True)
    assert "NIfTI" in refused(write_image, tmp_path / "x.nii", VOLUME)
    assert "volume" in refused(write_image, tmp_path / "x.nii", VOLUME[0], voxel_size_mm=4.8)
    assert list(tmp_path.iterdir()) == []
