"""Mass maps beside each other: maps are what they are called, scores are the metrics, no map depends on the truth."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from arrays import seeded
from paths import ROOT

from operators import KaiserSquires
from pnp.lensing import LognormalKappa, pixel_spectrum, smoothed_kaiser_squires, survey_noise, wiener
from pnp.lensing.comparison import compare_mass_maps
from pnp.lensing.diagnostics import whitened_chi2
from pnp.lensing.peaks import find_peaks
from pnp.lensing.shear import noise_like
from pnp.metrics import nrmse, pearson_r

SHAPE = (64, 64)


@pytest.fixture(scope="module")
def survey():
    A = KaiserSquires(SHAPE)
    kappa = LognormalKappa(SHAPE, std=0.05)(2, generator=seeded())
    noise_std = survey_noise(SHAPE, generator=seeded(1), std=0.1, holes=4)
    noise_std[:, 1, 30, 30] = math.inf  # one component alone is not an observed pixel
    y = A.A(kappa) + noise_like(A.A(kappa), noise_std, generator=seeded(2))
    spectrum = pixel_spectrum(SHAPE)
    spectrum *= 0.05**2 / spectrum.mean()
    return A, kappa, torch.where(noise_std.isfinite(), y, torch.nan), noise_std, spectrum


@pytest.fixture(scope="module")
def comparison(survey):
    A, kappa, y, noise_std, spectrum = survey
    return compare_mass_maps(
        y,
        noise_std,
        operator=A,
        generator=seeded(3),
        spectrum=spectrum,
        truth=kappa,
        methods={"the truth": lambda y, s: kappa, "half": lambda y, s: wiener(A, y, s, spectrum) / 2},
    )


def test_methods_are_in_order_and_are_what_they_are_called(survey, comparison):
    A, _, y, noise_std, spectrum = survey
    smoothed = f"Kaiser-Squires, {comparison.smoothing_px:g} px"
    names = ["zero map", "Kaiser-Squires", smoothed, "Wiener filter", "starlet-sparse", "the truth", "half"]
    assert [score.name for score in comparison.scores] == list(comparison.maps) == names
    assert torch.equal(comparison.maps["Wiener filter"], wiener(A, y, noise_std, spectrum))
    assert torch.equal(comparison.maps[smoothed], smoothed_kaiser_squires(A, y, noise_std, comparison.smoothing_px))
    assert not comparison.maps["zero map"].any()


def test_scores_are_the_metrics_on_observed_pixels(survey, comparison):
    A, kappa, y, noise_std, _ = survey
    mask = noise_std.isfinite().all(1, keepdim=True)
    assert not mask[0, 0, 30, 30]
    score = {s.name: s for s in comparison.scores}["Wiener filter"]
    x = comparison.maps["Wiener filter"]
    assert score.nrmse == pytest.approx(nrmse(x, kappa, mask=mask, centred=True))
    assert score.pearson_r == pytest.approx(pearson_r(x, kappa, mask=mask))
    assert score.rmse_field == pytest.approx(float((x - kappa).std(unbiased=False)), rel=1e-5)
    seen = mask.expand(kappa.shape)
    assert score.rmse_mask == pytest.approx(float((x - kappa)[seen].std(unbiased=False)), rel=1e-5)
    assert score.chi2 == pytest.approx(whitened_chi2(A, x, y, noise_std))
    assert score.peaks == len(find_peaks(x, threshold=comparison.peak_threshold, mask=mask).row)


def test_the_truth_stands_out_and_baselines_rise(comparison):
    by_name = {s.name: s for s in comparison.scores}
    truth, zero = by_name["the truth"], by_name["zero map"]
    assert truth.nrmse == 0 and truth.rmse_field == 0 and truth.pearson_r == pytest.approx(1)
    assert truth.peaks == truth.peaks_matched == comparison.true_peaks > 0
    assert truth.power_ratio == pytest.approx((1,) * 4)
    assert abs(truth.chi2 - 1) < 4 * comparison.chi2_spread < zero.chi2 - 1
    assert zero.nrmse == 1 and math.isnan(zero.pearson_r) and zero.peaks == 0 and math.isnan(zero.b_over_e)
    raw, smoothed, filtered = (comparison.scores[i] for i in (1, 2, 3))
    assert raw.nrmse > 1 > smoothed.nrmse > filtered.nrmse
    assert raw.chi2 < 1 < by_name["half"].chi2
    assert by_name["half"].power_ratio == pytest.approx([r / 4 for r in filtered.power_ratio])
    assert by_name["half"].b_over_e == pytest.approx(filtered.b_over_e) and filtered.b_over_e < 1


def test_the_shear_has_no_b_modes_but_noise(comparison):
    assert 0.02 < comparison.b_null.p_value <= 1


def test_rows_and_table(comparison):
    rows = comparison.as_dicts()
    assert rows[3]["name"] == "Wiener filter" and json.loads(json.dumps(rows))[3]["nrmse"] == comparison.scores[3].nrmse
    lines = str(comparison).splitlines()
    assert all(any(line.startswith(s.name) for line in lines) for s in comparison.scores)
    assert f"{comparison.scores[3].nrmse:.3f}" in next(line for line in lines if line.startswith("Wiener"))
    assert f"true ones: {comparison.true_peaks}" in str(comparison)


def test_without_truth_the_maps_are_the_same_and_its_figures_are_missing(survey, comparison):
    _, _, y, noise_std, spectrum = survey
    blind = compare_mass_maps(y, noise_std, generator=seeded(3), spectrum=spectrum, b_modes=False)
    for name, x in blind.maps.items():
        assert name == "starlet-sparse" or torch.equal(x, comparison.maps[name])
    score = blind.scores[3]
    assert score.nrmse is score.rmse_mask is score.rmse_field is score.pearson_r is score.peaks_matched is None
    assert score.b_over_e is None and blind.true_peaks is None and score.chi2 == comparison.scores[3].chi2
    assert 0.1 < score.power_ratio[0] < 2
    head = str(blind).splitlines()[0]
    assert "NRMSE" not in head and "found" not in head and "chi2" in head


def test_spectrum_is_measured_where_none_is_given(survey):
    A, kappa, y, noise_std, spectrum = survey
    found = compare_mass_maps(
        y, noise_std, generator=seeded(3), truth=kappa, baselines=["wiener", "zero"], b_modes=False
    )
    assert [s.name for s in found.scores] == ["zero map", "Wiener filter"]
    assert found.noise_factor == pytest.approx(1, abs=0.05) and found.smoothing_px is None
    known = nrmse(
        wiener(A, y, noise_std, spectrum), kappa, mask=noise_std.isfinite().all(1, keepdim=True), centred=True
    )
    assert found.scores[1].nrmse < 1.05 * known
    assert "spectrum measured" in str(found)


def test_runs_are_reproducible_and_in_the_unit_and_dtype_of_the_shear(survey):
    _, _, y, noise_std, spectrum = survey
    options = {"b_modes": False}

    def run(unit: float) -> dict[str, torch.Tensor]:
        shear, std = unit * y[:1].double(), unit * noise_std.double()
        return compare_mass_maps(shear, std, generator=seeded(3), spectrum=unit**2 * spectrum, **options).maps

    for (name, x), again, tiny in zip(run(1).items(), run(1).values(), run(1e-7).values(), strict=True):
        assert x.dtype == torch.float64 and torch.equal(x, again)
        torch.testing.assert_close(1e7 * tiny, x, rtol=1e-6, atol=1e-9, msg=name)


def test_progress_is_on_stderr_and_off_by_default(survey, capfd):
    _, _, y, noise_std, spectrum = survey
    options = {"generator": seeded(), "spectrum": spectrum, "baselines": ["zero"], "b_modes": False}
    compare_mass_maps(y, noise_std, **options)
    assert capfd.readouterr() == ("", "")
    compare_mass_maps(y, noise_std, progress=True, **options)
    printed = capfd.readouterr()
    assert printed.out == "" and "compare_mass_maps" in printed.err


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"baselines": ["weiner"]}, ValueError, "baselines"),
        ({"baselines": "wiener"}, ValueError, "sequence of"),
        ({"methods": {"mine": 3}}, TypeError, "'mine'"),
        ({"methods": {"mine": lambda y, s: y}}, ValueError, "'mine'"),
        ({"methods": {"mine": lambda y, s: None}}, ValueError, "NoneType"),
        ({"methods": {"mine": lambda y, s: y[:, :1] * torch.nan}}, ValueError, "finite"),
        ({"truth": torch.zeros(1, 1, 64, 64)}, ValueError, "truth"),
        ({"simulated": torch.zeros(1, 1, 32, 64)}, ValueError, "simulated"),
        ({"noise_std": torch.zeros(1, 2, 64, 64)}, ValueError, "noise_std"),
        ({"noise_std": torch.ones(1, 2, 32, 64)}, ValueError, "noise_std"),
        ({"noise_std": torch.full((1, 2, 1, 1), math.inf)}, ValueError, "infinite"),
        ({"y": torch.zeros(2, 1, 64, 64)}, ValueError, ": y "),
        ({"y": torch.full((2, 2, 64, 64), torch.nan)}, ValueError, ": y "),
        ({"y": torch.zeros(2, 2, 64, 64, dtype=torch.int64)}, TypeError, "floating torch.Tensor"),
    ],
)
def test_bad_input_is_one_sentence(survey, change, error, message):
    _, _, y, noise_std, spectrum = survey
    options = {"y": y, "noise_std": noise_std, "spectrum": spectrum, "baselines": ["zero"], "b_modes": False}
    with pytest.raises(error, match=message) as caught:
        compare_mass_maps(generator=seeded(), **(options | change))
    assert len(str(caught.value)) < 400


@pytest.mark.slow
def test_the_benchmark_runs():
    script = ROOT / "benchmarks" / "mass_map_comparison.py"
    command = [sys.executable, str(script), "--smoke", "--maps", "1", "--calibrate", "wiener", "--skies", "80"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| MLPatch, solve |" in done.stdout and "held-out" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_statistics_runs():
    script = ROOT / "benchmarks" / "map_statistics.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| error of | Kaiser-Squires | smoothed | Wiener | MLPatch |" in done.stdout
    assert "| l1-norm, 16 px |" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_whole_maps_runs():
    script = ROOT / "benchmarks" / "mass_mapping_step.py"
    command = [sys.executable, str(script), "--cost", "48", "96", "--iterations", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for label in ("data step", "denoiser", "ADMM, a whole map, 1 iterations", "PnPMass, a whole map, 1 iterations"):
        assert f"| 48 | {label} |" in done.stdout and f"| 96 | {label} |" in done.stdout
    assert done.stdout.count("CPU seconds grow as n^") == 4
