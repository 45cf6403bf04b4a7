"""The command line, in process and, for signals and exit codes, as a command of its own."""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
import torch
from command import run
from paths import ROOT
from PIL import Image

from pnp import cli
from pnp.io import png_bits, read_image, read_measurements, read_result, write_image, write_measurements
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
    assert saved.attributes["noise_estimated"] is False
    np.testing.assert_array_equal(saved.reference, disc())
    out, err = capsys.readouterr()
    assert "noise 0.02 (from the file)" in out
    assert str(output) in out and "solve" in err and "solve" not in out  # the bar is on stderr


@pytest.mark.parametrize(
    ("name", "geometry"), [("radon", {}), ("fan_beam", {"source_origin": 60.0, "origin_detector": 20.0})]
)
def test_reconstruct_to_an_image_and_from_angles_in_degrees(monkeypatch, tmp_path, name, geometry):
    from operators import OPERATORS

    angles = torch.arange(20) * (torch.pi * 11 / 180)
    y = OPERATORS[name]((32, 32), angles, **geometry).A(disc())
    parameters = {"shape": (32, 32), "angles": angles, **geometry}
    write_measurements(tmp_path / "y.h5", y, operator=name, parameters=parameters)
    with h5py.File(tmp_path / "y.h5", "a") as f:
        f["operator/angles"][:] = np.arange(20) * 11.0
        f["operator/angles"].attrs["units"] = "deg"
    arguments = ("--operator", name, "--denoiser", "tv", "--noise-std", 0.05, "--max-iter", 8)
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
        (("--operator", "radon"), "'mask'"),
        (("--algorithm", "magic"), "algorithm"),
        (("--bounds", "1"), "--bounds"),
        (("--bounds", "1,0"), "bounds"),
        (("--noise-std", "-1"), "noise_std"),
        (("--strength", "0"), "strength"),
        (("--strength", "much"), "--strength"),
        (("--max-iter", "0"), "max_iter"),
        (("--device", "abacus"), "--device abacus"),
        (("--device", "meta"), "--device meta"),
        (("--bounds", "nan,1"), "--bounds"),
        (("--bounds", "inf,0"), "--bounds"),
        (("--bounds", "0,-inf"), "--bounds"),
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--checkpoint", "absent/c"), "absent"),
        (("--checkpoint", "c", "--checkpoint-minutes", "-1"), "minutes"),
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
    fails("/operator (mask)", "reconstruct", masked, "--denoiser", "tv")
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


@pytest.mark.parametrize("name", ["r.xyz", "x.jpg", "nosuffix", "five.png"])
def test_formats_are_checked_before_the_work(monkeypatch, tmp_path, capsys, name):
    y = disc().expand(-1, 5, -1, -1)
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": np.ones((32, 32))}, noise_std=0.1)
    write_image(tmp_path / "y.npy", y[0])
    monkeypatch.setattr("pnp.drivers.solve.solve", None)  # not reached
    monkeypatch.setattr("denoisers.MLPatch", None)
    for command in (("reconstruct", tmp_path / "y.h5"), ("denoise", tmp_path / "y.npy", "--sigma", 0.1)):
        assert run(monkeypatch, *command, "-o", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert ("1 or 3 channels, got 5" if name == "five.png" else "is not one of PNG") in error
        assert len(error) < 400 and not (tmp_path / name).exists()


def test_png_that_would_lose_the_image(monkeypatch, tmp_path, masked, capsys):
    data = read_measurements(masked)
    path = tmp_path / "scaled.h5"
    write_measurements(path, 50 * data.y, operator="mask", parameters=data.parameters, noise_std=1.0)
    options = ("--denoiser", "tv", "--max-iter", 2)
    (tmp_path / "x.h5").write_text("precious")
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "x.png", *options, "--overwrite") == 2
    error = next(line for line in capsys.readouterr().err.splitlines() if "fill [0, 1]" in line)
    assert "x-1.h5" in error
    assert read_result(tmp_path / "x-1.h5").x.max() > 40 and (tmp_path / "x.h5").read_text() == "precious"
    assert not (tmp_path / "x.png").exists()
    options = (*options, "--bounds", "0,1")
    assert run(monkeypatch, "reconstruct", masked, "-o", tmp_path / "x.png", *options) == 0
    assert read_image(tmp_path / "x.png").max() > 0.8
    write_image(tmp_path / "counts.tif", 255 * disc()[0, 0])
    assert run(monkeypatch, "denoise", tmp_path / "counts.tif", "--sigma", 5, "-o", tmp_path / "counts.png") == 2
    assert read_image(tmp_path / "counts.h5").max() > 200


def test_estimated_noise_is_said(monkeypatch, masked, capsys):
    with h5py.File(masked, "a") as f:
        del f["noise_std"]
    output = masked.with_name("x.h5")
    assert run(monkeypatch, "reconstruct", masked, "-o", output, "--denoiser", "tv", "--max-iter", 1) == 0
    assert "(estimated)" in capsys.readouterr().out
    assert read_result(output).attributes["noise_estimated"] is True


def test_operator_names_a_nameless_file(monkeypatch, masked, capsys):
    with h5py.File(masked, "a") as f:
        del f["operator"].attrs["name"]
    output = masked.with_name("x.h5")
    options = ("reconstruct", masked, "-o", output, "--denoiser", "tv", "--max-iter", 1)
    assert run(monkeypatch, *options) == 2
    assert "attribute 'name'" in capsys.readouterr().err
    assert run(monkeypatch, *options, "--operator", "mask") == 0
    assert read_result(output).operator == "mask"


def test_a_grey_denoiser_takes_colour_channel_by_channel(monkeypatch, masked):
    data = read_measurements(masked)
    colour = np.concatenate([data.y, 0.5 * data.y], axis=1)
    path, output = masked.with_name("colour.h5"), masked.with_name("x.h5")
    write_measurements(path, colour, operator="mask", parameters=data.parameters, noise_std=0.02)
    assert run(monkeypatch, "reconstruct", path, "-o", output, "--max-iter", 3) == 0
    x = read_result(output).x
    assert x.shape == (1, 2, 32, 32) and psnr(x[:, 1:], 0.5 * disc(), data_range=0.5) > 15


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_out_of_memory_is_one_sentence(monkeypatch, masked, capsys, error):
    def solve(*_, **__):
        raise error("CUDA out of memory. Tried to allocate 3 GiB.\n" + 50 * "See the documentation. ")

    monkeypatch.setattr("pnp.drivers.solve.solve", solve)
    assert run(monkeypatch, "reconstruct", masked, "-o", masked.with_name("x.h5"), "--denoiser", "tv") == 2
    message = capsys.readouterr().err
    assert message.startswith("pnp: out of memory") and message.count("\n") == 1 and len(message) < 400


def test_other_runtime_errors_are_not_hidden(monkeypatch, masked):
    def solve(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("pnp.drivers.solve.solve", solve)
    monkeypatch.setattr(
        sys, "argv", ["pnp", "reconstruct", str(masked), "-o", str(masked.with_name("x.h5")), "--denoiser", "tv"]
    )
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main()


def test_denoise_refuses_nan_with_their_number(monkeypatch, tmp_path, capsys):
    image = disc()[0, 0].clone()
    image[:2, 0], image[5, 5] = torch.nan, torch.inf
    write_image(tmp_path / "y.npy", image)
    assert run(monkeypatch, "denoise", tmp_path / "y.npy", "--sigma", 0.1, "-o", tmp_path / "x.npy") == 2
    assert "in 3 of 1024 pixels" in capsys.readouterr().err


def test_denoise_keeps_sixteen_bits(monkeypatch, tmp_path):
    write_image(tmp_path / "y.png", 0.001 * disc()[0, 0] + 0.5, bits=16)
    assert run(monkeypatch, "denoise", tmp_path / "y.png", "--sigma", 0.001, "-o", tmp_path / "x.png") == 0
    assert png_bits(tmp_path / "x.png") == 16 and len(np.unique(read_image(tmp_path / "x.png"))) > 3


def test_denoise_keeps_sixteen_bits_of_colour_and_turns_pictures_upright(monkeypatch, tmp_path):
    levels = 0.001 * disc()[0] + torch.tensor([0.3, 0.5, 0.7])[:, None, None]
    write_image(tmp_path / "y.png", levels[:, :20], bits=16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right column
    data = (tmp_path / "y.png").read_bytes()
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    (tmp_path / "y.png").write_bytes(data[:33] + chunk + data[33:])  # behind IHDR
    assert run(monkeypatch, "denoise", tmp_path / "y.png", "--sigma", 0.001, "-o", tmp_path / "x.png") == 0
    x = read_image(tmp_path / "x.png")
    assert png_bits(tmp_path / "x.png") == 16 and x.shape == (3, 32, 20) and len(np.unique(x[0])) > 3
    np.testing.assert_allclose(x, np.rot90(levels[:, :20], -1, (1, 2)), atol=0.002)


@pytest.mark.parametrize("name", ["y.png", "y.npy", "y.tif"])
def test_denoise_refuses_sigma_of_another_unit(monkeypatch, tmp_path, capsys, name):
    write_image(tmp_path / name, disc()[0, 0] + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    assert run(monkeypatch, "denoise", tmp_path / name, "--sigma", 25, "-o", tmp_path / "x.npy") == 2
    error = capsys.readouterr().err
    assert "--sigma" in error and "divide by 255 (0.098)" in error and len(error) < 400 and error.count("\n") == 1
    write_image(tmp_path / "large.tif", 255 * disc()[0, 0])
    assert run(monkeypatch, "denoise", tmp_path / "large.tif", "--sigma", 25, "-o", tmp_path / "x.npy") == 0


def test_denoise_colour_image(monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    clean = disc(64)[0].expand(3, -1, -1) * torch.tensor([0.8, 0.5, 0.2])[:, None, None] + 0.1
    write_image(tmp_path / "y.tif", clean + 0.1 * torch.randn(clean.shape, generator=generator))
    options = ("--sigma", 0.1, "-o", tmp_path / "x.tif")
    assert run(monkeypatch, "denoise", tmp_path / "y.tif", *options) == 0
    noisy, denoised = read_image(tmp_path / "y.tif"), read_image(tmp_path / "x.tif")
    assert psnr(denoised, clean, data_range=1) > psnr(noisy, clean, data_range=1) + 6


def test_denoise_takes_the_channels_of_a_colour_picture_together(monkeypatch, tmp_path, capsys):
    from skimage.data import astronaut

    from denoisers import MLPatch

    y = torch.from_numpy(astronaut()[:64, 200:264]).movedim(2, 0) / 255
    y = (y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    write_image(tmp_path / "y.png", y)
    assert run(monkeypatch, "denoise", tmp_path / "y.png", "--sigma", 0.1, "-o", tmp_path / "x.png") == 0
    y = torch.from_numpy(read_image(tmp_path / "y.png"))
    with torch.no_grad():
        want = MLPatch.from_pretrained("color")(y[None], 0.1)[0].clamp(0, 1)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), want, atol=0.503 / 255)


def test_denoise_with_colour_weights_takes_the_channels_together(monkeypatch, tmp_path, capsys):
    from denoisers import MLPatch

    torch.manual_seed(0)
    D = MLPatch(3, taps=3, features=8, hidden=8, dilations=(1,), precision="float32")
    weights = tmp_path / "w.safetensors"
    D.save(weights)
    D = MLPatch.from_pretrained(str(weights))
    y = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    options = ("--sigma", 0.1, "--weights", weights, "-o", tmp_path / "x.npy")
    write_image(tmp_path / "y.npy", y)
    assert run(monkeypatch, "denoise", tmp_path / "y.npy", *options) == 0
    x = read_image(tmp_path / "x.npy")
    np.testing.assert_allclose(x, D(y[None], 0.1)[0], rtol=1e-3, atol=1e-4)
    assert np.abs(x - y.numpy()).max() > 0.01
    capsys.readouterr()
    for image, count in ((y[0], 1), (y[:2], 2)):
        write_image(tmp_path / "y.npy", image, overwrite=True)
        assert run(monkeypatch, "denoise", tmp_path / "y.npy", *options, "--overwrite") == 2
        error = capsys.readouterr().err
        assert "of 3 channels" in error and f"has {count}; use --weights gray" in error and error.count("\n") == 1


def test_info_names_versions_operators_and_weights(monkeypatch, capsys):
    assert run(monkeypatch, "info") == 0
    out = capsys.readouterr().out
    for word in ("torch", torch.__version__.split("+")[0], "cpu", "radon", "mlpatch:gray"):
        assert word in out


COMMANDS = "reconstruct,reconstruct-stack,osem,convert,report,denoise,info,train denoiser,train glimpse,train spect"


@pytest.mark.parametrize("command", ["", *COMMANDS.split(",")])
def test_help_has_examples(monkeypatch, capsys, command):
    assert run(monkeypatch, *command.split(), "--help") == 0
    assert f"pnp {command}" in capsys.readouterr().out


TRAIN = ("train", "denoiser", "--device", "cpu", "--batch", 1)


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_train_writes_weights_and_goes_on_with_a_larger_budget(monkeypatch, photographs, capsys, kind):
    from denoisers import MLPatch

    output = photographs.with_name("w.safetensors")
    options = (*TRAIN, "--data", photographs, "--crop", 64, "--kind", kind, "-o", output)
    assert run(monkeypatch, *options, "--steps", 1) == 0
    out, err = capsys.readouterr()
    assert "step 1, loss" in err
    line = r"w.safetensors: 1 steps, \S+ minutes; PSNR in dB at sigma 25/255 (\S+) on 1 held-out images; noisy (\S+)$"
    score, noisy = map(float, re.search(line, out.splitlines()[-1]).groups())
    assert 15 < noisy < 22 and score > 0  # -20 log10(25/255) = 20.17, less where clipped
    first = MLPatch.from_pretrained(str(output))
    assert first.channels == (1 if kind == "gray" else 3)
    assert run(monkeypatch, *options, "--steps", 2) == 2
    assert "exists" in capsys.readouterr().err
    assert run(monkeypatch, *options, "--steps", 2, "--overwrite") == 2
    assert "--resume" in capsys.readouterr().err
    assert run(monkeypatch, *options, "--steps", 2, "--resume", "--seed", 1) == 2
    assert "seed" in capsys.readouterr().err
    assert run(monkeypatch, *options, "--steps", 2, "--resume") == 0  # may replace its own weights
    assert "2 steps" in capsys.readouterr().out
    moved = MLPatch.from_pretrained(str(output)).network.taps - first.network.taps
    assert float(moved.abs().max()) > 0
    output.with_name("w.safetensors.checkpoint").unlink()  # now they are not this run's
    assert run(monkeypatch, *options, "--steps", 2, "--resume") == 2
    assert "exists" in capsys.readouterr().err


def test_training_starts_from_weights(monkeypatch, photographs):
    from denoisers import MLPatch

    output = photographs.with_name("w.safetensors")
    options = (*TRAIN, "--data", photographs, "--crop", 64, "--steps", 1, "--start", "gray", "-o", output)
    assert run(monkeypatch, *options) == 0
    before, after = (MLPatch.from_pretrained(name).state_dict() for name in ("gray", str(output)))
    for name, w in before.items():
        assert (after[name] - w).norm() < 0.01 * w.norm() + 1e-3, name
    assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data", "photographs", "--kind", "color", "--start", "gray"), "another architecture"),
        (("--data", "photographs", "--start", "nowhere"), "must be one of"),
        (("--data", "empty"), "no image in"),
        (("--data", "broken"), "cannot read"),
        ((), "--data"),
        (("--data", "empty", "--kind", "convergence"), "convergence"),
        (("--data", "empty", "--kind", "magic"), "--kind"),
        (("--data", "empty", "--steps", 1, "--minutes", 1), "--steps or --minutes"),
        (("--data", "empty", "--steps", 0), ": steps "),
        (("--data", "empty", "--optimizer", "magic"), "optimizer"),
        (("--data", "empty", "--crop", 200), "crop"),
        (("--kind", "convergence", "--std", "a,b"), "--std"),
        (("--data", "empty", "-o", "w.pt"), ".safetensors"),
        (("--data", "photographs", "--crop", 40, "--steps", 1), "receptive field"),
    ],
)
def test_train_says_what_is_wrong_before_the_work(monkeypatch, photographs, capsys, options, message):
    folder = photographs.parent
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    output = () if "-o" in options else ("-o", "w.safetensors")
    assert run(monkeypatch, *TRAIN, *output, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and error.startswith("pnp: ") and len(error) < 400
    assert not list(folder.glob("w.*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_training_keeps_a_checkpoint(photographs, number):
    output = photographs.with_name("w.safetensors")
    command = [sys.executable, "-m", "pnp.cli", *map(str, TRAIN), "--data", str(photographs), "--crop", "64"]
    process = subprocess.Popen([*command, "-o", str(output)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    while "loss" not in seen and process.poll() is None:
        seen += process.stderr.read(16)
    process.send_signal(number)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 128 + number, seen + rest
    assert "--resume" in rest.splitlines()[-1] and not output.exists()
    state = torch.load(output.with_name("w.safetensors.checkpoint"), weights_only=True)
    assert state["step"] >= 1 and f"interrupted at step {state['step']}" in rest


@pytest.mark.parametrize("what", ["input", "output"])
def test_recipes_check_files_before_the_work(tmp_path, what):
    (tmp_path / "file").write_text("")
    recipe = ROOT / "recipes" / "denoising.py"
    options = [str(tmp_path / "absent.png")] if what == "input" else ["--output", str(tmp_path / "file" / "out")]
    done = subprocess.run([sys.executable, recipe, "--smoke", *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and ("no file" if what == "input" else "--output") in done.stderr
