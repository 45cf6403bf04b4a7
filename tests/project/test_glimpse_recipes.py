"""The recipes of learned reconstructors and their benchmark, from training to figure, offline and in seconds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from paths import ROOT

from pnp.io import read_image
from pnp.learned import UnrolledEM
from recipes import TALK, run_talk


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a recipe in this process: what it prints, the rows of its table, and its messages."""
    monkeypatch.syspath_prepend(str(TALK))

    def call(recipe: str, *arguments: object, code: int = 0) -> tuple[str, list[dict[str, str]], str]:
        out, err = run_talk(monkeypatch, capsys, recipe, "--output", tmp_path, *arguments, code=code)
        if code:
            return out, [], err
        assert read_image(tmp_path / f"{recipe}.png").std() > 0.05  # there is something on the figure
        with (tmp_path / f"{recipe}.csv").open(newline="") as file:
            return out, list(csv.DictReader(file)), err

    return call


def test_glimpse(run):
    out, rows, _ = run("glimpse", "--smoke")
    names = [row["method"] for row in rows]
    assert names == ["FBP", "FBP, Hann window", "U-Net", "LPD", "GLIMPSE", "GLIMPSE, local", "MLPatch-ADMM"]
    for row in rows:
        for where in ("ID", "OOD: heads"):
            assert 5 < float(row[f"{where}, PSNR in dB"]) < 60 and 0 < float(row[f"{where}, SSIM"]) < 1
    # Trained or not, it begins with filtered back-projection.
    assert float(rows[5]["ID, PSNR in dB"]) > float(rows[0]["ID, PSNR in dB"]) - 1
    assert "GLIMPSE, local: 0.02 minutes" in out
    # What has used up its minutes is read, not trained again.
    again, same, _ = run("glimpse", "--smoke")
    assert "0.02 minutes" not in again and same == rows
    # Other noise, or another seed, is not what these networks learned.
    assert "not 30" in run("glimpse", "--smoke", "--noise-db", 30, code=2)[2]


def test_unrolled_em(run, tmp_path):
    out, rows, _ = run("unrolled_em", "--smoke")
    assert [row["method"] for row in rows] == ["OSEM", "OSEM, 10 mm", "sequential", "truncated", "end-to-end"]
    for row in rows:
        assert 0.05 < float(row["NRMSE, torsos"]) < 0.3 and 0.05 < float(row["NRMSE, virtual"]) < 0.4
    # Four steps already gain on what the networks begin with.
    assert all(float(row["NRMSE, torsos"]) < float(rows[0]["NRMSE, torsos"]) for row in rows[2:])
    assert rows[4]["step"].endswith(" MB") and "### virtual" in out
    weights = UnrolledEM.from_pretrained(tmp_path / "lu177_end-to-end.safetensors")
    assert weights.features == 16 and not list(tmp_path.glob("probe*"))
    # A training that is done is read.
    assert [row["NRMSE, torsos"] for row in run("unrolled_em", "--smoke")[1]] == [row["NRMSE, torsos"] for row in rows]
    assert "not 5" in run("unrolled_em", "--smoke", "--seed", 5, code=2)[2]


def test_glimpse_geometry(run):
    _, rows, _ = run("glimpse_geometry", "--smoke", "--cases", "shift")
    (row,) = rows
    # How far so short a training moves them depends on the machine: that they are recovered is tested with the model.
    assert float(row["angles off before, deg"]) == pytest.approx(3) and float(row["after"]) < 3.1
    assert float(row["PSNR in dB, true"]) > float(row["PSNR in dB, frozen"])


def test_bad_data_is_one_sentence(run, tmp_path):
    _, _, err = run("glimpse", "--data", tmp_path / "nowhere", code=2)
    assert "not a folder" in err and len(err.splitlines()) == 1


def test_resources():
    script = ROOT / "benchmarks" / "glimpse_resources.py"
    found = []
    for size in (64, 256):
        command = [sys.executable, str(script), "--probe", "GLIMPSE, local", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    assert all(f["seconds"] > 0 and f["bytes"] > 2**20 for f in found)
    # Of sixteen times the pixels, the step reads no more.
    assert found[1]["bytes"] < 1.5 * found[0]["bytes"] + 2**25
