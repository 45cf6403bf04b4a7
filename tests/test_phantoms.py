"""The simulated head: units, orientation and resolution."""

import pytest
import torch

from pnp.phantoms import BONE, head


def test_attenuation_is_physical_and_outside_is_air():
    x = head(128)
    assert x.shape == (1, 1, 128, 128) and float(x.min()) == 0
    assert BONE * 0.9 < float(x.max()) < BONE * 1.2
    assert float(x[..., :4, :].abs().max()) == 0
    brain = x[..., 54:74, 40:50]
    assert 0.019 < float(brain.mean()) < 0.026


def test_the_anatomy_does_not_depend_on_the_resolution():
    fine = head(256).reshape(1, 1, 128, 2, 128, 2).mean((3, 5))
    coarse = head(128)
    assert float((fine - coarse).norm() / coarse.norm()) < 0.1


def test_the_generator_decides_alone():
    a, b = (head(64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert torch.equal(a, head(64, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(a, b)
    with pytest.raises(ValueError, match="at least 16"):
        head(8)
