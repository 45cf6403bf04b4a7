"""The Radon operator as an operator: adjoint, normal operator, derivatives, copies, bad input."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from hypothesis import given, settings
from hypothesis import strategies as st
from radon_truth import half_turn, shepp_logan, some_angles
from torch import Tensor

from operators.ct import nufft
from operators.ct.radon import Radon
from pnp.algorithms.linalg import cg

# Detectors much narrower than the image are meant here.
pytestmark = pytest.mark.filterwarnings("ignore:.*times as wide as the image")

# --------------------------------------------------------------------------------- adjoint and normal operator

GEOMETRIES = {
    "odd detector": ((32, 32), {}),
    "even detector": ((32, 32), {"n_detectors": 48}),
    "rectangle, offset": ((31, 20), {"offset": 3.3}),
    "fine bins": ((20, 24), {"pitch": 0.4, "pixel_size": 0.7}),
    "wide bins": ((32, 32), {"pitch": 2.6}),
    "truncated": ((32, 32), {"n_detectors": 32}),
    "narrow, offset": ((32, 30), {"n_detectors": 7, "offset": -12.0}),
    "one bin": ((9, 9), {"n_detectors": 1}),
}


@pytest.fixture(params=GEOMETRIES)
def op(request: pytest.FixtureRequest) -> Radon:
    shape, options = GEOMETRIES[request.param]
    return Radon(shape, some_angles(11), **options)  # type: ignore[arg-type]


def test_the_torch_nufft_gives_the_same_operator(op: Radon, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rand(2, 1, *op.shape)
    y, normal, back = op.A(x), op.A_adjoint_A(x), op.fbp(op.A(x))
    monkeypatch.setitem(nufft._BACKENDS, "finufft", nufft._torch_plan)
    other = copy.deepcopy(op)
    for got, want in ((other.A(x), y), (other.A_adjoint_A(x), normal), (other.fbp(y), back)):
        assert 0 < rel(got, want) < 1e-10


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(op: Radon) -> None:
    x = rand(2, 1, *op.shape)
    on_gpu = copy.deepcopy(op).to("cuda")
    y = op.A(x)
    for name, v in (("A", x), ("A_adjoint", y), ("A_adjoint_A", x), ("fbp", y)):
        assert rel(getattr(on_gpu, name)(v.cuda()).cpu(), getattr(op, name)(v)) < 1e-10
        assert rel(getattr(on_gpu, name)(v.float().cuda()).cpu(), getattr(op, name)(v).float()) < 2e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-13)])
def test_the_adjoint_is_exact(op: Radon, dtype: torch.dtype, tolerance: float) -> None:
    x = rand(2, 3, *op.shape, dtype=dtype)
    Ax = op.A(x)
    y = rand(*Ax.shape, seed=1, dtype=dtype)
    gap = (Ax.double() * y.double()).sum() - (x.double() * op.A_adjoint(y).double()).sum()
    assert gap.abs() <= tolerance * Ax.norm() * y.norm()


def test_the_normal_operator_is_its_two_factors(op: Radon) -> None:
    # White images: nothing near the detector's ends is small.
    x = rand(2, 1, *op.shape)
    assert rel(op.A_adjoint_A(x), op.A_adjoint(op.A(x))) < 1e-11
    assert rel(op.A_adjoint_A(x.float()), op.A_adjoint(op.A(x)).float()) < 2e-4


def test_toeplitz_is_used_exactly_where_the_detector_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Radon, x: Tensor) -> Tensor:
        raise AssertionError("projected")

    x = rand(1, 1, 32, 32)
    complete = [{}, {"n_detectors": 46}, {"offset": 2.0}, {"pitch": 1.2}]
    # 45.25 pixels across the diagonal; 45 bins and the offsets cut a corner.
    cut = [{"n_detectors": 45}, {"n_detectors": 46, "offset": 0.5}, {"pitch": 2.0}]
    diagonal = half_turn(4)
    monkeypatch.setattr(Radon, "A", refuse)
    for options in complete:
        Radon((32, 32), diagonal, **options).A_adjoint_A(x)  # type: ignore[arg-type]
    for options in cut:
        with pytest.raises(AssertionError, match="projected"):
            Radon((32, 32), diagonal, **options).A_adjoint_A(x)  # type: ignore[arg-type]
    # Along the axes the same image is but 32 wide.
    Radon((32, 32), [0.0, math.pi / 2], n_detectors=32).A_adjoint_A(x)


def test_the_preconditioner_is_symmetric_positive_and_cuts_the_iterations() -> None:
    op = Radon((64, 64), half_turn(30))
    x, r = rand(1, 1, 64, 64), rand(1, 1, 64, 64, seed=1)
    scale = float(op.A_adjoint_A(x).norm() / x.norm())
    M = op.preconditioner(torch.tensor(1.0, dtype=F64))
    alpha = torch.tensor(0.01 * scale, dtype=F64)
    assert torch.allclose((M(x, alpha) * r).sum(), (x * M(r, alpha)).sum(), rtol=1e-10)
    for tiny in (alpha, alpha * 1e-9):  # the eigenvalues below zero are clamped
        assert (M(r, tiny) * r).sum() > 0

    def normal(v: Tensor) -> Tensor:
        return op.A_adjoint_A(v) + alpha * v

    b = normal(shepp_logan(64))
    plain = cg(normal, b, rtol=1e-5, max_iter=200)
    helped = cg(normal, b, preconditioner=lambda r: M(r, alpha), rtol=1e-5, max_iter=200)
    assert rel(normal(helped.x), b) < 2e-5
    assert helped.n_iter <= 0.7 * plain.n_iter


def test_the_preconditioner_takes_every_shape_of_weights() -> None:
    op = Radon((16, 12), half_turn(9))
    r, alpha = rand(3, 2, 16, 12), torch.tensor(0.5, dtype=F64)
    want = op.preconditioner(torch.tensor(2.0, dtype=F64))(r, alpha)
    for shape in ((), (1,), (op.n_detectors,), (9, 1), (9, op.n_detectors), (3, 1, 9, 1), (3, 2, 9, op.n_detectors)):
        got = op.preconditioner(torch.full(shape, 2.0, dtype=F64))(r, alpha)
        assert rel(got, want) < 1e-12
    each = op.preconditioner(torch.tensor([1.0, 2.0, 3.0], dtype=F64).reshape(3, 1, 1, 1))(r, alpha)
    assert rel(each[1], want[1]) < 1e-12
    assert rel(each[2], want[2]) > 1e-2


def test_the_circulant_is_the_best_one() -> None:
    # Frobenius-optimal: the mean of A*A along every wrapped diagonal (here by brute force on a small grid).
    op, (h, w) = Radon((5, 4), some_angles(3)), (5, 4)
    eye = torch.eye(h * w, dtype=F64).reshape(h * w, 1, h, w)
    dense = op.A_adjoint_A(eye)[:, 0]  # (source, row, column)
    kernel = torch.stack(
        [dense[i * w + j].roll((-i, -j), (0, 1)) for i in range(h) for j in range(w)],
    ).mean(0)
    eigenvalues = torch.fft.fft2(kernel).real.clamp(min=0)
    alpha = torch.tensor(0.3, dtype=F64)
    r = rand(1, 1, h, w)
    want = torch.fft.ifft2(torch.fft.fft2(r) / (eigenvalues + alpha)).real
    assert rel(op.preconditioner(torch.tensor(1.0, dtype=F64))(r, alpha), want) < 1e-11


def test_scaling_scales() -> None:
    op = Radon((24, 24), half_turn(10))
    x = rand(1, 1, 24, 24)
    y = op.A(x)
    for f, v in ((op.A, x), (op.A_adjoint, y), (op.A_adjoint_A, x), (op.fbp, y)):
        torch.testing.assert_close(f(v * 1e-6) * 1e6, f(v))


# ----------------------------------------------------------------------------------------------- calculus


def test_gradients_in_the_image_alone() -> None:
    op = Radon((5, 6), some_angles(3))
    x, y = rand(1, 2, 5, 6).requires_grad_(), rand(1, 2, 3, op.n_detectors).requires_grad_()
    for f, v in ((op.A, x), (op.A_adjoint, y), (op.A_adjoint_A, x), (op.fbp, y)):
        assert torch.autograd.gradcheck(f, (v,))
        assert torch.autograd.gradgradcheck(f, (v,))
    back = torch.func.vjp(op.A, x.detach())[1](y.detach())[0]
    torch.testing.assert_close(back, op.A_adjoint(y.detach()))


# --------------------------------------------------------------------------------------------- programming


@pytest.mark.filterwarnings("ignore:Radon. the detector is")  # a narrow one is worth a warning, and right
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    angles=st.lists(st.floats(-6, 6), min_size=1, max_size=4),
    n_detectors=st.none() | st.integers(1, 14),
    pitch=st.floats(0.3, 3),
    offset=st.floats(-8, 8),
    pixel_size=st.floats(0.1, 10),
)
def test_any_geometry_is_linear_adjoint_and_normal(
    shape: tuple[int, int],
    angles: list[float],
    n_detectors: int | None,
    pitch: float,
    offset: float,
    pixel_size: float,
) -> None:
    # A detector that misses the image is refused.
    offset = math.copysign(min(abs(offset), 0.45 * min(shape)), offset) * pixel_size
    op = Radon(shape, angles, n_detectors=n_detectors, pitch=pitch * pixel_size, offset=offset, pixel_size=pixel_size)
    x = rand(2, 2, *shape)
    Ax = op.A(x)
    assert Ax.shape == (2, 2, len(angles), op.n_detectors)
    y = rand(*Ax.shape, seed=1)
    Aty = op.A_adjoint(y)
    size = float(x.norm() * Aty.norm() + Ax.norm() * y.norm())
    assert abs(float((Ax * y).sum() - (x * Aty).sum())) <= 1e-11 * size
    torch.testing.assert_close(op.A(2 * x[:1] - x[1:]), 2 * Ax[:1] - Ax[1:], rtol=0, atol=1e-10 * float(Ax.norm()))
    normal = op.A_adjoint(Ax)
    torch.testing.assert_close(op.A_adjoint_A(x), normal, rtol=0, atol=1e-10 * float(normal.norm()))
    assert torch.isfinite(op.fbp(y)).all()


def test_copies_are_the_same_operator() -> None:
    x = rand(1, 1, 12, 10)
    for angles in (some_angles(4), torch.tensor(some_angles(4), requires_grad=True) * 1.0):
        op = Radon((12, 10), angles, n_detectors=15, pitch=0.9, offset=0.4)
        want = op.A(x).detach()  # fills the cache, whose plans cannot be copied
        for twin in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(twin.A(x).detach(), want)
            assert repr(twin) == repr(op)


def test_moving_to_single_precision_keeps_the_geometry() -> None:
    op = Radon((12, 10), some_angles(4))
    x, before = rand(1, 1, 12, 10), op.angles.clone()
    want = op.A(x)
    op.to(torch.float32)
    assert torch.equal(op.angles, before)
    assert torch.equal(op.A(x), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_the_dtype_is_the_inputs(dtype: torch.dtype) -> None:
    op = Radon((12, 10), some_angles(4))
    x = rand(1, 1, 12, 10).to(dtype)
    y = op.A(x)
    for result in (y, op.A_adjoint(y), op.A_adjoint_A(x), op.fbp(y)):
        assert result.dtype == dtype
    assert (
        rel(y.double(), op.A(x.double()))
        < {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-4, F64: 0}.get(dtype, 0) + 1e-15
    )


def test_caches_made_in_inference_mode_serve_training() -> None:
    op = Radon((8, 8), some_angles(4))
    x = rand(1, 1, 8, 8)
    M = op.preconditioner(torch.tensor(1.0, dtype=F64))
    with torch.inference_mode():
        op.A_adjoint_A(x)
        op.fbp(op.A(x))
        M = op.preconditioner(torch.tensor(1.0, dtype=F64).clone())
    x.requires_grad_()
    op.A_adjoint_A(op.A_adjoint(op.A(x))).sum().backward()
    assert x.grad is not None
    assert M(x.detach(), torch.tensor(1.0, dtype=F64)).shape == x.shape


def test_repr_is_the_constructor_call() -> None:
    op = Radon((6, 5), some_angles(3), pitch=0.7, offset=0.1, pixel_size=0.2)
    twin = eval(repr(op))
    assert torch.equal(op.A(rand(1, 1, 6, 5)), twin.A(rand(1, 1, 6, 5)))
    assert len(repr(Radon((6, 5), some_angles(500)))) < 200


def test_calls_do_not_change_the_operator() -> None:
    op = Radon((8, 8), some_angles(3))
    before = {k: v.clone() for k, v in op.state_dict().items()}
    x = rand(1, 1, 8, 8)
    keep = x.clone()
    op.fbp(op.A(x))
    op.A_adjoint_A(x)
    assert torch.equal(x, keep)
    assert all(torch.equal(v, before[k]) for k, v in op.state_dict().items())
    assert set(before) == {"angles", "offset"}


@pytest.mark.parametrize(
    ("angles", "options", "message"),
    [
        ([], {}, ": angles "),
        ([[0.0, 1.0]], {}, ": angles "),
        (0.5, {}, ": angles "),
        ([0.0, math.nan], {}, ": angles "),
        (["a"], {}, ": angles "),
        (None, {}, ": angles "),
        ([0.0 + 1j], {}, ": angles "),
        ([0.0], {"n_detectors": 0}, "n_detectors"),
        ([0.0], {"n_detectors": 3.5}, "n_detectors"),
        ([0.0], {"pitch": 0.0}, ": pitch "),
        ([0.0], {"pitch": "wide"}, ": pitch "),
        ([0.0], {"pixel_size": -1.0}, "pixel_size"),
        ([0.0], {"pixel_size": math.inf}, "pixel_size"),
        ([0.0], {"offset": math.nan}, ": offset "),
        ([0.0], {"offset": [1.0, 2.0]}, ": offset "),
        ([0.0], {"offset": 9.0, "n_detectors": 5}, "no ray"),
    ],
)
def test_bad_geometry_is_explained(angles: object, options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        Radon((8, 8), angles, **options)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_degrees_are_noticed() -> None:
    with pytest.warns(UserWarning, match="angles .*deg2rad"):
        Radon((8, 8), np.arange(180.0))


def test_bad_data_is_explained() -> None:
    op = Radon((8, 6), some_angles(3), n_detectors=11)
    with pytest.raises(ValueError, match=r"Radon\.A: x .*8, 6"):
        op.A(torch.zeros(8, 6))
    with pytest.raises(ValueError, match=r"Radon\.A_adjoint: y .*3, 11"):
        op.A_adjoint(torch.zeros(1, 1, 11, 3))
    with pytest.raises(ValueError, match=r"Radon\.A_adjoint_A: x"):
        Radon((8, 6), some_angles(3)).A_adjoint_A(torch.zeros(1, 8, 6))
    with pytest.raises(TypeError, match=": x "):
        op.A(torch.zeros(1, 1, 8, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"window.*hann"):
        op.fbp(torch.zeros(1, 1, 3, 11), "blackman")
