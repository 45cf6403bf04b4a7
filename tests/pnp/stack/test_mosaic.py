"""Mosaics in tiles against the whole image: equal up to rounding, borders included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import rel
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaics import Average, blur, network, picture, scene, skewed
from random_networks import TWO_LATTICES, random_model

from denoisers import MLPatch
from operators import Blur, Mask
from operators.blur import gaussian_kernel
from pnp import LeastSquares, ResultWarning, Schedule, Stop, psnr, solve
from pnp.algorithms.schedules import relaxation

pytest.importorskip("dask", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack import denoise_mosaic, solve_mosaic  # noqa: E402
from pnp.stack.tiling import _cuts  # noqa: E402


@pytest.fixture(scope="module")
def model() -> MLPatch:
    return network()


@pytest.mark.parametrize("shape", [(64, 64), (97, 61), (33, 130), (5, 200), (1, 90), (130, 17)])
def test_a_mosaic_is_the_whole_image_borders_included(model, shape, tmp_path):
    x = picture(*shape) * 300 - 40
    found = zarr.open(str(denoise_mosaic(x, model, 12.0, output=tmp_path / "z.zarr", tile=24)), mode="r")
    whole = model(torch.from_numpy(x)[None, None], 12.0)[0, 0].numpy()
    assert found.shape == x.shape and found.dtype == np.float32
    error = np.abs(np.asarray(found[:]) - whole)
    assert error.max() <= 2e-6 * np.abs(whole).max()
    assert rel(whole, x) > 1e-2  # the network does something


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), tile=st.integers(1, 40), spacing=st.sampled_from([2, 3]))
def test_any_shape_and_any_tiles_give_the_whole_image(height, width, tile, spacing, tmp_path_factory):
    model = network(spacing=spacing)
    x = picture(height, width, seed=height, dtype=torch.float64)
    output = denoise_mosaic(x, model, 0.1, output=tmp_path_factory.mktemp("m") / "z.zarr", tile=tile)
    whole = model(torch.from_numpy(x)[None, None], 0.1)[0, 0].numpy()
    np.testing.assert_allclose(zarr.open(str(output), mode="r")[:], whole, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(n=st.integers(1, 300), tile=st.integers(1, 200), halo=st.integers(0, 8).map(lambda k: 8 * k))
def test_tiles_cover_the_image_and_hold_their_neighbours_halos(n, tile, halo):
    sides = _cuts(n, tile, halo, 8)
    assert sum(sides) == n and all(s % 8 == 0 for s in sides[:-1])
    assert len(sides) == 1 or min(sides) >= max(halo, sides[0] / 2)
    assert max(sides) < 1.5 * (max(tile, halo) + 8) + max(halo, 8)


@pytest.mark.parametrize("shape", [(97, 61), (3, 200)])
def test_tiles_of_two_lattices_give_the_whole_image(shape, tmp_path):
    model, x = random_model(**TWO_LATTICES).requires_grad_(False), picture(*shape, dtype=torch.float64)
    output = denoise_mosaic(x, model, 0.1, output=tmp_path / "z.zarr", tile=40)
    whole = model(torch.from_numpy(x)[None, None], 0.1)[0, 0].numpy()
    np.testing.assert_allclose(zarr.open(str(output), mode="r")[:], whole, rtol=0, atol=1e-12)


def test_channels_are_denoised_together(tmp_path):
    model, x = network(channels=3), picture(3, 70, 45)
    output = denoise_mosaic(x, model, 0.1, output=tmp_path / "z.zarr", tile=24)
    np.testing.assert_allclose(zarr.open(str(output), mode="r")[:], model(torch.from_numpy(x)[None], 0.1)[0], atol=3e-6)


def test_mosaics_are_read_from_zarr_hdf5_and_dask(model, tmp_path):
    import dask.array as da
    import h5py

    x = picture(70, 51)
    zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, chunks=(50, 50), dtype=x.dtype)[:] = x
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["maps/kappa"] = x.astype(">f4")
    sources = [
        x,
        tmp_path / "x.zarr",
        f"{tmp_path / 'x.h5'}::maps/kappa",
        da.from_array(x, chunks=13),
        torch.from_numpy(x),
    ]
    whole = model(torch.from_numpy(x)[None, None], 0.1)[0, 0]
    for k, source in enumerate(sources):
        output = denoise_mosaic(source, model, 0.1, output=tmp_path / f"{k}.zarr", tile=24)
        np.testing.assert_allclose(zarr.open(str(output), mode="r")[:], whole, atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{k}.zarr" for k in range(5)), "x.h5", "x.zarr"]


def test_a_halo_of_your_own(tmp_path):
    x = picture(60, 60)
    output = denoise_mosaic(x, lambda v, sigma: Average()(v, sigma), 0.1, output=tmp_path / "z.zarr", tile=16, halo=1)
    np.testing.assert_allclose(
        zarr.open(str(output), mode="r")[:], Average()(torch.from_numpy(x)[None], 0)[0], atol=1e-6
    )


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_solving_a_masked_mosaic_is_solving_the_whole(model, algorithm, tmp_path):
    x, generator = scene(90, 71), torch.Generator().manual_seed(3)
    mask = torch.rand(90, 71, generator=generator) < 0.5
    y = (mask * (torch.from_numpy(x) + 0.05 * torch.randn(90, 71, generator=generator))).numpy()
    options = {"noise_std": 0.05, "algorithm": algorithm, "bounds": (0, 1), "rtol": 1e-2}
    D = Average()
    # ADMM's relaxation rests on the share of pixels that are measured, which solve estimates by one random image.
    rho = {"relaxation": relaxation(float(mask.double().mean()))} if algorithm == "admm" else {}
    whole = solve(Mask(mask), y[None, None], D, **options, **rho)
    found = solve_mosaic(mask.numpy(), y, D, output=tmp_path / "x.zarr", tile=32, **options)
    image = np.asarray(zarr.open(str(found.x), mode="r")[:])
    assert rel(image, whole.x[0, 0]) < 1e-5
    assert (found.n_iter, found.stop) == (whole.n_iter, whole.stop)
    assert found.misfit == pytest.approx(whole.misfit, rel=1e-4)
    for name, values in whole.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=2e-3, atol=1e-6, err_msg=name)
    assert psnr(image, x, data_range=1) > psnr(y, x, data_range=1) + 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr"]


def test_noise_for_each_pixel_gains_and_channels(tmp_path):
    generator = torch.Generator().manual_seed(1)
    x = torch.from_numpy(np.stack([scene(66, 50), 1 - scene(66, 50)])).double()
    gain = torch.rand(66, 50, generator=generator, dtype=torch.float64)
    std = 0.02 + 0.1 * torch.rand(2, 66, 50, generator=generator, dtype=torch.float64)
    std[:, 10:20, 30:40] = math.inf
    y = gain * x + std.clamp(max=1) * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y[:, 10:20, 30:40] = math.nan
    options = {"algorithm": "hqs", "schedule": Schedule(0.3, 0.05, 6), "max_iter": 8}  # its coupling is a constant
    whole = solve(Mask(gain), y[None], Average(), noise_std=std[None], **options)
    found = solve_mosaic(gain, y, Average(), noise_std=std, output=tmp_path / "x.zarr", tile=16, **options)
    # The first estimate uses the norm of A, which solve estimates to 1e-2; sixteen averages forget it.
    assert rel(zarr.open(str(found.x), mode="r")[:], whole.x[0]) < 1e-4
    assert found.misfit == pytest.approx(whole.misfit, rel=1e-3)


def test_the_default_schedule_is_that_of_solve_within_its_estimates(tmp_path):
    x, generator = scene(80, 80), torch.Generator().manual_seed(1)
    std = 0.02 + 0.1 * torch.rand(80, 80, generator=generator)
    y = (torch.from_numpy(x) + std * torch.randn(80, 80, generator=generator)).numpy()
    whole = solve(Mask(torch.ones(80, 80)), y[None, None], Average(), noise_std=std[None, None], max_iter=3)
    found = solve_mosaic(1, y, Average(), noise_std=std, output=tmp_path / "x.zarr", tile=32, max_iter=3)
    np.testing.assert_allclose(found.history["sigma"], whole.history["sigma"], rtol=1e-2)
    np.testing.assert_allclose(found.history["alpha"], whole.history["alpha"], rtol=3e-2)
    assert found.stop is Stop.MAX_ITER and found.history["inner"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "algorithm", "shape"),
    [(blur, "admm", (150, 131)), (blur, "hqs", (40, 170)), (skewed, "admm", (140, 99)), (blur, "admm", (61, 50))],
)
def test_solving_a_blurred_mosaic_is_solving_the_whole(make, algorithm, shape, tmp_path):
    """Borders included: the same levels, hence the same image up to the answers' tails (and CG's residual)."""
    x, generator = torch.from_numpy(scene(*shape)), torch.Generator().manual_seed(3)
    y = (make(shape).A(x[None, None]) + 0.05 * torch.randn(1, 1, *shape, generator=generator)).numpy()
    options = {"noise_std": 0.05, "algorithm": algorithm, "bounds": (0, 1), "max_iter": 8}
    options["schedule"] = Schedule(0.3, 0.05, 6)
    D = Average()
    found = solve_mosaic(make, y[0, 0], D, output=tmp_path / "x.zarr", tile=64, **options)
    # The coupling of ADMM rests on one random image, here of a part: taken back by the strength.
    whole = solve(make(shape), y, D, **options)
    options["strength"] = found.history["alpha"][0] / whole.history["alpha"][0]
    assert options["strength"] == pytest.approx(1, rel=0.05)
    whole = solve(make(shape), y, D, data_term=LeastSquares(rtol=1e-6, max_iter=200), **options)
    image = np.asarray(zarr.open(str(found.x), mode="r")[:])
    error = np.abs(image - whole.x[0, 0])
    assert error.max() < 2e-5
    assert found.misfit == pytest.approx(whole.misfit, rel=1e-3)
    assert psnr(image, x, data_range=1) > psnr(y[0, 0], x, data_range=1) + 2


def test_pixels_without_weight_are_not_covered(tmp_path, monkeypatch):
    y, std, seen = scene(96, 80), np.full((96, 80), 0.1, np.float32), []
    std[:, ::2] = math.inf

    def record(coverage):
        seen.append(coverage)
        return relaxation(coverage)

    monkeypatch.setattr("pnp.stack.mosaic.relaxation", record)
    solve_mosaic(skewed, y, Average(), noise_std=std, output=tmp_path / "x.zarr", tile=48, max_iter=1)
    weights = torch.from_numpy(std)[None, None] ** -2
    whole = LeastSquares().bind(skewed((96, 80)), torch.from_numpy(y)[None, None], weights)
    h = LeastSquares().bind(skewed((96, 80)), torch.from_numpy(y)[None, None], torch.tensor(100.0))
    assert seen == [pytest.approx(0.5 * h.coverage(), rel=0.05)]
    assert whole.coverage() * whole.curvature() == pytest.approx(seen[0] * h.curvature(), rel=0.05)


def test_a_blurred_mosaic_with_noise_for_each_pixel_and_channel(tmp_path):
    generator = torch.Generator().manual_seed(1)
    x = torch.from_numpy(np.stack([scene(110, 96), 1 - scene(110, 96)])).double()
    std = 0.02 + 0.1 * torch.rand(2, 110, 96, generator=generator, dtype=torch.float64)
    std[:, 40:50, 30:40] = math.inf
    y = blur((110, 96)).A(x[None])[0] + std.clamp(max=1) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    y[:, 40:50, 30:40] = math.nan
    options = {"algorithm": "hqs", "schedule": Schedule(0.3, 0.05, 6), "max_iter": 8}
    term = LeastSquares(rtol=1e-5)  # which is what the mosaic's conjugate gradients stop at
    whole = solve(blur((110, 96)), y[None], Average(), noise_std=std[None], data_term=term, **options)
    found = solve_mosaic(
        blur, y.float(), Average(), noise_std=std.float(), output=tmp_path / "x.zarr", tile=48, **options
    )
    assert rel(zarr.open(str(found.x), mode="r")[:], whole.x[0]) < 1e-3
    assert found.misfit == pytest.approx(whole.misfit, rel=2e-2)


def test_a_mosaic_in_float64_loses_nothing(tmp_path):
    y = scene(200, 90).astype(np.float64)
    options = {"noise_std": 0.1, "algorithm": "hqs", "schedule": [0.3, 0.2, 0.1], "max_iter": 3}
    found = solve_mosaic(blur, y, Average(), output=tmp_path / "x.zarr", tile=64, **options)
    whole = solve(blur((200, 90)), y[None, None], Average(), **options)
    # Beside rounding only the first estimate's alpha, from a norm known to 1e-2, which three averages leave.
    assert rel(zarr.open(str(found.x), mode="r")[:], whole.x[0, 0]) < 1e-6


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda shape: Blur(gaussian_kernel(0.7), shape, boundary="valid"), {}, "shape"),
        (lambda shape: blur((7, 7)), {}, "120, 120"),
        (lambda shape: None, {}, "operator"),
        (blur((120, 120)), {}, "operator"),
        (lambda shape: blur(shape, 3.0), {"tile": 16}, ": tile "),
        (blur, {"noise_std": 1e-4, "tile": 16}, ": tile "),
        (lambda shape: Blur(torch.ones(45, 45) / 45**2, shape, "reflect"), {"tile": 60}, "operator"),
    ],
)
def test_what_no_mosaic_can_solve_is_explained(make, options, message, tmp_path):
    arguments = {"noise_std": 0.1, "tile": 24} | options
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        solve_mosaic(make, scene(120, 120), Average(), output=tmp_path / "x.zarr", **arguments)
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros(5)}, ": image "),
        ({"image": "none.zarr"}, "no such file"),
        ({"image": np.zeros((4, 4), complex)}, "real numbers"),
        ({"image": [[1.0]]}, "list"),
        ({"denoiser": lambda x, sigma: x}, ": halo "),
        ({"denoiser": 3}, "denoiser"),
        ({"sigma": -1.0}, ": sigma "),
        ({"tile": 0}, ": tile "),
    ],
)
def test_bad_input_of_denoise_is_explained(change, message, tmp_path):
    arguments = {"image": np.zeros((8, 8)), "denoiser": Average(), "sigma": 0.1} | change
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        denoise_mosaic(**arguments, output=tmp_path / "z.zarr")
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": np.zeros((8, 8))}, "operator"),
        ({"operator": -np.ones((8, 8))}, "operator"),
        ({"operator": np.ones((8, 9))}, "operator"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"noise_std": np.full((8, 8), np.inf)}, "infinite"),
        ({"y": np.full((8, 8), np.nan)}, "64 of 64"),
        ({"algorithm": "fista"}, "algorithm"),
        ({"denoiser": lambda x, sigma: x * math.nan, "halo": 1}, "denoiser"),
    ],
)
def test_bad_input_of_solve_is_explained(change, message, tmp_path):
    arguments = {"operator": np.ones((8, 8)), "y": np.ones((8, 8)), "denoiser": Average(), "noise_std": 0.1} | change
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        solve_mosaic(**arguments, output=tmp_path / "z.zarr")
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []


def test_what_exists_is_kept_unless_it_may_go(tmp_path):
    x, output = np.ones((8, 8), np.float32), tmp_path / "z.zarr"
    denoise_mosaic(x, Average(), 0.1, output=output)
    with pytest.raises(ValueError, match=r"exists.* allow"):
        denoise_mosaic(2 * x, Average(), 0.1, output=output)
    denoise_mosaic(2 * x, Average(), 0.1, output=output, overwrite=True)
    np.testing.assert_array_equal(zarr.open(str(output), mode="r")[:], 2 * x)
    (tmp_path / "precious").mkdir()
    with pytest.raises(ValueError, match="exists"):
        denoise_mosaic(x, Average(), 0.1, output=tmp_path / "precious", overwrite=True)


def test_ctrl_c_during_the_misfit_keeps_the_image(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    y = picture(1, 40, 48)
    options = {"noise_std": 0.1, "tile": 32, "max_iter": 3}
    whole = solve_mosaic(1, y, Average(), output=tmp_path / "whole.zarr", **options)
    monkeypatch.setattr("pnp.stack.mosaic_mask.Pixels.misfit", interrupted)
    found = solve_mosaic(1, y, Average(), output=tmp_path / "x.zarr", **options)
    assert found.stop is whole.stop and math.isnan(found.misfit) and found.verdict == "misfit unknown"
    np.testing.assert_array_equal(zarr.open_array(found.x, mode="r")[:], zarr.open_array(whole.x, mode="r")[:])


def test_a_mosaic_says_what_looks_wrong(tmp_path):
    y = 1 + 0.02 * np.random.default_rng(0).standard_normal((40, 48)).astype(np.float32)

    def solved(name, denoiser, y=y, **options):
        options = {"noise_std": 0.02, "tile": 32, "output": tmp_path / name, "schedule": [0.02]} | options
        with pytest.warns(ResultWarning, match="^solve_mosaic: ") as raised:
            found = solve_mosaic(1, y, denoiser, **options)
        assert raised[0].filename == __file__ and len(found.warnings) == 1
        return found.warnings[0]

    assert "noise_std is too high" in solved("a", Average(), noise_std=0.2, schedule=[0.2])
    assert "not converged" in solved("b", Average(), y=y - 1, max_iter=1)
    assert "denoiser" in solved("c", Amplifier())
    assert solve_mosaic(1, y, Average(), noise_std=0.02, tile=32, output=tmp_path / "d").warnings == ()


class Amplifier(Average):
    def forward(self, x, sigma):
        return 1e8 * x
