"""Training: learns, is deterministic, resumes exactly after a stop, refuses bad folders and foreign checkpoints."""

import math
import signal
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.io import imsave
from torch import nn

from denoisers import MLPatch
from pnp.lensing.training_set import convergence_set
from pnp.training import Interrupted, NoiseLevels, TrainingOptions, load_checkpoint
from pnp.training.denoiser import DenoisingTask, denoising_psnr, train_denoiser
from pnp.training.images import Crops, load_folder
from pnp.training.photographs import photograph_set

LEVELS = NoiseLevels(0.02, 0.2)


class Foreign(nn.Module):
    """A small network D(x, sigma) of somebody else's, with a buffer that is counted and one that is averaged."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x, sigma):
        level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
        return x - self.layers(torch.cat([x, level], 1))


@pytest.fixture
def folder(tmp_path):
    """Three images of smooth stripes, grey, colour and colour with transparency."""
    root = tmp_path / "images"
    root.mkdir()
    row, column = np.mgrid[:48, :60]
    for k, channels in enumerate((None, 3, 4)):
        wave = 127 + 100 * np.sin(0.2 * (row + (k + 1) * column))
        x = wave if channels is None else np.stack([wave] * channels, -1)
        if channels == 4:
            x[..., 3] = 255
        imsave(root / f"{k}.png", x.astype(np.uint8), check_contrast=False)
    return root


def model(seed=0, dilations=(1, 1)):
    torch.manual_seed(seed)
    return MLPatch(taps=3, features=16, hidden=16, dilations=dilations, precision="float32")


def options(steps=None, **more):
    return TrainingOptions(steps, **{"batch": 4, "warmup": 10, "rate": 3e-3, "muon_rate": 6e-3} | more)


def crops(folder):
    return Crops(load_folder(folder), 24)


def train(net, sampler, o, path, **more):
    return train_denoiser(net, sampler, LEVELS, o, checkpoint=path, progress=False, **more)


def same(a, b):
    return all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_denoises(folder, tmp_path, optimizer):
    net = train(model(), crops(folder), options(200, optimizer=optimizer), tmp_path / "c.pt")
    clean = [x.float() / 255 for x in load_folder(folder)]
    assert denoising_psnr(net, clean, 0.1) > 20 + 5  # sigma 0.1 is 20 dB
    used = {"muon": 2, "adamw": 1}[optimizer]
    assert len(load_checkpoint(tmp_path / "c.pt")["optimizers"]) == used


def test_a_foreign_network_learns_and_is_deterministic(folder, tmp_path):
    def run(name):
        torch.manual_seed(0)
        return train(Foreign(), crops(folder), options(150), tmp_path / name)

    net = run("a.pt")
    assert same(net, run("b.pt"))
    assert denoising_psnr(net, [x.float() / 255 for x in load_folder(folder)], 0.1) > 23


class Stop(Exception):
    pass


def interrupting(sampler, at, action):
    """The sampler, which does something else, too, in its call number `at`."""
    calls = count()

    def sample(batch, generator):
        if next(calls) == at:
            action()
        return sampler(batch, generator=generator)

    return sample


def fail():
    raise Stop


@pytest.mark.parametrize("kind", [model, Foreign])
def test_a_stopped_run_resumes_to_the_same_weights(folder, tmp_path, kind):
    torch.manual_seed(0)
    whole = train(kind(), crops(folder), options(12), tmp_path / "a.pt")
    torch.manual_seed(0)
    sampler = crops(folder)

    def late(batch, generator):  # fails after it has drawn
        x = sampler(batch, generator=generator)
        return interrupted(batch, generator=generator) * x

    interrupted = interrupting(lambda *_, **__: 1, 7, fail)
    with pytest.raises(Stop):
        train(kind(), late, options(12), tmp_path / "b.pt")
    assert load_checkpoint(tmp_path / "b.pt")["step"] == 7
    resumed = train(kind(), sampler, options(12), tmp_path / "b.pt", resume=True)
    assert same(whole, resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_a_checkpoint_between_two_steps(folder, tmp_path, number):
    before = signal.getsignal(number)
    whole = train(model(), crops(folder), options(9), tmp_path / "a.pt")
    seen = []
    with pytest.raises(Interrupted) as caught:
        sampler = interrupting(crops(folder), 4, lambda: signal.raise_signal(number))
        train(model(), sampler, options(9), tmp_path / "b.pt", validate=seen.append)
    assert (caught.value.number, caught.value.step) == (number, 5) and not seen
    assert signal.getsignal(number) is before
    assert same(whole, train(model(1), crops(folder), options(9), tmp_path / "b.pt", resume=True))


def test_a_budget_of_minutes_counts_training_alone(folder, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pnp.training.loop.time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0]))
    sampler = crops(folder)

    def second(batch, generator):
        now[0] += 1
        return sampler(batch, generator=generator)

    def slow(net):
        now[0] += 1000
        assert not net.training
        return now[0]

    path, often = tmp_path / "c.pt", {"validate": slow, "checkpoint_minutes": 0.1, "validate_minutes": 0.05}
    train(model(), second, options(minutes=0.2), path, **often)
    state = load_checkpoint(path)
    assert (state["step"], state["seconds"]) == (12, 12)
    assert [entry[:2] for entry in state["history"]] == [[3, 3], [6, 6], [9, 9], [12, 12]]
    now[0] += 1e6  # later
    train(model(), second, options(minutes=0.4), path, resume=True, **often)
    assert load_checkpoint(path)["step"] == 24
    train(model(), second, options(minutes=0.1), path, resume=True, **often)
    assert load_checkpoint(path)["step"] == 24


def test_the_rates_rise_stay_and_fall():
    o = TrainingOptions(1000, warmup=100, decay=0.4)
    factors = [o.rate_factor(k, o.progress(k, math.nan)) for k in (0, 49, 99, 600, 800, 999)]
    assert factors == pytest.approx([0.01, 0.5, 1, 1, 0.5, 0.02])
    assert TrainingOptions(minutes=2).progress(10**9, 30) == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1, "minutes": 1}, "minutes"),
        ({"steps": 0}, ": steps "),
        ({"minutes": math.inf}, "minutes"),
        ({"steps": 1, "optimizer": "sgd"}, "optimizer"),
    ],
)
def test_options_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**arguments)


def test_what_cannot_be_trained_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match="steps or minutes"):
        train(model(), crops(folder), options(), tmp_path / "c.pt")
    with pytest.raises(ValueError, match="requires_grad_"):
        train(model().requires_grad_(False), crops(folder), options(1), tmp_path / "c.pt")
    with pytest.raises(ValueError, match="17 x 17"):
        train(model(), Crops(load_folder(folder), 16), options(1), tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize("fast", [True, False])
def test_foreign_networks_train_under_autocast(folder, tmp_path, monkeypatch, fast):
    monkeypatch.setattr("pnp.training.denoiser.fast_bfloat16", lambda device: fast)
    seen = []

    def dtypes(o, **attributes):
        net = Foreign()
        net.layers[3].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        for name, value in attributes.items():
            setattr(net, name, value)
        train(net, crops(folder), o, tmp_path / f"{len(seen)}.pt")

    dtypes(options(1))
    dtypes(options(1, mixed_precision=False))
    dtypes(options(1), compute_dtype=lambda x: x.dtype)
    assert seen == [torch.bfloat16 if fast else torch.float32, torch.float32, torch.float32]


def test_double_precision_is_honoured(folder, tmp_path):
    net = train(Foreign().double(), crops(folder), options(2), tmp_path / "c.pt")
    assert {p.dtype for p in net.parameters()} == {torch.float64}


def test_a_run_that_diverges_leaves_the_last_good_checkpoint(folder, tmp_path):
    sampler, path = crops(folder), tmp_path / "c.pt"
    train(model(), sampler, options(3), path)
    broken = interrupting(sampler, 2, lambda: None)

    def infinite(batch, generator):
        return broken(batch, generator=generator) * math.inf

    with pytest.raises(ValueError, match="step 5"):
        train(model(), infinite, options(5), path, resume=True)
    assert load_checkpoint(path)["step"] == 3


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path):
    path = tmp_path / "c.pt"
    train(model(), crops(folder), options(1), path)

    def refuses(message, net, o, **more):
        with pytest.raises(ValueError, match=message) as caught:
            train(net, crops(folder), o, path, **more)
        assert len(str(caught.value)) < 400

    refuses("class was", Foreign(), options(2), resume=True)
    refuses("optimizer", model(), options(2, optimizer="adamw"), resume=True)
    refuses("seed", model(), options(2, seed=1), resume=True)
    refuses("loss_power", model(), options(2, loss_power=0.0), resume=True)
    wide = model(dilations=(1, 1, 1))
    refuses("dilations", wide, options(2), resume=True)
    with pytest.raises(ValueError, match="high"):
        train_denoiser(model(), crops(folder), NoiseLevels(0.02, 0.3), options(2), checkpoint=path, resume=True)
    refuses("c.pt exists", model(), options(2))
    state = load_checkpoint(path)
    assert state["config"]["class"] == "MLPatch" and state["version"]
    torch.save({**state, "generators": 2 * state["generators"]}, path)
    refuses("nproc-per-node=2", model(), options(2), resume=True)
    del state["generators"]
    torch.save(state, path)
    refuses("generators", model(), options(2), resume=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        load_checkpoint(path)


def test_layers_of_equal_shapes_are_told_apart(folder, tmp_path):
    train(model(dilations=(1, 2)), crops(folder), options(1), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="dilations"):
        train(model(dilations=(2, 1)), crops(folder), options(2), tmp_path / "a.pt", resume=True)
    train(Foreign(), crops(folder), options(1), tmp_path / "b.pt")
    net = Foreign()
    net.layers[4] = nn.Tanh()
    with pytest.raises(ValueError, match=r"layers\.4"):
        train(net, crops(folder), options(2), tmp_path / "b.pt", resume=True)


@pytest.mark.parametrize("border", [None, 3])
def test_the_loss_leaves_out_the_border(border):
    class WrongAtTheEdge(nn.Module):
        def __init__(self):
            super().__init__()
            self.error = nn.Parameter(torch.ones(()))

        def forward(self, y, sigma):
            inside = F.pad(torch.zeros_like(y[..., 6:-6]), (6, 6), value=1.0)  # wrong in six columns on each side
            return self.error * inside

    task = DenoisingTask(WrongAtTheEdge(), None, LEVELS, options(1, border=border, loss_scale=1.0))
    loss = task(torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20), torch.ones(1))
    assert loss.item() == pytest.approx(12 / 20 if border is None else 6 / 14)


@pytest.mark.parametrize("border", [-1, 2.5, 24])
def test_a_border_that_leaves_nothing_is_refused(folder, tmp_path, border):
    with pytest.raises(ValueError, match="border"):
        train(model(), crops(folder), options(1, border=border), tmp_path / "c.pt")


@pytest.mark.parametrize("named", [True, False])
def test_checkpoints_of_earlier_versions_resume(folder, tmp_path, named):
    path = tmp_path / "c.pt"
    train(model(), crops(folder), options(2), path)
    state = load_checkpoint(path)
    for key in ("config", "version"):
        del state[key]
    del state["options"]["mixed_precision"]
    state["levels"] = state.pop("settings")
    law = state["levels"].pop("distribution")
    if named:
        state["levels"]["law"] = law
    torch.save(state, path)
    with pytest.raises(ValueError, match="noise level setting"):
        other = NoiseLevels(0.02, 0.3)
        train_denoiser(model(1), crops(folder), other, options(4), checkpoint=path, resume=True, progress=False)
    train(model(1), crops(folder), options(4), path, resume=True)
    now = load_checkpoint(path)
    assert now["step"] == 4 and now["version"] and now["config"]["dilations"] == [1, 1]
    assert now["settings"] == {"low": 0.02, "high": 0.2, "distribution": "uniform"} and "levels" not in now


def test_the_trained_model_is_frozen(folder, tmp_path):
    net = train(model(), crops(folder), options(1), tmp_path / "c.pt")
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert not net(torch.zeros(1, 1, 32, 32), 0.1).requires_grad


def test_the_bar_shows_loss_validation_and_time_left(folder, tmp_path, capsys):
    train_denoiser(
        model(),
        crops(folder),
        LEVELS,
        options(3),
        checkpoint=tmp_path / "c.pt",
        validate=lambda _: 31.25,
        progress=True,
    )
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err
    assert "step 3, loss" in err and "validation 31.250" in err and "00:00<00:00" in err


def test_noise_levels_fill_their_range():
    g = torch.Generator().manual_seed(0)
    for distribution in ("uniform", "log"):
        s = NoiseLevels(0.01, 1.0, distribution)(4000, generator=g)
        assert 0.01 <= float(s.min()) and float(s.max()) <= 1.0
        median = 0.1 if distribution == "log" else 0.505
        assert float(s.median()) == pytest.approx(median, rel=0.1)


def test_mixed_levels_are_often_low():
    def share(distribution):  # of levels below 3 % of the highest
        s = NoiseLevels(0.001, 1.0, distribution)(20000, generator=torch.Generator().manual_seed(0))
        assert 0.001 <= float(s.min()) and float(s.max()) <= 1.0
        return float((s < 0.03).double().mean())

    uniform, log = 0.029 / 0.999, math.log(30) / math.log(1000)
    assert share("uniform") == pytest.approx(uniform, abs=0.01)
    assert share("log") == pytest.approx(log, abs=0.01)
    assert share("mixed") == pytest.approx(0.2 * log + 0.8 * uniform, abs=0.01)


@pytest.mark.parametrize("arguments", [(0, 0.2), (0.3, 0.2), (-1, 0.2), (0.1, math.inf), (0.1, math.nan)])
def test_noise_levels_are_checked(arguments):
    with pytest.raises(ValueError, match="low"):
        NoiseLevels(*arguments)
    with pytest.raises(ValueError, match="linear"):
        NoiseLevels(0.1, 0.2, "linear")


def test_psnr_of_a_perfect_denoiser_is_finite():
    x = torch.zeros(1, 4, 4)
    assert denoising_psnr(lambda y, s: torch.zeros_like(y), [x], 0.1) == pytest.approx(120)
    assert denoising_psnr(lambda y, s: y + 0.5 - 0 * s, [x + 0.5], 0.0) < 7


def test_photographs_grey_and_colour(folder):
    for channels in (1, 3):
        job = photograph_set(folder, channels=channels, crop=24)
        assert job.sampler(5, generator=torch.Generator().manual_seed(0)).shape == (5, channels, 24, 24)
        assert job.validate(lambda y, sigma: y) == pytest.approx(20.2, abs=0.4)  # sigma 25/255
        assert job.levels == NoiseLevels(0.2 / 255, 55 / 255, "mixed")
        assert job.sampler.recolour == (channels == 3)
        assert "2 images of images, 1 held out" in job.about and job.options.batch == 12
    with pytest.raises(ValueError, match=": crop "):
        photograph_set(folder, crop=129)
    for k in (1, 2):
        (folder / f"{k}.png").unlink()
    with pytest.raises(ValueError, match="at least two"):
        photograph_set(folder, crop=24)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, sigma):
        return self.factor * x


def test_convergence_maps():
    job = convergence_set([0.02])
    assert job.sampler(1, generator=torch.Generator().manual_seed(0)).shape == (1, 1, 256, 256)
    assert job.validate(Scale(0)) == pytest.approx(1)
    assert job.validate(Scale(1)) == pytest.approx(0.18 / 0.02, rel=0.1)
    with pytest.raises(ValueError, match="at least one"):
        convergence_set([])


def test_folders_that_cannot_serve_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not a folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in"):
        load_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match="80 x 80"):
        Crops([torch.zeros(1, 48, 60, dtype=torch.uint8)], 80)
    assert load_folder(folder, channels=3)[0].shape == (3, 48, 60)
    (folder / "more").mkdir()
    broken = folder / "more" / "broken.png"
    broken.write_bytes((folder / "1.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read more/broken\.png"):
        load_folder(folder)
    broken.unlink()

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(ValueError, match="Permission denied"):
        load_folder(folder)
