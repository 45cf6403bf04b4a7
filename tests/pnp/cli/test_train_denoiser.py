"""`pnp train denoiser` with several lattices."""

from dataclasses import astuple

import pytest
from command import run

from denoisers import MLPatch
from denoisers.mlpatch import ARCHITECTURES


def train(monkeypatch, folder, *options):
    output = folder.with_name("w.safetensors")
    fixed = ("train", "denoiser", "--device", "cpu", "--batch", 1, "--data", folder, "--crop", 64, "-o", output)
    return run(monkeypatch, *fixed, *options), output


STAGES = ("--spacing", "2,4,2", "--features", "8,12,8", "--hidden", "6,7,8", "--blocks", "1,2,1")


def test_lattices_are_options_and_the_run_resumes(monkeypatch, photographs, capsys):
    options = (*STAGES, "--border", 6)
    code, output = train(monkeypatch, photographs, *options, "--steps", 1)
    assert code == 0
    model = MLPatch.from_pretrained(output)
    assert [astuple(stage) for stage in model.network.stages] == [
        (2, 8, 6, (1,)),
        (4, 12, 7, (1, 1)),
        (2, 8, 8, (1,)),
    ]
    assert train(monkeypatch, photographs, *options, "--steps", 2, "--resume")[0] == 0
    assert "2 steps" in capsys.readouterr().out
    other = (*STAGES[:-1], "1,1,2", "--border", 6, "--steps", 3, "--resume")
    assert train(monkeypatch, photographs, *other)[0] == 2
    assert "dilations" in capsys.readouterr().err


def test_two_lattices_are_a_kind(monkeypatch, photographs):
    code, output = train(monkeypatch, photographs, "--kind", "two-lattices", "--border", 12, "--steps", 1)
    assert code == 0
    model = MLPatch.from_pretrained(output)
    assert model.config() == MLPatch(**ARCHITECTURES["two-lattices"]).config()
    assert model.stride == 4 and model.receptive_field == 83


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spacing", "2,4,2"), "--features "),
        ((*STAGES[:2], "--features", "8,8"), "--features 8,8"),
        (("--blocks", "0"), "--blocks "),
        (("--hidden", "a"), "--hidden "),
        ((*STAGES, "--features", "8,12,9"), "--features "),
        ((*STAGES, "--spacing", "2,6,2"), "--spacing "),
        (("--border", -1), "border"),
        ((*STAGES, "--border", 32), "border"),
        (("--kind", "two-lattices"), "border"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_option(monkeypatch, photographs, capsys, options, message):
    code, output = train(monkeypatch, photographs, *options, "--steps", 1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and message in error and error.startswith("pnp: ") and len(error) < 400
    assert not output.exists()
