"""From galaxies to shear maps: means, counts and noise against their definitions, the sphere against its symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_files import refused

from operators import KaiserSquires
from pnp.lensing.bin_catalogue import map_catalogue
from pnp.readers import ShearCatalogue, ShearMap, read_catalogue


def galaxies(n=400, *, ra0=150.0, dec0=2.0, side_deg=1.0, seed=0, **changes):
    """Galaxies spread evenly over a square about (ra0, dec0)."""
    rng = np.random.default_rng(seed)
    x, y = (rng.random((2, n)) - 0.5) * side_deg
    fields = {
        "ra": ra0 + x / math.cos(math.radians(dec0)),
        "dec": dec0 + y,
        "e1": 0.2 * rng.standard_normal(n).clip(-3, 3),
        "e2": 0.1 * rng.standard_normal(n).clip(-3, 3),
        "weight": rng.random(n) + 0.5,
    }
    return ShearCatalogue(**fields | changes)


def away_from(ra0, dec0, distance_deg, bearing):
    """Return ra and dec in degrees, so far from a point, in directions east of north (radians)."""
    a0, d0, d = math.radians(ra0), math.radians(dec0), np.radians(distance_deg)[:, None]
    centre = np.array([math.cos(d0) * math.cos(a0), math.cos(d0) * math.sin(a0), math.sin(d0)])
    east = np.array([-math.sin(a0), math.cos(a0), 0.0])
    north = np.cross(centre, east)
    x, y, z = (np.cos(d) * centre + np.sin(d) * (np.cos(bearing)[:, None] * north + np.sin(bearing)[:, None] * east)).T
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def bearing_to(ra, dec, ra0, dec0):
    """Return the direction of a point as seen from galaxies, east of north, along the great circle."""
    ra, dec, ra0, dec0 = (np.radians(v) for v in (ra, dec, ra0, dec0))
    return np.arctan2(
        np.sin(ra0 - ra) * np.cos(dec0), np.cos(dec) * np.sin(dec0) - np.sin(dec) * np.cos(dec0) * np.cos(ra0 - ra)
    )


# ------------------------------------------------------------------------------------------- means, counts, noise


@given(n=st.integers(40, 200), side=st.sampled_from([4.0, 7.3, 15.0]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_pixels_hold_weighted_means_and_their_noise(n, side, seed):
    """Against a loop over pixels, each galaxy placed by the WCS that the map carries."""
    c = galaxies(n, seed=seed)
    m = map_catalogue(c, side, axes="plane", dtype=torch.float64)
    x, y = m.wcs.wcs_world2pix(c.ra, c.dec, 0)
    place = np.rint([y, x]).astype(int)
    assert int(m.counts.sum()) == n and m.shear.shape == (1, 2, *m.shape)
    for row, column in {tuple(p) for p in place.T}:
        here = (place[0] == row) & (place[1] == column)
        w = c.weight[here]
        assert int(m.counts[0, 0, row, column]) == here.sum() and bool(m.mask[0, 0, row, column])
        for k, e in enumerate((c.e1, c.e2)):
            assert float(m.shear[0, k, row, column]) == pytest.approx(np.average(e[here], weights=w), rel=1e-12)
            noise = m.sigma_e[k] / math.sqrt(w.sum() ** 2 / (w**2).sum())
            assert float(m.noise_std[0, k, row, column]) == pytest.approx(noise, rel=1e-12)
    empty = ~m.mask.expand(-1, 2, -1, -1)
    assert bool(m.noise_std[empty].isinf().all()) and not bool(m.shear[empty].any())


def test_noise_is_the_scatter_of_the_map():
    """Pure noise, weighted anyhow: shear/noise_std has variance 1 per component; outliers do not tell the noise."""
    n = 40_000
    rng = np.random.default_rng(1)
    c = galaxies(n, weight=rng.gamma(1.0, size=n) + 0.01)
    m = map_catalogue(c, 1.0)
    whitened = (m.shear / m.noise_std).masked_select(m.mask.expand_as(m.shear))
    assert float(whitened.square().mean()) == pytest.approx(1, rel=0.05)
    assert m.sigma_e == pytest.approx((0.2, 0.1), rel=0.02)
    e1 = c.e1.copy()
    e1[:40] = 50.0
    spoilt = ShearCatalogue(c.ra, c.dec, e1, c.e2, c.weight, max_e=math.inf)
    assert map_catalogue(spoilt, 1.0).sigma_e == pytest.approx(m.sigma_e, rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_noise_is_right_where_weights_follow_each_galaxys_own(spread):
    """w = 1/s_i^2 as of lensfit, metacal or HSC: the mean of a pixel has the variance sum w^2 s^2 / (sum w)^2."""
    n = 60_000
    rng = np.random.default_rng(8)
    s = np.hypot(0.27, np.exp(rng.normal(math.log(0.35), spread, n)))
    e1, e2 = s * rng.standard_normal((2, n))
    c = galaxies(n, e1=e1, e2=e2, weight=1 / s**2, max_e=math.inf)
    m = map_catalogue(c, 2.0, dtype=torch.float64)
    seen = m.mask.expand_as(m.shear)
    assert float((m.shear / m.noise_std)[seen].square().mean()) == pytest.approx(1, rel=0.06)
    want = math.sqrt((c.weight**2 * s**2).sum() / (c.weight**2).sum())  # in closed form
    assert m.sigma_e == pytest.approx((want, want), rel=0.02)


def test_noise_may_be_known():
    c = galaxies()
    n_eff = map_catalogue(c, 10.0, noise=1.0, dtype=torch.float64).noise_std ** -2
    given = map_catalogue(c, 10.0, noise=0.3, dtype=torch.float64)
    torch.testing.assert_close(given.noise_std, 0.3 / n_eff.sqrt())
    each = ShearCatalogue(c.ra, c.dec, c.e1, c.e2, c.weight, sigma_e=0.3)
    torch.testing.assert_close(map_catalogue(each, 10.0, dtype=torch.float64).noise_std, given.noise_std)
    variance = np.random.default_rng(2).random(400) + 0.01
    inverse = ShearCatalogue(c.ra, c.dec, c.e1, c.e2, 1 / variance)
    known = ShearCatalogue(c.ra, c.dec, c.e1, c.e2, 1 / variance, sigma_e=np.sqrt(variance))
    torch.testing.assert_close(
        map_catalogue(inverse, 10.0, noise="weights").noise_std, map_catalogue(known, 10.0).noise_std
    )


def test_bias_is_taken_out():
    rng = np.random.default_rng(3)
    c = galaxies()
    m, c1, c2 = 0.1 * rng.standard_normal(400) - 0.1, 0.01 * rng.standard_normal(400), 0.02
    biased = ShearCatalogue(c.ra, c.dec, c.e1 + c1, c.e2 + c2, c.weight, m=m, c1=c1, c2=c2)
    right, mended = (map_catalogue(cat, 10.0, dtype=torch.float64) for cat in (c, biased))
    response = 1 + np.average(m, weights=c.weight)
    torch.testing.assert_close(mended.shear, right.shear / response)
    torch.testing.assert_close(mended.noise_std, right.noise_std / response)
    assert mended.facts["response"] == pytest.approx(response)


@pytest.mark.parametrize("kind", ["number", "pair", "matrix"])
@pytest.mark.parametrize("swap", [False, True])
def test_the_mean_response_is_taken_out(kind, swap):
    """e = R (shear (1 + m) + c), R noisy and in many galaxies below 0: the mean shear and its noise come back."""
    n, rng = 30_000, np.random.default_rng(9)
    R = {"number": 0.65, "pair": np.diag([0.7, 0.5]), "matrix": np.array([[0.7, 0.05], [-0.1, 0.5]])}[kind]
    shear, c, m = np.array([0.05, -0.03]), np.array([0.01, 0.02]), -0.1
    shapes = 0.1 * rng.standard_normal((2, n))
    e = R * ((1 + m) * shear + c)[:, None] if kind == "number" else (R @ ((1 + m) * shear + c))[:, None]
    each = R + 0.6 * rng.standard_normal((n, *np.shape(R)))
    each = np.diagonal(each, axis1=1, axis2=2) if kind == "pair" else each
    assert (np.reshape(each, (n, -1))[:, 0] < 0).any()
    cat = galaxies(
        n, e1=e[0] + shapes[0], e2=e[1] + shapes[1], m=m + 2 * rng.standard_normal(n), c1=c[0], c2=c[1], response=each
    )
    found = map_catalogue(cat, 10.0, axes="plane", swap=swap, dtype=torch.float64)
    want = torch.from_numpy(shear[:: -1 if swap else 1].copy())
    mean = (found.shear * found.counts).sum((0, 2, 3)) / found.counts.sum()
    torch.testing.assert_close(mean, want, rtol=0.06, atol=2e-3)
    seen = found.mask.expand_as(found.shear)
    assert float(((found.shear - want[:, None, None]) / found.noise_std)[seen].square().mean()) == pytest.approx(
        1, abs=0.35
    )
    known = map_catalogue(cat, 10.0, axes="plane", swap=swap, noise=0.1, dtype=torch.float64)
    torch.testing.assert_close(known.noise_std, found.noise_std, rtol=0.03, atol=0)
    assert ("response_matrix" in found.facts) == (kind != "number")


def test_distortions_have_the_response_of_their_dispersion():
    """Ellipses of axis ratio q, |e| = (1 - q^2)/(1 + q^2), sheared exactly: the response is 2 (1 - e_rms^2)."""
    n, g = 200_000, 0.03
    rng = np.random.default_rng(10)
    size, angle = 0.5 * np.sqrt(rng.random(n)), math.pi * rng.random(n)
    eps = size * np.exp(2j * angle)  # (1 - q)/(1 + q)
    eps = (eps + g) / (1 + g * eps)
    e = 2 * eps / (1 + np.abs(eps) ** 2)
    rms = math.sqrt(float(np.mean(np.abs(2 * size / (1 + size**2)) ** 2)) / 2)
    table = Table({"ra": 150 + rng.random(n), "dec": rng.random(n), "e1": e.real, "e2": e.imag, "rms": np.full(n, rms)})
    m = map_catalogue(read_catalogue(table, rms_e="rms"), 30.0, axes="plane", dtype=torch.float64)
    assert float((m.shear[:, 0] * m.counts[:, 0]).sum() / m.counts.sum()) == pytest.approx(g, rel=0.03)


def test_truth_is_averaged_and_units_do_not_matter():
    kappa = np.random.default_rng(4).standard_normal(400)
    c = galaxies(kappa=kappa)
    m = map_catalogue(c, 20.0, dtype=torch.float64)
    assert float((m.kappa * m.counts).sum()) != 0 and m.kappa.shape == m.mask.shape
    whole = map_catalogue(ShearCatalogue(c.ra, c.dec, c.e1, c.e2, kappa=kappa), 20.0, dtype=torch.float64)
    assert float((whole.kappa * whole.counts).sum()) == pytest.approx(kappa.sum())
    tiny = map_catalogue(galaxies(e1=1e-6 * c.e1, e2=1e-6 * c.e2), 20.0, dtype=torch.float64)
    torch.testing.assert_close(1e6 * tiny.shear, m.shear)
    torch.testing.assert_close(1e6 * tiny.noise_std, m.noise_std)


def test_bins_of_redshift_share_a_grid():
    z = np.random.default_rng(5).random(400) * 2
    z[:7] = np.nan
    c = galaxies(z=z)
    whole = map_catalogue(c, 10.0)
    bins = [map_catalogue(c.select(z_min=a, z_max=a + 1), 10.0, centre=whole.centre, shape=whole.shape) for a in (0, 1)]
    assert [b.shape for b in bins] == [whole.shape] * 2
    assert bins[0].centre == pytest.approx(whole.centre, rel=1e-12)
    lost = whole.counts - bins[0].counts - bins[1].counts
    assert int(lost.sum()) == 7 and bool((lost >= 0).all())
    assert bins[0].facts["dropped"] == {"z outside [0, 1)": 400 - len(c.select(z_max=1))}
    assert "z outside [0, 1)" in repr(bins[0])


# ------------------------------------------------------------------------------------------- the sphere


@pytest.mark.parametrize(
    ("ra0", "dec0"), [(0.0, 0.0), (359.9, -30.0), (180.0, 60.0), (12.0, 89.8), (0.0, 90.0), (77.0, -90.0)]
)
def test_fields_anywhere_are_mapped_without_a_seam(ra0, dec0):
    """Across ra = 0 and over a pole: the grid is as large as the field, and its pixels measure arcminutes."""
    rng = np.random.default_rng(6)
    ra, dec = away_from(ra0, dec0, np.sqrt(rng.random(500)) * 0.5, 2 * math.pi * rng.random(500))
    c = galaxies(500, ra=np.where(rng.random(500) > 0.5, ra % 360, (ra + 180) % 360 - 180), dec=dec)
    m = map_catalogue(c, 2.0)
    assert int(m.counts.sum()) == 500
    assert all(28 <= n <= 31 for n in m.shape)
    (a0, d0), (a1, d1), (a2, d2) = (np.radians(m.wcs.wcs_pix2world(*p, 0)) for p in ((14, 14), (15, 14), (14, 15)))
    for a, d in ((a1, d1), (a2, d2)):
        cosine = math.sin(d) * math.sin(d0) + math.cos(d) * math.cos(d0) * math.cos(a - a0)
        assert math.degrees(math.acos(cosine)) * 60 == pytest.approx(2, rel=1e-3)


def test_north_is_up_and_east_to_the_left_or_right():
    m = map_catalogue(galaxies(), 10.0)
    right = map_catalogue(galaxies(), 10.0, east="right")
    (ra, dec), (west, _), (_, north) = (m.wcs.wcs_pix2world(*p, 0) for p in ((0, 0), (1, 0), (0, 1)))
    assert west < ra and north > dec
    torch.testing.assert_close(right.counts, m.counts.flip(-1))
    mirrored = m.shear.flip(-1) * torch.tensor([1.0, -1.0])[:, None, None]
    torch.testing.assert_close(right.shear, mirrored)
    torch.testing.assert_close(right.noise_std, m.noise_std.flip(-1))


def lens(ra0, dec0, *, hand=1, radius_deg=1.0, n=20_000):
    """A round lens: shear across the direction to it, against north and east at each galaxy.

    hand 1: e1 along west, e2 between west and north, as columns and rows run; -1: e2 between east and north.
    """
    rng = np.random.default_rng(7)
    distance = radius_deg * np.sqrt(rng.random(n))
    ra, dec = away_from(ra0, dec0, distance, 2 * math.pi * rng.random(n))
    toward = bearing_to(ra, dec, ra0, dec0)
    angle = math.pi / 2 + toward if hand == 1 else math.pi / 2 - toward  # from west, or east, to north
    strength = 0.1 * np.exp(-((distance / radius_deg * 2) ** 2))
    return ShearCatalogue(ra, dec, -strength * np.cos(2 * angle), -strength * np.sin(2 * angle))


@pytest.mark.parametrize(("hand", "convention"), [(1, "lenspack"), (-1, "conjugate")])
@pytest.mark.parametrize("east", ["left", "right"])
@pytest.mark.parametrize(("ra0", "dec0"), [(40.0, 0.0), (0.0, -60.0), (200.0, 89.5), (10.0, 90.0)])
def test_a_lens_is_an_e_mode_wherever_it_is(ra0, dec0, east, hand, convention):
    """Shear around a lens is tangential on the sky, hence in the plane: in the middle of a field near a pole, too.

    With east to the right the same galaxies, in the same convention, show the same mass.
    """
    m = map_catalogue(
        lens(ra0, dec0, hand=hand), 4.0, convention=convention, east=east, centre=(ra0, dec0), shape=(41, 41)
    )
    E, B = KaiserSquires(m.shape, convention=m.convention).inverse_eb(m.shear)[0]
    assert float(B.norm() / E.norm()) < 0.1
    assert float(E[20, 20]) == float(E.max()) > 0


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
@pytest.mark.parametrize("dec0", [0.0, 85.0])
def test_east_to_the_right_is_the_mirrored_mass(convention, dec0):
    c = lens(40.0, dec0)
    options = {"convention": convention, "centre": (40.1, dec0 - 0.2), "shape": (41, 41), "dtype": torch.float64}
    left, right = (map_catalogue(c, 4.0, east=east, **options) for east in ("left", "right"))
    assert left.signs == right.signs == (1, 1)
    kappa, mirrored = (KaiserSquires(m.shape, convention=convention).inverse(m.shear) for m in (left, right))
    torch.testing.assert_close(mirrored.flip(-1), kappa, rtol=1e-9, atol=1e-12)


def test_near_a_pole_the_plane_turns():
    """Without the turn the same lens has as much B as E: the test above can fail."""
    m = map_catalogue(lens(10.0, 90.0), 4.0, axes="plane", centre=(10.0, 90.0), shape=(41, 41))
    E, B = KaiserSquires(m.shape).inverse_eb(m.shear)[0]
    assert float(B.norm() / E.norm()) > 0.5


def test_against_lenspack():
    """The same galaxies in the same bins, in lenspack's frame (ra to the right, no turn)."""
    utils = pytest.importorskip("lenspack.utils", exc_type=ImportError)
    c = galaxies(3000)
    m = map_catalogue(c, 5.0, axes="plane", east="right", dtype=torch.float64)
    x, y = m.wcs.wcs_world2pix(c.ra, c.dec, 0)
    extent = [-0.5, m.shape[1] - 0.5, -0.5, m.shape[0] - 0.5]
    theirs = utils.bin2d(x, y, v=(c.e1, c.e2), w=c.weight, npix=(m.shape[1], m.shape[0]), extent=extent)
    np.testing.assert_allclose(m.shear[0].numpy(), np.stack(theirs), rtol=1e-10, atol=1e-14)


# ------------------------------------------------------------------------------------------- signs


def test_signs_and_conventions():
    c = galaxies()
    m = map_catalogue(c, 10.0, axes="plane")
    flipped = map_catalogue(c, 10.0, axes="plane", signs=(-1, 1))
    assert flipped.signs == (-1, 1) and flipped.sigma_e == m.sigma_e
    torch.testing.assert_close(flipped.shear, m.with_signs(-1, 1).shear)
    exchanged = m.with_signs(1, -1, swap=True)
    torch.testing.assert_close(exchanged.shear[:, 0], m.shear[:, 1])
    torch.testing.assert_close(exchanged.shear[:, 1], -m.shear[:, 0])
    torch.testing.assert_close(exchanged.noise_std[:, 0], m.noise_std[:, 1])


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
@pytest.mark.parametrize("swap", [False, True])
def test_components_may_be_exchanged(signs, swap):
    """Exchanged first, then signed; bias is of the column it came with; exchanging back gives the first map."""
    c = galaxies(c1=0.01, c2=-0.02)
    plain = map_catalogue(c, 10.0, axes="plane")
    m = map_catalogue(c, 10.0, axes="plane", signs=signs, swap=swap)
    want = plain.with_signs(*signs, swap=swap)
    torch.testing.assert_close(m.shear, want.shear)
    torch.testing.assert_close(m.noise_std, want.noise_std)
    assert (m.signs, m.swap) == (want.signs, want.swap) == (signs, swap)
    assert m.sigma_e == pytest.approx(want.sigma_e)
    assert ("swap=True" in repr(m)) == swap
    back = m.with_signs(*(signs[::-1] if swap else signs), swap=swap)
    torch.testing.assert_close(back.shear, plain.shear)
    assert (back.signs, back.swap) == ((1, 1), False)


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
def test_another_convention_is_the_same_mass(convention):
    m = map_catalogue(galaxies(), 10.0)
    other = m.in_convention(convention)
    kappa, same = (KaiserSquires(a.shape, convention=a.convention).inverse(a.shear) for a in (m, other))
    torch.testing.assert_close(same, kappa)
    torch.testing.assert_close(other.in_convention("lenspack").shear, m.shear)


def test_repr_tells_what_matters():
    c = galaxies(e1=np.where(np.arange(400) < 5, np.nan, 0.1 * np.sin(np.arange(400))))
    assert repr(c) == "ShearCatalogue(395 galaxies, left out: 5 not finite; ra, dec, e1, e2, weight)"
    told = repr(map_catalogue(c, 10.0))
    for part in ("pixels of 10 arcmin", "395 galaxies", "5 not finite", "convention='lenspack', signs=(1, 1)"):
        assert part in told


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ra": np.arange(3.0)}, "columns"),
        ({"dec": np.full(400, 91.0)}, "dec"),
        ({"ra": np.full(400, 4e4)}, ": ra "),
        ({"weight": np.full(400, -1.0)}, "weight"),
        ({"weight": np.zeros(400)}, "400 weight 0"),
        ({"e1": np.full(400, np.nan)}, "400 not finite"),
        ({"e1": np.full(400, 1.5)}, "400 of 400"),
        ({"max_e": 0.0}, "max_e"),
        ({"m": -1.5}, ": m "),
        ({"response": -0.5}, "response"),
        ({"response": (0.7, -0.1)}, "response"),
        ({"response": (0.7, 0.7, 0.7)}, "response"),
        ({"response": np.ones((400, 3))}, "response"),
        ({"sigma_e": 0.0}, "sigma_e"),
        ({"ra": np.ones((400, 2))}, ": ra "),
    ],
)
def test_impossible_galaxies_are_refused(changes, part):
    assert part in refused(galaxies, **changes)


def test_text_is_refused():
    with pytest.raises(TypeError, match=": ra "):
        galaxies(ra=np.full(400, "10:00:28.6"))


def test_elongated_galaxies_are_left_out_where_said():
    e1 = np.where(np.arange(400) < 3, -99.0, 0.1)
    assert galaxies(e1=e1, max_e=1).dropped == {"|e| > 1": 3}
    assert len(galaxies(e1=e1, max_e=math.inf)) == 400


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"pixel_arcmin": 200.0}, "one pixel of 200"),
        ({"pixel_arcmin": 200.0, "centre": (150.0, 2.0), "shape": (3, 3)}, "one pixel"),
        ({"pixel_arcmin": 1e-3}, "20000"),
        ({"pixel_arcmin": 0.0}, "pixel_arcmin"),
        ({"centre": (10.0, 2.0), "shape": (9, 9)}, "no galaxy"),
        ({"centre": (330.0, -2.0), "shape": (9, 9)}, "no galaxy"),  # behind the plane
        ({"centre": (10.0, 2.0)}, "30 degrees"),
        ({"centre": (10.0, 200.0)}, "centre"),
        ({"shape": (0, 9)}, ": shape "),
        ({"convention": "iau"}, "convention"),
        ({"signs": (1, 0)}, ": signs "),
        ({"axes": "galactic"}, ": axes "),
        ({"east": "up"}, ": east "),
        ({"noise": "none"}, ": noise "),
        ({"noise": -1.0}, ": noise "),
    ],
)
def test_impossible_maps_are_refused(arguments, part):
    assert part in refused(map_catalogue, galaxies(), **({"pixel_arcmin": 10.0} | arguments))


def test_galaxies_without_scatter_do_not_tell_their_noise():
    c = galaxies(e1=np.zeros(400), e2=np.zeros(400))
    assert "give noise=0.3" in refused(map_catalogue, c, 10.0)
    assert bool(map_catalogue(c, 10.0, noise=0.3).noise_std.isfinite().any())


def test_fields_too_wide_for_a_plane_are_refused():
    assert "30 degrees" in refused(map_catalogue, galaxies(side_deg=80.0), 60.0)


def test_redshifts_are_needed_to_select():
    assert "column z" in refused(galaxies().select, z_min=0.5)
    assert "z_min" in refused(galaxies(z=np.ones(400)).select, z_min=1, z_max=0.5)
    assert "a galaxy" in refused(galaxies(z=np.ones(400)).select, z_min=2)


def a_map(**changes):
    plane = torch.ones(1, 1, 4, 5)
    fields = {"shear": torch.zeros(1, 2, 4, 5), "noise_std": torch.ones(1, 2, 4, 5), "mask": plane > 0} | changes
    return ShearMap(**fields)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"shear": torch.zeros(2, 4, 5)}, "shear"),
        ({"noise_std": torch.ones(1, 1, 4, 5)}, "noise_std"),
        ({"kappa": torch.ones(1, 1, 5, 4)}, "kappa"),
        ({"mask": torch.zeros(1, 1, 4, 5) > 0}, "mask"),
        ({"noise_std": torch.zeros(1, 2, 4, 5)}, "40 without noise"),
        ({"shear": torch.full((1, 2, 4, 5), math.nan)}, "40 values not finite"),
        ({"convention": "iau"}, "convention"),
    ],
)
def test_impossible_shear_maps_are_refused(changes, part):
    assert part in refused(a_map, **changes)


@pytest.mark.parametrize("changes", [{"shear": np.zeros((1, 2, 4, 5))}, {"mask": torch.ones(1, 1, 4, 5)}])
def test_shear_maps_are_of_tensors(changes):
    with pytest.raises(TypeError, match="must be"):
        a_map(**changes)


def test_signs_are_signs():
    assert ": signs " in refused(a_map().with_signs, 1, 2)
    assert "convention" in refused(a_map().in_convention, "iau")
