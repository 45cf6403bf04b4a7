"""`solve` with measurements in parts: equal to one dense operator of all, noise part by part, checkpoints, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel
from toys import SHAPE, Linear, Matrix, image, smooth

from operators import Blur, Downsample, Identity, LinearOperator, Mask, stack
from pnp import LeastSquares, Poisson, Result, Stop, estimate_noise_std, mlem, solve
from pnp.ct import Transmission
from pnp.interop import operator_from_functions

F64 = torch.float64
N = SHAPE[0] * SHAPE[1]
D = Linear(N)
TIGHT = {"data_term": LeastSquares(rtol=1e-12, max_iter=500), "schedule": [0.3], "max_iter": 12, "rtol": 0.0}
BLURS = stack([Blur(rand(3, 3, seed=1), SHAPE), Blur(rand(2, 4, seed=2), SHAPE, "valid")])
Y = tuple(part + 0.1 * rand(*part.shape, seed=3) for part in BLURS.A(rand(1, 1, *SHAPE, seed=4)))


def dense(operator: LinearOperator) -> Matrix:
    """The same operator as one matrix, of measurements (B, 1, m)."""
    columns = operator.A(torch.eye(N, dtype=F64).reshape(-1, 1, *SHAPE))
    return Matrix(torch.cat([part.flatten(1) for part in columns], 1).T)


def flat(parts: Any) -> torch.Tensor:
    return torch.cat([torch.as_tensor(part).flatten(1) for part in parts], 1)[:, None]


def same(found: Result, expected: Result, tolerance: float = 1e-8) -> None:
    assert rel(found.x, expected.x) < tolerance
    assert found.misfit == pytest.approx(expected.misfit, rel=1e-6)


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
@pytest.mark.parametrize("container", [tuple, list])
def test_two_blurs_are_their_dense_concatenation(algorithm, container):
    found = solve(BLURS, container(Y), D, noise_std=0.1, algorithm=algorithm, **TIGHT)
    same(found, solve(dense(BLURS), flat(Y), D, noise_std=0.1, algorithm=algorithm, **TIGHT))
    assert found.noise_std == pytest.approx((0.1, 0.1)) and not found.noise_estimated


def noise(kind: str) -> tuple[Any, torch.Tensor]:
    """A noise level for the two parts, and the same for each measurement of the dense operator."""
    first, second = (torch.full(part.shape, s, dtype=F64) for part, s in zip(Y, (0.1, 0.4), strict=True))
    array = second * (1 + rand(*second.shape, seed=5).abs())
    dead = torch.where(rand(*second.shape, seed=6) > 0, array, math.inf)
    row = array[..., :1, :]
    return {
        "scalars": ((0.1, 0.4), flat((first, second))),
        "scalar and array": ([0.1, array], flat((first, array))),
        "broadcasting": ((0.1, row), flat((first, row.expand(second.shape)))),
        "some infinite": ((0.1, dead), flat((first, dead))),
        "a part infinite": ((0.1, math.inf), flat((first, math.inf * second))),
        "a part of infinities": ((0.1, math.inf * second), flat((first, math.inf * second))),
    }[kind]


@pytest.mark.parametrize("given", ["torch", "numpy"])
@pytest.mark.parametrize(
    "kind", ["scalars", "scalar and array", "broadcasting", "some infinite", "a part infinite", "a part of infinities"]
)
def test_every_part_has_its_own_noise(kind, given):
    std, each = noise(kind)
    y = tuple(torch.where(s.isinf(), torch.nan, part) for part, s in zip(Y, split(each), strict=True))
    expected = solve(dense(BLURS), torch.where(each.isinf(), 0, flat(y)), D, noise_std=each, **TIGHT)
    if given == "numpy":
        y, std = tuple(part.numpy() for part in y), tuple(np.asarray(s) if np.ndim(s) else s for s in std)
    found = solve(BLURS, y, D, noise_std=std, **TIGHT)
    same(found, expected)
    assert isinstance(found.x, np.ndarray if given == "numpy" else torch.Tensor) and found.x.dtype == y[0].dtype
    assert isinstance(found.noise_std, tuple) and len(found.noise_std) == 2
    for used, s in zip(found.noise_std, std, strict=True):
        assert type(used) is (type(s) if np.ndim(s) else float) or kind == "a part of infinities"
        np.testing.assert_allclose(np.broadcast_to(used, np.shape(s)), np.asarray(s))


def split(v: torch.Tensor) -> list[torch.Tensor]:
    sizes = [part[0].numel() for part in Y]
    return [p.reshape(part.shape) for p, part in zip(v.split(sizes, -1), Y, strict=True)]


def test_noise_is_estimated_part_by_part():
    x = image()
    y = [x + 0.05 * rand(*x.shape, seed=1), Downsample((32, 40), 2).A(x) * 3 + 0.3 * rand(1, 1, 16, 20, seed=2)]

    class Knowing(Identity):
        def estimate_noise(self, y: torch.Tensor) -> float:
            return 0.0625

    operator = stack([Knowing((32, 40)), 3 * Downsample((32, 40), 2)])
    found = solve(operator, y, smooth, max_iter=3)
    assert found.noise_estimated and found.noise_std == pytest.approx((0.0625, estimate_noise_std(y[1])), rel=1e-6)
    found = solve(operator, y, smooth, noise_std=[0.05, None], max_iter=3)
    assert found.noise_estimated and found.noise_std == pytest.approx((0.05, estimate_noise_std(y[1])), rel=1e-6)


def test_exact_parts_of_different_units_stay_well_posed():
    x = image()
    operator = stack([Identity((32, 40)), 1e4 * Identity((32, 40))])
    found = solve(operator, operator.A(x), smooth, noise_std=(1e-12, 1e-8), max_iter=3)
    rms = float(x.norm()) / x.numel() ** 0.5
    assert found.noise_std == pytest.approx((1e-4 * rms, rms), rel=1e-6)  # raised, each in its own unit


def test_a_masked_blur_and_a_blur_beside_a_mask_are_solved():
    truth, kernel = image(), torch.full((3, 3), 1 / 9, dtype=F64)
    half = Mask(rand(32, 40, seed=3) > 0)
    A = half @ Blur(kernel, (32, 40))
    found = solve(A, A.A(truth), smooth, noise_std=0.01)
    assert rel(A.A(found.x), A.A(truth)) < 0.05 and found.stop in (Stop.CONVERGED, Stop.MAX_ITER)
    B = stack([Blur(kernel, (32, 40)), half])
    y = tuple(part + 0.02 * rand(*part.shape, seed=4) for part in B.A(truth))
    both = solve(B, y, smooth, noise_std=0.02)
    alone = solve(B.operators[0], y[0], smooth, noise_std=0.02)
    assert rel(both.x, truth) < rel(alone.x, truth)
    blurred, kept = (part - measured for part, measured in zip(B.A(both.x), y, strict=True))
    kept = kept[half.mask.expand(kept.shape)]  # what the mask drops is no measurement
    expected = float((blurred**2).sum() + (kept**2).sum()) / 0.02**2 / (blurred.numel() + kept.numel())
    assert both.misfit == pytest.approx(expected, rel=1e-9)


def test_precision_batches_and_parts_of_other_axes():
    operator = stack([Identity(SHAPE), Matrix(rand(5, N, seed=7))])
    x = rand(3, 1, *SHAPE, seed=8)
    y = operator.A(x)
    options: dict[str, Any] = {"noise_std": 0.1, "algorithm": "hqs", "schedule": [0.3], "max_iter": 3}
    found = solve(operator, [part.float() for part in y], D, x0=torch.zeros(3, 1, *SHAPE), **options)
    assert found.x.dtype == torch.float32 and found.x.shape == x.shape
    assert rel(found.x, solve(operator, y, D, x0=torch.zeros_like(x), **options).x) < 1e-4


def test_complex_parts_beside_real_ones():
    class Fourier(LinearOperator):
        shape = SHAPE

        def A(self, x: torch.Tensor, /) -> torch.Tensor:
            return torch.fft.fft2(x, norm="ortho")

        def A_adjoint(self, y: torch.Tensor, /) -> torch.Tensor:
            return torch.fft.ifft2(y, norm="ortho").real

    x = rand(1, 1, *SHAPE)
    operator = stack([Fourier(), Identity(SHAPE)])
    y = operator.A(x)
    found = solve(operator, y, lambda x, sigma: x, noise_std=(0.1, 0.1))
    assert found.x.dtype == F64 and rel(found.x, x) < 0.02


def test_counts_in_parts():
    x = image().clamp(min=0.01)
    operator = stack([Mask(torch.full((32, 40), 50.0, dtype=F64)), 20 * Downsample((32, 40), 2)])
    y = [torch.poisson(part + 2, generator=torch.Generator().manual_seed(0)) for part in operator.A(x)]
    found = solve(operator, y, smooth, data_term=Poisson(background=2.0), bounds=(0, None))
    assert found.noise_std is None and rel(found.x, x) < 0.25
    one = solve(operator, y, smooth, data_term=Poisson(background=torch.full((1,), 2.0)), bounds=(0, None))
    assert torch.equal(one.x, found.x)
    array = torch.ones(32, 40)
    for term, name in (
        (Poisson(background=array), "background"),
        (Poisson(gain=1 + array), "gain"),
        (Poisson(read_noise=array), "read_noise"),
        (Transmission(50.0, background=array), "background"),
        (Transmission(array), "i0"),
    ):
        with pytest.raises(ValueError, match=rf"^solve: {name} .*scalar.*\(32, 40\)"):
            solve(operator, y, smooth, data_term=term)
    with pytest.raises(ValueError, match="solve: gain"):
        solve(operator, y, smooth, data_term=Poisson(gain=None))


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("given", ["torch", "numpy"])
def test_a_stack_resumes_to_the_same_bits_and_refuses_other_measurements(given, tmp_path):
    y = [part.numpy() if given == "numpy" else part for part in Y]
    std = (0.1, np.full((1, 1, *Y[1].shape[2:]), 0.2))
    std = std if given == "numpy" else (0.1, torch.as_tensor(std[1]))
    options: dict[str, Any] = {"noise_std": std, "max_iter": 8, "rtol": 0.0}

    def stop(state: Any) -> None:
        if state.k == 4:
            raise KeyboardInterrupt

    whole = solve(BLURS, y, smooth, **options)
    first = solve(BLURS, y, smooth, **options, checkpoint=tmp_path / "c", callback=stop)
    assert first.stop is Stop.INTERRUPTED and first.n_iter == 4
    other = stack([BLURS.operators[0], 1.1 * BLURS.operators[1]])
    for change in ({"noise_std": (0.1, 0.2)}, {"y": [y[0], y[1] + 1e-9]}, {"operator": other}):
        arguments: dict[str, Any] = {"operator": BLURS, "y": y, "denoiser": smooth, **options} | change
        with pytest.raises(ValueError, match="checkpoint"):
            solve(**arguments, checkpoint=tmp_path / "c")
    seen: list[int] = []
    rest = solve(BLURS, y, smooth, **options, checkpoint=tmp_path / "c", callback=lambda s: seen.append(s.k))
    assert seen == [5, 6, 7, 8] and rest.history == whole.history and rest.misfit == whole.misfit
    assert torch.equal(torch.as_tensor(rest.x), torch.as_tensor(whole.x))


# ---------------------------------------------------------------- refusals


FLIP = operator_from_functions(lambda x: x.flip(-1), lambda y: y.flip(-1))
TWICE = operator_from_functions(lambda x: 2 * x, lambda y: 2 * y)
NAN = torch.where(Y[1] == Y[1].max(), torch.nan, Y[1])
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one tensor": ({"y": Y[0]}, ValueError, r"^solve: y must be a tuple or list of 2 .* one tensor"),
    "too many": ({"y": (*Y, Y[0])}, ValueError, "^solve: y must be a tuple or list of 2 .* 3 parts"),
    "no stack": ({"operator": Identity(SHAPE)}, TypeError, "^solve: y must be one tensor, .* 2 parts"),
    "no stack, twice x": ({"operator": TWICE}, TypeError, "^solve: y must be one tensor, .* returned a tuple"),
    "no stack, a function": ({"operator": FLIP, "y": list(Y)}, TypeError, "^solve: y must be one tensor, .* 2 parts"),
    "swapped": ({"y": Y[::-1]}, ValueError, r"^solve: y\[0\] must be \(B, C, 6, 7\), got \(1, 1, 5, 4\)"),
    "a part's shape": (
        {"operator": stack([Identity(SHAPE), Downsample(SHAPE, 1), Identity(SHAPE)]), "y": (Y[0], Y[1], Y[0])},
        ValueError,
        r"^solve: y\[1\] must be \(B, C, 6, 7\), got \(1, 1, 5, 4\)",
    ),
    "a part's axes": ({"y": (Y[0], Y[1][0])}, ValueError, r"^solve: y\[1\] must be \(B, C, 5, 4\), got \(1, 5, 4\)"),
    "numbers": ({"y": (Y[0], 3.0)}, TypeError, "y must be a torch.Tensor or numpy array, got tuple"),
    "kinds": ({"y": (Y[0], Y[1].numpy())}, TypeError, "y must hold tensors only or numpy arrays only"),
    "integers": ({"y": (Y[0], Y[1].long())}, TypeError, r"y\[1\] must be float32 or float64"),
    "precisions": ({"y": (Y[0], Y[1].float())}, TypeError, r"y\[1\] must have the precision and device of y\[0\]"),
    "batches": ({"y": (Y[0], Y[1].repeat(2, 1, 1, 1))}, ValueError, r"y\[1\] .*batch"),
    "empty": ({"y": (Y[0], Y[1][:0])}, ValueError, r"y\[1\] must not be empty"),
    "NaN": ({"y": (Y[0], NAN)}, ValueError, r"y\[1\]: y must be finite, got NaN"),
    "noise of three": (
        {"noise_std": (1.0, 1.0, 1.0)},
        ValueError,
        "noise_std must be a number .* of 2, .*got 3 entries",
    ),
    "noise array": ({"noise_std": torch.ones(3)}, ValueError, r"noise_std must be a number .*one array \(3,\)"),
    "noise negative": ({"noise_std": (1.0, -1.0)}, ValueError, r"y\[1\]: noise_std must be positive"),
    "noise mis-shaped": ({"noise_std": (torch.ones(4), 1.0)}, ValueError, r"y\[0\]: noise_std must be a scalar or"),
    "noise infinite": ({"noise_std": (math.inf, math.inf)}, ValueError, "noise_std is infinite everywhere"),
    "noise of text": ({"noise_std": "ab"}, TypeError, "noise_std must be a positive number"),
    "noise with counts": ({"data_term": Poisson()}, ValueError, "noise_std must be None with Poisson"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(name):
    changes, kind, message = REFUSED[name]
    arguments: dict[str, Any] = {"operator": BLURS, "y": Y, "denoiser": smooth, "noise_std": 0.1} | changes
    with pytest.raises(kind, match=message) as caught:
        solve(**arguments)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_expectation_maximisation_takes_one_array():
    with pytest.raises(TypeError, match="mlem: y must be one array"):
        mlem(BLURS, [part.abs() for part in Y])


def test_foreign_stacks_may_have_parts_that_do_not_fit():
    class Other:
        def A(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x[..., 1:]]

        def A_adjoint(self, y: list[torch.Tensor]) -> torch.Tensor:
            return y[0]

    with pytest.raises(ValueError, match=r"y must have the parts of operator.A\(x\)"):
        solve(Other(), [Y[0], Y[0]], smooth, noise_std=0.1)
