"""Mosaics of volumes against the whole volume; resuming, in two and three dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arrays import rel
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaics import network, picture
from random_networks import TWO_LATTICES, random_model
from torch import nn

from denoisers import MLPatch, SliceWise
from denoisers.mlpatch import tiles
from pnp import LeastSquares, Schedule, solve

pytest.importorskip("dask", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack import denoise_mosaic, mosaic_denoise, solve_mosaic  # noqa: E402

TWO = {**TWO_LATTICES, "taps": 3, "features": (6, 7, 6), "hidden": (5, 6, 5), "dilations": ((1,), (1,), (1,))}


@pytest.fixture(scope="module")
def model() -> MLPatch:
    return network(dimensions=3, dilations=(1,))


def whole_of(model, x, sigma=0.1):
    return model(torch.from_numpy(x)[None, None], sigma)[0, 0].numpy()


def read(output):
    return np.asarray(zarr.open(str(output), mode="r")[:])


@settings(max_examples=8, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 40)] * 3), tile=st.integers(1, 24), lattices=st.sampled_from([1, 2]))
def test_any_shape_and_any_tiles_give_the_whole_volume(model, shape, tile, lattices, tmp_path_factory):
    if lattices == 2:
        model = random_model(dimensions=3, **TWO).requires_grad_(False)
    x = picture(*shape, seed=shape[0], dtype=torch.float64)
    output = denoise_mosaic(x, model, 0.1, output=tmp_path_factory.mktemp("m") / "z.zarr", tile=tile)
    np.testing.assert_allclose(read(output), whole_of(model, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("shape", "tile"), [((48, 32, 16), 16), ((64, 20, 32), 32)])
def test_the_bits_are_those_of_the_whole_where_tiles_coincide(model, shape, tile, tmp_path, monkeypatch):
    monkeypatch.setitem(tiles.TILE, 3, (8, 8, 8))  # sixteen voxels
    x = picture(*shape)
    found = read(denoise_mosaic(x, model, 0.1, output=tmp_path / "z.zarr", tile=tile))
    np.testing.assert_array_equal(found, whole_of(model, x))
    assert rel(found, x) > 1e-2  # the network does something


def test_volumes_of_several_channels_and_from_every_source(model, tmp_path):
    import dask.array as da
    import h5py

    x = picture(30, 17, 33)
    zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, chunks=(16, 16, 16), dtype=x.dtype)[:] = x
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["volume"] = x.astype(">f4")
    whole = whole_of(model, x)
    for k, source in enumerate([tmp_path / "x.zarr", f"{tmp_path / 'x.h5'}::volume", da.from_array(x, chunks=13)]):
        output = denoise_mosaic(source, model, 0.1, output=tmp_path / f"{k}.zarr", tile=16)
        np.testing.assert_allclose(read(output), whole, rtol=0, atol=2e-6)
    output = denoise_mosaic(tmp_path / "x.zarr", model, 0.1, output=tmp_path / "z.h5", tile=16)
    with h5py.File(output) as file:
        np.testing.assert_allclose(file["image"][:], whole, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="exists"):
        denoise_mosaic(x, model, 0.1, output=tmp_path / "z.h5")
    pair = network(2, dimensions=3, dilations=(1,))
    x = picture(2, 20, 17, 33)
    output = denoise_mosaic(x, pair, 0.1, output=tmp_path / "pair.zarr", tile=16)
    np.testing.assert_allclose(read(output), pair(torch.from_numpy(x)[None], 0.1)[0], rtol=0, atol=3e-6)


def test_images_slice_by_slice_are_a_volume(tmp_path):
    flat, x = network(), picture(9, 33, 20)
    D = SliceWise(flat, axes=(0,))
    output = denoise_mosaic(
        x, D, 0.1, output=tmp_path / "z.zarr", tile=16, dimensions=3, halo=flat.receptive_field // 2
    )
    np.testing.assert_allclose(read(output), flat(torch.from_numpy(x)[:, None], 0.1)[:, 0], rtol=0, atol=2e-6)


def test_a_block_computes_its_own_voxels_and_reads_its_halo(model, tmp_path, monkeypatch):
    seen, estimate = [], MLPatch.estimate
    monkeypatch.setattr(MLPatch, "estimate", lambda m, y, *rest: seen.append(y.shape[2:]) or estimate(m, y, *rest))
    denoise_mosaic(picture(64, 32, 32), model, 0.1, output=tmp_path / "z.zarr", tile=16)
    side = 16 + sum(model.network.margins(2))
    assert seen == [(side, side, side)] * 16


def test_a_cluster_gives_the_same_bits(model, tmp_path):
    from distributed import Client

    x = picture(32, 20, 17)
    zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, chunks=(16, 16, 16), dtype=x.dtype)[:] = x
    expected = read(denoise_mosaic(x, model, 0.1, output=tmp_path / "z.zarr", tile=16))
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        for k, source in enumerate([tmp_path / "x.zarr", x]):
            output = denoise_mosaic(source, model, 0.1, output=tmp_path / f"{k}.zarr", tile=16, client=client)
            np.testing.assert_array_equal(read(output), expected)
        with pytest.raises(ValueError, match="channels"):
            denoise_mosaic(x[None].repeat(2, 0), model, 0.1, output=tmp_path / "bad.zarr", client=client)


class Interrupted:
    """Stands for `denoise_tile`, and raises before tile number n."""

    def __init__(self, n, error=KeyboardInterrupt):
        self.n, self.error, self.calls, self.compute = n, error, 0, mosaic_denoise.denoise_tile

    def __call__(self, *arguments):
        if self.calls == self.n:
            raise self.error
        self.calls += 1
        return self.compute(*arguments)


@pytest.mark.parametrize("shape", [(40, 20, 17), (40, 60)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_mosaic_resumes(shape, error, tmp_path, monkeypatch):
    model, x = network(dimensions=len(shape), dilations=(1,)), picture(*shape)
    options = {"output": tmp_path / "z.zarr", "tile": 16}
    expected = read(denoise_mosaic(x, model, 0.1, output=tmp_path / "whole.zarr", tile=16))
    with monkeypatch.context() as m:
        m.setattr(mosaic_denoise, "denoise_tile", Interrupted(2, error))
        with pytest.raises(error if isinstance(error, type) else OSError):
            denoise_mosaic(x, model, 0.1, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".z.zarr.unfinished", "whole.zarr"]
    retrained = network(dimensions=len(shape), dilations=(1,))
    retrained.network.read.weight.mul_(2)
    for other in ({"sigma": 0.2}, {"image": x + 1}, {"denoiser": retrained}, {"tile": 8}):
        with pytest.raises(ValueError, match=next(iter(other))) as caught:
            denoise_mosaic(**{"image": x, "denoiser": model, "sigma": 0.1, **options} | other)
        assert len(str(caught.value)) < 400
    count = Interrupted(-1)
    monkeypatch.setattr(mosaic_denoise, "denoise_tile", count)
    total = int(np.prod([len(s) for s in mosaic_denoise.tiling_for(x, model, 16, None, "test").chunks]))
    np.testing.assert_array_equal(read(denoise_mosaic(x, model, 0.1, **options)), expected)
    assert count.calls == total - 2 > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.zarr", "z.zarr"]


def test_other_settings_restart_where_they_may_and_nothing_is_left_of_nothing(model, tmp_path, monkeypatch):
    x, options = picture(40, 20, 17), {"output": tmp_path / "z.zarr", "tile": 16}
    for n, left in [(0, []), (2, [".z.zarr.unfinished"])]:
        with monkeypatch.context() as m:
            m.setattr(mosaic_denoise, "denoise_tile", Interrupted(n))
            with pytest.raises(KeyboardInterrupt):
                denoise_mosaic(x, model, 0.1, **options)
        assert [p.name for p in tmp_path.iterdir()] == left
    found = read(denoise_mosaic(x, model, 0.2, overwrite=True, **options))
    np.testing.assert_allclose(found, whole_of(model, x, 0.2), rtol=0, atol=4e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["z.zarr"]


# ---------------------------------------------------------------- solve


class Average3(nn.Module):
    """The mean of 3 x 3 x 3 voxels, mirrored at the border."""

    receptive_field, dimensions = 3, 3

    def forward(self, x, sigma):
        padded = nn.functional.pad(x, (1,) * 6, mode="reflect")
        return nn.functional.avg_pool3d(padded, 3, stride=1)


class Gains:
    """y = m x, with the data step in closed form."""

    def __init__(self, m):
        self.m = m

    def A(self, x):
        return self.m.to(x) * x

    A_adjoint = A

    def data_step(self, y, weights):
        m = self.m.to(y)
        return lambda v, alpha: (m * weights * y + alpha * v) / (m**2 * weights + alpha)


class Blur3:
    """One symmetric kernel of three taps along each axis, half-sample symmetric at the border: dense matrices."""

    def __init__(self, shape, side=0.05):
        self.matrices = []
        for n in shape:
            M = torch.zeros(n, n, dtype=torch.float64)
            for i in range(n):
                for j, w in ((i - 1, side), (i, 1 - 2 * side), (i + 1, side)):
                    M[i, min(max(j, 0), n - 1)] += w
            self.matrices.append(M)

    def A(self, x):
        for axis, M in enumerate(self.matrices, 2):
            x = torch.movedim(torch.movedim(x, axis, -1) @ M.to(x), -1, axis)
        return x

    A_adjoint = A  # the matrices are symmetric


def blur3(shape):
    return Blur3(shape)


def scene3(*shape):
    i, j, k = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (0.4 + 0.2 * np.sin(i / 5) * np.cos(j / 4) + 0.3 * (i + j + k > 1.2 * shape[0])).astype(np.float32)


def test_solving_a_masked_volume_in_blocks_is_solving_the_whole(tmp_path):
    x, generator = torch.from_numpy(scene3(34, 25, 20)), torch.Generator().manual_seed(3)
    mask = torch.rand(x.shape, generator=generator) < 0.5
    y = mask * (x + 0.05 * torch.randn(x.shape, generator=generator))
    options = {"noise_std": 0.05, "algorithm": "hqs", "bounds": (0, 1), "max_iter": 8}
    options["schedule"] = Schedule(0.3, 0.05, 6)
    whole = solve(Gains(mask), y[None, None], Average3(), **options)
    found = solve_mosaic(mask.numpy(), y.numpy(), Average3(), output=tmp_path / "x.zarr", tile=16, **options)
    assert rel(read(found.x), whole.x[0, 0]) < 1e-5 and read(found.x).shape == x.shape
    assert found.misfit == pytest.approx(whole.misfit, rel=1e-4)
    assert rel(read(found.x), x) < 0.5 * rel(y, x)


@pytest.mark.parametrize(
    ("channels", "algorithm", "tolerance"),
    [(None, "hqs", 1e-5), (2, "admm", 5e-4)],  # ADMM's relaxation and first estimate rest on random images
)
def test_solving_a_blurred_volume_in_blocks_is_solving_the_whole(channels, algorithm, tolerance, tmp_path):
    shape, generator = (40, 24, 41), torch.Generator().manual_seed(3)
    x = torch.from_numpy(scene3(*shape))
    x = x[None, None] if channels is None else torch.stack([x, 1 - x])[None]
    y = Blur3(shape).A(x) + 0.05 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    options = {"noise_std": 0.05, "algorithm": algorithm, "max_iter": 5, "schedule": Schedule(0.3, 0.1, 4)}
    part = y[0, 0] if channels is None else y[0]
    found = solve_mosaic(blur3, part.numpy(), Average3(), output=tmp_path / "x.zarr", tile=24, **options)
    # So does its coupling, here of a part: taken back by the strength.
    options["strength"] = found.history["alpha"][0] / solve(Blur3(shape), y, Average3(), **options).history["alpha"][0]
    assert options["strength"] == pytest.approx(1, rel=0.1)
    whole = solve(Blur3(shape), y, Average3(), data_term=LeastSquares(rtol=1e-6, max_iter=300), **options)
    assert rel(read(found.x), whole.x[0] if channels else whole.x[0, 0]) < tolerance
    assert found.misfit == pytest.approx(whole.misfit, rel=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((4, 4))}, ": image must be a volume"),
        ({"image": np.zeros((1, 1, 4, 4, 4))}, ": image must be a volume"),
        ({"image": np.zeros((0, 4, 4))}, ": image "),
        ({"dimensions": 2}, ": dimensions "),
        ({"dimensions": 4}, ": dimensions "),
        ({"dimensions": "3"}, ": dimensions "),
        ({"sigma": float("nan")}, ": sigma "),
        ({"tile": 0.5}, ": tile "),
        ({"output": "no/such/folder/z.zarr"}, "output"),
        ({"output": "no/such/folder/z.h5"}, "z.h5"),
    ],
)
def test_bad_input_is_explained(model, change, message, tmp_path):
    arguments = {"image": np.zeros((8, 8, 8)), "denoiser": model, "sigma": 0.1, "output": tmp_path / "z.zarr"} | change
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        denoise_mosaic(**arguments)
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []
