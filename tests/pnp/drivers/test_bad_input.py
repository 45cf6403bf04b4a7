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
    "no operator": ({"operator": 3}, TypeError, r"operator must have A\(x\) and A_adjoint\(y\), got int"),
    "operator class": ({"operator": Diagonal}, TypeError, "operator must be an instance, got the class Diagonal"),
    "zero operator": ({"operator": Diagonal(torch.zeros(1, 1))}, ValueError, "measures nothing"),
    "no denoiser": ({"denoiser": "bm3d"}, TypeError, "denoiser must be a function"),
    "denoiser class": ({"denoiser": Matrix}, TypeError, "denoiser must be an instance"),
    "y list": ({"y": [1.0]}, TypeError, "y must be a torch.Tensor or numpy array, got list"),
    "y string": ({"y": "y"}, TypeError, "y must be a torch.Tensor"),
    "y None": ({"y": None}, TypeError, "got NoneType"),
    "y integers": ({"y": torch.ones(1, 1, 6, 7, dtype=torch.int)}, TypeError, r"got torch.int32; use y.float\(\)"),
    "y numpy integers": ({"y": np.ones((1, 1, 6, 7), int)}, TypeError, r"array of int64; use y.astype\('float32'\)"),
    "y numpy objects": ({"y": np.array([None])}, TypeError, "array of object"),
    "y half": ({"y": Y.half()}, TypeError, "float32 or float64, got torch.float16"),
    "y empty": ({"y": Y[:0]}, ValueError, "must not be empty"),
    "y NaN": ({"y": HOLED}, ValueError, "NaN or infinity in 1 of 42 measurements; set noise_std to .*nan_to_num"),
    "y NaN beside a dead one": (
        {"y": HOLED, "noise_std": torch.where(Y == Y.max(), torch.inf, 0.1)},
        ValueError,
        "NaN or infinity in 1",
    ),
    "y infinite": ({"y": Y / 0, "noise_std": None}, ValueError, "y must be finite"),
    "y wrong shape": ({"operator": Matrix(rand(5, 42))}, ValueError, "does not fit the operator"),
    "y too few axes": ({"operator": Diagonal(torch.ones(1, 1, 1, 1)), "y": Y[0, 0]}, ValueError, "must have the shape"),
    "foreign failure": ({"operator": Broken()}, ValueError, "size mismatch"),
    "foreign long message": ({"operator": Wordy()}, ValueError, "does not fit the operator.*too many words"),
    "operator overflows": ({"operator": Overflowing(torch.ones(1, 1))}, ValueError, "first estimate.*holds NaN"),
    "x-update overflows": (
        {"operator": Overflowing(torch.ones(1, 1)), "x0": Y},
        ValueError,
        "x-update gave NaN or infinity before the denoiser's turn",
    ),
    "noise zero": ({"noise_std": 0.0}, ValueError, "noise_std must be positive"),
    "noise negative": ({"noise_std": -1}, ValueError, "noise_std must be positive, got -1"),
    "noise NaN": ({"noise_std": float("nan")}, ValueError, "noise_std must be positive, got nan"),
    "noise infinite": ({"noise_std": float("inf")}, ValueError, "infinite everywhere"),
    "noise all infinite": ({"noise_std": torch.full((6, 7), torch.inf)}, ValueError, "infinite everywhere"),
    "noise mis-shaped": ({"noise_std": torch.ones(5)}, ValueError, r"broadcast to y \(1, 1, 6, 7\), got \(5,\)"),
    "noise larger than y": ({"noise_std": torch.ones(2, 1, 6, 7)}, ValueError, r"got \(2, 1, 6, 7\)"),
    "noise negative array": ({"noise_std": Y - 9}, ValueError, "must be positive, got -"),
    "noise string": ({"noise_std": "auto"}, TypeError, "noise_std must be a positive number"),
    "noise list": ({"noise_std": [0.1]}, TypeError, "noise_std must be a torch.Tensor or numpy array, got list"),
    "noise bool": ({"noise_std": True}, TypeError, "noise_std must be a positive number"),
    "noise underflow": ({"y": Y.float(), "noise_std": 1e-30}, ValueError, "rescale y and noise_std"),
    "noise overflow": ({"y": Y.float(), "noise_std": 1e25}, ValueError, "rescale y and noise_std"),
    "noise beyond float32": ({"y": Y.float(), "noise_std": 1e99}, ValueError, "beyond the range of torch.float32"),
    "noise of zeros": ({"y": 0 * Y, "noise_std": None}, ValueError, "cannot be estimated"),
    "noise of two": ({"y": Y[..., :2], "noise_std": None}, ValueError, "needs 3 samples"),
    "noise elsewhere": ({"noise_std": torch.ones(6, 7, device="meta")}, ValueError, "noise_std is on meta, y on cpu"),
    "denoiser elsewhere": (
        {"denoiser": torch.nn.Conv2d(1, 1, 1, device="meta")},
        ValueError,
        r"denoiser is on meta, y on cpu; move one, e.g. denoiser.to\('cpu'\)",
    ),
    "operator elsewhere": ({"operator": Moved()}, ValueError, "operator is on meta, y on cpu"),
    "x0 elsewhere": ({"x0": torch.ones(1, 1, 6, 7, device="meta")}, ValueError, "x0 is on meta"),
    "x0 shape": ({"x0": Y[0]}, ValueError, r"x0 must have the image shape \(1, 1, 6, 7\)"),
    "x0 NaN": ({"x0": HOLED}, ValueError, "x0 must be finite"),
    "algorithm": ({"algorithm": "fista"}, ValueError, r"one of \['admm', 'hqs'\], got 'fista'"),
    "strength zero": ({"strength": 0}, ValueError, "strength must be a finite number > 0, got 0"),
    "strength infinite": ({"strength": float("inf")}, ValueError, "strength must be a finite number"),
    "strength None": ({"strength": None}, TypeError, "strength must be"),
    "max_iter zero": ({"max_iter": 0}, ValueError, "max_iter must be an integer >= 1, got 0"),
    "max_iter float": ({"max_iter": 2.5}, TypeError, "max_iter must be an integer"),
    "max_iter bool": ({"max_iter": True}, TypeError, "max_iter must be an integer"),
    "rtol": ({"rtol": -1e-3}, ValueError, "rtol must be a finite number >= 0"),
    "bounds number": ({"bounds": 1}, TypeError, r"bounds must be \(low, high\)"),
    "bounds three": ({"bounds": (0, 1, 2)}, TypeError, r"bounds must be \(low, high\)"),
    "bounds text": ({"bounds": ("0", "1")}, TypeError, "bounds must hold numbers or None"),
    "bounds reversed": ({"bounds": (1, 0)}, ValueError, "low < high"),
    "bounds NaN": ({"bounds": (float("nan"), None)}, ValueError, "bounds must not be NaN"),
    "schedule text": ({"schedule": "linear"}, TypeError, "schedule must be a Schedule"),
    "schedule empty": ({"schedule": []}, TypeError, "schedule must be a Schedule"),
    "schedule negative": ({"schedule": [0.1, -0.1]}, ValueError, "schedule must be a finite number > 0"),
    "schedule zero": ({"schedule": lambda k: 0.0}, ValueError, "schedule must give positive noise levels"),
    "data_term": ({"data_term": "poisson"}, TypeError, "data_term must be LeastSquares"),
    "callback": ({"callback": 3}, TypeError, "callback must be a function"),
    "denoiser shape": ({"denoiser": lambda x, s: x[..., 1:]}, ValueError, r"keep the shape \(1, 1, 6, 7\), got"),
    "denoiser NaN": ({"denoiser": lambda x, s: x * torch.nan}, ValueError, "denoiser returned NaN or infinity"),
    "denoiser None": ({"denoiser": returns(None)}, TypeError, "must return a torch.Tensor, got NoneType"),
    "denoiser numpy": ({"denoiser": returns(np.ones(3))}, TypeError, "must return a torch.Tensor, got ndarray"),
    "Poisson with noise": ({"data_term": Poisson()}, ValueError, "noise_std must be None with Poisson"),
    "Poisson negative": ({"data_term": Poisson(), "noise_std": None, "y": -Y}, ValueError, "counts >= 0"),
    "Poisson zeros": ({"data_term": Poisson(), "noise_std": None, "y": 0 * Y}, ValueError, "zeros only"),
    "Poisson operator": (
        {"data_term": Poisson(), "noise_std": None, "operator": Diagonal(-torch.ones(1, 1))},
        ValueError,
        "non-negative entries",
    ),
    "Poisson background shape": (
        {"data_term": Poisson(background=torch.ones(5)), "noise_std": None},
        ValueError,
        "background must be a scalar or broadcast",
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
        (lambda: Schedule(0.1, 0.2), "sigma_min <= sigma_max"),
        (lambda: Schedule(0.1, 0.0), "0 < sigma_min"),
        (lambda: Schedule(float("inf"), 0.1), "sigma_max"),
        (lambda: Schedule(0.2, 0.1, 0), "n_iter must be an integer"),
        (lambda: Poisson(background=-1.0), "background must be finite and not negative"),
        (lambda: Poisson(background=float("nan")), "background must be finite and not negative"),
        (lambda: Poisson(n_inner=0), "n_inner must be an integer"),
        (lambda: LeastSquares(rtol=0.0), "rtol must be"),
        (lambda: LeastSquares(max_iter=0), "max_iter must be"),
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
