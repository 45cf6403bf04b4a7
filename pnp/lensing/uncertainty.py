"""Error maps of mass maps: the Wiener filter's own, and intervals calibrated on simulations for any method.

Wiener. For a Gaussian field of power S the error s - F(A s + n) of the filter F does not depend on the data, so that

    kappa = F y + (s - F(A s + n)),    s and n drawn,

is an exact sample given y (Hoffman and Ribak 1991, ApJ 380, L5), and the spread of s - F(A s + n) is the standard
deviation given y.

Calibration. From pairs (kappa_i, y_i) simulated through the survey's mask and noise, and a reconstruction R of any
kind, the intervals R(y) +- lambda sigma are made to cover the truth, sigma a heuristic error map per pixel:

    "pixel"     split conformal, pixel by pixel (Vovk et al. 2005; Lei et al. 2018): lambda_p is the ceil((n + 1) c)-th
                smallest of |R(y_i) - kappa_i|/sigma at pixel p. Each pixel is covered with a chance of at least c, over
                calibration and sky together, at most 1/(n + 1) more.
    "field"     risk control (Bates, Angelopoulos, Lei, Malik and Jordan 2021, J. ACM 68, 43): the least scalar lambda
                whose upper confidence bound on the mean uncovered fraction of pixels is at most 1 - c: with a chance of
                1 - delta over the calibration, a field is covered to c on average. The bound is that of
                Waudby-Smith and Ramdas (section 3.1.3 there).

Both are compared for mass maps by Leterme, Fadili and Starck (2024, arXiv 2410.08831). They hold whatever R and sigma
are, for skies like the simulated ones: a simulation's error is the survey's error only as far as it is the sky.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..protocols import Operator
from ..validation import broadcasts, check_number
from .baselines import check_shear, noise_like, wiener
from .conformal import check_size, conformal_factor, risk_controlling_factor
from .spectrum import gaussian_maps

__all__ = [
    "CalibratedError",
    "SimulatedErrors",
    "Sky",
    "calibrate_error",
    "simulated_errors",
    "wiener_samples",
    "wiener_std",
]

_HIGH = 0.01  # part of the observed pixels called high in `coverage_high`


class Sky(Protocol):
    """A source of convergence maps, e.g. `LognormalKappa(shape)`."""

    def __call__(self, batch: int, *, generator: torch.Generator) -> Tensor:
        """Draw maps (batch, 1, H, W)."""


@dataclass(frozen=True)
class CalibratedError:
    """An error map and what it is worth on simulated skies that had no part in it.

    Attributes:
        error: (1, 1, H, W), half width of the interval R(y) +- error; NaN outside the mask.
        heuristic: (1, 1, H, W), sigma before calibration; NaN outside the mask.
        factor: lambda: (1, 1, H, W) for "pixel" (NaN outside the mask), 0-dim for "field".
        form: "pixel" or "field".
        target: coverage asked for.
        coverage: part of the pixels covered, mean over the held-out skies.
        coverage_spread: its standard deviation from sky to sky.
        coverage_high: part covered of the highest 1 % of each held-out sky's pixels; not promised by either form.
        heuristic_coverage: as `coverage`, for R(y) +- the Gaussian quantile of the target times the heuristic.
        n_heuristic: skies that gave sigma; 0: it was given.
        n_calibration: skies that gave lambda.
        n_test: held-out skies.
    """

    error: Tensor
    heuristic: Tensor
    factor: Tensor
    form: str
    target: float
    coverage: float
    coverage_spread: float
    coverage_high: float
    heuristic_coverage: float
    n_heuristic: int
    n_calibration: int
    n_test: int

    def __str__(self) -> str:
        return (
            f"coverage {self.coverage:.3f} +- {self.coverage_spread:.3f} on {self.n_test} held-out skies "
            f"(target {self.target:g}, {self.form} form, {self.n_calibration} to calibrate); "
            f"highest 1 % of pixels {self.coverage_high:.3f}; heuristic alone {self.heuristic_coverage:.3f}"
        )


@torch.no_grad()
def wiener_samples(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 16,
    rtol: float = 1e-4,
    progress: bool = False,
) -> Tensor:
    """Draw convergence maps given the shear, (draws, B, 1, H, W): Gaussian constrained realisations.

    Args:
        operator: convergence to shear, |A| <= 1 in Fourier space.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        spectrum: prior power (H, W), as `pixel_spectrum`.
        generator: draws fields and noise, on its own device.
        draws: samples per image.
        rtol: of the conjugate gradients.
        progress: show a bar on stderr.
    """
    mean = wiener(operator, y, noise_std, spectrum, rtol=rtol)
    errors = _wiener_errors("wiener_samples", operator, y, noise_std, spectrum, generator, draws, rtol, progress)
    return torch.stack([mean + error for error in errors])


@torch.no_grad()
def wiener_std(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 64,
    rtol: float = 1e-3,
    progress: bool = False,
) -> Tensor:
    """Return the standard deviation of the convergence given the shear, per pixel, (B, 1, H, W), by simulation.

    It depends on noise and mask, not on the values of y. Its relative error is 1/sqrt(2 draws): 9 % for 64.

    Args:
        operator, y, noise_std, spectrum, generator, draws, progress: as in `wiener_samples`.
        rtol: of the conjugate gradients.
    """
    total = torch.zeros_like(y[:, :1])
    for error in _wiener_errors("wiener_std", operator, y, noise_std, spectrum, generator, draws, rtol, progress):
        total += error.square()
    return (total / draws).sqrt()


def _wiener_errors(
    caller: str,
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    spectrum: Tensor,
    generator: torch.Generator,
    draws: int,
    rtol: float,
    progress: bool,
) -> Iterable[Tensor]:
    check_shear(caller, y, noise_std)
    check_number("draws", draws, above=1, or_equal=True, integer=True, caller=caller)
    for _ in _bar(range(draws), caller, progress):
        s = gaussian_maps(spectrum, len(y), generator=generator, dtype=y.dtype).to(y.device)
        shear = operator.A(s) + noise_like(y, noise_std, generator=generator)
        yield s - wiener(operator, shear, noise_std, spectrum, rtol=rtol)


class SimulatedErrors(NamedTuple):
    """Errors of a reconstruction on simulated skies, from `simulated_errors`; all skies are independent."""

    error: Tensor
    """(N, pixels) |R(y) - kappa| where observed."""
    truth: Tensor
    """(N, pixels) kappa where observed."""
    mask: Tensor
    """(1, 1, H, W), true where observed."""


@torch.no_grad()
def simulated_errors(
    reconstruct: Callable[[Tensor, Tensor], Tensor],
    operator: Operator,
    sky: Sky,
    noise_std: Tensor,
    skies: int,
    *,
    generator: torch.Generator,
    progress: bool = False,
) -> SimulatedErrors:
    """Reconstruct simulated skies seen through the survey, for `calibrate_error`.

    Keeps two values for each observed pixel of every sky: 70 MB for 128 skies of COSMOS (360 x 360, 53 % observed).

    Args:
        reconstruct: (shear (1, 2, H, W), noise_std) -> convergence (1, 1, H, W).
        operator: convergence to shear.
        sky: draws convergence like the survey's: its source redshifts, its pixels.
        noise_std: (1, 2, H, W), infinity where blind; the mask is where both components are finite.
        skies: how many, for all uses together.
        generator: draws skies and noise, on its own device.
        progress: show a bar on stderr.
    """
    if noise_std.ndim != 4 or noise_std.shape[:2] != (1, 2):
        raise ValueError(f"simulated_errors: noise_std must be (1, 2, H, W), got {tuple(noise_std.shape)}")
    check_number("skies", skies, above=1, or_equal=True, integer=True, caller="simulated_errors")
    mask = torch.isfinite(noise_std).all(dim=1, keepdim=True)
    errors, truths = [], []
    for _ in _bar(range(skies), "simulated_errors", progress):
        kappa = sky(1, generator=generator).to(noise_std)
        if kappa.shape != mask.shape:
            raise ValueError(f"simulated_errors: sky must give maps {tuple(mask.shape)}, got {tuple(kappa.shape)}")
        y = operator.A(kappa)
        x = reconstruct(y + noise_like(y, noise_std, generator=generator), noise_std)
        if not isinstance(x, Tensor) or x.shape != kappa.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"simulated_errors: reconstruct must return a tensor {tuple(kappa.shape)}, got {got}")
        errors.append((x - kappa)[mask].abs())
        truths.append(kappa[mask])
    return SimulatedErrors(torch.stack(errors), torch.stack(truths), mask)


def calibrate_error(
    simulated: SimulatedErrors,
    *,
    coverage: float = 0.9,
    form: str = "pixel",
    delta: float = 0.1,
    heuristic: Tensor | None = None,
    n_heuristic: int | None = None,
    n_test: int | None = None,
) -> CalibratedError:
    """Calibrate an error map on simulated skies, and report what it covers on others.

    The first n_heuristic skies give sigma, the last n_test are held out, those between give lambda.

    Args:
        simulated: from `simulated_errors`.
        coverage: the target c, in (0, 1).
        form: "pixel" or "field", as in the module's docstring.
        delta: "field" only: chance that the calibration misses the target.
        heuristic: (1, 1, H, W) or (H, W), positive where observed, e.g. `wiener_std`; None: the root mean square error
            of n_heuristic skies.
        n_heuristic: None: a quarter of the skies, or none where heuristic is given.
        n_test: None: a quarter of the skies.

    Raises:
        ValueError: also where the skies left are too few for any interval: c/(1 - c) at least.
    """
    c = check_number("coverage", coverage, above=0, caller="calibrate_error")
    delta = check_number("delta", delta, above=0, caller="calibrate_error")
    for name, value in (("coverage", c), ("delta", delta)):
        if value >= 1:
            raise ValueError(f"calibrate_error: {name} must be below 1, got {value!r}")
    if form not in ("pixel", "field"):
        raise ValueError(f"calibrate_error: form must be pixel or field, got {form!r}")
    error, truth, mask = simulated
    quarter = max(2, len(error) // 4)
    n_heuristic = 0 if heuristic is not None else quarter if n_heuristic is None else n_heuristic
    n_test = quarter if n_test is None else n_test
    for name, value, least in (("n_heuristic", n_heuristic, 0 if heuristic is not None else 2), ("n_test", n_test, 2)):
        check_number(name, value, above=least, or_equal=True, integer=True, caller="calibrate_error")
    n_calibration = len(error) - n_heuristic - n_test
    check_size(n_calibration, c, form, delta)

    if heuristic is not None and not broadcasts(tuple(heuristic.shape), tuple(mask.shape)):
        raise ValueError(f"calibrate_error: heuristic must be {tuple(mask.shape)}, got {tuple(heuristic.shape)}")
    first, rest = error[:n_heuristic], error[n_heuristic : len(error) - n_test]
    sigma = first.square().mean(0).sqrt() if heuristic is None else heuristic.expand(mask.shape)[mask].to(error)
    if not bool((sigma > 0).all() and sigma.isfinite().all()):
        raise ValueError("calibrate_error: heuristic must be positive and finite where observed, got others; mask them")
    factor = conformal_factor(rest / sigma, c) if form == "pixel" else risk_controlling_factor(rest / sigma, c, delta)

    error, truth = error[-n_test:], truth[-n_test:]
    covered = error <= factor * sigma
    share = covered.double().mean(1)
    high = truth.topk(max(1, round(_HIGH * truth.shape[1])), dim=1).indices
    normal = math.sqrt(2) * float(torch.erfinv(torch.tensor(c, dtype=torch.float64)))

    def spread_out(values: Tensor) -> Tensor:
        blank = torch.full(mask.shape, math.nan, dtype=values.dtype, device=mask.device)
        return blank.masked_scatter(mask, values)

    return CalibratedError(
        error=spread_out(factor * sigma),
        heuristic=spread_out(sigma),
        factor=spread_out(factor) if form == "pixel" else factor,
        form=form,
        target=c,
        coverage=float(share.mean()),
        coverage_spread=float(share.std()),
        coverage_high=float(covered.gather(1, high).double().mean()),
        heuristic_coverage=float((error <= normal * sigma).double().mean()),
        n_heuristic=n_heuristic,
        n_calibration=n_calibration,
        n_test=n_test,
    )


def _bar(items: range, name: str, progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    from tqdm.auto import tqdm

    bar: Iterable[Any] = tqdm(items, desc=name, unit="sky")  # on stderr
    return bar
