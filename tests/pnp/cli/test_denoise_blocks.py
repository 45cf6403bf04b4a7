"""`pnp denoise` in blocks: volumes and images in Zarr and HDF5 against the same in memory."""

import h5py
import numpy as np
import pytest
import torch
from command import run
from mosaics import network, picture

from denoisers import MLPatch

pytest.importorskip("dask", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack import mosaic_denoise, tiling  # noqa: E402


def save_zarr(path, x):
    zarr.open_array(str(path), mode="w", shape=x.shape, chunks=(16,) * x.ndim, dtype=x.dtype)[:] = x
    return path


def read(path):
    return np.asarray(zarr.open(str(path), mode="r")[:])


@pytest.fixture
def weights(tmp_path):
    network(dimensions=3, dilations=(1,)).save(tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def options(weights):
    return ("--sigma", 0.1, "--weights", weights)


def test_a_volume_in_blocks_is_the_volume_in_memory(monkeypatch, tmp_path, weights, options, capsys):
    x = picture(20, 17, 33)
    expected = MLPatch.from_pretrained(weights)(torch.from_numpy(x)[None, None], 0.1)[0, 0].numpy()
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"], file["raw/volume"] = x, x
    inputs = [save_zarr(tmp_path / "x.zarr", x), tmp_path / "x.h5", f"{tmp_path / 'x.h5'}::raw/volume"]
    for k, source in enumerate([*inputs, tmp_path / "x.npy"]):
        assert run(monkeypatch, "denoise", source, "-o", tmp_path / f"{k}.zarr", *options) == 0
        np.testing.assert_array_equal(read(tmp_path / f"{k}.zarr"), expected)
        assert "20 x 17 x 33" in capsys.readouterr().out
    assert run(monkeypatch, "denoise", inputs[0], "-o", tmp_path / "z.h5", *options) == 0
    with h5py.File(tmp_path / "z.h5") as file:
        np.testing.assert_array_equal(file["image"][:], expected)
    for output in ("z.npy", "z.tif"):
        assert run(monkeypatch, "denoise", tmp_path / "x.npy", "-o", tmp_path / output, *options) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected)


def test_weights_for_images_take_slices_and_images(monkeypatch, tmp_path):
    x, gray = picture(2, 20, 24), MLPatch.from_pretrained("gray")
    expected = gray(torch.from_numpy(x)[:, None], 0.1)[:, 0].numpy()
    for name, y, z in [("slices", x, expected), ("image", x[0], expected[0]), ("one", x[:1], expected[:1])]:
        path = save_zarr(tmp_path / f"{name}.zarr", y)
        assert run(monkeypatch, "denoise", path, "-o", tmp_path / f"{name}.h5", "--sigma", 0.1) == 0
        with h5py.File(tmp_path / f"{name}.h5") as file:
            np.testing.assert_allclose(file["image"][:], z, rtol=0, atol=5e-3)


def test_ctrl_c_says_how_to_resume(monkeypatch, tmp_path, options, capsys):
    x = picture(40, 17, 33)
    source, output = save_zarr(tmp_path / "x.zarr", x), tmp_path / "z.zarr"
    monkeypatch.setitem(tiling.TILES, 3, 16)
    compute, calls = mosaic_denoise.denoise_tile, []

    def interrupted(*arguments):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return compute(*arguments)

    with monkeypatch.context() as m:
        m.setattr(mosaic_denoise, "denoise_tile", interrupted)
        assert run(monkeypatch, "denoise", source, "-o", output, *options) == 130
    assert "resumes" in capsys.readouterr().err and not output.exists()
    assert run(monkeypatch, "denoise", source, "-o", output, *options) == 0
    assert read(output).shape == x.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "absent.zarr"}, "absent.zarr"),
        ({"image": "x.h5::absent"}, "absent"),
        ({"output": "z.png"}, "output"),
        ({"--sigma": -1}, "--sigma"),
        ({"--sigma": 25}, "--sigma"),
        ({"--stride": 3}, "--stride"),
        ({"image": "nan.zarr"}, "1 of 64"),
        ({"image": "flat.zarr"}, "volume"),
        ({"image": "flat.npy", "output": "z.npy"}, "--weights"),
        ({"--weights": "color"}, "3 channels"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, tmp_path, weights, change, message, capsys):
    x = picture(4, 4, 4)
    save_zarr(tmp_path / "x.zarr", x)
    save_zarr(tmp_path / "flat.zarr", x[0])
    np.save(tmp_path / "flat.npy", x[0])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"] = x
    x[1, 2, 3] = np.nan
    save_zarr(tmp_path / "nan.zarr", x)
    given = {"image": "x.zarr", "output": "z.zarr", "--sigma": 0.1, "--weights": weights} | change
    paths = (tmp_path / given.pop("image"), "-o", tmp_path / given.pop("output"))
    assert run(monkeypatch, "denoise", *paths, *(part for pair in given.items() for part in pair)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error) < 400 and error.count("\n") == 1
    assert not any(p.name.startswith(("z", ".z")) for p in tmp_path.iterdir())


def test_a_dataset_that_is_not_there_is_no_damage(monkeypatch, tmp_path, options, capsys):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["volume"] = picture(8, 8, 8)
    for source in (tmp_path / "x.h5", f"{tmp_path / 'x.h5'}::raw"):
        assert run(monkeypatch, "denoise", source, "-o", tmp_path / "o.h5", *options) == 2
        message = capsys.readouterr().err
        assert "'volume'" in message and "::" in message and "damaged" not in message
