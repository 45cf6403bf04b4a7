"""Spectra, peaks, residuals and B modes of mass maps against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure, morphology

from operators import KaiserSquires
from pnp.lensing import OddGrid, pixel_spectrum, survey_noise
from pnp.lensing.diagnostics import b_mode_null, power_ratio, whitened_chi2
from pnp.lensing.peaks import find_peaks, match_peaks, peak_counts
from pnp.lensing.shear import noise_like
from pnp.lensing.spectrum import (
    _coupling,
    _power,
    _Rings,
    b_mode,
    band_means,
    band_powers,
    gaussian_maps,
    measured_spectrum,
    on_grid,
    rotated,
    shear_window,
)

# Spectra


@settings(max_examples=12, deadline=None)
@given(height=st.integers(2, 40), width=st.integers(2, 40), n_bands=st.integers(1, 12))
def test_bands_hold_every_frequency_up_to_nyquist_once(height, width, n_bands):
    bands = band_powers(torch.randn(1, 1, height, width, generator=seeded()), n_bands=n_bands)
    k2, k1 = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    f = torch.hypot(k2[:, None], k1)
    assert int(bands.n_modes.sum()) == int(((f > 0) & (f <= 0.5)).sum())
    assert len(bands.edges) == len(bands.frequency) + 1 == bands.power.shape[1] + 1
    assert bool((bands.n_modes > 0).all()) and bool((bands.frequency.diff() > 0).all())


def test_power_of_white_noise_is_its_variance_with_and_without_mask():
    x = 0.3 * torch.randn(64, 1, 48, 50, generator=seeded(), dtype=torch.float64)
    mask = torch.ones(1, 1, 48, 50)
    mask[..., 10:30, 20:35] = 0
    for m in (None, mask, mask * torch.linspace(0.5, 1, 50)):
        power = band_powers(x if m is None else torch.where(m > 0, x, torch.nan), mask=m, n_bands=6).power.mean(0)
        torch.testing.assert_close(power[1:], torch.full_like(power[1:], 0.09), rtol=0.1, atol=0)


def test_a_wave_is_in_its_band():
    rows = torch.arange(64.0, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 8 * rows / 64)[:, None].expand(1, 1, 64, 64)
    bands = band_powers(wave, n_bands=8)
    at = int(bands.power[0].argmax())
    assert bands.edges[at] <= 8 / 64 < bands.edges[at + 1]
    # Two frequencies of |FFT|^2/(H W) = (H W)/4 each.
    assert float(bands.power[0, at] * bands.n_modes[at]) == pytest.approx(2 * 64 * 64 / 4)
    assert float(bands.ell(0.29)[at]) == pytest.approx(
        float(bands.frequency[at]) * 2 * math.pi / (0.29 * math.pi / 10800)
    )


def test_gaussian_maps_have_their_spectrum():
    spectrum = pixel_spectrum((60, 64))
    power = band_powers(gaussian_maps(spectrum, 128, generator=seeded(), dtype=torch.float64), n_bands=6).power.mean(0)
    torch.testing.assert_close(power, band_means(spectrum, n_bands=6), rtol=0.1, atol=0)


@pytest.mark.parametrize("convention", ["lenspack", "conjugate", "transposed"])
def test_b_mode_is_that_of_the_operator(convention):
    A = KaiserSquires((15, 17), convention=convention)
    y = torch.randn(2, 2, 15, 17, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(b_mode(A, y), A.inverse_eb(y)[:, 1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rotated(rotated(y)), -y)
    kappa = torch.randn(1, 1, 15, 17, generator=seeded(), dtype=torch.float64)
    assert float(b_mode(A, A.A(kappa)).abs().max()) < 1e-12


@pytest.fixture(scope="module")
def survey():
    shape = (96, 96)
    return KaiserSquires(shape), survey_noise(shape, generator=seeded(5), std=0.1, holes=8), pixel_spectrum(shape)


def test_measured_spectrum_and_noise_are_those_of_the_simulation(survey):
    A, noise_std, spectrum = survey
    kappa = gaussian_maps(spectrum, 48, generator=seeded(1))
    y = A.A(kappa)
    y = y + noise_like(y, 1.1 * noise_std, generator=seeded(2))  # 10 % more noise than is said
    found = measured_spectrum(A, torch.where(noise_std.isfinite(), y, torch.nan), noise_std)
    assert found.noise_factor == pytest.approx(1.21, rel=0.01)
    ratio = band_means(found.spectrum, n_bands=6) / band_means(spectrum, n_bands=6)
    assert bool(((ratio[:5] > 0.75) & (ratio[:5] < 1.3)).all()), ratio
    assert float(found.spectrum[0, 0]) == 0 and bool((found.spectrum >= 0).all())
    # Behind the mask E keeps nearly all of its power and B has its noise, in the same unit.
    assert float(found.e_mode.power[:, 3:6].mean() / found.b_mode.power[:, 3:6].mean()) > 2


def test_measured_spectrum_of_noise_is_almost_nothing(survey):
    A, noise_std, spectrum = survey
    y = noise_like(torch.zeros(8, 2, 96, 96), noise_std, generator=seeded(3))
    found = measured_spectrum(A, y, noise_std)
    assert float(found.spectrum.mean()) < 0.1 * float(spectrum.mean())


def test_coupling_of_e_and_b_is_that_of_simulations():
    """White convergence behind a mask: the closed form tells how much of each band comes out as E, and as B."""
    A, noise_std = KaiserSquires((41, 41)), torch.full((1, 2, 41, 41), 0.2, dtype=torch.float64)
    noise_std[..., 12:24, 15:30] = math.inf
    v, noise = shear_window("test", noise_std**-2)
    rings = _Rings((41, 41), 5, torch.device("cpu"))

    def bands(shear: torch.Tensor) -> torch.Tensor:
        return torch.cat([rings.mean(_power(m)).mean(0) for m in (A.A_adjoint(v * shear), b_mode(A, v * shear))])

    M = _coupling(v[0, 0], rings)
    for band in (1, 3):  # power in one band alone, so that what leaks into the others is seen
        kappa = gaussian_maps(rings.ring(band), 400, generator=seeded(1), dtype=torch.float64)
        torch.testing.assert_close(M[:, band], bands(A.A(kappa)), rtol=0.08, atol=0.02 * float(M[band, band]))
    assert float(M[5:].sum()) > 0.02 * float(M[:5].sum())  # the mask does turn E into B
    n = noise_like(torch.zeros(100, 2, 41, 41, dtype=torch.float64), noise_std, generator=seeded(4))
    assert float(bands(n).mean()) == pytest.approx(noise, rel=0.03)


# Residuals and B modes


def test_chi2_of_the_truth_is_one_and_of_nothing_more(survey):
    A, noise_std, spectrum = survey
    kappa = gaussian_maps(spectrum, 4, generator=seeded(1))
    y = A.A(kappa)
    y = torch.where(noise_std.isfinite(), y + noise_like(y, noise_std, generator=seeded(2)), torch.nan)
    n = 4 * int(noise_std.isfinite().sum())
    truth = whitened_chi2(A, kappa, y, noise_std)
    assert abs(truth - 1) < 4 * math.sqrt(2 / n)
    assert whitened_chi2(A, torch.zeros_like(kappa), y, noise_std) > truth + 0.01
    two = whitened_chi2(A, torch.zeros(1, 1, 96, 96), 2 * noise_std.nan_to_num(posinf=torch.nan), noise_std)
    assert two == pytest.approx(4, rel=1e-5)


def test_b_mode_null_accepts_lensing_and_rejects_b_modes(survey):
    A, noise_std, spectrum = survey
    kappa = gaussian_maps(spectrum, 1, generator=seeded(1))
    lensing = A.A(kappa) + noise_like(A.A(kappa), noise_std, generator=seeded(2))
    options = {"generator": seeded(9), "spectrum": spectrum, "draws": 60}
    good = b_mode_null(A, lensing, noise_std, **options)
    assert good.p_value > 0.05 and good.dof == len(good.frequency) == len(good.power)
    bad = b_mode_null(A, lensing + 2 * rotated(A.A(kappa)), noise_std, **options)
    assert bad.p_value == pytest.approx(1 / 31) and bad.chi2 > 3 * good.chi2


def test_b_mode_p_values_are_uniform_under_the_null():
    A, noise_std = KaiserSquires((24, 24)), torch.full((1, 2, 24, 24), 0.2)
    noise_std[..., :5] = math.inf
    g, p = seeded(3), []
    for _ in range(40):
        y = noise_like(torch.zeros(1, 2, 24, 24), noise_std, generator=g)
        p.append(b_mode_null(A, y, noise_std, generator=g, draws=28, n_bands=5).p_value)
    values = torch.tensor(p)
    assert 0.38 < float(values.mean()) < 0.65
    assert float((values <= 0.1).float().mean()) < 0.2


@pytest.mark.parametrize("convention", ["lenspack", "conjugate"])
@pytest.mark.parametrize("margin", [0, 12])
def test_b_modes_at_the_edges_of_a_field_cut_from_a_larger_sky_are_expected(convention, margin):
    """Pure lensing, a sky of three times the width: its mass outside makes B in a field that is not periodic."""
    n, noise = 32, 0.01
    sky = KaiserSquires((3 * n, 3 * n), convention=convention)
    truth = pixel_spectrum(sky.shape, 1.0)
    grid = OddGrid((n, n), margin_px=margin)
    A = KaiserSquires(grid.shape, convention=convention)
    std, g, p = grid.embed(torch.full((1, 2, n, n), noise), math.inf), seeded(11), []
    for _ in range(24):
        field = sky.A(gaussian_maps(truth, 1, generator=g))[..., :n, :n]
        y = grid.embed(field + noise * torch.randn(field.shape, generator=g), 0.0)
        spectrum = pixel_spectrum(grid.shape, 1.0)
        p.append(b_mode_null(A, y, std, generator=g, spectrum=spectrum, draws=38, n_bands=6).p_value)
    assert sum(q <= 0.1 for q in p) <= 5, p
    assert 0.3 < sum(p) / len(p) < 0.7


def test_a_field_in_a_grid_of_twice_its_width_is_simulated_there():
    """The other way to the same skies: operator and spectrum on a grid that is large enough."""
    n = 15
    y, std = torch.zeros(1, 2, 2 * n, 2 * n), torch.full((1, 2, 2 * n, 2 * n), math.inf)
    std[..., :n, :n] = 0.05
    made = []

    def make(shape):
        made.append(shape)
        return KaiserSquires(shape)

    options = {"draws": 20, "n_bands": 4, "make_operator": make}
    b_mode_null(KaiserSquires((2 * n, 2 * n)), y, std, generator=seeded(), spectrum=torch.ones(2 * n, 2 * n), **options)
    assert made == []
    b_mode_null(
        KaiserSquires((n, n)),
        y[..., :n, :n],
        std[..., :n, :n],
        generator=seeded(),
        spectrum=torch.ones(n, n),
        **options,
    )
    assert made == [(33, 33)]


def test_skies_of_an_operator_that_is_not_known_need_make_operator():
    class Other:
        def A(self, x):
            return torch.cat([x, x], 1)

        def A_adjoint(self, y):
            return y.sum(1, keepdim=True)

    arguments = Other(), torch.zeros(1, 2, 8, 8), torch.ones(1, 2, 8, 8)
    with pytest.raises(ValueError, match="make_operator") as caught:
        b_mode_null(*arguments, generator=seeded(), spectrum=torch.ones(8, 8), draws=20)
    assert len(str(caught.value)) < 400
    assert b_mode_null(*arguments, generator=seeded(), draws=20).dof > 0  # noise alone needs no sky


@pytest.mark.parametrize(("shape", "wide"), [((32, 32), (64, 64)), ((24, 40), (81, 63)), ((33, 21), (21, 33))])
def test_an_isotropic_spectrum_is_the_same_on_another_grid(shape, wide):
    want, found = pixel_spectrum(wide, 1.0), on_grid(pixel_spectrum(shape, 1.0), wide)
    k2, k1 = (torch.fft.fftfreq(n, dtype=torch.float64) for n in wide)
    known = torch.hypot(k2[:, None], k1) > 0.7 / max(shape)
    torch.testing.assert_close(found[known], want[known], rtol=0.06, atol=0)
    torch.testing.assert_close(found, want, rtol=0.3, atol=0)  # at the least frequencies a power law goes on
    assert not on_grid(torch.zeros(shape), wide).any()


def test_power_ratio_of_a_scaled_map():
    x = torch.randn(2, 1, 32, 32, generator=seeded())
    mask = torch.ones(1, 1, 32, 32)
    mask[..., :9] = 0
    torch.testing.assert_close(
        power_ratio(3 * x, x, mask=mask), torch.full((4,), 9.0, dtype=torch.float64), rtol=1e-5, atol=0
    )


# Peaks


def test_peaks_are_sorted_and_edges_and_masked_neighbours_are_not():
    x = torch.zeros(2, 1, 12, 14)
    for image, row, column, height in [(0, 5, 5, 2.0), (0, 8, 9, 3.0), (0, 0, 4, 9.0), (0, 3, 13, 9.0), (1, 6, 6, 1.0)]:
        x[image, 0, row, column] = height
    peaks = find_peaks(x, threshold=0.5)
    assert [t.tolist() for t in peaks] == [[0, 0, 1], [8, 5, 6], [9, 5, 6], [3.0, 2.0, 1.0]]
    mask = torch.ones(1, 1, 12, 14)
    mask[..., 6, 6] = 0  # a neighbour of (5, 5) and the peak of the second map
    assert find_peaks(x, threshold=0.5, mask=mask).row.tolist() == [8]
    noisy = find_peaks(x, threshold=5, noise_std=torch.tensor(0.5))
    assert noisy.height.tolist() == [6.0]
    assert find_peaks(torch.ones(1, 1, 8, 8)).row.numel() == 0  # a plateau at the edge
    assert find_peaks(torch.rand(1, 1, 2, 9)).row.numel() == 0


def test_one_pixel_of_a_plateau_is_its_peak():
    x = torch.zeros(2, 1, 12, 14)
    x[0, 0, 3:6, 4:7] = 2.0  # nine pixels: the middle one
    x[0, 0, 8, 9] = x[0, 0, 9, 10] = 1.0  # two that touch at a corner
    x[1, 0, 4, 4:8] = 1.0
    x[1, 0, 5, 8] = 3.0  # higher beside it: a terrace
    x[1, 0, 0, 11:13] = x[1, 0, 1, 12] = 5.0  # it reaches the edge
    peaks = find_peaks(x, threshold=0.5)
    assert peaks.image.tolist() == [0, 0, 1] and peaks.height.tolist() == [2.0, 1.0, 3.0]
    assert (int(peaks.row[0]), int(peaks.column[0])) == (4, 5)
    assert (int(peaks.row[1]), int(peaks.column[1])) in [(8, 9), (9, 10)]
    assert (int(peaks.row[2]), int(peaks.column[2])) == (5, 8)
    mask = torch.ones(1, 1, 12, 14)
    mask[..., 2, 5] = 0  # beside the plateau of nine
    assert find_peaks(x, threshold=0.5, mask=mask).height.tolist() == [1.0, 3.0]


@settings(max_examples=15, deadline=None)
@given(levels=st.integers(2, 12), seed=st.integers(0, 999))
def test_peaks_of_a_rounded_map_are_those_of_scikit_image(levels, seed):
    """Against regional maxima by flooding, another definition of a plateau's peak."""
    x = (torch.rand(1, 1, 24, 26, generator=seeded(seed)) * levels).floor()
    regions = measure.label(
        morphology.local_maxima(x[0, 0].numpy(), connectivity=2, allow_borders=False), connectivity=2
    )
    found = find_peaks(x)
    inner = [r for r in measure.regionprops(regions) if r.bbox[0] > 0 and r.bbox[1] > 0]
    inner = [r for r in inner if r.bbox[2] < 24 and r.bbox[3] < 26]
    assert sorted(regions[found.row.numpy(), found.column.numpy()].tolist()) == sorted(r.label for r in inner)


def test_peaks_ignore_nan_outside_the_mask():
    x = torch.full((1, 1, 9, 9), torch.nan)
    x[..., 2:7, 2:7] = 0.0
    x[..., 4, 4] = 1
    assert find_peaks(x, mask=x.isfinite()).row.tolist() == [4]


def test_peak_counts_and_matching():
    x = torch.randn(2, 1, 40, 40, generator=seeded())
    edges = torch.tensor([-1.0, 0.5, 1.0, 2.0, 9.0])
    counts = peak_counts(x, edges)
    heights = find_peaks(x)
    assert counts.shape == (2, 4)
    assert int(counts[1, 2]) == int(((heights.height >= 1) & (heights.height < 2) & (heights.image == 1)).sum())
    truth = find_peaks(x, threshold=1)
    assert match_peaks(truth, truth, radius_px=0) == len(truth.row)
    moved = find_peaks(x.roll(2, -1), threshold=1)
    assert match_peaks(moved, truth, radius_px=1) < match_peaks(moved, truth, radius_px=2) <= len(truth.row)
    one = find_peaks(x, threshold=float(truth.height.max()) - 1e-6)
    assert match_peaks(one, truth, radius_px=100) == 1  # one peak stands for one


def test_peaks_parity_with_lenspack(monkeypatch):
    monkeypatch.setattr(np.lib, "pad", np.pad, raising=False)  # gone since NumPy 2.0; lenspack still asks for it
    peaks2d = pytest.importorskip("lenspack.peaks", reason="lenspack is not installed")
    x = torch.randn(1, 1, 50, 60, generator=seeded(), dtype=torch.float64)
    rows, columns, heights = peaks2d.find_peaks2d(x[0, 0].numpy(), threshold=0.7)
    ours = find_peaks(x, threshold=0.7)
    assert ours.row.tolist() == rows.tolist() and ours.column.tolist() == columns.tolist()
    assert ours.height.tolist() == pytest.approx(heights.tolist())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: band_powers(torch.zeros(8, 8)), r"\(B, 1, H, W\)"),
        (lambda: band_powers(torch.zeros(1, 1, 8, 8), mask=torch.zeros(8, 8)), ": mask "),
        (lambda: band_powers(torch.zeros(1, 1, 8, 8), n_bands=0), "n_bands"),
        (lambda: find_peaks(torch.zeros(1, 2, 8, 8)), r"\(B, 1, H, W\)"),
        (lambda: peak_counts(torch.zeros(1, 1, 8, 8), torch.tensor([1.0, 1.0])), ": edges "),
        (lambda: power_ratio(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9)), "one shape"),
        (
            lambda: b_mode_null(
                KaiserSquires((8, 8)), torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 1, 1), generator=seeded(), draws=5
            ),
            "draws",
        ),
        (
            lambda: measured_spectrum(
                KaiserSquires((8, 8)), torch.zeros(2, 2, 8, 8), torch.rand(2, 2, 8, 8, generator=seeded()) + 1
            ),
            "noise_std",
        ),
        (
            lambda: whitened_chi2(
                KaiserSquires((8, 8)), torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(1)
            ),
            ": y ",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
