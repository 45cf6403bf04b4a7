"""Views that the detector truncates: analytic ellipses cut by a short detector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand
from radon_truth import Ellipse, bins, half_turn, some_angles, tensor, truth, turn

from operators import FanBeam, Radon
from operators.ct.truncation import fit_ellipse

BODY = Ellipse(1.0, 25.0, 19.0, 1.5, -2.0, 0.4)
INSERTS = (Ellipse(0.3, 4.0, 3.0, 3.0, 2.0, 0.1), Ellipse(-0.4, 2.0, 3.5, -4.0, 1.0, 0.0))
FAN = {"source_origin": 150.0, "origin_detector": 75.0, "pitch": 1.5}
SCANS = {
    "half the width": Radon((64, 64), half_turn(90), n_detectors=32),
    "image as wide as the detector": Radon((32, 32), half_turn(90), n_detectors=32),
    "three quarters": Radon((64, 64), half_turn(90), n_detectors=48),
    "one side": Radon((64, 64), half_turn(90), n_detectors=40, offset=12.0),
    "off the axis": Radon((64, 64), half_turn(90), n_detectors=32, offset=5.0),
    "wide bins": Radon((64, 64), half_turn(90), n_detectors=16, pitch=2.0),
    "other unit": Radon((64, 64), half_turn(90), n_detectors=32, pitch=0.1, pixel_size=0.1),
    "fan": FanBeam((64, 64), turn(120), n_detectors=32, **FAN),
    "fan, off the axis": FanBeam((64, 64), turn(120), n_detectors=32, offset=7.0, **FAN),
}


def middle(x: torch.Tensor) -> float:
    """Mean within 8 pixels of the axis."""
    n = x.shape[-1] // 2
    return float(x[..., n - 8 : n + 8, n - 8 : n + 8].mean())


@pytest.mark.parametrize("name", SCANS)
def test_the_middle_of_a_truncated_object_has_its_value(name: str) -> None:
    op = SCANS[name]
    size = op.pixel_size
    objects = [e.scaled(size)._replace(density=e.density) for e in (BODY, *INSERTS)]
    y = truth(op, *objects)
    want = middle(sum(tensor(e.image(op.shape, size)) for e in objects))
    assert op.is_truncated(y) == [True]
    assert abs(middle(op.fbp(y)) / want - 1) < 0.005  # measured: 0.0 to 0.24 %
    n = 2 * 25.3 * 1.05  # the body's reach, with the margin
    assert abs(op.image_size(y) - n) < 3
    if name in ("half the width", "image as wide as the detector", "fan"):
        assert middle(op.fbp(y, extend=False)) / want > 1.13


@pytest.mark.parametrize("n", [64, 128, 512])
def test_an_object_that_just_fits_is_not_truncated(n: int) -> None:
    """A disc has steep ends: the last 2 % of the bins read a tenth of its middle, and the last one 0."""
    op = Radon((n, n), half_turn(30), n_detectors=n)
    y = truth(op, Ellipse(1.0, n / 2 - 1, n / 2 - 1, 0.0, 0.0, 0.0))
    assert op.is_truncated(y) == [False]
    assert torch.equal(op.fbp(y), op.fbp(y, extend=False))
    assert op.is_truncated(truth(op, Ellipse(1.0, n / 2 + 1, n / 2 + 1, 0.0, 0.0, 0.0))) == [True]


def test_a_noisy_scan_has_it_too() -> None:
    op = SCANS["half the width"]
    y = truth(op, BODY, *INSERTS)
    want = middle(sum(tensor(e.image(op.shape, 1.0)) for e in (BODY, *INSERTS)))
    noisy = y + 0.03 * float(y.max()) * rand(*y.shape, seed=1)
    assert abs(middle(op.fbp(noisy)) / want - 1) < 0.03


@pytest.mark.parametrize("half", [10.0, 14.0, 30.0])
def test_the_fit_finds_a_uniform_ellipse(half: float) -> None:
    """From the views of less than half of it, and from whole ones."""
    angles = half_turn(45)
    t = (np.arange(40) - 19.5) * (half / 20)
    y = BODY.sinogram(angles, t, half / 20)
    found = fit_ellipse(y, angles[:, None], t, None)
    a, b = sorted((found.a, found.b))
    assert abs(a / 19 - 1) < 0.03 and abs(b / 25 - 1) < 0.03
    assert math.hypot(found.x - 1.5, found.y + 2.0) < 0.5
    bounded = fit_ellipse(y, angles[:, None], t, 22.0)
    assert max(bounded.a, bounded.b) < 22.001


def test_views_that_fall_to_zero_are_not_continued() -> None:
    """Bit for bit, and so are noise, half acquisition in a full turn, and opposite signs."""
    inside = Ellipse(1.0, 12.0, 9.0, 1.0, -2.0, 0.4)
    half = Radon((64, 64), turn(90), n_detectors=40, offset=15.0)
    scans = [
        (Radon((64, 64), half_turn(60), n_detectors=40), inside),
        (half, BODY),
        (FanBeam((64, 64), turn(90), n_detectors=40, offset=22.0, **FAN), BODY),
    ]
    for op, object_ in scans:
        y = truth(op, object_)
        y = y + 0.02 * float(y.max()) * rand(*y.shape, seed=2)
        assert op.is_truncated(y) == [False]
        assert torch.equal(op.fbp(y), op.fbp(y, extend=False))
    for y in (rand(1, 1, 90, 40), -truth(half, BODY), torch.zeros(1, 1, 90, 40, dtype=F64)):
        assert torch.equal(half.fbp(y), half.fbp(y, extend=False))
    # Of half a turn nothing sees what the short side does not.
    short = Radon((64, 64), half_turn(90), n_detectors=40, offset=15.0)
    assert short.is_truncated(truth(short, BODY)) == [True]


def test_images_of_a_batch_have_what_they_would_have_alone() -> None:
    op = SCANS["half the width"]
    y = torch.cat([truth(op, BODY), truth(op, Ellipse(1.0, 12.0, 9.0, 1.0, -2.0, 0.4))])
    y = torch.cat([y, 2 * y], 1)
    assert op.is_truncated(y) == [True, False]
    both = op.fbp(y)
    for k in range(2):
        assert torch.equal(both[k : k + 1], op.fbp(y[k : k + 1]))
    torch.testing.assert_close(both[:, 1], 2 * both[:, 0])
    assert (-3 * op).is_truncated(-3 * y) == [True, False]
    assert (-3 * op).image_size(-3 * y) == op.image_size(y)


def test_gradients_flow_through_continued_views() -> None:
    op = Radon((16, 16), some_angles(20), n_detectors=10)
    y = truth(op, Ellipse(1.0, 7.0, 6.0, 0.0, 0.0, 0.0)).requires_grad_()
    assert op.is_truncated(y) == [True]
    (gradient,) = torch.autograd.grad(op.fbp(y).sum(), y)
    (plain,) = torch.autograd.grad(op.fbp(y, extend=False).sum(), y)
    assert bool(gradient.isfinite().all()) and not torch.equal(gradient, plain)


def test_few_bins_are_never_called_truncated() -> None:
    op = Radon((8, 8), some_angles(5), n_detectors=2)
    y = torch.ones(1, 1, 5, 2, dtype=F64)
    assert op.is_truncated(y) == [False] and bool(op.fbp(y).isfinite().all())
    assert bins(op).shape == (2,)
