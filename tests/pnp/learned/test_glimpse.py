"""GLIMPSE: the untrained model, its symmetries and gradients, continuous points, training, files, messages."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from operators import Radon
from pnp.learned import Glimpse, PatchTask, add_noise, held_out_psnr
from pnp.learned.glimpse_data import ARCHITECTURES, chests, folder_slices
from pnp.phantoms import head
from pnp.training import TrainingOptions, load_checkpoint, train

TINY = {"features": 8, "hidden": 8, "blocks": (1, 2)}


def angles(n):
    return torch.arange(n, dtype=torch.float64) * (math.pi / n)


def glimpse(radon, seed=0, trained=True, **options):
    """A Glimpse for this scan, with something to add to filtered back-projection unless it is untrained."""
    geometry = {key: getattr(radon, key) for key in ("n_detectors", "pitch", "pixel_size")}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Glimpse(radon.shape, radon.angles, offset=float(radon.offset), **geometry, **{**TINY, **options})
        if trained:
            torch.nn.init.normal_(model.write.weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def scan():
    """A small scan, and its sinogram of a head."""
    radon = Radon((32, 40), angles(9), pixel_size=0.5, pitch=0.5)
    x = torch.nn.functional.pad(head(32, generator=torch.Generator().manual_seed(1)), (4, 4))
    return radon, radon.A(x)


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"pixel_size": 0.7, "pitch": 0.7},
        {"pixel_size": 1.0, "pitch": 0.8, "offset": 3.3, "n_detectors": 150},
        {"pixel_size": 1.0, "pitch": 1.2},
    ],
)
def test_untrained_it_is_filtered_back_projection(geometry):
    radon = Radon((64, 80), angles(30).flip(0) + 0.1, **geometry)
    x = torch.nn.functional.pad(head(64), (8, 8))
    y = radon.A(x)
    for options in (TINY, ARCHITECTURES["pointwise"][0]):
        with torch.no_grad():
            difference = glimpse(radon, trained=False, **options)(y) - radon.fbp(y)
        assert float(difference.abs().max() / radon.fbp(y).abs().max()) < 4e-3
        assert float(difference.norm() / radon.fbp(y).norm()) < 2e-3


@pytest.mark.parametrize(
    "turned",
    [
        [0.0, 0.1, 0.2, 0.5, 1.0, 1.4, 1.6, 2.0, 2.6, 3.0],
        torch.arange(60, dtype=torch.float64) * (math.pi / 30),  # a full turn: opposite views coincide
        torch.linspace(0, 2 * math.pi, 61, dtype=torch.float64),
        torch.linspace(0, 2, 40, dtype=torch.float64),  # a wedge is missing
        np.deg2rad([*range(30), *range(90, 120)]),  # two are
        np.deg2rad([*range(20), *range(60, 80), *range(120, 140)]),  # three are
    ],
)
def test_weights_of_views_that_are_not_uniform(turned):
    radon = Radon((64, 64), turned)
    y = radon.A(head(64))
    with torch.no_grad():
        difference = glimpse(radon, trained=False)(y) - radon.fbp(y)
    assert float(difference.norm() / radon.fbp(y).norm()) < 4e-3


extents = st.one_of(st.floats(0, 2 * math.pi), st.sampled_from([0.0, math.pi / 6, math.pi, 2 * math.pi]))
arcs = st.lists(st.tuples(st.floats(0, 2 * math.pi), extents, st.integers(1, 15)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(arcs=arcs, repeats=st.integers(0, 5), mixed=st.randoms(use_true_random=False))
def test_any_angles_are_weighted_as_in_filtered_back_projection(arcs, repeats, mixed):
    """Arcs, gaps, repeated views and full turns in any order: the same weights, hence the same image.

    A view's share of the half turn is measured: its back-projection in the scan over that of a scan of it alone. Both
    shares agree to the rounding of float32, in which the model holds its weights. The images differ in the
    detector's highest frequencies, which no angles change: at most 0.3 % in 400 random sets, in float64.
    """
    turned = [first + extent * k / n for first, extent, n in arcs for k in range(n)]
    turned += turned[:repeats]
    mixed.shuffle(turned)
    x = head(24, generator=torch.Generator().manual_seed(0)).double()

    def scan(turned):
        radon = Radon((24, 24), turned, n_detectors=96)
        return radon, glimpse(radon, trained=False, features=1, hidden=1, blocks=()).double()

    radon, model = scan(turned)
    y = radon.A(x)
    with torch.no_grad():
        image = radon.fbp(y)
        assert float((model(y) - image).norm() / image.norm()) < 0.01
        for v in range(0, len(turned), 1 + len(turned) // 8):
            only = torch.zeros_like(y)
            only[:, :, v] = y[:, :, v]
            alone, model_alone = scan(turned[v : v + 1])
            y_v = y[:, :, v : v + 1]
            share = radon.fbp(only).norm() / alone.fbp(y_v).norm()
            assert float(model(only).norm() / model_alone(y_v).norm()) == pytest.approx(float(share), rel=1e-6)


def test_units_do_not_matter(scan):
    radon, y = scan
    model = glimpse(radon, precision="float32")
    with torch.no_grad():
        x = model(y)
        for factor in (1e-6, 0.3, 1e5):
            torch.testing.assert_close(model(factor * y) / factor, x, rtol=1e-4, atol=1e-5 * float(x.max()))
        assert float((x - radon.fbp(y)).norm() / x.norm()) > 1e-2  # and not because there is nothing to scale
        # A longer unit of length: as many pixels, each of less.
        longer = Radon(radon.shape, radon.angles, pixel_size=radon.pixel_size / 10, pitch=radon.pitch / 10)
        torch.testing.assert_close(glimpse(longer, precision="float32")(y) / 10, x, rtol=1e-4, atol=1e-5)
        assert float(model(torch.zeros_like(y)).abs().max()) < 1e-30


def test_a_value_depends_on_its_neighbourhood_alone(scan):
    radon, y = scan
    model = glimpse(radon, precision="float32")
    assert model.reach == 3 and glimpse(radon, **ARCHITECTURES["pointwise"][0]).reach == 0
    views = model.prepare(y)
    # What lies more than `reach` pixels, and the diagonal's share, from the sinusoid of the image's centre is changed.
    near = math.ceil((model.reach * math.sqrt(2) + 3) * 8)
    middle = views.fine.shape[2] // 2
    other = views.fine.clone()
    other[..., : middle - near] += 1
    other[..., middle + near :] -= 1
    corner = torch.zeros(1, 1, 2)
    with torch.no_grad():
        before, after = (model.patches(views._replace(fine=fine), corner, 1, 1) for fine in (views.fine, other))
    assert torch.equal(before, after)


@pytest.mark.parametrize("options", [{}, {"taps": 3, "blocks": (0, 0)}])
def test_points_are_where_the_pixels_are(scan, options):
    radon, y = scan
    model = glimpse(radon, precision="float32", **options)
    rows, cols = torch.meshgrid(torch.arange(32), torch.arange(40), indexing="ij")
    centres = torch.stack([cols - 19.5, 15.5 - rows], -1).reshape(-1, 2).float() * 0.5
    with torch.no_grad():
        x = model(y)
        torch.testing.assert_close(model(y, coords=centres), x.flatten(2), rtol=1e-4, atol=1e-6)
        # Three times the samples: the middle one of nine is the pixel's centre; and these are points like any other.
        fine = model(y, shape=(96, 120))
        torch.testing.assert_close(fine[..., 1::3, 1::3], x, rtol=1e-4, atol=1e-6)
        some = torch.tensor([[(7 - 59.5) / 6, (47.5 - 50) / 6]])
        torch.testing.assert_close(model(y, coords=some)[0, 0, 0], fine[0, 0, 50, 7], rtol=1e-4, atol=1e-6)
        odd = model(y, shape=(16, 60))
        assert odd.shape == (1, 1, 16, 60)
        torch.testing.assert_close(odd[..., 1::3], model(y, shape=(16, 20)), rtol=1e-4, atol=1e-6)


def test_tiles_and_batches_make_no_difference(scan, monkeypatch):
    radon, y = scan
    model = glimpse(radon, precision="float32")
    both = torch.cat([y, y.flip(3)])
    with torch.no_grad():
        whole = model(both)
        torch.testing.assert_close(model(both[1:]), whole[1:], rtol=1e-5, atol=1e-7)
        monkeypatch.setattr("pnp.learned.glimpse._TILE", 7)
        torch.testing.assert_close(model(both), whole, rtol=1e-4, atol=1e-6)


def test_gradients(scan):
    """Also of the points and of the measurements; places stay between the samples, where they are smooth."""
    radon = Radon((8, 8), [0.3, 1.1, 2.0], n_detectors=13)
    model = glimpse(radon, learn_geometry=True, features=3, hidden=3, blocks=(1,)).double()
    y = torch.rand(1, 1, 3, 13, generator=torch.Generator().manual_seed(0)).double()
    y.requires_grad_()
    corners = torch.tensor([[[-1.23, 0.57]]]).double().requires_grad_()
    learned = (model.angles, model.shift, model.filter, model.taps, model.view_weights)
    assert all(p.requires_grad for p in learned)

    def values(y, corners, *_):
        return model.patches(model.prepare(y), corners, 2, 1)

    assert torch.autograd.gradcheck(values, (y, corners, *learned), eps=1e-7, atol=1e-6)


def test_geometry_is_frozen_unless_asked_for(scan):
    model = glimpse(scan[0])
    assert not model.angles.requires_grad and not model.shift.requires_grad and model.filter.requires_grad


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def pairs():
    radon = Radon((32, 32), angles(12))
    x = torch.cat([head(32, generator=torch.Generator().manual_seed(k)) for k in range(8)])
    return radon, x, radon.A(x)


@pytest.mark.parametrize("kind", ["local", "pointwise"])
def test_training_helps_and_resumes(pairs, tmp_path, kind):
    radon, x, y = pairs
    options = {**ARCHITECTURES[kind][0], "features": 16, "hidden": 16, "precision": "float32"}
    noisy = add_noise(y[6:], 40, generator=torch.Generator().manual_seed(9))

    def run(steps, name):
        model = glimpse(radon, trained=False, **options)
        patch = 16 if kind == "local" else 1
        task = PatchTask(model, x[:6], y[:6], patch=patch, patches=256 // patch**2)
        budget = TrainingOptions(steps=steps, batch=4, rate=5e-3, muon_rate=5e-3, warmup=5)
        return train(task, budget, checkpoint=tmp_path / name, resume=True, progress=False)

    run(50, "parts")
    model = run(80, "parts")
    measure = held_out_psnr(noisy, x[6:])
    before = measure(glimpse(radon, trained=False, **options))
    assert measure(model) > before + 0.5
    assert load_checkpoint(tmp_path / "parts")["step"] == 80
    with pytest.raises(ValueError, match="noise_db"):
        task = PatchTask(glimpse(radon, trained=False, **options), x[:6], y[:6], noise_db=30)
        train(
            task,
            TrainingOptions(steps=90, batch=4, rate=5e-3, muon_rate=5e-3, warmup=5),
            checkpoint=tmp_path / "parts",
            resume=True,
        )


def test_wrong_geometry_is_recovered_from_pairs(tmp_path):
    """A jitter of 2 degrees, a shift of 1 degree and an offset of 0.8 pixels, on smooth random images."""
    g = torch.Generator().manual_seed(3)
    x = torch.nn.functional.avg_pool2d(torch.randn(16, 1, 36, 36, generator=g), 5, 1)
    t = torch.arange(32) - 15.5
    x = x * (torch.hypot(t[:, None], t) < 15)
    radon = Radon((32, 32), angles(12))
    guess = radon.angles + math.radians(2) * torch.randn(12, generator=g).double() + math.radians(1)
    wrong = Radon(radon.shape, guess, n_detectors=radon.n_detectors, offset=0.8)
    model = glimpse(wrong, trained=False, learn_geometry=True, precision="float32", blocks=())
    task = PatchTask(model, x, radon.A(x), noise_db=math.inf, patch=32)
    options = TrainingOptions(steps=120, batch=4, rate=1e-2, warmup=5)
    train(task, options, checkpoint=tmp_path / "c", progress=False)
    before, after = ((a - radon.angles).square().mean().sqrt() for a in (guess, model.angles))
    assert float(after) < 0.25 * float(before)
    assert abs(float(model.offset)) < 0.05


def test_pairs_are_patches_of_their_images(pairs):
    radon, x, y = pairs
    model = glimpse(radon, trained=False)
    task = PatchTask(model, x, y, patch=5, patches=3, noise_db=math.inf)
    seen, patch, corners = task.draw(4, generator=torch.Generator().manual_seed(0))
    assert patch.shape == (4, 3, 5, 5) and corners.shape == (4, 3, 2)
    for b in range(4):
        image = next(i for i in range(len(x)) if torch.equal(y[i], seen[b]))
        row, col = int(15.5 - corners[b, 2, 1]), int(corners[b, 2, 0] + 15.5)
        assert torch.equal(patch[b, 2], x[image, 0, row : row + 5, col : col + 5])
    noisy = add_noise(y, 20, generator=torch.Generator().manual_seed(0))
    assert float((noisy - y).norm() / y.norm()) == pytest.approx(0.1, rel=0.03)


def test_slices_to_learn_from(tmp_path):
    x, about = chests(2, 32, progress=False)
    assert x.shape == (2, 1, 32, 32) and not torch.equal(x[0], x[1]) and "chests" in about
    from pnp.io import write_image

    for k in range(3):
        write_image(tmp_path / f"{k}.png", np.full((40, 50), k / 2, dtype=np.float32))
    x, about = folder_slices(tmp_path, 36)
    assert x.shape == (2, 1, 36, 36) and float(x[1].min()) == pytest.approx(1, abs=1e-3)  # the black one is left out
    with pytest.raises(ValueError, match="64 x 64"):
        folder_slices(tmp_path, 64)
    (tmp_path / "mm").mkdir()
    for k in range(2):  # in 1/mm, which bytes would cut to five levels
        write_image(tmp_path / "mm" / f"{k}.tif", np.linspace(0, 0.02, 1600, dtype=np.float32).reshape(40, 40))
    x, _ = folder_slices(tmp_path / "mm", 40)
    np.testing.assert_allclose(x[0, 0].flatten(), np.linspace(0, 0.02, 1600), atol=1e-6)
    write_image(tmp_path / "mm" / "hu.tif", np.full((40, 40), -1000, dtype=np.float32))
    with pytest.raises(ValueError, match=r"hu\.tif .*HU"):
        folder_slices(tmp_path / "mm", 40)
    with pytest.raises(ValueError, match="is not a folder"):
        folder_slices(tmp_path / "nowhere", 40)


# ---------------------------------------------------------------- files and messages


def test_files(scan, tmp_path):
    radon, y = scan
    model = glimpse(radon, learn_geometry=True)
    with torch.no_grad():
        model.angles += 0.01
    model.save(tmp_path / "m.safetensors", about={"data": "none"})
    again = Glimpse.from_pretrained(tmp_path / "m.safetensors")
    assert torch.equal(again(y), model(y).detach()) and again.config() == model.config()
    assert not any(p.requires_grad for p in again.parameters())
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name in ("bad", "none"):
        with pytest.raises(ValueError, match=r"Glimpse\.from_pretrained"):
            Glimpse.from_pretrained(tmp_path / f"{name}.safetensors")


def old_names(tensors):
    """The tensors under the layers' names in older files."""
    return {k.replace(".gather.", ".hear.").replace(".update.", ".add."): v for k, v in tensors.items()}


def test_older_files_are_read(scan, pairs, tmp_path):
    """Weights and checkpoints whose blocks have the layers "hear" and "add", and whose settings are "levels"."""
    model, path = glimpse(scan[0]), tmp_path / "new.safetensors"
    model.save(path)
    with safe_open(path, framework="pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    assert any(".gather." in k for k in tensors)
    save_file(old_names(tensors), tmp_path / "old.safetensors", metadata=header)
    again = Glimpse.from_pretrained(tmp_path / "old.safetensors")
    assert all(torch.equal(v, w) for v, w in zip(model.state_dict().values(), again.state_dict().values(), strict=True))

    radon, x, y = pairs

    def run(steps, name):
        task = PatchTask(glimpse(radon, trained=False, precision="float32"), x, y, patch=8)
        options = TrainingOptions(steps=steps, batch=2, warmup=2)
        return train(task, options, checkpoint=tmp_path / name, resume=True, progress=False)

    run(2, "old")
    state = load_checkpoint(tmp_path / "old")
    state["weights"], state["average"] = old_names(state["weights"]), old_names(state["average"])
    state["levels"] = state.pop("settings")
    torch.save(state, tmp_path / "old")
    run(2, "new")
    resumed, whole = run(4, "old").state_dict(), run(4, "new").state_dict()
    assert all(torch.equal(whole[k], v) for k, v in resumed.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"angles": torch.zeros(0)}, "non-empty"),
        ({"angles": torch.zeros(2, 2)}, "1-D"),
        ({"angles": [0.0, math.nan]}, "1 NaN"),
        ({"n_detectors": 0}, "n_detectors must be an integer >= 1"),
        ({"pitch": -1}, "positive"),
        ({"pixel_size": math.inf}, "finite"),
        ({"offset": 100.0}, "no ray"),
        ({"blocks": (1, -1)}, "0 or more"),
        ({"shape": (0, 8)}, "shape must be positive"),
        ({"precision": "half"}, "one of"),
    ],
)
def test_bad_geometry_is_one_sentence(change, said):
    with pytest.raises(ValueError, match=said) as error:
        Glimpse(**{"shape": (8, 8), "angles": [0.0, 1.0], "n_detectors": 13, **change})
    assert len(str(error.value)) < 400


def test_degrees_are_suspected():
    with pytest.warns(UserWarning, match=re.escape("np.deg2rad")):
        Glimpse((8, 8), np.arange(0, 180, 6.0), n_detectors=13)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda y: y[0], ValueError, ": y "),
        (lambda y: y.mT, ValueError, "transposed"),
        (lambda y: y[..., 1:], ValueError, "one geometry"),
        (lambda y: y[:, :, 1:], ValueError, "one geometry"),
        (lambda y: y.expand(-1, 2, -1, -1), ValueError, "one geometry"),
        (lambda y: y.long(), TypeError, "float"),
        (lambda y: y.double(), TypeError, "model.double"),
        (lambda y: y.numpy(), TypeError, "as_tensor"),
        (lambda y: y * math.nan, ValueError, "must be finite"),
    ],
)
def test_bad_measurements_are_one_sentence(scan, spoil, error, said):
    radon, y = scan
    with pytest.raises(error, match=said) as found:
        glimpse(radon)(spoil(y))
    assert len(str(found.value)) < 400


def test_bad_points_are_one_sentence(scan):
    radon, y = scan
    model = glimpse(radon)
    for wrong, said in ((torch.zeros(3), "\\(P, 2\\)"), (torch.full((1, 2), math.nan), "finite")):
        with pytest.raises(ValueError, match=said):
            model(y, coords=wrong)
    with pytest.raises(ValueError, match="got both"):
        model(y, shape=(8, 8), coords=torch.zeros(1, 2))
    x = torch.zeros(2, 1, *radon.shape)
    for change, said in (
        ({"images": x[:, :, 1:]}, "images"),
        ({"y": y}, ": y "),
        ({"patch": 33}, ": patch "),
        ({"noise_db": 0.0}, "noise_db"),
    ):
        with pytest.raises(ValueError, match=said):
            PatchTask(**{"model": model, "images": x, "y": y.expand(2, -1, -1, -1), **change})


# ---------------------------------------------------------------- the command


def test_command(tmp_path, capsys, monkeypatch):
    from pnp.cli import main

    output = tmp_path / "g.safetensors"

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["pnp", "train", "glimpse", "-o", str(output), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    small = ("--views", "8", "--size", "32", "--slices", "4", "--batch", "2", "--device", "cpu")
    code, out, err = run(*small, "--steps", "2")
    assert code in (0, None), err
    line = r"g.safetensors: 2 steps, \S+ minutes; PSNR \S+ dB on 1 held-out slices; filtered back-projection \S+ dB$"
    assert re.search(line, out.splitlines()[-1])
    code, out, _ = run(*small, "--steps", "3", "--resume")
    assert "3 steps" in out
    assert len(Glimpse.from_pretrained(output).angles) == 8
    for wrong, said in (
        (("--steps", "4"), "exists"),
        (("--steps", "4", "--overwrite"), "--resume"),
        (("--steps", "4", "--resume", "--views", "9", *small[2:]), "another model"),
        (("--steps", "4", "--resume", *small, "--slices", "5"), "images"),
        (("--size", "8", "--resume"), "--size"),
    ):
        code, _, err = run(*wrong)
        assert code == 2 and said in err, err
