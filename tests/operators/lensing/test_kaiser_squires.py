"""Kaiser-Squires against its figures, its symmetries and lenspack; the data step of masked surveys against dense
solutions: complex for E + iB, real for kappa."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from operators import KaiserSquires, KaiserSquiresEB
from pnp import LeastSquares

SHAPES = [(9, 9), (8, 8), (16, 16), (7, 10), (10, 7), (6, 12)]


def test_delta() -> None:
    kappa = torch.zeros(1, 1, 9, 9, dtype=F64)
    kappa[..., 0, 0] = 1
    gamma1, gamma2 = KaiserSquires((9, 9)).A(kappa)[0]
    assert gamma1[0, 1].item() == pytest.approx(-0.304866631843, abs=1e-12)
    assert gamma1[1, 0].item() == pytest.approx(+0.304866631843, abs=1e-12)
    assert gamma2[1, 1].item() == pytest.approx(-0.336785169657, abs=1e-12)
    assert (gamma1.square() + gamma2.square()).sum().item() == pytest.approx(80 / 81, abs=1e-13)


@pytest.mark.parametrize(("convention", "s1", "s2"), [("lenspack", 1, 1), ("conjugate", 1, -1), ("transposed", -1, 1)])
def test_plane_wave(convention: str, s1: int, s2: int) -> None:
    """3 cycles over the columns and 5 over the rows: gamma = (3^2 - 5^2, 2 3 5)/(3^2 + 5^2) kappa."""
    n = 64
    t = 2 * math.pi * torch.arange(n, dtype=F64) / n
    kappa = torch.cos(3 * t[None, :] + 5 * t[:, None])[None, None]
    gamma = KaiserSquires((n, n), convention=convention).A(kappa)
    assert rel(gamma[:, :1], s1 * -8 / 17 * kappa) < 1e-12
    assert rel(gamma[:, 1:], s2 * 15 / 17 * kappa) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_is_not_measured(shape: tuple[int, int]) -> None:
    op, kappa = KaiserSquires(shape), rand(2, 1, *shape)
    gamma = op.A(kappa)
    assert rel(op.A(kappa + 3), gamma) < 1e-12
    assert op.A(torch.full_like(kappa, 3)).abs().max() < 1e-14
    assert op.inverse(gamma + 3).mean().abs() < 1e-14
    assert rel(op.inverse(gamma + 3), op.inverse(gamma)) < 1e-12, "nor does a constant shear come from anywhere"


def test_odd_grids_are_inverted_exactly() -> None:
    op, kappa = KaiserSquires((9, 11)), rand(2, 1, 9, 11)
    centred = kappa - kappa.mean((-2, -1), keepdim=True)
    E, B = op.inverse_eb(op.A(kappa)).split(1, 1)
    assert rel(op.inverse(op.A(kappa)), centred) < 1e-13
    assert rel(E, centred) < 1e-13
    assert B.norm() < 1e-13 * E.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_shear_turned_by_45_degrees_is_a_b_mode(shape: tuple[int, int]) -> None:
    """(gamma1, gamma2) -> (-gamma2, gamma1), gamma times i, turns E into B and B into -E."""
    op, gamma = KaiserSquires(shape), rand(2, 2, *shape)
    E, B = op.inverse_eb(gamma).split(1, 1)
    turned = op.inverse_eb(torch.stack([-gamma[:, 1], gamma[:, 0]], 1))
    assert rel(turned, torch.cat([-B, E], 1)) < 1e-13
    assert rel(op.inverse(gamma), E) < 1e-13


def test_a_round_lens_shears_tangentially() -> None:
    """Right of and above a mass, and diagonally from it: gamma1 < 0, gamma1 > 0, gamma2 < 0."""
    n = 33
    t = torch.arange(n, dtype=F64) - n // 2
    kappa = torch.exp(-(t[:, None].square() + t[None, :].square()) / 8)[None, None]
    gamma1, gamma2 = KaiserSquires((n, n)).A(kappa)[0]
    c = n // 2
    assert gamma1[c, c + 5] < 0 < gamma1[c + 5, c]
    assert gamma2[c + 4, c + 4] < 0 < gamma2[c + 4, c - 4]
    assert abs(gamma1[c + 4, c + 4]) < 1e-3 * abs(gamma2[c + 4, c + 4])


def test_conventions() -> None:
    """Conjugate is one axis reversed, transposed the axes exchanged."""
    kappa = rand(2, 1, 9, 11)
    gamma = KaiserSquires((9, 11)).A(kappa)
    for axis in (-1, -2):
        conjugate = KaiserSquires((9, 11), convention="conjugate").A(kappa.flip(axis))
        assert rel(conjugate, gamma.flip(axis)) < 1e-13
    transposed = KaiserSquires((11, 9), convention="transposed").A(kappa.mT)
    assert rel(transposed, gamma.mT) < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
def test_parity_with_lenspack(shape: tuple[int, int]) -> None:
    inversion = pytest.importorskip("lenspack.image.inversion", reason="lenspack is not installed")
    op, kappa, gamma = KaiserSquires(shape), rand(1, 1, *shape), rand(1, 2, *shape, seed=1)
    want = torch.tensor(np.stack(inversion.ks93inv(kappa[0, 0].numpy(), np.zeros(shape))))
    assert rel(op.A(kappa)[0], want) < 1e-12
    want = torch.tensor(np.stack(inversion.ks93(*gamma[0].numpy())))
    assert rel(op.inverse_eb(gamma)[0], want) < 1e-12
    assert rel(op.inverse(gamma)[0, 0], want[0]) < 1e-12
    round_trip = op.A(op.A_adjoint(gamma))
    want = torch.tensor(np.stack(inversion.ks93inv(want[0].numpy(), np.zeros(shape))))
    assert rel(round_trip[0], want) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_operator_is_a_projector_but_on_nyquist_lines(shape: tuple[int, int]) -> None:
    """|D|^2 is 0 at the mean, D1^2 on the Nyquist lines of even axes, 1 elsewhere."""
    op = KaiserSquires(shape)
    delta = torch.zeros(1, 1, *shape, dtype=F64)
    delta[..., 0, 0] = 1
    normal = torch.fft.fft2(op.A_adjoint(op.A(delta)))[0, 0].real
    expected = torch.ones(shape, dtype=F64)
    k1, k2 = torch.fft.fftfreq(shape[1], dtype=F64)[None, :], torch.fft.fftfreq(shape[0], dtype=F64)[:, None]
    line = (k1 == -0.5) ^ (k2 == -0.5)
    expected = torch.where(line, ((k1**2 - k2**2) / (k1**2 + k2**2)).square(), expected)
    expected[0, 0] = 0
    assert rel(normal, expected) < 1e-13
    assert rel(torch.fft.fft2(op.A_adjoint_A(delta))[0, 0].real, expected) < 1e-13


def test_data_step_leaves_the_mean_to_z() -> None:
    op, y, z = KaiserSquires((8, 10)), rand(2, 2, 8, 10), rand(2, 1, 8, 10, seed=1) + 5
    h = op.data_step(y, torch.tensor(2.0, dtype=F64))
    assert h is not None
    x = h(z, torch.tensor(0.1, dtype=F64))
    assert rel(x.mean((-2, -1)), z.mean((-2, -1))) < 1e-13


def test_masked_preconditioner_helps() -> None:
    """A mask and noise that varies: alpha near the mean weight is well conditioned, and M improves it."""
    shape, alpha = (10, 10), torch.tensor(1.0, dtype=F64)
    op = KaiserSquires(shape)
    unit = torch.eye(100, dtype=F64).reshape(-1, 1, *shape)
    w = 36 * (1 + 0.2 * rand(1, 1, *shape).tanh())
    H = op.A_adjoint(w * op.A(unit)).flatten(1).T + alpha * torch.eye(100, dtype=F64)
    MH = op.preconditioner(w)(H.T.reshape(-1, 1, *shape), alpha).flatten(1).T
    spectrum = torch.linalg.eigvals(MH).real
    assert spectrum.min() > 0 and torch.linalg.cond(H) > 10 * spectrum.max() / spectrum.min()


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(ValueError, match="convention"):
        KaiserSquires((8, 8), convention="ks")
    with pytest.raises(ValueError, match="shape"):
        KaiserSquires((1, 1))
    with pytest.raises(TypeError, match=r"use \(8, 8\)"):
        KaiserSquires(8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"KaiserSquires\.inverse_eb: y"):
        KaiserSquires((8, 8)).inverse_eb(rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"KaiserSquires\.inverse: y"):
        KaiserSquires((8, 8)).inverse(rand(1, 1, 8, 8))


def dense(op: KaiserSquires | KaiserSquiresEB, channels: int) -> Tensor:
    """The matrix of A, (2 H W, channels H W)."""
    n = channels * math.prod(op.shape)
    return op.A(torch.eye(n, dtype=F64).reshape(n, channels, *op.shape)).flatten(1).T


def survey_weights(shape: tuple[int, int], *, components: int = 1) -> Tensor:
    """A third of the pixels blind, the others within a factor of twenty of each other."""
    w = 36 * rand(1, components, *shape, seed=5).exp()
    return w * (rand(1, 1, *shape, seed=6) > -0.5)


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
def test_e_and_b_modes_make_the_shear_of_a_complex_kernel(convention: str) -> None:
    """gamma1 + i gamma2 = D (E + iB): B makes the shear of E turned by 45 degrees, and A* separates them."""
    op, real = KaiserSquiresEB((9, 11), convention=convention), KaiserSquires((9, 11), convention=convention)
    x = rand(2, 2, 9, 11)
    gamma_E, gamma_B = real.A(x[:, :1]), real.A(x[:, 1:])
    turned = torch.stack([-gamma_B[:, 1], gamma_B[:, 0]], 1)
    assert rel(op.A(x), gamma_E + turned) < 1e-13
    assert rel(op.A_adjoint(op.A(x)), x - x.mean((-2, -1), keepdim=True)) < 1e-13
    assert rel(op.A_adjoint(x), real.inverse_eb(x)) < 1e-13


@pytest.mark.parametrize("shape", [(5, 5), (7, 9), (9, 3)])
@pytest.mark.parametrize("alpha", [1e-3, 36.0, 1e4])
def test_closed_form_is_the_dense_complex_solution(shape: tuple[int, int], alpha: float) -> None:
    """Complex kappa, masked and uneven weights: (D*WD + alpha) kappa = D*W gamma + alpha z."""
    op = KaiserSquiresEB(shape)
    gamma1, gamma2 = dense(KaiserSquires(shape), 1).chunk(2)
    D, n = torch.complex(gamma1, gamma2), len(gamma1)
    w, gamma, z = survey_weights(shape), rand(1, 2, *shape, seed=1), rand(1, 2, *shape, seed=2)
    step = op.data_step(gamma, w)
    assert step is not None and (w == 0).any()
    got = step(z, torch.tensor(alpha, dtype=F64))[0].flatten(1)
    wc, gc, zc = w.flatten().to(D.dtype), torch.complex(*gamma[0].flatten(1)), torch.complex(*z[0].flatten(1))
    H = D.mH @ (wc[:, None] * D) + alpha * torch.eye(n, dtype=D.dtype)
    want = torch.linalg.solve(H, D.mH @ (wc * gc) + alpha * zc)
    assert rel(torch.complex(*got), want) < 1e-8
    assert got.mean(1).sub(z.mean((-2, -1))[0]).norm() < 1e-12 * z.norm(), "the mean is z's"


@pytest.mark.parametrize("shape", [(7, 9), (8, 6)])
def test_real_kappa_by_conjugate_gradients_is_the_dense_real_solution(shape: tuple[int, int]) -> None:
    op, alpha = KaiserSquires(shape), torch.tensor(36.0, dtype=F64)
    A = dense(op, 1)
    w, gamma, z = survey_weights(shape, components=2), rand(1, 2, *shape, seed=1), rand(1, 1, *shape, seed=2)
    assert op.data_step(gamma, w) is None
    got = LeastSquares(rtol=1e-12, max_iter=200).bind(op, gamma, w)(z, alpha)
    H = A.T @ (w.flatten()[:, None] * A) + alpha * torch.eye(len(A.T), dtype=F64)
    want = torch.linalg.solve(H, A.T @ (w * gamma).flatten() + alpha * z.flatten())
    assert rel(got.flatten(), want) < 1e-8


def test_which_weights_have_a_closed_form() -> None:
    """Both components alike on odd grids; on even ones only what is even in Fourier space; else there is PCG."""
    shared, own, even_noise = (
        survey_weights((7, 9)),
        survey_weights((7, 9), components=2),
        torch.tensor(36.0, dtype=F64),
    )
    y = rand(1, 2, 7, 9)
    odd, even = KaiserSquiresEB((7, 9)), KaiserSquiresEB((8, 9))
    assert odd.data_step(y, shared) is not None and odd.data_step(y, shared.expand(1, 2, 7, 9)) is not None
    assert odd.data_step(y, shared[0, 0]) is not None and odd.data_step(y, own) is None
    assert odd.data_step(y, torch.tensor([1.0, 2.0], dtype=F64).reshape(2, 1, 1)) is None
    y = rand(1, 2, 8, 9)
    assert even.data_step(y, survey_weights((8, 9))) is None and even.data_step(y, even_noise) is not None
    both = rand(1, 2, 7, 9), torch.tensor(2.0, dtype=F64)
    expanded, scalar = (odd.data_step(both[0], v) for v in (both[1].expand(1, 1, 7, 9), both[1]))
    assert expanded is not None and scalar is not None
    assert rel(expanded(both[0], both[1]), scalar(both[0], both[1])) < 1e-13


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), blind=st.floats(0, 1), alpha=st.floats(1e-4, 1e4))
def test_closed_form_is_optimal_on_any_odd_grid(rows: int, columns: int, blind: float, alpha: float) -> None:
    """A*W(Ax - y) + alpha (x - z) = 0, whatever the mask: nothing or everything observed."""
    shape = (2 * rows + 1, 2 * columns - 1)
    op, a = KaiserSquiresEB(shape), torch.tensor(alpha, dtype=F64)
    w = survey_weights(shape) * (torch.rand(shape, generator=torch.Generator().manual_seed(rows), dtype=F64) >= blind)
    y, z = rand(2, 2, *shape, seed=1), rand(2, 2, *shape, seed=2)
    step = op.data_step(y, w)
    assert step is not None
    x = step(z, a)
    gradient = op.A_adjoint(w * (op.A(x) - y)) + a * (x - z)
    gap = (op.A(z) * y).sum() - (z * op.A_adjoint(y)).sum()
    assert gap.abs() < 1e-12 * y.norm() * z.norm()
    assert gradient.norm() < 1e-11 * (w.max() * y.norm() + a * z.norm())
