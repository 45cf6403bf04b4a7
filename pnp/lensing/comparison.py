"""Compare mass maps of one survey in one call: baselines and your own methods on the same shear.

    zero map                  the error that every reconstruction must reduce
    Kaiser-Squires            A* gamma, gamma = 0 where not observed
    Kaiser-Squires, s px      the same, smoothed by the Gaussian that is best on simulated maps
    Wiener filter             the mean of a Gaussian field; its spectrum is given, or measured from the shear
    starlet-sparse            `starlet_map`
    your methods              any callable (y, noise_std) -> kappa, e.g. plug-and-play

No method uses the truth. It only serves the scores that compare with it; without it they are missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from operators import KaiserSquires

from ..algorithms.protocols import Operator
from ..checks import short
from ..drivers.progress import with_progress
from ..drivers.result import Stop
from ..metrics import nrmse, pearson_r
from .baselines import best_smoothing, smoothed_kaiser_squires, wiener
from .diagnostics import BModeNull, b_mode_null, power_ratio, whitened_chi2
from .peaks import find_peaks, match_peaks
from .shear import check_shear
from .spectrum import band_means, band_powers, gaussian_maps, measured_spectrum, rotated
from .starlet import starlet_map

Method = Callable[[Tensor, Tensor], Tensor]
"""Mass mapping: (shear y (B, 2, H, W), noise_std) -> convergence (B, 1, H, W)."""

BASELINES = ("zero", "kaiser_squires", "smoothed", "wiener", "starlet")


@dataclass(frozen=True)
class MethodScore:
    """Scores of one method; None where the truth is missing, NaN where undefined, as for a map of zeros.

    Attributes:
        name: name of the method.
        nrmse: root mean square error over that of a map of zeros, observed pixels, without the means.
        rmse_mask: root mean square error, observed pixels, without the means.
        rmse_field: root mean square error, all pixels, without the means.
        pearson_r: correlation coefficient, observed pixels.
        peaks: number of peaks above the threshold, the mask's edges excluded.
        peaks_matched: number of true peaks with one of them within the radius.
        power_ratio: power over the truth's, or without truth over the prior spectrum's, from large scales to small,
            observed pixels. The mask's edges carry some power from large scales to small: 0.02 of the truth's in the
            last of four bands for COSMOS with its many holes.
        b_over_e: rms of the map of the shear turned by 45 degrees over that of the map itself, observed pixels.
        chi2: ||W^1/2 (A kappa - gamma)||^2 per observed value; 1 +- sqrt(2/n) for the truth.
        seconds: time for all maps of the batch.
    """

    name: str
    nrmse: float | None
    rmse_mask: float | None
    rmse_field: float | None
    pearson_r: float | None
    peaks: int
    peaks_matched: int | None
    power_ratio: tuple[float, ...]
    b_over_e: float | None
    chi2: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Result of `compare_mass_maps`: `print(comparison)` shows a table, `as_dicts` returns its rows.

    Attributes:
        scores: one entry for each method, the baselines first.
        maps: convergence (B, 1, H, W) for each name.
        b_null: test whether the B modes of the shear itself are noise.
        spectrum: (H, W) prior power of the Wiener filter.
        noise_factor: variance of the noise over noise_std^2, where the spectrum was measured; else None.
        smoothing_px: best Gaussian smoothing of Kaiser-Squires in pixels; None without that baseline.
        peak_threshold: least convergence of a peak.
        true_peaks: number of the truth's peaks above it; None without truth.
        chi2_spread: standard deviation of chi2 for the truth, sqrt(2/n).
    """

    scores: list[MethodScore]
    maps: dict[str, Tensor] = field(repr=False)
    b_null: BModeNull = field(repr=False)
    spectrum: Tensor = field(repr=False)
    noise_factor: float | None
    smoothing_px: float | None
    peak_threshold: float
    true_peaks: int | None
    chi2_spread: float

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the scores as dictionaries, e.g. for a data frame or JSON."""
        return [asdict(score) for score in self.scores]

    def __str__(self) -> str:
        known = self.true_peaks is not None
        heads = ["method", *(["NRMSE", "RMSE mask", "RMSE field", "r"] if known else []), "peaks"]
        heads += [*(["found"] if known else []), "power, large to small scales", "B/E", "chi2", "s"]
        lines = [heads]
        for g in self.scores:
            scores = (
                [f"{g.nrmse:.3f}", f"{g.rmse_mask:.3g}", f"{g.rmse_field:.3g}", _shown(g.pearson_r)] if known else []
            )
            ratio = " ".join(f"{r:.2g}" for r in g.power_ratio)
            found = [f"{g.peaks_matched}"] if known else []
            lines.append([g.name, *scores, str(g.peaks), *found, ratio, _shown(g.b_over_e)])
            lines[-1] += [f"{g.chi2:.4f}", f"{g.seconds:.1f}"]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        b = self.b_null
        notes = [
            f"B modes of the shear: chi2 {b.chi2:.1f} for {b.dof} bands, p = {b.p_value:.2g}",
            f"chi2 of the truth: 1 +- {self.chi2_spread:.4f}; peaks above kappa = {self.peak_threshold:.3g}"
            + (f", true ones: {self.true_peaks}" if known else ""),
        ]
        if self.noise_factor is not None:
            notes.append(f"spectrum measured; variance of the noise {self.noise_factor:.3f} times noise_std^2")
        return "\n".join([text[0], "-" * len(text[0]), *text[1:], *notes])


@torch.no_grad()
def compare_mass_maps(
    y: Tensor,
    noise_std: Tensor,
    *,
    generator: torch.Generator,
    operator: Operator | None = None,
    methods: Mapping[str, Method] | None = None,
    baselines: Sequence[str] = BASELINES,
    spectrum: Tensor | None = None,
    simulated: Tensor | None = None,
    truth: Tensor | None = None,
    peak_threshold: float | None = None,
    match_px: float = 3.0,
    n_bands: int = 4,
    b_modes: bool = True,
    progress: bool = False,
) -> Comparison:
    """Make the mass maps of one survey by several methods, and score them.

    A pixel is observed where noise_std is finite for both components. Scores are over the whole batch.

    Args:
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y, infinity where not observed.
        generator: source of randomness for the smoothing, the starlet thresholds and the test of B modes.
        operator: convergence to shear; None: `KaiserSquires` of y's shape.
        methods: for each name a callable (y, noise_std) -> kappa (B, 1, H, W).
        baselines: some of "zero", "kaiser_squires", "smoothed", "wiener", "starlet".
        spectrum: (H, W) prior power of the Wiener filter, as `pixel_spectrum`; None: `measured_spectrum`.
        simulated: maps (N, 1, H, W), not of this survey, on which the smoothing is chosen; None: four Gaussian maps of
            the spectrum, on which the mean squared error of a linear filter is the same.
        truth: true convergence (B, 1, H, W), for scores only; None: unknown.
        peak_threshold: least convergence of a peak; None: 3 standard deviations of the spectrum.
        match_px: largest distance, in pixels, between a peak and the true one that it matches.
        n_bands: number of bands of the power ratio.
        b_modes: run every method a second time, on the shear turned by 45 degrees.
        progress: show a bar on stderr.

    Raises:
        TypeError, ValueError: an argument, or the map of a method, does not fit.
    """
    weights = check_shear("compare_mass_maps", y, noise_std).expand(y.shape)
    methods = _check_methods(methods, baselines)
    shape = (len(y), 1, *y.shape[-2:])
    if operator is None:
        operator = KaiserSquires(shape[-2:]).to(y.device)
    if truth is not None and truth.shape != shape:
        raise ValueError(f"compare_mass_maps: truth must be {shape}, as the maps are, got {tuple(truth.shape)}")
    if simulated is not None and simulated.shape[1:] != shape[1:]:
        raise ValueError(
            f"compare_mass_maps: simulated must be (N, 1, H, W) like the maps, got {tuple(simulated.shape)}"
        )
    seen = weights > 0
    mask = seen.all(dim=1, keepdim=True)
    factor = None
    if spectrum is None:
        measured = measured_spectrum(operator, y, noise_std)
        spectrum, factor = measured.spectrum, measured.noise_factor
    threshold = 3 * math.sqrt(float(spectrum.mean())) if peak_threshold is None else peak_threshold
    smoothing_px = None
    if "smoothed" in baselines:
        if simulated is None:
            simulated = gaussian_maps(spectrum, 4, generator=generator, dtype=y.dtype).to(y.device)
        smoothing_px = best_smoothing(operator, simulated, noise_std, generator=generator)
    methods = _baselines(operator, baselines, spectrum, smoothing_px or 0.0, generator) | methods

    truths = None if truth is None else find_peaks(truth, threshold=threshold, mask=mask)
    turned = rotated(y), (noise_std.flip(-3) if noise_std.ndim > 2 else noise_std)
    found, maps = [], {}
    for name, method in with_progress(list(methods.items()), "compare_mass_maps", progress, unit="map"):
        start = time.perf_counter()
        x = maps[name] = _run(name, method, y, noise_std)
        seconds = time.perf_counter() - start
        peaks = find_peaks(x, threshold=threshold, mask=mask)
        score = MethodScore(
            name,
            **_scores(x, truth, mask),
            peaks=len(peaks.row),
            peaks_matched=None if truths is None else match_peaks(peaks, truths, radius_px=match_px),
            power_ratio=_power_ratio(x, truth, spectrum, mask, n_bands),
            b_over_e=_b_over_e(x, _run(name, method, *turned), mask) if b_modes else None,
            chi2=whitened_chi2(operator, x, y, noise_std),
            seconds=seconds,
        )
        found.append(score)
    return Comparison(
        scores=found,
        maps=maps,
        b_null=b_mode_null(operator, y, noise_std, generator=generator, spectrum=spectrum),
        spectrum=spectrum,
        noise_factor=factor,
        smoothing_px=smoothing_px,
        peak_threshold=threshold,
        true_peaks=None if truths is None else len(truths.row),
        chi2_spread=math.sqrt(2 / int(seen.sum())),
    )


def _baselines(
    operator: Operator,
    names: Sequence[str],
    spectrum: Tensor,
    smoothing_px: float,
    generator: torch.Generator,
) -> dict[str, Method]:
    """Return the baselines of these names, in the order of `BASELINES`, under the names of the table."""
    known: dict[str, tuple[str, Method]] = {
        "zero": ("zero map", lambda y, s: y.new_zeros(len(y), 1, *y.shape[-2:])),
        "kaiser_squires": ("Kaiser-Squires", lambda y, s: smoothed_kaiser_squires(operator, y, s, 0)),
        "smoothed": (
            f"Kaiser-Squires, {smoothing_px:g} px",
            lambda y, s: smoothed_kaiser_squires(operator, y, s, smoothing_px),
        ),
        "wiener": ("Wiener filter", lambda y, s: wiener(operator, y, s, spectrum)),
        "starlet": ("starlet-sparse", lambda y, s: _starlet(operator, y, s, generator)),
    }
    return dict(known[name] for name in BASELINES if name in names)


def _starlet(operator: Operator, y: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
    found = starlet_map(operator, y, noise_std, generator=generator)
    if found.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt  # an unfinished map would be scored as a finished one
    return found.kappa


def _run(name: str, method: Method, y: Tensor, noise_std: Tensor) -> Tensor:
    x = method(y, noise_std)
    want = (len(y), 1, *y.shape[-2:])
    if not isinstance(x, Tensor) or x.shape != want:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        remedy = "" if isinstance(x, Tensor) else "; return the x of a Result"
        raise ValueError(f"compare_mass_maps: method {name!r} must return a tensor {want}, got {got}{remedy}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"compare_mass_maps: method {name!r} must return finite maps, got NaN or infinity")
    return x


def _scores(x: Tensor, truth: Tensor | None, mask: Tensor) -> dict[str, float | None]:
    """Return errors and correlation with the truth, without the means, which shear does not measure."""
    if truth is None:
        return dict.fromkeys(("nrmse", "rmse_mask", "rmse_field", "pearson_r"))
    values = x[mask.expand(x.shape)]
    constant = bool(values.min() == values.max())
    return {
        "nrmse": nrmse(x, truth, mask=mask, centred=True),
        "rmse_mask": _rmse(x, truth, mask),
        "rmse_field": _rmse(x, truth, torch.ones_like(mask)),
        "pearson_r": math.nan if constant else pearson_r(x, truth, mask=mask),
    }


def _rmse(x: Tensor, truth: Tensor, mask: Tensor) -> float:
    error = (x - truth)[mask.expand(x.shape)].double()
    return float(error.std(unbiased=False))


def _power_ratio(x: Tensor, truth: Tensor | None, spectrum: Tensor, mask: Tensor, n_bands: int) -> tuple[float, ...]:
    if truth is not None:
        return tuple(power_ratio(x, truth, mask=mask, n_bands=n_bands).tolist())
    power = band_powers(x, mask=mask, n_bands=n_bands).power.mean(0)
    return tuple((power / band_means(spectrum, n_bands=n_bands).to(power)).tolist())


def _b_over_e(x: Tensor, b: Tensor, mask: Tensor) -> float:
    rms = [float(m[mask.expand(m.shape)].double().square().mean().sqrt()) for m in (b, x)]
    return rms[0] / rms[1] if rms[1] > 0 else math.nan


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _check_methods(methods: Mapping[str, Method] | None, baselines: Sequence[str]) -> dict[str, Method]:
    unknown = [b for b in ([baselines] if isinstance(baselines, str) else baselines) if b not in BASELINES]
    if unknown or isinstance(baselines, str):
        raise ValueError(
            f"compare_mass_maps: baselines must be a sequence of {', '.join(BASELINES)}, got "
            f"{short(repr(baselines), 80)}"
        )
    for name, method in (methods or {}).items():
        if not callable(method):
            raise TypeError(
                f"compare_mass_maps: methods[{name!r}] must be a callable (y, noise_std) -> kappa, "
                f"got {type(method).__name__}"
            )
    return dict(methods or {})
