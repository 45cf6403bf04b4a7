"""`pnp reconstruct --error-bars` and `--regions`: what is written in every format, and what Ctrl-C leaves."""

from __future__ import annotations

import csv

import h5py
import numpy as np
import pytest
import torch
from command import run

from operators import Mask
from pnp.io import read_image, read_nifti, read_result, write_image, write_measurements
from pnp.uncertainty import bootstrap
from pnp.uncertainty.runs import Runs

TV = ("--denoiser", "tv", "--max-iter", 2)


@pytest.fixture
def measured(tmp_path):
    """Noisy measurements of a square behind a mask, with the truth."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 16, generator=generator) < 0.8
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:12, 4:12] = 1
    y = mask * (x + 0.1 * torch.randn(x.shape, generator=generator))
    write_measurements(
        tmp_path / "y.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.1, reference=x.numpy()
    )
    labels = np.zeros((16, 16), np.float32)
    labels[6:10, 6:10], labels[:3] = 2, 5
    write_image(tmp_path / "labels.tif", labels)
    return tmp_path / "y.h5", tmp_path / "labels.tif", mask, y


def test_hdf5_holds_the_numbers_of_bootstrap_and_the_page_shows_them(monkeypatch, measured, capsys):
    from denoisers import TV as Prior

    path, labels, mask, y = measured
    output, page = path.with_name("x.h5"), path.with_name("x.html")
    assert run(monkeypatch, "reconstruct", path, "-o", output, *TV, "--error-bars", 3, "--regions", labels) == 0
    expected = bootstrap(Mask(mask), y, Prior(), n=3, noise_std=0.1, max_iter=2)
    saved = read_result(output)
    bars = saved.error_bars
    np.testing.assert_allclose(bars.std, expected.std.numpy(), rtol=1e-5)
    np.testing.assert_allclose(bars.low, expected.interval(0.9)[0].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bars.high - saved.x, 1.645 * bars.std, rtol=1e-3)
    assert bars.level == 0.9 and bars.attributes["n"] == 3 and bars.attributes["hold_out"] == "measurements"
    assert bars.attributes["factor"] == pytest.approx(expected.factor, rel=1e-5)
    assert bars.regions["label"].tolist() == [2, 5]
    region = expected.region(torch.from_numpy(read_image(labels)) == 2)
    assert (bars.regions["mean"][0], bars.regions["std"][0]) == pytest.approx((region.value, region.std), rel=1e-4)
    with h5py.File(output) as file:
        assert file["error_bars/std"].attrs["units"] == file["error_bars/regions/mean"].attrs["units"]
    out = capsys.readouterr().out
    assert "3 copies" in out and "region 5: " in out and "90 % interval" in out
    assert run(monkeypatch, "report", output, "-o", page) == 0
    text = page.read_text()
    inside = 100 * np.mean((saved.reference >= bars.low) & (saved.reference <= bars.high))
    assert (
        "Error bars" in text
        and f"{inside:.3g} % of the pixels are within" in text
        and "data:image/png" in text
        and "Means of regions" in text
    )


@pytest.mark.parametrize(("name", "second"), [("x.tif", "x_std.tif"), ("x.fits", "x_std.fits"), ("x.png", "x_std.tif")])
def test_images_have_a_second_file_and_a_table(monkeypatch, measured, capsys, name, second):
    path, labels, *_ = measured
    output = path.with_name(name)
    options = (*TV, "--error-bars", 2, "--regions", labels)
    assert run(monkeypatch, "reconstruct", path, "-o", output, "--bounds", "0,1", *options) == 0
    std = read_image(path.with_name(second))
    assert std.shape == (16, 16) and std.min() > 0 and read_image(output).shape == std.shape
    with open(path.with_name("x_regions.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["2", "5"] and 0.5 < float(rows[0]["mean"]) < 1.2
    assert second in capsys.readouterr().out
    assert run(monkeypatch, "reconstruct", path, "-o", path.with_name("z.tif"), *options) == 0
    output.unlink()
    assert run(monkeypatch, "reconstruct", path, "-o", output, *options) == 2  # before anything is solved
    assert second in capsys.readouterr().err and not output.exists()


def test_volumes_have_theirs_in_nifti(monkeypatch, tmp_path, capsys):
    parameters = {"shape": (6, 6, 4), "angles": torch.arange(10) * 0.6, "voxel_size": 4.0}
    y = torch.poisson(torch.full((1, 1, 10, 6, 4), 20.0), torch.Generator().manual_seed(0))
    write_measurements(tmp_path / "y.h5", y, operator="spect", parameters=parameters)
    output = tmp_path / "x.nii.gz"
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", output, *TV, "--error-bars", 2) == 0
    std, _ = read_nifti(tmp_path / "x_std.nii.gz")[:2]
    assert std.shape == (6, 6, 4) and std.min() >= 0 and std.max() > 0
    assert "moves shift" in capsys.readouterr().out


def interrupted_after(monkeypatch, copies):
    """Ctrl-C once so many copies are there."""
    keep = Runs.keep

    def stop(runs, kept):
        keep(runs, kept)
        if len(runs.found["copy"]) == copies:
            raise KeyboardInterrupt

    monkeypatch.setattr(Runs, "keep", stop)


def test_ctrl_c_after_the_first_copy_writes_the_reconstruction(monkeypatch, measured, capsys):
    output = measured[0].with_name("x.h5")
    interrupted_after(monkeypatch, 1)
    assert run(monkeypatch, "reconstruct", measured[0], "-o", output, *TV, "--error-bars", 4) == 130
    assert read_result(output).error_bars is None
    assert "after 1 copy, error bars need 2; the reconstruction is written without" in capsys.readouterr().err


def test_ctrl_c_later_writes_what_there_is(monkeypatch, measured, capsys):
    output = measured[0].with_name("x.h5")
    interrupted_after(monkeypatch, 2)
    assert run(monkeypatch, "reconstruct", measured[0], "-o", output, *TV, "--error-bars", 4) == 130
    assert read_result(output).error_bars.attributes["n"] == 2
    out, err = capsys.readouterr()
    assert "2 of 4 copies" in out and "warning: Ctrl-C came early" in err


def test_ctrl_c_with_a_checkpoint_resumes(monkeypatch, measured, capsys):
    path, kept = measured[0], measured[0].with_name("kept")
    options = (*TV, "--error-bars", 3, "--checkpoint", kept)
    for copies in (1, 2):
        with monkeypatch.context() as patched:
            interrupted_after(patched, copies)
            assert run(patched, "reconstruct", path, "-o", path.with_name("x.h5"), *options) == 130
        assert "same command resumes" in capsys.readouterr().err and not path.with_name("x.h5").exists()
    assert run(monkeypatch, "reconstruct", path, "-o", path.with_name("x.h5"), *options) == 0
    assert run(monkeypatch, "reconstruct", path, "-o", path.with_name("whole.h5"), *options[:-2]) == 0
    bars = [read_result(path.with_name(name)).error_bars for name in ("x.h5", "whole.h5")]
    np.testing.assert_array_equal(bars[0].std, bars[1].std)
    assert not list(path.parent.glob("kept*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--error-bars", 1), "--error-bars"),
        (("--regions", "labels.tif"), "--regions"),
        (("--error-bars", 2, "--regions", "other.tif"), "--regions"),
        (("--error-bars", 2, "--regions", "halves.tif"), "--regions"),
        (("--error-bars", 2, "--regions", "labels.png"), "--regions"),
    ],
)
def test_what_cannot_be_right_is_refused_before_the_solve(monkeypatch, measured, capsys, options, said):
    folder = measured[0].parent
    write_image(folder / "other.tif", np.ones((4, 4)))
    write_image(folder / "halves.tif", np.full((16, 16), 0.5))
    write_image(folder / "labels.png", np.ones((16, 16)))
    options = [folder / o if str(o).endswith((".tif", ".png")) else o for o in options]
    assert run(monkeypatch, "reconstruct", measured[0], "-o", folder / "x.h5", *options) == 2
    err = capsys.readouterr().err
    assert said in err and len(err) < 400 and not (folder / "x.h5").exists()


def test_scans_have_none(monkeypatch, scan, tmp_path, capsys):
    assert run(monkeypatch, "reconstruct", scan, "-o", tmp_path / "x.zarr", "--error-bars", 4) == 2
    assert "--error-bars" in capsys.readouterr().err
