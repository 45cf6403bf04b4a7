"""`pnp train denoiser --data synthetic`: trained, resumed, told from a folder of that name, and refused."""

from __future__ import annotations

from pathlib import Path

import command
import pytest

from denoisers import MLPatch
from pnp.training import load_checkpoint

TRAIN = ("train", "denoiser", "--device", "cpu", "--batch", "1", "--crop", "64", "-o", "w.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pnp.training.synthetic._N_HELD_OUT", 1)
    return tmp_path


def test_synthetic_images_train_and_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> int:
        return command.run(monkeypatch, *TRAIN, "--data", "synthetic", *options)

    assert run("--steps", "1") == 0
    out, err = capsys.readouterr()
    assert "1 steps" in out and "1 held-out images" in out and "step 1, loss" in err
    assert MLPatch.from_pretrained(str(folder / "w.safetensors")).channels == 1
    assert b"synthetic images of this package, seed 0" in (folder / "w.safetensors").read_bytes()
    assert run("--steps", "2", "--resume", "--seed", "1") == 2
    assert "seed" in capsys.readouterr().err
    assert run("--steps", "2", "--resume") == 0
    resumed = load_checkpoint("w.safetensors.checkpoint")
    assert run("--steps", "2", "-o", "whole.safetensors") == 0
    whole = load_checkpoint("whole.safetensors.checkpoint")
    assert resumed["step"] == whole["step"] == 2 and resumed["generators"][0].equal(whole["generators"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "./synthetic"), "no image in"),
        (("--data", "synthetic", "--kind", "convergence"), "--kind"),
        (("--data", "synthetic", "--crop", "200"), "crop"),
        ((), "synthetic"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    (folder / "synthetic").mkdir()
    assert command.run(monkeypatch, *TRAIN, "--steps", "1", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and len(error) < 400
    assert not list(folder.glob("w.*"))
