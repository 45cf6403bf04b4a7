"""`pnp osem --error-bars` and `pnp regions`: means, totals and volumes, with errors and recovery."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command import run
from spect_files import SHAPE, VOXEL, camera_scan, write_scan

from pnp.io import read_nifti, read_result, write_nifti
from pnp.spect import fit_recovery, sphere_diameter
from pnp.uncertainty import bootstrap_osem

OSEM = ("--subsets", 2, "--iterations", 2)
ACTIVITY = ("--calibration", 9, "--view-seconds", 20, "--isotope", "177Lu")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A scan, and two regions."""
    labels = np.zeros(SHAPE, np.float32)
    labels[8:12, 8:12, 2:5], labels[14:16, 10:14, 3:6] = 2, 5
    write_nifti(tmp_path / "labels.nii.gz", labels, VOXEL)
    return write_scan(tmp_path / "y.h5"), tmp_path / "labels.nii.gz"


def table(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_osem_has_error_bars_of_regions(monkeypatch, capsys, files):
    path, labels = files
    bars = ("--error-bars", 3, "--regions", labels)
    assert run(monkeypatch, "osem", path, "-o", path.with_name("n.h5"), *OSEM, *bars) == 0
    A, y, scatter, _ = camera_scan()
    expected = bootstrap_osem(A, y, n_subsets=2, background=scatter, max_iter=2, n=3)
    saved = read_result(path.with_name("n.h5"))
    np.testing.assert_allclose(saved.error_bars.std, expected.std, rtol=1e-3, atol=1e-3)
    region = expected.region(read_nifti(labels)[0] == 2)
    found = {name: values[0] for name, values in saved.error_bars.regions.items()}
    assert (found["mean"], found["std"]) == pytest.approx((region.value, region.std), rel=1e-3)
    assert found["volume_ml"] == pytest.approx(48 * VOXEL**3 / 1000)
    assert found["total_std"] == pytest.approx(found["std"] * found["volume_ml"])
    out = capsys.readouterr().out
    assert "region 2: " in out and "MBq" not in out and "3 copies" in out
    # In MBq/ml all of it is multiplied; beside NIfTI it is in further files.
    assert run(monkeypatch, "osem", path, "-o", path.with_name("x.nii.gz"), *OSEM, *bars, *ACTIVITY) == 0
    out = capsys.readouterr().out
    rows = table(path.with_name("x_regions.csv"))
    x, _ = read_nifti(path.with_name("x.nii.gz"))
    scale = x.sum() / saved.x.sum()
    assert rows[0]["std"] == pytest.approx(found["std"] * scale, rel=1e-3) and "MBq/ml, 196.6 ml, total" in out
    std, _ = read_nifti(path.with_name("x_std.nii.gz"))
    np.testing.assert_allclose(std, saved.error_bars.std[0, 0] * scale, rtol=1e-3, atol=1e-6)
    assert b"deviation, MBq/ml" in nibabel.load(path.with_name("x_std.nii.gz")).header["descrip"].item()


def test_regions_of_results_and_volumes(monkeypatch, capsys, files):
    path, labels = files
    bars = ("--error-bars", 3, "--regions", labels, "--post-filter", "20mm")
    outputs = ("-o", path.with_name("x.h5"), "-o", path.with_name("x.nii.gz"))
    assert run(monkeypatch, "osem", path, *outputs, *OSEM, *ACTIVITY, *bars) == 0
    (path.parent / "spheres.csv").write_text("diameter_mm,recovery\n20,0.4\n30,0.62\n50,0.8\n80,0.9\n")
    for name, more in (("x.h5", ()), ("x.nii.gz", ()), ("x.h5", ("--recovery", path.with_name("spheres.csv")))):
        capsys.readouterr()
        output = ("-o", path.with_name("table.csv"), "--overwrite")
        assert run(monkeypatch, "regions", path.with_name(name), labels, *more, *output) == 0
        out, rows = capsys.readouterr().out, table(path.with_name("table.csv"))
        assert "region 5: " in out and " MBq" in out and ("+-" in out) == (name == "x.h5")
        if not more and name == "x.h5":
            bare = rows
        assert [row["label"] for row in rows] == [2, 5]
    x, mask = read_nifti(path.with_name("x.nii.gz"))[0], read_nifti(labels)[0] == 5
    assert bare[1]["mean"] == pytest.approx(x[mask].mean(), rel=1e-5)
    saved = read_result(path.with_name("x.h5"))
    assert bare[1]["mean_std"] == pytest.approx(saved.error_bars.regions["std"][1], rel=1e-6)
    moved = np.roll(read_nifti(labels)[0], 1, 0)
    write_nifti(path.with_name("moved.nii"), moved, VOXEL)
    assert run(monkeypatch, "regions", path.with_name("x.h5"), path.with_name("moved.nii")) == 0
    said = capsys.readouterr()
    assert "+-" not in said.out and "region 2 is not that of the result's error bars" in said.err
    curve = fit_recovery([20, 30, 50, 80], [0.4, 0.62, 0.8, 0.9])
    part, part_std = curve.at(sphere_diameter(bare[1]["volume_ml"]))
    assert rows[1]["total"] == pytest.approx(bare[1]["total"] / part)
    errors = (bare[1]["mean_std"] / bare[1]["mean"], part_std / part)
    assert rows[1]["total_std"] / rows[1]["total"] == pytest.approx(np.hypot(*errors))


def test_what_does_not_fit_is_refused(monkeypatch, capsys, files, tmp_path):
    path, labels = files
    assert run(monkeypatch, "osem", path, "-o", tmp_path / "x.nii", "--iterations", 1) == 0
    write_nifti(tmp_path / "small.nii", np.ones((4, 4, 4)), VOXEL)
    write_nifti(tmp_path / "other.nii", np.ones(SHAPE), VOXEL / 2)
    write_nifti(tmp_path / "there.nii", np.ones(SHAPE), VOXEL, centre_mm=(0.0, 0.0, 100.0))
    write_nifti(tmp_path / "here.nii", np.ones(SHAPE), VOXEL, centre_mm=(0.0, 0.0, 0.0))
    (tmp_path / "bad.csv").write_text("size,recovery\n1,2\n")
    (tmp_path / "few.csv").write_text("diameter_mm,recovery\n10,0.2\n20,0.5\n")

    def refused(part: str, *arguments: Any) -> None:
        capsys.readouterr()
        code = run(monkeypatch, *arguments)
        assert code == 2 and part in capsys.readouterr().err.splitlines()[-1]

    refused("small.nii", "regions", tmp_path / "x.nii", tmp_path / "small.nii")
    refused("other.nii", "regions", tmp_path / "x.nii", tmp_path / "other.nii")
    refused("100 mm beside", "regions", tmp_path / "here.nii", tmp_path / "there.nii")
    refused("--recovery", "regions", tmp_path / "x.nii", labels, "--recovery", tmp_path / "bad.csv")
    refused("diameter_mm", "regions", tmp_path / "x.nii", labels, "--recovery", tmp_path / "few.csv")
    refused("--recovery", "regions", tmp_path / "x.nii", labels, "--recovery", tmp_path / "none.csv")
    refused(".csv", "regions", tmp_path / "x.nii", labels, "-o", tmp_path / "x.txt")
    refused("labels", "regions", tmp_path / "x.nii", tmp_path / "labels.tif")
    refused("--error-bars", "osem", path, "-o", tmp_path / "x.dcm", "--error-bars", 3)
    refused("--error-bars", "osem", path, "-o", tmp_path / "z.nii", "--regions", labels)


def test_ctrl_c_leaves_the_volume(monkeypatch, capsys, files):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("bootstrap_osem: Ctrl-C came after 0 copies, error bars need 2")

    path, _ = files
    monkeypatch.setattr("pnp.uncertainty.bootstrap_osem", interrupted)
    assert run(monkeypatch, "osem", path, "-o", path.with_name("x.nii"), *OSEM, "--error-bars", 3) == 130
    assert torch.tensor(read_nifti(path.with_name("x.nii"))[0]).sum() > 0
    assert "without error bars" in capsys.readouterr().err
