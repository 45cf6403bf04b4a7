"""Checkpoints of solve, mlem and osem: the same bits after an interruption, and no other run's state."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from arrays import rand
from safetensors.torch import load_file, save_file
from torch import nn
from toys import Diagonal, Views, image, smooth

from denoisers import MLPatch
from operators import Blur, Mask, Radon
from pnp import LeastSquares, Poisson, Schedule, Stop, mlem, osem, solve
from pnp.ct import Transmission
from pnp.drivers.checkpoint import Checkpoint
from pnp.drivers.fingerprint import fingerprint
from pnp.io.lock import exclusive

DISC = (image() > 0.9).double()
OPTIONS = {"noise_std": 0.05, "max_iter": 9, "rtol": 0.0}


class Weighted(nn.Module):
    """A denoiser with a weight."""

    def __init__(self, weight: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64), requires_grad=False)

    def forward(self, x, sigma):
        return x + self.weight * (smooth(x, sigma) - x)


def problem(name: str):
    """Return operator, measurements and options: a closed form, warm-started CG, and two terms with inner steps."""
    if name == "mask":
        A = Mask((rand(*DISC.shape[-2:]) > -0.5).double())
    elif name == "radon":
        A = Radon(tuple(DISC.shape[-2:]), torch.arange(7, dtype=torch.float64) * (math.pi / 7))
    elif name == "transmission":
        A = Radon(tuple(DISC.shape[-2:]), torch.arange(7, dtype=torch.float64) * (math.pi / 7))
        counts = torch.poisson(1e3 * (-0.1 * A.A(DISC)).exp(), generator=torch.Generator().manual_seed(0))
        return A, counts, {"data_term": Transmission(1e3, n_inner=1), "max_iter": 9, "rtol": 0.0}
    else:
        A = Blur(torch.ones(3, 5, dtype=torch.float64) / 15, DISC.shape[-2:], boundary="valid")
    y = A.A(DISC)
    if name == "poisson":
        y = torch.poisson(100 * y.clamp(min=0), generator=torch.Generator().manual_seed(0))
        return A, y, {"data_term": Poisson(background=1.0), "max_iter": 9, "rtol": 0.0, "bounds": (0, None)}
    return A, y + 0.05 * rand(*y.shape), OPTIONS


def stopping(at: int, deed=KeyboardInterrupt):
    """A callback that raises in iteration `at`, and lists what it saw."""

    def callback(state):
        callback.seen.append(state.k)
        if state.k == at:
            raise deed

    callback.seen = []
    return callback


def same(a, b) -> None:
    """The same bits, and the same course."""
    assert torch.equal(torch.as_tensor(a.x), torch.as_tensor(b.x))
    assert (a.n_iter, a.stop, a.misfit, a.history) == (b.n_iter, b.stop, b.misfit, b.history)


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
@pytest.mark.parametrize("name", ["mask", "radon", "blur", "poisson", "transmission"])
def test_a_solve_goes_on_to_the_same_bits(name, algorithm, tmp_path):
    A, y, options = problem(name)
    options = {**options, "algorithm": algorithm, "checkpoint": tmp_path / "c"}
    whole = solve(A, y, smooth, **{**options, "checkpoint": None})
    first = solve(A, y, smooth, **options, callback=stopping(4))
    assert first.stop is Stop.INTERRUPTED and (tmp_path / "c").exists()
    with pytest.raises(ZeroDivisionError):
        solve(A, y, smooth, **options, callback=stopping(7, ZeroDivisionError))  # an error keeps it as well
    rest = stopping(-1)
    same(solve(A, y, smooth, **options, callback=rest), whole)
    assert rest.seen == [8, 9]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_every_dtype_and_numpy(dtype, tmp_path):
    A = Diagonal((2 + rand(6, 7).abs()).to(dtype))
    y = A.A(rand(2, 1, 6, 7).to(dtype))
    options = {"noise_std": 0.1, "max_iter": 5, "rtol": 0.0}
    whole = solve(A, y, smooth, **options)
    for kind in (torch.as_tensor, np.asarray):
        solve(A, kind(y), smooth, **options, checkpoint=tmp_path / "c", callback=stopping(3))
        rest = solve(A, kind(y), smooth, **options, checkpoint=str(tmp_path / "c"))
        assert isinstance(rest.x, type(kind(y))) and torch.as_tensor(rest.x).dtype == dtype
        same(rest, whole)


@pytest.mark.parametrize("n_subsets", [1, 3])
def test_em_goes_on_to_the_same_bits(n_subsets, tmp_path):
    A = Views(rand(9, 5, 42).abs())
    y = torch.poisson(A.A(rand(1, 1, 6, 7, seed=2).abs()), generator=torch.Generator().manual_seed(0))
    em = mlem if n_subsets == 1 else osem
    options = {"max_iter": 6} | ({} if n_subsets == 1 else {"n_subsets": n_subsets})
    whole = em(A, y, **options)
    first = em(A, y, **options, checkpoint=tmp_path / "c", callback=stopping(3))
    assert first.stop is Stop.INTERRUPTED
    with pytest.raises(ValueError, match=r"max_iter.* 3 "):
        em(A, y, **{**options, "max_iter": 2}, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="checkpoint"):
        solve(A, y, smooth, noise_std=1, checkpoint=tmp_path / "c")
    same(em(A, y, **options, checkpoint=tmp_path / "c"), whole)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_stays_holds_the_answer(tmp_path):
    A, y, options = problem("mask")
    options = {**options, "max_iter": 40, "rtol": 0.3, "schedule": [0.1], "algorithm": "hqs"}
    whole = solve(A, y, smooth, **options)
    assert whole.stop is Stop.CONVERGED
    kept = Checkpoint(tmp_path / "c", minutes=0, remove=False)
    same(solve(A, y, smooth, **options, checkpoint=kept), whole)
    none = stopping(-1)
    same(solve(A, y, smooth, **options, checkpoint=kept, callback=none), whole)
    assert none.seen == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": 1e-12}, "y was"),
        ({"noise_std": 0.06}, "noise_std was"),
        ({"strength": 2}, "strength was"),
        ({"algorithm": "hqs"}, "algorithm was"),
        ({"max_iter": 10}, "schedule was"),
        ({"rtol": 0.1}, "rtol"),
        ({"bounds": (0, None)}, "bounds"),
        ({"schedule": Schedule(0.5, 0.1)}, "schedule was"),
        ({"x0": torch.zeros_like(DISC)}, "x0 was"),
        ({"data_term": LeastSquares(rtol=1e-3)}, "data_term"),
        ({"denoiser": Weighted(0.30001)}, "denoiser"),
        ({"operator": Mask(torch.full((32, 40), 1.01, dtype=torch.float64))}, "operator"),
    ],
)
def test_another_run_is_refused(change, message, tmp_path):
    A, y, _ = Mask(torch.ones(32, 40, dtype=torch.float64)), DISC.clone(), None
    solve(A, y, Weighted(), **OPTIONS, checkpoint=tmp_path / "c", callback=stopping(4))
    before = (tmp_path / "c").read_bytes()
    options = {**OPTIONS, "checkpoint": tmp_path / "c", **change}
    A, D = options.pop("operator", A), options.pop("denoiser", Weighted())
    y = y + options.pop("y", 0.0)
    with pytest.raises(ValueError, match=message) as caught:
        solve(A, y, D, **options)
    assert "remove the file" in str(caught.value) and len(str(caught.value)) < 400
    assert (tmp_path / "c").read_bytes() == before and list(tmp_path.iterdir()) == [tmp_path / "c"]


def test_another_function_for_a_denoiser_is_refused(tmp_path):
    A, y, options = problem("radon")
    solve(A, y, smooth, **options, checkpoint=tmp_path / "c", callback=stopping(6))
    with pytest.raises(ValueError, match="another denoiser"):
        solve(A, y, lambda x, sigma: 0.9 * x + 0.1 * smooth(x, sigma), **options, checkpoint=tmp_path / "c")
    turned = Radon(A.shape, A.angles + 0.02)
    with pytest.raises(ValueError, match="another operator"):
        solve(turned, y, smooth, **options, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_the_identity_is_the_same_denoiser(algorithm, tmp_path):
    """Its dual is 0, and with over-relaxation z is not x."""
    A, y, options = problem("radon")
    options = {**options, "algorithm": algorithm, "checkpoint": tmp_path / "c"}
    whole = solve(A, y, lambda x, sigma: x, **{**options, "checkpoint": None})
    solve(A, y, lambda x, sigma: x, **options, callback=stopping(4))
    same(solve(A, y, lambda x, sigma: x, **options), whole)


def test_rounding_is_no_other_run(tmp_path):
    """Other threads, or another machine, change the last bits of what operator and denoiser return."""
    A, y, options = problem("radon")
    whole = solve(A, y, smooth, **options)
    solve(A, y, smooth, **options, checkpoint=tmp_path / "c", callback=stopping(6))

    class Rounded(Radon):
        def A(self, x):
            return super().A(x) * (1 + 1e-6)

    result = solve(
        Rounded(A.shape, A.angles), y, lambda x, sigma: smooth(x, sigma) * (1 + 1e-7), **options,
        checkpoint=tmp_path / "c",
    )  # fmt: skip
    assert result.n_iter == 9 and float((result.x - whole.x).norm() / whole.x.norm()) < 1e-3


@pytest.mark.parametrize("what", ["text", "weights", "cut", "shape", "nan"])
def test_files_that_are_no_checkpoint_are_refused_and_stay(what, tmp_path):
    A, y, options = problem("mask")
    path = tmp_path / "c"
    solve(A, y, smooth, **options, checkpoint=path, callback=stopping(4))
    if what == "text":
        path.write_text("precious")
    elif what == "weights":
        save_file({"w": torch.ones(3)}, path)
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        tensors, data = load_file(path), path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors["u"] = tensors["u"][..., :1] if what == "shape" else tensors["u"] * math.nan
        save_file({k: t.contiguous() for k, t in tensors.items()}, path, header)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"not a checkpoint|damaged") as caught:
        solve(A, y, smooth, **options, checkpoint=path)
    assert "remove" in str(caught.value) and len(str(caught.value)) < 400 and path.read_bytes() == before


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [
        (3, TypeError, "checkpoint"),
        ("absent/c", ValueError, "does not exist"),
        (".", ValueError, "is a folder"),
    ],
)
def test_names_that_cannot_be_written_are_refused_at_once(checkpoint, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    A, y, options = problem("mask")
    with pytest.raises(error, match=message):
        solve(A, y, smooth, **options, checkpoint=checkpoint)


def test_it_is_written_as_often_as_asked(tmp_path):
    A, y, options = problem("mask")
    seen = []

    def callback(state):
        seen.append((tmp_path / "c").exists())

    solve(A, y, smooth, **options, checkpoint=tmp_path / "c", callback=callback)
    assert not any(seen)  # three minutes are longer
    seen.clear()
    solve(A, y, smooth, **options, checkpoint=Checkpoint(tmp_path / "c", minutes=0), callback=callback)
    assert seen == [True] * 9


def test_a_full_disk_is_a_warning_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    A, y, options = problem("radon")
    whole, path = solve(A, y, smooth, **options), tmp_path / "c"
    full = [False]

    def fsync(handle, fsync=os.fsync):
        if full[0]:
            raise OSError(28, "No space left on device")
        fsync(handle)

    def callback(state):
        full[0] = 3 <= state.k < 6  # while the fourth, the fifth and the sixth are to be written
        if state.k in (3, 6):
            callback.held.append(path.read_bytes())

    callback.held = []
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="checkpoint.*No space left") as w:
        result = solve(A, y, smooth, **options, checkpoint=Checkpoint(path, minutes=0), callback=callback)
    same(result, whole)
    assert (
        sum("No space left" in str(one.message) for one in w) == 3
        and callback.held[0] == callback.held[1]
        and list(tmp_path.iterdir()) == []
    )


def test_a_checkpoint_is_one_runs_alone(tmp_path):
    A, y, options = problem("mask")

    def callback(state):
        with pytest.raises(ValueError, match="another run"):
            solve(A, y, smooth, **options, checkpoint=tmp_path / "c")

    assert solve(A, y, smooth, **options, checkpoint=tmp_path / "c", callback=callback).n_iter == 9
    with exclusive(tmp_path / "c", "test"), exclusive(tmp_path / "d", "test"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ctrl_c", [False, True])
def test_a_folder_that_goes_ends_no_run(ctrl_c, tmp_path):
    """An unmounted disk: warnings, and the image."""
    A, y, options = problem("mask")
    folder = tmp_path / "gone"
    folder.mkdir()

    def callback(state):
        shutil.rmtree(folder, ignore_errors=True)
        if ctrl_c and state.k == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="checkpoint"):
        result = solve(A, y, smooth, **options, checkpoint=Checkpoint(folder / "c", minutes=0), callback=callback)
    assert (result.stop.name, result.n_iter) == (("INTERRUPTED", 3) if ctrl_c else ("MAX_ITER", 9))


def test_the_checkpoint_stays_until_the_answer_is_there(tmp_path, monkeypatch):
    """Out of memory after the last iteration: the run resumes from it."""
    A, y, options = problem("mask")
    path = tmp_path / "c"

    class Step:
        """The data term, which cannot say its misfit."""

        def __init__(self, h):
            self.h = h

        def __getattr__(self, name):
            return getattr(self.h, name)

        def __call__(self, v, alpha):
            return self.h(v, alpha)

        def misfit(self, x):
            raise torch.OutOfMemoryError("misfit")

    with monkeypatch.context() as patch:
        bind = LeastSquares.bind
        patch.setattr(LeastSquares, "bind", lambda term, *bound: Step(bind(term, *bound)))
        with pytest.raises(torch.OutOfMemoryError):
            solve(A, y, smooth, **options, checkpoint=path)
    assert path.exists()
    same(solve(A, y, smooth, **options, checkpoint=path), solve(A, y, smooth, **options))
    assert not path.exists()


def test_more_iterations_are_the_same_run(tmp_path):
    path, levels = tmp_path / "c", Schedule(0.4, 0.1, 4)
    A, y, options = problem("mask")
    options |= {"schedule": levels, "rtol": 0.0}
    solve(A, y, smooth, **options | {"max_iter": 6}, checkpoint=Checkpoint(path, remove=False))
    with pytest.raises(ValueError, match=r"max_iter.* 6 "):
        solve(A, y, smooth, **options | {"max_iter": 5}, checkpoint=path)
    options["max_iter"] = 9
    same(solve(A, y, smooth, **options, checkpoint=path), solve(A, y, smooth, **options))


def test_a_denoiser_that_draws_at_random_goes_on(tmp_path):
    class Random(torch.nn.Module):
        def forward(self, x, sigma):
            return x.flip(-1) if torch.rand(()) < 0.5 else x

    A, y, options = problem("mask")
    solve(A, y, Random(), **options, checkpoint=tmp_path / "c", callback=stopping(4))
    assert solve(A, y, Random(), **options, checkpoint=tmp_path / "c").n_iter == 9


def test_a_denoiser_whose_layers_were_renamed_is_the_same_denoiser():
    """As version 0.1.0.dev hashed it: the checkpoints of then resume."""
    D = MLPatch(taps=3, features=4, hidden=4, dilations=(1, 2))
    with torch.no_grad():
        for parameter in D.parameters():
            parameter.fill_(0.25)
    assert fingerprint(D) == "MLPatch d1e10faa0c17802e"


@pytest.mark.parametrize("remove", [True, False])
def test_ctrl_c_during_the_last_misfit_does_not_undo_the_end(tmp_path, remove):
    """The run had converged: it says so, and its checkpoint ends as without Ctrl-C."""
    y = image()
    seen = torch.ones_like(y)

    class Interrupted(Diagonal):
        """y = x; A raises once, when it is called for the misfit."""

        calls_left = -1

        def A(self, x):
            self.calls_left -= 1
            if self.calls_left == 0:
                raise KeyboardInterrupt
            return super().A(x)

    def run(A, **options):
        return solve(A, y, smooth, noise_std=0.1, max_iter=40, rtol=0.05, schedule=[0.1], **options)

    whole = run(Interrupted(seen))
    assert whole.stop is Stop.CONVERGED
    A = Interrupted(seen)

    def last(state):
        A.calls_left = 1 if state.k == whole.n_iter else -1

    checkpoint = Checkpoint(tmp_path / "c", remove=remove)
    found = run(A, callback=last, checkpoint=checkpoint)
    assert (found.stop, found.n_iter, found.misfit) == (whole.stop, whole.n_iter, whole.misfit)
    assert (tmp_path / "c").exists() is not remove
    if not remove:
        again = run(Interrupted(seen), checkpoint=checkpoint)
        assert again.stop is Stop.CONVERGED and torch.equal(again.x, whole.x)
