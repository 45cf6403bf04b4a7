"""Conjugate gradients, their implicit derivative, norms and adjoint tests, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from arrays import rand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pnp.algorithms.linalg import adjoint_gap, cg, implicit_solve, operator_norm


def spd(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=g, dtype=dtype)
    return root @ root.T / n + torch.eye(n, dtype=dtype)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), batch=st.integers(1, 3), seed=st.integers(0, 99), exponent=st.integers(-30, 30))
def test_cg_solves_in_n_iterations_at_any_scale(n: int, batch: int, seed: int, exponent: int) -> None:
    H, b = spd(n, seed), rand(batch, n, seed=seed) * 10.0**exponent
    found = cg(lambda x: x @ H, b, rtol=1e-12, max_iter=3 * n)
    truth = torch.linalg.solve(H, b.T).T
    assert (found.x - truth).norm() <= 1e-10 * truth.norm()
    assert found.residual <= 1e-12


def test_cg_is_scale_invariant_and_batch_independent() -> None:
    H, b = spd(20), rand(3, 20)
    b[1] *= 1e-9  # a faint image beside bright ones must not be given up early
    alone = torch.cat([cg(lambda x: x @ H, row[None], rtol=1e-6).x for row in b])
    together = cg(lambda x: x @ H, b, rtol=1e-6)
    error = (together.x - alone).norm(dim=1) / alone.norm(dim=1)
    assert error.max() < 1e-12  # each stops where it would alone
    scaled = cg(lambda x: x @ H, b * 2.0**-40, rtol=1e-6)
    assert scaled.n_iter == together.n_iter
    assert torch.equal(scaled.x * 2.0**40, together.x)


def test_single_precision_has_room_for_any_unit() -> None:
    H = spd(20, dtype=torch.float32)
    b, x0 = rand(2, 20, dtype=torch.float32), rand(2, 20, seed=4, dtype=torch.float32)
    for c in (2.0**-80, 2.0**80):
        for start in (None, x0):
            plain = cg(lambda x: x @ H, b, x0=start)
            scaled = cg(lambda x: x @ H, c * b, x0=None if start is None else c * start)
            assert scaled.n_iter == plain.n_iter > 1 and scaled.residual == plain.residual
            assert torch.equal(scaled.x / c, plain.x)
        norm = operator_norm(lambda x, c=c: c * (x @ H), b)
        assert norm == pytest.approx(c**0.5 * operator_norm(lambda x: x @ H, b), rel=1e-5)


def test_cg_warm_start_preconditioner_and_zero() -> None:
    H, b = spd(30), rand(2, 30)
    truth = torch.linalg.solve(H, b.T).T
    cold = cg(lambda x: x @ H, b, rtol=1e-8)
    assert cg(lambda x: x @ H, b, x0=truth, rtol=1e-8).n_iter == 0
    inverse = torch.linalg.inv(H)
    exact = cg(lambda x: x @ H, b, preconditioner=lambda r: r @ inverse, rtol=1e-8)
    assert exact.n_iter <= 2 < cold.n_iter
    zero = cg(lambda x: x @ H, torch.zeros(2, 30, dtype=torch.float64))
    assert zero.n_iter == 0 and torch.equal(zero.x, torch.zeros_like(b))
    capped = cg(lambda x: x @ H, b, rtol=1e-8, max_iter=3)
    assert capped.n_iter == 3
    assert capped.residual == pytest.approx(((b - capped.x @ H).norm(dim=1) / b.norm(dim=1)).max().item(), rel=1e-6)


def test_cg_complex_hermitian() -> None:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=g, dtype=torch.complex128)
    H = root @ root.mH + torch.eye(8)
    b = torch.randn(2, 8, generator=g, dtype=torch.complex128)
    found = cg(lambda x: x @ H.T, b, rtol=1e-12)
    assert torch.allclose(found.x @ H.T, b, rtol=0, atol=1e-9)


def test_implicit_solve_gradients_reach_b_and_the_parameters_of_the_map() -> None:
    A = rand(6, 5, seed=3).requires_grad_()
    b = rand(2, 5, seed=4).requires_grad_()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def solve(A: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
        return implicit_solve(lambda x: (x @ A.T) @ A + alpha * x, b, rtol=1e-13, max_iter=50).x

    assert torch.autograd.gradcheck(solve, (A, b, alpha))
    (first,) = torch.autograd.grad(solve(A, b, alpha).sum(), alpha, create_graph=True)
    with pytest.raises(RuntimeError):  # refused rather than wrong
        torch.autograd.grad(first, alpha)


def test_implicit_solve_value_is_cgs() -> None:
    H, b = spd(12), rand(2, 12)
    plain = cg(lambda x: x @ H, b)
    graph = implicit_solve(lambda x: x @ H, b.requires_grad_())
    assert torch.equal(plain.x, graph.x) and graph.x.requires_grad and graph.n_iter == plain.n_iter
    with torch.no_grad():
        assert not implicit_solve(lambda x: x @ H, b).x.requires_grad


def test_operator_norm_is_the_largest_singular_value() -> None:
    A = rand(9, 16, seed=5)
    like = torch.zeros(1, 16, dtype=torch.float64)
    truth = torch.linalg.matrix_norm(A, 2).item()
    norm = operator_norm(lambda x: x @ A.T @ A, like, rtol=1e-10, max_iter=2000)
    assert norm == pytest.approx(truth, rel=1e-6)
    assert operator_norm(lambda x: x @ A.T @ A * 1e-24, like, rtol=1e-10) == pytest.approx(1e-12 * truth, rel=1e-3)
    assert operator_norm(lambda x: 0 * x, like) == 0
    # Same generator, same answer; the global one is not touched.
    before = torch.get_rng_state()
    one, two = (
        operator_norm(lambda x: x @ A.T @ A, like, max_iter=2, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert one == two
    assert torch.equal(before, torch.get_rng_state())


def test_adjoint_gap_sees_a_wrong_adjoint() -> None:
    A = rand(6, 5)
    x, y = rand(2, 5, seed=8), rand(2, 6, seed=9)
    assert adjoint_gap(lambda x: x @ A.T, lambda y: y @ A, x, y) < 1e-14
    assert adjoint_gap(lambda x: x @ A.T, lambda y: y @ A * 1.01, x, y) > 1e-4
