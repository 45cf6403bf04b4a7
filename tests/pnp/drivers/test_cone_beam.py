"""solve() on cone-beam scans: denoisers of images, slice by slice, and any noise; a preconditioner that pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from ellipsoids import Ellipsoid, cone_views
from radon_truth import turn

from denoisers import TV, MLPatch, SliceWise
from operators import ConeBeam
from pnp import solve
from pnp.algorithms.linalg import cg, operator_norm

HEAD = (Ellipsoid((0, 0, 0), (7, 6, 6), 0.3), Ellipsoid((2, -2, 1), (2.5, 2.5, 3), 0, 0.6))


def cone(n_angles: int = 16, shape: tuple[int, int, int] = (14, 16, 16), **options: Any) -> ConeBeam:
    geometry = {"source_origin": 60.0, "origin_detector": 30.0, "pitch": 1.5} | options
    return ConeBeam(shape, turn(n_angles), **geometry)


@pytest.mark.parametrize("denoiser", ["tv", "gray"])
def test_a_noisy_scan_is_better_than_fdk(denoiser: str) -> None:
    op = cone(12)
    truth = sum(part.raster(op) for part in HEAD)
    y = (cone_views(op, *HEAD) + 0.7 * rand(1, 1, 12, *op.detector_shape)).float().numpy()
    D = SliceWise(TV() if denoiser == "tv" else MLPatch.from_pretrained("gray"), axes=(0, 1, 2))
    result = solve(op, y, D, bounds=(0, None), max_iter=4)
    assert isinstance(result.x, np.ndarray) and result.x.shape == (1, 1, 14, 16, 16) and result.x.min() >= 0
    assert result.noise_std == pytest.approx(0.7, rel=0.1) and result.noise_source == "estimated from y"
    assert 0.8 < result.misfit < 1.3 and not result.warnings
    best_fdk = min(rel(op.fbp(torch.from_numpy(y), window), truth) for window in ("ramp", "hann"))
    assert rel(result.x, truth) < 0.7 * best_fdk


def test_a_batch_has_what_each_volume_would_have_alone() -> None:
    op = cone(6, (4, 8, 8))
    y = op.A(torch.stack([HEAD[0].raster(op)[0], 3 * HEAD[1].raster(op)[0]]))
    y = y + 0.3 * rand(*y.shape)
    D = SliceWise(TV(), axes=(0, 1, 2))
    options: dict[str, Any] = {"noise_std": 0.3, "max_iter": 2}
    both = solve(op, y, D, **options).x
    assert rel(solve(op, y[1:], D, **options).x, both[1:]) < 1e-3


def test_measurements_without_weight_do_not_count() -> None:
    """A bad column of the detector, marked by an infinite noise level."""
    op = cone(8, (8, 12, 12))
    y = cone_views(op, HEAD[1]) + 0.3 * rand(1, 1, 8, *op.detector_shape)
    spoiled, noise_std = y.clone(), torch.full_like(y, 0.3)
    spoiled[..., 9] = 1e3
    noise_std[..., 9] = torch.inf
    D = SliceWise(TV(), axes=(0, 1, 2))
    clean = solve(op, y, D, noise_std=0.3, max_iter=3).x
    assert rel(solve(op, spoiled, D, noise_std=noise_std, max_iter=3).x, clean) < 0.2


@pytest.mark.parametrize(("degrees", "at_most"), [(360.0, 0.6), (220.0, 0.75), (90.0, 0.95)])
def test_the_preconditioner_cuts_the_iterations(degrees: float, at_most: float) -> None:
    op = ConeBeam(
        (8, 20, 20), turn(16, degrees), source_origin=100.0, origin_detector=50.0, pitch=1.5, voxel_size=(1.2, 1, 1)
    )
    x = Ellipsoid((1, -2, 1), (6, 7, 3)).raster(op)
    alpha = torch.tensor(0.01 * operator_norm(op.A_adjoint_A, x, rtol=1e-2) ** 2, dtype=F64)
    M = op.preconditioner(torch.tensor(1.0, dtype=F64))

    def normal(v: torch.Tensor) -> torch.Tensor:
        return op.A_adjoint_A(v) + alpha * v

    b = normal(x)
    plain = cg(normal, b, rtol=1e-3, max_iter=100)
    helped = cg(normal, b, preconditioner=lambda r: M(r, alpha), rtol=1e-3, max_iter=100)
    assert rel(normal(helped.x), b) < 2e-3
    assert helped.n_iter <= at_most * plain.n_iter
