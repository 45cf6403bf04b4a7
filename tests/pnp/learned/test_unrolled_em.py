"""Unrolled EM: the update against its optimality condition, gradients of the three modes, training and files."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rel, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from operators import SPECT, spect_camera
from pnp import osem
from pnp.algorithms.poisson import em_update
from pnp.learned import (
    MODES,
    Scan,
    UnrolledEM,
    held_out_nrmse,
    make_scan,
    train_unrolled_em,
)
from pnp.learned.unrolled_em_training import _last, spent
from pnp.metrics import nrmse
from pnp.phantoms import ISOTOPES, emission_scan
from pnp.training.muon import hidden_weights
from pnp.training.options import TrainingOptions

SHAPE = (6, 6, 3)


def problem(dtype: torch.dtype = F64) -> tuple[SPECT, Tensor, Tensor, Tensor]:
    """Operator, counts, background and activity."""
    A = SPECT(SHAPE, torch.arange(8) * (math.pi / 4), voxel_size=4.8, attenuation=0.01 * uniform(*SHAPE), fwhm=6.0)
    x = 50 * uniform(1, 1, *SHAPE, seed=1, dtype=dtype) * (uniform(1, 1, *SHAPE, seed=2, dtype=dtype) > 0.5)
    r = torch.full((1, 1, 8, 6, 3), 2.0, dtype=dtype)
    y = torch.poisson(A.A(x) + r, generator=torch.Generator().manual_seed(3))
    return A, y, r, x


def network(seed: int = 0, **options: Any) -> UnrolledEM:
    """A model whose networks do something before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UnrolledEM(features=3, start_iter=4, **options).double()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return model


# ---------------------------------------------------------------- the update


@given(
    st.integers(0, 10**6),
    st.floats(-6, 6),
    st.floats(-3, 3),
)
@settings(deadline=None, max_examples=60)
def test_update_minimises_the_surrogate(seed: int, log_beta: float, log_unit: float) -> None:
    """The derivative s - x e/v + beta (v - u) is 0, for proposals of either sign, in any unit, at any strength."""
    unit, beta = 10**log_unit, 10 ** (log_beta - log_unit)
    x, e, s = unit * uniform(50, seed=seed) + 1e-3 * unit, uniform(50, seed=seed + 1) + 0.01, uniform(50, seed=seed + 2)
    u = unit * (4 * uniform(50, seed=seed + 3) - 2)
    v = em_update(x * e, s, u, beta)
    assert bool((v > 0).all())
    terms = torch.stack([s, x * e / v, beta * v, (beta * u).abs()])
    assert float(((s - x * e / v + beta * (v - u)).abs() / terms.max(0).values).max()) < 1e-9


def test_update_between_em_and_the_proposal() -> None:
    x, e, s, u = (uniform(50, seed=i) + 0.1 for i in range(4))
    torch.testing.assert_close(em_update(x * e, s, u, 1e-12), x * e / s, rtol=1e-9, atol=0)
    torch.testing.assert_close(em_update(x * e, s, u, 1e12), u, rtol=1e-9, atol=0)
    torch.testing.assert_close(em_update(x * e, 0 * s, u - 0.6, 1e12), (u - 0.6).clamp(min=0), rtol=1e-5, atol=1e-5)


def test_update_without_cancellation() -> None:
    """Where EM's step is small against the sensitivity, float32 keeps its digits."""
    x, e, s, u = (torch.tensor([v], dtype=F64) for v in (1e-4, 1e-4, 1.0, -1.0))
    exact, single = em_update(x * e, s, u, 1.0), em_update((x * e).float(), s.float(), u.float(), 1.0)
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)


def test_update_has_finite_gradients_where_there_is_nothing() -> None:
    x, e, s, u = (torch.zeros(3, dtype=F64, requires_grad=True) for _ in range(4))
    v = em_update(x * e, s, u, 1.0)
    assert bool((v == 0).all())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(v.sum(), (x, e, s, u)))


# ---------------------------------------------------------------- the model


def test_untrained_it_raises_the_likelihood() -> None:
    """Networks that add nothing leave EM with its steps damped, which is as monotone."""
    A, y, r, _ = problem()
    model = UnrolledEM(n_outer=6, n_inner=2, start_iter=1).double()
    x, s = model.start(A, y, r), A.A_adjoint(torch.ones_like(y))

    def deviance(x: Tensor) -> float:
        m = A.A(x) + r
        return float((torch.xlogy(y, y / m) - y + m).sum())

    with torch.no_grad():
        found = [deviance(x)] + [deviance(step.x) for step in model.iterate(A, y, r, x, s)]
    assert all(b < a for a, b in pairwise(found))


@pytest.mark.parametrize("unit", [1e-6, 1e5])
def test_units_do_not_matter(unit: float) -> None:
    A, y, r, _ = problem()
    model = network()
    with torch.no_grad():
        assert rel(model(A, unit * y, unit * r) / unit, model(A, y, r)) < 1e-9


def test_scans_of_a_batch_do_not_see_each_other() -> None:
    A, y, r, _ = problem()
    model, other = network(), torch.poisson(3 * y, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        together = model(A, torch.cat([y, other]), r, x0=torch.ones(2, 1, *SHAPE, dtype=F64))
        alone = [model(A, one, r, x0=torch.ones(1, 1, *SHAPE, dtype=F64)) for one in (y, other)]
    assert rel(together, torch.cat(alone)) < 1e-12


def test_no_counts_give_no_activity() -> None:
    A, y, _, _ = problem()
    with torch.no_grad():
        x = network()(A, 0 * y, 1.0)
    assert bool(x.isfinite().all()) and float(x.abs().max()) < 1e-6


def test_voxels_that_no_view_sees_are_zero() -> None:
    class Half:
        def A(self, x: Tensor) -> Tensor:
            return x[..., :3, :]

        def A_adjoint(self, y: Tensor) -> Tensor:
            return torch.nn.functional.pad(y, (0, 0, 0, 3))

    y = 5 * uniform(1, 1, 6, 3, 3)
    with torch.no_grad():
        x = network()(Half(), y, 0.1, torch.ones(1, 1, 6, 6, 3, dtype=F64))
    assert float(x[..., 3:, :].abs().max()) == 0 < float(x[..., :3, :].min())


# ---------------------------------------------------------------- gradients


def gradients(truncated: bool) -> list[Tensor]:
    A, y, r, truth = problem()
    model = network()
    scan = make_scan(model, A, y, r, truth)
    loss = (_last(model, scan, truncated=truncated) - truth).square().sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_end_to_end_gradients_are_those_of_differences() -> None:
    A, y, r, truth = problem()
    model = network()
    scan = make_scan(model, A, y, r, truth)
    parameters = list(model.parameters())
    direction = [uniform(*p.shape, seed=i) - 0.5 for i, p in enumerate(parameters)]

    def loss(t: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += t * d
            value = float((_last(model, scan) - truth).square().sum())
            for p, d in zip(parameters, direction, strict=True):
                p -= t * d
        return value

    h = 1e-5
    slope = sum(float((g * d).sum()) for g, d in zip(gradients(False), direction, strict=True))
    assert slope == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-5)


def test_truncated_gradients_differ_but_for_the_last_network() -> None:
    """Nothing follows the last network but its own update, so that there is nothing to cut off."""
    whole, cut = gradients(False), gradients(True)
    each = len(whole) // 3
    assert all(rel(a, b) < 1e-10 for a, b in zip(whole[-each:], cut[-each:], strict=True))
    assert all(rel(a, b) > 1e-3 for a, b in zip(whole[: 2 * each : 2], cut[: 2 * each : 2], strict=True))


def test_truncated_gradients_pass_no_projector() -> None:
    A, y, r, truth = problem()
    model = network()
    scan = make_scan(model, A, y, r, truth)
    calls = []

    class Counted:
        def A(self, x: Tensor) -> Tensor:
            out: Tensor = A.A(x)
            assert not out.requires_grad
            calls.append("A")
            return out

        def A_adjoint(self, y: Tensor) -> Tensor:
            return A.A_adjoint(y)

    counted = Scan(Counted(), y, scan.background, truth, scan.start, scan.sensitivity)
    _last(model, counted, truncated=True).sum().backward()
    assert len(calls) == 3


# ---------------------------------------------------------------- training


def torsos(n: int, first: int = 0) -> list[Scan]:
    """Coarse scans of torsos."""
    isotope = ISOTOPES["lu177"]
    angles = torch.arange(12) * (math.pi / 6)

    def camera(mu: Tensor, voxel: float) -> SPECT:
        return spect_camera(mu, angles, voxel_size=voxel, radius=isotope.radius_mm, collimator=isotope.collimator)

    model, scans = UnrolledEM(start_iter=4), []
    for seed in range(first, first + n):
        found = emission_scan(isotope, camera, (24, 24, 6), voxel_size_mm=16.0, seed=seed)
        scans.append(make_scan(model, found.operator, found.y, found.background, found.truth))
    return scans


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return torsos(4)


@pytest.fixture(scope="module")
def others() -> list[Scan]:
    return torsos(2, first=100)


@pytest.mark.parametrize("mode", MODES)
def test_training_improves_on_its_start(mode: str, scans: list[Scan], others: list[Scan], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UnrolledEM(features=4, start_iter=4)
    measure = held_out_nrmse(others)
    options = TrainingOptions(steps=60, batch=1, rate=5e-3, muon_rate=5e-3, warmup=5)
    untrained = measure(model)
    train_unrolled_em(model, scans, options, mode=mode, checkpoint=tmp_path / "c", validate=measure, progress=False)
    start = sum(nrmse(s.start, s.truth) for s in others) / len(others)
    assert measure(model) < 0.97 * min(untrained, start)
    assert not any(p.requires_grad for p in model.parameters())
    assert spent(tmp_path / "c", 3 if mode == "sequential" else 1)[0] == 60
    assert sorted(p.name for p in tmp_path.iterdir()) == (["c", "c2", "c3"] if mode == "sequential" else ["c"])


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_equals_an_uninterrupted_one(mode: str, scans: list[Scan], tmp_path: Path) -> None:
    options = TrainingOptions(steps=12, batch=2, warmup=2)

    def fresh() -> UnrolledEM:
        torch.manual_seed(1)
        return UnrolledEM(features=2, start_iter=4)

    whole = train_unrolled_em(fresh(), scans, options, mode=mode, checkpoint=tmp_path / "whole", progress=False)

    model, count = fresh(), [0]

    def stop(*_: Any) -> None:
        count[0] += 1
        if count[0] == 7:
            raise KeyboardInterrupt

    hook = model.priors[0].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train_unrolled_em(
            model, scans, options, mode=mode, checkpoint=tmp_path / "part", checkpoint_minutes=1e-9, progress=False
        )
    hook.remove()
    model = train_unrolled_em(
        fresh(), scans, options, mode=mode, checkpoint=tmp_path / "part", resume=True, progress=False
    )
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_stage_whose_input_has_changed_starts_again(scans: list[Scan], tmp_path: Path) -> None:
    """Prolonged, the first network changes what the others learn from; the answer is that of one long run."""

    def run(steps: int, name: str, **keep: bool) -> UnrolledEM:
        torch.manual_seed(1)
        model, options = UnrolledEM(features=2, start_iter=4), TrainingOptions(steps=steps, batch=1, warmup=2)
        return train_unrolled_em(
            model, scans, options, mode="sequential", checkpoint=tmp_path / name, progress=False, **keep
        )

    run(6, "part")
    run(9, "part", resume=True)
    assert spent(tmp_path / "part", 3)[0] == 9
    later = torch.load(tmp_path / "part2", weights_only=True)
    assert later["step"] == 3 and later["history"] == []
    # Of three steps its own, not of two made for another first network and one more.
    (tmp_path / "part2").unlink()
    again = run(9, "part", resume=True)
    (tmp_path / "part2").replace(tmp_path / "alone2")
    alone = torch.load(tmp_path / "alone2", weights_only=True)
    assert all(torch.equal(alone["average"][k], v) for k, v in later["average"].items())
    assert spent(tmp_path / "part")[0] == 3 and again.n_inner == 1
    with pytest.raises(ValueError, match="part, part3"):
        run(9, "part")


def test_other_scans_and_models_are_not_resumed(scans: list[Scan], others: list[Scan], tmp_path: Path) -> None:
    options = TrainingOptions(steps=3, batch=1, warmup=2)
    for mode in ("truncated", "sequential"):

        def run(given: list[Scan], mode: str = mode, **changed: Any) -> None:
            train_unrolled_em(
                UnrolledEM(features=2, start_iter=4, **changed), given, options, mode=mode,
                checkpoint=tmp_path / mode, resume=True, progress=False,
            )  # fmt: skip

        run(scans)
        less = [Scan(s.operator, s.y, 0 * s.background, s.truth, s.start, s.sensitivity) for s in scans]
        for wrong in (others, less):
            with pytest.raises(ValueError, match="setting"):
                run(wrong)
        with pytest.raises(ValueError, match=r"strength (was|=) 1\.0"):
            run(scans, strength=2.0)


def test_all_modes_train_the_same_weights_with_the_same_optimizer() -> None:
    model = UnrolledEM()
    whole = [id(p) for p in hidden_weights(model)]
    assert whole == [id(p) for network in model.networks for p in hidden_weights(network)] and len(whole) == 3


def test_training_refuses(scans: list[Scan], tmp_path: Path) -> None:
    options = TrainingOptions(steps=1, batch=1)
    with pytest.raises(ValueError, match=": mode "):
        train_unrolled_em(UnrolledEM(), scans, options, mode="greedy", checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="scans must not be empty"):
        train_unrolled_em(UnrolledEM(), [], options, checkpoint=tmp_path / "c")
    model = UnrolledEM(features=2, start_iter=4)
    train_unrolled_em(model, scans, options, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="mode"):
        train_unrolled_em(
            UnrolledEM(features=2, start_iter=4),
            scans,
            options,
            mode="truncated",
            checkpoint=tmp_path / "c",
            resume=True,
        )
    s = scans[0]
    with pytest.raises(ValueError, match="truth"):
        make_scan(model, s.operator, s.y, s.background, 0 * s.truth)
    with pytest.raises(ValueError, match="truth"):
        make_scan(model, s.operator, s.y, s.background, s.truth[..., :1])
    with pytest.raises(ValueError, match="truth"):
        make_scan(model, s.operator, s.y, s.background, -s.truth)


# ---------------------------------------------------------------- files and bad input


def test_files(tmp_path: Path) -> None:
    A, y, r, _ = problem(torch.float32)
    model = network(n_inner=2, strength=0.5).float()
    model.save(tmp_path / "m.safetensors", about={"data": "none"})
    again = UnrolledEM.from_pretrained(tmp_path / "m.safetensors")
    assert again.config() == model.config()
    with torch.no_grad():
        assert torch.equal(again(A, y, r), model(A, y, r))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name in ("bad", "missing"):
        with pytest.raises(ValueError, match=r"UnrolledEM\.from_pretrained"):
            UnrolledEM.from_pretrained(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": -torch.ones(1, 1, 8, 6, 3, dtype=F64)}, ValueError, ": y "),
        ({"y": torch.ones(1, 1, 8, 6, 3)}, TypeError, ": y "),
        ({"background": -1.0}, ValueError, "background"),
        ({"background": torch.ones(2, 2)}, ValueError, "background"),
        ({"x0": -torch.ones(1, 1, *SHAPE, dtype=F64)}, ValueError, ": x0 "),
        ({"operator": 3}, TypeError, "operator"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    A, y, r, _ = problem()
    arguments: dict[str, Any] = {"operator": A, "y": y, "background": r} | change
    with pytest.raises(error, match=message) as caught:
        network()(**arguments)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_outer": 0}, "n_outer"), ({"layers": 1}, "layers"), ({"strength": 0.0}, "strength"), ({"features": 0}, "fea")],
)
def test_bad_constructor(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnrolledEM(**options)


def test_arrays_come_back_as_arrays() -> None:
    A, y, r, _ = problem()
    x = network()(A, y.numpy(), r.numpy())
    assert isinstance(x, np.ndarray)
    np.testing.assert_array_equal(x, network()(A, y, r).detach().numpy())


def test_osem_is_the_start() -> None:
    A, y, r, _ = problem()
    model = UnrolledEM(start_iter=3, start_subsets=4).double()
    assert torch.equal(model.start(A, y, r), osem(A, y, n_subsets=4, background=r, max_iter=3).x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the start of a network is not judged
        model.start(A, 50 * y, r)
