"""Kaiser-Squires and the Wiener filter of the sphere against dense solutions and skies whose power is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel, seeded
from torch import Tensor

from operators import KaiserSquiresSphere
from pnp.lensing.sphere import (
    LognormalSky,
    convergence_power,
    gaussian_maps,
    map_mass,
    measured_power,
    smoothed_kaiser_squires,
    survey_noise,
    wiener,
)
from pnp.lensing.sphere.simulate import _cluster_power, _draw_clusters, degraded

pytest.importorskip("ducc0", reason="ducc0 is not installed")


def steep(lmax: int) -> Tensor:
    ell = torch.arange(lmax + 1, dtype=F64)
    return torch.where(ell > 1, 1e-3 / (1 + ell) ** 2, 0)


def test_wiener_is_the_dense_solution() -> None:
    """kappa = S A* (A S A* + N)^-1 y, with S = Y C Y* from the coefficients."""
    A = KaiserSquiresSphere(4)
    C, n = A.harmonics.per_multipole(steep(A.lmax)), A.harmonics.n_coefficients
    unit = torch.eye(n, dtype=F64)[:, None]
    Y, G = A.harmonics.synthesis(unit).flatten(1).T, A.shear_of(unit).flatten(1).T
    std = 0.02 * (1 + rand(1, 2, A.n_pix).abs())
    std[..., 50:90] = math.inf
    y, seen = rand(1, 2, A.n_pix, seed=2) * 0.03, std.flatten().isfinite()
    N = torch.diag(std.flatten()[seen] ** 2)
    expected = (
        Y @ (C[:, None] * G[seen].T) @ torch.linalg.solve(G[seen] @ (C[:, None] * G[seen].T) + N, y.flatten()[seen])
    )
    assert rel(wiener(A, y, std, steep(A.lmax), rtol=1e-10).flatten(), expected) < 1e-7


def test_smoothing_is_a_beam() -> None:
    A = KaiserSquiresSphere(16, n_refine=8)
    ell = A.harmonics.per_multipole(torch.arange(A.lmax + 1)).double()
    c = torch.where(ell > 1, torch.exp(-ell / 4), 0) * rand(1, 1, A.harmonics.n_coefficients)
    y = A.shear_of(c)
    expected = A.harmonics.synthesis(c * torch.exp(-ell * (ell + 1) * math.radians(3) ** 2 / 2))
    assert rel(smoothed_kaiser_squires(A, y, torch.tensor(0.1, dtype=F64), 180.0), expected) < 5e-3


def test_drawn_skies_have_their_power() -> None:
    A = KaiserSquiresSphere(16)
    C = steep(32)
    maps = gaussian_maps(16, C, 8, generator=seeded(), dtype=F64)
    c = 4 * math.pi / A.n_pix * A.harmonics.adjoint(maps)
    found = A.harmonics.power(c).mean((0, 1))[4:28] / C[4:28]
    assert found.mean() == pytest.approx(1, abs=0.04)


def test_measured_power_is_that_of_the_sky() -> None:
    """A third of the sky with noise: the fit is within the scatter of so few modes, and does not know the truth."""
    A = KaiserSquiresSphere(32, n_refine=1)
    C = steep(A.lmax)
    std = torch.full((1, 2, A.n_pix), 0.012, dtype=F64)
    std[..., : 2 * A.n_pix // 3] = math.inf
    y = A.A(gaussian_maps(32, C, 1, generator=seeded(1), dtype=F64))
    y = torch.where(std.isinf(), math.nan, y + 0.012 * rand(1, 2, A.n_pix, seed=5))
    found = measured_power(A, y, std)
    assert found.noise_factor == pytest.approx(1, abs=0.1) and not bool(found.power[:2].any())
    ratio = (found.power[5:40] / C[5:40]).log()
    assert ratio.abs().max() < 0.6 and abs(ratio.mean()) < 0.3


def test_map_mass_with_a_gaussian_prior_is_near_wiener() -> None:
    A = KaiserSquiresSphere(16, n_refine=1)
    C, w = 100 * steep(A.lmax), 4 * math.pi / A.n_pix
    kappa = gaussian_maps(16, C, 1, generator=seeded(3), dtype=F64)
    std = torch.full((1, 2, A.n_pix), 0.2, dtype=F64)
    std[..., 1000:1600] = math.inf
    y = A.A(kappa) + 0.2 * rand(1, 2, A.n_pix, seed=4)
    y[..., 1000:1600] = math.nan

    def D(x: Tensor, sigma: float) -> Tensor:
        P = A.harmonics.per_multipole(C)
        return A.harmonics.synthesis(w * A.harmonics.adjoint(x) * P / (P + w * float(sigma) ** 2))

    found = map_mass(A, y, std, denoiser=D, max_iter=20)
    expected = wiener(A, y, std, C)
    assert rel(found.kappa_e, expected) < 0.05
    assert found.kappa_b.std() < found.kappa_e.std() and 0.8 < found.misfit < 1.2 and found.n_iter == 20
    assert map_mass(A, y, std, denoiser=D, b_mode=False, max_iter=2, callback=lambda s: True).kappa_b is None


def test_lognormal_skies() -> None:
    """Mean, power, skewness and tails; shear of the same sky; children of one pixel are averaged."""
    sky = LognormalSky(32, clusters=False)
    kappa, shear = sky(generator=seeded(2))
    A = KaiserSquiresSphere(32, lmax=48, n_refine=2)
    c = 4 * math.pi / A.n_pix * A.harmonics.adjoint(kappa.double())
    found = (A.harmonics.power(c)[0, 0, 8:48] / convergence_power(48)[8:48]).mean()
    assert found == pytest.approx(1, abs=0.25) and abs(float(kappa.mean())) < 1e-6
    x = kappa.flatten().double()
    assert 0.5 < float(((x / x.std()) ** 3).mean()) < 4
    E = A.inverse(shear.double())
    assert np.corrcoef(A.harmonics.synthesis(c).flatten(), E.flatten())[0, 1] > 0.97
    ones = torch.arange(12.0 * 4**2)[None, None]
    healpy = pytest.importorskip("healpy", reason="healpy is not installed")
    assert np.allclose(degraded(ones)[0, 0], healpy.ud_grade(ones[0, 0].numpy(), 2))


@pytest.mark.slow
def test_clusters_have_the_power_of_their_profiles() -> None:
    """A third of a million haloes on the sphere, drawn in pixels of 6.9 arcmin."""
    A = KaiserSquiresSphere(512)
    c = 4 * math.pi / A.n_pix * A.harmonics.adjoint(_draw_clusters(512, seeded())[None, None])
    found, expected = A.harmonics.power(c)[0, 0].numpy(), _cluster_power(6.871, A.lmax)
    assert found[50:600].mean() == pytest.approx(expected[50:600].mean(), rel=0.1)


def test_the_survey_has_the_area_and_the_noise_it_says() -> None:
    std = survey_noise(64, generator=seeded())
    seen = std[0, 0].isfinite()
    assert 4400 < float(seen.float().mean()) * 41253 < 5600
    area = 41253 * 3600 / (12 * 64**2)
    assert float(std[0, 0, seen].median()) == pytest.approx(0.27 / math.sqrt(5.6 * area), rel=0.02)


def test_what_does_not_fit_is_refused() -> None:
    A = KaiserSquiresSphere(8)
    y, std = rand(1, 2, A.n_pix), torch.tensor(0.1, dtype=F64)
    for call, name in [
        (lambda: wiener(A, y, std, steep(10)), "power"),
        (lambda: wiener(A, y[:, :1], std, steep(16)), "y"),
        (lambda: wiener(A, y, -std, steep(16)), "noise_std"),
        (lambda: smoothed_kaiser_squires(A, y * math.nan, std, 10.0), "y"),
        (lambda: map_mass(A, torch.cat([y, y]), std), "y"),
        (lambda: LognormalSky(64), "nside"),
        (lambda: measured_power(A, y, torch.full_like(y, math.inf)), "noise_std"),
    ]:
        with pytest.raises(ValueError, match=name):
            call()
