"""solve() where squares of the values leave the range of float32."""

from __future__ import annotations

import pytest
import torch
from arrays import rel
from toys import Diagonal, image, smooth

from pnp import Stop, solve


@pytest.mark.parametrize("scale", [1e19, 3e-18])
def test_values_whose_squares_leave_the_range_of_float32_are_solved_as_others(scale: float) -> None:
    A, y = Diagonal(torch.ones(1, 1)), image().float()
    plain, found = (solve(A, s * y, smooth, noise_std=s * 0.1, max_iter=60, rtol=1e-3) for s in (1.0, scale))
    assert (found.stop, found.n_iter) == (plain.stop, plain.n_iter) and plain.stop is Stop.CONVERGED
    assert found.x.dtype == torch.float32 and rel(found.x.double() / scale, plain.x.double()) < 1e-5
    assert found.history["dual"] == pytest.approx(plain.history["dual"], rel=1e-2)


def test_values_near_1e25_do_not_stop_a_solve_in_float32() -> None:
    y = 1e25 * image().float()
    found = solve(Diagonal(torch.ones(1, 1)), y, lambda x, s: x, noise_std=1e18, max_iter=40, rtol=0.0)
    assert found.stop is Stop.MAX_ITER and found.n_iter == 40 and rel(found.x.double(), y.double()) < 1e-4
