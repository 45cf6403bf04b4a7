"""The NUFFT backends against direct summation, one table for all of them."""

from __future__ import annotations

import math

import pytest
import torch
from arrays import rand
from torch import Tensor

from operators.ct.nufft import NUFFT

BACKENDS = ["finufft", "torch"]
SHAPES = [(7, 10), (1, 1), (1, 6), (33, 20)]
C64, C128 = torch.complex64, torch.complex128
ACCURACY = {C64: 5e-5, C128: 2e-12}


def spread_points(m: int = 40) -> Tensor:
    """Points beyond [-pi, pi) too, and some on its edges."""
    k = 14 * torch.rand(m, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 7
    k[0], k[1], k[2] = 0.0, math.pi, -math.pi
    return k


def direct(x: Tensor, k: Tensor) -> Tensor:
    """Sum over n of x_n exp(-i k . n), written out."""
    height, width = x.shape[-2:]
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    return torch.einsum(
        "jr,jc,brc->bj", torch.exp(-1j * k[:, :1] * rows), torch.exp(-1j * k[:, 1:] * columns), x.to(C128)
    )


def direct_adjoint(f: Tensor, k: Tensor, shape: tuple[int, int]) -> Tensor:
    rows, columns = torch.arange(shape[0]) - shape[0] // 2, torch.arange(shape[1]) - shape[1] // 2
    return torch.einsum(
        "jr,jc,bj->brc", torch.exp(1j * k[:, :1] * rows), torch.exp(1j * k[:, 1:] * columns), f.to(C128)
    )


@pytest.mark.parametrize("dtype", [C64, C128])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_both_types_equal_the_direct_sums_and_are_adjoint(
    backend: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    k = spread_points()
    x, f = rand(3, *shape, dtype=dtype), rand(3, len(k), dtype=dtype, seed=2)
    nufft = NUFFT(k, shape, backend=backend)
    values, images = nufft.type2(x), nufft.type1(f)
    assert values.dtype == images.dtype == dtype
    for got, want in ((values, direct(x, k)), (images, direct_adjoint(f, k, shape))):
        assert (got - want).norm() <= ACCURACY[dtype] * want.norm()
    gap = torch.vdot(values.flatten().to(C128), f.flatten().to(C128)) - torch.vdot(
        x.flatten().to(C128), images.flatten().to(C128)
    )
    assert gap.abs() <= (1e-6 if dtype == C64 else 1e-14) * values.norm() * f.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_equals_its_members(backend: str) -> None:
    k, x = spread_points(), rand(5, 6, 9, dtype=C128)
    nufft = NUFFT(k, (6, 9), backend=backend)
    one_by_one = torch.cat([nufft.type2(image[None]) for image in x])
    torch.testing.assert_close(nufft.type2(x), one_by_one, rtol=1e-11, atol=1e-11)
    assert nufft.type2(x[:0]).shape == (0, len(k))
    assert nufft.type1(nufft.type2(x[:0])).shape == (0, 6, 9)


def test_torch_blocks_of_points_make_no_difference() -> None:
    # 2**22 products a block: 30 images and width 14 take 713 points a block, so that 1500 points take three.
    k, x = spread_points(1500), rand(30, 4, 5, dtype=C128)
    nufft = NUFFT(k, (4, 5), backend="torch")
    assert (nufft.type2(x) - direct(x, k)).norm() <= 1e-11 * direct(x, k).norm()
    f = rand(30, 1500, seed=3, dtype=C128)
    assert (nufft.type1(f) - direct_adjoint(f, k, (4, 5))).norm() <= 1e-11 * direct_adjoint(f, k, (4, 5)).norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_and_their_gradients(backend: str) -> None:
    k, shape = spread_points(5).requires_grad_(), (3, 4)
    x, f = (rand(2, *n, seed=n[0], dtype=C128).requires_grad_() for n in (shape, (5,)))

    def type2(x: Tensor, k: Tensor) -> Tensor:
        return torch.view_as_real(NUFFT(k, shape, backend=backend).type2(x, k))

    def type1(f: Tensor, k: Tensor) -> Tensor:
        return torch.view_as_real(NUFFT(k, shape, backend=backend).type1(f, k))

    for function, data in ((type2, x), (type1, f)):
        assert torch.autograd.gradcheck(function, (data, k))
        assert torch.autograd.gradgradcheck(function, (data, k))


def test_old_plans_make_room_for_new_ones() -> None:
    nufft = NUFFT(spread_points(), (4, 4))
    for n in range(1, 30):
        assert nufft.type2(rand(n, 4, 4, dtype=C128)).shape == (n, 40)
    assert len(nufft._plans) == 8


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(ValueError, match="points"):
        NUFFT(torch.zeros(2, 5), (4, 4))
    with pytest.raises(ValueError, match=r"backend.*finufft"):
        NUFFT(torch.zeros(5, 2), (4, 4), backend="fftw")
