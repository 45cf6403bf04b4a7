"""The ladder: every rung is what it is called, figures are those of the metrics, and none depends on the truth."""

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
from pnp.lensing.comparison import mass_map_ladder
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
def ladder(survey):
    A, kappa, y, noise_std, spectrum = survey
    return mass_map_ladder(
        y,
        noise_std,
        operator=A,
        generator=seeded(3),
        spectrum=spectrum,
        truth=kappa,
        methods={"the truth": lambda y, s: kappa, "half": lambda y, s: wiener(A, y, s, spectrum) / 2},
    )


def test_rungs_are_in_order_and_are_what_they_are_called(survey, ladder):
    A, _, y, noise_std, spectrum = survey
    smoothed = f"Kaiser-Squires, {ladder.smoothing_px:g} px"
    names = ["zero map", "Kaiser-Squires", smoothed, "Wiener filter", "starlet-sparse", "the truth", "half"]
    assert [rung.name for rung in ladder.rungs] == list(ladder.maps) == names
    assert torch.equal(ladder.maps["Wiener filter"], wiener(A, y, noise_std, spectrum))
    assert torch.equal(ladder.maps[smoothed], smoothed_kaiser_squires(A, y, noise_std, ladder.smoothing_px))
    assert not ladder.maps["zero map"].any()


def test_figures_are_those_of_the_metrics_on_observed_pixels(survey, ladder):
    A, kappa, y, noise_std, _ = survey
    mask = noise_std.isfinite().all(1, keepdim=True)
    assert not mask[0, 0, 30, 30]
    rung = {g.name: g for g in ladder.rungs}["Wiener filter"]
    x = ladder.maps["Wiener filter"]
    assert rung.nrmse == pytest.approx(nrmse(x, kappa, mask=mask, centred=True))
    assert rung.pearson_r == pytest.approx(pearson_r(x, kappa, mask=mask))
    assert rung.rmse_field == pytest.approx(float((x - kappa).std(unbiased=False)), rel=1e-5)
    seen = mask.expand(kappa.shape)
    assert rung.rmse_mask == pytest.approx(float((x - kappa)[seen].std(unbiased=False)), rel=1e-5)
    assert rung.chi2 == pytest.approx(whitened_chi2(A, x, y, noise_std))
    assert rung.peaks == len(find_peaks(x, threshold=ladder.peak_threshold, mask=mask).row)


def test_the_truth_stands_out_and_baselines_rise(ladder):
    by_name = {g.name: g for g in ladder.rungs}
    truth, zero = by_name["the truth"], by_name["zero map"]
    assert truth.nrmse == 0 and truth.rmse_field == 0 and truth.pearson_r == pytest.approx(1)
    assert truth.peaks == truth.peaks_matched == ladder.true_peaks > 0
    assert truth.power_ratio == pytest.approx((1,) * 4)
    assert abs(truth.chi2 - 1) < 4 * ladder.chi2_spread < zero.chi2 - 1
    assert zero.nrmse == 1 and math.isnan(zero.pearson_r) and zero.peaks == 0 and math.isnan(zero.b_over_e)
    raw, smoothed, filtered = (ladder.rungs[i] for i in (1, 2, 3))
    assert raw.nrmse > 1 > smoothed.nrmse > filtered.nrmse
    assert raw.chi2 < 1 < by_name["half"].chi2
    assert by_name["half"].power_ratio == pytest.approx([r / 4 for r in filtered.power_ratio])
    assert by_name["half"].b_over_e == pytest.approx(filtered.b_over_e) and filtered.b_over_e < 1


def test_the_shear_has_no_b_modes_but_noise(ladder):
    assert 0.02 < ladder.b_null.p_value <= 1


def test_rows_and_table(ladder):
    rows = ladder.as_dicts()
    assert rows[3]["name"] == "Wiener filter" and json.loads(json.dumps(rows))[3]["nrmse"] == ladder.rungs[3].nrmse
    lines = str(ladder).splitlines()
    assert all(any(line.startswith(g.name) for line in lines) for g in ladder.rungs)
    assert f"{ladder.rungs[3].nrmse:.3f}" in next(line for line in lines if line.startswith("Wiener"))
    assert f"true ones: {ladder.true_peaks}" in str(ladder)


def test_without_truth_the_maps_are_the_same_and_its_figures_are_missing(survey, ladder):
    _, _, y, noise_std, spectrum = survey
    blind = mass_map_ladder(y, noise_std, generator=seeded(3), spectrum=spectrum, b_modes=False)
    for name, x in blind.maps.items():
        assert name == "starlet-sparse" or torch.equal(x, ladder.maps[name])
    rung = blind.rungs[3]
    assert rung.nrmse is rung.rmse_mask is rung.rmse_field is rung.pearson_r is rung.peaks_matched is None
    assert rung.b_over_e is None and blind.true_peaks is None and rung.chi2 == ladder.rungs[3].chi2
    assert 0.1 < rung.power_ratio[0] < 2
    head = str(blind).splitlines()[0]
    assert "NRMSE" not in head and "found" not in head and "chi2" in head


def test_spectrum_is_measured_where_none_is_given(survey):
    A, kappa, y, noise_std, spectrum = survey
    found = mass_map_ladder(y, noise_std, generator=seeded(3), truth=kappa, baselines=["wiener", "zero"], b_modes=False)
    assert [g.name for g in found.rungs] == ["zero map", "Wiener filter"]
    assert found.noise_factor == pytest.approx(1, abs=0.05) and found.smoothing_px is None
    known = nrmse(
        wiener(A, y, noise_std, spectrum), kappa, mask=noise_std.isfinite().all(1, keepdim=True), centred=True
    )
    assert found.rungs[1].nrmse < 1.05 * known
    assert "spectrum measured" in str(found)


def test_runs_are_reproducible_and_in_the_unit_and_dtype_of_the_shear(survey):
    _, _, y, noise_std, spectrum = survey
    options = {"b_modes": False}

    def run(unit: float) -> dict[str, torch.Tensor]:
        shear, std = unit * y[:1].double(), unit * noise_std.double()
        return mass_map_ladder(shear, std, generator=seeded(3), spectrum=unit**2 * spectrum, **options).maps

    for (name, x), again, tiny in zip(run(1).items(), run(1).values(), run(1e-7).values(), strict=True):
        assert x.dtype == torch.float64 and torch.equal(x, again)
        torch.testing.assert_close(1e7 * tiny, x, rtol=1e-6, atol=1e-9, msg=name)


def test_progress_is_on_stderr_and_off_by_default(survey, capfd):
    _, _, y, noise_std, spectrum = survey
    options = {"generator": seeded(), "spectrum": spectrum, "baselines": ["zero"], "b_modes": False}
    mass_map_ladder(y, noise_std, **options)
    assert capfd.readouterr() == ("", "")
    mass_map_ladder(y, noise_std, progress=True, **options)
    printed = capfd.readouterr()
    assert printed.out == "" and "mass_map_ladder" in printed.err


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
        mass_map_ladder(generator=seeded(), **(options | change))
    assert len(str(caught.value)) < 400


@pytest.mark.slow
def test_the_benchmark_runs():
    script = ROOT / "benchmarks" / "lensing_ladder.py"
    command = [sys.executable, str(script), "--smoke", "--maps", "1", "--calibrate", "wiener", "--skies", "80"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| MLPatch, solve |" in done.stdout and "held-out" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_whole_maps_runs():
    script = ROOT / "benchmarks" / "mass_mapping_step.py"
    command = [sys.executable, str(script), "--cost", "48", "96", "--iterations", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for label in ("data step", "denoiser", "ADMM, a whole map, 1 iterations", "PnPMass, a whole map, 1 iterations"):
        assert f"| 48 | {label} |" in done.stdout and f"| 96 | {label} |" in done.stdout
    assert done.stdout.count("CPU seconds grow as n^") == 4
