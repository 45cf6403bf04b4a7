"""Attenuation maps and CTs where they lie: NIfTI by nibabel, a CT series by pydicom, Interfile byte by byte."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from reader_files import refused, save_dicom

from pnp.readers.spect_attenuation import on_volume, read_attenuation

SHAPE, VOXEL = (20, 20, 12), (4.0, 4.0, 5.0)
CENTRE = np.array([15.0, -30.0, 800.0])
LOW, HIGH = CENTRE - np.array([14.0, 10.0, 11.0]), CENTRE + np.array([22.0, 18.0, 17.0])
"""Corners of a box of 0.015/mm, wider to the left, the back and the head."""
TARGETS = [np.arange(n) - (n - 1) / 2 for n in SHAPE]


def grid(shape: tuple[int, ...], matrix: np.ndarray, parts: int = 2) -> np.ndarray:
    """The box on the voxels of a grid, the mean of parts^3 points in each."""
    index = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    offsets, total = (np.arange(parts) + 0.5) / parts - 0.5, np.zeros(shape)
    for part in itertools.product(offsets, repeat=3):
        places = (index + np.array(part)) @ matrix[:3, :3].T + matrix[:3, 3]
        total += ((places > LOW) & (places < HIGH)).all(-1)
    return 0.015 * total / parts**3


def truth() -> np.ndarray:
    """The box on the voxels of the volume: what each holds of it."""
    edges = [centre + size * (np.arange(n + 1) - n / 2) for centre, size, n in zip(CENTRE, VOXEL, SHAPE, strict=True)]
    parts = [
        np.clip(np.minimum(e[1:], high) - np.maximum(e[:-1], low), 0, None) / size
        for e, low, high, size in zip(edges, LOW, HIGH, VOXEL, strict=True)
    ]
    return 0.015 * np.einsum("i,j,k", *parts)


def assert_in_place(found: np.ndarray, rtol: float = 0.02) -> None:
    """The sum, the centre of mass to a tenth of a voxel, and the mean inside agree with the box."""
    expected = truth()
    assert found.sum() == pytest.approx(expected.sum(), rel=rtol)
    for axis, places in enumerate(TARGETS):
        sums = [v.sum(tuple(k for k in range(3) if k != axis)) @ places / v.sum() for v in (found, expected)]
        assert sums[0] == pytest.approx(sums[1], abs=0.1)
    inside = expected == expected.max()
    assert np.abs(found[inside] - 0.015).max() < 0.008 and np.median(found[inside]) == pytest.approx(0.015, rel=0.03)


def placed(path: Path, values: Any = None, **options: Any) -> tuple[np.ndarray, list[str]]:
    found = read_attenuation(path)
    mu = found.values if values is None else values(found.values)
    options = {"centre_mm": tuple(CENTRE)} | options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = on_volume(path.name, found, mu.astype(np.float32), SHAPE, VOXEL, **options)
    return result, [str(w.message) for w in caught]


TURNS = {
    "left, back, head": np.eye(3),
    "right, front, head": np.diag([-1.0, -1.0, 1.0]),
    "head, left, front": np.array([[0, 1.0, 0], [0, 0, -1.0], [1.0, 0, 0]]),
    "turned by 20 degrees": np.array([[np.cos(0.35), -np.sin(0.35), 0], [np.sin(0.35), np.cos(0.35), 0], [0, 0, 1.0]]),
}


def nifti(path: Path, turn: np.ndarray, sizes: tuple[float, float, float], shape: tuple[int, int, int]) -> np.ndarray:
    """Write the box by nibabel, whose world is RAS+; return the matrix in DICOM's frame."""
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(sizes)
    matrix[:3, 3] = CENTRE + np.array([3.0, -2.0, 1.0]) - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    image = nibabel.Nifti1Image(grid(shape, matrix, int(max(sizes))).astype("f4"), np.diag([-1, -1, 1, 1]) @ matrix)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, path)
    return matrix


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("sizes", [(2.0, 2.0, 2.0), (4.0, 4.0, 5.0), (1.5, 3.0, 6.0)])
def test_nifti_by_its_affine(tmp_path, turn, sizes):
    shape = tuple(int(90 / size) for size in sizes)
    nifti(tmp_path / "mu.nii.gz", TURNS[turn], sizes, shape)  # type: ignore[arg-type]
    result, said = placed(tmp_path / "mu.nii.gz")
    assert_in_place(result, rtol=0.06 if max(sizes) > 5 else 0.03)
    assert said == []


def test_a_map_on_the_volumes_voxels_keeps_every_bit(tmp_path):
    values = np.random.default_rng(0).random(SHAPE).astype("f4") * 0.02
    affine = np.diag([-4.0, 4.0, 5.0, 1.0])  # right to left, back to front
    affine[:3, 3] = [-CENTRE[0] + 38, -CENTRE[1] - 38, CENTRE[2] - 27.5]
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, code=1)
    nibabel.save(image, tmp_path / "mu.nii")
    result, said = placed(tmp_path / "mu.nii")
    np.testing.assert_array_equal(result, values[:, ::-1])
    assert [text for text in said if "cylinder" not in text] == []


def test_shifts_and_places_that_are_not_known(tmp_path):
    nifti(tmp_path / "mu.nii", TURNS["left, back, head"], (2.0, 2.0, 2.0), (45, 45, 45))
    by_one, _ = placed(tmp_path / "mu.nii", shift_mm=(4.0, -8.0, 5.0))
    plain, _ = placed(tmp_path / "mu.nii")
    np.testing.assert_allclose(by_one[1:, :-2, 1:], plain[:-1, 2:, :-1], atol=1e-5)
    assert "give the volume's centre" in refused(placed, tmp_path / "mu.nii", centre_mm=None)
    assert "not at one place" in refused(placed, tmp_path / "mu.nii", centre_mm=(15.0, 70.0, 800.0))
    # The same affine 12 mm off: taken as it is, and said, where the scan has no place of its own.
    image = nibabel.load(tmp_path / "mu.nii")
    near = np.diag([-2.0, -2.0, 2.0, 1.0])
    near[:3, 3] = [44 - 12, 44, -44]
    moved = nibabel.Nifti1Image(np.asarray(image.dataobj)[::1], near)
    nibabel.save(moved, tmp_path / "near.nii")
    result, said = placed(tmp_path / "near.nii", centre_mm=None)
    centred, _ = placed(tmp_path / "near.nii", centre_mm=(12.0, 0.0, 0.0))
    np.testing.assert_allclose(result[3:], centred[:-3], atol=1e-5)
    assert "(12, 0, 0)" in said[0]


def ct_series(folder: Path, *, reverse: bool = False, kvp: str = "120") -> None:
    """A CT of the box as PS3.3 C.7.6.2 has it: the first pixel's centre, and the directions of rows and columns."""
    folder.mkdir()
    shape, size, dz = (48, 44, 30), 2.0, 2.5
    first = CENTRE - [47.0, 41.0, 36.0]
    matrix = np.diag([size, size, dz, 1.0])
    matrix[:3, 3] = first
    hu = np.rint(1000 * (grid(shape, matrix) / 0.015 - 1)).astype(np.int16)
    for k in range(shape[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{k}"
        data.Modality, data.SeriesInstanceUID = "CT", "1.2.3"
        data.Rows, data.Columns, data.PixelSpacing = shape[1], shape[0], [str(size)] * 2
        data.ImagePositionPatient = [f"{v:g}" for v in first + np.array([0, 0, k * dz])]
        data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        data.KVP, data.SliceThickness, data.RescaleSlope, data.RescaleIntercept = kvp, str(dz), "1", "-1024"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
        number = shape[2] - k if reverse else k
        save_dicom(folder / f"{number:03}.dcm", data, {})


@pytest.mark.parametrize("reverse", [False, True])
def test_a_ct_series_by_its_positions(tmp_path, reverse):
    ct_series(tmp_path / "ct", reverse=reverse)
    assert read_attenuation(tmp_path / "ct").unit == "HU"
    result, said = placed(tmp_path / "ct", lambda hu: 0.015 * (1 + hu / 1000))
    assert_in_place(result, rtol=0.05)
    assert said == []
    ct_series(tmp_path / "low", kvp="80")
    assert "80 kV" in placed(tmp_path / "low", lambda hu: 0.015 * (1 + hu / 1000))[1][0]


HV = """!INTERFILE :=
!name of data file := mu.v
imagedata byte order := {order}
!number format := float
!number of bytes per pixel := 4
!matrix size [1] := 20
!matrix size [2] := 20
!matrix size [3] := 12
scaling factor (mm/pixel) [1] := 4
scaling factor (mm/pixel) [2] := 4
scaling factor (mm/pixel) [3] := 5
!END OF INTERFILE :=
"""


@pytest.mark.parametrize("order", ["LITTLEENDIAN", "BIGENDIAN"])
def test_interfile_images_are_slices_from_the_head_on(tmp_path, order):
    """Columns to the left, rows to the back, slices from the head to the feet, middle on middle."""
    mu = truth().astype("f4")
    (tmp_path / "mu.v").write_bytes(
        mu.transpose(2, 1, 0)[::-1].astype(f"{'>' if order[0] == 'B' else '<'}f4").tobytes()
    )
    (tmp_path / "mu.hv").write_text(HV.format(order=order))
    result, said = placed(tmp_path / "mu.hv")
    np.testing.assert_array_equal(result, mu)
    assert len(said) == 2 and "slices from head to feet" in said[0]
    (tmp_path / "mu.hv").write_text(HV.format(order=order).replace("[3] := 12", "[3] := 13"))
    assert "13 x 20 x 20" in refused(read_attenuation, tmp_path / "mu.hv")
    (tmp_path / "mu.hv").write_text(HV.format(order=order).replace("!name of data file := mu.v\n", ""))
    assert "name of data file" in refused(read_attenuation, tmp_path / "mu.hv")


def test_what_only_some_views_see_is_said(tmp_path):
    values = np.full(SHAPE, 0.01, "f4")  # fills the corners, as a table and arms do
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-4.0, -4.0, 5.0, 1.0])), tmp_path / "mu.nii")
    centre = (38.0, 38.0, 27.5)  # the matrix begins at the origin
    _, said = placed(tmp_path / "mu.nii", centre_mm=centre)
    assert ["cylinder" in text for text in said] == [True]
