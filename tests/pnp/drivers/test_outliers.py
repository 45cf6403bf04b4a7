"""Outliers among the measurements: exactly they are rejected, the image is that without them, and nothing else moves.

The truth of each problem and the samples that are spoiled are known; the reference is the solve in which those have
infinite noise.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, seeded, uniform
from spoiled import (
    ANGLES,
    HEAD,
    KEPT,
    KERNEL,
    RADON,
    ROBUST,
    SINOGRAM,
    STD,
    N,
    distance,
    exact,
    loss,
    marked,
    noisy,
    scene,
    some,
)
from torch import Tensor
from toys import smooth

from denoisers import TV, MLPatch
from operators import Blur, Downsample, Identity, KaiserSquires, Mask, Radon, gaussian_kernel, stack
from pnp import LeastSquares, Poisson, solve
from pnp.ct import Transmission
from pnp.drivers.outliers import find_outliers, repeated_values, stuck_lines

# ---------------------------------------------------------------- sinograms


@pytest.mark.parametrize("n", [1, 12, 100])
def test_zingers_in_a_sinogram(n: int) -> None:
    bad = some(SINOGRAM, n)
    exact(RADON, torch.where(bad, -5.0, SINOGRAM), bad, STD, HEAD, TV())


def test_zingers_behind_a_network_and_a_noise_array() -> None:
    """Noise that differs from ray to ray, as that of counts; the plain solve loses ten decibels."""
    std = STD * (0.5 + uniform(1, 1, 60, N, seed=2, dtype=torch.float32))
    y = RADON.A(HEAD) + std * rand(1, 1, 60, N, seed=3, dtype=torch.float32)
    bad = some(y, 12)
    y, D = torch.where(bad, -5.0, y), MLPatch.from_pretrained("gray")
    robust = exact(RADON, y, bad, std, HEAD, D)
    assert loss(solve(RADON, y, D, noise_std=std, data_term=KEPT), robust, HEAD) > 10


def test_zingers_in_float64_arrays() -> None:
    """NumPy's arrays give NumPy's image and mask."""
    bad = some(SINOGRAM, 12)
    y = torch.where(bad, 40.0, SINOGRAM).double().numpy()
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    assert isinstance(result.rejected, np.ndarray) and result.rejected.dtype == bool and result.x.dtype == np.float64
    assert np.array_equal(result.rejected, bad.numpy()) and result.n_rejected == 12


@pytest.mark.parametrize("value", [1.0, 15.0])
def test_an_unresponsive_bin(value: float) -> None:
    """A bin that holds one value in every view, which a ring would explain; what x predicts to within 3 s may stay."""
    y, bad = SINOGRAM.clone(), torch.zeros_like(SINOGRAM, dtype=torch.bool)
    y[..., 20], bad[..., 20] = value, True
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    assert not (result.rejected & ~bad).any() and (result.rejected & bad).sum() >= 50
    assert loss(result, marked(y, bad, STD, TV(), RADON), HEAD) < 0.3 and not result.warnings


def test_lines_that_mostly_hold_one_value() -> None:
    y = rand(1, 2, 9, 12)
    counted = torch.ones_like(y, dtype=torch.bool)
    assert not stuck_lines(y, counted).any()
    y[0, 1, :5, 3] = 0.7
    expected = y == 0.7
    y[0, 0, 2, :7] = 0.0
    assert torch.equal(stuck_lines(y, counted), expected | (y == 0))
    counted[0, 0, 2, :7] = False
    assert torch.equal(stuck_lines(y, counted), expected), "what a mask drops is stored as zeros"
    assert not stuck_lines(rand(1, 9, 12), counted[0]).any() and not stuck_lines(y.to(torch.complex128), counted).any()


def test_a_bead_that_many_rays_see_is_no_outlier() -> None:
    """One pixel ten times as bright as the object: every view sees it."""
    x = HEAD.clone()
    x[..., 20, 28] = 10.0
    y = noisy(RADON, x, STD)
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    assert result.n_rejected == 0 and float(result.x[..., 20, 28]) > 7


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_hot_and_dead_pixels_behind_a_blur(boundary: str) -> None:
    A = Blur(KERNEL, (N, N), boundary)
    y = noisy(A, scene(), 0.01)
    bad = some(y, 20)
    y = torch.where(bad, torch.where(uniform(*y.shape, seed=7) < 0.5, 0.0, 1.0).float(), y)
    exact(A, y, bad, 0.01, scene(), TV())


def test_a_saturated_star() -> None:
    """Stars far above full well behind a blur: the clipped core of the brightest is left out, the others' not."""
    x = torch.full((1, 1, N, N), 0.1)
    x[..., 20, 30], x[..., 33, 12], x[..., 10, 10] = 40.0, 6.0, 4.0
    A = Blur(gaussian_kernel(1.5), (N, N))
    y = noisy(A, x, 0.005)
    bad = y > 1
    assert 3 < int(bad.sum()) < 30
    result = solve(A, y.clamp(max=1), TV(), noise_std=0.005, data_term=ROBUST)
    plain = solve(A, y.clamp(max=1), TV(), noise_std=0.005, data_term=KEPT)
    sky = x < 1
    assert distance(result.x[sky], x[sky]) < distance(plain.x[sky], x[sky]) / 3 and float(result.x.min()) > -0.5
    assert (result.rejected & bad).sum() >= 15 and not (result.rejected & (A.A(x) < 0.12)).any()
    assert plain.warnings and not result.warnings


@pytest.mark.parametrize("fraction", [0.01, 0.05])
@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("name", ["mask", "identity"])
def test_salt_and_pepper(name: str, bits: int, fraction: float) -> None:
    """Each measurement has its own pixel: x alone could not tell. Data of 8 bits repeat every value."""
    A = Identity((N, N)) if name == "identity" else Mask(uniform(N, N, seed=4) < 0.7)
    y = noisy(Identity((N, N)), scene(), 0.02)
    y = (y * 255).round() / 255 if bits else y
    bad = some(y, round(fraction * y.numel()))
    y = torch.where(bad, torch.where(uniform(*y.shape, seed=8) < 0.5, 0.0, 1.0).float(), y)
    measured = A.A(torch.ones_like(y)) != 0
    exact(A, torch.where(measured, y, 0), bad & measured, 0.02, scene(), TV())


def test_equal_values_of_an_area_are_no_outliers() -> None:
    """A sky clipped at full well, and a black border."""
    y = noisy(Identity((N, N)), scene(), 0.02)
    y[..., :12, :], y[..., :, :5] = 1.0, 0.0
    counted = torch.ones_like(y, dtype=torch.bool)
    assert not repeated_values(y, counted).any()
    y[..., 30, 30] = y[..., 35, 20] = y[..., 40, 40] = 1.0
    assert repeated_values(y, counted).nonzero()[:, 2:].tolist() == [[30, 30], [35, 20], [40, 40]]


def test_salt_beside_pepper_in_black_is_suspect() -> None:
    """Pepper on a nearly black coat is like the pixels around it; white pixels beside it are not."""
    y = 0.02 + 0.01 * torch.randn(1, 1, 40, 40, generator=seeded(0))
    pepper, salt = [(i, j) for i in (8, 20, 32) for j in (8, 20, 32)], [(8, 9), (21, 21), (31, 8)]
    for value, places in ((0.0, pepper), (1.0, salt)):
        rows, columns = torch.tensor(places).T
        y[..., rows, columns] = value
    found = repeated_values(y, torch.ones_like(y, dtype=torch.bool), 0.03)
    assert found.nonzero()[:, 2:].tolist() == [list(place) for place in salt]


def test_noise_that_is_clipped_at_black_is_no_outlier() -> None:
    """Half of a dark sky is exactly 0. A few pixels at its ragged border are like no pixel beside them."""
    x = torch.where(scene() < 0.45, 0.0, scene())
    y = noisy(Identity((N, N)), x, 0.02).clamp(min=0)
    assert int((y == 0).sum()) > 500
    assert solve(Identity((N, N)), y, TV(), noise_std=0.02, data_term=ROBUST).n_rejected < 5


# ---------------------------------------------------------------- counts


def test_hot_counts() -> None:
    A = Radon((N, N), ANGLES, n_detectors=N)
    y = torch.poisson(20 * A.A(HEAD).clamp(min=0) + 5, generator=seeded(1))
    bad = some(y, 12)
    y = torch.where(bad, 5000.0, y)
    x, term = 20 * HEAD, Poisson(background=5.0, robust=True)
    result = solve(A, y, TV(), data_term=term)
    reference = solve(A, torch.where(bad, torch.poisson(20 * A.A(HEAD).clamp(min=0) + 5), y), TV(), data_term=term)
    assert torch.equal(result.rejected, bad) and not result.warnings
    assert loss(result, reference, x) < 0.3
    assert solve(A, y, TV(), data_term=Poisson(background=5.0)).warnings


def test_photons_behind_an_object() -> None:
    x = HEAD / 12
    y = torch.poisson(1e4 * (-RADON.A(x)).exp(), generator=seeded(1))
    bad = some(y, 12)
    hit = torch.where(bad, 3e4, y)
    result = solve(RADON, hit, TV(), data_term=Transmission(1e4, robust=True))
    assert torch.equal(result.rejected, bad) and not result.warnings
    assert loss(result, solve(RADON, y, TV(), data_term=Transmission(1e4)), x) < 0.3


# ---------------------------------------------------------------- operators of any kind


def test_a_pair_of_functions() -> None:
    """Random measurements, of which some are wrong: no neighbours and no attributes."""
    M = rand(1500, N * N, seed=6, dtype=torch.float32) / N
    A = SimpleNamespace(A=lambda x: x.flatten(1) @ M.T, A_adjoint=lambda y: (y @ M).reshape(-1, 1, N, N))
    y = noisy(A, scene(), 0.01)
    bad = some(y, 15)
    exact(A, torch.where(bad, y + 3, y), bad, 0.01, scene(), TV())


def test_complex_measurements() -> None:
    """k-space of a complex image with spikes."""
    A = SimpleNamespace(
        A=lambda x: torch.fft.fft2(x, norm="ortho"), A_adjoint=lambda y: torch.fft.ifft2(y, norm="ortho")
    )
    x = torch.polar(scene(), 0.5 * scene().flip(-1))
    y = noisy(A, x, 0.01)
    bad = some(y, 8)
    hit = torch.where(bad, y + 30 + 20j, y)

    def gauss(v: Tensor, sigma: Any) -> Tensor:
        return 0.2 * v + 0.8 * smooth(smooth(v, sigma), sigma)

    result = solve(A, hit, gauss, noise_std=0.01, data_term=ROBUST)
    assert torch.equal(result.rejected, bad)


def test_only_one_part_of_a_stack_is_hit() -> None:
    A = stack([Blur(KERNEL, (N, N)), Downsample((N, N), 2)])
    y = tuple(noisy(part, scene(), 0.01) for part in A.operators)
    bad = some(y[0], 12)
    spoiled = (torch.where(bad, 2.0, y[0]), y[1])
    result = solve(A, spoiled, TV(), noise_std=0.01, data_term=ROBUST)
    assert isinstance(result.rejected, tuple) and [m.shape for m in result.rejected] == [part.shape for part in y]
    assert torch.equal(result.rejected[0], bad) and not result.rejected[1].any() and result.n_rejected == 12
    noise = (torch.where(bad, math.inf, torch.tensor(0.01)), 0.01)
    assert loss(result, solve(A, spoiled, TV(), noise_std=noise), scene()) < 0.3


def test_only_one_image_of_a_batch_is_hit() -> None:
    """The other image, brighter and noisier, is what it is alone, bit for bit."""
    y = torch.cat([SINOGRAM, 100 * SINOGRAM.flip(-1)])
    std = torch.tensor([STD, 100 * STD])
    bad = torch.cat([some(SINOGRAM, 12), torch.zeros_like(SINOGRAM, dtype=torch.bool)])
    result = solve(RADON, torch.where(bad, -5.0, y), TV(), noise_std=std, data_term=ROBUST)
    assert torch.equal(result.rejected, bad) and result.rejected.shape == y.shape
    alone = solve(RADON, torch.where(bad, -5.0, y)[:1], TV(), noise_std=STD, data_term=ROBUST)
    assert distance(result.x[:1], alone.x) < 1e-4


# ---------------------------------------------------------------- clean data

CLEAN = {
    "radon": RADON,
    "mask": Mask(uniform(N, N, seed=4) < 0.6),
    "identity": Identity((N, N)),
    "blur": Blur(KERNEL, (N, N)),
    "blur-valid": Blur(KERNEL, (N, N), "valid"),
    "downsample": Downsample((N, N), 2),
    "kaiser-squires": KaiserSquires((N, N)),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", list(CLEAN))
def test_nothing_is_rejected_from_clean_data(name: str, seed: int) -> None:
    A = CLEAN[name]
    x = HEAD if name == "radon" else scene()
    std = STD if name == "radon" else 0.02
    y = noisy(A, x, std, seed)
    if name == "mask":
        y = y * A.A(torch.ones_like(y))
    robust, plain = (solve(A, y, TV(), noise_std=std, data_term=LeastSquares(robust=r)) for r in (True, False))
    assert robust.n_rejected == 0 and robust.rejected.shape == y.shape and plain.rejected is None
    assert torch.equal(robust.x, plain.x) and robust.history == plain.history


def test_too_many_are_not_rejected_and_it_is_said() -> None:
    """A third of the rays: the model is wrong, and not they."""
    y = torch.where(some(SINOGRAM, SINOGRAM.numel() // 3), -5.0, SINOGRAM)
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    assert result.n_rejected == 0 and result.warnings


def test_too_many_in_one_image_of_a_batch_spoil_no_other() -> None:
    """A third of one image is a tenth of the batch, and still too many of that image."""
    y = torch.cat([SINOGRAM, SINOGRAM.flip(-1), SINOGRAM.flip(-2)])
    many, few = some(SINOGRAM, SINOGRAM.numel() // 3), some(SINOGRAM, 12, seed=1)
    y[:1], y[1:2] = torch.where(many, -5.0, y[:1]), torch.where(few, -5.0, y[1:2])
    result = solve(RADON, y, TV(), noise_std=STD, data_term=ROBUST)
    assert not result.rejected[0].any() and torch.equal(result.rejected[1:2], few) and not result.rejected[2].any()
    assert result.warnings


def test_the_verdict_takes_over_what_the_last_round_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*arguments: Any) -> Any:
        calls.append(arguments)
        return find_outliers(*arguments)

    for module in ("problem", "verdict"):
        monkeypatch.setattr(f"pnp.drivers.{module}.find_outliers", counting)
    solve(Identity((N, N)), noisy(Identity((N, N)), scene(), 0.02), TV(), noise_std=0.02)
    assert len(calls) == 1
