"""`solve` with arguments that nobody should give: a result, or one ValueError or TypeError of ours; never a hang."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import Diagonal, smooth

from pnp import LeastSquares, Poisson, Result, ResultWarning, Schedule, solve

Y = 1 + rand(1, 1, 6, 7).abs()
MASKED = np.ma.masked_array(Y.numpy(), mask=Y.numpy() > 1.5)
OURS = ("solve: ", "LeastSquares: ", "Poisson: ", "Schedule: ")

NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    0.5,
    1e-30,
    1e30,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
)
NUMBERS += (
    True,
    np.float32(0.1),
    np.float64(2),
    np.int8(3),
    np.longdouble("1e4000"),
    1j,
    np.complex64(1),
    Fraction(1, 3),
)
NUMBERS += (np.bool_(True), np.array(0.1), np.array([0.1]), torch.tensor(0.1), torch.tensor(True), torch.tensor(1j))
OTHERS: tuple[Any, ...] = (
    None,
    "",
    "auto",
    b"1",
    [],
    (),
    {},
    [0.1],
    (0.1, None),
    {"a": 1},
    object(),
    float,
    len,
    range(3),
)
OTHERS += (
    np.array("a"),
    np.array([None]),
    np.array([]),
    np.zeros((0, 3)),
    torch.empty(0),
    torch.ones(3, dtype=torch.int8),
)
ARRAYS: tuple[Any, ...] = (
    *(Y, Y.float(), Y.half(), Y.bfloat16(), Y.int(), Y > 1, Y + 0j, Y[0], Y[..., :2], Y[:0], 0 * Y, -Y, Y * math.nan),
    *(Y / 0, Y.to("meta"), Y.to_sparse(), Y.numpy(), Y.numpy().astype(">f4"), Y.numpy().astype(">c8"), MASKED),
    *(Y.numpy().astype(np.longdouble), Y.numpy().astype("U5"), Y.numpy().astype(object), np.asfortranarray(Y.numpy())),
    *(Y.expand(2, 1, 6, 7), Y.requires_grad_(False).clone().requires_grad_(), Y.mT, Y * 1e-30, Y.float() * 1e30),
    *(Y[..., 0, 0], torch.tensor(1.0), torch.ones(1, 1, 6, 7, 1), Y * 1e200, Y.float() * 1e-38, [Y, Y], (Y,)),
)
ANY = st.sampled_from([*range(len(NUMBERS) + len(OTHERS) + len(ARRAYS))])
POOL = (*NUMBERS, *OTHERS, *ARRAYS)


def denoisers(value: Any) -> dict[str, Any]:
    """Denoisers that return what they should not, or have odd ranges."""

    def ranged(low_high: Any) -> Any:
        class Ranged:
            sigma_range = low_high

            def __call__(self, x: Any, sigma: Any) -> Any:
                return x

        return Ranged()

    return {
        "value": lambda x, s: value, "one": lambda x, s: x[:, :, :1], "more": lambda x, s: torch.cat([x, x]),
        "complex": lambda x, s: x + 1j, "half": lambda x, s: x.half(), "int": lambda x, s: x.int(),
        "bool": lambda x, s: x > 0, "meta": lambda x, s: x.to("meta"), "sparse": lambda x, s: x.to_sparse(),
        "numpy": lambda x, s: x.numpy(), "in place": lambda x, s: x.mul_(0.5), "itself": lambda x, s: x,
        "amplifies": lambda x, s: 1e9 * x, "infinite": lambda x, s: x / 0, "sigma": lambda x, s: x * s,
        "range": ranged(value), "range reversed": ranged((1.0, 0.1)), "range of NaN": ranged((math.nan, 1.0)),
    }  # fmt: skip


def callbacks(value: Any) -> dict[str, Any]:
    return {"value": lambda state: value, "tensor": lambda state: state.x > 0, "state": lambda state: state}


def schedules(value: Any) -> dict[str, Any]:
    return {
        "value": value, "always": lambda k: value, "list": [value], "mixed": [0.2, value],
        "array": np.array([0.2, 0.1]), "endless": lambda k: 10.0 ** (-k * 40), "tensor": torch.ones(3),
        "late": lambda k: 0.1 if k < 3 else value,
    }  # fmt: skip


def attempt(**changes: Any) -> str:
    """Call `solve` and return what came of it; anything but a result or a sentence of ours is an AssertionError."""
    arguments = {"operator": Diagonal(torch.ones(1, 1)), "y": Y, "denoiser": smooth, "noise_std": 0.1} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResultWarning)
        try:
            result = solve(arguments.pop("operator"), arguments.pop("y"), arguments.pop("denoiser"), **arguments)
        except (ValueError, TypeError) as error:
            message = str(error)
            assert type(error) in (ValueError, TypeError), repr(error)
            assert message.startswith(OURS) and len(message) < 400 and "\n" not in message, repr(error)
            return "refused"
    assert isinstance(result, Result) and str(result.stop)
    x = torch.as_tensor(result.x)
    assert bool(x.isfinite().all()) and result.n_iter <= (changes.get("max_iter") or 24)
    return "solved"


FEW = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=4000, derandomize=False)
SCALARS = ("noise_std", "strength", "max_iter", "rtol", "x0", "data_term")
MAKERS = {"denoiser": denoisers, "callback": callbacks, "schedule": schedules}


def try_argument(name: str, k: int, kind: int) -> None:
    value = POOL[k]
    if name in MAKERS:
        made = MAKERS[name](value)
        attempt(**{name: list(made.values())[kind % len(made)]})
    elif name == "bounds":
        other = (None, 0.0, 2.0, value)[kind % 4]
        attempt(bounds=((value, other), (other, value), value, [value, other], (value,))[kind % 5])
    elif name == "y":
        attempt(y=value, noise_std=(0.1, None, value)[kind % 3])
    elif name == "max_iter" and isinstance(value, (int, np.integer)) and 10**3 < value < 10**6:
        return
    else:
        attempt(**{name: value})


NAMES = pytest.mark.parametrize("name", [*SCALARS, *MAKERS, "bounds", "y"])


@NAMES
@FEW
@given(k=ANY, kind=st.integers(0, 59))
def test_any_argument(name, k, kind):
    try_argument(name, k, kind)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@NAMES
@MANY
@given(k=ANY, kind=st.integers(0, 59))
def test_any_argument_by_the_thousand(name, k, kind):
    try_argument(name, k, kind)


@FEW
@given(
    strength=st.floats(allow_nan=True), rtol=st.floats(allow_nan=True), max_iter=st.integers(-3, 30),
    noise=st.floats(allow_nan=True), low=st.none() | st.floats(), high=st.none() | st.floats(),
    algorithm=st.sampled_from(["admm", "hqs"]), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_any_numbers_together(strength, rtol, max_iter, noise, low, high, algorithm, dtype):
    attempt(
        y=Y.to(dtype), noise_std=noise, strength=strength, rtol=rtol, max_iter=max_iter, bounds=(low, high),
        algorithm=algorithm,
    )  # fmt: skip


@FEW
@given(levels=st.lists(st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=30))
def test_any_positive_levels(levels):
    attempt(schedule=levels)


# ------------------------------------------------------------------------------------------- found, and mended


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_iter": 10**9}, "max_iter"),
        ({"max_iter": 10**400}, "max_iter"),
        ({"strength": 10**400}, "strength"),
        ({"noise_std": 10**400}, "noise_std"),
        ({"bounds": (10**400, None)}, "bounds"),
        ({"bounds": (math.inf, None)}, "bounds"),
        ({"bounds": (None, -math.inf)}, "bounds"),
        ({"bounds": (np.complex64(1), None)}, "bounds"),
        ({"y": MASKED}, "masked array"),
        ({"y": Y.to_sparse()}, ": y "),
        ({"y": Y.to("meta")}, "meta"),
        ({"noise_std": Y + 0j}, "noise_std"),
        ({"x0": Y + 0j}, ": x0 "),
        ({"schedule": lambda k: None}, "schedule"),
        ({"schedule": lambda k: "0.1"}, "schedule"),
        ({"schedule": [1.0, 1e-200]}, "schedule"),
        ({"schedule": lambda k: 1e200}, "schedule"),
        ({"denoiser": lambda x, s: x + 1j}, "denoiser"),
        ({"denoiser": lambda x, s: x.to("meta")}, "denoiser"),
        ({"denoiser": lambda x, s: x.to_sparse()}, "denoiser"),
        ({"denoiser": denoisers("a")["range"]}, "sigma_range"),
        ({"denoiser": denoisers(None)["range reversed"]}, "sigma_range"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, dict) else part,  # no addresses: processes must agree on them
)
def test_what_came_through_unexplained(changes, expected):
    """Overflows, tracebacks of torch, memory for a billion levels, and masked values taken for good."""
    arguments = {"y": Y, "denoiser": smooth, "noise_std": 0.1} | changes
    with pytest.raises((ValueError, TypeError)) as caught:
        solve(Diagonal(torch.ones(1, 1)), arguments.pop("y"), arguments.pop("denoiser"), **arguments)
    assert expected in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("make", [Schedule, LeastSquares, Poisson])
@pytest.mark.parametrize("k", range(len(POOL)))
def test_options_that_make_no_sense(make, k):
    """Schedules and data terms are refused where they are made."""
    value = POOL[k]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResultWarning)
        try:
            if make is Schedule:
                Schedule(value, 0.1), Schedule(0.3, value), Schedule(0.3, 0.1, value)
            elif make is LeastSquares:
                LeastSquares(rtol=value), LeastSquares(max_iter=value)
            else:
                Poisson(n_inner=value)
        except (ValueError, TypeError) as error:
            assert str(error).startswith(OURS) and len(str(error)) < 400 and "\n" not in str(error), repr(error)


def test_errors_of_the_user_s_own_functions_come_through_as_they_are():
    def failing(*_: Any) -> Any:
        raise LookupError("mine")

    for changes in ({"denoiser": failing}, {"callback": failing}, {"schedule": failing}):
        with pytest.raises(LookupError, match="mine"):
            attempt(**changes)
