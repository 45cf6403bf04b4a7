"""Mask and Blur against their definitions: scipy's convolutions, dense solves, and their error messages."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from scipy import ndimage, signal
from torch import Tensor

from operators import Blur, Mask, Radon, gaussian_kernel

# Mask


def test_mask_keeps_and_drops() -> None:
    keep = rand(5, 6) > 0
    x = rand(2, 3, 5, 6)
    y = Mask(keep).A(x)
    assert torch.equal(y[..., keep], x[..., keep]) and not y[..., ~keep].any()
    assert torch.equal(Mask(keep.numpy()).A(x), y), "numpy masks are accepted"


def test_mask_per_channel_and_gain() -> None:
    gain = rand(3, 4, 5).abs()
    x = rand(2, 3, 4, 5)
    assert torch.equal(Mask(gain).A(x), gain * x)
    assert torch.equal(Mask(gain).A_adjoint_A(x), gain.square() * x)


def test_mask_with_a_batch_axis_of_one() -> None:
    """deepinv's masks are (1, C, H, W)."""
    m, x = rand(3, 4, 5).abs(), rand(2, 3, 4, 5, seed=1)
    assert torch.equal(Mask(m[None]).A(x), Mask(m).A(x))
    assert Mask(m[None, :1]).x_shape == ("C", 4, 5)


def test_mask_data_step_limits() -> None:
    """Unmeasured pixels return z; at small alpha measured ones return y / m."""
    m = torch.tensor([[2.0, 0.0, 1.0]], dtype=F64)
    y, z = rand(1, 1, 1, 3, seed=1), rand(1, 1, 1, 3, seed=2)
    w = torch.tensor([1.0, 1.0, 0.0], dtype=F64)  # the last one is measured without information
    x = Mask(m).data_step(y, w)(z, torch.tensor(1e-12, dtype=F64))
    assert x[0, 0, 0, 0].item() == pytest.approx(y[0, 0, 0, 0].item() / 2, rel=1e-10)
    assert torch.equal(x[..., 1:], z[..., 1:])


@pytest.mark.parametrize(
    ("bad", "error", "part"),
    [
        (torch.zeros(4, 5), ValueError, "zeros"),
        (torch.zeros(4, 5, dtype=torch.bool), ValueError, "zeros"),
        (-torch.ones(4, 5), ValueError, ">= 0"),
        (torch.full((4, 5), float("nan")), ValueError, "finite"),
        (torch.full((4, 5), float("inf")), ValueError, "finite"),
        (torch.ones(5), ValueError, "5,"),
        (torch.ones(2, 1, 4, 5), ValueError, "image by image"),
        (torch.ones(1, 2, 1, 4, 5), ValueError, "got"),
        (torch.ones(0, 5), ValueError, "got"),
        (torch.ones(4, 5, dtype=torch.uint8), TypeError, "mask > 0"),
        (torch.ones(4, 5, dtype=torch.complex64), TypeError, "complex64"),
        ("mask.png", TypeError, "got str"),
        (None, TypeError, "NoneType"),
    ],
)
def test_bad_masks_are_explained(bad: object, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=f"^Mask: mask .*{part}") as caught:
        Mask(bad)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


# Blur

KERNELS = [(1, 1), (3, 3), (2, 5), (4, 3), (4, 4), (7, 6)]
SCIPY_MODE = {"circular": "wrap", "reflect": "reflect"}


@pytest.mark.parametrize("size", KERNELS)
@pytest.mark.parametrize("shape", [(7, 6), (9, 11)])
@pytest.mark.parametrize("boundary", ["circular", "reflect", "valid"])
def test_blur_is_scipys_convolution(size: tuple[int, int], shape: tuple[int, int], boundary: str) -> None:
    k, x = rand(*size), rand(1, 1, *shape, seed=1)
    y = Blur(k, shape, boundary).A(x)[0, 0].numpy()
    if boundary == "valid":
        want = signal.convolve2d(x[0, 0].numpy(), k.numpy(), mode="valid")
    else:
        want = ndimage.convolve(x[0, 0].numpy(), k.numpy(), mode=SCIPY_MODE[boundary])
    assert y.shape == want.shape
    assert np.linalg.norm(y - want) < 1e-12 * np.linalg.norm(want)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_blur_centre(boundary: str) -> None:
    """A 1 at (kh // 2, kw // 2) changes nothing; one row below it moves the image one row down."""
    x = rand(1, 2, 6, 7)
    k = torch.zeros(4, 3, dtype=F64)
    k[2, 1] = 1
    assert rel(Blur(k, (6, 7), boundary).A(x), x) < 1e-14
    down = Blur(k.roll(1, 0), (6, 7), boundary).A(x)
    assert rel(down[..., 1:, :], x[..., :-1, :]) < 1e-14


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_whole_numbers_are_a_kernel(dtype: torch.dtype) -> None:
    k = torch.tensor([[1, 2, 1], [2, 4, 250]])
    x = rand(1, 1, 6, 7)
    A = Blur(k.to(dtype), (6, 7))
    assert A.kernel.dtype == torch.float32 and torch.equal(A.kernel, k.float())
    assert torch.equal(Blur(k.numpy().astype(str(dtype)[6:]), (6, 7)).A(x), A.A(x))


def test_a_kernel_of_deepinv() -> None:
    """deepinv's kernels are (1, 1, h, w), and its "valid" crops a true convolution as ours does."""
    from deepinv.physics.blur import Blur as Theirs

    k, x = rand(5, 4), rand(1, 1, 9, 8, seed=1)
    A = Blur(k[None, None], (9, 8), "valid")
    assert torch.equal(A.kernel, k)
    assert rel(A.A(x), Theirs(filter=k[None, None], padding="valid").A(x)) < 1e-12


@pytest.mark.parametrize("size", [(3, 3), (4, 6), (5, 2)])
def test_valid_says_how_to_crop_measurements_of_the_images_size(size: tuple[int, int]) -> None:
    """The crop that the message names is what "valid" measures, of an image that was blurred as a whole."""
    k, x = rand(*size), rand(1, 1, 12, 11, seed=1)
    y = torch.from_numpy(ndimage.convolve(x[0, 0].numpy(), k.numpy(), mode="constant"))[None, None]
    A = Blur(k, (12, 11), "valid")
    for call in (A.A_adjoint, lambda y: A.data_step(y, torch.ones((), dtype=F64))):
        with pytest.raises(ValueError, match=r'y must .*boundary="reflect"') as caught:
            call(y)
    cut = re.search(r"y\[\.\.\., (\d+):(\d+), (\d+):(\d+)\]", str(caught.value))
    assert cut is not None and len(str(caught.value)) < 400
    top, bottom, left, right = map(int, cut.groups())
    assert rel(y[..., top:bottom, left:right], A.A(x)) < 1e-12


def test_blur_edges() -> None:
    """A constant stays constant under every boundary, when the kernel sums to 1."""
    k = gaussian_kernel(0.7, dtype=F64)
    x = torch.full((1, 1, 9, 8), 3.0, dtype=F64)
    for boundary in ("circular", "reflect", "valid"):
        y = Blur(k, (9, 8), boundary).A(x)
        assert rel(y, torch.full_like(y, 3.0)) < 1e-14
    assert y.shape == (1, 1, 9 - 7 + 1, 8 - 7 + 1)


@pytest.mark.parametrize("boundary", ["circular", "reflect", "valid"])
def test_gradients_reach_the_kernel(boundary: str) -> None:
    x, k = rand(1, 2, 5, 6), rand(3, 2, seed=1).requires_grad_()
    y = Blur(k.detach(), (5, 6), boundary).A(rand(1, 2, 5, 6, seed=2))

    def f(k: Tensor) -> tuple[Tensor, ...]:
        op = Blur(k, (5, 6), boundary)
        return op.A(x), op.A_adjoint(y), op.A_adjoint_A(x)

    assert torch.autograd.gradcheck(f, (k,), fast_mode=True)


def test_gradients_reach_the_kernel_through_the_data_step() -> None:
    y, z, k = rand(1, 1, 5, 6), rand(1, 1, 5, 6, seed=1), rand(3, 2, seed=2).requires_grad_()
    w, alpha = torch.tensor(2.0, dtype=F64), torch.tensor(0.3, dtype=F64)
    f = lambda k: Blur(k, (5, 6)).data_step(y, w)(z, alpha)  # noqa: E731
    assert torch.autograd.gradcheck(f, (k,), fast_mode=True)


def iterations(H: Callable[[Tensor], Tensor], b: Tensor, M: Callable[[Tensor], Tensor]) -> int:
    """Count the conjugate gradient steps to a residual of 1e-6."""
    r, z = b, M(b)
    p, rz = z, (b * z).sum()
    for k in range(1, 400):
        Hp = H(p)
        step = rz / (p * Hp).sum()
        r = r - step * Hp
        if r.norm() < 1e-6 * b.norm():
            return k
        z = M(r)
        rz, rz_old = (r * z).sum(), rz
        p = z + rz / rz_old * p
    return 400


@pytest.mark.parametrize(("boundary", "gain"), [("circular", 8), ("reflect", 8), ("valid", 1.1)])
def test_preconditioner_saves_iterations(boundary: str, gain: float) -> None:
    """A Gaussian blur and weights that vary: 96x96, alpha a hundredth of the mean weight."""
    shape, alpha = (96, 96), torch.tensor(1e-2, dtype=F64)
    op = Blur(gaussian_kernel(1.6, dtype=F64), shape, boundary)
    y = op.A(rand(1, 1, *shape))
    w = 1 + 0.5 * rand(*y.shape, seed=3).tanh()
    H: Callable[[Tensor], Tensor] = lambda x: op.A_adjoint(w * op.A(x)) + alpha * x  # noqa: E731
    b, M = op.A_adjoint(w * rand(*y.shape, seed=1)), op.preconditioner(w)
    assert gain * iterations(H, b, lambda r: M(r, alpha)) < iterations(H, b, lambda r: r)


def test_preconditioner_does_no_harm_to_skewed_kernels() -> None:
    """Diagonal motion is not diagonal in the cosine basis, and still gains."""
    op, alpha, w = Blur(torch.eye(9, dtype=F64) / 9, (40, 40), "reflect"), torch.tensor(1e-2, dtype=F64), torch.ones(())
    H: Callable[[Tensor], Tensor] = lambda x: op.A_adjoint_A(x) + alpha * x  # noqa: E731
    b, M = rand(1, 1, 40, 40), op.preconditioner(w.double())
    assert iterations(H, b, lambda r: M(r, alpha)) < iterations(H, b, lambda r: r)


def test_mirrored_kernel_that_requires_grad_has_no_closed_form() -> None:
    """Its closed form would be right in value and wrong in the gradient's asymmetric part."""
    y, w, k = rand(1, 1, 8, 9), torch.tensor(2.0, dtype=F64), gaussian_kernel(0.4, dtype=F64)
    assert Blur(k, (8, 9), "reflect").data_step(y, w) is not None
    assert Blur(k.float(), (8, 9), "reflect").data_step(y, w) is not None
    assert Blur(k.clone().requires_grad_(), (8, 9), "reflect").data_step(y, w) is None
    assert Blur(k[:-1], (8, 9), "reflect").data_step(y, w) is None
    assert Blur(k.tril(), (8, 9), "reflect").data_step(y, w) is None


def test_circular_preconditioner_with_scalar_weights_is_the_inverse() -> None:
    op, r = Blur(rand(3, 3), (6, 7)), rand(2, 2, 6, 7, seed=1)
    w, alpha = torch.tensor(2.0, dtype=F64), torch.tensor(0.3, dtype=F64)
    x = op.preconditioner(w)(r, alpha)
    assert rel(w * op.A_adjoint_A(x) + alpha * x, r) < 1e-12


@pytest.mark.parametrize(
    ("bad", "error", "part"),
    [
        (torch.ones(3, 9), ValueError, "3, 9"),
        (torch.ones(9, 3), ValueError, "9, 3"),
        (torch.ones(3), ValueError, r"got \(3,\)"),
        (torch.ones(1, 3, 3), ValueError, "got"),
        (torch.ones(0, 3), ValueError, "got"),
        (torch.zeros(3, 3), ValueError, "zeros"),
        (torch.full((3, 3), float("nan")), ValueError, "finite"),
        (torch.ones(3, 3, dtype=torch.bool), TypeError, r"kernel\.float\(\)"),
        (torch.full((3, 3), 2**24 + 1), ValueError, "float32"),
        (torch.ones(2, 1, 3, 3), ValueError, r"got \(2, 1, 3, 3\)"),
        (torch.ones(3, 3, dtype=torch.complex64), TypeError, "complex64"),
        ("gaussian", TypeError, "got str"),
    ],
)
def test_bad_kernels_are_explained(bad: object, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=f"^Blur: kernel .*{part}") as caught:
        Blur(bad, (8, 8))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


def test_bad_boundary_and_shape_are_explained() -> None:
    with pytest.raises(ValueError, match="Blur: boundary"):
        Blur(torch.ones(3, 3), (8, 8), "wrap")
    with pytest.raises(TypeError, match="Blur: shape"):
        Blur(torch.ones(3, 3), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Blur: shape"):
        Blur(torch.ones(3, 3), (8, 0))


def test_gaussian_kernel() -> None:
    k = gaussian_kernel(1.5, dtype=F64)
    assert k.shape == (13, 13) and k.sum().item() == pytest.approx(1, abs=1e-14)
    assert torch.equal(k, k.T) and torch.equal(k, k.flip(0))
    t = torch.arange(-6.0, 7.0, dtype=F64)
    assert (k.sum(0) * t.square()).sum().sqrt().item() == pytest.approx(1.5, rel=2e-3)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="std_px"):
            gaussian_kernel(bad)


# The caller's arrays


def foreign(kind: str) -> np.ndarray:
    a = np.arange(1.0, 6.0)
    if kind == "read-only":
        a.setflags(write=False)
    return {"flipped": a[::-1].copy()[::-1], "big-endian": a.astype(">f8")}.get(kind, a)


@pytest.mark.parametrize("kind", ["plain", "flipped", "big-endian", "read-only"])
def test_arrays_of_any_layout_are_copied(kind: str) -> None:
    a = foreign(kind)
    for buffer in (Mask(a[None]).mask[0], Blur(a[None], (5, 5)).kernel[0], Radon((4, 4), a).angles):
        assert buffer.dtype == F64 and buffer.is_contiguous()
        assert buffer.tolist() == [1, 2, 3, 4, 5]
        buffer[0] = 9
        assert a[0] == 1
    tensor = torch.arange(1.0, 6.0, dtype=F64)
    operators = Mask(tensor[None]), Blur(tensor[None], (5, 5)), Radon((4, 4), tensor)
    tensor[0] = 9
    assert [float(A) for A in (operators[0].mask[0, 0], operators[1].kernel[0, 0], operators[2].angles[0])] == [1] * 3


def test_a_tensor_that_requires_grad_is_kept() -> None:
    kernel = torch.ones(1, 3, requires_grad=True)
    assert Blur(kernel, (5, 5)).kernel is kernel
    assert Radon((4, 4), kernel[0]).angles.grad_fn is not None


def test_radon_says_whether_it_sees_the_whole_image() -> None:
    assert Radon((8, 8), [0.0, 0.3]).sees_whole_image
    assert not Radon((8, 8), [0.0, 0.3], n_detectors=5).sees_whole_image


@pytest.mark.parametrize("make", [lambda a: Mask(a), lambda a: Blur(a, (9, 9)), lambda a: Radon((4, 4), a)])
def test_what_is_no_array_is_refused(make: Callable[[object], object]) -> None:
    for bad in (None, "text", np.array(["a"]), np.array([None])):
        with pytest.raises(TypeError, match="real numbers"):
            make(bad)
