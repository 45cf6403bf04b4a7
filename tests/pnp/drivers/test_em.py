"""MLEM and OSEM against a dense implementation, what theory promises of them, and bad input."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rel, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import SHAPE, Views

from operators import SPECT, Radon
from pnp import Stop, mlem, osem
from pnp.drivers.em import EMState, subset_order

VIEWS, BINS = 12, 5


def system(seed: int = 1) -> Views:
    """Every bin sees some voxels, none sees all."""
    M = uniform(VIEWS, BINS, math.prod(SHAPE), seed=seed)
    return Views(M * (uniform(*M.shape, seed=seed + 50) > 0.5))


def counts(A: Any, x: Tensor, r: float | Tensor = 0.0, seed: int = 0) -> Tensor:
    return torch.poisson(A.A(x) + r, generator=torch.Generator().manual_seed(seed))


def log_likelihood(A: Any, x: Tensor, y: Tensor, r: float | Tensor = 0.0) -> float:
    m = A.A(x) + r
    return float((torch.xlogy(y, m) - m).sum())


def iterates(method: Any, *arguments: Any, **options: Any) -> list[Tensor]:
    found: list[Tensor] = []
    method(*arguments, callback=lambda state: found.append(state.x), **options)
    return found


def dense(M: np.ndarray, y: np.ndarray, r: np.ndarray, x: np.ndarray, order: list[int], n_iter: int) -> np.ndarray:
    """One image, by loops over bins, as the formula is written."""
    for _ in range(n_iter):
        for b in order:
            e, s = np.zeros_like(x), np.zeros_like(x)
            for v in range(b, len(M), len(order)):
                for m in range(M.shape[1]):
                    e += M[v, m] * y[v, m] / (M[v, m] @ x + r[v, m])
                    s += M[v, m]
            x = np.where(s > 0, x * e / np.where(s > 0, s, 1), x)
    return x


@settings(deadline=None, max_examples=15)
@given(n=st.sampled_from([1, 2, 3, 5, 12]), n_iter=st.integers(1, 3), seed=st.integers(0, 99))
def test_it_is_the_formula(n: int, n_iter: int, seed: int) -> None:
    A, truth, r, x0 = (
        system(seed),
        9 * uniform(1, 1, *SHAPE, seed=seed),
        uniform(1, 1, VIEWS, BINS),
        uniform(1, 1, *SHAPE),
    )
    y = counts(A, truth, r, seed)
    found = osem(A, y, n_subsets=n, background=r, x0=x0, max_iter=n_iter)
    expected = dense(A.M.numpy(), y[0, 0].numpy(), r[0, 0].numpy(), x0.numpy().ravel(), subset_order(n), n_iter)
    np.testing.assert_allclose(found.x.numpy().ravel(), expected, rtol=1e-11)


@pytest.mark.parametrize("r", [0.0, 3.0])
def test_the_likelihood_never_falls_and_counts_are_preserved(r: float) -> None:
    A, truth = system(), 20 * uniform(1, 1, *SHAPE)
    y = counts(A, truth, r)
    images = iterates(mlem, A, y, background=r, max_iter=300)
    values = [log_likelihood(A, x, y, r) for x in images]
    assert all(b >= a - 1e-13 * abs(a) for a, b in pairwise(values)) and values[-1] > values[0]
    totals = torch.stack([(A.A(x) + r).sum() / y.sum() for x in images])
    # Without a background after every iteration; with one, only at the maximum: x . dL/dx = 0 there.
    assert float((totals[-1] - 1).abs()) < 1e-3
    if r == 0:
        assert float((totals - 1).abs().max()) < 1e-12


def test_it_converges_to_the_maximum() -> None:
    # Kuhn and Tucker: the gradient is 0 where x > 0, and not positive where x = 0.
    A, truth = system(), 50 * uniform(1, 1, *SHAPE).square()
    y = counts(A, truth, 1.0)
    x = mlem(A, y, background=1.0, max_iter=20_000).x
    s = A.A_adjoint(torch.ones_like(y))
    gradient = (A.A_adjoint(y / (A.A(x) + 1.0)) - s) / s
    assert float((x * gradient).abs().max() / x.max()) < 1e-4
    assert float(gradient.max()) < 1e-2


@pytest.mark.parametrize("n", [1, 4])
def test_the_truth_is_a_fixed_point_without_noise(n: int) -> None:
    A, truth = system(), uniform(2, 1, *SHAPE)
    truth[0, 0, 1, 2] = 0
    found = osem(A, A.A(truth) + 0.3, n_subsets=n, background=0.3, x0=truth, max_iter=3)
    assert rel(found.x, truth) < 1e-13
    assert found.misfit < 1e-20 and abs(found.history["deviance"][-1]) < 1e-10


def test_one_subset_is_mlem() -> None:
    A, y = system(), counts(system(), 9 * uniform(2, 1, *SHAPE))
    a, b = mlem(A, y, background=0.5, max_iter=4), osem(A, y, n_subsets=1, background=0.5, max_iter=4)
    assert torch.equal(a.x, b.x) and a.history == b.history and a.misfit == b.misfit


def spect(n: int = 16, n_views: int = 16) -> tuple[SPECT, Tensor]:
    t = torch.arange(n, dtype=F64) - (n - 1) / 2
    disc = (t[:, None].square() + t.square() < (0.4 * n) ** 2).to(F64)[..., None].expand(n, n, 4)
    angles = torch.arange(n_views) * (2 * math.pi / n_views)
    A = SPECT((n, n, 4), angles, voxel_size=6.4, attenuation=0.01 * disc, fwhm=8.0)
    x = disc.clone()
    x[5:8, 9:11] *= 6
    return A, 30 * x[None, None]


def test_ordered_subsets_are_faster_by_about_their_number_early_on() -> None:
    A, truth = spect(n_views=32)
    y = A.A(truth)
    slow = [log_likelihood(A, x, y) for x in iterates(mlem, A, y, max_iter=30)]
    for n in (4, 8):
        fast = [log_likelihood(A, x, y) for x in iterates(osem, A, y, n_subsets=n, max_iter=3)]
        for k, value in enumerate(fast, start=1):
            as_good = next(i for i, reached in enumerate([*slow, math.inf], start=1) if reached >= value)
            assert 0.75 * n * k <= as_good <= 1.25 * n * k + 1


def test_history_is_the_deviance_before_each_update() -> None:
    A, y = system(), counts(system(), 9 * uniform(1, 1, *SHAPE))
    images = iterates(mlem, A, y, background=2.0, max_iter=5)
    found = mlem(A, y, background=2.0, max_iter=6)
    for x, deviance in zip(images, found.history["deviance"][1:], strict=True):
        best = float((torch.xlogy(y, y) - y).sum())
        assert deviance == pytest.approx(2 * (best - log_likelihood(A, x, y, 2.0)), rel=1e-10)
    m = A.A(found.x) + 2.0
    assert found.misfit == pytest.approx(float(((m - y) ** 2 / m).mean()), rel=1e-12)
    assert found.n_iter == 6 and found.stop is Stop.MAX_ITER and found.noise_std is None


@pytest.mark.parametrize("n", range(1, 40))
def test_subsets_take_turns_far_apart(n: int) -> None:
    order = subset_order(n)
    assert sorted(order) == list(range(n))
    steps = [min((a - b) % n, (b - a) % n) for a, b in pairwise(order)]
    if n > 4:
        assert np.mean(steps) > 0.24 * n  # a quarter is what random order gives, a half the most


def test_images_of_a_batch_do_not_mix() -> None:
    A, truth = system(), 9 * uniform(3, 1, *SHAPE)
    truth[1] *= 1000
    truth[2] = 0
    y = counts(A, truth)
    together = osem(A, y, n_subsets=3, max_iter=3).x
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], osem(A, y[b : b + 1], n_subsets=3, max_iter=3).x)
    assert float(together[2].abs().max()) == 0  # no counts, no activity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_dtype_container_and_units_are_kept(dtype: torch.dtype, unit: float) -> None:
    A, y = Views(unit * system().M), counts(system(), 9 * uniform(1, 1, *SHAPE)).to(dtype)
    before = y.clone()
    found = osem(A, y, n_subsets=4, max_iter=8).x
    again = osem(A, y.numpy(), n_subsets=4, max_iter=8).x
    assert found.dtype == dtype and isinstance(again, np.ndarray) and again.dtype == y.numpy().dtype
    np.testing.assert_array_equal(again, found.numpy())
    reference = osem(system(), y.double(), n_subsets=4, max_iter=8).x
    assert rel(unit * found.double(), reference) < 1e-5 and torch.equal(y, before)


def test_voxels_that_no_view_sees_are_zero_and_those_a_subset_does_not_see_wait() -> None:
    A = system()
    A.M[:, :, 7] = 0
    A.M[::2, :, 11] = 0
    y = counts(A, 9 * uniform(1, 1, *SHAPE))
    for x0 in (None, torch.ones(1, 1, *SHAPE, dtype=F64)):
        x = osem(A, y, n_subsets=2, x0=x0, max_iter=3).x.flatten()
        assert x.isfinite().all() and x[7] == 0 and x[11] > 0


def test_a_subset_that_sees_nothing_changes_nothing() -> None:
    A = system()
    A.M[1::2] = 0
    y = counts(A, 9 * uniform(1, 1, *SHAPE))
    with_blind = osem(A, y, n_subsets=2, max_iter=4).x
    torch.testing.assert_close(with_blind, mlem(A, y, max_iter=4).x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_bins_and_faint_images_stay_finite(dtype: torch.dtype) -> None:
    A = system()
    A.M[3, 2] = 0  # a bin that sees nothing and counts nothing
    y = counts(A, 0.05 * uniform(1, 1, *SHAPE)).to(dtype)
    found = osem(A, y, n_subsets=6, max_iter=200)
    assert found.x.isfinite().all() and float(found.x.min()) >= 0
    assert not any(math.isnan(d) for d in found.history["deviance"]) and math.isfinite(found.misfit)
    nothing = mlem(A, torch.zeros_like(y), max_iter=2)
    assert float(nothing.x.abs().max()) == 0 and nothing.history["deviance"] == [0.0, 0.0]


def test_a_bright_background_still_gives_a_start() -> None:
    A = system()
    y = torch.full((1, 1, VIEWS, BINS), 2.0, dtype=F64)
    found = mlem(A, y, background=3.0, max_iter=50)
    assert found.x.isfinite().all() and found.x.max() > 0
    assert float(A.A(found.x).sum()) < float(y.sum())


def test_callbacks_stop_and_interrupts_keep_the_last_image(capsys: pytest.CaptureFixture[str]) -> None:
    A, y = system(), counts(system(), 9 * uniform(1, 1, *SHAPE))
    seen: list[EMState] = []

    def third(state: EMState) -> bool:
        seen.append(state)
        return state.k == 3

    found = osem(A, y, n_subsets=2, callback=third, progress=True)
    assert found.stop is Stop.CALLBACK and found.n_iter == 3 and found.x is seen[-1].x
    assert [s.deviance for s in seen] == found.history["deviance"]
    out = capsys.readouterr()
    assert out.out == "" and "osem" in out.err and "deviance" in out.err

    class Interrupted(Views):
        calls = 0

        def A(self, x: Tensor) -> Tensor:
            Interrupted.calls += 1
            if Interrupted.calls == 6:  # two for the checks, then one an iteration, one at the end
                raise KeyboardInterrupt
            return super().A(x)

    found = mlem(Interrupted(A.M), y)
    assert found.stop is Stop.INTERRUPTED and found.n_iter == 3
    assert torch.equal(found.x, mlem(A, y, max_iter=3).x)


def test_views_of_a_camera_in_any_number_of_subsets() -> None:
    A, truth = spect(n_views=7)
    y = counts(A, truth)
    x = osem(A, y.float(), n_subsets=3, max_iter=4).x
    assert x.shape == truth.shape and x.dtype == torch.float32
    assert rel(x.double(), truth) < 0.8 * rel(torch.full_like(truth, float(truth.mean())), truth)


# ---------------------------------------------------------------- bad input


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=F64)


Y = ones(1, 1, VIEWS, BINS)
X = ones(1, 1, *SHAPE)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative counts": ({"y": -Y}, ValueError, ": y "),
    "NaN": ({"y": Y * math.nan}, ValueError, ": y "),
    "integers": ({"y": Y.int()}, TypeError, ": y "),
    "complex": ({"y": Y.cfloat()}, TypeError, ": y "),
    "a list": ({"y": [Y]}, TypeError, ": y "),
    "empty": ({"y": Y[:0]}, ValueError, ": y "),
    "negative background": ({"background": -1.0}, ValueError, "background"),
    "NaN in the background": ({"background": Y * math.nan}, ValueError, "background"),
    "negative backgrounds": ({"background": -Y}, ValueError, "background"),
    "a name": ({"background": "scatter"}, TypeError, "background"),
    "background's shape": ({"background": Y[..., :2]}, ValueError, "background"),
    "x0's shape": ({"x0": X[0]}, ValueError, ": x0 "),
    "negative x0": ({"x0": -X}, ValueError, ": x0 "),
    "dark x0": ({"x0": 0 * X}, ValueError, "60"),
    "no iteration": ({"max_iter": 0}, ValueError, "max_iter"),
    "callback": ({"callback": 3}, TypeError, "callback"),
    "class": ({"operator": Views}, TypeError, "operator"),
    "no operator": ({"operator": 3}, TypeError, "operator"),
    "negative entries": ({"operator": Views(-system().M)}, ValueError, "operator"),
    "blind": ({"operator": Views(0 * system().M)}, ValueError, "operator"),
    "part": ({"y": ones(1, 1, VIEWS, 1)}, ValueError, ": y "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(name: str) -> None:
    options, error, match = BAD[name]
    options = {"operator": system(), "y": Y} | options
    if name == "part":  # an operator that does not notice
        options["operator"].A_adjoint = lambda y: X * y.sum()
    with pytest.raises(error, match=match) as caught:
        mlem(options.pop("operator"), options.pop("y"), **options)
    assert str(caught.value).startswith("mlem: ") and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("operator", "n", "error", "match"),
    [
        (system(), 13, ValueError, "n_subsets"),
        (system(), 0, ValueError, "n_subsets"),
        (system(), 2.0, TypeError, "n_subsets"),
        (Radon((5, 6), torch.arange(3)), 2, TypeError, "subset"),
    ],
)
def test_bad_subsets_are_one_clear_sentence(operator: Any, n: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        osem(operator, Y, n_subsets=n)
    assert str(caught.value).startswith("osem: ")


def test_counts_in_a_bin_that_nothing_reaches_are_explained() -> None:
    A = system()
    A.M[3, 2] = 0
    with pytest.raises(ValueError, match="background"):
        mlem(A, Y)
    assert mlem(A, Y, background=0.1, max_iter=2).x.isfinite().all()
