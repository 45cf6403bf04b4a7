"""Cone-beam scans on the command line, from the HDF5 layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import rand, rel
from command import run
from ellipsoids import Ellipsoid, cone_views

from operators import ConeBeam
from pnp.cli.problem import build_operator, read_problem
from pnp.io import read_result, write_measurements

BALL = Ellipsoid((1, -1, 0), (3, 3, 3))
PARAMETERS: dict[str, Any] = {
    "shape": (8, 10, 9),
    "angles": np.arange(8) * 0.8,
    "source_origin": 60.0,
    "origin_detector": 30.0,
    "detector_shape": (13, 19),
    "pitch": (1.5, 1.4),
    "voxel_size": (1.1, 1.0, 1.2),
    "shift": np.linspace(-1, 1, 8),
}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    op = ConeBeam(**PARAMETERS)
    y = cone_views(op, BALL) + 0.1 * rand(1, 1, 8, 13, 19)
    write_measurements(tmp_path / "scan.h5", y.float().numpy(), operator="cone_beam", parameters=PARAMETERS)
    return tmp_path / "scan.h5"


def test_the_file_holds_the_geometry(scan: Path) -> None:
    data = read_problem(scan)
    x = BALL.raster(ConeBeam(**PARAMETERS))
    assert rel(build_operator("cone_beam", data.parameters).A(x), ConeBeam(**PARAMETERS).A(x)) < 1e-12


def test_a_volume_comes_out(monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.h5", "x.npy"):
        output = scan.with_name(name)
        assert run(monkeypatch, "reconstruct", scan, "-o", output, "--denoiser", "tv", "--max-iter", 3) == 0
        assert "3 iterations, noise 0.1" in capsys.readouterr().out
        x = read_result(output).x[0, 0] if name == "x.h5" else np.load(output)
        assert x.shape == (8, 10, 9)
        assert rel(x, BALL.raster(ConeBeam(**PARAMETERS))[0, 0].numpy()) < 0.35


def test_swapped_axes_and_a_missing_length_are_named(
    monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(scan, "r+") as file:
        y = file["measurements"][:]
        del file["measurements"]
        file["measurements"] = y.swapaxes(2, 3)  # (rows, n_angles, columns)
    assert run(monkeypatch, "reconstruct", scan, "-o", scan.with_name("x.h5")) == 2
    said = capsys.readouterr().err
    assert "n_angles, rows, columns" in said and "detector_shape" not in said
    with h5py.File(scan, "r+") as file:
        del file["operator"].attrs["origin_detector"]
    assert run(monkeypatch, "reconstruct", scan, "-o", scan.with_name("x.h5")) == 2
    said = capsys.readouterr().err
    assert "missing 'origin_detector'" in said and "__init__" not in said
