"""Every recipe runs offline in seconds, prints its figures and leaves a figure and a result."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from pnp.io import read_image, read_result, write_image

RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.py") if path.name[0] != "_")
BASELINES = {
    "calibration": ("FBP", "assumed", "calibrated", "true"),
    "cone_beam": ("FDK", "TV", "bone volume"),
    "deblurring": ("Wiener filter", "TV"),
    "denoising": ("median", "TV"),
    "error_bars": ("FBP", "parametric", "equivariant, factor", "with zooms", "mean of the central"),
    "inpainting": ("linear interpolation", "TV"),
    "limited_angle": ("FBP", "TV", "MCC"),
    "low_dose": ("FBP", "PWLS + TV", "Poisson", "HU"),
    "mass_mapping": ("Kaiser-Squires", "Wiener filter"),
    "shear_survey": ("Kaiser-Squires", "Wiener filter", "PSNR", "B modes", "coverage", "peaks"),
    "spect": ("OSEM", "10 mm filter", "recovery"),
    "super_resolution": ("bilinear", "bicubic"),
    "tomography": ("FBP", "TV"),
    "tooth": ("axis at the middle", "FBP, Hann window", "odd views"),
}

WITHOUT_SOLVE = ("denoising", "super_resolution")
"""Recipes that call a network alone."""


def run(recipe: Path, *arguments: object) -> str:
    """Run a recipe on one thread and without a network; return what it printed."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://0.0.0.0:9",
        "https_proxy": "http://0.0.0.0:9",
    }
    command = [sys.executable, "-W", "error", str(recipe), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_seconds_of_children() -> float:
    """Return the processor time of finished children: unlike the wall clock, it is the same on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_every_recipe_is_known():
    assert [path.stem for path in RECIPES] == sorted(BASELINES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_smoke(recipe, tmp_path):
    start = cpu_seconds_of_children()
    out = run(recipe, "--smoke", "--output", tmp_path, "--seed", 3)
    assert cpu_seconds_of_children() - start < 10
    assert len(recipe.read_text().splitlines()) <= 150
    for name in (*BASELINES[recipe.stem], "MLPatch"):
        assert name in out
    assert recipe.stem in WITHOUT_SOLVE or re.search(r"^.*MLPatch.*: misfit [\d.e+-]+", out, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {f"{recipe.stem}.png", f"{recipe.stem}.h5"}
    saved = read_result(tmp_path / f"{recipe.stem}.h5")
    assert saved.reference is not None and saved.x.shape == saved.reference.shape
    assert np.isfinite(saved.x).all() and "--seed 3" in saved.attributes["command"]
    assert read_image(tmp_path / f"{recipe.stem}.png").std() > 0.05  # there is something on the figure
    again = run(recipe, "--smoke", "--output", tmp_path, "--seed", 3)
    np.testing.assert_array_equal(read_result(tmp_path / f"{recipe.stem}.h5").x, saved.x)
    assert out.splitlines()[0] == again.splitlines()[0]


def test_error_bars_of_a_mass_map_without_simulated_skies(tmp_path):
    recipe = next(path for path in RECIPES if path.stem == "shear_survey")
    arguments = ("--smoke", "--errors", "bootstrap", "--seed", 3, "--output", tmp_path)
    out, again = run(recipe, *arguments), run(recipe, *arguments)
    said = [line for line in out.splitlines() if "bootstrap" in line]
    assert "2 copies" in said[1] and "at peaks" in said[0] and "coverage" not in out
    assert said == [line for line in again.splitlines() if "bootstrap" in line]
    assert {path.name for path in tmp_path.iterdir()} == {"shear_survey.png", "shear_survey.h5"}


def test_recipe_with_an_image_of_the_users(tmp_path):
    rows = np.linspace(0, 900, 40, dtype=np.float32)
    write_image(tmp_path / "mine.fits", np.broadcast_to(rows[:, None], (40, 56)))
    recipe = next(path for path in RECIPES if path.stem == "deblurring")
    run(recipe, tmp_path / "mine.fits", "--smoke", "--output", tmp_path / "out")
    saved = read_result(tmp_path / "out" / "deblurring.h5")
    assert saved.x.shape == (1, 1, 40, 56)
    assert np.abs(saved.x - saved.reference).mean() < 45  # 5 % of the range


def test_a_picture_of_the_users_is_enlarged_by_any_factor(tmp_path):
    ramp = np.linspace(0, 1, 30, dtype=np.float32)
    colours = np.stack([np.broadcast_to(ramp[:, None], (30, 44)), np.full((30, 44), 0.5), np.zeros((30, 44))])
    write_image(tmp_path / "mine.png", colours)
    recipe = next(path for path in RECIPES if path.stem == "super_resolution")
    run(recipe, tmp_path / "mine.png", "--enlarge", "--factor", 2.5, "--output", tmp_path / "out")
    saved = read_result(tmp_path / "out" / "super_resolution.h5")
    assert saved.x.shape == (1, 3, 75, 110) and saved.reference is None
    centres = ((np.arange(75) + 0.5) / 2.5 - 0.5) / 29
    np.testing.assert_allclose(saved.x[0, 0, 8:-8, 55], centres[8:-8], atol=0.02)
    np.testing.assert_allclose(saved.x[0, 1:, 8:-8, 55], [[0.5] * 59, [0.0] * 59], atol=0.02)


def test_a_recipe_prints_and_keeps_what_looks_wrong(tmp_path):
    """A recipe whose `solve` finds something says it once, although Python warnings are errors here."""
    code = f"""
import dataclasses, runpy, sys, warnings
import pnp
from pnp.drivers.result_warning import ResultWarning
solve = pnp.solve
def suspicious(A, y, D, **options):
    warnings.warn("solve: noise_std is too low.", ResultWarning, stacklevel=2)
    found = {{"misfit": 16.3, "warnings": ("noise_std is too low.",), "rejected": y == y.max()}}
    return dataclasses.replace(solve(A, y, D, **options), **found)
pnp.solve = suspicious
sys.path.insert(0, {str(ROOT / "recipes")!r})
sys.argv = ["deblurring.py", "--smoke", "--output", {str(tmp_path)!r}]
runpy.run_path({str(ROOT / "recipes" / "deblurring.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = [f"ADMM + {name}: misfit 16.3, 1 measurement rejected as outlier: noise_std is too low."
                for name in ("TV", "MLPatch")]  # fmt: skip
    assert [line for line in done.stdout.splitlines() if "misfit" in line] == expected
    assert "too low" not in done.stderr
    saved = read_result(tmp_path / "deblurring.h5")
    assert saved.warnings == ("noise_std is too low.",) and saved.n_rejected == 1


@pytest.mark.parametrize("name", ["tomography", "inpainting"])
def test_a_recipe_takes_strength_auto_and_keeps_what_was_tried(name, tmp_path):
    recipe = next(path for path in RECIPES if path.stem == name)
    out = run(recipe, "--smoke", "--output", tmp_path, "--strength", "auto")
    assert re.search(r"^ADMM \+ MLPatch: \d+ iterations, strength [\d.]+, by .*prediction error", out, re.MULTILINE)
    saved = read_result(tmp_path / f"{name}.h5")
    assert len(saved.candidates) == 1 and saved.candidates[0][0][0] == saved.attributes["strength"]
