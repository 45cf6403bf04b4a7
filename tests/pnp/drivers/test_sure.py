"""Stein's risk estimate in `solve(strength="auto")`: against dense Jacobians and the truth, and where it is used."""

from __future__ import annotations

import pytest
import torch
from arrays import rand
from torch.nn.functional import avg_pool2d
from toys import SHAPE, Matrix, smooth

from denoisers import MLPatch
from operators import Identity, Mask, Radon
from pnp import LeastSquares, Poisson, solve
from pnp.drivers.held_out import hold_out
from pnp.drivers.levels import Tuning
from pnp.drivers.problem import prepare
from pnp.drivers.strength_trials import Trials
from pnp.drivers.sure import STEP
from pnp.metrics import psnr
from pnp.phantoms import head

D = MLPatch.from_pretrained("gray")
TUNING = Tuning((1.0,), (3,))


def noise(x, seed=0):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def prepared(A, y, denoiser=smooth, **options):
    usual = {
        "noise_std": 0.1,
        "algorithm": "admm",
        "relaxation": None,
        "strength": "auto",
        "schedule": [0.3, 0.2, 0.1],
        "bounds": None,
    }
    usual |= {"relaxation": None, "data_term": None, "x0": None, "max_iter": 3, "rtol": 0.0, "check_adjoint": False}
    return prepare(A, y, denoiser, **(usual | options))


def risk(problem, held):
    """Return the squares of a trial of the default, and their mean."""
    trials = Trials(problem, held)
    trials.run([0], 3, None)
    return trials.squares[0][0], trials.error(0, 0)


def test_the_divergence_is_that_of_the_dense_jacobian_along_the_probe():
    M = rand(42, 42).double()
    std = 0.05 + rand(1, 1, 42).double().abs()
    y = rand(1, 1, 42).double()
    A = Matrix(M)

    def measured(v):
        """W^(1/2) A x of the x that is solved for from v, affine in v."""
        found = solve(
            A, v, smooth, noise_std=std, schedule=[0.3, 0.2, 0.1], max_iter=3, rtol=0,
            data_term=LeastSquares(rtol=1e-12, max_iter=500), x0=torch.zeros(1, 1, *SHAPE, dtype=torch.float64),
        ).x  # fmt: skip
        return (A.A(found) / std).flatten()

    jacobian = torch.stack([measured(y + std * e) - measured(y) for e in torch.eye(42).double()[:, None, None]], 1)
    problem = prepared(
        A, y, noise_std=std, data_term=LeastSquares(rtol=1e-12, max_iter=500), x0=torch.zeros(1, 1, *SHAPE).double()
    )
    held = hold_out(problem, "sure")
    probe = ((held.moved[0].y - y) / std / STEP).flatten()
    assert torch.allclose(probe.abs(), torch.ones(42).double())
    squares, _ = risk(problem, held)
    r = measured(y) - (y / std).flatten()
    assert torch.allclose(squares, r.square() + 2 * probe * (jacobian @ probe), rtol=1e-4, atol=1e-6)
    # Over all probes the mean of the products is the trace.
    traces = [b @ jacobian @ b for b in torch.randint(0, 2, (4000, 42)).double() * 2 - 1]
    assert float(torch.stack(traces).mean()) == pytest.approx(float(jacobian.trace()), rel=0.05)


@pytest.mark.parametrize("denoiser", [smooth, D], ids=["linear", "MLPatch"])
@pytest.mark.parametrize("std", [0.05, 0.2])
def test_the_risk_of_denoising_is_that_of_the_truth(denoiser, std):
    x = head(64) / 2
    problem = prepared(Identity((64, 64)), x + std * noise(x), denoiser, noise_std=std)
    held = hold_out(problem, "sure")
    _, found = risk(problem, held)
    z = Trials(problem, held)._solve(held.train, held.started, TUNING, None)
    assert found == pytest.approx(1 + float(((z - x) / std).square().mean()), rel=0.05)


def masked(kept=0.3, std=0.05, side=64):
    x = head(side) / 2
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < kept).float()
    return x, Mask(mask), mask * (x + std * noise(x))


def test_behind_a_mask_single_pixels_stand_for_those_that_are_not_measured():
    x, A, y = masked()
    problem = prepared(A, y, D, noise_std=0.05)
    held = hold_out(problem, None)
    kept = y != 0
    assert torch.equal(held.masks[0], kept[0])
    hidden = kept & (held.train.weights == 0)
    assert int(hidden.sum()) == pytest.approx(0.1 * int(kept.sum()), abs=1)
    (shares,) = held.shares
    assert float(shares.mean()) == pytest.approx(1.0) and len(shares.unique()) == 2
    fraction = float(kept.double().mean())
    assert float(shares[hidden[0][kept[0]]].sum() / shares.sum()) == pytest.approx(1 - fraction)
    assert "Stein" in held.source and "10% of the measurements, held out one by one" in held.source
    # The estimate is the mean square error over all pixels, which held-out ones represent.
    _, found = risk(problem, held)
    z = Trials(problem, held)._solve(held.train, held.started, TUNING, None)
    assert found == pytest.approx(1 + float(((z - x) / 0.05).square().mean()), rel=0.25)


def test_what_is_held_out_behind_a_mask_moves_no_solve():
    _, A, y = masked()
    held = hold_out(prepared(A, y), None)
    hidden = (y != 0) & (held.train.weights == 0)
    other = hold_out(prepared(A, torch.where(hidden, y + 7, y)), None)
    assert torch.equal(held.started.initial(), other.started.initial())
    assert torch.equal(held.moved[1].initial(), other.moved[1].initial())


def test_behind_a_mask_a_prior_that_is_too_strong_is_weakened_where_that_is_certain():
    t = torch.linspace(0, 19, 64)
    x = (0.5 + 0.4 * t.sin()[:, None] * t.cos())[None, None]
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()

    def wide(v, sigma):
        return avg_pool2d(v, 5, 1, 2, count_include_pad=False)

    def solved(std, strength):
        found = solve(Mask(mask), mask * (x + std * noise(x)), wide, noise_std=std, strength=strength)
        return found, psnr(found.x, x, data_range=1)

    (_, usual), (auto, best) = solved(0.05, 1.0), solved(0.05, "auto")
    assert auto.strength < 1 and best > usual + 2
    assert {one.n_iter for one in auto.candidates} == {8} and max(one.strength for one in auto.candidates) == 1
    unsure, _ = solved(0.2, "auto")  # another one is better, but by less than two standard errors
    assert unsure.strength == 1 and min(unsure.candidates, key=lambda one: one.error) != unsure.candidates[0]


def test_each_image_of_a_batch_chooses_for_itself():
    _, A, y = masked(side=48)
    mask, both = A.mask, torch.cat([y, 0.5 * (y != 0)])
    found = solve(Mask(mask), both, smooth, noise_std=0.2, strength="auto", rtol=0)
    alone = [solve(Mask(mask), one[None], smooth, noise_std=0.2, strength="auto", rtol=0) for one in both]
    assert found.strength == tuple(one.strength for one in alone)
    for b, one in enumerate(alone):
        assert [c[:2] for c in found.candidates[b]] == [c[:2] for c in one.candidates]
        assert found.prediction_error[b] == pytest.approx(one.prediction_error, rel=1e-3)


@pytest.mark.parametrize("how", [None, "sure"])
def test_a_masked_image_and_a_whole_one_of_a_batch_get_what_they_get_alone(how):
    x, _, y = masked(side=48)
    options = {"strength": "auto", "held_out": how, "rtol": 0, "max_iter": 8}
    both = torch.cat([y, x + 0.05 * noise(x)])
    std = torch.where(torch.cat([y != 0, torch.ones_like(x) > 0]), 0.05, torch.inf)
    A = Identity((48, 48))
    found = solve(A, both, smooth, noise_std=std, **options)
    alone = [solve(A, both[b, None], smooth, noise_std=std[b, None], **options) for b in range(2)]
    assert found.strength == tuple(one.strength for one in alone)
    for b, one in enumerate(alone):
        assert [c[:2] for c in found.candidates[b]] == [c[:2] for c in one.candidates]
        assert found.prediction_error[b] == (one.prediction_error and pytest.approx(one.prediction_error, rel=1e-3))
        assert torch.allclose(found.x[b], one.x[0], atol=1e-5)
    if how is None:
        reason = alone[1].strength_source.removeprefix("the default: ")
        assert alone[1].candidates == () and reason in found.strength_source and "1 of 2 images" in str(found)
    assert alone[0].strength_source.split(" (")[0] == found.strength_source.split(" (")[0]


def test_a_spoiled_pixel_among_those_held_out_does_not_decide():
    _, A, y = masked()
    held = hold_out(prepared(A, y), None)
    where = ((y != 0) & (held.train.weights == 0)).nonzero()[5]
    spoiled = y.clone()
    spoiled[tuple(where)] = 1e3
    options = {"noise_std": 0.05, "strength": "auto", "data_term": LeastSquares(robust=False)}
    clean, found = (solve(A, v, smooth, **options) for v in (y, spoiled))
    assert found.candidates[0][:2] == clean.candidates[0][:2]


def test_sure_is_taken_where_it_is_asked_for_and_refused_where_it_cannot_be():
    x = head(48)
    A = Radon((48, 48), torch.arange(20) * (torch.pi / 20), pixel_size=4.0)
    y = A.A(x) + 0.05 * noise(A.A(x))
    result = solve(A, y, smooth, noise_std=0.05, strength="auto", held_out="sure", max_iter=8)
    assert result.strength_source == "by Stein's risk estimate" and len(result.candidates) >= 2
    with pytest.raises(ValueError, match="sure"):
        hold_out(prepared(A, y, data_term=LeastSquares(bin_std=0.1)), "sure")
    with pytest.raises(ValueError, match="sure"):
        hold_out(prepared(A, y.clamp(min=0), noise_std=None, data_term=Poisson()), "sure")
