"""Blur.from_psf against point spread functions of known centre, sum and background."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rel
from numpy.typing import NDArray
from scipy import ndimage

from operators import Blur, Downsample, gaussian_kernel
from pnp import solve

SHAPE = (64, 64)
Y = torch.rand(1, 1, *SHAPE)


def gaussian(n: int = 25, row: float | None = None, column: float | None = None, std: float = 2.0) -> NDArray[Any]:
    """A Gaussian that sums to 1, centred at n // 2 unless said otherwise."""
    rows, columns = (np.arange(n) - (n // 2 if c is None else c) for c in (row, column))
    g = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * std**2))
    return np.asarray(g / g.sum())


def counts(psf: NDArray[Any], light: float, offset: float = 100, read_noise: float = 3, seed: int = 0) -> NDArray[Any]:
    """A camera's image of it: photons, offset and read noise, as 16 bits."""
    rng = np.random.default_rng(seed)
    noisy = rng.poisson(light * psf) + offset + read_noise * rng.standard_normal(psf.shape)
    return np.asarray(noisy.round().astype(np.uint16))


MEASURED = {
    "centred": gaussian(),
    "even size, half a pixel off": gaussian(24, 11.5, 11.5),
    "three pixels off": gaussian(25, 15, 15),
    "in counts": 30000 * gaussian(),
    "on a pedestal": gaussian() + 1e-3,
    "off, in counts, on a pedestal": 500 + 3e4 * gaussian(31, 13.3, 17.6),
}


@pytest.mark.parametrize("name", MEASURED)
def test_every_measurement_of_one_psf_is_one_kernel(name: str) -> None:
    """The kernel is the PSF itself at the centre that `Blur` means, of either parity."""
    psf = MEASURED[name]
    A = Blur.from_psf(psf, SHAPE, "reflect")
    truth = gaussian(len(psf))
    assert A.kernel.dtype == F64 and A.boundary == "reflect"
    assert float(A.kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert rel(A.kernel, torch.from_numpy(truth)) < 2e-4
    assert A.concerns(Y) == []


def test_the_image_is_where_scipy_blurred_it() -> None:
    """Blurred by SciPy, deblurred with the PSF of a bead off the centre in counts: as with the true kernel."""
    truth = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 2.5)) * 10
    y = torch.from_numpy(ndimage.gaussian_filter(truth.numpy(), 2.0, mode="reflect"))[None, None]
    y += 0.005 * torch.randn(y.shape, dtype=F64, generator=torch.Generator().manual_seed(0))

    def error(A: Blur) -> float:
        x = solve(A, y, lambda x, sigma: x, noise_std=0.005, max_iter=3).x
        return rel(x[0, 0], truth)

    best = error(Blur(gaussian(), SHAPE, "reflect"))
    for psf in (MEASURED["off, in counts, on a pedestal"], MEASURED["even size, half a pixel off"]):
        assert error(Blur.from_psf(psf, SHAPE, "reflect")) == pytest.approx(best, rel=0.02)
        assert error(Blur(psf / psf.sum(), SHAPE, "reflect")) > 1.2 * best


def test_the_report_says_what_was_done() -> None:
    A = Blur.from_psf(500 + 3e4 * gaussian(31, 13.25, 17.5), SHAPE)
    report = A.psf_report
    assert report is not None and report.reaches_background
    assert report.pedestal == pytest.approx(500) and report.sum == pytest.approx(3e4, rel=1e-5)
    assert report.shift_px == pytest.approx((1.75, -2.5), abs=1e-4)
    for text in ("pedestal 500", "(+1.75, -2.50) px", "30000"):
        assert text in str(report)
    assert Blur(gaussian(), SHAPE).psf_report is None
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        assert twin.psf_report == report


@pytest.mark.parametrize("seed", range(5))
def test_a_cameras_noise_is_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(24, 32))
    row, column = n // 2 + rng.uniform(-3, 3, 2)
    A = Blur.from_psf(counts(gaussian(n, row, column), 3e4, seed=seed), SHAPE)
    assert A.psf_report is not None and A.psf_report.reaches_background
    assert A.psf_report.shift_px == pytest.approx((n // 2 - row, n // 2 - column), abs=0.07)
    assert A.psf_report.sum == pytest.approx(3e4, rel=0.03)
    assert A.psf_report.pedestal_std == pytest.approx(3, rel=0.4)
    assert A.kernel.dtype == torch.float32
    assert rel(A.kernel.double(), torch.from_numpy(gaussian(n))) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int32])
def test_any_real_dtype(dtype: torch.dtype) -> None:
    psf = torch.from_numpy((4000 * gaussian()).round() + 20)[None, None]
    A = Blur.from_psf(psf.to(dtype), SHAPE)
    assert A.kernel.dtype == torch.float32 and A.kernel.shape == (25, 25)
    assert rel(A.kernel.double(), torch.from_numpy(gaussian())) < 0.03
    assert torch.equal(Blur.from_psf(psf.to(dtype)[0, 0], SHAPE).kernel, A.kernel)


def test_an_asymmetric_psf_is_centred_by_its_centroid() -> None:
    streak = np.zeros((31, 31))
    streak[12, 9:18] = np.arange(1, 10)  # centroid at column 9 + 16/3
    A = Blur.from_psf(ndimage.gaussian_filter(streak, 1.0), SHAPE)
    assert A.psf_report is not None
    assert A.psf_report.shift_px == pytest.approx((3, 15 - 9 - 16 / 3), abs=1e-6)
    columns = torch.arange(31, dtype=F64)
    assert float((A.kernel.sum(0) * columns).sum()) == pytest.approx(15, abs=0.01)


def test_whole_pixels_are_moved_exactly() -> None:
    k = np.zeros((9, 10))
    k[2:5, 3:6] = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    A = Blur.from_psf(k, SHAPE)
    assert torch.equal(A.kernel[3:6, 4:7], torch.from_numpy(k[2:5, 3:6]) / 16)
    assert float(A.kernel.sum()) == 1


@pytest.mark.parametrize("std", [4.0, 6.0])
def test_a_border_within_the_psf_is_said(std: float) -> None:
    psf = gaussian(std=std)
    A = Blur.from_psf(psf, SHAPE)
    assert A.psf_report is not None and not A.psf_report.reaches_background
    (sentence,) = A.concerns(Y)
    assert "pedestal=" in sentence and sentence[len("Blur: ") :] in str(A.psf_report) and len(sentence) < 400
    given = Blur.from_psf(psf, SHAPE, pedestal=0.0)
    assert given.concerns(Y) == [] and rel(given.kernel, torch.from_numpy(psf)) < 0.02


def test_a_psf_cut_off_by_the_border_is_said() -> None:
    A = Blur.from_psf(gaussian(25, 21.5, 12), SHAPE)
    assert A.psf_report is not None and not A.psf_report.reaches_background


RADIUS = np.hypot(*(np.mgrid[:25, :25] - 12))
NOISE = np.random.default_rng(1).standard_normal((25, 25))
BEAD = 100 * gaussian() / gaussian().max()


def test_discs_rings_and_points_are_psfs() -> None:
    for psf in (RADIUS < 6, (RADIUS < 7) & (RADIUS > 3), RADIUS == 0):
        A = Blur.from_psf(psf.astype(float), SHAPE)
        assert rel(A.kernel, torch.from_numpy(psf / psf.sum())) < 1e-12
    noisy = Blur.from_psf((RADIUS < 6) + 0.01 * NOISE, SHAPE)
    assert rel(noisy.kernel, torch.from_numpy((RADIUS < 6) / (RADIUS < 6).sum())) < 0.02


def test_a_computed_psf_between_pixels_is_not_saturated() -> None:
    """Four equal maxima at 255, by symmetry."""
    psf = gaussian(24, 11.5, 11.5)
    A = Blur.from_psf((255 * psf / psf.max()).round().astype(np.uint8), SHAPE)
    assert A.psf_report is not None and A.psf_report.shift_px == (0.5, 0.5)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "two beads": (BEAD + np.roll(BEAD, (7, 6), (0, 1)), ValueError, "one peak"),
    "a fainter bead": (BEAD + 0.3 * np.roll(BEAD, (7, 6), (0, 1)), ValueError, "one peak"),
    "hot pixel": (BEAD + NOISE + 1000 * ((RADIUS > 13.4) & (RADIUS < 13.5)), ValueError, "hot pixels"),
    "inverted": (-BEAD, ValueError, "negative"),
    "dark on bright": (200 - BEAD, ValueError, "negative"),
    "saturated, 8 bits": (np.minimum(3 * BEAD, 255).round().astype(np.uint8), ValueError, "saturated"),
    "saturated, 12 bits": (np.minimum(50 * BEAD + 100 + 5 * NOISE, 4095).round(), ValueError, "saturated"),
    "a full well below the largest value": (
        np.minimum(50 * BEAD + 100 + 5 * NOISE, 3000).round(),
        ValueError,
        "saturated",
    ),
    "saturated, scaled to 1": (np.minimum(0.012 * BEAD + 0.002 * NOISE, 1), ValueError, "saturated"),
    "larger than the image": (gaussian(65), ValueError, r"crop .* psf\[\.\.\., 0:64, 0:64\]"),
    "constant": (np.ones((9, 9)), ValueError, "peak"),
    "noise": (NOISE, ValueError, "peak"),
    "not finite": (np.where(RADIUS < 1, np.nan, BEAD), ValueError, "finite"),
    "a vector": (np.ones(9), ValueError, r"got \(9,\)"),
    "too small": (np.ones((3, 3)), ValueError, r"got \(3, 3\)"),
    "colours": (np.ones((3, 9, 9)), ValueError, r"got \(3, 9, 9\)"),
    "complex": (BEAD + 0j, TypeError, "complex128"),
    "masked": (np.ma.masked_greater(BEAD, 99.0), TypeError, "masked"),
    "a file": ("psf.tif", TypeError, "str"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_psf_is_refused(name: str) -> None:
    psf, error, part = BAD[name]
    with pytest.raises(error, match=f"^Blur.from_psf: psf .*{part}") as caught:
        Blur.from_psf(psf, SHAPE)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", ["0", True, math.nan])
def test_a_bad_pedestal_is_refused(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="pedestal"):
        Blur.from_psf(BEAD, SHAPE, pedestal=bad)


# What Blur says of kernels given to it as they are


def test_psfs_used_as_kernels_are_doubted() -> None:
    (sentence,) = Blur(30000 * gaussian(), SHAPE).concerns(Y)
    assert "sums to 3e+04" in sentence and "from_psf" in sentence and len(sentence) < 400
    (sentence,) = Blur(gaussian() + 1e-3, SHAPE).concerns(Y)
    assert "border" in sentence and "from_psf" in sentence and len(sentence) < 400
    assert len(Blur(counts(gaussian(), 3e4), SHAPE).concerns(Y)) == 2
    assert len(Downsample(SHAPE, 2, 30000 * gaussian()).concerns(Y)) == 1


RIGHTFUL = {
    "gaussian": gaussian(),
    "wide gaussian": gaussian(std=8.0),
    "box": np.ones((9, 9)) / 81,
    "sum over a box": np.ones((9, 9)),
    "binomial": np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]),
    "centre-weighted mean": np.ones((3, 3)) + 8 * (np.mgrid[:3, :3] == 1).all(0),
    "motion": np.eye(15) / 15,
    "motion off the centre": np.eye(15)[:, ::-1] * (np.arange(15) < 6),
    "shift": np.roll(RADIUS == 0, 5, 0).astype(float),
    "shifted gaussian": gaussian(25, 14.3, 11.2),
    "gradient": np.array([[0.0, 1.0, -1.0]]),
    "laplacian": np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]),
    "disc": (RADIUS < 6) / (RADIUS < 6).sum(),
    "exponential": np.exp(-RADIUS / 10) / np.exp(-RADIUS / 10).sum(),
    "lorentzian": 1 / (1 + (RADIUS / 6) ** 2),
    "glare": 0.7 * (RADIUS == 0) + 0.3 / 625,
}


@pytest.mark.parametrize("name", RIGHTFUL)
def test_kernels_that_people_use_rightly_are_not_doubted(name: str) -> None:
    A = Blur(RIGHTFUL[name], SHAPE)
    assert A.concerns(Y) == [] and A.concerns(255 * Y) == []


def test_a_gain_of_counts_is_not_doubted() -> None:
    A = Blur(30000 * gaussian_kernel(2.0, dtype=F64), SHAPE)
    assert A.concerns(A.A(Y.double())) == []
