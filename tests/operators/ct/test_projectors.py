"""What parallel and fan beams share: FBP of scans of every kind, derivatives in the geometry, units, mistakes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from radon_truth import Ellipse, tensor, truth, turn
from torch import Tensor

from operators import FanBeam, Radon
from operators.ct.view_weights import view_weights

RNG = np.random.default_rng(0)
PROJECTORS: dict[str, Callable[..., Radon | FanBeam]] = {
    "radon": Radon,
    "fan": lambda shape, angles, **options: FanBeam(
        shape, angles, **({"source_origin": 2.4 * shape[0], "origin_detector": 0.8 * shape[0], "pitch": 1.3} | options)
    ),
}


# ------------------------------------------------------------------------------------------------------- FBP

DISC = Ellipse(1.0, 30, 30, 12, -15, 0)
STEP = math.radians(1)
SCANS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full turn": (turn(360), {}),
    "both ends of the turn": (np.arange(361) * STEP, {}),
    "a turn and a half": (np.arange(540) * STEP, {}),
    "backwards, from anywhere": (5.0 - turn(360), {}),
    "short scan": (np.arange(217) * STEP, {}),
    "three quarters": (2 + np.arange(271) * STEP, {}),
    "encoder jitter": (turn(720) + 2e-4 * RNG.standard_normal(720), {}),
    "two turns, nearly the same": (np.arange(720) * STEP + 2e-5 * RNG.standard_normal(720), {}),
    "a block missing": (np.array([a for a in range(360) if not 100 <= a < 130]) * STEP, {}),
    "two blocks missing": (np.array([a for a in range(360) if not (100 <= a < 120 or 200 <= a < 220)]) * STEP, {}),
    "offset": (turn(360), {"offset": 5.3}),
    "half a detector": (turn(360), {"n_detectors": 121, "offset": 50.0}),
    "the other half": (turn(360), {"n_detectors": 121, "offset": -50.0}),
    "a fiftieth seen twice": (turn(360), {"n_detectors": 115, "offset": 55.0}),
}


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("projector", PROJECTORS)
def test_fbp_of_a_disc_is_the_disc(projector: str, scan: str) -> None:
    angles, options = SCANS[scan]
    op = PROJECTORS[projector]((128, 128), angles, **options)
    x = op.fbp(truth(op, DISC))[0, 0].numpy()
    inside = DISC._replace(a=24.0, b=24.0).image(op.shape) == 1
    outside = DISC._replace(a=36.0, b=36.0).image(op.shape) == 0
    assert abs(x[inside].mean() - 1) < 0.002 and x[inside].std() < 0.015
    assert abs(x[outside].mean()) < 0.002 and x[outside].std() < 0.025


@pytest.mark.parametrize("projector", PROJECTORS)
def test_fbp_from_random_directions_keeps_the_level(projector: str) -> None:
    inside = DISC._replace(a=24.0, b=24.0).image((128, 128)) == 1
    for seed in range(4):
        op = PROJECTORS[projector]((128, 128), np.random.default_rng(seed).uniform(0, 2 * math.pi, 400))
        assert abs(op.fbp(truth(op, DISC))[0, 0].numpy()[inside].mean() - 1) < 0.01


@pytest.mark.parametrize("projector", PROJECTORS)
def test_fbp_of_a_full_turn_averages_what_it_sees_twice_whatever_the_offset(projector: str) -> None:
    y = torch.randn(8, 1, 180, 96, generator=torch.Generator().manual_seed(0))
    near = torch.as_tensor(np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 30)
    ops = {o: PROJECTORS[projector]((96, 96), turn(180), n_detectors=96, pitch=1.0, offset=o)
           for o in (0, 0.4, 1, 3, -6)}  # fmt: skip
    noise = {offset: float(op.fbp(y)[..., near].std()) for offset, op in ops.items()}
    assert max(noise.values()) < 1.03 * min(noise.values())


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("offset", [0.4, 0.5, 3.0, 25.5, -33.0, 44.9])
def test_weights_of_opposite_rays_sum_to_one_and_change_smoothly(projector: str, offset: float) -> None:
    make = PROJECTORS[projector]
    u = torch.linspace(-48 - abs(offset), 48 + abs(offset), 2001, dtype=F64)
    op = make((96, 96), turn(180), n_detectors=96, pitch=1.0, offset=offset)
    side = op._side(u)
    assert rel(side + op._side(-u), torch.full_like(u, 1 if op._off_axis else 2)) < 1e-12
    assert op._off_axis == (abs(offset) >= 0.5)
    if op._off_axis:
        short = 48 - abs(offset)
        inner = u.abs() < short - min(10, short, 2 * abs(offset))
        assert (side[inner] == 0.5).all()
        assert float(side[u.sign() * math.copysign(1, offset) * u.abs() < -short].max()) < 1e-12


DEGREES: dict[str, tuple[Any, float, list[tuple[float, float]]]] = {
    "even": (np.arange(180), 180, []),
    "dense, then sparse": (np.r_[np.arange(0.0, 90), np.arange(90.0, 180, 15)], 180, []),
    "pairs": (np.r_[np.arange(12) * 30, np.arange(12) * 30 + 0.01], 360, []),
    "golden": (np.arange(100) * 137.508, 360, []),
    "one view": ([77.0], 180, []),
    "narrow arc": (np.linspace(0, 30, 121), 360, [(-0.125, 30.25)]),
    "few views": (np.arange(6) * 30, 360, [(-15, 180)]),
    "two narrow arcs": (np.r_[np.linspace(0, 15, 31), np.linspace(100, 115, 31)], 360, [(99.75, 15.5), (-0.25, 15.5)]),
}


@pytest.mark.parametrize("case", DEGREES)
def test_shares_add_up_to_what_was_measured(case: str) -> None:
    degrees, period, arcs = DEGREES[case]
    found = view_weights(torch.as_tensor(np.deg2rad(degrees)), math.radians(period))
    assert (found.shares > 0).all()
    measured = sum(extent for _, extent in arcs) if arcs else period
    assert math.degrees(float(found.shares.sum())) == pytest.approx(measured, rel=1e-6)
    np.testing.assert_allclose(np.rad2deg(found.arcs).reshape(-1, 2), np.reshape(arcs, (-1, 2)), atol=1e-5)


# --------------------------------------------------------------------------------------------- calculus

TINY: dict[str, Callable[..., Radon | FanBeam]] = {
    "radon": Radon,
    "fan": lambda shape, angles, **more: FanBeam(shape, angles, source_origin=6.0, origin_detector=3.0, **more),
}


@pytest.mark.parametrize("options", [{}, {"n_detectors": 3}, {"pitch": 2.0}, {"pitch": 0.6}], ids=str)
@pytest.mark.parametrize("projector", TINY)
def test_gradients_reach_image_angles_and_offset_twice(projector: str, options: dict[str, float]) -> None:
    # The angle 0 has k_y = 0 throughout, where careless derivatives of sinc are NaN.
    angles = torch.tensor([0.0, 0.7, 2.0], dtype=F64, requires_grad=True)
    offset = torch.tensor(0.3, dtype=F64, requires_grad=True)
    make = TINY[projector]
    x = rand(2, 1, 5, 4).requires_grad_()
    y = rand(2, 1, 3, make((5, 4), angles, offset=offset, **options).n_detectors, seed=1).requires_grad_()
    for name, data in (("A", x), ("A_adjoint", y), ("A_adjoint_A", x)):

        def f(data: Tensor, angles: Tensor, offset: Tensor, name: str = name) -> Tensor:
            result: Tensor = getattr(make((5, 4), angles, offset=offset, **options), name)(data)
            return result

        assert torch.autograd.gradcheck(f, (data, angles, offset))
        assert torch.autograd.gradgradcheck(f, (data, angles, offset))


@pytest.mark.parametrize("projector", TINY)
def test_fbp_has_gradients_but_for_its_weights(projector: str) -> None:
    angles = torch.tensor([0.1, 0.7, 2.0], dtype=F64, requires_grad=True)  # no pixel at a kink of the interpolation
    offset = torch.tensor(0.3, dtype=F64, requires_grad=True)
    still = TINY[projector]((5, 4), angles.detach(), offset=0.3, n_detectors=11)
    y = rand(1, 1, 3, 11).requires_grad_()

    def f(y: Tensor, angles: Tensor, offset: Tensor) -> Tensor:
        op = TINY[projector]((5, 4), angles, offset=offset, n_detectors=11)
        op._ray_weights = still._ray_weights  # type: ignore[method-assign]
        return op.fbp(y)

    assert torch.autograd.gradcheck(f, (y, angles, offset))


@pytest.mark.parametrize("projector", PROJECTORS)
def test_an_optimizer_finds_the_centre_of_rotation_and_a_wrong_angle(projector: str) -> None:
    x = tensor(Ellipse(1.0, 9, 5, 3, -2, 0.3).image((32, 32)))
    true, make = turn(6, 180), PROJECTORS[projector]
    y = make((32, 32), true, n_detectors=79, offset=1.5).A(x)
    angles = torch.tensor(true + np.array([0, 0.1, 0, 0, -0.05, 0]), requires_grad=True)
    offset = torch.nn.Parameter(torch.tensor(0.0, dtype=F64))
    op = make((32, 32), angles, n_detectors=79, offset=offset)
    assert [name for name, _ in op.named_parameters()] == ["offset"]
    optimizer = torch.optim.LBFGS([angles, offset], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (op.A(x) - y).square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # moves the tensors in place: the operator must notice
    assert float(offset.detach()) == pytest.approx(1.5, abs=1e-3)
    assert np.abs(angles.detach().numpy() - true).max() < 1e-3
    with torch.no_grad():
        assert rel(op.A_adjoint_A(x), op.A_adjoint(op.A(x))) < 1e-11


# --------------------------------------------------------------------------------------------- programming


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_changed_attribute_changes_the_operator(projector: str) -> None:
    op, x = PROJECTORS[projector]((16, 16), turn(5), n_detectors=21, pitch=1.0), rand(1, 1, 16, 16)
    op.A(x)
    op.pitch = 1.5
    want = PROJECTORS[projector]((16, 16), turn(5), n_detectors=21, pitch=1.5)
    assert torch.equal(op.A(x), want.A(x))


@pytest.mark.parametrize("projector", PROJECTORS)
def test_angles_keep_their_precision_as_parameters_too(projector: str) -> None:
    angles = torch.nn.Parameter(torch.as_tensor(turn(5)))
    op = PROJECTORS[projector]((16, 16), angles).to(torch.float32)
    assert op.angles.dtype == F64 and [name for name, _ in op.named_parameters()] == ["angles"]


@pytest.mark.parametrize("projector", PROJECTORS)
def test_lengths_in_different_units_are_noticed(projector: str) -> None:
    make = PROJECTORS[projector]
    for pitch, share in ((0.05, "0.0"), (50.0, r"\d\d")):
        with pytest.warns(UserWarning, match=rf"detector .*{share}"):
            make((64, 64), turn(8), n_detectors=96, pitch=pitch)


def test_views_that_pass_the_image_by_are_refused() -> None:
    # Within the circle around the image, but above its rows.
    with pytest.raises(ValueError, match="no ray"):
        Radon((4, 400), [math.pi / 2], n_detectors=20, offset=100.0)


def test_two_turns_of_a_fan_raise_no_alarm_in_its_preconditioner() -> None:
    op = PROJECTORS["fan"]((16, 16), np.arange(720) * STEP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op.preconditioner(torch.tensor(1.0))


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_transposed_sinogram_is_named(projector: str) -> None:
    op = PROJECTORS[projector]((16, 16), turn(7))
    with pytest.raises(ValueError, match="transposed"):
        op.fbp(torch.zeros(1, 1, op.n_detectors, 7))
