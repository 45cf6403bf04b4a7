"""`pnp reconstruct` on volumes of pictures: a microscope's stack, blurred by a measured PSF in space, or with holes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from arrays import rel
from command import run
from scipy import ndimage

from operators import Blur
from pnp.io import read_result

QUICK = ("--denoiser", "tv", "--noise-std", "0.01", "--bounds", "0,inf")
SHAPE = (3, 24, 20)  # three slices, which are no colours


def stack(path: Path, operator: str, **datasets: np.ndarray) -> np.ndarray:
    """Write a layout file by hand, as docs/hdf5_layout.md describes it; return the truth."""
    truth = np.zeros(SHAPE, np.float32)
    truth[1 if operator == "blur" else slice(None), 8:14, 6:12] = 1
    y = ndimage.gaussian_filter(truth, (0.6, 1.2, 1.2), mode="reflect") if operator == "blur" else truth
    y = y + 0.01 * np.random.default_rng(0).standard_normal(SHAPE)
    with h5py.File(path, "w") as file:
        file["measurements"] = y[None, None].astype("f4")
        group = file.create_group("operator")
        group.attrs["name"] = operator
        for name, values in datasets.items():
            if np.ndim(values) > 1:
                group[name] = values
            else:
                group.attrs[name] = values
    return truth


def psf() -> np.ndarray:
    point = np.zeros((3, 11, 11))
    point[1, 5, 5] = 1
    return ndimage.gaussian_filter(point, (0.6, 1.2, 1.2), mode="constant")


def test_a_stack_is_sharpened_in_space(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "y.h5", tmp_path / "x.tif"
    blur = {"kernel": psf(), "shape": np.array(SHAPE, "f8"), "boundary": "reflect"}
    truth = stack(path, "blur", **blur)
    assert run(monkeypatch, "reconstruct", path, "-o", out, *QUICK) == 0
    x = tifffile.imread(out)
    assert x.shape == SHAPE and x.dtype == np.float32
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK and len(file.pages) == 3
    with h5py.File(path) as file:
        y = file["measurements"][0, 0]
    assert rel(torch.from_numpy(x), torch.from_numpy(truth)) < 0.6 * rel(torch.from_numpy(y), torch.from_numpy(truth))
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "x.h5", *QUICK) == 0
    assert np.array_equal(read_result(tmp_path / "x.h5").x[0, 0], x)
    assert run(monkeypatch, "report", tmp_path / "x.h5", "-o", tmp_path / "x.html", "--measurements", path) == 0
    capsys.readouterr()
    for name in ("x.png", "x.nii.gz"):
        assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / name, *QUICK) == 2
        assert "TIFF" in capsys.readouterr().err
    written = Blur(torch.from_numpy(psf()), SHAPE, "reflect")
    assert written.kernel.shape == (3, 11, 11)


def test_lost_voxels_of_a_stack(tmp_path, monkeypatch):
    path, out = tmp_path / "y.h5", tmp_path / "x.npy"
    mask = np.random.default_rng(1).random(SHAPE) < 0.7
    truth = stack(path, "mask", mask=mask, dimensions=3.0)
    assert run(monkeypatch, "reconstruct", path, "-o", out, *QUICK) == 0
    assert rel(torch.from_numpy(np.load(out)), torch.from_numpy(truth)) < 0.35


def test_a_stack_is_denoised_slice_by_slice_across_its_axes_by_weights_of_images(tmp_path, monkeypatch):
    path, out = tmp_path / "y.h5", tmp_path / "x.h5"
    stack(path, "identity", shape=np.array(SHAPE))
    assert run(monkeypatch, "reconstruct", path, "-o", out, "--noise-std", "0.01", "--max-iter", "2") == 0
    assert read_result(out).attributes["denoiser"] == "mlpatch:gray, slices across x, y and z"


@pytest.mark.parametrize("missing", [{}, {"dimensions": 2}])
def test_a_mask_without_its_dimensions_is_said(tmp_path, monkeypatch, capsys, missing):
    path = tmp_path / "y.h5"
    stack(path, "mask", mask=np.ones(SHAPE, bool)[None, None], **missing)
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "x.npy", *QUICK) == 2
    assert "dimensions=3" in capsys.readouterr().err
