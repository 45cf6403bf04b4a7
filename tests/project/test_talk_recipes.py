"""The talk's recipes: networks, distributions, and each script from training to figure, offline and in seconds."""

from __future__ import annotations

import csv
import importlib
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from denoisers import MLPatch, SuperResolver
from pnp.io import read_image, write_image
from recipes import TALK, run_talk


@pytest.fixture(scope="module")
def talk():
    """Import the recipes' modules by their names, as the scripts do."""
    sys.path.insert(0, str(TALK))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(TALK))


@pytest.fixture(scope="module")
def networks(talk):
    return talk("networks")


@pytest.fixture(scope="module")
def distributions(talk):
    return talk("distributions")


@pytest.fixture
def run(talk, monkeypatch, capsys):
    """Run a recipe in this process, which has imported what takes seconds, with nothing to download from."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://0.0.0.0:9")

    return partial(run_talk, monkeypatch, capsys)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["DnCNN", "IRCNN", "U-Net", "DRU-Net", "MLPatch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_denoise_any_size_and_know_the_noise(networks, name, channels):
    before = torch.get_rng_state()
    D = networks.build(name, channels, seed=4).eval()
    assert torch.equal(torch.get_rng_state(), before)
    y = torch.rand(2, channels, 13, 21, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = D(y, torch.tensor([0.1, 0.2]))
        assert both.shape == y.shape and bool(both.isfinite().all())
        torch.testing.assert_close(both[1:], D(y[1:], 0.2), rtol=1e-3, atol=1e-3)
        assert not torch.equal(D(y[1:], 0.1), D(y[1:], 0.2))
        again = networks.build(name, channels, seed=4).eval()
        assert torch.equal(again(y, 0.1), D(y, 0.1))


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [
        ("DnCNN", "paper", 0.67),
        ("DnCNN", "talk", 3.0),
        ("IRCNN", "paper", 0.19),
        ("IRCNN", "talk", 3.0),
        ("U-Net", "paper", 8.6),
        ("DRU-Net", "paper", 8.2),
    ],
)
def test_networks_have_their_sizes(networks, name, sizes, millions):
    assert networks.parameters(networks.build(name, sizes=sizes)) / 1e6 == pytest.approx(millions, rel=0.02)


def test_ircnn_sees_33_pixels(networks):
    """1 + 2 (1 + 2 + 3 + 4 + 3 + 2 + 1), the dilations of the paper's figure 2."""
    D = networks.build("IRCNN", 1).double().eval()
    y = torch.rand(1, 1, 47, 47, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(D(y, 0.1)[0, 0, 23, 23], y)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert (rows.min().item(), rows.max().item()) == (23 - 16, 23 + 16)


def test_networks_refuse_what_is_unknown(networks):
    with pytest.raises(ValueError, match="name must be one of"):
        networks.build("BM3D")
    with pytest.raises(ValueError, match="sizes must be one of"):
        networks.build("DnCNN", sizes="huge")


# ---------------------------------------------------------------- distributions


def test_distributions_are_images_and_the_same_every_time(distributions):
    for name in distributions.OUT_OF_DISTRIBUTION:
        images = distributions.out_of_distribution(name, 3, 64)
        again = distributions.out_of_distribution(name, 3, 64)
        assert len(images) == 3 and all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
        for x in images:
            assert x.shape == (3, 64, 64) and x.dtype == torch.float32
            assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.01
        assert not torch.equal(images[0], images[1])
        assert distributions.out_of_distribution(name, 1, 64, channels=1)[0].shape == (1, 64, 64)
    with pytest.raises(ValueError, match="heads"):
        distributions.out_of_distribution("bedrooms", 1)


def test_photographs_are_held_out(distributions, tmp_path):
    for k in range(10):
        write_image(tmp_path / f"{k}.png", np.full((40, 50), k / 10, dtype=np.float32))
    photos = distributions.photographs(tmp_path)
    assert (len(photos.train), len(photos.test)) == (8, 2)  # a fifth at most
    seen, held = ({int(x.max()) for x in images} for images in (photos.train, photos.test))
    assert not seen & held and len(seen | held) == 10
    assert distributions.centre(photos.test[0], 16).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="not a folder"):
        distributions.photographs(tmp_path / "nowhere")


# ---------------------------------------------------------------- scripts


def test_crops_cover_the_image_once(talk, networks):
    """At sigma 0 the denoiser is the identity, so that every pixel must come back at its place, and only once."""
    resources = talk("resources")
    image = torch.rand(1, 3, 150, 261, generator=torch.Generator().manual_seed(0))
    out, count = torch.zeros_like(image), torch.zeros(150, 261)
    with torch.no_grad():
        for z, (rows, cols) in resources.crops(image, torch.zeros(1), networks.build("MLPatch")):
            out[:, :, rows, cols] = z
            count[rows, cols] += 1
    assert torch.equal(count, torch.ones_like(count))
    torch.testing.assert_close(out, image)


def test_convolutions_in_crops_are_the_same_function(talk, networks):
    resources = talk("resources")
    y = torch.rand(1, 1, 70, 90, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "CROP", 32)
        for name, halo in resources.HALOS.items():
            D = networks.build(name, 1).eval()
            whole = resources.inference_pass(D, y, None)
            torch.testing.assert_close(resources.inference_pass(D, y, halo), whole, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(resources.inference_pass(D, y, 4), whole, rtol=1e-4, atol=1e-5)


def test_a_folder_of_other_images_is_no_continuation(talk, distributions, tmp_path, monkeypatch, capsys):
    shared = talk("_shared")
    monkeypatch.setattr(sys, "argv", ["recipe.py"])
    images = [torch.full((1, 4, 4), k, dtype=torch.uint8) for k in range(5)]
    split = distributions.Photographs(images[:3], images[3:], "five")
    args = Namespace(output=tmp_path, smoke=False, seed=0, minutes=1)
    folder = shared.checkpoints(args, split)
    args.minutes = 2
    assert shared.checkpoints(args, split) == folder
    for seed, photos, said in [
        (1, split, "--seed 0, not 1"),
        (0, split._replace(train=images[1:], test=images[:1]), "images held out"),
    ]:
        args.seed = seed
        with pytest.raises(SystemExit) as stop:
            shared.checkpoints(args, photos)
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_denoising_table(run, tmp_path):
    command = ("--smoke", "--networks", "IRCNN", "MLPatch", "--output", tmp_path)
    first, _ = run("denoising_table", *command)
    assert "--networks IRCNN MLPatch" in first and "crops of" in first
    rows = table(tmp_path / "denoising_table.csv")
    assert {row["set"].split(":")[0] for row in rows} == {"ID", "OOD"}
    assert all(0 < float(row[name]) < 60 for row in rows for name in ("noisy", "IRCNN", "MLPatch"))
    assert float(rows[0]["noisy"]) == pytest.approx(-20 * np.log10(0.14), abs=0.5)
    assert "| 0.19 M |" in (tmp_path / "denoising_table.md").read_text()
    assert "noisy | IRCNN | MLPatch" in (tmp_path / "denoising_table.md").read_text()
    assert read_image(tmp_path / "denoising_table.png").std() > 0.05  # there is something on the figure
    # What has used up its minutes is read, not trained again.
    again, _ = run("denoising_table", *command)
    assert "MLPatch: " in first and "MLPatch: " not in again
    assert table(tmp_path / "denoising_table.csv") == rows


def test_resources(run, tmp_path):
    command = ("--smoke", "--networks", "IRCNN", "--crops", "--modes", "inference", "--output", tmp_path)
    out, _ = run("resources", *command)
    rows = table(tmp_path / "resources.csv")
    assert [row["network"] for row in rows] == ["IRCNN", "IRCNN in crops"]
    assert all(float(row["bytes"]) > 2**18 and float(row["seconds"]) > 0 for row in rows)
    assert "Inference" in out and read_image(tmp_path / "resources.png").std() > 0.05


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set with Linux's own means")
def test_resources_stop_what_does_not_fit(run, tmp_path):
    command = ("--networks", "IRCNN", "--resolutions", 256, 512, "--memory-gb", 0.1, "--device", "cpu")
    run("resources", *command, "--modes", "training", "--output", tmp_path)
    rows = table(tmp_path / "resources.csv")
    assert [row["why"] for row in rows] == ["> 0.1 GB"] * 2


def test_super_resolution(run, tmp_path):
    run("super_resolution", "--smoke", "--output", tmp_path)
    rows = table(tmp_path / "super_resolution.csv")
    assert [row["factor"] for row in rows] == ["x2", "x4", "x8"]
    for name in ("bilinear", "bicubic", "SuperResolver", "LIIF"):
        assert all(np.isfinite(float(row[name])) for row in rows)
    assert float(rows[0]["SuperResolver"]) > float(rows[0]["bilinear"])  # it begins with bicubic interpolation
    assert SuperResolver.from_pretrained(tmp_path / "super_resolution.safetensors").channels == 3
    assert read_image(tmp_path / "super_resolution.png").std() > 0.05


def test_ten_images(run, tmp_path):
    run("ten_images", "--smoke", "--networks", "MLPatch", "IRCNN", "--output", tmp_path)
    rows = table(tmp_path / "ten_images.csv")
    assert {row["network"] for row in rows} == {"MLPatch", "IRCNN"}
    assert all(5 < float(row[key]) < 60 for row in rows for key in ("ten", "validation"))
    assert "the ten" in (tmp_path / "ten_images.md").read_text()
    assert read_image(tmp_path / "ten_images.png").std() > 0.05


@pytest.mark.parametrize("recipe", ["denoising_table", "ten_images", "taps", "pnp_512", "super_resolution"])
def test_bad_data_is_one_sentence(run, tmp_path, recipe):
    _, err = run(recipe, "--data", tmp_path / "nowhere", "--output", tmp_path, code=2)
    assert "not a folder" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("recipe", ["equivariance", "taps", "pnp_512"])
def test_bad_weights_are_one_sentence(run, tmp_path, recipe):
    _, err = run(recipe, "--weights", "nowhere", "--output", tmp_path, code=2)
    assert "name_or_path must be" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("recipe", "argument"),
    [("equivariance", "--networks"), ("equivariance", "--channels"), ("taps", "--sizes"), ("pnp_512", "--channels")],
)
def test_recipes_offer_only_what_they_use(run, recipe, argument):
    out, _ = run(recipe, "--help")
    assert argument not in out and "--device" in out


def test_equivariance(run, tmp_path):
    torch.manual_seed(0)
    tiny = {"taps": 3, "features": 8, "hidden": 8}
    model, path = MLPatch(**tiny, dilations=(1,)), tmp_path / "tiny.safetensors"
    with torch.no_grad():
        model.network.write.weight.mul_(5)
    model.save(path)
    run("equivariance", "--smoke", "--weights", path, "--output", tmp_path)
    gaps = {row["denoiser"]: row for row in table(tmp_path / "equivariance.csv")}
    shift, turn = "shift by 1 pixel", "turn by 90 degrees"
    assert float(gaps["MLPatch, stride 1"][shift]) < 1e-12 < 1e-3 < float(gaps["MLPatch, stride 2"][shift])
    assert float(gaps["MLPatch, stride 2"]["shift by 2 pixels"]) < 1e-12
    averaged = gaps["Equivariant(MLPatch), stride 2"]
    assert float(averaged[turn]) < 1e-12 < 1e-3 < float(gaps["MLPatch, stride 1"][turn])
    assert read_image(tmp_path / "equivariance.png").std() > 0.05
    MLPatch(**tiny, dilations=(200,)).save(path)
    _, err = run("equivariance", "--weights", path, "--output", tmp_path, code=2)
    assert "too many for an image of 512" in err
    MLPatch(3, **tiny, dilations=(1,)).save(path)
    _, err = run("equivariance", "--weights", path, "--output", tmp_path, code=2)
    assert "for 3 channels; give some for 1" in err


def test_taps(run, tmp_path):
    run("taps", "--smoke", "--output", tmp_path)
    rows = {row["taps"]: row for row in table(tmp_path / "taps.csv")}
    assert all(float(rows[f"{name}, frozen"]["at most"]) == 0 for name in ("dense", "sparse"))
    assert int(rows["dense, learned"]["parameters"]) == int(rows["dense, frozen"]["parameters"]) + 2 * 49
    assert read_image(tmp_path / "taps.png").std() > 0.05


def test_pnp_512(run, tmp_path):
    run("pnp_512", "--smoke", "--networks", "MLPatch", "IRCNN", "--weights", "gray", "--output", tmp_path)
    found = {
        (r["problem"], r["image"][:4], r["method"]): float(r["PSNR in dB"]) for r in table(tmp_path / "pnp_512.csv")
    }
    for image in ("phot", "head"):
        assert found["inpainting", image, "MLPatch-ADMM"] > found["inpainting", image, "masked image"]
        assert found["CT", image, "MLPatch-ADMM"] > found["CT", image, "FBP, Hann window"]
        assert np.isfinite(found["CT", image, "IRCNN-ADMM"])
    said = (tmp_path / "pnp_512.md").read_text()
    assert "MLPatch came with its weights" in said and "IRCNN: trained for" in said and "divided by 2.5" in said
    assert read_image(tmp_path / "pnp_512.png").std() > 0.05
