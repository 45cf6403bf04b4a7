"""`pnp report` on files: first estimates from measurements, what is refused, and nothing half-written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import typer
from report_page import Page, noise, result
from typer.testing import CliRunner

import operators
from pnp.cli.report import first_estimate, report
from pnp.io import Measurements, read_nifti, read_result, write_measurements, write_result
from pnp.io.fits import read_fits_maps
from pnp.metrics import nrmse, pearson_r
from pnp.report import write_report
from pnp.report.panels import Panel
from pnp.report.scores import score


def scene(name: str) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    """An operator, an image and the operator's parameters."""
    n = torch.Generator().manual_seed(0)
    if name == "spect":
        parameters: dict[str, Any] = {"shape": (8, 8, 4), "angles": np.arange(6.0), "voxel_size": 5.0, "fwhm": 8.0}
        x = torch.ones(1, 1, 8, 8, 4)
    else:
        extra = {
            "radon": {"angles": np.arange(40) * math.pi / 40},
            "blur": {"kernel": np.full((3, 3), 1 / 9, "float32")},
            "kaiser_squires": {},
            "mask": {"mask": np.arange(32 * 32).reshape(32, 32) % 3 > 0},
        }[name]
        parameters = extra if name == "mask" else {"shape": (32, 32), **extra}
        x = torch.zeros(1, 1, 32, 32)
        x[..., 8:20, 10:24] = 1 + 0.1 * torch.rand(12, 14, generator=n)
    arguments = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in parameters.items()}
    return operators.OPERATORS[name](**arguments), x, parameters


@pytest.mark.parametrize("name", ["radon", "mask", "blur", "kaiser_squires", "spect"])
def test_first_estimates_show_what_was_measured(name):
    A, x, parameters = scene(name)
    y = A.A(x)
    ((label, first),) = first_estimate(Measurements(y.numpy(), name, parameters)).items()
    assert np.isfinite(first).any() and label
    if name == "kaiser_squires":
        assert first.shape == (1, 2, 32, 32) and np.abs(first[:, 1]).max() < 1e-4 * np.abs(first[:, 0]).max()
        assert pearson_r(first[:, :1], x) > 0.8
    elif name == "mask":
        assert np.array_equal(np.isnan(first[0, 0]), ~parameters["mask"])
        assert np.array_equal(first[~np.isnan(first)], x.numpy()[~np.isnan(first)])
    elif name == "spect":
        assert np.allclose(first[np.isfinite(first)], 1, rtol=1e-5)
    else:
        assert nrmse(first, x) < 0.3


def test_measurements_without_information_do_not_count():
    A, x, parameters = scene("blur")
    y, std = A.A(x).numpy(), np.ones((1, 1, 32, 32), "float32")
    std[..., 0], y[..., 0] = np.inf, np.nan
    (first,) = first_estimate(Measurements(y, "blur", parameters, noise_std=std)).values()
    assert np.isnan(first[..., 0]).all() and np.isfinite(first[..., 1:]).all()


def test_masked_measurements_are_compared_with_the_image_on_their_pixels():
    truth = np.random.default_rng(0).random((1, 24, 24))
    image, seen = truth + 0.05, np.arange(576).reshape(1, 24, 24) % 3 > 0
    image[~seen] += 0.4  # what is not measured is worse
    measured = np.where(seen, truth + 0.1, math.nan)
    panels = [Panel("truth", "truth", truth), Panel("input", "measured", measured)]
    found = score([*panels, Panel("reconstruction", "image", image)], None, centred=False)
    rows = {name: figures[1] for name, figures in found.rows}
    assert list(rows) == ["measured", "image, pixels of “measured”", "image"]
    assert rows["measured"] == pytest.approx(20, abs=1e-6)  # 10 log10(1 / 0.1^2)
    assert rows["image, pixels of “measured”"] == pytest.approx(20 * math.log10(20))
    assert rows["image"] < 20
    holes = [Panel(one.role, one.name, np.where(seen, one.values, math.nan)) for one in panels[:1]]
    whole = [*holes, Panel("input", "measured", truth + 0.1), Panel("reconstruction", "image", image)]
    assert [name for name, _ in score(whole, None, centred=False).rows] == ["measured", "image"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    A, x, parameters = scene("radon")
    names = {name: tmp_path / f"{name}.h5" for name in ("x", "y", "tv")}
    write_measurements(names["y"], A.A(x), operator="radon", parameters=parameters)
    for name, values in (("x", x), ("tv", x + 0.1)):
        write_result(names[name], values, operator="radon", parameters=parameters, reference=x)
    np.save(tmp_path / "other.npy", x[0, 0].numpy())
    return names | {"npy": tmp_path / "other.npy", "page": tmp_path / "page.html"}


def run(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_writes_one_page(files):
    more = ("--measurements", files["y"], "--baseline", files["tv"], "--baseline", files["npy"])
    done = run(files["x"], "-o", files["page"], *more, "--title", "A disc")
    assert done.exit_code == 0 and "page.html" in done.stdout, done.exception
    text = files["page"].read_text(encoding="utf-8")
    assert list(Page(text).pictures) == ["filtered back-projection", "tv", "other", "reconstruction", "truth"]
    assert "A disc" in text and str(files["x"].parent) not in text
    assert sorted(p.name for p in files["page"].parent.iterdir()) == ["other.npy", "page.html", "tv.h5", "x.h5", "y.h5"]


def test_the_file_itself_may_hold_more(files):
    with h5py.File(files["x"], "a") as file:
        file["image"].attrs["units"] = "1/mm"
        with h5py.File(files["y"]) as y:
            file["measurements"] = y["measurements"][()]
    assert run(files["x"], "-o", files["page"]).exit_code == 0
    seen = Page(files["page"].read_text(encoding="utf-8"))
    assert "filtered back-projection" in seen.pictures and seen.data["units"] == "1/mm"


def test_a_b_mode_in_the_file_is_shown(tmp_path):
    write_result(tmp_path / "k.h5", noise(1, 1, 12, 12), operator="kaiser_squires", parameters={"shape": (12, 12)})
    with h5py.File(tmp_path / "k.h5", "a") as file:
        file["b_mode"] = noise(1, 1, 12, 12, seed=1)
    assert run(tmp_path / "k.h5", "-o", tmp_path / "k.html").exit_code == 0
    assert [p["mode"] for p in Page((tmp_path / "k.html").read_text(encoding="utf-8")).data["panels"]] == ["E", "B"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("x", "-o", "page.pdf"), ".html"),
        (("x", "-o", "y.h5"), "exists"),
        (("nothing.h5", "-o", "page.html"), "no such file"),
        (("y", "-o", "page.html"), "'image'"),
        (("npy", "-o", "page.html"), "HDF5"),
        (("x", "-o", "page.html", "--baseline", "small.h5"), "same grid"),
        (("x", "-o", "page.html", "--baseline", "tv", "--baseline", "tv"), "--baseline"),
        (("x", "-o", "page.html", "--measurements", "npy"), "NumPy"),
        (("complex.h5", "-o", "page.html"), "real numbers"),
    ],
)
def test_bad_files_are_refused_and_leave_nothing(files, arguments, part):
    folder = files["page"].parent
    write_result(folder / "small.h5", noise(1, 1, 8, 8))
    with h5py.File(folder / "complex.h5", "w") as file:
        file.create_group("operator")
        file["image"] = np.ones((1, 1, 4, 4), complex)
    before = sorted(folder.iterdir())
    named = [a if a.startswith("-") else str(files.get(a, folder / a)) for a in arguments]
    done = run(*named)
    assert isinstance(done.exception, (ValueError, TypeError)) and part in str(done.exception)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_ends_early_leaves_nothing(tmp_path, monkeypatch, error):
    def write(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:100])
        raise error

    (tmp_path / "page.html").write_text("an older page")
    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ValueError):
        write_report(tmp_path / "page.html", result(), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "an older page"


def test_pages_are_replaced_only_when_asked(tmp_path):
    size = write_report(tmp_path / "page.html", result())
    assert size == (tmp_path / "page.html").stat().st_size
    with pytest.raises(ValueError, match="exists"):
        write_report(tmp_path / "page.html", result())
    write_report(tmp_path / "page.html", result(), overwrite=True)


def test_a_folder_is_told_what_it_is(files, tmp_path):
    zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")
    zarr.open_group(str(tmp_path / "volume.zarr"), mode="w")
    (tmp_path / "slices").mkdir()
    for name, words in (("volume.zarr", ("Zarr", "volume.h5", "--report")), ("slices", ("folder",))):
        refusal = str(run(tmp_path / name, "-o", files["page"]).exception)
        assert all(word in refusal for word in (name, *words)) and "no such file" not in refusal and len(refusal) < 400
    for read in (read_result, read_nifti, read_fits_maps):
        with pytest.raises(ValueError, match="folder"):
            read(tmp_path / "slices")
