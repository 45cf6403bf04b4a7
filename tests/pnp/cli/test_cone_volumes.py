"""Cone beams on the command line: from measurements to a volume where it was, and its page."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from command import run
from cone_files import SHAPE, VOXEL, blocks, write_cone
from report_page import Page

from operators import SPECT, ConeBeam
from pnp.cli.output import save
from pnp.cli.problem import read_problem
from pnp.io import read_nifti, read_result, write_nifti


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_cone(tmp_path_factory.mktemp("cone") / "scan.h5")


def test_a_volume_comes_out_where_it_was(monkeypatch, file, tmp_path):
    """The world of the NIfTI file is X, Y, Z of ConeBeam, in mm."""
    path = tmp_path / "x.nii.gz"
    options = ("--operator", "cone_beam", "--denoiser", "tv", "--max-iter", 3, "--bounds", "0,inf")
    assert run(monkeypatch, "reconstruct", file, "-o", path, *options) == 0
    image = nibabel.load(path)
    assert nibabel.aff2axcodes(image.affine) == ("R", "P", "S") and image.header.get_xyzt_units()[0] == "mm"
    x, truth = image.get_fdata(), blocks()[0, 0].numpy()
    assert x.shape == SHAPE[::-1] and np.corrcoef(x.ravel(), truth.transpose(2, 1, 0).ravel())[0, 1] > 0.9
    slice_, row, column = 5, 6, 8
    place = VOXEL[2] * (column - 5.5), VOXEL[1] * (4.5 - row), VOXEL[0] * (slice_ - 3.5)
    np.testing.assert_allclose(image.affine @ [column, row, slice_, 1], [*place, 1], atol=1e-5)
    turned, size = read_nifti(path)
    np.testing.assert_allclose(turned, x[::-1], rtol=1e-6)
    assert size == pytest.approx(VOXEL[::-1])


def test_everything_in_hdf5_and_a_page_of_three_planes(monkeypatch, file, tmp_path, capsys):
    path, page, volume = tmp_path / "x.h5", tmp_path / "x.html", tmp_path / "first.nii"
    assert run(monkeypatch, "reconstruct", file, "-o", path, "--denoiser", "tv", "--max-iter", 1) == 0
    saved = read_result(path)
    write_nifti(volume, saved.x[0, 0].transpose(2, 1, 0), VOXEL[::-1], axes="RPS")
    assert saved.attributes["denoiser"] == "tv"
    assert saved.x.shape == (1, 1, *SHAPE) and saved.length_units == "mm" and saved.operator == "cone_beam"
    run(monkeypatch, "report", path, "-o", page, "--measurements", file, "--baseline", volume)
    assert "MB" in capsys.readouterr().out
    read = Page(page.read_text(encoding="utf-8"))
    assert read.data["units"] == "1/mm"
    assert read.data["shape"] == [1, *SHAPE[::-1]] and read.data["spacing"] == pytest.approx([1.0, 1.25, 1.5])
    shown = read.pictures
    np.testing.assert_allclose(shown["truth"][0], blocks()[0, 0].numpy().transpose(2, 1, 0), atol=1e-4)
    np.testing.assert_allclose(shown["first"], shown["reconstruction"], atol=1e-4)
    assert "filtered back-projection" in shown


def test_files_without_a_unit_and_arrays(tmp_path):
    data = read_problem(write_cone(tmp_path / "scan.h5", length_units=""))
    made = SimpleNamespace(x=blocks())
    save(tmp_path / "x.nii", made, data, {}, False)
    image = nibabel.load(tmp_path / "x.nii")
    assert image.header.get_xyzt_units()[0] == "unknown" and image.header.get_zooms() == pytest.approx(VOXEL[::-1])
    with pytest.raises(ValueError, match="unit"):
        write_nifti(tmp_path / "y.nii", blocks()[0, 0], 1.0, unit="cm")
    save(tmp_path / "x.npy", made, data, {}, False)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), blocks()[0, 0])


@pytest.mark.parametrize(
    ("output", "options", "part"),
    [
        ("x.png", (), "volumes"),
        ("x.h5", ("--operator", "spect"), "--operator"),
    ],
)
def test_wrong_options_are_one_sentence(monkeypatch, file, tmp_path, capsys, output, options, part):
    assert run(monkeypatch, "reconstruct", file, "-o", tmp_path / output, *options) == 2
    assert part in capsys.readouterr().err


def test_one_order_of_axes_for_ct_and_spect():
    """(slice, row, column) of a cone-beam volume is (z, y, x) of SPECT's, rows and y downwards.

    From far away a cone's rays are a camera's. Y of SPECT points down and that of ConeBeam up: angles change sign.
    """
    angles = torch.tensor([0.3, 4.0], dtype=torch.float64)
    shape = (7, 15, 15)
    far = ConeBeam(shape, -angles, source_origin=1e7, origin_detector=0.0, detector_shape=(7, 15))
    camera = SPECT(shape[::-1], angles, voxel_size=1.0)
    for voxel in ((2, 4, 9), (4, 10, 7)):
        x = torch.zeros(1, 1, *shape, dtype=torch.float64)
        x[(0, 0, *voxel)] = 1
        views = camera.A(x.permute(0, 1, 4, 3, 2))[0, 0].transpose(1, 2)  # (n_views, z, x)
        for seen, expected in zip(far.A(x)[0, 0], views, strict=True):
            torch.testing.assert_close(centroid(seen), centroid(expected), atol=0.02, rtol=0)


def centroid(view):
    rows, columns = (torch.arange(n, dtype=view.dtype) for n in view.shape)
    return torch.stack([view.sum(1) @ rows, view.sum(0) @ columns]) / view.sum()


def test_error_bars_and_regions_are_in_the_frame_of_the_volume(monkeypatch, file, tmp_path, capsys):
    """Of a label image in that frame the mean is that of the labelled voxels; the copies are moved as images are."""
    labels = np.zeros(SHAPE, np.float32)
    labels[1:3, 2:4, 3:9] = 1
    write_nifti(tmp_path / "labels.nii", labels.transpose(2, 1, 0), VOXEL[::-1], axes="RPS")
    options = ("--denoiser", "tv", "--max-iter", 1, "--error-bars", 2, "--regions", tmp_path / "labels.nii")
    assert run(monkeypatch, "reconstruct", file, "-o", tmp_path / "x.nii", *options) == 0
    assert "flip" in capsys.readouterr().out
    x, std = (nibabel.load(tmp_path / name) for name in ("x.nii", "x_std.nii"))
    np.testing.assert_array_equal(std.affine, x.affine)
    assert std.header.get_xyzt_units() == x.header.get_xyzt_units() and std.shape == x.shape
    (row,) = np.genfromtxt(tmp_path / "x_regions.csv", delimiter=",", names=True, ndmin=1)
    assert row["mean"] == pytest.approx(x.get_fdata()[labels.transpose(2, 1, 0) == 1].mean(), rel=1e-4)
