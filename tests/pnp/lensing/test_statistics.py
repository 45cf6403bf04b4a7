"""Statistics of mass maps: against direct sums, known fields, and what masks leave."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from pnp.lensing import (
    minima_counts,
    moments,
    peak_counts,
    starlet_l1_norm,
    starlet_peak_counts,
    starlet_std,
    starlet_transform,
)

EDGES = torch.linspace(-3, 3, 13)


def field(batch=2, size=64, seed=0):
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hole(size=64):
    mask = torch.ones(1, 1, size, size, dtype=torch.bool)
    mask[..., 10:30, 20:50] = False
    return mask


def test_minima_are_the_lowest_of_nine_pixels():
    x = field()
    low = ndimage.minimum_filter(x.numpy(), (1, 1, 3, 3)) == x.numpy()
    low[..., [0, -1], :] = low[..., :, [0, -1]] = False
    want = [np.histogram(x[b].numpy()[low[b]], EDGES.numpy())[0] for b in range(2)]
    assert minima_counts(x, EDGES).tolist() == np.stack(want).tolist()


def test_starlet_peaks_are_those_of_each_scale():
    x, unit = field(), torch.tensor([0.9, 0.2, 0.1])
    c = starlet_transform(x, 3, border="mirror")
    counts = starlet_peak_counts(x, EDGES, n_scales=3, unit=unit)
    assert counts.shape == (2, 3, 12) and counts.dtype == torch.int64
    for j in range(3):
        assert torch.equal(counts[:, j], peak_counts(c[j] / unit[j], EDGES))


@pytest.mark.parametrize("masked", [False, True])
def test_the_l1_norm_is_a_sum_of_coefficients_in_bins(masked):
    x, mask = field(), hole() if masked else None
    norm = starlet_l1_norm(x, EDGES, n_scales=4, mask=mask)
    c = starlet_transform(x if mask is None else torch.where(mask, x, 0), 4, border="mirror")
    for b in range(2):
        for j in range(4):
            values = (c[j, b] if mask is None else c[j, b][mask[0]]).flatten()
            want, _ = np.histogram(values, EDGES.numpy(), weights=values.abs())
            np.testing.assert_allclose(norm[b, j], want, rtol=1e-12)


def test_noise_has_a_unit_of_one():
    noise = field(8)
    unit = starlet_std(noise, n_scales=4)
    c = starlet_transform(noise, 4, border="mirror")[:-1]
    torch.testing.assert_close(unit, c.square().mean((1, 2, 3, 4)).sqrt())
    # Of white noise the finest scale of the starlet keeps 0.89 and the next 0.2 (Starck and Murtagh).
    torch.testing.assert_close(unit[:2], torch.tensor([0.889, 0.2], dtype=torch.float64), rtol=0, atol=0.015)
    # A Gaussian has 2 phi(0) = 0.798 for its mean |c|.
    wide = torch.tensor([-9.0, 9.0])
    mean = starlet_l1_norm(field(8, seed=1), wide, n_scales=1, unit=unit[:1]) / 64**2
    assert mean.mean() == pytest.approx(math.sqrt(2 / math.pi), rel=0.01)


def test_moments_of_known_fields():
    x = field(4, 256)
    skew = torch.expm1(0.5 * x)  # lognormal
    got = moments(skew, [0.0])
    for b in range(4):
        values = skew[b].flatten().numpy()
        assert got.variance[b, 0] == pytest.approx(values.var())
        assert got.skewness[b, 0] == pytest.approx(stats.skew(values))
        assert got.kurtosis[b, 0] == pytest.approx(stats.kurtosis(values))
    gaussian = moments(x, [0.0, 2.0])
    # White noise after a Gaussian of s pixels has the variance 1 / (4 pi s^2).
    torch.testing.assert_close(
        gaussian.variance.mean(0), torch.tensor([1, 1 / (16 * math.pi)]).double(), rtol=0.03, atol=0
    )
    assert gaussian.skewness.abs().max() < 0.2 and gaussian.kurtosis.abs().max() < 0.3


def test_a_hole_changes_neither_a_constant_nor_the_pixels_beyond_it():
    x, mask = field(1, 64), hole()
    x = torch.where(mask, x, math.nan)
    seen = x[mask]
    assert moments(x, [0.0], mask=mask).variance[0, 0] == pytest.approx(float(seen.var(correction=0)))
    tilted = torch.where(mask, 5.0, math.nan).double()
    assert moments(tilted, [3.0], mask=mask).variance[0, 0] < 1e-20
    assert int(starlet_peak_counts(x, torch.tensor([-99.0, 99.0]), mask=mask)[0, 0, 0]) < 64 * 64 / 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions(dtype):
    x = field().to(dtype)
    a, b = starlet_l1_norm(x, EDGES), starlet_l1_norm(x.double(), EDGES)
    torch.testing.assert_close(a.sum(2), b.sum(2), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: minima_counts(field(), EDGES.flip(0)), "edges"),
        (lambda: starlet_l1_norm(field(), torch.tensor([1.0])), "edges"),
        (lambda: starlet_l1_norm(field()[0], EDGES), "x must"),
        (lambda: starlet_peak_counts(field(), EDGES, unit=torch.ones(3)), "unit"),
        (lambda: starlet_peak_counts(field(), EDGES, unit=torch.tensor([1.0, 1, 0, 1])), "unit"),
        (lambda: starlet_peak_counts(field(), EDGES, n_scales=7), "n_scales"),
        (lambda: moments(field(), [-1.0]), "smoothing_px"),
        (lambda: moments(field(), [1.0], mask=torch.zeros(1, 1, 64, 64)), "mask"),
    ],
)
def test_what_cannot_be_counted_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
