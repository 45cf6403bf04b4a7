"""Clusters in simulated convergence: profiles against their integrals, counts against their numbers, tails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pnp.io import read_image
from pnp.lensing import LognormalKappa, pixel_spectrum
from pnp.lensing.clusters import Clusters, _add, _cluster_density, _distance, _nfw_surface, _profile


@pytest.fixture(scope="module")
def clusters() -> Clusters:
    return Clusters((96, 80))


def test_nfw_is_smooth_at_the_scale_radius_and_ends_at_the_edge():
    c = 5.0
    wanted = math.sqrt(c**2 - 1) / (3 * (1 + c)) * (1 + 1 / (1 + c))  # Takada and Jain 2003, equation 27, x = 1
    assert _nfw_surface([1 - 1e-6, 1.0, 1 + 1e-6], c) == pytest.approx(wanted, rel=1e-3)
    assert (_nfw_surface([c * 1.0001, 10.0], c) == 0).all()
    assert (np.diff(_nfw_surface(np.linspace(0.01, c, 500), c)) < 0).all()


@pytest.mark.parametrize("pixel_arcmin", [0.29, 1.0])
def test_a_halo_holds_its_mass(pixel_arcmin):
    """The sum of convergence times Sigma_cr times the area is M, with distances and constants of astropy's."""
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM

    cosmology, z, mass = FlatLambdaCDM(H0=68, Om0=0.31), 0.35, 4e14
    lens, source = cosmology.angular_diameter_distance([z, 1.0])
    between = (cosmology.comoving_distance(1.0) - cosmology.comoving_distance(z)) / 2  # flat; over 1 + z_s
    critical = constants.c**2 / (4 * math.pi * constants.G) * source / (lens * between)
    pixel = (lens * (pixel_arcmin * units.arcmin).to_value("rad")) ** 2
    wanted = float((mass / 0.68 * units.Msun / (critical * pixel)).to(""))
    held = _profile(mass, z, 5.0, pixel_arcmin).double().sum((1, 2))
    assert held.numpy() == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("z", [0.01, 0.35, 1.0, 3.0])
def test_comoving_distances_are_integrals_over_the_expansion(z):
    expected = 2997.92458 * quad(lambda a: 1 / math.sqrt(0.31 * (1 + a) ** 3 + 0.69), 0, z)[0]
    assert _distance(z) == pytest.approx(expected, rel=1e-6)


def test_abundance_agrees_with_an_independent_code():
    """Values of colossus (Diemer, ApJS 239, 35, 2018), tinker08 at 200m, its own transfer function."""
    mass = [1e14, 2e14, 5e14]
    assert _cluster_density(mass, 0.0) == pytest.approx([4.745e-5, 1.857e-5, 3.791e-6], rel=0.02)
    assert _cluster_density(mass, 0.5) == pytest.approx([2.301e-5, 6.425e-6, 6.436e-7], rel=0.03)


def test_maps_have_the_number_and_the_power_that_is_said(clusters):
    g = torch.Generator().manual_seed(0)
    maps = clusters(1500, generator=g, dtype=torch.float64)
    assert maps.shape == (1500, 1, 96, 80)
    assert float(maps.mean((-2, -1)).abs().max()) < 1e-6 * float(maps.std())
    # Nine clusters per square degree above 1e14 Msun/h and below redshift 0.9, as by the integral of the test above.
    assert clusters.expected / (96 * 80 * (0.29 / 60) ** 2) == pytest.approx(8.7, rel=0.1)
    power = torch.fft.fft2(maps).abs().square().mean((0, 1)) / (96 * 80)
    far = clusters.power > 0.05 * clusters.power.max()
    assert float(power[far].sum() / clusters.power[far].sum()) == pytest.approx(1, rel=0.25)  # few and heavy
    assert clusters.power[0, 0] == 0


def test_maps_are_periodic_and_reproducible(clusters):
    profile = torch.arange(1.0, 26.0).reshape(5, 5)
    middle, corner = torch.zeros(96, 80), torch.zeros(96, 80)
    _add(middle, profile, 40, 30)
    _add(corner, profile, 0, 79)
    assert torch.equal(middle.roll((-40, 49), (0, 1)), corner)
    assert middle[38:43, 28:33].equal(profile)
    tiny = torch.zeros(3, 4)  # smaller than a halo, which then overlaps itself
    _add(tiny, profile, 1, 1)
    assert float(tiny.sum()) == float(profile.sum())
    first, second = (clusters(2, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.float32


def test_halves_of_a_pixel_are_mirror_images():
    profile = _profile(3e14, 0.3, 5.0, 0.29).reshape(4, 4, *_profile(3e14, 0.3, 5.0, 0.29).shape[1:])
    torch.testing.assert_close(profile[0, 1], profile[3, 2].flip(0, 1))
    torch.testing.assert_close(profile[0, 1], profile[1, 0].T)


def test_skies_keep_their_spectrum_and_scale_with_std():
    shape = (120, 120)
    sky = LognormalKappa(shape, std=0.02, clusters=True)
    maps = sky(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert "clusters=True" in repr(sky)
    assert abs(float(maps.mean())) < 1e-4
    power = torch.fft.fft2(maps).abs().square().mean((0, 1)) / math.prod(shape)
    wanted = pixel_spectrum(shape)
    wanted *= 0.02**2 / wanted.mean()
    for near, far in ((1, 4), (4, 15), (15, 60)):
        assert float(power[near:far, near:far].mean() / wanted[near:far, near:far].mean()) == pytest.approx(1, rel=0.12)
    doubled = LognormalKappa(shape, std=0.04, clusters=True)(2, generator=torch.Generator().manual_seed(1))
    single = sky(2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(doubled, 2 * single, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_highest_peaks_are_as_frequent_as_in_simulated_universes(data_dir):
    """Above 12 and 16 standard deviations as in four maps of three simulations; without clusters there are too few."""
    names = ("ktng_kappa360v2", "ktng_cosmos_kappa360", "columbia_kappa", "mice_kappa")
    theirs = [torch.from_numpy(read_image(data_dir / "lensing" / f"{name}.fits")) for name in names]

    def share(kappa: torch.Tensor, threshold: float) -> float:
        return float((kappa - kappa.mean() > threshold * kappa.std()).double().mean())

    maps = LognormalKappa((360, 360), clusters=True)(192, generator=torch.Generator().manual_seed(0))
    for threshold in (5, 8, 12, 16):
        found = [share(kappa, threshold) for kappa in theirs]
        assert 0.9 * min(found) < share(maps, threshold) < max(found)
    plain = LognormalKappa((360, 360))(192, generator=torch.Generator().manual_seed(0))
    assert share(plain, 16) < 0.7 * min(share(kappa, 16) for kappa in theirs)
