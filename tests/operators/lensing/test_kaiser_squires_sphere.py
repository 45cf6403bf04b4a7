"""Kaiser-Squires on the sphere against healpy, the flat sky, a point mass and dense matrices."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from scipy.ndimage import map_coordinates
from torch import Tensor

from operators import KaiserSquires, KaiserSquiresSphere
from operators.lensing.harmonics import Harmonics
from operators.lensing.kaiser_squires_sphere import SPHERE_SIGNS

pytest.importorskip("ducc0", reason="ducc0 is not installed")


def band_limited(op: KaiserSquiresSphere, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Coefficients from l = 2 on, and their map."""
    c = rand(2, 1, op.harmonics.n_coefficients, seed=seed)
    c = torch.where(op.harmonics.per_multipole(torch.arange(op.lmax + 1)) > 1, c, 0)
    return c, op.harmonics.synthesis(c)


def place(nside: int) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of the pixels, in radians."""
    import ducc0

    theta, phi = ducc0.healpix.Healpix_Base(nside, "RING").pix2ang(np.arange(12 * nside**2)).T
    return phi, np.pi / 2 - theta


@pytest.mark.parametrize("lmax", [8, 16, 20])
@pytest.mark.parametrize("n_refine", [0, 2])
def test_adjoint(lmax: int, n_refine: int) -> None:
    op = KaiserSquiresSphere(8, lmax=lmax, n_refine=n_refine)
    x, y = rand(2, 1, op.n_pix), rand(2, 2, op.n_pix, seed=3)
    gap = (op.A(x) * y).sum() - (x * op.A_adjoint(y)).sum()
    assert abs(gap) < 1e-13 * op.A(x).norm() * y.norm()


def test_band_limited_fields_come_back() -> None:
    op = KaiserSquiresSphere(16, n_refine=8)
    c, kappa = band_limited(op)
    assert rel(op.A(kappa), op.shear_of(c)) < 1e-8
    E, B = op.inverse_eb(op.A(kappa)).split(1, dim=1)
    assert rel(E, kappa) < 1e-8 and rel(op.inverse(op.A(kappa)), kappa) < 1e-8
    assert B.norm() < 1e-8 * kappa.norm()


def test_refinements_converge_to_the_shear_of_the_coefficients() -> None:
    errors = []
    for n in (0, 1, 2, 3):
        op = KaiserSquiresSphere(16, n_refine=n)
        c, kappa = band_limited(op)
        errors.append(rel(op.A(kappa), op.shear_of(c)))
        assert rel(op.inverse(op.shear_of(c)), kappa) < 1e-9, "whatever n_refine"
    assert errors[0] < 0.01 and all(b < a / 7 for a, b in pairwise(errors)) and errors[3] < 1e-5


def test_monopole_and_dipole_are_not_measured() -> None:
    op = KaiserSquiresSphere(16, n_refine=12)
    phi, lat = place(16)
    kappa = torch.from_numpy(1 + 0.3 * np.sin(lat) + np.cos(lat) * np.cos(phi))[None, None]
    assert op.A(kappa).abs().max() < 1e-8


def test_healpy_has_the_same_shear_e_and_b() -> None:
    """`map2alm`, D_l, and `alm2map_spin` of healpy: Q and U are the convention "healpix"."""
    healpy = pytest.importorskip("healpy", reason="healpy is not installed")
    op = KaiserSquiresSphere(16, lmax=40, n_refine=3, convention="healpix")
    kappa = rand(1, 1, op.n_pix)
    E = healpy.almxfl(healpy.map2alm(kappa[0, 0].numpy(), lmax=40, iter=3), op.response.numpy())
    expected = np.stack(healpy.alm2map_spin([E, 0 * E], 16, 2, 40))
    assert rel(op.A(kappa)[0], torch.from_numpy(expected)) < 1e-12

    # B modes come back as B: a turn of all shapes by 45 degrees, (Q, U) -> (-U, Q), makes E into B.
    c, kappa = band_limited(op := KaiserSquiresSphere(16, convention="healpix"))
    alm = [healpy.almxfl(a, op.response.numpy()) for a in op.harmonics.alm(c)[0]]
    y = torch.from_numpy(np.stack(healpy.alm2map_spin([0 * alm[0], alm[0]], 16, 2, 32)))[None]
    E, B = op.inverse_eb(y).split(1, dim=1)
    assert rel(B, kappa[:1]) < 1e-9 and E.norm() < 1e-9 * B.norm()


@pytest.mark.parametrize(("convention", "q", "u"), [(name, *signs) for name, signs in SPHERE_SIGNS.items()])
def test_shear_around_a_mass_is_tangential(convention: str, q: int, u: int) -> None:
    """South of a mass a galaxy lies east-west, east of it north-south, south-east of it north-east to south-west."""
    op = KaiserSquiresSphere(32, n_refine=1, convention=convention)
    phi, lat = place(32)
    kappa = torch.from_numpy(np.exp(-((phi - np.pi) ** 2 + lat**2) / (2 * 0.1**2)))[None, None]
    gamma1, gamma2 = op.A(kappa)[0]

    def at(east: float, north: float) -> int:
        return int(np.argmin((phi - np.pi - east) ** 2 + (lat - north) ** 2))

    south, east, diagonal = at(0, -0.2), at(0.2, 0), at(0.14, -0.14)
    assert q * gamma1[south] < -0.25 and q * gamma1[east] > 0.25 and u * gamma2[diagonal] < -0.25
    assert abs(gamma2[south]) < 0.01 and abs(gamma2[east]) < 0.01 and abs(gamma1[diagonal]) < 0.02


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
def test_small_maps_have_the_shear_of_the_flat_sky(convention: str) -> None:
    """A mass at the equator on a plane with north up and east to the left, in the same convention."""
    op, n, step = KaiserSquiresSphere(64, n_refine=1, convention=convention), 65, 0.02
    phi, lat = place(64)
    side = (np.arange(n) - n // 2) * step

    def mass(east: np.ndarray, north: np.ndarray) -> Tensor:
        return torch.from_numpy(np.exp(-((east - 0.1) ** 2 + 2 * north**2 + east * north) / (2 * 0.08**2)))

    sphere = op.A(mass(phi - np.pi, lat)[None, None])[0].numpy()
    flat = KaiserSquires((n, n), convention=convention).A(mass(-side[None, :], side[:, None])[None, None])[0].numpy()
    near = np.hypot(phi - np.pi, lat) < 0.3
    at = [n // 2 + lat[near] / step, n // 2 - (phi[near] - np.pi) / step]
    for component, expected in zip(sphere, flat, strict=True):
        gap = component[near] - map_coordinates(expected, at, order=3)
        assert np.abs(gap).max() < 0.05 * np.abs(flat).max()


def test_powers_are_healpys_and_coefficients_orthonormal() -> None:
    healpy = pytest.importorskip("healpy", reason="healpy is not installed")
    h = Harmonics(8, 16)
    c = rand(1, 1, h.n_coefficients)
    assert np.allclose(h.power(c)[0, 0], healpy.alm2cl(h.alm(c)[0, 0]), rtol=1e-12)
    assert rel(h.coefficients(h.alm(c)), c) < 1e-14
    # Parseval: the integral of f^2 over the sphere, which this grid knows exactly at low lmax.
    low = Harmonics(64, 4)
    f = low.synthesis(c := rand(1, 1, 25))
    assert float(f.square().mean() * 4 * np.pi) == pytest.approx(float(c.square().sum()), rel=1e-3)


def test_values_at_any_point_and_their_transpose() -> None:
    h = Harmonics(8, 16)
    c, f = rand(2, 1, h.n_coefficients), rand(2, 1, h.n_pix, seed=2)
    phi, lat = place(8)
    points = np.stack([np.pi / 2 - lat, phi], axis=-1)
    c.requires_grad_()
    values = h.at(c, points)
    assert rel(values.detach(), h.synthesis(c.detach())) < 1e-9
    (grad,) = torch.autograd.grad((values * f).sum(), c)
    assert rel(grad, h.adjoint(f)) < 1e-9


def test_more_threads_give_the_same_shear() -> None:
    op, n = KaiserSquiresSphere(16), torch.get_num_threads()
    x = rand(1, 1, op.n_pix)
    y = op.A(x)
    try:
        torch.set_num_threads(2)
        assert rel(op.A(x), y) < 1e-13
    finally:
        torch.set_num_threads(n)


@pytest.mark.parametrize(
    "options", [{"nside": 12}, {"nside": 0}, {"nside": 8.0}, {"lmax": 24}, {"lmax": 1}, {"n_refine": -1}]
)
def test_wrong_sizes_are_explained(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        KaiserSquiresSphere(**({"nside": 8} | options))
    with pytest.raises(ValueError, match=r"convention.*iau"):
        KaiserSquiresSphere(8, convention="COSMO")


def test_without_ducc0_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ducc0", None)
    with pytest.raises(ImportError, match=r"ducc0.*pnp-local\[sphere\]"):
        KaiserSquiresSphere(8)


def test_float32_stays_float32() -> None:
    op = KaiserSquiresSphere(16)
    _, kappa = band_limited(op)
    assert op.A(kappa.float()).dtype == torch.float32
    assert rel(op.inverse(op.A(kappa.float())).to(F64), kappa) < 2e-5
