"""Errors of detector bins that x explains by rings and arcs are said, and what is round about the axis is none.

The scans are of a finer grid than the images, with white noise; which bins are off is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from arrays import F64, rand
from torch import Tensor
from torch.nn.functional import avg_pool2d

from denoisers import TV
from operators import FanBeam, Radon
from pnp import LeastSquares, solve
from pnp.phantoms import chest, head, perforated_disc

N, VIEWS, STD = 64, 90, 0.01
ANGLES = torch.arange(VIEWS, dtype=F64) * (math.pi / VIEWS)
TURN = torch.arange(120, dtype=F64) * (2 * math.pi / 120)


def parallel(n: int, **options: Any) -> Radon:
    return Radon((n, n), ANGLES, n_detectors=N, pixel_size=N / n, **options)


def off_axis(n: int) -> Radon:
    return Radon((n, n), TURN, n_detectors=50, offset=7.0, pixel_size=N / n)


def fan(n: int) -> FanBeam:
    return FanBeam((n, n), TURN, source_origin=200.0, origin_detector=100.0, pitch=1.5, pixel_size=N / n)


def shells(n: int) -> Tensor:
    """Discs and shells about the axis, a pixel of the image thin: all of it is a ring."""
    t = (torch.arange(n) - (n - 1) / 2) / (n / 2)
    r = torch.hypot(t[:, None], t)
    x = 1.0 * (r < 0.8) - 0.5 * (r < 0.5) + 0.3 * (r < 0.2)
    for radius in (0.1, 0.3, 0.6, 0.7):
        x = x + 0.4 * ((r - radius).abs() < 1.0 / N)
    return x[None, None]


def measured(make: Callable[[int], Any], picture: Callable[[int], Tensor]) -> tuple[Any, Tensor]:
    """Return the operator of the image, and measurements of a picture of twice its resolution, 2 at most."""
    x = picture(2 * N)
    A = make(N)
    clean = make(2 * N).A(x / float(A.A(avg_pool2d(x, 2)).max()) * 2)
    return A, clean + STD * rand(*clean.shape, seed=1, dtype=clean.dtype)


def said(A: Any, y: Tensor, **options: Any) -> str:
    return " ".join(solve(A, y, TV(), noise_std=STD, **options).warnings)


@pytest.mark.parametrize(
    ("make", "picture"),
    [(parallel, head), (parallel, chest), (parallel, perforated_disc), (off_axis, shells), (fan, head)],
)
def test_sound_detectors_are_not_blamed(make: Callable[[int], Any], picture: Callable[[int], Tensor]) -> None:
    assert "of the detector" not in said(*measured(make, picture))


def test_a_thin_wall_where_its_path_turns_back_is_no_error() -> None:
    """It stays in one bin for many views; before and after it is in the bin beside that."""
    angles = torch.arange(60, dtype=F64) * (math.pi / 60)
    A, fine = (Radon((n, n), angles, n_detectors=48, pixel_size=32 / n) for n in (32, 64))
    t = (torch.arange(64) - 31.5) / 32
    radius = torch.hypot(t[:, None], t - 0.15)
    clean = fine.A(((radius > 0.55) & (radius < 0.6)).float()[None, None])
    y = clean / clean.max() + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert "of the detector" not in " ".join(solve(A, y, TV(), noise_std=0.1).warnings)


@pytest.mark.parametrize(("make", "views"), [(parallel, slice(None)), (off_axis, slice(30, 60)), (fan, slice(30, 60))])
def test_a_bin_that_is_off_is_named(make: Callable[[int], Any], views: slice) -> None:
    """In all views, and in a run of them; the residuals of x alone show little of it."""
    A, y = measured(make, head)
    k = y.shape[-1] // 2 - 9
    y[:, :, views, k] += 0.1
    (sentence,) = solve(A, y, TV(), noise_std=STD).warnings
    assert f"bin {k} of the detector" in sentence and "bin_std='estimate'" in sentence
    run = re.search(r"views (\d+) to (\d+)", sentence)
    found = None if run is None else [int(edge) for edge in run.groups()]
    assert found is None if views.start is None else found == pytest.approx([views.start, views.stop - 1], abs=1)
    assert len(sentence) < 400


def test_several_bins_are_named() -> None:
    A, y = measured(parallel, head)
    y[..., [22, 35]] += torch.tensor([0.06, -0.06])
    assert "bins 22, 35 of the detector differ from their" in said(A, y)


def test_bins_whose_errors_are_modelled_are_not_said_again() -> None:
    A, y = measured(parallel, head)
    y[..., 30:60, 22] += 0.1
    assert "of the detector" not in said(A, y, data_term=LeastSquares(bin_std="estimate"))
