"""MLPatch with several lattices: the same network as plain layers, tiles, field, shifts, units, training, files."""

import json

import pytest
import torch
import torch.nn.functional as F
from arrays import uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import TWO_LATTICES, check_tiling, random_model
from safetensors.torch import load_file, save_file

from denoisers import Equivariant, MLPatch
from denoisers.mlpatch import ARCHITECTURES, tiles
from denoisers.mlpatch.geometry import grid_taps
from pnp.training import NoiseLevels, TrainingOptions, train_denoiser

THREE_LATTICES = {
    "taps": 3,
    "spacing": (2, 4, 8, 4, 2),
    "features": (6, 7, 8, 7, 6),
    "hidden": (5,) * 5,
    "dilations": ((1,),) * 5,
}
ODD = {**TWO_LATTICES, "spacing": (3, 6, 3), "patch": 3}
ABSOLUTE = {**TWO_LATTICES, "normalization": "absolute", "unit": 0.1, "level": 0.1, "sigma_range": (0.01, 1.0)}
KINDS = pytest.mark.parametrize("sizes", [TWO_LATTICES, THREE_LATTICES, ODD, ABSOLUTE, {**TWO_LATTICES, "patch": 7}])


def quiet(sizes):
    """A model whose output is within six sigma, the limit, so that no test passes on clipped values."""
    model = random_model(**sizes)
    with torch.no_grad():
        model.network.write.weight.mul_(0.02)
    return model


def moved(model, x, down, right, **options):
    """Denoise a shifted image and shift it back."""
    return model(x.roll((down, right), (2, 3)), 0.1, **options).roll((-down, -right), (2, 3))


def far_from_borders(model):
    """An image, and the part of it that `roll` by a few pixels leaves far from its borders."""
    period, field = model.network.period, model.receptive_field
    size = -(-(field + 3 * period) // period) * period
    middle = slice(field // 2 + period, size - field // 2 - period)
    return uniform(1, model.channels, size, size), (..., middle, middle)


def as_plain_layers(model, x, sigma):
    """Two lattices as an encoder and a decoder of convolutions with zeros beyond x, from the weights alone."""
    w = {k.removeprefix("network."): v for k, v in model.state_dict().items()}
    n = round(len(w["taps"]) ** 0.5)
    read = w["read.weight"] - w["read.weight"].mean(1, keepdim=True)
    z = (x - x.mean((1, 2, 3), keepdim=True)) / sigma
    f = F.conv2d(z, read.reshape(-1, 1, n, n), w["read.bias"], stride=2, padding=n // 2)

    def block(f, k):
        a, b = w[f"blocks.{k}.gather.weight"], w[f"blocks.{k}.update.weight"]
        a = a.reshape(len(a), 3, 3, -1).permute(0, 3, 1, 2)
        z = F.conv2d(f, a, w[f"blocks.{k}.gather.bias"], padding=1).relu()
        return f + F.conv2d(z, b[..., None, None], w[f"blocks.{k}.update.bias"])

    down, up = w["changes.0.matrix.weight"], w["changes.1.matrix.weight"]
    f = block(f, 0)
    g = F.conv2d(f, down.reshape(len(down), 2, 2, -1).permute(0, 3, 1, 2), w["changes.0.matrix.bias"], stride=2)
    g = block(g, 1)
    f = f + F.conv_transpose2d(g, up.reshape(2, 2, -1, up.shape[1]).permute(3, 2, 0, 1), stride=2)
    bias = w["changes.1.matrix.bias"].reshape(2, 2, -1).permute(2, 0, 1)
    f = block(f + bias.repeat(1, f.shape[2] // 2, f.shape[3] // 2), 2)
    p = model.network.patch
    write = w["write.weight"].T.reshape(-1, 1, p, p)
    g = F.conv_transpose2d(f, write, stride=2, padding=p // 2, output_padding=1)
    return x - sigma * g.clamp(-6, 6)


@pytest.mark.parametrize("patch", [3, 5, 7])
def test_two_lattices_are_an_encoder_and_a_decoder(patch):
    # The first query is in the middle of a window of 9 pixels that begins at a tile: queries are at multiples of 4.
    model = random_model(**{**TWO_LATTICES, "dilations": ((1,),) * 3, "taps": 9, "margin": 0, "patch": patch})
    with torch.no_grad():
        model.network.taps.copy_(grid_taps(9))
        model.network.write.weight.mul_(0.1)
        model = model.double()
        x = uniform(2, 1, 80, 96)
        expected = as_plain_layers(model, x, 0.1)
        z, offset = model.valid(x, torch.full((2,), 0.1, dtype=torch.float64), border=3)
        torch.testing.assert_close(z, expected[..., 3:-3, 3:-3], rtol=1e-12, atol=1e-12)
        edge = model.receptive_field // 2
        inside = (..., slice(edge, -edge), slice(edge, -edge))
        torch.testing.assert_close(model(x, 0.1)[inside], expected[inside], rtol=1e-12, atol=1e-12)
    assert offset == 3 and float((expected - x).abs().max()) > 0.05


@settings(max_examples=15, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    stride=st.sampled_from([1, 2, 4]),
    tile=st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_any_tiling_gives_the_same_image(h, w, stride, tile):
    model, x = random_model(**TWO_LATTICES), uniform(2, 1, h, w)
    sigma = torch.tensor([0.1, 0.3], dtype=torch.float64)
    whole = check_tiling(model, x, sigma, stride, tile)
    with torch.enable_grad():
        torch.testing.assert_close(model(x, sigma, stride=stride), whole, rtol=1e-12, atol=1e-12)


@KINDS
def test_tiles_hold_for_other_lattices(sizes, monkeypatch):
    model, x = random_model(**sizes), uniform(1, 1, 37, 26)
    with torch.no_grad():
        for stride in model.network.strides:
            monkeypatch.setitem(tiles.TILE, 2, (128, 256))
            whole = model(x, 0.1, stride=stride)
            monkeypatch.setitem(tiles.TILE, 2, (5, 3))
            torch.testing.assert_close(model(x, 0.1, stride=stride), whole, rtol=1e-11, atol=1e-11)


@KINDS
def test_the_influence_of_a_pixel_ends_where_the_receptive_field_ends(sizes):
    model = quiet(sizes)
    reach, size = model.receptive_field // 2, model.receptive_field + 12
    x, at = uniform(1, 1, size, size).requires_grad_(), size // 2
    for stride in (1, model.stride):
        (gradient,) = torch.autograd.grad(model(x, 0.1, stride=stride)[0, 0, at, at], x)
        for axis in (0, 1):
            seen = gradient[0, 0].abs().sum(1 - axis).nonzero().ravel() - at
            if stride == 1:
                assert (int(seen.min()), int(seen.max())) == (-reach, reach)
            assert -reach <= int(seen.min()) and int(seen.max()) <= reach


@KINDS
def test_stride_one_commutes_with_every_shift_and_larger_ones_with_their_multiples(sizes):
    model = quiet(sizes)
    x, inside = far_from_borders(model)
    with torch.no_grad():
        exact = model(x, 0.1, stride=1)
        for shift in (1, 2, 3):
            z = moved(model, x, shift, -shift, stride=1)
            torch.testing.assert_close(z[inside], exact[inside], rtol=1e-11, atol=1e-11)
        for stride in model.network.strides[1:]:
            z, expected = moved(model, x, stride, 0, stride=stride), model(x, 0.1, stride=stride)
            torch.testing.assert_close(z[inside], expected[inside], rtol=1e-11, atol=1e-11)
            assert float((moved(model, x, 1, 0, stride=stride) - expected)[inside].abs().max()) > 1e-6
    assert model.stride == model.network.period == max(sizes["spacing"])


@pytest.mark.parametrize("sizes", [TWO_LATTICES, THREE_LATTICES, ABSOLUTE])
def test_every_stride_is_the_mean_over_the_shifts_of_the_lattices(sizes):
    model = quiet(sizes)
    x, inside = far_from_borders(model)
    with torch.no_grad():
        for stride in model.network.strides:
            shifts = range(0, model.network.period, stride)
            mean = sum(moved(model, x, i, j)[inside] for i in shifts for j in shifts) / len(shifts) ** 2
            torch.testing.assert_close(model(x, 0.1, stride=stride)[inside], mean, rtol=1e-11, atol=1e-11)


@KINDS
def test_at_pixel_centres_is_the_grid_at_stride_one(sizes):
    model, x = random_model(**sizes), uniform(2, 1, 7, 9)
    coords, sigma = torch.cartesian_prod(torch.arange(7), torch.arange(9)).double(), torch.tensor([0.1, 0.2]).double()
    with torch.no_grad():
        grid = model(x, sigma, stride=1)
        torch.testing.assert_close(model.at(x, coords, sigma).reshape(x.shape), grid, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (3000.0, -1024.0)])
@pytest.mark.parametrize("stride", [1, 4])
def test_the_unit_does_not_matter(a, b, stride):
    model, x = random_model(**TWO_LATTICES), uniform(1, 1, 20, 27)
    with torch.no_grad():
        expected = a * model(x, 0.1, stride=stride) + b
        torch.testing.assert_close(model(a * x + b, 0.1 * a, stride=stride), expected, rtol=1e-9, atol=1e-9 * a)


def test_one_noise_level_per_image_and_none_without_noise():
    model, x = random_model(**TWO_LATTICES), uniform(3, 1, 12, 13)
    with torch.no_grad():
        together = model(x, torch.tensor([0.1, 0.3, 0.0], dtype=torch.float64), stride=1)
        for k, sigma in enumerate((0.1, 0.3)):
            torch.testing.assert_close(together[k : k + 1], model(x[k : k + 1], sigma, stride=1), rtol=1e-9, atol=1e-9)
    assert torch.equal(together[2], x[2])


def test_precisions_agree():
    model, x = quiet(TWO_LATTICES), uniform(1, 1, 40, 44)
    with torch.no_grad():
        exact = model.double()(x, 0.1)
        model.float()
        for precision, bound in (("float32", 1e-5), ("bfloat16", 0.02)):
            model.precision = precision
            for stride in (1, 4):
                z = model(x.float(), 0.1, stride=stride).double()
                expected = exact if stride == 4 else model.double()(x, 0.1, stride=1)
                model.float()
                assert float((z - expected).square().mean().sqrt()) < 0.1 * bound
    assert float((exact - x).abs().max()) > 0.02


def test_turns_and_flips_are_averaged_exactly():
    denoiser, x = Equivariant(random_model(**TWO_LATTICES)), uniform(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x.rot90(1, (2, 3)), 0.1), denoiser(x, 0.1).rot90(1, (2, 3)))


def test_gradients_are_right_and_reach_every_weight():
    model = random_model(**TWO_LATTICES)
    x, sigma = uniform(1, 1, 5, 6).requires_grad_(), torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    for stride in (1, 4):
        assert torch.autograd.gradcheck(lambda x, s, k=stride: model(x, s, stride=k), (x, sigma))
    for border in (None, 5):
        model.zero_grad()
        model.valid(uniform(1, 1, 64, 60), sigma, border=border)[0].square().sum().backward()
        assert all(float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_training_sees_what_inference_sees():
    model, x, sigma = random_model(**TWO_LATTICES), uniform(2, 1, 70, 81), torch.tensor([0.1, 0.2]).double()
    with torch.no_grad():
        z, at = model.valid(x, sigma)
        inside = (..., slice(at, at + z.shape[2]), slice(at, at + z.shape[3]))
        torch.testing.assert_close(z, model(x, sigma)[inside], rtol=1e-12, atol=1e-12)
    assert at % 4 == 0 and min(z.shape[2:]) >= 70 - 2 * at - 3
    with pytest.raises(ValueError, match="border"):
        model.valid(x, sigma, border=35)


def crops(batch, *, generator):
    return torch.rand(batch, 1, 40, 40, generator=generator)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_resumes_bit_for_bit(tmp_path, precision):
    def train(name, steps):
        torch.manual_seed(0)
        model = MLPatch(**TWO_LATTICES, precision=precision)
        options = TrainingOptions(steps, batch=2, warmup=1, border=6)
        path = tmp_path / name
        return train_denoiser(model, crops, NoiseLevels(0.1, 0.2), options, checkpoint=path, resume=True).state_dict()

    train("stopped.pt", 2)
    stopped, whole = train("stopped.pt", 4), train("whole.pt", 4)
    assert all(map(torch.equal, stopped.values(), whole.values()))
    with pytest.raises(ValueError, match="border"):
        train_denoiser(
            MLPatch(**TWO_LATTICES),
            crops,
            NoiseLevels(0.1, 0.2),
            TrainingOptions(5, batch=2, warmup=1),
            checkpoint=tmp_path / "whole.pt",
            resume=True,
        )


@pytest.mark.parametrize("sizes", [TWO_LATTICES, THREE_LATTICES, ARCHITECTURES["two-lattices"]])
def test_the_file_holds_the_lattices(tmp_path, sizes):
    model, path = random_model(**sizes), tmp_path / "two.safetensors"
    model.save(path)
    again = MLPatch.from_pretrained(path)
    assert again.config() == model.config() and again.stride == model.stride
    assert again.receptive_field == model.receptive_field
    assert json.loads(json.dumps(model.config())) == model.config()
    x = uniform(1, 1, 16, 16, dtype=torch.float32)
    again.precision = model.precision = "float32"
    with torch.no_grad():
        torch.testing.assert_close(again(x, 0.1), model(x, 0.1), rtol=0.02, atol=0.02)


def test_a_file_that_claims_huge_lattices_is_refused(tmp_path):
    model, path = random_model(**TWO_LATTICES), tmp_path / "w.safetensors"
    model.save(path)
    tensors = load_file(path)
    for name, value in (("features", [8, 10**9, 8]), ("dilations", [[1], [1, 10**7], [1]]), ("spacing", [2, None, 2])):
        save_file(tensors, path, metadata={"mlpatch": json.dumps({**model.config(), name: value})})
        with pytest.raises(ValueError, match=name):
            MLPatch.from_pretrained(path)


def test_one_stage_is_the_plain_network():
    plain = MLPatch(features=8, hidden=6, dilations=(1, 2), spacing=2)
    staged = MLPatch(features=(8,), hidden=(6,), dilations=((1, 2),), spacing=(2,))
    assert staged.config() == plain.config()
    assert staged.state_dict().keys() == plain.state_dict().keys()


def test_memory_is_that_of_a_tile(monkeypatch):
    model, seen = random_model(**TWO_LATTICES), []
    estimate = model.estimate
    monkeypatch.setattr(model, "estimate", lambda y, *rest: seen.append(y.numel()) or estimate(y, *rest))
    monkeypatch.setitem(tiles.TILE, 2, (16, 32))
    with torch.no_grad():
        for size in (256, 512):
            model(uniform(1, 1, size, 64, dtype=torch.float32), 0.1)
    tile = (2 * 16 + model.receptive_field + 9) * (2 * 32 + model.receptive_field + 9)
    assert len(seen) == 8 + 16 and max(seen) <= tile


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": (8, 12)}, ": features "),
        ({"features": 8}, ": features "),
        ({"features": (8, 12, 9)}, ": features "),
        ({"features": (8, 0, 8)}, ": features "),
        ({"hidden": (8, 2.5, 8)}, ": hidden "),
        ({"hidden": None}, ": hidden "),
        ({"dilations": (1, 1, 1)}, ": dilations "),
        ({"dilations": ((1,), (), (1,))}, ": dilations "),
        ({"dilations": ((1,), (0,), (1,))}, ": dilations "),
        ({"spacing": (2, 6, 2)}, ": spacing "),
        ({"spacing": (2, 4, 4)}, ": spacing "),
        ({"spacing": (4, 2, 4)}, ": spacing "),
        ({"spacing": ()}, ": spacing "),
        ({"spacing": "242"}, ": spacing "),
        ({"spacing": 2.0}, ": spacing "),
        ({"spacing": (0, 0, 0)}, ": spacing "),
        ({"stride": 3}, ": stride "),
        ({"patch": 1}, ": patch "),
    ],
)
def test_bad_lattices_are_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        MLPatch(**{**TWO_LATTICES, **options})
    assert len(str(caught.value)) < 400


def test_two_stages_are_refused():
    with pytest.raises(ValueError, match=": spacing "):
        MLPatch(spacing=(2, 4), features=(8, 8), hidden=(8, 8), dilations=((1,), (1,)))
