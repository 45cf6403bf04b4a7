"""Parallel beams of volumes: every slice is `Radon`'s, and a cone beam from far away is nearly the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from arrays import F64, rand, rel
from torch import Tensor

from operators import ConeBeam, ParallelBeam, Radon
from operators.ct import parallel_beam

SHAPE = (5, 8, 7)
ANGLES = torch.linspace(0.1, 3.0, 9, dtype=F64)
OFFSETS = torch.tensor([0.4, 0.1, -0.2, 0.0, -0.6], dtype=F64)


def stacked(method: str, values: Tensor, offsets: Tensor | float, **options: Any) -> Tensor:
    """Apply a method of `Radon` slice by slice to slices (B, D, ...)."""
    each = torch.as_tensor(offsets, dtype=F64).expand(SHAPE[0])
    found = []
    for d, offset in enumerate(each):
        op = Radon(SHAPE[1:], ANGLES, offset=float(offset), **options)
        found.append(getattr(op, method)(values[:, d : d + 1]))
    return torch.cat(found, 1)


@pytest.mark.parametrize("offset", [0.3, OFFSETS], ids=["one", "each"])
@pytest.mark.parametrize("bins", [17, 6], ids=["whole", "narrow"])
@pytest.mark.parametrize("pitch", [1.0, 1.6])
@pytest.mark.filterwarnings("ignore:.*times as wide")
def test_every_slice_is_that_of_radon(monkeypatch: pytest.MonkeyPatch, offset: Any, bins: int, pitch: float) -> None:
    monkeypatch.setattr(parallel_beam, "_GROUP", 2 * 4 * 8 * 7)  # groups of fewer slices than there are
    options: dict[str, Any] = {"n_detectors": bins, "pitch": pitch}
    op = ParallelBeam(SHAPE, ANGLES, offset=offset, voxel_size=(2.0, 1.3, 1.3), **options)
    options |= {"pixel_size": 1.3}
    x = rand(2, 1, *SHAPE, dtype=F64)
    y = op.A(x)
    assert rel(y[:, 0].transpose(1, 2), stacked("A", x[:, 0], offset, **options)) < 1e-11
    back = op.A_adjoint(y)
    assert rel(back[:, 0], stacked("A_adjoint", y[:, 0].transpose(1, 2), offset, **options)) < 1e-11
    assert rel(op.A_adjoint_A(x), back) < 1e-10
    assert rel(op.fbp(y)[:, 0], stacked("fbp", y[:, 0].transpose(1, 2), offset, **options)) < 1e-10


def test_a_cone_beam_from_far_away_is_nearly_the_same() -> None:
    shape, angles = (7, 40, 40), torch.linspace(0, math.pi, 12, dtype=F64)[:-1]
    rows, columns = (torch.arange(n, dtype=F64) - (n - 1) / 2 for n in shape[1:])
    blob = torch.exp(-((columns - 5) ** 2 + (rows[:, None] + 4) ** 2) / 40)
    x = (blob * torch.linspace(1, 2, 7, dtype=F64)[:, None, None])[None, None]
    y = ParallelBeam(shape, angles, n_detectors=57, offset=0.7).A(x)
    far = ConeBeam(shape, angles, source_origin=1e7, origin_detector=0.0, detector_shape=(7, 57), offset=0.7)
    assert rel(far.A(x), y) < 3e-3


@pytest.mark.parametrize("each", [False, True])
def test_gradients_flow_to_the_geometry(each: bool) -> None:
    angles = ANGLES[:4].clone().requires_grad_()
    offset = (OFFSETS if each else torch.tensor(0.3, dtype=F64)).clone().requires_grad_()
    x, w = rand(1, 1, *SHAPE, dtype=F64), rand(1, 1, 4, 5, 13, seed=4, dtype=F64)

    def value(angles: Tensor, offset: Tensor) -> Tensor:
        return (ParallelBeam(SHAPE, angles, offset=offset, n_detectors=13).A(x) * w).sum()

    assert torch.autograd.gradcheck(value, (angles, offset), eps=1e-5, atol=1e-5)


def test_the_normal_operator_hands_gradients_to_offsets() -> None:
    """Its value does not depend on them where no view is truncated: they are 0, not missing."""
    offset, x = OFFSETS.clone().requires_grad_(), rand(1, 1, *SHAPE, dtype=F64)
    size = ParallelBeam(SHAPE, ANGLES, offset=offset, n_detectors=17).A_adjoint_A(x).square().sum()
    (found,) = torch.autograd.grad(size, offset)
    assert float(found.abs().max()) < 1e-6 * float(size.detach())


def test_an_offset_that_moves_is_followed() -> None:
    offset = torch.nn.Parameter(OFFSETS.clone())
    op, x = ParallelBeam(SHAPE, ANGLES, offset=offset, n_detectors=15), rand(1, 1, *SHAPE, dtype=F64)
    op.A(x)
    with torch.no_grad():
        offset += 0.5
    assert rel(op.A(x), ParallelBeam(SHAPE, ANGLES, offset=OFFSETS + 0.5, n_detectors=15).A(x)) < 1e-11
    assert [name for name, _ in op.named_parameters()] == ["plane.offsets"]
    moved = op.to(torch.float32)
    assert moved.angles.dtype == F64 and moved.offset.dtype == F64


def test_its_default_detector_sees_the_whole_volume_from_all_rows() -> None:
    op = ParallelBeam(SHAPE, ANGLES, offset=3 * OFFSETS)
    assert op.sees_whole_image and op.n_detectors == Radon(SHAPE[1:], ANGLES, offset=1.8).n_detectors
    assert not ParallelBeam(SHAPE, ANGLES, offset=3 * OFFSETS, n_detectors=op.n_detectors - 4).sees_whole_image
    assert op.y_shape == (1, 9, 5, op.n_detectors) and op.x_shape == (1, *SHAPE)
    assert "offset=<array>" in repr(op) and repr(op).startswith("ParallelBeam((5, 8, 7), [")


def test_the_preconditioner_is_the_inverse_for_the_mean_weight_of_each_row() -> None:
    op = ParallelBeam(SHAPE, ANGLES)
    weights = torch.rand(2, 1, 9, 5, op.n_detectors, dtype=F64) + 0.5
    r, alpha = rand(2, 1, *SHAPE, dtype=F64), torch.tensor(2.0, dtype=F64)
    found = op.preconditioner(weights)(r, alpha)
    plane = Radon(SHAPE[1:], ANGLES)
    for d in range(SHAPE[0]):
        want = plane.preconditioner(weights[:, :, :, d])(r[:, :, d], alpha)
        assert rel(found[:, :, d], want) < 1e-12
    assert op.preconditioner(torch.tensor(2.0))(r, alpha).shape == r.shape


def test_every_slice_has_the_ellipse_of_its_truncated_views() -> None:
    shape, angles = (2, 32, 32), torch.linspace(0, math.pi, 41, dtype=F64)[:-1]
    rows = torch.arange(32, dtype=F64) - 15.5
    disc = (rows**2 + (rows[:, None]) ** 2 < 14**2).double()
    x = torch.stack([disc, disc * 0.5])[None, None]
    op = ParallelBeam(shape, angles, n_detectors=17)
    y = op.A(x)
    assert op.is_truncated(y) == [True] and op.image_size(y) == Radon(shape[1:], angles, n_detectors=17).image_size(
        y[:, 0].transpose(1, 2)
    )
    plane = Radon(shape[1:], angles, n_detectors=17)
    for d in range(2):
        assert rel(op.fbp(y)[:, :, d], plane.fbp(y[:, :, :, d])) < 1e-10


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"shape": (8, 8)}, "shape"),
        ({"shape": (0, 8, 8)}, "shape"),
        ({"offset": torch.zeros(3)}, "offset"),
        ({"offset": torch.tensor([0, 0, math.nan, 0])}, "offset"),
        ({"angles": torch.zeros(2, 2)}, "angles"),
        ({"pitch": -1.0}, "pitch"),
        ({"voxel_size": (1.0, 1.0)}, "voxel_size"),
        ({"voxel_size": (1.0, 1.0, 2.0)}, "voxel_size"),
        ({"n_detectors": 2.5}, "n_detectors"),
        ({"offset": 100.0, "n_detectors": 5}, "offset"),
        ({"offset": [-100.0, 0.0, 0.0, 100.0], "n_detectors": 5}, "row 0"),
    ],
)
def test_what_cannot_be_right_is_refused(arguments: dict[str, Any], name: str) -> None:
    given = {"shape": (4, 8, 8), "angles": [0.0, 1.0]} | arguments
    with pytest.raises((TypeError, ValueError), match=name) as error:
        ParallelBeam(given.pop("shape"), given.pop("angles"), **given)
    assert str(error.value).startswith("ParallelBeam: ") and len(str(error.value)) < 400


@pytest.mark.parametrize("method", ["A", "A_adjoint", "A_adjoint_A", "fbp"])
def test_stacks_of_images_are_refused(method: str) -> None:
    op = ParallelBeam(SHAPE, ANGLES)
    with pytest.raises(ValueError, match=rf"ParallelBeam\.{method}: [xy]"):
        getattr(op, method)(rand(5, 1, 8, 7, dtype=F64))


def test_a_volume_has_the_offsets_of_its_slices() -> None:
    slices = [Radon(SHAPE[1:], ANGLES, n_detectors=17, offset=float(o), pixel_size=1.3) for o in OFFSETS]
    op, x = ParallelBeam.from_slices(slices, depth=2.0), rand(1, 1, *SHAPE, dtype=F64)
    assert op.voxel_size == (2.0, 1.3, 1.3)
    expected = torch.stack([one.A(x[:, :, d]) for d, one in enumerate(slices)], 3)
    assert rel(op.A(x), expected) < 1e-11
    alike = ParallelBeam.from_slices([slices[1]] * 3)
    assert alike.offset.shape == () and alike.shape == (3, 8, 7) and alike.voxel_size == (1.3, 1.3, 1.3)


@pytest.mark.parametrize("other", [{"n_detectors": 15}, {"pitch": 2.0}, {"pixel_size": 1.0}, {"angles": ANGLES + 0.1}])
def test_slices_of_different_scans_are_no_volume(other: dict[str, Any]) -> None:
    one = {"shape": SHAPE[1:], "angles": ANGLES, "n_detectors": 17, "pixel_size": 1.3}
    with pytest.raises(ValueError, match="slice 1"):
        ParallelBeam.from_slices([Radon(**one), Radon(**one | other)])
    with pytest.raises(ValueError, match="slices"):
        ParallelBeam.from_slices([])
