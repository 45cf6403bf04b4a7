"""The simulated slices: units, orientation and resolution."""

import pytest
import torch

from pnp.phantoms import ACRYLIC, BONE, head, perforated_disc


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


def test_a_perforated_disc_is_acrylic_or_air():
    from scipy.ndimage import label

    numbers = []
    for seed in range(8):
        x = perforated_disc(128, generator=torch.Generator().manual_seed(seed))
        assert x.shape == (1, 1, 128, 128) and float(x.min()) == 0 and float(x.max()) == pytest.approx(ACRYLIC)
        whole = (x == 0) | (x == x.max())
        assert float(whole.float().mean()) > 0.8  # but for the edges
        air, pieces = label((x[0, 0] < ACRYLIC / 2).numpy())
        outside = air[0, 0]
        assert {air[0, -1], air[-1, 0], air[-1, -1]} == {outside}  # no hole breaks the rim
        numbers.append(pieces - 1)
    assert 1 <= min(numbers) and max(numbers) > 5


def test_a_perforated_disc_does_not_depend_on_the_resolution():
    fine = perforated_disc(128).reshape(1, 1, 64, 2, 64, 2).mean((3, 5))
    assert float((fine - perforated_disc(64)).norm() / fine.norm()) < 0.05
    with pytest.raises(ValueError, match="at least 16"):
        perforated_disc(8)
