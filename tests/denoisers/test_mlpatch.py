"""MLPatch: locality, tiling, equivariance, learned taps, continuous coordinates, weights, bad input."""

import json
import math

import pytest
import skimage.data
import torch
from arrays import uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import SMALL, check_tiling, random_model
from safetensors.torch import save_file

from denoisers import MLPatch, weight_files
from denoisers.mlpatch import ARCHITECTURES, continuous, geometry
from pnp.training import NoiseLevels, TrainingOptions, load_checkpoint, train_denoiser


@settings(max_examples=10, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    stride=st.sampled_from([1, 2, 4]),
    tile=st.tuples(st.integers(2, 15), st.integers(2, 15)),
)
def test_any_tiling_gives_the_same_image(h, w, stride, tile):
    check_tiling(random_model(spacing=4), uniform(2, 1, h, w), 0.1, stride, tile)


@pytest.mark.parametrize("stride", [1, 2])
def test_with_gradients_the_result_is_the_same(stride):
    model, x = random_model(), uniform(1, 1, 23, 31)
    with torch.no_grad():
        expected = model(x, 0.1, stride=stride)
    torch.testing.assert_close(model(x, 0.1, stride=stride), expected, rtol=1e-12, atol=1e-12)


def test_a_pixel_depends_on_its_receptive_field_and_on_nothing_else():
    model, x = random_model(), uniform(1, 1, 61, 61)
    x.requires_grad_()
    model(x, 0.1, stride=1)[0, 0, 30, 30].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().ravel()
    reach = model.receptive_field // 2
    assert reach - 1 <= int(rows.max()) - 30 <= reach
    assert reach - 1 <= 30 - int(rows.min()) <= reach


def test_stride_one_is_shift_equivariant():
    model, x = random_model(), uniform(1, 1, 48, 48)
    with torch.no_grad():
        shifted = model(x.roll((3, -2), (2, 3)), 0.1, stride=1).roll((-3, 2), (2, 3))
        inside = slice(model.receptive_field // 2 + 3, -model.receptive_field // 2 - 3)
        expected = model(x, 0.1, stride=1)
    torch.testing.assert_close(shifted[..., inside, inside], expected[..., inside, inside], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (3000.0, -1024.0), (0.02, 5.0)])
def test_unit_free_weights_do_not_know_the_unit(a, b):
    model, x = random_model(), uniform(1, 1, 20, 27)
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
    x = uniform(1, 1, 16, 16)
    with torch.no_grad():
        assert model(x, 0.35).isfinite().all()
    with pytest.raises(ValueError, match=": sigma "):
        model(x, 0.4)


@pytest.mark.parametrize("options", [{}, {"dilations": (1,), "patch": 3}, {"spacing": 3, "channels": 3}])
def test_at_pixel_centres_is_the_grid_at_stride_one(options):
    model = random_model(**options)
    x = uniform(2, model.channels, 9, 12)
    coords = torch.cartesian_prod(torch.arange(9), torch.arange(12)).double()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "TILE", 5)
        patch.setattr(continuous, "VALUES_PER_CHUNK", 50_000)
        values = model.at(x, coords, 0.1)
        torch.testing.assert_close(values.reshape(x.shape), model(x, 0.1, stride=1), rtol=1e-11, atol=1e-11)


def test_at_is_continuous_between_pixels():
    model, x = random_model(), uniform(1, 1, 12, 12)
    t = torch.linspace(3, 7, 401, dtype=torch.float64)
    with torch.no_grad():
        values = model.at(x, torch.stack([t, 10 - t], 1), 0.1)[0, 0]
    assert float(values.diff().abs().max()) < 0.05 * float(values.max() - values.min())


def test_coords_outside_are_an_error():
    with pytest.raises(ValueError, match="coords"):
        random_model().at(uniform(1, 1, 8, 8), torch.tensor([[0.0, 9.0]]), 0.1)
    with pytest.raises(ValueError, match="coords"):
        random_model().at(uniform(1, 1, 8, 8), torch.zeros(3), 0.1)


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


@pytest.mark.parametrize("options", [{}, {"taps": 7, "dilations": (1,) * 4}, {"spacing": 4, "patch": 7, "margin": 0}])
def test_training_moves_the_taps_and_sees_what_inference_sees(options):
    model, x = random_model(**options), uniform(1, 1, 64, 64)
    z, offset = model.valid(x, torch.tensor([0.1], dtype=torch.float64))
    assert offset % model.network.spacing == 0 and z.shape[2] > 0
    inside = (..., slice(offset, offset + z.shape[2]), slice(offset, offset + z.shape[3]))
    torch.testing.assert_close(z, model(x, 0.1)[inside], rtol=1e-12, atol=1e-12)
    z.square().sum().backward()
    assert float(model.network.taps.grad.abs().max()) > 0


def test_stride_one_is_the_mean_of_all_lattices():
    model, x = random_model(), uniform(1, 1, 48, 48)
    inside = (..., slice(20, 28), slice(20, 28))
    with torch.no_grad():
        for p in model.network.write.parameters():
            p.mul_(0.05)  # within the limit of six sigma, which does not commute with means
        shifted = [model(x.roll((i, j), (2, 3)), 0.1).roll((-i, -j), (2, 3))[inside] for i in (0, 1) for j in (0, 1)]
        torch.testing.assert_close(model(x, 0.1, stride=1)[inside], sum(shifted) / 4, rtol=1e-12, atol=1e-12)


def test_the_estimate_stays_within_six_sigma():
    model, x = random_model(), uniform(1, 1, 16, 16)
    with torch.no_grad():
        for p in model.network.write.parameters():
            p.mul_(1e3)
        assert float((model(x, 0.01) - x).abs().max()) == pytest.approx(0.06)


def test_gradcheck_in_the_image_and_the_noise_level():
    model = random_model()
    x, sigma = uniform(1, 1, 6, 5).requires_grad_(), torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: model(x, s, stride=2), (x, sigma))


def test_gradients_without_noise_are_those_of_the_identity():
    model, x = random_model().requires_grad_(False), uniform(2, 1, 9, 9).requires_grad_()
    sigma = torch.tensor([0.1, 0.0], dtype=torch.float64, requires_grad=True)
    model(x, sigma).sum().backward()
    assert x.grad.isfinite().all() and sigma.grad.isfinite().all()
    torch.testing.assert_close(x.grad[1], torch.ones_like(x.grad[1]))


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_an_offset_far_above_the_noise_is_harmless_in_single_precision(offset):
    model, x = random_model(precision="bfloat16"), uniform(1, 1, 40, 40, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x, 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            shifted = model(x + 0.1 * offset, 0.1) - 0.1 * offset
    # The sum itself rounds by half a unit in the last place, the products by one in 256.
    assert float((shifted - expected).square().mean().sqrt()) < 0.1 * (0.02 + offset * 1e-6)


@pytest.mark.parametrize(("weights", "levels"), [("convergence", (0.01, 0.05, 0.5)), ("gray", (0.002, 0.1, 5.0))])
def test_products_in_bfloat16_do_not_round_the_answer(weights, levels):
    """Values stay apart as in single precision, at every noise level, also where x has few values of its own."""
    model = MLPatch.from_pretrained(weights)
    x = (uniform(1, 1, 80, 80, dtype=torch.float32) > 0.5).float()
    for sigma in levels:
        model.precision = "float32"
        single = model(sigma * x, sigma)
        model.precision = "bfloat16"
        z = model(sigma * x, sigma)
        cropped = model.valid(sigma * x, torch.tensor([sigma]), border=8)[0]  # as training sees it
        assert len(z.unique()) > 0.9 * len(single.unique()) and len(cropped.unique()) > 0.9 * cropped.numel()
        assert float((z - single).square().mean().sqrt()) < 0.02 * sigma


def test_many_small_images_share_tiles_of_bounded_memory(monkeypatch):
    model, seen = random_model(), []
    estimate = model.estimate
    monkeypatch.setattr(model, "estimate", lambda y, *rest: seen.append(y.numel()) or estimate(y, *rest))
    with torch.no_grad():
        model(uniform(9000, 1, 1, 1, dtype=torch.float32), 0.1)
        model(uniform(1, 1, 256, 512, dtype=torch.float32), 0.1)
    assert max(seen[:-1]) <= 1.01 * seen[-1]


def test_at_takes_no_coordinates_and_any_order():
    model, x = random_model(), uniform(2, 1, 300, 9)
    coords = 299 * torch.rand(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coords = torch.cat([coords, coords / 300 * 8], 1)
    with torch.no_grad():
        values = model.at(x, coords, 0.1)
        torch.testing.assert_close(model.at(x, coords.flip(0), 0.1).flip(2), values, rtol=1e-10, atol=1e-10)
        assert model.at(x, coords[:0], 0.1).shape == (2, 1, 0)


def test_one_noise_level_per_image():
    model, x = random_model(), uniform(2, 1, 12, 12)
    with torch.no_grad():
        both = model(x, torch.tensor([0.1, 0.3], dtype=torch.float64))
        torch.testing.assert_close(both[:1], model(x[:1], 0.1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(both[1:], model(x[1:], 0.3), rtol=1e-12, atol=1e-12)


def test_weights_survive_the_file_and_refuse_what_they_are_not(tmp_path):
    model = random_model(sigma_range=(0.0, math.inf))
    path = tmp_path / "mine.safetensors"
    model.save(path, about={"data": "noise"})
    again = MLPatch.from_pretrained(str(path))
    assert again.config() == model.config()
    x = uniform(1, 1, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again.float()(x, 0.1), model.float()(x, 0.1), rtol=0.02, atol=0.02)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a weight file"):
        MLPatch.from_pretrained(str(path))
    with pytest.raises(ValueError, match=": name_or_path "):
        MLPatch.from_pretrained("photographs")


def with_old_names(state):
    """Name the layers of the blocks as files and checkpoints of earlier versions do."""
    return {k.replace(".gather.", ".hear.").replace(".update.", ".add."): v for k, v in state.items()}


def crops(batch, generator):
    return torch.rand(batch, 1, 28, 28, generator=generator)


def test_a_training_checkpoint_with_the_old_names_of_the_blocks_resumes_to_the_same_weights(tmp_path):
    def train(name, steps):
        model = MLPatch(**SMALL, precision="float32")
        options = {"checkpoint": tmp_path / name, "resume": True, "progress": False}
        train_denoiser(model, crops, NoiseLevels(0.1, 0.2), TrainingOptions(steps, batch=2, warmup=1), **options)
        return model.state_dict()

    train("new.pt", 2)
    state = load_checkpoint(tmp_path / "new.pt")
    torch.save(state | {kind: with_old_names(state[kind]) for kind in ("weights", "average")}, tmp_path / "old.pt")
    assert "network.blocks.2.add.bias" in load_checkpoint(tmp_path / "old.pt")["average"]
    assert all(map(torch.equal, train("new.pt", 4).values(), train("old.pt", 4).values()))


def test_a_file_with_the_old_names_of_the_blocks_loads(tmp_path):
    model, path = MLPatch(**SMALL, normalization="absolute", sigma_range=(0.1, 1.0)), tmp_path / "old.safetensors"
    tensors = with_old_names(model.state_dict())
    assert {"network.blocks.2.hear.weight", "network.blocks.2.add.bias", "network.blocks.2.level"} <= tensors.keys()
    halves = {k: v.half() for k, v in tensors.items()}
    save_file(halves, path, metadata={"mlpatch": json.dumps(model.config())})
    loaded = MLPatch.from_pretrained(path).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.values(), (v.float() for v in halves.values())))
    del tensors["network.blocks.0.hear.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.0\.gather\.bias"):
        model.load_state_dict(tensors)


@pytest.mark.parametrize("name", weight_files.available(MLPatch))
def test_packaged_weights_have_a_card_and_state_a_local_field(name):
    card = (weight_files.FOLDER / f"{name}.md").read_text()
    assert "seed" in card and "pnp train" in card and "python benchmarks/" in card
    model = MLPatch.from_pretrained(name)
    assert model.receptive_field < 128
    # The card is about this model, and it is the one that training would build.
    assert f"receptive field {model.receptive_field} pixels" in card
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters" in card
    assert f"stride {model.stride} (default)" in card
    low, high = model.sigma_range
    assert model.normalization == "unit-free" or f"{low:g} to {high:g}" in card
    assert model.config() == MLPatch(**ARCHITECTURES[name]).config()


@pytest.mark.parametrize("level", [0.5, 1, 2, 5, 25])
@pytest.mark.parametrize("name", ["camera", "coins", "astronaut"])
def test_the_grey_weights_gain_at_every_noise_level(name, level):
    pixels = torch.from_numpy(getattr(skimage.data, name)()).double()[100:228, 100:228] / 255
    x = (pixels.mean(2) if pixels.ndim == 3 else pixels).float()[None, None]
    y = x + level / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    z = MLPatch.from_pretrained("gray")(y, level / 255)
    before, after = ((v - x).square().mean().item() for v in (y, z))
    assert after < before


@pytest.mark.parametrize("level", [0.5, 1, 2, 5, 25, 55])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_the_colour_weights_gain_at_every_noise_level(name, level):
    x = torch.from_numpy(getattr(skimage.data, name)()[100:228, 100:228]).movedim(2, 0)[None].float() / 255
    y = x + level / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = ((v - x).square().mean() for v in (y, MLPatch.from_pretrained("color")(y, level / 255)))
    assert after < (before if level >= 1 else 1.02 * before)  # 0.5: the rounding to bytes is half as large


@pytest.mark.parametrize(
    ("x", "sigma", "stride", "message"),
    [
        (torch.zeros(8, 8), 0.1, None, r": x .*\(8, 8\)"),
        (torch.zeros(1, 3, 8, 8), 0.1, None, "one by one"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), 0.1, None, "floating point"),
        (torch.zeros(1, 1, 8, 8), -0.1, None, "not negative"),
        (torch.zeros(1, 1, 8, 8), math.nan, None, "not negative"),
        (torch.zeros(1, 1, 8, 8), torch.ones(3), None, "sigma"),
        (torch.zeros(1, 1, 8, 8), 0.1, 3, "stride"),
        (torch.zeros(1, 1, 0, 8), 0.1, None, "empty"),
    ],
)
def test_bad_input_is_one_clear_sentence(x, sigma, stride, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        random_model()(x, sigma, stride=stride)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 4}, ": patch "),
        ({"spacing": 7}, "spacing"),
        ({"taps": 6}, ": taps "),
        ({"dilations": ()}, "dilations"),
        ({"dilations": (0,)}, "dilations"),
        ({"margin": -1}, "margin"),
        ({"features": 0}, "features"),
        ({"sigma_range": (1.0, 0.5)}, "sigma_range"),
        ({"normalization": "absolute"}, "sigma_range"),
        ({"stride": True}, "stride"),
        ({"normalization": "none"}, "normalization"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_bad_sizes_are_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        MLPatch(**options)
