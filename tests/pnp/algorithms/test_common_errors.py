"""Errors that measurements have in common: the inverse of the dense covariance, and the x-update with it."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import F64, rand
from torch import Tensor

from operators import Mask, Radon
from pnp import LeastSquares
from pnp.algorithms.common_errors import CommonErrors, ErrorModel

B, C, VIEWS, BINS = 2, 1, 5, 84
WEIGHTS = 0.5 + rand(B, C, VIEWS, BINS, seed=1).abs()
WEIGHTS[0, 0, 3, 1] = 0
BIN_STD, VIEW_STD = 0.3 + rand(BINS, seed=2).abs(), 0.2 + rand(VIEWS, seed=3).abs()
SEGMENTS = torch.zeros(B, C, VIEWS, BINS, dtype=torch.int64)
SEGMENTS[:, :, 2:, 1] = 1
SEGMENTS[1, :, 4:, 1] = 2
OWN = torch.zeros(B, C, 3, BINS, dtype=torch.bool)
OWN[:, :, :, [1, 7]] = True
MODELS = {
    "bins": ErrorModel(bin_std=BIN_STD),
    "views": ErrorModel(view_std=VIEW_STD),
    "both": ErrorModel(bin_std=torch.tensor(0.7, dtype=F64), view_std=VIEW_STD),
    "segments": ErrorModel(bin_std=BIN_STD, segments=SEGMENTS),
    "segments and views": ErrorModel(bin_std=BIN_STD, view_std=VIEW_STD, segments=SEGMENTS),
    "one exact bin": ErrorModel(bin_std=torch.where(torch.arange(BINS) == 1, 0.0, BIN_STD)),
    "own errors": ErrorModel(bin_std=BIN_STD, view_std=VIEW_STD, segments=SEGMENTS, own=OWN),
}


def covariance(model: ErrorModel, b: int) -> Tensor:
    """The dense covariance of one image's measurements, those without weight by a huge variance.

    Errors of bins are Gaussian under the condition that they are orthogonal to the two slowest cosines.
    """
    w = WEIGHTS[b].flatten()
    sigma = torch.diag(torch.where(w > 0, 1 / w, 1e12))
    view, bin_ = (t.flatten() for t in torch.meshgrid(torch.arange(VIEWS), torch.arange(BINS), indexing="ij"))
    if model.bin_std is not None:
        part = SEGMENTS[b].flatten() if model.segments is not None else torch.zeros_like(bin_)
        E = torch.zeros(VIEWS * BINS, 3 * BINS, dtype=F64)
        E[torch.arange(VIEWS * BINS), part * BINS + bin_] = 1
        S = torch.diag(model.bin_std.expand(BINS).square().repeat(3))
        slow = ((torch.arange(BINS, dtype=F64) + 0.5) * math.pi / BINS).cos()
        bound = (E * w[:, None]).sum(0) > 0
        if model.own is not None:
            bound = bound & ~model.own[b].flatten()
        Q = bound[:, None] * torch.block_diag(*[torch.stack([torch.ones(BINS, dtype=F64), slow], 1)] * 3)
        S = S - S @ Q @ torch.linalg.pinv(Q.T @ S @ Q) @ Q.T @ S
        sigma = sigma + E @ S @ E.T
    if model.view_std is not None:
        sigma = sigma + (view[:, None] == view) * model.view_std[view].square()
    return sigma


@pytest.mark.parametrize("name", MODELS)
def test_the_weight_operator_inverts_the_covariance(name: str) -> None:
    r, errors = rand(B, C, VIEWS, BINS, seed=4), CommonErrors(WEIGHTS, MODELS[name])
    got = errors.weigh(r)
    for b in range(B):
        expected = torch.linalg.solve(covariance(MODELS[name], b), r[b].flatten()).reshape(r[b].shape)
        assert torch.allclose(got[b], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_found_errors_are_the_conditional_mean(name: str) -> None:
    """E[E e | r] = (covariance - noise) covariance^-1 r."""
    r, errors = rand(B, C, VIEWS, BINS, seed=5), CommonErrors(WEIGHTS, MODELS[name])
    got = errors.found(r)
    for b in range(B):
        sigma = covariance(MODELS[name], b)
        w = WEIGHTS[b].flatten()
        common = sigma - torch.diag(torch.where(w > 0, 1 / w, 1e12))
        expected = (common @ torch.linalg.solve(sigma, r[b].flatten())).reshape(r[b].shape)
        assert torch.allclose(got[b], expected, rtol=1e-4, atol=1e-5)


def test_second_moments_of_bins() -> None:
    r, errors = rand(B, C, VIEWS, BINS, seed=6), CommonErrors(WEIGHTS, MODELS["bins"])
    square = errors.posterior_square(r)
    for b in range(B):
        sigma = covariance(MODELS["bins"], b)
        w = WEIGHTS[b].flatten()
        common = sigma - torch.diag(torch.where(w > 0, 1 / w, 1e12))
        remaining = common - common @ torch.linalg.solve(sigma, common)
        mean = common @ torch.linalg.solve(sigma, r[b].flatten())
        assert torch.allclose(square[b, 0, 0], (mean.square() + remaining.diagonal())[:BINS], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_expected_squares_bound_the_diagonal_of_the_covariance(name: str) -> None:
    """They are without the condition that errors are not smooth, which takes a twelfth of them here."""
    got = CommonErrors(WEIGHTS, MODELS[name]).expected_square()
    for b in range(B):
        w = WEIGHTS[b].flatten()
        noise = torch.where(w > 0, 1 / w, 1e12)
        expected = covariance(MODELS[name], b).diagonal() - noise
        ratio = expected[w > 0] / got[b].flatten()[w > 0].clamp(min=1e-12)
        assert float(ratio.max()) <= 1 + 1e-3 and float(ratio[ratio > 0].mean()) > 0.8


@pytest.mark.parametrize("name", ["bin_std", "view_std"])
def test_the_x_update_is_the_posterior_mean(name: str) -> None:
    """h(v, alpha) = (A* S^-1 A + alpha)^-1 (A* S^-1 y + alpha v), S the dense covariance."""
    operator = Radon((4, 5), torch.arange(6, dtype=F64) * (math.pi / 6))
    n, (views, bins) = 20, (6, operator.n_detectors)
    A = torch.stack([operator.A(e.reshape(1, 1, 4, 5)).flatten() for e in torch.eye(n, dtype=F64)], 1)
    y, v, std = rand(1, 1, views, bins, seed=7), rand(1, 1, 4, 5, seed=8), 0.1
    view, bin_ = (t.flatten() for t in torch.meshgrid(torch.arange(views), torch.arange(bins), indexing="ij"))
    shared = bin_ if name == "bin_std" else view
    assert bins < 10  # no cosines
    sigma = torch.eye(views * bins, dtype=F64) * std**2 + 0.4**2 * (shared[:, None] == shared)
    alpha = torch.tensor(30.0, dtype=F64)
    term = LeastSquares(rtol=1e-13, max_iter=400, **{name: 0.4})
    got = term.bind(operator, y, torch.tensor(std**-2, dtype=F64))(v, alpha)
    inverse = torch.linalg.inv(sigma)
    H = A.T @ inverse @ A + alpha * torch.eye(n, dtype=F64)
    expected = torch.linalg.solve(H, A.T @ inverse @ y.flatten() + alpha * v.flatten())
    assert torch.allclose(got.flatten(), expected, rtol=1e-8)


def test_gradients_flow_through_the_weight_operator() -> None:
    operator = Radon((5, 6), torch.arange(4, dtype=F64) * (math.pi / 4))
    v = rand(1, 1, 5, 6, seed=3).requires_grad_()
    y = (operator.A(v.detach()) + 1).requires_grad_()
    term = LeastSquares(rtol=1e-13, max_iter=300, bin_std=0.3)
    alpha = torch.tensor(40.0, dtype=F64, requires_grad=True)
    weights = torch.tensor(0.7, dtype=F64)
    assert torch.autograd.gradcheck(lambda *p: term.bind(operator, p[0], weights)(p[1], p[2]), (y, v, alpha))


def test_bins_of_two_axes_and_float32() -> None:
    weights = torch.ones(1, 1, 3, 2, 4)
    errors = CommonErrors(weights, ErrorModel(bin_std=torch.tensor(1.0), view_std=torch.full((3,), 0.5)))
    assert errors.found(torch.ones(1, 1, 3, 2, 4)).shape == weights.shape


@pytest.mark.parametrize("value", [-1.0, float("nan"), "rings", [], object()])
@pytest.mark.parametrize("name", ["bin_std", "view_std"])
def test_refused_standard_deviations(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        LeastSquares(**{name: value})


def test_refused_for_sizes_and_measurements_without_views() -> None:
    A = Mask(torch.ones(4, 5))
    with pytest.raises(ValueError, match="bin_std"):
        LeastSquares(bin_std=[1.0, 2.0]).bind(A, torch.zeros(1, 1, 4, 5), torch.tensor(1.0))
    with pytest.raises(ValueError, match="view_std"):
        LeastSquares(view_std=0.1).bind(A, torch.zeros(1, 20), torch.tensor(1.0))
