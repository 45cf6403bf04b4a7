"""Two processes on the CPU, started by torchrun: equal weights, shared batches, exact resumption, one set of files."""

import subprocess
import sys

import pytest
import torch

from denoisers import MLPatch
from pnp.cli.options import choose_device
from pnp.io import write_image
from pnp.training import load_checkpoint, processes

SCRIPT = """
import signal, sys
import torch
from denoisers import MLPatch
from pnp.training import processes
from pnp.training import Interrupted, NoiseLevels, TrainingOptions, train_denoiser

folder = sys.argv[1]
with processes.joined(torch.device("cpu")) as device:
    rank = processes.rank()
    drawn, looks = [], []

    def sampler(batch, generator):
        drawn.append(torch.rand(batch, 1, 24, 24, generator=generator))
        return drawn[-1]

    def stopping(batch, generator):
        if rank == 1 and len(drawn) == 3:
            signal.raise_signal(signal.SIGTERM)  # in one of them alone
        return sampler(batch, generator=generator)

    def train(sampler, name, **more):
        drawn.clear()
        torch.manual_seed(rank)  # weights that differ at first
        model = MLPatch(taps=3, features=8, hidden=8, dilations=(1,), precision="float32")
        options = TrainingOptions(6, batch=4, warmup=2)
        train_denoiser(
            model, sampler, NoiseLevels(0.1, 0.2), options, checkpoint=f"{folder}/{name}.pt",
            validate=lambda _: looks.append(rank) or 1.0, progress=True, **more
        )
        return model.state_dict()

    whole = train(sampler, "whole")
    crops = torch.stack(drawn)
    try:
        train(stopping, "stopped")
    except Interrupted as stop:
        stopped = stop.step
    resumed = train(sampler, "stopped", resume=True)
    try:
        model, levels = MLPatch(taps=3, features=8, hidden=8, dilations=(1,)), NoiseLevels(0.1, 0.2)
        train_denoiser(model, sampler, levels, TrainingOptions(1, batch=3), checkpoint=f"{folder}/odd.pt")
    except ValueError as error:
        odd = str(error)
    state = {"whole": whole, "resumed": resumed, "crops": crops, "stopped": stopped, "looks": looks, "odd": odd}
    torch.save(state, f"{folder}/rank{rank}.pt")
"""


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=200)


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(script, tmp_path)
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(tmp_path / f"rank{k}.pt") for k in (0, 1))
    assert a["crops"].shape == (6, 2, 1, 24, 24)  # half of each batch
    assert not torch.equal(a["crops"], b["crops"])
    for state in (a, b):
        assert state["stopped"] == 4 and "multiple of the processes (2), got 3" in state["odd"]
        for name, weight in a["whole"].items():
            assert torch.equal(state["whole"][name], weight) and torch.equal(state["resumed"][name], weight), name
    assert (a["looks"], b["looks"]) == ([0, 0], [])
    assert done.stderr.count("100%") == done.stderr.count("step 6,") > 0
    assert len(load_checkpoint(tmp_path / "whole.pt")["generators"]) == 2


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path):
    for k in range(3):
        write_image(tmp_path / f"{k}.png", torch.rand(70, 72, generator=torch.Generator().manual_seed(k)))
    options = ("--data", tmp_path, "--steps", 2, "--batch", 2, "--crop", 64, "--device", "cpu", "-o")
    done = torchrun("-m", "pnp.cli", "train", "denoiser", *options, tmp_path / "w.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 steps") == 1
    assert MLPatch.from_pretrained(str(tmp_path / "w.safetensors")).channels == 1


def test_alone_nothing_is_shared():
    with processes.joined(torch.device("cpu")) as device:
        assert device == torch.device("cpu") and (processes.rank(), processes.size()) == (0, 1)
        assert processes.largest([1.0, 2.0]) == [1.0, 2.0]
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="--device abacus"):
        choose_device("abacus")


@pytest.mark.parametrize(
    ("device", "local", "message"),
    [("cuda:1", 0, "cuda:1"), ("cuda", 4, "--nproc-per-node=2")],
)
def test_cards_and_processes_must_agree(monkeypatch, device, local, message):
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    with pytest.raises(ValueError, match=message), processes.joined(torch.device(device)):
        raise AssertionError("not reached")
