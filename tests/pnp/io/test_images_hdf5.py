"""Images and HDF5 files: round trips, units, and what is said about broken ones."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
import warnings

import h5py
import numpy as np
import pytest
import tifffile
import torch
from astropy.io import fits
from PIL import Image

from pnp.io import (
    atomic,
    guards,
    png_bits,
    read_image,
    read_measurements,
    read_result,
    write_image,
    write_measurements,
    write_result,
)
from pnp.io.guards import check_memory, reading
from pnp.plots import save_panels

GREY = np.linspace(0, 1, 6 * 8, dtype=np.float32).reshape(6, 8)


@pytest.fixture
def file(tmp_path):
    """A file of measurements with everything the layout knows."""
    path = tmp_path / "y.h5"
    write_measurements(
        path,
        torch.arange(12.0).reshape(1, 1, 3, 4),
        operator="radon",
        parameters={"shape": (4, 4), "angles": np.array([0.0, 0.5, 1.0]), "pitch": 1.5, "n_detectors": None},
        noise_std=torch.tensor([[0.1, 0.2, 0.3, math.inf]]),
        reference=np.ones((1, 1, 4, 4)),
        units="1/mm",
    )
    return path


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".fits", ".h5"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (5, 6, 8)])
def test_float_formats_keep_the_values(tmp_path, suffix, shape):
    image = 1e-6 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    write_image(tmp_path / f"x{suffix}", image)
    back = read_image(tmp_path / f"x{suffix}")
    assert back.dtype == np.float32 and back.dtype.isnative
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)])
def test_png_keeps_eight_bits_and_clips(tmp_path, shape):
    image = np.broadcast_to(GREY, shape) * 1.4 - 0.2
    write_image(tmp_path / "x.png", image)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), np.clip(image, 0, 1), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".fits", ".h5"])
def test_integers_of_measurement_formats_keep_their_units(tmp_path, dtype, suffix):
    counts = np.array([[0, 17], [100, 255]], dtype=dtype)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, counts)
    elif suffix == ".tif":
        tifffile.imwrite(path, counts)
    elif suffix == ".fits":
        fits.PrimaryHDU(counts).writeto(path)
    else:
        with h5py.File(path, "w") as f:
            f["image"] = counts
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, counts)


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_bands_last_are_all_kept(tmp_path, bands):
    image = np.random.default_rng(0).random((8, 9, bands), dtype=np.float32)
    np.save(tmp_path / "x.npy", image)
    np.testing.assert_array_equal(read_image(tmp_path / "x.npy"), np.moveaxis(image, -1, 0))


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 6, 3), (3, 1, 5)])
def test_colour_tiff_says_so(tmp_path, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_image(tmp_path / "x.tif", image)
    with tifffile.TiffFile(tmp_path / "x.tif") as f:
        assert f.pages[0].photometric.name == "RGB"
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), image)


def test_grey_png_of_sixteen_bits(tmp_path):
    image = np.linspace(0, 1, 300, dtype=np.float32)[None]
    write_image(tmp_path / "x.png", image, bits=16)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), image, atol=0.6 / 65535)
    write_image(tmp_path / "eight.png", image)
    write_image(tmp_path / "x.npy", image)
    assert [png_bits(tmp_path / name) for name in ("x.png", "eight.png", "x.npy")] == [16, 8, 8]
    with pytest.raises(ValueError, match="bits"):
        write_image(tmp_path / "y.png", image, bits=12)


def test_sixteen_bit_png_and_opacity(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), [[0, 1]])
    Image.fromarray(np.full((8, 9, 4), (255, 0, 51, 7), dtype=np.uint8)).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png").shape == (3, 8, 9)
    np.testing.assert_allclose(read_image(tmp_path / "rgba.png")[:, 0, 0], [1, 0, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.npy", "x.fits", "x.h5", "x.xyz"])
def test_broken_images_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=name) as caught:
        read_image(tmp_path / name)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_images_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_image(tmp_path / "absent.png")
    np.save(tmp_path / "line.npy", np.zeros(5))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        read_image(tmp_path / "line.npy")
    with pytest.raises(ValueError, match=r"1 or 3 channels"):
        write_image(tmp_path / "x.png", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "x.png", np.full((4, 4), np.nan))
    write_image(tmp_path / "x.h5", GREY, dataset="slice")
    with pytest.raises(ValueError, match=r"'image'.*slice"):
        read_image(tmp_path / "x.h5")
    np.testing.assert_array_equal(read_image(tmp_path / "x.h5", dataset="slice"), GREY)


def test_measurements_round_trip(file):
    data = read_measurements(file)
    assert (data.operator, data.units) == ("radon", "1/mm")
    np.testing.assert_array_equal(data.y, np.arange(12.0).reshape(1, 1, 3, 4))
    assert data.y.dtype == np.float32
    assert data.parameters.keys() == {"shape", "angles", "pitch"}
    assert data.parameters["shape"] == (4, 4) and data.parameters["pitch"] == 1.5
    np.testing.assert_array_equal(data.parameters["angles"], [0, 0.5, 1])
    np.testing.assert_allclose(data.noise_std, [[0.1, 0.2, 0.3, math.inf]], rtol=1e-6)
    np.testing.assert_array_equal(data.reference, np.ones((1, 1, 4, 4)))


def test_degrees_are_read_in_radians(file):
    with h5py.File(file, "a") as f:
        f["operator/angles"][:] = [0, 90, 180]
        f["operator/angles"].attrs["units"] = "deg"
    np.testing.assert_allclose(read_measurements(file).parameters["angles"], [0, math.pi / 2, math.pi])


def test_big_endian_measurements_fit_torch(file):
    with h5py.File(file, "a") as f:
        del f["measurements"]
        f["measurements"] = np.ones((1, 1, 3, 4), dtype=">f4")
    assert torch.from_numpy(read_measurements(file).y).sum() == 12


def test_attributes_of_other_writers(file):
    with h5py.File(file, "a") as f:
        group = f["operator"]
        group.attrs["name"] = np.bytes_("radon")
        group["angles"].attrs["units"] = np.array([b"rad"])
        group.attrs["shape"] = np.array([4.0, 4.0])
        group.attrs["pitch"] = np.array([1.5])
        group.attrs["n_detectors"] = np.array([[4.0]])
        group["offset"] = 0.25
        f["measurements"].attrs["units"] = np.bytes_("1/mm")
    data = read_measurements(file)
    assert (data.operator, data.units) == ("radon", "1/mm")
    angles = data.parameters.pop("angles")
    np.testing.assert_array_equal(angles, [0, 0.5, 1])
    assert data.parameters == {"shape": (4, 4), "pitch": 1.5, "n_detectors": 4, "offset": 0.25}
    assert all(isinstance(n, int) for n in (*data.parameters["shape"], data.parameters["n_detectors"]))


def test_a_nameless_operator_is_named_by_the_caller(file):
    spoil(file, "no name")
    assert read_measurements(file, operator="radon").operator == "radon"


def test_messages_stay_short_where_files_hold_much(file):
    with h5py.File(file, "a") as f:
        del f["measurements"]
        for k in range(60):
            f[f"a_dataset_with_a_long_name_{k:02d}"] = 0.0
    for read in (read_measurements, read_image):
        path = file if read is read_measurements else file.rename(file.with_name("image.h5"))
        with pytest.raises(ValueError, match=r"and \d\d more") as caught:
            read(path)
        assert len(str(caught.value).replace(str(path.parent), "")) < 300


def test_result_round_trip(tmp_path):
    write_result(
        tmp_path / "x.h5",
        torch.ones(1, 1, 4, 4, dtype=torch.float64),
        operator="mask",
        parameters={"mask": torch.tensor([[True, False]])},
        noise_std=0.25,
        history={"sigma": [0.3, 0.2], "alpha": [[1.0, 2.0], [3.0, 4.0]]},
        attributes={"stop": "It converged.", "n_iter": 2},
    )
    saved = read_result(tmp_path / "x.h5")
    assert saved.x.dtype == np.float64 and saved.x.shape == (1, 1, 4, 4)
    assert saved.operator == "mask" and saved.parameters["mask"].tolist() == [[True, False]]
    assert saved.noise_std == 0.25 and saved.history["sigma"].tolist() == [0.3, 0.2]
    assert saved.history["alpha"].tolist() == [[1.0, 2.0], [3.0, 4.0]]  # one for each image of a batch
    assert saved.attributes["stop"] == "It converged." and saved.attributes["n_iter"] == 2
    assert saved.attributes["version_torch"] == torch.__version__.split("+")[0] or saved.attributes["version_torch"]


def test_a_result_keeps_its_warnings_and_what_was_rejected(tmp_path):
    rejected = torch.zeros(1, 1, 6, 8, dtype=torch.bool)
    rejected[0, 0, 2, 3:6] = True
    said = ("noise_std is too low by about 4.", "Größer als \N{GREEK SMALL LETTER SIGMA}; 3 outliers.")
    write_result(tmp_path / "x.h5", torch.ones(1, 1, 4, 4), warnings=said, rejected=rejected)
    saved = read_result(tmp_path / "x.h5")
    assert saved.warnings == said and saved.n_rejected == 3
    assert saved.rejected.dtype == bool
    np.testing.assert_array_equal(saved.rejected, rejected)
    assert not {"warnings", "n_rejected"} & saved.attributes.keys()
    with h5py.File(tmp_path / "x.h5") as f:  # as other readers find them
        assert f["rejected"].compression == "gzip" and f.attrs["n_rejected"] == 3
        assert list(f.attrs["warnings"]) == list(said)


@pytest.mark.parametrize("said", [(), ("One sentence.",), ("x" * 70_000, "y")])
def test_any_number_of_warnings_comes_back(tmp_path, said):
    write_result(tmp_path / "x.h5", np.ones((1, 1, 4, 4)), warnings=said)
    assert read_result(tmp_path / "x.h5").warnings == said


def test_masks_of_parts_come_back_as_parts(tmp_path):
    first, third = np.eye(3, dtype=bool)[None, None], np.ones((1, 2, 2), bool)
    write_result(tmp_path / "x.h5", np.ones((1, 1, 4, 4)), rejected=(first, None, third))
    saved = read_result(tmp_path / "x.h5")
    assert isinstance(saved.rejected, tuple) and saved.rejected[1] is None and saved.n_rejected == 7
    np.testing.assert_array_equal(saved.rejected[0], first)
    np.testing.assert_array_equal(saved.rejected[2], third)


def test_results_of_other_writers_say_nothing_of_warnings_or_say_it_otherwise(tmp_path):
    write_result(tmp_path / "x.h5", np.ones((1, 1, 4, 4)))  # as files were before there were warnings
    with h5py.File(tmp_path / "x.h5", "a") as f:
        assert "warnings" not in f.attrs and "rejected" not in f
        saved = read_result(tmp_path / "x.h5")
        assert saved.warnings is None and saved.rejected is None and saved.n_rejected == 0
        f.attrs["warnings"] = np.bytes_(b"One, in bytes.")
        f["rejected"] = np.eye(4, dtype=np.uint8)
    saved = read_result(tmp_path / "x.h5")
    assert saved.warnings == ("One, in bytes.",) and saved.n_rejected == 4 and saved.rejected.dtype == bool


def spoil(path, what):
    with h5py.File(path, "a") as f:
        if what == "no measurements":
            del f["measurements"]
        elif what == "no operator":
            del f["operator"]
        elif what == "no name":
            del f["operator"].attrs["name"]
        elif what == "wrong unit":
            f["operator/angles"].attrs["units"] = "gradians"
        elif what == "no unit":
            del f["operator/angles"].attrs["units"]
        elif what == "text":
            del f["measurements"]
            f["measurements"] = "hello"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no measurements", "dataset 'measurements'"),
        ("no operator", "group /operator"),
        ("no name", "attribute 'name'"),
        ("wrong unit", "gradians"),
        ("no unit", "none"),
        ("text", "real numbers"),
    ],
)
def test_spoiled_measurements_are_one_sentence(file, what, message):
    spoil(file, what)
    with pytest.raises(ValueError, match=message) as caught:
        read_measurements(file)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kept", [0, 5, 900])
def test_truncated_hdf5_is_a_value_error(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_measurements(file)


def test_a_parameter_that_hdf5_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="'shape'"):
        write_measurements(tmp_path / "y.h5", GREY, operator="mask", parameters={"shape": object()})
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept_unless_asked(tmp_path):
    path = tmp_path / "x.npy"
    write_image(path, GREY)
    with pytest.raises(ValueError, match="exists"):
        write_image(path, 2 * GREY)
    np.testing.assert_array_equal(read_image(path), GREY)
    write_image(path, 2 * GREY, overwrite=True)
    np.testing.assert_array_equal(read_image(path), 2 * GREY)


def test_a_failing_write_leaves_nothing_behind(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path, overwrite=True) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_output_folders_are_checked(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        write_image(tmp_path / "absent" / "x.npy", GREY)
    with pytest.raises(ValueError, match="is a folder"):
        write_image(tmp_path, GREY)


def test_figure_has_the_first_row_on_top_and_one_scale(tmp_path):
    step = np.zeros((40, 40))
    step[:20] = 1.0
    save_panels(tmp_path / "f.png", {"step": step, "half": step / 2}, limits=(0, 1))
    pixels = read_image(tmp_path / "f.png").mean(axis=0)
    left, right = np.array_split(pixels[:, : int(0.85 * pixels.shape[1])], 2, axis=1)
    quarter = pixels.shape[0] // 3
    middle = slice(left.shape[1] // 3, 2 * left.shape[1] // 3)
    assert left[quarter, middle].mean() > 0.95 and left[-quarter, middle].mean() < 0.05
    assert right[quarter, middle].mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="image"):
        save_panels(tmp_path / "g.png", {})


def test_figure_in_colour(tmp_path):
    orange = np.broadcast_to(np.array([1.0, 0.5, 0.0])[:, None, None], (3, 20, 20))
    save_panels(tmp_path / "f.png", {"orange": orange}, rgb=True)
    pixels = read_image(tmp_path / "f.png")
    np.testing.assert_allclose(pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2], [1, 0.5, 0], atol=0.01)
    with pytest.raises(ValueError, match=r"3, H, W"):
        save_panels(tmp_path / "g.png", {"grey": np.zeros((20, 20))}, rgb=True)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "x.txt"
    with pytest.raises(ValueError, match="exists"), atomic(path) as part:
        part.write_text("new")
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's" and list(tmp_path.iterdir()) == [path]


def test_file_systems_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    with atomic(tmp_path / "x.txt") as part:
        part.write_text("new")
    assert (tmp_path / "x.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------- what all readers share


def test_two_threads_that_read_leave_warnings_and_logs_as_they_were():
    filters, logger = list(warnings.filters), logging.getLogger("tifffile")
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with reading("b", "TIFF"):
            entered.set()
            left.wait(10)
            assert logger.disabled

    thread = threading.Thread(target=second)
    with reading("a", "TIFF"):
        thread.start()
        assert entered.wait(10) and logger.disabled
    assert logger.disabled, "the second still reads"
    left.set()
    thread.join()
    assert not logger.disabled and warnings.filters == filters
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_reading_says_what_lacks():
    with pytest.raises(ValueError, match=r"^a\.h5 .*memory"):
        with reading("a.h5", "HDF5"):
            raise MemoryError
    with pytest.raises(ValueError, match=r"a: x .* 186 GiB.* 0\.5; cut it"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guards, "_memory", lambda: 2.0**29)
            check_memory("a: x", (10**7, 5000), "cut it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "_memory", lambda: 1000.0)
        with pytest.raises(ValueError, match=r" 1\.86e-06 GiB"):  # it was said to be 0
            check_memory("a: x", (500,), "cut it")
        with pytest.raises(ValueError, match=" 1e290 GiB"):
            check_memory("a: x", (10**400,), "cut it")


def test_hdf5_on_a_full_disk_is_one_sentence(tmp_path):
    """HDF5 that cannot write what it still holds crashes the process that closes the file."""
    pytest.importorskip("resource", reason="limits on the size of files are Unix's")
    code = (
        "import resource, sys, numpy as np; from pnp.io import write_image\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_image(sys.argv[1], np.ones((8, 8)))\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.h5"], capture_output=True, text=True)
    assert done.returncode == 0 and "x.h5 cannot be written: File too large" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []
