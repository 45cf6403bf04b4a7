"""Signs are found where they can be: in simulated catalogues of every convention, and in a real simulation's."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from reader_files import refused

from operators import KaiserSquires
from pnp.lensing import LognormalKappa
from pnp.lensing.bin_catalogue import map_catalogue
from pnp.lensing.sign_conventions import score_conventions
from pnp.readers import ShearCatalogue, ShearMap, read_catalogue

SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
CHOICES = [(signs, swap) for swap in (False, True) for signs in SIGNS]
N, PIXEL = 64, 1.0


@functools.cache
def sky(seed=0):
    """Return kappa and shear (1, C, N, N), cut from a larger periodic sky."""
    g = torch.Generator().manual_seed(seed)
    kappa = LognormalKappa((2 * N, 2 * N), pixel_arcmin=PIXEL, std=0.02)(1, generator=g, dtype=torch.float64)
    return kappa[..., :N, :N], KaiserSquires((2 * N, 2 * N)).A(kappa)[..., :N, :N]


def simulated(signs=(1, 1), swap=False, *, shape_noise=0.0):
    """Return a map of a lognormal sky's galaxies whose components want an exchange, where `swap`, and these signs."""
    c = catalogue(signs, swap, shape_noise=shape_noise)
    return map_catalogue(c, PIXEL, axes="plane", centre=(30.0, 0.0), shape=(N, N))


def catalogue(signs=(1, 1), swap=False, *, shape_noise=0.0, n=40_000):
    """Return these galaxies."""
    kappa, shear = sky()
    g = torch.Generator().manual_seed(1)
    x, y = (N * torch.rand(2, n, generator=g, dtype=torch.float64) - 0.5).numpy()
    column, row = x.round().astype(int), y.round().astype(int)
    e = shear[0, :, row, column] + shape_noise * torch.randn(2, n, generator=g, dtype=torch.float64)
    s1, s2 = signs
    e1, e2 = (s2 * e[1], s1 * e[0]) if swap else (s1 * e[0], s2 * e[1])
    wcs = _grid().wcs
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    return ShearCatalogue(ra, dec, e1.numpy(), e2.numpy(), kappa=kappa[0, 0, row, column].numpy(), max_e=math.inf)


def _grid():
    c = ShearCatalogue(ra=[30.0, 30.1], dec=[0.0, 0.1], e1=[0.1, 0.2], e2=[0.1, 0.2])
    return map_catalogue(c, PIXEL, centre=(30.0, 0.0), shape=(N, N))


@pytest.mark.parametrize("shape_noise", [0.0, 0.05])
@pytest.mark.parametrize(("signs", "swap"), CHOICES)
def test_the_signs_of_a_simulation_are_found(signs, swap, shape_noise):
    m = simulated(signs, swap, shape_noise=shape_noise)
    right = simulated(shape_noise=shape_noise)
    scores = score_conventions(m, n_random=16)
    assert scores.best is not None, scores
    assert (scores.best.signs, scores.best.swap) == (signs, swap)
    assert "fits" in scores.verdict and scores.best is scores.rows[0]
    torch.testing.assert_close(scores.apply(m).shear, right.shear)
    # E and B are the same for a map and its negative, and so are all figures but the skewness
    (negative,) = [row for row in scores.rows if row.signs == (-signs[0], -signs[1]) and row.swap == swap]
    assert negative.e_over_b == scores.best.e_over_b and negative.skewness == -scores.best.skewness


@pytest.mark.parametrize("first", [{}, {"signs": (-1, 1)}, {"signs": (1, -1), "swap": True}])
@pytest.mark.parametrize(("signs", "swap"), [((-1, 1), False), ((1, -1), True), ((1, 1), True)])
def test_the_answer_maps_the_catalogue(signs, swap, first):
    """`map_catalogue(c, ..., **scores.options)` is the right map, however the map that was scored had been made."""
    grid = {"axes": "plane", "centre": (30.0, 0.0), "shape": (N, N)}
    c = catalogue(signs, swap, shape_noise=0.05)
    m = map_catalogue(c, PIXEL, **grid, **first)
    scores = score_conventions(m, n_random=16)
    again = map_catalogue(c, PIXEL, **grid, **scores.options)
    torch.testing.assert_close(again.shear, scores.apply(m).shear)
    torch.testing.assert_close(again.shear, simulated(shape_noise=0.05).shear)
    assert score_conventions(again, n_random=16).options == scores.options


def test_no_answer_is_no_option():
    scores = score_conventions(gaussian(), n_random=8)
    with pytest.raises(ValueError, match="ConventionScores"):
        _ = scores.options


@pytest.mark.parametrize(("signs", "swap"), [((1, 1), False), ((-1, 1), False), ((-1, -1), False), ((1, -1), True)])
def test_truth_decides_where_skewness_does_not(signs, swap):
    """So much shape noise that chance explains the skewness, not the correlation with the truth."""
    m = simulated(signs, swap, shape_noise=0.3)
    blind, seeing = (score_conventions(m, truth=t, n_random=16) for t in (None, m.kappa))
    assert blind.best is None and blind.verdict.startswith("undecided")
    assert seeing.best is not None and (seeing.best.signs, seeing.best.swap) == (signs, swap)
    assert seeing.best.r is not None and seeing.best.r == max(row.r for row in seeing.rows)
    assert "r of truth" in str(seeing) and "r of truth" not in str(blind)


def gaussian(seed=0):
    """A Gaussian sky, of no skewness: its negative is as likely."""
    g = torch.Generator().manual_seed(seed)
    sky = LognormalKappa((2 * N, 2 * N), pixel_arcmin=PIXEL, std=0.02, shift=20.0)
    shear = KaiserSquires((2 * N, 2 * N)).A(sky(1, generator=g))[..., :N, :N]
    return ShearMap(shear, torch.full_like(shear, 1e-3), torch.ones(1, 1, N, N) > 0)


@pytest.mark.parametrize("signs", SIGNS)
def test_the_global_sign_of_a_gaussian_sky_cannot_be_told(signs):
    scores = score_conventions(gaussian().with_signs(*signs), n_random=16)
    assert scores.best is None
    assert "undecided" in scores.verdict and "global sign" in scores.verdict
    assert scores.rows[0].signs in (signs, (-signs[0], -signs[1])) and not scores.rows[0].swap
    assert "undecided" in refused(scores.apply, gaussian())


@pytest.mark.parametrize("seed", range(8))
def test_noise_has_no_convention(seed):
    g = torch.Generator().manual_seed(seed)
    noise_std = torch.rand(1, 1, N, N, generator=g).expand(-1, 2, -1, -1) + 0.1
    mask = torch.rand(1, 1, N, N, generator=g) > 0.3
    shear = torch.where(mask, noise_std * torch.randn(1, 2, N, N, generator=g), torch.zeros(()))
    blind = torch.where(mask, noise_std, torch.full((), math.inf))
    scores = score_conventions(ShearMap(shear, blind, mask), n_random=16)
    assert scores.best is None and scores.verdict.startswith("undecided")


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
def test_scores_are_in_the_convention_of_the_map(convention):
    """Rewritten in another convention, the same mass, the same signs."""
    scores = score_conventions(simulated(shape_noise=0.05).in_convention(convention), n_random=16)
    assert scores.best is not None and (scores.best.signs, scores.best.swap) == ((1, 1), False)


def test_the_unit_of_shear_does_not_matter():
    m = simulated(shape_noise=0.05)
    tiny = ShearMap(1e-9 * m.shear, 1e-9 * m.noise_std, m.mask)
    scores, same = (score_conventions(s, n_random=16) for s in (m, tiny))
    assert scores.best is not None and same.best is not None and same.best.signs == scores.best.signs == (1, 1)
    assert same.best.e_over_b == pytest.approx(scores.best.e_over_b, rel=1e-4)
    assert same.best.sigmas == pytest.approx(scores.best.sigmas, rel=1e-4)


def test_scores_are_reproducible_and_printable():
    m = simulated(shape_noise=0.05)
    make = {"make_operator": functools.partial(KaiserSquires, convention=m.convention)}
    a, b = (score_conventions(m, n_random=16, **options) for options in ({}, make))
    assert a == b and str(a) == str(b)
    c = score_conventions(m, n_random=16, generator=torch.Generator().manual_seed(5))
    assert c.rows != a.rows and c.best.signs == a.best.signs
    lines = str(a).splitlines()
    assert len(lines) == 10 and lines[1].startswith("e1 e2  +1 +1") and lines[-1] == a.verdict


def test_large_maps_are_scored_on_fewer_pixels():
    m = simulated(shape_noise=0.05)
    big = ShearMap(*(t.repeat_interleave(5, -1).repeat_interleave(5, -2) for t in (m.shear, m.noise_std, m.mask)))
    scores = score_conventions(big, n_random=8)
    assert scores.best is not None and scores.best.signs == (1, 1)
    assert scores.smoothing_px % 2 == 0  # 320 pixels per side are averaged to 160


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda m: score_conventions(m, truth=torch.ones(1, 1, 3, 3)), "truth"),
        (lambda m: score_conventions(m, truth=m.mask / 0), "truth"),
        (lambda m: score_conventions(m, n_random=2), "n_random"),
        (lambda m: score_conventions(m, n_sigma=0.0), "n_sigma"),
        (lambda m: score_conventions(_narrow(m)), "16 x 16"),
    ],
)
def test_bad_input_is_one_sentence(call, part):
    assert part in refused(call, gaussian())


def _narrow(m):
    return ShearMap(m.shear[..., :8, :], m.noise_std[..., :8, :], m.mask[..., :8, :])


@pytest.mark.parametrize("east", ["right", "left"])
def test_lenspacks_galaxies_want_their_signs(data_dir, east):
    """(-gamma1, gamma2) on the sky, on whichever side east is drawn; with or without the truth."""
    c = read_catalogue(data_dir / "lensing" / "lenspack_gal_cat.fits")
    assert len(c) == 82_358 and not c.dropped and c.columns["e1"] == "gamma1" and c.columns["z"] == "z_cgal"
    m = map_catalogue(c, 1.0, east=east)
    for truth in (None, m.kappa):
        scores = score_conventions(m, truth=truth)
        assert scores.best is not None and (scores.best.signs, scores.best.swap) == ((-1, 1), False)
        assert scores.best.e_over_b > 5
