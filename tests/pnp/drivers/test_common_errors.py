"""Rings and drifts: gain errors of bins, in all views or some, and of views, from raw counts to the image.

The scans are of a finer grid than the images. What is right is known: the scan without the errors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, seeded
from torch import Tensor
from torch.nn.functional import avg_pool2d

from denoisers import TV, MLPatch
from operators import FanBeam, Radon
from pnp import LeastSquares, Stop, solve
from pnp.ct import line_integrals, simulate_counts
from pnp.drivers.problem import Problem, prepare
from pnp.phantoms import head

N, VIEWS, PHOTONS = 64, 90, 2e4
ANGLES = torch.arange(VIEWS, dtype=F64) * (math.pi / VIEWS)
SCANNER = Radon((N, N), ANGLES, n_detectors=N)
FINE = 2 * head(2 * N) / float(avg_pool2d(head(2 * N), 2).sum(-1).max())
HEAD = avg_pool2d(FINE, 2)
LINES = Radon((2 * N, 2 * N), ANGLES, n_detectors=N, pixel_size=0.5).A(FINE)
DEFAULTS: dict[str, Any] = {
    "algorithm": "admm",
    "relaxation": None,
    "strength": 1.0,
    "schedule": None,
    "bounds": None,
    "x0": None,
}
DEFAULTS |= {"rtol": 1e-3, "check_adjoint": True}
NETWORK = MLPatch.from_pretrained("gray")
RNG = np.random.default_rng(1)
ALL_BINS = np.exp(0.01 * RNG.standard_normal(N))
FEW_BINS = np.ones(N)
FEW_BINS[RNG.choice(N, 6, replace=False)] += 0.04 * RNG.standard_normal(6)
PARTIAL = np.ones((VIEWS, N))
PARTIAL[30:60, 22] = 1.15
ONE_BIN = np.where(np.arange(N) == 22, 1.15, 1.0)
DRIFT = np.exp(0.03 * np.sin(np.arange(VIEWS) / 12))[:, None]


def scan(gain: Any, lines: Tensor = LINES) -> tuple[Tensor, Tensor]:
    """Line integrals and their noise, of counts with these gain errors."""
    counts = simulate_counts(lines[0, 0], PHOTONS, generator=seeded(0)).numpy() * gain
    flat = simulate_counts(torch.zeros(10, lines.shape[-1]), PHOTONS, generator=seeded(1)).numpy()
    return line_integrals(counts.astype(np.float32), flat).tensors()


def decibels(x: Tensor, truth: Tensor = HEAD) -> float:
    return 10 * math.log10(float(truth.max()) ** 2 / float((x - truth).square().mean()))


def reconstruct(gain: Any, denoiser: Any = NETWORK, **options: Any) -> Any:
    y, std = scan(gain)
    return solve(SCANNER, y, denoiser, noise_std=std, bounds=(0, None), data_term=LeastSquares(**options))


@pytest.fixture(scope="module")
def clean() -> float:
    return decibels(reconstruct(1.0).x)


@pytest.mark.parametrize("gain", [ALL_BINS, FEW_BINS, PARTIAL, ONE_BIN], ids=["all", "few", "partial", "one"])
def test_gain_errors_cost_at_most_a_third_of_a_decibel(gain: Any, clean: float) -> None:
    plain, result = reconstruct(gain), reconstruct(gain, bin_std="estimate")
    assert decibels(result.x) > clean - 0.3 and decibels(plain.x) < clean - 0.5
    assert result.warnings == () and 0.7 < result.misfit < 1.2


def test_errors_are_reported_in_units_of_y() -> None:
    result = reconstruct(ALL_BINS, bin_std="estimate")
    found = result.common_errors
    assert found.shape == (1, 1, VIEWS, N) and found.dtype == torch.float32
    # Beside them it holds what the pixels' grid does not represent, which is there without errors, too.
    without = reconstruct(1.0, bin_std="estimate").common_errors
    pair = torch.stack([(found - without)[0, 0].mean(0), -torch.from_numpy(np.log(ALL_BINS)).float()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9
    assert result.common_errors_rms == pytest.approx(float(found.square().mean().sqrt()), rel=1e-5)
    assert f"{result.common_errors_rms:.2g} rms" in str(result)


def test_a_partial_error_is_found_in_its_views() -> None:
    found = reconstruct(PARTIAL, bin_std="estimate").common_errors[0, 0, :, 22]
    assert float((found[31:59] + math.log(1.15)).abs().max()) < 0.02
    assert float(found[:29].abs().max()) < 0.03 and float(found[61:].abs().max()) < 0.03


def test_nothing_is_lost_without_errors(clean: float) -> None:
    assert decibels(reconstruct(1.0, bin_std="estimate").x) > clean - 0.1
    assert decibels(reconstruct(1.0, view_std="estimate").x) > clean - 0.1


def test_a_beam_that_drifts(clean: float) -> None:
    plain, result = reconstruct(DRIFT), reconstruct(DRIFT, view_std="estimate")
    assert decibels(result.x) > clean - 0.3 and decibels(plain.x) < clean - 1
    assert "view_std" in plain.warnings[0] and result.warnings == ()
    both = reconstruct(DRIFT * ALL_BINS, bin_std="estimate", view_std="estimate")
    assert decibels(both.x) > clean - 0.3


def test_rings_are_said_where_they_are_not_modelled() -> None:
    assert any("bin_std" in sentence for sentence in reconstruct(ALL_BINS, TV()).warnings)


def test_a_rotationally_symmetric_object_keeps_its_profile() -> None:
    """Discs and shells about the axis are common to all views, as rings are; each shell keeps its value."""
    m = 8 * N
    i = (torch.arange(m, dtype=F64) + 0.5) / 8 - N / 2
    radius = torch.hypot(i[:, None], i[None, :])
    truth = torch.zeros_like(radius)
    shells = [(0, 8, 1.0), (8, 16, 0.6), (16, 24, 1.2), (24, 28, 0.8)]
    for low, high, value in shells:
        truth[(radius >= low) & (radius < high)] = value
    scale = 2 / float(avg_pool2d(truth[None, None], 8).sum(-1).max())
    fine = scale * avg_pool2d(truth[None, None], 2).float()
    lines = Radon((4 * N, 4 * N), ANGLES, n_detectors=N, pixel_size=0.25).A(fine)
    coarse = avg_pool2d(radius[None, None], 8)[0, 0]
    for gain in (1.0, ALL_BINS):
        y, std = scan(gain, lines)
        x = solve(SCANNER, y, NETWORK, noise_std=std, bounds=(0, None), data_term=LeastSquares(bin_std="estimate")).x
        for low, high, value in shells:
            inside = (coarse > low + 1.5) & (coarse < high - 1.5)
            assert float(x[0, 0][inside].mean()) / (scale * value) == pytest.approx(1, abs=0.03)


def test_fan_beam() -> None:
    angles = torch.arange(120, dtype=F64) * (2 * math.pi / 120)
    A = FanBeam((N, N), angles, source_origin=200.0, origin_detector=100.0, n_detectors=90, pitch=1.5)
    lines, gain = A.A(HEAD), np.exp(0.01 * np.random.default_rng(3).standard_normal(90))
    errors = {}
    for name, g, options in (("clean", 1.0, {}), ("plain", gain, {}), ("rings", gain, {"bin_std": "estimate"})):
        y, std = scan(g, lines)
        x = solve(A, y, NETWORK, noise_std=std, bounds=(0, None), data_term=LeastSquares(**options)).x
        errors[name] = decibels(x)
    assert errors["rings"] > errors["clean"] - 0.3 and errors["plain"] < errors["clean"] - 0.5


def test_images_of_a_batch_get_what_they_get_alone() -> None:
    y, std = (torch.cat(pair) for pair in zip(scan(ALL_BINS), scan(PARTIAL), strict=True))
    options: dict[str, Any] = {"bounds": (0, None), "data_term": LeastSquares(bin_std="estimate"), "max_iter": 6}
    together = solve(SCANNER, y, TV(), noise_std=std, **options).x
    for b in range(2):
        alone = solve(SCANNER, y[b : b + 1], TV(), noise_std=std[b : b + 1], **options).x
        assert torch.allclose(together[b], alone[0], rtol=0, atol=1e-3 * float(alone.max()))


def test_outliers_and_rings_together(clean: float) -> None:
    y, std = scan(ALL_BINS)
    hit = torch.zeros(y.shape, dtype=torch.bool)
    hit[0, 0, 40, 30] = hit[0, 0, 12, 20] = True
    y = torch.where(hit, -1.0, y)
    term = LeastSquares(bin_std="estimate", robust=True)
    result = solve(SCANNER, y, NETWORK, noise_std=std, bounds=(0, None), data_term=term)
    assert torch.equal(result.rejected, hit) and decibels(result.x) > clean - 0.3


@pytest.mark.parametrize("at", [3, 12])
def test_resumes_bit_for_bit(tmp_path: Any, at: int) -> None:
    """The estimate grows after the first solve of 8 iterations, so that 3 stops in the first and 12 in the second."""
    y, std = scan(ALL_BINS**3)
    options: dict[str, Any] = {"noise_std": std, "max_iter": 8, "data_term": LeastSquares(bin_std="estimate")}
    whole, calls = solve(SCANNER, y, TV(), **options), 0

    def stop(state: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    path = tmp_path / "run.checkpoint"
    first = solve(SCANNER, y, TV(), **options, callback=stop, checkpoint=path)
    assert first.stop is Stop.INTERRUPTED and path.exists()
    assert torch.equal(solve(SCANNER, y, TV(), **options, checkpoint=path).x, whole.x)


def test_numpy_in_numpy_out() -> None:
    y, std = scan(ALL_BINS)
    term = LeastSquares(bin_std="estimate")
    result = solve(SCANNER, y.numpy(), TV(), noise_std=std.numpy(), data_term=term, max_iter=3)
    assert isinstance(result.common_errors, np.ndarray) and result.common_errors.dtype == np.float32
    given = solve(SCANNER, y, TV(), noise_std=std, data_term=LeastSquares(bin_std=np.full(N, 0.01)), max_iter=3)
    assert given.common_errors.shape == y.shape
    assert solve(SCANNER, y, TV(), noise_std=std, max_iter=3).common_errors is None


def test_errors_that_hold_a_part_of_the_object_are_said() -> None:
    """From a start without the object, or at low noise levels, x moves slowly where all views agree."""
    y, std = scan(ALL_BINS)
    term = LeastSquares(bin_std="estimate")
    for given, said in (
        ({"schedule": [0.01 * float(HEAD.max())]}, "common to bins"),
        ({"x0": torch.zeros_like(HEAD)}, "misfit"),
    ):
        options: dict[str, Any] = {"noise_std": std, "bounds": (0, None), "data_term": term} | given
        result = solve(SCANNER, y, TV(), **options)
        assert decibels(result.x) < 28 and said in result.warnings[0]


def test_large_errors_are_looked_for_in_the_scans_own_estimate() -> None:
    """x0 may have nothing of the object, and a schedule may begin where denoising removes no arc."""
    y, std = scan(1 + 0.3 * (PARTIAL - 1))
    options: dict[str, Any] = {"noise_std": std, "max_iter": 20, "data_term": LeastSquares(bin_std="estimate")}
    for given in ({}, {"x0": torch.zeros_like(HEAD)}, {"schedule": [1e-4]}):
        problem = prepare(SCANNER, y, TV(), **(DEFAULTS | options | given))
        segments = problem.estimate.model.segments
        assert (segments > 0).any(2).nonzero()[:, 2].tolist() == [22]


def test_ctrl_c_while_the_second_solve_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the image of the first solve, not the first estimate of the second."""
    y, std = scan(ALL_BINS**3)
    options: dict[str, Any] = {"noise_std": std, "max_iter": 4, "data_term": LeastSquares(bin_std="estimate")}
    images: list[Tensor] = []
    begun, rounds = Problem.leave_out, 0

    def interrupted(problem: Problem) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            raise KeyboardInterrupt
        begun(problem)

    monkeypatch.setattr(Problem, "leave_out", interrupted)
    result = solve(SCANNER, y, TV(), **options, callback=lambda state: images.append(state.z))
    assert result.stop is Stop.INTERRUPTED and len(images) == 4 and torch.equal(result.x, images[-1])
