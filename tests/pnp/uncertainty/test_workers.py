"""Copies of a bootstrap in several processes: the same as in one, resumed, and what happens to workers that die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from arrays import rand
from toys import Diagonal, smooth

from pnp import Checkpoint, ResultWarning
from pnp.uncertainty import bootstrap
from pnp.uncertainty.runs import Runs

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack.cluster import engine

OPTIONS = {"noise_std": 0.1, "max_iter": 3, "seed": 5}
A, Y = Diagonal(1 + rand(12, 12, seed=1).abs()), rand(1, 1, 12, 12, seed=2)


class Deadly:
    """A denoiser that kills a worker, or raises, at a call within a copy; in the process of the tests it does not.

    Args:
        folder: the deed is done while it has a file "deed".
        deed: "kill", "kill once" or "raise".
    """

    def __init__(self, folder: Path, deed: str) -> None:
        self.path, self.deed, self.home = folder / "deed", deed, os.getpid()
        self.path.touch()

    def __call__(self, x, sigma):
        if os.getpid() != self.home and self.path.exists():
            if self.deed == "raise":
                raise ValueError("no such image")
            if "once" in self.deed and not self.first():
                return smooth(x, sigma)
            os.kill(os.getpid(), signal.SIGKILL)
        return smooth(x, sigma)

    def first(self) -> bool:
        """Whether this process, of several that may ask at the same time, is the one that removes the file."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


@pytest.fixture(scope="module")
def client():
    """Two workers that the tests of this file share and kill."""
    with engine(None, 2, "tests") as (client, _):
        yield client


@pytest.fixture(scope="module")
def alone():
    return bootstrap(A, Y, smooth, n=5, **OPTIONS)


def same(found, other):
    assert torch.equal(found.samples, other.samples) and torch.equal(found.zoomed, other.zoomed)
    assert (found.factor, found.factor_std) == (other.factor, other.factor_std)


def test_the_numbers_do_not_depend_on_the_workers(client, alone):
    same(bootstrap(A, Y, smooth, n=5, client=client, **OPTIONS), alone)


def test_processes_of_its_own(alone):
    same(bootstrap(A, Y, smooth, n=5, n_workers=1, **OPTIONS), alone)


def test_a_run_of_one_process_is_resumed_by_several(client, alone, tmp_path):
    path = Checkpoint(tmp_path / "copies", remove=False)
    bootstrap(A, Y, smooth, n=2, checkpoint=path, **OPTIONS)
    same(bootstrap(A, Y, smooth, n=5, checkpoint=path, client=client, **OPTIONS), alone)
    same(bootstrap(A, Y, smooth, n=5, checkpoint=path, n_workers=3, **OPTIONS), alone)  # nothing is left to do


def test_ctrl_c_returns_what_is_there_and_is_resumed(client, alone, tmp_path, monkeypatch):
    path, keep = Checkpoint(tmp_path / "copies"), Runs.keep

    def interrupted(runs, kept):
        keep(runs, kept)
        if len(runs.found["copy"]) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Runs, "keep", interrupted)
        part = bootstrap(A, Y, smooth, n=5, checkpoint=path, client=client, **OPTIONS)
    assert part.interrupted and part.n == 3
    same(bootstrap(A, Y, smooth, n=5, checkpoint=path, client=client, **OPTIONS), alone)


def test_a_worker_that_dies_once_is_replaced(client, alone, tmp_path):
    same(bootstrap(A, Y, Deadly(tmp_path, "kill once"), n=5, client=client, **OPTIONS), alone)


def test_a_copy_that_kills_its_workers_ends_the_run_and_the_others_are_kept(client, tmp_path):
    path, D = Checkpoint(tmp_path / "copies", remove=False), Deadly(tmp_path, "kill")
    options = OPTIONS | {"hold_out": None, "moves": ("flip",), "checkpoint": path}
    bootstrap(A, Y, D, n=2, **options)  # in this process
    with pytest.raises(RuntimeError, match="worker"):
        bootstrap(A, Y, D, n=3, client=client, **options)
    D.path.unlink()
    assert bootstrap(A, Y, D, n=3, **options).n == 3


def test_errors_of_a_copy_reach_the_caller(client, tmp_path):
    with pytest.raises(ValueError, match="no such image"):
        bootstrap(A, Y, Deadly(tmp_path, "raise"), n=3, client=client, **OPTIONS)


def test_warnings_of_workers_are_those_of_one_process(client):
    options = OPTIONS | {"noise_std": 0.001, "hold_out": None, "n": 2}
    with pytest.warns(ResultWarning, match="noise_std") as caught:
        bootstrap(Diagonal(torch.ones(32, 32)), rand(1, 1, 32, 32), smooth, client=client, **options)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_what_cannot_be_workers_is_refused_before_anything_is_solved(client):
    def never(x, sigma):
        raise AssertionError

    for name, options in (
        ("n_workers", {"n_workers": 0}),
        ("client", {"client": 3}),
        ("n_workers", {"client": client, "n_workers": 2}),
    ):
        with pytest.raises((TypeError, ValueError), match=name):
            bootstrap(A, Y, never, n=2, **OPTIONS, **options)
