"""Matrices, SciPy's operators and pairs of functions as operators: dense truths, exact adjoints, what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from arrays import rand, rel
from toys import SHAPE, Diagonal, Linear, Matrix, smooth

from operators import Blur, Identity, Mask, Radon, stack
from pnp import LeastSquares, solve
from pnp.algorithms.linalg import adjoint_gap
from pnp.interop import as_operator, operator_from_functions

F64 = torch.float64
N = SHAPE[0] * SHAPE[1]
M = rand(20, N, seed=2)
COMPLEX = torch.complex(M, rand(20, N, seed=3))
TIGHT = {"data_term": LeastSquares(rtol=1e-12, max_iter=500), "schedule": [0.3], "max_iter": 8, "rtol": 0.0}


class Product(scipy.sparse.linalg.LinearOperator):
    """What PyLops makes: a linear operator with products of vectors only."""

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix
        super().__init__(matrix.dtype, matrix.shape)

    def _matvec(self, x: Any) -> Any:
        return self.matrix @ x

    def _rmatvec(self, y: Any) -> Any:
        return self.matrix.conj().T @ y


class Vectors(Product):
    """What ASTRA's OpTomo is: an operator that takes vectors (n,), and columns (n, 1) not."""

    def _matvec(self, x: Any) -> Any:
        assert x.ndim == 1
        return self.matrix @ x

    def _rmatvec(self, y: Any) -> Any:
        assert y.ndim == 1
        return self.matrix.conj().T @ y


KINDS = {
    "torch": lambda m: m,
    "numpy": lambda m: m.numpy(),
    "big-endian": lambda m: m.numpy().astype(m.numpy().dtype.newbyteorder(">")),
    "sparse matrix": lambda m: scipy.sparse.csr_matrix(m.numpy()),
    "sparse array": lambda m: scipy.sparse.coo_array(m.numpy()),
    "linear operator": lambda m: Product(m.numpy()),
    "operator of vectors": lambda m: Vectors(m.numpy()),
    "aslinearoperator": lambda m: scipy.sparse.linalg.aslinearoperator(m.numpy()),
}


@pytest.mark.parametrize("matrix", [M, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_is_itself_and_its_adjoint_exact(kind, matrix):
    A = as_operator(KINDS[kind](matrix), image_shape=SHAPE)
    x, y = rand(3, 1, *SHAPE, seed=4).to(matrix.dtype), rand(3, 20, seed=5).to(matrix.dtype)
    if matrix.is_complex():
        x, y = x + 1j * rand(3, 1, *SHAPE, seed=6), y + 1j * rand(3, 20, seed=7)
    assert rel(A.A(x), x.flatten(1) @ matrix.T) < 1e-13
    assert rel(A.A_adjoint(y), (y @ matrix.conj()).reshape(x.shape)) < 1e-13
    assert adjoint_gap(A.A, A.A_adjoint, x, y) < 1e-13
    single = x.to(torch.complex64 if matrix.is_complex() else torch.float32)
    assert A.A(single).dtype == single.dtype and rel(A.A(single).to(x.dtype), A.A(x)) < 1e-5
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        assert torch.equal(twin.A(x), A.A(x)) and repr(twin) == repr(A)
    assert torch.autograd.gradcheck(A.A, x[:1].clone().requires_grad_(), fast_mode=True)
    assert torch.autograd.gradcheck(A.A_adjoint, y[:1].clone().requires_grad_(), fast_mode=True)
    assert A.A(x.real).is_complex() == matrix.is_complex()  # of real images, too
    assert torch.autograd.gradcheck(A.A, x[:1].real.clone().requires_grad_(), fast_mode=True)


def test_astras_projector_is_an_operator_in_our_frame():
    astra = pytest.importorskip("astra")
    angles = np.linspace(0, np.pi, 9, endpoint=False)
    volume = astra.create_vol_geom(20, 28, -7.0, 7.0, -5.0, 5.0)  # pixels of half a unit
    geometry = astra.create_proj_geom("parallel", 0.6, 31, angles)
    theirs = astra.OpTomo(astra.create_projector("strip", geometry, volume))
    A = as_operator(theirs, image_shape=(20, 28), measurement_shape=(1, 9, 31))
    i, j = np.mgrid[0:20, 0:28]
    x = torch.from_numpy(np.exp(-((i - 6) ** 2) / 12 - (j - 17) ** 2 / 20))[None, None].float()
    x = torch.cat([x, x.flip(-1)])
    assert rel(A.A(x), Radon((20, 28), angles, n_detectors=31, pitch=0.6, pixel_size=0.5).A(x)) < 0.003
    assert adjoint_gap(A.A, A.A_adjoint, rand(2, 1, 20, 28).float(), rand(2, 1, 9, 31, seed=2).float()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_solve_takes_them(kind):
    x = rand(2, 1, *SHAPE, seed=8)
    y = (x.flatten(1) @ M.T) + 0.1 * rand(2, 20, seed=9)
    expected = solve(Matrix(M), y[:, None], Linear(N), noise_std=0.1, **TIGHT)
    found = solve(as_operator(KINDS[kind](M), image_shape=SHAPE), y.numpy(), Linear(N), noise_std=0.1, **TIGHT)
    assert isinstance(found.x, np.ndarray) and rel(found.x, expected.x) < 1e-8


def test_complex_images_are_solved():
    A = as_operator(COMPLEX, image_shape=SHAPE)
    x = torch.complex(rand(1, 1, *SHAPE), rand(1, 1, *SHAPE, seed=2))
    found = solve(A, A.A(x), lambda x, sigma: x, noise_std=1e-3, max_iter=5)
    assert found.x.dtype == torch.complex128 and rel(A.A(found.x), A.A(x)) < 1e-2


def test_channels_and_shapes_of_measurements():
    A = as_operator(M, image_shape=(2, 3, 7), measurement_shape=(1, 4, 5))
    x = rand(2, 2, 3, 7)
    assert rel(A.A(x), (x.flatten(1) @ M.T).reshape(2, 1, 4, 5)) < 1e-13 and A.A_adjoint(A.A(x)).shape == x.shape
    assert (
        rel(
            as_operator(torch.eye(6, dtype=torch.int), image_shape=(2, 3)).A(x[:, :1, :2, :3]),
            x[:, 0, :2, :3].flatten(1),
        )
        < 1e-13
    )
    assert A.to("meta").matrix.is_meta
    weights = M.clone().requires_grad_()
    as_operator(weights, image_shape=SHAPE).A(rand(1, 1, *SHAPE)).sum().backward()
    assert weights.grad is not None


def test_they_compose_with_ours():
    A, x = as_operator(M, image_shape=SHAPE), rand(1, 1, *SHAPE)
    mask, blur = Mask(rand(*SHAPE) > 0), Blur(rand(3, 3), SHAPE)
    assert torch.equal((A @ blur @ mask).A(x), A.A(blur.A(mask.A(x))))
    assert torch.equal(stack([A, blur]).A(x)[0], A.A(x))
    with pytest.raises(ValueError, match=r"A @ B: B must measure \(1, 6, 7\)"):
        A @ Blur(rand(3, 3), (7, 6))
    y = stack([A, blur]).A(x)
    found = solve(stack([A, blur]), y, lambda x, sigma: x, noise_std=0.01)
    assert rel(found.x, x) < 0.05
    pair = operator_from_functions(lambda x: x.flip(-1), lambda y: y.flip(-1))
    for operator in (A, pair):  # without a scalar product of their own
        assert rel((2 * (operator @ Identity(SHAPE))).A(x), 2 * operator.A(x)) < 1e-12
    assert torch.equal((mask @ pair).A(x), mask.A(x.flip(-1)))
    assert torch.equal(stack([pair, A]).A(x)[0], x.flip(-1))


def test_operators_stay_what_they_are():
    for operator in (Diagonal(torch.ones(1, 1)), Blur(rand(3, 3), SHAPE)):
        assert as_operator(operator) is operator


def test_a_pair_of_functions():
    A = operator_from_functions(lambda x: x.flatten(1) @ M.T, lambda y: (y @ M).reshape(-1, 1, *SHAPE))
    y = rand(1, 20)
    found = solve(A, y, Linear(N), noise_std=0.1, **TIGHT)
    assert rel(found.x, solve(Matrix(M), y[:, None], Linear(N), noise_std=0.1, **TIGHT).x) < 1e-8
    with pytest.raises(TypeError, match="operator_from_functions: A_adjoint must be a function, got int"):
        operator_from_functions(lambda x: x, 3)


class NoAdjoint(Product):
    def _rmatvec(self, y: Any) -> Any:
        raise NotImplementedError


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no shape": (M, {}, TypeError, r"operator .*got a Tensor \(20, 42\); use pnp.interop.as_operator.*image_shape"),
    "sparse, no shape": (KINDS["sparse array"](M), {}, TypeError, "operator .*image_shape"),
    "linear operator, no shape": (
        Product(M.numpy()),
        {},
        TypeError,
        r"operator .*got a Product \(20, 42\).*image_shape",
    ),
    "only measurements": (M, {"measurement_shape": (20,)}, TypeError, "image_shape must be"),
    "wrong size": (M, {"image_shape": (6, 8)}, ValueError, r"image_shape must be .* of 42 entries.*got \(6, 8\)"),
    "one axis": (M, {"image_shape": (42,)}, ValueError, r"image_shape must be \(H, W\)"),
    "a number": (M, {"image_shape": 42}, TypeError, "image_shape must be"),
    "negative": (M, {"image_shape": (-6, -7)}, ValueError, "image_shape must be"),
    "measurements": (M, {"image_shape": SHAPE, "measurement_shape": (4, 4)}, ValueError, "measurement_shape must be"),
    "three axes": (M[None], {"image_shape": SHAPE}, ValueError, r"matrix must be \(m, n\), got \(1, 20, 42\)"),
    "empty": (M[:0], {"image_shape": SHAPE}, ValueError, "matrix must be"),
    "NaN": (M * torch.nan, {"image_shape": SHAPE}, ValueError, "matrix must be finite"),
    "NaN in numpy": (M.numpy() * np.inf, {"image_shape": SHAPE}, ValueError, "matrix must be finite"),
    "NaN, sparse": (KINDS["sparse array"](M / 0), {"image_shape": SHAPE}, ValueError, "matrix must be finite"),
    "text": (np.full((20, 42), "a"), {"image_shape": SHAPE}, TypeError, "matrix must hold numbers"),
    "objects": (np.full((20, 42), None), {"image_shape": SHAPE}, TypeError, "matrix must hold numbers"),
    "masked": (np.ma.masked_less(M.numpy(), 0), {"image_shape": SHAPE}, TypeError, "matrix must be a plain array"),
    "torch sparse": (M.to_sparse(), {"image_shape": SHAPE}, TypeError, "matrix must be dense"),
    "no adjoint": (NoAdjoint(M.numpy()), {"image_shape": SHAPE}, ValueError, "matrix must have an adjoint.*rmatvec"),
    "an operator": (
        Diagonal(M),
        {"image_shape": SHAPE},
        TypeError,
        "image_shape and measurement_shape are for matrices",
    ),
    "a number for it": (3, {"image_shape": SHAPE}, TypeError, "image_shape and measurement_shape are for matrices"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(name):
    matrix, options, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        as_operator(matrix, **options)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_solve_says_how_a_bare_matrix_is_given(kind):
    with pytest.raises(
        TypeError, match=r"solve: operator .*use pnp.interop.as_operator\(matrix, image_shape=\(H, W\)\)"
    ):
        solve(KINDS[kind](M), rand(1, 20), smooth, noise_std=0.1)


@pytest.mark.parametrize("kind", ["torch", "sparse array"])
def test_wrong_images_and_measurements_are_explained(kind):
    A = as_operator(KINDS[kind](M), image_shape=SHAPE)
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        (A.A, rand(1, *SHAPE), ValueError, r"x must be \(B, 1, 6, 7\).*use x\[None\]"),
        (A.A, rand(1, 2, *SHAPE), ValueError, r"x must be \(B, 1, 6, 7\)"),
        (A.A_adjoint, rand(20), ValueError, r"y must be \(B, 20\), got \(20,\); use y\[None\]"),
        (A.A, rand(1, 1, *SHAPE).numpy(), TypeError, "x must be a torch.Tensor"),
        (A.A, rand(1, 1, *SHAPE).long(), TypeError, "x must be floating point or complex"),
        (A.A, rand(1, 1, *SHAPE).to("meta"), ValueError, "x is on meta, the matrix on cpu"),
    ]
    for method, value, error, message in wrong:
        with pytest.raises(error, match=message):
            method(value)


def test_the_noise_of_measurements_in_no_order_is_not_guessed():
    """Second differences of rows in any order measure the object, not the noise."""
    M, y = rand(24, 40), rand(1, 24)
    with pytest.raises(ValueError, match="noise_std"):
        solve(as_operator(M, image_shape=(5, 8)), y, smooth)
    ordered = as_operator(M, image_shape=(5, 8), measurement_shape=(4, 6))
    assert solve(ordered, y.reshape(1, 4, 6), smooth, max_iter=1).noise_estimated
