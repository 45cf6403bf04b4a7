"""MLPatch: locality, tiling, equivariance, learned taps, continuous coordinates, weights, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers import MLPatch, StageSpec
from denoisers.mlpatch import geometry, grid, stage, weights

SMALL = (
    StageSpec(taps=5, margin=1, width=24, depth=1, features=4, patch=3),
    StageSpec(taps=3, width=24, depth=1, patch=3),
)


def random_model(seed=0, stages=SMALL, **options):
    """A model whose output is far from zero: every weight random, every tap off its grid."""
    model = MLPatch(stages=stages, **{"stride": 2, **options})
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=g)) if name.endswith("taps") else p.copy_(
                0.3 * torch.randn(p.shape, generator=g)
            )
    return model.eval()


def image(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=10, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    stride=st.integers(1, 3),
    tile=st.integers(8, 30),
    rows=st.integers(40, 200),
)
def test_any_tiling_gives_the_same_image(h, w, stride, tile, rows):
    model, x = random_model(), image(2, 1, h, w)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        whole = model(x, 0.1, stride=stride)
        patch.setattr(grid, "TILE", tile)
        patch.setattr(stage, "ROWS_PER_CHUNK", rows)
        tiled = model(x, 0.1, stride=stride)
    assert whole.shape == x.shape
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_with_gradients_the_result_is_the_same(stride):
    model, x = random_model(), image(1, 1, 23, 31)
    with torch.no_grad():
        expected = model(x, 0.1, stride=stride)
    torch.testing.assert_close(model(x, 0.1, stride=stride), expected, rtol=1e-12, atol=1e-12)


def test_a_pixel_depends_on_its_receptive_field_and_on_nothing_else():
    model, x = random_model(), image(1, 1, 61, 61)
    x.requires_grad_()
    model(x, 0.1, stride=1)[0, 0, 30, 30].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().ravel()
    reach = model.receptive_field // 2
    assert reach - 1 <= int(rows.max()) - 30 <= reach
    assert reach - 1 <= 30 - int(rows.min()) <= reach


def test_stride_one_is_shift_equivariant():
    model, x = random_model(), image(1, 1, 48, 48)
    with torch.no_grad():
        shifted = model(x.roll((3, -2), (2, 3)), 0.1, stride=1).roll((-3, 2), (2, 3))
        inside = slice(model.receptive_field // 2 + 3, -model.receptive_field // 2 - 3)
        expected = model(x, 0.1, stride=1)
    torch.testing.assert_close(shifted[..., inside, inside], expected[..., inside, inside], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (3000.0, -1024.0), (0.02, 5.0)])
def test_unit_free_weights_do_not_know_the_unit(a, b):
    model, x = random_model(), image(1, 1, 20, 27)
    with torch.no_grad():
        expected = a * model(x, 0.1) + b
        torch.testing.assert_close(model(a * x + b, 0.1 * a), expected, rtol=1e-9, atol=1e-9 * a)


def test_without_noise_the_image_is_kept_even_where_it_is_constant():
    model = random_model()
    x = torch.zeros(1, 1, 20, 20)
    x[..., 10:] = 1
    with torch.no_grad():
        assert torch.equal(model(x, 0.0), x)


def test_absolute_normalisation_keeps_its_range():
    model = random_model(normalization="absolute", unit=0.02, level=0.05, sigma_range=(0.01, 0.35))
    x = image(1, 1, 16, 16)
    with torch.no_grad():
        assert model(x, 0.35).isfinite().all()
    with pytest.raises(ValueError, match=r"sigma must be in \[0.01, 0.35\]"):
        model(x, 0.4)


def test_at_pixel_centres_is_the_grid_at_stride_one():
    for stages in (SMALL, SMALL[1:], (StageSpec(taps=3, width=8, depth=1, patch=3, scales=(1, 2, 4)),)):
        model, x = random_model(stages=stages), image(2, 1, 9, 12)
        coords = torch.cartesian_prod(torch.arange(9), torch.arange(12)).double()
        with torch.no_grad():
            values = model.at(x, coords, 0.1)
            torch.testing.assert_close(values.reshape(2, 1, 9, 12), model(x, 0.1, stride=1), rtol=1e-12, atol=1e-12)


def test_at_is_continuous_between_pixels():
    model, x = random_model(), image(1, 1, 12, 12)
    t = torch.linspace(3, 7, 401, dtype=torch.float64)
    with torch.no_grad():
        values = model.at(x, torch.stack([t, 10 - t], 1), 0.1)[0, 0]
    assert float(values.diff().abs().max()) < 0.05 * float(values.max() - values.min())


def test_coords_outside_are_an_error():
    with pytest.raises(ValueError, match="coords must lie in the image"):
        random_model().at(image(1, 1, 8, 8), torch.tensor([[0.0, 9.0]]), 0.1)
    with pytest.raises(ValueError, match=r"coords must be a tensor \(N, 2\)"):
        random_model().at(image(1, 1, 8, 8), torch.zeros(3), 0.1)


def test_taps_are_read_by_bicubic_interpolation():
    grid_values = torch.arange(7, dtype=torch.float64)
    plane = 2 + 3 * grid_values[:, None] - grid_values
    offsets = torch.tensor([[0.3, -0.7], [-1.1, 0.9], [0.0, 0.0]], dtype=torch.float64)
    read = geometry.tap_matrix(offsets, 7) @ plane.flatten()
    torch.testing.assert_close(read, 2 + 3 * (3 + offsets[:, 0]) - (3 + offsets[:, 1]), rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9).filter(lambda n: n % 2), st.integers(0, 10))
def test_tap_matrix_rows_sum_to_one_wherever_the_taps_wander(support, seed):
    offsets = 8 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = geometry.tap_matrix(offsets, support).sum(1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-12, atol=1e-12)


def test_training_moves_the_taps():
    model, x = random_model(), image(1, 1, 16, 16)
    z, offset = model.valid(x, torch.tensor([0.1], dtype=torch.float64), stride=2)
    assert offset == sum(s.radius - s.patch // 2 for s in model.stages)
    z.square().sum().backward()
    assert all(float(s.taps.grad.abs().max()) > 0 for s in model.stages)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_lattices_of_successive_stages_are_those_of_training(stride):
    model, x = random_model(), image(1, 1, 40, 40)
    before, after = model.margins(stride)
    sigma = torch.tensor([0.1], dtype=torch.float64)
    with torch.no_grad():
        z, offset = model.valid(
            grid.mirrored(x, (-before, 40 + after), (-before, 40 + after)).movedim(3, 1), sigma, stride=stride
        )
        inner = slice(12, 28)
        trained = z[..., before - offset :, before - offset :][..., inner, inner]
        torch.testing.assert_close(model(x, 0.1, stride=stride)[..., inner, inner], trained, rtol=1e-12, atol=1e-12)


def test_patches_and_overlap_add_are_adjoint_and_twice_differentiable():
    x = image(2, 11, 13, 3).requires_grad_()
    p = geometry.extract_patches(x, 4, 2)
    q = torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = geometry.overlap_add(q, 11, 13, 2)
    torch.testing.assert_close((p * q).sum(), (x * back).sum(), rtol=1e-12, atol=0)
    assert torch.autograd.gradgradcheck(
        lambda x: geometry.extract_patches(x, 3, 2) ** 2, (image(1, 7, 5, 1).requires_grad_(),)
    )


def test_gradcheck_in_the_image_and_the_noise_level():
    model = random_model()
    x, sigma = image(1, 1, 6, 5).requires_grad_(), torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: model(x, s, stride=2), (x, sigma))


def test_one_noise_level_per_image():
    model, x = random_model(), image(2, 1, 12, 12)
    with torch.no_grad():
        both = model(x, torch.tensor([0.1, 0.3], dtype=torch.float64))
        torch.testing.assert_close(both[:1], model(x[:1], 0.1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(both[1:], model(x[1:], 0.3), rtol=1e-12, atol=1e-12)


def test_weights_survive_the_file_and_refuse_what_they_are_not(tmp_path):
    model = random_model(sigma_range=(0.0, math.inf))
    path = tmp_path / "mine.safetensors"
    weights.save(model, path, about={"data": "noise"})
    again = MLPatch.from_pretrained(str(path))
    assert again.config() == model.config()
    x = image(1, 1, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again.float()(x, 0.1), model.float()(x, 0.1), rtol=0.02, atol=0.02)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a weight file"):
        MLPatch.from_pretrained(str(path))
    with pytest.raises(ValueError, match="name must be one of"):
        MLPatch.from_pretrained("photographs")


@pytest.mark.parametrize("name", weights.available())
def test_packaged_weights_have_a_card_and_state_a_local_field(name):
    card = (weights.FOLDER / f"{name}.md").read_text()
    assert "seed" in card and "pnp train" in card and "python benchmarks/" in card
    model = MLPatch.from_pretrained(name)
    assert model.receptive_field < (128 if model.normalization == "absolute" else 64)


@pytest.mark.parametrize(
    ("x", "sigma", "stride", "message"),
    [
        (torch.zeros(8, 8), 0.1, None, r"x must be \(B, 1, H, W\), got \(8, 8\); use x\[None, None, ...\]"),
        (torch.zeros(1, 3, 8, 8), 0.1, None, "one by one"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), 0.1, None, "floating point"),
        (torch.zeros(1, 1, 8, 8), -0.1, None, "not negative"),
        (torch.zeros(1, 1, 8, 8), math.nan, None, "not negative"),
        (torch.zeros(1, 1, 8, 8), torch.ones(3), None, "one value per image"),
        (torch.zeros(1, 1, 8, 8), 0.1, 4, "stride must be an integer from 1 to 3"),
        (torch.zeros(1, 1, 0, 8), 0.1, None, "empty"),
    ],
)
def test_bad_input_is_one_clear_sentence(x, sigma, stride, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        random_model()(x, sigma, stride=stride)
    assert len(str(caught.value)) < 400
