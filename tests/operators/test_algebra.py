"""Combinations of operators: dense truths, formulas, what is inherited and what is absent, and messages."""

from __future__ import annotations

import copy
import math
import pickle
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel, uniform
from torch import nn
from toys import Diagonal

from operators import SPECT, Blur, Downsample, Identity, KaiserSquires, LinearOperator, Mask, Radon, stack
from pnp import LeastSquares, mlem, osem
from pnp.algorithms.linalg import adjoint_gap

F64 = torch.float64
SHAPE = (6, 8)
BLUR = Blur(rand(3, 5), SHAPE)
MASK = Mask(rand(*SHAPE, seed=2) > 0)
VALID = Blur(rand(2, 4), SHAPE, "valid")
ANGLES = torch.linspace(0.1, 3.0, 5, dtype=F64)
RADON = Radon(SHAPE, ANGLES)


def dense(operator: Any, shape: tuple[int, ...] = (1, *SHAPE)) -> torch.Tensor:
    """The matrix of an operator; of a stack, of its parts one below the other."""
    y = operator.A(torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape))
    parts = [y] if isinstance(y, torch.Tensor) else list(y)
    return torch.cat([part.flatten(1) for part in parts], 1).T


COMBINED = {
    "composed": (MASK @ BLUR, lambda M, B: M @ B),
    "scaled": (-2.0 * MASK, lambda M, B: -2 * M),
    "sum": (MASK + BLUR, lambda M, B: M + B),
    "difference": (MASK - BLUR, lambda M, B: M - B),
    "adjoint": (BLUR.T, lambda M, B: B.T),
    "adjoint of all": ((3 * MASK @ BLUR - Identity(SHAPE)).T, lambda M, B: (3 * M @ B - torch.eye(48)).T),
    "stack": (stack([MASK, BLUR]), lambda M, B: torch.cat([M, B])),
    "stack of sums": ((stack([MASK, BLUR]) - stack([BLUR, BLUR])) * 2, lambda M, B: 2 * torch.cat([M - B, 0 * B])),
    "stack composed": (-(stack([MASK, BLUR]) @ BLUR), lambda M, B: -torch.cat([M @ B, B @ B])),
    "normal by hand": (stack([MASK, BLUR]).T @ stack([MASK, BLUR]), lambda M, B: M.T @ M + B.T @ B),
}


@pytest.mark.parametrize("name", COMBINED)
def test_combinations_are_those_of_the_matrices(name):
    operator, combine = COMBINED[name]
    expected = combine(dense(MASK), dense(BLUR))
    torch.testing.assert_close(dense(operator), expected.double(), rtol=0, atol=1e-12)
    x = rand(2, 3, *SHAPE)
    assert rel(operator.A_adjoint_A(x), operator.A_adjoint(operator.A(x))) < 1e-12


def test_a_stack_has_an_exact_adjoint_moves_and_pickles():
    operator = 0.5 * stack([VALID, RADON, MASK])
    x, y = rand(2, 1, *SHAPE), tuple(rand(*part.shape, seed=3) for part in operator.A(rand(2, 1, *SHAPE)))
    left = sum((a * b).sum() for a, b in zip(operator.A(x), y, strict=True))
    right = (x * operator.A_adjoint(list(y))).sum()
    assert abs(left - right) < 1e-12 * abs(left)
    for twin in (pickle.loads(pickle.dumps(operator)), copy.deepcopy(operator), copy.deepcopy(operator).to("cpu")):
        assert all(torch.equal(a, b) for a, b in zip(twin.A(x), operator.A(x), strict=True))
        assert repr(twin) == repr(operator)
    assert [part.dtype for part in operator.A(x.float())] == [torch.float32] * 3
    assert copy.deepcopy(operator).to("meta").operators[2].operator.mask.is_meta
    assert set(dict(operator.named_buffers())) >= {"operator0.operator.kernel", "operator2.operator.mask"}
    assert torch.autograd.gradcheck(operator.A, rand(1, 1, *SHAPE).requires_grad_(), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *y: operator.A_adjoint(y), [part[:1].clone().requires_grad_() for part in y], fast_mode=True
    )


# ---------------------------------------------------------------- formulas


A, B, C = KaiserSquires((3, 3)), Identity((3, 3)), Downsample((3, 3), 1)
FORMULAS = {
    "A @ B": A @ B,
    "2.0 * A": A * 2,
    "B + C": B + C,
    "B - C": B - C,
    "B - (C - B)": B - (C - B),
    "B - C + B": B - C + B,
    "A @ (B + C)": A @ (B + C),
    "(B + C).T": (B + C).T,
    "-(A @ B)": -(A @ B),
    "-A @ B": -A @ B,
    "B - 2.0 * C": B - 2 * C,
    "0.5 * A @ B": 0.5 * A @ B,
    "A @ (2.0 * B)": A @ (2 * B),
    "A @ (B @ (A.T @ A))": A @ (B @ (A.T @ A)),
    "stack([A, 2.0 * B])": stack([A, 2 * B]),
    "-6.0 * A": 2 * (-3 * A),
    "A": -1 * (-1 * A),
    "A.T": A.T.T.T,
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_repr_is_the_formula_which_makes_it_again(formula):
    operator, parts = FORMULAS[formula], {"A": repr(A), "B": repr(B), "C": repr(C)}
    assert repr(operator) == re.sub(r"\b[ABC]\b", lambda found: parts[found[0]], formula)
    again = eval(repr(operator))
    size = (2 if formula == "A.T" else 1, 3, 3)
    assert repr(again) == repr(operator) and torch.equal(dense(again, size), dense(operator, size))


def test_scalars_of_numpy_and_torch_and_their_limits():
    for c in (np.float64(2), np.float32(2), torch.tensor(2.0), np.array(2.0), 2):
        for operator in (c * MASK, MASK * c):
            assert isinstance(operator, LinearOperator) and repr(operator).startswith("2.0 * Mask(")
    for c in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"c \* A: c"):
            c * MASK
    for c in (True, "2", 1j, torch.ones(2), torch.tensor(2.0, requires_grad=True), torch.tensor(1j)):
        with pytest.raises(TypeError, match=r"c \* A: c"):
            MASK * c
    with pytest.raises(TypeError, match="write A @ B"):
        MASK * BLUR
    assert repr(MASK / 2) == repr(0.5 * MASK) and repr(BLUR / np.float32(-4)) == repr(-0.25 * BLUR)
    for c in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="A / c: c"):
            MASK / c
    for c in (True, "2", torch.ones(2), BLUR):
        with pytest.raises(TypeError, match="A / c: c"):
            MASK / c
    with pytest.raises(TypeError, match="unsupported"):
        2 / MASK
    assert 1 * MASK is MASK and -1 * -MASK is MASK and MASK.T.T is MASK


def test_python_sums_operators():
    assert torch.equal(dense(sum([MASK, BLUR, 2 * MASK])), dense(MASK + BLUR + 2 * MASK)) and sum([MASK]) is MASK
    for other in (1, 0.0, False):
        with pytest.raises(TypeError, match="both must be operators"):
            other + MASK


# ---------------------------------------------------------------- what is inherited


def offered(operator: Any) -> set[str]:
    names = (
        "data_step",
        "preconditioner",
        "fbp",
        "sees_whole_image",
        "is_truncated",
        "image_size",
        "estimate_noise",
        "subset",
    )
    return {name for name in names if hasattr(operator, name)}


def test_what_a_combination_lacks_is_absent():
    assert offered(2 * MASK) == {"data_step"} == offered(MASK)
    tomography = {"preconditioner", "fbp", "sees_whole_image", "is_truncated", "image_size"}
    assert offered(2 * RADON) == offered(RADON) == tomography
    assert offered(2 * BLUR) == offered(BLUR) == {"data_step", "preconditioner"}
    for operator in (MASK @ BLUR, MASK + BLUR, BLUR.T, stack([MASK, BLUR]), RADON @ BLUR):
        assert offered(operator) == set()


def test_c_times_a_rescales_all_that_a_offers():
    c, alpha, w = -2.5, torch.tensor(0.3, dtype=F64), torch.tensor(1.7, dtype=F64)
    z = rand(2, 1, *SHAPE, seed=4)
    x = (c * RADON).fbp((c * RADON).A(z), window="hann")
    assert rel(x, RADON.fbp(RADON.A(z), window="hann")) < 1e-12
    assert (c * RADON).sees_whole_image == RADON.sees_whole_image
    M = dense(BLUR)
    inverse = torch.linalg.inv(w * c**2 * M.T @ M + alpha * torch.eye(48, dtype=F64))
    y = rand(2, 1, *SHAPE, seed=5)
    right = c * w * (y.flatten(1) @ M) + alpha * z.flatten(1)
    assert rel((c * BLUR).data_step(y, w)(z, alpha).flatten(1), right @ inverse) < 1e-12
    assert rel((c * BLUR).preconditioner(w)(z, alpha).flatten(1), z.flatten(1) @ inverse) < 1e-12
    assert (c * VALID).data_step(VALID.A(z), w) is None

    class Knowing(Identity):
        def estimate_noise(self, y: torch.Tensor) -> float:
            return float(y.abs().max())

    assert (c * Knowing(SHAPE)).estimate_noise(z) == pytest.approx(float(z.abs().max()))
    assert (Knowing(SHAPE) @ BLUR).estimate_noise(z) == pytest.approx(float(z.abs().max()))


def test_combinations_say_whether_their_measurements_are_sampled():
    class Unsaid(Identity):
        y_is_sampled = False

    unsaid, free = Unsaid(SHAPE), Identity(SHAPE)
    foreign = SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y)
    assert MASK.y_is_sampled is None is free.y_is_sampled
    for operator in (BLUR, 2 * BLUR, BLUR @ MASK, MASK @ BLUR, 2 * RADON, MASK + BLUR, BLUR.T, RADON.T):
        assert operator.y_is_sampled is True
    for operator in (2 * MASK, MASK @ free, MASK + free):
        assert operator.y_is_sampled is None
    for operator in (unsaid, 2 * unsaid, unsaid @ BLUR, MASK @ unsaid, BLUR + unsaid, free @ foreign):
        assert operator.y_is_sampled is False


def test_gains_and_concerns_are_those_of_the_outermost_mask():
    gain, other = uniform(*SHAPE, seed=8), uniform(*SHAPE, seed=9)
    A, B = Mask(gain), Mask(other)
    assert torch.equal((-2 * A).y_gain, 2 * gain)
    assert torch.equal((A @ BLUR).y_gain, gain)
    assert torch.equal((A @ B @ BLUR).y_gain, gain * other)
    assert not hasattr(BLUR @ A, "y_gain") and not hasattr(A + B, "y_gain")
    noise = rand(1, 1, 20, 20)
    holes, blur = Mask(noise[0, 0] > 0), Blur(rand(3, 3), (20, 20))
    painted = torch.where(holes.mask, 1.0, noise)
    (said,) = (2 * holes).concerns(2 * painted)
    assert (holes @ blur).concerns(painted) == [said] == holes.concerns(painted)
    assert (blur @ holes).concerns(painted) == blur.concerns(painted) == []


def test_subsets_are_of_the_combination():
    camera = SPECT((4, 4, 3), torch.arange(6), voxel_size=4.8, fwhm=6.0)
    x = rand(1, 1, 4, 4, 3).abs()
    half = Mask(torch.full((4, 3), 0.5))  # any operator of volumes will do: a user's own

    class Volumes(LinearOperator):
        shape = (4, 4, 3)

        def A(self, x: torch.Tensor, /) -> torch.Tensor:
            return half.mask.to(x) * x

        A_adjoint = A

    for operator in (2 * camera, camera @ Volumes(), camera + 0.5 * camera):
        part = operator.subset(1, 3)
        assert rel(part.A(x), operator.A(x)[:, :, 1::3]) < 1e-12
        y = operator.A(x)
        assert rel(osem(operator, y, n_subsets=1, max_iter=2).x, mlem(operator, y, max_iter=2).x) < 1e-6
        assert osem(operator, y, n_subsets=3, max_iter=2).x.shape == x.shape
    with pytest.raises(TypeError, match="subset"):
        osem(camera.T @ camera, x, n_subsets=2)


def test_conjugate_gradients_serve_where_there_is_no_closed_form():
    z, alpha, w = rand(1, 1, *SHAPE, seed=4), torch.tensor(0.3, dtype=F64), rand(1, 1, *SHAPE, seed=6).abs()
    operator = MASK @ BLUR
    y = operator.A(z) + 1
    x = LeastSquares(rtol=1e-13, max_iter=300).bind(operator, y, w)(z, alpha)
    M = dense(operator)
    W = torch.diag(w.flatten())
    truth = torch.linalg.solve(
        M.T @ W @ M + alpha * torch.eye(48, dtype=F64), M.T @ W @ y.flatten() + alpha * z.flatten()
    )
    assert rel(x.flatten(), truth) < 1e-10


# ---------------------------------------------------------------- shapes and operators of other libraries


def test_shapes_are_known():
    assert (MASK @ BLUR).x_shape == ("C", 6, 8) == (MASK @ BLUR).y_shape and VALID.y_shape == ("C", 5, 5)
    assert (Mask(rand(3, *SHAPE) > 0) @ BLUR).x_shape == (3, 6, 8)
    assert (BLUR @ Mask(rand(3, *SHAPE) > 0)).y_shape == (3, 6, 8)
    assert stack([BLUR, Mask(rand(3, *SHAPE) > 0)]).y_shape == ((3, 6, 8), (3, 6, 8))
    assert RADON.T.shape == (5, RADON.n_detectors) and RADON.T.y_shape == ("C", 6, 8)
    assert (RADON @ Downsample((12, 16), 2)).shape == (12, 16)
    for operator in (RADON, VALID, KaiserSquires(SHAPE), MASK, Downsample(SHAPE, 2), 2 * RADON + RADON):
        channels = 1 if operator.x_shape[0] == "C" else operator.x_shape[0]
        y = operator.A(rand(1, channels, *SHAPE))
        sizes = tuple(channels if n == "C" else n for n in operator.y_shape)
        assert tuple(y.shape[1:]) == sizes


WRONG = {
    "composed": (lambda: MASK @ VALID, ValueError, "A @ B: B"),
    "channels": (lambda: MASK @ KaiserSquires((5, 8)), ValueError, r"got \(2, 5, 8\)"),
    "axes": (lambda: BLUR @ SPECT((4, 4, 3), [0.0, 1.0], voxel_size=1.0), ValueError, "A @ B: B"),
    "sum images": (lambda: MASK + Identity((8, 6)), ValueError, r"A \+ B: images"),
    "sum measurements": (lambda: VALID - MASK, ValueError, r"A \+ B: measurements"),
    "stack": (lambda: stack([MASK, Identity((8, 6))]), ValueError, "stack: operators"),
    "after a stack": (lambda: MASK @ stack([MASK, BLUR]), ValueError, "A @ B: B"),
    "stacks": (lambda: stack([MASK, BLUR]) + stack([MASK]), ValueError, r"A \+ B: stacks .*got 2 and 1"),
    "stack and not": (lambda: MASK + stack([MASK, BLUR, BLUR]), ValueError, r"A \+ B: measurements"),
    "of a stack": (lambda: stack([stack([MASK]), MASK]), ValueError, "stack: operators"),
    "empty": (lambda: stack([]), ValueError, "stack: operators"),
    "no list": (lambda: stack(MASK), TypeError, "stack: operators"),
    "no operator": (lambda: stack([MASK, 3]), TypeError, "stack: operators"),
    "image": (lambda: MASK @ rand(1, 1, *SHAPE), TypeError, r"A @ B: .*got Tensor; write A\.A\(x\)"),
    "image before": (lambda: np.ones(SHAPE) @ MASK, TypeError, r"A @ B: .*got ndarray.*as_operator"),
    "class": (lambda: MASK @ Blur, TypeError, "A @ B: both"),
    "number": (lambda: MASK + 1, TypeError, r"A \+ B: .*got int"),
    "from a number": (lambda: 1 - MASK, TypeError, r"A - B: .*got int"),
    "parts": (lambda: stack([MASK, BLUR]).A_adjoint((rand(1, 1, *SHAPE),)), ValueError, "stack: y"),
    "one tensor": (lambda: stack([MASK, BLUR]).A_adjoint(rand(2, 1, *SHAPE)), ValueError, "stack: y"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_in_one_sentence(name):
    make, kind, message = WRONG[name]
    with pytest.raises(kind, match=message) as caught:
        make()
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_operators_of_other_libraries_compose():
    foreign = Diagonal(rand(*SHAPE, seed=7))
    x = rand(2, 1, *SHAPE)
    combined = {
        "left": (foreign @ BLUR, foreign.A(BLUR.A(x))),
        "right": (BLUR @ foreign, BLUR.A(foreign.A(x))),
        "sum": (foreign + MASK, foreign.A(x) + MASK.A(x)),
        "difference": (foreign - MASK, foreign.A(x) - MASK.A(x)),
        "other way": (MASK - foreign, MASK.A(x) - foreign.A(x)),
    }
    for operator, y in combined.values():
        assert torch.equal(operator.A(x), y)
        assert adjoint_gap(operator.A, operator.A_adjoint, x, rand(*y.shape, seed=8)) < 1e-12
        assert rel(operator.A_adjoint_A(x), operator.A_adjoint(operator.A(x))) < 1e-12
    operator = stack([foreign, BLUR])
    assert torch.equal(operator.A(x)[0], foreign.A(x)) and operator.shape == SHAPE
    assert operator.y_shape == (None, ("C", 6, 8))
    assert not list(nn.Module.children(stack([foreign])))
