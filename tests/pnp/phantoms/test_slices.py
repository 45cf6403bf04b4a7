"""The simulated slices: units, orientation and resolution."""

import pytest
import torch

from pnp.phantoms import ACRYLIC, BONE, chest, head, perforated_disc


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


@pytest.fixture(scope="module")
def chests():
    return [chest(128, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]


def test_a_chest_is_air_around_soft_tissue_around_lungs(chests):
    from scipy.ndimage import binary_fill_holes, label

    for x in chests:
        assert x.shape == (1, 1, 128, 128) and float(x.min()) == 0 and 0.035 < float(x.max()) < 0.045
        pixels = x[0, 0].numpy()
        rim = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert max(float(side.max()) for side in rim) == 0
        body = pixels > 0.012
        whole = binary_fill_holes(body)
        assert label(whole)[1] == 1
        assert 0.3 < whole.mean() < 0.65
        lung = whole & (pixels > 0.002) & (pixels < 0.010)
        assert 0.15 < lung.sum() / whole.sum() < 0.6
        middle = int(whole.nonzero()[1].mean())
        assert lung[:, :middle].mean() > 0.08 and lung[:, middle:].mean() > 0.08  # there are two
        assert lung[:, middle - 4 : middle + 5].mean() < 0.4 * lung.mean()  # apart from one another
        soft = pixels[(pixels > 0.017) & (pixels < 0.026)]
        assert 0.25 < soft.size / whole.sum() < 0.8
        assert 0.01 < (pixels > 0.028).sum() / whole.sum() < 0.12  # bone
        spine = pixels[70:105, 54:74]
        assert spine.max() > 0.03


def test_chests_differ_and_the_generator_decides_alone(chests):
    again = chest(128, generator=torch.Generator().manual_seed(5))
    assert torch.equal(again, chests[5]) and torch.equal(chest(32), chest(32))
    stack = torch.cat(chests)
    pairs = torch.cdist(stack.flatten(1), stack.flatten(1)) / stack.flatten(1).norm(dim=1).mean()
    assert float((pairs + torch.eye(len(chests))).min()) > 0.2
    state = torch.get_rng_state()
    chest(16)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_chest_does_not_depend_on_the_resolution(chests):
    for seed in range(3):
        fine = chest(256, generator=torch.Generator().manual_seed(seed)).reshape(1, 1, 128, 2, 128, 2).mean((3, 5))
        assert float((fine - chests[seed]).norm() / fine.norm()) < 0.08
    with pytest.raises(ValueError, match="at least 16"):
        chest(8)


def test_a_tube_covers_the_area_of_its_section():
    from pnp.phantoms.tubes import tube_coverage

    n, r = 200, 0.1
    one = torch.full((1,), r)
    across = tube_coverage(n, torch.tensor([[0.2, -0.3, -1.0]]), torch.tensor([[0.2, -0.3, 1.0]]), one, one)
    assert float(across.sum()) * (2 / n) ** 2 == pytest.approx(torch.pi * r**2, rel=0.01)
    rows, columns = across.nonzero().double().mean(0).tolist()
    assert columns == pytest.approx(1.2 * n / 2 - 0.5, abs=0.05) and rows == pytest.approx(1.3 * n / 2 - 0.5, abs=0.05)
    along = tube_coverage(n, torch.tensor([[-0.5, 0.1, 0.0]]), torch.tensor([[0.5, 0.1, 0.0]]), one, 0.5 * one)
    ends = torch.pi / 2 * (r**2 + (r / 2) ** 2)
    assert float(along.sum()) * (2 / n) ** 2 == pytest.approx(1.5 * r + ends, rel=0.02)
    assert float(tube_coverage(n, torch.tensor([[0, 0, 0.2]]), torch.tensor([[0.3, 0, 0.2]]), one, one).sum()) == 0
    half_out = tube_coverage(n, torch.tensor([[1.0, 0, 0]]), torch.tensor([[1.0, 0, 0]]), one, one)
    assert float(half_out.sum()) * (2 / n) ** 2 == pytest.approx(torch.pi * r**2 / 2, rel=0.02)
