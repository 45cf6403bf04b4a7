"""From galaxies to HEALPix maps: means, counts and noise against loops over pixels, signs against the plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pnp.lensing import map_catalogue as map_plane
from pnp.lensing.sphere import SphereShear, map_catalogue
from pnp.lensing.sphere.pixels import pixels_of
from pnp.readers import ShearCatalogue

healpy = pytest.importorskip("healpy", reason="healpy is not installed")
pytest.importorskip("ducc0", reason="ducc0 is not installed")


def octant(n: int = 3000, seed: int = 0, **changes) -> ShearCatalogue:
    rng = np.random.default_rng(seed)
    fields = {
        "ra": rng.random(n) * 90 - 30,
        "dec": np.degrees(np.arcsin(rng.random(n))),
        "e1": 0.2 * rng.standard_normal(n).clip(-3, 3),
        "e2": 0.1 * rng.standard_normal(n).clip(-3, 3),
        "weight": rng.random(n) + 0.5,
    }
    return ShearCatalogue(**fields | changes)


def test_pixels_are_healpys_at_the_poles_and_across_zero() -> None:
    ra, dec = np.array([-1.0, 359.0, 0.0, 12.0, 200.0, 719.9]), np.array([10.0, 10.0, 90.0, -90.0, -41.8, 89.999])
    assert pixels_of(64, ra, dec).tolist() == healpy.ang2pix(64, ra, dec, lonlat=True).tolist()


def test_pixels_hold_weighted_means_and_their_noise() -> None:
    c = octant()
    m = map_catalogue(c, 8, signs=(1, -1), dtype=torch.float64)
    place = healpy.ang2pix(8, c.ra, c.dec, lonlat=True)
    assert m.shear.shape == (1, 2, 768) and int(m.counts.sum()) == 3000 and m.nside == 8
    for pixel in np.unique(place):
        here = place == pixel
        w = c.weight[here]
        for k, e in enumerate((c.e1, -c.e2)):
            assert float(m.shear[0, k, pixel]) == pytest.approx(np.average(e[here], weights=w), rel=1e-12)
            assert float(m.noise_std[0, k, pixel]) == pytest.approx(m.sigma_e[k] * math.sqrt((w**2).sum()) / w.sum())
    assert bool(m.noise_std[~m.mask.expand(-1, 2, -1)].isinf().all())
    for k, e in enumerate((c.e1, c.e2)):
        within = np.abs(e - np.median(e)) < 5 * 1.4826 * np.median(np.abs(e - np.median(e)))
        e, w = e[within], c.weight[within]
        mean = np.average(e, weights=w)
        assert m.sigma_e[k] == pytest.approx(math.sqrt((w**2 * (e - mean) ** 2).sum() / (w**2).sum()), rel=1e-9)


def test_calibration_and_given_noise_are_those_of_the_plane() -> None:
    """All galaxies of a small field in one pixel of the sphere, or of the plane: the same mean and noise."""
    rng = np.random.default_rng(3)
    near, far = rng.random((2, 300)) * 0.5, np.array([[20.0], [20.0]])
    ra, dec = np.concatenate([near + 150, far + 150], axis=1)[0], np.concatenate([near, far], axis=1)[1]
    c = octant(301, ra=ra, dec=dec, m=0.1, c1=0.01, response=(0.7, 0.8), sigma_e=0.3)
    sphere = map_catalogue(c, 8, dtype=torch.float64)
    plane = map_plane(c, 240, axes="plane", dtype=torch.float64)
    pixel = (int(sphere.counts.argmax()), int(plane.counts.argmax()))
    assert int(sphere.counts.max()) == int(plane.counts.max()) == 300
    for name in ("shear", "noise_std"):
        a, b = (getattr(m, name)[0].flatten(1)[:, k] for m, k in zip((sphere, plane), pixel, strict=True))
        assert torch.allclose(a, b, rtol=1e-12)
    assert sphere.facts == plane.facts


@pytest.mark.parametrize(
    ("convention", "signs"), [("lenspack", (1, 1)), ("conjugate", (1, -1)), ("transposed", (-1, 1))]
)
def test_the_mass_lies_where_the_plane_has_it(convention: str, signs: tuple[int, int]) -> None:
    """Galaxies around one mass, away from the equator, with tangential shapes on the axes west and north."""
    rng = np.random.default_rng(1)
    n, ra0, dec0 = 20_000, 40.0, 50.0
    x, y = (rng.random((2, n)) - 0.5) * 24  # degrees to the west and north of the mass
    r, phi = np.hypot(x, y), np.arctan2(y, x)
    size = 0.3 * r**2 / (r**2 + 4) / (1 + r / 4)
    dec = dec0 + y
    ra = ra0 - x / np.cos(np.radians(dec))
    c = ShearCatalogue(ra=ra, dec=dec, e1=-size * np.cos(2 * phi) * signs[0], e2=-size * np.sin(2 * phi) * signs[1])
    m = map_catalogue(c, 32, convention=convention)
    kappa = m.operator().inverse(m.shear)[0, 0].numpy()
    top = int(np.argmax(kappa))
    lon, lat = healpy.pix2ang(32, top, lonlat=True)
    assert math.hypot((lon - ra0) * math.cos(math.radians(dec0)), lat - dec0) < 2.5
    B = m.operator().inverse_eb(m.shear)[0, 1].numpy()
    near = healpy.query_disc(32, healpy.ang2vec(ra0, dec0, lonlat=True), math.radians(6))
    assert np.std(B[near]) < 0.25 * np.std(kappa[near])


def test_what_does_not_fit_is_refused() -> None:
    c = octant(50)
    for options, name in [({"nside": 100}, "nside"), ({"nside": 8, "convention": "cosmo"}, "convention")]:
        with pytest.raises(ValueError, match=name):
            map_catalogue(c, **options)
    with pytest.raises(ValueError, match="one pixel"):
        map_catalogue(octant(50, ra=np.full(50, 3.0), dec=np.full(50, 4.0)), 8)
    with pytest.raises(ValueError, match=r"sphere.map_catalogue"):
        map_plane(octant(3000, dec=np.degrees(np.arcsin(np.random.default_rng(0).random(3000) * 2 - 1))), 60)
    m = map_catalogue(c, 8)
    with pytest.raises(ValueError, match="12 nside"):
        SphereShear(m.shear[..., :700], m.noise_std[..., :700], m.mask[..., :700])
    with pytest.raises(ValueError, match="noise_std"):
        SphereShear(m.shear, m.noise_std[:, :1], m.mask)


def test_signs_turn_the_record() -> None:
    m = map_catalogue(octant(), 8)
    turned = m.with_signs(-1, 1, swap=True)
    assert torch.equal(turned.shear[:, 0], -m.shear[:, 1]) and turned.swap and turned.signs == (-1, 1)
    assert turned.sigma_e == m.sigma_e[::-1] and "nside 8" in repr(turned)
