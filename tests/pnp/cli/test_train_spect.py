"""`pnp train spect`: simulated and from files, resumed, and refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import command
import pytest
import torch
from torch import Tensor

from operators import SPECT, camera_response, spect_camera
from pnp.io import write_measurements
from pnp.learned import UnrolledEM
from pnp.phantoms import ISOTOPES, emission_scan

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--size", "24", "--slices", "6", "--views", "8", "--scans", "3", "--features", "2", "--device", "cpu")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        output = str(tmp_path / "w.safetensors")
        return command.run(monkeypatch, "train", "spect", "-o", output, *arguments), *capsys.readouterr()

    return call


def test_simulated(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*SMALL, "--steps", "2")
    assert code == 0, err
    line = r"w.safetensors: 2 steps, \S+ minutes; NRMSE \S+ on \d+ held-out scans; OSEM \S+$"
    assert re.search(line, out.splitlines()[-1])
    assert UnrolledEM.from_pretrained(tmp_path / "w.safetensors").features == 2
    code, out, _ = run(*SMALL, "--steps", "3", "--resume")
    assert code == 0 and "3 steps" in out
    for wrong, said in (
        ((*SMALL, "--steps", "4"), "exists"),
        ((*SMALL, "--steps", "4", "--resume", "--mode", "truncated"), "mode"),
        ((*SMALL, "--steps", "4", "--resume", "--seed", "1"), "seed"),
        (("--resume", "--isotope", "tc99m"), "--isotope"),
        (("--resume", "--mode", "greedy"), "--mode"),
        (("--resume", "--scans", "1"), "--scans"),
    ):
        code, _, err = run(*wrong)
        assert code == 2 and said in err, err


def test_sequential_divides_its_budget(run: Run) -> None:
    code, out, err = run(*SMALL, "--steps", "6", "--mode", "sequential", "--iterations", "2", "--isotope", "y90")
    assert code == 0 and "6 steps" in out, err


def test_files(run: Run, tmp_path: Path) -> None:
    isotope, shape = ISOTOPES["lu177"], (24, 24, 6)
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    sheet = {"radius": isotope.radius_mm, "collimator": isotope.collimator}

    def camera(mu: Tensor, voxel: float) -> SPECT:
        return spect_camera(mu, angles, voxel_size=voxel, **sheet)

    folder = tmp_path / "scans"
    folder.mkdir()
    assert "at least two HDF5 scans" in run("--data", str(folder), "--steps", "1")[2]
    for seed in range(3):
        scan = emission_scan(isotope, camera, shape, voxel_size_mm=16.0, seed=seed)
        attenuation = scan.operator.attenuation.numpy()
        response = {k: v.numpy() for k, v in camera_response(shape, voxel_size=16.0, **sheet).items()}
        write_measurements(
            folder / f"{seed}.h5",
            scan.y.numpy(),
            operator="spect",
            parameters={"shape": shape, "angles": angles.numpy(), "voxel_size": 16.0, "attenuation": attenuation}
            | response,
            background=scan.background.numpy(),
            reference=scan.truth.numpy(),
            units="counts",
        )
    code, out, err = run("--data", str(folder), "--steps", "2", "--features", "2", "--device", "cpu")
    assert code == 0 and "on 1 held-out scans" in out, err
    code, _, err = run("--data", str(folder), "--resume", "--views", "8")
    assert code == 2 and "--views" in err, err
    write_measurements(
        folder / "3.h5",
        scan.y.numpy(),
        operator="spect",
        parameters={"shape": shape, "angles": angles.numpy(), "voxel_size": 16.0},
    )
    code, _, err = run("--data", str(folder), "--resume", "--device", "cpu")
    assert code == 2 and "3.h5" in err, err
