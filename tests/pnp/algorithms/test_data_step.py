"""The data step h(v; alpha) of every operator: optimal, and differentiable in everything it depends on."""

import math

import pytest
import torch
from arrays import F64, rand

from operators import Blur, KaiserSquires, Mask, Radon
from pnp import LeastSquares


def half_turn(n, offset=0.0):
    return torch.arange(n, dtype=F64) * (math.pi / n) + offset


# Operators as functions of a parameter of their own; (H, W) is (5, 6).
PARAMETRIC = {
    "blur, circular": (lambda k: Blur(k, (5, 6)), 0.3 * rand(3, 3, seed=1)),
    "blur, reflect": (lambda k: Blur(k, (5, 6), "reflect"), 0.3 * rand(3, 2, seed=1)),
    "blur, valid": (lambda k: Blur(k, (5, 6), "valid"), 0.3 * rand(2, 3, seed=1)),
    "radon, angles": (lambda a: Radon((5, 6), a), half_turn(4, 0.1)),
    "radon, offset": (
        lambda o: Radon((5, 6), half_turn(4, 0.1), n_detectors=9, offset=o),
        torch.tensor(0.3, dtype=F64),
    ),
}
FIXED = {
    "mask": Mask((rand(5, 6, seed=2) > 0).double()),
    "kaiser-squires": KaiserSquires((5, 6)),
    "radon": Radon((5, 6), half_turn(4)),
}


def step(operator, y, weights, v, alpha):
    return LeastSquares(rtol=1e-13, max_iter=200).bind(operator, y, weights)(v, alpha)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("name", FIXED)
def test_differentiable_in_measurements_weights_point_and_coupling(name, uneven):
    operator = FIXED[name]
    v = rand(1, 1, 5, 6, seed=3).requires_grad_()
    y = (operator.A(v.detach()) + 1).requires_grad_()
    weights = (0.5 + rand(*y.shape, seed=4).abs() if uneven else torch.tensor(0.7, dtype=F64)).requires_grad_()
    alpha = torch.tensor(0.4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *p: step(operator, *p), (y, weights, v, alpha))


@pytest.mark.parametrize("name", PARAMETRIC)
def test_differentiable_in_the_operators_own_parameters(name):
    make, parameter = PARAMETRIC[name]
    v = rand(1, 1, 5, 6, seed=3)
    y, weights, alpha = make(parameter).A(v) + 1, torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64)
    parameter = parameter.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: step(make(p), y, weights, v, alpha), (parameter,))


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("name", [*FIXED, *PARAMETRIC])
def test_the_step_solves_its_normal_equations(name, uneven):
    operator = FIXED[name] if name in FIXED else PARAMETRIC[name][0](PARAMETRIC[name][1])
    v = rand(2, 1, 5, 6, seed=3)
    y = operator.A(rand(2, 1, 5, 6, seed=5)) + 1
    weights = 0.5 + rand(*y.shape, seed=4).abs() if uneven else torch.tensor(0.7, dtype=F64)
    alpha = torch.tensor(0.4, dtype=F64)
    x = step(operator, y, weights, v, alpha)
    gradient = operator.A_adjoint(weights * (operator.A(x) - y)) + alpha * (x - v)
    assert float(gradient.norm()) < 1e-10 * float(operator.A_adjoint(weights * y).norm() + alpha * v.norm())
    # In other units of y, and so of x, the step is the same.
    scaled = step(operator, 1e-6 * y, weights, 1e-6 * v, alpha)
    torch.testing.assert_close(scaled, 1e-6 * x, rtol=1e-9, atol=1e-9 * 1e-6)
