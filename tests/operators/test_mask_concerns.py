"""`Mask.concerns`: an inverted mask is said, and no other measurements are."""

from __future__ import annotations

import pytest
import torch
from arrays import F64, rand, uniform
from torch import Tensor

from operators import Blur, Mask

SHAPE = (40, 50)
HOLES = uniform(*SHAPE, seed=1) < 0.2
IMAGE = uniform(2, 3, *SHAPE, seed=2)


def painted(value: Tensor | float) -> Tensor:
    """Images whose holes are painted over."""
    return torch.where(HOLES, torch.as_tensor(value, dtype=F64), IMAGE)


PEPPER = (rand(2, 3, *SHAPE, seed=3) > 0).double()


@pytest.mark.parametrize("value", [1.0, 0.0, PEPPER], ids=["white", "black", "salt and pepper"])
def test_an_inverted_mask_is_said(value):
    for operator in (Mask(HOLES), Mask(HOLES.double()), 2 * Mask(HOLES), Mask(HOLES) @ Blur(torch.ones(1, 1), SHAPE)):
        (said,) = operator.concerns(painted(value))
        assert "inverted" in said and "cv2" in said and "\n" not in said and len(said) < 400
    wide = HOLES | HOLES.roll(1, 1)  # a mask a little larger than what was painted
    assert len(Mask(wide).concerns(painted(value))) == (1 if 2 * HOLES[wide].sum() > wide.sum() else 0)


def test_right_masks_raise_no_concern():
    sky = torch.where(uniform(*SHAPE, seed=4) < 0.9, 0.0, IMAGE)  # mostly black
    eight_bits = (IMAGE * 3).round() / 255  # few values
    kept = Mask(~HOLES)
    for y in (IMAGE, sky, eight_bits, torch.zeros_like(IMAGE), torch.ones_like(IMAGE)):
        for hole in (0.0, 1.0, PEPPER, y):
            assert kept.concerns(torch.where(HOLES, torch.as_tensor(hole, dtype=F64), y)) == []
    assert Mask(torch.ones(SHAPE)).concerns(torch.ones(1, 1, *SHAPE)) == []
    assert Mask(HOLES).concerns(HOLES * torch.ones_like(IMAGE)) == []  # a constant seen through few pixels
    assert Mask(HOLES).concerns(sky) == []  # whole images, of which a mask keeps a part


def test_measurements_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="y must be"):
        Mask(HOLES).concerns(IMAGE[0])
