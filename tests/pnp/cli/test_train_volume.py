"""`pnp train denoiser --kind volume`: trained, resumed and refused."""

from __future__ import annotations

from pathlib import Path

import command
import pytest

from denoisers import MLPatch
from pnp.training import load_checkpoint

TRAIN = ("train", "denoiser", "--kind", "volume", "--device", "cpu", "--batch", "1", "-o", "w.safetensors")
SMALL = ("--spacing", "2", "--features", "8", "--hidden", "8", "--blocks", "1", "--crop", "20", "--border", "2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp.training.volumes._N_HELD_OUT", 1)
    monkeypatch.setattr("pnp.training.volumes._N_FIRST", 1)
    monkeypatch.setattr("pnp.training.volumes._SIZE", 32)
    return tmp_path


def test_volumes_train_and_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> int:
        return command.run(monkeypatch, *TRAIN, *SMALL, "--data", "synthetic", *options)

    assert run("--steps", "1", "--anisotropy", "1.5") == 0
    out, err = capsys.readouterr()
    assert "1 held-out volumes" in out and "step 1, loss" in err
    assert "warning: this network does not denoise yet" in err and "--resume" in err
    assert MLPatch.from_pretrained(folder / "w.safetensors").dimensions == 3
    assert b"synthetic volumes of this package, seed 0" in (folder / "w.safetensors").read_bytes()
    assert run("--steps", "2", "--resume", "--anisotropy", "1.5") == 0
    state = load_checkpoint("w.safetensors.checkpoint")
    assert state["step"] == 2 and state["options"]["border"] == 2 and state["config"]["dimensions"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--data"),
        (("--data", "photographs"), "--data"),
        (("--data", "synthetic", "--crop", "200"), "crop"),
        (("--data", "synthetic", "--anisotropy", "0.5"), "anisotropy"),
        (("--data", "synthetic", "--kind", "gray", "--anisotropy", "2"), "--anisotropy"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert command.run(monkeypatch, *TRAIN, "--steps", "1", *options) == 2
    assert message in capsys.readouterr().err
