"""Masked, weighted shear of the sphere through the data step and `solve`: flat maps (B, 1, n_pix)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from torch import Tensor

import pnp
from denoisers import TV, MLPatch
from operators import KaiserSquiresSphere
from pnp.algorithms.least_squares import LeastSquares

pytest.importorskip("ducc0", reason="ducc0 is not installed")


@pytest.fixture(scope="module")
def survey() -> tuple[KaiserSquiresSphere, Tensor, Tensor, Tensor]:
    """A smooth sky, its shear with noise, and the noise, which differs from pixel to pixel; a fifth is not observed."""
    A = KaiserSquiresSphere(8, n_refine=2)
    ell = A.harmonics.per_multipole(torch.arange(A.lmax + 1))
    kappa = A.harmonics.synthesis(torch.where(ell > 1, torch.exp(-ell / 4), 0) * rand(1, 1, A.harmonics.n_coefficients))
    std = 0.1 * (1 + rand(1, 2, A.n_pix, seed=2).abs())
    y = A.A(kappa) + std * rand(1, 2, A.n_pix, seed=3)
    std[..., 300:450] = math.inf
    return A, y, std, kappa


def shrinkage(A: KaiserSquiresSphere):
    """The Wiener filter of the sky above, as a denoiser."""
    ell, w = A.harmonics.per_multipole(torch.arange(A.lmax + 1)), 4 * math.pi / A.n_pix
    power = torch.exp(-ell / 2)

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        return A.harmonics.synthesis(w * A.harmonics.adjoint(x) * power / (power + w * float(sigma) ** 2))

    return D


def test_the_x_update_is_the_dense_solution(survey) -> None:
    A, y, std, _ = survey
    h, v, alpha = LeastSquares(rtol=1e-10).bind(A, y, std**-2), rand(1, 1, A.n_pix, seed=5), 30.0
    M = A.A(torch.eye(A.n_pix, dtype=F64)[:, None]).flatten(1).T
    W = (std**-2).flatten()
    right = M.T @ (W * y.flatten()) + alpha * v.flatten()
    expected = torch.linalg.solve(M.T @ (W[:, None] * M) + alpha * torch.eye(A.n_pix, dtype=F64), right)
    assert rel(h(v, torch.tensor(alpha, dtype=F64)).flatten(), expected) < 1e-8


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_solve_is_near_the_wiener_filter(survey, algorithm: str) -> None:
    A, y, std, kappa = survey
    found = pnp.solve(A, y, shrinkage(A), noise_std=std, algorithm=algorithm, max_iter=16, rtol=0)
    assert found.x.shape == kappa.shape and found.x.dtype == kappa.dtype
    assert rel(found.x, kappa) < 0.75 * rel(A.inverse(torch.where(std.isinf(), 0, y)), kappa)
    assert 0.6 < found.misfit < 1.2


def test_numpy_and_batches(survey) -> None:
    A, y, std, _ = survey
    D, options = shrinkage(A), {"noise_std": std, "max_iter": 4, "rtol": 0}
    one = pnp.solve(A, y, D, **options).x
    from_numpy = pnp.solve(A, y.numpy(), D, **(options | {"noise_std": std.numpy()})).x
    assert isinstance(from_numpy, np.ndarray) and rel(from_numpy, one) < 1e-12
    both = pnp.solve(A, torch.cat([y, y]), D, **options).x
    assert rel(both, torch.cat([one, one])) < 1e-6


@pytest.mark.parametrize(
    ("denoiser", "options", "words"),
    [
        (TV(), {"noise_std": 0.1}, r"x must.*TangentPatches"),
        (MLPatch.from_pretrained("convergence"), {"noise_std": 0.1}, r"x must.*TangentPatches"),
        (lambda x, sigma: x, {}, r"noise_std must be given.*KaiserSquiresSphere"),
        (lambda x, sigma: x, {"noise_std": 0.1, "data_term": LeastSquares(bin_std=0.1)}, "bin_std"),
    ],
)
def test_what_cannot_work_is_refused(survey, denoiser, options, words: str) -> None:
    A, y, *_ = survey
    with pytest.raises(ValueError, match=words) as caught:
        pnp.solve(A, y, denoiser, max_iter=2, **options)
    assert len(str(caught.value)) < 400
