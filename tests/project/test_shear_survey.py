"""`recipes/shear_survey.py` on a small survey of FITS files that are written here, cut from a larger sky."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from paths import ROOT

from operators import KaiserSquires
from pnp.io import read_result
from pnp.lensing import LognormalKappa

RECIPE = ROOT / "recipes" / "shear_survey.py"
N = 72


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """Write e1 (of the wrong sign), e2, noise and mask as big-endian FITS; the noise is 0 where the mask is."""
    folder = tmp_path_factory.mktemp("survey")
    g = torch.Generator().manual_seed(4)
    kappa = LognormalKappa((2 * N, 2 * N), std=0.05)(1, generator=g)
    std = torch.full((1, 2, N, N), 0.03)
    shear = KaiserSquires((2 * N, 2 * N)).A(kappa)[..., :N, :N] + std * torch.randn(std.shape, generator=g)
    mask = torch.ones(N, N)
    mask[20:30, 40:52] = 0
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [N / 2, N / 2]
    wcs.wcs.cdelt = [-0.29 / 60, 0.29 / 60]
    maps = {"e1": -shear[0, 0], "e2": shear[0, 1], "std": std[0, 0] * mask, "mask": mask}
    for name, values in maps.items():
        array = torch.where(mask > 0, values, torch.nan if name[0] == "e" else 0).numpy().astype(">f4")
        fits.PrimaryHDU(array, header=wcs.to_header()).writeto(folder / f"{name}.fits")
    return folder, kappa[0, 0, :N, :N]


@pytest.fixture(scope="module")
def found(survey, tmp_path_factory) -> tuple[str, Path]:
    """Return what the recipe prints, and where its files are."""
    out = tmp_path_factory.mktemp("out")
    return run(survey[0], out, "--iterations"), out


def run(folder: Path, out: Path, *more: str) -> str:
    """Run the recipe on the survey's maps; return what it prints."""
    command = [sys.executable, "-W", "error", str(RECIPE), "--smoke", "--output", str(out), *more]
    for name in ("e1", "e2", "mask"):
        command += [f"--{name}", str(folder / f"{name}.fits")]
    command += ["--noise-std", str(folder / "std.fits"), "--pixel-arcmin", "0.29", "--snr", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_signs_are_found_and_used(found):
    printed, _ = found
    assert "times (-1, +1) fits" in printed and "signs used: (-1, 1)" in printed


def test_figures_of_every_kind_are_printed(found):
    printed, _ = found
    for part in (
        "residual chi2",
        "B modes: chi2",
        "value form",
        "90-99 %",
        "peaks above 1 errors",
        "prior: convergence",
    ):
        assert part in printed, part
    assert "NRMSE" not in printed  # nobody knows the truth


def test_maps_are_on_the_surveys_pixels_and_sky(survey, found):
    kappa, out = survey[1], found[1]
    with fits.open(out / "shear_survey.fits") as file:
        names = {hdu.name for hdu in file}
        assert {"KAPPA_E", "KAPPA_B", "ERROR", "SNR_KS", "MASK"} <= names
        E, B, error, mask = (file[name].data for name in ("KAPPA_E", "KAPPA_B", "ERROR", "MASK"))
        assert E.shape == B.shape == error.shape == (N, N)
        assert WCS(file["KAPPA_E"].header).wcs.crval.tolist() == [150.0, 2.0]
    seen = mask > 0
    assert np.array_equal(np.isfinite(error), seen) and (error[seen] > 0).all()
    assert int((~seen).sum()) == 120
    r = np.corrcoef(E[seen], kappa.numpy()[seen])[0, 1]
    assert r > 0.5 and E[seen].std() > B[seen].std()
    np.testing.assert_array_equal(read_result(out / "shear_survey.h5").x[0, 0], E)


def test_peaks_have_a_place_on_the_sky(found):
    _, out = found
    peaks, E = Table.read(out / "shear_survey_peaks.ecsv"), fits.getdata(out / "shear_survey.fits", "KAPPA_E")
    assert len(peaks) > 0 and (np.diff(peaks["height_over_error"]) <= 1e-6).all()
    np.testing.assert_allclose(peaks["kappa"], E[peaks["row"], peaks["column"]], rtol=1e-6)
    assert abs(peaks["ra"].data - 150).max() < 0.3 and abs(peaks["dec"].data - 2).max() < 0.3
    assert (out / "shear_survey.png").stat().st_size > 10_000
    assert (out / "shear_survey_iterations.png").stat().st_size > 10_000


def test_the_bootstrap_makes_the_error_map_of_the_same_mass_map(survey, found, tmp_path):
    printed = run(survey[0], tmp_path, "--errors", "bootstrap")
    assert "error map: bootstrap, not calibrated" in printed and "48 to 60 %" in printed
    assert "moves shift, flip, turn, zoom" in printed and "held-out skies" not in printed
    with fits.open(tmp_path / "shear_survey.fits") as file, fits.open(found[1] / "shear_survey.fits") as other:
        for name in ("KAPPA_E", "KAPPA_B", "SNR_KS"):
            np.testing.assert_array_equal(file[name].data, other[name].data)
        E, error, mask = (file[name].data for name in ("KAPPA_E", "ERROR", "MASK"))
        cards = [opened[0].header for opened in (file, other)]
    assert np.array_equal(np.isfinite(error), mask > 0) and (error[mask > 0] > 0).all()
    assert [header["ERRORS"] for header in cards] == ["bootstrap", "simulations"]
    assert cards[0]["COPIES"] == 2 and cards[0]["FACTOR"] >= 1 and "COVERAGE" not in cards[0]
    assert 0 < cards[1]["COVERAGE"] < 1
    peaks = Table.read(tmp_path / "shear_survey_peaks.ecsv")
    assert len(peaks) > 0
    unit = (
        E[peaks["row"], peaks["column"]] / peaks["height_over_error"]
    )  # the noise is uniform, and so is the error, nearly
    np.testing.assert_allclose(unit, np.sqrt(np.mean(error[mask > 0] ** 2)), rtol=0.3)
    np.testing.assert_allclose(peaks["error"], error[peaks["row"], peaks["column"]], rtol=1e-6)
    assert (tmp_path / "shear_survey.png").read_bytes() != (found[1] / "shear_survey.png").read_bytes()


def test_help_says_that_the_bootstrap_is_too_small_at_peaks():
    done = subprocess.run([sys.executable, str(RECIPE), "--help"], capture_output=True, text=True, timeout=60)
    printed = " ".join(done.stdout.split())
    assert "--errors {simulations,bootstrap}" in printed and "48 to 60 %" in printed


def test_missing_maps_are_one_sentence(survey, tmp_path):
    folder, _ = survey
    command = [sys.executable, str(RECIPE), "--smoke", "--e1", str(folder / "e1.fits"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "e2" in done.stderr and "Traceback" not in done.stderr


def test_maps_without_a_size_stop_and_ask(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    survey, p = importlib.import_module("_survey"), argparse.ArgumentParser()
    p.add_argument("input")
    survey.add_arguments(p)
    path = tmp_path / "maps.fits"
    parts = [fits.ImageHDU(np.ones((20, 20), "f4"), name=name) for name in ("E1", "E2", "STD")]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)
    with pytest.raises(ValueError, match="--pixel-arcmin") as caught:
        survey.find_survey(p.parse_args([str(path)]), torch.Generator())
    assert len(str(caught.value)) < 400
    assert survey.find_survey(p.parse_args([str(path), "--pixel-arcmin", "2"]), torch.Generator()).pixel_arcmin == 2


def test_columns_and_units_may_be_named(tmp_path, monkeypatch):
    """Two right ascensions that differ, and a field in arcminutes, as of simulated catalogues."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    survey, p = importlib.import_module("_survey"), argparse.ArgumentParser()
    survey.add_arguments(p)
    rng = np.random.default_rng(0)
    x, y, e1, e2 = (rng.uniform(0, 60, 500), rng.uniform(0, 60, 500), *rng.normal(0, 0.2, (2, 500)))
    table = Table({"ra": x, "raj2000": x + 1, "dec": y, "e1": e1, "e2": e2, "R": np.full(500, 0.5)})
    table.write(tmp_path / "shapes.fits")
    base = ["--catalogue", str(tmp_path / "shapes.fits"), "--pixel-arcmin", "5", "--columns"]
    given = p.parse_args([*base, "ra=ra", "unit=arcmin", "response=R", "max_e=0.8"])
    m = survey.find_survey(given, torch.Generator())
    assert m.facts["columns"]["ra"] == "ra" and m.facts["response"] == 0.5 and max(m.shape) <= 13
    for wrong in ("ra", "right=ra"):
        with pytest.raises(ValueError, match="--columns"):
            survey.find_survey(p.parse_args([*base, wrong]), torch.Generator())
