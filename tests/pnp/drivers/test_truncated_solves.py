"""Interior scans: a detector that ends inside the object, whose values in the middle are still those of the object."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from arrays import F64, seeded
from torch import Tensor

from denoisers import TV, MLPatch
from operators import FanBeam, Radon
from pnp import solve
from pnp.algorithms.least_squares import LeastSquares
from pnp.ct import Transmission
from pnp.phantoms import chest, head, perforated_disc

N, STD = 64, 0.005
ANGLES = torch.arange(90, dtype=F64) * (math.pi / 90)
PHANTOMS = {"head": head(N), "chest": chest(N), "disc": perforated_disc(N)}
PHANTOMS = {name: 3 * x / float(x.sum(-1).max()) for name, x in PHANTOMS.items()}


def measured(A: Any, x: Tensor, std: float = STD) -> Tensor:
    y = A.A(x)
    return y + std * torch.randn(y.shape, generator=seeded(0))


def error(found: Tensor, x: Tensor, n: int) -> float:
    """Relative error of the mean in the middle half of a field of view of n pixels."""
    middle, centre = slice(N // 2 - n // 4, N // 2 + n // 4), found.shape[-1] // 2
    mine = slice(centre - n // 4, centre + n // 4)
    return float(found[..., mine, mine].mean() / x[..., middle, middle].mean() - 1)


@pytest.mark.parametrize(("name", "half"), [("head", 0.03), ("chest", 0.06), ("disc", 0.05)])
def test_the_middle_has_the_right_value(name: str, half: float) -> None:
    """A detector of three quarters of the width, and of a half; FBP of views continued by zeros is +20 to +40 % off."""
    x = PHANTOMS[name]
    for n, bound in ((48, 0.02), (32, half)):
        A = Radon((N, N), ANGLES, n_detectors=n)
        y = measured(A, x)
        result = solve(A, y, TV(), noise_std=STD, bounds=(0, None))
        assert abs(error(result.x, x, n)) < bound
        assert any("ends of the detector" in sentence for sentence in result.warnings)
    assert error(A.fbp(y, extend=False), x, n) > 0.15


def test_ends_without_weight_do_not_hide_it() -> None:
    x, A = PHANTOMS["head"], Radon((N, N), ANGLES, n_detectors=36)
    std = torch.full((36,), STD)
    std[:2] = std[-2:] = math.inf
    y = torch.where(std.isfinite(), measured(A, x), math.nan)
    result = solve(A, y, TV(), noise_std=std, bounds=(0, None))
    assert abs(error(result.x, x, 32)) < 0.06  # 0.16 where only y itself is asked
    assert any("ends of the detector" in sentence for sentence in result.warnings)
    small = torch.nn.functional.pad(torch.nn.functional.avg_pool2d(x, 2), [N // 4] * 4)
    y = torch.where(std.isfinite(), measured(A, small), math.nan)
    result = solve(A, y, TV(), noise_std=std, bounds=(0, None))
    assert abs(error(result.x, small, 16)) < 0.02
    assert not any("ends of the detector" in sentence for sentence in result.warnings)


def test_networks_fans_and_one_sided_detectors_have_it_too() -> None:
    x = PHANTOMS["head"]
    fan = FanBeam((N, N), 2 * ANGLES, source_origin=150.0, origin_detector=75.0, n_detectors=32, pitch=1.5)
    cases = [
        (Radon((N, N), ANGLES, n_detectors=32), MLPatch.from_pretrained("gray"), STD, 0.03),
        (Radon((N, N), ANGLES, n_detectors=32), TV(), 10 * STD, 0.05),
        (fan, TV(), STD, 0.04),
        (Radon((N, N), ANGLES, n_detectors=48, offset=12.0), TV(), STD, 0.01),
    ]
    for A, denoiser, std, bound in cases:
        found = solve(A, measured(A, x, std), denoiser, noise_std=std, bounds=(0, None)).x
        assert abs(error(found, x, 32)) < bound


def test_an_image_of_the_field_of_view_is_said_to_be_too_small() -> None:
    x = PHANTOMS["head"]
    y = measured(Radon((N, N), ANGLES, n_detectors=32), x)
    small = Radon((32, 32), ANGLES, n_detectors=32)
    (sentence,) = solve(small, y, TV(), noise_std=STD, bounds=(0, None)).warnings
    n = small.image_size(y)
    assert 58 <= n <= 66 and f"({n}, {n})" in sentence and "beyond the image" in sentence
    wide = Radon((n, n), ANGLES, n_detectors=32)
    assert abs(error(solve(wide, y, TV(), noise_std=STD, bounds=(0, None)).x, x, 32)) < 0.03


def test_whole_and_half_acquired_objects_are_not_called_truncated() -> None:
    x = PHANTOMS["head"]
    turn = torch.arange(180, dtype=F64) * (math.pi / 90)
    for A in (
        Radon((N, N), ANGLES),
        Radon((N, N), ANGLES, n_detectors=N),
        Radon((N, N), turn, n_detectors=48, offset=15.0),
    ):
        y = measured(A, x)
        assert not any(A.is_truncated(y))
        assert not any("ends of the detector" in w for w in solve(A, y, TV(), noise_std=STD, bounds=(0, None)).warnings)


def test_the_start_of_truncated_scans() -> None:
    """FBP of each image as it would have it alone; rays without weight are filled in; counts start like their log."""
    x = torch.cat([PHANTOMS["head"], PHANTOMS["chest"]])
    A = Radon((N, N), ANGLES, n_detectors=32)
    y = measured(A, x)
    weights = torch.ones_like(y)
    together = LeastSquares().bind(A, y, weights).initial()
    torch.testing.assert_close(together, A.fbp(y))
    torch.testing.assert_close(together[1:], A.fbp(y[1:]))
    weights[..., 7], y[..., 7] = 0, 0
    assert abs(error(LeastSquares().bind(A, y, weights).initial()[:1], x[:1], 32)) < 0.05
    y = A.A(x[:1])
    start = Transmission(1e7).bind(A, 1e7 * (-y).exp(), torch.tensor(1.0)).initial()
    assert float((start - A.fbp(y)).norm() / start.norm()) < 1e-3
