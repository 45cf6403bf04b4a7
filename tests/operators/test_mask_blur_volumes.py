"""Mask, Blur and Identity on volumes: against SciPy and deepinv, measured PSFs in space, whole solves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from scipy import ndimage, signal
from torch import Tensor

from denoisers import TV
from operators import Blur, Identity, Mask, gaussian_kernel
from pnp import solve

SHAPE = (20, 20, 24)


def beads(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Small balls and a rod in a dark volume (1, 1, D, H, W), values up to 1."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    volume = 0.6 * ((z - 5.5) ** 2 + (y - 10) ** 2 < 6.0)
    for _ in range(5):
        centre = rng.uniform(2, np.array(shape) - 3)
        volume = np.maximum(volume, sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < 5.0)
    return torch.from_numpy(volume.astype(np.float64))[None, None]


@pytest.mark.parametrize("size", [(3, 3, 3), (2, 5, 4), (1, 4, 1)])
@pytest.mark.parametrize(("boundary", "mode"), [("circular", "wrap"), ("reflect", "reflect")])
def test_blur_is_scipys_convolution(size: tuple[int, ...], boundary: str, mode: str) -> None:
    k, x = rand(*size), rand(2, 1, 6, 7, 8, seed=1)
    y = Blur(k, (6, 7, 8), boundary).A(x)
    for b in range(2):
        want = ndimage.convolve(x[b, 0].numpy(), k.numpy(), mode=mode)
        assert rel(y[b, 0], torch.from_numpy(want)) < 1e-12
    valid = Blur(k, (6, 7, 8), "valid")
    want = signal.convolve(x[0, 0].numpy(), k.numpy(), mode="valid", method="direct")
    assert rel(valid.A(x)[0, 0], torch.from_numpy(want)) < 1e-12
    assert valid.y_shape == ("C", *want.shape)


def test_blur_is_that_of_deepinv() -> None:
    from deepinv.physics import Blur as Peer

    k, x = gaussian_kernel((0.7, 0.4, 0.9)), rand(1, 1, 9, 10, 11, dtype=torch.float32)
    peer = Peer(filter=k[None, None], padding="circular")
    assert rel(Blur(k, (9, 10, 11)).A(x), peer.A(x)) < 1e-5


def test_a_gaussian_has_a_width_for_every_axis() -> None:
    k = gaussian_kernel((2.0, 0.8, 1.1), dtype=F64)
    assert k.shape == (17, 9, 11) and float(k.sum()) == pytest.approx(1, abs=1e-14)
    t = [torch.arange(n, dtype=F64) - n // 2 for n in k.shape]
    for axis, std in enumerate((2.0, 0.8, 1.1)):
        other = [a for a in range(3) if a != axis]
        assert float((k.sum(other) * t[axis].square()).sum()) == pytest.approx(std**2, rel=2e-3)
    assert torch.equal(gaussian_kernel((1.3, 1.3)), gaussian_kernel(1.3))
    for bad in (0.0, math.nan, (1.0,), (1.0, 2.0, -1.0), (1.0,) * 4):
        with pytest.raises(ValueError, match="std_px"):
            gaussian_kernel(bad)


def test_masks_of_volumes() -> None:
    m, x = rand(4, 5, 6) > 0, rand(2, 3, 4, 5, 6, seed=1)
    A = Mask(m, dimensions=3)
    assert torch.equal(A.A(x), m * x) and A.x_shape == ("C", 4, 5, 6) and "dimensions=3" in repr(A)
    assert torch.equal(Mask(m[None, None], dimensions=3).A(x), m * x)
    own = Mask(torch.stack([m, ~m, m]), dimensions=3)
    assert own.x_shape == (3, 4, 5, 6) and torch.equal(own.A(x)[:, 1], ~m * x[:, 1])
    with pytest.raises(ValueError, match="dimensions=3"):
        Mask(m[None, None])
    with pytest.raises(ValueError, match="dimensions"):
        Mask(m, dimensions=1)
    with pytest.raises(ValueError, match="D, H, W"):
        Mask(m[0], dimensions=3)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match=r"kernel must be \(depth, height, width\)"):
        Blur(torch.ones(3, 3), SHAPE)
    with pytest.raises(ValueError, match=r"kernel.*shape as \(H, W\)|kernel must be \(height, width\)"):
        Blur(torch.ones(3, 3, 3), (8, 8))
    with pytest.raises(ValueError, match="kernel must fit"):
        Blur(torch.ones(21, 3, 3), SHAPE)
    with pytest.raises(ValueError, match=r"crop it, y\[\.\.\., 1:19, 0:20, 1:23\]"):
        Blur(torch.ones(3, 1, 3), SHAPE, "valid").A_adjoint(torch.zeros(1, 1, *SHAPE))
    for wrong in ((1.5, 2, 3), (0, 2, 3), 5, (2, 3, 4, 5)):
        with pytest.raises((TypeError, ValueError), match="shape"):
            Identity(wrong)  # type: ignore[arg-type]


def test_a_measured_bead_in_space_is_the_kernel() -> None:
    """Off its centre, in counts, on a pedestal, with a camera's noise: the PSF itself, where `Blur` has its centre."""
    size, std, off = (19, 21, 21), (2.2, 1.2, 1.2), (0.4, -1.3, 2.25)
    t = np.ix_(*(np.arange(n) - n // 2 for n in size))
    exact = np.exp(-sum((a / s) ** 2 for a, s in zip(t, std, strict=True)) / 2)
    moved = np.exp(-sum(((a - o) / s) ** 2 for a, s, o in zip(t, std, off, strict=True)) / 2)
    rng = np.random.default_rng(0)
    counts = rng.poisson(4000 * moved) + 100 + 3 * rng.standard_normal(size)
    A = Blur.from_psf(counts.round().astype(np.uint16), (24, 32, 32))
    assert A.psf_report is not None and A.psf_report.reaches_background
    assert A.psf_report.shift_px == pytest.approx([-o for o in off], abs=0.05)
    assert A.psf_report.pedestal == pytest.approx(100, abs=1)
    assert rel(A.kernel, torch.from_numpy(exact / exact.sum()).float()) < 0.05
    assert "moved by (-0.39, +1.30, -2.24) px" in str(A.psf_report)
    clean = Blur.from_psf(7 + 5e3 * moved, (24, 32, 32))
    assert rel(clean.kernel, torch.from_numpy(exact / exact.sum())) < 5e-3
    with pytest.raises(ValueError, match=r"psf must be \(depth, height, width\)"):
        Blur.from_psf(counts[0], (24, 32, 32))
    with pytest.raises(ValueError, match="psf must fit"):
        Blur.from_psf(counts, (12, 32, 32))


@pytest.mark.parametrize("boundary", ["circular", "reflect", "valid"])
def test_deconvolution_sharpens(boundary: str) -> None:
    truth, k = beads().float(), gaussian_kernel((1.4, 0.9, 0.9))[2:-2]
    A = Blur(k, SHAPE, boundary)
    y = A.A(truth)
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    result = solve(A, y, TV(), noise_std=0.01, bounds=(0.0, None))
    inside = tuple(slice(n // 2, m - n // 2) for n, m in zip(k.shape, SHAPE, strict=True))
    blurred = Blur(k, SHAPE, "reflect").A(truth)
    assert rel(result.x[0, 0][inside], truth[0, 0][inside]) < 0.65 * rel(blurred[0, 0][inside], truth[0, 0][inside])
    assert 0.85 < result.misfit < 1.5  # "valid": TV smooths what lies beyond the edges, in two dimensions as well


def test_the_noise_of_volumes_is_estimated() -> None:
    truth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((24, 32, 32)), 2.0)
    y = torch.from_numpy(5 * truth)[None, None].float()
    y = y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    result = solve(Identity((24, 32, 32)), y, TV(), max_iter=4)
    assert float(result.noise_std) == pytest.approx(0.05, rel=0.2)


def test_lost_voxels_are_filled_from_all_sides() -> None:
    row, column = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(24.0) - 11.5, indexing="ij")
    truth = ((row**2 + column**2 < 50) + 0.5 * (column > 6)).expand(1, 1, *SHAPE)  # the same in all slices
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.3
    y = Mask(mask, dimensions=3).A(truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)))
    x = solve(Mask(mask, dimensions=3), y, TV(), noise_std=0.02).x
    stack = solve(Mask(mask), y[:, 0], TV(), noise_std=0.02).x  # slices as channels, each by itself
    lost = ~mask
    assert rel(x[..., lost], truth[..., lost]) < 0.8 * rel(stack[:, lost], truth[0, :, lost])
