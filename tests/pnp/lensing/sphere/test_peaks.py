"""Peaks of the sphere against a loop over healpy's neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arrays import rand

from pnp.lensing.sphere import find_peaks, match_peaks

healpy = pytest.importorskip("healpy", reason="healpy is not installed")
pytest.importorskip("ducc0", reason="ducc0 is not installed")


def test_peaks_exceed_their_neighbours() -> None:
    x, mask = rand(1, 1, 768), rand(1, 1, 768, seed=1) > -1
    expected = []
    for pixel in range(768):
        around = healpy.get_all_neighbours(8, pixel)
        around = around[around >= 0]
        if mask[0, 0, pixel] and bool(mask[0, 0, around].all()) and bool((x[0, 0, around] < x[0, 0, pixel]).all()):
            expected.append(pixel)
    peaks = find_peaks(x, mask=mask)
    assert sorted(peaks.pixel.tolist()) == expected and bool((peaks.height.diff() <= 0).all())
    assert np.allclose(healpy.ang2pix(8, peaks.ra.numpy(), peaks.dec.numpy(), lonlat=True), peaks.pixel.numpy())
    high = find_peaks(x, mask=mask, threshold=1.0)
    assert bool((high.height > 1).all()) and len(high.pixel) == int((peaks.height > 1).sum())
    scaled = find_peaks(2 * x, mask=mask, threshold=1.0, noise_std=torch.tensor(2.0))
    assert torch.equal(scaled.pixel, high.pixel)


def test_matches_are_pairs_within_the_radius() -> None:
    a, b = torch.zeros(1, 1, 768), torch.zeros(1, 1, 768)
    neighbour = healpy.get_all_neighbours(8, 300)[0]
    a[0, 0, [300, 600]], b[0, 0, [int(neighbour), 50]] = 1.0, 1.0
    peaks, truth = find_peaks(a, threshold=0.5), find_peaks(b, threshold=0.5)
    assert match_peaks(peaks, truth, nside=8, radius_arcmin=60 * 9) == 1
    assert match_peaks(peaks, truth, nside=8, radius_arcmin=30) == 0
    assert match_peaks(peaks, peaks, nside=8, radius_arcmin=1) == 2
    assert match_peaks(find_peaks(a, threshold=5.0), truth, nside=8, radius_arcmin=600) == 0
    with pytest.raises(ValueError, match="x must"):
        find_peaks(a[0])
