"""Bad input to solve(): one clear ValueError or TypeError of under 400 characters each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand
from toys import Diagonal, Matrix, smooth

from pnp import LeastSquares, Poisson, Schedule, solve

Y = 1 + rand(1, 1, 6, 7).abs()
HOLED = Y.clone()
HOLED[0, 0, 2, 3] = torch.nan
ONE = Diagonal(torch.ones(1, 1))


def returns(value: Any) -> Any:
    return lambda x, sigma: value


class Broken:
    def A(self, x: Any) -> Any:
        return x

    def A_adjoint(self, y: Any) -> Any:
        raise RuntimeError("size mismatch, got 7 expected 9\n" + "x" * 999)


class Wordy(Broken):
    def A_adjoint(self, y: Any) -> Any:
        raise ValueError("too many words " * 99)


class Overflowing(Diagonal):
    def data_step(self, y: Any, weights: Any) -> Any:
        return lambda z, alpha: z * torch.inf


class Moved(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1, device="meta")

    def A(self, x: Any) -> Any:
        return x

    A_adjoint = A


CASES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no operator": ({"operator": 3}, TypeError, "operator"),
    "operator class": ({"operator": Diagonal}, TypeError, "operator"),
    "zero operator": ({"operator": Diagonal(torch.zeros(1, 1))}, ValueError, "measures nothing"),
    "no denoiser": ({"denoiser": "bm3d"}, TypeError, "denoiser"),
    "denoiser class": ({"denoiser": Matrix}, TypeError, "denoiser"),
    "y list": ({"y": [1.0]}, TypeError, ": y "),
    "y string": ({"y": "y"}, TypeError, ": y "),
    "y None": ({"y": None}, TypeError, ": y "),
    "y integers": ({"y": torch.ones(1, 1, 6, 7, dtype=torch.int)}, TypeError, ": y "),
    "y numpy integers": ({"y": np.ones((1, 1, 6, 7), int)}, TypeError, ": y "),
    "y numpy objects": ({"y": np.array([None])}, TypeError, ": y "),
    "y half": ({"y": Y.half()}, TypeError, ": y "),
    "y empty": ({"y": Y[:0]}, ValueError, ": y "),
    "y NaN": ({"y": HOLED}, ValueError, ": y .* 1 of 42 .*noise_std"),
    "y NaN beside a dead one": (
        {"y": HOLED, "noise_std": torch.where(Y == Y.max(), torch.inf, 0.1)},
        ValueError,
        ": y .* 1 ",
    ),
    "y infinite": ({"y": Y / 0, "noise_std": None}, ValueError, ": y "),
    "y wrong shape": ({"operator": Matrix(rand(5, 42))}, ValueError, "operator"),
    "y too few axes": ({"operator": Diagonal(torch.ones(1, 1, 1, 1)), "y": Y[0, 0]}, ValueError, ": y "),
    "foreign failure": ({"operator": Broken()}, ValueError, "size mismatch"),
    "foreign long message": ({"operator": Wordy()}, ValueError, "operator.*too many words"),
    "operator overflows": ({"operator": Overflowing(torch.ones(1, 1))}, ValueError, "first estimate"),
    "x-update overflows": (
        {"operator": Overflowing(torch.ones(1, 1)), "x0": Y},
        ValueError,
        "x-update",
    ),
    "noise zero": ({"noise_std": 0.0}, ValueError, "noise_std"),
    "noise negative": ({"noise_std": -1}, ValueError, "noise_std"),
    "noise NaN": ({"noise_std": float("nan")}, ValueError, "noise_std"),
    "noise infinite": ({"noise_std": float("inf")}, ValueError, "infinite"),
    "noise all infinite": ({"noise_std": torch.full((6, 7), torch.inf)}, ValueError, "infinite"),
    "noise mis-shaped": ({"noise_std": torch.ones(5)}, ValueError, "noise_std"),
    "noise larger than y": ({"noise_std": torch.ones(2, 1, 6, 7)}, ValueError, "noise_std"),
    "noise negative array": ({"noise_std": Y - 9}, ValueError, "noise_std"),
    "noise string": ({"noise_std": "auto"}, TypeError, "noise_std"),
    "noise list": ({"noise_std": ["0.1", None]}, TypeError, "noise_std"),
    "noise of another batch": ({"noise_std": [0.1, 0.2]}, ValueError, "noise_std"),
    "noise bool": ({"noise_std": True}, TypeError, "noise_std"),
    "noise underflow": ({"y": Y.float(), "noise_std": 1e-30}, ValueError, "noise_std"),
    "noise overflow": ({"y": Y.float(), "noise_std": 1e25}, ValueError, "noise_std"),
    "noise beyond float32": ({"y": Y.float(), "noise_std": 1e99}, ValueError, "noise_std"),
    "noise of zeros": ({"y": 0 * Y, "noise_std": None}, ValueError, "noise_std"),
    "noise of two": ({"y": Y[..., :2], "noise_std": None}, ValueError, "noise_std"),
    "noise elsewhere": ({"noise_std": torch.ones(6, 7, device="meta")}, ValueError, "noise_std"),
    "denoiser elsewhere": (
        {"denoiser": torch.nn.Conv2d(1, 1, 1, device="meta")},
        ValueError,
        "denoiser",
    ),
    "operator elsewhere": ({"operator": Moved()}, ValueError, "operator"),
    "x0 elsewhere": ({"x0": torch.ones(1, 1, 6, 7, device="meta")}, ValueError, ": x0 "),
    "x0 shape": ({"x0": Y[0]}, ValueError, ": x0 "),
    "x0 NaN": ({"x0": HOLED}, ValueError, ": x0 "),
    "algorithm": ({"algorithm": "fista"}, ValueError, "algorithm"),
    "strength zero": ({"strength": 0}, ValueError, "strength"),
    "strength infinite": ({"strength": float("inf")}, ValueError, "strength"),
    "strength None": ({"strength": None}, TypeError, "strength"),
    "max_iter zero": ({"max_iter": 0}, ValueError, "max_iter"),
    "max_iter float": ({"max_iter": 2.5}, TypeError, "max_iter"),
    "max_iter bool": ({"max_iter": True}, TypeError, "max_iter"),
    "rtol": ({"rtol": -1e-3}, ValueError, "rtol"),
    "bounds number": ({"bounds": 1}, TypeError, "bounds"),
    "bounds three": ({"bounds": (0, 1, 2)}, TypeError, "bounds"),
    "bounds text": ({"bounds": ("0", "1")}, TypeError, "bounds"),
    "bounds reversed": ({"bounds": (1, 0)}, ValueError, "bounds"),
    "bounds NaN": ({"bounds": (float("nan"), None)}, ValueError, "bounds"),
    "schedule text": ({"schedule": "linear"}, TypeError, "schedule"),
    "schedule empty": ({"schedule": []}, TypeError, "schedule"),
    "schedule negative": ({"schedule": [0.1, -0.1]}, ValueError, "schedule"),
    "schedule zero": ({"schedule": lambda k: 0.0}, ValueError, "schedule"),
    "data_term": ({"data_term": "poisson"}, TypeError, "data_term"),
    "callback": ({"callback": 3}, TypeError, "callback"),
    "denoiser shape": ({"denoiser": lambda x, s: x[..., 1:]}, ValueError, "denoiser"),
    "denoiser NaN": ({"denoiser": lambda x, s: x * torch.nan}, ValueError, "denoiser"),
    "denoiser None": ({"denoiser": returns(None)}, TypeError, "denoiser"),
    "denoiser numpy": ({"denoiser": returns(np.ones(3))}, TypeError, "denoiser"),
    "Poisson with noise": ({"data_term": Poisson()}, ValueError, "noise_std"),
    "Poisson negative": ({"data_term": Poisson(), "noise_std": None, "y": -Y}, ValueError, ": y "),
    "Poisson zeros": ({"data_term": Poisson(), "noise_std": None, "y": 0 * Y}, ValueError, ": y "),
    "Poisson operator": (
        {"data_term": Poisson(), "noise_std": None, "operator": Diagonal(-torch.ones(1, 1))},
        ValueError,
        "operator",
    ),
    "Poisson background shape": (
        {"data_term": Poisson(background=torch.ones(5)), "noise_std": None},
        ValueError,
        "background",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_one_clear_sentence(name: str) -> None:
    changed, kind, expected = CASES[name]
    arguments = {"operator": ONE, "y": Y, "denoiser": smooth, "noise_std": 0.1} | changed
    with pytest.raises(kind, match=expected) as caught:
        solve(arguments.pop("operator"), arguments.pop("y"), arguments.pop("denoiser"), **arguments)
    message = str(caught.value)
    assert len(message) < 400 and "\n" not in message


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Schedule(0.1, 0.2), "sigma_max"),
        (lambda: Schedule(0.1, 0.0), "sigma_min"),
        (lambda: Schedule(float("inf"), 0.1), "sigma_max"),
        (lambda: Schedule(0.2, 0.1, 0), "n_iter"),
        (lambda: Poisson(background=-1.0), "background"),
        (lambda: Poisson(background=float("nan")), "background"),
        (lambda: Poisson(n_inner=0), "n_inner"),
        (lambda: LeastSquares(rtol=0.0), "rtol"),
        (lambda: LeastSquares(max_iter=0), "max_iter"),
    ],
)
def test_bad_options_are_refused_where_they_are_given(make: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        make()
    assert len(str(caught.value)) < 400


def test_an_error_inside_the_denoiser_is_not_disguised() -> None:
    def failing(x: Any, sigma: float) -> Any:
        raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside"):
        solve(ONE, Y, failing, noise_std=0.1)
