"""`solve(strength="auto")`: what is held out, what it says, and what is chosen from it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from arrays import rand
from torch.nn.functional import avg_pool1d
from toys import image, smooth

from denoisers import MLPatch
from operators import Blur, Identity, Radon, stack
from pnp import LeastSquares, Poisson, solve
from pnp.drivers.held_out import BLOCK, FRACTION, THINNED, hold_out
from pnp.drivers.problem import prepare
from pnp.drivers.strength_trials import STEP, TRIAL, Trials
from pnp.metrics import psnr
from pnp.phantoms import head, perforated_disc

D = MLPatch.from_pretrained("gray")
VIEWS = torch.arange(40) * (math.pi / 40)


def noise(y, seed=0):
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)


def scan(std=0.02, side=48):
    """A head in 40 views, its operator and measurements."""
    x = head(side)
    A = Radon((side, side), VIEWS, pixel_size=192 / side)
    y = A.A(x)
    return x, A, y + std * noise(y)


def prepared(A, y, **options):
    usual = {
        "noise_std": 0.02,
        "algorithm": "admm",
        "relaxation": None,
        "strength": "auto",
        "schedule": None,
        "bounds": None,
    }
    usual |= {"relaxation": None, "data_term": None, "x0": None, "max_iter": 12, "rtol": 0.0, "check_adjoint": False}
    return prepare(A, y, smooth, **(usual | options))


class Counting:
    """A denoiser that counts its calls."""

    def __init__(self):
        self.n = 0

    def __call__(self, x, sigma):
        self.n += 1
        return smooth(x, sigma)


# ---------------------------------------------------------------- what is held out


@pytest.mark.parametrize("how", ["blocks", "views", "measurements"])
def test_what_is_held_out_enters_nothing(how, monkeypatch):
    monkeypatch.setattr("pnp.drivers.held_out.ENOUGH", 0)
    monkeypatch.setattr("pnp.drivers.held_out.ENOUGH_VIEWS", 0)
    _, A, y = scan()
    std = torch.full(y.shape, 0.02)
    std[:, :, 5], std[..., 7] = math.inf, math.inf
    held = hold_out(prepared(A, y, noise_std=std), how)
    (mask,) = held.masks
    assert mask.shape == y.shape[1:] and not mask[0, 5].any() and not mask[..., 7].any()
    assert abs(float(mask.double().mean()) / FRACTION - 1) < 0.25
    other = hold_out(prepared(A, torch.where(mask, y + 7, y), noise_std=std), how)
    assert torch.equal(held.train.back_projection, other.train.back_projection)
    assert torch.equal(held.started.initial(), other.started.initial())
    assert all(len(groups) == int(mask.sum()) for groups in held.groups[0])


def test_blocks_are_squares_and_views_are_whole():
    _, A, y = scan()
    (mask,) = hold_out(prepared(A, y), "blocks").masks
    cells = (
        mask[0, : 40 // BLOCK * BLOCK, : y.shape[-1] // BLOCK * BLOCK].unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    )
    assert set(cells.sum((-2, -1)).unique().tolist()) == {0, BLOCK**2}
    (mask,) = hold_out(prepared(A, y), "views").masks
    assert mask.any(2).sum() == 4 and torch.equal(mask.any(2), mask.all(2))


def test_what_suits_the_measurements_is_held_out_and_the_source_says_why():
    _, A, y = scan()
    (mask,) = hold_out(prepared(A, y), None).masks
    assert torch.equal(mask.any(2), mask.all(2))  # whole views
    few = Radon((48, 48), VIEWS[:12], pixel_size=4.0)
    blur = Blur(torch.ones(5, 5) / 25, (48, 48))
    found = [
        hold_out(prepared(A, y), None).source,
        hold_out(prepared(A, y), "views").source,
        hold_out(prepared(few, y[:, :, :12, : few.n_detectors]), None).source,
        hold_out(prepared(blur, blur.A(head(48))), None).source,
    ]
    assert found[0] == found[1] + ", since rays of a view share errors"
    assert [" in blocks, since " in one for one in found] == [False, False, True, True]


@pytest.mark.parametrize(("n", "how"), [(20, "views"), (19, "blocks")])
def test_views_without_weight_are_no_views(n, how):
    """Of a scan that has noise_std infinite in all but n views the choice is that of a scan of n views."""
    _, A, y = scan()
    std = torch.full((1, 1, 40, 1), math.inf)
    std[:, :, :n] = 0.02
    assert hold_out(prepared(A, y, noise_std=std.expand(y.shape)), None).kind == how


def test_something_remains_of_two_views():
    _, A, y = scan()
    std = torch.full(y.shape, math.inf)
    std[:, :, [3, 17]] = 0.02
    held = hold_out(prepared(A, y, noise_std=std), "views")
    assert held.masks[0].any(-1).sum() == 1 and held.train.curvature() > 0


def test_the_true_image_is_predicted_to_the_noise_and_another_to_its_error():
    x, A, y = scan()
    held = hold_out(prepared(A, y), None)
    r2, mask = held.squares(x)[0], held.masks[0]
    assert float(r2[mask].mean()) == pytest.approx(1.0, abs=0.3)
    assert float(held.squares(0 * x)[0][mask].mean()) == pytest.approx(float((y[0][mask] / 0.02).square().mean()))


def test_solves_without_what_is_held_out_start_like_the_whole_one():
    _, A, y = scan()
    problem = prepared(A, y)
    held = hold_out(problem, None)
    assert torch.equal(problem.z, A.fbp(y))
    far, near = (float((z - problem.z).norm()) for z in (held.train.initial(), held.started.initial()))
    assert near < 0.7 * far


def test_errors_of_bins_are_predicted_from_the_measurements_that_remain():
    x, A, y = scan()
    offsets = 0.5 * (1.0 - 2.0 * (torch.arange(y.shape[-1]) % 2))
    held = hold_out(prepared(A, y + offsets, data_term=LeastSquares(bin_std=0.5)), None)
    assert float(held.squares(x)[0][held.masks[0]].mean()) == pytest.approx(1.0, abs=0.4)
    assert float(hold_out(prepared(A, y + offsets), None).squares(x)[0][held.masks[0]].mean()) > 50


def test_counts_are_thinned_into_two_independent_parts():
    x, A, _ = scan()
    expected = 3.0 * A.A(x).clamp(min=0) + 2.0
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    gain = 0.5
    problem = prepared(A, gain * counts, noise_std=None, data_term=Poisson(background=2.0 * gain, gain=gain))
    held = hold_out(problem, None)
    assert held.source == f"by {THINNED:.0%} of the counts, held out"
    kept = held.train.y / held.train.gain
    assert float((kept - kept.round()).abs().max()) < 1e-4 and bool((kept < counts + 1e-4).all())
    assert float(kept.sum() / counts.sum()) == pytest.approx(1 - THINNED, abs=0.01)
    # Independent given what is expected: the deviations of both parts are not correlated.
    a, b = kept - (1 - THINNED) * expected, counts - kept - THINNED * expected
    assert abs(float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())) < 4 / counts.numel() ** 0.5
    # The truth in the unit of both parts; deviances of few counts are not 1, but larger for another image.
    truth = gain * 3.0 * x
    errors = [float(held.squares(z)[0][held.masks[0]].mean()) for z in (truth, 1.2 * truth, 0.8 * truth)]
    assert errors[0] < min(errors[1:])


def test_counts_that_are_not_whole_are_held_out_as_views_or_refused():
    x, A, _ = scan()
    y = torch.poisson(3 * A.A(x).clamp(min=0), generator=torch.Generator().manual_seed(0)) * 1.37
    problem = prepared(A, y, noise_std=None, data_term=Poisson())
    assert "as whole views" in hold_out(problem, None).source
    with pytest.raises(ValueError, match="thinning"):
        hold_out(problem, "thinning")
    with pytest.raises(ValueError, match="thinning"):
        hold_out(prepared(*scan()[1:]), "thinning")


def test_parts_of_a_stack_are_held_out_one_by_one():
    x, A, y = scan()
    problem = prepared(stack([A, Identity((48, 48))]), (y, x + 0.1 * noise(x)), noise_std=(0.02, 0.1))
    assert "one by one" in hold_out(problem, None).source


@pytest.mark.parametrize("data_term", [None, LeastSquares(bin_std=0.1)], ids=["plain", "common errors"])
def test_denoising_takes_the_default_and_says_so(data_term):
    A, y = Identity((48, 48)), head(48)
    result = solve(A, y, smooth, noise_std=0.1, strength="auto", data_term=data_term)
    same = solve(A, y, smooth, noise_std=0.1, data_term=data_term)
    assert torch.equal(result.x, same.x) and result.strength == 1.0
    assert result.strength_source.startswith("the default") and "the default" in str(result)
    assert result.strength_source.count("default") == 1 and result.prediction_error is None and result.candidates == ()


# ---------------------------------------------------------------- what is chosen


def test_a_choice_is_a_solve_with_these_settings():
    x, A, y = scan()
    result = solve(A, y, D, noise_std=0.02, strength="auto", rtol=0)
    again = solve(A, y, D, noise_std=0.02, strength=result.strength, rtol=0)
    assert torch.equal(result.x, again.x) and again.strength_source == "given"
    chosen = result.candidates[0]
    assert chosen.strength == result.strength and {one.n_iter for one in result.candidates} == {TRIAL}
    assert result.prediction_error == (chosen.error, chosen.standard_error)
    assert len({one[:2] for one in result.candidates}) == len(result.candidates) >= 2
    assert f"strength {result.strength:.3g}, {result.strength_source}, prediction error" in str(result)
    usual = solve(A, y, D, noise_std=0.02)
    assert psnr(result.x, x, data_range=2) > psnr(usual.x, x, data_range=2) + 0.3  # fewer iterations


def test_errors_along_the_detector_do_not_favour_too_strong_a_prior():
    """Other views contradict them; x puts them where rays of a view are missing, unless whole views are."""
    g = torch.Generator().manual_seed(0)
    x = perforated_disc(64, generator=torch.Generator().manual_seed(0))
    A = Radon((64, 64), VIEWS)
    y = A.A(x)
    std = 0.003 * float(y.max())
    white = torch.randn(y.shape, generator=g)
    wide = avg_pool1d(torch.randn(1, 40, y.shape[-1] + 20, generator=g), 21, 1)[None] * 21**0.5
    y = y + std * (white + 3 * wide)
    views, blocks = (solve(A, y, D, noise_std=std, strength="auto", held_out=how) for how in (None, "blocks"))
    usual = solve(A, y, D, noise_std=std)
    assert views.strength <= STEP**2 < blocks.strength
    scores = [psnr(result.x, x, data_range=float(x.max())) for result in (blocks, usual, views)]
    assert scores[0] < scores[1] - 0.3 and scores[1] < scores[2] + 0.1


def test_views_that_share_errors_choose_no_stronger_prior_unless_they_are_asked_for():
    _, A, y = scan()
    rings = y + 0.1 * noise(y[0, 0, 0], 3)
    found = solve(A, rings, D, noise_std=0.02, strength="auto")
    assert found.strength == 1.0 and [one.strength for one in found.candidates] == [1.0, 1 / STEP]
    assert found.strength_source.startswith("the default: residuals of neighbouring views correlate by 0.")
    both = solve(A, torch.cat([rings, y]), D, noise_std=0.02, strength="auto")
    assert both.strength[0] == 1.0 < both.strength[1] and "1 of 2 images" in both.strength_source
    asked = solve(A, rings, D, noise_std=0.02, strength="auto", held_out="views")
    assert max(one.strength for one in asked.candidates) > 1


def test_residuals_of_an_image_that_is_too_smooth_are_alike_and_a_weaker_prior_is_chosen():
    _, A, y = scan()
    found = solve(A, y, smooth, noise_std=0.02, strength="auto")
    assert found.strength < 1.0 and "as whole views" in found.strength_source


def test_a_view_s_own_error_is_not_held_against_x():
    x, A, y = scan()
    y = y + 0.5 * noise(y[..., :1], 3)
    held = hold_out(prepared(A, y, data_term=LeastSquares(view_std=0.5)), "views")
    assert float(held.squares(x)[0][held.masks[0]].mean()) == pytest.approx(1.0, abs=0.4)


def test_each_image_of_a_batch_has_its_own_choice():
    _, A, y = scan()
    rough = 20 * rand(1, 1, 48, 48).float().abs()
    both = torch.cat([y, A.A(rough) + 0.02 * noise(y, 1)])
    found = solve(A, both, smooth, noise_std=0.02, strength="auto", rtol=0)
    alone = [solve(A, one[None], smooth, noise_std=0.02, strength="auto", rtol=0) for one in both]
    assert found.strength == tuple(one.strength for one in alone)
    for b, one in enumerate(alone):
        assert (found.x[b] - one.x[0]).abs().max() < 1e-4 * one.x.abs().max()
        assert found.candidates[b][0][:2] == one.candidates[0][:2]
        assert found.prediction_error[b] == pytest.approx(one.prediction_error, rel=3e-2)
    assert found.n_iter == max(one.n_iter for one in alone)


def test_an_outlier_among_what_is_held_out_does_not_decide():
    _, A, y = scan()
    problem = prepared(A, y)
    where = hold_out(problem, None).masks[0].nonzero()[3]
    spoiled = y.clone()
    spoiled[0][tuple(where)] = 1e3
    clean, found = (
        solve(A, v, smooth, noise_std=0.02, strength="auto", data_term=LeastSquares(robust=False)) for v in (y, spoiled)
    )
    assert found.candidates[0][:2] == clean.candidates[0][:2]


def test_outliers_are_left_out_before_the_last_choice(tmp_path):
    _, A, y = scan(side=32)
    spoiled = y.clone()
    spoiled[0, 0, 7, 20], spoiled[0, 0, 20, 30] = 40.0, -30.0
    found = solve(A, spoiled, D, noise_std=0.02, strength="auto")
    assert found.n_rejected == 2
    assert found.prediction_error[0] < 1.5  # with the outliers it is 40

    def interrupt(state):
        interrupt.rounds += state.k == 1
        if interrupt.rounds == 3 and state.k == 4:
            raise KeyboardInterrupt

    interrupt.rounds = 0
    options = {"noise_std": 0.02, "strength": "auto", "checkpoint": tmp_path / "c"}
    solve(A, spoiled, D, callback=interrupt, **options)
    assert (tmp_path / "c").exists()
    resumed = solve(A, spoiled, D, **options)
    assert torch.equal(resumed.x, found.x) and resumed.candidates == found.candidates


def test_common_errors_are_estimated_before_the_choice():
    _, A, y = scan()
    y = y + 0.1 * noise(y[0, 0, 0], 3)
    result = solve(A, y, smooth, noise_std=0.02, strength="auto", data_term=LeastSquares(bin_std="estimate"))
    assert result.common_errors_rms == pytest.approx(0.1, rel=0.3) and "as whole views" in result.strength_source


def test_a_given_schedule_is_kept_and_max_iter_is_the_most():
    _, A, y = scan()
    levels = [1.0, 0.5, 0.2]
    result = solve(A, y, smooth, noise_std=0.02, strength="auto", schedule=levels, max_iter=3)
    assert result.history["sigma"] == levels and {one.n_iter for one in result.candidates} == {3}
    short = solve(A, y, smooth, noise_std=0.02, strength="auto", max_iter=5)
    assert short.n_iter <= 5 and {one.n_iter for one in short.candidates} == {5}


@pytest.mark.parametrize(
    ("flatness", "shares", "errors", "tried", "chosen"),
    [
        (0.05, None, {0: 1.2, 1: 1.1, 2: 1.15}, [0, 1, 2], 1),
        (0.05, None, {0: 1.0, 1: 1.01}, [0, 1], 0),
        (0.05, None, {0: 1.2, 1: 1.3, -1: 1.1, -2: 1.2}, [0, 1, -1, -2], -1),
        (0.05, None, {0: 1.9, 1: 1.7, 2: 1.5, 3: 1.3, 4: 1.1}, [0, 1, 2, 3, 4], 4),
        (0.6, None, {0: 1.2, -1: 1.1, -2: 1.09}, [0, -1, -2], -1),
        (0.6, None, {0: 1.2, -1: 1.3, 1: 1.4}, [0, -1, 1], 0),
        (1.0, [1], {0: 1.2, -1: 1.3}, [0, -1], 0),
    ],
)
def test_the_walk_goes_on_while_it_gains_for_certain(flatness, shares, errors, tried, chosen):
    # Differences have a standard error of 0.02: 100 groups, +-0.2.
    signs = 0.2 * (1 - 2 * (torch.arange(100) % 2)).double()
    held = SimpleNamespace(masks=[None], groups=[(torch.arange(100),)], shares=shares)
    trials = Trials(SimpleNamespace(flatness=[flatness]), held)
    order = []
    while (k := trials.wanted(0)) is not None:
        order.append(k)
        trials.squares[0][k] = errors[k] + signs * (k % 2)
    assert order == tried and trials.best(0) == chosen
    assert trials.candidates(0, chosen, 8)[0].strength == STEP**chosen


def test_hqs_blur_and_numpy():
    A = Blur(torch.ones(5, 5) / 25, (32, 40))
    y = A.A(image().float())
    y = (y + 0.02 * noise(y)).numpy()
    result = solve(A, y, smooth, noise_std=0.02, strength="auto", algorithm="hqs")
    assert type(result.x) is type(y) and "blocks" in result.strength_source


# ---------------------------------------------------------------- checkpoints, arguments


def test_a_checkpoint_holds_the_choice(tmp_path):
    _, A, y = scan()

    def interrupt(state):
        if state.k == 5:
            raise KeyboardInterrupt

    options = {"noise_std": 0.02, "strength": "auto", "rtol": 0.0}
    straight = solve(A, y, Counting(), **options)
    stopped = solve(A, y, Counting(), checkpoint=tmp_path / "c", callback=interrupt, **options)
    assert stopped.n_iter == 5
    counting = Counting()
    resumed = solve(A, y, counting, checkpoint=tmp_path / "c", **options)
    assert torch.equal(resumed.x, straight.x) and resumed.history == straight.history
    assert resumed.candidates == straight.candidates and str(resumed) == str(straight)
    assert counting.n == straight.n_iter - 5 + 1  # and one that checks the denoiser


def test_a_checkpoint_of_another_choice_is_refused(tmp_path):
    _, A, y = scan()

    def interrupt(state):
        raise KeyboardInterrupt

    solve(A, y, smooth, noise_std=0.02, strength="auto", checkpoint=tmp_path / "c", callback=interrupt)
    for other in ({"strength": 1.0}, {"strength": "auto", "held_out": "views"}):
        with pytest.raises(ValueError, match="checkpoint"):
            solve(A, y, smooth, noise_std=0.02, checkpoint=tmp_path / "c", **other)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"strength": "much"}, "strength"),
        ({"strength": "auto", "held_out": "rays"}, "held_out"),
        ({"strength": "auto", "held_out": 3}, "held_out"),
        ({"strength": 1.0, "held_out": "views"}, "held_out"),
    ],
)
def test_wrong_arguments_are_named(options, name):
    _, A, y = scan()
    with pytest.raises(ValueError, match=name) as caught:
        solve(A, y, smooth, noise_std=0.02, **options)
    assert len(str(caught.value)) < 400
