"""The contract of every operator: one table of instances, one set of checks. A new operator adds its rows."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from arrays import F64, rand, rel
from combined_operators import AsOne
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_rows import ROWS, SPHERE, Row, angles, images, mask
from torch import Tensor

from operators import (
    OPERATORS,
    Blur,
    FanBeam,
    KaiserSquires,
    KaiserSquiresEB,
    KaiserSquiresSphere,
    LinearOperator,
    Mask,
    Radon,
)
from operators.algebra import Adjoint, Composed, Scaled, Stack, Sum

# Detectors much narrower than the image are meant here.
pytestmark = pytest.mark.filterwarnings("ignore:.*times as wide as the image")


COMBINATIONS = (Adjoint, AsOne, Composed, Scaled, Sum)


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


def like(y: Tensor, seed: int = 3) -> Tensor:
    return rand(*y.shape, seed=seed, dtype=y.dtype).to(y.device)


def adjoint_gap(op: LinearOperator, x: Tensor) -> float:
    Ax = op.A(x)
    y = like(Ax)
    gap = (Ax * y).sum() - (x * op.A_adjoint(y)).sum()
    return (gap.abs() / (Ax.norm() * y.norm())).item()


def matrix(op: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The dense matrix of a linear map on one item of that shape: its columns are the images of unit vectors."""
    unit = torch.eye(shape.numel(), dtype=F64).reshape(-1, *shape)
    return op(unit).flatten(1).T


def test_every_operator_has_a_row() -> None:
    made = [row.make() for name, row in ROWS.items() if name not in SPHERE]
    found = {type(op.stacked if isinstance(op, AsOne) else op) for op in made}
    assert found == {*OPERATORS.values(), Adjoint, Composed, Scaled, Stack, Sum}


def test_every_operator_says_whether_its_measurements_are_sampled() -> None:
    """Where they are, the noise is estimated from neighbours in y."""
    assert all(kind.y_is_sampled in (True, None) for kind in OPERATORS.values())


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"fourier.*blur.*radon"):
        OPERATORS["fourier"]
    assert OPERATORS["radon"] is Radon


@pytest.mark.parametrize(("dtype", "tol"), [(F64, 1e-10), (torch.float32, 1e-5)])
def test_adjoint(row: Row, dtype: torch.dtype, tol: float) -> None:
    op = row.make()
    assert adjoint_gap(op, images(op, row, dtype=dtype)) < tol


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_output_follows_the_input_and_inputs_stay(row: Row, dtype: torch.dtype) -> None:
    op = row.make()
    x = images(op, row, dtype=dtype)
    x_before, state = x.clone(), copy.deepcopy(op.state_dict())
    y = op.A(x)
    y_before = y.clone()
    for out in (y, op(x), op.A_adjoint(y), op.A_adjoint_A(x)):
        assert out.dtype == dtype and out.device == x.device and out.isfinite().all()
    assert op.A_adjoint(y).shape == op.A_adjoint_A(x).shape == x.shape
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert all(torch.equal(v, state[k]) for k, v in op.state_dict().items())
    assert torch.equal(op(x), y), "a second call gives the same answer"


def test_float32_agrees_with_float64(row: Row) -> None:
    op = row.make()
    x = images(op, row)
    y = op.A(x)
    assert rel(op.A(x.float()).double(), y) < 1e-5
    assert rel(op.A_adjoint(y.float()).double(), op.A_adjoint(y)) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_linear(row: Row, scale: float) -> None:
    op = row.make()
    x1, x2 = images(op, row, seed=4), images(op, row, seed=5)
    y1, y2 = op.A(x1), op.A(x2)
    assert rel(op.A(scale * (2 * x1 - x2)), scale * (2 * y1 - y2)) < 1e-9
    adjoint = scale * (2 * op.A_adjoint(y1) - op.A_adjoint(y2))
    assert rel(op.A_adjoint(scale * (2 * y1 - y2)), adjoint) < 1e-9
    assert not op.A(torch.zeros_like(x1)).any()


def test_batch_items_do_not_mix(row: Row) -> None:
    op = row.make()
    x = images(op, row, batch=3)
    y = op.A(x)
    assert rel(torch.cat([op.A(item[None]) for item in x]), y) < 1e-10
    assert rel(torch.cat([op.A_adjoint(item[None]) for item in y]), op.A_adjoint(y)) < 1e-10


def test_memory_layout_does_not_matter(row: Row) -> None:
    op = row.make()
    x = images(op, row)
    y = op.A(x)
    assert rel(op.A(x.mT.contiguous().mT), y) < 1e-10
    assert rel(op.A_adjoint(y.mT.contiguous().mT), op.A_adjoint(y)) < 1e-10


def test_normal_operator(row: Row) -> None:
    op = row.make()
    x = images(op, row)
    assert rel(op.A_adjoint_A(x), op.A_adjoint(op.A(x))) < 1e-9


def test_dense_matrix(row: Row) -> None:
    op = row.make()
    x = images(op, row, batch=1)
    y = op.A(x)
    A, At = matrix(op.A, x.shape[1:]), matrix(op.A_adjoint, y.shape[1:])
    assert rel(At, A.T) < 1e-10
    assert rel((A @ x.flatten()).reshape(y.shape), y) < 1e-10


def test_gradients(row: Row) -> None:
    op = row.make()
    x = images(op, row, batch=1).requires_grad_()
    y = like(op.A(x)).requires_grad_()
    for f, v in ((op.A, x), (op.A_adjoint, y), (op.A_adjoint_A, x)):
        assert torch.autograd.gradcheck(f, (v,), fast_mode=True, nondet_tol=1e-12)


def weights_for(y: Tensor) -> dict[str, Tensor]:
    """The kinds of weights a data term may have, with unmeasured entries in the array."""
    array = rand(*y.shape, seed=6).abs() * (rand(*y.shape, seed=7) > -1)
    return {
        "scalar": torch.tensor(1.7, dtype=F64),
        "per item": torch.tensor([0.4, 2.5], dtype=F64).reshape(-1, *[1] * (y.ndim - 1)),
        "per channel": torch.linspace(0.5, 1.5, y.shape[1], dtype=F64).reshape(1, -1, *[1] * (y.ndim - 2)),
        "per column": rand(y.shape[-1], seed=8).abs(),
        "array": array,
    }


def test_data_step_solves_its_equation(row: Row) -> None:
    """A*W(Ax - y) + alpha (x - z) = 0, wherever there is a closed form; else there is a preconditioner."""
    op = row.make()
    if row.plain:
        assert not hasattr(op, "data_step") and not hasattr(op, "preconditioner")
        return
    z = images(op, row, seed=8)
    y = like(op.A(z))
    alpha = torch.tensor(0.3, dtype=F64)
    for kind, w in weights_for(y).items():
        h = op.data_step(y, w) if hasattr(op, "data_step") else None
        if h is None:
            assert callable(op.preconditioner(w)), kind
            continue
        x = h(z, alpha)
        gradient = op.A_adjoint(w * (op.A(x) - y)) + alpha * (x - z)
        assert gradient.norm() < 1e-10 * op.A_adjoint(w * y).norm(), kind
        h32 = op.data_step(y.float(), w.float())
        assert h32 is not None
        x32 = h32(z.float(), alpha.float())
        assert x32.dtype == torch.float32 and rel(x32.double(), x) < 1e-5, kind


def test_alpha_may_have_one_value_for_each_image(row: Row) -> None:
    z = images(op := row.make(), row, seed=8)
    y, alpha = like(op.A(z)), torch.tensor([0.3, 40.0], dtype=F64).reshape(-1, *[1] * (z.ndim - 1))
    for kind, w in weights_for(y).items():
        for method, passed in (("data_step", (y, w)), ("preconditioner", (w,))):
            f = getattr(op, method, lambda *_: None)
            for b in range(2 if f(*passed) is not None else 0):
                own = [v[b : b + 1] if v is y or kind in ("per item", "array") else v for v in passed]
                assert rel(f(*passed)(z, alpha)[b], f(*own)(z[b : b + 1], alpha[b].reshape(()))[0]) < 1e-12, kind


def test_closed_forms_are_where_the_design_wants_them() -> None:
    def closed(name: str, kind: str) -> bool:
        op = ROWS[name].make()
        y = op.A(images(op, ROWS[name]))
        return op.data_step(y, weights_for(y)[kind]) is not None

    assert closed("identity", "array") and closed("downsample-mean", "array") and closed("scaled-mask", "array")
    assert closed("downsample-kernel-even", "per channel") and not closed("downsample-kernel-even", "array")
    assert not closed("downsample-kernel-reflect", "scalar") and not closed("scaled-blur", "scalar")
    assert closed("mask-weights", "scalar") and closed("mask-weights", "array")
    assert closed("blur-circular-odd", "scalar") and not closed("blur-circular-odd", "array")
    assert closed("blur-reflect-mirrored", "scalar") and not closed("blur-reflect-mirrored", "array")
    assert not closed("blur-reflect-odd", "scalar") and not closed("blur-valid-odd", "scalar")
    assert closed("kaiser-squires-even", "scalar") and not closed("kaiser-squires-even", "array")
    assert closed("kaiser-squires-eb-odd", "per column") and not closed("kaiser-squires-eb-odd", "array")
    assert closed("kaiser-squires-eb-mixed", "scalar") and not closed("kaiser-squires-eb-mixed", "per column")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_data_step_is_free_of_units(row: Row, scale: float) -> None:
    """Scaling y, z and the noise by c scales the answer by c."""
    op = row.make()
    z = images(op, row, seed=8)
    y = like(op.A(z))
    alpha, w = torch.tensor(0.3, dtype=F64), torch.tensor(2.0, dtype=F64)
    h = op.data_step(y, w) if hasattr(op, "data_step") else None
    if h is not None:
        scaled = op.data_step(scale * y, w / scale**2)
        assert scaled is not None
        assert rel(scaled(scale * z, alpha / scale**2), scale * h(z, alpha)) < 1e-12
    if hasattr(op, "preconditioner"):
        M, M_scaled = op.preconditioner(w), op.preconditioner(w / scale**2)
        assert rel(M_scaled(z, alpha / scale**2), scale**2 * M(z, alpha)) < 1e-12


def test_data_step_is_differentiable(row: Row) -> None:
    op = row.make()
    if row.plain:
        assert not hasattr(op, "data_step") and not hasattr(op, "preconditioner")
        return
    z = images(op, row, batch=1, seed=8).requires_grad_()
    y = like(op.A(z)).requires_grad_()
    alpha = torch.tensor(0.3, dtype=F64, requires_grad=True)
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    h = op.data_step(y, w) if hasattr(op, "data_step") else None
    if h is not None:
        f = lambda y, w, z, alpha: op.data_step(y, w)(z, alpha)  # noqa: E731
        assert torch.autograd.gradcheck(f, (y, w, z, alpha), fast_mode=True)
    else:
        M = op.preconditioner(w.detach())
        assert torch.autograd.gradcheck(lambda r: M(r, alpha.detach()), (z,), fast_mode=True, nondet_tol=1e-12)


def test_preconditioner_is_symmetric_positive_definite(row: Row) -> None:
    op = row.make()
    if row.plain:
        assert not hasattr(op, "data_step") and not hasattr(op, "preconditioner")
        return
    x = images(op, row, batch=1)
    y = op.A(x)
    alpha = torch.tensor(0.3, dtype=F64)
    for kind, w in weights_for(y).items():
        M = op.preconditioner(w[:1] if kind == "per item" else w) if hasattr(op, "preconditioner") else None
        if M is None:
            h = op.data_step(y, w)
            assert h is not None, "neither a closed form nor a preconditioner"
            continue
        dense = matrix(lambda r, M=M: M(r, alpha), x.shape[1:])
        assert rel(dense.T, dense) < 1e-10, kind
        assert torch.linalg.eigvalsh(dense).min() > 0, kind


def test_pickle_deepcopy_and_casts(row: Row) -> None:
    op = row.make()
    x = images(op, row)
    y = op.A(x)
    for twin in (pickle.loads(pickle.dumps(op)), copy.deepcopy(op), op.to("cpu")):
        assert torch.equal(twin.A(x), y) and repr(twin) == repr(op)
    single = copy.deepcopy(op).to(torch.float32)
    assert rel(single.A(x.float()).double(), y) < 1e-5
    assert adjoint_gap(single, x) < 1e-10, "an operator cast to float32 keeps an exact adjoint"


def test_repr_is_the_constructor_call(row: Row) -> None:
    op = row.make()
    text = repr(op)
    assert "\n" not in text
    if not isinstance(op, COMBINATIONS):
        assert text.startswith(type(op).__name__ + "(") and text.endswith(")")
        assert ", ".join(map(str, op.shape)) in text or isinstance(op, KaiserSquiresSphere)
    if isinstance(op, KaiserSquires | KaiserSquiresEB | KaiserSquiresSphere):
        assert repr(eval(text)) == text


def wrong_inputs(v: Tensor) -> dict[str, tuple[type[Exception], object, str]]:
    """What can be wrong with an argument of the shape of v: the exception, the argument, a part of the message."""
    return {
        "no batch": (ValueError, v[0], "[None"),
        "five axes": (ValueError, v[None], "got"),
        "too wide": (ValueError, torch.cat([v, v], -1), "got"),
        "integers": (TypeError, v.long(), ".float()"),
        "complex": (TypeError, v.to(torch.complex128), "complex128"),
        "numpy": (TypeError, v.numpy(), "torch.as_tensor"),
        "elsewhere": (ValueError, v.to("meta"), "operator.to("),
    }


def test_wrong_inputs_are_explained(row: Row) -> None:
    op = row.make()
    x = images(op, row)
    for method, name, v in (("A", "x", x), ("A_adjoint", "y", op.A(x)), ("A_adjoint_A", "x", x)):
        if isinstance(op, AsOne) and name == "y":
            continue  # it is taken apart first
        for kind, (error, wrong, part) in wrong_inputs(v).items():
            if kind == "elsewhere" and not op.state_dict():
                continue  # an operator without tensors is everywhere
            with pytest.raises(error) as caught:
                getattr(op, method)(wrong)
            message = str(caught.value)
            speaker = r"\w+\.\w+: [xy] " if isinstance(op, COMBINATIONS) else rf"{type(op).__name__}\.\w+: {name} "
            assert re.match(speaker, message), (kind, message)
            assert part in message and len(message) < 400, (kind, message)


def test_wrong_channels_are_explained() -> None:
    op = KaiserSquires((6, 5))
    with pytest.raises(ValueError, match=r"KaiserSquires\.A: x"):
        op.A(rand(2, 3, 6, 5))
    with pytest.raises(ValueError, match=r"KaiserSquires\.A_adjoint: y"):
        op.A_adjoint(rand(2, 1, 6, 5))
    with pytest.raises(ValueError, match=r"Mask\.A: x"):
        Mask(mask(3, 4, 5)).A(rand(1, 1, 4, 5))


MAKERS: dict[str, Callable[[int, int], LinearOperator]] = {
    "mask": lambda h, w: Mask(rand(h, w).abs()),
    "blur-circular": lambda h, w: Blur(rand(1 + h // 2, 1 + w // 3), (h, w)),
    "blur-reflect": lambda h, w: Blur(rand(1 + h // 3, 1 + w // 2), (h, w), "reflect"),
    "blur-valid": lambda h, w: Blur(rand(h, 1 + w // 2), (h, w), "valid"),
    "kaiser-squires": lambda h, w: KaiserSquires((h, w)),
    "fan-beam": lambda h, w: FanBeam((h, w), angles(1 + (h + w) % 5), source_origin=h + w, origin_detector=3.0),
    "radon": lambda h, w: Radon((h, w), angles(1 + (h + w) % 5)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(height=st.integers(2, 13), width=st.integers(2, 13), batch=st.integers(1, 3))
def test_adjoint_for_any_shape(make: Callable[[int, int], LinearOperator], height: int, width: int, batch: int) -> None:
    op = make(height, width)
    x = rand(batch, 1, height, width, seed=height + 20 * width)
    assert adjoint_gap(op, x) < 1e-10
    assert rel(op.A_adjoint_A(x), op.A_adjoint(op.A(x))) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tol"), [(F64, 1e-10), (torch.float32, 1e-5)])
def test_cuda_agrees_with_the_cpu(row: Row, dtype: torch.dtype, tol: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    op = row.make()
    x = images(op, row, dtype=dtype)
    y, normal = op.A(x), op.A_adjoint_A(x)
    op, x = op.to("cuda"), x.to("cuda")
    assert op.A(x).device == op.A_adjoint(y.to("cuda")).device == x.device
    assert rel(op.A(x).cpu(), y) < 10 * tol
    assert rel(op.A_adjoint_A(x).cpu(), normal) < 10 * tol
    assert adjoint_gap(op, x) < tol
    h = op.data_step(y.to("cuda"), x.new_tensor(2.0)) if hasattr(op, "data_step") else None
    if h is not None:
        x_step = h(x, x.new_tensor(0.3))
        gradient = op.A_adjoint(2 * (op.A(x_step) - y.to("cuda"))) + 0.3 * (x_step - x)
        assert gradient.norm() < 100 * tol * x.norm()
