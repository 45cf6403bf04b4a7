"""The command line, in process and, for signals and exit codes, as a command of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

from pnp import cli
from pnp.io import read_image, read_measurements, read_result, write_image, write_measurements
from pnp.metrics import psnr


def disc(n: int = 32) -> torch.Tensor:
    axis = torch.linspace(-1, 1, n)
    return ((axis[:, None] ** 2 + axis**2) < 0.5).float()[None, None]


@pytest.fixture
def masked(tmp_path):
    """Measurements of a disc behind a mask, with noise."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(32, 32, generator=generator) < 0.6
    y = mask * (disc() + 0.02 * torch.randn(disc().shape, generator=generator))
    path = tmp_path / "y.h5"
    write_measurements(path, y, operator="mask", parameters={"mask": mask}, noise_std=0.02, reference=disc())
    return path


def run(monkeypatch, *arguments) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["pnp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


def test_reconstruct_writes_a_result_that_explains_itself(monkeypatch, masked, capsys):
    output = masked.with_name("x.h5")
    code = run(monkeypatch, "reconstruct", masked, "-o", output, "--denoiser", "tv", "--bounds", "0,1")
    assert code == 0
    saved = read_result(output)
    assert psnr(saved.x, disc(), data_range=1) > 22
    assert saved.x.min() >= 0 and saved.x.max() <= 1
    assert saved.operator == "mask" and saved.noise_std == pytest.approx(0.02)
    assert saved.attributes["denoiser"] == "tv" and "--bounds 0,1" in saved.attributes["command"]
    assert saved.attributes["stop"].endswith(".")
    assert saved.attributes["n_iter"] == len(saved.history["sigma"])
    np.testing.assert_array_equal(saved.reference, disc())
    out, err = capsys.readouterr()
    assert str(output) in out and "solve" in err and "solve" not in out  # the bar is on stderr


def test_reconstruct_to_an_image_and_from_radon_in_degrees(monkeypatch, tmp_path):
    from operators import Radon

    angles = torch.arange(20) * (torch.pi / 20)
    y = Radon((32, 32), angles).A(disc())
    write_measurements(tmp_path / "y.h5", y, operator="radon", parameters={"shape": (32, 32), "angles": angles})
    with h5py.File(tmp_path / "y.h5", "a") as f:
        f["operator/angles"][:] = np.arange(20) * 9.0
        f["operator/angles"].attrs["units"] = "deg"
    arguments = ("--operator", "radon", "--denoiser", "tv", "--noise-std", 0.05, "--max-iter", 8)
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "x.npy", *arguments) == 0
    assert psnr(read_image(tmp_path / "x.npy"), disc()[0, 0], data_range=1) > 20


def test_output_is_kept_unless_asked(monkeypatch, masked, capsys):
    output = masked.with_name("x.h5")
    output.write_text("precious")
    options = ("reconstruct", masked, "-o", output, "--denoiser", "tv", "--max-iter", 1)
    assert run(monkeypatch, *options) == 2
    assert "exists" in capsys.readouterr().err and output.read_text() == "precious"
    assert run(monkeypatch, *options, "--overwrite") == 0
    assert read_result(output).attributes["n_iter"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--denoiser", "magic"), "magic"),
        (("--denoiser", "tv:gray"), "no weights"),
        (("--denoiser", "mlpatch:absent"), "absent"),
        (("--operator", "radon"), "was measured with 'mask'"),
        (("--algorithm", "magic"), "algorithm must be one of"),
        (("--bounds", "1"), "--bounds must be low,high"),
        (("--bounds", "1,0"), "bounds"),
        (("--noise-std", "-1"), "noise_std"),
        (("--strength", "0"), "strength"),
        (("--max-iter", "0"), "max_iter"),
        (("--device", "abacus"), "--device abacus"),
        (("--device", "cuda:99"), "--device cuda:99"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(monkeypatch, masked, capsys, options, message):
    output = masked.with_name("x.h5")
    defaults = () if "--denoiser" in options else ("--denoiser", "tv")
    assert run(monkeypatch, "reconstruct", masked, "-o", output, *defaults, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) < 400
    assert not output.exists()


def test_broken_files_are_one_sentence_and_exit_code_2(monkeypatch, masked, tmp_path, capsys):
    def fails(message, *arguments):
        assert run(monkeypatch, *arguments, "-o", tmp_path / "x.h5") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and len(error) < 400

    with h5py.File(masked, "a") as f:
        f["operator"].attrs["pitch"] = 2.0
    fails("/operator (mask) does not hold its parameters", "reconstruct", masked, "--denoiser", "tv")
    with h5py.File(masked, "a") as f:
        f["operator"].attrs["name"] = "sonar"
    fails("sonar", "reconstruct", masked, "--denoiser", "tv")
    masked.write_bytes(masked.read_bytes()[:700])
    fails("truncated", "reconstruct", masked)
    fails("no such file", "reconstruct", tmp_path / "absent.h5")
    fails("no file", "denoise", tmp_path / "absent.png", "--sigma", 0.1)
    write_image(tmp_path / "image.png", disc()[0, 0])
    fails("--sigma", "denoise", tmp_path / "image.png", "--sigma", -1)
    fails("absent", "denoise", tmp_path / "image.png", "--sigma", 0.1, "--weights", "absent")


def test_unwritable_output_is_found_before_the_work(monkeypatch, masked, capsys):
    assert run(monkeypatch, "reconstruct", masked, "-o", masked.parent / "absent" / "x.h5") == 2
    out, err = capsys.readouterr()
    assert "does not exist" in err and "solve" not in err and out == ""


def test_denoise_colour_image(monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    clean = disc(64)[0].expand(3, -1, -1) * torch.tensor([0.8, 0.5, 0.2])[:, None, None] + 0.1
    write_image(tmp_path / "y.tif", clean + 0.1 * torch.randn(clean.shape, generator=generator))
    options = ("--sigma", 0.1, "-o", tmp_path / "x.tif")
    assert run(monkeypatch, "denoise", tmp_path / "y.tif", *options) == 0
    noisy, denoised = read_image(tmp_path / "y.tif"), read_image(tmp_path / "x.tif")
    assert psnr(denoised, clean, data_range=1) > psnr(noisy, clean, data_range=1) + 6


def test_info_names_versions_operators_and_weights(monkeypatch, capsys):
    assert run(monkeypatch, "info") == 0
    out = capsys.readouterr().out
    for word in ("torch", torch.__version__.split("+")[0], "cpu", "radon", "mlpatch:gray"):
        assert word in out


@pytest.mark.parametrize("command", [(), ("reconstruct",), ("denoise",), ("info",)])
def test_help_has_examples(monkeypatch, capsys, command):
    assert run(monkeypatch, *command, "--help") == 0
    assert f"pnp {' '.join(command)}" in capsys.readouterr().out


def test_ctrl_c_keeps_the_last_iterate(tmp_path, masked):
    data = read_measurements(masked)
    big = np.tile(data.y, (1, 1, 8, 8))
    write_measurements(
        tmp_path / "big.h5", big, operator="mask", parameters={"mask": np.ones((256, 256), bool)}, noise_std=0.02
    )
    output = tmp_path / "x.h5"
    command = [sys.executable, "-m", "pnp.cli", "reconstruct", str(tmp_path / "big.h5"), "-o", str(output)]
    process = subprocess.Popen(
        [*command, "--denoiser", "tv", "--max-iter", "100000", "--noise-std", "1e-3"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    start = time.monotonic()
    while "residuals" not in seen and time.monotonic() - start < 120:  # an iteration has been finished
        seen += process.stderr.read(64)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, seen
    saved = read_result(output)
    assert saved.attributes["n_iter"] >= 1 and "Interrupted" in saved.attributes["stop"]
    assert np.isfinite(saved.x).all() and "Interrupted" in out
