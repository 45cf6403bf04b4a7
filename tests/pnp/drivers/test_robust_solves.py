"""Solves without outliers, one after another: checkpoints, Ctrl-C, callbacks, their number, and what is unasked."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from arrays import F64, rand, seeded
from spoiled import HEAD, KEPT, RADON, ROBUST, SINOGRAM, STD, N, marked, some
from torch import Tensor

from denoisers import TV
from operators import Radon
from pnp import LeastSquares, Poisson, Result, Stop, solve
from pnp.ct import Transmission
from pnp.drivers.checkpoint import Checkpoint
from pnp.drivers.outliers import MAX_ROUNDS, Outliers


def spoiled() -> tuple[Tensor, Tensor]:
    bad = some(SINOGRAM, 40)
    return torch.where(bad, -5.0, SINOGRAM), bad


class Killed(Exception):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("at", [3, 15, 27, 40])
@pytest.mark.parametrize("kind", ["least squares", "counts"])
def test_a_checkpoint_resumes_within_any_solve(kind: str, at: int, tmp_path: Any) -> None:
    """The same bits, mask and history as without a break, whichever of the solves it fell into."""
    y, term, std = spoiled()[0], ROBUST, STD
    if kind == "counts":
        y = torch.poisson(20 * RADON.A(HEAD).clamp(min=0) + 5, generator=seeded(1))
        y, term, std = torch.where(some(y, 12), 5000.0, y), Poisson(background=5.0, robust=True), None
    options: dict[str, Any] = {"noise_std": std, "data_term": term, "rtol": 0, "max_iter": 12}
    whole = solve(RADON, y, TV(), **options)
    seen = []

    def kill(state: Any) -> None:
        seen.append(state.k)
        if len(seen) == at:
            raise Killed

    kept = Checkpoint(tmp_path / "c", minutes=0)
    try:
        solve(RADON, y, TV(), **options, callback=kill, checkpoint=kept)
    except Killed:
        resumed = solve(RADON, y, TV(), **options, checkpoint=kept)
        assert torch.equal(resumed.x, whole.x) and torch.equal(resumed.rejected, whole.rejected)
        assert resumed.history == whole.history and resumed.warnings == whole.warnings
    else:
        assert at > 24, "fewer iterations than in two solves"


def test_a_callback_that_stops_ends_all_solves() -> None:
    y, _ = spoiled()
    seen = []
    result = solve(
        RADON, y, TV(), noise_std=STD, data_term=ROBUST, callback=lambda s: seen.append(s.k) or len(seen) == 30
    )
    assert result.stop is Stop.CALLBACK and len(seen) == 30 and result.n_iter == seen[-1] < 30
    first = []
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST, callback=lambda s: first.append(s.k) or s.k == 5)
    assert result.stop is Stop.CALLBACK and first == [1, 2, 3, 4, 5] and result.n_rejected == 0


def test_the_history_is_that_of_the_last_solve() -> None:
    y, bad = spoiled()
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    reference = marked(y, bad, STD, TV(), RADON)
    assert torch.equal(result.rejected, bad) and result.n_iter == reference.n_iter
    assert result.history == reference.history and torch.equal(result.x, reference.x)
    assert result.misfit == pytest.approx(reference.misfit)


def test_solves_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each solve finds others, it ends after a few, and the mask is that of the image."""
    y, _ = spoiled()
    drawn = iter(range(100))
    monkeypatch.setattr(
        "pnp.drivers.problem.find_outliers",
        lambda r, counted, suspects=None: [Outliers(some(y, 5, seed=next(drawn))[0], 1.0, 9.0, 0.1, True, True)],
    )
    begun = []
    result = solve(
        RADON, y, TV(), noise_std=STD, data_term=ROBUST, max_iter=2, callback=lambda s: begun.append(s.k == 1) and False
    )
    assert sum(begun) == MAX_ROUNDS + 1 and torch.equal(result.rejected, some(y, 5, seed=MAX_ROUNDS - 1))
    assert torch.equal(result.x, marked(y, result.rejected, STD, TV(), RADON, max_iter=2).x)


@pytest.mark.parametrize("n", [0, 1, 12])
def test_those_that_stand_out_are_left_out_by_default(n: int) -> None:
    """One warning says so; on clean data nothing is found, and nothing changes."""
    bad = some(SINOGRAM, n)
    y = torch.where(bad, -30.0, SINOGRAM)
    result = solve(RADON, y, TV(), noise_std=STD)
    other = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST if n else KEPT)
    assert torch.equal(result.x, other.x) and result.history == other.history
    assert result.n_rejected == n and (result.rejected is None) == (n == 0)
    assert len(result.warnings) == min(n, 1)


def test_a_denoiser_that_cannot_represent_the_image_rejects_nothing() -> None:
    """Rows of bricks leave TV residuals far beyond the noise, with a tail: no outliers, whether asked for or not."""
    import skimage.data

    x = torch.from_numpy(skimage.data.brick()[:128:2, :128:2] / 255.0).float()[None, None]
    A = Radon((64, 64), torch.arange(40, dtype=F64) * (math.pi / 40))
    y = A.A(x)
    std = 0.001 * float(y.max())
    y = y + std * rand(*y.shape, seed=5, dtype=torch.float32)
    plain, default, robust = (
        solve(A, y, TV(), noise_std=std, data_term=LeastSquares(robust=r)) for r in (False, None, True)
    )
    assert torch.equal(plain.x, default.x) and default.n_rejected == 0
    assert torch.equal(plain.x, robust.x) and robust.n_rejected == 0


def test_low_frequencies_that_bounds_contradict_are_no_outliers() -> None:
    """Few carry much of the misfit, but nothing else determines what they do: without them far more seem wrong."""
    seen = torch.rand(N, N, generator=seeded(0)) < 0.35
    seen[:4] = seen[-4:] = True
    A = SimpleNamespace(
        A=lambda x: seen * torch.fft.fft2(x.to(torch.complex64), norm="ortho"),
        A_adjoint=lambda y: torch.fft.ifft2(seen * y, norm="ortho").real,
    )
    y = A.A(HEAD) + 1e-4 * seen * rand(1, 1, N, N, seed=1, dtype=torch.complex64)
    kept, default = (
        solve(A, y, TV(), noise_std=1e-4, bounds=(0, 0.9), data_term=LeastSquares(robust=r)) for r in (False, None)
    )
    assert default.n_rejected == 0 and torch.equal(kept.x, default.x) and default.warnings


@pytest.mark.parametrize("stop", [Stop.CONVERGED, Stop.CALLBACK])
def test_a_finished_checkpoint_returns_the_answer_without_outliers(stop: Stop, tmp_path: Any) -> None:
    y = torch.where(some(SINOGRAM, 12), -30.0, SINOGRAM)
    seen = []
    asks = stop is Stop.CALLBACK

    def run() -> Result:
        kept = Checkpoint(tmp_path / "c", remove=False)
        return solve(RADON, y, TV(), noise_std=STD, rtol=1e-2, max_iter=24, checkpoint=kept, callback=once)

    def once(state: Any) -> bool:
        seen.append(state.k)
        return asks and len(seen) == 30

    first, n = run(), len(seen)
    again = run()
    assert first.stop is again.stop is stop and first.n_rejected > 0 and len(seen) == n
    assert torch.equal(first.x, again.x) and torch.equal(first.rejected, again.rejected)
    assert first.history == again.history


def test_the_remedy_names_the_data_term() -> None:
    y = torch.poisson(1e4 * torch.exp(-RADON.A(HEAD) / 10), generator=seeded(1))
    y = torch.where(some(y, 12), 2e4, y)
    result = solve(RADON, y, TV(), data_term=Transmission(1e4), bounds=(0, None))
    assert "Transmission(robust=True)" in " ".join(result.warnings)


def test_ctrl_c_between_two_solves_keeps_image_and_checkpoint(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.where(some(SINOGRAM, 12), -30.0, SINOGRAM)
    whole, first = (solve(RADON, y, TV(), noise_std=STD, data_term=LeastSquares(robust=r)) for r in (None, False))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pnp.algorithms.least_squares.LeastSquaresStep.reject", interrupt)
        stopped = solve(RADON, y, TV(), noise_std=STD, checkpoint=tmp_path / "c")
    assert stopped.stop is Stop.INTERRUPTED and stopped.rejected is None and (tmp_path / "c").exists()
    assert torch.equal(stopped.x, first.x) and stopped.misfit == pytest.approx(first.misfit)
    resumed = solve(RADON, y, TV(), noise_std=STD, checkpoint=tmp_path / "c")
    assert torch.equal(resumed.x, whole.x) and torch.equal(resumed.rejected, whole.rejected)
    assert resumed.history == whole.history and not (tmp_path / "c").exists()


def test_a_verdict_on_clean_data_costs_one_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    A = RADON.A
    monkeypatch.setattr("pnp.drivers.solve.judge", lambda *_: ())
    monkeypatch.setattr(RADON, "A", lambda x: calls.append(1) or A(x))
    solve(RADON, SINOGRAM, TV(), noise_std=STD)
    n = len(calls)
    monkeypatch.undo()
    monkeypatch.setattr(RADON, "A", lambda x: calls.append(1) or A(x))
    solve(RADON, SINOGRAM, TV(), noise_std=STD)
    assert len(calls) == 2 * n + 1  # of x without thin lines, for errors of bins; the residuals were there
