"""Scans with zingers, dead samples and bins that do not respond, from raw counts to the image; counts with a gain.

A head of 64 x 64 pixels, 90 views, 20,000 photons a ray. What is right is known: the solve in which the spoiled samples
are marked with infinite noise.
"""

from __future__ import annotations

import math
from typing import Any

import deepinv_rows
import numpy as np
import pytest
import skimage.data
import torch
from arrays import F64, seeded
from torch import Tensor

from denoisers import TV, MLPatch
from operators import Radon
from pnp import LeastSquares, Poisson, psnr, solve
from pnp.ct import line_integrals, simulate_counts
from pnp.phantoms import head

# What deepinv warns of is not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")

N, VIEWS, PHOTONS = 64, 90, 2e4
HEAD = 2 * head(N) / float(head(N).sum(-1).max())
SCANNER = Radon((N, N), torch.arange(VIEWS, dtype=F64) * (math.pi / VIEWS), n_detectors=N)
COUNTS = simulate_counts(SCANNER.A(HEAD)[0, 0], PHOTONS, generator=seeded(0)).numpy()
FLAT = simulate_counts(torch.zeros(10, N), PHOTONS, generator=seeded(1)).numpy()
DRAWN = np.random.default_rng(1).permutation(COUNTS.size)
NETWORK = MLPatch.from_pretrained("gray")


def scan(where: Any, value: float) -> tuple[Tensor, Tensor, Tensor]:
    """Line integrals and noise levels of counts that hold a value at some samples, and a mask of those.

    Nothing is marked before the solve.
    """
    counts, hit = COUNTS.copy(), np.zeros(COUNTS.shape, dtype=bool)
    hit[where] = True
    counts[hit] = value
    found = line_integrals(counts, FLAT, zingers="keep", bad_pixels=np.zeros(N, dtype=bool))
    y, std = (torch.from_numpy(t)[None, None] for t in (found.y, found.noise_std))
    return y, std, torch.from_numpy(hit)[None, None]


def decibels(x: Tensor) -> float:
    return 10 * math.log10(float(HEAD.max()) ** 2 / float((x - HEAD).square().mean()))


def compare(y: Tensor, std: Tensor, hit: Tensor, denoiser: Any) -> tuple[Any, Any, float]:
    """The plain solve, the robust one, and the decibels of the one with marked samples."""
    options: dict[str, Any] = {"noise_std": std, "bounds": (0, None)}
    plain = solve(SCANNER, y, denoiser, **options, data_term=LeastSquares(robust=False))
    robust = solve(SCANNER, y, denoiser, **options, data_term=LeastSquares(robust=True))
    marked = solve(SCANNER, y, denoiser, **options | {"noise_std": torch.where(hit, math.inf, std)})
    return plain, robust, decibels(marked.x)


@pytest.mark.parametrize(("n", "denoiser"), [(1, NETWORK), (12, TV()), (40, TV())])
def test_zingers_of_three_times_the_open_beam(n: int, denoiser: Any) -> None:
    y, std, hit = scan(np.unravel_index(DRAWN[:n], COUNTS.shape), 3 * PHOTONS)
    plain, robust, right = compare(y, std, hit, denoiser)
    assert torch.equal(robust.rejected, hit) and robust.warnings == ()
    assert decibels(robust.x) > right - 0.3 and decibels(plain.x) < right - 5
    assert "outliers" in plain.warnings[0] and "robust=True" in plain.warnings[0]
    default = solve(SCANNER, y, denoiser, noise_std=std, bounds=(0, None))
    assert torch.equal(default.x, robust.x) and torch.equal(default.rejected, hit)
    assert "result.rejected" in default.warnings[0] and "robust=False" in default.warnings[0]


def test_zingers_behind_the_object_as_bright_as_the_open_beam() -> None:
    """No count exceeds the flat field: nothing looks odd before the solve."""
    dark = np.flatnonzero(COUNTS.ravel() < 0.4 * PHOTONS)
    where = np.unravel_index(dark[:: len(dark) // 20][:20], COUNTS.shape)
    y, std, hit = scan(where, PHOTONS)
    _, robust, right = compare(y, std, hit, TV())
    assert torch.equal(robust.rejected, hit) and decibels(robust.x) > right - 0.3


def test_zingers_with_an_estimated_noise_level() -> None:
    y, _, hit = scan(np.unravel_index(DRAWN[:12], COUNTS.shape), 3 * PHOTONS)
    robust = solve(SCANNER, y, TV(), bounds=(0, None), data_term=LeastSquares(robust=True))
    assert robust.noise_estimated and torch.equal(robust.rejected, hit) and decibels(robust.x) > 30


def test_dead_samples_cost_nothing() -> None:
    """Without counts their noise is large, and the preprocessing marks them."""
    y, std, hit = scan(np.unravel_index(DRAWN[:20], COUNTS.shape), 0.0)
    plain, robust, right = compare(y, std, hit, TV())
    assert min(decibels(plain.x), decibels(robust.x)) > right - 0.3
    assert plain.warnings == robust.warnings == () and not (robust.rejected & ~hit).any()


@pytest.mark.parametrize("fraction", [0.1, 0.7])
def test_a_bin_that_does_not_respond(fraction: float) -> None:
    """Also where its value is so near to the others that a ring would explain it."""
    y, std, hit = scan(np.s_[:, 25], fraction * PHOTONS)
    plain, robust, right = compare(y, std, hit, TV())
    assert not (robust.rejected & ~hit).any() and robust.warnings == ()
    assert decibels(robust.x) > right - 0.5 and decibels(robust.x) > decibels(plain.x) + 3


def test_counts_with_a_gain_of_a_photograph() -> None:
    """deepinv's PoissonNoise(gain=0.01) on scikit-image's cameraman: y / 0.01 are the counts."""
    x = torch.from_numpy(skimage.data.camera()[::4, ::4] / 255.0).float()[None, None]
    P = deepinv_rows.P
    physics = P.Denoising(P.PoissonNoise(gain=0.01))
    torch.manual_seed(0)
    y = physics(x)
    result = solve(physics, y, NETWORK, data_term=Poisson(gain=0.01))
    assert result.warnings == () and float(psnr(result.x, x, data_range=1)) > 28.6
    unknown = solve(physics, y, NETWORK, data_term=Poisson())
    assert "gain" in unknown.warnings[0]
    read = solve(physics, y, NETWORK, data_term=Poisson(gain=None, read_noise=None))
    assert torch.equal(read.x, result.x)


def test_electrons_with_read_noise() -> None:
    """Some are below zero."""
    x = torch.from_numpy(skimage.data.camera()[::4, ::4] / 255.0).float()[None, None]
    y = torch.poisson(20 * x, generator=seeded(0)) + 2 * torch.randn(x.shape, generator=seeded(1))
    with pytest.raises(ValueError, match="read_noise"):
        solve(deepinv_rows.P.Denoising(), y, NETWORK, data_term=Poisson())
    result = solve(deepinv_rows.P.Denoising(), y, NETWORK, data_term=Poisson(read_noise=2.0))
    assert result.warnings == () and float(psnr(result.x / 20, x, data_range=1)) > 23
