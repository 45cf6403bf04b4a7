"""MLPatch in three dimensions: its equations against those of images, tiles, locality, units, sizes, memory."""

import pickle
import subprocess
import sys
from itertools import accumulate

import pytest
import torch
from arrays import uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import SMALL, TWO_LATTICES, check_tiling, random_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denoisers import MLPatch, SliceWise
from denoisers.mlpatch import ARCHITECTURES, network, tiles
from denoisers.mlpatch.geometry import mirrored

ONE = {"taps": 3, "features": 6, "hidden": 5, "dilations": (1, 2)}
TWO = {**TWO_LATTICES, "taps": 3, "features": (6, 7, 6), "hidden": (5, 6, 5), "dilations": ((1,), (1,), (1,))}


def volumes(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def model_of(options, **more):
    model = random_model(dimensions=3, margin=1, precision="float32", **{**options, **more}).requires_grad_(False)
    model.network.write.weight.mul_(0.2)  # within the limit of six sigma, where nothing is flat
    return model


def extruded(flat, seed=1):
    """Return a denoiser of volumes that does on images repeated along the first axis what `flat` does on the image."""
    deep = MLPatch(**{k: v for k, v in flat.config().items() if k != "sigma_range"}, dimensions=3).double()
    g, spacing, patch = torch.Generator().manual_seed(seed), flat.network.spacing, flat.network.patch

    def spread(w, parts, groups=1):
        """Split w into random parts along a new first axis; each group of every `groups`-th one sums to w."""
        share = torch.randn(parts, *w.shape, generator=g, dtype=w.dtype)
        for k in range(groups):
            share[k::groups] += (w - share[k::groups].sum(0)) / len(share[k::groups])
        return share

    state, n = deep.state_dict(), flat.network
    taps = round(len(n.taps) ** 0.5)
    depth = torch.arange(taps).repeat_interleave(taps**2) - (taps - 1) / 2
    state["network.taps"] = torch.cat([depth[:, None], n.taps.repeat(taps, 1)], 1)
    features = len(n.read.weight)
    state["network.read.weight"] = spread(n.read.weight.reshape(features, 1, -1), taps).movedim(0, 2).flatten(1)
    state["network.read.bias"] = n.read.bias
    for k, block in enumerate(n._blocks()):
        w = spread(block.gather.weight, 3)  # (3, hidden, 9 features)
        state[f"network.blocks.{k}.gather.weight"] = w.movedim(0, 1).flatten(1)
        for name in ("gather.bias", "update.weight", "update.bias"):
            state[f"network.blocks.{k}.{name}"] = block.state_dict()[name]
    for k, change in enumerate(n._changes()):
        w, b, key = change.matrix.weight, change.matrix.bias, f"network.changes.{k}.matrix"
        # Both planes of finer queries have the same features.
        state[f"{key}.weight"] = spread(w, 2).movedim(0, 1).flatten(1) if change.coarsens else w.repeat(2, 1)
        state[f"{key}.bias"] = b if change.coarsens else b.repeat(2)
    # Each plane is covered by patches of queries in every `spacing`-th plane.
    w = spread(n.write.weight, patch, spacing)  # (patch, patch^2, features)
    state["network.write.weight"] = w.flatten(0, 1)
    deep.load_state_dict(state)
    return deep.requires_grad_(False)


@pytest.mark.parametrize("options", [{**ONE, "margin": 1}, {**TWO, "margin": 1}], ids=["one lattice", "two lattices"])
def test_a_repeated_image_is_denoised_as_the_image(options):
    flat = random_model(**options).double().requires_grad_(False)
    deep = extruded(flat)
    x = volumes(1, 1, 5, 8)
    for stride in flat.network.strides:
        z = deep(x[:, :, None].expand(-1, -1, 3, -1, -1), 0.1, stride=stride)
        expected = flat(x, 0.1, stride=stride)
        assert float((expected - x).abs().max()) > 0.01
        torch.testing.assert_close(z, expected[:, :, None].expand_as(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [ONE, TWO], ids=["one lattice", "two lattices"])
@settings(max_examples=4, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    stride=st.sampled_from([1, 2, 4]),
    tile=st.tuples(*[st.integers(2, 7)] * 3),
)
def test_any_tiling_of_any_size_gives_the_same_volume(options, sizes, stride, tile):
    model = model_of(options)
    check_tiling(model, uniform(2, 1, *sizes), 0.1, min(stride, model.network.period), tile)


@pytest.mark.parametrize("options", [ONE, TWO], ids=["one lattice", "two lattices"])
def test_the_unit_the_dtype_and_the_batch(options):
    model, x = model_of(options), volumes(3, 1, 9, 6, 7)
    z = model(x, 0.1)
    assert z.shape == x.shape and float((z - x).abs().max()) > 0.01
    torch.testing.assert_close(model(3000 * x - 1024, 300.0), 3000 * z - 1024, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(x[1:], torch.tensor([0.1, 0.1], dtype=x.dtype)), z[1:], rtol=1e-12, atol=1e-12)
    assert torch.equal(model(x, 0.0), x)
    single = model.float()(x.float(), 0.1)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), z, rtol=0, atol=1e-4)
    model.precision = "bfloat16"
    torch.testing.assert_close(model(x.float(), 0.1), single, rtol=0, atol=0.05)
    model.precision = "float32"
    assert torch.equal(pickle.loads(pickle.dumps(model))(x.float(), 0.1), single)


@pytest.mark.parametrize("stride", [1, 2])
def test_shifts_by_multiples_of_the_stride(stride):
    model, x = model_of(ONE, dilations=(1,)), volumes(1, 1, 18, 19, 20)
    shift = (stride, -stride, 0)
    shifted = model(x.roll(shift, (2, 3, 4)), 0.1, stride=stride).roll([-s for s in shift], (2, 3, 4))
    edge = model.receptive_field // 2 + stride
    inside = (..., *[slice(edge, -edge)] * 3)
    expected = model(x, 0.1, stride=stride)
    assert expected[inside].numel() > 0
    torch.testing.assert_close(shifted[inside], expected[inside], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [ONE, TWO], ids=["one lattice", "two lattices"])
def test_a_voxel_depends_on_its_receptive_field_and_on_nothing_else(options):
    model = model_of(options)
    n = model.receptive_field + 4
    x = volumes(1, 1, n, n, n).requires_grad_()
    model(x, 0.1)[0, 0, n // 2, n // 2, n // 2].backward()
    reach = model.receptive_field // 2
    for axis in range(3):
        seen = x.grad[0, 0].abs().amax([a for a in range(3) if a != axis]).nonzero().ravel() - n // 2
        assert -reach <= int(seen.min()) < 0 < int(seen.max()) <= reach


def test_with_gradients_and_inside_the_result_is_the_same():
    model, x = model_of(TWO), volumes(1, 1, 33, 31, 30)
    expected = model(x, 0.1)
    torch.testing.assert_close(model(x.clone().requires_grad_(), 0.1), expected, rtol=1e-11, atol=1e-11)
    sigma = torch.tensor([0.1], dtype=torch.float64)
    part, at = model.valid(x, sigma)
    inside = expected[(..., *(slice(at, at + n) for n in part.shape[2:]))]
    torch.testing.assert_close(part, inside, rtol=1e-11, atol=1e-11)
    part, at = model.valid(x, sigma, border=3)
    assert at == 3 and part.shape[2:] == (26, 22, 22)  # of the multiples of four


@pytest.mark.parametrize("options", [ONE, TWO], ids=["one lattice", "two lattices"])
def test_a_part_is_that_part_of_the_whole(options):
    model, x = model_of(options), volumes(1, 1, 30, 17, 22)
    starts, sizes = (8, 0, 12), (9, 17, 10)
    inside = (..., *(slice(at, at + n) for at, n in zip(starts, sizes, strict=True)))
    torch.testing.assert_close(model.part(x, 0.1, starts, sizes), model(x, 0.1)[inside], rtol=1e-11, atol=1e-11)
    for bad in ((8, 0, 11), (24, 0, 12), (-4, 0, 12)):
        with pytest.raises(ValueError, match="starts"):
            model.part(x, 0.1, bad, sizes)


class Largest(TorchDispatchMode):
    """Bytes of the largest block of memory of all tensors, other than blocks of a given size."""

    def __init__(self, size):
        super().__init__()
        self.size, self.found = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes() != self.size:
                self.found = max(self.found, t.untyped_storage().nbytes())
        return out


def test_the_memory_is_that_of_a_tile(monkeypatch):
    monkeypatch.setitem(tiles.TILE, 3, (4, 4, 4))
    model, found = model_of({**ONE, "dilations": (1,)}).float(), []
    for n in (24, 32):
        with Largest(4 * n**3) as largest:
            model(torch.zeros(1, 1, n, n, n), 0.1)
        found.append(largest.found)
    assert 0 < found[0] == found[1]


def peak_bytes(call):
    """Return the largest number of bytes of tensors that are alive at one time during a call, beyond those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    steps = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(steps))


@pytest.mark.parametrize("options", [{**ONE, "dilations": (1, 2, 1)}, TWO], ids=["one lattice", "two lattices"])
def test_slabs_change_nothing(monkeypatch, options):
    model, x, sigma = model_of(options).double(), volumes(2, 1, 21, 13, 18), torch.tensor([0.1, 0.3]).double()
    whole = model(x.clone().requires_grad_(), sigma).detach()
    monkeypatch.setattr(network, "_SLOW", 0)
    for planes in (1, 3):
        monkeypatch.setattr(network, "PLANES", planes)
        for stride in (model.stride, 1):
            want = whole if stride == model.stride else model(x.clone().requires_grad_(), sigma, stride=1).detach()
            assert (model(x, sigma, stride=stride) - want).abs().max() < 1e-13


def test_features_are_held_once():
    """Next to them there are the hidden layer and the result of a few planes."""
    model = MLPatch(**ARCHITECTURES["volume"], precision="float32").requires_grad_(False)
    x = torch.rand(1, 1, 64, 64, 64)
    features = 4 * 48 * 46**3
    assert features < peak_bytes(lambda: model(x, 0.1)) < 2.1 * features


def test_mirrored_volumes_in_memory_that_is_given():
    x, room = volumes(2, 3, 9, 5, 7), torch.full((10_000,), torch.nan, dtype=torch.float64)
    for ranges in (((-3, 17), (0, 5), (-9, 4)), ((2, 11), (1, 4), (0, 7)), ((0, 9), (0, 5), (0, 7))):
        assert torch.equal(mirrored(x, *ranges, room=room), mirrored(x, *ranges))


def test_tensors_that_live_at_one_time_are_those_of_a_tile_and_the_output(monkeypatch):
    monkeypatch.setitem(tiles.TILE, 3, (4, 4, 4))
    model, extra = model_of(TWO).float(), []
    sizes = [(16, 16, 16), (16, 16, 48), (48, 16, 16)]
    for size in sizes:
        x = torch.rand(1, 1, *size)
        extra.append(peak_bytes(lambda x=x: model(x, 0.1)) - x.nbytes)
    assert min(extra) > 0 and max(extra) < 1.05 * min(extra)


@pytest.mark.slow
def test_resident_memory_is_flat_from_two_tiles_on():
    script = """
import re, sys, torch
from pathlib import Path
from denoisers import MLPatch
from denoisers.mlpatch import ARCHITECTURES
torch.set_num_threads(1)
model, x = MLPatch(**ARCHITECTURES["volume"]).requires_grad_(False), torch.rand(1, 1, 128, 128, int(sys.argv[1]))
def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model(x, 0.1)
print(status("VmHWM") - before - x.nbytes)
"""
    calls = [[sys.executable, "-c", script, str(n)] for n in (256, 768)]
    short, long = (int(subprocess.run(c, capture_output=True, check=True, text=True).stdout) for c in calls)
    assert 2**24 < short and long < 1.2 * short


def test_the_architecture_of_the_weights_is_light():
    model = MLPatch(**ARCHITECTURES["volume"])
    n = model.network
    spacings = [s.spacing for s in n.stages for _ in s.dilations]
    blocks = zip(n._blocks(), spacings, strict=True)
    products = sum((b.gather.weight.numel() + b.update.weight.numel()) / s**3 for b, s in blocks)
    products += sum(change.matrix.weight.numel() / (2 * change.fine.spacing) ** 3 for change in n._changes())
    products += (n.support**3 + 6**3) * n.stages[0].features / n.spacing**3
    assert products < 50_000
    assert model.config()["dimensions"] == 3 and "dimensions" not in MLPatch(**SMALL).config()


def test_weights_of_volumes_are_saved_and_read(tmp_path):
    model, x = model_of(TWO).float(), torch.rand(1, 1, 5, 6, 7)
    model.save(tmp_path / "w.safetensors")
    again = MLPatch.from_pretrained(tmp_path / "w.safetensors")
    assert again.dimensions == 3 and "dimensions=3" in repr(again)
    torch.testing.assert_close(again(x, 0.1), model(x, 0.1), rtol=0, atol=0.02)


def test_what_is_no_volume_is_refused():
    model, flat = model_of(ONE), random_model()
    for call, match in [
        (lambda: model(volumes(1, 1, 4, 4), 0.1), ": x must be"),
        (lambda: model(volumes(4, 4, 4), 0.1), "None, None"),
        (lambda: model(volumes(1, 2, 4, 4, 4), 0.1), ": x must be"),
        (lambda: flat(volumes(1, 1, 4, 4, 4), 0.1), "SliceWise"),
        (lambda: model.at(volumes(1, 1, 4, 4, 4), torch.zeros(1, 3), 0.1), "dimensions"),
        (lambda: model.valid(volumes(1, 1, 4, 4, 4), torch.ones(1), border=2), "border"),
        (lambda: MLPatch(dimensions=4), "dimensions"),
    ]:
        with pytest.raises(ValueError, match=match) as caught:
            call()
        assert len(str(caught.value)) < 400
    assert SliceWise(flat)(volumes(1, 1, 4, 4, 4), 0.1).shape == (1, 1, 4, 4, 4)  # as the message says
