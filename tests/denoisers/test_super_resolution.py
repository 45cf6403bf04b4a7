"""Super-resolution at any factor: alignment, units, locality, chunks, learned taps, bad input; LIIF as in its paper."""

import importlib
import math

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from arrays import uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers import MLPatch, weight_files
from denoisers.mlpatch import super_resolver
from denoisers.mlpatch.super_resolver import SuperResolver, downsampling_matrix, output_coords
from recipes import TALK


@pytest.fixture
def liif(monkeypatch):
    """The recipe's neighbour, which is in no package."""
    monkeypatch.syspath_prepend(str(TALK))
    return importlib.import_module("liif")


def random_model(channels=1, seed=0, **options):
    """A model far from bicubic interpolation: every weight random, every tap off its grid."""
    model = SuperResolver(channels, **{"taps": 5, "hidden": 12, **options})
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            p.add_(0.3 * noise) if name == "taps" else p.copy_(noise / max(1, p[0].numel()) ** 0.5)
    return model.eval()


def at_grid(model, x, size):
    rows, cols = (output_coords(n, m) for n, m in zip(x.shape[2:], size, strict=True))
    return model.at(x, torch.cartesian_prod(rows, cols)).unflatten(2, size)


@pytest.mark.parametrize("factor", [2, 3, 4, 2.5, math.e])
@torch.no_grad()
def test_a_ramp_is_reproduced_exactly(factor):
    """Untrained, at the right place: half a pixel of misalignment would be half a unit."""
    model = SuperResolver(1)
    x = 3 * torch.arange(16.0)[:, None] - torch.arange(20.0)
    z = model(x.double()[None, None], factor=factor)[0, 0]
    r, c = output_coords(16, z.shape[0]), output_coords(20, z.shape[1])
    expected = 3 * r[:, None] - c
    # The mirrored border is no ramp.
    inside = ((r > 1) & (r < 14))[:, None] & ((c > 1) & (c < 18))
    torch.testing.assert_close(z[inside], expected[inside], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_sinusoid_lies_where_it_was():
    """Both grids cover the same area: a wave of 16 pixels keeps its phase to the error of Keys' interpolation."""
    model, wave = SuperResolver(1), lambda t: torch.sin(2 * math.pi * t / 16)
    z = model(wave(torch.arange(48.0))[:, None].expand(48, 8)[None, None].double(), factor=4)[0, 0]
    expected = wave(output_coords(48, 192))[:, None].expand_as(z)
    inside = slice(8, -8)
    assert float((z - expected)[inside].abs().max()) < 2e-3  # half an output pixel is 0.05
    torch.testing.assert_close(z, z[:, :1].expand_as(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(128, 64), (60, 15), (50, 20)])
def test_downsampling_is_torchs(shape):
    x = uniform(1, 1, shape[0], shape[0], dtype=torch.float32)
    matrix = downsampling_matrix(*shape)
    expected = F.interpolate(x, (shape[1],) * 2, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(matrix @ x @ matrix.T, expected, rtol=1e-5, atol=1e-5)


def test_shifted_downsampling_sees_a_ramp_where_it_is():
    matrix = downsampling_matrix(64, 32, shift=0.3).double()
    ramp = matrix @ torch.arange(64.0, dtype=torch.float64)
    # In pixels of the ramp: the pixels' centres, moved by 0.3 of a pixel of twice the width.
    torch.testing.assert_close(ramp[3:-3], output_coords(64, 32)[3:-3] + 0.6, rtol=1e-5, atol=1e-5)


def test_taps_read_at_their_offsets():
    """On a ramp, tap k at coordinate c reads the ramp at c + o_k, within half a pixel of the 5 x 5 it began with."""
    model = random_model()
    x = 2 * torch.arange(15.0, dtype=torch.float64)[:, None] - 5 * torch.arange(15.0, dtype=torch.float64)
    pixel, phase = torch.tensor([7, 7]), torch.tensor([[0.3, -0.45]], dtype=torch.float64)
    rows, cols = model._weights(phase, torch.float64)
    around = slice(7 - model.reach, 7 + model.reach + 1)
    window = x[around, around]
    read = torch.einsum("ij,ki,kj->k", window, rows[0], cols[0])[:-2]
    where = pixel + phase + model.taps.detach().double().clamp(-2.5, 2.5)
    torch.testing.assert_close(read, 2 * where[:, 0] - 5 * where[:, 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 2.5])
@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (3000.0, -1024.0), (0.02, 5.0)])
def test_the_unit_does_not_matter(a, b, factor):
    model, x = random_model(3), uniform(1, 3, 9, 12)
    with torch.no_grad():
        expected = a * model(x, factor=factor) + b
        torch.testing.assert_close(model(a * x + b, factor=factor), expected, rtol=1e-9, atol=1e-9 * a)


@settings(max_examples=12, deadline=None)
@given(h=st.integers(1, 12), w=st.integers(1, 12), more=st.integers(0, 20), chunk=st.integers(1, 300))
def test_any_size_in_any_chunks_is_what_at_gives(h, w, more, chunk):
    model, x = random_model(2), uniform(2, 2, h, w)
    size = (h + more, 2 * w)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = at_grid(model, x, size)
        patch.setattr(super_resolver, "POINTS_PER_PHASE", 0)
        whole = model(x, size=size)
        patch.setattr(super_resolver, "POINTS_PER_CHUNK", chunk)
        pieces = model(x, size=size)
    assert whole.shape == (2, 2, *size)
    torch.testing.assert_close(whole, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 2.5, math.e, 20])
def test_at_the_grids_coordinates_is_the_grid(factor, monkeypatch):
    model, x = random_model(3), uniform(1, 3, 6, 8)
    with torch.no_grad():
        z = model(x, factor=factor)
        assert z.shape[2:] == (round(6 * factor), round(8 * factor))
        expected = at_grid(model, x, tuple(z.shape[2:]))
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
        monkeypatch.setattr(super_resolver, "POINTS_PER_PHASE", 0)
        torch.testing.assert_close(model(x, factor=factor), expected, rtol=1e-10, atol=1e-10)


def test_a_pixel_of_a_constant_and_a_single_pixel_stay_what_they_are():
    model = random_model()
    assert torch.equal(model(torch.full((1, 1, 1, 1), 7.5), factor=3.7), torch.full((1, 1, 4, 4), 7.5))
    x = torch.full((1, 1, 6, 9), 0.1)
    assert torch.equal(model(x, size=(11, 18)), torch.full((1, 1, 11, 18), 0.1))


def test_shifts_by_whole_pixels_commute():
    model, x = random_model(), uniform(1, 1, 30, 30)
    inside = (..., slice(30, 60), slice(30, 60))
    with torch.no_grad():
        shifted = model(x.roll((2, -3), (2, 3)), factor=3).roll((-6, 9), (2, 3))
        torch.testing.assert_close(shifted[inside], model(x, factor=3)[inside], rtol=1e-12, atol=1e-12)


def test_a_value_depends_on_its_receptive_field_and_on_nothing_else():
    model, x = random_model(), uniform(1, 1, 31, 31).requires_grad_()
    model.at(x, torch.tensor([[15.2, 14.9]])).sum().backward()
    reach = x.grad[0, 0].abs().nonzero().sub(15).abs().amax(0)
    assert reach.tolist() == [model.receptive_field // 2] * 2


def test_the_field_is_continuous_where_the_pixel_changes():
    model, x = random_model(), uniform(1, 1, 12, 12)
    t = torch.linspace(3, 7, 801, dtype=torch.float64)
    with torch.no_grad():
        values = model.at(x, torch.stack([t, 10.3 - t], 1))[0, 0]
    steps = values.diff().abs()
    assert float(steps.max()) < 0.05 * float(values.max() - values.min())
    edge = torch.tensor([[4.5 - 1e-9, 6.2], [4.5 + 1e-9, 6.2]], dtype=torch.float64)
    with torch.no_grad():
        left, right = model.at(x, edge)[0, 0].tolist()
    assert left == pytest.approx(right, abs=1e-6)


def test_gradients_reach_the_taps_and_the_image():
    model, x = random_model(2), uniform(1, 2, 6, 5).requires_grad_()
    model(x.float(), factor=2).square().sum().backward()
    assert bool((model.taps.grad.abs().sum(1) > 0).all())
    assert all(float(p.grad.abs().max()) > 0 for p in model.parameters())
    assert torch.autograd.gradcheck(lambda x: model(x, size=(7, 8)), (x,))


def test_a_constant_image_has_finite_gradients():
    model, x = random_model(), torch.ones(1, 1, 6, 6, requires_grad=True)
    model(x, factor=2).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_talks_size_and_bicubic_to_begin_with():
    model = SuperResolver(3)
    assert 130_000 < sum(p.numel() for p in model.parameters()) < 145_000
    assert model.receptive_field == 11
    x = uniform(1, 3, 12, 12)
    with torch.no_grad():
        # At the pixels' own centres, interpolation returns them.
        torch.testing.assert_close(model(x, factor=1), x, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_close_to_float32():
    model, x = random_model(3, taps=7, hidden=64), uniform(1, 3, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        model.precision = "float32"
        expected = model(x + 1000, factor=2) - 1000
        model.precision = "bfloat16"
        assert float((model(x + 1000, factor=2) - 1000 - expected).abs().mean()) < 0.02


def test_products_in_bfloat16_do_not_round_the_answer():
    """Where nothing is added to the network's output, it has the digits of its input, not bfloat16's."""
    model = random_model(3, taps=7, hidden=64, precision="bfloat16").float()
    samples = uniform(200, 3, 51, dtype=torch.float32)
    samples[..., -2:] = 0  # no base and no mean: of a standard deviation of 1 the answer is the output itself
    with torch.no_grad():
        g = model._combine(torch.zeros(200, 3), samples, torch.ones(200, 3), torch.zeros(1, 2))
    assert g.dtype == torch.float32 and float((g != g.bfloat16().float()).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda S, x: S(x), ValueError, "size or factor"),
        (lambda S, x: S(x, size=(8, 8), factor=2), ValueError, "size or factor"),
        (lambda S, x: S(x, factor=0.5), ValueError, "factor"),
        (lambda S, x: S(x, factor=math.nan), ValueError, "factor"),
        (lambda S, x: S(x, size=(3, 9)), ValueError, "size"),
        (lambda S, x: S(x, size=9), ValueError, ": size "),
        (lambda S, x: S(x[0], factor=2), ValueError, ": x "),
        (lambda S, x: S(x.repeat(1, 3, 1, 1), factor=2), ValueError, "channels one by one"),
        (lambda S, x: S(x.long(), factor=2), TypeError, "floating point"),
        (lambda S, x: S.at(x, torch.zeros(3)), ValueError, "coords"),
        (lambda S, x: S.at(x, torch.tensor([[0.0, 4.6]])), ValueError, "coords"),
        (lambda S, x: S.grid(x, torch.tensor([-0.6]), torch.zeros(1)), ValueError, ": rows "),
        (lambda S, x: S.grid(x, torch.zeros(1), 3), ValueError, ": cols "),
        (lambda S, x: SuperResolver(taps=4), ValueError, ": taps "),
        (lambda S, x: SuperResolver(precision="half"), ValueError, "precision"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(random_model(), uniform(1, 1, 4, 5))
    assert len(str(caught.value)) < 400


def test_no_coordinates_give_no_values():
    assert random_model().at(uniform(1, 1, 4, 4), torch.zeros(0, 2)).shape == (1, 1, 0)
    assert random_model().grid(uniform(1, 1, 4, 4), torch.zeros(0), torch.zeros(2)).shape == (1, 1, 0, 2)


def test_liif_has_the_papers_size(liif):
    assert sum(p.numel() for p in liif.LIIF(3).parameters()) == pytest.approx(1.567e6, rel=1e-3)


def test_the_local_ensemble_is_area_weighted(liif):
    coords = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6 - 0.5
    around = liif.ensemble(coords, (6, 6))
    torch.testing.assert_close(sum(w for _, w in around), torch.ones(50, dtype=torch.float64))
    inside = ((coords > 0) & (coords < 5)).all(1)
    # Weighted pixels average to the coordinate: the pixel nearest to it weighs most.
    centre = sum(w[:, None] * pixel for pixel, w in around)
    torch.testing.assert_close(centre[inside], coords[inside])
    assert all(int(p.min()) >= 0 and int(p.max()) <= 5 for p, _ in around)


def test_liif_is_aligned_and_in_chunks_the_same(liif):
    model = liif.LIIF(1, width=4, blocks=1, hidden=8, residual=True).double()
    x = uniform(2, 1, 7, 9)
    with torch.no_grad():
        for p in model.decode[-1].parameters():
            p.zero_()
        expected = F.interpolate(x, (14, 27), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(x, size=(14, 27)), expected)
        torch.nn.init.normal_(model.decode[-1].weight, generator=torch.Generator().manual_seed(0))
        coords, cell = torch.cartesian_prod(output_coords(7, 14), output_coords(9, 27)), torch.tensor([0.5, 1 / 3])
        pieces = model.at(x, coords, cell.double(), chunk=50).unflatten(2, (14, 27))
        torch.testing.assert_close(pieces, model.at(x, coords, cell.double()).unflatten(2, (14, 27)))


def test_liif_is_asked_for_no_smaller_cell_than_it_was_trained_for(liif):
    model, x = liif.LIIF(1, width=4, blocks=1, hidden=8, max_factor=2).double(), uniform(1, 1, 5, 6)
    with torch.no_grad():
        for factor, cell in ((1.5, 1 / 1.5), (2, 0.5), (4, 0.5)):
            size = (round(5 * factor), round(6 * factor))
            cells = torch.tensor([max(5 / size[0], 0.5), max(6 / size[1], 0.5)], dtype=torch.float64)
            coords = torch.cartesian_prod(output_coords(5, size[0]), output_coords(6, size[1]))
            torch.testing.assert_close(model(x, size=size), model.at(x, coords, cells).unflatten(2, size))
            assert float(cells[1]) == pytest.approx(cell)


@pytest.mark.parametrize("unit", [1e-15, 1e15])
def test_units_in_float32(unit):
    model, x = random_model(), uniform(1, 1, 9, 12, dtype=torch.float32)
    model.precision = "float32"
    with torch.no_grad():
        torch.testing.assert_close(model(unit * x, factor=2) / unit, model(x, factor=2), rtol=1e-3, atol=1e-4)


def test_weights_survive_the_file_and_are_told_from_those_of_mlpatch(tmp_path, monkeypatch):
    model, path = random_model(2), tmp_path / "mine.safetensors"
    model.save(path, about={"data": "noise"})
    again = SuperResolver.from_pretrained(path)
    assert again.config() == model.config() and not any(p.requires_grad for p in again.parameters())
    x = uniform(1, 2, 6, 7, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again(x, factor=2), model(x, factor=2), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="MLPatch"):
        MLPatch.from_pretrained(str(path))
    with pytest.raises(ValueError, match=r"SuperResolver\.from_pretrained: name_or_path"):
        SuperResolver.from_pretrained("gray")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    MLPatch(taps=3, features=4, hidden=4, dilations=(1,)).save(tmp_path / "local.safetensors")
    monkeypatch.setattr(weight_files, "FOLDER", tmp_path)
    assert weight_files.available(MLPatch) == ["local"] and weight_files.available(SuperResolver) == ["mine"]
    assert SuperResolver.from_pretrained("mine").config() == model.config()


@pytest.mark.parametrize("factor", [2, 2.5, 4])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_the_weights_of_the_package_surpass_bicubic_interpolation(name, factor):
    x = torch.from_numpy(getattr(skimage.data, name)()[60:260, 100:300]).movedim(2, 0)[None].float() / 255
    size = [round(200 / factor)] * 2
    y = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
    bicubic = F.interpolate(y, (200, 200), mode="bicubic", align_corners=False)
    with torch.no_grad():
        ours = SuperResolver.from_pretrained()(y, size=(200, 200))
    before, after = ((z - x).square().mean() for z in (bicubic, ours))
    assert after < 0.97 * before


@pytest.mark.parametrize("name", weight_files.available(SuperResolver))
def test_packaged_weights_have_a_card(name):
    card = (weight_files.FOLDER / f"{name}.md").read_text()
    model = SuperResolver.from_pretrained(name)
    assert "seed" in card and "python recipes/" in card
    assert f"receptive field {model.receptive_field} low-resolution pixels" in card
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters" in card
