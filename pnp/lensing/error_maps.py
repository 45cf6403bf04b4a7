"""Error maps with calibrated coverage: intervals around a mass map of any method, by simulated skies.

Pairs (kappa_i, y_i) are simulated with the survey's mask and noise, R is any reconstruction, and sigma a heuristic
error map. The factor lambda is chosen so that the intervals R(y) +- lambda sigma cover the truth:

    "pixel"     split conformal, pixel by pixel: each pixel is covered with a chance of at least c.
    "field"     risk control: with a chance of 1 - delta over the calibration, a field is covered to c on average.
    "value"     split conformal by groups of reconstructed value, e.g. a map's highest 1 %: with a chance of 1 - delta,
                c of a sky's pixels in each group are covered.

`algorithms.conformal` defines lambda in each form and cites its sources.

The first two promise an average over the sky, to which its peaks hardly contribute. "value" promises the same for the
highest pixels of a map, among them its peaks. No form promises it for the peaks of the truth: one that the map misses
has the interval of its neighbours; `coverage_high` is the part of these that is covered.

The first two are compared for mass maps by Leterme, Fadili and Starck (2024, arXiv 2410.08831). All hold for any R
and sigma, but only for skies like the simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..algorithms.conformal import RANKS, check_target, factors, is_enough, rank_groups
from ..algorithms.protocols import Operator
from ..checks import broadcasts, check_number, short
from ..drivers.progress import with_progress
from .peaks import find_peaks
from .shear import noise_like


class Sky(Protocol):
    """A source of convergence maps, e.g. `LognormalKappa(shape)`."""

    def __call__(self, batch: int, *, generator: torch.Generator) -> Tensor:
        """Draw maps (batch, 1, H, W)."""


class SimulatedErrors(NamedTuple):
    """Result of `simulated_errors`: errors of a reconstruction on independent simulated skies."""

    error: Tensor
    """(N, pixels) R(y) - kappa where observed."""
    truth: Tensor
    """(N, pixels) kappa where observed."""
    mask: Tensor
    """(1, 1, H, W), true where observed."""

    @property
    def maps(self) -> Tensor:
        """(N, pixels) R(y) where observed, without the constants subtracted from its errors."""
        return self.truth + self.error


@dataclass(frozen=True)
class CalibratedError:
    """Result of `calibrate_error`: an error map, and its coverage on held-out simulated skies.

    Attributes:
        error: (1, 1, H, W), half width of the intervals R(y) +- error; NaN outside the mask.
        heuristic: (1, 1, H, W), sigma before calibration; NaN outside the mask.
        factor: lambda: (1, 1, H, W) for "pixel" (NaN outside the mask), 0-dim for "field", (n_groups,) for "value".
        form: "pixel", "field" or "value".
        target: requested coverage.
        coverage: covered part of the pixels, mean over the held-out skies.
        coverage_spread: its standard deviation from sky to sky.
        ranks: ends of the groups of pixels by reconstructed value, as parts of the pixels, lowest first.
        coverage_by_value: (n_groups,) covered part of each of these groups.
        coverage_peaks: covered part of the peaks of held-out maps: local maxima in a map's highest group; NaN: none.
        coverage_high: covered part of the highest 1 % of each held-out truth's pixels, which no form promises.
        heuristic_coverage: `coverage` of R(y) +- the Gaussian quantile of the target times the heuristic.
        n_heuristic: number of skies for sigma; 0: it was given.
        n_calibration: number of skies for lambda.
        n_test: number of held-out skies.
    """

    error: Tensor
    heuristic: Tensor
    factor: Tensor
    form: str
    target: float
    coverage: float
    coverage_spread: float
    ranks: tuple[float, ...]
    coverage_by_value: tuple[float, ...]
    coverage_peaks: float
    coverage_high: float
    heuristic_coverage: float
    n_heuristic: int
    n_calibration: int
    n_test: int

    def __str__(self) -> str:
        ends = [0.0, *self.ranks, 1.0]
        groups = ", ".join(
            f"{100 * low:g}-{100 * high:g} %: {part:.3f}"
            for (low, high), part in zip(pairwise(ends), self.coverage_by_value, strict=True)
        )
        return (
            f"coverage {self.coverage:.3f} +- {self.coverage_spread:.3f} on {self.n_test} held-out skies "
            f"(target {self.target:g}, {self.form} form, {self.n_calibration} to calibrate); heuristic alone "
            f"{self.heuristic_coverage:.3f}; by rank in the map {groups}; its peaks {self.coverage_peaks:.3f}, the "
            f"highest 1 % of the truth {self.coverage_high:.3f}"
        )


@torch.no_grad()
def simulated_errors(
    reconstruct: Callable[[Tensor, Tensor], Tensor],
    operator: Operator,
    sky: Sky,
    noise_std: Tensor,
    skies: int,
    *,
    generator: torch.Generator,
    centred: bool = True,
    progress: bool = False,
) -> SimulatedErrors:
    """Reconstruct simulated skies with the survey's noise and mask, for `calibrate_error`.

    It stores two values for each observed pixel of every sky: 70 MB for 128 skies of COSMOS (360 x 360, 53 % observed).

    Args:
        reconstruct: (y (1, 2, H, W), noise_std) -> convergence (1, 1, H, W).
        operator: convergence to shear on the grid of the sky.
        sky: source of convergence maps with the survey's source redshifts and pixels. Maps larger than the survey are
            cut to its size together with their shear, so that opposite edges are independent, as in a real sky.
        noise_std: (1, 2, H, W), infinity where not observed; the mask is where both components are finite.
        skies: number of skies for all uses together.
        generator: source of randomness for skies and noise, on its own device.
        centred: subtract the mean error of each sky where observed, which shear does not measure.
        progress: show a bar on stderr.
    """
    if noise_std.ndim != 4 or noise_std.shape[:2] != (1, 2):
        raise ValueError(f"simulated_errors: noise_std must be (1, 2, H, W), got {tuple(noise_std.shape)}")
    check_number("skies", skies, above=1, or_equal=True, integer=True, caller="simulated_errors")
    mask = torch.isfinite(noise_std).all(dim=1, keepdim=True)
    height, width = mask.shape[-2:]
    errors, truths = [], []
    for _ in with_progress(range(skies), "simulated_errors", progress, unit="sky"):
        kappa = sky(1, generator=generator).to(noise_std)
        if kappa.shape[:-2] != (1, 1) or kappa.shape[-2] < height or kappa.shape[-1] < width:
            raise ValueError(
                f"simulated_errors: sky must return maps (1, 1, H, W) of at least {height} x {width} pixels, got "
                f"{tuple(kappa.shape)}"
            )
        y, kappa = (maps[..., :height, :width] for maps in (operator.A(kappa), kappa))
        x = reconstruct(y + noise_like(y, noise_std, generator=generator), noise_std)
        if not isinstance(x, Tensor) or x.shape != kappa.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"simulated_errors: reconstruct must return a tensor {tuple(kappa.shape)}, got {got}")
        error = (x - kappa)[mask]
        errors.append(error - error.mean() if centred else error)
        truths.append(kappa[mask])
    return SimulatedErrors(torch.stack(errors), torch.stack(truths), mask)


def calibrate_error(
    simulated: SimulatedErrors,
    *,
    coverage: float = 0.9,
    form: str = "pixel",
    delta: float = 0.1,
    kappa: Tensor | None = None,
    ranks: Sequence[float] = RANKS,
    heuristic: Tensor | None = None,
    n_heuristic: int | None = None,
    n_test: int | None = None,
) -> CalibratedError:
    """Calibrate an error map on simulated skies, and measure its coverage on others.

    Sigma is computed from the first n_heuristic skies and lambda from the following; the last n_test are held out.

    Args:
        simulated: result of `simulated_errors`.
        coverage: target c, in (0, 1).
        form: "pixel", "field" or "value", see the module's docstring.
        delta: chance that the calibration misses the target ("field"), or that a sky does ("value"); for 0.5 half of
            the skies are covered more than the target.
        kappa: the survey's mass map (1, 1, H, W), to which the error map belongs; for "value" only.
        ranks: ends of the groups by reconstructed value, rising in (0, 1); coverage by group is reported for all forms.
        heuristic: (1, 1, H, W) or (H, W), positive where observed, e.g. `wiener_std`; None: the root mean square error
            of n_heuristic skies.
        n_heuristic: number of skies for sigma; None: a quarter, or none where heuristic is given.
        n_test: number of held-out skies; None: a quarter.

    Raises:
        ValueError: an argument does not fit, or too few skies are left for lambda: "pixel" needs c/(1 - c), "value"
            (1 - delta)/delta.
    """
    c, delta = check_target("calibrate_error", coverage, delta, form, ranks)
    n_groups = len(ranks) + 1
    error, truth, mask = simulated.error.abs(), simulated.truth, simulated.mask
    if form == "value" and (kappa is None or kappa.shape != mask.shape):
        got = None if kappa is None else tuple(kappa.shape)
        raise ValueError(
            f"calibrate_error: kappa must be the mass map {tuple(mask.shape)} in the value form, got {got}"
        )
    quarter = max(2, len(error) // 4)
    n_heuristic = 0 if heuristic is not None else quarter if n_heuristic is None else n_heuristic
    n_test = quarter if n_test is None else n_test
    for name, value, least in (("n_heuristic", n_heuristic, 0 if heuristic is not None else 2), ("n_test", n_test, 2)):
        check_number(name, value, above=least, or_equal=True, integer=True, caller="calibrate_error")
    n_calibration = len(error) - n_heuristic - n_test
    if not is_enough(n_calibration, c, form, delta):
        confidence = "" if form == "pixel" else f" at delta {delta:g}"
        raise ValueError(
            f"calibrate_error: simulated must leave more skies to calibrate coverage {c:g}{confidence} in the {form} "
            f"form, got {max(n_calibration, 0)}; simulate more, or lower coverage"
        )
    group = rank_groups(simulated.maps, ranks)
    if form == "value" and len(set(group[0].tolist())) < n_groups:
        raise ValueError(
            f"calibrate_error: ranks must leave pixels in every group, got {short(repr(ranks), 60)} for "
            f"{truth.shape[1]} pixels; use wider groups"
        )

    if heuristic is not None and not broadcasts(tuple(heuristic.shape), tuple(mask.shape)):
        raise ValueError(f"calibrate_error: heuristic must be {tuple(mask.shape)}, got {tuple(heuristic.shape)}")
    first, rest = error[:n_heuristic], slice(n_heuristic, len(error) - n_test)
    sigma = first.square().mean(0).sqrt() if heuristic is None else heuristic.expand(mask.shape)[mask].to(error)
    if not bool((sigma > 0).all() and sigma.isfinite().all()):
        raise ValueError("calibrate_error: heuristic must be positive and finite where observed, got other values")
    scores = error[rest] / sigma
    factor = factors(scores, group[rest], n_groups, c, form, delta)

    # Coverage of the held-out skies
    held = slice(len(error) - n_test, None)
    error, truth, group = error[held], truth[held], group[held]
    covered = error <= (factor[group] if form == "value" else factor) * sigma
    share = covered.double().mean(1)
    high = truth.topk(max(1, round(0.01 * truth.shape[1])), dim=1).indices
    peaks = torch.cat([_peaks(_spread_out(x, mask), mask) for x in simulated.maps[held]]) & (group == n_groups - 1)
    normal = math.sqrt(2) * float(torch.erfinv(torch.tensor(c, dtype=torch.float64)))
    own = factor if form != "value" or kappa is None else factor[rank_groups(kappa[mask][None], ranks)[0]]
    return CalibratedError(
        error=_spread_out(own * sigma, mask),
        heuristic=_spread_out(sigma, mask),
        factor=_spread_out(factor, mask) if form == "pixel" else factor,
        form=form,
        target=c,
        coverage=float(share.mean()),
        coverage_spread=float(share.std()),
        ranks=tuple(ranks),
        coverage_by_value=tuple(float(covered[group == g].double().mean()) for g in range(n_groups)),
        coverage_peaks=float(covered[peaks].double().mean()),
        coverage_high=float(covered.gather(1, high).double().mean()),
        heuristic_coverage=float((error <= normal * sigma).double().mean()),
        n_heuristic=n_heuristic,
        n_calibration=n_calibration,
        n_test=n_test,
    )


def _spread_out(values: Tensor, mask: Tensor) -> Tensor:
    """Return values (pixels,) as a map (1, 1, H, W), NaN outside the mask."""
    blank = torch.full(mask.shape, math.nan, dtype=values.dtype, device=mask.device)
    return blank.masked_scatter(mask, values)


def _peaks(x: Tensor, mask: Tensor) -> Tensor:
    """Return (1, pixels), true where an observed pixel of a map (1, 1, H, W) is a local maximum."""
    found = find_peaks(x, mask=mask)
    at = torch.zeros_like(mask)
    at[0, 0, found.row, found.column] = True
    return at[mask][None]
