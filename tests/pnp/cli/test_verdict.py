"""What the commands say of a result: misfit and verdict on stdout, every warning once on stderr, exit code 0."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from command import run

from operators import FanBeam, Mask, Radon
from pnp.drivers import em
from pnp.drivers.result_warning import ResultWarning
from pnp.io import read_result, write_measurements

driver = importlib.import_module("pnp.drivers.solve")  # `pnp.solve` is the function
SAID = ("noise_std is too low by a factor of about 4; give 0.08.", "3 outliers remain;\ntry LeastSquares(robust=True).")
LINES = [f"warning: {' '.join(sentence.split())}" for sentence in SAID]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    mask = torch.ones(8, 8, dtype=torch.bool)
    y = Mask(mask).A(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.02)
    return tmp_path / "y.h5"


def judged(solver: Any, caller: str, **found: Any) -> Any:
    """Return a solver whose result has these fields, and which warns of it as solvers do."""

    def solve(*arguments: Any, **options: Any) -> Any:
        result = replace(solver(*arguments, **options), **found)
        warnings.warn(f"{caller}: {result.verdict}", ResultWarning, stacklevel=2)
        warnings.warn(f"{caller}: checkpoint: the disk is full; the one before is kept", stacklevel=2)
        return result

    return solve


def patch(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, **found: Any) -> None:
    monkeypatch.setattr(module, name, judged(getattr(module, name), name, **found))


def test_reconstruct_says_each_warning_once(monkeypatch, file, capsys):
    rejected = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    rejected[0, 0, 1, 2] = rejected[0, 0, 4] = True
    patch(monkeypatch, driver, "solve", misfit=16.3, warnings=SAID, rejected=rejected)
    output = file.with_name("x.h5")
    warnings.simplefilter("default")
    options = ("--denoiser", "tv", "--max-iter", 2, "--checkpoint", file.with_name("c"))
    assert run(monkeypatch, "reconstruct", file, "-o", output, *options) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "misfit 16.3, 9 measurements rejected as outliers: 2 warnings"
    lines = [line for line in err.splitlines() if "warning" in line.lower() or "checkpoint" in line]
    assert lines == ["pnp: solve: checkpoint: the disk is full; the one before is kept", *LINES]
    saved = read_result(output)
    assert saved.warnings == SAID and saved.n_rejected == 9
    np.testing.assert_array_equal(saved.rejected, rejected)


def test_a_result_without_warnings_is_said_to_fit(monkeypatch, file, capsys):
    patch(monkeypatch, driver, "solve", misfit=0.97, warnings=(), rejected=None)
    warnings.simplefilter("default")
    assert run(monkeypatch, "reconstruct", file, "-o", file.with_name("x.h5"), "--denoiser", "tv") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "misfit 0.97: x explains y up to its noise" and "warning" not in err
    assert read_result(file.with_name("x.h5")).warnings == ()


@pytest.mark.parametrize("said", [(), SAID])
def test_osem_prints_its_verdict(monkeypatch, tmp_path, capsys, said):
    counts = np.random.default_rng(0).poisson(20.0, (1, 1, 8, 8)).astype(np.float32)
    write_measurements(tmp_path / "y.h5", counts, operator="mask", parameters={"mask": np.ones((8, 8))})
    patch(monkeypatch, em, "osem", misfit=3.21, warnings=said)
    warnings.simplefilter("default")
    options = ("--subsets", 1, "--iterations", 1)
    assert run(monkeypatch, "osem", tmp_path / "y.h5", "-o", tmp_path / "x.h5", *options) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()][1:] == ["misfit 3.21"] and "explains the" not in out
    assert [line for line in err.splitlines() if line.startswith("warning")] == LINES[: len(said)]
    assert read_result(tmp_path / "x.h5").warnings == said


@pytest.mark.parametrize(
    ("name", "geometry"), [("radon", {}), ("fan_beam", {"source_origin": 60.0, "origin_detector": 20.0})]
)
def test_another_number_of_bins_or_views_names_what_to_set(monkeypatch, tmp_path, capsys, name, geometry):
    angles = torch.arange(6) * 0.5
    A = {"radon": Radon, "fan_beam": FanBeam}[name]((16, 16), angles, n_detectors=40, **geometry)
    y = A.A(torch.ones(1, 1, 16, 16))
    write_measurements(
        tmp_path / "y.h5", y, operator=name, parameters={"shape": (16, 16), "angles": angles, **geometry}
    )

    def refused() -> str:
        assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "x.npy", "--denoiser", "tv") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and len(error) < 400
        return error

    error = refused()
    assert "40 bins" in error and "n_detectors of /operator to 40" in error
    with h5py.File(tmp_path / "y.h5", "a") as f:
        f["operator"].attrs["n_detectors"] = 30
    assert "says 30" in refused()
    with h5py.File(tmp_path / "y.h5", "a") as f:
        f["operator"].attrs["n_detectors"] = 40
        f["measurements"][:], few = 0, f["operator/angles"][:5]
        del f["operator/angles"]
        f["operator/angles"] = few
        f["operator/angles"].attrs["units"] = "rad"
    error = refused()
    assert "6 views" in error and "/operator/angles has 5" in error


def test_outliers_are_left_out_and_said_unless_asked_for(monkeypatch, tmp_path, capsys):
    angles = np.linspace(0, np.pi, 30, endpoint=False)
    A = Radon((24, 24), angles)
    x = torch.zeros(1, 1, 24, 24)
    x[..., 8:16, 6:18] = 1.0
    y = A.A(x) + 0.05 * torch.randn(A.A(x).shape, generator=torch.Generator().manual_seed(0))
    y[0, 0, 7, 12] += 20
    write_measurements(tmp_path / "y.h5", y, operator="radon", parameters={"shape": (24, 24), "angles": angles})
    options = ("--denoiser", "tv", "--noise-std", 0.05)
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "x.h5", *options) == 0
    assert "outliers" in capsys.readouterr().err
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "r.h5", *options, "--robust") == 0
    assert "outliers" not in capsys.readouterr().err
    plain, robust = read_result(tmp_path / "x.h5"), read_result(tmp_path / "r.h5")
    assert plain.n_rejected == 1 and plain.rejected[0, 0, 7, 12] and plain.warnings
    assert robust.n_rejected == 1 and robust.rejected[0, 0, 7, 12] and not robust.warnings
