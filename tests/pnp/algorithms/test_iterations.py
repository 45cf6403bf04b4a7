"""Norms and residuals of an iteration, and runs that do not depend on earlier ones."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from arrays import rand, seeded
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toys import SHAPE, Views

from pnp import LeastSquares, Poisson
from pnp.algorithms.iterations import State, admm, hqs
from pnp.ct import Transmission

N = SHAPE[0] * SHAPE[1]
F32, F64, C64 = torch.float32, torch.float64, torch.complex64


def state(scale: float = 1.0, n: int = 3, dtype: torch.dtype = F32) -> State:
    """Return an iteration on n images of different size."""
    sizes = 10.0 ** torch.arange(n).reshape(n, 1, 1, 1)
    x, z, z_old = ((scale * sizes * torch.randn(n, 1, 9, 8, generator=seeded(k))).to(dtype) for k in range(3))
    return State(1, x, z, torch.zeros_like(z), z_old, 0.1, 1.0)


class Calls(TorchDispatchMode):
    """Count torch's operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", [F32, F64, C64])
@pytest.mark.parametrize("scale", [1.0, 1e25, 1e-25])
def test_norms_and_residuals_are_those_of_float64(n: int, dtype: torch.dtype, scale: float) -> None:
    # The squares of 1e25 and 1e-25 leave the range of float32.
    found = state(scale, n, dtype)
    wide = torch.complex128 if dtype == C64 else F64
    x, z, z_old = (v.to(wide).flatten(1) for v in (found.x, found.z, found.z_old))
    tensors = (x, z, z_old, x - z, z - z_old)
    for b, image in enumerate(found.norms):
        assert image == pytest.approx([float(v[b].norm()) for v in tensors], rel=1e-13 if dtype == F64 else 1e-5)
    primal = (x - z).norm(dim=1) / torch.maximum(x.norm(dim=1), z.norm(dim=1))
    dual = (z - z_old).norm(dim=1) / torch.maximum(z.norm(dim=1), z_old.norm(dim=1))
    assert [p for p, _ in found.residuals] == pytest.approx(primal.tolist(), rel=1e-5)
    assert [d for _, d in found.residuals] == pytest.approx(dual.tolist(), rel=1e-5)
    assert found.primal == max(p for p, _ in found.residuals) and found.dual == max(d for _, d in found.residuals)


def test_a_faint_image_does_not_change_the_numbers_of_its_company() -> None:
    alone, both = state(1.0, 2), state(1.0, 2)
    both.z[0] *= 1e-30
    both.x[0] *= 1e-30
    both.z_old[0] *= 1e-30
    assert both.norms[1] == alone.norms[1] and both.norms[0].primal == pytest.approx(alone.norms[0].primal, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_no_number(bad: float) -> None:
    found = state()
    found.x[1, 0, 2, 3] = bad
    assert math.isnan(found.norms[1].x) and math.isfinite(sum(found.norms[0]))


def test_images_that_are_zero_have_no_residuals() -> None:
    assert state(0.0).residuals == [(0.0, 0.0)] * 3


def test_norms_take_one_pass_a_tensor_and_are_computed_once() -> None:
    found = state()
    with Calls() as calls:
        assert found.norms is found.norms and found.primal > 0 and found.residuals
    assert calls.counts["linalg_vector_norm"] == 5 and calls.counts["sub"] == 2


def test_norms_leave_the_gradient_of_unrolled_iterations_alone() -> None:
    z = torch.randn(1, 1, 4, 4, generator=seeded(0), requires_grad=True)
    (last,) = admm(lambda v, alpha: 2 * v, lambda v, sigma: 3 * v, z, [(0.1, 1.0)])
    assert last.primal > 0
    last.z.sum().backward()
    assert torch.equal(z.grad, torch.full_like(z, 6.0))


@pytest.mark.parametrize("iteration", [admm, hqs])
@pytest.mark.parametrize("term", ["least squares", "rings", "mean", "poisson", "transmission"])
def test_a_second_run_with_one_bound_term_has_the_same_bits(term: str, iteration: Any) -> None:
    M = rand(4, 6, N, seed=2).abs() + (3 if term == "mean" else 0)  # a mean that dominates is solved for by itself
    A, line = Views(M), 0.1 * rand(1, 1, *SHAPE, seed=3).abs()
    y = 100 * torch.exp(-A.A(line)) if term == "transmission" else A.A(line)
    terms = {"poisson": Poisson(), "transmission": Transmission(100.0), "rings": LeastSquares(bin_std=0.1)}
    h = terms.get(term, LeastSquares()).bind(A, y, torch.ones((), dtype=y.dtype))
    h.curvature()
    z, levels = torch.zeros_like(h.back_projection), [(0.3, 2.0), (0.2, 1.0), (0.1, 0.5)]

    def smooth(v: Tensor, sigma: float) -> Tensor:
        return v.clamp(min=0) / (1 + sigma)

    first, second = (list(iteration(h, smooth, z, levels)) for _ in range(2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.z, b.z) for a, b in zip(first, second, strict=True))
    continued = [*iteration(h, smooth, z, levels[:2])]
    continued += iteration(h, smooth, z, levels[2:], after=continued[-1])
    assert torch.equal(continued[-1].z, first[-1].z)
