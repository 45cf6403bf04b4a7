"""The check of A and A_adjoint on one random pair: what is right passes, what is wrong is named."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import deepinv_rows
import pytest
import torch
from arrays import F64, rand
from operator_rows import ROWS, images
from torch import Tensor
from toys import Matrix, smooth

from denoisers import MLPatch
from operators import Blur, Mask, Radon, stack
from pnp import LeastSquares, Poisson, Stop, solve
from pnp.algorithms.least_squares import white_noise
from pnp.drivers.adjoint_check import check_adjoint
from pnp.drivers.binding import bind

# Detectors much narrower than the image are meant here; deepinv warns about its own defaults.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*times as wide as the image"),
    pytest.mark.filterwarnings("ignore:::deepinv"),
]

N = 24
SHIFT = torch.zeros(5, 5, dtype=F64)
SHIFT[2, 2:] = 1 / 3
BLUR = Blur(SHIFT, (N, N))


def pair(A: Callable[[Tensor], Any], A_adjoint: Callable[[Any], Any]) -> Any:
    return SimpleNamespace(A=A, A_adjoint=A_adjoint)


def x_of(channels: int = 1, dtype: torch.dtype = F64) -> Tensor:
    return rand(1, channels, N, N, dtype=dtype)


def refused(operator: Any, x: Tensor, part: str) -> str:
    """The refusal, which must be one sentence that holds the part."""
    with pytest.raises(ValueError, match=part) as caught:
        check_adjoint(operator, x, operator.A(x.clone()))
    message = str(caught.value)
    assert message.startswith("solve: operator") and len(message) < 400 and "\n" not in message
    return message


# ---------------------------------------------------------------- what is right


def test_one_application_serves_the_check_and_the_shortcut() -> None:
    x, seen = rand(1, 1, 24, 24), []

    def A(v: Tensor) -> Tensor:
        seen.append(v)
        return BLUR.A(v)

    y = BLUR.A(x)
    operator = SimpleNamespace(A=A, A_adjoint=BLUR.A_adjoint, A_adjoint_A=lambda v: BLUR.A_adjoint(BLUR.A(v)))
    bind(LeastSquares(), operator, y, torch.ones((), dtype=F64))
    assert sum(torch.equal(v, white_noise(x, 1)) for v in seen) == 1


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", list(ROWS))
def test_every_operator_passes(name: str, dtype: torch.dtype) -> None:
    """Silently: a warning is an error here."""
    operator = ROWS[name].make()
    x = images(operator, ROWS[name], dtype=dtype)
    check_adjoint(operator, x, operator.A(x))


EXACT = [row for row in deepinv_rows.rows() if not row.refused and not row.name.startswith(("Stacked", "Pansharpen"))]


@pytest.mark.parametrize("row", EXACT, ids=lambda row: row.name)
def test_deepinvs_operators_pass(row: deepinv_rows.Row) -> None:
    torch.manual_seed(0)
    physics, x = row.make(), row.image()
    check_adjoint(physics, x, physics.A(x))


def test_complex_operators_pass() -> None:
    """Complex images and k-space; real images with complex measurements, whose adjoint is the real part."""
    k = pair(lambda x: torch.fft.fft2(x, norm="ortho"), lambda y: torch.fft.ifft2(y, norm="ortho"))
    x = x_of(dtype=torch.complex128)
    check_adjoint(k, x, k.A(x))
    check_adjoint(pair(k.A, lambda y: k.A_adjoint(y).real), x_of(), k.A(x_of()))
    refused(pair(lambda x: 1j * x, lambda y: 1j * y), x, "A_adjoint")


def test_complex_parts_beside_real_ones_pass() -> None:
    """Joined they are one complex tensor; the imaginary noise in the real part must not be counted."""
    k = pair(lambda x: torch.fft.fft2(x, norm="ortho"), lambda y: torch.fft.ifft2(y, norm="ortho").real)
    both = pair(lambda x: [k.A(x), BLUR.A(x)], lambda y: k.A_adjoint(y[0]) + BLUR.A_adjoint(y[1]))
    x = 1 + smooth(x_of(), 0).abs()
    y = [part + 0.1 * rand(*part.shape, seed=1, dtype=part.dtype) for part in both.A(x)]
    solve(both, y, smooth, noise_std=0.1, max_iter=2)
    bad = pair(both.A, lambda y: k.A_adjoint(y[0]) + BLUR.A(y[1]))
    with pytest.raises(ValueError, match="A_adjoint"):
        solve(bad, y, smooth, noise_std=0.1, max_iter=2)


def test_few_and_no_measurements_pass() -> None:
    """Images of which three pixels are measured, or nothing: that is another message."""
    A = Mask(torch.arange(N * N).reshape(N, N) < 3)
    check_adjoint(A, x_of(), A.A(x_of()))
    nothing = pair(lambda x: 0 * x, lambda y: 0 * y)
    check_adjoint(nothing, x_of(), x_of())


# ---------------------------------------------------------------- what is wrong


def doubled_in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


WRONG: dict[str, tuple[Any, str]] = {
    "adjoint of a kernel that is not symmetric": (pair(BLUR.A, BLUR.A), "A_adjoint"),
    "no transpose": (pair(Matrix(rand(N * N, N * N), (N, N)).A, lambda y: y.reshape(1, 1, N, N)), "A_adjoint"),
    "another scale": (pair(BLUR.A, lambda y: 1.1 * BLUR.A_adjoint(y)), "A_adjoint"),
    "half": (pair(BLUR.A, lambda y: 0.5 * BLUR.A_adjoint(y)), "A_adjoint"),
    "much too large": (pair(BLUR.A, lambda y: 1e6 * BLUR.A_adjoint(y)), "A_adjoint"),
    "another sign": (pair(BLUR.A, lambda y: -BLUR.A_adjoint(y)), "A_adjoint"),
    "nothing comes back": (pair(BLUR.A, lambda y: 0 * y), "A_adjoint"),
    "pseudo-inverse": (pair(lambda x: 3 * x, lambda y: y / 3), "A_adjoint"),
    "a pixel off": (pair(BLUR.A, lambda y: BLUR.A_adjoint(y).roll(1, -1)), "A_adjoint"),
    "magnitude": (pair(lambda x: BLUR.A(x).abs(), BLUR.A_adjoint), "linear"),
    "square": (pair(lambda x: x**2, lambda y: y), "linear"),
    "clipped": (pair(lambda x: x.clamp(0, 1), lambda y: y), "linear"),
    "logarithm": (pair(lambda x: x.log(), lambda y: y), "finite"),
    "affine": (pair(lambda x: BLUR.A(x) + 1, BLUR.A_adjoint), "A\\(0\\)"),
    "noise": (pair(lambda x: x + 0.3 * torch.randn(x.shape, dtype=x.dtype), lambda y: y), "each call"),
    "in place": (pair(doubled_in_place, lambda y: 2 * y), "operator.A must leave"),
    "in place back": (pair(lambda x: 2 * x, doubled_in_place), "operator.A_adjoint must leave"),
}


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_wrong_is_named(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    refused(WRONG[name][0], x_of(dtype=dtype), WRONG[name][1])


@pytest.mark.parametrize("name", list(WRONG))
def test_solve_says_it_before_any_iteration(name: str) -> None:
    def unused(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("the denoiser was called")

    torch.manual_seed(0)
    y = 1 + rand(1, 1, N, N).abs()
    with pytest.raises(ValueError, match=r"operator") as caught:
        solve(WRONG[name][0], y, unused, noise_std=0.1)
    assert "measures nothing" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["radon-odd", "blur-valid-odd", "kaiser-squires-even", "downsample-mean"])
def test_one_per_cent_is_warned_of_and_ten_are_refused(name: str) -> None:
    """Whatever the operator: factors are seen along A x."""
    operator = ROWS[name].make()
    x = images(operator, ROWS[name])
    for factor, is_used in ((1.01, True), (0.99, True), (1.1, False), (0.9, False)):
        off = pair(operator.A, lambda y, c=factor: c * operator.A_adjoint(y))
        if is_used:
            with pytest.warns(UserWarning, match="A_adjoint is off"):
                check_adjoint(off, x, operator.A(x))
        else:
            refused(off, x, "A_adjoint")


def test_the_gap_is_that_of_the_message() -> None:
    """An adjoint that is off by 10 % is apart by about 0.3 of ||A x||: three times as much lies along A x."""
    message = refused(pair(BLUR.A, lambda y: 1.1 * BLUR.A_adjoint(y)), x_of(), "A_adjoint")
    found = re.search(r"apart by ([\d.]+)", message)
    assert found is not None and 0.1 < float(found.group(1)) < 0.5


# ---------------------------------------------------------------- the option, and what it costs


def test_the_check_can_be_switched_off() -> None:
    """A wrong adjoint then diverges, and the sentence names it; a slightly wrong one is used in silence."""
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    blur = Blur(torch.nn.functional.pad(torch.full((1, 5), 0.2), (4, 0, 4, 4)), (64, 64))
    y = blur.A(x.repeat_interleave(8, 2).repeat_interleave(8, 3)) + 0.02 * rand(1, 1, 64, 64, dtype=torch.float32)
    wrong, D = pair(blur.A, blur.A), MLPatch.from_pretrained("gray")
    with pytest.raises(ValueError, match=r"operator\.A_adjoint"):
        solve(wrong, y, D, noise_std=0.02)
    result = solve(wrong, y, D, noise_std=0.02, check_adjoint=False)
    assert result.stop is Stop.DIVERGED and "check_adjoint=True" in result.warnings[-1]
    assert float(result.x.abs().max()) < 100, "the image from before the iterates grew"
    slightly = pair(BLUR.A, lambda v: 1.01 * BLUR.A_adjoint(v))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*A_adjoint")
        solve(slightly, BLUR.A(x_of().abs()), smooth, noise_std=0.1, max_iter=2, check_adjoint=False)


@pytest.mark.parametrize("term", [LeastSquares(), Poisson()])
def test_the_check_costs_one_application_of_each(term: Any) -> None:
    calls = {"A": 0, "A_adjoint": 0}

    def counted(name: str, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(v: Tensor) -> Tensor:
            calls[name] += 1
            return f(v)

        return call

    blur = Blur(torch.full((3, 3), 1 / 9, dtype=F64), (N, N))
    y = 1 + blur.A(rand(1, 1, N, N).abs())
    found = []
    for check in (False, True):
        calls.update(A=0, A_adjoint=0)
        operator = pair(counted("A", blur.A), counted("A_adjoint", blur.A_adjoint))
        noise = 0.1 if term.needs_noise_std else None
        solve(operator, y, smooth, noise_std=noise, data_term=term, max_iter=2, check_adjoint=check)
        found.append(dict(calls))
    assert found[1] == {name: n + 1 for name, n in found[0].items()}


def test_the_random_state_of_the_caller_is_kept() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_adjoint(BLUR, x_of(), x_of())
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- "measures nothing"


def test_measures_nothing_is_said_only_where_it_is_true() -> None:
    y = 1 + rand(1, 1, N, N).abs()
    for nothing in (pair(lambda x: 0 * x, lambda v: 0 * v), pair(lambda x: 0 * x, lambda v: v)):
        with pytest.raises(ValueError, match=r"measures nothing|A_adjoint"):
            solve(nothing, y, smooth, noise_std=0.1)
    for check in (True, False):  # an adjoint that gives nothing, or the opposite
        for factor in (0.0, -1.0):
            with pytest.raises(ValueError, match="adjoint") as caught:
                solve(pair(BLUR.A, lambda v, c=factor: c * v), y, smooth, noise_std=0.1, check_adjoint=check)
            assert "measures nothing" not in str(caught.value)


def test_what_constants_do_not_show_is_measured() -> None:
    """Differences of neighbours, whose A 1 vanishes."""
    A = pair(lambda x: x - x.roll(1, -1), lambda y: y - y.roll(-1, -1))
    x = smooth(x_of(), 0)
    assert solve(A, A.A(x) + 0.1 * rand(1, 1, N, N, seed=4), smooth, noise_std=0.1, max_iter=3).n_iter == 3


def test_stacks_of_ours_pass() -> None:
    A = stack([BLUR, Radon((N, N), torch.arange(9, dtype=F64) / 3)])
    y = tuple(part + 0.1 * rand(*part.shape, seed=2) for part in A.A(x_of()))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*A_adjoint")
        solve(A, y, smooth, noise_std=0.1, max_iter=2)
